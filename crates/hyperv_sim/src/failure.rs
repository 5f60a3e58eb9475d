//! What a method or job answers when it does not do what was asked: the documented code, and why.

use std::io;

/// Return codes of Hyper-V's methods and error codes of its jobs.
pub(crate) mod code {
    pub(crate) const JOB_STARTED: u32 = 4096;
    pub(crate) const FAILED: u32 = 32768;
    pub(crate) const NOT_SUPPORTED: u32 = 32770;
    pub(crate) const INVALID_PARAMETER: u32 = 32773;
    pub(crate) const IN_USE: u32 = 32774;
    pub(crate) const INVALID_STATE: u32 = 32775;
    /// Image service: the file is not there. Management service: the host is using it.
    pub(crate) const FILE: u32 = 32779;
}

/// A refusal (return code) or a failed job (error code).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
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
