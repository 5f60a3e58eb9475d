//! A file open for a change of its layout by nobody else: what is where, and the one entry of the log that changes it.

use std::sync::Arc;

use uuid::Uuid;

use super::Durability;
use super::blocks::set_bit_range;
use super::free::FreeSpace;
use super::metadata::find;
use super::patches::Patches;
use super::regions;
use super::session::Session;
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::format::bat::{BlockEntry, GROUP_SECTORS_SHIFT};
use crate::format::metadata::DISK_SIZE;
use crate::format::region::{self, Region, Regions};
use crate::format::{MIB, PAGE, index};
use crate::info::{DiskKind, FileInfo};
use crate::io::WriteAt;
use crate::layer::{Structures, Vhdx};

/// A file open for a change of its layout, by nobody else.
pub(super) struct Layout {
    pub(super) session: Session,
    pub(super) leaf: Vhdx,
    pub(super) backing: Backing,
    pub(super) regions: Regions,
    /// Where the size is kept, in the file.
    pub(super) size_at: u64,
    pub(super) free: FreeSpace,
    pub(super) fixed: bool,
}

impl Layout {
    pub(super) fn open(file: Arc<dyn WriteAt>, durability: Durability) -> Result<Self, Error> {
        let (session, structures) = Session::open(file, durability)?;
        let regions = structures.regions.clone();
        let size_item = find(&structures, DISK_SIZE)?;
        let (leaf, taken) = Vhdx::from_structures(structures)?;
        Ok(Self {
            backing: Backing::clean(session.file(), session.file_len()),
            size_at: regions.metadata.offset + u64::from(size_item.offset),
            free: FreeSpace::new(&taken, session.file_len()),
            fixed: leaf.info().kind == DiskKind::Fixed,
            session,
            leaf,
            regions,
        })
    }

    /// Cuts free space off the end of the file; returns what the file says about itself.
    pub(super) fn cut(mut self) -> Result<FileInfo, Error> {
        let end = self.free.cut();
        self.session.cut(end)?;
        Ok(Structures::read(self.session.file())?.info())
    }

    pub(super) fn entry(&self, block: u64) -> Result<BlockEntry, Error> {
        let table = self.leaf.table();
        table.block(&self.backing, self.leaf.pages(), block)
    }

    pub(super) fn bitmap(&self, group: u64) -> Result<Option<u64>, Error> {
        let table = self.leaf.table();
        table.bitmap(&self.backing, self.leaf.pages(), group)
    }

    /// Takes free space, reading as zeros.
    pub(super) fn take_zeros(&mut self, len: u64) -> Result<u64, Error> {
        let space = self.free.take(len);
        let space = space.ok_or_else(|| Error::format(Rule::BlockPlace, 0, len))?;
        self.session.grow(space.place + len)?;
        if !space.fresh {
            self.session.zero(space.place, len)?;
        }
        Ok(space.place)
    }

    /// Sets the bits of a range of the disk within one group.
    pub(super) fn set_bits(
        &self,
        patches: &mut Patches,
        bitmap: u64,
        range: std::ops::Range<u64>,
        value: bool,
    ) -> Result<(), Error> {
        let shift = self.leaf.geometry().sector_shift();
        let base = (range.start >> shift) >> GROUP_SECTORS_SHIFT << GROUP_SECTORS_SHIFT;
        let (mut bit, end) = ((range.start >> shift) - base, (range.end >> shift) - base);
        while bit < end {
            let page_start = bit / (PAGE * 8) * (PAGE * 8);
            let stop = end.min(page_start + PAGE * 8);
            let page = patches.page(&self.backing, bitmap + page_start / 8)?;
            set_bit_range(page, bit - page_start, stop - page_start, value);
            bit = stop;
        }
        Ok(())
    }

    /// Moves a region into a hole below it; returns how many bytes that were, if there was one.
    pub(super) fn lower(&mut self, id: Uuid) -> Result<Option<u64>, Error> {
        let from = if id == region::BAT {
            self.regions.bat
        } else {
            self.regions.metadata
        };
        if from.end() <= self.free.packed_end() {
            return Ok(None);
        }
        let Some(offset) = self.free.take_below(from.length, from.offset) else {
            return Ok(None);
        };
        let to = Region { offset, ..from };
        self.session.begin(false)?;
        let mut buf = vec![0; index(MIB)];
        // Regions are whole MiB.
        for at in (0..from.length).step_by(buf.len()) {
            self.backing.read(&mut buf, from.offset + at, "a region")?;
            self.session.write(&buf, to.offset + at, "a region")?;
        }
        let pages = regions::moved(&self.backing, &self.regions, id, to)?;
        self.session.commit(&pages)?;
        self.session.close(None)?;
        Ok(Some(from.length))
    }

    /// Makes the change: from here on the disk is the new one.
    pub(super) fn commit(&mut self, patches: Patches, bat: Region) -> Result<(), Error> {
        let (mut pages, zeros) = patches.into_parts();
        pages.extend(regions::moved(
            &self.backing,
            &self.regions,
            region::BAT,
            bat,
        )?);
        self.session.commit_with_zeros(&pages, &zeros)
    }
}
