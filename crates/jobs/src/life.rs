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
    /// The job is not running.
    #[error("the job is {state}, not running")]
    NotRunning {
        /// Where it is.
        state: StateName,
    },
    /// Its time in the queue is not over.
    #[error("the job's time in the queue ends {expires}")]
    NotYet {
        /// When.
        expires: Timestamp,
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
    /// How many attempts failed or were lost; those that met a host that was not ready do not count.
    pub failures: u32,
    /// While it is queued: when it ends as [`JobState::Expired`].
    pub expires: Timestamp,
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
        Self {
            state: JobState::Queued { cause, not_before },
            fence: Fence(0),
            attempt: 0,
            failures: 0,
            expires: now.max(not_before).plus_secs(rules.queue_secs),
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
            failures: 0,
            expires: now,
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
        let JobState::Queued { not_before, .. } = &self.state else {
            return Err(TransitionError::NotQueued {
                state: self.state.name(),
            });
        };
        if now >= self.expires {
            return Err(TransitionError::TooOld);
        }
        let cause = cause.or_else(|| (now < *not_before).then_some(WaitCause::Window));
        if let Some(cause) = cause {
            return Err(TransitionError::MustWait { cause });
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
            ..*self
        };
        Ok((next, lease))
    }

    /// Returns the lease if `fence` may write now.
    pub fn check_fence(&self, fence: Fence, now: Timestamp) -> Result<&Lease, TransitionError> {
        if let JobState::Running { lease } = &self.state
            && lease.fence == fence
            && now < lease.ends
        {
            return Ok(lease);
        }
        Err(TransitionError::Fenced {
            given: fence,
            current: self.fence,
            state: self.state.name(),
        })
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
        Ok(self.moved_to(JobState::Running {
            lease: Lease {
                ends,
                ..lease.clone()
            },
        }))
    }

    /// Ends the attempt as its holder says.
    ///
    /// A failure that may pass queues the job again after a pause, while attempts are left; a host that is not ready
    /// queues it again in any case, until its time in the queue is over. Once the end was asked for, nothing but a
    /// result ends otherwise than as cancelled.
    pub fn finish(
        &self,
        rules: &Rules,
        fence: Fence,
        ending: Ending,
        now: Timestamp,
    ) -> Result<Self, TransitionError> {
        self.check_fence(fence, now)?;
        let unwanted = self.cancel_requested.is_some();
        Ok(match ending {
            Ending::Succeeded => self.moved_to(JobState::Succeeded { ended: now }),
            Ending::Warnings => self.moved_to(JobState::Warnings { ended: now }),
            Ending::Failed(_) | Ending::Cancelled | Ending::NotReady { .. } if unwanted => {
                self.moved_to(JobState::Cancelled { ended: now })
            }
            Ending::Cancelled => return Err(TransitionError::NotAskedToCancel),
            Ending::Failed(error) if error.kind.is_worth_another_attempt() => {
                let pause_secs = back_off_secs(rules, self.failures.saturating_add(1));
                self.after_failure(rules, error, pause_secs, now)
            }
            Ending::Failed(error) => self.moved_to(JobState::Failed { ended: now, error }),
            Ending::NotReady { reason } => self.moved_to(JobState::Queued {
                cause: Some(WaitCause::AgentNotReady { reason }),
                not_before: now.plus_secs(rules.retry_base_secs),
            }),
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
            return Err(TransitionError::NotRunning {
                state: self.state.name(),
            });
        };
        match how {
            LostLease::RanOut if now < lease.ends => {
                return Err(TransitionError::LeaseHolds { ends: lease.ends });
            }
            LostLease::RanOut | LostLease::HolderRestarted => {}
        }
        if self.cancel_requested.is_some() {
            return Ok(self.moved_to(JobState::Cancelled { ended: now }));
        }
        // The time until the loss was noticed was pause enough.
        Ok(self.after_failure(
            rules,
            lost_error(&lease.owner, self.failures.saturating_add(1)),
            0,
            now,
        ))
    }

    /// Ends a running job whose result was committed before its holder was lost or failed.
    pub fn end_after_commit(&self, now: Timestamp) -> Result<Self, TransitionError> {
        let state = self.state.name();
        if state != StateName::Running {
            return Err(TransitionError::NotRunning { state });
        }
        Ok(self.moved_to(JobState::Warnings { ended: now }))
    }

    /// Calls the job off: at once while it waits, through its holder while it runs.
    pub fn cancel(&self, now: Timestamp) -> Result<(Self, CancelEffect), TransitionError> {
        let state = self.state.name();
        if state.is_final() {
            return Err(TransitionError::Final { state });
        }
        if state == StateName::Queued {
            let next = self.moved_to(JobState::Cancelled { ended: now });
            return Ok((next, CancelEffect::Cancelled));
        }
        let asked = self.cancel_requested.unwrap_or(now);
        let next = Self {
            cancel_requested: Some(asked),
            ..self.clone()
        };
        Ok((next, CancelEffect::Requested))
    }

    /// Ends a queued job whose time is over.
    pub fn expire(&self, now: Timestamp) -> Result<Self, TransitionError> {
        let state = self.state.name();
        if state != StateName::Queued {
            return Err(TransitionError::NotQueued { state });
        }
        if now < self.expires {
            return Err(TransitionError::NotYet {
                expires: self.expires,
            });
        }
        Ok(self.moved_to(JobState::Expired { ended: now }))
    }

    /// Sets what a queued job waits for. While it pauses because its host was not ready, that stays the cause.
    pub fn wait_for(&self, cause: Option<WaitCause>) -> Result<Self, TransitionError> {
        let JobState::Queued {
            cause: before,
            not_before,
        } = &self.state
        else {
            return Err(TransitionError::NotQueued {
                state: self.state.name(),
            });
        };
        let keeps = cause == Some(WaitCause::Window)
            && before
                .as_ref()
                .is_some_and(|before| before.reason().is_some());
        let cause = if keeps { before.clone() } else { cause };
        Ok(self.moved_to(JobState::Queued {
            cause,
            not_before: *not_before,
        }))
    }

    /// Counts a failure that may pass. The time in the queue counts anew: the job ran, so the wish is not stale.
    fn after_failure(
        &self,
        rules: &Rules,
        error: JobError,
        pause_secs: u64,
        now: Timestamp,
    ) -> Self {
        let failures = self.failures.saturating_add(1);
        if failures >= rules.max_attempts {
            return Self {
                failures,
                ..self.moved_to(JobState::Failed { ended: now, error })
            };
        }
        let not_before = now.plus_secs(pause_secs);
        let cause = (pause_secs > 0).then_some(WaitCause::Window);
        Self {
            failures,
            expires: not_before.plus_secs(rules.queue_secs),
            ..self.moved_to(JobState::Queued { cause, not_before })
        }
    }

    fn moved_to(&self, state: JobState) -> Self {
        Self { state, ..*self }
    }
}

fn lost_error(owner: &Owner, attempts: u32) -> JobError {
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
