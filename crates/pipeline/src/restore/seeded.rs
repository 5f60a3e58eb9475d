//! Fills a window from seeds, and from single cells that are fetched.
//!
//! The window's buffer is filled once from the likeliest seed; each chunk is then judged where it lies. Whatever is not
//! proven in the buffer itself is overwritten before the window is handed on.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use store::{
    CELL_BYTES, CellHash, ChunkId, ChunkSlice, Decoder, ImageRun, LiveCells, Opened, is_zero,
};

use super::needs::{Need, Span};
use super::planner::Window;
use super::reuse::{Reuse, SeedRead, plain_needs};
use crate::seeds::Place;
use crate::{ChunkCells, RestoreError};

/// Runs that must be fetched as whole chunks.
pub(super) type Rest = Vec<(ImageRun, ChunkSlice)>;

/// A chunk whose cells are judged one by one.
struct Sieve {
    need: Need,
    hashes: Vec<Option<CellHash>>,
    at: Option<Place>,
    was_asked: bool,
    /// Cells no seed has.
    missing: u64,
}

/// A window's buffer.
struct Buffer<'b> {
    offset: u64,
    bytes: &'b mut [u8],
}

impl Buffer<'_> {
    fn place(&self, offset: u64) -> usize {
        usize::try_from(offset - self.offset).expect("inside a window")
    }

    fn part(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let start = self.place(offset);
        &mut self.bytes[start..start + len]
    }

    /// Returns a chunk as it lies in the buffer.
    fn gather<'s>(&'s self, spans: &[Span], scratch: &'s mut Vec<u8>) -> &'s [u8] {
        if let [span] = spans {
            let start = self.place(span.offset);
            return &self.bytes[start..start + span.cells * CELL_BYTES];
        }
        scratch.clear();
        for span in spans {
            let start = self.place(span.offset);
            scratch.extend_from_slice(&self.bytes[start..start + span.cells * CELL_BYTES]);
        }
        scratch
    }

    fn scatter(&mut self, spans: &[Span], plain: &[u8]) {
        for span in spans {
            let (start, len) = (span.cell * CELL_BYTES, span.cells * CELL_BYTES);
            self.part(span.offset, len)
                .copy_from_slice(&plain[start..start + len]);
        }
    }

    /// Copies proven cells to where else they are needed.
    fn repeat(&mut self, need: &Need) {
        for &(cell, offset) in &need.again {
            if let Some(from) = need.places[cell] {
                let (from, to) = (self.place(from), self.place(offset));
                self.bytes.copy_within(from..from + CELL_BYTES, to);
            }
        }
    }
}

impl Reuse<'_> {
    /// Fills a window's buffer as far as seeds and single cells go; returns what is left to fetch. Other parts of the buffer
    /// that the runs cover are proven.
    pub(super) fn fill(
        &self,
        window: &Window,
        bytes: &mut [u8],
        decoder: &mut Decoder,
    ) -> Result<Rest, RestoreError> {
        let mut buffer = Buffer {
            offset: window.range.offset,
            bytes,
        };
        let is_filled = self.read_along(window, &mut buffer);
        let mut proven: Vec<Need> = Vec::new();
        let (mut sieves, mut missed): (Vec<Sieve>, Vec<Need>) = (Vec::new(), Vec::new());
        let mut scratch = Vec::new();
        for need in plain_needs(&window.runs) {
            if need.is_whole() {
                match self.find_whole(&need, is_filled, &mut buffer, &mut scratch) {
                    SeedRead::Same => {
                        self.count(need.places.len() + need.again.len());
                        proven.push(need);
                    }
                    SeedRead::Other => missed.push(need),
                    SeedRead::Nothing if self.has_cells() => missed.push(need),
                    SeedRead::Nothing => {}
                }
            } else if let Some(hint) = window.hint(&need.chunk.id) {
                sieves.push(Sieve {
                    need,
                    hashes: hint.hashes.clone(),
                    at: hint.at,
                    was_asked: hint.was_asked,
                    missing: 0,
                });
            }
        }
        if !missed.is_empty() && self.asking.pays() {
            sieves.extend(self.ask_for(window.range.offset, missed)?);
        }
        for sieve in &mut sieves {
            self.sift(sieve, is_filled, &mut buffer);
        }
        // Nothing of it is here: it comes as it is stored.
        sieves.retain(|sieve| !sieve.need.is_whole() || !sieve.is_empty());
        self.fetch_missing(window.range.offset, &mut sieves, &mut buffer, decoder)?;
        for sieve in sieves {
            let need = sieve.need;
            let is_good = sieve.missing == 0
                && (!need.is_whole()
                    || self
                        .names
                        .chunk_id(buffer.gather(&need.spans(), &mut scratch))
                        == need.chunk.id);
            if is_good {
                proven.push(need);
            }
        }
        proven.iter().for_each(|need| buffer.repeat(need));
        let proven: HashSet<ChunkId> = proven.iter().map(|need| need.chunk.id).collect();
        let rest = window.runs.iter();
        Ok(rest
            .filter(|(_, slice)| !proven.contains(&slice.chunk.id))
            .copied()
            .collect())
    }

    /// Fills the runs of the window from the likeliest seed; says whether it had anything.
    fn read_along(&self, window: &Window, buffer: &mut Buffer<'_>) -> bool {
        let Some(&seed) = self.same_place.first() else {
            return false;
        };
        let mut any = false;
        let mut runs = window.runs.iter().map(|(run, _)| *run).peekable();
        while let Some(first) = runs.next() {
            let mut end = first.offset + first.len;
            while let Some(next) = runs.next_if(|next| next.offset == end) {
                end += next.len;
            }
            let len = usize::try_from(end - first.offset).expect("inside a window");
            let part = buffer.part(first.offset, len);
            any |= self.seeds.read(seed, first.offset, part, self.options);
        }
        any
    }

    /// Looks for a whole chunk in the buffer, then at its offsets in the other seeds, then anywhere; where it was found it is
    /// in the buffer.
    fn find_whole(
        &self,
        need: &Need,
        is_filled: bool,
        buffer: &mut Buffer<'_>,
        scratch: &mut Vec<u8>,
    ) -> SeedRead {
        let (id, spans) = (&need.chunk.id, need.spans());
        let mut read = SeedRead::Nothing;
        if is_filled {
            let plain = buffer.gather(&spans, scratch);
            if self.names.chunk_id(plain) == *id {
                return SeedRead::Same;
            }
            if !is_zero(plain) {
                read = SeedRead::Other;
            }
        }
        scratch.clear();
        scratch.resize(usize::from(need.chunk.cells) * CELL_BYTES, 0);
        for &seed in self.same_place.iter().skip(1) {
            match self.read_spans(seed, id, &spans, scratch) {
                SeedRead::Same => {
                    buffer.scatter(&spans, scratch);
                    return SeedRead::Same;
                }
                SeedRead::Other => read = SeedRead::Other,
                SeedRead::Nothing => {}
            }
        }
        if self.find(id, scratch).is_some() {
            buffer.scatter(&spans, scratch);
            return SeedRead::Same;
        }
        read
    }

    /// Asks for the cells of whole chunks that were not found.
    fn ask_for(&self, offset: u64, missed: Vec<Need>) -> Result<Vec<Sieve>, RestoreError> {
        let asks: Vec<ChunkCells> = missed
            .iter()
            .filter_map(|need| {
                let id = need.chunk.id;
                need.cells().map(|cells| ChunkCells { id, cells })
            })
            .collect();
        let mut answers = self.ask(offset, &asks)?;
        let sieves = missed.into_iter().filter_map(|need| {
            let hashes = answers.remove(&need.chunk.id)?;
            Some(Sieve {
                hashes: hashes.into_iter().map(Some).collect(),
                need,
                at: None,
                was_asked: true,
                missing: 0,
            })
        });
        Ok(sieves.collect())
    }

    /// Looks for each cell: in the buffer, at its offset in the other seeds, anywhere.
    fn sift(&self, sieve: &mut Sieve, is_filled: bool, buffer: &mut Buffer<'_>) {
        let key = self.seeds.key();
        let (mut needed, mut found) = (0, 0);
        for (cell, place) in sieve.need.places.iter().enumerate() {
            let Some(offset) = *place else { continue };
            needed += 1;
            let part = buffer.part(offset, CELL_BYTES);
            let expected = sieve.hashes.get(cell).copied().flatten();
            let is_here = expected.is_some_and(|expected| {
                let read = |seed: usize, offset: u64, part: &mut [u8]| {
                    self.seeds.read(seed, offset, part, self.options) && key.hash(part) == expected
                };
                is_filled && key.hash(part) == expected
                    || sieve.at.is_some_and(|at| {
                        read(at.seed, at.offset + (cell * CELL_BYTES) as u64, part)
                    })
                    || self
                        .same_place
                        .iter()
                        .skip(1)
                        .any(|&seed| read(seed, offset, part))
                    || self
                        .index
                        .as_ref()
                        .and_then(|index| index.cell(&expected))
                        .is_some_and(|at| read(at.seed, at.offset, part))
            });
            match is_here {
                true => found += 1,
                false => sieve.missing |= 1 << cell,
            }
        }
        self.count(found);
        if sieve.was_asked {
            self.asking.note(needed, found as u64);
        }
    }

    /// Fetches the cells no seed has and puts them where they belong.
    fn fetch_missing(
        &self,
        offset: u64,
        sieves: &mut [Sieve],
        buffer: &mut Buffer<'_>,
        decoder: &mut Decoder,
    ) -> Result<(), RestoreError> {
        let asks: Vec<ChunkCells> = sieves
            .iter()
            .filter_map(|sieve| {
                let cells = LiveCells::new(sieve.missing.try_into().ok()?);
                let id = sieve.need.chunk.id;
                Some(ChunkCells { id, cells })
            })
            .collect();
        if asks.is_empty() {
            return Ok(());
        }
        let came = self.fetch_cells(offset, &asks, decoder)?;
        for sieve in sieves.iter_mut().filter(|sieve| sieve.missing != 0) {
            let Some(opened) = came.get(&sieve.need.chunk.id) else {
                continue;
            };
            for (cell, place) in sieve.need.places.iter().enumerate() {
                let Some(offset) = *place else { continue };
                if sieve.missing >> cell & 1 == 0 {
                    continue;
                }
                let expected = sieve.hashes.get(cell).copied().flatten();
                // What came is sealed by the server, and still must be what it said before.
                if let Some(bytes) = cell_of(opened, cell)
                    && expected.is_none_or(|expected| self.seeds.key().hash(bytes) == expected)
                {
                    buffer.part(offset, CELL_BYTES).copy_from_slice(bytes);
                    sieve.missing &= !(1 << cell);
                }
            }
        }
        Ok(())
    }

    fn count(&self, cells: usize) {
        let bytes = (cells * CELL_BYTES) as u64;
        self.counters.reused.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Sieve {
    /// Whether no needed cell was found.
    fn is_empty(&self) -> bool {
        let needed = self.need.cells().map_or(0, |cells| cells.bits().get());
        self.missing == needed
    }
}

fn cell_of(opened: &Opened, cell: usize) -> Option<&[u8]> {
    let is_there = match (opened.live, u16::try_from(cell)) {
        (None, Ok(_)) => true,
        (Some(live), Ok(cell)) => live.has(cell, 1),
        (_, Err(_)) => false,
    };
    let start = cell * CELL_BYTES;
    opened
        .plain
        .get(start..start + CELL_BYTES)
        .filter(|_| is_there)
}
