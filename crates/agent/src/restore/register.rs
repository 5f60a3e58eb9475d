//! The step `restore`: files are renamed into place and the VM is registered.

use std::sync::Arc;

use hyperv::Folders;
use model::{Controller, Drive, Media, VmConfig, VmId, host_path};
use plan::restore::{RestoreKind, RestorePlan, Route, VmPlan};

use super::chains::merged_text;
use super::disks::{Written, WrittenDisk, is_chained, make_folders};
use super::kept::moved_aside;
use super::swap::over;
use super::tree::difference;
use super::{Restore, parked_folder};
use crate::errors::{files_error, host_error, task_error};
use crate::host::slot_text;
use crate::job::JobError;
use crate::journal::Deed;

impl Restore<'_> {
    pub(super) async fn put_in_place(
        &self,
        plan: &RestorePlan,
        written: &mut Written,
    ) -> Result<(Option<VmId>, String), JobError> {
        self.context.check()?;
        self.consolidate(written).await?;
        self.settle_tree(plan, written).await?;
        if let (RestoreKind::Vm(vm), Some(over)) = (&plan.kind, over(plan)) {
            let id = self.take_place(plan, vm, over, written).await?;
            self.drop_staging(written).await?;
            let mut detail = format!(
                "VM {:?} registered with id {id} in place of the one that was there, which is kept",
                vm.name
            );
            if let Some(merged) = merged_text(written) {
                detail = format!("{merged}; {detail}");
            }
            return Ok((Some(id), detail));
        }
        let written = &*written;
        if !is_chained(plan) {
            self.park(&plan.park).await?;
        }
        self.rename_into_place(written).await?;
        let vm = match &plan.kind {
            RestoreKind::Disks => None,
            RestoreKind::Vm(vm) => Some(self.register(plan, vm, written).await?),
            RestoreKind::OnVm(vm) => {
                let changed = self.change_vm(plan, vm, written).await?;
                self.drop_staging(written).await?;
                return Ok((None, changed));
            }
        };
        self.drop_staging(written).await?;
        let mut detail = match (&plan.kind, vm) {
            (RestoreKind::Vm(planned), Some(id)) => {
                format!("VM {:?} registered with id {id}", planned.name)
            }
            _ => format!("{} disk files in place", written.disks.len()),
        };
        if !plan.tree.is_empty() {
            let count = self.work.point.checkpoints.len();
            detail = format!("{detail}, with its {count} checkpoints");
        }
        if let Some(merged) = merged_text(written) {
            detail = format!("{merged}; {detail}");
        }
        Ok((vm, detail))
    }

    /// Moves aside what stands in the way.
    pub(super) async fn park(&self, park: &[String]) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let journal = Arc::clone(self.journal);
        let job = self.context.job;
        let park = park.to_vec();
        let moved = tokio::task::spawn_blocking(move || {
            let mut notes = Vec::new();
            let moved = moved_aside(&journal.entries().deeds);
            for path in park {
                if moved.iter().any(|from| host_path::same(from, &path)) {
                    // An earlier attempt did it.
                    continue;
                }
                let Some(folder) = host_path::parent(&path) else {
                    continue;
                };
                let aside = parked_folder(folder, job);
                make_folders(&files, &journal, &aside)?;
                let to = host_path::join(&aside, host_path::file_name(&path));
                journal.will(Deed::MoveAside {
                    from: path.clone(),
                    to: to.clone(),
                })?;
                files.rename(&path, &to).map_err(files_error)?;
                notes.push(format!("{path}, which no VM used, was kept as {to}"));
            }
            Ok::<_, JobError>(notes)
        });
        for note in moved.await.map_err(task_error)?? {
            self.context.note(note);
        }
        Ok(())
    }

    /// Gives the new files their names; those of chains have them.
    async fn rename_into_place(&self, written: &Written) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let journal = Arc::clone(self.journal);
        let flat = |disk: &WrittenDisk| {
            let staged = disk.flat.as_ref()?.staged.clone();
            Some((staged, disk.plan.target_path.clone()))
        };
        let renames: Vec<(String, String)> = written.disks.iter().filter_map(flat).collect();
        let renamed = tokio::task::spawn_blocking(move || {
            for (from, to) in renames {
                journal.will(Deed::Place {
                    from: from.clone(),
                    to: to.clone(),
                })?;
                files.rename(&from, &to).map_err(files_error)?;
            }
            Ok::<_, JobError>(())
        });
        renamed.await.map_err(task_error)?
    }

    async fn register(
        &self,
        plan: &RestorePlan,
        vm: &VmPlan,
        written: &Written,
    ) -> Result<VmId, JobError> {
        self.announce(plan, vm).await?;
        self.register_announced(plan, vm, written).await
    }

    /// Writes down that a VM is about to be registered.
    pub(super) async fn announce(&self, plan: &RestorePlan, vm: &VmPlan) -> Result<(), JobError> {
        let host = &self.shared.host;
        let mut before: Vec<VmId> = host
            .vms()
            .await
            .map_err(host_error)?
            .iter()
            .map(|vm| vm.config.id)
            .collect();
        before.extend(
            host.planned_vms()
                .await
                .map_err(host_error)?
                .iter()
                .map(|vm| vm.id),
        );
        if vm.id.is_some_and(|id| before.contains(&id)) {
            return Err(JobError::failed(
                "vm-exists",
                format!("VM {:?} came back while its restore ran", vm.name),
            )
            .hint("remove the VM, or restore beside it with --to HOST"));
        }
        self.context.check()?;
        self.journal.will(Deed::Register {
            id: vm.id,
            disks: plan
                .disks
                .iter()
                .map(|disk| disk.target_path.clone())
                .collect(),
            config_folder: vm.config_folder.clone(),
            before,
        })
    }

    pub(super) async fn register_announced(
        &self,
        plan: &RestorePlan,
        vm: &VmPlan,
        written: &Written,
    ) -> Result<VmId, JobError> {
        let host = &self.shared.host;
        let wanted = self.wanted(plan, vm).await?;
        let folders = Folders {
            config: vm.config_folder.clone(),
            checkpoints: vm.config_folder.clone(),
            saved_state: vm.config_folder.clone(),
            swap: vm.config_folder.clone(),
        };
        match vm.route {
            Route::Define => host.define_vm(&wanted, &folders).await.map_err(host_error),
            Route::Import { keep_id } => {
                self.import(plan, written, &wanted, &folders, keep_id).await
            }
        }
    }

    async fn import(
        &self,
        plan: &RestorePlan,
        written: &Written,
        wanted: &VmConfig,
        folders: &Folders,
        keep_id: bool,
    ) -> Result<VmId, JobError> {
        let host = &self.shared.host;
        let file = self.config_file(written)?;
        let planned = host
            .import_definition(file, None, !keep_id)
            .await
            .map_err(host_error)?;
        match &written.checkpoint_folder {
            Some(folder) => {
                let moved = |path: &str| {
                    let mut tree = plan.tree.iter();
                    let file = tree.find(|file| host_path::same(&file.source_path, path))?;
                    (file.source_path != file.target_path).then(|| file.target_path.clone())
                };
                self.import_tree(planned.id, folder, moved).await?;
            }
            None => host
                .drop_planned_checkpoints(planned.id)
                .await
                .map_err(host_error)?,
        }
        host.change_planned(planned.id, wanted, folders)
            .await
            .map_err(host_error)?;
        host.validate_planned(planned.id)
            .await
            .map_err(host_error)?;
        self.context.check()?;
        let id = host.realize_planned(planned.id).await.map_err(host_error)?;
        if keep_id && id != wanted.id {
            self.context.warning(format!(
                "the host gave the VM the id {id} instead of {}",
                wanted.id
            ));
        }
        Ok(id)
    }

    /// Returns the configuration file to import.
    pub(super) fn config_file<'w>(&self, written: &'w Written) -> Result<&'w str, JobError> {
        let file = written.config_file.as_deref();
        file.ok_or_else(|| {
            JobError::failed(
                "no-configuration",
                "the recovery point sent no configuration file",
            )
        })
    }

    /// Brings the checkpoints of a planned VM in, and points them and the VM at the files of this restore.
    pub(super) async fn import_tree(
        &self,
        planned: VmId,
        folder: &str,
        moved: impl Fn(&str) -> Option<String>,
    ) -> Result<(), JobError> {
        let host = &self.shared.host;
        let came = host
            .import_checkpoints(planned, folder)
            .await
            .map_err(host_error)?;
        if let Some(difference) = difference(&self.work.point.checkpoints, &came) {
            let message = format!("the host did not take all checkpoints: {difference}");
            return Err(JobError::failed("checkpoints-lost", message)
                .hint("look at the host's Hyper-V-VMMS event log; an exclusion of a disk, or another host, makes a restore merge them"));
        }
        host.move_planned_disks(planned, moved)
            .await
            .map_err(host_error)
    }

    /// Returns the configuration the VM shall have: the point's, with the plan's name, paths and networks.
    pub(super) async fn wanted(
        &self,
        plan: &RestorePlan,
        vm: &VmPlan,
    ) -> Result<VmConfig, JobError> {
        let switches = self.shared.host.switches().await.map_err(host_error)?;
        let mut wanted = self.work.point.vm.clone();
        wanted.name.clone_from(&vm.name);
        let mut nics = Vec::new();
        for planned in &vm.nics {
            let mut nic = planned.nic.clone();
            nic.switch = planned.switch.as_ref().and_then(|name| {
                switches
                    .iter()
                    .find(|switch| switch.name.to_lowercase() == name.to_lowercase())
                    .cloned()
            });
            if planned.switch.is_some() && nic.switch.is_none() {
                self.context.warning(format!(
                    "adapter {:?} stays disconnected: its switch has gone",
                    nic.name
                ));
            }
            if !vm.keep_mac {
                nic.mac = None;
                nic.static_mac = false;
            }
            nics.push(nic);
        }
        wanted.nics = nics;
        let mut controllers = Vec::new();
        for controller in &wanted.controllers {
            let mut drives = Vec::new();
            for drive in &controller.drives {
                let slot = slot_text(controller.kind, controller.number, drive.slot);
                if let Some(media) = self.media(plan, drive, &slot).await? {
                    drives.push(Drive {
                        media,
                        ..drive.clone()
                    });
                }
            }
            controllers.push(Controller {
                drives,
                ..controller.clone()
            });
        }
        wanted.controllers = controllers;
        Ok(wanted)
    }

    /// Returns what a drive shall hold; `None` leaves its slot out.
    async fn media(
        &self,
        plan: &RestorePlan,
        drive: &Drive,
        slot: &str,
    ) -> Result<Option<Media>, JobError> {
        match &drive.media {
            Media::Disk { path } => {
                let target = plan
                    .disks
                    .iter()
                    .find(|disk| host_path::same(&disk.source_path, path));
                // One that was excluded is attached as it is.
                let stays = || {
                    let mut stay = over(plan)?
                        .stay
                        .iter()
                        .filter(|disk| disk.excluded.is_some());
                    stay.find(|disk| {
                        let named = disk.excluded.as_deref();
                        named.is_some_and(|named| host_path::same(named, path))
                            || disk.slot.eq_ignore_ascii_case(slot)
                    })
                };
                let path = target.map(|disk| &disk.target_path);
                let path = path.or_else(|| stays().map(|disk| &disk.path));
                Ok(path.map(|path| Media::Disk { path: path.clone() }))
            }
            Media::Iso { path } => {
                let files = Arc::clone(&self.shared.files);
                let asked = path.clone();
                let there = tokio::task::spawn_blocking(move || files.stat(&asked))
                    .await
                    .map_err(task_error)?;
                if matches!(there, Ok(Some(_))) {
                    return Ok(Some(drive.media.clone()));
                }
                self.context.warning(format!(
                    "the CD drive is left empty: {path} is not on the host"
                ));
                Ok(Some(Media::Empty))
            }
            Media::Empty => Ok(Some(Media::Empty)),
            Media::PassThrough { .. } => Ok(None),
        }
    }

    /// Removes what was needed only on the way; what cannot be removed is told, and stays.
    async fn drop_staging(&self, written: &Written) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let leftovers: Vec<String> = written
            .config_file
            .iter()
            .chain(&written.staged)
            .cloned()
            .collect();
        let folders = written.folders.clone();
        let dropped = tokio::task::spawn_blocking(move || {
            let mut notes = Vec::new();
            for path in leftovers {
                if let Err(error) = files.delete(&path) {
                    notes.push(format!("{path} could not be removed: {error}"));
                }
            }
            for folder in folders {
                // A folder with parked files in it stays.
                if files.list(&folder).is_ok_and(|entries| entries.is_empty())
                    && let Err(error) = files.delete_folder(&folder)
                {
                    notes.push(format!("{folder} could not be removed: {error}"));
                }
            }
            notes
        });
        for note in dropped.await.map_err(task_error)? {
            self.context.note(note);
        }
        Ok(())
    }
}
