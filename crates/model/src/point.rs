//! Recovery points and base records.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    DiskId, Fence, HostId, JobId, PointId, PowerState, Timestamp, VmConfig, VmId, host_path,
};

/// How a backup reads the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Recovery checkpoint and resilient change tracking; one flat disk image per disk.
    Rct,
    /// Volume shadow copy; the files of the chain and the configuration.
    Vss,
}

/// What the guest was asked to do before the moment of the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The guest's applications had written everything out.
    Application,
    /// As after a power cut.
    Crash,
    /// The VM was off or saved: nothing was running.
    Offline,
}

/// What consistency a policy or person asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsistencyWish {
    /// Application where the guest can, else crash, named on the point.
    #[default]
    PreferApplication,
    /// Application or the backup fails.
    RequireApplication,
    /// Do not disturb the guest.
    Crash,
}

/// Whether a point read everything or only what had changed. Either restores alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// Every disk was read whole.
    Full,
    /// At least one disk was read by its changed ranges.
    Incremental,
}

/// Why a disk was read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullReason {
    /// No recovery point holds this disk yet.
    First,
    /// Asked for.
    Forced,
    /// The newest point with the disk is gone or damaged.
    NoBase,
    /// The reference point of the base no longer exists on the host.
    ReferencePointGone,
    /// The host does not know the RCT id.
    RctIdLost,
    /// The host's tracker failed to answer.
    TrackerFailed,
    /// The virtual size differs from the base.
    DiskResized,
    /// Another virtual disk stands in the slot.
    DiskReplaced,
    /// A checkpoint was applied since the base.
    CheckpointApplied,
    /// The disk was restored or rewritten from outside.
    Restored,
    /// The disk was excluded from the base.
    ExcludedBefore,
    /// The method keeps no tracker (VSS, VHD format, old host or VM version).
    MethodWithoutTracker,
    /// The host gave no RCT id for this disk at the base.
    NoRctId,
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FullReason::First => "first",
            FullReason::Forced => "forced",
            FullReason::NoBase => "no-base",
            FullReason::ReferencePointGone => "reference-point-gone",
            FullReason::RctIdLost => "rct-id-lost",
            FullReason::TrackerFailed => "tracker-failed",
            FullReason::DiskResized => "disk-resized",
            FullReason::DiskReplaced => "disk-replaced",
            FullReason::CheckpointApplied => "checkpoint-applied",
            FullReason::Restored => "restored",
            FullReason::ExcludedBefore => "excluded-before",
            FullReason::MethodWithoutTracker => "method-without-tracker",
            FullReason::NoRctId => "no-rct-id",
        })
    }
}

/// The root of an image tree with what it commits to. Ids and digests are hexadecimal text (32 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Length of the image in bytes.
    pub len: u64,
    /// Id of the root node; `None` where every byte is zero or the image is empty.
    pub root: Option<String>,
    /// Levels of the tree; 0 where there is no root, 1 where the root is a leaf.
    pub height: u8,
    /// Merkle root over the BLAKE3 of each MiB, where the image has been read whole.
    #[serde(default)]
    pub digest: Option<String>,
}

/// A disk of a recovery point (RCT method): the virtual content, flat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// Identity of the virtual disk.
    pub id: DiskId,
    /// Path of the leaf the VM used, on the host.
    pub path: String,
    /// Path of the file at the root of its chain: the name a restore gives back.
    pub base_path: String,
    /// The attachment (InstanceID of its settings object in the active VM).
    pub attachment: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Block size of the VHDX in bytes.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector_bytes: u32,
    /// 512 or 4096.
    pub physical_sector_bytes: u32,
    /// Whether the root file was of fixed size.
    pub fixed: bool,
    /// Allocated bytes at backup time: what a dynamic restore will need at most, blocks rounded up.
    pub allocated_bytes: u64,
    /// The content.
    pub image: ImageRef,
    /// Why it was read whole; `None` for an increment.
    #[serde(default)]
    pub full_reason: Option<FullReason>,
    /// Bytes the tracker named (increment) or allocated (full), read from the host.
    pub changed_bytes: u64,
}

/// A file of a recovery point: configuration, or a file of a chain under the VSS method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileImage {
    /// Path on the host. A name from here is never used as a path without the checks of a restore.
    pub path: String,
    /// What it is: `config`, `runtime-state`, `guest-state`, `disk`.
    pub role: String,
    /// The content.
    pub image: ImageRef,
    /// InstanceID of the checkpoint whose configuration it is; `None` for the VM's own and for disk files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What a disk file said about itself (VSS method).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskFileFacts>,
}

impl FileImage {
    /// The role of a file of a chain.
    pub const DISK: &str = "disk";
    /// The role of a file that holds a definition.
    pub const CONFIG: &str = "config";

    /// Returns whether it is a file of a chain.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        self.role == Self::DISK
    }

    /// Returns whether it holds the definition of the VM itself, not of a checkpoint.
    #[must_use]
    pub fn is_own_config(&self) -> bool {
        self.role == Self::CONFIG && self.checkpoint.is_none()
    }
}

/// What a disk file said about itself when it was read: a parent of which all of it is unchanged need not be read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFileFacts {
    /// Path of its parent on the host.
    #[serde(default)]
    pub parent: Option<String>,
    /// DataWriteGuid of a VHDX, unique id of a VHD, as text.
    pub data_write_guid: String,
    /// When it was last written, where the file system says.
    #[serde(default)]
    pub modified: Option<Timestamp>,
}

/// A disk of a recovery point (VSS method): a chain of file images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskChain {
    /// Identity of the virtual disk.
    pub id: DiskId,
    /// Path of the leaf the VM used, on the host.
    pub path: String,
    /// Path of the file at the root of its chain: the name a restore gives back.
    pub base_path: String,
    /// The attachment (InstanceID of its settings object in the active VM).
    pub attachment: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Block size of the leaf in bytes.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector_bytes: u32,
    /// 512 or 4096.
    pub physical_sector_bytes: u32,
    /// Whether the root file was of fixed size.
    pub fixed: bool,
    /// Bytes the chain as one disk had allocated: what a dynamic file of its content needs at most.
    pub allocated_bytes: u64,
    /// Paths of its files in [`RecoveryPoint::files`], leaf first, root last.
    pub files: Vec<String>,
    /// Bytes of its files that were read from the host, rather than known to be unchanged.
    pub changed_bytes: u64,
}

/// A disk of a recovery point, whatever it is stored as.
#[derive(Clone, Copy, Debug)]
pub struct DiskSource<'p> {
    /// Identity of the virtual disk.
    pub id: DiskId,
    /// Path of the leaf the VM used, on the host.
    pub path: &'p str,
    /// Path of the file at the root of its chain.
    pub base_path: &'p str,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Block size in bytes.
    pub block_bytes: u32,
    /// Whether the root file was of fixed size.
    pub fixed: bool,
    /// Allocated bytes at backup time.
    pub allocated_bytes: u64,
    /// The chain it is stored as, under the VSS method.
    pub chain: Option<&'p DiskChain>,
}

/// A disk that was left out on request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Path on the host.
    pub path: String,
    /// Controller and slot text, such as `scsi 0:1`.
    pub slot: String,
}

/// Something of the VM that Reprise cannot keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsupported {
    /// Stable code: `pass-through`, `shared-disk`, `vtpm`, `fibre-channel`, `saved-state`.
    pub code: String,
    /// What and where, for people.
    pub what: String,
}

/// A checkpoint the VM had at backup time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// InstanceID on the host.
    pub id: String,
    /// Display name.
    pub name: String,
    /// InstanceID of its parent.
    pub parent: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// The host a point was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceHost {
    /// Identity.
    pub id: HostId,
    /// Name at the time.
    pub name: String,
    /// Operating system version, such as `10.0.20348`.
    pub os_version: String,
}

/// A VM as it can be restored. Writing this object into the store is the commit of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Id, made from job, VM and fence.
    pub id: PointId,
    /// The job that made it.
    pub job: JobId,
    /// That job's fence.
    pub fence: Fence,
    /// The VM's configuration at the moment of the point.
    pub vm: VmConfig,
    /// The host.
    pub host: SourceHost,
    /// What the VM was doing.
    pub power: PowerState,
    /// The moment the checkpoint or shadow was taken.
    pub created: Timestamp,
    /// How it was read.
    pub method: Method,
    /// Full or incremental.
    pub kind: PointKind,
    /// Consistency really reached.
    pub consistency: Consistency,
    /// Why the wish for consistency was not met, where it was not.
    #[serde(default)]
    pub consistency_note: Option<String>,
    /// The point its increments were read against.
    #[serde(default)]
    pub parent: Option<PointId>,
    /// Flat disks (RCT method).
    pub disks: Vec<DiskImage>,
    /// Files (configuration; the whole chain under the VSS method).
    pub files: Vec<FileImage>,
    /// Disks the VM used (VSS method), by the files of their chains. Files of other branches of the checkpoint tree are in
    /// `files` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<DiskChain>,
    /// Disks left out on request.
    #[serde(default)]
    pub excluded: Vec<Excluded>,
    /// What could not be kept.
    #[serde(default)]
    pub unsupported: Vec<Unsupported>,
    /// Checkpoints the VM had.
    #[serde(default)]
    pub checkpoints: Vec<CheckpointInfo>,
    /// Bytes new in the store for this point.
    pub stored_bytes: u64,
}

impl RecoveryPoint {
    /// Returns the VM's id.
    #[must_use]
    pub fn vm_id(&self) -> VmId {
        self.vm.id
    }

    /// Returns every image of the point: disks first, then files.
    pub fn images(&self) -> impl Iterator<Item = &ImageRef> {
        self.disks
            .iter()
            .map(|disk| &disk.image)
            .chain(self.files.iter().map(|file| &file.image))
    }

    /// Returns the disks, flat ones and chains of files alike.
    pub fn disk_sources(&self) -> impl Iterator<Item = DiskSource<'_>> {
        let flat = self.disks.iter().map(|disk| DiskSource {
            id: disk.id,
            path: &disk.path,
            base_path: &disk.base_path,
            size_bytes: disk.size_bytes,
            block_bytes: disk.block_bytes,
            fixed: disk.fixed,
            allocated_bytes: disk.allocated_bytes,
            chain: None,
        });
        let chains = self.chains.iter().map(|chain| DiskSource {
            id: chain.id,
            path: &chain.path,
            base_path: &chain.base_path,
            size_bytes: chain.size_bytes,
            block_bytes: chain.block_bytes,
            fixed: chain.fixed,
            allocated_bytes: chain.allocated_bytes,
            chain: Some(chain),
        });
        flat.chain(chains)
    }

    /// Returns the file image of a path on the host.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileImage> {
        self.files
            .iter()
            .find(|file| host_path::same(&file.path, path))
    }
}

/// From where the next increment of a disk may start. Written after the host's conversion, voided by any rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The VM.
    pub vm: VmId,
    /// The virtual disk.
    pub disk: DiskId,
    /// Its virtual size in bytes.
    pub size_bytes: u64,
    /// The host that keeps the reference point.
    pub host: HostId,
    /// The recovery point that holds the disk.
    pub point: PointId,
    /// InstanceID of the reference point.
    pub reference_point: String,
    /// RCT id of the disk in it.
    pub rct_id: String,
}
