//! What a caller may set.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::ByteRange;

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

/// Settings of a backup, restore or verification.
#[derive(Clone, Default)]
pub struct Options {
    /// Threads that hash and compress; by default as many as the machine has cores.
    pub threads: Option<NonZeroUsize>,
    /// Restore and verification: only these ranges of the image, sorted and apart; by default all of it.
    pub ranges: Option<Vec<ByteRange>>,
    /// Called now and then, from any thread.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// Stops the run.
    pub cancel: Cancel,
}

impl Options {
    /// Returns how many threads work.
    pub(crate) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(cores).get()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .field("ranges", &self.ranges)
            .field("cancel", &self.cancel)
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
