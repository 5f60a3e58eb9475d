//! HyperVStorage: the container of Hyper-V's configurations and states (`.vmcx`, `.vmrs`, `.vsv`), a tree of typed values.
//!
//! [`Storage::read`] reads and checks a whole file, [`Storage::encode`] lays one out; between them a file is a plain tree of
//! [`Node`]s and [`Value`]s. What the keys of a virtual machine mean is Hyper-V's own affair and no part of this crate.
//!
//! ```
//! use vmcx::{Storage, Value};
//!
//! let mut storage = Storage::new();
//! storage.set("/configuration/properties/name", "web-01");
//! storage.set("/configuration/settings/processors/count", 4_i64);
//! let bytes = storage.encode()?;
//!
//! let read = Storage::read(&bytes)?;
//! assert_eq!(read.get("/configuration/properties/name"), Some(&Value::from("web-01")));
//! for (path, value) in read.values() {
//!     println!("{path} = {value}");
//! }
//! assert_eq!(read, storage);
//! # Ok::<(), vmcx::Error>(())
//! ```
//!
//! The format is not published by itself; OpenVMM describes it (`support/hvs_file/FORMAT.md`, checked there against Windows)
//! and dissect.hypervisor reads it. Version 4.0 is read and written, others are refused by name. So is a file whose replay
//! log has pending entries: the two sources do not agree on the order of an entry's fields, and a guess would mix old and
//! new. Copy such a file once the host has closed it.
//!
//! Invariants:
//! - Bytes of a file never cause a panic or endless work, and nothing is allocated from an unchecked length: what is kept is
//!   bounded by the size of the file.
//! - Every checksum there is holds, or the file is refused. The content of large values has none.
//! - The same tree is encoded as the same bytes.
//!
//! Not here: changing a file in place, change tracking, older versions.

mod encode;
mod error;
mod format;
mod read;
mod read_at;
mod tree;

pub use error::{Error, Rule};
pub use read_at::ReadAt;
pub use tree::{Entry, Node, Storage, Value, Values};
