//! The pipelines' view of the vault: the server, over the agents' API.
//!
//! Called from the pipelines' own threads; each call waits for the request it makes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::cells::{CELL_ASKS_PER_REQUEST, CellAsk, read_hashes};
use api::frames::{PackKeyBytes, Tag};
use api_client::{Agent, ClientError, Kind};
use bytes::{Bytes, BytesMut};
use model::SessionId;
use pipeline::{BackupLink, CellHashes, ChunkCells, FetchedChunk, RestoreLink};
use store::{BoxError, ChunkId, NodeId, PackKey, PackSeal, Salt, SealedEntry, SealedPack};
use tokio::runtime::Handle;

use crate::job::{JobContext, JobError};

/// Pack keys asked for at once.
const SEALS_AT_ONCE: u32 = 4;
/// How often a stream that was cut is asked for again.
const STREAM_TRIES: u32 = 5;

/// What a link failed with; kept whole, so that the job can say what the server said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The server or the way to it.
    #[error(transparent)]
    Client(#[from] Shared),
    /// The job must stop.
    #[error("the job was stopped")]
    Stopped,
    /// The answer makes no sense.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(&'static str),
}

/// A client error that can be shown twice.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Shared {
    error: Arc<ClientError>,
}

impl LinkError {
    /// Returns what it means for the job.
    pub(crate) fn as_job_error(&self) -> JobError {
        match self {
            LinkError::Client(shared) => JobError::from_client(&shared.error),
            LinkError::Stopped => JobError::Stopped(crate::job::Stop::Fenced),
            LinkError::Nonsense(_) => JobError::failed("server-protocol", self.to_string()),
        }
    }
}

impl From<ClientError> for LinkError {
    fn from(error: ClientError) -> Self {
        LinkError::Client(Shared {
            error: Arc::new(error),
        })
    }
}

/// A session of a job with the server.
pub(crate) struct ServerLink {
    server: Agent,
    session: SessionId,
    runtime: Handle,
    context: Arc<JobContext>,
    seals: Mutex<Vec<PackSeal>>,
}

impl ServerLink {
    /// Makes the link of a session; must be called within the runtime.
    pub(crate) fn new(context: &Arc<JobContext>, session: SessionId) -> Self {
        Self {
            server: context.server.clone(),
            session,
            runtime: Handle::current(),
            context: Arc::clone(context),
            seals: Mutex::default(),
        }
    }

    /// Waits for a request, unless the job is stopped meanwhile.
    fn wait<T>(&self, request: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        self.runtime.block_on(async {
            tokio::select! {
                reply = request => reply,
                () = self.context.stopped() => Err(LinkError::Stopped),
            }
        })
    }

    fn nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, LinkError> {
        let mut nodes = HashMap::with_capacity(ids.len());
        for part in ids.chunks(api::IDS_PER_REQUEST) {
            let found = self.wait(self.streamed(
                || self.server.nodes(self.session, joined(part)),
                |stream| {
                    Box::pin(async move {
                        let mut found = Vec::new();
                        while let Some((tag, payload)) = stream.next().await? {
                            if tag == Tag::Node && payload.len() >= 32 {
                                found.push((payload.slice(..32), payload.slice(32..)));
                            }
                        }
                        Ok(found)
                    })
                },
            ))?;
            nodes.extend(found);
        }
        ids.iter()
            .map(|id| {
                nodes
                    .get(id.as_bytes().as_slice())
                    .cloned()
                    .ok_or(LinkError::Nonsense("a tree node is missing"))
            })
            .collect()
    }

    /// Asks for a stream of data, and counts what came.
    fn frames<A>(&self, ask: A) -> Result<Vec<(Tag, Bytes)>, LinkError>
    where
        A: AsyncFn() -> Result<api_client::FrameStream, ClientError>,
    {
        let frames = self.wait(self.streamed(ask, |stream| {
            Box::pin(async move {
                let mut frames = Vec::new();
                while let Some(frame) = stream.next().await? {
                    frames.push(frame);
                }
                Ok(frames)
            })
        }))?;
        let sent: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
        self.context.figures(|figures| {
            figures.bytes_sent += u64::try_from(sent).unwrap_or(u64::MAX);
        });
        Ok(frames)
    }

    /// Asks for a stream and reads it to its end, again where it was cut.
    async fn streamed<T, A, R>(&self, ask: A, read: R) -> Result<T, LinkError>
    where
        A: AsyncFn() -> Result<api_client::FrameStream, ClientError>,
        R: for<'s> Fn(
            &'s mut api_client::FrameStream,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<T, ClientError>> + Send + 's>,
        >,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let result = match ask().await {
                Ok(mut stream) => read(&mut stream).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.kind() == Kind::Retry && tries < STREAM_TRIES => {
                    tracing::debug!("asking for a stream again: {error}");
                }
                other => return Ok(other?),
            }
        }
    }
}

impl BackupLink for ServerLink {
    fn have(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BoxError> {
        let mut have = Vec::with_capacity(ids.len());
        for part in ids.chunks(api::IDS_PER_REQUEST) {
            have.extend(
                self.wait(async { Ok(self.server.have(self.session, joined(part)).await?) })?,
            );
        }
        Ok(have)
    }

    fn next_seal(&self) -> Result<PackSeal, BoxError> {
        let mut seals = self.seals.lock().unwrap_or_else(PoisonError::into_inner);
        if seals.is_empty() {
            let reply =
                self.wait(async { Ok(self.server.seals(self.session, SEALS_AT_ONCE).await?) })?;
            for text in &reply.seals {
                let bytes = hex::decode(text)
                    .ok()
                    .and_then(|bytes| PackKeyBytes::decode(&bytes));
                let key = bytes.ok_or(LinkError::Nonsense("a pack key cannot be read"))?;
                seals.push(PackSeal::from_parts(
                    key.generation,
                    Salt(key.salt),
                    key.key,
                ));
            }
        }
        Ok(seals
            .pop()
            .ok_or(LinkError::Nonsense("it gave no pack key"))?)
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), BoxError> {
        let sent = u64::try_from(pack.bytes.len()).unwrap_or(u64::MAX);
        let id = pack.id.to_string();
        self.wait(async {
            Ok(self
                .server
                .put_pack(self.session, &id, pack.bytes.clone())
                .await?)
        })?;
        self.context.figures(|figures| figures.bytes_sent += sent);
        Ok(())
    }

    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        Ok(self.nodes(ids)?)
    }
}

impl RestoreLink for ServerLink {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        Ok(self.nodes(ids)?)
    }

    fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<FetchedChunk>, BoxError> {
        let mut chunks = Vec::with_capacity(ids.len());
        for part in ids.chunks(api::IDS_PER_REQUEST) {
            let ask = || self.server.chunks(self.session, joined(part));
            decode_chunks(self.frames(ask)?, &mut chunks)?;
        }
        Ok(chunks)
    }

    fn cell_hashes(&self, asks: &[ChunkCells]) -> Result<Vec<CellHashes>, BoxError> {
        let mut answers = Vec::with_capacity(asks.len());
        for part in asks.chunks(CELL_ASKS_PER_REQUEST) {
            let ask = || self.server.cell_hashes(self.session, encoded(part));
            for (tag, payload) in self.frames(ask)? {
                if tag == Tag::Cells {
                    let (id, hashes) = read_hashes(&payload)
                        .ok_or(LinkError::Nonsense("hashes of cells cannot be read"))?;
                    answers.push(CellHashes {
                        id: ChunkId(id),
                        hashes: hashes.to_vec(),
                    });
                }
            }
        }
        Ok(answers)
    }

    fn fetch_cells(&self, asks: &[ChunkCells]) -> Result<Vec<FetchedChunk>, BoxError> {
        let mut chunks = Vec::with_capacity(asks.len());
        for part in asks.chunks(CELL_ASKS_PER_REQUEST) {
            let ask = || self.server.cells(self.session, encoded(part));
            decode_chunks(self.frames(ask)?, &mut chunks)?;
        }
        Ok(chunks)
    }
}

fn encoded(asks: &[ChunkCells]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(asks.len() * CellAsk::LEN);
    for ask in asks {
        let cells = ask.cells.bits().get();
        let chunk = *ask.id.as_bytes();
        CellAsk { chunk, cells }.encode_to(&mut bytes);
    }
    bytes
}

/// Joins each sealed chunk with the key of its pack, which came before it.
fn decode_chunks(
    frames: Vec<(Tag, Bytes)>,
    chunks: &mut Vec<FetchedChunk>,
) -> Result<(), LinkError> {
    let mut keys: HashMap<(u32, [u8; 16]), Arc<PackKey>> = HashMap::new();
    for (tag, payload) in frames {
        match tag {
            Tag::Seal => {
                let key = PackKeyBytes::decode(&payload)
                    .ok_or(LinkError::Nonsense("a pack key cannot be read"))?;
                let place = (key.generation, key.salt);
                keys.insert(
                    place,
                    Arc::new(PackKey::from_parts(key.generation, Salt(key.salt), key.key)),
                );
            }
            Tag::Entry => {
                let mut buffer = BytesMut::from(payload);
                let entry = SealedEntry::decode_from(&mut buffer)
                    .ok()
                    .flatten()
                    .ok_or(LinkError::Nonsense("a sealed chunk cannot be read"))?;
                let key = keys.get(&(entry.generation(), entry.salt().0)).cloned();
                let key = key.ok_or(LinkError::Nonsense(
                    "a sealed chunk came before its pack's key",
                ))?;
                chunks.push(FetchedChunk { entry, key });
            }
            Tag::Node | Tag::Cells | Tag::Problem | Tag::End => {}
        }
    }
    Ok(())
}

/// Joins ids of 32 bytes each.
fn joined<I: AsId>(ids: &[I]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ids.len() * 32);
    for id in ids {
        bytes.extend_from_slice(id.id_bytes());
    }
    bytes
}

trait AsId {
    fn id_bytes(&self) -> &[u8; 32];
}

impl AsId for ChunkId {
    fn id_bytes(&self) -> &[u8; 32] {
        self.as_bytes()
    }
}

impl AsId for NodeId {
    fn id_bytes(&self) -> &[u8; 32] {
        self.as_bytes()
    }
}
