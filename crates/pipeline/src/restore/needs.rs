//! Which cells of which chunks a part of an image needs, and where.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use store::{CELL_BYTES, ChunkId, ChunkRef, ChunkSlice, ImageRun, LiveCells};

const CELL: u64 = CELL_BYTES as u64;

/// A chunk as some runs need it.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) chunk: ChunkRef,
    /// For each cell the offset in the image where it is needed first.
    pub(super) places: Vec<Option<u64>>,
    /// Cells that are needed once more elsewhere, by number and offset.
    pub(super) again: Vec<(usize, u64)>,
    /// Some run does not consist of whole cells.
    pub(super) is_ragged: bool,
}

/// Cells of a chunk that follow one another in the image as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First cell.
    pub(super) cell: usize,
    pub(super) cells: usize,
    /// Offset in the image.
    pub(super) offset: u64,
}

impl Need {
    /// Whether every cell of the chunk is needed.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_ragged && self.places.iter().all(Option::is_some)
    }

    /// Returns the cells that are needed.
    pub(super) fn cells(&self) -> Option<LiveCells> {
        let cells = self.places.iter().enumerate();
        let bits = cells
            .filter(|(_, place)| place.is_some())
            .fold(0_u64, |bits, (cell, _)| bits | 1 << cell);
        NonZeroU64::new(bits).map(LiveCells::new)
    }

    /// Returns the needed cells in order, joined where they lie together.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (cell, place) in self.places.iter().enumerate() {
            let Some(offset) = *place else { continue };
            match spans.last_mut() {
                Some(last)
                    if last.cell + last.cells == cell
                        && last.offset + last.cells as u64 * CELL == offset =>
                {
                    last.cells += 1;
                }
                Some(_) | None => spans.push(Span {
                    cell,
                    cells: 1,
                    offset,
                }),
            }
        }
        spans
    }

    fn add(&mut self, run: &ImageRun, slice: &ChunkSlice) {
        let cells = usize::try_from(run.len.div_ceil(CELL)).unwrap_or(usize::MAX);
        let first = slice.at_bytes / CELL_BYTES;
        let fits = first.saturating_add(cells) <= self.places.len();
        if !fits || !slice.at_bytes.is_multiple_of(CELL_BYTES) || !run.len.is_multiple_of(CELL) {
            self.is_ragged = true;
            return;
        }
        for (cell, at) in (first..first + cells).zip(0_u64..) {
            let offset = run.offset + at * CELL;
            match &mut self.places[cell] {
                Some(_) => self.again.push((cell, offset)),
                place @ None => *place = Some(offset),
            }
        }
    }
}

/// Returns what these runs need, in the order of the image; only chunks in `of`, where that is given.
pub(super) fn needs_of<'r>(
    runs: impl IntoIterator<Item = &'r (ImageRun, ChunkSlice)>,
    of: Option<&HashSet<ChunkId>>,
) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    let mut numbers: HashMap<ChunkId, usize> = HashMap::new();
    for (run, slice) in runs {
        if of.is_some_and(|of| !of.contains(&slice.chunk.id)) {
            continue;
        }
        let number = *numbers.entry(slice.chunk.id).or_insert_with(|| {
            needs.push(Need {
                chunk: slice.chunk,
                places: vec![None; usize::from(slice.chunk.cells)],
                again: Vec::new(),
                is_ragged: false,
            });
            needs.len() - 1
        });
        needs[number].add(run, slice);
    }
    needs
}
