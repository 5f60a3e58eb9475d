//! Jobs as rows. What may follow what is decided by the crate `jobs`; here its values are kept.

mod claim;
mod create;
mod finish;
mod list;
mod log;
mod report;
mod row;
mod settle;
mod sweep;

use ::jobs::{JobError, JobKind, JobState, Lease, Life, StateName, StepName, StepState, WaitCause};
use model::{HostId, JobId, PointId, Timestamp, VmId};
use serde_json::Value;

pub(crate) use create::backup_under_way;
pub use create::{Created, NewJob};
pub use finish::Finished;
pub use list::JobFilter;
pub(crate) use log::log_info;
pub use log::{LogLevel, LogLine};
pub use report::{Event, EventKind, ReportOutcome};
pub(crate) use row::{load, load_fenced};
use row::{open_agent_step, put_step, read_job, read_step, read_steps, save_life, shown_attempt};
pub use settle::MarkVerdict;
pub use sweep::Swept;
pub(crate) use sweep::take_back;

/// A thing with the name it had when the job was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<T> {
    /// Id.
    pub id: T,
    /// Name.
    pub name: String,
}

/// Bytes done of bytes to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub bytes_done: u64,
    /// To do in all.
    pub bytes_total: u64,
}

/// What a job moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Read from disks (backup) or from the store (restore).
    pub bytes_read: u64,
    /// Sent over the network.
    pub bytes_sent: u64,
    /// New in the store (backup) or written on the host (restore).
    pub bytes_stored: u64,
    /// Already there.
    pub bytes_reused: u64,
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// Where it is.
    pub state: StepState,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Its figures or why it failed, for people.
    pub detail: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The VM it is about.
    pub vm: Option<Target<VmId>>,
    /// The host it works on.
    pub host: Option<Target<HostId>>,
    /// The point it restores or verifies, or the one a backup made.
    pub point: Option<PointId>,
    /// What was asked for; the server's format.
    pub request: Value,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it was first handed out.
    pub started: Option<Timestamp>,
    /// Where it is.
    pub life: Life,
    /// What failed in the attempt before, while the job waits for the next.
    pub last_failure: Option<String>,
    /// The request, and the steps of the latest attempt, in order.
    pub steps: Vec<Step>,
    /// Progress of the latest attempt.
    pub progress: Progress,
    /// Figures of the latest attempt.
    pub figures: Figures,
    /// What was not honoured.
    pub warnings: Vec<String>,
    /// What it keeps or kept beside on the host.
    pub parked: Option<crate::Parked>,
    /// Grows with every change.
    pub change: u64,
}

impl Job {
    /// Returns the name of its state.
    #[must_use]
    pub fn state(&self) -> StateName {
        self.life.state.name()
    }

    /// Returns why it waits, where it does.
    #[must_use]
    pub fn cause(&self) -> Option<&WaitCause> {
        if let JobState::Queued { cause, .. } = &self.life.state {
            cause.as_ref()
        } else {
            None
        }
    }

    /// Returns why it failed, where it did.
    #[must_use]
    pub fn error(&self) -> Option<&JobError> {
        if let JobState::Failed { error, .. } = &self.life.state {
            Some(error)
        } else {
            None
        }
    }

    /// Returns the lease, while it runs.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        if let JobState::Running { lease } = &self.life.state {
            Some(lease)
        } else {
            None
        }
    }

    /// Returns when it ends by itself, while it waits.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        (self.state() == StateName::Queued).then_some(self.life.expires)
    }
}

pub(crate) fn subject(job: JobId) -> String {
    format!("job {job}")
}
