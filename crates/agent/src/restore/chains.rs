//! Disks that come as chains of files (VSS method): written under their own names, then merged into one.
//!
//! Every file is there under its name from the first byte, beside where the disk will be (S21). Once all are written they
//! are read back, the content of the chain is hashed, and the chain is merged from the root up: each file goes into the
//! root and is deleted. What cannot be merged in place (VHD) is copied into a new VHDX. The files are in the journal:
//! killed on the way, all go, and the next run begins anew.

use std::ops::ControlFlow;
use std::sync::Arc;

use hyperv::{HostFile, HostFiles};
use model::{DiskId, HumanBytes, RecoveryPoint, host_path};
use pipeline::{FileTarget, PlainFile, WrittenPieces, image_digest, restore_image, verify_image};
use plan::restore::{ChainFilePlan, DiskPlan, RestorePlan};
use store::ImageDigest;
use vhdx::{
    Chain, ConvertOptions, DiskFile, DiskKind, Durability, Format, MergedIdentity, Params, convert,
    merge, set_disk_id,
};

use super::Restore;
use super::disks::{Receiver, Written, make_folders};
use crate::errors::{files_error, restore_error, task_error, verify_error, write_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};

/// A file of a chain, written.
#[derive(Clone)]
pub(super) struct WrittenFile {
    /// Where it is.
    path: String,
    /// What must be read back from it.
    pieces: WrittenPieces,
}

/// What a disk that came as a chain reads as.
#[derive(Clone, Debug)]
pub(super) struct ChainContent {
    /// Digest of what the chain read as before it was merged.
    pub(super) digest: ImageDigest,
    /// Its size in bytes.
    pub(super) size_bytes: u64,
}

impl Receiver {
    /// Makes every file of every chain, so that all are there under their names, then fills them, leaf first.
    pub(super) fn chains(
        &self,
        plan: &RestorePlan,
        point: &RecoveryPoint,
    ) -> Result<Vec<Vec<WrittenFile>>, JobError> {
        let mut made = Vec::new();
        for disk in &plan.disks {
            let mut files = Vec::new();
            for file in &disk.chain {
                if let Some(folder) = host_path::parent(&file.target_path) {
                    make_folders(&self.files, &self.journal, folder)?;
                }
                files.push((file, self.create(&file.target_path)?));
            }
            made.push(files);
        }
        let mut written = Vec::new();
        for files in made {
            let mut chain = Vec::new();
            for (file, target) in files {
                chain.push(self.fill(file, target, point)?);
            }
            written.push(chain);
        }
        Ok(written)
    }

    fn fill(
        &self,
        file: &ChainFilePlan,
        target: HostFile,
        point: &RecoveryPoint,
    ) -> Result<WrittenFile, JobError> {
        let path = &file.target_path;
        let stored = point.file(&file.source_path).ok_or_else(|| {
            JobError::failed(
                "wrong-point",
                format!("the recovery point sent has no file {}", file.source_path),
            )
        })?;
        let io = |error: std::io::Error| write_error(path, &error);
        let mut target = FileTarget::create(target, stored.image.len).map_err(io)?;
        let options = JobContext::pipeline_options(&self.context);
        let outcome = restore_image(
            &stored.image,
            &self.names,
            &self.link,
            &mut target,
            &options,
        )
        .map_err(|error| restore_error(path, error))?;
        target.finish().map_err(io)?;
        self.context.end_part(stored.image.len);
        self.context.figures(|figures| {
            figures.bytes_read += outcome.figures.bytes_fetched;
            figures.bytes_stored += outcome.figures.bytes_written;
        });
        Ok(WrittenFile {
            path: path.clone(),
            pieces: outcome.pieces,
        })
    }
}

impl Restore<'_> {
    /// Merges every chain into its disk; says what each read as before.
    pub(super) async fn consolidate(&self, written: &mut Written) -> Result<(), JobError> {
        for disk in &mut written.disks {
            if disk.chain.is_empty() {
                continue;
            }
            let merger = Merger {
                context: Arc::clone(self.context),
                journal: Arc::clone(self.journal),
                files: Arc::clone(&self.shared.files),
                plan: disk.plan.clone(),
                chain: disk.chain.clone(),
            };
            let merging = tokio::task::spawn_blocking(move || merger.run());
            let watched = self.while_there_is_room(merging);
            disk.content = Some(watched.await?.map_err(task_error)??);
        }
        Ok(())
    }
}

/// Works on a thread that may block.
struct Merger {
    context: Arc<JobContext>,
    journal: Arc<Journal>,
    files: Arc<HostFiles>,
    plan: DiskPlan,
    chain: Vec<WrittenFile>,
}

impl Merger {
    fn run(&self) -> Result<ChainContent, JobError> {
        self.read_back()?;
        let content = self.content()?;
        let format = {
            let chain = self.open()?;
            chain.layers().first().map(|leaf| leaf.info().format)
        };
        let in_place = self
            .chain
            .last()
            .is_some_and(|root| host_path::same(&root.path, &self.plan.target_path));
        match (format, in_place) {
            (Some(Format::Vhdx), true) => self.merge()?,
            (Some(Format::Vhdx | Format::Vhd) | None, false) => self.copy()?,
            (Some(Format::Vhd) | None, true) => {
                let message = format!(
                    "the file of disk {} is named as a VHDX and is none",
                    self.plan.source_path
                );
                return Err(JobError::failed("disk-format", message));
            }
        }
        Ok(content)
    }

    /// Reads back what was written, each file as it came.
    fn read_back(&self) -> Result<(), JobError> {
        let total = self
            .chain
            .iter()
            .map(|file| file.pieces.image_bytes())
            .sum();
        self.context.set_progress(0, total);
        for file in &self.chain {
            let open = self.files.open_read(&file.path).map_err(files_error)?;
            let source =
                PlainFile::new(open).map_err(|error| self.failed(&file.path, "read", &error))?;
            let options = JobContext::pipeline_options(&self.context);
            verify_image(&file.pieces, &source, &options)
                .map_err(|error| verify_error(&file.path, error))?;
            self.context.end_part(file.pieces.image_bytes());
        }
        Ok(())
    }

    fn content(&self) -> Result<ChainContent, JobError> {
        let disk = self.open()?.into_disk();
        let options = JobContext::pipeline_options(&self.context);
        self.context.set_progress(0, disk.size());
        let digest = image_digest(&disk, &options)
            .map_err(|error| verify_error(&self.plan.source_path, error))?;
        Ok(ChainContent {
            digest,
            size_bytes: disk.size(),
        })
    }

    /// Opens the chain by what was written, whatever paths its files name.
    fn open(&self) -> Result<Chain, JobError> {
        let mut layers = Vec::new();
        for file in &self.chain {
            let open = self.files.open_read(&file.path).map_err(files_error)?;
            let layer = DiskFile::open(open).map_err(|error| self.damaged(&file.path, &error))?;
            layers.push(layer);
        }
        Chain::from_layers(layers).map_err(|error| self.damaged(&self.plan.source_path, &error))
    }

    /// Merges from the root up: the root takes the identity of what went into it, so that the next child accepts it.
    fn merge(&self) -> Result<(), JobError> {
        let Some((root, children)) = self.chain.split_last() else {
            return Ok(());
        };
        for child in children.iter().rev() {
            self.context.check()?;
            let source = self.files.open_write(&child.path).map_err(files_error)?;
            let target = self.files.open_write(&root.path).map_err(files_error)?;
            let mut progress = self.progress();
            merge(
                source,
                target,
                MergedIdentity::Child,
                Durability::PowerLoss,
                &mut progress,
            )
            .map_err(|error| self.failed(&root.path, "merge into", &error))?;
            self.files.delete(&child.path).map_err(files_error)?;
            self.context.note(format!("{} was merged", child.path));
        }
        if let Some(id) = self.new_id() {
            let file = self.files.open_write(&root.path).map_err(files_error)?;
            set_disk_id(file, id.0, Durability::PowerLoss)
                .map_err(|error| self.failed(&root.path, "change", &error))?;
        }
        Ok(())
    }

    /// Copies the chain into a new VHDX and deletes its files.
    fn copy(&self) -> Result<(), JobError> {
        let path = &self.plan.target_path;
        self.context.check()?;
        let disk = self.open()?.into_disk();
        let fixed = disk
            .layers()
            .last()
            .is_some_and(|root| root.info().kind == DiskKind::Fixed);
        let like = Params::like(disk.info());
        let params = Params {
            kind: if fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            disk_id: self.new_id().unwrap_or(self.plan.disk).0,
            ..like
        };
        self.journal.will(Deed::File { path: path.clone() })?;
        let target = self.files.create_new(path).map_err(files_error)?;
        let mut progress = self.progress();
        convert(
            &disk,
            target,
            &params,
            ConvertOptions::default(),
            &mut progress,
        )
        .map_err(|error| self.failed(path, "write", &error))?;
        drop(disk);
        for file in &self.chain {
            self.files.delete(&file.path).map_err(files_error)?;
        }
        self.context.note(format!(
            "the chain of {} was copied into {path}",
            self.plan.source_path
        ));
        Ok(())
    }

    fn new_id(&self) -> Option<DiskId> {
        self.plan.new_disk_id.then(|| DiskId(uuid::Uuid::new_v4()))
    }

    fn progress(&self) -> impl FnMut(vhdx::Progress) -> ControlFlow<()> {
        let context = Arc::clone(&self.context);
        move |at| {
            context.set_progress(at.bytes_done, at.bytes_total);
            match context.check() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }
    }

    fn failed(
        &self,
        path: &str,
        action: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> JobError {
        if crate::errors::is_full(error) {
            return write_error(path, error);
        }
        let message = format!("cannot {action} {path}: {}", crate::errors::chain(error));
        JobError::transient("merge-failed", message)
    }

    fn damaged(&self, path: &str, error: &vhdx::Error) -> JobError {
        let message = format!(
            "{path} is no sound disk file: {}",
            crate::errors::chain(error)
        );
        JobError::failed("damaged", message)
            .hint("restore an older recovery point; `reprise point verify` tells which are whole")
    }
}

/// What the merging came to, for people.
pub(super) fn merged_text(written: &Written) -> Option<String> {
    let merged = written.disks.iter().filter(|disk| !disk.chain.is_empty());
    let (disks, files, bytes) =
        merged.fold((0_usize, 0_usize, 0_u64), |(disks, files, bytes), disk| {
            let len: u64 = disk
                .chain
                .iter()
                .map(|file| file.pieces.image_bytes())
                .sum();
            (disks + 1, files + disk.chain.len(), bytes + len)
        });
    (disks > 0).then(|| {
        format!(
            "{files} files ({}) merged into {disks} disks",
            HumanBytes(bytes)
        )
    })
}
