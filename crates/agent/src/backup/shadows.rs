//! The step `checkpoint` of the VSS method: every volume that holds a file of the VM gets a shadow copy.
//!
//! One shadow copy is one volume at one moment. A VM that runs on several volumes is therefore refused, or held (paused or
//! saved, as the agent was told) until all of them are there; a VM that is off, saved or paused needs no holding. After
//! the last one the VM must have the files it had before the first: a checkpoint made meanwhile would tear them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyperv::{
    CheckpointChain, CheckpointKind, HostFacts, Limits, ShadowView, VmDisk, VmFacts, VmFiles,
    VolumeFacts,
};
use model::{Consistency, ConsistencyWish, PowerState, Timestamp, host_path};

use super::Backup;
use super::freezing::{Manner, check, layout, names, no_config, paths};
use super::release::release;
use crate::clock;
use crate::errors::{files_error, host_error, shadow_error, task_error};
use crate::job::JobError;
use crate::journal::Deed;
use crate::options::SeveralVolumes;

/// How often shadow copies are made anew because the VM's files changed meanwhile.
const TRIES: u32 = 3;
/// How long a held VM waits for a volume that is busy.
const HELD_PATIENCE: Duration = Duration::from_secs(30);

/// The VM's files, frozen in shadow copies.
pub(super) struct Shadowed {
    /// The host.
    pub(super) host: HostFacts,
    /// The VM at the moment of the shadow copies.
    pub(super) vm: VmFacts,
    /// Its files but for those of excluded disks.
    pub(super) files: VmFiles,
    /// Through which they are read.
    pub(super) view: ShadowView,
    /// Consistency reached.
    pub(super) consistency: Consistency,
    /// How it came about.
    pub(super) consistency_note: Option<String>,
    /// When the last shadow copy was made.
    pub(super) taken: Timestamp,
    /// Disks left out on request.
    pub(super) excluded: Vec<VmDisk>,
}

impl Backup<'_> {
    /// Makes the shadow copies.
    pub(super) async fn shadow(
        &self,
        host: HostFacts,
        vm: VmFacts,
    ) -> Result<(Shadowed, String), JobError> {
        let mut vm = vm;
        self.report_strangers(&vm);
        if host.clustered {
            self.context.note(format!(
                "host {} is a node of a cluster: the VSS method has not been tested there",
                host.name
            ));
        }
        for _ in 0..TRIES {
            match self.try_shadow(&host, vm).await? {
                Ok(found) => return Ok(found),
                Err(now) => {
                    self.context
                        .note("the VM's files changed while shadow copies were made: once more");
                    release(self.shared, self.journal).await?;
                    vm = *now;
                }
            }
        }
        Err(JobError::transient(
            "vm-changing",
            format!(
                "the files of VM {:?} changed each time shadow copies were made",
                self.work.vm_name
            ),
        )
        .hint("back the VM up while no checkpoints are made or deleted"))
    }

    /// Makes the shadow copies once; gives the VM as it is now where its files have changed meanwhile.
    async fn try_shadow(
        &self,
        facts: &HostFacts,
        vm: VmFacts,
    ) -> Result<Result<(Shadowed, String), Box<VmFacts>>, JobError> {
        let host = &self
            .shared
            .host
            .clone()
            .with_cancel(self.context.host_cancel());
        let all = host.files_of(&vm).await.map_err(host_error)?;
        let (files, excluded) = self.split(all);
        check(&files, &vm, &excluded)?;
        let files = self.locate_configs(files).await?;
        let volumes = facts
            .volumes_of(paths(&files).iter().map(String::as_str))
            .map_err(host_error)?;
        let manner = self.manner(&vm, &volumes)?;

        self.context.check()?;
        // One at a time: should an answer be lost, what is new on the volume is ours. Waited for before the VM is held.
        let turn = self.shared.shadow_turn.acquire().await;
        self.hold(manner).await?;
        let mut view = ShadowView::new((*self.shared.files).clone());
        let mut made = Ok(());
        for volume in &volumes {
            made = self.one_shadow(volume, manner, &mut view).await;
            if made.is_err() {
                break;
            }
        }
        let taken = clock::now();
        drop(turn);
        // The VM runs on, whatever came of it.
        self.resume(manner).await?;
        made?;

        let now = host.vm(self.work.vm).await.map_err(host_error)?;
        let again = host.files_of(&now).await.map_err(host_error)?;
        let (again, _) = self.split(again);
        let same_power = now.summary.power == vm.summary.power;
        let one_moment = volumes.len() == 1 || manner.holds() || same_power;
        if layout(&again) != layout(&files) || now.summary.activity.is_some() || !one_moment {
            return Ok(Err(Box::new(now)));
        }
        let (consistency, consistency_note) = manner.consistency(&volumes);
        let detail = format!(
            "{} shadow copies of {}: {} disks, {} checkpoints",
            super::checkpoint::consistency_text(consistency),
            names(&volumes),
            files.disks.len(),
            files.configs.len().saturating_sub(1)
        );
        let shadowed = Shadowed {
            host: facts.clone(),
            vm,
            files,
            view,
            consistency,
            consistency_note,
            taken,
            excluded,
        };
        Ok(Ok((shadowed, detail)))
    }

    /// Makes the shadow copy of a volume; its id is in the journal before anything else happens.
    async fn one_shadow(
        &self,
        volume: &VolumeFacts,
        manner: Manner,
        view: &mut ShadowView,
    ) -> Result<(), JobError> {
        let mut host = self
            .shared
            .host
            .clone()
            .with_cancel(self.context.host_cancel());
        if manner.holds() {
            host = host.with_limits(Limits {
                settle: HELD_PATIENCE,
                ..Limits::default()
            });
        }
        let before: Vec<String> = host
            .shadows()
            .await
            .map_err(host_error)?
            .into_iter()
            .map(|shadow| shadow.id)
            .collect();
        self.context.check()?;
        let deeds = self.journal.entries().deeds.len();
        self.journal.will(Deed::Shadow {
            volume: volume.device_id.clone(),
            mount: volume.path.clone(),
            before: before.clone(),
            at: clock::now(),
        })?;
        let made = host.create_shadow(volume, &before).await;
        let shadow = match made {
            Ok(shadow) => shadow,
            Err(error) => {
                // The host said no: there is nothing of ours to look for.
                if matches!(error, hyperv::Error::Shadow { .. }) {
                    self.journal.undone(deeds)?;
                }
                return Err(shadow_error(error));
            }
        };
        self.journal.will(Deed::ShadowTaken {
            id: shadow.id.clone(),
        })?;
        let (volume, mut grown) = (volume.clone(), view.clone());
        let added =
            tokio::task::spawn_blocking(move || grown.add(&volume, &shadow).map(|()| grown));
        *view = added.await.map_err(task_error)?.map_err(|error| {
            files_error(error).hint(
                "map the host's devices, such as --path-map '\\\\?\\GLOBALROOT\\Device\\=DIR', or the whole volume's share, \
                 which shows shadow copies as previous versions",
            )
        })?;
        Ok(())
    }

    /// Takes out the excluded disks: the VM's own, and what its checkpoints hold of the same ones.
    fn split(&self, files: VmFiles) -> (VmFiles, Vec<VmDisk>) {
        let VmFiles {
            configs,
            disks,
            branches,
        } = files;
        let (excluded, disks): (Vec<_>, Vec<_>) =
            disks.into_iter().partition(|disk| self.is_excluded(disk));
        let roots: BTreeSet<String> = excluded
            .iter()
            .filter_map(|disk| disk.root())
            .map(|root| host_path::key(&root.path))
            .collect();
        let is_out = |branch: &CheckpointChain| {
            let mut files = branch.chain.iter().map(|file| file.path.as_str());
            let root = branch.chain.last().map(|root| host_path::key(&root.path));
            root.is_some_and(|root| roots.contains(&root))
                || self.names_excluded(&branch.path)
                || files.any(|path| self.names_excluded(path))
        };
        let branches = branches
            .into_iter()
            .filter(|branch| !is_out(branch))
            .collect();
        let files = VmFiles {
            configs,
            disks,
            branches,
        };
        (files, excluded)
    }

    /// Keeps of each configuration the one place where it is: a place without files must not cost a shadow copy.
    async fn locate_configs(&self, files: VmFiles) -> Result<VmFiles, JobError> {
        let host_files = Arc::clone(&self.shared.files);
        let looking = tokio::task::spawn_blocking(move || {
            let mut files = files;
            for place in &mut files.configs {
                let found = place
                    .places
                    .iter()
                    .position(|place| place.list(&host_files).is_ok_and(|found| !found.is_empty()));
                match found {
                    Some(found) => place.places = vec![place.places.swap_remove(found)],
                    None => return Err(no_config(place)),
                }
            }
            Ok(files)
        });
        looking.await.map_err(task_error)?
    }

    /// Decides how the VM is treated while shadow copies are made.
    fn manner(&self, vm: &VmFacts, volumes: &[VolumeFacts]) -> Result<Manner, JobError> {
        let name = &self.work.vm_name;
        let manner = match vm.summary.power {
            PowerState::Off | PowerState::Saved => return Ok(Manner::Offline),
            PowerState::Paused => Manner::WasPaused,
            PowerState::Running if volumes.len() < 2 => Manner::Running,
            PowerState::Running => match self.shared.options.several_volumes {
                SeveralVolumes::Pause => Manner::Pause,
                SeveralVolumes::Save => Manner::Save,
                SeveralVolumes::Refuse => {
                    return Err(JobError::failed(
                        "several-volumes",
                        format!(
                            "VM {name:?} runs and its files lie on several volumes ({}), whose shadow copies are not of one \
                             moment",
                            names(volumes)
                        ),
                    )
                    .hint(
                        "run the agent with --several-volumes pause or save, which holds the VM for the seconds that takes; \
                         or back it up while it is off or saved, by the RCT method, or with all its files on one volume",
                    ));
                }
            },
            PowerState::Changing | PowerState::Unknown => {
                return Err(JobError::transient(
                    "vm-busy",
                    format!("VM {name:?} is starting, stopping or in a state unknown to Reprise"),
                ));
            }
        };
        if self.work.consistency == ConsistencyWish::RequireApplication {
            return Err(JobError::failed(
                "consistency-not-possible",
                format!(
                    "a shadow copy of the host's volume cannot have the applications in VM {name:?} prepare"
                ),
            )
            .hint("use the RCT method, let the policy accept crash consistency, or back the VM up while it is off"));
        }
        Ok(manner)
    }

    async fn hold(&self, manner: Manner) -> Result<(), JobError> {
        let Some(saved) = manner.hold() else {
            return Ok(());
        };
        self.journal.will(Deed::Held { saved })?;
        let held = if saved {
            self.shared.host.save(self.work.vm).await
        } else {
            self.shared.host.pause_vm(self.work.vm).await
        };
        held.map_err(host_error)?;
        let how = if saved { "saved" } else { "paused" };
        self.context
            .note(format!("the VM is {how} until its shadow copies are made"));
        Ok(())
    }

    async fn resume(&self, manner: Manner) -> Result<(), JobError> {
        if manner.hold().is_some() {
            self.shared
                .host
                .start(self.work.vm)
                .await
                .map_err(host_error)?;
            self.journal.will(Deed::Resumed)?;
            self.context.note("the VM runs again");
        }
        Ok(())
    }

    /// Names recovery checkpoints that are there: ours were removed before, so a backup of another product is under way.
    fn report_strangers(&self, vm: &VmFacts) {
        for checkpoint in &vm.checkpoints {
            if checkpoint.kind == CheckpointKind::Recovery {
                self.context.warning(format!(
                    "recovery checkpoint {:?} of another backup is on VM {:?}: the files of its disks are in this recovery \
                     point, the checkpoint is not",
                    checkpoint.name, self.work.vm_name
                ));
            }
        }
    }
}
