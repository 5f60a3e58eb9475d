//! The VM of a full restore: its route, name and networks.

use model::{
    FileImage, KeepOrNew, Nic, PowerAfter, PowerState, RecoveryPoint, RestoreTarget, RestoreWish,
};

use super::checkpoints;
use super::{Findings, HostFacts, NicPlan, Refusal, Route, VmOnHost, VmPlan, names, over};

/// Whether the VM keeps its id.
pub(super) fn keeps_id(wish: &RestoreWish) -> bool {
    keeps(wish.id, wish)
}

/// Whether the VM's adapters keep their MAC addresses.
pub(super) fn keeps_mac(wish: &RestoreWish) -> bool {
    keeps(wish.mac, wish)
}

fn keeps(choice: Option<KeepOrNew>, wish: &RestoreWish) -> bool {
    match choice {
        Some(KeepOrNew::Keep) => true,
        Some(KeepOrNew::New) => false,
        None => wish.target == RestoreTarget::Original,
    }
}

/// Plans the VM; `None` where it has no folder to be in.
pub(super) fn plan(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    found: &mut Findings,
) -> Option<VmPlan> {
    let keep_id = keeps_id(wish);
    let standing = over::standing(point, wish, facts);
    if keep_id
        && standing.is_none()
        && let Some(vm) = facts.vms.iter().find(|vm| vm.id == point.vm.id)
    {
        found.refuse(Refusal::VmExists {
            id: vm.id,
            name: vm.name.clone(),
            host: facts.name.clone(),
        });
    }
    let name = names::vm_name(point, wish, facts);
    let other = |vm: &&VmOnHost| standing.is_none_or(|standing| standing.id != vm.id);
    if facts
        .vms
        .iter()
        .filter(other)
        .any(|vm| same(&vm.name, &name))
    {
        found.refuse(Refusal::NameTaken {
            name: name.clone(),
            host: facts.name.clone(),
        });
    }
    let has_configuration = point.files.iter().any(FileImage::is_own_config);
    if keep_id && !has_configuration {
        found.refuse(Refusal::NoConfiguration);
    }
    let route = if keep_id {
        Route::Import { keep_id: true }
    } else if has_configuration && point.host.id == facts.id {
        Route::Import { keep_id: false }
    } else {
        Route::Define
    };
    warn(point, wish, facts, found);
    let nics = plan_nics(point, wish, facts, found);
    let start = match wish.power {
        PowerAfter::Off => false,
        PowerAfter::On => true,
        PowerAfter::AsBefore => point.power == PowerState::Running,
    };
    let config_folder = found.take(names::config_folder(point, wish, facts, &name))?;
    let over = over::plan(point, wish, facts, &config_folder, found);
    Some(VmPlan {
        route,
        id: keep_id.then_some(point.vm.id),
        name,
        config_folder,
        nics,
        keep_mac: keeps_mac(wish),
        start,
        over,
    })
}

/// Says what of the point does not come back.
fn warn(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts, found: &mut Findings) {
    for unsupported in &point.unsupported {
        found
            .warnings
            .push(format!("not in the recovery point: {}", unsupported.what));
    }
    let standing = over::standing(point, wish, facts);
    for excluded in &point.excluded {
        if standing.is_some_and(|vm| over::has_excluded(point, vm, excluded)) {
            continue;
        }
        found.warnings.push(format!(
            "disk {} ({}) was excluded from the backup: its slot is left out",
            excluded.path, excluded.slot
        ));
    }
    found
        .warnings
        .extend(checkpoints::warning(point, wish, facts));
}

fn plan_nics(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    found: &mut Findings,
) -> Vec<NicPlan> {
    for map in &wish.networks {
        let switches = || facts.switches.iter();
        if !switches().any(|switch| same(&switch.name, &map.to)) {
            found.refuse(Refusal::NoSuchSwitch {
                switch: map.to.clone(),
                known: switches().map(|switch| switch.name.clone()).collect(),
                host: facts.name.clone(),
            });
        }
        let sources = || point.vm.nics.iter().filter_map(|nic| nic.switch.as_ref());
        if !sources().any(|switch| same(&switch.name, &map.from)) {
            found.refuse(Refusal::NoSuchSource {
                switch: map.from.clone(),
                known: sources().map(|switch| switch.name.clone()).collect(),
            });
        }
    }
    let mut nics = Vec::new();
    for nic in &point.vm.nics {
        let switch = switch_of(nic, wish, facts);
        if let (None, Some(was), RestoreTarget::Original) = (&switch, &nic.switch, &wish.target) {
            found.warnings.push(format!(
                "adapter {:?} stays disconnected: host {} has no switch {:?}",
                nic.name, facts.name, was.name
            ));
        }
        nics.push(NicPlan {
            nic: nic.clone(),
            switch,
        });
    }
    nics
}

/// Returns what an adapter is connected to: what its switch was mapped to; else, at the original location, its own switch
/// where the host has it; else nothing.
pub(super) fn switch_of(nic: &Nic, wish: &RestoreWish, facts: &HostFacts) -> Option<String> {
    let was = nic.switch.as_ref()?;
    if let Some(map) = wish.networks.iter().find(|map| same(&map.from, &was.name)) {
        return Some(map.to.clone());
    }
    if wish.target != RestoreTarget::Original {
        return None;
    }
    facts
        .switches
        .iter()
        .find(|switch| switch.id == was.id || same(&switch.name, &was.name))
        .map(|switch| switch.name.clone())
}

/// Names on a host differ only by more than case.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}
