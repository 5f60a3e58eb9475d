//! The undo of a restore: what it took the place of comes back, by the same swap reversed.
//!
//! What the restore made is kept beside in turn, so that an undo can be undone. Steps: `restore verify`. A VM that has gone
//! meanwhile is in nobody's way.

use std::sync::Arc;

use api::agent_v1::{ParkedWork, VoidBases};
use model::{HumanBytes, PowerState, VmId, host_path};
use plan::restore::{OverVm, StandingVm, StayingDisk};

use super::swap::{Room, Trial, compare, delete_tree, free, look, power_as_before, register};
use super::undo_all;
use crate::errors::{files_error, host_error, task_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::parked::{KeptVm, Record};
use crate::worker::Shared;

/// Puts back what a restore keeps. On failure the host is as before, or the journal says what is left to undo.
pub(crate) async fn put_back_kept(
    shared: &Arc<Shared>,
    context: &Arc<JobContext>,
    journal: &Arc<Journal>,
    work: &ParkedWork,
) -> Result<(), JobError> {
    let undo = PutBack {
        shared,
        context,
        journal,
        work,
    };
    let result = undo.steps().await;
    if let Err(error) = &result {
        context.note(format!("taking the undo back, because {error}"));
        match undo_all(shared, journal).await {
            Ok(()) => context.note("the host is as it was before"),
            Err(undo) => context.note(format!(
                "not all could be taken back, the agent will try again: {undo}"
            )),
        }
    }
    result
}

struct PutBack<'a> {
    shared: &'a Arc<Shared>,
    context: &'a Arc<JobContext>,
    journal: &'a Arc<Journal>,
    work: &'a ParkedWork,
}

/// What the step `restore` came to.
struct Done {
    record: Record,
    whole: KeptVm,
    /// What is kept in turn, where a VM made room.
    kept: Option<Record>,
}

impl PutBack<'_> {
    async fn steps(&self) -> Result<(), JobError> {
        let context = self.context;
        let done = context.step("restore", self.exchange()).await?;
        context.step("verify", self.verify(&done)).await?;
        if let Some(kept) = &done.kept {
            self.shared.keep(self.journal, kept)?;
        }
        let (vm, power) = (done.record.vm, done.whole.power);
        self.journal.will(Deed::Power { vm, power })?;
        self.journal
            .succeeded(crate::clock::now(), self.context.history())?;
        if let Err(error) = power_as_before(self.shared, vm, power).await {
            context.warning(format!("the VM could not be started: {error}"));
        }
        self.journal.settled_power()?;
        self.clear(&done).await
    }

    async fn exchange(&self) -> Result<(Done, String), JobError> {
        let of = self.work.of;
        let record = self
            .shared
            .record_of(of)
            .map_err(|error| JobError::failed("agent-data-folder", format!("{error:#}")))?;
        let nothing = || {
            JobError::failed(
                "nothing-parked",
                format!("the agent keeps nothing of job {of} any more"),
            )
        };
        let record = record.ok_or_else(nothing)?;
        let whole = record.whole.clone().ok_or_else(nothing)?;
        compare(self.shared, &record.files).await?;
        self.rehearse(&record, &whole).await?;
        let void = VoidBases {
            fence: self.context.fence,
            vm: record.vm,
            disks: Vec::new(),
        };
        let server = &self.context.server;
        server.void_bases(self.context.job, &void).await?;

        let standing = self.standing(record.vm).await?;
        let mut stays = Vec::new();
        let kept = match &standing {
            None => None,
            Some(standing) => {
                let over = over_of(standing, &whole);
                stays.clone_from(&over.stay);
                let room = Room {
                    shared: self.shared,
                    context: self.context,
                    journal: self.journal,
                    over: &over,
                };
                let swap = room.make().await?;
                let power = self.journal.power_before(over.id);
                Some(room.record(&swap, power.unwrap_or(PowerState::Off)))
            }
        };
        let places = record.files.iter().map(|file| file.from.clone());
        free(self.shared, places.collect()).await?;
        self.announce(&record).await?;
        self.return_files(&record).await?;
        // A disk that stayed may have got checkpoints, or lost some: the VM gets it as it is now.
        let moved = |path: &str| {
            let was = whole
                .stay
                .iter()
                .find(|disk| host_path::same(&disk.path, path))?;
            let now = stays.iter().find(|disk| disk.slot == was.slot)?;
            (!host_path::same(&now.path, path)).then(|| now.path.clone())
        };
        register(self.shared, record.vm, &whole.definition, moved).await?;
        self.journal.boundary();
        let bytes: u64 = record.files.iter().map(|file| file.bytes).sum();
        let detail = format!(
            "VM {:?} is back with {} files ({}){}",
            record.name,
            record.files.len(),
            HumanBytes(bytes),
            match kept {
                Some(_) => "; the one that was there is kept",
                None => "; no other was there",
            }
        );
        let done = Done {
            record,
            whole,
            kept,
        };
        Ok((done, detail))
    }

    /// Tries the kept definition with the kept files before anything is touched.
    async fn rehearse(&self, record: &Record, whole: &KeptVm) -> Result<(), JobError> {
        let folder = host_path::parent(&whole.definition.file).unwrap_or_default();
        let trial = Trial {
            shared: self.shared,
            context: self.context,
            journal: self.journal,
            folder: folder.to_owned(),
            name: &record.name,
        };
        let stays = |path: &str| {
            let mut files = whole.stay.iter().flat_map(|disk| &disk.files);
            files.any(|file| host_path::same(file, path))
        };
        trial
            .kept(
                &whole.definition,
                &record.files,
                stays,
                whole.stay.is_empty(),
            )
            .await
    }

    async fn standing(&self, vm: VmId) -> Result<Option<StandingVm>, JobError> {
        match self.shared.host.power(vm).await {
            Ok(_) => look(self.shared, vm).await.map(Some),
            Err(error) if error.kind() == hyperv::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(host_error(error)),
        }
    }

    async fn announce(&self, record: &Record) -> Result<(), JobError> {
        let host = &self.shared.host;
        let vms = host.vms().await.map_err(host_error)?;
        let planned = host.planned_vms().await.map_err(host_error)?;
        let vms = vms.iter().map(|vm| vm.config.id);
        let before: Vec<VmId> = vms.chain(planned.iter().map(|vm| vm.id)).collect();
        if before.contains(&record.vm) {
            let message = format!("VM {:?} came back while the undo ran", record.name);
            return Err(JobError::transient("vm-exists", message));
        }
        self.context.check()?;
        self.journal.will(Deed::Register {
            id: Some(record.vm),
            disks: record.files.iter().map(|file| file.from.clone()).collect(),
            config_folder: record_folder(record),
            before,
        })
    }

    async fn return_files(&self, record: &Record) -> Result<(), JobError> {
        let (files, journal) = (Arc::clone(&self.shared.files), Arc::clone(self.journal));
        let moves = record.files.clone();
        let returning = tokio::task::spawn_blocking(move || {
            for file in moves {
                journal.will(Deed::Return {
                    from: file.to.clone(),
                    to: file.from.clone(),
                })?;
                files.rename(&file.to, &file.from).map_err(files_error)?;
            }
            Ok::<_, JobError>(())
        });
        returning.await.map_err(task_error)?
    }

    /// The VM must be there, with its disks.
    async fn verify(&self, done: &Done) -> Result<((), String), JobError> {
        let found = self
            .shared
            .host
            .vm(done.record.vm)
            .await
            .map_err(host_error)?;
        let lost = found.disks.iter().find_map(|disk| disk.problem.clone());
        if let Some(problem) = lost {
            let message = format!("VM {:?} cannot read its disks: {problem}", done.record.name);
            return Err(JobError::failed("verify-failed", message));
        }
        let users = found.checkpoints.len();
        if users != done.whole.checkpoints {
            let message = format!(
                "VM {:?} has {users} checkpoints instead of {}",
                done.record.name, done.whole.checkpoints
            );
            return Err(JobError::failed("verify-failed", message));
        }
        let detail = format!(
            "VM {:?} has its {} disks and {users} checkpoints",
            done.record.name,
            found.disks.len()
        );
        Ok(((), detail))
    }

    /// Removes what was needed only while the VM was kept. What cannot be removed is told, and stays.
    async fn clear(&self, done: &Done) -> Result<(), JobError> {
        let files = Arc::clone(&self.shared.files);
        let record = done.record.clone();
        let clearing = tokio::task::spawn_blocking(move || clear_folders(&files, &record));
        for note in clearing.await.map_err(task_error)? {
            self.context.note(note);
        }
        self.shared.forget(done.record.job)
    }
}

/// Removes what is left of records whose files are all back where they were: an undo came to its end, and was killed
/// before it had tidied up.
pub(crate) async fn clear_spent(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let shared = Arc::clone(shared);
    let clearing = tokio::task::spawn_blocking(move || {
        for name in shared.home.records()? {
            let Some(record) = shared.home.read::<Record>(&name)? else {
                continue;
            };
            let there = |path: &str| shared.files.stat(path).map(|found| found.is_some());
            let mut back = !record.files.is_empty();
            for file in &record.files {
                // A share that is away shows nothing at either place.
                back = back && !there(&file.to)? && there(&file.from)?;
            }
            if back {
                for note in clear_folders(&shared.files, &record) {
                    tracing::warn!("{note}");
                }
                shared.home.remove(&name)?;
            }
        }
        Ok(())
    });
    clearing.await?
}

/// Removes the folders of a record, once its files are gone. Returns what could not be removed.
pub(super) fn clear_folders(files: &hyperv::HostFiles, record: &Record) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(whole) = &record.whole {
        let machines = host_path::parent(&whole.definition.file);
        // DEFINITION\NAME\Virtual Machines\ID.vmcx
        let top = machines
            .and_then(host_path::parent)
            .and_then(host_path::parent);
        let own = top.filter(|top| {
            let mut below = record.folders.iter();
            below.any(|folder| host_path::is_below(top, folder) && !host_path::same(top, folder))
        });
        if let Some(own) = own
            && let Err(error) = delete_tree(files, own)
        {
            notes.push(format!("{own} could not be removed: {error}"));
        }
    }
    for folder in &record.folders {
        // What is not ours stays.
        if files.list(folder).is_ok_and(|entries| entries.is_empty())
            && let Err(error) = files.delete_folder(folder)
        {
            notes.push(format!("{folder} could not be removed: {error}"));
        }
    }
    notes
}

/// Returns the folder of the configuration of a kept VM.
fn record_folder(record: &Record) -> String {
    let root = record
        .whole
        .as_ref()
        .map(|whole| &whole.definition.config_root);
    root.cloned().unwrap_or_default()
}

/// Returns what becomes of the VM that is there: everything is kept but the disks that stay.
fn over_of(standing: &StandingVm, whole: &KeptVm) -> OverVm {
    let stays = |files: &[String]| {
        whole.stay.iter().any(|disk| {
            let mut of = disk.files.iter();
            of.any(|path| files.iter().any(|file| host_path::same(file, path)))
        })
    };
    let kept: Vec<bool> = standing
        .disks
        .iter()
        .map(|disk| stays(&disk.files))
        .collect();
    let mut over = OverVm {
        id: standing.id,
        name: standing.name.clone(),
        power: standing.power,
        config_folder: standing
            .config_folder
            .clone()
            .unwrap_or_else(|| whole.definition.config_root.clone()),
        checkpoints: standing.checkpoints.len(),
        park: Vec::new(),
        shared: Vec::new(),
        stay: Vec::new(),
        problems: standing
            .disks
            .iter()
            .filter_map(|disk| disk.problem.clone())
            .collect(),
    };
    let branches_of = |at: usize| {
        let of = standing
            .branches
            .iter()
            .filter(move |(_, of)| *of == Some(at));
        of.map(|(path, _)| path.clone())
    };
    let mut park = |path: &String| {
        if !over.park.iter().any(|known| host_path::same(known, path)) {
            over.park.push(path.clone());
        }
    };
    for (at, disk) in standing.disks.iter().enumerate() {
        if !kept[at] {
            disk.files.iter().for_each(&mut park);
        }
    }
    for (path, of) in &standing.branches {
        if !of.is_some_and(|at| kept[at]) {
            park(path);
        }
    }
    for (at, disk) in standing.disks.iter().enumerate() {
        if let (true, Some(path)) = (kept[at], disk.files.first()) {
            over.stay.push(StayingDisk {
                slot: disk.slot.clone(),
                path: path.clone(),
                files: disk.files.iter().cloned().chain(branches_of(at)).collect(),
                excluded: Some(path.clone()),
            });
        }
    }
    over
}
