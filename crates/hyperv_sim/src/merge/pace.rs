//! How fast work on disk files goes, how far it is, and when it stops.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::engine::{DiskLock, Engine};
use crate::failure::Failure;
use crate::jobs::Job;
use crate::methods::Operation;
use crate::winpath::WinPath;

/// How often a slow merge looks around.
const GLANCE: Duration = Duration::from_millis(20);

/// How fast a merge goes, and when it stops.
pub(crate) struct Pace<'a> {
    engine: &'a Engine,
    job: Option<&'a Job>,
    /// Somebody waiting for these disks is let in.
    yields_to: Option<Arc<DiskLock>>,
    bytes_per_second: u64,
    begun: Instant,
    /// Files merged before by the same job.
    before: u64,
}

impl<'a> Pace<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        job: &'a Job,
        vm: Uuid,
        before: u64,
        yields: bool,
    ) -> Self {
        Self {
            yields_to: yields.then(|| engine.disks_of(vm)),
            before,
            ..Self::of_job(engine, Some(job))
        }
    }

    /// The pace of work that lets nobody in between.
    pub(crate) fn of_job(engine: &'a Engine, job: Option<&'a Job>) -> Self {
        Self {
            engine,
            job,
            yields_to: None,
            bytes_per_second: engine.knobs().merge_bytes_per_second,
            begun: Instant::now(),
            before: 0,
        }
    }

    /// Called between pieces of work.
    pub(crate) fn go_on(&self, at: vhdx::Progress) -> ControlFlow<()> {
        if let Some(job) = self.job {
            let files = u64::from(matches!(job.operation, Operation::MergeDisks { .. }));
            let more = self.before * files;
            let (done, of) = (at.bytes_done / 1024, at.bytes_total / 1024);
            self.engine.set_done(
                job.id,
                of.saturating_mul(more).saturating_add(done),
                of.saturating_mul(more + 1 + files),
            );
        }
        let due = at
            .bytes_done
            .saturating_mul(1000)
            .checked_div(self.bytes_per_second)
            .map(Duration::from_millis);
        loop {
            if self.stops() {
                return ControlFlow::Break(());
            }
            let left = due.and_then(|due| due.checked_sub(self.begun.elapsed()));
            match left.filter(|left| !left.is_zero()) {
                Some(left) => self.engine.pause(left.min(GLANCE)),
                None => return ControlFlow::Continue(()),
            };
        }
    }

    fn stops(&self) -> bool {
        self.engine.is_stopping() || self.is_cancelled() || self.is_wanted()
    }

    fn is_cancelled(&self) -> bool {
        self.job.is_some_and(|job| self.engine.is_cancelled(job.id))
    }

    fn is_wanted(&self) -> bool {
        self.yields_to
            .as_ref()
            .is_some_and(|disks| disks.is_wanted())
    }

    /// Says why work of the disk library ended.
    pub(crate) fn failure(&self, path: &WinPath, err: &vhdx::Error) -> Failure {
        if !matches!(err, vhdx::Error::Cancelled) {
            Failure::vhdx(path, err)
        } else if self.is_cancelled() {
            Failure::cancelled()
        } else {
            Failure::yielded()
        }
    }
}
