//! Disks that are attached to a VM, or that take the place of its own.
//!
//! Promises that are relied on elsewhere:
//!
//! - a slot that is attached to is free and is given to one disk only;
//! - a disk that is replaced is one the wish names, found on the VM by its VirtualDiskId, its path or its slot, in this
//!   order, and never one that the point knows as another disk;
//! - no disk of a VM with checkpoints is replaced: their files stand on it;
//! - a VM that runs is stopped only where the wish says what becomes of its power.

use model::{
    DiskId, DiskSource, DisksTo, PowerAfter, PowerState, RecoveryPoint, RestoreScope, RestoreWish,
    Slot, VmId, host_path,
};

use super::{DiskOnHost, DiskPlan, Findings, HostFacts, OnVmPlan, Refusal, Step, TargetVm, names};

/// What becomes of a disk once it is written and read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskUse {
    /// It belongs to the VM that is restored, or stays a file.
    File,
    /// It is attached to a VM.
    Attach {
        /// The slot, which is free.
        slot: Slot,
    },
    /// It takes the place of a disk of the VM.
    Replace(Replacement),
}

/// The disk that makes room for a restored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Its slot.
    pub slot: Slot,
    /// The file the VM names now.
    pub was: String,
    /// The name the new disk has in the end: that of the old one's root.
    pub path: String,
    /// Every file of the old disk's chain with what the host keeps beside them; they are moved aside.
    pub park: Vec<String>,
    /// VirtualDiskIds of the old disk.
    pub old_ids: Vec<DiskId>,
    /// How it was found.
    pub found_by: FoundBy,
}

/// How a disk of a recovery point was found on a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// It has the same VirtualDiskId.
    DiskId,
    /// It has the same path.
    Path,
    /// It hangs in the same slot.
    Slot,
}

/// Which VM a wish is about, where its disks are attached to one.
pub(super) fn vm_of(wish: &RestoreWish) -> Option<VmId> {
    match &wish.scope {
        RestoreScope::Vm => None,
        RestoreScope::Disks { to, .. } => match to {
            DisksTo::Files => None,
            DisksTo::Attach { vm } => Some(*vm),
            DisksTo::Replace => Some(wish.vm),
        },
    }
}

/// Returns the id of the VM whose facts a plan needs whole, as [`HostFacts::target_vm`].
#[must_use]
pub fn wanted_vm(wish: &RestoreWish) -> Option<VmId> {
    vm_of(wish)
}

fn replaces(wish: &RestoreWish) -> bool {
    match &wish.scope {
        RestoreScope::Vm => false,
        RestoreScope::Disks { to, .. } => match to {
            DisksTo::Files | DisksTo::Attach { .. } => false,
            DisksTo::Replace => true,
        },
    }
}

/// Plans what is done with the VM; `None` where there is none to do it with.
pub(super) fn plan(
    wish: &RestoreWish,
    facts: &HostFacts,
    disks: &[DiskId],
    found: &mut Findings,
) -> Option<OnVmPlan> {
    let id = vm_of(wish)?;
    let Some(vm) = target(wish, facts) else {
        found.refuse_open(Refusal::NoSuchVm {
            id,
            host: facts.name.clone(),
        });
        return None;
    };
    let name = vm.name().to_owned();
    if let Some(what) = &vm.busy {
        found.refuse(Refusal::VmBusy {
            name: name.clone(),
            what: what.clone(),
        });
    }
    match vm.power {
        PowerState::Running | PowerState::Off => {}
        power @ (PowerState::Paused
        | PowerState::Saved
        | PowerState::Changing
        | PowerState::Unknown) => found.refuse(Refusal::VmHeld {
            name: name.clone(),
            power,
        }),
    }
    let replace = replaces(wish);
    let runs = vm.power == PowerState::Running;
    let start = if replace {
        if vm.checkpoints > 0 {
            found.refuse(Refusal::VmHasCheckpoints {
                name: name.clone(),
                checkpoints: vm.checkpoints,
            });
        }
        match wish.power {
            PowerAfter::Off => {
                if runs {
                    found.refuse(Refusal::VmRuns { name: name.clone() });
                }
                false
            }
            PowerAfter::AsBefore => runs,
            PowerAfter::On => true,
        }
    } else {
        let free = vm.free_slots().len();
        if disks.len() > free {
            found.refuse_open(Refusal::NoFreeSlot {
                name: name.clone(),
                wanted: disks.len(),
                free,
                runs: vm.is_on(),
            });
        }
        if vm.checkpoints > 0 {
            found.warnings.push(format!(
                "VM {name:?} has checkpoints that do not hold the new disk: applying one takes it out of the VM again"
            ));
        }
        !runs && wish.power == PowerAfter::On
    };
    Some(OnVmPlan {
        vm: id,
        name,
        replace,
        stop: replace && runs,
        start,
    })
}

fn target<'f>(wish: &RestoreWish, facts: &'f HostFacts) -> Option<&'f TargetVm> {
    let id = vm_of(wish)?;
    facts.target_vm.as_ref().filter(|vm| vm.id() == id)
}

/// Where a disk is written before it becomes a VM's.
pub(super) struct Place {
    /// The folder.
    pub(super) folder: String,
    /// What is added to the names of its files, so that they stand beside those of the VM.
    pub(super) suffix: String,
}

/// Returns where a disk is written that a VM gets and for which no folder was named; `None` for all others.
pub(super) fn place(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: &DiskSource<'_>,
) -> Result<Option<Place>, Refusal> {
    let Some(vm) = target(wish, facts) else {
        return Ok(None);
    };
    let suffix = format!("-restored-{}", names::second_of(wish, facts));
    let folder = if replaces(wish) {
        let replaced = replacement(point, vm, disk)?;
        host_path::parent(&replaced.path).map(str::to_owned)
    } else {
        if wish.folder.is_some() || wish.disk_folders.iter().any(|own| own.disk == disk.id) {
            return Ok(None);
        }
        vm.disk_folder().map(str::to_owned)
    };
    let folder = folder.unwrap_or_else(|| {
        host_path::join(&facts.default_disk_folder, &host_path::name_from(vm.name()))
    });
    Ok(Some(Place { folder, suffix }))
}

/// Returns the names that disks of the wish have in the end where they take the place of others.
pub(super) fn final_paths(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Vec<String> {
    let Some(vm) = target(wish, facts).filter(|_| replaces(wish)) else {
        return Vec::new();
    };
    let RestoreScope::Disks { disks, .. } = &wish.scope else {
        return Vec::new();
    };
    let chosen = point.disk_sources().filter(|disk| disks.contains(&disk.id));
    chosen
        .filter_map(|disk| replacement(point, vm, &disk).ok())
        .map(|replaced| replaced.path)
        .collect()
}

/// Says of each disk what becomes of it.
pub(super) fn assign(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disks: &mut [DiskPlan],
    found: &mut Findings,
) {
    let Some(vm) = target(wish, facts) else {
        return;
    };
    if !replaces(wish) {
        for (disk, slot) in disks.iter_mut().zip(vm.free_slots()) {
            disk.becomes = DiskUse::Attach { slot };
        }
        return;
    }
    let mut taken: Vec<Slot> = Vec::new();
    for disk in disks {
        let Some(source) = point.disk_sources().find(|known| known.id == disk.disk) else {
            continue;
        };
        // Where a disk has no place on the VM, its path was refused.
        let Ok(replaced) = replacement(point, vm, &source) else {
            continue;
        };
        if taken.contains(&replaced.slot) {
            found.refuse_open(not_on_vm(vm, &source));
            continue;
        }
        taken.push(replaced.slot);
        if let Some(other) = shared_with(vm, replaced.slot) {
            found.refuse(Refusal::DiskShared {
                path: replaced.was.clone(),
                vm: other,
            });
        }
        match replaced.found_by {
            FoundBy::DiskId => {}
            FoundBy::Path | FoundBy::Slot => found.warnings.push(format!(
                "disk {} was found on VM {:?} by its {} alone: {} has another VirtualDiskId, or cannot be read",
                source.id,
                vm.name(),
                replaced.found_by.as_str(),
                replaced.was
            )),
        }
        disk.becomes = DiskUse::Replace(replaced);
    }
}

fn shared_with(vm: &TargetVm, slot: Slot) -> Option<String> {
    let disk = vm.disks.iter().find(|disk| disk.slot == slot)?;
    disk.shared_with.first().cloned()
}

fn not_on_vm(vm: &TargetVm, disk: &DiskSource<'_>) -> Refusal {
    Refusal::DiskNotOnVm {
        disk: disk.id,
        path: disk.base_path.to_owned(),
        name: vm.name().to_owned(),
    }
}

/// Finds the disk that a restored one takes the place of.
fn replacement(
    point: &RecoveryPoint,
    vm: &TargetVm,
    disk: &DiskSource<'_>,
) -> Result<Replacement, Refusal> {
    let slot = point.vm.disks().find_map(|(controller, drive, path)| {
        host_path::same(path, disk.path).then(|| Slot::of(controller, drive))
    });
    // What the point knows as another disk is not this one, wherever it hangs now.
    let foreign = |on_host: &DiskOnHost| {
        let other = |id: &DiskId| *id != disk.id && point.disk_sources().any(|of| of.id == *id);
        on_host.ids.iter().any(other)
    };
    let by_id = vm.disks.iter().find(|found| found.ids.contains(&disk.id));
    let by_path = || {
        let same = |found: &&DiskOnHost| {
            host_path::same(&found.path, disk.path) || host_path::same(found.root(), disk.base_path)
        };
        vm.disks.iter().filter(|found| !foreign(found)).find(same)
    };
    let by_slot = || {
        let found = vm.disks.iter().find(|found| Some(found.slot) == slot)?;
        (!foreign(found)).then_some(found)
    };
    let (found, found_by) = by_id
        .map(|found| (found, FoundBy::DiskId))
        .or_else(|| by_path().map(|found| (found, FoundBy::Path)))
        .or_else(|| by_slot().map(|found| (found, FoundBy::Slot)))
        .ok_or_else(|| not_on_vm(vm, disk))?;
    Ok(Replacement {
        slot: found.slot,
        was: found.path.clone(),
        path: final_path(found, disk)?,
        park: found.files.iter().chain(&found.trackers).cloned().collect(),
        old_ids: found.ids.clone(),
        found_by,
    })
}

/// Returns the name a restored disk gets in place of one: that of its root. What is written is a VHDX.
fn final_path(found: &DiskOnHost, disk: &DiskSource<'_>) -> Result<String, Refusal> {
    let root = found.root();
    // The root of a chain that could not be followed is not known: then the point tells its name.
    let named = match found.whole || names::extension(root) == ".vhdx" {
        true => root,
        false => disk.base_path,
    };
    let folder = host_path::parent(root).unwrap_or(root);
    let (stem, _) = host_path::split_extension(host_path::file_name(named));
    Ok(host_path::check(&host_path::join(
        folder,
        &format!("{stem}.vhdx"),
    ))?)
}

/// Returns the disks whose next backup cannot build on what it would have built on.
pub(super) fn void(disks: &[DiskPlan]) -> Vec<DiskId> {
    let mut ids: Vec<DiskId> = Vec::new();
    for disk in disks {
        let old = disk.becomes.replacement();
        let old = old.into_iter().flat_map(|replaced| &replaced.old_ids);
        for id in std::iter::once(&disk.disk).chain(old) {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    ids
}

/// Returns the steps that make written disks those of a VM, in the order in which they are done.
pub(super) fn steps(plan: &OnVmPlan, disks: &[DiskPlan]) -> Vec<Step> {
    let mut steps = vec![Step::ReadBack { disks: disks.len() }];
    if plan.stop {
        steps.push(Step::ShutDownVm {
            name: plan.name.clone(),
        });
    }
    for disk in disks {
        match &disk.becomes {
            DiskUse::File => {}
            DiskUse::Attach { slot } => steps.push(Step::AttachDisk {
                disk: disk.disk,
                path: disk.target_path.clone(),
                vm: plan.name.clone(),
                slot: *slot,
            }),
            DiskUse::Replace(replaced) => {
                steps.push(Step::ParkDisk {
                    files: replaced.park.clone(),
                    was: replaced.was.clone(),
                    found_by: replaced.found_by,
                });
                steps.push(Step::ReplaceDisk {
                    disk: disk.disk,
                    path: replaced.path.clone(),
                    vm: plan.name.clone(),
                    slot: replaced.slot,
                });
            }
        }
    }
    if plan.start {
        steps.push(Step::StartVm {
            name: plan.name.clone(),
        });
    }
    steps
}

impl FoundBy {
    /// Returns its stable name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            FoundBy::DiskId => "VirtualDiskId",
            FoundBy::Path => "path",
            FoundBy::Slot => "slot",
        }
    }
}

impl DiskUse {
    /// Returns the disk that makes room, where one does.
    #[must_use]
    pub fn replacement(&self) -> Option<&Replacement> {
        match self {
            DiskUse::Replace(replaced) => Some(replaced),
            DiskUse::File | DiskUse::Attach { .. } => None,
        }
    }

    /// Returns the slot of the VM it hangs in afterwards.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        match self {
            DiskUse::File => None,
            DiskUse::Attach { slot } => Some(*slot),
            DiskUse::Replace(replaced) => Some(replaced.slot),
        }
    }
}
