//! Leaves: what a region is made of.
//!
//! Invariant of [`Leaf`]: its runs cover its cells without a gap, none is empty, none continues the one before, and a run
//! lies inside its chunk.

use crate::{CHUNK_MAX_CELLS, ChunkId, NodeId, REGION_CELLS, TreeError};

/// A chunk and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Its id.
    pub id: ChunkId,
    /// Its plain length in cells, 1 to 64.
    pub cells: u16,
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunSource {
    /// Nowhere: all zero.
    Hole,
    /// In a chunk.
    Chunk {
        /// The chunk.
        chunk: ChunkRef,
        /// The run's first cell inside the chunk.
        at: u16,
    },
}

/// Cells of a region that are one behind the other in one chunk, or are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of cells.
    pub cells: u16,
    /// Where they are.
    pub source: RunSource,
}

impl Run {
    /// Returns a run of zero cells.
    #[must_use]
    pub fn hole(cells: u16) -> Self {
        Self {
            cells,
            source: RunSource::Hole,
        }
    }

    /// Returns a run that is a whole chunk.
    #[must_use]
    pub fn whole(chunk: ChunkRef) -> Self {
        Self {
            cells: chunk.cells,
            source: RunSource::Chunk { chunk, at: 0 },
        }
    }

    /// Returns `cells` cells of the run, from its cell `from`; the caller keeps within it.
    fn part(&self, from: u16, cells: u16) -> Self {
        let source = match self.source {
            RunSource::Hole => RunSource::Hole,
            RunSource::Chunk { chunk, at } => RunSource::Chunk {
                chunk,
                at: at + from,
            },
        };
        Self { cells, source }
    }

    /// Returns the run without its first `cells` cells, which it has.
    pub(super) fn without_front(&self, cells: u16) -> Self {
        self.part(cells, self.cells - cells)
    }

    fn continues(&self, before: &Run) -> bool {
        match (before.source, self.source) {
            (RunSource::Hole, RunSource::Hole) => true,
            (RunSource::Chunk { chunk: a, at: from }, RunSource::Chunk { chunk: b, at }) => {
                a == b && from + before.cells == at
            }
            (RunSource::Hole, RunSource::Chunk { .. })
            | (RunSource::Chunk { .. }, RunSource::Hole) => false,
        }
    }

    fn check(&self) -> Result<(), TreeError> {
        let fits = match self.source {
            RunSource::Hole => (1..=REGION_CELLS).contains(&self.cells),
            RunSource::Chunk { chunk, at } => {
                (1..=CHUNK_MAX_CELLS).contains(&chunk.cells)
                    && self.cells > 0
                    && at
                        .checked_add(self.cells)
                        .is_some_and(|end| end <= chunk.cells)
            }
        };
        if fits {
            Ok(())
        } else {
            Err(TreeError::shape(format!(
                "a run does not lie inside its chunk: {self:?}"
            )))
        }
    }
}

/// A run that lies over another leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// First cell in the region.
    pub at: u16,
    /// What is there.
    pub run: Run,
}

impl Override {
    fn end(&self) -> u16 {
        self.at + self.run.cells
    }
}

/// A whole leaf: the runs of a region in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    cells: u16,
    runs: Vec<Run>,
}

/// A leaf as a whole leaf with overrides: sorted, apart, inside the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaLeaf {
    /// The whole leaf beneath.
    pub base: NodeId,
    /// Cells of the region.
    pub cells: u16,
    /// What differs.
    pub overrides: Vec<Override>,
}

/// Collects the runs of a region in order.
#[derive(Clone, Debug, Default)]
pub struct LeafBuilder {
    runs: Vec<Run>,
    cells: u32,
}

impl LeafBuilder {
    /// Starts at the front of a region.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run behind the others, joining it to the last where it continues that.
    pub fn push(&mut self, run: Run) {
        if run.cells == 0 {
            return;
        }
        self.cells += u32::from(run.cells);
        match self.runs.last_mut() {
            Some(last) if run.continues(last) && last.cells.checked_add(run.cells).is_some() => {
                last.cells += run.cells;
            }
            Some(_) | None => self.runs.push(run),
        }
    }

    /// Returns how many cells are covered.
    #[must_use]
    pub fn cells(&self) -> u32 {
        self.cells
    }

    /// Returns the leaf of a region of `cells` cells, which the runs must cover exactly.
    pub fn finish(self, cells: u16) -> Result<Leaf, TreeError> {
        if self.cells != u32::from(cells) || !(1..=REGION_CELLS).contains(&cells) {
            return Err(TreeError::shape(format!(
                "runs of {} cells for a region of {cells}",
                self.cells
            )));
        }
        self.runs.iter().try_for_each(Run::check)?;
        Ok(Leaf {
            cells,
            runs: self.runs,
        })
    }
}

impl Leaf {
    /// Makes a leaf of runs in order.
    pub fn from_runs(cells: u16, runs: impl IntoIterator<Item = Run>) -> Result<Self, TreeError> {
        let mut builder = LeafBuilder::new();
        for run in runs {
            run.check()?;
            if builder.cells > u32::from(cells) {
                break;
            }
            builder.push(run);
        }
        builder.finish(cells)
    }

    /// Returns a region of zeros.
    #[must_use]
    pub fn hole(cells: u16) -> Self {
        Self {
            cells,
            runs: vec![Run::hole(cells)],
        }
    }

    /// Returns the cells of the region.
    #[must_use]
    pub fn cells(&self) -> u16 {
        self.cells
    }

    /// Returns the runs in order.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Says whether all of the region is zero.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        matches!(
            self.runs[..],
            [Run {
                source: RunSource::Hole,
                ..
            }]
        )
    }

    /// Returns the leaf with overrides (sorted, apart, inside the region) laid over it.
    pub fn overlay(&self, overrides: &[Override]) -> Result<Self, TreeError> {
        let mut builder = LeafBuilder::new();
        let mut rest = Runs {
            runs: self.runs.iter(),
            current: None,
        };
        let mut at = 0u16;
        for change in overrides {
            let Some(before) = change
                .at
                .checked_sub(at)
                .filter(|_| change.run.cells <= self.cells - at)
            else {
                return Err(TreeError::shape(
                    "overrides that are not in order or not inside the region",
                ));
            };
            rest.take(before, |run| builder.push(run));
            rest.take(change.run.cells, |_| {});
            builder.push(change.run);
            at = change.at.saturating_add(change.run.cells).min(self.cells);
        }
        rest.take(self.cells - at, |run| builder.push(run));
        builder.finish(self.cells)
    }
}

/// Runs taken cell by cell from the front.
struct Runs<'a> {
    runs: std::slice::Iter<'a, Run>,
    current: Option<Run>,
}

impl Runs<'_> {
    fn take(&mut self, cells: u16, mut each: impl FnMut(Run)) {
        let mut left = cells;
        while left > 0 {
            let Some(run) = self.current.take().or_else(|| self.runs.next().copied()) else {
                return;
            };
            if run.cells > left {
                each(run.part(0, left));
                self.current = Some(run.part(left, run.cells - left));
                return;
            }
            left -= run.cells;
            each(run);
        }
    }
}

/// Checks that overrides are sorted, apart and inside a region, and joins those that continue one another.
pub(crate) fn join_overrides(
    cells: u16,
    overrides: Vec<Override>,
) -> Result<Vec<Override>, TreeError> {
    let mut joined: Vec<Override> = Vec::with_capacity(overrides.len());
    for change in overrides {
        change.run.check()?;
        let start = joined.last().map_or(0, Override::end);
        let inside = change
            .at
            .checked_add(change.run.cells)
            .is_some_and(|end| end <= cells);
        if change.at < start || !inside {
            return Err(TreeError::shape(
                "overrides that are not in order or not inside the region",
            ));
        }
        match joined.last_mut() {
            Some(last) if last.end() == change.at && change.run.continues(&last.run) => {
                last.run.cells += change.run.cells;
            }
            Some(_) | None => joined.push(change),
        }
    }
    Ok(joined)
}

/// Lays new overrides over old ones.
pub(crate) fn overlay_overrides(
    cells: u16,
    old: &[Override],
    new: &[Override],
) -> Result<Vec<Override>, TreeError> {
    let mut all = new.to_vec();
    for change in old {
        let (mut at, end) = (change.at, change.end());
        let first = new.partition_point(|over| over.end() <= at);
        for over in new[first..].iter().take_while(|over| over.at < end) {
            if over.at > at {
                all.push(Override {
                    at,
                    run: change.run.part(at - change.at, over.at - at),
                });
            }
            at = over.end().min(end).max(at);
        }
        if at < end {
            all.push(Override {
                at,
                run: change.run.part(at - change.at, end - at),
            });
        }
    }
    all.sort_unstable_by_key(|change| change.at);
    join_overrides(cells, all)
}
