//! Blocks: their states, their bitmaps, and the space of the file.

use super::{Figures, Work, reserved};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::bat::{BlockEntry, EntryOf, Geometry, Run, State, parse_bitmap};
use crate::format::region::Region;
use crate::format::{MIB, index};
use crate::space::SpaceMap;
use crate::table;

impl Work {
    /// Checks every entry of the block table, the bitmaps of partially present blocks, and what space is left over.
    ///
    /// `space` holds what header area, log and regions take already.
    pub(super) fn check_blocks(
        &mut self,
        backing: &Backing,
        bat: Region,
        geometry: Geometry,
        fixed: bool,
        space: &mut SpaceMap,
    ) -> Result<(), Error> {
        let mut blocks = Blocks {
            backing,
            geometry,
            figures: &mut self.figures,
            partial: Vec::new(),
            findings: Findings::all(),
            holes: Holes::default(),
        };
        let each = |run: Run| blocks.add(run);
        let walked = table::walk(backing, bat, geometry, space, &mut self.findings, each);
        let Blocks {
            findings, holes, ..
        } = blocks;
        if self.findings.go_on(walked)?.is_none() {
            return Ok(());
        }
        self.findings.append(findings);
        if fixed && holes.count > 0 {
            let at = bat.offset + geometry.block_entry(holes.first) * 8;
            self.findings.report(Rule::FixedHole, at, holes.count)?;
        }
        let used = geometry.entries() * 8;
        reserved::table_end(backing, bat, used, &mut self.findings)?;
        self.check_space(backing.len(), space)
    }

    /// Tells of space that nothing uses: between what is used, and behind it.
    fn check_space(&mut self, file_len: u64, space: &SpaceMap) -> Result<(), Error> {
        let used_end = space.end();
        let mut first_leak = None;
        let mut leaked = 0;
        space.each_free_run(used_end.min(file_len / MIB), |first, count| {
            first_leak.get_or_insert(first * MIB);
            leaked += count * MIB;
        });
        if let Some(at) = first_leak {
            self.findings.report(Rule::SpaceLeaked, at, leaked)?;
        }
        let tail = file_len.saturating_sub(used_end * MIB);
        self.figures.leaked_bytes = leaked + tail;
        self.findings
            .report_if(tail > 0, Rule::FileTail, used_end * MIB, tail)
    }
}

/// Bits of sectors that all lie in this file: as many as the smallest block has.
const ONES: [u8; 32] = [0xFF; 32];

/// Blocks without a place in the file.
#[derive(Default)]
struct Holes {
    first: u64,
    count: u64,
}

/// What is gathered while the table is walked.
struct Blocks<'a> {
    backing: &'a Backing,
    geometry: Geometry,
    figures: &'a mut Figures,
    /// The partially present blocks of the current group: first and count.
    partial: Vec<(u64, u64)>,
    findings: Findings,
    holes: Holes,
}

impl Blocks<'_> {
    fn add(&mut self, run: Run) -> Result<(), Error> {
        match run.of {
            Some(EntryOf::Block { block }) => self.add_blocks(block, run),
            Some(EntryOf::Bitmap { .. }) => {
                if let Some(place) = parse_bitmap(run.raw).flatten() {
                    self.figures.bitmap_blocks += 1;
                    self.figures.allocated_bytes += MIB;
                    self.check_bits(place)?;
                }
                self.partial.clear();
            }
            None => {}
        }
        Ok(())
    }

    fn add_blocks(&mut self, block: u64, run: Run) {
        let Some(entry) = BlockEntry::parse(run.raw) else {
            return;
        };
        let states = &mut self.figures.blocks;
        let count = match entry.state {
            State::NotPresent => &mut states.not_present,
            State::Undefined => &mut states.undefined,
            State::Zero => &mut states.zero,
            State::Unmapped => &mut states.unmapped,
            State::FullyPresent => &mut states.fully_present,
            State::PartiallyPresent => &mut states.partially_present,
        };
        *count += run.count;
        if entry.state == State::PartiallyPresent {
            match self.partial.last_mut() {
                Some((first, count)) if *first + *count == block => *count += run.count,
                Some(_) | None => self.partial.push((block, run.count)),
            }
        }
        if entry.place > 0 {
            self.figures.allocated_bytes += run.count * self.geometry.block_len();
        } else {
            if self.holes.count == 0 {
                self.holes.first = block;
            }
            self.holes.count += run.count;
        }
    }

    /// Looks for partially present blocks of the group that have all their sectors (2.4.2).
    fn check_bits(&mut self, bitmap: u64) -> Result<(), Error> {
        for (first, count) in std::mem::take(&mut self.partial) {
            let sectors = self.geometry.block_len() >> self.geometry.sector_shift();
            let block_bytes = sectors / 8;
            let at = bitmap + self.geometry.within_group(first) * block_bytes;
            let mut bits = vec![0; index(count * block_bytes)];
            self.backing.read(&mut bits, at, "a sector bitmap")?;
            for (block, bits) in (first..).zip(bits.chunks_exact(index(block_bytes))) {
                let used = self.geometry.used_of_block(block) >> self.geometry.sector_shift();
                let (whole, rest) = (index(used / 8), used % 8);
                let full = bits[..whole]
                    .chunks(ONES.len())
                    .all(|part| *part == ONES[..part.len()])
                    && (rest == 0 || u64::from(bits[whole].trailing_ones()) >= rest);
                let at = at + (block - first) * block_bytes;
                self.findings.report_if(full, Rule::BitmapFull, at, block)?;
            }
        }
        Ok(())
    }
}
