//! Jobs: work that a method started and a client polls.
//!
//! A job is on disk before the method answers, and its outcome before anybody can see it. A host that is killed takes
//! its unfinished jobs up again from the start, so every operation can be done twice: what it makes has its id chosen
//! when the job is made.

use std::time::Duration;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::now;
use crate::failure::{Cause, Failure, code};
use crate::methods::Operation;

/// JobType.
pub(crate) mod job_type {
    pub(crate) const DEFINE: u16 = 1;
    pub(crate) const MODIFY: u16 = 2;
    pub(crate) const DESTROY: u16 = 3;
    pub(crate) const START: u16 = 12;
    pub(crate) const STOP: u16 = 13;
    pub(crate) const ADD_RESOURCES: u16 = 30;
    pub(crate) const MODIFY_RESOURCES: u16 = 31;
    pub(crate) const MERGE_DISKS: u16 = 50;
    pub(crate) const IMPORT: u16 = 61;
    pub(crate) const EXPORT: u16 = 62;
    pub(crate) const CREATE_SNAPSHOT: u16 = 70;
    pub(crate) const APPLY_SNAPSHOT: u16 = 71;
    pub(crate) const DELETE_SNAPSHOT: u16 = 72;
    pub(crate) const CLEAR_SNAPSHOT: u16 = 73;
    pub(crate) const IMAGE: u16 = 40;
}

/// The name merges have in jobs and fault rules.
pub(crate) const MERGE: &str = "merge";
/// The name control commands have in jobs and fault rules.
pub(crate) const CONTROL: &str = "sim.ctl";

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) job_type: u16,
    /// `Class.Method` that started it.
    pub(crate) method: String,
    pub(crate) vm: Option<Uuid>,
    pub(crate) operation: Operation,
    pub(crate) submitted: Timestamp,
    /// How long it is to take, besides its work.
    pub(crate) millis: u64,
    /// What fault rules do to it.
    #[serde(default)]
    pub(crate) twist: Twist,
    /// How a client asked it to end.
    #[serde(default)]
    pub(crate) cancelled: Option<Ending>,
    pub(crate) outcome: Option<Outcome>,
}

/// What fault rules do to a job; decided when it starts, so that a host that is killed does the same again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Twist {
    /// Ends with this error code and does nothing.
    pub(crate) fail: Option<u32>,
    /// Does its work and fails all the same.
    pub(crate) fail_after: bool,
    /// Ends terminated and does nothing.
    pub(crate) terminate: bool,
    /// Ends with warnings.
    pub(crate) warn: bool,
    /// How long it is suspended half-way.
    pub(crate) suspend_millis: u64,
    /// Cannot be seen any more once it has ended.
    pub(crate) vanish: bool,
    /// Is associated with nothing.
    pub(crate) unlinked: bool,
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) at: Timestamp,
    pub(crate) ending: Ending,
    /// Paths of the objects it made or changed.
    pub(crate) affected: Vec<String>,
    /// Error code (0 for a warning) and text.
    pub(crate) failure: Option<(u32, String)>,
}

/// The ends a job can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    Completed,
    Warnings,
    Failed,
    Terminated,
    Killed,
}

impl Ending {
    /// Returns `JobState`.
    pub(crate) fn job_state(self) -> u64 {
        match self {
            Ending::Completed => 7,
            Ending::Terminated => 8,
            Ending::Killed => 9,
            Ending::Failed => 10,
            Ending::Warnings => 32768,
        }
    }

    /// Returns `JobStatus`.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Ending::Completed => "Job completed.",
            Ending::Warnings => "Job completed with warnings.",
            Ending::Terminated => "Terminated",
            Ending::Killed => "Killed",
            Ending::Failed => "Exception",
        }
    }
}

impl Job {
    pub(crate) fn new(method: &str, vm: Option<Uuid>, operation: Operation, millis: u64) -> Self {
        Self {
            id: Uuid::new_v4(),
            job_type: operation.job_type(),
            method: method.to_owned(),
            vm,
            operation,
            submitted: now(),
            millis,
            twist: Twist::default(),
            cancelled: None,
            outcome: None,
        }
    }

    pub(crate) fn finish(&mut self, result: Result<Vec<String>, Failure>) {
        let outcome = |ending, affected, failure| Outcome {
            at: now(),
            ending,
            affected,
            failure,
        };
        self.outcome = Some(match result {
            Ok(_) if self.twist.fail_after => {
                let text = format!("{} was told to fail after it was done", self.method);
                outcome(Ending::Failed, Vec::new(), Some((code::FAILED, text)))
            }
            Ok(affected) if self.twist.warn => {
                let text = format!("{} was told to warn", self.method);
                outcome(Ending::Warnings, affected, Some((0, text)))
            }
            Ok(affected) => outcome(Ending::Completed, affected, None),
            Err(failure) => {
                let ending = match failure.cause {
                    Cause::Cancelled => self.cancelled.unwrap_or(Ending::Terminated),
                    Cause::Other | Cause::WrongType | Cause::NoRoom | Cause::Yielded => {
                        Ending::Failed
                    }
                };
                outcome(ending, Vec::new(), Some((failure.code, failure.message)))
            }
        });
    }

    /// Returns what a rule makes of the job in place of its work.
    pub(crate) fn told(&self) -> Option<Failure> {
        if self.twist.terminate {
            return Some(Failure::cancelled());
        }
        let code = self.twist.fail?;
        Some(Failure::new(
            code,
            format!("{} was told to fail", self.method),
        ))
    }

    /// Whether a client can no longer see it; `kept` in milliseconds.
    pub(crate) fn is_gone(&self, now: Timestamp, kept: u64) -> bool {
        self.outcome
            .as_ref()
            .is_some_and(|outcome| self.twist.vanish || now.millis_since(outcome.at) > kept)
    }

    /// Whether a client may end it now.
    pub(crate) fn is_cancellable(&self) -> bool {
        self.outcome.is_none() && self.operation.is_cancellable()
    }

    /// Whether other work on its VM has to wait for it.
    pub(crate) fn is_exclusive(&self) -> bool {
        let shutdown = self.method.ends_with(".InitiateShutdown");
        let merge = matches!(self.operation, Operation::MergeDisks { .. });
        self.outcome.is_none() && !shutdown && !merge
    }

    /// Returns `JobState` and `PercentComplete`; `done` is the share of its work that is done in percent.
    pub(crate) fn progress(&self, now: Timestamp, done: Option<u64>) -> (u64, u64) {
        if let Some(outcome) = &self.outcome {
            return (outcome.ending.job_state(), 100);
        }
        let elapsed = now.millis_since(self.submitted);
        let pause = self.twist.suspend_millis;
        let half = self.millis / 2;
        let suspended = (half..half.saturating_add(pause)).contains(&elapsed);
        let worked = if suspended {
            half
        } else if elapsed < half {
            elapsed
        } else {
            elapsed.saturating_sub(pause)
        };
        let time = (worked.saturating_mul(100) / self.millis.max(1)).min(100);
        let percent = if self.operation.is_cancellable() {
            // What copies spends the first half of its percents waiting.
            u64::midpoint(time, done.unwrap_or(0).min(100))
        } else {
            time
        };
        let state = if self.cancelled.is_some() {
            6
        } else if suspended {
            5
        } else {
            match percent {
                0..10 => 2,
                10..25 => 3,
                _ => 4,
            }
        };
        (state, percent.min(99))
    }

    /// Returns how much of its time is left.
    pub(crate) fn delay(&self) -> Duration {
        let all = self.millis.saturating_add(self.twist.suspend_millis);
        Duration::from_millis(all.saturating_sub(now().millis_since(self.submitted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::ImageOperation;

    fn job(millis: u64) -> Job {
        let operation = ImageOperation::Validate {
            path: r"C:\a.vhdx".into(),
        };
        Job::new("X.Y", None, Operation::Image { operation }, millis)
    }

    #[test]
    fn a_job_passes_through_its_states_and_its_percents_grow() {
        let mut job = job(1000);
        job.twist.suspend_millis = 500;
        let at = |job: &Job, millis: i64| {
            job.progress(
                Timestamp::from_millis(job.submitted.as_millis() + millis),
                None,
            )
        };
        let seen: Vec<_> = [0, 100, 300, 600, 1100, 1499]
            .map(|millis| at(&job, millis))
            .to_vec();
        assert_eq!(seen, [(2, 0), (3, 10), (4, 30), (5, 50), (4, 60), (4, 99)]);
        job.finish(Ok(Vec::new()));
        assert_eq!(at(&job, 2000), (7, 100));
    }

    #[test]
    fn every_ending_has_its_state() {
        for (set, result, state) in [
            ("", Ok(Vec::new()), 7),
            ("warn", Ok(Vec::new()), 32768),
            ("fail-after", Ok(Vec::new()), 10),
            ("", Err(Failure::failed("x")), 10),
            ("", Err(Failure::cancelled()), 8),
            ("kill", Err(Failure::cancelled()), 9),
        ] {
            let mut job = job(0);
            job.twist.warn = set == "warn";
            job.twist.fail_after = set == "fail-after";
            job.cancelled = (set == "kill").then_some(Ending::Killed);
            job.finish(result);
            assert_eq!(job.progress(now(), None), (state, 100), "{set}");
        }
    }
}
