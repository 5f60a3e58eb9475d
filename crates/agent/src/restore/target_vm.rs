//! The VM that disks are attached to or replaced on, as it is now.

use std::sync::Arc;

use hyperv::{Checkpoint, CheckpointKind, HostFiles, ReplicationRole, VmDisk, VmFacts};
use model::{VmId, host_path};
use plan::restore::{DiskOnHost, TargetVm};

use crate::errors::{files_error, host_error, task_error};
use crate::job::JobError;
use crate::worker::Shared;

/// What the host keeps beside a disk file, by what is added to its name.
const TRACKERS: [&str; 2] = [".rct", ".mrt"];

/// Looks at a VM; `None` where the host does not have it.
pub(super) async fn look(shared: &Shared, id: VmId) -> Result<Option<TargetVm>, JobError> {
    let host = &shared.host;
    let found = match host.vm(id).await {
        Ok(found) => found,
        Err(error) if error.kind() == hyperv::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(host_error(error)),
    };
    let mut disks = Vec::new();
    for disk in &found.disks {
        disks.push(on_host(shared, id, disk).await?);
    }
    let users = found.checkpoints.iter().filter(|found| is_kept(found));
    Ok(Some(TargetVm {
        power: found.summary.power,
        busy: busy(&found),
        checkpoints: users.count(),
        disks,
        config: found.summary.config,
    }))
}

/// Whether files of the VM's disks belong to a checkpoint beyond a backup.
fn is_kept(checkpoint: &Checkpoint) -> bool {
    match checkpoint.kind {
        CheckpointKind::User
        | CheckpointKind::Replica
        | CheckpointKind::Missing
        | CheckpointKind::Other => true,
        CheckpointKind::Recovery | CheckpointKind::Planned => false,
    }
}

fn busy(vm: &VmFacts) -> Option<String> {
    let recovery = |checkpoint: &&Checkpoint| checkpoint.kind == CheckpointKind::Recovery;
    if let Some(activity) = vm.summary.activity {
        return Some(activity.to_string());
    }
    if let Some(checkpoint) = vm.checkpoints.iter().find(recovery) {
        return Some(format!(
            "being backed up: it has the recovery checkpoint {:?}",
            checkpoint.name
        ));
    }
    match vm.summary.replication.role {
        ReplicationRole::Replica
        | ReplicationRole::ExtendedReplica
        | ReplicationRole::TestReplica => {
            Some("a replica, whose disks its replication alone changes".to_owned())
        }
        ReplicationRole::None | ReplicationRole::Primary | ReplicationRole::Other(_) => None,
    }
}

async fn on_host(shared: &Shared, vm: VmId, disk: &VmDisk) -> Result<DiskOnHost, JobError> {
    let mut files: Vec<String> = disk.chain.iter().map(|file| file.path.clone()).collect();
    if files.is_empty() {
        // The host cannot read it; perhaps it is there all the same.
        files.push(disk.path.clone());
    }
    let (files, trackers) = existing(&shared.files, files).await?;
    Ok(DiskOnHost {
        slot: disk.slot,
        path: disk.path.clone(),
        ids: disk.chain.iter().filter_map(|file| file.disk_id).collect(),
        whole: disk.problem.is_none(),
        shared_with: sharing(shared, vm, &files).await?,
        files,
        trackers,
    })
}

/// Returns those files that exist, and what the host keeps beside them.
async fn existing(
    files: &Arc<HostFiles>,
    paths: Vec<String>,
) -> Result<(Vec<String>, Vec<String>), JobError> {
    let files = Arc::clone(files);
    let looking = tokio::task::spawn_blocking(move || {
        let (mut there, mut beside) = (Vec::new(), Vec::new());
        for path in paths {
            for tracker in TRACKERS.map(|tracker| format!("{path}{tracker}")) {
                if files.stat(&tracker).map_err(files_error)?.is_some() {
                    beside.push(tracker);
                }
            }
            if files.stat(&path).map_err(files_error)?.is_some() {
                there.push(path);
            }
        }
        Ok((there, beside))
    });
    looking.await.map_err(task_error)?
}

/// Returns the names of other VMs that use one of these files. A disk of one file without children is nobody else's.
async fn sharing(shared: &Shared, vm: VmId, files: &[String]) -> Result<Vec<String>, JobError> {
    if files.len() < 2 {
        return Ok(Vec::new());
    }
    let host = &shared.host;
    let mut names = Vec::new();
    for other in host.vms().await.map_err(host_error)? {
        if other.config.id == vm {
            continue;
        }
        for (_, _, path) in other.config.disks() {
            let chain = match host.disk_chain(path).await {
                Ok(chain) => chain,
                // What cannot be read cannot be told; its own file is compared by its name.
                Err(error) => {
                    tracing::debug!("cannot follow the chain of {path}: {error}");
                    Vec::new()
                }
            };
            let own = chain.iter().map(|file| file.path.as_str()).chain([path]);
            let shares = own
                .into_iter()
                .any(|path| files.iter().any(|file| host_path::same(file, path)));
            if shares && !names.contains(&other.config.name) {
                names.push(other.config.name.clone());
            }
        }
    }
    Ok(names)
}
