//! A VM that is still where the restored one shall be: what of it is kept beside, and what stays where it is.
//!
//! Everything that makes it that VM is kept: its definition and the whole chains of its disks. Left in place are disks that
//! the point does not hold (they were excluded, or came later) and files that other VMs read through.

use model::{
    Excluded, OverExisting, PowerState, RecoveryPoint, RestoreTarget, RestoreWish, VmId, host_path,
};

use super::{Findings, HostFacts, Refusal, StandingDisk, StandingVm, vm};

/// The VM whose place is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverVm {
    /// Its id, which the restored VM gets.
    pub id: VmId,
    /// Its display name.
    pub name: String,
    /// What it does now.
    pub power: PowerState,
    /// Folder of its configuration.
    pub config_folder: String,
    /// How many checkpoints it has.
    pub checkpoints: usize,
    /// Its disk files that are kept beside, each once.
    pub park: Vec<String>,
    /// Its files that other VMs read through, which stay where they are.
    pub shared: Vec<String>,
    /// Its disks that stay.
    pub stay: Vec<StayingDisk>,
    /// What is known to be wrong with it: then it need not be fit to be registered again.
    pub problems: Vec<String>,
}

/// A disk that is neither written nor moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StayingDisk {
    /// Controller and slot, such as `scsi 0:1`.
    pub slot: String,
    /// The file the VM uses now.
    pub path: String,
    /// All its files, those of checkpoints included.
    pub files: Vec<String>,
    /// How the point's configuration names it, where it was excluded: then the restored VM gets it.
    pub excluded: Option<String>,
}

/// Returns the VM that makes room, where one does.
pub(super) fn standing<'f>(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &'f HostFacts,
) -> Option<&'f StandingVm> {
    let room = match wish.over {
        OverExisting::Park => wish.target == RestoreTarget::Original && vm::keeps_id(wish),
        OverExisting::InPlace { .. } => false,
    };
    facts
        .standing
        .as_ref()
        .filter(|vm| room && vm.id == point.vm.id)
}

/// Plans what becomes of the VM that is still there.
pub(super) fn plan(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    config_folder: &str,
    found: &mut Findings,
) -> Option<OverVm> {
    let vm = standing(point, wish, facts)?;
    if vm.power == PowerState::Saved {
        found.refuse(Refusal::VmSaved {
            name: vm.name.clone(),
        });
    }
    if vm.clustered {
        found.refuse(Refusal::VmClustered {
            name: vm.name.clone(),
            host: facts.name.clone(),
        });
    }
    let mut over = OverVm {
        id: vm.id,
        name: vm.name.clone(),
        power: vm.power,
        config_folder: vm
            .config_folder
            .clone()
            .unwrap_or_else(|| config_folder.to_owned()),
        checkpoints: vm.checkpoints.len(),
        park: Vec::new(),
        shared: Vec::new(),
        stay: Vec::new(),
        problems: Vec::new(),
    };
    let shared = |path: &str| {
        let others = || facts.vms.iter().filter(|other| other.id != vm.id);
        others().any(|other| is_in(&other.files, path))
    };
    let kept: Vec<Option<Staying>> = vm.disks.iter().map(|disk| stays(point, disk)).collect();
    let disk_stays = |at: Option<usize>| at.is_some_and(|at| matches!(kept.get(at), Some(Some(_))));
    // A file of a disk that stays is not moved, whatever else uses it.
    let of_disks = vm.disks.iter().enumerate();
    let of_disks = of_disks.filter(|(at, _)| disk_stays(Some(*at)));
    let of_branches = vm.branches.iter().filter(|(_, of)| disk_stays(*of));
    let staying: Vec<String> = of_disks
        .flat_map(|(_, disk)| disk.files.iter().cloned())
        .chain(of_branches.map(|(path, _)| path.clone()))
        .collect();
    let mut park = |path: &String, over: &mut OverVm| {
        if is_in(&staying, path) {
            return;
        }
        if shared(path) {
            let text = format!("{path} stays where it is: other VMs read through it");
            found.warnings.push(text);
            over.shared.push(path.clone());
        } else if !is_in(&over.park, path) {
            over.park.push(path.clone());
        }
    };
    for (disk, kept) in vm.disks.iter().zip(&kept) {
        if let Some(problem) = &disk.problem {
            over.problems.push(problem.clone());
        }
        if kept.is_none() {
            disk.files.iter().for_each(|path| park(path, &mut over));
        }
    }
    for (path, _) in &vm.branches {
        park(path, &mut over);
    }
    for (at, (disk, kept)) in vm.disks.iter().zip(kept.clone()).enumerate() {
        let (Some(kept), Some(path)) = (kept, disk.files.first()) else {
            continue;
        };
        let branches = vm.branches.iter().filter(|(_, of)| *of == Some(at));
        let all = disk.files.iter().chain(branches.map(|(path, _)| path));
        if kept == Staying::Unknown {
            found.warnings.push(format!(
                "disk {path} ({}), which the recovery point does not know, stays where it is, attached to nothing",
                disk.slot
            ));
        }
        over.stay.push(StayingDisk {
            slot: disk.slot.clone(),
            path: path.clone(),
            files: all.cloned().collect(),
            excluded: match kept {
                Staying::Excluded(path) => Some(path),
                Staying::Unknown => None,
            },
        });
    }
    for problem in &over.problems {
        found.warnings.push(format!(
            "VM {:?} as it is now may not come back by an undo: {problem}",
            vm.name
        ));
    }
    Some(over)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Staying {
    /// It was left out of the point, whose configuration names it so.
    Excluded(String),
    /// It came after the point was made.
    Unknown,
}

/// Whether a disk stays, as the point does not hold it. It holds a disk by its id, or by a file.
fn stays(point: &RecoveryPoint, disk: &StandingDisk) -> Option<Staying> {
    let has = |path: &str| is_in(&disk.files, path);
    let by_path = |excluded: &&Excluded| has(&excluded.path);
    if let Some(excluded) = point.excluded.iter().find(by_path) {
        return Some(Staying::Excluded(excluded.path.clone()));
    }
    let mut held = point.disk_sources();
    if held.any(|of| Some(of.id) == disk.id || has(of.path) || has(of.base_path)) {
        return None;
    }
    // Its checkpoints have come and gone, so that its leaf has another name.
    let by_slot = |excluded: &&Excluded| excluded.slot.eq_ignore_ascii_case(&disk.slot);
    Some(match point.excluded.iter().find(by_slot) {
        Some(excluded) => Staying::Excluded(excluded.path.clone()),
        None => Staying::Unknown,
    })
}

/// Whether a VM that is there has a disk that was excluded: then it is attached again.
pub(super) fn has_excluded(point: &RecoveryPoint, vm: &StandingVm, excluded: &Excluded) -> bool {
    vm.disks.iter().any(
        |disk| matches!(stays(point, disk), Some(Staying::Excluded(path)) if path == excluded.path),
    )
}

fn is_in(paths: &[String], path: &str) -> bool {
    paths.iter().any(|other| host_path::same(other, path))
}

impl OverVm {
    /// Whether a file is kept beside.
    #[must_use]
    pub fn parks(&self, path: &str) -> bool {
        is_in(&self.park, path)
    }

    /// Whether this file of it is one the plan knows of.
    #[must_use]
    pub fn knows(&self, path: &str) -> bool {
        let stays = || self.stay.iter().flat_map(|disk| &disk.files);
        self.parks(path)
            || is_in(&self.shared, path)
            || stays().any(|file| host_path::same(file, path))
    }

    /// Whether it must be stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        match self.power {
            PowerState::Off | PowerState::Saved => false,
            PowerState::Running
            | PowerState::Paused
            | PowerState::Changing
            | PowerState::Unknown => true,
        }
    }
}
