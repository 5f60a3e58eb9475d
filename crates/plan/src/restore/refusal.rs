//! Why a restore is not done: each reason with its code and what to do next.

use model::{DiskId, PowerState, VmId, host_path};

use super::VolumeNeed;

/// Why a restore is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The VM is still there.
    #[error("VM {name:?} ({id}) still exists on host {host}")]
    VmExists {
        /// Its id.
        id: VmId,
        /// Its name.
        name: String,
        /// The host.
        host: String,
    },
    /// The memory of the VM that is there is saved on disk, and would be lost.
    #[error("VM {name:?} is saved: its memory lies on disk and would not survive the restore")]
    VmSaved {
        /// Its name.
        name: String,
    },
    /// The VM that is there is a cluster's.
    #[error("VM {name:?} on host {host} belongs to a cluster, which would bring it back")]
    VmClustered {
        /// Its name.
        name: String,
        /// The host.
        host: String,
    },
    /// The name is taken.
    #[error("a VM named {name:?} exists on host {host}")]
    NameTaken {
        /// The name.
        name: String,
        /// The host.
        host: String,
    },
    /// A file is in the way.
    #[error("{path} exists on host {host}{}", used_by(.vm.as_deref()))]
    PathTaken {
        /// The file.
        path: String,
        /// The VM that uses it.
        vm: Option<String>,
        /// The host.
        host: String,
    },
    /// A path of the wish or the point is not used.
    #[error(transparent)]
    BadPath(#[from] host_path::BadPath),
    /// The point has no such disk.
    #[error("the recovery point has no disk {disk}; it has {}", .known.join(", "))]
    NoSuchDisk {
        /// What was asked for.
        disk: DiskId,
        /// Disks of the point.
        known: Vec<String>,
    },
    /// No such switch.
    #[error("host {host} has no virtual switch {switch:?}; it has {}", list_or_none(.known))]
    NoSuchSwitch {
        /// What was asked for.
        switch: String,
        /// Switches of the host.
        known: Vec<String>,
        /// The host.
        host: String,
    },
    /// An adapter's switch was mapped that the point does not have.
    #[error("no adapter of the recovery point was connected to a switch {switch:?}; they were connected to {}", list_or_none(.known))]
    NoSuchSource {
        /// What was asked for.
        switch: String,
        /// Switches in the point.
        known: Vec<String>,
    },
    /// The path is on no volume of the host.
    #[error("no volume of host {host} holds {path}")]
    NoVolume {
        /// The path.
        path: String,
        /// The host.
        host: String,
    },
    /// A seed that was named is not there.
    #[error("there is no file {path} on host {host} to take blocks from")]
    SeedMissing {
        /// What was named.
        path: String,
        /// The host.
        host: String,
    },
    /// Too little room (S12).
    #[error("not enough space on {}", .short.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotEnoughSpace {
        /// Every volume that is too small.
        short: Vec<VolumeNeed>,
    },
    /// The point was made somewhere else and the wish says original.
    #[error("the recovery point was made on host {made_on}; this agent serves {host}")]
    OtherHost {
        /// Host of the point.
        made_on: String,
        /// Host of the agent.
        host: String,
    },
    /// Nothing in the point can be imported.
    #[error("the recovery point holds no configuration file, so the VM's id cannot be kept")]
    NoConfiguration,
    /// Files that nothing says how to put together.
    #[error(
        "the recovery point was made with the VSS method and does not say which files make up its disks"
    )]
    VssPoint,
    /// Disks are to be attached to or replaced on a VM that is not there.
    #[error("host {host} has no VM {id}")]
    NoSuchVm {
        /// Its id.
        id: VmId,
        /// The host.
        host: String,
    },
    /// More disks than the VM has room for.
    #[error("VM {name:?} has {free} free slots{}, and {wanted} disks are to be attached", while_it_runs(*.runs))]
    NoFreeSlot {
        /// Its name.
        name: String,
        /// Disks to attach.
        wanted: usize,
        /// Free slots that can be used.
        free: usize,
        /// Whether it runs, so that only slots of SCSI controllers can be used.
        runs: bool,
    },
    /// Something is under way with the VM.
    #[error("VM {name:?} is {what}")]
    VmBusy {
        /// Its name.
        name: String,
        /// What; fits behind "is".
        what: String,
    },
    /// The VM neither runs nor is off.
    #[error("VM {name:?} is {}: its disks cannot be changed", power_text(*.power))]
    VmHeld {
        /// Its name.
        name: String,
        /// What it does.
        power: PowerState,
    },
    /// The VM runs, and nothing says that it may be stopped.
    #[error("VM {name:?} runs: it would have to be stopped to replace a disk")]
    VmRuns {
        /// Its name.
        name: String,
    },
    /// Checkpoints stand on the disk.
    #[error(
        "VM {name:?} has {checkpoints} checkpoints, which stand on its disks: a replaced disk would break them"
    )]
    VmHasCheckpoints {
        /// Its name.
        name: String,
        /// How many.
        checkpoints: usize,
    },
    /// The VM does not have the disk that is to be replaced.
    #[error(
        "VM {name:?} does not have disk {disk} ({path}): neither by its VirtualDiskId nor by its path or slot"
    )]
    DiskNotOnVm {
        /// The disk.
        disk: DiskId,
        /// Its path in the point.
        path: String,
        /// Name of the VM.
        name: String,
    },
    /// The disk that is to be replaced is another VM's, too.
    #[error("{path} stands on files that VM {vm:?} uses, too")]
    DiskShared {
        /// The disk.
        path: String,
        /// The other VM.
        vm: String,
    },
    /// A file of a chain is not in the point.
    #[error("the recovery point does not hold {file}, which {of} is made of")]
    IncompleteChain {
        /// The disk or file.
        of: String,
        /// The file.
        file: String,
    },
}

fn used_by(vm: Option<&str>) -> String {
    vm.map(|name| format!(", used by VM {name:?}"))
        .unwrap_or_default()
}

fn while_it_runs(runs: bool) -> &'static str {
    match runs {
        true => " on SCSI controllers, where disks can be added while it runs",
        false => "",
    }
}

fn power_text(power: PowerState) -> &'static str {
    match power {
        PowerState::Running => "running",
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Saved => "saved",
        PowerState::Changing => "starting or stopping",
        PowerState::Unknown => "in a state unknown to Reprise",
    }
}

fn list_or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl Refusal {
    /// Returns the stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::VmExists { .. } => "vm-exists",
            Refusal::VmSaved { .. } => "vm-saved",
            Refusal::VmClustered { .. } => "vm-clustered",
            Refusal::NameTaken { .. } => "name-taken",
            Refusal::PathTaken { .. } => "path-taken",
            Refusal::BadPath(_) => "bad-path",
            Refusal::NoSuchDisk { .. } => "no-such-disk",
            Refusal::NoSuchSwitch { .. } | Refusal::NoSuchSource { .. } => "no-such-switch",
            Refusal::NoVolume { .. } => "no-volume",
            Refusal::SeedMissing { .. } => "no-such-seed",
            Refusal::NotEnoughSpace { .. } => "not-enough-space",
            Refusal::OtherHost { .. } => "other-host",
            Refusal::NoConfiguration => "no-configuration",
            Refusal::VssPoint => "method-not-supported",
            Refusal::IncompleteChain { .. } => "incomplete-chain",
            Refusal::NoSuchVm { .. } => "no-such-vm",
            Refusal::NoFreeSlot { .. } => "no-free-slot",
            Refusal::VmBusy { .. } => "vm-busy",
            Refusal::VmHeld { .. } => "vm-held",
            Refusal::VmRuns { .. } => "vm-runs",
            Refusal::VmHasCheckpoints { .. } => "vm-has-checkpoints",
            Refusal::DiskNotOnVm { .. } => "disk-not-on-vm",
            Refusal::DiskShared { .. } => "disk-shared",
        }
    }

    /// Returns what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::VmExists { .. } => {
                "remove the VM first, or restore beside it: --to HOST with its own --folder gives it a new id"
            }
            Refusal::VmSaved { .. } => {
                "start it, or discard its saved state on the host, then restore again"
            }
            Refusal::VmClustered { .. } => {
                "take its group offline and remove the VM from the cluster first, or restore beside it with --to HOST"
            }
            Refusal::NameTaken { .. } => "choose another name with --name",
            Refusal::PathTaken { .. } => {
                "choose another folder with --folder, or move the file away"
            }
            Refusal::BadPath(_) => {
                "choose an absolute folder of the host with --folder, such as D:\\Restored"
            }
            Refusal::NoSuchDisk { .. } => {
                "`reprise point show` lists the disks of a recovery point"
            }
            Refusal::NoSuchSwitch { .. } => {
                "create the switch on the host, or map to another with --network FROM=TO"
            }
            Refusal::NoSuchSource { .. } => {
                "`reprise point show --json` lists the adapters of a recovery point"
            }
            Refusal::SeedMissing { .. } => {
                "correct the path given with --seed, or leave it out: more is fetched then"
            }
            Refusal::NoVolume { .. } => "choose a folder on a volume of the host with --folder",
            Refusal::NotEnoughSpace { .. } => {
                "free space on the volume, or choose a folder on another one with --folder; nothing was changed"
            }
            Refusal::OtherHost { .. } => "name the host with --to HOST",
            Refusal::NoConfiguration => "restore with a new id: --id new",
            Refusal::NoSuchVm { .. } => {
                "`reprise vm list` shows the VMs; restore the disk as a file with --folder, or the whole VM"
            }
            Refusal::NoFreeSlot { runs: true, .. } => {
                "turn the VM off and add a SCSI controller to it, or restore the disk as a file with --folder"
            }
            Refusal::NoFreeSlot { runs: false, .. } => {
                "add a SCSI controller to the VM, or restore the disk as a file with --folder"
            }
            Refusal::VmBusy { .. } => "wait until that has ended, then start the restore again",
            Refusal::VmHeld { .. } => "start the VM or turn it off first",
            Refusal::VmRuns { .. } => {
                "shut the VM down first, or say --power as-before: it is stopped at the last moment and started again"
            }
            Refusal::VmHasCheckpoints { .. } => {
                "delete the checkpoints first, or restore the disk beside: as a file with --folder, or as a new disk with --attach"
            }
            Refusal::DiskNotOnVm { .. } => {
                "attach it as a new disk with --attach, or restore it as a file with --folder"
            }
            Refusal::DiskShared { .. } => {
                "restore the disk beside: as a file with --folder, or as a new disk with --attach"
            }
            Refusal::VssPoint | Refusal::IncompleteChain { .. } => {
                "use another recovery point: `reprise point list`"
            }
        }
    }
}
