//! Reading entries: neighbours in a pack in one request, several requests ahead, order kept.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use store::{
    Decoder, EntryId, NodeId, ObjectErrorKind, ObjectName, Opened, PackError, SealedEntry,
};

use super::Vault;
use super::locate::{Located, error_text};
use crate::http::{ApiError, ApiResult};

/// The most bytes of one request to the store.
const REQUEST_BYTES: u64 = 4 * model::MIB;
/// Bytes between two entries that are read along rather than asked for apart.
const GAP_BYTES: u64 = 64 * model::KIB;
/// Requests to the store under way for one stream.
const REQUESTS_AHEAD: usize = 4;

/// Why an entry could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// No good pack holds it.
    Missing(EntryId),
    /// Something else failed; trying again may help.
    Failed(ApiError),
}

impl From<ReadError> for ApiError {
    fn from(err: ReadError) -> Self {
        match err {
            ReadError::Missing(id) => missing(&id),
            ReadError::Failed(err) => err,
        }
    }
}

/// Returns the problem that names what is missing or damaged.
pub(crate) fn missing(id: &EntryId) -> ApiError {
    ApiError::new(api::codes::DAMAGED, format!("{id} is missing from the store or damaged"))
        .hint("restore an older or newer recovery point; the next full backup heals what the host still has")
        .missing(vec![hex::encode(id.as_bytes())])
}

/// An entry as it lies in the store.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its pack's place in the order of registration.
    pub(crate) sequence: u64,
    /// The sealed bytes with what is needed to open them.
    pub(crate) sealed: SealedEntry,
}

/// Entries that lie close together in one pack.
struct Run {
    first: Located,
    entries: Vec<Located>,
    range: Range<u64>,
}

impl Vault {
    /// Reads entries, sealed, in the order of the request.
    pub(crate) async fn read_sealed(
        self: &Arc<Self>,
        ids: Vec<EntryId>,
    ) -> Result<impl Stream<Item = Result<Piece, ReadError>> + use<>, ReadError> {
        let located = self
            .locate(ids.clone(), &HashSet::new())
            .await
            .map_err(ReadError::Failed)?;
        let mut found = Vec::with_capacity(located.len());
        let mut absent = None;
        for (id, place) in ids.iter().zip(located) {
            match place {
                Some(place) => found.push(place),
                None => {
                    absent = Some(*id);
                    break;
                }
            }
        }
        let vault = Arc::clone(self);
        let runs = stream::iter(runs_of(found))
            .map(move |run| {
                let vault = Arc::clone(&vault);
                async move { vault.read_run(run).await }
            })
            .buffered(REQUESTS_AHEAD)
            .flat_map(stream::iter);
        // What comes before the missing one is still good.
        let end = stream::iter(absent.map(|id| Err(ReadError::Missing(id))));
        Ok(runs.chain(end))
    }

    async fn read_run(&self, run: Run) -> Vec<Result<Piece, ReadError>> {
        let name = ObjectName::pack(&run.first.pack);
        let bytes = match self.objects.get_range(&name, run.range.clone()).await {
            Ok(bytes) => bytes,
            Err(err) => {
                let id = run.first.info.id;
                return match err.kind {
                    ObjectErrorKind::NotFound | ObjectErrorKind::Corrupt => {
                        self.note_damage(run.first.pack, None, &error_text(&err))
                            .await;
                        vec![Err(ReadError::Missing(id))]
                    }
                    ObjectErrorKind::AlreadyExists
                    | ObjectErrorKind::Full
                    | ObjectErrorKind::Denied
                    | ObjectErrorKind::Unavailable
                    | ObjectErrorKind::Other => vec![Err(ReadError::Failed(err.into()))],
                };
            }
        };
        run.entries
            .iter()
            .map(|entry| cut(entry, &bytes, run.range.start))
            .collect()
    }

    /// Reads and opens entries, in the order of the request. What does not open is noted as damage.
    pub(crate) async fn read_plain(
        self: &Arc<Self>,
        ids: Vec<EntryId>,
    ) -> Result<Vec<Bytes>, ReadError> {
        let pieces = self.read_sealed(ids).await?;
        let pieces: Vec<Result<Piece, ReadError>> = pieces.collect().await;
        let mut sealed = Vec::with_capacity(pieces.len());
        for piece in pieces {
            sealed.push(piece?);
        }
        let keys = Arc::clone(&self.keys);
        let opened = tokio::task::spawn_blocking(move || {
            let mut decoder = Decoder::new();
            let mut plains = Vec::with_capacity(sealed.len());
            for piece in &sealed {
                match piece.sealed.open(&*keys, keys.session(), &mut decoder) {
                    Ok(opened) => plains.push(Bytes::from(opened.plain)),
                    Err(err) => return Err(Box::new((piece.sequence, piece.sealed.id(), err))),
                }
            }
            Ok(plains)
        });
        match opened.await {
            Ok(Ok(plains)) => Ok(plains),
            Ok(Err(bad)) => {
                let (sequence, id, err) = *bad;
                Err(self.bad_entry(sequence, id, &err).await)
            }
            Err(err) => Err(ReadError::Failed(ApiError::internal(err))),
        }
    }

    /// Reads and opens entries, in the order of the request; `None` for one that is missing or does not open, which is noted
    /// as damage.
    pub(crate) async fn read_opened(
        self: &Arc<Self>,
        ids: Vec<EntryId>,
    ) -> ApiResult<Vec<Option<Opened>>> {
        let located = self.locate(ids.clone(), &HashSet::new()).await?;
        let there = ids.iter().zip(&located);
        let there: Vec<EntryId> = there
            .filter(|(_, place)| place.is_some())
            .map(|(id, _)| *id)
            .collect();
        let mut pieces = Box::pin(self.read_sealed(there).await?);
        let mut sealed = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => sealed.push(piece),
                Err(ReadError::Missing(_)) => {}
                Err(ReadError::Failed(err)) => return Err(err),
            }
        }
        let keys = Arc::clone(&self.keys);
        let opening = tokio::task::spawn_blocking(move || {
            let mut decoder = Decoder::new();
            let open = |piece: Piece| {
                let opened = piece.sealed.open(&*keys, keys.session(), &mut decoder);
                (piece.sequence, piece.sealed.id(), opened)
            };
            sealed.into_iter().map(open).collect::<Vec<_>>()
        });
        let mut good = HashMap::new();
        for (sequence, id, opened) in opening.await.map_err(ApiError::internal)? {
            match opened {
                Ok(opened) => {
                    good.insert(id, opened);
                }
                Err(err) => match self.bad_entry(sequence, id, &err).await {
                    ReadError::Missing(_) => {}
                    ReadError::Failed(err) => return Err(err),
                },
            }
        }
        Ok(ids.iter().map(|id| good.remove(id)).collect())
    }

    async fn bad_entry(&self, sequence: u64, id: EntryId, err: &PackError) -> ReadError {
        if let PackError::Key(_) = err {
            return ReadError::Failed(ApiError::internal(anyhow::anyhow!("{}", error_text(err))));
        }
        match self.pack_name(sequence).await {
            Ok(Some(pack)) => self.note_damage(pack, Some(id), &error_text(err)).await,
            Ok(None) => {}
            Err(err) => return ReadError::Failed(err),
        }
        ReadError::Missing(id)
    }

    /// Reads tree nodes, in the order of the request.
    pub(crate) async fn read_nodes(
        self: &Arc<Self>,
        ids: &[NodeId],
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut nodes: Vec<Option<Bytes>> = ids.iter().map(|id| self.nodes.get(id)).collect();
        let absent: Vec<EntryId> = ids
            .iter()
            .zip(&nodes)
            .filter(|(_, node)| node.is_none())
            .map(|(id, _)| EntryId::Node(*id))
            .collect();
        let mut read = self.read_plain(absent).await?.into_iter();
        for (id, node) in ids.iter().zip(&mut nodes) {
            if node.is_none() {
                *node = read.next();
                if let Some(bytes) = node {
                    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.nodes
                        .insert(*id, bytes.clone(), len.saturating_add(64));
                }
            }
        }
        Ok(nodes.into_iter().flatten().collect())
    }
}

/// Joins entries that follow one another in one pack, with small gaps between them.
fn runs_of(entries: Vec<Located>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        let (start, end) = (entry.info.offset, entry.info.end());
        if let Some(run) = runs.last_mut()
            && run.first.pack == entry.pack
            && start >= run.range.start
            && start <= run.range.end.saturating_add(GAP_BYTES)
            && end.saturating_sub(run.range.start) <= REQUEST_BYTES
        {
            run.range.end = run.range.end.max(end);
            run.entries.push(entry);
            continue;
        }
        runs.push(Run {
            first: entry.clone(),
            entries: vec![entry],
            range: start..end,
        });
    }
    runs
}

fn cut(entry: &Located, bytes: &Bytes, start: u64) -> Result<Piece, ReadError> {
    let place = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
    let (from, until) = (place(entry.info.offset), place(entry.info.end()));
    let failed = || {
        ReadError::Failed(ApiError::internal(anyhow::anyhow!(
            "a range of pack {} came short",
            entry.pack
        )))
    };
    if until > bytes.len() || from > until {
        return Err(failed());
    }
    let sealed = entry
        .footer
        .entry(entry.info.number, bytes.slice(from..until));
    match sealed {
        Some(Ok(sealed)) => Ok(Piece {
            sequence: entry.sequence,
            sealed,
        }),
        Some(Err(_)) | None => Err(failed()),
    }
}
