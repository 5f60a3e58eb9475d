//! Going on after a cut: files of data with checkpoints, and what a later attempt takes over of them.
//!
//! While a file is written, its data is made durable every so many bytes, and then noted in its record (`record`). A later
//! attempt of the job reads what the record speaks of and compares the hash of each MiB: what holds stays, all else is
//! cleared and fetched. A file that is not ours any more, or was changed in its structure, is written anew.
//!
//! Invariants: a record never speaks of data that is not durable; nothing is kept that was not read and hashed; a file and
//! its record are in the journal before they are made.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hyperv::{HostFile, HostFiles};
use model::{HumanBytes, ImageRef, host_path};
use pipeline::{
    FileTarget, ImageTarget, Options, Piece, PlainFile, RestoreOutcome, SeedUse, WrittenPieces,
    held_pieces, restore_image, resume_image,
};
use plan::restore::RestorePlan;
use store::BoxError;
use vhdx::{BulkWriter, Params, Unfinished};

use super::disks::Receiver;
use super::record::{Header, Record};
use super::staging_folder;
use crate::errors::{files_error, restore_error, verify_error, write_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};

/// A file of data as the plan wants it.
pub(super) struct Wanted<'p> {
    /// Where it is written.
    pub(super) path: String,
    /// What it becomes.
    pub(super) image: &'p ImageRef,
    /// The virtual disk that is laid out in it; `None` where the image is the file itself.
    pub(super) disk: Option<Params>,
}

/// A new file with its record.
pub(super) type NewFile = (HostFile, Record);

/// What earlier attempts left of the files of data, by path.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What was found of them, for the job's log.
    pub(super) goes_on: Option<String>,
    files: Mutex<BTreeMap<String, Held>>,
}

/// A file that is gone on with.
#[derive(Debug)]
struct Held {
    /// What it holds, as was read.
    pieces: WrittenPieces,
    header: Header,
    record: Record,
}

/// What the record of a file says, not yet compared with the file.
struct Recorded {
    pieces: WrittenPieces,
    header: Header,
    record: Record,
}

impl Kept {
    fn take(&self, path: &str) -> Option<Held> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.remove(path)
    }
}

/// Returns the paths of the files of data that a plan writes.
pub(super) fn data_paths(plan: &RestorePlan, job: model::JobId) -> Vec<String> {
    let tree = plan.tree.iter().map(|file| file.target_path.clone());
    let chains = plan.disks.iter().flat_map(|disk| &disk.chain);
    let chains = chains.map(|file| file.target_path.clone());
    let flat = plan
        .disks
        .iter()
        .filter(|disk| plan.tree.is_empty() && disk.chain.is_empty())
        .filter_map(|disk| staged_path(&disk.target_path, job));
    tree.chain(chains).chain(flat).collect()
}

/// Returns where a disk is written before it gets its name.
pub(super) fn staged_path(target: &str, job: model::JobId) -> Option<String> {
    let folder = host_path::parent(target)?;
    let name = host_path::file_name(target);
    Some(host_path::join(&staging_folder(folder, job), name))
}

/// What earlier attempts left on the host, as far as a plan must know of it.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Files of data with what they take on their volumes.
    data: Vec<(String, u64)>,
    /// Files that stood in the way and were moved aside already.
    pub(super) moved: Vec<String>,
}

impl Leftovers {
    /// Looks at what the journal names.
    pub(super) fn look(files: &HostFiles, journal: &Journal) -> Result<Self, JobError> {
        let entries = journal.entries();
        let mut found = Self::default();
        for (path, _) in entries.data() {
            let entry = files.stat(path).map_err(files_error)?;
            let bytes = entry.map_or(0, |entry| entry.allocated_bytes);
            found.data.push((path.to_owned(), bytes));
        }
        found.moved = moved_aside(&entries.deeds);
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.moved.is_empty()
    }

    /// Returns the paths of the files of data.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.data.iter().map(|(path, _)| path.as_str())
    }

    /// Whether a path is that of a file of data.
    pub(super) fn has(&self, path: &str) -> bool {
        self.paths().any(|own| host_path::same(own, path))
    }

    /// Returns what the files of data take on the volume that `is_on_volume` tells of.
    pub(super) fn bytes_on(&self, is_on_volume: impl Fn(&str) -> bool) -> u64 {
        let there = self.data.iter().filter(|(path, _)| is_on_volume(path));
        there.map(|(_, bytes)| bytes).sum()
    }
}

/// Returns where the files were that were moved aside.
pub(super) fn moved_aside(deeds: &[Deed]) -> Vec<String> {
    let moved = deeds.iter().filter_map(|deed| {
        if let Deed::MoveAside { from, .. } = deed {
            return Some(from.clone());
        }
        None
    });
    moved.collect()
}

impl Receiver {
    /// Looks at what earlier attempts left of these files; says in the job's log what of it is good.
    pub(super) fn look_at_kept(&mut self, wanted: &[Wanted<'_>], all: u64) -> Result<(), JobError> {
        let mut recorded = Vec::new();
        for file in wanted {
            if let Some(found) = self.recorded(file)? {
                recorded.push((file, found));
            }
        }
        if recorded.is_empty() {
            return Ok(());
        }
        let written: u64 = recorded
            .iter()
            .map(|(_, of)| of.pieces.covered_bytes())
            .sum();
        // What people were shown before the cut stays; what turns out not to hold is fetched below it.
        self.context.set_progress(written, all);
        let mut held_bytes = 0;
        for (file, found) in recorded {
            self.context.check()?;
            if let Some(held) = self.compared(file, found)? {
                held_bytes += held.pieces.covered_bytes();
                let files = self.kept.files.get_mut();
                let files = files.unwrap_or_else(PoisonError::into_inner);
                files.insert(file.path.clone(), held);
            }
        }
        self.context.set_progress(held_bytes, all);
        let goes_on = format!(
            "goes on: {} of {} were written before the cut, {} of that checked and kept, {} to be fetched again",
            HumanBytes(written),
            HumanBytes(all),
            HumanBytes(held_bytes),
            HumanBytes(written - held_bytes),
        );
        self.context.note(goes_on.as_str());
        self.kept.goes_on = Some(goes_on);
        self.context
            .figures(|figures| figures.bytes_reused += held_bytes);
        Ok(())
    }

    /// Reads the record of a file; `None` where there is none of this image.
    fn recorded(&self, file: &Wanted<'_>) -> Result<Option<Recorded>, JobError> {
        let entries = self.journal.entries();
        let Some((_, name)) = entries.data().find(|(path, _)| *path == file.path) else {
            return Ok(None);
        };
        let read = Record::open(self.journal.home(), name).map_err(unkept)?;
        let Some((record, header, pieces)) = read else {
            return Ok(None);
        };
        let same_kind = header.disk_id.is_some() == file.disk.is_some();
        if !header.is_of(file.image) || !same_kind {
            return Ok(None);
        }
        let pieces = WrittenPieces::from_record(file.image.len, newest(pieces));
        Ok(pieces.map(|pieces| Recorded {
            pieces,
            header,
            record,
        }))
    }

    /// Compares a file with its record; `None` where nothing of it can be kept.
    fn compared(&self, file: &Wanted<'_>, found: Recorded) -> Result<Option<Held>, JobError> {
        let Recorded {
            mut pieces,
            header,
            mut record,
        } = found;
        let path = &file.path;
        if self.files.stat(path).map_err(files_error)?.is_none() {
            return Ok(None);
        }
        let options = JobContext::pipeline_options(&self.context);
        let recorded = pieces.as_slice().len();
        let target = self.files.open_write(path).map_err(files_error)?;
        let read = match &file.disk {
            Some(params) => {
                let written_to = pieces.keep_front();
                match Unfinished::open(target, &with_id(params, &header), written_to) {
                    Ok(disk) => held_pieces(&pieces, &disk, &options),
                    Err(error) => {
                        self.begun_anew(path, &error);
                        return Ok(None);
                    }
                }
            }
            None => match PlainFile::new(target) {
                Ok(source) if pipeline::ImageSource::len(&source) == file.image.len => {
                    held_pieces(&pieces, &source, &options)
                }
                Ok(_) => {
                    self.begun_anew(path, &std::io::Error::other("it has another length"));
                    return Ok(None);
                }
                Err(error) => return Err(write_error(path, &error)),
            },
        };
        let mut held = read.map_err(|error| verify_error(path, error))?;
        if file.disk.is_some() {
            held.keep_front();
        }
        if held.as_slice().is_empty() {
            return Ok(None);
        }
        if held.covered_bytes() < pieces.covered_bytes() || pieces.as_slice().len() < recorded {
            // What does not hold must not be believed by a later attempt, either.
            let name = self.record_name(path).unwrap_or_default();
            record = Record::create(self.journal.home(), &name, &header, held.as_slice())
                .map_err(unkept)?;
        }
        Ok(Some(Held {
            pieces: held,
            header,
            record,
        }))
    }

    fn begun_anew(&self, path: &str, why: &dyn std::error::Error) {
        self.context
            .note(format!("{path} is written from the start: {why}"));
    }

    fn record_name(&self, path: &str) -> Option<String> {
        let entries = self.journal.entries();
        let found = entries.data().find(|(of, _)| *of == path);
        found.map(|(_, name)| name.to_owned())
    }

    /// Makes a new file of data with its record; what an earlier attempt left of it goes.
    pub(super) fn create_data(&self, header: &Header) -> Result<NewFile, JobError> {
        self.context.check()?;
        let path = &header.path;
        let name = match self.record_name(path) {
            Some(name) => {
                self.files.delete(path).map_err(files_error)?;
                name
            }
            None => {
                let (job, fence) = (self.context.job, self.context.fence);
                let number = self.journal.entries().deeds.len();
                let name = format!("jobs/{job}-{fence}-{number}.pieces");
                self.journal.will(Deed::Data {
                    path: path.clone(),
                    record: name.clone(),
                })?;
                name
            }
        };
        let record = Record::create(self.journal.home(), &name, header, &[]).map_err(unkept)?;
        let file = self.files.create_new(path).map_err(files_error)?;
        if let Some(folder) = host_path::parent(path) {
            self.files.sync_folder(folder).map_err(files_error)?;
        }
        Ok((file, record))
    }

    /// Whether a file is gone on with.
    pub(super) fn is_kept(&self, path: &str) -> bool {
        let files = self.kept.files.lock();
        files
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(path)
    }

    /// Writes a virtual disk, from the start or from where an earlier attempt was cut.
    pub(super) fn write_disk(
        &self,
        path: &str,
        image: &ImageRef,
        params: &Params,
        seeds: Option<SeedUse>,
    ) -> Result<RestoreOutcome, JobError> {
        let failed = |error: vhdx::Error| write_error(path, &error);
        let (writer, held, record) = match self.kept.take(path) {
            Some(mut held) => {
                let file = self.files.open_write(path).map_err(files_error)?;
                let at = held.pieces.keep_front();
                let disk = Unfinished::open(file, &with_id(params, &held.header), at);
                let writer = disk.and_then(|disk| disk.resume(at)).map_err(failed)?;
                (writer, Some(held.pieces), held.record)
            }
            None => {
                let header = Header {
                    path: path.to_owned(),
                    root: image.root.clone(),
                    image_bytes: image.len,
                    disk_id: Some(params.disk_id),
                };
                let (file, record) = self.create_data(&header)?;
                let writer = BulkWriter::create(file, params).map_err(failed)?;
                (writer, None, record)
            }
        };
        let (writer, outcome) = self.fill_target((path, image), writer, held, record, seeds)?;
        writer.finish().map_err(failed)?;
        Ok(outcome)
    }

    /// Writes a file, from the start or with what an earlier attempt left of it. `made` is the new file, where it was
    /// made before.
    pub(super) fn write_file(
        &self,
        path: &str,
        image: &ImageRef,
        made: Option<NewFile>,
        seeds: Option<SeedUse>,
    ) -> Result<RestoreOutcome, JobError> {
        let failed = |error: std::io::Error| write_error(path, &error);
        let (target, held, record) = match (self.kept.take(path), made) {
            (Some(held), _) => {
                let file = self.files.open_write(path).map_err(files_error)?;
                let target = FileTarget::resume(file, &held.pieces).map_err(failed)?;
                (target, Some(held.pieces), held.record)
            }
            (None, made) => {
                let (file, record) = match made {
                    Some(made) => made,
                    None => self.create_data(&file_header(path, image))?,
                };
                let target = FileTarget::create(file, image.len).map_err(failed)?;
                (target, None, record)
            }
        };
        let (target, outcome) = self.fill_target((path, image), target, held, record, seeds)?;
        target.finish().map_err(failed)?;
        Ok(outcome)
    }

    fn fill_target<T: Durable>(
        &self,
        (path, image): (&str, &ImageRef),
        target: T,
        held: Option<WrittenPieces>,
        record: Record,
        seeds: Option<SeedUse>,
    ) -> Result<(T, RestoreOutcome), JobError> {
        let mut target = Checkpointed {
            target,
            record,
            every: self.checkpoint_bytes,
            since: 0,
            pending: Vec::new(),
        };
        let options = Options {
            seeds,
            ..JobContext::pipeline_options(&self.context)
        };
        let kept = held.as_ref().map_or(0, WrittenPieces::covered_bytes);
        let outcome = match held {
            Some(held) => resume_image(image, &self.names, &self.link, &mut target, held, &options),
            None => restore_image(image, &self.names, &self.link, &mut target, &options),
        };
        let outcome = outcome.map_err(|error| restore_error(path, error))?;
        let failed = |error: BoxError| write_error(path, &*error);
        target.checkpoint().map_err(failed)?;
        self.context.end_part(image.len - kept);
        self.context.figures(|figures| {
            figures.bytes_read += outcome.figures.bytes_fetched;
            figures.bytes_reused += outcome.figures.bytes_reused;
            figures.bytes_stored += outcome.figures.bytes_written;
        });
        Ok((target.target, outcome))
    }
}

/// Returns the header of the record of a file that becomes an image byte by byte.
pub(super) fn file_header(path: &str, image: &ImageRef) -> Header {
    Header {
        path: path.to_owned(),
        root: image.root.clone(),
        image_bytes: image.len,
        disk_id: None,
    }
}

/// A disk that is gone on with keeps the id it was given.
fn with_id(params: &Params, header: &Header) -> Params {
    Params {
        disk_id: header.disk_id.unwrap_or(params.disk_id),
        ..params.clone()
    }
}

/// Returns the newest piece for each part of the image, in order.
fn newest(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut kept: BTreeMap<u64, Piece> = BTreeMap::new();
    for piece in pieces {
        let (start, end) = (
            piece.range.offset,
            piece.range.offset.saturating_add(piece.range.len),
        );
        while let Some((&at, older)) = kept.range(..end).next_back()
            && older.range.offset.saturating_add(older.range.len) > start
        {
            kept.remove(&at);
        }
        kept.insert(start, piece);
    }
    kept.into_values().collect()
}

fn unkept(error: std::io::Error) -> JobError {
    JobError::transient(
        "agent-data-folder",
        format!("cannot keep a record of what was written: {error}"),
    )
    .hint("free space in the agent's data folder and check its rights")
}

/// A target whose data can be made durable on the way.
pub(super) trait Durable: ImageTarget {
    /// Makes everything written so far survive a loss of power.
    fn make_durable(&mut self) -> Result<(), BoxError>;
}

impl Durable for BulkWriter {
    fn make_durable(&mut self) -> Result<(), BoxError> {
        self.checkpoint()?;
        Ok(())
    }
}

impl Durable for FileTarget<HostFile> {
    fn make_durable(&mut self) -> Result<(), BoxError> {
        Ok(FileTarget::checkpoint(self)?)
    }
}

/// A target that is made durable every so many bytes, and then noted in its record.
struct Checkpointed<T> {
    target: T,
    record: Record,
    every: u64,
    /// Bytes written since the last checkpoint.
    since: u64,
    /// Pieces reached since then.
    pending: Vec<Piece>,
}

impl<T: Durable> Checkpointed<T> {
    fn checkpoint(&mut self) -> Result<(), BoxError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.target.make_durable()?;
        self.record
            .append(&self.pending)
            .map_err(|error| format!("the record of what was written cannot be kept: {error}"))?;
        self.pending.clear();
        self.since = 0;
        Ok(())
    }
}

impl<T: Durable> ImageTarget for Checkpointed<T> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        self.since += bytes.len() as u64;
        self.target.write(offset, bytes)
    }

    fn reached(&mut self, pieces: &[Piece]) -> Result<(), BoxError> {
        self.pending.extend_from_slice(pieces);
        if self.since >= self.every {
            self.checkpoint()?;
        }
        Ok(())
    }
}
