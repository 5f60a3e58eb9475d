//! The step `checkpoint`: the method is chosen, and the VM's state is frozen in a recovery checkpoint of ours, or in
//! shadow copies (`shadows`).

use std::sync::Arc;

use hyperv::{ChainError, ConfigFile, ConfigVersion, DiskFormat, HostFacts, Mark, VmDisk, VmFacts};
use model::{Consistency, Method, Timestamp, VmConfig, host_path};

use super::{Backup, Moment};
use crate::errors::{chain_error, files_error, host_error, task_error};
use crate::job::JobError;
use crate::journal::Deed;
use crate::{clock, janitor};

/// The frozen VM.
pub(super) struct Frozen {
    /// The host.
    pub(super) host: HostFacts,
    /// The VM just before.
    pub(super) vm: VmFacts,
    /// InstanceID of the checkpoint.
    pub(super) checkpoint: String,
    /// Consistency reached.
    pub(super) consistency: Consistency,
    /// Why the wish was not met.
    pub(super) consistency_note: Option<String>,
    /// When it was taken.
    pub(super) taken: Timestamp,
    /// Its configuration, as the checkpoint holds it.
    pub(super) config: VmConfig,
    /// Its configuration files.
    pub(super) config_files: Vec<ConfigFile>,
    /// Disks to read.
    pub(super) disks: Vec<VmDisk>,
    /// Disks left out on request.
    pub(super) excluded: Vec<VmDisk>,
}

impl Backup<'_> {
    /// Looks at the VM, removes what an earlier run left on it, and freezes it.
    pub(super) async fn freeze(&self) -> Result<(Moment, String), JobError> {
        let vm_id = self.work.vm;
        let host = &self
            .shared
            .host
            .clone()
            .with_cancel(self.context.host_cancel());
        let facts = host.facts().await.map_err(host_error)?;
        janitor::settle_vm(self.shared, &self.context.server, vm_id).await?;
        host.wait_settled(vm_id).await.map_err(host_error)?;
        let vm = host.vm(vm_id).await.map_err(host_error)?;
        match self.method(&facts, &vm)? {
            Method::Rct => {
                let (frozen, detail) = self.take_checkpoint(facts, vm).await?;
                Ok((Moment::Checkpoint(Box::new(frozen)), detail))
            }
            Method::Vss => {
                let (shadowed, detail) = self.shadow(facts, vm).await?;
                Ok((Moment::Shadows(Box::new(shadowed)), detail))
            }
        }
    }

    /// Chooses the method: the one that is forced, else change tracking where host and VM can, else files.
    fn method(&self, host: &HostFacts, vm: &VmFacts) -> Result<Method, JobError> {
        if self.work.method == Some(Method::Vss) {
            return Ok(Method::Vss);
        }
        let Err(why) = self.check_method(host, vm) else {
            return Ok(Method::Rct);
        };
        match self.work.method {
            Some(_) => Err(why),
            None => {
                self.context
                    .note(format!("the VSS method is used, because {why}"));
                Ok(Method::Vss)
            }
        }
    }

    /// Takes a recovery checkpoint.
    async fn take_checkpoint(
        &self,
        facts: HostFacts,
        vm: VmFacts,
    ) -> Result<(Frozen, String), JobError> {
        let vm_id = self.work.vm;
        let host = &self
            .shared
            .host
            .clone()
            .with_cancel(self.context.host_cancel());
        check_shared(&vm)?;
        check_disks(vm.disks.iter().filter(|disk| !self.is_excluded(disk)))?;
        self.check_files(&vm).await?;

        let before = vm
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.id.clone())
            .collect();
        self.context.check()?;
        self.journal.will(Deed::Checkpoint { before })?;
        let mark = Mark {
            job: self.context.job,
            fence: self.context.fence,
        };
        let taken = host
            .take_checkpoint(vm_id, self.work.consistency, mark)
            .await
            .map_err(host_error)?;
        self.journal.will(Deed::CheckpointTaken {
            id: taken.id.clone(),
        })?;
        let when = clock::now();
        if let Some(warning) = &taken.warning {
            self.context.note(format!(
                "the host took the checkpoint with a warning: {warning}"
            ));
        }
        if let Some(note) = &taken.note {
            self.context.warning(format!(
                "the guest could not prepare, so the point is crash-consistent: {note}"
            ));
        }

        let (config, place) = host
            .checkpoint_config(vm_id, &taken.id)
            .await
            .map_err(host_error)?;
        let files = Arc::clone(&self.shared.files);
        let listed = tokio::task::spawn_blocking(move || place.list(&files))
            .await
            .map_err(task_error)?;
        let config_files = listed.map_err(files_error)?;
        let frozen = host
            .frozen_disks(vm_id, &taken.id)
            .await
            .map_err(host_error)?;
        let (excluded, disks) = frozen.into_iter().partition(|disk| self.is_excluded(disk));
        let frozen = Frozen {
            host: facts,
            vm,
            checkpoint: taken.id,
            consistency: taken.consistency,
            consistency_note: taken.note,
            taken: when,
            config,
            config_files,
            disks,
            excluded,
        };
        check_disks(frozen.disks.iter())?;
        let detail = format!(
            "{} checkpoint of {} disks and {} configuration files",
            consistency_text(frozen.consistency),
            frozen.disks.len(),
            frozen.config_files.len()
        );
        Ok((frozen, detail))
    }

    /// Refuses where changes cannot be tracked.
    fn check_method(&self, host: &HostFacts, vm: &VmFacts) -> Result<(), JobError> {
        let name = &self.work.vm_name;
        if !host.change_tracking {
            return Err(JobError::failed(
                "method-not-supported",
                format!(
                    "host {} ({}) cannot track changes; that needs Windows Server 2016 or later",
                    host.name, host.os_version
                ),
            ));
        }
        let version = vm.summary.version();
        if version < ConfigVersion::TRACKED {
            return Err(JobError::failed(
                "method-not-supported",
                format!(
                    "VM {name:?} has configuration version {version}; tracking changes needs {} or later",
                    ConfigVersion::TRACKED
                ),
            )
            .hint("upgrade the VM's configuration version on the host (Update-VMVersion)"));
        }
        let mut files = vm
            .disks
            .iter()
            .filter(|disk| !self.is_excluded(disk))
            .flat_map(|disk| &disk.chain);
        match files.find(|file| file.format == DiskFormat::Vhd) {
            None => Ok(()),
            Some(file) => Err(JobError::failed(
                "disk-format",
                format!("disk {} is not in VHDX format, which tracking changes needs", file.path),
            )
            .hint("convert it to VHDX on the host (Convert-VHD), exclude it with `reprise vm exclude`, or use the VSS method")),
        }
    }

    /// Refuses damaged disks while nothing has been changed: a checkpoint on one might never merge again.
    async fn check_files(&self, vm: &VmFacts) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let disks = vm.disks.iter().filter(|disk| !self.is_excluded(disk));
        let paths: Vec<String> = disks.map(|disk| disk.path.clone()).collect();
        let looked = tokio::task::spawn_blocking(move || {
            paths.iter().find_map(|path| match files.open_chain(path) {
                Err(error @ ChainError::Disk { .. }) => Some(chain_error(error)),
                // A running VM holds its disks; they are looked at once they are frozen.
                Err(ChainError::File(_)) | Ok(_) => None,
            })
        });
        looked.await.map_err(task_error)?.map_or(Ok(()), Err)
    }

    pub(super) fn is_excluded(&self, disk: &VmDisk) -> bool {
        let mut paths = disk
            .chain
            .iter()
            .map(|file| file.path.as_str())
            .chain([disk.path.as_str()]);
        paths.any(|path| self.names_excluded(path))
    }

    /// Whether a disk was excluded by this path.
    pub(super) fn names_excluded(&self, path: &str) -> bool {
        let mut excluded = self.work.excluded.iter();
        excluded.any(|excluded| host_path::same(path, excluded))
    }
}

/// Refuses a VM with shared disks.
fn check_shared(vm: &VmFacts) -> Result<(), JobError> {
    let mut unsupported = vm.summary.unsupported.iter();
    match unsupported.find(|item| hyperv::unsupported::blocks_checkpoint(&item.code)) {
        None => Ok(()),
        Some(shared) => Err(JobError::failed(
            "shared-disk",
            format!(
                "VM {:?} cannot be backed up: {}",
                vm.summary.config.name, shared.what
            ),
        )
        .hint("exclude the disk, or back it up from inside the guest")),
    }
}

/// Every disk must have a chain that is whole, and be a VHDX: VHD files cannot be tracked.
fn check_disks<'d>(disks: impl Iterator<Item = &'d VmDisk>) -> Result<(), JobError> {
    for disk in disks {
        if let Some(problem) = &disk.problem {
            return Err(JobError::failed(
                "disk-unreadable",
                format!(
                    "disk {} at {} cannot be read: {problem}",
                    disk.path, disk.slot
                ),
            )
            .hint("repair or detach the disk, or exclude it with `reprise vm exclude`"));
        }
        if let Some(file) = disk
            .chain
            .iter()
            .find(|file| file.format != DiskFormat::Vhdx)
        {
            return Err(JobError::failed("disk-format", format!("disk {} at {} is not in VHDX format", file.path, disk.slot))
                .hint("convert it to VHDX on the host (Convert-VHD), or exclude it with `reprise vm exclude`"));
        }
    }
    Ok(())
}

pub(super) fn consistency_text(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Application => "application-consistent",
        Consistency::Crash => "crash-consistent",
        Consistency::Offline => "offline",
    }
}
