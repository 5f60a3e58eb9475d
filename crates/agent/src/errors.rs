//! What errors of the host, of its files and of the pipeline mean for a job.

use std::error::Error as StdError;

use hyperv::{ErrorKind, FileError, FileErrorKind};
use pipeline::{BackupError, RestoreError, VerifyError};

use crate::job::JobError;

/// Joins an error with its causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An error of the host's management interface.
pub(crate) fn host_error(error: hyperv::Error) -> JobError {
    let (message, hint) = (chain(&error), error.hint());
    match error.kind() {
        // A bare code does not say which rights are missing; the other texts do.
        ErrorKind::AccessDenied if error.code().is_some() => {
            JobError::NotReady(format!("{message}; {hint}"))
        }
        ErrorKind::Retry | ErrorKind::AccessDenied => JobError::NotReady(message),
        ErrorKind::ResultUnknown | ErrorKind::Timeout => {
            JobError::transient("host-timeout", message).hint(hint)
        }
        ErrorKind::NotFound => JobError::failed("not-on-host", message)
            .hint("look whether the VM still exists on the host; `reprise vm list` shows the last inventory"),
        ErrorKind::WrongState | ErrorKind::InUse => {
            JobError::transient("host-busy", message).hint(hint)
        }
        ErrorKind::Refused => JobError::failed("host-refused", message).hint(hint),
        ErrorKind::Unsupported => JobError::failed("not-supported", message).hint(hint),
        ErrorKind::Cancelled => JobError::failed("cancelled", message).hint(hint),
        ErrorKind::Protocol => JobError::failed("host-protocol", message).hint(hint),
        ErrorKind::Failed => JobError::transient("host-failed", message).hint(hint),
    }
}

/// A shadow copy that was not made.
pub(crate) fn shadow_error(error: hyperv::Error) -> JobError {
    let hyperv::Error::Shadow { refusal, .. } = &error else {
        return host_error(error);
    };
    let (refusal, message) = (*refusal, chain(&error));
    let passes = matches!(refusal.kind(), ErrorKind::InUse | ErrorKind::Failed);
    let failed = if passes {
        JobError::transient("shadow-refused", message)
    } else {
        JobError::failed("shadow-refused", message)
    };
    failed.hint(refusal.hint())
}

/// An error of the host's files.
pub(crate) fn files_error(error: FileError) -> JobError {
    let message = chain(&error);
    match error.kind() {
        FileErrorKind::NotFound => JobError::failed("file-missing", message),
        FileErrorKind::Exists => {
            JobError::failed("path-taken", message).hint("choose another folder with --folder")
        }
        FileErrorKind::InUse => JobError::transient("file-in-use", message)
            .hint("close the program that holds the file; the job is tried again"),
        FileErrorKind::Denied => JobError::failed("file-denied", message)
            .hint("give the agent's account rights on the folder"),
        FileErrorKind::Full => JobError::failed("target-full", message)
            .hint("free space on the volume, or choose a folder on another one with --folder"),
        FileErrorKind::BadPath => JobError::failed("bad-path", message),
        FileErrorKind::Failed => JobError::transient("file-error", message),
    }
}

/// A file that cannot be read from its shadow copy: the host drops shadow copies that it has no room for, and makes
/// another when asked again.
pub(crate) fn on_shadow_error(error: FileError) -> JobError {
    match error.kind() {
        FileErrorKind::NotFound | FileErrorKind::Failed => {
            JobError::transient("shadow-lost", chain(&error)).hint(
                "look whether the volume has room for shadow copies: `vssadmin list shadowstorage`",
            )
        }
        FileErrorKind::Exists
        | FileErrorKind::InUse
        | FileErrorKind::Denied
        | FileErrorKind::Full
        | FileErrorKind::BadPath => files_error(error),
    }
}

/// A disk that cannot be opened.
pub(crate) fn chain_error(error: hyperv::ChainError) -> JobError {
    JobError::failed("disk-unreadable", chain(&error))
        .hint("check the disk with `reprise vhdx check` on the host, or exclude it with `reprise vm exclude`")
}

/// A backup that the pipeline gave up.
pub(crate) fn backup_error(error: BackupError) -> JobError {
    let message = chain(&error);
    if let Some(error) = link_error(&error) {
        return error;
    }
    match error {
        BackupError::Read { .. } => JobError::transient("disk-unreadable", message),
        BackupError::Cancelled
        | BackupError::Link { .. }
        | BackupError::SessionFailed { .. }
        | BackupError::Tree(_)
        | BackupError::Pack(_)
        | BackupError::BaseDoesNotFit { .. } => JobError::transient("backup-failed", message),
    }
}

/// Whether an error is that of a full volume.
pub(crate) fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(cause) = at {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::StorageFull
        {
            return true;
        }
        at = cause.source();
    }
    false
}

/// A file on the host that could not be written.
pub(crate) fn write_error(path: &str, error: &(dyn StdError + 'static)) -> JobError {
    let message = format!("cannot write {path}: {}", chain(error));
    if is_full(error) {
        JobError::failed("target-full", message)
            .hint("free space on the volume, or choose a folder on another one with --folder")
    } else {
        JobError::transient("target-unwritable", message)
    }
}

/// A restore into a file that the pipeline gave up.
pub(crate) fn restore_error(path: &str, error: RestoreError) -> JobError {
    if let Some(error) = link_error(&error) {
        return error;
    }
    let message = format!("restore of {path}: {}", chain(&error));
    match error {
        RestoreError::Write { .. } => write_error(path, &error),
        RestoreError::MissingChunk { .. }
        | RestoreError::DamagedChunk { .. }
        | RestoreError::ShortChunk { .. }
        | RestoreError::WrongDigest { .. }
        | RestoreError::Incomplete { .. }
        | RestoreError::Tree(_) => JobError::failed("damaged", message)
            .hint("restore an older recovery point; `reprise point verify` tells which are whole"),
        RestoreError::Cancelled | RestoreError::Link { .. } => {
            JobError::transient("restore-failed", message)
        }
    }
}

/// A read-back that did not give what was written.
pub(crate) fn verify_error(path: &str, error: VerifyError) -> JobError {
    let message = format!("{path}: {}", chain(&error));
    match error {
        VerifyError::Mismatch { .. } | VerifyError::WrongLength { .. } => {
            JobError::failed("verify-failed", message)
                .hint("check the host's storage, then restore again")
        }
        VerifyError::Cancelled | VerifyError::Read { .. } => {
            JobError::transient("verify-failed", message)
        }
    }
}

/// A background task that panicked or was dropped.
pub(crate) fn task_error(error: tokio::task::JoinError) -> JobError {
    JobError::transient(
        "agent-bug",
        format!("a task of the agent ended unexpectedly: {error}"),
    )
}

/// What the server said, where an error of the pipeline came from it.
fn link_error(error: &(dyn StdError + 'static)) -> Option<JobError> {
    let mut at = Some(error);
    while let Some(cause) = at {
        if let Some(refused) = cause.downcast_ref::<crate::links::LinkError>() {
            return Some(refused.as_job_error());
        }
        at = cause.source();
    }
    None
}
