//! What is known of a VM: the words of the inventory.

use std::fmt;

use model::{PowerState, Timestamp, Unsupported, VmConfig};

use super::disks::VmDisk;
use super::reference_points::ReferencePoint;

/// What the host is doing with a VM at the moment (second value of OperationalStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// 32768
    CreatingCheckpoint,
    /// 32769
    ApplyingCheckpoint,
    /// 32770
    DeletingCheckpoint,
    /// 32771
    WaitingToStart,
    /// 32772
    MergingDisks,
    /// 32773
    Exporting,
    /// 32774
    Migrating,
    /// Another value.
    Other(u32),
}

impl fmt::Display for Activity {
    /// Says it so that it fits behind "the VM is".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activity::CreatingCheckpoint => "getting a checkpoint",
            Activity::ApplyingCheckpoint => "applying a checkpoint",
            Activity::DeletingCheckpoint => "deleting a checkpoint",
            Activity::WaitingToStart => "waiting to start",
            Activity::MergingDisks => "merging disks",
            Activity::Exporting => "being exported",
            Activity::Migrating => "being migrated",
            Activity::Other(status) => {
                return write!(f, "busy (operational status {status})");
            }
        })
    }
}

/// A configuration version, such as 8.0, compared as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigVersion {
    /// Before the point.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl ConfigVersion {
    /// The first version whose disks a host can track: 6.2.
    pub const TRACKED: Self = Self { major: 6, minor: 2 };

    /// Reads a version; what is no number is 0, so that it is older than any.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut parts = text.trim().split('.').map(|part| part.parse().unwrap_or(0));
        Self {
            major: parts.next().unwrap_or(0),
            minor: parts.next().unwrap_or(0),
        }
    }
}

impl fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a VM is in a replication between hosts (ReplicationMode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReplicationRole {
    /// 0: it is not replicated.
    #[default]
    None,
    /// 1: it is replicated to another host.
    Primary,
    /// 2: it is a replica.
    Replica,
    /// 3: a replica being tried out.
    TestReplica,
    /// 4: a replica of a replica.
    ExtendedReplica,
    /// Another value.
    Other(u16),
}

/// The replication of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replication {
    /// Its part in it.
    pub role: ReplicationRole,
    /// ReplicationState, 0 where there is none.
    pub state: u16,
}

/// Security settings of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Security {
    /// It has a virtual TPM.
    pub tpm: bool,
    /// It is shielded.
    pub shielded: bool,
    /// Its saved state and its traffic while it moves are encrypted.
    pub encrypted_state: bool,
}

/// A VM, as the inventory of all shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct VmSummary {
    /// Its configuration; boot entries are only in [`VmFacts`].
    pub config: VmConfig,
    /// What it does.
    pub power: PowerState,
    /// What the host is doing with it.
    pub activity: Option<Activity>,
    /// Milliseconds since it was started.
    pub uptime_ms: Option<u64>,
    /// When its configuration last changed: equal means that nothing need be read again.
    pub changed: Option<Timestamp>,
    /// How many checkpoints users have made.
    pub checkpoints: usize,
    /// Its part in a replication.
    pub replication: Replication,
    /// Security settings.
    pub security: Security,
    /// When a backup of it, anybody's, last succeeded.
    pub last_backup: Option<Timestamp>,
    /// What of it cannot be kept.
    pub unsupported: Vec<Unsupported>,
}

impl VmSummary {
    /// Returns the configuration version as numbers.
    #[must_use]
    pub fn version(&self) -> ConfigVersion {
        ConfigVersion::of(&self.config.version)
    }
}

/// What a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointKind {
    /// A user's.
    User,
    /// Made for a backup, ours or another product's.
    Recovery,
    /// Of a replica.
    Replica,
    /// Of a planned VM.
    Planned,
    /// Its files are missing.
    Missing,
    /// Anything else.
    Other,
}

/// A disk a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDisk {
    /// InstanceID of the attachment, with the checkpoint's GUID inside.
    pub attachment: String,
    /// The file.
    pub path: String,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// InstanceID.
    pub id: String,
    /// Display name.
    pub name: String,
    /// What it is for.
    pub kind: CheckpointKind,
    /// InstanceID of its parent.
    pub parent: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether the VM now runs on top of it.
    pub current: bool,
    /// Its disks; only filled for one VM.
    pub disks: Vec<CheckpointDisk>,
}

/// Folders of a VM's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// ConfigurationDataRoot.
    pub config: String,
    /// SnapshotDataRoot.
    pub checkpoints: String,
    /// SuspendDataRoot.
    pub saved_state: String,
    /// SwapFileDataRoot.
    pub swap: String,
}

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Path on the host.
    pub path: String,
    /// `config`, `runtime-state` or `guest-state`.
    pub role: &'static str,
}

/// A VM, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct VmFacts {
    /// What the inventory shows, with boot entries.
    pub summary: VmSummary,
    /// Folders.
    pub folders: Folders,
    /// Every checkpoint, parents before children where the host's order allows.
    pub checkpoints: Vec<Checkpoint>,
    /// InstanceID of the checkpoint last applied: another one than before means that RCT ids are void.
    pub last_applied: Option<String>,
    /// Reference points.
    pub reference_points: Vec<ReferencePoint>,
    /// Disks with their chains.
    pub disks: Vec<VmDisk>,
}

#[cfg(test)]
mod tests {
    use super::ConfigVersion;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, tracked) in [
            ("5.0", false),
            ("6.1", false),
            ("6.2", true),
            ("8.0", true),
            ("10.0", true),
            ("12", true),
            ("", false),
            ("x.9", false),
        ] {
            let found = ConfigVersion::of(version) >= ConfigVersion::TRACKED;
            assert_eq!(found, tracked, "{version}");
        }
        assert_eq!(ConfigVersion::of("10.0").to_string(), "10.0");
    }
}
