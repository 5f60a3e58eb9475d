//! Chunks, packs, image trees and recovery point objects: the format of the vault.
//!
//! A sync core without I/O of its own: it takes bytes and gives bytes. Objects are read and written through
//! [`Objects`], tree nodes through [`NodeSource`] and [`NodeSink`]; the edges implement them.
//!
//! The way of a byte: [`Cutter`] makes chunks of cells, [`SessionKeys`] name them, [`Encoder`] compresses them,
//! [`PackWriter`] seals them, a [`Leaf`] says where they lie in a region, [`TreeBuilder`] and [`Tree::edit`] join
//! leaves to an image tree, a recovery point names the trees. And back: [`Tree::resolve`], [`SealedEntry::open`].
//!
//! Invariants:
//! - Everything that touches disk has its layout in [`mod@format`], opens with magic and version, and is authenticated.
//! - A key and a nonce never meet twice: a [`PackSeal`] is used up by the one [`PackWriter`] made from it.
//! - Unknown is not zero: a leaf covers its region without a gap; only an explicit hole or an absent subtree is zero.
//!
//! Not here: where objects lie, which chunks are known or live, clocks, threads.

mod cells;
mod codec;
mod cut;
mod digest;
mod error;
pub mod format;
mod ids;
mod keys;
mod objects;
mod pack;
mod point;
mod tree;

pub use cells::{CELL_HASH_BYTES, CellHash, CellKey, seal_cells};
pub use codec::{Decoder, Encoded, Encoder, Encoding};
pub use cut::{Cutter, RegionCut, is_zero};
pub use digest::{DigestBuilder, ImageDigest, MIB_BYTES, MibHash, hash_mib, zero_mib_hash};
pub use error::{BoxError, ErrorKind, FormatError, KeyError, PackError, TreeError};
pub use ids::{ChunkId, EntryId, NodeId, PackId, ParseHexError};
pub use keys::{KeyMaterial, MasterKey, PackKey, PackKeys, PackSeal, Salt, SessionKeys, VaultKeys};
pub use objects::{BoxFuture, ObjectError, ObjectErrorKind, ObjectMeta, ObjectName, Objects};
pub use pack::{
    EntryInfo, LiveCells, Opened, PackFooter, PackReader, PackTail, PackWriter, SealedEntry,
    SealedPack, check_pack,
};
pub use point::{PointError, PointObject, VoidRecord, open_point, point_id, seal_point, seal_void};
pub use tree::{
    BaseLeaf, ChunkRef, ChunkSlice, ChunkUse, DeltaLeaf, EditedLeaf, ImageRun, Inner, Leaf,
    LeafBuilder, NewNode, Node, NodeSink, NodeSource, Override, Resolve, Run, RunSource, Tree,
    TreeBuilder, TreeRoot, TreeShape, TreeVisitor,
};

use model::{CELL, KIB, MIB};

/// Bytes of a cell: the grain of images.
pub const CELL_BYTES: usize = 4096;
/// Bytes of a region: what one leaf of an image tree covers.
pub const REGION_BYTES: u64 = 64 * MIB;
/// Cells of a whole region.
pub const REGION_CELLS: u16 = 16_384;
/// Children of an inner node.
pub const FAN_OUT: u16 = 1024;
/// The least cells of a chunk cut by content (16 KiB), unless a hole or its region ends it.
pub const CHUNK_MIN_CELLS: u16 = 4;
/// The most cells of a chunk (256 KiB).
pub const CHUNK_MAX_CELLS: u16 = 64;
/// The most plain bytes of a chunk.
pub const CHUNK_MAX_BYTES: usize = 256 * 1024;
/// The most plain bytes of a tree node that is ever accepted.
pub const NODE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes at which a pack is full.
pub const PACK_TARGET_BYTES: usize = 32 * 1024 * 1024;
/// The most bytes of a pack that is ever accepted.
pub const PACK_MAX_BYTES: u64 = 64 * MIB;

const _: () = {
    assert!(CELL == 4 * KIB && CELL_BYTES == 4096);
    assert!(REGION_BYTES == REGION_CELLS as u64 * CELL);
    assert!(CHUNK_MAX_BYTES == CHUNK_MAX_CELLS as usize * CELL_BYTES);
};
