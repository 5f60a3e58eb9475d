//! What a method or job answers when it does not do what was asked: the documented code, and why.

use std::io;

use crate::refusals::Refusal;

/// Return codes of Hyper-V's methods and error codes of its jobs.
pub(crate) mod code {
    pub(crate) const JOB_STARTED: u32 = 4096;
    pub(crate) const FAILED: u32 = 32768;
    pub(crate) const NOT_SUPPORTED: u32 = 32770;
    pub(crate) const INVALID_PARAMETER: u32 = 32773;
    pub(crate) const IN_USE: u32 = 32774;
    pub(crate) const INVALID_STATE: u32 = 32775;
    pub(crate) const WRONG_TYPE: u32 = 32776;
    pub(crate) const OUT_OF_MEMORY: u32 = 32778;
    /// Image service: the file is not there. Management service: the host is using it.
    pub(crate) const FILE: u32 = 32779;
}

/// A refusal (return code) or a failed job (error code).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
    /// For what the host itself does about it; clients see code and message.
    pub(crate) cause: Cause,
}

/// What a failure comes from, where that matters to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Other,
    /// A parameter is not of its type: the service refuses it before the method sees it.
    WrongType,
    /// The volume is full.
    NoRoom,
    /// A client ended the job.
    Cancelled,
    /// Somebody else was let at the VM's files; it goes on from where it was.
    Yielded,
}

impl Failure {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: Cause::Other,
        }
    }

    pub(crate) fn cancelled() -> Self {
        Self {
            cause: Cause::Cancelled,
            ..Self::failed("the job was ended before it was done")
        }
    }

    pub(crate) fn yielded() -> Self {
        Self {
            cause: Cause::Yielded,
            ..Self::failed("the work was put off for a moment")
        }
    }

    pub(crate) fn wrong_type(message: impl Into<String>) -> Self {
        Self {
            cause: Cause::WrongType,
            ..Self::new(code::WRONG_TYPE, message)
        }
    }

    pub(crate) fn no_room(message: impl Into<String>) -> Self {
        Self {
            cause: Cause::NoRoom,
            ..Self::failed(message)
        }
    }

    /// A refusal of the table.
    pub(crate) fn refused(row: Refusal, message: impl Into<String>) -> Self {
        Self::new(row.code(), message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(code::FAILED, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMETER, message)
    }

    pub(crate) fn state(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_STATE, message)
    }

    pub(crate) fn io(action: impl std::fmt::Display, err: &io::Error) -> Self {
        let code = if err.kind() == io::ErrorKind::NotFound {
            code::FILE
        } else {
            code::FAILED
        };
        Self::new(code, format!("failed to {action}: {err}"))
    }

    pub(crate) fn vhdx(path: impl std::fmt::Display, err: &vhdx::Error) -> Self {
        let mut message = format!("'{path}': {err}");
        let mut source = std::error::Error::source(err);
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self::failed(message)
    }
}
