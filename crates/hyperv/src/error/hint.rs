//! What an administrator does about an error of a host, in one sentence.
//!
//! The text of an error says what happened and keeps the host's own words; this is what follows it.

use super::{Error, ErrorKind};

impl Error {
    /// Returns what an administrator does about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Settings { .. } => {
                "correct the address, the account or the certificate in the agent's configuration of this host"
            }
            Error::Unreachable { .. } => {
                "see on the host where WinRM listens: `winrm enumerate winrm/config/listener`"
            }
            Error::LogIn { .. } => {
                "see on the host which log-ins it allows: `winrm get winrm/config/service/auth`"
            }
            Error::Untrusted { .. } => {
                "see the certificate the host shows (`openssl s_client -connect HOST:5986`) and who signed it"
            }
            Error::NoScheme { .. } => {
                "see on the host what it allows: `winrm get winrm/config/service/auth`"
            }
            Error::NotAsked { .. } => {
                "see at the address whether it is the host, before an account is given to it"
            }
            Error::NoHyperV { .. } => {
                "install the role Hyper-V there, or give the address of another host"
            }
            Error::NoRights { .. } => {
                "log the account off on the host after that: a new group counts from its next log-in"
            }
            Error::Shadow { refusal, .. } => refusal.hint(),
            Error::Broken { .. }
            | Error::Unsealed { .. }
            | Error::Tampered { .. }
            | Error::Http { .. }
            | Error::Message { .. }
            | Error::Nonsense { .. }
            | Error::Fault { .. }
            | Error::Return { .. }
            | Error::Job { .. }
            | Error::JobTimeout { .. }
            | Error::JobGone { .. }
            | Error::JobLost { .. }
            | Error::Cancelled { .. }
            | Error::NotFound { .. }
            | Error::StillBusy { .. }
            | Error::NotMerged { .. }
            | Error::Refused { .. }
            | Error::Unsupported { .. } => self.kind().hint(),
        }
    }
}

impl ErrorKind {
    /// Returns what an administrator does about an error of this kind, where no more is known.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            ErrorKind::Retry => "nothing has happened on the host; it is tried again in a while",
            ErrorKind::ResultUnknown => {
                "look in Hyper-V Manager whether it has happened; a job looks for it by itself before it goes on"
            }
            ErrorKind::NotFound => "look whether the VM or file still exists on the host",
            ErrorKind::AccessDenied => {
                "give the account rights on the host: the groups \"Hyper-V Administrators\" and \"Remote Management \
                 Users\", or the local Administrators"
            }
            ErrorKind::WrongState => {
                "see in Hyper-V Manager what the VM is doing, and wait for it or bring it into the state that is needed"
            }
            ErrorKind::InUse => {
                "see what else uses it: another backup, a replica, or a program that holds the file open"
            }
            ErrorKind::Refused => {
                "change what was asked for; the words of the host say what it does not take"
            }
            ErrorKind::Unsupported => {
                "see in docs/hyperv.md what host and VM need for this, or choose another method"
            }
            ErrorKind::Timeout => {
                "see in Hyper-V Manager whether the host still works on it; it goes on there without us"
            }
            ErrorKind::Cancelled => "start it again if it is still wanted",
            ErrorKind::Protocol => {
                "see whether something else answers at this address, such as a proxy; if it is the host, send the \
                 agent's log"
            }
            ErrorKind::Failed => {
                "look into the host's event logs Hyper-V-VMMS and Hyper-V-Worker for the same time"
            }
        }
    }
}
