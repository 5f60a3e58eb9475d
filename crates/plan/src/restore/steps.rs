//! What a restore changes on the host, step by step, in the order in which it does it.

use std::fmt;

use model::{DiskId, HumanBytes, VmId};

use super::{DiskPlan, RestoreKind, Route, TreeFilePlan};

/// A step of a plan. Shown, it is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next backup of the VM reads its disks whole: what it would have built on no longer holds.
    VoidBases {
        /// The VM.
        vm: VmId,
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
    if let Some(vm) = kind.vm() {
        steps.push(Step::RegisterVm {
            name: vm.name.clone(),
            id: vm.id,
            route: vm.route,
            config_folder: vm.config_folder.clone(),
        });
    }
    steps.push(Step::ReadBack { disks: disks.len() });
    if let Some(vm) = kind.vm().filter(|vm| vm.start) {
        steps.push(Step::StartVm {
            name: vm.name.clone(),
        });
    }
    steps
}

impl Step {
    /// Returns its stable name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Step::VoidBases { .. } => "void-bases",
            Step::MoveAside { .. } => "move-aside",
            Step::WriteDisk { .. } => "write-disk",
            Step::WriteChainFile { .. } => "write-chain-file",
            Step::MergeChain { .. } => "merge-chain",
            Step::WriteTreeFile { .. } => "write-tree-file",
            Step::LinkTree { .. } => "link-tree",
            Step::RegisterVm { .. } => "register-vm",
            Step::ReadBack { .. } => "read-back",
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
            | Step::WriteTreeFile { path, .. } => Some(path),
            Step::RegisterVm { config_folder, .. } => Some(config_folder),
            Step::VoidBases { .. }
            | Step::LinkTree { .. }
            | Step::ReadBack { .. }
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
            | Step::MoveAside { .. }
            | Step::MergeChain { .. }
            | Step::LinkTree { .. }
            | Step::RegisterVm { .. }
            | Step::ReadBack { .. }
            | Step::StartVm { .. } => None,
        }
    }
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
            Step::StartVm { name } => write!(f, "Start VM {name:?}."),
        }
    }
}
