//! Where a chunk or node lies: the first 12 bytes of its id → (pack sequence, entry number).
//!
//! A local aid of one server, in an embedded ordered store. It is filled from pack footers in the order of pack
//! sequences and remembers how far it got, both in one write; it may be stale, and it may be lost: then it is filled
//! anew. What it answers is a hint: the caller confirms the full id in the pack's footer and asks the catalog whether
//! the pack is live. Several candidates per key are possible.
//!
//! Not durable on purpose: after a power cut it may have forgotten the last packs, but never half of one, and it knows
//! which.

mod error;
mod index;
mod value;

pub use error::IndexError;
pub use index::{ChunkIndex, Opened, Options};
pub use value::{MAX_CANDIDATES, Place};
