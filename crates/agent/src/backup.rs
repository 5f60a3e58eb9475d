//! A backup, step by step: `checkpoint read publish convert`.
//!
//! `checkpoint` removes what an earlier run left on this VM, chooses the method and freezes the VM.
//!
//! By **resilient change tracking** that is a recovery checkpoint; `read` sends what changed since each disk's base, or all
//! of it; `publish` commits the recovery point; `convert` turns the checkpoint into the reference point the next increment
//! starts from. Until `publish` a failure destroys the checkpoint and the old base still holds; from then on only the
//! server knows, and the janitor asks it.
//!
//! By the **VSS method** it is a shadow copy of each volume; `read` sends the files of every chain and configuration;
//! then the shadow copies are deleted and `publish` commits. There is nothing to convert: nothing stays on the host.

mod checkpoint;
mod convert;
mod files;
mod freezing;
mod read;
mod release;
mod shadows;
mod tracker;

use std::sync::Arc;

use api::agent_v1::{BackupSession, BackupWork, CloseSession, Publish, Published};
use hyperv::{CheckpointKind, HostFacts, VmDisk, VmFacts};
use model::{
    CheckpointInfo, Consistency, Excluded, FullReason, HumanBytes, Method, PointKind,
    RecoveryPoint, SourceHost, Unsupported, VmConfig,
};

use crate::clock;
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;
use checkpoint::Frozen;
use files::ReadFiles;
use read::ReadImages;
use shadows::Shadowed;

pub(crate) use release::release;

pub(crate) use convert::{CommittedDisk, Conversion, convert, drop_older};
pub(crate) use tracker::Kept as KeptTrackerFacts;

/// What the parts of one backup share.
pub(crate) struct Backup<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) context: &'a Arc<JobContext>,
    pub(crate) journal: &'a Arc<Journal>,
    pub(crate) work: &'a BackupWork,
}

/// Runs a backup.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    context: &Arc<JobContext>,
    journal: &Arc<Journal>,
    work: &BackupWork,
) -> Result<(), JobError> {
    let backup = Backup {
        shared,
        context,
        journal,
        work,
    };
    let result = backup.steps().await;
    if let Err(error) = &result {
        context.note(format!("cleaning up, because {error}"));
        if let Err(error) = crate::janitor::undo_backup(shared, journal).await {
            context.note(format!(
                "what the backup left on the host could not be removed yet, the agent will try again: {error}"
            ));
        }
    }
    result
}

impl Backup<'_> {
    async fn steps(&self) -> Result<(), JobError> {
        let context = self.context;
        let session = match context.step("checkpoint", self.freeze()).await? {
            Moment::Checkpoint(frozen) => self.back_up_checkpoint(&frozen).await?,
            Moment::Shadows(shadowed) => self.back_up_shadows(&shadowed).await?,
        };
        let close = CloseSession {
            fence: context.fence,
        };
        context.server.close(session.session, &close).await?;
        Ok(())
    }

    async fn back_up_checkpoint(&self, frozen: &Frozen) -> Result<BackupSession, JobError> {
        let context = self.context;
        let (session, images) = context.step("read", self.read(frozen)).await?;
        let point = self.point(frozen, &session, images);
        let publish = async {
            self.context.check()?;
            // Whether the commit happened is known to the server alone from here on.
            self.journal.will(Deed::Publishing)?;
            self.publish(point, &session).await
        };
        let published = context.step("publish", publish).await?;
        context
            .step("convert", self.convert(frozen, &session, &published))
            .await?;
        Ok(session)
    }

    async fn back_up_shadows(&self, shadowed: &Shadowed) -> Result<BackupSession, JobError> {
        let context = self.context;
        let read = async {
            let (read, detail) = self.read_files(shadowed).await?;
            // All of it is on the server: the host need not keep the shadow copies any longer.
            release(self.shared, self.journal).await?;
            Ok((read, format!("{detail}; shadow copies deleted")))
        };
        let (session, files) = context.step("read", read).await?;
        let point = self.point_of_files(shadowed, &session, files);
        context
            .step("publish", self.publish(point, &session))
            .await?;
        Ok(session)
    }

    /// Commits the recovery point.
    async fn publish(
        &self,
        point: RecoveryPoint,
        session: &BackupSession,
    ) -> Result<(Committed, String), JobError> {
        self.context.check()?;
        let disks = point.disks.clone();
        let request = Publish {
            fence: self.context.fence,
            point,
        };
        let published: Published = self
            .context
            .server
            .publish(session.session, &request)
            .await?;
        self.context
            .figures(|figures| figures.bytes_stored = published.stored_bytes);
        let detail = format!(
            "recovery point {} ({} new in the store)",
            published.point,
            HumanBytes(published.stored_bytes)
        );
        Ok((
            Committed {
                point: published.point,
                disks,
            },
            detail,
        ))
    }

    fn point(&self, frozen: &Frozen, session: &BackupSession, images: ReadImages) -> RecoveryPoint {
        let full = images.disks.iter().all(|disk| disk.full_reason.is_some());
        RecoveryPoint {
            power: frozen.vm.summary.power,
            created: frozen.taken,
            kind: if full {
                PointKind::Full
            } else {
                PointKind::Incremental
            },
            consistency: frozen.consistency,
            consistency_note: frozen.consistency_note.clone(),
            parent: images.parent,
            disks: images.disks,
            files: images.files,
            excluded: excluded(&frozen.excluded),
            ..self.blank(
                Method::Rct,
                session,
                &frozen.host,
                &frozen.vm,
                &frozen.config,
            )
        }
    }

    fn point_of_files(
        &self,
        shadowed: &Shadowed,
        session: &BackupSession,
        read: ReadFiles,
    ) -> RecoveryPoint {
        let vm = &shadowed.vm;
        RecoveryPoint {
            created: shadowed.taken,
            consistency: shadowed.consistency,
            consistency_note: shadowed.consistency_note.clone(),
            parent: read.parent,
            files: read.files,
            chains: read.chains,
            excluded: excluded(&shadowed.excluded),
            ..self.blank(Method::Vss, session, &shadowed.host, vm, &vm.summary.config)
        }
    }

    /// A point that says what it is of, and holds nothing yet.
    fn blank(
        &self,
        method: Method,
        session: &BackupSession,
        host: &HostFacts,
        vm: &VmFacts,
        config: &VmConfig,
    ) -> RecoveryPoint {
        let unsupported = vm.summary.unsupported.iter().map(|item| Unsupported {
            code: item.code.clone(),
            what: item.what.clone(),
        });
        let checkpoints = vm
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.kind == CheckpointKind::User)
            .map(|checkpoint| CheckpointInfo {
                id: checkpoint.id.clone(),
                name: checkpoint.name.clone(),
                parent: checkpoint.parent.clone(),
                created: checkpoint.created,
            });
        RecoveryPoint {
            id: session.point,
            job: self.context.job,
            fence: self.context.fence,
            vm: config.clone(),
            host: SourceHost {
                id: host.id,
                name: host.name.clone(),
                os_version: host.os_version.clone(),
            },
            power: vm.summary.power,
            created: clock::now(),
            method,
            kind: PointKind::Full,
            consistency: Consistency::Crash,
            consistency_note: None,
            parent: None,
            disks: Vec::new(),
            files: Vec::new(),
            chains: Vec::new(),
            excluded: Vec::new(),
            unsupported: unsupported.collect(),
            checkpoints: checkpoints.collect(),
            stored_bytes: 0,
        }
    }
}

/// The VM, frozen by either method.
enum Moment {
    Checkpoint(Box<Frozen>),
    Shadows(Box<Shadowed>),
}

fn excluded(disks: &[VmDisk]) -> Vec<Excluded> {
    let describe = |disk: &VmDisk| Excluded {
        path: disk.path.clone(),
        slot: disk.slot.to_string(),
    };
    disks.iter().map(describe).collect()
}

/// A committed point with the disks in it.
pub(crate) struct Committed {
    pub(crate) point: model::PointId,
    pub(crate) disks: Vec<model::DiskImage>,
}

/// Joins the reasons of several disks for people.
pub(crate) fn reasons_text(reasons: &[FullReason]) -> String {
    let mut names: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}
