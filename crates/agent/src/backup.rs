//! A backup by resilient change tracking, step by step: `checkpoint read publish convert`.
//!
//! `checkpoint` removes what an earlier run left on this VM and takes a recovery checkpoint; `read` sends what changed
//! since each disk's base, or all of it; `publish` commits the recovery point; `convert` turns the checkpoint into the
//! reference point the next increment starts from. Until `publish` a failure destroys the checkpoint and the old base
//! still holds; from then on only the server knows, and the janitor asks it.

mod checkpoint;
mod convert;
mod read;

use std::sync::Arc;

use api::agent_v1::{BackupSession, BackupWork, CloseSession, Publish, Published};
use model::{
    CheckpointInfo, Excluded, FullReason, HumanBytes, Method, PointKind, RecoveryPoint, SourceHost,
    Unsupported,
};

use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;
use checkpoint::Frozen;
use read::ReadImages;

pub(crate) use convert::{CommittedDisk, Conversion, convert, drop_older};

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
    if work.method == Some(Method::Vss) {
        return Err(JobError::failed(
            "method-not-supported",
            "this version makes no backups by the VSS method",
        )
        .hint("leave --method out, or use --method rct"));
    }
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
                "the checkpoint could not be removed yet, the agent will try again: {error}"
            ));
        }
    }
    result
}

impl Backup<'_> {
    async fn steps(&self) -> Result<(), JobError> {
        let context = self.context;
        let frozen = context.step("checkpoint", self.freeze()).await?;
        let (session, images) = context.step("read", self.read(&frozen)).await?;
        let published = context
            .step("publish", self.publish(&frozen, &session, images))
            .await?;
        context
            .step("convert", self.convert(&frozen, &session, &published))
            .await?;
        let close = CloseSession {
            fence: context.fence,
        };
        context.server.close(session.session, &close).await?;
        Ok(())
    }

    /// Commits the recovery point.
    async fn publish(
        &self,
        frozen: &Frozen,
        session: &BackupSession,
        images: ReadImages,
    ) -> Result<(Committed, String), JobError> {
        let point = self.point(frozen, session, images);
        self.context.check()?;
        // Whether the commit happened is known to the server alone from here on.
        self.journal.will(Deed::Publishing)?;
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
        let unsupported = frozen
            .vm
            .summary
            .unsupported
            .iter()
            .map(|item| Unsupported {
                code: item.code.clone(),
                what: item.what.clone(),
            });
        let excluded = frozen.excluded.iter().map(|disk| Excluded {
            path: disk.path.clone(),
            slot: disk.slot.to_string(),
        });
        let checkpoints = frozen
            .vm
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.kind == hyperv::CheckpointKind::User);
        RecoveryPoint {
            id: session.point,
            job: self.context.job,
            fence: self.context.fence,
            vm: frozen.config.clone(),
            host: SourceHost {
                id: frozen.host.id,
                name: frozen.host.name.clone(),
                os_version: frozen.host.os_version.clone(),
            },
            power: frozen.vm.summary.power,
            created: frozen.taken,
            method: Method::Rct,
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
            excluded: excluded.collect(),
            unsupported: unsupported.collect(),
            checkpoints: checkpoints
                .map(|checkpoint| CheckpointInfo {
                    id: checkpoint.id.clone(),
                    name: checkpoint.name.clone(),
                    parent: checkpoint.parent.clone(),
                    created: checkpoint.created,
                })
                .collect(),
            stored_bytes: 0,
        }
    }
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
