//! The disks of a restore: which, and whether what they are written to is free.

use model::{DiskId, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, host_path};

use super::{
    DiskPlan, DiskUse, Findings, HostFacts, OverVm, Refusal, Replacement, TreeFilePlan, bytes,
    names, space,
};

/// Refuses disks the point does not have.
pub(super) fn check_known(point: &RecoveryPoint, disks: &[DiskId], found: &mut Findings) {
    for disk in disks {
        if !point.disk_sources().any(|known| known.id == *disk) {
            let known = point
                .disk_sources()
                .map(|disk| format!("{} ({})", disk.id, disk.base_path))
                .collect();
            found.refuse_open(Refusal::NoSuchDisk { disk: *disk, known });
        }
    }
}

/// Plans the disks that were asked for.
pub(super) fn plan(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    keep_ids: bool,
    tree: &[TreeFilePlan],
    found: &mut Findings,
) -> Vec<DiskPlan> {
    names::disk_targets(point, wish, facts, tree, found)
        .into_iter()
        .map(|target| DiskPlan {
            disk: target.disk.id,
            source_path: target.disk.path.to_owned(),
            new_disk_id: !keep_ids,
            size_bytes: target.disk.size_bytes,
            fixed: target.disk.fixed,
            fetch_bytes: bytes::fetched(&target.disk, &target.chain),
            needed_bytes: space::chain_bytes(&target.disk, &target.chain, &target.path),
            target_path: target.path,
            chain: target.chain,
            becomes: DiskUse::File,
        })
        .collect()
}

/// Refuses paths that are in use, but for files of a VM that makes room; returns those that are moved aside at the original location.
pub(super) fn check_paths(
    wish: &RestoreWish,
    facts: &HostFacts,
    disks: &[DiskPlan],
    tree: &[TreeFilePlan],
    over: Option<&OverVm>,
    found: &mut Findings,
) -> Vec<String> {
    let own_place = wish.target == RestoreTarget::Original
        && wish.scope == RestoreScope::Vm
        && wish.folder.is_none();
    let mut park: Vec<String> = Vec::new();
    let written = disks.iter().flat_map(|disk| {
        let files = disk.chain.iter().map(|file| &file.target_path);
        files.chain([&disk.target_path])
    });
    let written = written.chain(tree.iter().map(|file| &file.target_path));
    let replaced: Vec<_> = disks
        .iter()
        .filter_map(|disk| disk.becomes.replacement())
        .collect();
    // What the old disk leaves behind is free.
    let left = |path: &str| {
        let of = |replaced: &&Replacement| {
            let mut names = replaced.park.iter().chain([&replaced.was]);
            names.any(|name| host_path::same(name, path))
        };
        replaced.iter().any(of)
    };
    let named = replaced.iter().map(|replaced| &replaced.path);
    let named = named.filter(|path| !left(path));
    for path in written.chain(named) {
        if park.contains(path) {
            continue;
        }
        if over.is_some_and(|over| over.parks(path)) {
            continue;
        }
        let user = facts
            .vms
            .iter()
            .find(|vm| vm.files.iter().any(|file| host_path::same(file, path)));
        let exists = facts
            .existing
            .iter()
            .any(|file| host_path::same(file, path));
        let stays = over.and_then(|over| {
            let mut files = over.stay.iter().flat_map(|disk| &disk.files);
            files
                .any(|file| host_path::same(file, path))
                .then_some(over.name.as_str())
        });
        match user.map(|vm| vm.name.as_str()).or(stays) {
            None if !exists => {}
            None if own_place => park.push(path.clone()),
            user => found.refuse(Refusal::PathTaken {
                path: path.clone(),
                vm: user.map(str::to_owned),
                host: facts.name.clone(),
            }),
        }
    }
    park
}
