//! What `reprise sim ctl` can ask, as types. Parsing command lines is the caller's business.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault_rule::FaultSpec;

/// One control command. VMs are named by id, or by name where that is unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Command {
    /// Adds a VM, off.
    VmAdd(VmAdd),
    /// Lists the VMs.
    VmList,
    /// Shows one VM.
    VmShow {
        /// Id or name.
        vm: String,
    },
    /// Turns a VM off and removes it; its disk files stay.
    VmRemove {
        /// Id or name.
        vm: String,
    },
    /// Gives a VM something that a backup must recognise.
    VmFeature(super::feature::FeatureAdd),
    /// Adds many VMs with empty disks, off.
    VmPopulate {
        /// What their names and their folder begin with.
        prefix: String,
        /// How many.
        count: u32,
        /// Disks of each.
        disks: u32,
    },
    /// Makes the host a node of a cluster.
    ClusterMake {
        /// Name of the cluster.
        name: String,
        /// Names of its other nodes.
        others: Vec<String>,
    },
    /// Changes a VM's power state and waits for it.
    Power {
        /// Id or name.
        vm: String,
        /// What to do.
        action: PowerAction,
    },
    /// Writes into a disk as the guest would. The VM must be running.
    GuestWrite {
        /// Id or name.
        vm: String,
        /// Which disk.
        disk: DiskSelector,
        /// Distance from the start of the virtual disk in bytes.
        offset: u64,
        /// What to write.
        content: GuestContent,
    },
    /// Reads virtual content; the bytes go to the writer given to [`crate::ctl()`].
    GuestRead {
        /// Id or name.
        vm: String,
        /// Which disk.
        disk: DiskSelector,
        /// Distance from the start of the virtual disk in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Writes `bytes` in all over the VM's disks the way a file system would, the same for the same seed.
    GuestWorkload {
        /// Id or name.
        vm: String,
        /// Seed.
        seed: u64,
        /// Total bytes written.
        bytes: u64,
    },
    /// Takes a user checkpoint and waits for it.
    CheckpointCreate {
        /// Id or name.
        vm: String,
        /// Display name; the host makes one up without.
        name: Option<String>,
    },
    /// Puts the VM (off or saved) back to a checkpoint.
    CheckpointApply {
        /// Id or name.
        vm: String,
        /// Checkpoint, by id or name.
        checkpoint: String,
    },
    /// Deletes a checkpoint and waits until its files are merged.
    CheckpointDelete {
        /// Id or name.
        vm: String,
        /// Checkpoint, by id or name.
        checkpoint: String,
    },
    /// Lists the checkpoints of a VM, backup checkpoints included.
    CheckpointList {
        /// Id or name.
        vm: String,
    },
    /// Sets the capacity of a volume (made where it is missing).
    VolumeSet {
        /// Drive letter, or the folder it is mounted at, such as `C:\Mount\Data`.
        volume: String,
        /// Bytes.
        capacity_bytes: u64,
    },
    /// Adds a fault rule.
    FaultAdd(FaultSpec),
    /// Lists the fault rules and settings.
    FaultList,
    /// Removes all fault rules; settings stay.
    FaultClear,
    /// Changes a setting; `FaultList` lists them with their values.
    FaultSet {
        /// Name of the setting.
        key: String,
        /// Its value; sizes take units.
        value: String,
    },
    /// Lists the files on the volumes.
    Files {
        /// Pattern over the host path with `*` and `?`, any case; all without.
        glob: Option<String>,
    },
    /// Resolves a host path to the local path behind it, existing or not.
    Path {
        /// Windows path.
        path: String,
    },
}

/// A VM to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAdd {
    /// Display name.
    pub name: String,
    /// 1 or 2.
    pub generation: u8,
    /// Configuration version, such as `10.0`; the host's own without.
    pub version: Option<String>,
    /// Disks, in the order of attachment.
    pub disks: Vec<DiskAdd>,
    /// Name of the switch each network adapter is connected to; made where it is missing.
    pub nics: Vec<String>,
}

/// A disk to put into a new VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAdd {
    /// Windows path on the host.
    pub path: String,
    /// A local VHDX file that is copied there.
    pub file: PathBuf,
}

impl FromStr for DiskAdd {
    type Err = ParseCommandError;

    /// Reads `C:\path\disk.vhdx=FILE`.
    fn from_str(text: &str) -> Result<Self, ParseCommandError> {
        match text.split_once('=') {
            Some((path, file)) if !path.is_empty() && !file.is_empty() => Ok(Self {
                path: path.to_owned(),
                file: PathBuf::from(file),
            }),
            Some(_) | None => Err(ParseCommandError::new(
                "a disk",
                text,
                r"write C:\path\disk.vhdx=FILE",
            )),
        }
    }
}

/// A text that names nothing this module knows.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {what}; {hint}")]
pub struct ParseCommandError {
    what: &'static str,
    text: String,
    hint: String,
}

impl ParseCommandError {
    pub(super) fn new(what: &'static str, text: &str, hint: impl Into<String>) -> Self {
        Self {
            what,
            text: text.chars().take(200).collect(),
            hint: hint.into(),
        }
    }
}

/// What `power` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAction {
    /// Starts or resumes.
    On,
    /// Turns off hard.
    Off,
    /// Saves memory and releases the disks.
    Save,
    /// Pauses; the disks stay with the VM.
    Pause,
}

impl FromStr for PowerAction {
    type Err = ParseCommandError;

    fn from_str(text: &str) -> Result<Self, ParseCommandError> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            "save" => Ok(Self::Save),
            "pause" => Ok(Self::Pause),
            _ => Err(ParseCommandError::new(
                "a power action",
                text,
                "write on, off, save or pause",
            )),
        }
    }
}

/// A disk of a VM: its place in the order of attachment, or its path on the host (of the leaf, or of any file of
/// its chain).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSelector {
    /// From 0.
    Index(usize),
    /// Windows path.
    Path(String),
}

impl FromStr for DiskSelector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::Path(text.to_owned()), Self::Index))
    }
}

/// What `guest write` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestContent {
    /// The bytes of a local file.
    File(PathBuf),
    /// Bytes made from a seed; see [`crate::pattern`].
    Pattern {
        /// Seed.
        seed: u64,
        /// How many bytes.
        length: u64,
    },
}
