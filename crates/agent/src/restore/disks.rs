//! The step `send`: data comes and is written into new files beside their final places.

use std::sync::Arc;

use api::agent_v1::RestoreSession;
use hyperv::{HostFile, HostFiles};
use model::{FileImage, HumanBytes, host_path};
use pipeline::{FileTarget, Options, WrittenPieces, restore_image};
use plan::restore::{DiskPlan, RestoreKind, RestorePlan, Route};
use store::{CellKey, SessionKeys};
use vhdx::{DiskKind, Params};

use super::chains::{ChainContent, WrittenFile};
use super::kept::{Kept, Wanted, staged_path};
use super::seeds::{self, OpenSeeds};
use super::{Restore, staging_folder};
use crate::errors::{files_error, restore_error, task_error, write_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::links::ServerLink;
use crate::parked::Record;

/// Files written, not yet in place.
pub(super) struct Written {
    /// Disks, in the order of the plan.
    pub(super) disks: Vec<WrittenDisk>,
    /// Path of the configuration file to import, where the route needs it.
    pub(super) config_file: Option<String>,
    /// Other files beside the configuration file.
    pub(super) staged: Vec<String>,
    /// Staging folders, to be removed once empty.
    pub(super) folders: Vec<String>,
    /// Folder of the checkpoints' configuration files, where they come back.
    pub(super) checkpoint_folder: Option<String>,
    /// Files of the checkpoint tree, in the order of the plan.
    pub(super) tree: Vec<WrittenFile>,
    /// What each tip of the tree reads as, once it is proven.
    pub(super) tips: Vec<(String, ChainContent)>,
    /// What is kept of a VM that made room.
    pub(super) kept: Option<Record>,
}

/// A disk written into a new file.
pub(super) struct WrittenDisk {
    /// What was planned.
    pub(super) plan: DiskPlan,
    /// Where it is now, and what must be read back from it; `None` for one that comes as a chain.
    pub(super) flat: Option<FlatDisk>,
    /// The files it comes as, leaf first.
    pub(super) chain: Vec<WrittenFile>,
    /// What the chain read as, once it is merged.
    pub(super) content: Option<ChainContent>,
}

/// A disk in a new file of ours.
pub(super) struct FlatDisk {
    /// Where it is now.
    pub(super) staged: String,
    /// What must be read back from it.
    pub(super) pieces: WrittenPieces,
}

impl Restore<'_> {
    pub(super) async fn receive(
        &self,
        plan: &RestorePlan,
        session: &RestoreSession,
    ) -> Result<(Written, String), JobError> {
        let mut receiver = Receiver {
            context: Arc::clone(self.context),
            journal: Arc::clone(self.journal),
            files: Arc::clone(&self.shared.files),
            link: ServerLink::new(self.context, session.session),
            names: restore_keys(session)?,
            seeds: None,
            kept: Kept::default(),
            checkpoint_bytes: self.shared.options.checkpoint_bytes.get(),
        };
        if is_chained(plan) {
            // Their files have their final names from the first byte on.
            self.park(&plan.park).await?;
        }
        let cell_key = match &session.seeds {
            Some(keys) => Some(CellKey::new(key_of(&keys.cell_key)?)),
            None => None,
        };
        let point = session.point.clone();
        let plan = plan.clone();
        let receiving = tokio::task::spawn_blocking(move || {
            receiver.seeds = cell_key.map(|key| {
                let (context, journal) = (&receiver.context, &receiver.journal);
                seeds::open(context, journal, &receiver.files, &plan, &point, key)
            });
            let written = receiver.receive(&plan, &point)?;
            if let Some(seeds) = receiver.seeds.take() {
                seeds.tell(&receiver.context);
            }
            Ok::<_, JobError>((written, receiver.kept.goes_on.take()))
        });
        let watched = self.while_there_is_room(receiving);
        let (written, goes_on) = watched.await?.map_err(task_error)??;
        let figures = self.context.figures(|_| ());
        let detail = format!(
            "{} received, {} reused, {} written into {} disk files",
            HumanBytes(figures.bytes_sent),
            HumanBytes(figures.bytes_reused),
            HumanBytes(figures.bytes_stored),
            written.disks.len()
        );
        let detail = match goes_on {
            Some(goes_on) => format!("{goes_on}; {detail}"),
            None => detail,
        };
        Ok((written, detail))
    }
}

/// Ids are checked; only seeds are cut.
fn restore_keys(session: &RestoreSession) -> Result<SessionKeys, JobError> {
    let cut_key = match &session.seeds {
        Some(keys) => key_of(&keys.cut_key)?,
        None => [0; 32],
    };
    Ok(SessionKeys::new(key_of(&session.id_key)?, cut_key))
}

fn key_of(text: &str) -> Result<[u8; 32], JobError> {
    let key = hex::decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    key.ok_or_else(|| JobError::failed("server-protocol", "a key of the session cannot be read"))
}

/// Works on a thread that may block.
pub(super) struct Receiver {
    pub(super) context: Arc<JobContext>,
    pub(super) journal: Arc<Journal>,
    pub(super) files: Arc<HostFiles>,
    pub(super) link: ServerLink,
    pub(super) names: SessionKeys,
    /// What the host has anyway.
    pub(super) seeds: Option<OpenSeeds>,
    /// What earlier attempts left.
    pub(super) kept: Kept,
    /// Bytes written between two checkpoints.
    pub(super) checkpoint_bytes: u64,
}

impl Receiver {
    fn receive(
        &mut self,
        plan: &RestorePlan,
        point: &model::RecoveryPoint,
    ) -> Result<Written, JobError> {
        let flat = plan.disks.iter().filter_map(|disk| find(point, disk));
        let flat: u64 = flat.map(|disk| disk.image.len).sum();
        let chains = plan.disks.iter().flat_map(|disk| &disk.chain);
        let chains: u64 = chains.map(|file| file.file_bytes).sum();
        let tree: u64 = plan.tree.iter().map(|file| file.file_bytes).sum();
        let all = flat.saturating_add(chains).saturating_add(tree);
        self.context.set_progress(0, all);
        self.look_at_kept(&self.wanted(plan, point)?, all)?;
        let mut written = Written {
            disks: Vec::new(),
            config_file: None,
            staged: Vec::new(),
            folders: Vec::new(),
            checkpoint_folder: None,
            tree: self.tree(plan, point)?,
            tips: Vec::new(),
            kept: None,
        };
        let chains = self.chains(plan, point)?;
        for (disk, chain) in plan.disks.iter().zip(chains) {
            let flat = match is_flat(plan, disk) {
                true => Some(self.disk(disk, point, &mut written.folders)?),
                false => None,
            };
            written.disks.push(WrittenDisk {
                plan: disk.clone(),
                flat,
                chain,
                content: None,
            });
        }
        if let RestoreKind::Vm(vm) = &plan.kind
            && vm.route != Route::Define
        {
            let folder = self.folder(&vm.config_folder, &mut written.folders)?;
            let own = |file: &&FileImage| !file.is_disk() && file.checkpoint.is_none();
            for file in point.files.iter().filter(own) {
                let path = self.config(file, &folder)?;
                if file.role == "config" {
                    written.config_file = Some(path);
                } else {
                    written.staged.push(path);
                }
            }
            if !plan.tree.is_empty() {
                self.checkpoint_configs(&folder, point, &mut written)?;
            }
        }
        Ok(written)
    }

    /// Writes a disk into a new VHDX.
    fn disk(
        &self,
        plan: &DiskPlan,
        point: &model::RecoveryPoint,
        folders: &mut Vec<String>,
    ) -> Result<FlatDisk, JobError> {
        let disk = find(point, plan).ok_or_else(|| {
            JobError::failed(
                "wrong-point",
                format!("the recovery point sent has no disk {}", plan.disk),
            )
        })?;
        let target_folder = host_path::parent(&plan.target_path).ok_or_else(|| {
            JobError::failed("bad-path", format!("{} has no folder", plan.target_path))
        })?;
        let folder = self.folder(target_folder, folders)?;
        let staged = host_path::join(&folder, host_path::file_name(&plan.target_path));
        let seeds = self.seeds.as_ref();
        let seeds = seeds.and_then(|seeds| seeds.for_disk(disk.id, disk.size_bytes));
        let outcome = self.write_disk(&staged, &disk.image, &params_of(plan, disk), seeds)?;
        Ok(FlatDisk {
            staged,
            pieces: outcome.pieces,
        })
    }

    /// Returns the files of data that a plan wants written.
    fn wanted<'p>(
        &self,
        plan: &RestorePlan,
        point: &'p model::RecoveryPoint,
    ) -> Result<Vec<Wanted<'p>>, JobError> {
        let job = self.context.job;
        let mut wanted = Vec::new();
        let chains = plan.disks.iter().flat_map(|disk| &disk.chain);
        let chains = chains.map(|file| (&file.source_path, &file.target_path));
        let tree = plan.tree.iter();
        let tree = tree.map(|file| (&file.source_path, &file.target_path));
        for (source, target) in tree.chain(chains) {
            wanted.push(Wanted {
                path: target.clone(),
                image: &self.stored(point, source)?.image,
                disk: None,
            });
        }
        for disk in &plan.disks {
            if let Some(path) = staged_path(&disk.target_path, job)
                && is_flat(plan, disk)
                && let Some(image) = find(point, disk)
            {
                wanted.push(Wanted {
                    path,
                    image: &image.image,
                    disk: Some(params_of(disk, image)),
                });
            }
        }
        Ok(wanted)
    }

    /// Writes a configuration file under its own name.
    pub(super) fn config(&self, file: &FileImage, folder: &str) -> Result<String, JobError> {
        let name = host_path::file_name(&file.path);
        host_path::check_name(name).map_err(|reason| {
            JobError::failed(
                "bad-path",
                format!("configuration file {:?}: {reason}", file.path),
            )
        })?;
        let path = host_path::join(folder, name);
        let target = self.create(&path)?;
        let io = |error: std::io::Error| write_error(&path, &error);
        let mut target = FileTarget::create(target, file.image.len).map_err(io)?;
        let options = Options {
            cancel: self.context.pipeline_cancel(),
            ..Options::default()
        };
        restore_image(&file.image, &self.names, &self.link, &mut target, &options)
            .map_err(|error| restore_error(&path, error))?;
        target.finish().map_err(io)?;
        Ok(path)
    }

    pub(super) fn create(&self, path: &str) -> Result<HostFile, JobError> {
        self.context.check()?;
        self.journal.will(Deed::File {
            path: path.to_owned(),
        })?;
        self.files.create_new(path).map_err(files_error)
    }

    /// Makes the staging folder of a target folder.
    fn folder(&self, target: &str, folders: &mut Vec<String>) -> Result<String, JobError> {
        let path = staging_folder(target, self.context.job);
        if !folders.contains(&path) {
            make_folders(&self.files, &self.journal, &path)?;
            folders.push(path.clone());
        }
        Ok(path)
    }
}

/// Whether a disk comes as one image.
fn is_flat(plan: &RestorePlan, disk: &DiskPlan) -> bool {
    disk.chain.is_empty() && plan.tree.is_empty()
}

/// Returns how the file of a disk is laid out.
fn params_of(plan: &DiskPlan, disk: &model::DiskImage) -> Params {
    Params {
        size: disk.size_bytes,
        block_bytes: disk.block_bytes,
        logical: disk.logical_sector_bytes,
        physical: disk.physical_sector_bytes,
        kind: if plan.fixed {
            DiskKind::Fixed
        } else {
            DiskKind::Dynamic
        },
        disk_id: if plan.new_disk_id {
            uuid::Uuid::new_v4()
        } else {
            disk.id.0
        },
        parent: None,
    }
}

/// Whether disks come as files under their final names.
pub(super) fn is_chained(plan: &RestorePlan) -> bool {
    !plan.tree.is_empty() || plan.disks.iter().any(|disk| !disk.chain.is_empty())
}

/// Makes a folder with those above it; each that was missing is in the journal before it is made.
pub(super) fn make_folders(
    files: &HostFiles,
    journal: &Journal,
    path: &str,
) -> Result<(), JobError> {
    let mut missing = Vec::new();
    let mut at = Some(path);
    while let Some(folder) = at {
        if files.stat(folder).map_err(files_error)?.is_some() {
            break;
        }
        missing.push(folder.to_owned());
        at = host_path::parent(folder);
    }
    for folder in missing.iter().rev() {
        journal.will(Deed::Folder {
            path: folder.clone(),
        })?;
    }
    files.create_folders(path).map(|_| ()).map_err(files_error)
}

fn find<'p>(point: &'p model::RecoveryPoint, plan: &DiskPlan) -> Option<&'p model::DiskImage> {
    point
        .disks
        .iter()
        .find(|disk| disk.id == plan.disk && disk.path == plan.source_path)
}
