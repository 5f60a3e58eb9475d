//! VHDX virtual disk files and differencing chains, and the older VHD to read.
//!
//! - **Read**: [`Vhdx::open`] and [`Vhd::open`] open and check one file; [`Chain`] puts a leaf and its parents together; [`Disk`]
//!   reads the whole as one, and says without reading data what is data and what is zeros ([`Disk::extents`]) and which ranges
//!   of which files hold it ([`Disk::runs`]). Files are never changed by reading: the log of an unclean one is replayed in
//!   memory. [`inspect`] tells about one file only.
//! - **Make**: [`BulkWriter`] lays out a new disk from front to back, and goes on where it was cut ([`Unfinished`]);
//!   [`create_differencing`] makes an empty child; [`convert`] copies any disk, a chain or a VHD too, into a new file.
//! - **Change**: [`DiskWriter`] writes, zeros and trims in place, metadata through the log, beside readers; [`resize`],
//!   [`compact`] and [`merge`] work on files nobody has open; [`set_parent`] and [`set_disk_id`] change what their names say.
//! - **Judge**: [`check()`] lists everything that is wrong with a file, [`check_chain`] with a chain; [`repair`] mends what the
//!   format says how to mend.
//!
//! ```
//! use std::sync::Arc;
//! use vhdx::{BulkWriter, Disk, ExtentKind, MemoryFile, Params};
//!
//! // Any file that can be read and written by position will do: `std::fs::File`, or, here, memory.
//! let file = Arc::new(MemoryFile::new());
//! let mut writer = BulkWriter::create(Arc::clone(&file), &Params::dynamic(1 << 30))?;
//! writer.write(512 << 20, b"in the middle of a disk of 1 GiB")?;
//! writer.finish()?;
//!
//! let disk = Disk::open(file)?;
//! let mut bytes = [0; 13];
//! disk.read_at(&mut bytes, 512 << 20)?;
//! assert_eq!(&bytes, b"in the middle");
//! // One block of 32 MiB is there; the rest is known to be zeros.
//! let kinds: Vec<ExtentKind> = disk.extents(0, disk.size()).map(|extent| Ok(extent?.kind)).collect::<Result<_, vhdx::Error>>()?;
//! assert_eq!(kinds, [ExtentKind::Zero, ExtentKind::Data, ExtentKind::Zero]);
//! # Ok::<(), vhdx::Error>(())
//! ```
//!
//! A child over its parent, written, then merged:
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use vhdx::{
//!     BulkWriter, DiskWriter, Durability, MemoryFile, MergedIdentity, Params, ParentLink, Vhdx, check, create_differencing, merge,
//! };
//!
//! let (parent, child) = (Arc::new(MemoryFile::new()), Arc::new(MemoryFile::new()));
//! let info = BulkWriter::create(Arc::clone(&parent), &Params::dynamic(64 << 20))?.finish()?;
//! let link = ParentLink {
//!     data_write_guid: info.data_write_guid,
//!     relative_path: Some(r".\parent.vhdx".into()),
//!     volume_path: None,
//!     absolute_path: None,
//! };
//! create_differencing(Arc::clone(&child), &Params::child_of(&info, link))?;
//!
//! let leaf = DiskWriter::open(Arc::clone(&child), vec![Vhdx::open(Arc::clone(&parent))?], Durability::PowerLoss)?;
//! leaf.write_at(b"only in the child", 4096)?;
//! leaf.close()?;
//!
//! merge(child, Arc::clone(&parent), MergedIdentity::New, Durability::PowerLoss, &mut |at| {
//!     println!("{} of {} bytes", at.bytes_done, at.bytes_total);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(check(parent)?.worst(), None);
//! # Ok::<(), vhdx::Error>(())
//! ```
//!
//! The format is [MS-VHDX]; the modules of `format` name its sections, and every rule of it is a [`Rule`] with a code, its
//! section and its severity. All I/O is synchronous and positioned, over [`ReadAt`] and [`WriteAt`]; the caller opens, locks and
//! removes files.
//!
//! Invariants:
//! - Bytes of a file never cause a panic, and no length from it is allocated or looped over unchecked. What breaks a rule is
//!   refused by the name of the rule.
//! - Reading takes bounded memory whatever the size of the disk: at most 32 MiB of block table and 2 MiB of bitmaps per file. A
//!   writer also keeps a map of the holes of its file, which grows with their number.
//! - A file is at every moment, whatever the end of the process or the machine, either whole or refused: a new one has no
//!   header before it is finished, and metadata of an old one changes through the log only.
//! - What reads as zero because nothing is known of it does not exist: every byte is data, zeros, or an error.
//!
//! Not here: writing VHD files, VHD sets, change tracking files.

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

pub use bulk::{BulkWriter, Unfinished, create_differencing};
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
