//! Recovery checkpoints: the steps of a backup by resilient change tracking.
//!
//! A checkpoint of ours is named by its [`Mark`]. Nothing here destroys a checkpoint that the caller did not name.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use model::{Consistency, ConsistencyWish, Fence, JobId, PowerState, VmConfig, VmId, host_path};
use tokio::time::Instant;
use wsman::{Instance, Properties, Value, wql_literal};

use super::disks::VmDisk;
use super::inventory::{
    Activity, Checkpoint, CheckpointKind, ConfigFile, activity, checkpoint, not_found, power_state,
};
use super::objects::by_instance_id;
use super::reference_points::{self, ReferencePoint};
use super::{Host, objects};
use crate::files::{FileError, HostFiles};
use crate::{Error, ErrorKind};

const MARK_PREFIX: &str = "reprise";
/// SnapshotType of a recovery checkpoint: "vendor specific" in the documentation, used by every backup product.
const RECOVERY: u16 = 32768;

/// Whose a checkpoint is: the job and the fence of the attempt that made it, as its display name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub fence: Fence,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK_PREFIX} {} {}", self.job, self.fence)
    }
}

/// A display name that is no mark of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is no mark of ours")]
pub struct NotOurs;

impl FromStr for Mark {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let parse = || {
            let rest = text.strip_prefix(MARK_PREFIX)?.strip_prefix(' ')?;
            let (job, fence) = rest.split_once(' ')?;
            let mark = Mark {
                job: job.parse().ok()?,
                fence: Fence(fence.parse().ok()?),
            };
            // Only what we would write ourselves is ours.
            (mark.to_string() == text).then_some(mark)
        };
        parse().ok_or(NotOurs)
    }
}

impl Checkpoint {
    /// Returns the mark of a recovery checkpoint of ours.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.name
            .parse()
            .ok()
            .filter(|_| self.kind == CheckpointKind::Recovery)
    }
}

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

    /// Returns the frozen disks of a checkpoint with their chains. `attachment` is the one in the VM (as reference points
    /// name it), not the one in the checkpoint.
    pub async fn frozen_disks(&self, vm: VmId, checkpoint: &str) -> Result<Vec<VmDisk>, Error> {
        let (config, _) = self.checkpoint_config(vm, checkpoint).await?;
        self.disks_of(&config).await
    }

    /// Returns the configuration of the VM as the checkpoint holds it, attachments named as in the VM, and where its files
    /// are.
    pub async fn checkpoint_config(
        &self,
        vm: VmId,
        checkpoint: &str,
    ) -> Result<(VmConfig, CheckpointFiles), Error> {
        let settings = self.checkpoint_settings(checkpoint).await?;
        let (mut config, _) = self.full_config(&settings).await?;
        let inner = objects::owner_guid(checkpoint)
            .map(|guid| guid.to_string())
            .unwrap_or_default();
        for drive in config
            .controllers
            .iter_mut()
            .flat_map(|controller| &mut controller.drives)
        {
            drive.attachment = in_vm(&drive.attachment, &inner, vm);
        }
        // The checkpoint is called by our mark; the VM has its own name.
        self.system(vm)
            .await?
            .text("ElementName")
            .unwrap_or_default()
            .clone_into(&mut config.name);
        let root = settings.text("ConfigurationDataRoot").unwrap_or_default();
        let file = settings.text("ConfigurationFile").unwrap_or_default();
        Ok((
            config,
            CheckpointFiles {
                root: root.to_owned(),
                file: file.to_owned(),
            },
        ))
    }

    async fn checkpoint_settings(&self, checkpoint: &str) -> Result<Instance, Error> {
        match self
            .session
            .get(&by_instance_id(objects::SETTINGS, checkpoint))
            .await
        {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotFound {
                what: format!("checkpoint {checkpoint}"),
            }),
            result => result,
        }
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

/// Where the configuration files of a checkpoint are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// ConfigurationDataRoot.
    pub root: String,
    /// ConfigurationFile, relative to it.
    pub file: String,
}

impl CheckpointFiles {
    /// Lists the files: everything beside the configuration file that has its name and another extension.
    pub fn list(&self, files: &HostFiles) -> Result<Vec<ConfigFile>, FileError> {
        let file = host_path::join(&self.root, self.file.trim_start_matches('\\'));
        let folder = host_path::parent(&file).unwrap_or(&self.root);
        let (stem, _) = host_path::split_extension(host_path::file_name(&file));
        let mut found: Vec<ConfigFile> = files
            .list(folder)?
            .into_iter()
            .filter(|entry| !entry.folder)
            .filter_map(|entry| {
                let (name, extension) = host_path::split_extension(&entry.name);
                let role = match extension.to_lowercase().as_str() {
                    ".vmcx" | ".xml" => "config",
                    ".vmrs" | ".bin" | ".vsv" => "runtime-state",
                    ".vmgs" => "guest-state",
                    _ => return None,
                };
                let ours = name.to_lowercase() == stem.to_lowercase();
                ours.then(|| ConfigFile {
                    path: host_path::join(folder, &entry.name),
                    role,
                })
            })
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
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

/// An attachment of a checkpoint, named as in the VM: the checkpoint's GUID stands in place of the VM's.
fn in_vm(attachment: &str, checkpoint_guid: &str, vm: VmId) -> String {
    let prefix = format!("Microsoft:{checkpoint_guid}\\");
    match attachment.get(..prefix.len()) {
        Some(start) if !checkpoint_guid.is_empty() && start.eq_ignore_ascii_case(&prefix) => {
            format!("Microsoft:{vm}\\{}", &attachment[prefix.len()..])
        }
        _ => attachment.to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_marks_are_ours() {
        let mark = Mark {
            job: JobId::random(),
            fence: Fence(7),
        };
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for other in [
            "",
            "reprise",
            "Other product's backup",
            &format!("{mark} "),
            &mark.to_string().to_uppercase(),
        ] {
            assert_eq!(other.parse::<Mark>(), Err(NotOurs), "{other}");
        }
        let named = |kind, name: &str| Checkpoint {
            id: "Microsoft:X".into(),
            name: name.into(),
            kind,
            parent: None,
            created: None,
            current: false,
            disks: Vec::new(),
        };
        assert_eq!(
            named(CheckpointKind::Recovery, &mark.to_string()).mark(),
            Some(mark)
        );
        // A person may call a checkpoint anything; only recovery checkpoints are made by programs.
        assert_eq!(named(CheckpointKind::User, &mark.to_string()).mark(), None);
    }

    #[test]
    fn attachments_are_named_as_in_the_vm() {
        let vm: VmId = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D".parse().unwrap();
        let inner = "11111111-6A0E-4DEC-AF52-BD70CB80A21D";
        let attachment = r"Microsoft:11111111-6a0e-4dec-af52-bd70cb80a21d\8\0\0\L";
        assert_eq!(
            in_vm(attachment, inner, vm),
            r"Microsoft:B637F346-6A0E-4DEC-AF52-BD70CB80A21D\8\0\0\L"
        );
        assert_eq!(in_vm("other", inner, vm), "other");
    }
}
