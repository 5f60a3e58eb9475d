//! What jobs there are and the steps each goes through.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct UnknownName {
    /// What it should have named.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

/// Gives an enum its names: `as_str`, `Display` and `FromStr`, all from one table.
macro_rules! named {
    ($type:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in order.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];

            /// Returns the name used in the API, in the catalog and on the command line.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::str::FromStr for $type {
            type Err = $crate::UnknownName;
            fn from_str(text: &str) -> Result<Self, $crate::UnknownName> {
                match text {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::UnknownName { what: $what, text: text.chars().take(80).collect() }),
                }
            }
        }
    };
}
pub(crate) use named;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Makes a recovery point of a VM.
    Backup,
    /// Restores a VM or disks of it.
    Restore,
    /// Puts back what a restore keeps beside, and keeps what the restore made beside in turn.
    RestoreUndo,
    /// Deletes what a restore keeps beside.
    RestoreFinish,
    /// Reads a recovery point whole and compares.
    VerifyPoint,
}

named!(JobKind, "kind of job", {
    Backup => "backup",
    Restore => "restore",
    RestoreUndo => "restore-undo",
    RestoreFinish => "restore-finish",
    VerifyPoint => "verify-point",
});

/// Who carries a job out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunsOn {
    /// The agent of the job's host.
    Agent,
    /// A server.
    Server,
}

/// A step of a job; its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// The request was checked and stored.
    Request,
    /// The agent concerned is there and ready (S9).
    Agent,
    /// The destination has room (S12).
    Space,
    /// Full VM or disks (S13).
    Kind,
    /// The agent opened the connection data comes over (S14).
    Connect,
    /// The server sends the recovery point (S15).
    Send,
    /// Disks are written, the VM is registered (S16).
    Restore,
    /// What is on the host is read back and compared (S17).
    Verify,
    /// A checkpoint or shadow was taken on the host.
    Checkpoint,
    /// Disks are read and sent.
    Read,
    /// The recovery point was committed.
    Publish,
    /// The checkpoint became a reference point.
    Convert,
    /// What a restore kept beside is deleted.
    Release,
}

named!(StepName, "step of a job", {
    Request => "request",
    Agent => "agent",
    Space => "space",
    Kind => "kind",
    Connect => "connect",
    Send => "send",
    Restore => "restore",
    Verify => "verify",
    Checkpoint => "checkpoint",
    Read => "read",
    Publish => "publish",
    Convert => "convert",
    Release => "release",
});

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Begun, not ended.
    Running,
    /// Ended well.
    Done,
    /// Ended badly.
    Failed,
    /// Not needed in this job (a disk restore to files registers no VM).
    Skipped,
}

named!(StepState, "state of a step", {
    Running => "running", Done => "done", Failed => "failed", Skipped => "skipped",
});

impl StepState {
    /// Tells whether the next step may count on this one.
    #[must_use]
    pub fn is_passed(self) -> bool {
        match self {
            StepState::Done | StepState::Skipped => true,
            StepState::Running | StepState::Failed => false,
        }
    }
}

impl JobKind {
    /// Returns the steps in the order they begin.
    #[must_use]
    pub fn steps(self) -> &'static [StepName] {
        match self {
            JobKind::Backup => &[
                StepName::Request,
                StepName::Agent,
                StepName::Checkpoint,
                StepName::Read,
                StepName::Publish,
                StepName::Convert,
            ],
            JobKind::Restore => &[
                StepName::Request,
                StepName::Agent,
                StepName::Space,
                StepName::Kind,
                StepName::Connect,
                StepName::Send,
                StepName::Restore,
                StepName::Verify,
            ],
            JobKind::RestoreUndo => &[
                StepName::Request,
                StepName::Agent,
                StepName::Restore,
                StepName::Verify,
            ],
            JobKind::RestoreFinish => &[StepName::Request, StepName::Agent, StepName::Release],
            JobKind::VerifyPoint => &[StepName::Request, StepName::Read, StepName::Verify],
        }
    }

    /// Returns who carries the job out.
    #[must_use]
    pub fn runs_on(self) -> RunsOn {
        match self {
            JobKind::Backup | JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish => {
                RunsOn::Agent
            }
            JobKind::VerifyPoint => RunsOn::Server,
        }
    }

    /// Tells whether the job must be the only one on its VM. Reading a stored point disturbs nobody.
    #[must_use]
    pub fn needs_vm_alone(self) -> bool {
        match self {
            JobKind::Backup | JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish => {
                true
            }
            JobKind::VerifyPoint => false,
        }
    }

    /// Returns how urgent the kind is; smaller goes first. A restore goes before any backup.
    #[must_use]
    pub fn rank(self) -> u32 {
        match self {
            JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish => 0,
            JobKind::Backup => 1,
            JobKind::VerifyPoint => 2,
        }
    }
}

/// A step that was reported out of order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepOrderError {
    /// The kind of job has no such step.
    #[error("a {kind} job has no step {step}")]
    NotAStep {
        /// The job's kind.
        kind: JobKind,
        /// The step.
        step: StepName,
    },
    /// A step before it has not passed.
    #[error("step {step} cannot begin: step {missing} comes first and has not ended well")]
    Missing {
        /// The step that was to begin.
        step: StepName,
        /// What it needs.
        missing: StepName,
    },
}

/// Checks that `step` may begin, given what the attempt's earlier steps have come to.
///
/// Every step before it must have passed, but for `send`: it lasts as long as data flows, so `restore` begins while
/// it runs.
pub fn check_may_start(
    kind: JobKind,
    step: StepName,
    state_of: impl Fn(StepName) -> Option<StepState>,
) -> Result<(), StepOrderError> {
    let steps = kind.steps();
    let place = steps
        .iter()
        .position(|&s| s == step)
        .ok_or(StepOrderError::NotAStep { kind, step })?;
    for &earlier in steps.get(..place).unwrap_or_default() {
        let overlaps = earlier == StepName::Send && step == StepName::Restore;
        let fine = match state_of(earlier) {
            Some(StepState::Running) => overlaps,
            Some(state) => state.is_passed(),
            None => false,
        };
        if !fine {
            return Err(StepOrderError::Missing {
                step,
                missing: earlier,
            });
        }
    }
    Ok(())
}

impl fmt::Display for RunsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunsOn::Agent => "agent",
            RunsOn::Server => "server",
        })
    }
}

impl FromStr for RunsOn {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "agent" => Ok(RunsOn::Agent),
            "server" => Ok(RunsOn::Server),
            _ => Err(UnknownName {
                what: "place for a job",
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: JobKind, passed: &str, step: StepName, ok: bool) {
        let state = |s: StepName| {
            passed.split_whitespace().find_map(|word| {
                let (name, state) = word.split_once('=').unwrap_or((word, "done"));
                (name == s.as_str()).then(|| state.parse().unwrap())
            })
        };
        assert_eq!(
            check_may_start(kind, step, state).is_ok(),
            ok,
            "{kind}: {passed} then {step}"
        );
    }

    #[test]
    fn steps_begin_in_order() {
        check(JobKind::Restore, "", StepName::Request, true);
        check(
            JobKind::Restore,
            "request agent space kind",
            StepName::Connect,
            true,
        );
        check(
            JobKind::Restore,
            "request agent kind",
            StepName::Connect,
            false,
        );
        check(
            JobKind::Restore,
            "request agent space kind",
            StepName::Restore,
            false,
        );
        check(
            JobKind::Restore,
            "request agent space=failed",
            StepName::Kind,
            false,
        );
        check(
            JobKind::Restore,
            "request agent space=running",
            StepName::Kind,
            false,
        );
        check(
            JobKind::Restore,
            "request agent space kind connect send=running",
            StepName::Restore,
            true,
        );
        check(
            JobKind::Restore,
            "request agent space kind connect send=failed",
            StepName::Restore,
            false,
        );
        check(
            JobKind::Restore,
            "request agent space kind connect send=running restore",
            StepName::Verify,
            false,
        );
        check(
            JobKind::Backup,
            "request agent checkpoint read",
            StepName::Publish,
            true,
        );
        check(
            JobKind::Backup,
            "request agent checkpoint read publish=skipped",
            StepName::Convert,
            true,
        );
        check(JobKind::Backup, "request agent", StepName::Space, false);
    }

    #[test]
    fn names_are_read_back() {
        for &kind in JobKind::ALL {
            assert_eq!(kind.as_str().parse::<JobKind>().unwrap(), kind);
            assert_eq!(kind.steps().first(), Some(&StepName::Request));
        }
        for &step in StepName::ALL {
            assert_eq!(step.as_str().parse::<StepName>().unwrap(), step);
        }
        assert!("Backup".parse::<JobKind>().is_err());
    }
}
