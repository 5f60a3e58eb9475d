//! What a caller may set.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::ByteRange;

use crate::SeedUse;
use crate::backup::lock;

/// Tells a running pipeline to stop. Clones share the wish.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes one that was not pulled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the pipeline to stop soon; it ends with a `Cancelled` error.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Says whether it was pulled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the image (or of its changed ranges) that are dealt with, holes included.
    pub bytes_done: u64,
    /// All of them.
    pub bytes_total: u64,
}

/// Most bytes per second that are read from and written to images, in all. Clones share what is left of it.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<RateState>);

#[derive(Debug)]
struct RateState {
    bytes_per_second: NonZeroU64,
    /// When the bytes handed out so far will have had their time.
    free_at: Mutex<Instant>,
}

impl RateLimit {
    /// How long a cancelled run waits at most.
    const GLANCE: Duration = Duration::from_millis(50);

    /// Makes one of which nothing is used.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self(Arc::new(RateState {
            bytes_per_second,
            free_at: Mutex::new(Instant::now()),
        }))
    }

    /// Waits until so many bytes may go; ends early where the run is cancelled.
    fn wait(&self, bytes: u64, cancel: &Cancel) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.bytes_per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let due = {
            let mut free_at = lock(&self.0.free_at);
            let due = (*free_at).max(Instant::now());
            *free_at = due.checked_add(time).unwrap_or(due);
            due
        };
        while !cancel.is_cancelled() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Self::GLANCE));
        }
    }
}

/// Settings of a backup, restore or verification.
#[derive(Clone, Default)]
pub struct Options {
    /// Threads that hash and compress; by default as many as the machine has cores.
    pub threads: Option<NonZeroUsize>,
    /// Restore and verification: only these ranges of the image, sorted and apart; by default all of it.
    pub ranges: Option<Vec<ByteRange>>,
    /// Restore: disks and files of the target host that may hold parts of the image.
    pub seeds: Option<SeedUse>,
    /// Called now and then, from any thread.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// Stops the run.
    pub cancel: Cancel,
    /// How fast images are read and written; as fast as it goes without.
    pub rate: Option<RateLimit>,
}

impl Options {
    /// Returns how many threads work.
    pub(crate) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(cores).get()
    }

    /// Waits until so many bytes of an image may be read or written.
    pub(crate) fn pace(&self, bytes: u64) {
        if let Some(rate) = &self.rate {
            rate.wait(bytes, &self.cancel);
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .field("ranges", &self.ranges)
            .field("seeds", &self.seeds)
            .field("cancel", &self.cancel)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// Counts what is done and tells the caller.
pub(crate) struct Meter<'a> {
    options: &'a Options,
    done: AtomicU64,
    total: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(options: &'a Options, total: u64) -> Self {
        Self {
            options,
            done: AtomicU64::new(0),
            total,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn add(&self, bytes: u64) {
        let bytes_done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.options.progress {
            progress(Progress {
                bytes_done,
                bytes_total: self.total,
            });
        }
    }
}
