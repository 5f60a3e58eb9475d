//! What agents move within a session: "have?", pack keys, packs, tree nodes, sealed chunks, single cells ([`cells`]).
//!
//! Streams are frames (`api::frames`); one that fails says why in its last frame. Whatever a stream hands out is pinned
//! for the session first.

mod cells;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use api::agent_v1::{CloseSession, SealsReply, SealsRequest};
use api::frames::{self, PackKeyBytes, Tag};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use catalog::{Session, SessionKind};
use futures::StreamExt;
use model::SessionId;
use store::{ChunkId, EntryId, NodeId, PackId, PackKeys};
use tokio::sync::mpsc;

use crate::agents::Peer;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Body, Json, PathId};
use crate::vault::Vault;
pub(crate) use cells::{cell_hashes, cells};

/// The most pack keys of one request.
const SEALS_MAX: u32 = 64;
/// Nodes read together for a stream.
const NODES_TOGETHER: usize = 32;
/// Bytes gathered before they go into a stream.
const SEND_BYTES: usize = 256 * 1024;
/// Buffers of a stream that wait for the network.
const SEND_AHEAD: usize = 8;

/// `POST /agent/v1/sessions/{s}/have`: one byte per id, 1 where the store holds it.
pub(crate) async fn have(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Body(body): Body,
) -> ApiResult<Vec<u8>> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Backup)).await?;
    let ids = read_ids(&body)?;
    app.vault.catch_up().await?;
    let mut found = locate_either(&app.vault, &ids).await?;
    let sequences = found.iter().flatten().copied().collect::<HashSet<u64>>();
    let refused = app.vault.pin(session.id, sequences).await?;
    for sequence in &mut found {
        if sequence.is_some_and(|sequence| refused.contains(&sequence)) {
            *sequence = None;
        }
    }
    Ok(found
        .iter()
        .map(|sequence| u8::from(sequence.is_some()))
        .collect())
}

/// Finds ids that may be chunks or tree nodes. Partial chunks do not count: they lack cells.
async fn locate_either(vault: &Vault, ids: &[[u8; 32]]) -> ApiResult<Vec<Option<u64>>> {
    let nothing = HashSet::new();
    let chunks = ids.iter().map(|id| EntryId::Chunk(ChunkId(*id))).collect();
    let chunks = vault.locate(chunks, &nothing).await?;
    let mut found: Vec<Option<u64>> = chunks
        .iter()
        .map(|place| {
            place
                .as_ref()
                .filter(|place| place.info.live.is_none())
                .map(|place| place.sequence)
        })
        .collect();
    let open: Vec<usize> = (0..ids.len()).filter(|&at| found[at].is_none()).collect();
    let nodes = open
        .iter()
        .map(|&at| EntryId::Node(NodeId(ids[at])))
        .collect();
    for (at, place) in open.into_iter().zip(vault.locate(nodes, &nothing).await?) {
        found[at] = place.map(|place| place.sequence);
    }
    Ok(found)
}

/// `POST /agent/v1/sessions/{s}/seals`: keys for packs to be written.
pub(crate) async fn seals(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Json(request): Json<SealsRequest>,
) -> ApiResult<Json<SealsReply>> {
    live_session(&app, &peer, session, Some(SessionKind::Backup)).await?;
    if !(1..=SEALS_MAX).contains(&request.count) {
        return Err(ApiError::bad_request(format!(
            "ask for 1 to {SEALS_MAX} pack keys"
        )));
    }
    let mut seals = Vec::new();
    for _ in 0..request.count {
        let seal = app.vault.keys().new_seal().map_err(ApiError::internal)?;
        let (generation, salt, key) = seal.into_parts();
        seals.push(hex::encode(
            PackKeyBytes {
                generation,
                salt: salt.0,
                key: *key,
            }
            .encode(),
        ));
    }
    Ok(Json(SealsReply { seals }))
}

/// Whether the reserve is held, or can be taken again now: a job that is started once there is room must not be turned
/// away because nobody has looked since.
async fn room_to_work(app: &Shared) -> ApiResult<bool> {
    if app.reserve.is_held() {
        return Ok(true);
    }
    let again = Arc::clone(app);
    tokio::task::spawn_blocking(move || again.reserve.take())
        .await
        .map_err(ApiError::internal)
}

/// `PUT /agent/v1/sessions/{s}/packs/{pack}`.
pub(crate) async fn put_pack(
    State(app): State<Shared>,
    peer: Peer,
    PathId((session, pack)): PathId<(SessionId, String)>,
    request: Request,
) -> ApiResult<StatusCode> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Backup)).await?;
    let id: PackId = pack
        .parse()
        .map_err(|_| ApiError::bad_request("this is no id of a pack"))?;
    if !room_to_work(&app).await? {
        return Err(ApiError::new(api::codes::STORE_FULL, "the store has no room left")
            .hint("free space on the volume of the server's data folder; the job can be started again"));
    }
    // The turn comes before the body: only so many packs are in memory at once.
    let _turn = app.uploads.acquire().await.map_err(ApiError::internal)?;
    let Body(bytes) = Body::from_request(request, &()).await?;
    let work = Arc::clone(&app);
    // On its own, so that a connection that breaks does not stop it half-way.
    let received = tokio::spawn(async move { work.vault.receive(session.id, id, bytes).await })
        .await
        .map_err(ApiError::internal)?;
    received.map_err(|err| app.note_full(err))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /agent/v1/sessions/{s}/nodes`.
pub(crate) async fn nodes(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Body(body): Body,
) -> ApiResult<Response> {
    live_session(&app, &peer, session, None).await?;
    let ids: Vec<NodeId> = read_ids(&body)?.into_iter().map(NodeId).collect();
    app.vault.catch_up().await?;
    Ok(stream(move |out| send_nodes(app, ids, out)))
}

async fn send_nodes(
    app: Shared,
    ids: Vec<NodeId>,
    mut out: Sender,
) -> Result<Sender, (Sender, ApiError)> {
    for some in ids.chunks(NODES_TOGETHER) {
        let plains = match app.vault.read_nodes(some).await {
            Ok(plains) => plains,
            Err(err) => return Err((out, err.into())),
        };
        for (id, plain) in some.iter().zip(plains) {
            let payload = [id.0.as_slice(), &plain].concat();
            if !out.frame(Tag::Node, &payload).await {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// `POST /agent/v1/sessions/{s}/chunks`.
pub(crate) async fn chunks(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Body(body): Body,
) -> ApiResult<Response> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Restore)).await?;
    let ids = read_ids(&body)?
        .into_iter()
        .map(|id| EntryId::Chunk(ChunkId(id)))
        .collect();
    app.vault.catch_up().await?;
    Ok(stream(move |out| send_chunks(app, session.id, ids, out)))
}

async fn send_chunks(
    app: Shared,
    session: SessionId,
    ids: Vec<EntryId>,
    mut out: Sender,
) -> Result<Sender, (Sender, ApiError)> {
    let pieces = match app.vault.read_sealed(ids).await {
        Ok(pieces) => pieces,
        Err(err) => return Err((out, err.into())),
    };
    futures::pin_mut!(pieces);
    let mut known = HashSet::new();
    let mut entry = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(err) => return Err((out, err.into())),
        };
        let (generation, salt) = (piece.sealed.generation(), piece.sealed.salt());
        if known.insert((generation, salt)) {
            // A condemned pack is read all the same: it is still there, and the point that needs it is pinned.
            if let Err(err) = app.vault.pin(session, [piece.sequence]).await {
                return Err((out, err));
            }
            let key = match app.vault.keys().pack_key(generation, salt) {
                Ok(key) => PackKeyBytes {
                    generation,
                    salt: salt.0,
                    key: *key.expose_key(),
                },
                Err(err) => return Err((out, ApiError::internal(err))),
            };
            if !out.frame(Tag::Seal, &key.encode()).await {
                return Ok(out);
            }
        }
        entry.clear();
        piece.sealed.encode_to(&mut entry);
        if !out.frame(Tag::Entry, &entry).await {
            return Ok(out);
        }
    }
    Ok(out)
}

/// `POST /agent/v1/sessions/{s}/close`.
pub(crate) async fn close(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Json(request): Json<CloseSession>,
) -> ApiResult<StatusCode> {
    let found = match app.catalog.live_session(session, clock::now()).await {
        Ok(found) => found,
        // It ended with its attempt, or was closed before.
        Err(err) if err.kind() == catalog::ErrorKind::Conflict => {
            return Ok(StatusCode::NO_CONTENT);
        }
        Err(err) => return Err(err.into()),
    };
    app.check_owner(found.job, peer.0.id).await?;
    if found.fence != request.fence {
        return Err(ApiError::fenced(format!(
            "session {session} belongs to fence {}",
            found.fence
        )));
    }
    app.catalog.close_session(session, clock::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns a session this agent may use now.
pub(crate) async fn live_session(
    app: &App,
    peer: &Peer,
    id: SessionId,
    kind: Option<SessionKind>,
) -> ApiResult<Session> {
    let session = app.catalog.live_session(id, clock::now()).await?;
    app.check_owner(session.job, peer.0.id).await?;
    if kind.is_some_and(|kind| kind != session.kind) {
        return Err(ApiError::conflict(format!(
            "session {id} is a {} session",
            session.kind
        )));
    }
    Ok(session)
}

fn read_ids(body: &Bytes) -> ApiResult<Vec<[u8; 32]>> {
    let (ids, rest) = body.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(ApiError::bad_request(
            "the body is not a list of ids of 32 bytes",
        ));
    }
    if ids.len() > api::IDS_PER_REQUEST {
        return Err(ApiError::new(
            api::codes::TOO_LARGE,
            format!("more than {} ids", api::IDS_PER_REQUEST),
        ));
    }
    Ok(ids.to_vec())
}

/// The server's end of a stream of frames.
struct Sender {
    channel: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Sender {
    /// Adds a frame; `false` where nobody listens any more.
    async fn frame(&mut self, tag: Tag, payload: &[u8]) -> bool {
        frames::write(&mut self.buffer, tag, payload);
        self.buffer.len() < SEND_BYTES || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        let full = BytesMut::from(&*self.buffer).freeze();
        self.buffer.clear();
        self.channel.send(full).await.is_ok()
    }
}

/// Answers with a stream of frames that `work` fills; adds the last frame.
fn stream<F>(work: impl FnOnce(Sender) -> F) -> Response
where
    F: Future<Output = Result<Sender, (Sender, ApiError)>> + Send + 'static,
{
    let (channel, receiver) = mpsc::channel(SEND_AHEAD);
    let filling = work(Sender {
        channel,
        buffer: Vec::new(),
    });
    tokio::spawn(async move {
        let mut out = match filling.await {
            Ok(mut out) => {
                out.frame(Tag::End, b"").await;
                out
            }
            Err((mut out, err)) => {
                tracing::warn!("a stream ends early: {err}");
                let problem = serde_json::to_vec(err.problem()).unwrap_or_default();
                out.frame(Tag::Problem, &problem).await;
                out
            }
        };
        out.flush().await;
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|bytes| (Ok::<_, Infallible>(bytes), receiver))
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (kind, axum::body::Body::from_stream(frames)).into_response()
}
