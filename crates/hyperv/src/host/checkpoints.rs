//! Recovery checkpoints: the steps of a backup by resilient change tracking.
//!
//! A checkpoint of ours is named by its [`Mark`]. Nothing here destroys a checkpoint that the caller did not name.

use std::collections::HashSet;

use model::{Consistency, ConsistencyWish, PowerState, VmId};
use tokio::time::Instant;
use wsman::{Instance, Properties, Value, wql_literal};

use super::inventory::{activity, checkpoint, not_found, power_state};
use super::marks::Mark;
use super::objects::by_instance_id;
use super::reference_points::{self, ReferencePoint};
use super::vm::{Activity, Checkpoint, CheckpointKind};
use super::{Host, objects};
use crate::{Error, ErrorKind};

/// SnapshotType of a recovery checkpoint: "vendor specific" in the documentation, used by every backup product.
const RECOVERY: u16 = 32768;

/// A recovery checkpoint just taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenCheckpoint {
    /// InstanceID.
    pub id: String,
    /// The consistency reached.
    pub consistency: Consistency,
    /// Why the wish was not met.
    pub note: Option<String>,
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

    /// Waits until the host is doing nothing with the VM, merging included, within [`super::Limits::settle`].
    pub async fn wait_settled(&self, vm: VmId) -> Result<(), Error> {
        self.wait_until_idle(vm, self.limits.settle).await
    }

    /// Waits until no disk of the VM is being merged, within [`super::Limits::merge`].
    pub async fn wait_merged(&self, vm: VmId) -> Result<(), Error> {
        self.wait_until_idle(vm, self.limits.merge).await
    }

    async fn wait_until_idle(&self, vm: VmId, limit: std::time::Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        let mut idle_looks = 0;
        loop {
            let busy = match activity(&self.system(vm).await?) {
                None => {
                    idle_looks += 1;
                    // A merge begins a moment after the job that causes it has ended.
                    if idle_looks == 2 {
                        return Ok(());
                    }
                    None
                }
                Some(activity) => {
                    idle_looks = 0;
                    Some(activity)
                }
            };
            if let Some(activity) = busy.filter(|_| start.elapsed() > limit) {
                let what = format!("VM {vm} is still {}", doing(activity));
                return Err(Error::StillBusy {
                    what,
                    waited: start.elapsed(),
                });
            }
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled {
                    method: format!("waiting for VM {vm}"),
                });
            }
            self.pause(&mut pause, true).await;
        }
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
        let before = self.recovery_ids(vm).await?;
        let error = match self.create_checkpoint(vm, level, &before).await {
            Ok(id) => return self.named(id, mark, first, None).await,
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
        let before = self.recovery_ids(vm).await?;
        let id = self.create_checkpoint(vm, Level::Crash, &before).await?;
        self.named(id, mark, Consistency::Crash, Some(error.to_string()))
            .await
    }

    async fn named(
        &self,
        id: String,
        mark: Mark,
        consistency: Consistency,
        note: Option<String>,
    ) -> Result<TakenCheckpoint, Error> {
        let change = Instance::new(objects::SETTINGS)
            .with("InstanceID", id.as_str())
            .with("ElementName", mark.to_string());
        // The name only helps people and the clean-up after a crash; the backup is good without it.
        if let Err(error) = self.modify_settings(&change).await {
            tracing::warn!("failed to name checkpoint {id}: {error}");
        }
        Ok(TakenCheckpoint {
            id,
            consistency,
            note,
        })
    }

    async fn recovery_ids(&self, vm: VmId) -> Result<HashSet<String>, Error> {
        let all = self.checkpoints(vm).await?;
        Ok(all
            .into_iter()
            .filter(|c| c.kind == CheckpointKind::Recovery)
            .map(|c| c.id)
            .collect())
    }

    async fn create_checkpoint(
        &self,
        vm: VmId,
        level: Level,
        before: &HashSet<String>,
    ) -> Result<String, Error> {
        let settings = Instance::new("Msvm_VirtualSystemSnapshotSettingData")
            .with("ConsistencyLevel", level.number())
            .with("IgnoreNonSnapshottableDisks", true);
        let parameters = Properties::new()
            .with("AffectedSystem", objects::vm(vm))
            .with("SnapshotSettings", Value::embedded(&settings))
            .with("SnapshotType", RECOVERY);
        let result = self
            .call(objects::SNAPSHOTS, "CreateSnapshot", parameters)
            .await;
        let found = match result {
            Ok(done) => {
                self.result_of(&done, "ResultingSnapshot", objects::SETTINGS)
                    .await?
            }
            // The answer was lost or the job could not be followed: the checkpoint itself tells.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                loop {
                    if let Some(id) = only_new(&self.recovery_ids(vm).await?, before) {
                        self.wait_settled(vm).await?;
                        return Ok(id);
                    }
                    lost = self.keep_looking(lost).await?;
                }
            }
            Err(error) => return Err(error),
        };
        if let Some(id) = found
            .as_ref()
            .and_then(|settings| settings.text("InstanceID"))
        {
            return Ok(id.to_owned());
        }
        let after = self.recovery_ids(vm).await?;
        only_new(&after, before).ok_or_else(|| Error::Nonsense {
            doing: "CreateSnapshot".into(),
            what: format!("it succeeded, but which checkpoint of VM {vm} it made cannot be told"),
        })
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
        let exists = async || match self.checkpoint_settings(checkpoint).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        if exists().await? {
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
                    while exists().await? {
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
        let gone = async || match self.checkpoint_settings(checkpoint).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        if gone().await? {
            return Ok(());
        }
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
            ErrorKind::NotFound if gone().await? => Ok(()),
            ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while !gone().await? {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            ErrorKind::WrongState
            | ErrorKind::Refused
            | ErrorKind::Failed
            | ErrorKind::Unsupported => {
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
            | ErrorKind::InUse
            | ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::Protocol => Err(error),
        }
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

fn doing(activity: Activity) -> String {
    match activity {
        Activity::CreatingCheckpoint => "getting a checkpoint".into(),
        Activity::ApplyingCheckpoint => "applying a checkpoint".into(),
        Activity::DeletingCheckpoint => "deleting a checkpoint".into(),
        Activity::WaitingToStart => "waiting to start".into(),
        Activity::MergingDisks => "merging disks".into(),
        Activity::Exporting => "being exported".into(),
        Activity::Migrating => "being migrated".into(),
        Activity::Other(status) => format!("busy (operational status {status})"),
    }
}
