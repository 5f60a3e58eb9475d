//! Why a job does not go on.

use std::fmt;

use api::agent_v1::Outcome;
use api_client::{ClientError, Kind};
use plan::restore::Refusal;

/// Who or what stopped a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Someone cancelled it.
    Cancelled,
    /// The server says it runs elsewhere, or has ended.
    Fenced,
    /// The lease could not be renewed in time.
    LeaseLost,
    /// The agent is being shut down.
    Shutdown,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Cancelled => "the job was cancelled",
            Stop::Fenced => "the job was handed out anew or has ended",
            Stop::LeaseLost => "the server could not be reached in time to keep the job",
            Stop::Shutdown => "the agent is being stopped",
        })
    }
}

/// Why a job does not go on.
#[derive(Debug)]
pub(crate) enum JobError {
    /// It was stopped from outside.
    Stopped(Stop),
    /// The host is not ready: the job waits in the queue.
    NotReady(String),
    /// It failed.
    Failed {
        /// Stable code.
        code: &'static str,
        /// What happened, where.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// Whether another run may succeed by itself.
        retry: bool,
    },
}

impl JobError {
    /// Makes a failure that another run will not mend.
    pub(crate) fn failed(code: &'static str, message: impl Into<String>) -> Self {
        JobError::Failed {
            code,
            message: message.into(),
            hint: None,
            retry: false,
        }
    }

    /// Makes a failure that another run may mend.
    pub(crate) fn transient(code: &'static str, message: impl Into<String>) -> Self {
        JobError::Failed {
            code,
            message: message.into(),
            hint: None,
            retry: true,
        }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        if let JobError::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Returns what to tell the server; `None` where nothing can be told, since the job is no longer ours.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        match self {
            JobError::Stopped(Stop::Cancelled) => Some(Outcome::Cancelled),
            JobError::Stopped(Stop::Fenced | Stop::LeaseLost) => None,
            JobError::Stopped(Stop::Shutdown) => Some(Outcome::NotReady {
                reason: "the agent was stopped while it ran the job".to_owned(),
            }),
            JobError::NotReady(reason) => Some(Outcome::NotReady { reason }),
            JobError::Failed {
                code,
                message,
                hint,
                retry,
            } => Some(Outcome::Failed {
                code: code.to_owned(),
                message,
                hint,
                retry,
            }),
        }
    }
}

impl std::error::Error for JobError {}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Stopped(stop) => stop.fmt(f),
            JobError::NotReady(reason) => f.write_str(reason),
            JobError::Failed { message, .. } => f.write_str(message),
        }
    }
}

impl JobError {
    /// Returns what an answer of the server, or its absence, means for the job.
    pub(crate) fn from_client(error: &ClientError) -> Self {
        let hint = error.problem().and_then(|problem| problem.hint.clone());
        let message = error.to_string();
        let (code, retry) = match error.kind() {
            Kind::Fenced => return JobError::Stopped(Stop::Fenced),
            Kind::Retry => ("server-unreachable", true),
            Kind::Denied => ("server-denied", false),
            Kind::NotFound => ("not-found", false),
            Kind::Refused => ("server-refused", false),
            Kind::Damaged => ("damaged", false),
            Kind::StoreFull => ("store-full", false),
            Kind::Bug => ("server-error", true),
        };
        JobError::Failed {
            code,
            message,
            hint,
            retry,
        }
    }
}

impl From<ClientError> for JobError {
    fn from(error: ClientError) -> Self {
        JobError::from_client(&error)
    }
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        JobError::failed(refusal.code(), refusal.to_string()).hint(refusal.hint())
    }
}
