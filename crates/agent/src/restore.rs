//! A restore, step by step: `space kind connect send restore verify` (S12 to S17).
//!
//! `space` gathers facts and plans; nothing is touched before the plan stands. `kind` confirms whether it is a VM or
//! disks. `connect` opens the session over which data comes; `send` writes it into new files in a folder
//! `.reprise-<job>` beside each target; `restore` renames them into place and registers the VM; `verify` reads every byte
//! back and looks at the registered VM. Whatever fails is undone from the journal.
//!
//! Disks of a point made of files come under the files' own names; `restore` merges them first (`chains`, `join`), or
//! leaves them as they are where checkpoints come back (`tree`).

mod chains;
mod disks;
mod facts;
mod join;
mod on_vm;
mod preview;
mod put_back;
mod register;
mod release;
mod room;
mod swap;
mod target_vm;
mod tree;
mod undo;
mod verify;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use api::agent_v1::{OpenRestore, RestoreWork, VoidBases};
use model::{HumanBytes, JobId, VmId, host_path};
use plan::restore::{RestoreKind, RestorePlan};

use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

pub(crate) use on_vm::{ReplacedDisk, start_stopped};
pub(crate) use preview::answer;
pub(crate) use put_back::{clear_spent, put_back_kept};
pub(crate) use release::release_kept;
pub(crate) use swap::{Definition, MovedAside, Swap};
pub(crate) use undo::undo_all;

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
        context.note(format!("undoing what the restore did, because {error}"));
        match undo_all(shared, journal).await {
            Ok(()) => context.note("the host is as it was before"),
            Err(undo) => context.note(format!(
                "not all could be undone, the agent will try again: {undo}"
            )),
        }
    }
    result
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
            .measured_restore(plan.bytes.fetch_bytes, began.elapsed());
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

    /// Gathers facts and plans; refuses where there is no room (S12).
    async fn plan(&self) -> Result<(RestorePlan, String), JobError> {
        let (preview, _) = preview::look(self.shared, self.work).await?;
        let plan = preview.into_plan()?;
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
