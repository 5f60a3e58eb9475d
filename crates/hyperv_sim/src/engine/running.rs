//! Jobs at work: how they are started, told what rules make of them, ended, and what follows.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Engine, State, Waited, is_cancelled, lock};
use crate::clock::now;
use crate::ctl::FaultRule;
use crate::failure::{Failure, code};
use crate::jobs::{CONTROL, Ending, Job, Twist};
use crate::methods::Operation;
use crate::refusals::Refusal;
use crate::state::{JobsState, save};

/// How long a job that is at its work keeps another one waiting before that is refused.
const GRACE: Duration = Duration::from_millis(200);

impl Engine {
    /// Starts a job and returns its id. Refused while another one has the VM, unless the host itself asks for it.
    pub(crate) fn start_job(
        self: &Arc<Self>,
        method: &str,
        vm: Option<Uuid>,
        operation: Operation,
    ) -> Result<Uuid, Failure> {
        let mut job = Job::new(method, vm, operation, 0);
        // What people do with `sim ctl`, and a guest that goes down by itself, ask nobody.
        let asks = job.is_exclusive() && method != CONTROL;
        let busy = |state: &State| {
            vm.and_then(|vm| work_on(&state.jobs, vm))
                .filter(|_| asks)
                .cloned()
        };
        let free = |state: &State| match busy(state) {
            Some(busy) => Err(Failure::refused(
                Refusal::BusyWithJob,
                format!("{} is under way on this virtual machine", busy.method),
            )),
            None => Ok(()),
        };
        // What a job did can be seen a moment before it has ended: that moment is nobody's refusal.
        self.wait_for(GRACE, |state| match busy(state) {
            Some(job) if job.delay().is_zero() => None,
            Some(_) | None => Some(()),
        });
        self.read(free)?;
        let merges = matches!(job.operation, Operation::MergeDisks { .. });
        if !merges {
            job.millis = self.knobs().job_millis;
            job.twist = self.twist(method, vm);
        }
        let mut state = lock(&self.state);
        free(&state)?;
        let id = job.id;
        let now = now();
        let kept = state.host.knobs.job_kept_millis;
        let mut jobs = JobsState {
            jobs: state
                .jobs
                .iter()
                .filter(|job| !job.is_gone(now, kept))
                .cloned()
                .collect(),
        };
        jobs.jobs.push(job);
        save(&self.layout.jobs(), &jobs).map_err(|err| Failure::io("write the jobs", &err))?;
        state.jobs = jobs.jobs;
        self.changed.notify_all();
        drop(state);
        self.spawn_job(id);
        Ok(id)
    }

    /// Takes the rules that apply to a job.
    fn twist(&self, method: &str, vm: Option<Uuid>) -> Twist {
        let strikes = |rule| self.fault(rule, &[method], vm);
        let fail = |rule| {
            if let FaultRule::JobFailedWith(code) = rule {
                return Some(u32::from(code));
            }
            (rule == FaultRule::JobFailed).then_some(code::FAILED)
        };
        Twist {
            fail: self.fault_with(fail, &[method], vm),
            fail_after: strikes(FaultRule::JobFailedAfter),
            terminate: strikes(FaultRule::JobTerminated),
            warn: strikes(FaultRule::JobWarnings),
            suspend_millis: if strikes(FaultRule::JobSuspended) {
                self.knobs().suspend_millis
            } else {
                0
            },
            vanish: strikes(FaultRule::JobVanishes),
            unlinked: strikes(FaultRule::AssociationMissing),
        }
    }

    /// Ends a job at the wish of a client.
    pub(crate) fn cancel_job(&self, id: Uuid, ending: Ending) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        let mut jobs = JobsState {
            jobs: state.jobs.clone(),
        };
        let job = jobs.jobs.iter_mut().find(|job| job.id == id);
        let job = job.ok_or_else(|| Failure::invalid("the job is gone"))?;
        if !job.is_cancellable() {
            return Err(Failure::refused(
                Refusal::CancelNotPossible,
                format!("{} cannot be cancelled, or has ended", job.method),
            ));
        }
        job.cancelled = Some(ending);
        save(&self.layout.jobs(), &jobs).map_err(|err| Failure::io("write the jobs", &err))?;
        state.jobs = jobs.jobs;
        self.changed.notify_all();
        Ok(())
    }

    pub(crate) fn is_cancelled(&self, job: Uuid) -> bool {
        self.read(|state| is_cancelled(state, job))
    }

    /// Says how much of a job's work is done.
    pub(crate) fn set_done(&self, job: Uuid, done: u64, of: u64) {
        let percent = u128::from(done) * 100 / u128::from(of.max(1));
        let percent = u64::try_from(percent).unwrap_or(100).min(100);
        let mut state = lock(&self.state);
        let known = state.done.entry(job).or_default();
        *known = percent.max(*known);
    }

    pub(super) fn spawn_job(self: &Arc<Self>, id: Uuid) {
        let engine = Arc::clone(self);
        self.spawn("job", move || engine.run_job(id));
    }

    fn run_job(self: &Arc<Self>, id: Uuid) {
        let Some(job) = self.read(|state| state.jobs.iter().find(|job| job.id == id).cloned())
        else {
            return;
        };
        let result = match self.pause_job(id, job.delay()) {
            Waited::Stopped => return,
            Waited::Cancelled => Err(Failure::cancelled()),
            Waited::Out => match job.told() {
                Some(failure) => Err(failure),
                None => {
                    let result = job.operation.perform(self, &job);
                    result.map_err(|failure| job.operation.at_border(failure))
                }
            },
        };
        if self.is_stopping() && result.is_err() {
            // Interrupted rather than failed: it is taken up again at the next start.
            return;
        }
        if let Err(failure) = &result {
            tracing::info!("job of {} failed: {failure}", job.method);
        }
        let mut state = lock(&self.state);
        let mut jobs = JobsState {
            jobs: state.jobs.clone(),
        };
        if let Some(job) = jobs.jobs.iter_mut().find(|job| job.id == id) {
            job.finish(result);
        }
        if let Err(err) = save(&self.layout.jobs(), &jobs) {
            tracing::error!("failed to write the jobs: {err}");
        }
        state.jobs = jobs.jobs;
        state.done.remove(&id);
        self.changed.notify_all();
        drop(state);
        let Some(vm) = job.vm else { return };
        if let Operation::MergeDisks { vm } = job.operation {
            lock(&self.merging).remove(&vm);
        } else if self.vm(vm).is_some_and(|vm| vm.merge_put_off) {
            let again = self.update_vm(vm, |vm| {
                vm.merge_put_off = false;
                Ok(())
            });
            if let Err(err) = again {
                tracing::error!("a merge stays put off: {err}");
            }
        }
        self.start_merging(vm);
    }
}

/// Returns the job that has a VM.
fn work_on(jobs: &[Job], vm: Uuid) -> Option<&Job> {
    jobs.iter()
        .find(|job| job.vm == Some(vm) && job.is_exclusive())
}
