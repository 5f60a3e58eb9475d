//! Single cells of chunks, for restores that find the rest on their host.
//!
//! As with whole chunks, who knows a chunk's id may have it: ids are keyed and come from the trees of the session's point.
//! What the store cannot give (missing, damaged, without those cells) is left out of the answer: the agent then asks for the
//! whole chunk, and is told what is wrong with it.

use api::cells::{CELL_ASKS_PER_REQUEST, CellAsk};
use api::frames::{PackKeyBytes, Tag};
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use catalog::SessionKind;
use model::SessionId;
use store::{CellKey, ChunkId, EntryId, LiveCells, Opened, PackKeys, SealedEntry, seal_cells};

use super::{Sender, live_session, stream};
use crate::agents::Peer;
use crate::app::{App, Shared};
use crate::http::{ApiError, ApiResult, Body, PathId};

/// Chunks opened together: up to 16 MiB in memory.
const CHUNKS_TOGETHER: usize = 64;

/// Some cells of a chunk.
#[derive(Clone, Copy)]
struct Ask {
    chunk: ChunkId,
    cells: LiveCells,
}

/// `POST /agent/v1/sessions/{s}/cell-hashes`.
pub(crate) async fn cell_hashes(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Body(body): Body,
) -> ApiResult<Response> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Restore)).await?;
    let asks = read_asks(&body)?;
    app.vault.catch_up().await?;
    let key = app.vault.keys().cell_key(*session.id.0.as_bytes());
    Ok(stream(move |out| send_hashes(app, key, asks, out)))
}

/// `POST /agent/v1/sessions/{s}/cells`.
pub(crate) async fn cells(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Body(body): Body,
) -> ApiResult<Response> {
    live_session(&app, &peer, session, Some(SessionKind::Restore)).await?;
    let asks = read_asks(&body)?;
    app.vault.catch_up().await?;
    Ok(stream(move |out| send_cells(app, asks, out)))
}

fn read_asks(body: &Bytes) -> ApiResult<Vec<Ask>> {
    let (asks, rest) = body.as_chunks::<{ CellAsk::LEN }>();
    if !rest.is_empty() {
        let len = CellAsk::LEN;
        return Err(ApiError::bad_request(format!(
            "the body is not a list of chunks and cells of {len} bytes"
        )));
    }
    if asks.len() > CELL_ASKS_PER_REQUEST {
        return Err(ApiError::new(
            api::codes::TOO_LARGE,
            format!("cells of more than {CELL_ASKS_PER_REQUEST} chunks"),
        ));
    }
    asks.iter()
        .map(|bytes| {
            let ask = CellAsk::decode(bytes);
            let cells = ask.cells.try_into();
            let cells = cells.map_err(|_| ApiError::bad_request("no cell is asked for"))?;
            Ok(Ask {
                chunk: ChunkId(ask.chunk),
                cells: LiveCells::new(cells),
            })
        })
        .collect()
}

async fn send_hashes(
    app: Shared,
    key: CellKey,
    asks: Vec<Ask>,
    mut out: Sender,
) -> Result<Sender, (Sender, ApiError)> {
    for some in asks.chunks(CHUNKS_TOGETHER) {
        let opened = match open(&app, some).await {
            Ok(opened) => opened,
            Err(err) => return Err((out, err)),
        };
        let key = key.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let answers = opened.iter().filter_map(|(ask, opened)| {
                let hashes = key.hashes(&opened.plain, ask.cells)?;
                Some([&ask.chunk.as_bytes()[..], hashes.as_flattened()].concat())
            });
            answers.collect::<Vec<_>>()
        });
        let answers = match hashed.await {
            Ok(answers) => answers,
            Err(err) => return Err((out, ApiError::internal(err))),
        };
        for answer in answers {
            if !out.frame(Tag::Cells, &answer).await {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

async fn send_cells(
    app: Shared,
    asks: Vec<Ask>,
    mut out: Sender,
) -> Result<Sender, (Sender, ApiError)> {
    let mut entry = Vec::new();
    for some in asks.chunks(CHUNKS_TOGETHER) {
        let (key, entries) = match sealed(&app, some).await {
            Ok(Some(sealed)) => sealed,
            Ok(None) => continue,
            Err(err) => return Err((out, err)),
        };
        if !out.frame(Tag::Seal, &key.encode()).await {
            return Ok(out);
        }
        for sealed in entries {
            entry.clear();
            sealed.encode_to(&mut entry);
            if !out.frame(Tag::Entry, &entry).await {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// Seals cells under a key that is used for nothing else.
async fn sealed(app: &App, asks: &[Ask]) -> ApiResult<Option<(PackKeyBytes, Vec<SealedEntry>)>> {
    let opened = open(app, asks).await?;
    if opened.is_empty() {
        return Ok(None);
    }
    let seal = app.vault.keys().new_seal().map_err(ApiError::internal)?;
    let entries = tokio::task::spawn_blocking(move || {
        let parts = opened
            .iter()
            .map(|(ask, opened)| (ask.chunk, opened.plain.as_slice(), ask.cells));
        seal_cells(seal, parts)
    });
    let entries = entries.await.map_err(ApiError::internal)?;
    let entries = entries.map_err(ApiError::internal)?;
    let Some(first) = entries.first() else {
        return Ok(None);
    };
    let (generation, salt) = (first.generation(), first.salt());
    let key = app.vault.keys().pack_key(generation, salt);
    let key = PackKeyBytes {
        generation,
        salt: salt.0,
        key: *key.map_err(ApiError::internal)?.expose_key(),
    };
    Ok(Some((key, entries)))
}

/// Opens chunks that have the cells asked for.
async fn open(app: &App, asks: &[Ask]) -> ApiResult<Vec<(Ask, Opened)>> {
    let ids = asks.iter().map(|ask| EntryId::Chunk(ask.chunk)).collect();
    let opened = app.vault.read_opened(ids).await?;
    let pairs = asks.iter().zip(opened);
    let pairs = pairs.filter_map(|(ask, opened)| Some((*ask, opened?)));
    Ok(pairs
        .filter(|(ask, opened)| has(opened, ask.cells))
        .collect())
}

fn has(opened: &Opened, cells: LiveCells) -> bool {
    let wanted = cells.bits().get();
    let live = opened
        .live
        .is_none_or(|live| live.bits().get() & wanted == wanted);
    live && cells.end() * store::CELL_BYTES <= opened.plain.len()
}
