//! What an administrator asks a restore to do. The plan decides whether and how it can be done.

use serde::{Deserialize, Serialize};

use crate::{DiskId, HostId, PointId, Timestamp, VmId};

/// A restore as it was asked for, with names already resolved to ids by the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreWish {
    /// The recovery point.
    pub point: PointId,
    /// The VM the point is of.
    pub vm: VmId,
    /// A whole VM, or disks of it.
    pub scope: RestoreScope,
    /// Where to.
    pub target: RestoreTarget,
    /// Folder for every disk; `None` keeps each disk's own folder (original) or the host's default folder.
    #[serde(default)]
    pub folder: Option<String>,
    /// Folders of single disks.
    #[serde(default)]
    pub disk_folders: Vec<DiskFolder>,
    /// New display name of the VM.
    #[serde(default)]
    pub name: Option<String>,
    /// Switch names of the point and the switches of the target they become.
    #[serde(default)]
    pub networks: Vec<NetworkMap>,
    /// Keep or replace the VM's id; `None` keeps it at the original location and makes a new one elsewhere.
    #[serde(default)]
    pub id: Option<KeepOrNew>,
    /// Keep or replace MAC addresses; same default.
    #[serde(default)]
    pub mac: Option<KeepOrNew>,
    /// What the VM does afterwards.
    #[serde(default)]
    pub power: PowerAfter,
    /// What becomes of the VM or disk that is still there.
    #[serde(default, skip_serializing_if = "OverExisting::is_default")]
    pub over: OverExisting,
    /// Disk files on the target host that may hold blocks of the point, so that these need not be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<String>,
    /// Zeros are written where the point is damaged, rather than nothing at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_damaged: bool,
    /// The moment that names which were not given are made from; `None` takes the moment of the restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_at: Option<Timestamp>,
}

/// A whole VM or some disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RestoreScope {
    /// Configuration and every disk.
    Vm,
    /// Disks of it.
    Disks {
        /// Which; never empty.
        disks: Vec<DiskId>,
        /// What they become.
        #[serde(default, skip_serializing_if = "DisksTo::is_default")]
        to: DisksTo,
    },
}

/// What restored disks become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DisksTo {
    /// Files in a folder; nothing is attached.
    #[default]
    Files,
    /// New disks of a VM of the target host.
    Attach {
        /// Which.
        vm: VmId,
    },
    /// The disks of the VM the point is of, in place of those it has now.
    Replace,
}

impl DisksTo {
    fn is_default(&self) -> bool {
        *self == DisksTo::default()
    }
}

/// What becomes of the VM or disk that is still where the restored one shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OverExisting {
    /// It is kept beside, until the restore is finished or undone.
    #[default]
    Park,
    /// Its files are written over.
    InPlace {
        /// Whether what is written over is kept until the restore has come to its end.
        journal: bool,
    },
}

impl OverExisting {
    fn is_default(&self) -> bool {
        *self == OverExisting::default()
    }
}

/// The original location or another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RestoreTarget {
    /// The host and paths of the recovery point.
    Original,
    /// A host, not necessarily another one.
    Alternate {
        /// Which.
        host: HostId,
    },
}

/// A folder for one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFolder {
    /// The disk.
    pub disk: DiskId,
    /// Folder on the target host.
    pub folder: String,
}

/// A switch of the point and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMap {
    /// Name of the switch at backup time.
    pub from: String,
    /// Name of a switch of the target host.
    pub to: String,
}

/// Keep what the point has or make a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepOrNew {
    /// As in the point.
    Keep,
    /// Made anew by the host.
    New,
}

/// What the restored VM does afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAfter {
    /// Stays off.
    #[default]
    Off,
    /// Runs if it ran at backup time.
    AsBefore,
    /// Is started.
    On,
}
