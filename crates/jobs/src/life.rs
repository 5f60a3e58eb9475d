//! What may follow what in the life of a job.

use model::{Fence, Timestamp};

use crate::ErrorKind;
use crate::retry::{JobError, back_off_secs};
use crate::rules::Rules;
use crate::state::{Attempt, CancelEffect, Ending, JobState, Lease, LostLease, Owner, StateName};
use crate::wait::WaitCause;

/// A step a job's life does not allow. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The job has ended.
    #[error("the job has already ended as {state}")]
    Final {
        /// How.
        state: StateName,
    },
    /// The job is not waiting.
    #[error("the job is {state}, not queued")]
    NotQueued {
        /// Where it is.
        state: StateName,
    },
    /// Something is still in the way.
    #[error("the job must wait ({cause})")]
    MustWait {
        /// What for.
        cause: WaitCause,
    },
    /// The queue entry is too old to run.
    #[error("the job's time in the queue is over")]
    TooOld,
    /// The writer's fence is not the current one, or its lease is over.
    #[error(
        "fence {given} is not current: the job is {state} with fence {current}; stop and leave it alone"
    )]
    Fenced {
        /// What the writer carried.
        given: Fence,
        /// What the job has.
        current: Fence,
        /// Where the job is.
        state: StateName,
    },
    /// The lease still holds.
    #[error("the lease holds until {ends}")]
    LeaseHolds {
        /// Until when.
        ends: Timestamp,
    },
    /// The holder says "cancelled" and nobody had asked.
    #[error("nobody asked for this job to be cancelled")]
    NotAskedToCancel,
}

/// A job's life so far. [`Life::fence`] and [`Life::attempt`] outlive the states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Where it is.
    pub state: JobState,
    /// The fence given out last; 0 before the first hand-out.
    pub fence: Fence,
    /// How often it was handed out.
    pub attempt: Attempt,
    /// When its end was asked for while it ran.
    pub cancel_requested: Option<Timestamp>,
}

impl Life {
    /// Returns a job that has just been asked for.
    #[must_use]
    pub fn queued(
        rules: &Rules,
        cause: Option<WaitCause>,
        not_before: Timestamp,
        now: Timestamp,
    ) -> Self {
        let expires = now.max(not_before).plus_secs(rules.queue_secs);
        Self {
            state: JobState::Queued {
                cause,
                not_before,
                expires,
            },
            fence: Fence(0),
            attempt: 0,
            cancel_requested: None,
        }
    }

    /// Returns a scheduled run that is not made.
    #[must_use]
    pub fn skipped(now: Timestamp) -> Self {
        Self {
            state: JobState::Skipped { ended: now },
            fence: Fence(0),
            attempt: 0,
            cancel_requested: None,
        }
    }

    /// Hands the job out. `cause` is what [`crate::wait_cause`] says now.
    pub fn claim(
        &self,
        rules: &Rules,
        owner: Owner,
        cause: Option<WaitCause>,
        now: Timestamp,
    ) -> Result<(Self, Lease), TransitionError> {
        let JobState::Queued {
            expires,
            not_before,
            ..
        } = &self.state
        else {
            return Err(TransitionError::NotQueued {
                state: self.state.name(),
            });
        };
        if now >= *expires {
            return Err(TransitionError::TooOld);
        }
        if let Some(cause) = cause {
            return Err(TransitionError::MustWait { cause });
        }
        if now < *not_before {
            return Err(TransitionError::MustWait {
                cause: WaitCause::Window,
            });
        }
        let lease = Lease {
            owner,
            fence: Fence(self.fence.0.saturating_add(1)),
            attempt: self.attempt.saturating_add(1),
            ends: now.plus_secs(rules.lease_secs),
        };
        let next = Self {
            state: JobState::Running {
                lease: lease.clone(),
            },
            fence: lease.fence,
            attempt: lease.attempt,
            cancel_requested: None,
        };
        Ok((next, lease))
    }

    /// Returns the lease if `fence` may write now.
    pub fn check_fence(&self, fence: Fence, now: Timestamp) -> Result<&Lease, TransitionError> {
        match &self.state {
            JobState::Running { lease } if lease.fence == fence && now < lease.ends => Ok(lease),
            JobState::Queued { .. }
            | JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Warnings { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. }
            | JobState::Expired { .. }
            | JobState::Skipped { .. } => Err(TransitionError::Fenced {
                given: fence,
                current: self.fence,
                state: self.state.name(),
            }),
        }
    }

    /// Prolongs the lease from now. A lease that is over stays over.
    pub fn renew(
        &self,
        rules: &Rules,
        fence: Fence,
        now: Timestamp,
    ) -> Result<Self, TransitionError> {
        let lease = self.check_fence(fence, now)?;
        let ends = now.plus_secs(rules.lease_secs).max(lease.ends);
        Ok(Self {
            state: JobState::Running {
                lease: Lease {
                    ends,
                    ..lease.clone()
                },
            },
            ..self.clone()
        })
    }

    /// Ends the attempt as its holder says. A failure that may pass queues the job again after a pause, while
    /// attempts are left.
    pub fn finish(
        &self,
        rules: &Rules,
        fence: Fence,
        ending: Ending,
        now: Timestamp,
    ) -> Result<Self, TransitionError> {
        self.check_fence(fence, now)?;
        let state = match ending {
            Ending::Succeeded => JobState::Succeeded { ended: now },
            Ending::Warnings => JobState::Warnings { ended: now },
            Ending::Cancelled if self.cancel_requested.is_some() => {
                JobState::Cancelled { ended: now }
            }
            Ending::Cancelled => return Err(TransitionError::NotAskedToCancel),
            Ending::Failed(_) if self.cancel_requested.is_some() => {
                JobState::Cancelled { ended: now }
            }
            Ending::Failed(error)
                if error.kind.is_worth_another_attempt() && self.attempt < rules.max_attempts =>
            {
                self.queue_again(rules, now.plus_secs(back_off_secs(rules, self.attempt)))
            }
            Ending::Failed(error) => JobState::Failed { ended: now, error },
        };
        Ok(Self {
            state,
            ..self.clone()
        })
    }

    /// Takes a lease that is over from its holder: the job is queued again, or has failed after too many attempts, or
    /// is cancelled where that had been asked for.
    pub fn lose_lease(
        &self,
        rules: &Rules,
        how: LostLease,
        now: Timestamp,
    ) -> Result<Self, TransitionError> {
        let JobState::Running { lease } = &self.state else {
            return Err(TransitionError::Fenced {
                given: self.fence,
                current: self.fence,
                state: self.state.name(),
            });
        };
        match how {
            LostLease::RanOut if now < lease.ends => {
                return Err(TransitionError::LeaseHolds { ends: lease.ends });
            }
            LostLease::RanOut | LostLease::HolderRestarted => {}
        }
        let state = if self.cancel_requested.is_some() {
            JobState::Cancelled { ended: now }
        } else if self.attempt >= rules.max_attempts {
            JobState::Failed {
                ended: now,
                error: lost_error(&lease.owner, self.attempt),
            }
        } else {
            self.queue_again(rules, now)
        };
        Ok(Self {
            state,
            ..self.clone()
        })
    }

    /// Ends a running job whose result was committed before its holder was lost.
    pub fn end_after_commit(&self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state.name() {
            StateName::Running | StateName::Queued => Ok(Self {
                state: JobState::Warnings { ended: now },
                ..self.clone()
            }),
            state @ (StateName::Succeeded
            | StateName::Warnings
            | StateName::Failed
            | StateName::Cancelled
            | StateName::Expired
            | StateName::Skipped) => Err(TransitionError::Final { state }),
        }
    }

    /// Calls the job off: at once while it waits, through its holder while it runs.
    pub fn cancel(&self, now: Timestamp) -> Result<(Self, CancelEffect), TransitionError> {
        match self.state.name() {
            StateName::Queued => {
                let next = Self {
                    state: JobState::Cancelled { ended: now },
                    ..self.clone()
                };
                Ok((next, CancelEffect::Cancelled))
            }
            StateName::Running => {
                let asked = self.cancel_requested.unwrap_or(now);
                Ok((
                    Self {
                        cancel_requested: Some(asked),
                        ..self.clone()
                    },
                    CancelEffect::Requested,
                ))
            }
            state @ (StateName::Succeeded
            | StateName::Warnings
            | StateName::Failed
            | StateName::Cancelled
            | StateName::Expired
            | StateName::Skipped) => Err(TransitionError::Final { state }),
        }
    }

    /// Ends a queued job whose time is over.
    pub fn expire(&self, now: Timestamp) -> Result<Self, TransitionError> {
        match &self.state {
            JobState::Queued { expires, .. } if now >= *expires => Ok(Self {
                state: JobState::Expired { ended: now },
                ..self.clone()
            }),
            JobState::Queued { .. }
            | JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Warnings { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. }
            | JobState::Expired { .. }
            | JobState::Skipped { .. } => Err(TransitionError::NotQueued {
                state: self.state.name(),
            }),
        }
    }

    /// Sets what a queued job waits for.
    pub fn wait_for(&self, now_waits_for: Option<WaitCause>) -> Result<Self, TransitionError> {
        match &self.state {
            JobState::Queued {
                not_before,
                expires,
                ..
            } => {
                let state = JobState::Queued {
                    cause: now_waits_for,
                    not_before: *not_before,
                    expires: *expires,
                };
                Ok(Self {
                    state,
                    ..self.clone()
                })
            }
            JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Warnings { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. }
            | JobState::Expired { .. }
            | JobState::Skipped { .. } => Err(TransitionError::NotQueued {
                state: self.state.name(),
            }),
        }
    }

    /// The time in the queue counts anew: it ran in between, so the wish is not stale.
    fn queue_again(&self, rules: &Rules, not_before: Timestamp) -> JobState {
        JobState::Queued {
            cause: None,
            not_before,
            expires: not_before.plus_secs(rules.queue_secs),
        }
    }
}

fn lost_error(owner: &Owner, attempts: Attempt) -> JobError {
    let (who, hint) = match owner {
        Owner::Agent(_) => ("agent", "look at the agent's log, then start the job again"),
        Owner::Server(_) => (
            "server",
            "look at the server's log, then start the job again",
        ),
    };
    JobError {
        kind: ErrorKind::Retry,
        code: "lease-lost".to_owned(),
        message: format!("the {who} was lost in each of {attempts} attempts"),
        hint: Some(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests;
