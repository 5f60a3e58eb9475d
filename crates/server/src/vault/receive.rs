//! Taking a pack: nothing is acknowledged before every chunk in it was opened and the pack is durable, known to the
//! catalog and in the index.

use std::sync::Arc;

use api::codes;
use bytes::Bytes;
use catalog::NewPack;
use model::SessionId;
use store::{
    EntryId, Node, ObjectErrorKind, ObjectName, PackError, PackFooter, PackId, PackReader,
    VaultKeys, check_pack,
};

use super::Vault;
use super::locate::error_text;
use crate::clock;
use crate::http::{ApiError, ApiResult};

impl Vault {
    /// Checks, stores and registers a pack. The same pack again has no further effect.
    pub(crate) async fn receive(
        &self,
        session: SessionId,
        id: PackId,
        bytes: Bytes,
    ) -> ApiResult<()> {
        let keys = Arc::clone(&self.keys);
        let plain = bytes.clone();
        let checked = tokio::task::spawn_blocking(move || check(&id, plain, &keys));
        let (footer, plain_bytes) = checked.await.map_err(ApiError::internal)??;
        let new = NewPack {
            id,
            size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            plain_bytes,
            entries: u64::try_from(footer.entries.len()).unwrap_or(u64::MAX),
            generation: footer.generation,
        };
        self.store(id, bytes).await?;
        self.keep_footer(id, &Arc::new(footer));
        self.catalog
            .register_pack(Some(session), &new, clock::now())
            .await?;
        self.catch_up().await
    }

    async fn store(&self, id: PackId, bytes: Bytes) -> ApiResult<()> {
        let name = ObjectName::pack(&id);
        match self.objects.put_new(&name, bytes).await {
            Ok(()) => Ok(()),
            Err(err) if err.kind == ObjectErrorKind::AlreadyExists => {
                // From an attempt that was cut before it was registered. It must be whole to count.
                let there = self.objects.get(&name).await?;
                let checked = tokio::task::spawn_blocking(move || check_pack(&id, &there));
                checked.await.map_err(ApiError::internal)?.map_err(|err| {
                    ApiError::new(
                        codes::DAMAGED,
                        format!("an object of the name {name} is damaged"),
                    )
                    .hint("send the chunks in another pack")
                    .because(err)
                })
            }
            Err(err) => Err(err.into()),
        }
    }
}

/// Opens and re-hashes every entry. Returns the footer and the bytes of what the pack holds, opened.
fn check(id: &PackId, bytes: Bytes, keys: &VaultKeys) -> ApiResult<(PackFooter, u64)> {
    let refused = |err: PackError| match err {
        PackError::Key(_) => ApiError::bad_request(format!("pack {id}: {}", error_text(&err))),
        PackError::WrongHash { .. }
        | PackError::Format(_)
        | PackError::Entry { .. }
        | PackError::WrongContent { .. }
        | PackError::TooLarge { .. } => {
            ApiError::bad_request(format!("pack {id} is not good: {}", error_text(&err)))
                .hint("it was damaged on its way or in memory; send it again")
        }
    };
    let reader = PackReader::open(id, bytes, keys).map_err(refused)?;
    let footer = reader.footer().clone();
    for entry in &footer.entries {
        if entry.live.is_some() {
            // A partial chunk's id cannot be checked; only the server makes them.
            return Err(ApiError::bad_request(format!(
                "{} in pack {id} is a partial chunk",
                entry.id
            )));
        }
    }
    let (mut plain_bytes, mut bad_node) = (0_u64, None);
    let checked = reader.check_entries(keys.session(), |info, opened| {
        plain_bytes = plain_bytes.saturating_add(u64::from(info.plain_len));
        if let EntryId::Node(node) = info.id
            && let Err(err) = Node::decode(&opened.plain)
        {
            bad_node.get_or_insert_with(|| format!("tree node {node}: {err}"));
        }
        Ok(())
    });
    checked.map_err(refused)?;
    match bad_node {
        Some(why) => Err(ApiError::bad_request(format!(
            "pack {id} is not good: {why}"
        ))),
        None => Ok((footer, plain_bytes)),
    }
}
