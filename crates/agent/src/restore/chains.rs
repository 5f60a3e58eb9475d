//! Disks that come as chains of files (VSS method): written under their own names, then made into one (`join`).
//!
//! Every file is there under its name from the first byte, beside where the disk will be (S21). Once all are written they
//! are read back, and the content of the chain is hashed before it is merged.

use std::ops::ControlFlow;
use std::sync::Arc;

use api::receipt::FileEvidence;
use hyperv::HostFiles;
use model::{HumanBytes, RecoveryPoint, host_path};
use pipeline::{PlainFile, WrittenPieces, image_digest, verify_image};
use plan::restore::RestorePlan;
use store::ImageDigest;

use super::Restore;
use super::disks::{Receiver, Written, make_folders};
use super::join::Joined;
pub(super) use super::join::damaged;
use super::kept::{NewFile, file_header};
use super::verify::read_back_of;
use crate::errors::{files_error, task_error, verify_error};
use crate::job::{JobContext, JobError};
use crate::journal::Journal;

/// A file of a chain, written.
#[derive(Clone)]
pub(super) struct WrittenFile {
    /// Where it was at backup time.
    source: String,
    /// Where it is.
    path: String,
    /// What must be read back from it.
    pieces: WrittenPieces,
}

impl WrittenFile {
    /// Returns where it was written.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// What a disk that came as a chain reads as.
#[derive(Clone, Debug)]
pub(super) struct ChainContent {
    /// Digest of what the chain read as before it was merged.
    pub(super) digest: ImageDigest,
    /// Its size in bytes.
    pub(super) size_bytes: u64,
    /// Files it is made of in the end.
    pub(super) files: usize,
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
                files.push((
                    file,
                    self.begin(&file.source_path, &file.target_path, point)?,
                ));
            }
            made.push(files);
        }
        let mut written = Vec::new();
        for files in made {
            let mut chain = Vec::new();
            for (file, target) in files {
                let (source, path) = (&file.source_path, &file.target_path);
                chain.push(self.fill(source, path, target, point)?);
            }
            written.push(chain);
        }
        Ok(written)
    }

    /// Makes the file for a file of the point, unless an earlier attempt left it.
    pub(super) fn begin(
        &self,
        source: &str,
        path: &str,
        point: &RecoveryPoint,
    ) -> Result<Option<NewFile>, JobError> {
        if self.is_kept(path) {
            return Ok(None);
        }
        let image = &self.stored(point, source)?.image;
        self.create_data(&file_header(path, image)).map(Some)
    }

    /// Writes a file of the point, `source`, into the file at `path`, which was [begun](Self::begin).
    pub(super) fn fill(
        &self,
        source: &str,
        path: &str,
        made: Option<NewFile>,
        point: &RecoveryPoint,
    ) -> Result<WrittenFile, JobError> {
        let image = &self.stored(point, source)?.image;
        let seeds = self.seeds.as_ref();
        let seeds = seeds.and_then(|seeds| seeds.for_file(source));
        let outcome = self.write_file(path, image, made, seeds)?;
        Ok(WrittenFile {
            source: source.to_owned(),
            path: path.to_owned(),
            pieces: outcome.pieces,
        })
    }

    pub(super) fn stored<'p>(
        &self,
        point: &'p RecoveryPoint,
        source: &str,
    ) -> Result<&'p model::FileImage, JobError> {
        point.file(source).ok_or_else(|| {
            JobError::failed(
                "wrong-point",
                format!("the recovery point sent has no file {source}"),
            )
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
                joined: Joined {
                    job: self.context.job,
                    journal: Arc::clone(self.journal),
                    files: Arc::clone(&self.shared.files),
                    plan: disk.plan.clone(),
                    paths: disk.chain.iter().map(|file| file.path.clone()).collect(),
                },
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
    joined: Joined,
    chain: Vec<WrittenFile>,
}

impl Merger {
    fn run(&self) -> Result<ChainContent, JobError> {
        let found = read_back(&self.context, &self.joined.files, &self.chain)?;
        note_files(&self.joined.journal, found)?;
        let content = self.content()?;
        self.context.check()?;
        let context = Arc::clone(&self.context);
        let mut go_on = move |at: vhdx::Progress| {
            context.set_progress(at.bytes_done, at.bytes_total);
            match context.check() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        self.joined.make_one(&mut go_on)?;
        self.context.note(format!(
            "the {} files of disk {} are one: {}",
            self.chain.len(),
            self.joined.plan.source_path,
            self.joined.plan.target_path
        ));
        Ok(content)
    }

    fn content(&self) -> Result<ChainContent, JobError> {
        let disk = self.joined.open()?.into_disk();
        let options = JobContext::pipeline_options(&self.context);
        self.context.set_progress(0, disk.size());
        let digest = image_digest(&disk, &options)
            .map_err(|error| verify_error(&self.joined.plan.source_path, error))?;
        Ok(ChainContent {
            digest,
            size_bytes: disk.size(),
            files: 1,
        })
    }
}

/// Reads back what was written past the page cache, each file as it came.
pub(super) fn read_back(
    context: &Arc<JobContext>,
    files: &HostFiles,
    written: &[WrittenFile],
) -> Result<Vec<FileEvidence>, JobError> {
    let total = written.iter().map(|file| file.pieces.image_bytes());
    context.set_progress(0, total.sum());
    let mut found = Vec::new();
    for file in written {
        let path = &file.path;
        let open = files.open_past_cache(path).map_err(files_error)?;
        let read_back = read_back_of(open.bypass());
        let source = PlainFile::new(open).map_err(|error| {
            JobError::transient("file-error", format!("cannot read {path}: {error}"))
        })?;
        let options = JobContext::pipeline_options(context);
        verify_image(&file.pieces, &source, &options).map_err(|error| verify_error(path, error))?;
        context.end_part(file.pieces.image_bytes());
        found.push(FileEvidence {
            source_path: file.source.clone(),
            path: path.clone(),
            size_bytes: file.pieces.image_bytes(),
            digest: file.pieces.digest().map(|digest| digest.to_string()),
            read_back,
            zeroed: Vec::new(),
        });
    }
    Ok(found)
}

/// Writes into the journal what files read back as; a file that is read again says it anew.
pub(super) fn note_files(journal: &Journal, found: Vec<FileEvidence>) -> Result<(), JobError> {
    journal.found(|evidence| {
        evidence
            .files
            .retain(|known| !found.iter().any(|file| file.path == known.path));
        evidence.files.extend(found);
    })
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
