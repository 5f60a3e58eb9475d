//! The life of a job: states, leases, fences, retries, schedule.
//!
//! Plain functions over values; the moment is an argument, so is every fact about the world. `catalog` keeps a
//! [`Life`] in its rows and calls these functions inside its transactions; nothing else decides what may follow what.
//!
//! Invariants: a final state never changes again; a job has at most one lease; its fence only grows; a job that was
//! cancelled, failed or expired never runs later.
//!
//! Not here: what a job does (agent, server), where it is kept (catalog), what a restore must check (plan).

mod kind;
mod life;
mod retry;
mod rules;
mod schedule;
mod state;
mod wait;

pub use kind::{
    JobKind, RunsOn, StepName, StepOrderError, StepState, UnknownName, check_may_start,
};
pub use life::{Life, TransitionError};
pub use retry::{ErrorKind, JobError, back_off_secs};
pub use rules::{
    AGENT_OFFLINE_SECS, AGENT_STOPS_SECS, DAY_SECS, JOBS_PER_HOST, LEASE_RENEW_SECS, LEASE_SECS,
    MAX_ATTEMPTS, QUEUE_SECS, RETRY_BASE_SECS, RETRY_CAP_SECS, Rules,
};
pub use schedule::{Due, check_due, first_due};
pub use state::{Attempt, CancelEffect, Ending, JobState, Lease, LostLease, Owner, StateName};
pub use wait::{AgentFacts, WaitCause, WaitFacts, wait_cause};
