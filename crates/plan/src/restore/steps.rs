//! What a restore changes on the host, step by step, in the order in which it does it.

use std::fmt;

use model::{DiskId, HumanBytes, PowerState, Slot, VmId};

use super::{DiskPlan, FoundBy, OverVm, RestoreKind, Route, TreeFilePlan, on_vm};

/// A step of a plan. Shown, it is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next backup of the VM reads its disks whole: what it would have built on no longer holds.
    VoidBases {
        /// The VM.
        vm: VmId,
    },
    /// The same for some of its disks.
    VoidDiskBases {
        /// The VM.
        vm: VmId,
        /// Disks that are replaced.
        disks: Vec<DiskId>,
    },
    /// A file that no VM uses is moved aside, into a folder beside it.
    MoveAside {
        /// The file.
        path: String,
    },
    /// A disk is written into a new file.
    WriteDisk {
        /// The disk.
        disk: DiskId,
        /// The file.
        path: String,
        /// The disk's virtual size.
        size_bytes: u64,
        /// Bytes that come for it at most.
        fetch_bytes: u64,
        /// Whether the file is of fixed size.
        fixed: bool,
        /// Whether the disk gets a new VirtualDiskId.
        new_disk_id: bool,
    },
    /// A file of a disk's chain is written.
    WriteChainFile {
        /// The disk.
        disk: DiskId,
        /// The file.
        path: String,
        /// Its length.
        file_bytes: u64,
    },
    /// The files of a chain become one file.
    MergeChain {
        /// The disk.
        disk: DiskId,
        /// The file in the end.
        path: String,
        /// How many files the chain has.
        files: usize,
        /// Whether the disk gets a new VirtualDiskId.
        new_disk_id: bool,
    },
    /// A file of a checkpoint tree is written, and stays.
    WriteTreeFile {
        /// The file.
        path: String,
        /// Its length.
        file_bytes: u64,
    },
    /// The files of a checkpoint tree are made to find each other.
    LinkTree {
        /// How many there are.
        files: usize,
        /// Whether their disks get new VirtualDiskIds.
        new_disk_ids: bool,
    },
    /// The VM is registered under another id, as a trial, and removed again.
    RehearseVm {
        /// Its name.
        name: String,
    },
    /// The VM that is there is stopped.
    StopVm {
        /// Its name.
        name: String,
        /// What it does now.
        power: PowerState,
    },
    /// The definition of the VM that is there is written into a folder beside its own, and tried.
    ExportVm {
        /// Its name.
        name: String,
        /// Folder of its configuration.
        folder: String,
        /// How many checkpoints it has.
        checkpoints: usize,
    },
    /// A file of the VM that is there is kept, in a folder beside it.
    ParkFile {
        /// The file.
        path: String,
        /// Name of the VM.
        name: String,
    },
    /// The registration of the VM that is there is removed; everything it is made of is kept.
    DestroyVm {
        /// Its name.
        name: String,
        /// Its id.
        id: VmId,
    },
    /// A disk that the point does not hold stays where it is.
    KeepDisk {
        /// Its file.
        path: String,
        /// Controller and slot.
        slot: String,
        /// Whether the restored VM gets it.
        attached: bool,
    },
    /// The VM is registered.
    RegisterVm {
        /// Its name.
        name: String,
        /// Its id; `None`: the host makes one.
        id: Option<VmId>,
        /// How.
        route: Route,
        /// Folder of its configuration.
        config_folder: String,
    },
    /// All that was written is read back and compared.
    ReadBack {
        /// How many disks.
        disks: usize,
    },
    /// A VM that runs is stopped, as its guest does it.
    ShutDownVm {
        /// Its name.
        name: String,
    },
    /// A disk is attached to a VM.
    AttachDisk {
        /// The disk.
        disk: DiskId,
        /// The file.
        path: String,
        /// Name of the VM.
        vm: String,
        /// Where.
        slot: Slot,
    },
    /// The files of a disk that makes room are moved aside.
    ParkDisk {
        /// Its files, with what the host keeps beside them.
        files: Vec<String>,
        /// The file the VM names.
        was: String,
        /// How the disk was found.
        found_by: FoundBy,
    },
    /// A restored disk takes the place of the one that made room.
    ReplaceDisk {
        /// The disk.
        disk: DiskId,
        /// Its name in the end.
        path: String,
        /// Name of the VM.
        vm: String,
        /// Where.
        slot: Slot,
    },
    /// The VM is started.
    StartVm {
        /// Its name.
        name: String,
    },
}

/// Returns the steps of a restore. Chains have their final names from the first byte on, so what stands there is moved
/// aside before they are written; flat disks get their names once they are whole.
pub(super) fn of(
    kind: &RestoreKind,
    disks: &[DiskPlan],
    tree: &[TreeFilePlan],
    park: &[String],
) -> Vec<Step> {
    let mut steps = Vec::new();
    let move_aside = || {
        park.iter()
            .map(|path| Step::MoveAside { path: path.clone() })
    };
    let chained = !tree.is_empty() || disks.iter().any(|disk| !disk.chain.is_empty());
    if let Some(vm) = kind.vm().and_then(|vm| vm.id) {
        steps.push(Step::VoidBases { vm });
    }
    if let Some(vm) = kind.on_vm().filter(|vm| vm.replace) {
        let disks = on_vm::void(disks);
        steps.push(Step::VoidDiskBases { vm: vm.vm, disks });
    }
    if chained {
        steps.extend(move_aside());
    }
    for disk in disks {
        steps.extend(disk.chain.iter().map(|file| Step::WriteChainFile {
            disk: disk.disk,
            path: file.target_path.clone(),
            file_bytes: file.file_bytes,
        }));
    }
    steps.extend(tree.iter().map(|file| Step::WriteTreeFile {
        path: file.target_path.clone(),
        file_bytes: file.file_bytes,
    }));
    if !tree.is_empty() {
        steps.push(Step::LinkTree {
            files: tree.len(),
            new_disk_ids: disks.iter().any(|disk| disk.new_disk_id),
        });
    }
    let flat = |disk: &&DiskPlan| tree.is_empty() && disk.chain.is_empty();
    for disk in disks.iter().filter(flat) {
        steps.push(Step::WriteDisk {
            disk: disk.disk,
            path: disk.target_path.clone(),
            size_bytes: disk.size_bytes,
            fetch_bytes: disk.fetch_bytes,
            fixed: disk.fixed,
            new_disk_id: disk.new_disk_id,
        });
    }
    for disk in disks.iter().filter(|disk| !disk.chain.is_empty()) {
        steps.push(Step::MergeChain {
            disk: disk.disk,
            path: disk.target_path.clone(),
            files: disk.chain.len(),
            new_disk_id: disk.new_disk_id,
        });
    }
    if !chained {
        steps.extend(move_aside());
    }
    if let Some(over) = kind.vm().and_then(|vm| vm.over.as_ref()) {
        swap(over, &mut steps);
    }
    if let Some(vm) = kind.vm() {
        steps.push(Step::RegisterVm {
            name: vm.name.clone(),
            id: vm.id,
            route: vm.route,
            config_folder: vm.config_folder.clone(),
        });
    }
    if let Some(vm) = kind.on_vm() {
        steps.extend(on_vm::steps(vm, disks));
        return steps;
    }
    steps.push(Step::ReadBack { disks: disks.len() });
    if let Some(vm) = kind.vm().filter(|vm| vm.start) {
        steps.push(Step::StartVm {
            name: vm.name.clone(),
        });
    }
    steps
}

/// Adds what becomes of the VM that is still there.
fn swap(over: &OverVm, steps: &mut Vec<Step>) {
    let name = || over.name.clone();
    steps.push(Step::RehearseVm { name: name() });
    if over.is_stopped() {
        steps.push(Step::StopVm {
            name: name(),
            power: over.power,
        });
    }
    steps.push(Step::ExportVm {
        name: name(),
        folder: over.config_folder.clone(),
        checkpoints: over.checkpoints,
    });
    steps.extend(over.park.iter().map(|path| Step::ParkFile {
        path: path.clone(),
        name: name(),
    }));
    steps.push(Step::DestroyVm {
        name: name(),
        id: over.id,
    });
    steps.extend(over.stay.iter().map(|disk| Step::KeepDisk {
        path: disk.path.clone(),
        slot: disk.slot.clone(),
        attached: disk.excluded.is_some(),
    }));
}

impl Step {
    /// Returns its stable name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Step::VoidBases { .. } | Step::VoidDiskBases { .. } => "void-bases",
            Step::MoveAside { .. } => "move-aside",
            Step::WriteDisk { .. } => "write-disk",
            Step::WriteChainFile { .. } => "write-chain-file",
            Step::MergeChain { .. } => "merge-chain",
            Step::WriteTreeFile { .. } => "write-tree-file",
            Step::LinkTree { .. } => "link-tree",
            Step::RehearseVm { .. } => "rehearse-vm",
            Step::StopVm { .. } => "stop-vm",
            Step::ExportVm { .. } => "export-vm",
            Step::ParkFile { .. } => "park-file",
            Step::DestroyVm { .. } => "destroy-vm",
            Step::KeepDisk { .. } => "keep-disk",
            Step::RegisterVm { .. } => "register-vm",
            Step::ReadBack { .. } => "read-back",
            Step::ShutDownVm { .. } => "stop-vm",
            Step::AttachDisk { .. } => "attach-disk",
            Step::ParkDisk { .. } => "park-disk",
            Step::ReplaceDisk { .. } => "replace-disk",
            Step::StartVm { .. } => "start-vm",
        }
    }

    /// Returns the file or folder on the host it is about.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Step::MoveAside { path }
            | Step::WriteDisk { path, .. }
            | Step::WriteChainFile { path, .. }
            | Step::MergeChain { path, .. }
            | Step::WriteTreeFile { path, .. }
            | Step::ParkFile { path, .. }
            | Step::KeepDisk { path, .. }
            | Step::AttachDisk { path, .. }
            | Step::ParkDisk { was: path, .. }
            | Step::ReplaceDisk { path, .. } => Some(path),
            Step::RegisterVm { config_folder, .. } => Some(config_folder),
            Step::ExportVm { folder, .. } => Some(folder),
            Step::VoidBases { .. }
            | Step::RehearseVm { .. }
            | Step::StopVm { .. }
            | Step::DestroyVm { .. }
            | Step::VoidDiskBases { .. }
            | Step::LinkTree { .. }
            | Step::ReadBack { .. }
            | Step::ShutDownVm { .. }
            | Step::StartVm { .. } => None,
        }
    }

    /// Returns the bytes it writes at most, where it writes.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Step::WriteDisk { fetch_bytes, .. } => Some(*fetch_bytes),
            Step::WriteChainFile { file_bytes, .. } | Step::WriteTreeFile { file_bytes, .. } => {
                Some(*file_bytes)
            }
            Step::VoidBases { .. }
            | Step::VoidDiskBases { .. }
            | Step::ShutDownVm { .. }
            | Step::AttachDisk { .. }
            | Step::ParkDisk { .. }
            | Step::ReplaceDisk { .. }
            | Step::MoveAside { .. }
            | Step::MergeChain { .. }
            | Step::LinkTree { .. }
            | Step::RehearseVm { .. }
            | Step::StopVm { .. }
            | Step::ExportVm { .. }
            | Step::ParkFile { .. }
            | Step::DestroyVm { .. }
            | Step::KeepDisk { .. }
            | Step::RegisterVm { .. }
            | Step::ReadBack { .. }
            | Step::StartVm { .. } => None,
        }
    }
}

fn texts(disks: &[DiskId]) -> String {
    let ids: Vec<String> = disks.iter().map(ToString::to_string).collect();
    format!("disk {}", ids.join(", "))
}

fn id_text(new_disk_id: bool) -> &'static str {
    match new_disk_id {
        true => "with a new disk id",
        false => "with its disk id",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::VoidBases { vm } => {
                write!(f, "The next backup of VM {vm} will read its disks whole.")
            }
            Step::MoveAside { path } => write!(
                f,
                "Move {path}, which no VM uses, into a folder .reprise-<job> beside it."
            ),
            Step::WriteDisk {
                disk,
                path,
                size_bytes,
                fetch_bytes,
                fixed,
                new_disk_id,
            } => write!(
                f,
                "Write disk {disk} to {path}: {} of {} virtual size at most, {}, {}.",
                HumanBytes(*fetch_bytes),
                HumanBytes(*size_bytes),
                match fixed {
                    true => "fixed",
                    false => "dynamic",
                },
                id_text(*new_disk_id)
            ),
            Step::WriteChainFile {
                disk,
                path,
                file_bytes,
            } => write!(
                f,
                "Write {path} of the chain of disk {disk}: {}.",
                HumanBytes(*file_bytes)
            ),
            Step::MergeChain {
                disk,
                path,
                files,
                new_disk_id,
            } => write!(
                f,
                "Make {path} of the {files} files of disk {disk}, {}.",
                id_text(*new_disk_id)
            ),
            Step::WriteTreeFile { path, file_bytes } => write!(
                f,
                "Write {path} of the checkpoint tree: {}.",
                HumanBytes(*file_bytes)
            ),
            Step::LinkTree {
                files,
                new_disk_ids,
            } => write!(
                f,
                "Make the {files} files of the checkpoint tree find each other, {}.",
                match new_disk_ids {
                    true => "with new disk ids",
                    false => "with their disk ids",
                }
            ),
            Step::RehearseVm { name } => write!(
                f,
                "Import VM {name:?} under another id as a trial, let the host check it, and remove it again."
            ),
            Step::StopVm { name, power } => write!(
                f,
                "Stop VM {name:?}, which {}; its guest is asked to shut down first.",
                match power {
                    PowerState::Running => "is running",
                    PowerState::Paused => "is paused",
                    PowerState::Off => "is off",
                    PowerState::Saved => "is saved",
                    PowerState::Changing | PowerState::Unknown => "may be running",
                }
            ),
            Step::ExportVm {
                name,
                folder,
                checkpoints,
            } => write!(
                f,
                "Keep the definition of VM {name:?} as it is now{} in a folder .reprise-<job> below {folder}, and try it.",
                match checkpoints {
                    0 => String::new(),
                    1 => ", with its checkpoint,".to_owned(),
                    more => format!(", with its {more} checkpoints,"),
                }
            ),
            Step::ParkFile { path, name } => write!(
                f,
                "Keep {path} of VM {name:?} in a folder .reprise-<job> beside it, until the restore is finished or undone."
            ),
            Step::DestroyVm { name, id } => write!(
                f,
                "Remove the registration of VM {name:?} ({id}); what it is made of is kept."
            ),
            Step::KeepDisk {
                path,
                slot,
                attached,
            } => write!(
                f,
                "Leave disk {path} ({slot}) where it is, {}.",
                match attached {
                    true => "attached as it was",
                    false => "attached to nothing",
                }
            ),
            Step::RegisterVm {
                name,
                id,
                route,
                config_folder,
            } => {
                let how = match route {
                    Route::Import { .. } => "Import",
                    Route::Define => "Define",
                };
                write!(f, "{how} VM {name:?} ")?;
                match id {
                    Some(id) => write!(f, "with its id {id}")?,
                    None => f.write_str("with a new id")?,
                }
                write!(f, ", its configuration in {config_folder}.")
            }
            Step::ReadBack { disks } => write!(
                f,
                "Read all that was written{} back and compare it with the recovery point.",
                match disks {
                    1 => " to the disk".to_owned(),
                    more => format!(" to the {more} disks"),
                }
            ),
            Step::VoidDiskBases { vm, disks } => write!(
                f,
                "The next backup of VM {vm} will read {} whole.",
                texts(disks)
            ),
            Step::ShutDownVm { name } => write!(
                f,
                "Stop VM {name:?} at the last moment: its guest is asked to shut down, and it is turned off where that has no answer."
            ),
            Step::AttachDisk {
                disk,
                path,
                vm,
                slot,
            } => write!(
                f,
                "Attach disk {disk}, {path}, to VM {vm:?} as a new disk at {slot}."
            ),
            Step::ParkDisk {
                files,
                was,
                found_by,
            } => write!(
                f,
                "Move the disk {was}, found by its {}, into a folder .reprise-<job>\\old beside it and keep it there: {}.",
                found_by.as_str(),
                match files.is_empty() {
                    true => "none of its files exists".to_owned(),
                    false => files.join(", "),
                }
            ),
            Step::ReplaceDisk {
                disk,
                path,
                vm,
                slot,
            } => write!(
                f,
                "Give disk {disk} the name {path} and VM {vm:?} this file at {slot}."
            ),
            Step::StartVm { name } => write!(f, "Start VM {name:?}."),
        }
    }
}
