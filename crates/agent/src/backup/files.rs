//! The step `read` of the VSS method: every file of every chain and the configuration files, as images.
//!
//! The chains are opened on the shadow copies first, so that a file that does not fit its child fails the backup while
//! nothing has been sent. A parent whose length, time and DataWriteGuid are those of the newest point is taken over from
//! it; a leaf is always read. What did not change is stored once anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use api::agent_v1::{BackupSession, OpenBackup};
use hyperv::{ChainError, ConfigFile, ShadowView, VmDisk, VmFiles};
use model::{
    DiskChain, DiskFileFacts, DiskId, FileImage, HumanBytes, PointId, Timestamp, host_path,
};
use pipeline::{BackupSession as Pipeline, PlainFile, Plan};
use store::SessionKeys;
use vhdx::{Chain, DiskKind, Format};

use super::Backup;
use super::read::{count, session_keys};
use super::shadows::Shadowed;
use crate::errors::{backup_error, chain_error, on_shadow_error, task_error};
use crate::job::{JobContext, JobError};
use crate::links::ServerLink;

/// What was read.
pub(super) struct ReadFiles {
    pub(super) files: Vec<FileImage>,
    pub(super) chains: Vec<DiskChain>,
    /// The point that files were taken over from.
    pub(super) parent: Option<PointId>,
}

impl Backup<'_> {
    pub(super) async fn read_files(
        &self,
        shadowed: &Shadowed,
    ) -> Result<((BackupSession, ReadFiles), String), JobError> {
        let request = OpenBackup {
            fence: self.context.fence,
            vm: self.work.vm,
            host: shadowed.host.id,
            disks: Vec::new(),
            reference_points: Vec::new(),
            files: true,
        };
        let session = self
            .context
            .server
            .open_backup(self.context.job, &request)
            .await?;
        let reader = Reader {
            context: Arc::clone(self.context),
            view: shadowed.view.clone(),
            files: shadowed.files.clone(),
            known: session
                .known_files
                .iter()
                .flat_map(|known| &known.files)
                .map(|file| (host_path::key(&file.path), file.clone()))
                .collect(),
        };
        let link = Arc::new(ServerLink::new(self.context, session.session));
        let keys = session_keys(&session)?;
        let reading = tokio::task::spawn_blocking(move || reader.read(link, keys));
        let (files, chains, taken_over) = reading.await.map_err(task_error)??;
        let figures = self.context.figures(|_| ());
        let detail = format!(
            "{} files, {taken_over} of them unchanged parents: {} read, {} sent, {} already stored",
            files.len(),
            HumanBytes(figures.bytes_read),
            HumanBytes(figures.bytes_sent),
            HumanBytes(figures.bytes_reused)
        );
        let parent = session.known_files.as_ref().map(|known| known.point);
        let parent = parent.filter(|_| taken_over > 0);
        Ok((
            (
                session,
                ReadFiles {
                    files,
                    chains,
                    parent,
                },
            ),
            detail,
        ))
    }
}

/// Reads on a thread that may block.
struct Reader {
    context: Arc<JobContext>,
    view: ShadowView,
    files: VmFiles,
    /// Disk files of the newest point, by the keys of their paths.
    known: BTreeMap<String, FileImage>,
}

/// A disk file that is part of the point.
struct Part {
    path: String,
    facts: DiskFileFacts,
    len: u64,
    /// The file image it is taken over from.
    same: Option<FileImage>,
}

/// A configuration file that is part of the point.
struct Config {
    file: ConfigFile,
    /// InstanceID of the checkpoint it is of.
    checkpoint: Option<String>,
}

impl Reader {
    fn read(
        self,
        link: Arc<ServerLink>,
        keys: SessionKeys,
    ) -> Result<(Vec<FileImage>, Vec<DiskChain>, usize), JobError> {
        let mut parts = BTreeMap::new();
        let mut chains = Vec::new();
        for disk in &self.files.disks {
            let chain = self.open(&disk.path, paths_of(&disk.chain))?;
            self.add_parts(&chain, paths_of(&disk.chain), &mut parts)?;
            chains.push(describe(disk, chain)?);
        }
        for branch in &self.files.branches {
            let chain = self.open(&branch.path, paths_of(&branch.chain))?;
            self.add_parts(&chain, paths_of(&branch.chain), &mut parts)?;
        }
        self.take_over(&mut parts);
        let configs = self.configs()?;
        let read_again = |part: &Part| part.same.is_none();
        let total = parts.values().filter(|part| read_again(part));
        let total = total.map(|part| part.len).sum::<u64>();
        self.context.set_progress(0, total);

        let options = JobContext::pipeline_options(&self.context);
        let pipeline = Pipeline::new(link, keys, options);
        let mut files = Vec::new();
        let mut taken_over = 0;
        for part in parts.into_values() {
            let read = part.same.is_none();
            let image = match part.same {
                Some(same) => {
                    taken_over += 1;
                    same.image
                }
                None => self.image(&pipeline, &part.path)?,
            };
            if read {
                self.context.end_part(part.len);
                let chain = chains.iter_mut().find(|chain| {
                    chain
                        .files
                        .iter()
                        .any(|file| host_path::same(file, &part.path))
                });
                if let Some(chain) = chain {
                    chain.changed_bytes += image.len;
                }
            }
            files.push(FileImage {
                path: part.path,
                role: FileImage::DISK.to_owned(),
                image,
                checkpoint: None,
                disk: Some(part.facts),
            });
        }
        for config in configs {
            files.push(FileImage {
                image: self.image(&pipeline, &config.file.path)?,
                path: config.file.path,
                role: config.file.role.to_owned(),
                checkpoint: config.checkpoint,
                disk: None,
            });
        }
        pipeline.finish().map_err(backup_error)?;
        Ok((files, chains, taken_over))
    }

    fn image(&self, pipeline: &Pipeline, path: &str) -> Result<model::ImageRef, JobError> {
        let open = self.view.open_read(path).map_err(on_shadow_error)?;
        let source = PlainFile::new(open).map_err(|error| {
            JobError::transient("file-error", format!("cannot read {path}: {error}"))
        })?;
        let outcome = pipeline
            .add_image(&source, &Plan::Full)
            .map_err(backup_error)?;
        count(&self.context, &outcome.figures);
        Ok(outcome.image)
    }

    /// Opens a chain on the shadow copies; it must have the files that the host named.
    fn open(&self, leaf: &str, paths: Vec<&str>) -> Result<Chain, JobError> {
        let chain = self.view.open_chain(leaf).map_err(|error| match error {
            ChainError::File(error) => on_shadow_error(error),
            ChainError::Disk { .. } => chain_error(error),
        })?;
        if chain.layers().len() == paths.len() {
            return Ok(chain);
        }
        let message = format!(
            "the chain of {leaf} has {} files on its shadow copy, and {} on the host",
            chain.layers().len(),
            paths.len()
        );
        Err(JobError::transient("vm-changing", message))
    }

    fn add_parts(
        &self,
        chain: &Chain,
        paths: Vec<&str>,
        parts: &mut BTreeMap<String, Part>,
    ) -> Result<(), JobError> {
        for (place, (path, layer)) in paths.iter().zip(chain.layers()).enumerate() {
            let key = host_path::key(path);
            if parts.contains_key(&key) {
                continue;
            }
            let entry = self.view.stat(path).map_err(on_shadow_error)?;
            let entry = entry.ok_or_else(|| {
                JobError::transient("file-missing", format!("{path} is not on its shadow copy"))
            })?;
            let modified = entry
                .modified
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .and_then(|since| i64::try_from(since.as_millis()).ok())
                .map(Timestamp::from_millis);
            let facts = DiskFileFacts {
                parent: paths.get(place + 1).map(|&parent| parent.to_owned()),
                data_write_guid: layer.info().data_write_guid.to_string(),
                modified,
            };
            let part = Part {
                path: (*path).to_owned(),
                facts,
                len: entry.len,
                same: None,
            };
            parts.insert(key, part);
        }
        Ok(())
    }

    /// Finds parents that are as they were: never what a VM may write to, which is what no other file hangs on.
    fn take_over(&self, parts: &mut BTreeMap<String, Part>) {
        let parents: BTreeSet<String> = parts
            .values()
            .filter_map(|part| part.facts.parent.as_deref())
            .map(host_path::key)
            .collect();
        let leaves: BTreeSet<String> = self
            .files
            .disks
            .iter()
            .map(|disk| host_path::key(&disk.path))
            .collect();
        for (key, part) in parts {
            if !parents.contains(key) || leaves.contains(key) {
                continue;
            }
            part.same = self
                .known
                .get(key)
                .filter(|known| {
                    known.image.len == part.len
                        && part.facts.modified.is_some()
                        && known.disk.as_ref() == Some(&part.facts)
                })
                .cloned();
        }
    }

    /// Lists the configuration files, each with its role and checkpoint.
    fn configs(&self) -> Result<Vec<Config>, JobError> {
        let mut found = Vec::new();
        for place in &self.files.configs {
            let files = self.view.config_files(place).map_err(on_shadow_error)?;
            if !files.iter().any(|file| file.role == FileImage::CONFIG) {
                let of = place.checkpoint.as_deref().unwrap_or("the VM");
                return Err(JobError::transient(
                    "configuration-missing",
                    format!("the configuration of {of} is not on its shadow copy"),
                ));
            }
            found.extend(files.into_iter().map(|file| Config {
                file,
                checkpoint: place.checkpoint.clone(),
            }));
        }
        Ok(found)
    }
}

fn paths_of(chain: &[hyperv::DiskFile]) -> Vec<&str> {
    chain.iter().map(|file| file.path.as_str()).collect()
}

fn describe(disk: &VmDisk, chain: Chain) -> Result<DiskChain, JobError> {
    let unreadable = |error: vhdx::Error| {
        JobError::failed(
            "disk-unreadable",
            format!("disk {} cannot be read: {error}", disk.path),
        )
    };
    let files: Vec<String> = disk.chain.iter().map(|file| file.path.clone()).collect();
    let base_path = files.last().unwrap_or(&disk.path).clone();
    let content = chain.into_disk();
    let layers = content.layers();
    // Each VHD has an id of its own; that of the root names the disk.
    let named = match content.info().format {
        Format::Vhdx => layers.first(),
        Format::Vhd => layers.last(),
    };
    let id = named.map_or_else(|| content.disk_id(), |file| file.info().disk_id);
    let fixed = layers
        .last()
        .is_some_and(|root| root.info().kind == DiskKind::Fixed);
    Ok(DiskChain {
        id: DiskId(id),
        path: disk.path.clone(),
        base_path,
        attachment: disk.attachment.clone(),
        size_bytes: content.size(),
        block_bytes: content.block_bytes(),
        logical_sector_bytes: content.logical_sector_bytes(),
        physical_sector_bytes: content.physical_sector_bytes(),
        fixed,
        allocated_bytes: content.allocated_bytes().map_err(unreadable)?,
        files,
        changed_bytes: 0,
    })
}
