//! VHDX virtual disk files and differencing chains.
//!
//! - Read: [`Vhdx::open`] opens and checks one file; [`Chain`] puts a leaf and its parents together; [`Disk`] reads the whole
//!   as one and says by [`Disk::extents`] what is data and what is zeros without reading it. Files are never changed by
//!   reading: the log of an unclean one is replayed in memory. [`inspect`] tells about one file only.
//! - Make: [`BulkWriter`] lays out a new disk from front to back; [`create_differencing`] makes an empty child.
//! - Change: [`DiskWriter`] writes in place, metadata through the log, beside readers; [`merge`] brings a child into its
//!   parent; [`set_parent`], [`set_disk_id`] and [`replay_log`] change what their names say.
//!
//! The format is [MS-VHDX]; the modules of `format` name its sections. All I/O is synchronous and positioned, over
//! [`ReadAt`] and [`WriteAt`]; the caller opens, locks and removes files.
//!
//! Invariants:
//! - Bytes of a file never cause a panic, and no length from it is allocated or looped over unchecked. What breaks a rule is
//!   refused by the name of the rule ([`Rule`]).
//! - Reading takes bounded memory: at most 32 MiB of block table per file, 2 MiB of bitmaps.
//! - A file is at every moment, whatever the end of the process or the machine, either whole or refused: a new one has no
//!   header before it is finished, and metadata of an old one changes through the log only.
//! - What reads as zero because nothing is known of it does not exist: every byte is data, zeros, or an error.
//!
//! Not here: checking a file for all its faults at once, resizing, compacting.

mod backing;
mod bulk;
mod chain;
mod check;
mod convert;
mod directory;
mod disk;
mod error;
mod findings;
mod format;
mod info;
mod io;
mod layer;
mod member;
mod merge;
mod own;
mod pages;
mod params;
mod progress;
mod repair;
mod rule;
mod space;
mod table;
mod vhd;
mod writer;

pub use bulk::{BulkWriter, create_differencing};
pub use chain::{Chain, MAX_CHAIN_DEPTH, ParentResolver};
pub use check::{BlockFigures, ChainReport, CheckReport, Figures, FileReport, check, check_chain};
pub use convert::{ConvertOptions, convert, convert_raw};
pub use directory::DirectoryResolver;
pub use disk::{Disk, Extent, ExtentKind, Extents, Place, Run, Runs};
pub use error::{Error, Kind, Rule};
pub use findings::Finding;
pub use info::{DiskKind, FileInfo, Format, ParentLocator, inspect};
pub use io::{MemoryFile, ReadAt, WriteAt};
pub use layer::Vhdx;
pub use member::DiskFile;
pub use merge::{MergedIdentity, merge};
pub use own::{OwnPlace, OwnRun, OwnRuns};
pub use params::{DEFAULT_BLOCK_BYTES, DEFAULT_CHILD_BLOCK_BYTES, Params, ParentLink};
pub use progress::Progress;
pub use repair::{RepairReport, repair};
pub use rule::Severity;
pub use vhd::Vhd;
pub use writer::{
    Beyond, CompactOptions, CompactReport, DiskWriter, Durability, compact, replay_log, resize,
    set_disk_id, set_parent,
};
