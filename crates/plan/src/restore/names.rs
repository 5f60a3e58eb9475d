//! Names and paths of what a restore makes.

use std::collections::BTreeSet;

use model::{
    DiskImage, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, Timestamp, host_path,
};

use super::{HostFacts, Refusal};

/// Returns the paths whose existence a plan must know: where the disks of this wish would be written.
///
/// `facts` needs no [`existing`](HostFacts::existing) for this.
pub fn wanted_paths(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Result<Vec<String>, Refusal> {
    Ok(disk_targets(point, wish, facts)?
        .into_iter()
        .map(|(_, path)| path)
        .collect())
}

/// Returns the display name of the restored VM.
pub(super) fn vm_name(point: &RecoveryPoint, wish: &RestoreWish, now: Timestamp) -> String {
    match (&wish.name, &wish.target) {
        (Some(name), _) => name.clone(),
        (None, RestoreTarget::Original) => point.vm.name.clone(),
        (None, RestoreTarget::Alternate { .. }) => {
            // Hyper-V takes at most 100 characters.
            let name: String = point.vm.name.chars().take(75).collect();
            format!("{name}-restored-{}", minute(now))
        }
    }
}

/// Returns `yyyymmdd-hhmm` of a moment, in UTC.
fn minute(now: Timestamp) -> String {
    let digits: String = now
        .to_string()
        .chars()
        .filter(char::is_ascii_digit)
        .take(12)
        .collect();
    let (day, time) = digits.split_at(digits.len().min(8));
    format!("{day}-{time}")
}

/// Returns the folder of the VM's configuration.
pub(super) fn config_folder(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    vm_name: &str,
) -> Result<String, Refusal> {
    if let Some(folder) = &wish.folder {
        return Ok(host_path::check(folder)?);
    }
    match (&wish.target, &point.vm.config_root) {
        (RestoreTarget::Original, Some(root)) => Ok(host_path::check(root)?),
        (RestoreTarget::Original | RestoreTarget::Alternate { .. }, _) => {
            let folder =
                host_path::join(&facts.default_config_folder, &host_path::name_from(vm_name));
            Ok(host_path::check(&folder)?)
        }
    }
}

/// Returns each disk of the wish with the path it is written to. No two are the same.
pub(super) fn disk_targets<'p>(
    point: &'p RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Result<Vec<(&'p DiskImage, String)>, Refusal> {
    let mut taken = BTreeSet::new();
    let mut targets = Vec::new();
    for disk in &point.disks {
        if let RestoreScope::Disks { disks } = &wish.scope
            && !disks.contains(&disk.id)
        {
            continue;
        }
        let folder = disk_folder(point, wish, facts, disk)?;
        let path = free_name(&folder, disk, &mut taken);
        targets.push((disk, host_path::check(&path)?));
    }
    Ok(targets)
}

fn disk_folder(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: &DiskImage,
) -> Result<String, Refusal> {
    if let Some(own) = wish.disk_folders.iter().find(|own| own.disk == disk.id) {
        return Ok(host_path::check(&own.folder)?);
    }
    if let Some(folder) = &wish.folder {
        return Ok(host_path::check(folder)?);
    }
    let original = wish.target == RestoreTarget::Original && wish.scope == RestoreScope::Vm;
    if original && let Some(folder) = host_path::parent(&disk.base_path) {
        return Ok(host_path::check(folder)?);
    }
    let name = match wish.scope {
        RestoreScope::Vm => vm_name(point, wish, facts.now),
        RestoreScope::Disks { .. } => format!("{}-disks-{}", point.vm.name, minute(facts.now)),
    };
    let folder = host_path::join(&facts.default_disk_folder, &host_path::name_from(&name));
    Ok(host_path::check(&folder)?)
}

/// Keeps the file's own name, numbered where another disk of this restore has it; what is written is a VHDX.
fn free_name(folder: &str, disk: &DiskImage, taken: &mut BTreeSet<String>) -> String {
    let (stem, _) = host_path::split_extension(host_path::file_name(&disk.base_path));
    let stem = host_path::name_from(stem);
    let mut path = host_path::join(folder, &format!("{stem}.vhdx"));
    let mut number = 2;
    while !taken.insert(host_path::key(&path)) {
        path = host_path::join(folder, &format!("{stem}-{number}.vhdx"));
        number += 1;
    }
    path
}
