//! Recovery checkpoints: the steps of a backup by resilient change tracking.
//!
//! A checkpoint of ours is named by its [`Mark`]. Nothing here destroys a checkpoint that the caller did not name.

use std::collections::HashSet;

use model::{Consistency, ConsistencyWish, PowerState, VmId};
use wsman::{Instance, Properties, Value, wql_literal};

use super::inventory::not_found;
use super::marks::Mark;
use super::objects::by_instance_id;
use super::reference_points::{self, ReferencePoint};
use super::vm::{Checkpoint, CheckpointKind};
use super::vm_objects::{checkpoint, checkpoint_kind, power_state};
use super::{Host, objects};
use crate::{Error, ErrorKind};

/// SnapshotType of a recovery checkpoint: "vendor specific" in the documentation, used by every backup product.
const RECOVERY: u16 = 32768;
/// SnapshotType of a user's checkpoint.
const FULL: u16 = 2;
/// First build that knows GuestBackupType.
const FIRST_BACKUP_TYPE_BUILD: u32 = 15063;
/// GuestBackupType: databases in the guest count this as their backup, as they do on hosts that cannot be told.
const BACKUP_TYPE_FULL: u8 = 1;

/// A recovery checkpoint just taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenCheckpoint {
    /// InstanceID.
    pub id: String,
    /// The consistency reached.
    pub consistency: Consistency,
    /// Why the wish was not met.
    pub note: Option<String>,
    /// What the host warned of while taking it.
    pub warning: Option<String>,
}

/// A checkpoint the host has made.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) warning: Option<String>,
}

impl Host {
    /// Returns the checkpoints of a VM, without their disks, with one request.
    pub async fn checkpoints(&self, vm: VmId) -> Result<Vec<Checkpoint>, Error> {
        let wql = format!(
            "SELECT * FROM {} WHERE VirtualSystemIdentifier = {}",
            objects::SETTINGS,
            wql_literal(&vm.to_string())
        );
        Ok(self
            .query(&wql)
            .await?
            .iter()
            .filter_map(checkpoint)
            .collect())
    }

    /// Returns the recovery checkpoints of a VM that carry a mark of ours; others are nobody's business here.
    pub async fn marked_checkpoints(&self, vm: VmId) -> Result<Vec<(Mark, Checkpoint)>, Error> {
        let all = self.checkpoints(vm).await?;
        Ok(all
            .into_iter()
            .filter_map(|checkpoint| Some((checkpoint.mark()?, checkpoint)))
            .collect())
    }

    /// Takes a recovery checkpoint and names it with the mark.
    ///
    /// A VM that is off or saved gives [`Consistency::Offline`]. Where the guest fails to prepare and the wish allows it,
    /// the checkpoint is taken again without the guest's help, and the note says why. If the agent dies before the name
    /// is set, the checkpoint is recognised by not having been among [`Host::checkpoints`] before.
    pub async fn take_checkpoint(
        &self,
        vm: VmId,
        wish: ConsistencyWish,
        mark: Mark,
    ) -> Result<TakenCheckpoint, Error> {
        self.wait_settled(vm).await?;
        let power = power_state(&self.system(vm).await?);
        let (first, level) = match (power, wish) {
            (PowerState::Off | PowerState::Saved, _) => (Consistency::Offline, Level::Crash),
            (_, ConsistencyWish::Crash) => (Consistency::Crash, Level::Crash),
            (_, ConsistencyWish::PreferApplication | ConsistencyWish::RequireApplication) => {
                (Consistency::Application, Level::Application)
            }
        };
        let error = match self.create_recovery(vm, level).await {
            Ok(made) => return self.named(made, mark, first, None).await,
            Err(error) => error,
        };
        let guest_failed = matches!(error, Error::Job { .. } | Error::Return { .. })
            && !matches!(
                error.kind(),
                ErrorKind::AccessDenied | ErrorKind::InUse | ErrorKind::WrongState
            );
        if !guest_failed || level == Level::Crash || wish == ConsistencyWish::RequireApplication {
            return Err(error);
        }
        tracing::warn!(
            "failed to take an application-consistent checkpoint of VM {vm}, taking a crash-consistent one: {error}"
        );
        self.wait_settled(vm).await?;
        let made = self.create_recovery(vm, Level::Crash).await?;
        self.named(made, mark, Consistency::Crash, Some(error.to_string()))
            .await
    }

    async fn named(
        &self,
        made: Made,
        mark: Mark,
        consistency: Consistency,
        note: Option<String>,
    ) -> Result<TakenCheckpoint, Error> {
        let Made { id, warning } = made;
        // The name only helps people and the clean-up after a crash; the backup is good without it.
        if let Err(error) = self.name_settings(&id, &mark.to_string()).await {
            tracing::warn!("failed to name checkpoint {id}: {error}");
        }
        Ok(TakenCheckpoint {
            id,
            consistency,
            note,
            warning,
        })
    }

    async fn create_recovery(&self, vm: VmId, level: Level) -> Result<Made, Error> {
        let mut settings = Instance::new("Msvm_VirtualSystemSnapshotSettingData")
            .with("ConsistencyLevel", level.number())
            .with("IgnoreNonSnapshottableDisks", true);
        // Older hosts refuse a property they do not know.
        if level == Level::Application && self.os_build().await? >= FIRST_BACKUP_TYPE_BUILD {
            settings.set("GuestBackupType", BACKUP_TYPE_FULL);
        }
        self.create_checkpoint_of(vm, CheckpointKind::Recovery, Value::embedded(&settings))
            .await
    }

    /// Takes a checkpoint of a kind. Where the answer is lost, the checkpoint that is new since then is the result.
    pub(super) async fn create_checkpoint_of(
        &self,
        vm: VmId,
        kind: CheckpointKind,
        settings: Value,
    ) -> Result<Made, Error> {
        let before = self.checkpoint_ids(vm, kind).await?;
        let snapshot_type = if kind == CheckpointKind::Recovery {
            RECOVERY
        } else {
            FULL
        };
        let parameters = Properties::new()
            .with("AffectedSystem", objects::vm(vm))
            .with("SnapshotSettings", settings)
            .with("SnapshotType", snapshot_type);
        let result = self
            .call(objects::SNAPSHOTS, "CreateSnapshot", parameters)
            .await;
        let done = match result {
            Ok(done) => done,
            // The answer was lost or the job could not be followed: the checkpoint itself tells.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                loop {
                    if let Some(id) = only_new(&self.checkpoint_ids(vm, kind).await?, &before) {
                        self.wait_settled(vm).await?;
                        return Ok(Made { id, warning: None });
                    }
                    lost = self.keep_looking(lost).await?;
                }
            }
            Err(error) => return Err(error),
        };
        // A job may have dealt with the VM's own settings, too.
        let affected = self
            .results_of(&done, "ResultingSnapshot", objects::SETTINGS)
            .await?;
        let named = affected
            .iter()
            .filter(|settings| checkpoint_kind(settings) == Some(kind))
            .filter_map(|settings| settings.text("InstanceID"))
            .find(|id| !before.contains(*id));
        let id = match named {
            Some(id) => id.to_owned(),
            None => {
                let after = self.checkpoint_ids(vm, kind).await?;
                only_new(&after, &before).ok_or_else(|| Error::Nonsense {
                    doing: "CreateSnapshot".into(),
                    what: format!(
                        "it succeeded, but which checkpoint of VM {vm} it made cannot be told"
                    ),
                })?
            }
        };
        Ok(Made {
            id,
            warning: done.warning,
        })
    }

    async fn checkpoint_ids(
        &self,
        vm: VmId,
        kind: CheckpointKind,
    ) -> Result<HashSet<String>, Error> {
        let all = self.checkpoints(vm).await?;
        Ok(all
            .into_iter()
            .filter(|checkpoint| checkpoint.kind == kind)
            .map(|checkpoint| checkpoint.id)
            .collect())
    }

    /// Turns a recovery checkpoint into a reference point; its disks are merged back in the background.
    ///
    /// `known` are the reference points that existed before the first attempt: if the checkpoint is gone, the one that
    /// is new since then is the result.
    pub async fn convert_to_reference_point(
        &self,
        vm: VmId,
        checkpoint: &str,
        known: &[String],
    ) -> Result<ReferencePoint, Error> {
        if !self.checkpoint_gone(checkpoint).await? {
            self.ensure_merging(vm).await;
            let parameters = Properties::new()
                .with(
                    "AffectedSnapshot",
                    by_instance_id(objects::SETTINGS, checkpoint),
                )
                .with("ReferencePointSettings", Value::Null);
            match self
                .call(objects::SNAPSHOTS, "ConvertToReferencePoint", parameters)
                .await
            {
                Ok(done) => {
                    let made = self
                        .result_of(&done, "ResultingReferencePoint", objects::REFERENCE_POINT)
                        .await?;
                    if let Some(point) = made
                        .as_ref()
                        .and_then(|made| reference_points::read(made, vm))
                    {
                        return Ok(point);
                    }
                }
                Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                    let mut lost = self.lost(error);
                    while !self.checkpoint_gone(checkpoint).await? {
                        lost = self.keep_looking(lost).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut new = self.reference_points(vm).await?;
        new.retain(|point| !known.iter().any(|id| id.eq_ignore_ascii_case(&point.id)));
        match (new.pop(), new.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(Error::NotFound {
                what: format!("the reference point made of checkpoint {checkpoint} of VM {vm}"),
            }),
        }
    }

    /// Destroys a checkpoint; one that is gone is no error. Where the host refuses to, the checkpoint is converted and the
    /// reference point destroyed. Disks are merged in the background: see [`Host::wait_merged`].
    pub async fn destroy_checkpoint(&self, vm: VmId, checkpoint: &str) -> Result<(), Error> {
        let recovery = match self.checkpoint_settings(checkpoint).await {
            Ok(settings) => checkpoint_kind(&settings) == Some(CheckpointKind::Recovery),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.ensure_merging(vm).await;
        let parameters = Properties::new().with(
            "AffectedSnapshot",
            by_instance_id(objects::SETTINGS, checkpoint),
        );
        let Err(error) = self
            .call(objects::SNAPSHOTS, "DestroySnapshot", parameters)
            .await
        else {
            return Ok(());
        };
        match error.kind() {
            ErrorKind::NotFound if self.checkpoint_gone(checkpoint).await? => Ok(()),
            ErrorKind::ResultUnknown => self.wait_checkpoint_gone(checkpoint, error).await,
            ErrorKind::WrongState
            | ErrorKind::Refused
            | ErrorKind::Failed
            | ErrorKind::Unsupported
                if recovery =>
            {
                tracing::warn!(
                    "the host refuses to destroy checkpoint {checkpoint}, converting it instead: {error}"
                );
                let known: Vec<String> = self
                    .reference_points(vm)
                    .await?
                    .into_iter()
                    .map(|point| point.id)
                    .collect();
                match self
                    .convert_to_reference_point(vm, checkpoint, &known)
                    .await
                {
                    Ok(point) => self.destroy_reference_point(vm, &point.id).await,
                    // The first refusal says more.
                    Err(second) => {
                        tracing::warn!("failed to convert checkpoint {checkpoint}: {second}");
                        Err(error)
                    }
                }
            }
            ErrorKind::NotFound
            | ErrorKind::Retry
            | ErrorKind::AccessDenied
            | ErrorKind::WrongState
            | ErrorKind::InUse
            | ErrorKind::Refused
            | ErrorKind::Unsupported
            | ErrorKind::Failed
            | ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::Protocol => Err(error),
        }
    }

    pub(super) async fn checkpoint_gone(&self, checkpoint: &str) -> Result<bool, Error> {
        match self.checkpoint_settings(checkpoint).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Waits for the effect of a deletion whose answer was lost.
    pub(super) async fn wait_checkpoint_gone(
        &self,
        checkpoint: &str,
        error: Error,
    ) -> Result<(), Error> {
        let mut lost = self.lost(error);
        while !self.checkpoint_gone(checkpoint).await? {
            lost = self.keep_looking(lost).await?;
        }
        Ok(())
    }

    /// Returns whether a VM is there; [`Error::NotFound`] where it is not.
    pub async fn check_vm(&self, vm: VmId) -> Result<(), Error> {
        if self.vm_exists(vm).await? {
            Ok(())
        } else {
            Err(not_found(vm))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Application,
    Crash,
}

impl Level {
    fn number(self) -> u8 {
        match self {
            Level::Application => 1,
            Level::Crash => 2,
        }
    }
}

fn only_new(after: &HashSet<String>, before: &HashSet<String>) -> Option<String> {
    let mut new = after.difference(before);
    let first = new.next()?;
    new.next().is_none().then(|| first.clone())
}
