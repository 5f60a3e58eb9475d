//! From an image tree to a target.
//!
//! The tree is walked in the order of the disk and split into windows of 4 MiB. Threads fetch, open and check the chunks of
//! a window and put its bytes together; the calling thread writes the windows in order. A chunk that more than one window
//! needs is kept for a while ([`cache`]).
//!
//! With seeds ([`Options::seeds`]) a window takes from them what it can prove, before anything is fetched ([`reuse`]).
//!
//! Memory: [`WINDOWS_PER_THREAD`] windows per thread and the chunks on their way to one, plus
//! [`cache::CACHE_BYTES`].

mod cache;
mod hints;
mod needs;
mod planner;
mod reuse;
mod seeded;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use model::{ByteRange, ImageRef};
use store::{ImageDigest, NodeId, REGION_BYTES, SessionKeys, Tree, TreeError, TreeRoot};

use crate::backup::lock;
use crate::link::LinkNodes;
use crate::options::Meter;
use crate::verify::{Piece, WrittenPieces};
use crate::{ImageTarget, Options, RestoreError, RestoreLink};
use cache::ChunkCache;
use planner::{Window, plan_windows};
use reuse::Reuse;
use window::{Filled, Filler};

/// Windows between the tree and the target, per thread.
const WINDOWS_PER_THREAD: usize = 2;

/// What a restore cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreFigures {
    /// Chunks fetched; one may come twice.
    pub chunks: u64,
    /// Bytes of chunks and of single cells as they came, sealed.
    pub bytes_fetched: u64,
    /// Single cells fetched, of chunks whose other cells the host had.
    pub cells: u64,
    /// Bytes of cell hashes that were asked for.
    pub cell_hash_bytes: u64,
    /// Bytes taken from seeds.
    pub bytes_reused: u64,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Bytes of holes, not written.
    pub bytes_skipped: u64,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct RestoreOutcome {
    /// The digest of the content that was written, where that is the whole image; equal to the recovery point's, where
    /// that has one.
    pub digest: Option<ImageDigest>,
    /// What must read back from the target: see [`crate::verify_image`].
    pub pieces: WrittenPieces,
    /// What it cost.
    pub figures: RestoreFigures,
}

/// Writes an image (or [`Options::ranges`] of it) to a target, every chunk checked against its id, in the order of the
/// disk; holes are not written.
///
/// A failure leaves a target that ends somewhere; the caller discards it, or goes on with [`resume_image`] from what it
/// was told by [`ImageTarget::reached`].
pub fn restore_image(
    image: &ImageRef,
    names: &SessionKeys,
    link: &dyn RestoreLink,
    target: &mut dyn ImageTarget,
    options: &Options,
) -> Result<RestoreOutcome, RestoreError> {
    let root = TreeRoot::from_image_ref(image).map_err(RestoreError::Tree)?;
    let whole = [ByteRange {
        offset: 0,
        len: root.len,
    }];
    let ranges = options.ranges.as_deref().unwrap_or(&whole);
    let nodes = LinkNodes(|ids: &[NodeId]| link.read_nodes(ids));
    let meter = Meter::new(options, ranges.iter().map(|range| range.len).sum());
    let cache = ChunkCache::default();
    let counters = Counters::default();
    let buffers = Mutex::new(Vec::new());
    let tree = Tree::new(root, &nodes, names);
    let reuse = match &options.seeds {
        Some(seeds) => Some(Reuse::new(
            seeds, &tree, ranges, link, names, options, &counters,
        )?),
        None => None,
    };
    let workers = options.workers();
    let windows_ahead = workers * WINDOWS_PER_THREAD + 1;

    let (permits, permitted) = channel::<()>();
    for _ in 0..windows_ahead {
        permits.send(()).expect("the receiver is here");
    }
    let (work, todo) = channel::<(u64, Window)>();
    let todo = Mutex::new(todo);
    let (done, filled) = channel::<(u64, Result<Filled, RestoreError>)>();

    std::thread::scope(|scope| {
        let (cache, counters, buffers, todo) = (&cache, &counters, &buffers, &todo);
        let (nodes, reuse) = (&nodes, reuse.as_ref());
        let planned = done.clone();
        scope.spawn(move || {
            let tree = Tree::new(root, nodes, names);
            let windows = Regions {
                windows: plan_windows(&tree, ranges).peekable(),
                reuse,
                ready: VecDeque::new(),
            };
            send_windows(windows, &options.cancel, &permitted, &work, &planned);
        });
        for _ in 0..workers {
            let done = done.clone();
            scope.spawn(move || {
                let mut filler = Filler::new(link, names, cache, counters, buffers, reuse);
                loop {
                    let next = lock(todo).recv();
                    let Ok((number, window)) = next else { return };
                    if done.send((number, filler.fill(window))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let written = write_windows(&filled, &permits, target, options, &meter, buffers);
        // The planner waits for permits, the workers for windows: let go of both ends.
        drop((permits, filled));
        written
    })
    .and_then(|(pieces, written)| {
        let pieces = WrittenPieces::new(root.len, pieces);
        let digest = match options.ranges {
            None => checked_digest(&pieces, image)?,
            Some(_) => None,
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let figures = RestoreFigures {
            chunks: get(&counters.chunks),
            bytes_fetched: get(&counters.fetched),
            cells: get(&counters.cells),
            cell_hash_bytes: get(&counters.cell_hash_bytes),
            bytes_reused: get(&counters.reused),
            bytes_written: written,
            bytes_skipped: meter.total() - written,
        };
        Ok(RestoreOutcome {
            digest,
            pieces,
            figures,
        })
    })
}

/// Writes what is missing of an image that an earlier run had begun: `held` is what the target still holds of it (see
/// [`crate::held_pieces`]). The outcome is that of the whole image; its figures are of this run.
pub fn resume_image(
    image: &ImageRef,
    names: &SessionKeys,
    link: &dyn RestoreLink,
    target: &mut dyn ImageTarget,
    held: WrittenPieces,
    options: &Options,
) -> Result<RestoreOutcome, RestoreError> {
    let missing = held.missing();
    let mut figures = RestoreFigures::default();
    let mut pieces = held;
    if !missing.is_empty() {
        let options = Options {
            ranges: Some(missing),
            ..options.clone()
        };
        let outcome = restore_image(image, names, link, target, &options)?;
        figures = outcome.figures;
        pieces = pieces.joined(outcome.pieces);
    }
    Ok(RestoreOutcome {
        digest: checked_digest(&pieces, image)?,
        pieces,
        figures,
    })
}

/// What all threads count.
#[derive(Default)]
struct Counters {
    chunks: AtomicU64,
    fetched: AtomicU64,
    cells: AtomicU64,
    cell_hash_bytes: AtomicU64,
    reused: AtomicU64,
}

/// Windows in order; with seeds those of a region come with what is known of the chunks they share.
struct Regions<'a, W: Iterator<Item = Result<Window, TreeError>>> {
    windows: Peekable<W>,
    reuse: Option<&'a Reuse<'a>>,
    ready: VecDeque<Window>,
}

impl<W: Iterator<Item = Result<Window, TreeError>>> Iterator for Regions<'_, W> {
    type Item = Result<Window, RestoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(window) = self.ready.pop_front() {
            return Some(Ok(window));
        }
        let first = match self.windows.next()? {
            Ok(window) => window,
            Err(error) => return Some(Err(RestoreError::Tree(error))),
        };
        let Some(reuse) = self.reuse.filter(|_| !first.runs.is_empty()) else {
            return Some(Ok(first));
        };
        // Windows with data never cross the border of a region; holes between them may.
        let region = first.range.offset / REGION_BYTES;
        let mut group = vec![first];
        while let Some(Ok(window)) = self.windows.next_if(|next| {
            next.as_ref()
                .is_ok_and(|next| next.range.offset / REGION_BYTES == region)
        }) {
            group.push(window);
        }
        let hints = match reuse.hints(&group) {
            Ok(hints) => Arc::new(hints),
            Err(error) => return Some(Err(error)),
        };
        self.ready = group.into();
        for window in &mut self.ready {
            window.hints = Some(Arc::clone(&hints));
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Plans windows as long as permits come; a failure takes the place of the next window.
fn send_windows(
    windows: impl Iterator<Item = Result<Window, RestoreError>>,
    cancel: &crate::Cancel,
    permitted: &Receiver<()>,
    work: &Sender<(u64, Window)>,
    planned: &Sender<(u64, Result<Filled, RestoreError>)>,
) {
    for (number, window) in (0u64..).zip(windows) {
        if permitted.recv().is_err() {
            return;
        }
        let window = match window {
            Ok(_) if cancel.is_cancelled() => Err(RestoreError::Cancelled),
            other => other,
        };
        let sent = match window {
            Ok(window) if window.runs.is_empty() => planned
                .send((number, Ok(Filled::hole(window.range))))
                .is_ok(),
            Ok(window) => work.send((number, window)).is_ok(),
            Err(error) => {
                // The receiver may have gone after a failure of its own.
                drop(planned.send((number, Err(error))));
                false
            }
        };
        if !sent {
            return;
        }
    }
}

/// Writes windows in order until there are no more; returns what was written.
fn write_windows(
    filled: &Receiver<(u64, Result<Filled, RestoreError>)>,
    permits: &Sender<()>,
    target: &mut dyn ImageTarget,
    options: &Options,
    meter: &Meter<'_>,
    buffers: &Mutex<Vec<Vec<u8>>>,
) -> Result<(Vec<Piece>, u64), RestoreError> {
    let (mut next, mut waiting) = (0, BTreeMap::new());
    let (mut pieces, mut written): (Vec<Piece>, u64) = (Vec::new(), 0);
    while let Ok((number, window)) = filled.recv() {
        // A failure ends the restore at once, whatever is before it.
        waiting.insert(number, window?);
        while let Some(window) = waiting.remove(&next) {
            if options.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let mut data = 0;
            for range in &window.data {
                options.pace(range.len() as u64);
                let offset = window.range.offset + range.start as u64;
                target
                    .write(offset, &window.bytes[range.clone()])
                    .map_err(|source| RestoreError::Write { offset, source })?;
                data += range.len() as u64;
            }
            target
                .reached(&window.pieces)
                .map_err(|source| RestoreError::Write {
                    offset: window.range.offset,
                    source,
                })?;
            written += data;
            if !window.bytes.is_empty() {
                lock(buffers).push(window.bytes);
            }
            pieces.extend(window.pieces);
            meter.add(window.range.len);
            next += 1;
            // Where the planner has ended, all windows are on their way.
            permits.send(()).ok();
        }
    }
    // Whatever ended the threads: what is not written must not pass for written.
    let (found, expected) = (
        pieces.iter().map(|piece| piece.range.len).sum(),
        meter.total(),
    );
    if found == expected {
        Ok((pieces, written))
    } else {
        Err(RestoreError::Incomplete { found, expected })
    }
}

/// Returns the digest of what was written; it must be the recovery point's, where that has one.
fn checked_digest(
    pieces: &WrittenPieces,
    image: &ImageRef,
) -> Result<Option<ImageDigest>, RestoreError> {
    let digest = pieces.digest();
    if let (Some(found), Some(expected)) = (digest, &image.digest)
        && found.to_string() != *expected
    {
        let (expected, found) = (expected.clone(), found.to_string());
        return Err(RestoreError::WrongDigest { expected, found });
    }
    Ok(digest)
}
