//! Seeds: disks and files the target host has anyway, of which a restore takes what it finds in them.
//!
//! A seed is believed nothing. What is taken from one was hashed in the very buffer that is written, so a seed that is
//! wrong, is being written to, or cannot be read costs time and bytes on the wire, never content.
//!
//! Two ways to find bytes: at the image's own offsets ([`SeedUse::same_place`]), and anywhere by content ([`index`]).

mod index;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use store::{CellKey, SessionKeys};
use vhdx::ExtentKind;

use crate::backup::lock;
use crate::{ImageSource, Options};
pub(crate) use index::{Index, Place};

/// A seed that could not be read so often is left alone.
const FAILURES_MAX: u32 = 8;
/// The most seeds of one restore: the number of one fits in a place of the index.
pub const SEEDS_MAX: usize = 256;

/// A disk or file the host has.
#[derive(Clone)]
pub struct Seed {
    /// What people call it.
    pub name: String,
    /// Its bytes.
    pub source: Arc<dyn ImageSource + Send + Sync>,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({:?}, {} bytes)", self.name, self.source.len())
    }
}

/// The seeds of a restore session, shared by all its images.
#[derive(Debug)]
pub struct Seeds {
    seeds: Vec<Seed>,
    failures: Vec<AtomicU32>,
    key: CellKey,
    scan_bytes: u64,
    index: Mutex<Option<Arc<Index>>>,
}

/// What one image takes of the seeds.
#[derive(Clone, Debug)]
pub struct SeedUse {
    /// All seeds.
    pub seeds: Arc<Seeds>,
    /// Those whose bytes may be where the image has them, by their numbers: the likeliest first, a few at most. Each is
    /// read along with the image.
    pub same_place: Vec<usize>,
}

impl Seeds {
    /// Takes the seeds (the first [`SEEDS_MAX`]) and the session's key of cell hashes. At most `scan_bytes` of them are read
    /// to find content that lies elsewhere, in their order.
    #[must_use]
    pub fn new(mut seeds: Vec<Seed>, key: CellKey, scan_bytes: u64) -> Self {
        seeds.truncate(SEEDS_MAX);
        let failures = seeds.iter().map(|_| AtomicU32::new(0)).collect();
        Self {
            seeds,
            failures,
            key,
            scan_bytes,
            index: Mutex::new(None),
        }
    }

    /// Returns the seeds.
    #[must_use]
    pub fn as_slice(&self) -> &[Seed] {
        &self.seeds
    }

    /// Returns the names of seeds that could not be read and were left alone.
    #[must_use]
    pub fn given_up(&self) -> Vec<&str> {
        let seeds = self.seeds.iter().enumerate();
        let lost = seeds.filter(|(number, _)| !self.is_usable(*number));
        lost.map(|(_, seed)| seed.name.as_str()).collect()
    }

    /// Returns what was read and found when the seeds were looked through for content, if they were.
    #[must_use]
    pub fn scanned(&self) -> Option<ScanFigures> {
        lock(&self.index).as_ref().map(|index| index.figures())
    }

    pub(crate) fn key(&self) -> &CellKey {
        &self.key
    }

    pub(crate) fn ready_index(&self) -> Option<Arc<Index>> {
        lock(&self.index).clone()
    }

    /// Reads the seeds once for what they hold; the next call has it at hand. `None` where the run was cancelled.
    pub(crate) fn index(
        &self,
        names: &SessionKeys,
        wanted_bytes: u64,
        options: &Options,
    ) -> Option<Arc<Index>> {
        let mut index = lock(&self.index);
        if index.is_none() {
            *index = Index::build(self, names, wanted_bytes, options).map(Arc::new);
        }
        index.clone()
    }

    fn is_usable(&self, seed: usize) -> bool {
        self.failures
            .get(seed)
            .is_some_and(|failures| failures.load(Ordering::Relaxed) < FAILURES_MAX)
    }

    /// Fills `out` with a seed's bytes from `offset`; what it does not have is zero. Says whether anything was read: a seed
    /// that fails, ends before or is known to be zero here gives nothing.
    pub(crate) fn read(&self, seed: usize, offset: u64, out: &mut [u8], options: &Options) -> bool {
        let Some(found) = self.seeds.get(seed).filter(|_| self.is_usable(seed)) else {
            return false;
        };
        let source = &*found.source;
        let beyond = source.len().saturating_sub(offset);
        let len = usize::try_from(beyond).map_or(out.len(), |beyond| beyond.min(out.len()));
        let (known, rest) = out.split_at_mut(len);
        rest.fill(0);
        if known.is_empty() {
            return false;
        }
        let read = read_data(source, offset, known, options);
        read.unwrap_or_else(|| {
            if let Some(failures) = self.failures.get(seed) {
                failures.fetch_add(1, Ordering::Relaxed);
            }
            false
        })
    }
}

/// What looking through the seeds came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanFigures {
    /// Bytes read.
    pub bytes: u64,
    /// Chunks whose places are known.
    pub chunks: u64,
    /// Cells whose places are known.
    pub cells: u64,
}

/// Reads what may be data; `None` where the source fails or makes no sense.
fn read_data(
    source: &dyn ImageSource,
    offset: u64,
    out: &mut [u8],
    options: &Options,
) -> Option<bool> {
    let extents = source.extents(offset, out.len() as u64).ok()?;
    let (mut at, mut any) = (0, false);
    for extent in extents {
        let len = usize::try_from(extent.len).ok()?.min(out.len() - at);
        let part = &mut out[at..at + len];
        match extent.kind {
            ExtentKind::Zero => part.fill(0),
            ExtentKind::Data => {
                options.pace(len as u64);
                source.read_at(part, offset + at as u64).ok()?;
                any = true;
            }
        }
        at += len;
    }
    (at == out.len()).then_some(any)
}
