//! One open file: its structures, and where each byte of it lies.

use std::sync::Arc;

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::bat::{GROUP_SECTORS_SHIFT, Geometry, State};
use crate::format::header::{self, CurrentHeader, Header};
use crate::format::metadata::{self, Metadata};
use crate::format::region::{self, Regions, TABLE_AT};
use crate::format::{HEADER_AREA, MIB, PAGE, index, u64_at};
use crate::info::{DiskKind, FileInfo, Format};
use crate::io::ReadAt;
use crate::pages::Pages;
use crate::space::SpaceMap;
use crate::table::Table;

/// Everything of a file but its block table.
#[derive(Debug)]
pub(crate) struct Structures {
    pub(crate) backing: Backing,
    pub(crate) current: CurrentHeader,
    pub(crate) regions: Regions,
    pub(crate) metadata: Metadata,
    pub(crate) file_bytes: u64,
}

impl Structures {
    /// Reads headers, log, regions and metadata.
    pub(crate) fn read(file: Arc<dyn ReadAt>) -> Result<Self, Error> {
        let file_bytes = file.len().map_err(|source| Error::Read {
            what: "the length",
            at: 0,
            source,
        })?;
        let findings = &mut Findings::FirstError;
        let current = header::read_current(&*file, file_bytes, findings)?;
        let backing = Backing::open(file, file_bytes, &current.header, findings)?;
        Self::from_backing(backing, current, file_bytes)
    }

    /// Reads regions and metadata of a file whose header and log were dealt with.
    pub(crate) fn from_backing(
        backing: Backing,
        current: CurrentHeader,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        let findings = &mut Findings::FirstError;
        let listed = region::read(&backing, current.header.log(), findings)?;
        let regions = listed
            .whole()
            .ok_or_else(|| Error::format(Rule::RegionMissing, TABLE_AT[0], 0_u64))?;
        let known = metadata::read(&backing, regions.metadata, findings)?;
        let at = regions.metadata.offset;
        let metadata = known
            .whole()
            .ok_or_else(|| Error::format(Rule::MetadataMissing, at, 0_u64))?;
        Ok(Self {
            backing,
            current,
            regions,
            metadata,
            file_bytes,
        })
    }

    pub(crate) fn info(&self) -> FileInfo {
        file_info(&self.current.header, &self.metadata, self.file_bytes)
    }
}

/// Returns what a file says about itself.
pub(crate) fn file_info(header: &Header, metadata: &Metadata, file_bytes: u64) -> FileInfo {
    let geometry = &metadata.geometry;
    let kind = match (&metadata.parent, metadata.leave_blocks_allocated) {
        (Some(_), _) => DiskKind::Differencing,
        (None, true) => DiskKind::Fixed,
        (None, false) => DiskKind::Dynamic,
    };
    FileInfo {
        format: Format::Vhdx,
        kind,
        size: geometry.size(),
        file_bytes,
        block_bytes: geometry.block_bytes(),
        logical_sector_bytes: geometry.sector_bytes(),
        physical_sector_bytes: metadata.physical_sector_bytes,
        disk_id: metadata.disk_id,
        data_write_guid: header.data_write_guid,
        file_write_guid: header.file_write_guid,
        parent: metadata.parent.clone(),
        unclean: header.log_in_use(),
    }
}

/// One VHDX file, opened and checked; its log, if it was in use, replayed in memory.
///
/// The file itself is never changed. Make a [`crate::Disk`] of it, alone or with its parents.
#[derive(Debug)]
pub struct Vhdx {
    info: FileInfo,
    backing: Backing,
    geometry: Geometry,
    table: Table,
    pages: Pages,
}

/// Where a byte of one file lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// In the file, at this offset.
    File(u64),
    /// Nowhere: it is zero.
    Zero,
    /// In the parent.
    Parent,
}

impl Vhdx {
    /// Opens `file` and checks it against every rule that reading relies on.
    pub fn open(file: impl ReadAt + 'static) -> Result<Self, Error> {
        let (layer, _) = Self::from_structures(Structures::read(Arc::new(file))?)?;
        Ok(layer)
    }

    /// Returns what the file says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// Reads and checks the block table; also returns which space of the file is taken.
    pub(crate) fn from_structures(structures: Structures) -> Result<(Self, SpaceMap), Error> {
        let info = structures.info();
        let Structures {
            backing,
            regions,
            metadata,
            ..
        } = structures;
        let geometry = metadata.geometry;
        let mut space = SpaceMap::default();
        space.claim(0, HEADER_AREA / MIB);
        for region in &regions.all {
            // Overlaps were refused with the region table.
            space.claim(region.offset / MIB, region.length / MIB);
        }
        let table = Table::open(&backing, regions.bat, geometry, &mut space)?;
        Ok((
            Self {
                info,
                backing,
                geometry,
                table,
                pages: Pages::default(),
            },
            space,
        ))
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Returns where the byte at `offset` of the disk lies, and for how many of the `len` bytes from there that goes on.
    pub(crate) fn find(&self, offset: u64, len: u64) -> Result<(Found, u64), Error> {
        let block = self.geometry.block_of(offset);
        let within = self.geometry.within_block(offset);
        let run = len.min(self.geometry.block_len() - within);
        let entry = self.table.block(&self.backing, &self.pages, block)?;
        Ok(match entry.state {
            State::FullyPresent => (Found::File(entry.place + within), run),
            State::NotPresent if self.geometry.has_parent() => (Found::Parent, run),
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {
                (Found::Zero, run)
            }
            State::PartiallyPresent => {
                let (here, run) = self.bit_run(block, offset, run)?;
                (
                    if here {
                        Found::File(entry.place + within)
                    } else {
                        Found::Parent
                    },
                    run,
                )
            }
        })
    }

    /// Returns whether the sector at `offset` lies in this file, and for how many of the `len` bytes from there that goes on.
    fn bit_run(&self, block: u64, offset: u64, len: u64) -> Result<(bool, u64), Error> {
        let group = self.geometry.group_of(block);
        let Some(bitmap) = self.table.bitmap(&self.backing, &self.pages, group)? else {
            return Err(Error::format(
                Rule::BlockPartial,
                self.geometry.block_entry(block),
                block,
            ));
        };
        let shift = self.geometry.sector_shift();
        let in_group = |sector: u64| sector & ((1 << GROUP_SECTORS_SHIFT) - 1);
        let first = in_group(offset >> shift);
        let count = ((offset + len - 1) >> shift) - (offset >> shift) + 1;
        let mut here = None;
        let mut bit = first;
        // Word by word: bits equal to the first one.
        while bit < first + count {
            let page = self.pages.get(
                &self.backing,
                bitmap + bit / 8 / PAGE * PAGE,
                "a sector bitmap",
            )?;
            let page_end = (bit / (PAGE * 8) + 1) * PAGE * 8;
            while bit < page_end.min(first + count) {
                let word = u64_at(&page[..], index(bit / 64 * 8 % PAGE)) >> (bit % 64);
                let left = 64 - bit % 64;
                let here = *here.get_or_insert(word & 1 == 1);
                let same = u64::from(if here {
                    (!word).trailing_zeros()
                } else {
                    word.trailing_zeros()
                })
                .min(left);
                bit += same;
                if same < left {
                    return Ok((
                        here,
                        self.run_len(offset, len, bit.min(first + count) - first),
                    ));
                }
            }
        }
        Ok((here.unwrap_or(false), len))
    }

    /// Returns how many bytes from `offset` the next `sectors` sectors are, at most `len`.
    fn run_len(&self, offset: u64, len: u64, sectors: u64) -> u64 {
        let shift = self.geometry.sector_shift();
        ((((offset >> shift) + sectors) << shift) - offset).min(len)
    }
}
