//! What the pipelines need of whoever keeps the vault: a server over HTTPS, or a vault opened directly.
//!
//! Called from several threads at once. An error ends the run; whatever can be tried again is tried again inside the link.

use std::sync::Arc;

use bytes::Bytes;
use store::{
    BoxError, CellHash, ChunkId, LiveCells, NodeId, PackKey, PackSeal, SealedEntry, SealedPack,
};

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

/// Some cells of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkCells {
    /// The chunk.
    pub id: ChunkId,
    /// Its cells.
    pub cells: LiveCells,
}

impl ChunkCells {
    /// Bytes it takes to ask for them: the id and a bit for each cell.
    pub const WIRE_BYTES: usize = 40;
}

/// The hashes of some cells of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellHashes {
    /// The chunk.
    pub id: ChunkId,
    /// The hashes of the cells asked for, in order, under the session's [`store::CellKey`].
    pub hashes: Vec<CellHash>,
}

/// The vault as a restore sees it.
pub trait RestoreLink: Send + Sync {
    /// Returns the plain bytes of tree nodes, in the order asked for.
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError>;

    /// Returns these chunks (all different; a few MiB in sum), in any order. One that is left out is reported by the
    /// restore with its place in the image.
    fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<FetchedChunk>, BoxError>;

    /// Returns the hashes of cells of chunks (all different, up to [`CHUNKS_PER_ASK`]), in any order. A chunk that is left
    /// out is fetched whole; a vault that knows nothing of cells leaves out all of them.
    fn cell_hashes(&self, _asks: &[ChunkCells]) -> Result<Vec<CellHashes>, BoxError> {
        Ok(Vec::new())
    }

    /// Returns only these cells of chunks (all different, up to [`CHUNKS_PER_ASK`]), each as an entry that has them live, in
    /// any order. A chunk that is left out is fetched whole.
    fn fetch_cells(&self, _asks: &[ChunkCells]) -> Result<Vec<FetchedChunk>, BoxError> {
        Ok(Vec::new())
    }
}

/// The most chunks whose cells are asked about together.
pub const CHUNKS_PER_ASK: usize = 1024;

/// Lets a tree read its nodes through a link.
pub(crate) struct LinkNodes<F>(pub(crate) F);

impl<F: Fn(&[NodeId]) -> Result<Vec<Bytes>, BoxError>> store::NodeSource for LinkNodes<F> {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        (self.0)(ids)
    }
}
