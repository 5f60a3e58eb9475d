//! Names and paths of what a restore makes.

use std::collections::BTreeSet;

use model::{
    DiskSource, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, Timestamp, host_path,
};

use super::{ChainFilePlan, Findings, HostFacts, Refusal};

/// Returns the paths whose existence a plan must know: where the disks of this wish would be written.
///
/// `facts` needs no [`existing`](HostFacts::existing) for this. Paths that cannot be used are left out: the plan refuses
/// them by name.
#[must_use]
pub fn wanted_paths(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> Vec<String> {
    let mut paths = Vec::new();
    for target in disk_targets(point, wish, facts, &mut Findings::default()) {
        for file in target.chain {
            if !host_path::same(&file.target_path, &target.path) {
                paths.push(file.target_path);
            }
        }
        paths.push(target.path);
    }
    paths
}

/// Returns the display name of the restored VM.
pub(super) fn vm_name(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> String {
    match (&wish.name, &wish.target) {
        (Some(name), _) => name.clone(),
        (None, RestoreTarget::Original) => point.vm.name.clone(),
        (None, RestoreTarget::Alternate { .. }) => {
            // Hyper-V takes at most 100 characters.
            let name: String = point.vm.name.chars().take(75).collect();
            format!("{name}-restored-{}", minute(moment(wish, facts)))
        }
    }
}

/// Returns the moment that default names are made from: a plan that is carried out later keeps its names.
fn moment(wish: &RestoreWish, facts: &HostFacts) -> Timestamp {
    wish.named_at.unwrap_or(facts.now)
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

/// Where a disk is written to.
pub(super) struct DiskTarget<'p> {
    pub(super) disk: DiskSource<'p>,
    /// The file it is in the end.
    pub(super) path: String,
    /// The files of its chain that are written first; empty for a flat disk.
    pub(super) chain: Vec<ChainFilePlan>,
}

/// Returns each disk of the wish with the paths it is written to. No two are the same. A disk for which there is no
/// path is refused and left out.
pub(super) fn disk_targets<'p>(
    point: &'p RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    found: &mut Findings,
) -> Vec<DiskTarget<'p>> {
    let mut taken = BTreeSet::new();
    let mut targets = Vec::new();
    for disk in point.disk_sources() {
        if let RestoreScope::Disks { disks } = &wish.scope
            && !disks.contains(&disk.id)
        {
            continue;
        }
        let target = disk_target(point, wish, facts, disk, &mut taken);
        targets.extend(found.take(target));
    }
    targets
}

fn disk_target<'p>(
    point: &'p RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: DiskSource<'p>,
    taken: &mut BTreeSet<String>,
) -> Result<DiskTarget<'p>, Refusal> {
    let folder = disk_folder(point, wish, facts, &disk)?;
    let path = free_name(&folder, disk.base_path, ".vhdx", taken);
    let path = host_path::check(&path)?;
    let chain = chain_targets(point, &disk, &folder, &path, taken)?;
    Ok(DiskTarget { disk, path, chain })
}

/// Returns where the files of a chain are written, leaf first: under their own names beside the disk. The root of a VHDX
/// chain is the disk itself in the end.
fn chain_targets(
    point: &RecoveryPoint,
    disk: &DiskSource<'_>,
    folder: &str,
    disk_path: &str,
    taken: &mut BTreeSet<String>,
) -> Result<Vec<ChainFilePlan>, Refusal> {
    let Some(chain) = disk.chain else {
        return Ok(Vec::new());
    };
    let last = chain.files.len().saturating_sub(1);
    let mut files = Vec::new();
    for (place, source_path) in chain.files.iter().enumerate() {
        let file = point.file(source_path).ok_or(Refusal::IncompleteChain {
            disk: disk.id,
            file: source_path.clone(),
        })?;
        let (_, extension) = host_path::split_extension(host_path::file_name(source_path));
        let target_path = if place == last && extension.eq_ignore_ascii_case(".vhdx") {
            disk_path.to_owned()
        } else {
            let extension = match extension.to_lowercase().as_str() {
                known @ (".vhdx" | ".avhdx" | ".vhd" | ".avhd") => known.to_owned(),
                _ => ".file".to_owned(),
            };
            host_path::check(&free_name(folder, source_path, &extension, taken))?
        };
        files.push(ChainFilePlan {
            source_path: source_path.clone(),
            target_path,
            file_bytes: file.image.len,
        });
    }
    Ok(files)
}

fn disk_folder(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: &DiskSource<'_>,
) -> Result<String, Refusal> {
    if let Some(own) = wish.disk_folders.iter().find(|own| own.disk == disk.id) {
        return Ok(host_path::check(&own.folder)?);
    }
    if let Some(folder) = &wish.folder {
        return Ok(host_path::check(folder)?);
    }
    let original = wish.target == RestoreTarget::Original && wish.scope == RestoreScope::Vm;
    if original && let Some(folder) = host_path::parent(disk.base_path) {
        return Ok(host_path::check(folder)?);
    }
    let name = match wish.scope {
        RestoreScope::Vm => vm_name(point, wish, facts),
        RestoreScope::Disks { .. } => {
            let minute = minute(moment(wish, facts));
            format!("{}-disks-{minute}", point.vm.name)
        }
    };
    let folder = host_path::join(&facts.default_disk_folder, &host_path::name_from(&name));
    Ok(host_path::check(&folder)?)
}

/// Keeps the file's own name with this extension, numbered where another file of this restore has it.
fn free_name(folder: &str, own: &str, extension: &str, taken: &mut BTreeSet<String>) -> String {
    let (stem, _) = host_path::split_extension(host_path::file_name(own));
    let stem = host_path::name_from(stem);
    let mut path = host_path::join(folder, &format!("{stem}{extension}"));
    let mut number = 2;
    while !taken.insert(host_path::key(&path)) {
        path = host_path::join(folder, &format!("{stem}-{number}{extension}"));
        number += 1;
    }
    path
}
