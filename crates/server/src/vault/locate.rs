//! Where an entry lies: index, then the footer of its pack.

use std::collections::HashSet;
use std::sync::Arc;

use catalog::Pack;
use store::{EntryId, EntryInfo, ObjectErrorKind, ObjectName, PackFooter, PackId, PackTail};

use super::Vault;
use crate::http::{ApiError, ApiResult};

/// Packs the index reads on together.
const PACKS_TOGETHER: u32 = 200;

/// Where an entry lies, confirmed by the footer of its pack.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    /// The pack's place in the order of registration.
    pub(crate) sequence: u64,
    /// The pack.
    pub(crate) pack: PackId,
    /// Its footer.
    pub(crate) footer: Arc<PackFooter>,
    /// The entry.
    pub(crate) info: EntryInfo,
}

impl Vault {
    /// Reads the index on to the newest pack the catalog knows. In order, so that what was read up to a sequence is
    /// all there is before it, also after a crash.
    pub(crate) async fn catch_up(&self) -> ApiResult<()> {
        let _turn = self.catching_up.lock().await;
        loop {
            let newest = self.index_newest().await?;
            let packs = self.catalog.packs_after(newest, PACKS_TOGETHER).await?;
            if packs.is_empty() {
                return Ok(());
            }
            for pack in packs {
                self.index_pack(&pack).await?;
            }
        }
    }

    async fn index_pack(&self, pack: &Pack) -> ApiResult<()> {
        let ids = match self.footer(&pack.pack.id).await {
            Ok(footer) => footer.entries.iter().map(|entry| entry.id).collect(),
            Err(FooterError::Bad(what)) => {
                // Nothing in it can be read; what it held will be sent again.
                self.note_damage(pack.pack.id, None, &what).await;
                Vec::new()
            }
            Err(FooterError::Failed(err)) => return Err(err),
        };
        self.index_add(pack.sequence, ids).await
    }

    async fn index_newest(&self) -> ApiResult<u64> {
        let index = Arc::clone(&self.index);
        tokio::task::spawn_blocking(move || index.applied_sequence())
            .await
            .map_err(ApiError::internal)
    }

    async fn index_add(&self, sequence: u64, ids: Vec<EntryId>) -> ApiResult<()> {
        let index = Arc::clone(&self.index);
        blocking(move || index.add_pack(sequence, &ids))
            .await
            .map(drop)
    }

    /// Finds entries, in the order of the request. Damaged ones, and those in packs of `without`, count as absent.
    pub(crate) async fn locate(
        &self,
        ids: Vec<EntryId>,
        without: &HashSet<u64>,
    ) -> ApiResult<Vec<Option<Located>>> {
        let index = Arc::clone(&self.index);
        let asked = ids.clone();
        let candidates = blocking(move || index.look_up(&asked)).await?;
        let mut found = Vec::with_capacity(ids.len());
        for (id, places) in ids.iter().zip(candidates) {
            let mut located = None;
            // Newest first: a chunk that was damaged and sent again lies in a later pack.
            for place in places
                .iter()
                .filter(|place| !without.contains(&place.sequence))
            {
                located = self.confirm(id, place.sequence, place.entry).await?;
                if located.is_some() {
                    break;
                }
            }
            found.push(located);
        }
        Ok(found)
    }

    async fn confirm(&self, id: &EntryId, sequence: u64, entry: u32) -> ApiResult<Option<Located>> {
        let Some(pack) = self.pack_name(sequence).await? else {
            return Ok(None);
        };
        if self.is_damaged(&pack, id) {
            return Ok(None);
        }
        let footer = match self.footer(&pack).await {
            Ok(footer) => footer,
            Err(FooterError::Bad(what)) => {
                self.note_damage(pack, None, &what).await;
                return Ok(None);
            }
            Err(FooterError::Failed(err)) => return Err(err),
        };
        let number = usize::try_from(entry).unwrap_or(usize::MAX);
        let info = footer
            .entries
            .get(number)
            .filter(|info| info.id == *id)
            .copied();
        Ok(info.map(|info| Located {
            sequence,
            pack,
            footer,
            info,
        }))
    }

    pub(super) async fn pack_name(&self, sequence: u64) -> ApiResult<Option<PackId>> {
        let known = self.lock_names().get(&sequence).copied();
        if known.is_some() {
            return Ok(known);
        }
        let Some(pack) = self.catalog.pack(sequence).await? else {
            return Ok(None);
        };
        self.lock_names().insert(sequence, pack.pack.id);
        Ok(Some(pack.pack.id))
    }

    fn lock_names(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<u64, PackId>> {
        self.names
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns a pack's footer, from memory where it was read before.
    async fn footer(&self, pack: &PackId) -> Result<Arc<PackFooter>, FooterError> {
        if let Some(footer) = self.footers.get(pack) {
            return Ok(footer);
        }
        let name = ObjectName::pack(pack);
        let read = |err: store::ObjectError| match err.kind {
            ObjectErrorKind::NotFound => {
                FooterError::Bad("the pack is not in the store".to_owned())
            }
            ObjectErrorKind::Corrupt => FooterError::Bad(err.to_string()),
            ObjectErrorKind::AlreadyExists
            | ObjectErrorKind::Full
            | ObjectErrorKind::Denied
            | ObjectErrorKind::Unavailable
            | ObjectErrorKind::Other => FooterError::Failed(err.into()),
        };
        let bad = |err: store::PackError| FooterError::Bad(error_text(&err));
        let len = self.objects.head(&name).await.map_err(read)?.len;
        let start = len.saturating_sub(PackTail::GUESS_BYTES);
        let end = self
            .objects
            .get_range(&name, start..len)
            .await
            .map_err(read)?;
        let tail = PackTail::parse(&end, len).map_err(bad)?;
        let sealed = match tail.footer.start.checked_sub(start) {
            Some(at) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let until = usize::try_from(tail.footer.end.saturating_sub(start)).unwrap_or(0);
                end.get(at..until)
                    .map(bytes::Bytes::copy_from_slice)
                    .unwrap_or_default()
            }
            None => self
                .objects
                .get_range(&name, tail.footer.clone())
                .await
                .map_err(read)?,
        };
        let footer = PackFooter::open(&tail, &sealed, &*self.keys).map_err(bad)?;
        let footer = Arc::new(footer);
        self.keep_footer(*pack, &footer);
        Ok(footer)
    }

    /// Keeps a footer that was read or received.
    pub(super) fn keep_footer(&self, pack: PackId, footer: &Arc<PackFooter>) {
        let bytes = footer.entries.len() * size_of::<EntryInfo>() + 100;
        self.footers.insert(
            pack,
            Arc::clone(footer),
            u64::try_from(bytes).unwrap_or(u64::MAX),
        );
    }
}

/// Why a footer is not to be had.
enum FooterError {
    /// The pack is missing or damaged.
    Bad(String),
    /// The store failed; trying again may help.
    Failed(ApiError),
}

/// Returns an error with its causes in one line.
pub(super) fn error_text(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}

/// Runs an operation of the index off the async threads.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> ApiResult<T>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(ApiError::internal)?;
    done.map_err(|err| ApiError::internal(anyhow::Error::new(err).context("use the chunk index")))
}
