//! Packs: one object that holds many sealed chunks or nodes.
//!
//! Written once by a [`PackWriter`], never changed; named by the hash of its bytes. Read whole ([`PackReader`]), by its
//! tail ([`PackTail`], [`PackFooter`]) or entry by entry ([`SealedEntry`], which can be sent on without being opened).
//! Layout: [`crate::format::pack`].
//!
//! Invariant: a chunk may be referred to only after its pack is durable.
//! Not here: which chunks are live, where a chunk lies.

mod entry;
mod reader;
mod writer;

pub use entry::{EntryInfo, LiveCells, Opened, SealedEntry};
pub use reader::{PackFooter, PackReader, PackTail, check_pack};
pub use writer::{PackWriter, SealedPack};
