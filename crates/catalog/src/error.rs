//! What can go wrong with the catalog.

use ::jobs::{StepOrderError, TransitionError};
use model::{Fence, JobId, PointId};

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again later.
    Retry,
    /// The request itself is wrong or not allowed.
    Refused,
    /// The thing asked for is not there.
    NotFound,
    /// It does not fit what is there already.
    Conflict,
    /// The writer's fence is old or its lease over: stop and leave it alone.
    Fenced,
    /// No room left for the database.
    Full,
    /// What is stored cannot be trusted.
    Corrupt,
    /// The database failed in a way after which it must be opened anew: end the program.
    Fatal,
    /// A fault of ours.
    Bug,
}

/// A failed operation on the catalog. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not there.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its id or name.
        id: String,
    },
    /// There already, or in a state that does not allow it.
    #[error("{message}")]
    Conflict {
        /// What is in the way.
        message: String,
    },
    /// A backup of the VM is queued or running.
    #[error("a backup of this VM is already under way: job {job}")]
    BackupUnderWay {
        /// Which.
        job: JobId,
    },
    /// The same idempotency key came with another request.
    #[error("idempotency key {key:?} was used with another request; use a new key")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// Wrong, or not allowed.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// Old fence, lost lease, or ended job.
    #[error("job {job} is no longer yours")]
    Fenced {
        /// The job.
        job: JobId,
        /// What the writer carried.
        given: Fence,
        /// Why it is refused.
        source: TransitionError,
    },
    /// The job's life does not allow it.
    #[error("job {job} cannot do that now")]
    Transition {
        /// The job.
        job: JobId,
        /// Why.
        source: TransitionError,
    },
    /// A step reported out of order.
    #[error("job {job} reported a step out of order")]
    StepOrder {
        /// The job.
        job: JobId,
        /// Which.
        source: StepOrderError,
    },
    /// The recovery point of a job is committed or about to be: too late to call it off.
    #[error("recovery point {point} is being committed: too late to cancel job {job}")]
    TooLateToCancel {
        /// The job.
        job: JobId,
        /// Its point.
        point: PointId,
    },
    /// The end of the job was asked for: nothing is published any more.
    #[error("job {job} is being cancelled: nothing is published for it")]
    BeingCancelled {
        /// The job.
        job: JobId,
    },
    /// The database was written by a newer program.
    #[error(
        "the catalog has schema version {found}, this program knows up to {known}; start the newer reprise that \
         wrote it, or restore the catalog from before the upgrade"
    )]
    NewerSchema {
        /// Newest version this program knows.
        known: i64,
        /// Version found.
        found: i64,
    },
    /// A row that does not decode.
    #[error("the catalog holds {column} = {value:?}, which makes no sense")]
    BadRow {
        /// Column.
        column: String,
        /// What stands there, shortened.
        value: String,
    },
    /// The check at opening found damage.
    #[error("the catalog's file is damaged: {report}; restore it or rebuild it from the vault")]
    Damaged {
        /// What the check said.
        report: String,
    },
    /// The database failed.
    #[error("failed to {action}")]
    Db {
        /// What was being done.
        action: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
}

impl CatalogError {
    /// Returns what a caller does about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            CatalogError::NotFound { .. } => ErrorKind::NotFound,
            CatalogError::Conflict { .. }
            | CatalogError::BackupUnderWay { .. }
            | CatalogError::KeyReused { .. }
            | CatalogError::Transition { .. }
            | CatalogError::TooLateToCancel { .. }
            | CatalogError::BeingCancelled { .. } => ErrorKind::Conflict,
            CatalogError::Refused { .. }
            | CatalogError::StepOrder { .. }
            | CatalogError::NewerSchema { .. } => ErrorKind::Refused,
            CatalogError::Fenced { .. } => ErrorKind::Fenced,
            CatalogError::BadRow { .. } | CatalogError::Damaged { .. } => ErrorKind::Corrupt,
            CatalogError::Db { source, .. } => crate::db::kind_of(source),
        }
    }

    pub(crate) fn not_found(what: &'static str, id: impl ToString) -> Self {
        CatalogError::NotFound {
            what,
            id: id.to_string(),
        }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        CatalogError::Conflict {
            message: message.into(),
        }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        CatalogError::Refused {
            message: message.into(),
        }
    }
}
