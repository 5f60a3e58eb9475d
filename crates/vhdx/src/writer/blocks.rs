//! Changing blocks: allocation, sector bitmaps, zeros.
//!
//! Payload goes to the file at once; what changes of table and bitmaps is gathered and committed together. A block becomes
//! visible to readers only after its payload and its bits are there.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use super::free::FreeSpace;
use super::session::Session;
use crate::backing::Backing;
use crate::disk::Disk;
use crate::error::{Error, Rule};
use crate::format::bat::{BlockEntry, GROUP_SECTORS_SHIFT, State};
use crate::format::region::{TABLE_AT, TABLE_BYTES};
use crate::format::{MIB, PAGE, PAGE_BYTES, Page, index};
use crate::layer::{Found, Vhdx};

/// Changed pages are committed once there are so many, flush or not. One block adds at most 18, a region table 16.
pub(super) const GATHER_PAGES: usize = 64;

/// The writing side of a [`super::DiskWriter`].
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) session: Session,
    pub(super) free: FreeSpace,
    /// Blocks of a fixed disk keep their space.
    pub(super) fixed: bool,
    /// The sound copy of the region table, if the other one must be made anew.
    pub(super) repair_from: Option<usize>,
    /// Pages of the block table that changed, by their place in the file.
    pub(super) table_pages: BTreeSet<u64>,
    /// Space given up by changes that are not committed yet.
    pub(super) given_up: Vec<(u64, u64)>,
    /// Free space at the end of the file is cut off when it is closed.
    pub(super) cut_at_close: bool,
}

/// Part of one block of the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) block: u64,
    /// Where in the block it starts.
    pub(super) within: u64,
    pub(super) len: u64,
}

impl Blocks {
    /// Writes part of a block. In a child it must begin and end with sectors.
    pub(super) fn write(&mut self, leaf: &Vhdx, part: Part, bytes: &[u8]) -> Result<(), Error> {
        let entry = self.entry(leaf, part.block)?;
        match entry.state {
            State::FullyPresent => self
                .session
                .write(bytes, entry.place + part.within, "a block"),
            State::PartiallyPresent => {
                self.session
                    .write(bytes, entry.place + part.within, "a block")?;
                self.mark_present(leaf, part, entry.place)
            }
            State::NotPresent if leaf.geometry().has_parent() => {
                self.write_absent(leaf, part, bytes)
            }
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {
                let place = self.allocate(leaf, part, entry.place, true)?;
                self.session.write(bytes, place + part.within, "a block")?;
                self.set_block(
                    leaf,
                    part.block,
                    BlockEntry {
                        state: State::FullyPresent,
                        place,
                    },
                )
            }
        }
    }

    /// Writes part of a block that only the parent has.
    fn write_absent(&mut self, leaf: &Vhdx, part: Part, bytes: &[u8]) -> Result<(), Error> {
        let place = self.allocate(leaf, part, 0, false)?;
        self.session.write(bytes, place + part.within, "a block")?;
        if part.len == leaf.geometry().used_of_block(part.block) {
            return self.set_block(
                leaf,
                part.block,
                BlockEntry {
                    state: State::FullyPresent,
                    place,
                },
            );
        }
        let bitmap = self.bitmap(leaf, part.block)?;
        let (first, count) = bits(leaf, whole(leaf, part.block));
        self.set_bits(leaf, bitmap, first, count, false)?;
        let (first, count) = bits(leaf, part);
        self.set_bits(leaf, bitmap, first, count, true)?;
        self.set_block(
            leaf,
            part.block,
            BlockEntry {
                state: State::PartiallyPresent,
                place,
            },
        )
    }

    /// Makes part of a block read as zeros. In a child it must begin and end with sectors.
    pub(super) fn zero(&mut self, leaf: &Vhdx, part: Part) -> Result<(), Error> {
        let entry = self.entry(leaf, part.block)?;
        let is_whole = part.len == leaf.geometry().used_of_block(part.block);
        let zeros = BlockEntry {
            state: State::Zero,
            place: 0,
        };
        match entry.state {
            State::Undefined | State::Zero | State::Unmapped => Ok(()),
            State::NotPresent if !leaf.geometry().has_parent() => Ok(()),
            State::NotPresent if is_whole => self.set_block(leaf, part.block, zeros),
            State::NotPresent => self.write(leaf, part, &vec![0; index(part.len)]),
            State::FullyPresent | State::PartiallyPresent if is_whole && !self.fixed => {
                self.set_block(leaf, part.block, zeros)?;
                self.given_up
                    .push((entry.place, leaf.geometry().block_len()));
                Ok(())
            }
            State::FullyPresent => self.session.zero(entry.place + part.within, part.len),
            State::PartiallyPresent => {
                self.session.zero(entry.place + part.within, part.len)?;
                self.mark_present(leaf, part, entry.place)
            }
        }
    }

    /// Gives up the space of a whole block, which then reads as zeros. A fixed disk stays as it is.
    ///
    /// The block becomes `Unmapped` without a soft anchor: other blocks may have the space at once, and a reader cannot take
    /// the anchor for content. What says `Zero` already keeps saying it.
    pub(super) fn trim(&mut self, leaf: &Vhdx, block: u64) -> Result<(), Error> {
        let entry = self.entry(leaf, block)?;
        let nothing_there = match entry.state {
            State::NotPresent => !leaf.geometry().has_parent(),
            State::Undefined | State::Zero | State::Unmapped => entry.place == 0,
            State::FullyPresent | State::PartiallyPresent => false,
        };
        if self.fixed || nothing_there {
            return Ok(());
        }
        let unmapped = BlockEntry {
            state: State::Unmapped,
            place: 0,
        };
        self.set_block(leaf, block, unmapped)?;
        if entry.place != 0 {
            let len = leaf.geometry().block_len();
            self.given_up.push((entry.place, len));
        }
        Ok(())
    }

    /// Commits what was gathered once it is much.
    pub(super) fn commit_if_much(
        &mut self,
        disk: &Disk,
        readers: &RwLock<()>,
    ) -> Result<(), Error> {
        if self.gathered(disk) < GATHER_PAGES {
            return Ok(());
        }
        self.commit(disk, readers)
    }

    /// Returns how many changed pages wait for a commit.
    pub(super) fn gathered(&self, disk: &Disk) -> usize {
        disk.vhdx_leaf().pages().changed_count() + self.table_pages.len()
    }

    /// Commits all changes of table and bitmaps; payload becomes durable with them.
    pub(super) fn commit(&mut self, disk: &Disk, readers: &RwLock<()>) -> Result<(), Error> {
        let leaf = disk.vhdx_leaf();
        let mut pages = leaf.pages().changed();
        pages.extend(
            self.table_pages
                .iter()
                .map(|at| (*at, Arc::new(leaf.table().page(*at)))),
        );
        if let Some(sound) = self.repair_from {
            pages.extend(copy_of_table(leaf.backing(), sound)?);
        }
        if let Err(err) = self.session.commit(&pages) {
            // Memory is ahead of the file now, and nobody knows by how much.
            self.session.poison();
            return Err(err);
        }
        leaf.pages().settle();
        self.table_pages.clear();
        self.repair_from = None;
        if !self.given_up.is_empty() {
            // Readers that found a block before it was given up are done once nobody holds the lock.
            drop(
                readers
                    .write()
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            );
            for (place, len) in self.given_up.drain(..) {
                leaf.pages().forget(place, len);
                self.free.give(place, len);
            }
        }
        Ok(())
    }

    pub(super) fn entry(&self, leaf: &Vhdx, block: u64) -> Result<BlockEntry, Error> {
        leaf.table().block(leaf.backing(), leaf.pages(), block)
    }

    /// Takes space for a block, its soft anchor if it has one, and zeros what will not be written.
    fn allocate(
        &mut self,
        leaf: &Vhdx,
        part: Part,
        anchor: u64,
        zero_rest: bool,
    ) -> Result<u64, Error> {
        let (len, used) = (
            leaf.geometry().block_len(),
            leaf.geometry().used_of_block(part.block),
        );
        let (place, fresh) = if anchor == 0 {
            let space = self
                .free
                .take(len)
                .ok_or_else(|| Error::format(Rule::BlockPlace, 0, len))?;
            (space.place, space.fresh)
        } else {
            (anchor, false)
        };
        self.session.grow(place + len)?;
        if !fresh {
            if zero_rest {
                self.session.zero(place, part.within)?;
                self.session.zero(
                    place + part.within + part.len,
                    used - part.within - part.len,
                )?;
            }
            // Nothing may appear should the disk grow some day.
            self.session.zero(place + used, len - used)?;
        }
        Ok(place)
    }

    pub(super) fn set_block(
        &mut self,
        leaf: &Vhdx,
        block: u64,
        entry: BlockEntry,
    ) -> Result<(), Error> {
        let page = leaf
            .table()
            .set_block(leaf.backing(), leaf.pages(), block, entry)?;
        self.table_pages.extend(page);
        Ok(())
    }

    /// Returns where the bitmap of the block's group lies, making one if there is none.
    fn bitmap(&mut self, leaf: &Vhdx, block: u64) -> Result<u64, Error> {
        let group = leaf.geometry().group_of(block);
        if let Some(bitmap) = leaf.table().bitmap(leaf.backing(), leaf.pages(), group)? {
            return Ok(bitmap);
        }
        let space = self
            .free
            .take(MIB)
            .ok_or_else(|| Error::format(Rule::BlockPlace, 0, MIB))?;
        self.session.grow(space.place + MIB)?;
        if !space.fresh {
            self.session.zero(space.place, MIB)?;
        }
        self.set_bitmap(leaf, group, Some(space.place))?;
        Ok(space.place)
    }

    pub(super) fn set_bitmap(
        &mut self,
        leaf: &Vhdx,
        group: u64,
        place: Option<u64>,
    ) -> Result<(), Error> {
        let page = leaf
            .table()
            .set_bitmap(leaf.backing(), leaf.pages(), group, place)?;
        self.table_pages.extend(page);
        Ok(())
    }

    /// Marks the sectors of a partially present block as lying in this file; all of them: the block is fully present.
    fn mark_present(&mut self, leaf: &Vhdx, part: Part, place: u64) -> Result<(), Error> {
        let geometry = leaf.geometry();
        let start = geometry.block_start(part.block);
        let (found, run) = leaf.find(start + part.within, part.len)?;
        if run == part.len && matches!(found, Found::File(_)) {
            return Ok(());
        }
        let bitmap = self.bitmap(leaf, part.block)?;
        let (first, count) = bits(leaf, part);
        self.set_bits(leaf, bitmap, first, count, true)?;
        let used = geometry.used_of_block(part.block);
        let (found, run) = leaf.find(start, used)?;
        if run == used && matches!(found, Found::File(_)) {
            self.set_block(
                leaf,
                part.block,
                BlockEntry {
                    state: State::FullyPresent,
                    place,
                },
            )?;
        }
        Ok(())
    }

    fn set_bits(
        &mut self,
        leaf: &Vhdx,
        bitmap: u64,
        first: u64,
        count: u64,
        value: bool,
    ) -> Result<(), Error> {
        let end = first + count;
        let mut bit = first;
        while bit < end {
            let at = bitmap + bit / 8 / PAGE * PAGE;
            let page_start = bit / (PAGE * 8) * (PAGE * 8);
            let stop = end.min(page_start + PAGE * 8);
            let mut page: Page = *leaf.pages().get(leaf.backing(), at, "a sector bitmap")?;
            set_bit_range(&mut page, bit - page_start, stop - page_start, value);
            leaf.pages().change(at, Arc::new(page));
            bit = stop;
        }
        Ok(())
    }
}

fn whole(leaf: &Vhdx, block: u64) -> Part {
    Part {
        block,
        within: 0,
        len: leaf.geometry().block_len(),
    }
}

/// Returns the bits of a part in the bitmap of its group: first and count.
fn bits(leaf: &Vhdx, part: Part) -> (u64, u64) {
    let shift = leaf.geometry().sector_shift();
    let first = (leaf.geometry().block_start(part.block) + part.within) >> shift;
    (first & ((1 << GROUP_SECTORS_SHIFT) - 1), part.len >> shift)
}

pub(super) fn set_bit_range(page: &mut Page, first: u64, end: u64, value: bool) {
    let mut bit = first;
    while bit < end {
        let byte = &mut page[index(bit / 8)];
        if bit.is_multiple_of(8) && end - bit >= 8 {
            *byte = if value { 0xFF } else { 0 };
            bit += 8;
            continue;
        }
        let mask = 1 << (bit % 8);
        *byte = if value { *byte | mask } else { *byte & !mask };
        bit += 1;
    }
}

/// Returns the pages that make the damaged copy of the region table equal to the sound one.
pub(crate) fn copy_of_table(file: &Backing, sound: usize) -> Result<Vec<(u64, Arc<Page>)>, Error> {
    (0..TABLE_BYTES / PAGE)
        .map(|number| {
            let mut page = [0; PAGE_BYTES];
            file.read(
                &mut page,
                TABLE_AT[sound] + number * PAGE,
                "the region table",
            )?;
            Ok((TABLE_AT[1 - sound] + number * PAGE, Arc::new(page)))
        })
        .collect()
}
