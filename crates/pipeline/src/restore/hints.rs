//! Chunks that no window has whole: across a window's border, joined by an increment from runs all over a region, or
//! overwritten in part since.
//!
//! What their cells hash to is found out once for a region, from a seed that has the whole chunk where possible, else from
//! the server. A window then judges each cell by its hash. Memory: at most 17 bytes a cell of two regions.

use std::collections::{HashMap, HashSet};

use store::{CELL_BYTES, CellHash, ChunkId};

use super::needs::{Need, needs_of};
use super::planner::Window;
use super::reuse::{Reuse, SeedRead};
use crate::seeds::Place;
use crate::{ChunkCells, RestoreError};

/// What is known of chunks that no window has whole.
pub(super) type Hints = HashMap<ChunkId, Hint>;

/// What is known of a chunk's cells.
#[derive(Clone, Debug)]
pub(super) struct Hint {
    /// What the cells hash to.
    pub(super) hashes: Vec<Option<CellHash>>,
    /// Where a seed has the whole chunk.
    pub(super) at: Option<Place>,
    /// Whether the server was asked for the hashes.
    pub(super) was_asked: bool,
}

impl Reuse<'_> {
    /// Finds out about the chunks of a region that its windows share.
    pub(super) fn hints(&self, windows: &[Window]) -> Result<Hints, RestoreError> {
        let shared: HashSet<ChunkId> = windows
            .iter()
            .flat_map(|window| needs_of(&window.runs, None))
            .filter(|need| !need.is_ragged && !need.is_whole())
            .map(|need| need.chunk.id)
            .collect();
        let mut hints = Hints::new();
        if shared.is_empty() {
            return Ok(hints);
        }
        let runs = windows.iter().flat_map(|window| &window.runs);
        let mut asks = Vec::new();
        for need in needs_of(runs, Some(&shared)) {
            let id = need.chunk.id;
            let mut plain = vec![0; usize::from(need.chunk.cells) * CELL_BYTES];
            match self.whole(&need, &mut plain) {
                Some(at) => {
                    let key = self.seeds.key();
                    let cells = plain.chunks_exact(CELL_BYTES);
                    let hashes = cells.map(|cell| Some(key.hash(cell))).collect();
                    let was_asked = false;
                    hints.insert(
                        id,
                        Hint {
                            hashes,
                            at,
                            was_asked,
                        },
                    );
                }
                None => asks.extend(need.cells().map(|cells| ChunkCells { id, cells })),
            }
        }
        let is_any_use = !self.same_place.is_empty() || self.has_cells();
        if asks.is_empty() || !is_any_use || !self.asking.pays() {
            return Ok(hints);
        }
        let offset = windows.first().map_or(0, |window| window.range.offset);
        let mut answers = self.ask(offset, &asks)?;
        for ask in asks {
            let Some(found) = answers.remove(&ask.id) else {
                continue;
            };
            let mut hashes = vec![None; ask.cells.end()];
            for (cell, hash) in ask.cells.cells().zip(found) {
                hashes[cell] = Some(hash);
            }
            hints.insert(
                ask.id,
                Hint {
                    hashes,
                    at: None,
                    was_asked: true,
                },
            );
        }
        Ok(hints)
    }

    /// Finds a chunk whole in a seed: where the image has its cells, or in one place elsewhere. `Some(None)`: the former.
    fn whole(&self, need: &Need, plain: &mut [u8]) -> Option<Option<Place>> {
        if need.is_whole() {
            let spans = need.spans();
            let is_there = self.same_place.iter().any(|&seed| {
                self.read_spans(seed, &need.chunk.id, &spans, plain) == SeedRead::Same
            });
            if is_there {
                return Some(None);
            }
        }
        self.find(&need.chunk.id, plain).map(Some)
    }
}
