//! A restore, step by step: `space kind connect send restore verify` (S12 to S17).
//!
//! `space` gathers facts and plans; nothing is touched before the plan stands. `kind` confirms whether it is a VM or
//! disks. `connect` opens the session over which data comes; `send` writes it into new files in a folder
//! `.reprise-<job>` beside each target; `restore` renames them into place and registers the VM; `verify` reads every byte
//! back and looks at the registered VM. Whatever fails is undone from the journal; where the job has attempts left, the data
//! that was written stays, and the next attempt goes on with it (`kept`).
//!
//! Disks of a point made of files come under the files' own names; `restore` merges them first (`chains`, `join`), or
//! leaves them as they are where checkpoints come back (`tree`).

mod chains;
mod disks;
mod facts;
mod join;
mod kept;
mod on_vm;
mod preview;
mod put_back;
mod record;
mod register;
mod release;
mod room;
mod seeds;
mod swap;
mod target_vm;
mod tree;
mod undo;
mod verify;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use api::agent_v1::{OpenRestore, RestoreWork, VoidBases};
use model::{HumanBytes, JobId, VmId, host_path};
use plan::restore::{Refusal, RestoreKind, RestorePlan};

use crate::errors::task_error;
use crate::job::{JobContext, JobError, Stop};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

pub(crate) use on_vm::{ReplacedDisk, start_stopped};
pub(crate) use preview::answer;
pub(crate) use put_back::{clear_spent, put_back_kept};
pub(crate) use release::release_kept;
pub(crate) use swap::{Definition, MovedAside, Swap};
pub(crate) use undo::{undo_all, undo_behind_data};

use kept::{Leftovers, data_paths};

/// What the parts of one restore share.
pub(crate) struct Restore<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) context: &'a Arc<JobContext>,
    pub(crate) journal: &'a Arc<Journal>,
    pub(crate) work: &'a RestoreWork,
    /// Mount paths of the volumes that are written to, once planned.
    volumes: OnceLock<Vec<String>>,
}

/// Runs a restore. On failure everything it did to the host has been undone, or stays in the journal.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    context: &Arc<JobContext>,
    journal: &Arc<Journal>,
    work: &RestoreWork,
) -> Result<(), JobError> {
    let restore = Restore {
        shared,
        context,
        journal,
        work,
        volumes: OnceLock::new(),
    };
    let result = restore.steps().await;
    if let Err(error) = &result {
        restore.settle_failure(error).await;
    }
    result
}

/// Whether a job that ends an attempt like this goes on in another, so that the data written so far is of use.
fn goes_on(error: &JobError, last_attempt: bool) -> bool {
    match error {
        JobError::Stopped(Stop::Cancelled) => false,
        // Whether the job still counts is for the server to say; the janitor asks.
        JobError::Stopped(Stop::Fenced | Stop::LeaseLost | Stop::Shutdown) => true,
        JobError::NotReady(_) => true,
        JobError::Failed { retry, .. } => *retry && !last_attempt,
    }
}

impl Restore<'_> {
    async fn steps(&self) -> Result<(), JobError> {
        let context = self.context;
        let plan = context.step("space", self.plan()).await?;
        context
            .step("kind", async { Ok(((), kind_text(&plan))) })
            .await?;
        let session = context.step("connect", self.connect(&plan)).await?;
        let began = Instant::now();
        let beside = self.beside(&plan);
        let mut written = context
            .step("send", self.receive(&beside, &session))
            .await?;
        let vm = context
            .step("restore", self.put_in_place(&plan, &mut written))
            .await?;
        context
            .step("verify", self.verify(&plan, &written, vm))
            .await?;
        self.shared
            .measured_restore(plan.bytes.moved(), began.elapsed());
        match &plan.kind {
            RestoreKind::OnVm(vm) => self.start_again(vm).await?,
            RestoreKind::Vm(_) | RestoreKind::Disks => {
                if let Some(record) = &written.kept {
                    self.shared.keep(self.journal, record)?;
                    if let Some(vm) = vm.filter(|_| plan.kind.vm().is_some_and(|vm| vm.start)) {
                        let power = model::PowerState::Running;
                        self.journal.will(Deed::Power { vm, power })?;
                    }
                    // Nothing its guest writes is ever taken back.
                    self.journal
                        .succeeded(crate::clock::now(), self.context.history())?;
                }
                self.start(&plan, vm).await;
                self.journal.settled_power()?;
            }
        }
        Ok(())
    }

    /// Undoes what an attempt did that failed, as far as a later one has no use for it.
    async fn settle_failure(&self, error: &JobError) {
        let (context, journal) = (self.context, self.journal);
        let keeps = goes_on(error, context.last_attempt) && journal.entries().data_end() > 0;
        let (undone, after) = if keeps {
            context.note(format!(
                "keeping the data that was written for the next attempt, because {error}"
            ));
            let undone = undo_behind_data(self.shared, journal).await;
            (undone, "all else on the host is as it was before")
        } else {
            context.note(format!("undoing what the restore did, because {error}"));
            let undone = undo_all(self.shared, journal).await;
            (undone, "the host is as it was before")
        };
        match undone {
            Ok(()) => context.note(after),
            Err(undo) => context.note(format!(
                "not all could be undone, the agent will try again: {undo}"
            )),
        }
    }

    /// Plans with what earlier attempts left. Where another plan comes of it, that goes first.
    async fn planned(&self) -> Result<RestorePlan, JobError> {
        undo_behind_data(self.shared, self.journal).await?;
        let left = {
            let (files, journal) = (Arc::clone(&self.shared.files), Arc::clone(self.journal));
            let looked = tokio::task::spawn_blocking(move || Leftovers::look(&files, &journal));
            looked.await.map_err(task_error)??
        };
        let (preview, _) = preview::look(self.shared, self.work, &left).await?;
        if left.is_empty() {
            return Ok(preview.into_plan()?);
        }
        let plan = match preview.into_plan() {
            Err(refusal @ Refusal::NotEnoughSpace { .. }) => {
                let reason = format!(
                    "{refusal}; {}; what was written is kept meanwhile, cancel the job to give it up",
                    refusal.hint()
                );
                return Err(JobError::NotReady(reason));
            }
            Err(refusal) => return Err(refusal.into()),
            Ok(plan) => plan,
        };
        let data = data_paths(&self.beside(&plan), self.context.job);
        if left
            .paths()
            .all(|path| data.iter().any(|own| host_path::same(own, path)))
        {
            return Ok(plan);
        }
        self.context
            .note("what was written before the cut does not fit the plan any more; it goes");
        undo_all(self.shared, self.journal).await?;
        let (preview, _) = preview::look(self.shared, self.work, &Leftovers::default()).await?;
        Ok(preview.into_plan()?)
    }

    /// Gathers facts and plans; refuses where there is no room (S12).
    async fn plan(&self) -> Result<(RestorePlan, String), JobError> {
        let plan = self.planned().await?;
        let collisions = plan.identities.iter().flat_map(|found| &found.collisions);
        for collision in collisions {
            self.context.note(collision.to_string());
        }
        for warning in &plan.warnings {
            self.context.warning(warning.clone());
        }
        let paths = plan
            .volumes
            .iter()
            .map(|volume| volume.path.clone())
            .collect();
        self.volumes.get_or_init(|| paths);
        let volumes = plan.volumes.iter().map(|volume| {
            format!(
                "{}: needs {}, {} available",
                volume.path,
                HumanBytes(volume.needed_bytes),
                HumanBytes(volume.available_bytes)
            )
        });
        let detail = volumes.collect::<Vec<_>>().join("; ");
        Ok((plan, detail))
    }

    /// Returns the mount paths of the volumes that are written to.
    fn volumes(&self) -> &[String] {
        self.volumes.get().map_or(&[], Vec::as_slice)
    }

    /// Opens the write connection (S14). Where the VM's own disks come back, none of its base records holds from here on.
    async fn connect(
        &self,
        plan: &RestorePlan,
    ) -> Result<(api::agent_v1::RestoreSession, String), JobError> {
        let fence = self.context.fence;
        let session = self
            .context
            .server
            .open_restore(self.context.job, &OpenRestore { fence })
            .await?;
        if session.point.id != self.work.point.id {
            return Err(JobError::failed(
                "wrong-point",
                "the server sent another recovery point than the one planned",
            ));
        }
        let whole = plan.kind.vm().and_then(|vm| vm.id);
        let void = whole.map(|vm| (vm, Vec::new()));
        if let Some((vm, disks)) = void.or_else(|| plan.voided_disks()) {
            let void = VoidBases { fence, vm, disks };
            self.context
                .server
                .void_bases(self.context.job, &void)
                .await?;
        }
        let detail = format!(
            "session {} for recovery point {}",
            session.session, session.point.id
        );
        Ok((session, detail))
    }

    /// Starts the VM where the wish says so. It has been proven by now: a start that fails is a warning.
    async fn start(&self, plan: &RestorePlan, vm: Option<VmId>) {
        if let (RestoreKind::Vm(planned), Some(vm)) = (&plan.kind, vm)
            && planned.start
            && let Err(error) = self.shared.host.start(vm).await
        {
            self.context
                .warning(format!("the restored VM could not be started: {error}"));
        }
    }
}

/// Returns the folder that holds what is being written for a target folder.
fn staging_folder(target: &str, job: JobId) -> String {
    host_path::join(target, &format!(".reprise-{job}"))
}

/// Returns the folder that keeps what stood in the way in a target folder.
fn parked_folder(target: &str, job: JobId) -> String {
    host_path::join(&staging_folder(target, job), "old")
}

fn kind_text(plan: &RestorePlan) -> String {
    match &plan.kind {
        RestoreKind::Vm(vm) => format!(
            "full virtual machine restore of {:?} with {} disks",
            vm.name,
            plan.disks.len()
        ),
        RestoreKind::Disks => format!(
            "virtual disk restore of {} disks to files",
            plan.disks.len()
        ),
        RestoreKind::OnVm(vm) if vm.replace => format!(
            "virtual disk restore of {} disks in place of those of VM {:?}",
            plan.disks.len(),
            vm.name
        ),
        RestoreKind::OnVm(vm) => format!(
            "virtual disk restore of {} disks, attached to VM {:?}",
            plan.disks.len(),
            vm.name
        ),
    }
}
