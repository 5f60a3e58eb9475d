//! Control: what a person or a test does to the simulated host, beside what clients ask over WS-Management.
//!
//! A command goes to the running host over its loopback control port, or, where none runs, is carried out on the
//! directory itself by the same code, under the directory's lock.

mod add;
mod client;
mod command;
mod execute;
mod fault_rule;
mod feature;
mod populate;
mod reply;
mod show;

pub(crate) use add::copy_holes;
pub(crate) use client::ControlFile;
pub use client::ctl;
pub(crate) use execute::execute;

pub use command::{
    Command, DiskAdd, DiskSelector, GuestContent, ParseCommandError, PowerAction, VmAdd,
};
pub use fault_rule::{FaultName, FaultRule, FaultSpec};
pub use feature::{FeatureAdd, VmFeature};
pub use reply::{
    BytesInfo, CheckpointInfo, DiskInfo, FaultsInfo, FileInfo, PathInfo, Reply, RuleInfo, VmInfo,
    VolumeInfo,
};

use serde::{Deserialize, Serialize};

/// A command that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CtlError {
    /// What sort of failure.
    pub kind: CtlErrorKind,
    /// What happened, to what, and what to do next.
    pub message: String,
}

/// Sorts of failure; a program's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CtlErrorKind {
    /// No such VM, disk, checkpoint, volume or directory.
    NotFound,
    /// The argument makes no sense.
    Usage,
    /// Not now: wrong state, something in the way.
    Conflict,
    /// The host tried and failed.
    Failed,
}

impl CtlError {
    pub(crate) fn new(kind: CtlErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
