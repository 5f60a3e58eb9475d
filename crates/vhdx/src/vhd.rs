//! The first generation: VHD files (`.vhd`, `.avhd`), fixed, dynamic and differencing, read only.
//!
//! Everything is big-endian and in sectors of 512 bytes. A fixed file is the disk itself and a footer. The others begin with
//! a copy of the footer, then in any order: a dynamic header, a block allocation table (BAT) of sector numbers, and blocks,
//! each with a bitmap of its sectors before it; the footer ends the file. There is no log: what a crash left behind cannot
//! be told from what was meant.
//!
//! The size of the disk is the footer's *current size*, as Hyper-V takes it. QEMU takes cylinders x heads x sectors instead
//! where the creator is one it does not know to do better (`vpc `): then its disk ends up to a cylinder earlier.
//!
//! Invariants: checksums of footer and header hold, or the file is refused; every block that is read lies whole in the
//! file, over no other block and over no structure; at most 32 MiB of table and 2 MiB of bitmaps are kept.
//!
//! Not here: writing. A VHD is converted to VHDX, not changed.

mod bitmap;
mod footer;
mod header;
mod table;

use std::sync::Arc;

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::info::{DiskKind, FileInfo, Format};
use crate::io::ReadAt;
use crate::layer::Found;
use bitmap::Bitmaps;
use footer::{DiskType, Footer};
use header::DynamicHeader;
use table::Table;

/// The only sector size there is.
const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;
const SECTOR_SHIFT: u32 = 9;

/// One VHD file, opened and checked. Make a [`crate::Disk`] of it, alone or with its parents.
#[derive(Debug)]
pub struct Vhd {
    info: FileInfo,
    backing: Backing,
    blocks: Option<Blocks>,
}

/// Where the bytes of a file that is not fixed lie.
#[derive(Debug)]
struct Blocks {
    block_shift: u32,
    has_parent: bool,
    table: Table,
    bitmaps: Bitmaps,
}

/// Everything of a file but its block table.
pub(crate) struct Structures {
    backing: Backing,
    footer: Footer,
    header: Option<DynamicHeader>,
    /// Where what the blocks may use ends: the footer, or the end of a file that lost it.
    end: u64,
}

impl Structures {
    /// Reads the footer and, where there is one, the dynamic header with its parent locators.
    pub(crate) fn read(file: Arc<dyn ReadAt>) -> Result<Self, Error> {
        let file_bytes = len_of(&*file)?;
        let (footer, at) = footer::read(&*file, file_bytes)?;
        let backing = Backing::clean(file, file_bytes);
        let end = if at == 0 && file_bytes > SECTOR {
            file_bytes
        } else {
            at
        };
        let header = match footer.disk_type {
            DiskType::Fixed => {
                if footer.current_size > end {
                    return Err(Error::format(Rule::VhdFixedLength, at, footer.current_size));
                }
                None
            }
            DiskType::Dynamic | DiskType::Differencing => {
                Some(DynamicHeader::read(&backing, &footer, end)?)
            }
        };
        Ok(Self {
            backing,
            footer,
            header,
            end,
        })
    }

    pub(crate) fn info(&self) -> FileInfo {
        FileInfo {
            format: Format::Vhd,
            kind: match self.footer.disk_type {
                DiskType::Fixed => DiskKind::Fixed,
                DiskType::Dynamic => DiskKind::Dynamic,
                DiskType::Differencing => DiskKind::Differencing,
            },
            size: self.footer.current_size,
            file_bytes: self.backing.len(),
            block_bytes: self.header.as_ref().map_or(0, |header| header.block_bytes),
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            disk_id: self.footer.unique_id,
            data_write_guid: self.footer.unique_id,
            file_write_guid: self.footer.unique_id,
            parent: self
                .header
                .as_ref()
                .and_then(|header| header.parent.clone()),
            unclean: false,
        }
    }
}

impl Vhd {
    /// Opens `file` and checks it against every rule that reading relies on.
    pub fn open(file: impl ReadAt + 'static) -> Result<Self, Error> {
        let structures = Structures::read(Arc::new(file))?;
        let info = structures.info();
        let Structures {
            backing,
            header,
            end,
            ..
        } = structures;
        let blocks = match header {
            None => None,
            Some(header) => Some(Blocks {
                block_shift: header.block_bytes.trailing_zeros(),
                has_parent: header.parent.is_some(),
                table: Table::open(&backing, &header, info.size, end)?,
                bitmaps: Bitmaps::default(),
            }),
        };
        Ok(Self {
            info,
            backing,
            blocks,
        })
    }

    /// Returns what the file says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Returns where the byte at `offset` of the disk lies, and for how many of the `len` bytes from there that goes on.
    pub(crate) fn find(&self, offset: u64, len: u64) -> Result<(Found, u64), Error> {
        let Some(blocks) = &self.blocks else {
            return Ok((Found::File(offset), len));
        };
        let block = offset >> blocks.block_shift;
        let within = offset & ((1 << blocks.block_shift) - 1);
        let run = len.min((1 << blocks.block_shift) - within);
        let absent = if blocks.has_parent {
            Found::Parent
        } else {
            Found::Zero
        };
        let Some(bitmap) = blocks.table.block(block) else {
            return Ok((absent, run));
        };
        let first = within >> SECTOR_SHIFT;
        let count = ((within + run - 1) >> SECTOR_SHIFT) - first + 1;
        let (here, sectors) = blocks.bitmaps.run(&self.backing, bitmap, first, count)?;
        let run = run.min(((first + sectors) << SECTOR_SHIFT) - within);
        let found = if here {
            Found::File(bitmap + bitmap_bytes(blocks.block_shift) + within)
        } else {
            absent
        };
        Ok((found, run))
    }
}

/// Returns the length of the bitmap before each block: a bit per sector, in whole sectors.
fn bitmap_bytes(block_shift: u32) -> u64 {
    ((1_u64 << block_shift) / SECTOR)
        .div_ceil(8)
        .next_multiple_of(SECTOR)
}

pub(crate) fn len_of(file: &dyn ReadAt) -> Result<u64, Error> {
    file.len().map_err(|source| Error::Read {
        what: "the length",
        at: 0,
        source,
    })
}

/// Returns whether a file has the signature of a VHD footer where one belongs.
pub(crate) fn has_signature(file: &dyn ReadAt, file_bytes: u64) -> Result<bool, Error> {
    for at in footer::places(file_bytes) {
        let mut signature = [0; 8];
        read_raw(file, &mut signature, at, "the footer")?;
        if &signature == footer::SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether the file ends in a sound footer of a fixed disk that is just as long as the footer says.
pub(crate) fn is_fixed(file: &dyn ReadAt, file_bytes: u64) -> Result<bool, Error> {
    match footer::read(file, file_bytes) {
        Ok((footer, at)) => Ok(footer.disk_type == DiskType::Fixed && footer.current_size == at),
        Err(err @ Error::Read { .. }) => Err(err),
        Err(_) => Ok(false),
    }
}

fn read_raw(file: &dyn ReadAt, buf: &mut [u8], at: u64, what: &'static str) -> Result<(), Error> {
    file.read_exact_at(buf, at)
        .map_err(|source| Error::Read { what, at, source })
}

/// Returns the checksum of a structure whose sum lies at `at`: the one's complement of the sum of its other bytes.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    !(sum(&bytes[..at]) + sum(&bytes[at + 4..]))
}

fn u16_be(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_be(bytes, at)) << 16 | u32::from(u16_be(bytes, at + 2))
}

fn u64_be(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_be(bytes, at)) << 32 | u64::from(u32_be(bytes, at + 4))
}

fn id_at(bytes: &[u8], at: usize) -> uuid::Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    // As the bytes stand, as other programs show it.
    uuid::Uuid::from_bytes(id)
}
