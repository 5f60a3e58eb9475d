//! The VM of a restore that takes the place of one that is still there.

use std::sync::Arc;

use hyperv::Folders;
use model::{HumanBytes, Media, VmConfig, VmId, host_path};
use plan::restore::{OverVm, RestorePlan, VmPlan};

use super::{Room, Trial, spread};
use crate::errors::{files_error, host_error, task_error};
use crate::host::slot_text;
use crate::job::JobError;
use crate::journal::Deed;
use crate::restore::disks::{Written, is_chained};
use crate::restore::verify::renamed;
use crate::restore::{Restore, staging_folder};

impl Restore<'_> {
    /// Returns the plan with every file beside its final place: what is written while the VM that is there goes on.
    pub(in crate::restore) fn beside(&self, plan: &RestorePlan) -> RestorePlan {
        let mut beside = plan.clone();
        if over(plan).is_none() {
            return beside;
        }
        let job = self.context.job;
        let aside = |path: &mut String| {
            let folder = host_path::parent(path).unwrap_or_default();
            *path = host_path::join(&staging_folder(folder, job), host_path::file_name(path));
        };
        let chained = !beside.tree.is_empty();
        for disk in &mut beside.disks {
            if chained || !disk.chain.is_empty() {
                aside(&mut disk.target_path);
            }
            disk.chain
                .iter_mut()
                .for_each(|file| aside(&mut file.target_path));
        }
        beside
            .tree
            .iter_mut()
            .for_each(|file| aside(&mut file.target_path));
        // Done once the VM has made room.
        beside.park.clear();
        beside
    }

    /// Proves and rehearses what was written, has the VM that is there make room, and registers the new one in its place.
    pub(in crate::restore) async fn take_place(
        &self,
        plan: &RestorePlan,
        vm: &VmPlan,
        over: &OverVm,
        written: &mut Written,
    ) -> Result<VmId, JobError> {
        self.add_staging_folders(plan, written);
        let (bytes, how) = self.read_back(plan, written, true).await?;
        self.context.note(format!(
            "{} read back and equal to the recovery point ({how}), while VM {:?} is untouched",
            HumanBytes(bytes),
            over.name
        ));
        self.context.check()?;
        let now: Vec<(String, String)> = places(plan, written);
        self.journal.found(|evidence| renamed(evidence, &now))?;
        self.rehearse(plan, vm, over, written, &now).await?;
        let room = Room {
            shared: self.shared,
            context: self.context,
            journal: self.journal,
            over,
        };
        let swap = room.make().await?;
        self.park(&plan.park).await?;
        self.announce(plan, vm).await?;
        self.place(&now).await?;
        let id = self.register_announced(plan, vm, written).await?;
        for disk in &mut written.disks {
            let planned = plan
                .disks
                .iter()
                .find(|planned| planned.disk == disk.plan.disk);
            if let Some(planned) = planned {
                disk.plan.target_path.clone_from(&planned.target_path);
            }
        }
        let power = self.journal.power_before(over.id).unwrap_or(over.power);
        written.kept = Some(room.record(&swap, power));
        Ok(id)
    }

    /// Imports the new definition under another id with the files where they are now, and lets the host check it.
    async fn rehearse(
        &self,
        plan: &RestorePlan,
        vm: &VmPlan,
        over: &OverVm,
        written: &Written,
        now: &[(String, String)],
    ) -> Result<(), JobError> {
        let folder = staging_folder(&vm.config_folder, self.context.job);
        let trial = Trial {
            shared: self.shared,
            context: self.context,
            journal: self.journal,
            folder: folder.clone(),
            name: &vm.name,
        };
        let staged = |path: &str| {
            let place = now.iter().find(|(_, to)| host_path::same(to, path));
            place.map(|(from, _)| from.clone())
        };
        let mut wanted = self.wanted(plan, vm).await?;
        for controller in &mut wanted.controllers {
            let (kind, number) = (controller.kind, controller.number);
            // Disks that stay belong to the VM that is there.
            controller.drives.retain(|drive| {
                let slot = slot_text(kind, number, drive.slot);
                let mut stay = over.stay.iter().filter(|disk| disk.excluded.is_some());
                !stay.any(|disk| disk.slot.eq_ignore_ascii_case(&slot))
            });
            for drive in &mut controller.drives {
                if let Media::Disk { path } = &mut drive.media
                    && let Some(from) = staged(path)
                {
                    *path = from;
                }
            }
        }
        let file = self.config_file(written)?;
        let planned = trial.begin(file).await?;
        let prepared = self
            .prepare(plan, planned, written, &wanted, &folder, staged)
            .await;
        let files = plan.tree.iter().map(|file| file.target_path.as_str());
        trial.end(planned, prepared, spread(files)).await?;
        self.context
            .note(format!("VM {:?} was rehearsed under another id", vm.name));
        Ok(())
    }

    async fn prepare(
        &self,
        plan: &RestorePlan,
        planned: VmId,
        written: &Written,
        wanted: &VmConfig,
        folder: &str,
        staged: impl Fn(&str) -> Option<String>,
    ) -> Result<(), JobError> {
        let host = &self.shared.host;
        match &written.checkpoint_folder {
            Some(from) => {
                let moved = |path: &str| {
                    let mut tree = plan.tree.iter();
                    let file = tree.find(|file| host_path::same(&file.source_path, path))?;
                    staged(&file.target_path)
                };
                self.import_tree(planned, from, moved).await?;
            }
            None => host
                .drop_planned_checkpoints(planned)
                .await
                .map_err(host_error)?,
        }
        let folders = Folders {
            config: folder.to_owned(),
            ..Folders::default()
        };
        host.change_planned(planned, wanted, &folders)
            .await
            .map_err(host_error)
    }

    /// Gives files their final names.
    async fn place(&self, places: &[(String, String)]) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let journal = Arc::clone(self.journal);
        let places = places.to_vec();
        let placing = tokio::task::spawn_blocking(move || {
            for (from, to) in places {
                journal.will(Deed::Place {
                    from: from.clone(),
                    to: to.clone(),
                })?;
                files.rename(&from, &to).map_err(files_error)?;
            }
            Ok::<_, JobError>(())
        });
        placing.await.map_err(task_error)?
    }

    /// Staging folders of chains are removed at the end like the others.
    fn add_staging_folders(&self, plan: &RestorePlan, written: &mut Written) {
        if !is_chained(plan) {
            return;
        }
        let disks = plan.disks.iter().map(|disk| &disk.target_path);
        let paths = disks.chain(plan.tree.iter().map(|file| &file.target_path));
        for folder in paths.filter_map(|path| host_path::parent(path)) {
            let staging = staging_folder(folder, self.context.job);
            if !written.folders.contains(&staging) {
                written.folders.push(staging);
            }
        }
    }
}

/// Returns the VM whose place a plan takes.
pub(in crate::restore) fn over(plan: &RestorePlan) -> Option<&OverVm> {
    plan.kind.vm()?.over.as_ref()
}

/// Returns where each file is now, and where it goes.
fn places(plan: &RestorePlan, written: &Written) -> Vec<(String, String)> {
    if !plan.tree.is_empty() {
        let tree = written.tree.iter().zip(&plan.tree);
        return tree
            .map(|(file, planned)| (file.path().to_owned(), planned.target_path.clone()))
            .collect();
    }
    let disks = written.disks.iter().zip(&plan.disks);
    disks
        .map(|(disk, planned)| {
            let now = match &disk.flat {
                Some(flat) => flat.staged.clone(),
                None => disk.plan.target_path.clone(),
            };
            (now, planned.target_path.clone())
        })
        .collect()
}
