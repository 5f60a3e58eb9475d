//! What can go wrong with a host, and what a caller can do about it.

mod hint;

use std::time::Duration;

use wsman::{Fault, FaultClass, MessageError};

use crate::ConnectionError;
use crate::host::ShadowRefusal;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing has happened; try again later.
    Retry,
    /// It may have happened: look for the effect before trying again.
    ResultUnknown,
    /// There is no such object or file on the host.
    NotFound,
    /// The account lacks rights.
    AccessDenied,
    /// The object is in the wrong state (a VM that runs, a merge under way).
    WrongState,
    /// Something else on the host uses it.
    InUse,
    /// The host refuses what was asked.
    Refused,
    /// This host cannot do that.
    Unsupported,
    /// The host did not finish within the limit.
    Timeout,
    /// It was cancelled, and the host has stopped.
    Cancelled,
    /// The host answered something this program does not understand.
    Protocol,
    /// The host tried and failed.
    Failed,
}

/// A request to a host that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings of the connection make no sense.
    #[error("cannot connect to {url}: {what}")]
    Settings {
        /// The endpoint.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The host was not reached, so nothing has happened.
    #[error("cannot reach the host at {url}; is it on, and does WinRM listen there?")]
    Unreachable {
        /// The endpoint.
        url: String,
        /// Cause.
        source: ConnectionError,
    },
    /// The machine that answered is not proven to be the host, so nothing was said to it.
    #[error(
        "the certificate of the host at {url} is not trusted; give the CA that signed it, or its SHA-256 fingerprint"
    )]
    Untrusted {
        /// The endpoint.
        url: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The connection broke after the request was sent.
    #[error("the connection to {url} broke while the host worked on: {doing}")]
    Broken {
        /// The endpoint.
        url: String,
        /// What was asked.
        doing: String,
        /// Cause.
        source: ConnectionError,
    },
    /// User name or password is wrong, or the account may not log in.
    #[error(
        "the host at {url} refused the log-in of {user} by {scheme}; check user name and password, and that the account \
         may log in over the network (a local administrator other than the built-in one needs \
         LocalAccountTokenFilterPolicy=1)"
    )]
    LogIn {
        /// The endpoint.
        url: String,
        /// The user name.
        user: String,
        /// How it logged in.
        scheme: &'static str,
    },
    /// The host offers no way to log in that may be used.
    #[error("the host at {url} offers {offered} to log in, and {wanted} was to be used; {hint}")]
    NoScheme {
        /// The endpoint.
        url: String,
        /// What it offers.
        offered: String,
        /// What this program was to use.
        wanted: &'static str,
        /// What to do next.
        hint: &'static str,
    },
    /// An account is given, and the host lets anybody in.
    #[error(
        "the host at {url} asks for no log-in, so it may not be the one that is meant; switch its authentication on, or \
         leave out user and password"
    )]
    NotAsked {
        /// The endpoint.
        url: String,
    },
    /// An answer in plain text to a sealed request: anybody on the network may have written it.
    #[error(
        "the host at {url} answered the sealed request {doing} in plain text (HTTP status {status}): {text}; refused, as \
         anybody on the network may have written it"
    )]
    Unsealed {
        /// The endpoint.
        url: String,
        /// What was asked.
        doing: String,
        /// HTTP status.
        status: u16,
        /// Start of the body.
        text: String,
    },
    /// A sealed answer that does not open.
    #[error(
        "the sealed answer of the host at {url} to {doing} does not open: {what}; look for a proxy or an intruder between \
         here and the host, or use HTTPS"
    )]
    Tampered {
        /// The endpoint.
        url: String,
        /// What was asked.
        doing: String,
        /// What is wrong with it.
        what: String,
    },
    /// An HTTP answer that is no WS-Management message.
    #[error("the host at {url} answered {doing} with HTTP status {status}: {text}")]
    Http {
        /// The endpoint.
        url: String,
        /// What was asked.
        doing: String,
        /// Status.
        status: u16,
        /// Start of the body.
        text: String,
    },
    /// An answer that cannot be read.
    #[error("cannot read the host's answer to: {doing}")]
    Message {
        /// What was asked.
        doing: String,
        /// Cause.
        source: MessageError,
    },
    /// An answer that can be read and makes no sense.
    #[error("the host's answer to {doing} makes no sense: {what}")]
    Nonsense {
        /// What was asked.
        doing: String,
        /// What is wrong.
        what: String,
    },
    /// A fault.
    #[error("the host refused {doing}{}", next_step(source))]
    Fault {
        /// What was asked.
        doing: String,
        /// The host's words.
        #[source]
        source: Box<Fault>,
    },
    /// A method that returned a code other than success.
    #[error("{method} returned {code} ({})", meaning(*code))]
    Return {
        /// Class and method.
        method: String,
        /// The code.
        code: u32,
    },
    /// A job that ended without success.
    #[error("{method} failed on the host with {code} ({}): {text}", meaning(*code))]
    Job {
        /// Class and method.
        method: String,
        /// `ErrorCode` of the job.
        code: u32,
        /// The host's words, those of `GetErrorEx` included.
        text: String,
    },
    /// A job that was not finished within the limit.
    #[error("{method} is still under way on the host after {} s", waited.as_secs())]
    JobTimeout {
        /// Class and method.
        method: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A job that vanished before its end was seen.
    #[error("the host no longer knows the job of {method}; whether it succeeded is unknown")]
    JobGone {
        /// Class and method.
        method: String,
    },
    /// A job that could not be followed to its end.
    #[error("lost sight of {method} on the host; whether it succeeded is unknown")]
    JobLost {
        /// Class and method.
        method: String,
        /// Cause.
        source: Box<Error>,
    },
    /// Cancelled, and the job on the host has ended.
    #[error("{method} was cancelled")]
    Cancelled {
        /// Class and method.
        method: String,
    },
    /// The account sees no Hyper-V service.
    #[error(
        "{user} has no Hyper-V rights on the host; add the account to the host's groups \"Hyper-V Administrators\" and \
         \"Remote Management Users\" (or to its local Administrators)"
    )]
    NoRights {
        /// The user name.
        user: String,
    },
    /// The host has no Hyper-V.
    #[error("the machine at {url} is no Hyper-V host: it has no namespace root/virtualization/v2")]
    NoHyperV {
        /// The endpoint.
        url: String,
    },
    /// There is no such thing.
    #[error("{what} is not on the host")]
    NotFound {
        /// Kind and name.
        what: String,
    },
    /// A thing that stayed in a state too long.
    #[error("{what} after {} s", waited.as_secs())]
    StillBusy {
        /// What, and in which state.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The host made no shadow copy of a volume.
    #[error("the host made no shadow copy of volume {volume}: {refusal}")]
    Shadow {
        /// Where it is mounted.
        volume: String,
        /// Why.
        refusal: ShadowRefusal,
    },
    /// The host has stopped merging before it was done.
    #[error("the host has left files of VM {vm} unmerged: {files}; {why}")]
    NotMerged {
        /// The VM.
        vm: model::VmId,
        /// The files.
        files: String,
        /// Why, or where to look.
        why: &'static str,
    },
    /// Something the driver itself refuses.
    #[error("{what}")]
    Refused {
        /// What and why.
        what: String,
    },
    /// Something the host or its object lacks.
    #[error("{what}")]
    Unsupported {
        /// What.
        what: String,
    },
}

impl Error {
    /// Returns what a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Settings { .. }
            | Error::Refused { .. }
            | Error::Untrusted { .. }
            | Error::NotAsked { .. } => ErrorKind::Refused,
            Error::Unreachable { .. } => ErrorKind::Retry,
            Error::Broken { .. } | Error::JobGone { .. } | Error::JobLost { .. } => {
                ErrorKind::ResultUnknown
            }
            Error::LogIn { .. } | Error::NoScheme { .. } | Error::NoRights { .. } => {
                ErrorKind::AccessDenied
            }
            // A busy service or a proxy says so in plain text, but nobody vouches that the request did not run.
            Error::Unsealed {
                status: 408 | 429 | 502 | 503 | 504,
                ..
            } => ErrorKind::ResultUnknown,
            Error::Unsealed { .. } | Error::Tampered { .. } => ErrorKind::Protocol,
            Error::Http {
                status: 408 | 429 | 502 | 503 | 504,
                ..
            } => ErrorKind::Retry,
            Error::Http { .. } | Error::Message { .. } | Error::Nonsense { .. } => {
                ErrorKind::Protocol
            }
            Error::Fault { source, .. } => match source.class() {
                FaultClass::Retry | FaultClass::Quota => ErrorKind::Retry,
                FaultClass::NotFound => ErrorKind::NotFound,
                FaultClass::UnknownClass | FaultClass::UnknownMethod | FaultClass::Unsupported => {
                    ErrorKind::Unsupported
                }
                FaultClass::AccessDenied => ErrorKind::AccessDenied,
                FaultClass::ResultUnknown => ErrorKind::ResultUnknown,
                FaultClass::InvalidParameter | FaultClass::BadQuery => ErrorKind::Refused,
                FaultClass::EncodingLimit | FaultClass::InvalidContext | FaultClass::Failed => {
                    ErrorKind::Failed
                }
            },
            Error::Shadow { refusal, .. } => refusal.kind(),
            Error::Return { method, code } | Error::Job { method, code, .. } => {
                kind_of_code(method, *code)
            }
            Error::JobTimeout { .. } | Error::StillBusy { .. } => ErrorKind::Timeout,
            Error::NotMerged { .. } => ErrorKind::Failed,
            Error::Cancelled { .. } => ErrorKind::Cancelled,
            Error::NoHyperV { .. } | Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::NotFound { .. } => ErrorKind::NotFound,
        }
    }

    /// Returns the class of the fault, where it is one.
    #[must_use]
    pub fn fault_class(&self) -> Option<FaultClass> {
        if let Error::Fault { source, .. } = self {
            Some(source.class())
        } else {
            None
        }
    }

    /// Returns the code a method or its job ended with.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        if let Error::Return { code, .. } | Error::Job { code, .. } = self {
            Some(*code)
        } else {
            None
        }
    }
}

/// Return codes of Hyper-V methods.
pub(crate) mod code {
    /// Done.
    pub(crate) const DONE: u32 = 0;
    /// A job was started.
    pub(crate) const JOB_STARTED: u32 = 4096;
    /// Failed.
    pub(crate) const FAILED: u32 = 32768;
    /// Invalid parameter.
    pub(crate) const INVALID_PARAMETER: u32 = 32773;
    /// File not found (image service) or in use (management service).
    pub(crate) const FILE: u32 = 32779;
}

/// Says what to do about a fault, where that follows from its class.
fn next_step(fault: &Fault) -> &'static str {
    if fault.class() == FaultClass::AccessDenied {
        "; add the account to the host's groups \"Hyper-V Administrators\" and \"Remote Management Users\" (or to its \
         local Administrators)"
    } else {
        ""
    }
}

/// Names a return code for people.
fn meaning(code: u32) -> &'static str {
    match code {
        0 => "no error named",
        1 | 32770 => "not supported",
        2 | 32768 => "failed",
        3 | 32772 => "timeout",
        4 | 32773 => "invalid parameter",
        5 | 32775 => "invalid state for this operation",
        6 | 32776 => "incompatible parameters",
        32769 => "access denied",
        32771 => "status unknown",
        32774 => "system in use",
        32777 => "system not available",
        32778 => "out of memory",
        32779 => "file not found or in use",
        _ => "code unknown to Reprise",
    }
}

/// What a caller can do about a code: those of CIM services (1 to 6) and of Hyper-V's (32768 and up).
fn kind_of_code(method: &str, code: u32) -> ErrorKind {
    match code {
        1 | 32770 => ErrorKind::Unsupported,
        2 | 32768 => ErrorKind::Failed,
        3 | 32772 | 32771 => ErrorKind::ResultUnknown,
        4 | 6 | 32773 | 32776 => ErrorKind::Refused,
        5 | 32775 => ErrorKind::WrongState,
        32769 => ErrorKind::AccessDenied,
        32774 => ErrorKind::InUse,
        32777 | 32778 => ErrorKind::Retry,
        // One number, two meanings.
        code::FILE if method.starts_with("Msvm_ImageManagementService.") => ErrorKind::NotFound,
        code::FILE => ErrorKind::InUse,
        _ => ErrorKind::Failed,
    }
}
