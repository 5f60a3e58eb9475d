//! Checkpoints that come back (S19): the files of the tree stay as they were stored.
//!
//! Every file is there under its own name from the first byte. Once all are written they are read back and compared, and
//! what each tip of the tree reads as is hashed, with every parent taken from the plan. Only then is anything in a file
//! changed: the ids of disks, where the VM is a copy, and where a file finds its parent, where that is another place. The
//! step `verify` hashes the tips again, opened as the host opens them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyperv::{Checkpoint, HostFiles, VolumeFacts};
use model::{CheckpointInfo, FileImage, RecoveryPoint, host_path};
use pipeline::image_digest;
use plan::restore::{RestorePlan, TreeFilePlan};
use uuid::Uuid;
use vhdx::{Chain, DiskFile, Durability, ParentLink, inspect, set_disk_id, set_parent};

use super::Restore;
use super::chains::{ChainContent, WrittenFile, damaged, note_files, read_back};
use super::disks::{Receiver, Written, make_folders};
use crate::errors::{chain as causes, files_error, host_error, task_error, verify_error};
use crate::job::{JobContext, JobError};
use crate::journal::Journal;

/// The folder of the checkpoints' configuration files, in the staging folder.
const SNAPSHOTS: &str = "Snapshots";

impl Receiver {
    /// Makes every file of the tree, so that all are there under their names, then fills them.
    pub(super) fn tree(
        &self,
        plan: &RestorePlan,
        point: &RecoveryPoint,
    ) -> Result<Vec<WrittenFile>, JobError> {
        let mut made = Vec::new();
        for file in &plan.tree {
            if let Some(folder) = host_path::parent(&file.target_path) {
                make_folders(&self.files, &self.journal, folder)?;
            }
            made.push(self.begin(&file.source_path, &file.target_path, point)?);
        }
        let files = plan.tree.iter().zip(made);
        files
            .map(|(file, target)| self.fill(&file.source_path, &file.target_path, target, point))
            .collect()
    }

    /// Writes the configuration files of the checkpoints into a folder in `staging`.
    pub(super) fn checkpoint_configs(
        &self,
        staging: &str,
        point: &RecoveryPoint,
        written: &mut Written,
    ) -> Result<(), JobError> {
        let folder = host_path::join(staging, SNAPSHOTS);
        make_folders(&self.files, &self.journal, &folder)?;
        let of_checkpoints = |file: &&FileImage| !file.is_disk() && file.checkpoint.is_some();
        for file in point.files.iter().filter(of_checkpoints) {
            let path = self.config(file, &folder)?;
            written.staged.push(path);
        }
        // Removed before the folder it is in.
        written.folders.insert(0, folder.clone());
        written.checkpoint_folder = Some(folder);
        Ok(())
    }
}

impl Restore<'_> {
    /// Proves the files of the tree and makes them find each other; says what its tips read as.
    pub(super) async fn settle_tree(
        &self,
        plan: &RestorePlan,
        written: &mut Written,
    ) -> Result<(), JobError> {
        if plan.tree.is_empty() {
            return Ok(());
        }
        let tree = Tree {
            context: Arc::clone(self.context),
            journal: Arc::clone(self.journal),
            files: Arc::clone(&self.shared.files),
            volumes: self.shared.host.volumes().await.map_err(host_error)?,
            plan: plan.tree.clone(),
            now: written
                .tree
                .iter()
                .map(|file| file.path().to_owned())
                .collect(),
            leaves: plan
                .disks
                .iter()
                .map(|disk| disk.target_path.clone())
                .collect(),
            written: written.tree.clone(),
            new_ids: plan.disks.iter().any(|disk| disk.new_disk_id),
        };
        let settling = tokio::task::spawn_blocking(move || tree.settle());
        written.tips = settling.await.map_err(task_error)??;
        self.context.note(format!(
            "the {} files of the checkpoint tree are whole; it has {} tips",
            plan.tree.len(),
            written.tips.len()
        ));
        Ok(())
    }
}

/// Works on a thread that may block.
struct Tree {
    context: Arc<JobContext>,
    journal: Arc<Journal>,
    files: Arc<HostFiles>,
    volumes: Vec<VolumeFacts>,
    plan: Vec<TreeFilePlan>,
    /// Where each file is now: in its place, or beside it.
    now: Vec<String>,
    /// Files that disks of the VM use.
    leaves: Vec<String>,
    written: Vec<WrittenFile>,
    new_ids: bool,
}

impl Tree {
    fn settle(&self) -> Result<Vec<(String, ChainContent)>, JobError> {
        let found = read_back(&self.context, &self.files, &self.written)?;
        note_files(&self.journal, found)?;
        let mut tips = Vec::new();
        for (place, file) in self.plan.iter().enumerate() {
            let is_leaf = self
                .leaves
                .iter()
                .any(|leaf| host_path::same(leaf, &file.target_path));
            if is_leaf || !self.plan.iter().any(|other| other.parent == Some(place)) {
                tips.push((self.now[place].clone(), self.content(place)?));
            }
        }
        self.context.check()?;
        self.link()?;
        Ok(tips)
    }

    /// Returns what a file reads as with the parents of the plan, whatever paths the files name.
    fn content(&self, tip: usize) -> Result<ChainContent, JobError> {
        let mut layers = Vec::new();
        let mut at = Some(tip);
        while let Some(place) = at {
            let path = &self.now[place];
            let open = self.files.open_read(path).map_err(files_error)?;
            layers.push(DiskFile::open(open).map_err(|error| damaged(path, &error))?);
            at = self.plan[place].parent;
        }
        let path = &self.now[tip];
        let files = layers.len();
        let chain = Chain::from_layers(layers).map_err(|error| damaged(path, &error))?;
        let disk = chain.into_disk();
        let options = JobContext::pipeline_options(&self.context);
        self.context.set_progress(0, disk.size());
        let digest = image_digest(&disk, &options).map_err(|error| verify_error(path, error))?;
        Ok(ChainContent {
            digest,
            size_bytes: disk.size(),
            files,
        })
    }

    /// Gives disks their new ids, and each file its parent where that is not where it was; parents first, as a changed id
    /// changes what the children know their parent by.
    fn link(&self) -> Result<(), JobError> {
        let mut ids: BTreeMap<Uuid, Uuid> = BTreeMap::new();
        for (file, path) in self.plan.iter().zip(&self.now) {
            let parent = file
                .parent
                .map(|place| (&self.plan[place], &self.now[place]));
            let moved = |file: &TreeFilePlan| file.source_path != file.target_path;
            if let Some((parent, parent_now)) = parent
                && (self.new_ids || moved(file) || moved(parent))
            {
                let child = self.files.open_write(path).map_err(files_error)?;
                set_parent(
                    child,
                    &self.link_to(&file.target_path, parent, parent_now)?,
                    Durability::PowerLoss,
                )
                .map_err(|error| failed(path, &error))?;
            }
            if self.new_ids {
                let open = self.files.open_read(path).map_err(files_error)?;
                let had = inspect(open).map_err(|error| failed(path, &error))?.disk_id;
                let id = *ids.entry(had).or_insert_with(Uuid::new_v4);
                let open = self.files.open_write(path).map_err(files_error)?;
                set_disk_id(open, id, Durability::PowerLoss)
                    .map_err(|error| failed(path, &error))?;
            }
        }
        Ok(())
    }

    /// Says where a file finds its parent once both are in place; `now` is where the parent is meanwhile.
    fn link_to(
        &self,
        child: &str,
        parent: &TreeFilePlan,
        now: &str,
    ) -> Result<ParentLink, JobError> {
        let path = &parent.target_path;
        let open = self.files.open_read(now).map_err(files_error)?;
        let info = inspect(open).map_err(|error| failed(now, &error))?;
        let (folder, of_child) = (host_path::parent(path), host_path::parent(child));
        let beside = matches!((folder, of_child), (Some(a), Some(b)) if host_path::same(a, b));
        let volume = self
            .volumes
            .iter()
            .filter(|volume| host_path::is_below(path, &volume.path))
            .max_by_key(|volume| volume.path.len());
        let volume_path = volume.and_then(|volume| {
            let below = path.get(volume.path.len()..)?;
            Some(format!(
                "{}{}",
                volume.device_id,
                below.trim_start_matches('\\')
            ))
        });
        Ok(ParentLink {
            data_write_guid: info.data_write_guid,
            relative_path: beside.then(|| format!(r".\{}", host_path::file_name(path))),
            volume_path,
            absolute_path: Some(path.clone()),
        })
    }
}

fn failed(path: &str, error: &vhdx::Error) -> JobError {
    let message = format!("cannot change {path}: {}", causes(error));
    JobError::transient("file-error", message)
}

/// Says how the checkpoints of a VM differ from those of a recovery point, by names, moments and what hangs on what.
pub(super) fn difference(stored: &[CheckpointInfo], found: &[Checkpoint]) -> Option<String> {
    let stored: Vec<Node<'_>> = stored
        .iter()
        .map(|of| {
            (
                of.id.as_str(),
                of.parent.as_deref(),
                of.name.as_str(),
                of.created,
            )
        })
        .collect();
    let found: Vec<Node<'_>> = found
        .iter()
        .map(|of| {
            (
                of.id.as_str(),
                of.parent.as_deref(),
                of.name.as_str(),
                of.created,
            )
        })
        .collect();
    let (expected, there) = (lines(&stored), lines(&found));
    let missing = expected.iter().find(|line| !there.contains(line));
    let surplus = there.iter().find(|line| !expected.contains(line));
    match (missing, surplus) {
        (Some(line), _) => Some(format!("it has no checkpoint {line}")),
        (None, Some(line)) => Some(format!(
            "it has a checkpoint {line} that it should not have"
        )),
        (None, None) if expected.len() != there.len() => Some(format!(
            "it has {} checkpoints instead of {}",
            there.len(),
            expected.len()
        )),
        (None, None) => None,
    }
}

/// Id, parent's id, name, moment.
type Node<'a> = (&'a str, Option<&'a str>, &'a str, Option<model::Timestamp>);

/// Each checkpoint as the names and moments from the root of the tree down to it.
fn lines(nodes: &[Node<'_>]) -> Vec<String> {
    let line = |node: &Node<'_>| {
        let mut parts = Vec::new();
        let mut at = Some(node);
        // A tree that leads in a circle ends with the number of nodes.
        while let Some((_, parent, name, created)) = at.filter(|_| parts.len() <= nodes.len()) {
            let moment = created
                .map(|time| format!(" of {time}"))
                .unwrap_or_default();
            parts.push(format!("{name:?}{moment}"));
            at = parent.and_then(|parent| {
                nodes
                    .iter()
                    .find(|(id, ..)| id.eq_ignore_ascii_case(parent))
            });
        }
        parts.reverse();
        parts.join(" / ")
    };
    nodes.iter().map(line).collect()
}
