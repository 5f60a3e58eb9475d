//! Restored disks become those of a VM that is there: attached as new ones, or in place of disks it has.
//!
//! When this begins, every disk stands in a file of its own beside, read back and equal to the recovery point; the VM has
//! not been touched. It is looked at once more, stopped where the plan says so, and then changed disk by disk. A disk
//! that makes room is moved aside with its whole chain and what the host keeps beside it, never deleted.
//!
//! Invariants: each change is in the journal before it is made; [`put_back`] undoes a replacement from any point on,
//! whichever of its changes were made; a VM that somebody has started meanwhile is left alone.

use std::sync::Arc;

use hyperv::{ErrorKind, HostFiles};
use model::{HumanBytes, PowerAfter, PowerState, Slot, VmId, host_path};
use plan::restore::{DiskOnHost, DiskPlan, DiskUse, OnVmPlan, Replacement, RestorePlan, TargetVm};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::disks::{Written, make_folders};
use super::swap::power_as_before;
use super::{Restore, parked_folder, target_vm};
use crate::errors::{files_error, host_error, task_error};
use crate::job::JobError;
use crate::journal::{Deed, Entries, Journal};
use crate::worker::Shared;

/// A disk of a VM that makes room for a restored one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplacedDisk {
    /// The VM.
    pub(crate) vm: VmId,
    /// Its slot.
    pub(crate) slot: Slot,
    /// The file the VM named before.
    pub(crate) was: String,
    /// The new disk, before it takes the name.
    pub(crate) staged: String,
    /// The name it takes.
    pub(crate) path: String,
    /// The old disk's files, and where they are moved to.
    pub(crate) parked: Vec<MovedFile>,
}

/// A file that is moved aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedFile {
    /// From here.
    pub(crate) from: String,
    /// To here.
    pub(crate) to: String,
}

impl Restore<'_> {
    /// Gives the VM its disks. Returns what was done, for people.
    pub(super) async fn change_vm(
        &self,
        plan: &RestorePlan,
        vm: &OnVmPlan,
        written: &Written,
    ) -> Result<String, JobError> {
        let (bytes, how) = self.read_back(plan, written, false).await?;
        self.context.note(format!(
            "{} read back and equal to the recovery point ({how}), before VM {:?} is touched",
            HumanBytes(bytes),
            vm.name
        ));
        self.context.check()?;
        let found = self.unchanged(plan, vm, vm.stop).await?;
        if vm.stop && found.power == PowerState::Running {
            self.stop(vm).await?;
            // What the host keeps beside its disks changes when a VM stops.
            self.unchanged(plan, vm, false).await?;
        }
        let mut texts = Vec::new();
        for disk in &plan.disks {
            self.context.check()?;
            match &disk.becomes {
                DiskUse::File => {}
                DiskUse::Attach { slot } => {
                    self.attach(vm, disk, *slot).await?;
                    texts.push(format!("{} attached at {slot}", disk.target_path));
                }
                DiskUse::Replace(replaced) => {
                    let kept = self.replace(plan, vm, disk, replaced).await?;
                    texts.push(format!(
                        "{} replaced at {}, the old disk kept as {kept}",
                        replaced.path, replaced.slot
                    ));
                }
            }
        }
        Ok(format!("VM {:?}: {}", vm.name, texts.join("; ")))
    }

    /// Looks whether the VM is still as it was when the restore was planned. Nothing of it has been changed by then.
    async fn unchanged(
        &self,
        plan: &RestorePlan,
        vm: &OnVmPlan,
        may_run: bool,
    ) -> Result<TargetVm, JobError> {
        let changed = |what: String| {
            let message = format!(
                "VM {:?} {what} while the restore was under way; nothing of it was changed",
                vm.name
            );
            JobError::failed("vm-changed", message)
                .hint("look at the VM, then start the restore again")
        };
        let Some(found) = target_vm::look(self.shared, vm.vm).await? else {
            return Err(changed("was removed".to_owned()));
        };
        if let Some(what) = &found.busy {
            return Err(changed(format!("began to be {what}")));
        }
        match found.power {
            PowerState::Off => {}
            PowerState::Running if may_run || !vm.replace => {}
            PowerState::Running => return Err(changed("was started".to_owned())),
            PowerState::Paused | PowerState::Saved | PowerState::Changing | PowerState::Unknown => {
                return Err(changed("was paused, saved or is changing".to_owned()));
            }
        }
        if vm.replace && found.checkpoints > 0 {
            return Err(changed("got a checkpoint".to_owned()));
        }
        let free = found.free_slots();
        for disk in &plan.disks {
            match &disk.becomes {
                DiskUse::File => {}
                DiskUse::Attach { slot } => {
                    if !free.contains(slot) {
                        return Err(changed(format!("was started or got something at {slot}")));
                    }
                }
                DiskUse::Replace(replaced) => {
                    if same_disk(&found, replaced).is_none() {
                        return Err(changed(format!("got another disk at {}", replaced.slot)));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Stops the VM: as its guest does it, where that answers.
    async fn stop(&self, vm: &OnVmPlan) -> Result<(), JobError> {
        self.journal.will(Deed::StopVm { vm: vm.vm })?;
        let host = &self.shared.host;
        match host.shut_down(vm.vm).await {
            Ok(()) => self
                .context
                .note(format!("the guest of VM {:?} has shut down", vm.name)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::Timeout | ErrorKind::WrongState
                ) =>
            {
                self.context.note(format!(
                    "VM {:?} is turned off, as its guest does not shut down: {error}",
                    vm.name
                ));
                host.turn_off(vm.vm).await.map_err(host_error)?;
            }
            Err(error) => return Err(host_error(error)),
        }
        Ok(())
    }

    async fn attach(&self, vm: &OnVmPlan, disk: &DiskPlan, slot: Slot) -> Result<(), JobError> {
        self.journal.will(Deed::AttachDisk {
            vm: vm.vm,
            slot,
            path: disk.target_path.clone(),
        })?;
        let host = &self.shared.host;
        let attached = host.attach_disk(vm.vm, &disk.target_path, Some(slot));
        attached.await.map(drop).map_err(host_error)
    }

    /// Puts a written disk in the place of another; returns the folder the old one is kept in.
    async fn replace(
        &self,
        plan: &RestorePlan,
        vm: &OnVmPlan,
        disk: &DiskPlan,
        planned: &Replacement,
    ) -> Result<String, JobError> {
        let found = self.unchanged_disk(plan, vm, planned).await?;
        let folder = host_path::parent(&planned.path).unwrap_or(&planned.path);
        let aside = parked_folder(folder, self.context.job);
        let parked = found.files.iter().chain(&found.trackers).map(|from| {
            let folder = host_path::parent(from).unwrap_or(from);
            MovedFile {
                from: from.clone(),
                to: host_path::join(
                    &parked_folder(folder, self.context.job),
                    host_path::file_name(from),
                ),
            }
        });
        let replaced = ReplacedDisk {
            vm: vm.vm,
            slot: planned.slot,
            was: found.path.clone(),
            staged: disk.target_path.clone(),
            path: planned.path.clone(),
            parked: parked.collect(),
        };
        self.make_parked_folders(&replaced).await?;
        self.journal.will(Deed::ReplaceDisk(replaced.clone()))?;
        exchange(self.shared, &replaced).await?;
        Ok(aside)
    }

    /// Returns the disk that is to make room as it is now.
    async fn unchanged_disk(
        &self,
        plan: &RestorePlan,
        vm: &OnVmPlan,
        planned: &Replacement,
    ) -> Result<DiskOnHost, JobError> {
        let found = target_vm::look(self.shared, vm.vm).await?;
        let found = found.and_then(|found| same_disk(&found, planned).cloned());
        found.ok_or_else(|| {
            let message = format!(
                "VM {:?} no longer has the disk {} that was to be replaced by one of recovery point {}",
                vm.name, planned.was, plan.point
            );
            JobError::failed("vm-changed", message)
                .hint("look at the VM, then start the restore again")
        })
    }

    async fn make_parked_folders(&self, replaced: &ReplacedDisk) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let journal = Arc::clone(self.journal);
        let parked = replaced.parked.clone();
        let making = tokio::task::spawn_blocking(move || {
            for file in parked {
                if let Some(folder) = host_path::parent(&file.to) {
                    make_folders(&files, &journal, folder)?;
                }
            }
            Ok::<_, JobError>(())
        });
        making.await.map_err(task_error)?
    }

    /// The VM must have each disk where the plan says, under the name and with the identity it was to have (S17).
    pub(super) async fn look_at_disks(
        &self,
        plan: &RestorePlan,
        vm: &OnVmPlan,
    ) -> Result<(), JobError> {
        let failed =
            |what: String| JobError::failed("verify-failed", format!("VM {:?} {what}", vm.name));
        let found = target_vm::look(self.shared, vm.vm)
            .await?
            .ok_or_else(|| failed("is gone".to_owned()))?;
        for disk in &plan.disks {
            let Some(slot) = disk.becomes.slot() else {
                continue;
            };
            let there = found.disks.iter().find(|there| there.slot == slot);
            let there = there.ok_or_else(|| failed(format!("has no disk at {slot}")))?;
            let path = disk.final_path();
            if !host_path::same(&there.path, path) {
                let is = &there.path;
                return Err(failed(format!("has {is} at {slot} instead of {path}")));
            }
            if !there.whole {
                return Err(failed(format!(
                    "has a disk at {slot} that the host cannot read"
                )));
            }
            let kept = there.ids.contains(&disk.disk);
            if kept == disk.new_disk_id {
                let id = disk.disk;
                return Err(failed(match kept {
                    true => {
                        format!("has disk {id} twice: {path} was to have another VirtualDiskId")
                    }
                    false => format!("has at {slot} another disk than {id}"),
                }));
            }
        }
        Ok(())
    }

    /// Starts the VM where the plan says so. The restore has succeeded by then, so that nothing the guest writes is
    /// ever taken back.
    pub(super) async fn start_again(&self, vm: &OnVmPlan) -> Result<(), JobError> {
        let stopped = stopped_vm(&self.journal.entries()).is_some();
        self.journal
            .succeeded(crate::clock::now(), self.context.history())?;
        // One that was stopped by somebody else stays so, unless it shall run in any case.
        let wanted = match self.work.wish.power {
            PowerAfter::Off => false,
            PowerAfter::AsBefore => stopped,
            PowerAfter::On => true,
        };
        if vm.start && !wanted {
            self.context.note(format!(
                "VM {:?} stays off: somebody stopped it while the restore was under way",
                vm.name
            ));
            return Ok(());
        }
        if vm.start
            && let Err(error) = self.shared.host.start(vm.vm).await
        {
            self.context.warning(format!(
                "VM {:?} has its disks and could not be started: {error}",
                vm.name
            ));
        }
        self.journal.settled_power()
    }
}

/// Returns the disk a replacement was planned for, where it is still the same.
fn same_disk<'f>(found: &'f TargetVm, planned: &Replacement) -> Option<&'f DiskOnHost> {
    let disk = found.disks.iter().find(|disk| disk.slot == planned.slot)?;
    let known = |file: &String| planned.park.iter().any(|of| host_path::same(of, file));
    (host_path::same(&disk.path, &planned.was) && disk.files.iter().all(known)).then_some(disk)
}

/// Exchanges two disks: the VM gets the new one, the old one is moved aside, the new one takes its name.
async fn exchange(shared: &Arc<Shared>, replaced: &ReplacedDisk) -> Result<(), JobError> {
    let (vm, slot) = (replaced.vm, replaced.slot);
    let host = &shared.host;
    host.replace_disk(vm, slot, &replaced.staged)
        .await
        .map_err(host_error)?;
    let files = Arc::clone(&shared.files);
    let moves = replaced.clone();
    let moving = tokio::task::spawn_blocking(move || {
        for file in &moves.parked {
            // Whoever holds it open still uses it.
            drop(files.open_write(&file.from).map_err(files_error)?);
            files.rename(&file.from, &file.to).map_err(files_error)?;
        }
        files
            .rename(&moves.staged, &moves.path)
            .map_err(files_error)
    });
    moving.await.map_err(task_error)??;
    host.replace_disk(vm, slot, &replaced.path)
        .await
        .map_err(host_error)
}

/// Puts a disk that was replaced back; the new one ends where it was written. Can run again, from any point on.
pub(crate) async fn put_back(
    shared: &Arc<Shared>,
    replaced: &ReplacedDisk,
) -> Result<(), JobError> {
    let found = target_vm::look(shared, replaced.vm).await?;
    let at_slot = found.as_ref().and_then(|found| {
        let disk = found.disks.iter().find(|disk| disk.slot == replaced.slot)?;
        Some(disk.path.clone())
    });
    let ours = |path: &&String| {
        host_path::same(path, &replaced.staged) || host_path::same(path, &replaced.path)
    };
    let renamed = at_slot
        .as_ref()
        .filter(|path| !host_path::same(path, &replaced.was))
        .filter(ours)
        .is_some();
    let (files, moves) = (Arc::clone(&shared.files), replaced.clone());
    let moved = tokio::task::spawn_blocking(move || Moved::look(&files, &moves));
    let moved = moved.await.map_err(task_error)??;
    if !renamed && moved.is_nothing() {
        return Ok(());
    }
    if let Some(found) = found.as_ref().filter(|found| found.is_on()) {
        let message = format!(
            "VM {:?} was started on a disk that is being put back: {}",
            found.name(),
            replaced.path
        );
        return Err(JobError::transient("vm-changed", message)
            .hint("turn the VM off; the agent then puts its old disk back by itself"));
    }
    let (files, moves) = (Arc::clone(&shared.files), replaced.clone());
    let moving = tokio::task::spawn_blocking(move || moved.back(&files, &moves));
    moving.await.map_err(task_error)??;
    if !renamed {
        return Ok(());
    }
    let host = &shared.host;
    host.replace_disk(replaced.vm, replaced.slot, &replaced.was)
        .await
        .map_err(host_error)
}

/// Which files of a replacement have been moved. Names are never taken over, so where they are tells whose they are.
struct Moved {
    /// The new disk has taken its name.
    named: bool,
    /// Files of the old disk that are aside.
    aside: Vec<MovedFile>,
}

impl Moved {
    fn look(files: &HostFiles, replaced: &ReplacedDisk) -> Result<Self, JobError> {
        let there = |path: &str| {
            let found = files.stat(path).map_err(files_error)?;
            Ok::<_, JobError>(found.is_some())
        };
        let mut aside = Vec::new();
        for file in &replaced.parked {
            if there(&file.to)? && !is_at(&replaced.path, file, there(&file.from)?) {
                aside.push(file.clone());
            }
        }
        // The name was free, or the old disk has left it.
        let mut had_it = replaced.parked.iter();
        let had_it = had_it.find(|file| host_path::same(&file.from, &replaced.path));
        let left = had_it.is_none_or(|file| aside.contains(file));
        let named = left && there(&replaced.path)? && !there(&replaced.staged)?;
        Ok(Self { named, aside })
    }

    fn is_nothing(&self) -> bool {
        !self.named && self.aside.is_empty()
    }

    fn back(&self, files: &HostFiles, replaced: &ReplacedDisk) -> Result<(), JobError> {
        if self.named {
            files
                .rename(&replaced.path, &replaced.staged)
                .map_err(files_error)?;
        }
        for file in &self.aside {
            files.rename(&file.to, &file.from).map_err(files_error)?;
        }
        Ok(())
    }
}

/// Whether a file that is aside has another of its name where it was; only the new disk may stand there.
fn is_at(path: &str, file: &MovedFile, from_taken: bool) -> bool {
    from_taken && !host_path::same(&file.from, path)
}

/// Returns the VM that was stopped and shall run again.
fn stopped_vm(entries: &Entries) -> Option<VmId> {
    entries.deeds.iter().find_map(|deed| match deed {
        Deed::StopVm { vm } => Some(*vm),
        Deed::Checkpoint { .. }
        | Deed::CheckpointTaken { .. }
        | Deed::Shadow { .. }
        | Deed::ShadowTaken { .. }
        | Deed::Held { .. }
        | Deed::Resumed
        | Deed::Publishing
        | Deed::Converting(_)
        | Deed::Folder { .. }
        | Deed::File { .. }
        | Deed::Data { .. }
        | Deed::Place { .. }
        | Deed::MoveAside { .. }
        | Deed::Register { .. }
        | Deed::AttachDisk { .. }
        | Deed::ReplaceDisk(_)
        | Deed::Rehearse { .. }
        | Deed::Stop { .. }
        | Deed::OwnFolder { .. }
        | Deed::Swap(_)
        | Deed::Return { .. }
        | Deed::Power { .. }
        | Deed::Record { .. } => None,
    })
}

/// Gives the VM of a restore that has succeeded its power, where the agent was killed before it did.
pub(crate) async fn start_stopped(shared: &Arc<Shared>, journal: &Journal) {
    let entries = journal.entries();
    let wanted = entries.deeds.iter().find_map(|deed| {
        if let Deed::Power { vm, power } = deed {
            Some((*vm, *power))
        } else {
            None
        }
    });
    let stopped = stopped_vm(&entries).map(|vm| (vm, PowerState::Running));
    let Some((vm, power)) = wanted.or(stopped) else {
        return;
    };
    // It has its disks; that it does not start is for people to look at.
    if let Err(error) = power_as_before(shared, vm, power).await {
        warn!("VM {vm}, which a restore had stopped, cannot be started: {error}");
    }
    if let Err(error) = journal.settled_power() {
        warn!("{error}");
    }
}
