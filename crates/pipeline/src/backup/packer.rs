//! Packs of a session: filled by all threads, put by a few.
//!
//! Invariant: a pack of nodes is put after every pack of chunks that was begun before it was closed has been acknowledged;
//! packs of nodes are put one after the other.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use store::{BoxError, ChunkId, Encoded, EntryId, NewNode, NodeId, NodeSink, PackWriter};

use super::SessionFigures;
use crate::{BackupError, BackupLink};

/// Threads that hash and put packs.
const UPLOADERS: usize = 2;
/// Closed packs that wait for such a thread, each of 32 MiB.
pub(super) const UPLOADS_AHEAD: usize = 1;
/// Bytes at which a pack of nodes is put: the nodes of about 16 GiB of image.
const NODE_PACK_BYTES: usize = 8 << 20;

type Closed = (u64, PackWriter);

pub(super) struct Packer {
    shared: Arc<Shared>,
    data: Mutex<DataPack>,
    nodes: Mutex<NodePack>,
    threads: Vec<JoinHandle<()>>,
}

struct DataPack {
    writer: Option<PackWriter>,
    /// Gone once the session ends.
    queue: Option<SyncSender<Closed>>,
}

#[derive(Default)]
struct NodePack {
    writer: Option<PackWriter>,
    seen: HashSet<NodeId>,
}

struct Shared {
    link: Arc<dyn BackupLink>,
    /// Chunks sealed into packs that the vault has not acknowledged: "have?" does not know them yet.
    pending: Mutex<HashSet<ChunkId>>,
    uploads: Mutex<Uploads>,
    changed: Condvar,
}

#[derive(Default)]
struct Uploads {
    next: u64,
    in_flight: BTreeSet<u64>,
    figures: SessionFigures,
    /// The first failure, until someone has reported it.
    error: Option<BackupError>,
    /// The text of the first failure.
    failed: Option<String>,
}

/// Locks, also after another thread has panicked: that panic ends the run anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Packer {
    pub(super) fn new(link: Arc<dyn BackupLink>) -> Self {
        let shared = Arc::new(Shared {
            link,
            pending: Mutex::default(),
            uploads: Mutex::default(),
            changed: Condvar::new(),
        });
        let (queue, closed) = sync_channel(UPLOADS_AHEAD);
        let closed = Arc::new(Mutex::new(closed));
        let threads = (0..UPLOADERS)
            .map(|_| {
                let (shared, closed) = (Arc::clone(&shared), Arc::clone(&closed));
                std::thread::spawn(move || shared.upload_all(&closed))
            })
            .collect();
        let data = Mutex::new(DataPack {
            writer: None,
            queue: Some(queue),
        });
        Self {
            shared,
            data,
            nodes: Mutex::default(),
            threads,
        }
    }

    pub(super) fn link(&self) -> &dyn BackupLink {
        &*self.shared.link
    }

    /// Fails where a pack could not be put.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        self.shared.check(&mut lock(&self.shared.uploads))
    }

    /// Says which of these chunks are in packs on their way.
    pub(super) fn pending(&self, ids: &[ChunkId]) -> Vec<bool> {
        let pending = lock(&self.shared.pending);
        ids.iter().map(|id| pending.contains(id)).collect()
    }

    /// Seals chunks that the vault lacks, but those another thread has sealed meanwhile; returns which were sealed.
    pub(super) fn add_chunks(
        &self,
        chunks: &[(ChunkId, Encoded<'_>)],
    ) -> Result<Vec<bool>, BackupError> {
        let mut data = lock(&self.data);
        let mut added = Vec::with_capacity(chunks.len());
        for &(id, encoded) in chunks {
            if lock(&self.shared.pending).contains(&id) {
                added.push(false);
                continue;
            }
            let mut writer = match data.writer.take() {
                Some(writer) => writer,
                None => self.new_pack()?,
            };
            writer.add_encoded(id, encoded).map_err(BackupError::Pack)?;
            lock(&self.shared.pending).insert(id);
            let full = writer.is_full();
            data.writer = Some(writer);
            added.push(true);
            if full {
                self.close(&mut data)?;
            }
        }
        Ok(added)
    }

    /// Takes a tree node whose chunks were handed to [`Self::add_chunks`] or are in the vault; says whether it is new here.
    pub(super) fn add_node(&self, node: &NewNode) -> Result<bool, BackupError> {
        let mut nodes = lock(&self.nodes);
        if !nodes.seen.insert(node.id) {
            return Ok(false);
        }
        let mut writer = match nodes.writer.take() {
            Some(writer) => writer,
            None => self.new_pack()?,
        };
        writer
            .add(node.id, &node.plain)
            .map_err(BackupError::Pack)?;
        let full = writer.sealed_len() >= NODE_PACK_BYTES || writer.is_full();
        nodes.writer = Some(writer);
        if full {
            self.put_nodes(&mut nodes)?;
        }
        Ok(true)
    }

    pub(super) fn finish(mut self) -> Result<SessionFigures, BackupError> {
        self.put_nodes(&mut lock(&self.nodes))?;
        lock(&self.data).queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                let cause = "a thread that uploads packs panicked".to_owned();
                return Err(BackupError::SessionFailed { cause });
            }
        }
        self.check()?;
        Ok(lock(&self.shared.uploads).figures)
    }

    fn new_pack(&self) -> Result<PackWriter, BackupError> {
        let seal = self
            .link()
            .next_seal()
            .map_err(|source| BackupError::Link {
                verb: "give a key for the next pack",
                source,
            })?;
        Ok(PackWriter::new(seal))
    }

    /// Sends the open pack of chunks on its way; waits while too many are.
    fn close(&self, data: &mut DataPack) -> Result<(), BackupError> {
        let Some(writer) = data.writer.take() else {
            return self.check();
        };
        let number = {
            let mut uploads = lock(&self.shared.uploads);
            self.shared.check(&mut uploads)?;
            uploads.next += 1;
            let number = uploads.next;
            uploads.in_flight.insert(number);
            number
        };
        match &data.queue {
            Some(queue) if queue.send((number, writer)).is_ok() => Ok(()),
            Some(_) | None => Err(BackupError::SessionFailed {
                cause: "the threads that upload packs have ended".to_owned(),
            }),
        }
    }

    fn put_nodes(&self, nodes: &mut NodePack) -> Result<(), BackupError> {
        let last = {
            let mut data = lock(&self.data);
            self.close(&mut data)?;
            lock(&self.shared.uploads).next
        };
        let mut uploads = lock(&self.shared.uploads);
        while uploads
            .in_flight
            .first()
            .is_some_and(|&first| first <= last)
        {
            uploads = self
                .shared
                .changed
                .wait(uploads)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.check(&mut uploads)?;
        drop(uploads);
        match nodes.writer.take() {
            Some(writer) => self.shared.put(writer),
            None => Ok(()),
        }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // The threads end with the queue; what they hold is garbage now, and is not waited for.
        lock(&self.data).queue = None;
    }
}

impl Shared {
    fn upload_all(&self, closed: &Mutex<Receiver<Closed>>) {
        loop {
            let next = lock(closed).recv();
            let Ok((number, writer)) = next else { return };
            // After a failure packs are taken and dropped, so that nobody waits for room.
            let failed = lock(&self.uploads).failed.is_some();
            let ids: Vec<EntryId> = writer.entries().iter().map(|entry| entry.id).collect();
            let outcome = if failed { Ok(()) } else { self.put(writer) };
            let mut uploads = lock(&self.uploads);
            match outcome {
                Ok(()) => {}
                Err(error) if uploads.failed.is_none() => {
                    uploads.failed = Some(text_of(&error));
                    uploads.error = Some(error);
                }
                Err(_) => {}
            }
            uploads.in_flight.remove(&number);
            drop(uploads);
            let mut pending = lock(&self.pending);
            for id in ids {
                if let EntryId::Chunk(id) = id {
                    pending.remove(&id);
                }
            }
            drop(pending);
            self.changed.notify_all();
        }
    }

    fn put(&self, writer: PackWriter) -> Result<(), BackupError> {
        let pack = writer.finish();
        let len = pack.bytes.len() as u64;
        self.link
            .put_pack(pack)
            .map_err(|source| BackupError::Link {
                verb: "store a pack",
                source,
            })?;
        let figures = &mut lock(&self.uploads).figures;
        figures.packs += 1;
        figures.bytes_sent += len;
        Ok(())
    }

    fn check(&self, uploads: &mut Uploads) -> Result<(), BackupError> {
        match (uploads.error.take(), &uploads.failed) {
            (Some(error), _) => Err(error),
            (None, Some(cause)) => Err(BackupError::SessionFailed {
                cause: cause.clone(),
            }),
            (None, None) => Ok(()),
        }
    }
}

/// An error with its causes in one line.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Lets a tree put its new nodes into packs, and counts them.
pub(super) struct NodePacks<'a> {
    pub(super) packer: &'a Packer,
    pub(super) count: u64,
}

impl NodeSink for NodePacks<'_> {
    fn put_node(&mut self, node: NewNode) -> Result<(), BoxError> {
        self.count += u64::from(self.packer.add_node(&node)?);
        Ok(())
    }
}
