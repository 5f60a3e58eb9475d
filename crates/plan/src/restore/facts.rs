//! What a plan is made from.

use model::{DiskId, HostId, PowerState, SwitchRef, Timestamp, VmId, host_path};

use super::{Rate, SeedOnHost, TargetVm};

/// The target host as the agent found it.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Identity.
    pub id: HostId,
    /// Name.
    pub name: String,
    /// When the facts were gathered.
    pub now: Timestamp,
    /// Folder for virtual hard disks where none is named.
    pub default_disk_folder: String,
    /// Folder for configurations where none is named.
    pub default_config_folder: String,
    /// Volumes with their free space.
    pub volumes: Vec<Volume>,
    /// Virtual switches.
    pub switches: Vec<SwitchRef>,
    /// VMs.
    pub vms: Vec<VmOnHost>,
    /// The VM of this host with the id of the point's, looked at closely; `None` where there is none.
    pub standing: Option<StandingVm>,
    /// The VM that disks are attached to or replaced on, where the wish is about one; see [`wanted_vm`](super::wanted_vm).
    pub target_vm: Option<TargetVm>,
    /// VMs of other hosts that share an id, a MAC address or a name with this restore.
    pub elsewhere: Vec<VmElsewhere>,
    /// Those of [`wanted_paths`](super::wanted_paths) that exist.
    pub existing: Vec<String>,
    /// Disks that may hold parts of the point, likeliest first.
    pub seeds: Vec<SeedOnHost>,
    /// How much stays free.
    pub reserve: ReservePolicy,
    /// How fast a restore is; `None` where nothing is known.
    pub rate: Option<Rate>,
}

/// A volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Mount path, such as `C:\` or `C:\ClusterStorage\Volume1\`.
    pub path: String,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
}

/// A VM of the target host.
#[derive(Clone, Debug)]
pub struct VmOnHost {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// Paths of its disk files. Where a VM is to make room for a restore: with every file that its disks read through.
    pub files: Vec<String>,
    /// MAC addresses of its adapters.
    pub macs: Vec<String>,
}

/// The VM that is still there, with every file of its disks.
#[derive(Clone, Debug)]
pub struct StandingVm {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// What it does.
    pub power: PowerState,
    /// Folder of its configuration (ConfigurationDataRoot).
    pub config_folder: Option<String>,
    /// Its disks.
    pub disks: Vec<StandingDisk>,
    /// Files that only its checkpoints use, with the disk each belongs to by its place in `disks`, where one does.
    pub branches: Vec<(String, Option<usize>)>,
    /// Names of its checkpoints.
    pub checkpoints: Vec<String>,
    /// Whether it belongs to a cluster.
    pub clustered: bool,
}

/// A disk of a VM that is still there.
#[derive(Clone, Debug)]
pub struct StandingDisk {
    /// Controller and slot, such as `scsi 0:1`.
    pub slot: String,
    /// VirtualDiskId, where it could be read.
    pub id: Option<DiskId>,
    /// Its files that are there, leaf first.
    pub files: Vec<String>,
    /// Why its files could not be read to the root, where they could not.
    pub problem: Option<String>,
}

/// A VM of another host.
#[derive(Clone, Debug)]
pub struct VmElsewhere {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// Name of its host.
    pub host: String,
    /// MAC addresses of its adapters.
    pub macs: Vec<String>,
}

/// What stays free on a volume.
#[derive(Clone, Copy, Debug)]
pub struct ReservePolicy {
    /// Per cent of the volume's size.
    pub percent: u8,
    /// But at least this many bytes.
    pub minimum_bytes: u64,
}

impl Default for ReservePolicy {
    fn default() -> Self {
        Self {
            percent: 5,
            minimum_bytes: 2 * model::GIB,
        }
    }
}

impl ReservePolicy {
    /// Returns the bytes that stay free on a volume of this size.
    #[must_use]
    pub fn bytes(&self, capacity_bytes: u64) -> u64 {
        (capacity_bytes / 100 * u64::from(self.percent)).max(self.minimum_bytes)
    }
}

impl HostFacts {
    /// Returns the volume that holds a path: the longest mount path that is a prefix of it.
    #[must_use]
    pub fn volume_of(&self, path: &str) -> Option<&Volume> {
        self.volumes
            .iter()
            .filter(|volume| host_path::is_below(path, &volume.path))
            .max_by_key(|volume| volume.path.len())
    }
}
