//! Undoing a restore from its journal, last deed first. Each step can run again.
//!
//! Where the job has attempts left, only what followed the data is undone: disks that had got their names go back to where
//! they were written, and the next attempt goes on with them (`kept`).

use std::sync::Arc;

use hyperv::ErrorKind;
use model::{JobId, Slot, VmId, host_path};

use super::on_vm::put_back;
use super::swap::{bring_back, delete_tree, destroy_trials, power_as_before, silence};
use super::{staging_folder, target_vm};
use crate::errors::{files_error, host_error, task_error};
use crate::job::JobError;
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

/// Undoes every deed of the journal.
pub(crate) async fn undo_all(shared: &Arc<Shared>, journal: &Journal) -> Result<(), JobError> {
    let entries = journal.entries();
    silence(shared, &entries).await?;
    for (number, deed) in entries.deeds.iter().enumerate().rev() {
        undo(shared, entries.job, deed).await?;
        if let Deed::Data { record, .. } = deed {
            let removed = journal.home().remove(record);
            removed
                .map_err(|error| JobError::transient("agent-data-folder", format!("{error:#}")))?;
        }
        journal.undone(number)?;
    }
    Ok(())
}

/// Undoes every deed that followed the last file of data. What stays is what a later attempt of the job goes on with.
pub(crate) async fn undo_behind_data(
    shared: &Arc<Shared>,
    journal: &Journal,
) -> Result<(), JobError> {
    let entries = journal.entries();
    let data_end = entries.data_end();
    silence(shared, &entries).await?;
    for (number, deed) in entries.deeds.iter().enumerate().skip(data_end).rev() {
        if let Deed::Place { from, to } = deed
            && entries.data().any(|(path, _)| path == from)
        {
            let (files, from, to) = (Arc::clone(&shared.files), from.clone(), to.clone());
            tokio::task::spawn_blocking(move || take_back(&files, &from, &to))
                .await
                .map_err(task_error)??;
        } else {
            undo(shared, entries.job, deed).await?;
        }
        journal.undone(number)?;
    }
    Ok(())
}

/// Renames a file of data back to where it was written; its folder may have been removed since.
fn take_back(files: &hyperv::HostFiles, from: &str, to: &str) -> Result<(), JobError> {
    if files.stat(from).map_err(files_error)?.is_none()
        && files.stat(to).map_err(files_error)?.is_some()
    {
        if let Some(folder) = host_path::parent(from) {
            files.create_folders(folder).map_err(files_error)?;
        }
        files.rename(to, from).map_err(files_error)?;
    }
    Ok(())
}

async fn undo(shared: &Arc<Shared>, job: JobId, deed: &Deed) -> Result<(), JobError> {
    match deed {
        Deed::Register {
            id,
            disks,
            config_folder,
            before,
        } => {
            let staging = staging_folder(config_folder, job);
            unregister(shared, *id, disks, &staging, before).await
        }
        Deed::Folder { .. }
        | Deed::OwnFolder { .. }
        | Deed::File { .. }
        | Deed::Data { .. }
        | Deed::Place { .. }
        | Deed::Return { .. }
        | Deed::MoveAside { .. } => {
            let files = Arc::clone(&shared.files);
            let deed = deed.clone();
            tokio::task::spawn_blocking(move || undo_file(&files, &deed))
                .await
                .map_err(task_error)?
        }
        Deed::StopVm { vm } => match shared.host.start(*vm).await {
            // Whoever removed it does not want it to run.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(host_error),
        },
        Deed::Rehearse { folder, before } => destroy_trials(shared, folder, before).await,
        Deed::Stop { vm, power } => power_as_before(shared, *vm, *power).await,
        Deed::Swap(swap) => bring_back(shared, swap).await,
        Deed::Record { name } => shared.home.remove(name).map_err(|error| {
            JobError::transient(
                "agent-data-folder",
                format!("cannot remove {name}: {error:#}"),
            )
        }),
        Deed::AttachDisk { vm, slot, path } => detach(shared, *vm, *slot, path).await,
        Deed::ReplaceDisk(replaced) => put_back(shared, replaced).await,
        Deed::Checkpoint { .. }
        | Deed::CheckpointTaken { .. }
        | Deed::Shadow { .. }
        | Deed::ShadowTaken { .. }
        | Deed::Held { .. }
        | Deed::Resumed
        | Deed::Publishing
        | Deed::Power { .. }
        | Deed::Converting(_) => Ok(()),
    }
}

fn undo_file(files: &hyperv::HostFiles, deed: &Deed) -> Result<(), JobError> {
    match deed {
        Deed::File { path } | Deed::Data { path, .. } => files.delete(path).map_err(files_error),
        Deed::Folder { path } => match files.delete_folder(path) {
            // Someone else has put something there: then it is not ours to remove.
            Err(_) if files.list(path).is_ok_and(|entries| !entries.is_empty()) => Ok(()),
            other => other.map_err(files_error),
        },
        Deed::OwnFolder { path } => delete_tree(files, path),
        Deed::Return { from, to } => {
            // It is kept: only its name is given back.
            if files.stat(from).map_err(files_error)?.is_none()
                && files.stat(to).map_err(files_error)?.is_some()
            {
                files.rename(to, from).map_err(files_error)?;
            }
            Ok(())
        }
        Deed::Place { from, to } => {
            if files.stat(from).map_err(files_error)?.is_none() {
                files.delete(to).map_err(files_error)?;
            }
            Ok(())
        }
        Deed::MoveAside { from, to } => {
            let gone = files.stat(from).map_err(files_error)?.is_none();
            if gone && files.stat(to).map_err(files_error)?.is_some() {
                files.rename(to, from).map_err(files_error)?;
            }
            Ok(())
        }
        Deed::Register { .. }
        | Deed::Rehearse { .. }
        | Deed::Stop { .. }
        | Deed::Swap(_)
        | Deed::Power { .. }
        | Deed::Record { .. }
        | Deed::StopVm { .. }
        | Deed::AttachDisk { .. }
        | Deed::ReplaceDisk(_)
        | Deed::Checkpoint { .. }
        | Deed::CheckpointTaken { .. }
        | Deed::Shadow { .. }
        | Deed::ShadowTaken { .. }
        | Deed::Held { .. }
        | Deed::Resumed
        | Deed::Publishing
        | Deed::Converting(_) => Ok(()),
    }
}

/// Takes a disk out of a VM again, where it is in.
async fn detach(shared: &Shared, vm: VmId, slot: Slot, path: &str) -> Result<(), JobError> {
    let Some(found) = target_vm::look(shared, vm).await? else {
        return Ok(());
    };
    let mut disks = found.disks.iter();
    match disks.any(|disk| disk.slot == slot && host_path::same(&disk.path, path)) {
        true => shared.host.detach_disk(vm, slot).await.map_err(host_error),
        false => Ok(()),
    }
}

/// Destroys the VM that the restore registered, planned or whole. It is known by its id where that was kept, else by
/// being new and having no disk but those of the restore; a planned one also by being imported from `staging`.
async fn unregister(
    shared: &Arc<Shared>,
    id: Option<VmId>,
    disks: &[String],
    staging: &str,
    before: &[VmId],
) -> Result<(), JobError> {
    let host = &shared.host;
    let own = |path: &str| disks.iter().any(|disk| host_path::same(disk, path));
    for planned in host.planned_vms().await.map_err(host_error)? {
        if before.contains(&planned.id) {
            continue;
        }
        let config = host.planned_config(planned.id).await.map_err(host_error)?;
        let imported = config
            .config_root
            .as_deref()
            .is_some_and(|root| host_path::is_below(root, staging));
        if imported || id == Some(planned.id) || config.disks().any(|(_, _, path)| own(path)) {
            host.destroy_planned(planned.id).await.map_err(host_error)?;
        }
    }
    for vm in host.vms().await.map_err(host_error)? {
        let vm_id = vm.config.id;
        let only_own =
            vm.config.disks().count() > 0 && vm.config.disks().all(|(_, _, path)| own(path));
        if !before.contains(&vm_id) && (id == Some(vm_id) || only_own) {
            host.turn_off(vm_id).await.map_err(host_error)?;
            host.destroy_vm(vm_id).await.map_err(host_error)?;
        }
    }
    Ok(())
}
