//! Where objects lie: a folder or memory (a bucket later), with the promises `store` needs.
//!
//! [`Folder`] keeps objects as files, [`memory`] keeps them for tests; [`probe`] finds out at first use whether a place
//! keeps the promises; [`Faulty`] breaks them on purpose, for tests.
//!
//! Reading, listing and memory come from the crate `object_store`. Putting into a folder is ours: its
//! `LocalFileSystem` leaves the new name behind when the flush of the folder failed, so that the next try would take an
//! object for durable that is not; it leaves half-written files beside the objects for ever; and it has no error for a
//! full disk.
//!
//! Invariants: a put that returned is durable; nothing is ever overwritten; a put that failed leaves nothing; a flush
//! that failed is never tried again on the same file.

mod adapter;
mod faulty;
mod folder;
mod platform;
mod probe;

pub use adapter::{Adapter, memory};
pub use faulty::{Effect, Fault, Faulty, Verb};
pub use folder::Folder;
pub use probe::{ProbeError, probe};
