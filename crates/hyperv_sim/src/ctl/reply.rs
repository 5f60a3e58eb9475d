//! What `reprise sim ctl` answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault_rule::FaultSpec;

/// The answer to a [`super::Command`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// One VM (`vm add`, `vm show`, `power`).
    Vm(VmInfo),
    /// `vm list`.
    Vms(Vec<VmInfo>),
    /// Bytes written or read.
    Bytes(BytesInfo),
    /// One checkpoint (`checkpoint create`).
    Checkpoint(CheckpointInfo),
    /// `checkpoint list`.
    Checkpoints(Vec<CheckpointInfo>),
    /// `volume set`.
    Volume(VolumeInfo),
    /// `fault list`, `fault add`, `fault set`.
    Faults(FaultsInfo),
    /// `files`.
    Files(Vec<FileInfo>),
    /// `path`.
    Path(PathInfo),
}

impl Reply {
    /// Returns the answer as the JSON that `--json` prints: the object or list itself, without the variant's name.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let value = match self {
            Reply::Done => return serde_json::json!({}),
            Reply::Vm(vm) => serde_json::to_value(vm),
            Reply::Vms(vms) => serde_json::to_value(vms),
            Reply::Bytes(bytes) => serde_json::to_value(bytes),
            Reply::Checkpoint(checkpoint) => serde_json::to_value(checkpoint),
            Reply::Checkpoints(checkpoints) => serde_json::to_value(checkpoints),
            Reply::Volume(volume) => serde_json::to_value(volume),
            Reply::Faults(faults) => serde_json::to_value(faults),
            Reply::Files(files) => serde_json::to_value(files),
            Reply::Path(path) => serde_json::to_value(path),
        };
        value.expect("plain structs with text keys always serialise")
    }
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Hyper-V's id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// `running`, `off`, `saved`, `paused`.
    pub state: String,
    /// 1 or 2.
    pub generation: u8,
    /// Configuration version.
    pub version: String,
    /// What the host is doing with it: `creating-checkpoint`, `merging`; empty in peace.
    pub busy: Vec<String>,
    /// Disks in the order of attachment.
    pub disks: Vec<DiskInfo>,
    /// Names of the switches of its network adapters; empty text where not connected.
    pub nics: Vec<String>,
    /// Number of checkpoints, backup checkpoints included.
    pub checkpoints: usize,
    /// InstanceIDs of its reference points.
    pub reference_points: Vec<String>,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Windows path of the leaf.
    pub path: String,
    /// Windows paths of its parents, nearest first.
    pub parents: Vec<String>,
    /// Controller and slot, such as `scsi 0:1`.
    pub slot: String,
    /// Virtual size in bytes; 0 where the file cannot be read.
    pub size_bytes: u64,
    /// VirtualDiskId.
    pub disk_id: String,
}

/// How many bytes went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesInfo {
    /// Bytes.
    pub bytes: u64,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// InstanceID.
    pub id: String,
    /// Display name.
    pub name: String,
    /// `user` or `recovery`.
    pub kind: String,
    /// InstanceID of the parent.
    pub parent: Option<String>,
    /// RFC 3339.
    pub created: String,
    /// Whether the VM runs on it.
    pub current: bool,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Drive letter.
    pub volume: String,
    /// Bytes.
    pub capacity_bytes: u64,
    /// Capacity minus what its files take.
    pub free_bytes: u64,
}

/// Rules and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultsInfo {
    /// The rules, with what is left of their `times`; those that are used up, too, until they are cleared.
    pub rules: Vec<RuleInfo>,
    /// The settings.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// A rule and how often it struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The rule; with `times` 0 it is used up.
    #[serde(flatten)]
    pub spec: FaultSpec,
    /// How often it struck since it was added.
    #[serde(default)]
    pub hits: u32,
}

/// A file on a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Windows path.
    pub path: String,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// Where a host path lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Windows path as asked.
    pub path: String,
    /// Local path behind it.
    pub local: PathBuf,
    /// Whether there is something.
    pub exists: bool,
}
