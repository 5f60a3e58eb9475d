//! From a disk to packs and from packs to a disk: used by the agent and by direct use of a vault alike.
//!
//! Backup: source -> cells -> chunks -> "have?" -> compress -> seal -> packs, region by region over all cores
//! ([`BackupSession`]). Restore: image tree -> chunks -> open -> check -> target, in the order of the disk
//! ([`restore_image`]), then read back ([`verify_image`]). What the target host has anyway ([`Seeds`]) is not fetched.
//!
//! Sync, on threads of its own; what waits for a network does so inside the links. No HTTP, no host, no catalog here.
//!
//! Invariants:
//! - A pack with tree nodes is put only after every pack with chunks they refer to was acknowledged.
//! - Nothing is written to a target that was not checked against its id (or, where an image has only part of a chunk and
//!   a seed has it, the server's keyed hash of each cell); a chunk that does not come is an error that names the place in
//!   the image, never zeros.
//! - Memory is bounded by constants, not by the size of an image (but for 33 bytes a region and 57 a MiB of hashes).

mod backup;
mod error;
mod link;
mod options;
mod restore;
mod seeds;
mod source;
mod verify;

pub use backup::{BackupSession, ImageFigures, ImageOutcome, Plan, SessionFigures};
pub use error::{BackupError, RestoreError, VerifyError};
pub use link::{BackupLink, CHUNKS_PER_ASK, CellHashes, ChunkCells, FetchedChunk, RestoreLink};
pub use options::{Cancel, Options, Progress, RateLimit};
pub use restore::{RestoreFigures, RestoreOutcome, restore_image, resume_image};
pub use seeds::{SEEDS_MAX, ScanFigures, Seed, SeedUse, Seeds};
pub use source::{FileTarget, ImageSource, ImageTarget, PlainFile};
pub use verify::{Piece, WrittenPieces, held_pieces, image_digest, verify_image};
