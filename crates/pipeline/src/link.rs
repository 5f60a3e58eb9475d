//! What the pipelines need of whoever keeps the vault: a server over HTTPS, or a vault opened directly.
//!
//! Called from several threads at once. An error ends the run; whatever can be tried again is tried again inside the link.

use std::sync::Arc;

use bytes::Bytes;
use store::{BoxError, ChunkId, NodeId, PackKey, PackSeal, SealedEntry, SealedPack};

/// The vault as a backup sees it.
pub trait BackupLink: Send + Sync {
    /// Says for each chunk whether the vault has it; a yes must hold until the backup is published.
    fn have(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BoxError>;

    /// Returns the right to write one more pack.
    fn next_seal(&self) -> Result<PackSeal, BoxError>;

    /// Stores a pack; returns once it is durable.
    fn put_pack(&self, pack: SealedPack) -> Result<(), BoxError>;

    /// Returns the plain bytes of tree nodes, in the order asked for.
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError>;
}

/// A chunk as it came, with the key of its pack.
#[derive(Clone, Debug)]
pub struct FetchedChunk {
    /// The sealed chunk.
    pub entry: SealedEntry,
    /// The key of the pack it is from.
    pub key: Arc<PackKey>,
}

/// The vault as a restore sees it.
pub trait RestoreLink: Send + Sync {
    /// Returns the plain bytes of tree nodes, in the order asked for.
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError>;

    /// Returns these chunks (all different; a few MiB in sum), in any order. One that is left out is reported by the
    /// restore with its place in the image.
    fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<FetchedChunk>, BoxError>;
}

/// Lets a tree read its nodes through a link.
pub(crate) struct LinkNodes<F>(pub(crate) F);

impl<F: Fn(&[NodeId]) -> Result<Vec<Bytes>, BoxError>> store::NodeSource for LinkNodes<F> {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        (self.0)(ids)
    }
}
