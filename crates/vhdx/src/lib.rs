//! VHDX virtual disk files and differencing chains.

mod backing;
mod bulk;
mod chain;
mod directory;
mod disk;
mod error;
mod format;
mod info;
mod io;
mod layer;
mod merge;
mod pages;
mod params;
mod space;
mod table;
mod writer;

pub use bulk::{BulkWriter, create_differencing};
pub use chain::{Chain, MAX_CHAIN_DEPTH, ParentResolver};
pub use directory::DirectoryResolver;
pub use disk::{Disk, Extent, ExtentKind, Extents};
pub use error::{Error, Kind, Rule};
pub use info::{DiskKind, FileInfo, ParentLocator, inspect};
pub use io::{MemoryFile, ReadAt, WriteAt};
pub use layer::Vhdx;
pub use merge::{MergeProgress, MergedIdentity, merge};
pub use params::{DEFAULT_BLOCK_BYTES, DEFAULT_CHILD_BLOCK_BYTES, Params, ParentLink};
pub use writer::{DiskWriter, Durability, set_disk_id, set_parent};
