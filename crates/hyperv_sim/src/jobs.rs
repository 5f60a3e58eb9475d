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
use crate::failure::Failure;
use crate::methods::Operation;

/// How long a finished job can still be seen.
pub(crate) const KEPT_MILLIS: u64 = 5 * 60 * 1000;

/// JobType.
pub(crate) mod job_type {
    pub(crate) const DEFINE: u16 = 1;
    pub(crate) const MODIFY: u16 = 2;
    pub(crate) const DESTROY: u16 = 3;
    pub(crate) const START: u16 = 12;
    pub(crate) const STOP: u16 = 13;
    pub(crate) const ADD_RESOURCES: u16 = 30;
    pub(crate) const MERGE_DISKS: u16 = 50;
    pub(crate) const IMPORT: u16 = 61;
    pub(crate) const EXPORT: u16 = 62;
    pub(crate) const CREATE_SNAPSHOT: u16 = 70;
    pub(crate) const APPLY_SNAPSHOT: u16 = 71;
    pub(crate) const DELETE_SNAPSHOT: u16 = 72;
    pub(crate) const IMAGE: u16 = 40;
}

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
    pub(crate) outcome: Option<Outcome>,
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) at: Timestamp,
    /// Paths of the objects it made or changed.
    pub(crate) affected: Vec<String>,
    pub(crate) failure: Option<(u32, String)>,
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
            outcome: None,
        }
    }

    pub(crate) fn finish(&mut self, result: Result<Vec<String>, Failure>) {
        let (affected, failure) = match result {
            Ok(affected) => (affected, None),
            Err(failure) => (Vec::new(), Some((failure.code, failure.message))),
        };
        self.outcome = Some(Outcome {
            at: now(),
            affected,
            failure,
        });
    }

    /// Whether a client can no longer see it.
    pub(crate) fn is_gone(&self, now: Timestamp) -> bool {
        self.outcome
            .as_ref()
            .is_some_and(|outcome| now.millis_since(outcome.at) > KEPT_MILLIS)
    }

    /// Returns `JobState` and `PercentComplete`.
    pub(crate) fn progress(&self, now: Timestamp) -> (u64, u64) {
        match &self.outcome {
            Some(Outcome { failure: None, .. }) => (7, 100),
            Some(Outcome {
                failure: Some(_), ..
            }) => (10, 100),
            None => {
                let percent =
                    now.millis_since(self.submitted).saturating_mul(100) / self.millis.max(1);
                (if percent < 25 { 3 } else { 4 }, percent.min(99))
            }
        }
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(
            self.millis
                .saturating_sub(now().millis_since(self.submitted)),
        )
    }
}
