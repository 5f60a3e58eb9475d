//! How far long work is, and whether someone asked it to stop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::output::{Output, clean};

/// Between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What the library calls to tell how far its work is.
pub(super) type Tell<'a> = dyn FnMut(vhdx::Progress) -> ControlFlow<()> + 'a;

/// A request to stop, seen by the thread that works.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the work to stop.
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What every verb gets: where to print, and how to know that it is to stop.
#[derive(Debug)]
pub(super) struct Ctx {
    /// Where results go.
    pub(super) out: Output,
    stop: Stop,
    lines: bool,
    /// Someone watches a terminal. Asked once: the answer costs a system call, and work asks often.
    bar: bool,
}

impl Ctx {
    /// Makes the surroundings of one verb; `lines` asks for progress line by line.
    pub(super) fn new(out: Output, stop: Stop, lines: bool) -> Self {
        Self {
            bar: out.shows_progress(),
            out,
            stop,
            lines,
        }
    }

    /// Begins to tell the progress of work, named by verb and file.
    pub(super) fn progress(&self, title: impl Into<String>) -> Progress<'_> {
        Progress {
            ctx: self,
            title: clean(&title.into()),
            bar: None,
            told: None,
        }
    }
}

/// The progress of one piece of work; what a terminal shows of it goes away with it.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    ctx: &'a Ctx,
    title: String,
    bar: Option<ProgressBar>,
    /// When the last line was printed, and how many bytes it told.
    told: Option<(Instant, u64)>,
}

impl Progress<'_> {
    /// Says how far the work is, in bytes; `Break` if it is to stop.
    pub(super) fn at(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        if self.ctx.lines {
            self.line(done, total);
        } else if self.ctx.bar {
            let title = &self.title;
            let bar = self.bar.get_or_insert_with(|| new_bar(title));
            bar.set_length(total);
            bar.set_position(done);
        }
        if self.ctx.stop.is_asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Says that new work was stopped, which leaves nothing behind.
    pub(super) fn stopped(&self) -> Failure {
        Failure::new(
            "cancelled",
            format!("{}: stopped on request; nothing is left of it", self.title),
        )
        .hint("run it again to begin anew")
    }

    /// As [`Progress::at`], for work that ends with a failure.
    pub(super) fn go_on(&mut self, done: u64, total: u64) -> Result<(), Failure> {
        match self.at(done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(self.stopped()),
        }
    }

    fn line(&mut self, done: u64, total: u64) {
        let due = match self.told {
            None => true,
            Some((_, before)) if before == done => false,
            Some((when, _)) => done == total || when.elapsed() >= LINE_EVERY,
        };
        if !due {
            return;
        }
        self.told = Some((Instant::now(), done));
        if self.ctx.out.is_json() {
            let line = serde_json::json!({
                "progress": { "bytes_done": done, "bytes_total": total }
            });
            self.ctx.out.note(&line.to_string());
        } else {
            self.ctx
                .out
                .note(&format!("{}: {done} of {total} bytes", self.title));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(title: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(title.to_owned());
    let style = ProgressStyle::with_template(
        "{prefix} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    );
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
