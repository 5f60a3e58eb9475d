//! The VM that is still there, with every file of its disks and of its checkpoints'.

use std::sync::Arc;

use model::{
    OverExisting, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, VmId, host_path,
};
use plan::restore::{HostFacts, StandingDisk, StandingVm};

use crate::errors::{files_error, host_error, task_error};
use crate::job::JobError;
use crate::worker::Shared;

/// Adds to the facts the VM whose place a restore would take, and what other VMs read through.
pub(in crate::restore) async fn standing(
    shared: &Shared,
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &mut HostFacts,
) -> Result<(), JobError> {
    let whole = match wish.scope {
        RestoreScope::Vm => true,
        RestoreScope::Disks { .. } => false,
    };
    let room = match wish.over {
        OverExisting::Park => wish.target == RestoreTarget::Original,
        OverExisting::InPlace { .. } => false,
    };
    let there = facts.vms.iter().any(|vm| vm.id == point.vm.id);
    if !(whole && room && there) {
        return Ok(());
    }
    let standing = look(shared, point.vm.id).await?;
    let chained = standing.disks.iter().any(|disk| disk.files.len() > 1);
    if chained || !standing.branches.is_empty() {
        add_chains(shared, standing.id, facts).await;
    }
    facts.standing = Some(standing);
    Ok(())
}

/// Looks at a VM closely.
pub(in crate::restore) async fn look(shared: &Shared, id: VmId) -> Result<StandingVm, JobError> {
    let host = &shared.host;
    let found = host.vm(id).await.map_err(host_error)?;
    let files = host.files_of(&found).await.map_err(host_error)?;
    let clustered = host.clustered_vms().await.map_err(host_error)?;
    let mut roots = Vec::new();
    let mut disks = Vec::new();
    for disk in &files.disks {
        let mut paths: Vec<String> = disk.chain.iter().map(|file| file.path.clone()).collect();
        if paths.is_empty() {
            // The host cannot read it; perhaps it is there all the same.
            paths.push(disk.path.clone());
        }
        roots.push(paths.last().map(|path| host_path::key(path)));
        let ids = [disk.root(), disk.leaf()];
        disks.push(StandingDisk {
            slot: disk.slot.to_string(),
            id: ids.into_iter().flatten().find_map(|file| file.disk_id),
            files: existing(shared, paths).await?,
            problem: disk
                .problem
                .as_ref()
                .map(|problem| format!("{}: {problem}", disk.path)),
        });
    }
    let in_disks = |path: &str| {
        let mut all = disks.iter().flat_map(|disk| &disk.files);
        all.any(|file| host_path::same(file, path))
    };
    let mut branches: Vec<(String, Option<usize>)> = Vec::new();
    for branch in &files.branches {
        let root = branch.chain.last().map(|file| host_path::key(&file.path));
        let of = roots.iter().position(|known| *known == root);
        let mut paths: Vec<String> = branch.chain.iter().map(|file| file.path.clone()).collect();
        if paths.is_empty() {
            paths.push(branch.path.clone());
        }
        for path in existing(shared, paths).await? {
            if !in_disks(&path)
                && !branches
                    .iter()
                    .any(|(known, _)| host_path::same(known, &path))
            {
                branches.push((path, of));
            }
        }
    }
    Ok(StandingVm {
        id,
        name: found.summary.config.name.clone(),
        power: found.summary.power,
        config_folder: found.summary.config.config_root.clone(),
        disks,
        branches,
        checkpoints: found
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.name.clone())
            .collect(),
        clustered: clustered.contains(&id),
    })
}

async fn existing(shared: &Shared, paths: Vec<String>) -> Result<Vec<String>, JobError> {
    let files = Arc::clone(&shared.files);
    let looking = tokio::task::spawn_blocking(move || {
        let mut there = Vec::new();
        for path in paths {
            if files.stat(&path).map_err(files_error)?.is_some() {
                there.push(path);
            }
        }
        Ok(there)
    });
    looking.await.map_err(task_error)?
}

/// Adds to each other VM every file its disks read through: a parent may be shared.
pub(in crate::restore) async fn add_chains(shared: &Shared, but: VmId, facts: &mut HostFacts) {
    for vm in facts.vms.iter_mut().filter(|vm| vm.id != but) {
        for path in vm.files.clone() {
            match shared.host.disk_chain(&path).await {
                Ok(chain) => {
                    let parents = chain.into_iter().map(|file| file.path);
                    vm.files
                        .extend(parents.filter(|file| !host_path::same(file, &path)));
                }
                Err(error) => tracing::debug!("cannot follow the chain of {path}: {error}"),
            }
        }
    }
}
