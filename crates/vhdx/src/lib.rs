//! VHDX virtual disk files and differencing chains.

mod bulk;
mod directory;
mod disk;
mod error;
mod info;
mod io;
mod merge;
mod params;
mod writer;

pub use bulk::{BulkWriter, create_differencing};
pub use directory::DirectoryResolver;
pub use disk::{Chain, Disk, Extent, ExtentKind, Extents, MAX_CHAIN_DEPTH, ParentResolver, Vhdx};
pub use error::{Error, Kind, Rule};
pub use info::{DiskKind, FileInfo, ParentLocator, inspect};
pub use io::{MemoryFile, ReadAt, WriteAt};
pub use merge::{MergeProgress, MergedIdentity, merge};
pub use params::{DEFAULT_BLOCK_BYTES, DEFAULT_CHILD_BLOCK_BYTES, Params, ParentLink};
pub use writer::{DiskWriter, Durability, set_disk_id, set_parent};
