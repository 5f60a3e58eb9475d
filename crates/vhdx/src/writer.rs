//! Changing a file in place: metadata through the log, readers beside the writer.
//!
//! Writers queue at one lock. Readers never wait for them: they read the block table entry by entry and pass through a
//! lock that is taken for writing only before space that a block gave up is used again.

mod blocks;
mod compact;
mod free;
mod layout;
mod metadata;
mod patches;
mod regions;
mod resize;
mod session;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use uuid::Uuid;

use crate::chain::Chain;
use crate::disk::Disk;
use crate::error::Error;
use crate::format::index;
use crate::info::{DiskKind, FileInfo};
use crate::io::{ReadAt, WriteAt};
use crate::layer::{Structures, Vhdx};
use crate::member::DiskFile;
pub(crate) use blocks::copy_of_table;
use blocks::{Blocks, Part};
use free::FreeSpace;
pub(crate) use session::Session;

pub use compact::{CompactOptions, CompactReport, compact};
pub(crate) use metadata::set_locator;
pub use metadata::{replay_log, set_disk_id, set_parent};
pub(crate) use resize::resize_as;
pub use resize::{Beyond, resize};

/// What an unplanned end may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The machine may lose power: flushes reach the disk.
    PowerLoss,
    /// Only the process may be killed: same order of writes and same log, without waiting for the disk.
    ProcessKill,
}

/// The leaf of a chain, open for writing over read-only parents.
///
/// All methods take `&self`: one thread may write while others read. What was written is read back at once; what was
/// written before [`DiskWriter::flush`] returned is still there after a crash.
#[derive(Debug)]
pub struct DiskWriter {
    disk: Disk,
    /// Held by readers; taken for writing for a moment before space is used again.
    readers: RwLock<()>,
    blocks: Mutex<Blocks>,
}

impl DiskWriter {
    /// Opens `leaf` over its `parents`, nearest first; replays the log in place if the file was not closed cleanly.
    pub fn open(
        leaf: impl WriteAt + 'static,
        parents: Vec<Vhdx>,
        durability: Durability,
    ) -> Result<Self, Error> {
        let leaf: Arc<dyn WriteAt> = Arc::new(leaf);
        let mut parents: Vec<DiskFile> = parents.into_iter().map(Into::into).collect();
        let structures = Structures::read(Arc::clone(&leaf) as Arc<dyn ReadAt>)?;
        if structures.current.header.log_in_use() {
            // The whole chain is judged before the replay, the first thing that is written.
            let (judged, _) = Vhdx::from_structures(structures)?;
            let layers: Vec<DiskFile> = std::iter::once(judged.into()).chain(parents).collect();
            parents = Chain::from_layers(layers)?.into_layers().split_off(1);
        }
        Self::start(leaf, durability, None, |leaf| {
            let layers: Vec<DiskFile> = std::iter::once(leaf.into()).chain(parents).collect();
            Ok(Chain::from_layers(layers)?.into_disk())
        })
    }

    /// Opens a file without its parents: only whole sectors may be written, and only what lies in it be read.
    pub(crate) fn open_detached(
        file: Arc<dyn WriteAt>,
        durability: Durability,
        identity: Option<Uuid>,
    ) -> Result<Self, Error> {
        Self::start(file, durability, identity, |leaf| Ok(Disk::detached(leaf)))
    }

    fn start(
        file: Arc<dyn WriteAt>,
        durability: Durability,
        identity: Option<Uuid>,
        chain: impl FnOnce(Vhdx) -> Result<Disk, Error>,
    ) -> Result<Self, Error> {
        let (mut session, structures) = Session::open(file, durability)?;
        if let Some(identity) = identity {
            session.set_identity(identity);
        }
        let repair_from = structures.regions.repair_from;
        let (leaf, taken) = Vhdx::from_structures(structures)?;
        let blocks = Blocks {
            free: FreeSpace::new(&taken, session.file_len()),
            session,
            fixed: leaf.info().kind == DiskKind::Fixed,
            repair_from,
            table_pages: BTreeSet::new(),
            given_up: Vec::new(),
            cut_at_close: false,
        };
        Ok(Self {
            disk: chain(leaf)?,
            readers: RwLock::new(()),
            blocks: Mutex::new(blocks),
        })
    }

    /// Returns what the leaf says about itself now, its `DataWriteGuid` included.
    #[must_use]
    pub fn info(&self) -> FileInfo {
        let blocks = self.lock();
        let header = blocks.session.header();
        FileInfo {
            data_write_guid: header.data_write_guid,
            file_write_guid: header.file_write_guid,
            unclean: header.log_in_use(),
            file_bytes: blocks.session.file_len(),
            ..self.disk.info().clone()
        }
    }

    /// Returns the size of the virtual disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Fills `buf` with the bytes of the disk from `offset`.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let _reading = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        self.disk.read_at(buf, offset)
    }

    /// Writes `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.change(
            offset,
            bytes.len() as u64,
            |blocks, leaf, part, done| match done {
                Content::Here(from) => {
                    blocks.write(leaf, part, &bytes[index(from)..index(from + part.len)])
                }
                Content::Sector {
                    mut sector,
                    at,
                    from,
                    len,
                } => {
                    sector[at..at + len].copy_from_slice(&bytes[index(from)..index(from) + len]);
                    blocks.write(leaf, part, &sector)
                }
            },
        )
    }

    /// Makes `len` bytes at `offset` read as zeros; whole blocks of a dynamic or differencing disk give up their space.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.change(offset, len, |blocks, leaf, part, done| match done {
            Content::Here(_) => blocks.zero(leaf, part),
            Content::Sector {
                mut sector,
                at,
                len,
                ..
            } => {
                sector[at..at + len].fill(0);
                blocks.write(leaf, part, &sector)
            }
        })
    }

    /// Tells that the content of `len` bytes at `offset` is no longer needed.
    ///
    /// Blocks that lie wholly in the range give up their space and read as zeros, also where a parent has something else.
    /// Parts of blocks stay as they are, and so does all of a fixed disk. (2.5.1.1.4: state `Unmapped`, without a soft anchor.)
    pub fn trim(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.disk.check_range(offset, len)?;
        let leaf = self.disk.vhdx_leaf();
        let geometry = leaf.geometry();
        let end = offset + len;
        let first = offset.div_ceil(geometry.block_len());
        let stop = if end == geometry.size() {
            geometry.blocks()
        } else {
            geometry.block_of(end)
        };
        let mut blocks = self.lock();
        if first >= stop || blocks.fixed {
            return blocks.session.check();
        }
        blocks.session.begin(true)?;
        for block in first..stop {
            blocks.trim(leaf, block)?;
            blocks.commit_if_much(&self.disk, &self.readers)?;
        }
        Ok(())
    }

    /// Returns once everything written so far survives the end the writer was opened for.
    pub fn flush(&self) -> Result<(), Error> {
        self.flush_locked(&mut self.lock())
    }

    /// Flushes and marks the file as cleanly closed. Returns what it then says about itself.
    ///
    /// A writer dropped without it leaves a file whose log must be replayed, as a killed process does.
    pub fn close(self) -> Result<FileInfo, Error> {
        self.close_as(None)
    }

    /// Closes the file, giving the disk another identity in the same step.
    pub(crate) fn close_as(self, identity: Option<Uuid>) -> Result<FileInfo, Error> {
        let mut blocks = self.lock();
        self.flush_locked(&mut blocks)?;
        blocks.session.close(identity)?;
        if blocks.cut_at_close {
            let end = blocks.free.cut();
            blocks.session.cut(end)?;
        }
        Ok(Structures::read(blocks.session.file())?.info())
    }

    fn flush_locked(&self, blocks: &mut Blocks) -> Result<(), Error> {
        blocks.session.check()?;
        if blocks.gathered(&self.disk) > 0 {
            blocks.commit(&self.disk, &self.readers)
        } else if blocks.session.began() {
            blocks.session.sync()
        } else {
            Ok(())
        }
    }

    /// Cuts a range into parts of blocks and has each changed. In a child, a part that covers a sector only in part comes as
    /// that sector with what it reads as.
    fn change(
        &self,
        offset: u64,
        len: u64,
        mut apply: impl FnMut(&mut Blocks, &Vhdx, Part, Content) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.disk.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut blocks = self.lock();
        blocks.session.begin(true)?;
        let leaf = self.disk.vhdx_leaf();
        let geometry = leaf.geometry();
        let sector_bytes = if geometry.has_parent() {
            u64::from(geometry.sector_bytes())
        } else {
            1
        };
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let block = geometry.block_of(at);
            let block_end = geometry.block_start(block) + geometry.block_len();
            let within_sector = at % sector_bytes;
            let sector_start = at - within_sector;
            if within_sector > 0 || end - at < sector_bytes {
                let mut sector = vec![0; index(sector_bytes)];
                self.disk.read_at(&mut sector, sector_start)?;
                let part = Part {
                    block,
                    within: geometry.within_block(sector_start),
                    len: sector_bytes,
                };
                let changed = (end - at).min(sector_bytes - within_sector);
                let content = Content::Sector {
                    sector,
                    at: index(within_sector),
                    from: at - offset,
                    len: index(changed),
                };
                apply(&mut blocks, leaf, part, content)?;
                at += changed;
            } else {
                let stop = end.min(block_end) / sector_bytes * sector_bytes;
                let part = Part {
                    block,
                    within: geometry.within_block(at),
                    len: stop - at,
                };
                apply(&mut blocks, leaf, part, Content::Here(at - offset))?;
                at = stop;
            }
            blocks.commit_if_much(&self.disk, &self.readers)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a part of a block is to hold.
enum Content {
    /// The caller's bytes, from here on.
    Here(u64),
    /// A whole sector as it reads now, of which `len` bytes from `at` on are the caller's, from `from` on.
    Sector { sector: Vec<u8>, at: usize, from: u64, len: usize },
}
