//! Where a seed has a chunk or a cell, whatever its offset.
//!
//! The allocated ranges of the seeds are read once, over all cores, and cut as a backup cuts them: the same content gives
//! the same chunks wherever it lies, as long as it lies on whole cells. Each chunk and each cell leaves 8 bytes of its hash
//! and 8 bytes of place in a sorted table. A hit is a hint: whoever follows it hashes what is there.
//!
//! Memory: 16 bytes an entry, [`CHUNKS_MAX`] and [`CELLS_MAX`] of them at most; what is beyond is not found.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use store::{
    CELL_BYTES, CHUNK_MAX_BYTES, CellHash, ChunkId, Cutter, REGION_BYTES, RegionCut, SessionKeys,
};
use vhdx::ExtentKind;

use super::{ScanFigures, Seeds};
use crate::Options;
use crate::backup::lock;

/// Chunks that are remembered: 64 MiB for about 256 GiB of seeds.
const CHUNKS_MAX: usize = 4 << 20;
/// Cells that are remembered: 64 MiB for 16 GiB of seeds.
const CELLS_MAX: usize = 4 << 20;
/// Seeds are read for content up to so many times of what is wanted.
const SCAN_FACTOR: u64 = 16;
/// Bytes read together.
const PIECE_BYTES: usize = 1 << 20;
const CELL: u64 = CELL_BYTES as u64;

/// Where something is in the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seed: usize,
    pub(crate) offset: u64,
}

/// A sorted table of the front of a hash and a place: 8 bits of seed, 56 bits of cell.
type Table = Vec<(u64, u64)>;

#[derive(Debug, Default)]
pub(crate) struct Index {
    chunks: Table,
    cells: Table,
    scanned_bytes: u64,
}

/// A region of a seed.
#[derive(Clone, Copy)]
struct Part {
    seed: usize,
    offset: u64,
    len: u64,
}

/// What the threads of a scan share.
struct Scan<'a> {
    seeds: &'a Seeds,
    names: &'a SessionKeys,
    options: &'a Options,
    budget: u64,
    next: AtomicUsize,
    stopped: AtomicBool,
    /// No more cells are remembered.
    cells_full: AtomicBool,
    scanned: AtomicU64,
    found: Mutex<(Table, Table)>,
}

impl Index {
    /// Reads the seeds; `None` where the run was cancelled.
    pub(super) fn build(
        seeds: &Seeds,
        names: &SessionKeys,
        wanted_bytes: u64,
        options: &Options,
    ) -> Option<Self> {
        let parts = parts_of(seeds);
        let scan = Scan {
            seeds,
            names,
            options,
            budget: seeds
                .scan_bytes
                .min(wanted_bytes.saturating_mul(SCAN_FACTOR)),
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            cells_full: AtomicBool::new(false),
            scanned: AtomicU64::new(0),
            found: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for _ in 0..options.workers().min(parts.len()) {
                scope.spawn(|| scan.work(&parts));
            }
        });
        if options.cancel.is_cancelled() {
            return None;
        }
        let (mut chunks, mut cells) = scan.found.into_inner().unwrap_or_default();
        for table in [&mut chunks, &mut cells] {
            // The same content at the lowest place.
            table.sort_unstable();
            table.dedup_by_key(|entry| entry.0);
            table.shrink_to_fit();
        }
        Some(Self {
            chunks,
            cells,
            scanned_bytes: scan.scanned.into_inner(),
        })
    }

    pub(super) fn figures(&self) -> ScanFigures {
        ScanFigures {
            bytes: self.scanned_bytes,
            chunks: self.chunks.len() as u64,
            cells: self.cells.len() as u64,
        }
    }

    pub(crate) fn chunk(&self, id: &ChunkId) -> Option<Place> {
        find(&self.chunks, front(id.as_bytes()))
    }

    pub(crate) fn cell(&self, hash: &CellHash) -> Option<Place> {
        find(&self.cells, front(hash))
    }

    pub(crate) fn has_cells(&self) -> bool {
        !self.cells.is_empty()
    }
}

fn parts_of(seeds: &Seeds) -> Vec<Part> {
    let seeds = seeds.as_slice().iter().enumerate();
    seeds
        .flat_map(|(seed, found)| {
            let len = found.source.len();
            (0..len.div_ceil(REGION_BYTES)).map(move |region| {
                let offset = region * REGION_BYTES;
                Part {
                    seed,
                    offset,
                    len: REGION_BYTES.min(len - offset),
                }
            })
        })
        .collect()
}

fn front(hash: &[u8]) -> u64 {
    let (front, _) = hash.split_first_chunk().expect("a hash has 16 bytes");
    u64::from_le_bytes(*front)
}

fn find(table: &Table, key: u64) -> Option<Place> {
    let at = table.binary_search_by_key(&key, |entry| entry.0).ok()?;
    let place = table[at].1;
    Some(Place {
        seed: usize::try_from(place >> 56).ok()?,
        offset: (place & (u64::MAX >> 8)).checked_mul(CELL)?,
    })
}

/// One thread's means.
struct Scanner<'a> {
    scan: &'a Scan<'a>,
    cutter: Cutter,
    /// What was read and not cut yet.
    buffer: Vec<u8>,
    filled: usize,
    chunks: Table,
    cells: Table,
}

impl Scan<'_> {
    fn work(&self, parts: &[Part]) {
        let mut scanner = Scanner {
            scan: self,
            cutter: self.names.cutter(),
            buffer: vec![0; PIECE_BYTES + CHUNK_MAX_BYTES],
            filled: 0,
            chunks: Table::new(),
            cells: Table::new(),
        };
        while !self.options.cancel.is_cancelled() && !self.stopped.load(Ordering::Relaxed) {
            let Some(part) = parts.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            scanner.part(*part);
            let mut found = lock(&self.found);
            take_some(&mut found.0, &mut scanner.chunks, CHUNKS_MAX);
            take_some(&mut found.1, &mut scanner.cells, CELLS_MAX);
            if found.1.len() >= CELLS_MAX {
                self.cells_full.store(true, Ordering::Relaxed);
            }
            if found.0.len() >= CHUNKS_MAX {
                self.stopped.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether so many more bytes may be read.
    fn may_read(&self, bytes: u64) -> bool {
        let may = self.scanned.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.budget;
        if !may {
            self.scanned.fetch_sub(bytes, Ordering::Relaxed);
            self.stopped.store(true, Ordering::Relaxed);
        }
        may
    }
}

fn take_some(all: &mut Table, new: &mut Table, limit: usize) {
    let room = limit.saturating_sub(all.len()).min(new.len());
    all.extend_from_slice(&new[..room]);
    new.clear();
}

impl Scanner<'_> {
    /// Reads a region's allocated ranges. What cannot be read is left out.
    fn part(&mut self, part: Part) {
        let Some(source) = self.scan.seeds.as_slice().get(part.seed) else {
            return;
        };
        let Ok(extents) = source.source.extents(part.offset, part.len) else {
            return;
        };
        let end = part.offset + part.len;
        // Whole cells, extents that touch joined.
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for extent in extents {
            if extent.kind == ExtentKind::Zero || extent.len == 0 {
                continue;
            }
            let from = extent.offset.max(part.offset) / CELL * CELL;
            let until = extent.offset.saturating_add(extent.len).min(end);
            let until = until.next_multiple_of(CELL);
            match ranges.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(until),
                Some(_) | None => ranges.push((from, until)),
            }
        }
        for (from, until) in ranges {
            self.range(part.seed, from, until);
        }
    }

    fn range(&mut self, seed: usize, from: u64, until: u64) {
        self.filled = 0;
        let mut at = from;
        while at < until {
            let piece =
                usize::try_from(until - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
            if self.scan.options.cancel.is_cancelled() || !self.scan.may_read(piece as u64) {
                return;
            }
            let out = &mut self.buffer[self.filled..self.filled + piece];
            if self.scan.seeds.read(seed, at, out, self.scan.options) {
                self.filled += piece;
                at += piece as u64;
                self.cut(seed, at, at == until);
            } else {
                // A hole after all, or it failed: what is before it ends here.
                self.cut(seed, at, true);
                at += piece as u64;
            }
        }
    }

    /// Cuts what is filled, which ends at `end` of the seed, and keeps what may go on.
    fn cut(&mut self, seed: usize, end: u64, is_end: bool) {
        let start = end - self.filled as u64;
        let mut at = 0;
        while at < self.filled {
            let (cells, is_chunk) = match self.cutter.next(&self.buffer[at..self.filled], is_end) {
                Some(RegionCut::Chunk { cells }) => (usize::from(cells), true),
                Some(RegionCut::Hole { cells }) => (usize::from(cells), false),
                None => break,
            };
            let bytes = cells * CELL_BYTES;
            if is_chunk {
                self.note(seed, start + at as u64, at, bytes);
            }
            at += bytes;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
    }

    fn note(&mut self, seed: usize, offset: u64, at: usize, bytes: usize) {
        let plain = &self.buffer[at..at + bytes];
        let seed = (seed as u64) << 56;
        let first = offset / CELL;
        let id = self.scan.names.chunk_id(plain);
        self.chunks.push((front(id.as_bytes()), seed | first));
        if self.scan.cells_full.load(Ordering::Relaxed) {
            return;
        }
        let key = self.scan.seeds.key();
        let cells = (first..).zip(plain.chunks_exact(CELL_BYTES));
        self.cells
            .extend(cells.map(|(cell, bytes)| (front(&key.hash(bytes)), seed | cell)));
    }
}
