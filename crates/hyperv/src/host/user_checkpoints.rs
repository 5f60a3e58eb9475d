//! Checkpoints of users: take, rename, apply, delete, and the merges that follow.
//!
//! The host deletes the configuration at once and merges the disks afterwards, file by file: the data of the file above a
//! deleted checkpoint goes down into the checkpoint's file, and the file above vanishes. A volume that fills up on the way
//! pauses running VMs, so the room is looked at first.

use std::collections::HashMap;

use model::{PowerState, VmId, host_path};
use tokio::time::Instant;
use wsman::{Properties, Value};

use super::Host;
use super::facts::volume_of;
use super::objects::{self, by_instance_id};
use super::vm::{Activity, CheckpointKind, VmFacts};
use super::vm_objects::{activity, checkpoint, checkpoint_kind, power_state};
use crate::{Error, ErrorKind};

/// A file that goes down into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The file that will vanish.
    pub from: String,
    /// The file that takes its data.
    pub into: String,
    /// How much the latter may grow by, in bytes.
    pub bytes: u64,
}

/// How far the merges of a VM are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeProgress<'a> {
    /// Files that have gone.
    pub done: usize,
    /// Files that are still there.
    pub left: &'a [String],
    /// What the host is doing with the VM.
    pub activity: Option<Activity>,
}

impl Host {
    /// Takes a checkpoint for a user and gives it a name; returns its InstanceID. The VM's own setting says whether the
    /// guest is asked to prepare.
    pub async fn create_checkpoint(&self, vm: VmId, name: &str) -> Result<String, Error> {
        self.wait_settled(vm).await?;
        let made = self
            .create_checkpoint_of(vm, CheckpointKind::User, Value::text(""))
            .await?;
        match self.name_settings(&made.id, name).await {
            Ok(()) => Ok(made.id),
            // A checkpoint without its name is not what was asked for, but it is what the user has.
            Err(error) => {
                tracing::warn!("failed to name checkpoint {}: {error}", made.id);
                Ok(made.id)
            }
        }
    }

    /// Renames a user's checkpoint.
    pub async fn rename_checkpoint(&self, checkpoint: &str, name: &str) -> Result<(), Error> {
        self.need_user_checkpoint(checkpoint).await?;
        self.name_settings(checkpoint, name).await
    }

    /// Puts a VM back to a user's checkpoint. It must be off or saved; what it wrote since its newest checkpoint is lost.
    pub async fn apply_checkpoint(&self, vm: VmId, checkpoint: &str) -> Result<(), Error> {
        self.need_user_checkpoint(checkpoint).await?;
        let power = power_state(&self.system(vm).await?);
        if !matches!(power, PowerState::Off | PowerState::Saved) {
            let what = format!(
                "VM {vm} is running; a checkpoint can be applied to a VM that is off or saved: turn it off or save it first"
            );
            return Err(Error::Refused { what });
        }
        self.wait_settled(vm).await?;
        let before = self.leaves(vm).await?;
        let parameters =
            Properties::new().with("Snapshot", by_instance_id(objects::SETTINGS, checkpoint));
        match self
            .call(objects::SNAPSHOTS, "ApplySnapshot", parameters)
            .await
        {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                // Each application gives the disks new leaves on top of the checkpoint's.
                let mut lost = self.lost(error);
                while !(self.runs_on(vm, checkpoint).await? && self.leaves(vm).await? != before) {
                    lost = self.keep_looking(lost).await?;
                }
            }
            result => result.map(drop)?,
        }
        self.wait_settled(vm).await
    }

    /// Deletes a user's checkpoint, or it and all below it, and returns which files the host will now merge: see
    /// [`Host::wait_merged_with`]. One that is gone is no error. Refused where a volume lacks the room for the merges.
    pub async fn delete_checkpoint(
        &self,
        vm: VmId,
        checkpoint: &str,
        with_children: bool,
    ) -> Result<Vec<Merge>, Error> {
        match self.need_user_checkpoint(checkpoint).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        }
        self.wait_settled(vm).await?;
        let facts = self.vm(vm).await?;
        let doomed = if with_children {
            subtree(&facts, checkpoint)
        } else {
            vec![checkpoint.to_lowercase()]
        };
        let merges = self.merges_after(&facts, &doomed).await?;
        self.need_room(&merges).await?;
        self.ensure_merging(vm).await;
        let object = by_instance_id(objects::SETTINGS, checkpoint);
        let (method, parameter) = if with_children {
            ("DestroySnapshotTree", "SnapshotSettingData")
        } else {
            ("DestroySnapshot", "AffectedSnapshot")
        };
        let parameters = Properties::new().with(parameter, object);
        match self.call(objects::SNAPSHOTS, method, parameters).await {
            Ok(_) => Ok(merges),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.checkpoint_gone(checkpoint).await? {
                    Ok(merges)
                } else {
                    Err(error)
                }
            }
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                self.wait_checkpoint_gone(checkpoint, error).await?;
                Ok(merges)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the files of these merges have gone and the host is done, within [`super::Limits::merge`], and tells
    /// after each look how far it is. A host that stops while files are left is an error that names them.
    pub async fn wait_merged_with(
        &self,
        vm: VmId,
        merges: &[Merge],
        mut progress: impl FnMut(&MergeProgress<'_>),
    ) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        let mut left: Vec<String> = merges.iter().map(|merge| merge.from.clone()).collect();
        let (mut idle_looks, mut idle_since) = (0, start);
        loop {
            let activity = activity(&self.system(vm).await?);
            let mut still = Vec::new();
            for path in left {
                if self.disk_file_exists(&path).await? {
                    still.push(path);
                }
            }
            left = still;
            progress(&MergeProgress {
                done: merges.len() - left.len(),
                left: &left,
                activity,
            });
            if activity.is_none() {
                idle_looks += 1;
            } else {
                (idle_looks, idle_since) = (0, Instant::now());
            }
            // A merge begins a moment after the job that causes it has ended.
            if idle_looks >= 2 && left.is_empty() {
                return Ok(());
            }
            if idle_looks == 3 && matches!(self.merges_disks(vm).await, Ok(false)) {
                return Err(not_merged(vm, &left, "merging is switched off for this VM"));
            }
            if idle_looks > 3 && idle_since.elapsed() > self.limits.settle {
                let why = "look into the event log Hyper-V-VMMS of the host";
                return Err(not_merged(vm, &left, why));
            }
            if start.elapsed() > self.limits.merge {
                let what = format!(
                    "VM {vm} is still merging {} of {} files",
                    left.len(),
                    merges.len()
                );
                return Err(Error::StillBusy {
                    what,
                    waited: start.elapsed(),
                });
            }
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled {
                    method: format!("waiting for merges of VM {vm}"),
                });
            }
            self.pause(&mut pause, true).await;
        }
    }

    /// Only a user's checkpoint is a user's business: replicas and other products own the rest.
    async fn need_user_checkpoint(&self, id: &str) -> Result<(), Error> {
        let settings = self.checkpoint_settings(id).await?;
        let found = checkpoint(&settings).ok_or_else(|| Error::NotFound {
            what: format!("checkpoint {id}"),
        })?;
        if checkpoint_kind(&settings) == Some(CheckpointKind::User) {
            return Ok(());
        }
        Err(Error::Refused {
            what: format!("checkpoint {:?} ({id}) was not made by a user", found.name),
        })
    }

    /// Returns the files that the disks of a VM write to.
    async fn leaves(&self, vm: VmId) -> Result<Vec<String>, Error> {
        let summary = self.vm_summary(vm).await?;
        let disks = summary.config.disks();
        Ok(disks.map(|(_, _, path)| path.to_owned()).collect())
    }

    async fn runs_on(&self, vm: VmId, checkpoint: &str) -> Result<bool, Error> {
        let found = self
            .associated(
                &objects::vm(vm),
                "Msvm_MostCurrentSnapshotInBranch",
                Some(objects::SETTINGS),
            )
            .await?;
        let id = found.first().map(objects::id_key);
        Ok(id == Some(checkpoint.to_lowercase()))
    }

    /// Returns what the host will merge when checkpoints (InstanceIDs in lower case) are deleted: a file that is left with
    /// one file above it takes that one's data; one with several above it stays as it is.
    async fn merges_after(&self, facts: &VmFacts, doomed: &[String]) -> Result<Vec<Merge>, Error> {
        let mut parents: HashMap<String, (String, String, u64)> = HashMap::new();
        let mut kept_leaves = Vec::new();
        let mut known = HashMap::new();
        let is_doomed = |id: &str| doomed.contains(&id.to_lowercase());
        for disk in &facts.disks {
            kept_leaves.push(disk.path.clone());
        }
        for checkpoint in facts.checkpoints.iter().filter(|c| !is_doomed(&c.id)) {
            kept_leaves.extend(checkpoint.disks.iter().map(|disk| disk.path.clone()));
        }
        // Every file that stays in use, with its parent.
        for leaf in &kept_leaves {
            let (chain, _) = self.follow_chain(leaf, &mut known).await?;
            for file in chain {
                if let Some(parent) = &file.parent {
                    let bytes = file.file_bytes.unwrap_or(0);
                    parents.entry(host_path::key(&file.path)).or_insert((
                        file.path.clone(),
                        parent.clone(),
                        bytes,
                    ));
                }
            }
        }
        let mut merges = Vec::new();
        for disk in facts
            .checkpoints
            .iter()
            .filter(|checkpoint| is_doomed(&checkpoint.id))
            .flat_map(|checkpoint| &checkpoint.disks)
        {
            let above: Vec<_> = parents
                .values()
                .filter(|(_, parent, _)| host_path::same(parent, &disk.path))
                .collect();
            let still_used = kept_leaves
                .iter()
                .any(|leaf| host_path::same(leaf, &disk.path));
            if let [(from, into, bytes)] = above.as_slice()
                && !still_used
            {
                merges.push(Merge {
                    from: from.clone(),
                    into: into.clone(),
                    bytes: *bytes,
                });
            }
        }
        Ok(merges)
    }

    /// Refuses where a volume has less free space than merges into it may take.
    pub(super) async fn need_room(&self, merges: &[Merge]) -> Result<(), Error> {
        if merges.is_empty() {
            return Ok(());
        }
        let volumes = self.volumes().await?;
        let mut needed: HashMap<&str, (u64, u64)> = HashMap::new();
        for merge in merges {
            // Of a share the host does not tell.
            if let Some(volume) = volume_of(&volumes, &merge.into) {
                let entry = needed.entry(&volume.path).or_insert((0, volume.free_bytes));
                entry.0 = entry.0.saturating_add(merge.bytes);
            }
        }
        let short = needed.into_iter().find(|(_, (bytes, free))| bytes > free);
        match short {
            None => Ok(()),
            Some((path, (bytes, free))) => Err(Error::Refused {
                what: format!(
                    "volume {path} has {free} bytes free, and merging may take {bytes}: make room first"
                ),
            }),
        }
    }
}

fn not_merged(vm: VmId, left: &[String], why: &'static str) -> Error {
    Error::NotMerged {
        vm,
        files: left.join(", "),
        why,
    }
}

/// A checkpoint and all below it, in lower case.
fn subtree(facts: &VmFacts, root: &str) -> Vec<String> {
    let mut found = vec![root.to_lowercase()];
    let mut at = 0;
    while let Some(id) = found.get(at).cloned() {
        at += 1;
        for child in &facts.checkpoints {
            let key = child.id.to_lowercase();
            let below = child.parent.as_ref().map(|parent| parent.to_lowercase());
            if below == Some(id.clone()) && !found.contains(&key) {
                found.push(key);
            }
        }
    }
    found
}
