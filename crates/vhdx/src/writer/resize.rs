//! Growing and shrinking the virtual disk of a file nobody has open.
//!
//! All that readers see changes with one log entry: the size, the place of the block table if it had to move, and what of
//! table and bitmaps lies at the border. Before it, only space is written that the old size does not look at; after it, only
//! space the new size does not look at. So the file is at any moment the old disk or the new one.
//!
//! Invariant: what a disk gains reads as zeros, whatever the file or a larger parent holds there.

use std::ops::ControlFlow;
use std::sync::Arc;

use uuid::Uuid;

use super::Durability;
use super::layout::Layout;
use super::patches::Patches;
use crate::convert::is_zero;
use crate::error::{Error, Rule};
use crate::format::bat::{BlockEntry, EntryOf, GROUP_SECTORS_SHIFT, Geometry, State, bitmap_raw};
use crate::format::metadata::DISK_MAX;
use crate::format::region::Region;
use crate::format::{MIB, PAGE, index};
use crate::info::FileInfo;
use crate::io::{ReadAt, WriteAt};
use crate::layer::{Found, Vhdx};
use crate::progress::{Progress, report};

/// Bytes of the table, or of data, dealt with at a time.
const PIECE_BYTES: u64 = MIB;

/// What is to become of data beyond the new end of a disk that shrinks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beyond {
    /// There must be none: everything there reads as zeros, or the disk is not changed.
    MustBeZero,
    /// It is lost.
    Discard,
}

/// Gives the virtual disk another size in bytes: a multiple of its logical sector size, up to 64 TiB.
///
/// A disk that grows ends in zeros; a fixed one gets the space for it. A disk that shrinks gives up what lies beyond its new
/// end as `beyond` says; of a differencing disk it can only be told without its parent if this file says so itself, else
/// [`Error::ParentBeyondEnd`]. The end of the file is cut where it is free; see [`crate::compact`] for the rest.
/// The `DataWriteGuid` changes, so the disk must not have children. Stopped or killed at any moment the disk has its old size
/// or the new one. Returns what the file then says about itself; a disk that has the size already stays as
/// it is, save that its log is replayed.
pub fn resize(
    file: impl WriteAt + 'static,
    new_size: u64,
    beyond: Beyond,
    durability: Durability,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    resize_as(Arc::new(file), new_size, beyond, durability, None, progress)
}

/// As [`resize`], giving the disk this `DataWriteGuid` instead of a random one.
pub(crate) fn resize_as(
    file: Arc<dyn WriteAt>,
    new_size: u64,
    beyond: Beyond,
    durability: Durability,
    identity: Option<Uuid>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    // All judging comes before the first write.
    let judged = Vhdx::open(Arc::clone(&file) as Arc<dyn ReadAt>)?;
    let old = *judged.geometry();
    if new_size == 0 || new_size > DISK_MAX {
        return Err(Error::Parameters("a disk holds from 1 byte up to 64 TiB"));
    }
    if !new_size.is_multiple_of(u64::from(old.sector_bytes())) {
        return Err(Error::Parameters(
            "the size must be a multiple of the logical sector size",
        ));
    }
    if new_size == old.size() {
        // An earlier run may have been killed after the change.
        return match judged.info().unclean {
            true => Layout::open(file, durability)?.cut(),
            false => Ok(judged.info().clone()),
        };
    }
    if new_size < old.size() && beyond == Beyond::MustBeZero {
        check_beyond(&judged, new_size, progress)?;
    }
    drop(judged);

    let mut layout = Layout::open(Arc::clone(&file), durability)?;
    if let Some(identity) = identity {
        layout.session.set_identity(identity);
    }
    let new = Geometry::new(
        new_size,
        old.block_bytes(),
        old.sector_bytes(),
        old.has_parent(),
    );
    layout.session.begin(true)?;
    // Left behind by somebody who was killed, perhaps. What is taken at the end then is new, so it reads as zeros.
    let end = layout.free.cut();
    layout.session.cut(end)?;
    let result = if new_size > old.size() {
        layout.grow(new, progress)
    } else {
        layout.shrink(new)
    };
    match result {
        // The new space may stay as it is; it is cut off below.
        Ok(()) | Err(Error::Cancelled) => layout.session.close(None)?,
        Err(err) => return Err(err),
    }
    let layout = Layout::open(file, durability)?;
    let info = layout.cut()?;
    result.map(|()| info)
}

/// Makes sure that everything from `new_size` on reads as zeros.
fn check_beyond(
    disk: &Vhdx,
    new_size: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), Error> {
    let size = disk.geometry().size();
    let mut buf = vec![0; index(PIECE_BYTES)];
    let mut at = new_size;
    while at < size {
        let (found, run) = disk.find(at, size - at)?;
        match found {
            Found::Zero => {}
            Found::Parent => return Err(Error::ParentBeyondEnd { offset: at }),
            Found::File(place) => {
                let mut done = 0;
                while done < run {
                    let part = &mut buf[..index(PIECE_BYTES.min(run - done))];
                    disk.backing().read(part, place + done, "a block")?;
                    if !is_zero(part) {
                        return Err(Error::DataBeyondEnd { offset: at + done });
                    }
                    done += part.len() as u64;
                }
            }
        }
        at += run;
        report(progress, at - new_size, size - new_size)?;
    }
    Ok(())
}

/// New values of entries that count already before the change.
#[derive(Default)]
struct Border {
    /// The last block of the old size.
    block: Option<(u64, BlockEntry)>,
    /// Its group's bitmap block.
    bitmap: Option<(u64, u64)>,
}

impl Layout {
    fn grow(
        &mut self,
        new: Geometry,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let old = *self.leaf.geometry();
        let mut patches = Patches::default();
        let border = self.clear_tail(&mut patches, new.size())?;
        let bat = self.regions.bat;
        let moves = bat.length < new.region_len();
        let to = if moves {
            let length = new.region_len();
            Region {
                offset: self.take_zeros(length)?,
                length,
            }
        } else {
            bat
        };
        let blocks_at = if self.fixed {
            let len = (new.blocks() - old.blocks()) * new.block_len();
            let place = self.free.take_at_end(len);
            let place = place.ok_or_else(|| Error::format(Rule::BlockPlace, 0, len))?;
            self.session.grow(place + len)?;
            place
        } else {
            0
        };
        // In place, only entries are written that the old size does not look at, and bitmap entries as they are.
        let first = if moves {
            0
        } else {
            new.block_entry(old.blocks())
        };
        let border_now = if moves { &border } else { &Border::default() };
        let value = |layout: &Self, entry: u64| match new.entry_of(entry) {
            None => Ok(0),
            Some(EntryOf::Block { block }) if block < old.blocks() => match border_now.block {
                Some((changed, entry)) if changed == block => Ok(entry.raw()),
                Some(_) | None => Ok(layout.entry(block)?.raw()),
            },
            Some(EntryOf::Block { block }) => Ok(layout.new_entry(block, blocks_at).raw()),
            Some(EntryOf::Bitmap { group }) => {
                let now = match border_now.bitmap {
                    Some((changed, place)) if changed == group => Some(place),
                    Some(_) | None if new.has_parent() && group < old.groups() => {
                        layout.bitmap(group)?
                    }
                    Some(_) | None => None,
                };
                Ok(now.map_or(0, bitmap_raw))
            }
        };
        let mut entry = first;
        while entry < new.entries() {
            let count = (PIECE_BYTES / 8).min(new.entries() - entry);
            let mut bytes = Vec::with_capacity(index(count * 8));
            for entry in entry..entry + count {
                bytes.extend(value(self, entry)?.to_le_bytes());
            }
            self.session
                .write(&bytes, to.offset + entry * 8, "the block table")?;
            entry += count;
            report(progress, entry * 8, new.entries() * 8)?;
        }
        if !moves {
            self.put_border(&mut patches, &border)?;
        }
        patches.write(&self.backing, self.size_at, &new.size().to_le_bytes())?;
        self.commit(patches, to)
    }

    /// Returns the entry of a block that the disk gains. In a child it must hide what a larger parent holds.
    fn new_entry(&self, block: u64, blocks_at: u64) -> BlockEntry {
        let geometry = self.leaf.geometry();
        let (state, place) = if self.fixed {
            let number = block - geometry.blocks();
            (
                State::FullyPresent,
                blocks_at + number * geometry.block_len(),
            )
        } else if geometry.has_parent() {
            (State::Zero, 0)
        } else {
            (State::NotPresent, 0)
        };
        BlockEntry { state, place }
    }

    /// Makes what the last block holds beyond the end of the disk zeros, up to `new_size` hiding what a parent holds there.
    fn clear_tail(&mut self, patches: &mut Patches, new_size: u64) -> Result<Border, Error> {
        let geometry = *self.leaf.geometry();
        let block = geometry.blocks() - 1;
        let (used, len) = (geometry.used_of_block(block), geometry.block_len());
        let mut border = Border::default();
        if used == len {
            return Ok(border);
        }
        let mut entry = self.entry(block)?;
        let group = geometry.group_of(block);
        match entry.state {
            State::Undefined | State::Zero | State::Unmapped => return Ok(border),
            State::NotPresent if !geometry.has_parent() => return Ok(border),
            State::FullyPresent => {
                self.session.zero(entry.place + used, len - used)?;
                return Ok(border);
            }
            State::PartiallyPresent => self.session.zero(entry.place + used, len - used)?,
            State::NotPresent => {
                entry = BlockEntry {
                    state: State::PartiallyPresent,
                    place: self.take_zeros(len)?,
                };
                border.block = Some((block, entry));
            }
        }
        let bitmap = match self.bitmap(group)? {
            Some(bitmap) => bitmap,
            None => {
                let place = self.take_zeros(MIB)?;
                border.bitmap = Some((group, place));
                place
            }
        };
        let (start, end) = (geometry.block_start(block), geometry.block_start(block + 1));
        if border.block.is_some() {
            self.set_bits(patches, bitmap, start..geometry.size(), false)?;
        }
        let new_end = new_size.min(end);
        self.set_bits(patches, bitmap, geometry.size()..new_end, true)?;
        self.set_bits(patches, bitmap, new_end..end, false)?;
        Ok(border)
    }

    fn put_border(&self, patches: &mut Patches, border: &Border) -> Result<(), Error> {
        let (geometry, bat) = (self.leaf.geometry(), self.regions.bat);
        if let Some((block, entry)) = border.block {
            let at = bat.offset + geometry.block_entry(block) * 8;
            patches.write(&self.backing, at, &entry.raw().to_le_bytes())?;
        }
        if let Some((group, place)) = border.bitmap {
            let at = bat.offset + geometry.bitmap_entry(group) * 8;
            patches.write(&self.backing, at, &bitmap_raw(place).to_le_bytes())?;
        }
        Ok(())
    }

    fn shrink(&mut self, new: Geometry) -> Result<(), Error> {
        let old = *self.leaf.geometry();
        let bat = self.regions.bat;
        let mut patches = Patches::default();
        patches.write(&self.backing, self.size_at, &new.size().to_le_bytes())?;
        // In a child the bitmap entry of the last group stays, amid entries that go.
        let mut first = old.block_entry(new.blocks());
        let last_group = new.groups() - 1;
        let kept = old.bitmap_entry(last_group);
        if old.has_parent() && first < kept {
            patches.clear(&self.backing, bat.offset + first * 8, (kept - first) * 8)?;
            first = kept + 1;
        }
        let rest = old.entries().saturating_sub(first);
        patches.clear(&self.backing, bat.offset + first * 8, rest * 8)?;
        if old.has_parent()
            && let Some(bitmap) = self.bitmap(last_group)?
        {
            self.clear_bits_beyond(&mut patches, bitmap, new)?;
        }
        let last = new.blocks() - 1;
        let entry = self.entry(last)?;
        self.commit(patches, bat)?;
        // For whoever grows it without looking. Nobody reads it any more.
        if matches!(entry.state, State::FullyPresent | State::PartiallyPresent) {
            let used = new.used_of_block(last);
            let in_file = self.session.file_len().saturating_sub(entry.place + used);
            let tail = (new.block_len() - used).min(in_file);
            self.session.zero(entry.place + used, tail)?;
        }
        Ok(())
    }

    /// Clears the bits of all sectors of the last group beyond the end of the disk.
    fn clear_bits_beyond(
        &self,
        patches: &mut Patches,
        bitmap: u64,
        new: Geometry,
    ) -> Result<(), Error> {
        let sectors = new.size() >> new.sector_shift();
        let bit = sectors & ((1 << GROUP_SECTORS_SHIFT) - 1);
        if bit == 0 {
            return Ok(());
        }
        let byte = bit / 8;
        if !bit.is_multiple_of(8) {
            let page = patches.page(&self.backing, bitmap + byte / PAGE * PAGE)?;
            page[index(byte % PAGE)] &= (1 << (bit % 8)) - 1;
        }
        let from = bit.div_ceil(8);
        patches.clear(&self.backing, bitmap + from, MIB - from)
    }
}
