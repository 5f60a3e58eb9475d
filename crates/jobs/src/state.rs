//! States of a job and what lives in each.

use std::fmt;
use std::str::FromStr;

use model::{AgentId, Fence, Timestamp};

use crate::UnknownName;
use crate::kind::named;
use crate::retry::JobError;
use crate::wait::WaitCause;

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// An agent.
    Agent(AgentId),
    /// A server, by the name of its instance.
    Server(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Agent(agent) => write!(f, "agent:{agent}"),
            Owner::Server(name) => write!(f, "server:{name}"),
        }
    }
}

impl FromStr for Owner {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let wrong = || UnknownName {
            what: "owner of a lease",
            text: text.chars().take(80).collect(),
        };
        match text.split_once(':') {
            Some(("agent", id)) => Ok(Owner::Agent(id.parse().map_err(|_| wrong())?)),
            Some(("server", name)) => Ok(Owner::Server(name.to_owned())),
            Some(_) | None => Err(wrong()),
        }
    }
}

/// The number of a hand-out of a job, from 1.
pub type Attempt = u32;

/// The right to work on a job, until a time. Whoever holds it writes with its fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: Owner,
    /// What every write for the job carries.
    pub fence: Fence,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// It holds before this moment.
    pub ends: Timestamp,
}

/// Where a job is. What exists only in one state lives in that state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits to be handed out.
    Queued {
        /// What it waits for; `None` while nothing is in the way.
        cause: Option<WaitCause>,
        /// May not be handed out before.
        not_before: Timestamp,
    },
    /// Someone works on it.
    Running {
        /// Who, until when.
        lease: Lease,
    },
    /// Ended well.
    Succeeded {
        /// When.
        ended: Timestamp,
    },
    /// Ended with a usable result; something that was asked for was not honoured, and is named.
    Warnings {
        /// When.
        ended: Timestamp,
    },
    /// Ended without a result.
    Failed {
        /// When.
        ended: Timestamp,
        /// Why.
        error: JobError,
    },
    /// Called off.
    Cancelled {
        /// When.
        ended: Timestamp,
    },
    /// Waited too long.
    Expired {
        /// When.
        ended: Timestamp,
    },
    /// A scheduled run that was not made.
    Skipped {
        /// When.
        ended: Timestamp,
    },
}

/// The name of a state, without what lives in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateName {
    /// See [`JobState::Queued`].
    Queued,
    /// See [`JobState::Running`].
    Running,
    /// See [`JobState::Succeeded`].
    Succeeded,
    /// See [`JobState::Warnings`].
    Warnings,
    /// See [`JobState::Failed`].
    Failed,
    /// See [`JobState::Cancelled`].
    Cancelled,
    /// See [`JobState::Expired`].
    Expired,
    /// See [`JobState::Skipped`].
    Skipped,
}

named!(StateName, "state of a job", {
    Queued => "queued",
    Running => "running",
    Succeeded => "succeeded",
    Warnings => "warnings",
    Failed => "failed",
    Cancelled => "cancelled",
    Expired => "expired",
    Skipped => "skipped",
});

impl StateName {
    /// Tells whether nothing follows any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            StateName::Queued | StateName::Running => false,
            StateName::Succeeded
            | StateName::Warnings
            | StateName::Failed
            | StateName::Cancelled
            | StateName::Expired
            | StateName::Skipped => true,
        }
    }
}

impl JobState {
    /// Returns the state's name.
    #[must_use]
    pub fn name(&self) -> StateName {
        match self {
            JobState::Queued { .. } => StateName::Queued,
            JobState::Running { .. } => StateName::Running,
            JobState::Succeeded { .. } => StateName::Succeeded,
            JobState::Warnings { .. } => StateName::Warnings,
            JobState::Failed { .. } => StateName::Failed,
            JobState::Cancelled { .. } => StateName::Cancelled,
            JobState::Expired { .. } => StateName::Expired,
            JobState::Skipped { .. } => StateName::Skipped,
        }
    }

    /// Returns when the job ended, where it has.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        match self {
            JobState::Queued { .. } | JobState::Running { .. } => None,
            JobState::Succeeded { ended }
            | JobState::Warnings { ended }
            | JobState::Failed { ended, .. }
            | JobState::Cancelled { ended }
            | JobState::Expired { ended }
            | JobState::Skipped { ended } => Some(*ended),
        }
    }
}

/// What a holder reports at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that was asked for.
    Succeeded,
    /// Usable, with named warnings.
    Warnings,
    /// No result.
    Failed(JobError),
    /// Host or agent stopped being ready: back to the queue, and no attempt is used up.
    NotReady {
        /// Why, in the agent's words.
        reason: String,
    },
    /// Stopped because it was asked to.
    Cancelled,
}

/// What asking for the end of a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelEffect {
    /// It was queued and has ended.
    Cancelled,
    /// It runs; its holder learns of it at the next renewal.
    Requested,
}

/// How a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostLease {
    /// It was not renewed in time.
    RanOut,
    /// Its holder has started anew and knows nothing of the job.
    HolderRestarted,
}
