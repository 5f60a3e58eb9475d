//! Making a file shorter: zeros give up their space, and what lies highest moves into holes below.
//!
//! A block is copied to free space, the copy made durable, the table changed through the log, and only then is the old place
//! free. So the file is whole at any moment, what was done stays done, and running it again goes on. What the disk reads as
//! never changes, nor does its `DataWriteGuid`.
//!
//! Not closed: holes too small for any block above them, which regions and sector bitmaps of another size can leave.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::blocks::{Blocks, GATHER_PAGES};
use super::layout::Layout;
use super::{DiskWriter, Durability};
use crate::convert::is_zero;
use crate::error::Error;
use crate::format::bat::{BlockEntry, State};
use crate::format::{MIB, index, region};
use crate::io::WriteAt;
use crate::layer::Vhdx;
use crate::progress::{Progress, report};

/// Bytes read and written at a time.
const PIECE_BYTES: u64 = MIB;

/// Bytes moved before a commit at most.
const COMMIT_BYTES: u64 = 256 * MIB;

/// Movable things looked at in one pass over the table: some 3 MiB of memory.
const MOVERS: usize = 1 << 16;

/// How a file is compacted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CompactOptions {
    /// Reads all blocks and gives up those that hold only zeros. Without it only free space is closed.
    pub find_zeros: bool,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { find_zeros: true }
    }
}

/// What compacting a file came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CompactReport {
    /// Length of the file before, in bytes.
    pub file_bytes_before: u64,
    /// Length of the file after, in bytes: of a file still open, once it is closed.
    pub file_bytes_after: u64,
    /// Blocks that gave up their space: those of zeros, and space kept for blocks without content.
    pub blocks_given_up: u64,
    /// Bytes that were moved within the file.
    pub moved_bytes: u64,
    /// Free space left inside the file, in bytes: holes that nothing above them fits.
    pub free_bytes: u64,
}

/// Makes a file nobody has open as short as its content allows.
///
/// Blocks of zeros give up their space if `options` say so, in a child too, where they hide the parent as before. Then free
/// space is closed and the end of the file cut off. Blocks of a fixed disk all keep their space: only what nobody owns goes.
/// The `DataWriteGuid` stays, so the disk may have children. Stopped or killed at any moment the file is whole, and running
/// it again goes on.
pub fn compact(
    file: impl WriteAt + 'static,
    options: CompactOptions,
    durability: Durability,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<CompactReport, Error> {
    let file: Arc<dyn WriteAt> = Arc::new(file);
    // A later pass begins anew, but what is shown never goes back.
    let mut shown = 0;
    let mut progress = |at: Progress| {
        shown = at.bytes_done.max(shown);
        progress(Progress {
            bytes_done: shown,
            bytes_total: at.bytes_total.max(shown),
        })
    };
    let mut result = compact_blocks(&file, options, durability, &mut progress)?;
    // Each time a region comes to lie lower, so this ends.
    while result.free_bytes > 0 && lower_regions(&file, durability, &mut result)? {
        let only_holes = CompactOptions { find_zeros: false };
        let more = compact_blocks(&file, only_holes, durability, &mut progress)?;
        result.moved_bytes += more.moved_bytes;
        result.file_bytes_after = more.file_bytes_after;
        result.free_bytes = more.free_bytes;
    }
    Ok(result)
}

fn compact_blocks(
    file: &Arc<dyn WriteAt>,
    options: CompactOptions,
    durability: Durability,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<CompactReport, Error> {
    let writer = DiskWriter::open_detached(Arc::clone(file), durability, None)?;
    let result = writer.compact(options, progress);
    if matches!(result, Ok(_) | Err(Error::Cancelled)) {
        writer.close()?;
    }
    result
}

/// Moves table and metadata into holes that blocks left over; returns whether it could.
fn lower_regions(
    file: &Arc<dyn WriteAt>,
    durability: Durability,
    result: &mut CompactReport,
) -> Result<bool, Error> {
    let mut moved = false;
    for id in [region::BAT, region::METADATA] {
        let mut layout = Layout::open(Arc::clone(file), durability)?;
        if let Some(bytes) = layout.lower(id)? {
            result.moved_bytes += bytes;
            moved = true;
        }
    }
    Ok(moved)
}

/// Something with a place in the file that can be moved: the highest sorts last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Mover {
    place: u64,
    owner: Owner,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Owner {
    Block(u64),
    Bitmap(u64),
}

impl DiskWriter {
    /// Closes the free space of the file beside readers and other writes; [`DiskWriter::close`] then cuts off its end.
    ///
    /// See [`compact`], which is for a file nobody has open.
    pub fn compact(
        &self,
        options: CompactOptions,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<CompactReport, Error> {
        let mut report = CompactReport::default();
        {
            let mut blocks = self.lock();
            blocks.session.check()?;
            report.file_bytes_before = blocks.session.file_len();
            blocks.cut_at_close = true;
        }
        self.give_up_space(options, &mut report, progress)?;
        self.close_holes(&mut report, progress)?;
        let blocks = self.lock();
        let (end, packed_end) = (blocks.free.taken_end(), blocks.free.packed_end());
        report.file_bytes_after = blocks.session.file_len().min(end);
        report.free_bytes = end - packed_end;
        Ok(report)
    }

    fn leaf(&self) -> &Vhdx {
        self.disk.vhdx_leaf()
    }

    /// Gives up blocks of zeros, soft anchors, and sector bitmaps that no block needs.
    fn give_up_space(
        &self,
        options: CompactOptions,
        result: &mut CompactReport,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let geometry = *self.leaf().geometry();
        let mut buf = vec![0; index(PIECE_BYTES)];
        for block in 0..geometry.blocks() {
            let mut blocks = self.lock();
            let state = blocks.entry(self.leaf(), block)?.state;
            if !blocks.fixed && blocks.give_up_block(self.leaf(), block, options, &mut buf)? {
                result.blocks_given_up += 1;
            }
            let group = geometry.group_of(block);
            let last = block + 1 == geometry.blocks() || geometry.group_of(block + 1) != group;
            if last && geometry.has_parent() {
                // Bits still waiting for a commit must not be written to space that is given up.
                self.flush_locked(&mut blocks)?;
                blocks.give_up_bitmap(self.leaf(), group)?;
            }
            blocks.commit_if_much(&self.disk, &self.readers)?;
            drop(blocks);
            let was_read = options.find_zeros && state == State::FullyPresent;
            if was_read || block.is_multiple_of(4096) {
                let done = geometry.block_start(block) + geometry.used_of_block(block);
                report(progress, done, geometry.size())?;
            }
        }
        self.flush()
    }

    /// Moves what lies highest into the lowest holes.
    fn close_holes(
        &self,
        result: &mut CompactReport,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let geometry = *self.leaf().geometry();
        let len_of = |owner: Owner| match owner {
            Owner::Block(_) => geometry.block_len(),
            Owner::Bitmap(_) => MIB,
        };
        loop {
            // Blocks first: what is smaller fits the holes they leave over.
            let movers = self.highest()?.into_iter().rev();
            let (large, small): (Vec<Mover>, Vec<Mover>) =
                movers.partition(|mover| matches!(mover.owner, Owner::Block(_)));
            let mut moved = false;
            let mut movers = large.into_iter().chain(small).peekable();
            while movers.peek().is_some() {
                // The lock is held from the copy to the commit: nobody writes to what is being moved.
                let mut blocks = self.lock();
                // Bitmap pages that were changed are in the file then.
                self.flush_locked(&mut blocks)?;
                let mut batch_bytes = 0;
                while batch_bytes < COMMIT_BYTES
                    && blocks.gathered(&self.disk) < GATHER_PAGES
                    && let Some(mover) = movers.next()
                {
                    let len = len_of(mover.owner);
                    if blocks.move_down(self.leaf(), mover, len)? {
                        batch_bytes += len;
                    }
                }
                self.flush_locked(&mut blocks)?;
                drop(blocks);
                moved |= batch_bytes > 0;
                result.moved_bytes += batch_bytes;
                let done = geometry.size() + result.moved_bytes;
                report(progress, done, done)?;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Returns the highest movable things of the file that lie beyond the length it could have.
    fn highest(&self) -> Result<BTreeSet<Mover>, Error> {
        let geometry = *self.leaf().geometry();
        let blocks = self.lock();
        let packed_end = blocks.free.packed_end();
        let mut movers = BTreeSet::new();
        let mut add = |place: u64, len: u64, owner: Owner| {
            if place != 0 && place + len > packed_end {
                movers.insert(Mover { place, owner });
                if movers.len() > MOVERS {
                    movers.pop_first();
                }
            }
        };
        for block in 0..geometry.blocks() {
            let entry = blocks.entry(self.leaf(), block)?;
            add(entry.place, geometry.block_len(), Owner::Block(block));
        }
        if geometry.has_parent() {
            for group in 0..geometry.groups() {
                let leaf = self.leaf();
                let place = leaf.table().bitmap(leaf.backing(), leaf.pages(), group)?;
                add(place.unwrap_or(0), MIB, Owner::Bitmap(group));
            }
        }
        Ok(movers)
    }
}

impl Blocks {
    /// Gives up the space of a block that has no use for it; returns whether it did.
    fn give_up_block(
        &mut self,
        leaf: &Vhdx,
        block: u64,
        options: CompactOptions,
        buf: &mut [u8],
    ) -> Result<bool, Error> {
        let entry = self.entry(leaf, block)?;
        let state = match entry.state {
            State::NotPresent | State::Zero | State::PartiallyPresent => return Ok(false),
            State::Undefined | State::Unmapped if entry.place == 0 => return Ok(false),
            State::Undefined | State::Unmapped => entry.state,
            State::FullyPresent if options.find_zeros => {
                let used = leaf.geometry().used_of_block(block);
                let mut done = 0;
                while done < used {
                    let part = &mut buf[..index(PIECE_BYTES.min(used - done))];
                    leaf.backing().read(part, entry.place + done, "a block")?;
                    if !is_zero(part) {
                        return Ok(false);
                    }
                    done += part.len() as u64;
                }
                State::Zero
            }
            State::FullyPresent => return Ok(false),
        };
        self.session.begin(false)?;
        self.set_block(leaf, block, BlockEntry { state, place: 0 })?;
        let len = leaf.geometry().block_len();
        self.given_up.push((entry.place, len));
        Ok(true)
    }

    /// Gives up the sector bitmap of a group if it has no partially present blocks.
    fn give_up_bitmap(&mut self, leaf: &Vhdx, group: u64) -> Result<(), Error> {
        let place = leaf.table().bitmap(leaf.backing(), leaf.pages(), group)?;
        let Some(place) = place else { return Ok(()) };
        for block in leaf.geometry().blocks_of_group(group) {
            if self.entry(leaf, block)?.state == State::PartiallyPresent {
                return Ok(());
            }
        }
        self.session.begin(false)?;
        self.set_bitmap(leaf, group, None)?;
        self.given_up.push((place, MIB));
        Ok(())
    }

    /// Copies a thing to the lowest hole it fits, if one lies below it, and changes the table in memory.
    fn move_down(&mut self, leaf: &Vhdx, mover: Mover, len: u64) -> Result<bool, Error> {
        // Others may have written since the table was looked at.
        let content = match mover.owner {
            Owner::Block(block) => {
                let entry = self.entry(leaf, block)?;
                if entry.place != mover.place {
                    return Ok(false);
                }
                match entry.state {
                    State::FullyPresent | State::PartiallyPresent => {
                        leaf.geometry().used_of_block(block)
                    }
                    State::NotPresent | State::Undefined | State::Zero | State::Unmapped => 0,
                }
            }
            Owner::Bitmap(group) => {
                let place = leaf.table().bitmap(leaf.backing(), leaf.pages(), group)?;
                if place != Some(mover.place) {
                    return Ok(false);
                }
                len
            }
        };
        let Some(to) = self.free.take_below(len, mover.place) else {
            return Ok(false);
        };
        self.session.begin(false)?;
        let mut buf = vec![0; index(PIECE_BYTES)];
        let mut done = 0;
        while done < content {
            let part = &mut buf[..index(PIECE_BYTES.min(content - done))];
            leaf.backing().read(part, mover.place + done, "a block")?;
            self.session.write(part, to + done, "a block")?;
            done += part.len() as u64;
        }
        if content > 0 {
            // Nothing may appear should the disk grow some day.
            self.session.zero(to + content, len - content)?;
        }
        match mover.owner {
            Owner::Block(block) => {
                let entry = self.entry(leaf, block)?;
                self.set_block(leaf, block, BlockEntry { place: to, ..entry })?;
            }
            Owner::Bitmap(group) => self.set_bitmap(leaf, group, Some(to))?,
        }
        self.given_up.push((mover.place, len));
        Ok(true)
    }
}
