//! A job's life on the agent: its lease, its steps, its figures, and how it may be stopped.
//!
//! [`JobContext`] is shared by everything that works for one job. A reporter task sends what is new and thereby renews
//! the lease; where that fails for [`jobs::rules`]' 40 seconds of boot time, or the server says so, the job is stopped:
//! [`JobContext::check`] fails from then on, and whatever waits or works for long is cancelled.

mod error;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::agent_v1::{Assignment, Event, EventKind, Figures, Progress};
use api_client::Agent;
use model::{Fence, JobId, MIB, Timestamp};
use pipeline::{Cancel, Options, RateLimit};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use error::{JobError, Stop};
pub(crate) use report::report_until;

use crate::clock;

/// One job, as everything that works for it sees it.
#[derive(Debug)]
pub(crate) struct JobContext {
    /// The server.
    pub(crate) server: Agent,
    /// The job.
    pub(crate) job: JobId,
    /// Its fence.
    pub(crate) fence: Fence,
    /// Whether a failure of this attempt ends the job.
    pub(crate) last_attempt: bool,
    state: Mutex<Pending>,
    changed: Notify,
    stopped: CancellationToken,
    pipelines: Cancel,
    rate: Option<RateLimit>,
    /// Bytes of the running step: parts that are done, the running part, all; updated without a lock.
    done: AtomicU64,
    within: AtomicU64,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    events: Vec<Event>,
    /// Everything told so far.
    history: Vec<Event>,
    last_number: u64,
    figures: Figures,
    stop: Option<Stop>,
}

impl JobContext {
    pub(crate) fn new(server: Agent, assignment: &Assignment, rate: Option<RateLimit>) -> Self {
        Self {
            server,
            job: assignment.job,
            fence: assignment.fence,
            last_attempt: assignment.last_attempt,
            state: Mutex::default(),
            changed: Notify::new(),
            stopped: CancellationToken::new(),
            pipelines: Cancel::new(),
            rate,
            done: AtomicU64::new(0),
            within: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// Returns the settings of a pipeline that reports to this job and stops with it.
    pub(crate) fn pipeline_options(context: &Arc<Self>) -> Options {
        let done = Arc::clone(context);
        Options {
            progress: Some(Arc::new(move |progress| {
                done.progress_within(progress.bytes_done);
            })),
            cancel: context.pipelines.clone(),
            rate: context.rate.clone(),
            ..Options::default()
        }
    }

    /// Returns what stops a pipeline once the job must stop.
    pub(crate) fn pipeline_cancel(&self) -> Cancel {
        self.pipelines.clone()
    }

    /// Returns what stops waiting for the host once the job must stop.
    pub(crate) fn host_cancel(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Waits until the job must stop.
    pub(crate) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Fails once the job must stop. Called before each step that cannot be taken back.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        match self.pending().stop {
            None => Ok(()),
            Some(stop) => Err(JobError::Stopped(stop)),
        }
    }

    /// Has the job reported on soon.
    pub(crate) fn report_soon(&self) {
        self.changed.notify_one();
    }

    /// Stops the job; the first reason counts.
    pub(crate) fn stop(&self, stop: Stop) {
        self.pending().stop.get_or_insert(stop);
        self.stopped.cancel();
        self.pipelines.cancel();
        self.changed.notify_one();
    }

    /// Runs a step: its start, its end and its figures go into the job's log.
    pub(crate) async fn step<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<(T, String), JobError>>,
    ) -> Result<T, JobError> {
        self.check()?;
        self.set_progress(0, 0);
        self.event(EventKind::StepStarted {
            step: name.to_owned(),
        });
        match work.await {
            Ok((value, detail)) => {
                info!(job.id = %self.job, "step {name}: {detail}");
                self.event(EventKind::StepDone {
                    step: name.to_owned(),
                    detail,
                });
                Ok(value)
            }
            Err(error) => {
                // A stop makes whatever was running fail in its own way: the stop is the reason.
                let error = self.check().err().unwrap_or(error);
                warn!(job.id = %self.job, "step {name} failed: {error}");
                self.event(EventKind::StepFailed {
                    step: name.to_owned(),
                    detail: error.to_string(),
                });
                Err(error)
            }
        }
    }

    /// Adds a line to the job's log.
    pub(crate) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        info!(job.id = %self.job, "{text}");
        self.event(EventKind::Note { text });
    }

    /// Adds a warning: the result will be usable, but this was not honoured.
    pub(crate) fn warning(&self, text: impl Into<String>) {
        let text = text.into();
        warn!(job.id = %self.job, "{text}");
        self.event(EventKind::Warning { text });
    }

    /// Sets the progress of the running step.
    pub(crate) fn set_progress(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
        self.within.store(0, Ordering::Relaxed);
    }

    /// Sets how far the running part of the step is; parts before it are counted by [`end_part`](Self::end_part).
    pub(crate) fn progress_within(&self, bytes: u64) {
        let before = self.within.swap(bytes, Ordering::Relaxed);
        if before / (64 * MIB) != bytes / (64 * MIB) {
            self.changed.notify_one();
        }
    }

    /// Ends a part of the running step.
    pub(crate) fn end_part(&self, bytes: u64) {
        self.within.store(0, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Changes the figures.
    pub(crate) fn figures(&self, change: impl FnOnce(&mut Figures)) -> Figures {
        let mut pending = self.pending();
        change(&mut pending.figures);
        pending.figures
    }

    fn progress(&self) -> Progress {
        let done = self.done.load(Ordering::Relaxed) + self.within.load(Ordering::Relaxed);
        let bytes_total = self.total.load(Ordering::Relaxed);
        Progress {
            bytes_done: done.min(bytes_total),
            bytes_total,
        }
    }

    fn event(&self, what: EventKind) {
        self.event_at(clock::now(), what);
    }

    fn event_at(&self, at: Timestamp, what: EventKind) {
        let mut pending = self.pending();
        pending.last_number += 1;
        let number = pending.last_number;
        let event = Event { number, at, what };
        pending.history.push(event.clone());
        pending.events.push(event);
        drop(pending);
        self.changed.notify_one();
    }

    /// Returns everything this run has told, or is about to tell.
    pub(crate) fn history(&self) -> Vec<Event> {
        self.pending().history.clone()
    }

    /// Tells what an earlier run has told, with its times.
    pub(crate) fn tell_again(&self, told: Vec<Event>) {
        for event in told {
            self.event_at(event.at, event.what);
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        // What is behind the lock is changed in single steps, so it holds after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
