//! The VM that disks are attached to or replaced on, as the agent found it.

use model::{DiskId, PowerState, Slot, VmConfig, VmId, host_path};

/// A VM of the target host, with its disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVm {
    /// Its configuration.
    pub config: VmConfig,
    /// What it does.
    pub power: PowerState,
    /// What is under way with it that a change of its disks must not meet; fits behind "the VM is".
    pub busy: Option<String>,
    /// How many checkpoints it has, a backup's own apart.
    pub checkpoints: usize,
    /// Its disks.
    pub disks: Vec<DiskOnHost>,
}

/// A disk of a VM, as it lies on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOnHost {
    /// Where it hangs.
    pub slot: Slot,
    /// The file the VM names.
    pub path: String,
    /// The files of its chain that exist, leaf first.
    pub files: Vec<String>,
    /// VirtualDiskIds of these files, where they can be read.
    pub ids: Vec<DiskId>,
    /// Whether the chain could be followed to its root.
    pub whole: bool,
    /// What the host keeps beside these files: `.rct` and `.mrt`.
    pub trackers: Vec<String>,
    /// Other VMs that use one of these files.
    pub shared_with: Vec<String>,
}

impl TargetVm {
    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> VmId {
        self.config.id
    }

    /// Returns its display name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether it runs, or is held in memory.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.power != PowerState::Off
    }

    /// Returns the slots nothing hangs in, those of SCSI controllers first. To a VM that runs, disks can be added on SCSI
    /// alone.
    #[must_use]
    pub fn free_slots(&self) -> Vec<Slot> {
        use model::ControllerKind;
        let mut controllers: Vec<_> = self.config.controllers.iter().collect();
        controllers.sort_by_key(|found| (found.kind == ControllerKind::Ide, found.number));
        controllers
            .into_iter()
            .filter(|found| !self.is_on() || found.kind == ControllerKind::Scsi)
            .flat_map(|found| {
                (0..Slot::per_controller(found.kind))
                    .filter(|slot| !found.drives.iter().any(|drive| drive.slot == *slot))
                    .map(|slot| Slot {
                        kind: found.kind,
                        controller: found.number,
                        slot,
                    })
            })
            .collect()
    }

    /// Returns the folder of its disks: that of the first, else that of its configuration.
    #[must_use]
    pub fn disk_folder(&self) -> Option<&str> {
        let mut disks: Vec<_> = self.disks.iter().collect();
        disks.sort_by_key(|disk| disk.slot);
        let first = disks
            .first()
            .and_then(|disk| host_path::parent(disk.root()));
        first.or(self.config.config_root.as_deref())
    }
}

impl DiskOnHost {
    /// Returns the file at the root of its chain, as far as that could be followed.
    #[must_use]
    pub fn root(&self) -> &str {
        self.files.last().map_or(&self.path, String::as_str)
    }
}
