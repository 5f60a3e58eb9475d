//! What the threads of a restore share to take from seeds what need not be fetched.
//!
//! A chunk is looked for whole where the image has it, then anywhere by its id. Of one that is not found the server says
//! what its cells hash to; cells the host has are taken, the others fetched ([`super::seeded`]). Chunks that lie in several
//! windows are dealt with once for their region ([`super::hints`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::ByteRange;
use store::{
    BoxError, CELL_BYTES, CELL_HASH_BYTES, CellHash, ChunkId, Decoder, EntryId, ImageRun, Opened,
    REGION_BYTES, RunSource, SessionKeys, Tree,
};

use super::Counters;
use super::needs::{Need, Span, needs_of};
use crate::link::CHUNKS_PER_ASK;
use crate::seeds::{Index, Place, Seeds};
use crate::{CellHashes, ChunkCells, Options, RestoreError, RestoreLink, SeedUse};

/// Regions looked at before a restore, and chunks of each, to see whether a seed has the image at its own offsets.
const SAMPLE_REGIONS: u64 = 16;
const SAMPLE_CHUNKS: usize = 4;
/// Of so many sampled chunks one may differ before the seeds are looked through for content that lies elsewhere.
const SAMPLE_MISS_IN: usize = 16;

pub(super) struct Reuse<'a> {
    pub(super) link: &'a dyn RestoreLink,
    pub(super) names: &'a SessionKeys,
    pub(super) seeds: &'a Seeds,
    pub(super) same_place: &'a [usize],
    pub(super) index: Option<Arc<Index>>,
    pub(super) options: &'a Options,
    pub(super) counters: &'a Counters,
    pub(super) asking: Asking,
}

impl<'a> Reuse<'a> {
    /// Looks whether the seeds have the image at its own offsets; where not, reads them for what they have elsewhere.
    pub(super) fn new(
        seeds: &'a SeedUse,
        tree: &Tree<'_>,
        ranges: &[ByteRange],
        link: &'a dyn RestoreLink,
        names: &'a SessionKeys,
        options: &'a Options,
        counters: &'a Counters,
    ) -> Result<Self, RestoreError> {
        let mut reuse = Self {
            link,
            names,
            seeds: &seeds.seeds,
            same_place: &seeds.same_place,
            index: seeds.seeds.ready_index(),
            options,
            counters,
            asking: Asking::default(),
        };
        if reuse.index.is_none() && !reuse.is_in_place(tree, ranges)? {
            let wanted = ranges.iter().map(|range| range.len).sum();
            reuse.index = seeds.seeds.index(names, wanted, options);
        }
        Ok(reuse)
    }

    /// Whether (nearly) all of a sample of the image's chunks are in a seed at the same offsets.
    fn is_in_place(&self, tree: &Tree<'_>, ranges: &[ByteRange]) -> Result<bool, RestoreError> {
        if self.same_place.is_empty() {
            return Ok(false);
        }
        let mut regions: Vec<u64> = ranges
            .iter()
            .flat_map(|range| {
                let end = range.offset.saturating_add(range.len);
                range.offset / REGION_BYTES..end.div_ceil(REGION_BYTES)
            })
            .collect();
        regions.dedup();
        let step = (regions.len() as u64).div_ceil(SAMPLE_REGIONS).max(1);
        let regions: Vec<u64> = regions
            .into_iter()
            .step_by(usize::try_from(step).unwrap_or(usize::MAX))
            .collect();
        let leaves = tree.read_leaves(&regions).map_err(RestoreError::Tree)?;
        let (mut looked, mut missed) = (0, 0);
        for (region, leaf) in regions.iter().zip(leaves) {
            let mut offset = region * REGION_BYTES;
            let mut whole = Vec::new();
            for run in leaf.resolved().map_err(RestoreError::Tree)?.runs() {
                if let RunSource::Chunk { chunk, at: 0 } = run.source
                    && chunk.cells == run.cells
                {
                    whole.push((offset, chunk));
                }
                offset += u64::from(run.cells) * CELL_BYTES as u64;
            }
            let step = whole.len().div_ceil(SAMPLE_CHUNKS).max(1);
            for (offset, chunk) in whole.into_iter().step_by(step) {
                let mut plain = vec![0; usize::from(chunk.cells) * CELL_BYTES];
                looked += 1;
                let is_there = self.same_place.iter().any(|&seed| {
                    self.seeds.read(seed, offset, &mut plain, self.options)
                        && self.names.chunk_id(&plain) == chunk.id
                });
                missed += usize::from(!is_there);
            }
        }
        Ok(looked > 0 && missed * SAMPLE_MISS_IN <= looked)
    }

    /// Puts a chunk together from a seed, at the offsets of the image; says whether that is the chunk.
    pub(super) fn read_spans(
        &self,
        seed: usize,
        id: &ChunkId,
        spans: &[Span],
        plain: &mut [u8],
    ) -> SeedRead {
        let mut any = false;
        for span in spans {
            let start = span.cell * CELL_BYTES;
            let part = &mut plain[start..start + span.cells * CELL_BYTES];
            any |= self.seeds.read(seed, span.offset, part, self.options);
        }
        match any {
            true if self.names.chunk_id(plain) == *id => SeedRead::Same,
            true => SeedRead::Other,
            false => SeedRead::Nothing,
        }
    }

    /// Looks a chunk up by its id; its bytes are in `plain` where it was found.
    pub(super) fn find(&self, id: &ChunkId, plain: &mut [u8]) -> Option<Place> {
        let place = self.index.as_ref()?.chunk(id)?;
        let read = self
            .seeds
            .read(place.seed, place.offset, plain, self.options);
        (read && self.names.chunk_id(plain) == *id).then_some(place)
    }

    /// Whether cells are worth asking for where the image's own offsets gave nothing.
    pub(super) fn has_cells(&self) -> bool {
        self.index.as_ref().is_some_and(|index| index.has_cells())
    }

    /// Asks what cells hash to; chunks the vault says nothing of are not in the answer.
    pub(super) fn ask(
        &self,
        offset: u64,
        asks: &[ChunkCells],
    ) -> Result<HashMap<ChunkId, Vec<CellHash>>, RestoreError> {
        let failed = |source: BoxError| RestoreError::Link { offset, source };
        let mut answers = HashMap::with_capacity(asks.len());
        let wanted: HashMap<ChunkId, usize> =
            asks.iter().map(|ask| (ask.id, ask.cells.count())).collect();
        for some in asks.chunks(CHUNKS_PER_ASK) {
            for CellHashes { id, hashes } in self.link.cell_hashes(some).map_err(failed)? {
                if wanted.get(&id) != Some(&hashes.len()) {
                    let text = format!("{} cell hashes came for chunk {id}", hashes.len());
                    return Err(failed(text.into()));
                }
                let bytes = ChunkCells::WIRE_BYTES + 32 + hashes.len() * CELL_HASH_BYTES;
                self.counters
                    .cell_hash_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                answers.insert(id, hashes);
            }
        }
        Ok(answers)
    }

    /// Fetches cells and opens them; chunks that did not come are not in the answer.
    pub(super) fn fetch_cells(
        &self,
        offset: u64,
        asks: &[ChunkCells],
        decoder: &mut Decoder,
    ) -> Result<HashMap<ChunkId, Opened>, RestoreError> {
        let failed = |source: BoxError| RestoreError::Link { offset, source };
        let mut found = HashMap::with_capacity(asks.len());
        for some in asks.chunks(CHUNKS_PER_ASK) {
            for fetched in self.link.fetch_cells(some).map_err(failed)? {
                let EntryId::Chunk(id) = fetched.entry.id() else {
                    let text = format!("{} came, which was not asked for", fetched.entry.id());
                    return Err(failed(text.into()));
                };
                let opened = fetched
                    .entry
                    .open(&*fetched.key, self.names, decoder)
                    .map_err(|source| RestoreError::DamagedChunk {
                        chunk: id,
                        offset,
                        source,
                    })?;
                let bytes = fetched.entry.info().sealed_len() + ChunkCells::WIRE_BYTES as u64;
                self.counters.fetched.fetch_add(bytes, Ordering::Relaxed);
                self.counters.cells.fetch_add(
                    opened.live.map_or(0, |live| live.count() as u64),
                    Ordering::Relaxed,
                );
                found.insert(id, opened);
            }
        }
        Ok(found)
    }
}

/// What a seed has in some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeedRead {
    /// The chunk.
    Same,
    /// Something else.
    Other,
    /// Zeros, or nothing that can be read.
    Nothing,
}

/// Whether asking for the hashes of cells pays: a hash costs a 256th of its cell, so that one cell in 64 must be there.
/// Where few are, every sixteenth window still asks.
#[derive(Debug, Default)]
pub(super) struct Asking {
    asked: AtomicU64,
    found: AtomicU64,
    passed: AtomicU64,
}

impl Asking {
    /// Cells asked for before anything is concluded: 64 MiB.
    const TRIAL: u64 = 16_384;

    pub(super) fn pays(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        let found = self.found.load(Ordering::Relaxed);
        asked < Self::TRIAL
            || found.saturating_mul(64) >= asked
            || self
                .passed
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(16)
    }

    pub(super) fn note(&self, asked: u64, found: u64) {
        self.found.fetch_add(found, Ordering::Relaxed);
        if self.asked.fetch_add(asked, Ordering::Relaxed) > 4 * Self::TRIAL {
            // What was long ago counts less; that two threads may halve at once does no harm.
            self.asked
                .store(self.asked.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            self.found
                .store(self.found.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }
}

/// Returns the needs of runs that consist of whole cells.
pub(super) fn plain_needs(runs: &[(ImageRun, store::ChunkSlice)]) -> Vec<Need> {
    let mut needs = needs_of(runs, None);
    needs.retain(|need| !need.is_ragged);
    needs
}
