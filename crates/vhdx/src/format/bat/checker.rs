//! The rules of the block allocation table (2.5): a walk over its entries.
//!
//! Blocks that lie in the file as in the disk are judged at once, which makes the table of a disk written from front to back
//! as fast to judge as to read. Pure but for the findings: the caller feeds raw entries and gets sound ones.

use super::{
    BlockEntry, EntryOf, FILE_MIB_MAX, Geometry, OFFSET_BITS, RESERVED_BITS, STATE_BITS, State,
    bitmap_raw, parse_bitmap,
};
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::{HEADER_AREA, MIB, index};
use crate::space::SpaceMap;

/// An entry of the table as it lies in the file.
pub(crate) type RawEntry = [u8; 8];

/// Entries in a row that were judged, meaningless bits cleared: the n-th is `raw + n * step`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    /// What the first one is for; `None` for the rest of the last group, which has no blocks.
    pub(crate) of: Option<EntryOf>,
    pub(crate) count: u64,
    pub(crate) raw: u64,
    /// A block, where blocks follow each other in the file; else zero.
    pub(crate) step: u64,
}

fn of_block(block: u64) -> Option<EntryOf> {
    Some(EntryOf::Block { block })
}

impl Run {
    fn one(of: Option<EntryOf>, raw: u64) -> Self {
        Self {
            of,
            count: 1,
            raw,
            step: 0,
        }
    }
}

/// Walks the entries of the table in order and judges them.
pub(crate) struct Checker<'a> {
    geometry: Geometry,
    table_at: u64,
    file_len: u64,
    space: &'a mut SpaceMap,
    findings: &'a mut Findings,
    /// Where the current group's first partially present block is listed.
    partial: Option<u64>,
}

impl<'a> Checker<'a> {
    /// `space` holds what header area, log and regions take already.
    pub(crate) fn new(
        geometry: Geometry,
        table_at: u64,
        file_len: u64,
        space: &'a mut SpaceMap,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            geometry,
            table_at,
            file_len,
            space,
            findings,
            partial: None,
        }
    }

    /// Judges the next entries, the first of which is number `first`, and passes what is sound to `each`.
    ///
    /// Opening gets every entry in order; where everything is listed, entries that break a rule are left out.
    pub(crate) fn check(
        &mut self,
        first: u64,
        entries: &[RawEntry],
        each: &mut impl FnMut(Run) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let ratio = 1 << self.geometry.group_shift;
        let mut entry = first;
        let mut rest = entries;
        while !rest.is_empty() {
            let (group, within) = (entry / (ratio + 1), entry % (ratio + 1));
            let part;
            if within == ratio {
                (part, rest) = rest.split_at(1);
                self.check_bitmap(entry, group, u64::from_le_bytes(part[0]), each)?;
            } else {
                let block = group * ratio + within;
                let left = rest.len() as u64;
                (part, rest) = rest.split_at(index(left.min(ratio - within)));
                let known = self.geometry.blocks().saturating_sub(block);
                let (blocks, none) = part.split_at(index(known.min(part.len() as u64)));
                self.check_blocks(entry, block, blocks, each)?;
                self.check_padding(entry + blocks.len() as u64, none, each)?;
            }
            entry += part.len() as u64;
        }
        Ok(())
    }

    /// Judges the entries of blocks of one group.
    fn check_blocks(
        &mut self,
        entry: u64,
        block: u64,
        entries: &[RawEntry],
        each: &mut impl FnMut(Run) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < entries.len() {
            let raw = u64::from_le_bytes(entries[done]);
            let placed = !matches!(raw & STATE_BITS, 0 | 2) && raw & OFFSET_BITS != 0;
            let step = if placed { self.geometry.block_len() } else { 0 };
            let mut next = raw;
            let same = entries[done..].iter().take_while(|entry| {
                let follows = u64::from_le_bytes(**entry) == next;
                next = next.wrapping_add(step);
                follows
            });
            let count = same.count();
            let number = done as u64;
            let run = Run {
                of: of_block(block + number),
                count: count as u64,
                raw,
                step,
            };
            self.check_run(entry + number, block + number, run, each)?;
            done += count;
        }
        Ok(())
    }

    /// Judges entries of blocks at once if nothing is wrong with any of them, else one by one.
    fn check_run(
        &mut self,
        entry: u64,
        block: u64,
        run: Run,
        each: &mut impl FnMut(Run) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sound = match BlockEntry::parse(run.raw) {
            // Nothing but state and place, and not more of a place than the state has.
            Some(first) if first.raw() == run.raw => self.take_run(entry, block, run, first),
            Some(_) | None => false,
        };
        if sound {
            return each(run);
        }
        for number in 0..run.count {
            let raw = run.raw.wrapping_add(run.step.wrapping_mul(number));
            if let Some(sound) = self.check_block(entry + number, block + number, raw)? {
                each(Run::one(of_block(block + number), sound))?;
            }
        }
        Ok(())
    }

    /// Takes the space of all blocks of a run if it is in the file and free; `false` if not, and nothing happened.
    fn take_run(&mut self, entry: u64, block: u64, run: Run, first: BlockEntry) -> bool {
        let needed = match first.state {
            State::NotPresent | State::Zero => return true,
            State::Undefined | State::Unmapped if first.place == 0 => return true,
            // Soft anchors are few.
            State::Undefined | State::Unmapped => return false,
            State::PartiallyPresent if !self.geometry.has_parent() => return false,
            State::FullyPresent | State::PartiallyPresent => run.count * self.geometry.block_len(),
        };
        let end = first.place.checked_add(needed);
        let placed = first.place >= HEADER_AREA
            && end.is_some_and(|end| end <= self.file_len && end <= FILE_MIB_MAX * MIB);
        if !placed || !self.space.claim_free(first.place / MIB, needed / MIB) {
            return false;
        }
        debug_assert!(block + run.count <= self.geometry.blocks());
        if first.state == State::PartiallyPresent {
            self.partial.get_or_insert(self.table_at + entry * 8);
        }
        true
    }

    /// Judges one entry of a block; returns it as it is to be kept if it is sound.
    fn check_block(&mut self, entry: u64, block: u64, raw: u64) -> Result<Option<u64>, Error> {
        let at = self.table_at + entry * 8;
        let Some(parsed) = BlockEntry::parse(raw) else {
            self.findings.report(Rule::BlockState, at, raw)?;
            return Ok(None);
        };
        let BlockEntry { state, place } = parsed;
        self.check_bits(at, raw, place)?;
        let sound = match state {
            State::NotPresent | State::Zero => true,
            // A soft anchor only has to keep out of everybody's way.
            State::Undefined | State::Unmapped => {
                place == 0 || self.claim(at, place, self.geometry.block_len(), 0)?
            }
            State::PartiallyPresent if !self.geometry.has_parent() => {
                self.findings.report(Rule::BlockPartial, at, raw)?;
                false
            }
            State::FullyPresent | State::PartiallyPresent => {
                if state == State::PartiallyPresent {
                    self.partial.get_or_insert(at);
                }
                // The last block may be cut by the end of the file where the disk has ended already.
                let used = self.geometry.used_of_block(block);
                self.claim(at, place, self.geometry.block_len(), used)?
            }
        };
        Ok(sound.then_some(parsed.raw()))
    }

    fn check_bitmap(
        &mut self,
        entry: u64,
        group: u64,
        raw: u64,
        each: &mut impl FnMut(Run) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let at = self.table_at + entry * 8;
        let partial = self.partial.take();
        let parsed = parse_bitmap(raw);
        let sound = match parsed {
            None => {
                self.findings.report(Rule::BitmapState, at, raw)?;
                false
            }
            Some(Some(_)) if !self.geometry.has_parent() => {
                self.findings.report(Rule::BitmapState, at, raw)?;
                false
            }
            Some(None) => {
                self.check_bits(at, raw, 0)?;
                if let Some(listed_at) = partial {
                    self.findings.report(Rule::BlockPartial, listed_at, raw)?;
                }
                partial.is_none()
            }
            Some(Some(place)) => {
                self.check_bits(at, raw, place)?;
                let unused = partial.is_none();
                self.findings
                    .report_if(unused, Rule::BitmapUnused, at, raw)?;
                self.claim(at, place, MIB, MIB)?
            }
        };
        if sound {
            let kept = parsed.flatten().map_or(0, bitmap_raw);
            each(Run::one(Some(EntryOf::Bitmap { group }), kept))?;
        }
        Ok(())
    }

    /// Judges entries of no block: whatever they hold, they mean nothing.
    fn check_padding(
        &mut self,
        entry: u64,
        entries: &[RawEntry],
        each: &mut impl FnMut(Run) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.findings.wants_all()
            && let Some(odd) = entries.iter().position(|entry| *entry != [0; 8])
        {
            let at = self.table_at + (entry + odd as u64) * 8;
            let found = u64::from_le_bytes(entries[odd]);
            self.findings.report(Rule::BatPadding, at, found)?;
        }
        each(Run {
            count: entries.len() as u64,
            ..Run::one(None, 0)
        })
    }

    /// Tells of bits without a meaning; `place` is what the entry means by its offset.
    fn check_bits(&mut self, at: u64, raw: u64, place: u64) -> Result<(), Error> {
        let reserved = raw & RESERVED_BITS;
        self.findings
            .report_if(reserved != 0, Rule::BatReserved, at, raw)?;
        let ignored = raw & OFFSET_BITS != place;
        self.findings.report_if(ignored, Rule::BlockOffset, at, raw)
    }

    /// Takes `len` bytes at `place`, of which `needed` must be in the file; returns whether that was right.
    fn claim(&mut self, at: u64, place: u64, len: u64, needed: u64) -> Result<bool, Error> {
        let end = place
            .checked_add(needed)
            .filter(|end| needed == 0 || *end <= self.file_len);
        if place < HEADER_AREA || end.is_none() || (place / MIB) + (len / MIB) > FILE_MIB_MAX {
            self.findings.report(Rule::BlockPlace, at, place)?;
            return Ok(false);
        }
        if !self.space.claim(place / MIB, len / MIB) {
            self.findings.report(Rule::BlockOverlap, at, place)?;
            return Ok(false);
        }
        if place + len > self.file_len {
            let rule = if needed == 0 {
                Rule::AnchorPlace
            } else {
                Rule::BlockCut
            };
            self.findings.report(rule, at, place)?;
        }
        Ok(true)
    }
}
