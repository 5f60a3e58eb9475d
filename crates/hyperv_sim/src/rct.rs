//! Change tracking: which ranges of a virtual disk were written in which epoch.
//!
//! `disk.vhdx.rct` beside the file at the root of a VM's chain holds a header and 24-byte records (epoch, offset,
//! length), appended BEFORE the data is written: a kill over-reports, never under-reports, and a torn record at the
//! end belongs to a write that never began. A checkpoint ends an epoch; the epochs after it are what changed since.
//! `disk.vhdx.mrt` holds a seal: what the disk file looked like when the host last let go of it, so that a file
//! rewritten from outside is noticed and its tracking given up.
//!
//! Invariant: an id is only answered for while its lineage and epoch are in the log; anything else is unknown.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use model::ByteRange;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::platform;
use crate::state::{RctMark, save, save_bytes};

const MAGIC: &[u8; 8] = b"SIMRCT01";
const HEADER_BYTES: usize = 48;
const RECORD_BYTES: usize = 24;
/// Guest writes are recorded in whole sectors.
const SECTOR: u64 = 512;

/// The tracker of one disk, open for appending.
#[derive(Debug)]
pub(crate) struct Tracker {
    file: File,
    log: Log,
    last: Option<Record>,
}

/// What a log says.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    path: PathBuf,
    disk_id: Uuid,
    lineage: Uuid,
    /// Ids of earlier epochs are forgotten.
    oldest: u64,
    /// The epoch that is being written.
    epoch: u64,
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    epoch: u64,
    offset: u64,
    /// 0: only says that the epoch has begun.
    len: u64,
}

/// What `.mrt` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    /// The file's number on its file system, where there is such a thing.
    file_number: u64,
    /// Its DataWriteGuid when the host let go of it; none while a VM or merge has it.
    data_write_guid: Option<Uuid>,
}

/// What changed, or why that cannot be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnknownId {
    #[error("there is no change tracking for this disk")]
    NoTracker,
    #[error("the text is no change tracking id")]
    NotAnId,
    #[error("the id is of another disk or of a time before a checkpoint was applied")]
    OtherLineage,
    #[error("the changes since this id are no longer kept")]
    Forgotten,
    #[error("the disk file was changed from outside")]
    Rewritten,
}

pub(crate) fn rct_path(disk: &Path) -> PathBuf {
    with_suffix(disk, ".rct")
}

pub(crate) fn mrt_path(disk: &Path) -> PathBuf {
    with_suffix(disk, ".mrt")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// Returns the id text of a mark.
pub(crate) fn id_text(mark: &RctMark) -> String {
    format!(
        "rctX:{:x}:{:x}:{:x}",
        mark.disk_id.simple(),
        mark.lineage.simple(),
        mark.epoch
    )
}

/// Returns the epoch an id names.
pub(crate) fn epoch_of(id: &str) -> Option<u64> {
    parse_id(id).map(|mark| mark.epoch)
}

fn parse_id(text: &str) -> Option<RctMark> {
    let mut parts = text.trim().strip_prefix("rctX:")?.split(':');
    let disk_id = Uuid::try_parse(parts.next()?).ok()?;
    let lineage = Uuid::try_parse(parts.next()?).ok()?;
    let epoch = u64::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().is_none().then_some(RctMark {
        lineage,
        epoch,
        disk_id,
    })
}

impl Log {
    /// Reads the log of the disk file at `disk`; nothing where tracking is off or lost.
    ///
    /// `data_write_guid` is what the file says now.
    pub(crate) fn load(
        disk: &Path,
        disk_id: Uuid,
        data_write_guid: Uuid,
    ) -> io::Result<Result<Self, UnknownId>> {
        let path = rct_path(disk);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(UnknownId::NoTracker));
            }
            Err(err) => return Err(err),
        };
        let Ok(seal) = std::fs::read(mrt_path(disk)) else {
            return Ok(Err(UnknownId::NoTracker));
        };
        let Ok(seal) = serde_json::from_slice::<Seal>(&seal) else {
            return Ok(Err(UnknownId::NoTracker));
        };
        let untouched = seal.file_number == platform::file_number(&std::fs::metadata(disk)?)
            && seal
                .data_write_guid
                .is_none_or(|sealed| sealed == data_write_guid);
        if !untouched {
            return Ok(Err(UnknownId::Rewritten));
        }
        Ok(Self::parse(path, &bytes)
            .filter(|log| log.disk_id == disk_id)
            .ok_or(UnknownId::NoTracker))
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let disk_id = Uuid::from_slice(&header[8..24]).ok()?;
        let lineage = Uuid::from_slice(&header[24..40]).ok()?;
        let oldest = u64::from_le_bytes(header[40..48].try_into().ok()?);
        let records: Vec<Record> = rest
            .chunks_exact(RECORD_BYTES)
            .filter_map(Record::parse)
            .collect();
        let epoch = records
            .iter()
            .map(|record| record.epoch)
            .max()
            .unwrap_or(oldest)
            .max(oldest);
        Some(Self {
            path,
            disk_id,
            lineage,
            oldest,
            epoch,
            records,
        })
    }

    /// Returns the epoch that is being written.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..24].copy_from_slice(self.disk_id.as_bytes());
        header[24..40].copy_from_slice(self.lineage.as_bytes());
        header[40..48].copy_from_slice(&self.oldest.to_le_bytes());
        header
    }

    /// Returns what was written after the id and, where given, up to the mark; sorted and joined.
    pub(crate) fn changes(
        &self,
        id: &str,
        until: Option<&RctMark>,
        size: u64,
    ) -> Result<Vec<ByteRange>, UnknownId> {
        let from = parse_id(id).ok_or(UnknownId::NotAnId)?;
        if from.disk_id != self.disk_id || from.lineage != self.lineage {
            return Err(UnknownId::OtherLineage);
        }
        if from.epoch < self.oldest || from.epoch >= self.epoch {
            return Err(UnknownId::Forgotten);
        }
        let until = until
            .filter(|mark| mark.lineage == self.lineage)
            .map_or(u64::MAX, |mark| mark.epoch);
        let mut joined: BTreeMap<u64, u64> = BTreeMap::new();
        for record in &self.records {
            if record.len > 0 && record.epoch > from.epoch && record.epoch <= until {
                let start = record.offset - record.offset % SECTOR;
                let end = record
                    .offset
                    .saturating_add(record.len)
                    .div_ceil(SECTOR)
                    .saturating_mul(SECTOR)
                    .min(size);
                if start < end {
                    let longest = joined.entry(start).or_insert(end);
                    *longest = end.max(*longest);
                }
            }
        }
        let mut ranges: Vec<ByteRange> = Vec::new();
        for (start, end) in joined {
            match ranges.last_mut() {
                Some(last) if last.offset + last.len >= start => {
                    last.len = last.len.max(end - last.offset);
                }
                Some(_) | None => ranges.push(ByteRange {
                    offset: start,
                    len: end - start,
                }),
            }
        }
        Ok(ranges)
    }

    /// Forgets what only ids before `oldest` need.
    pub(crate) fn forget_before(mut self, oldest: u64) -> io::Result<()> {
        if oldest <= self.oldest || oldest > self.epoch {
            return Ok(());
        }
        self.oldest = oldest;
        let mut bytes = self.header().to_vec();
        bytes.extend(
            Record {
                epoch: self.epoch,
                offset: 0,
                len: 0,
            }
            .bytes(),
        );
        for record in self.records.iter().filter(|record| record.epoch > oldest) {
            bytes.extend(record.bytes());
        }
        save_bytes(&self.path, &bytes)
    }
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            bytes
                .get(at..at + 8)?
                .try_into()
                .ok()
                .map(u64::from_le_bytes)
        };
        Some(Self {
            epoch: word(0)?,
            offset: word(8)?,
            len: word(16)?,
        })
    }

    fn bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }
}

impl Tracker {
    /// Opens the tracker of the disk file at `disk`; nothing where tracking is off or lost (what is left is removed).
    pub(crate) fn open(
        disk: &Path,
        disk_id: Uuid,
        data_write_guid: Uuid,
    ) -> io::Result<Option<Self>> {
        match Log::load(disk, disk_id, data_write_guid)? {
            Ok(log) => {
                let file = OpenOptions::new().append(true).open(&log.path)?;
                // A torn record at the end would shift all that follow.
                let whole = file.metadata()?.len() - HEADER_BYTES_U64;
                file.set_len(HEADER_BYTES_U64 + whole - whole % RECORD_BYTES_U64)?;
                Ok(Some(Self {
                    file,
                    log,
                    last: None,
                }))
            }
            Err(_) => {
                remove(disk)?;
                Ok(None)
            }
        }
    }

    /// Begins tracking.
    pub(crate) fn create(disk: &Path, disk_id: Uuid) -> io::Result<Self> {
        let path = rct_path(disk);
        let log = Log {
            path,
            disk_id,
            lineage: Uuid::new_v4(),
            oldest: 1,
            epoch: 1,
            records: Vec::new(),
        };
        save_bytes(&log.path, &log.header())?;
        unseal(disk)?;
        let file = OpenOptions::new().append(true).open(&log.path)?;
        Ok(Self {
            file,
            log,
            last: None,
        })
    }

    /// Records a write that is about to happen.
    pub(crate) fn record(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let record = Record {
            epoch: self.log.epoch,
            offset,
            len,
        };
        let covered = self.last.is_some_and(|last| {
            last.offset <= offset
                && offset.saturating_add(len) <= last.offset.saturating_add(last.len)
        });
        if covered {
            return Ok(());
        }
        self.file.write_all(&record.bytes())?;
        self.last = Some(record);
        Ok(())
    }

    /// Ends the epoch and returns where it ended.
    pub(crate) fn mark(&mut self) -> io::Result<RctMark> {
        let mark = RctMark {
            lineage: self.log.lineage,
            epoch: self.log.epoch,
            disk_id: self.log.disk_id,
        };
        self.log.epoch += 1;
        self.last = None;
        self.file.write_all(
            &Record {
                epoch: self.log.epoch,
                offset: 0,
                len: 0,
            }
            .bytes(),
        )?;
        Ok(mark)
    }
}

const HEADER_BYTES_U64: u64 = 48;
const RECORD_BYTES_U64: u64 = 24;

/// Notes that the host is about to change the disk file.
pub(crate) fn unseal(disk: &Path) -> io::Result<()> {
    write_seal(disk, None)
}

/// Notes what the disk file looks like now that the host lets go of it. Does nothing where there is no tracker.
pub(crate) fn seal(disk: &Path, data_write_guid: Uuid) -> io::Result<()> {
    write_seal(disk, Some(data_write_guid))
}

fn write_seal(disk: &Path, data_write_guid: Option<Uuid>) -> io::Result<()> {
    if !rct_path(disk).exists() {
        return Ok(());
    }
    let file_number = platform::file_number(&std::fs::metadata(disk)?);
    save(
        &mrt_path(disk),
        &Seal {
            file_number,
            data_write_guid,
        },
    )
}

/// Ends tracking: every id of the disk becomes unknown.
pub(crate) fn remove(disk: &Path) -> io::Result<()> {
    for path in [rct_path(disk), mrt_path(disk)] {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn disk() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("d.vhdx");
        std::fs::write(&disk, b"disk").unwrap();
        (dir, disk)
    }

    fn ranges(list: &[(u64, u64)]) -> Vec<ByteRange> {
        list.iter()
            .map(|&(offset, len)| ByteRange { offset, len })
            .collect()
    }

    #[test]
    fn changes_since_an_id_are_those_of_the_later_epochs() {
        let (_dir, disk) = disk();
        let id = Uuid::new_v4();
        let mut tracker = Tracker::create(&disk, id).unwrap();
        tracker.record(0, 4096).unwrap();
        let first = tracker.mark().unwrap();
        tracker.record(8192, 100).unwrap();
        tracker.record(8704, 512).unwrap();
        let second = tracker.mark().unwrap();
        tracker.record(100_000, 1).unwrap();
        let log = Log::load(&disk, id, Uuid::nil()).unwrap().unwrap();
        assert_eq!(
            log.changes(&id_text(&first), Some(&second), SIZE),
            Ok(ranges(&[(8192, 1024)]))
        );
        assert_eq!(
            log.changes(&id_text(&first), None, SIZE),
            Ok(ranges(&[(8192, 1024), (99_840, 512)]))
        );
        assert_eq!(
            log.changes(&id_text(&second), None, SIZE),
            Ok(ranges(&[(99_840, 512)]))
        );
    }

    #[test]
    fn a_kill_loses_at_most_the_record_of_a_write_that_never_began() {
        let (_dir, disk) = disk();
        let id = Uuid::new_v4();
        let mut tracker = Tracker::create(&disk, id).unwrap();
        let mark = tracker.mark().unwrap();
        tracker.record(0, 512).unwrap();
        tracker.record(4096, 512).unwrap();
        drop(tracker);
        let mut bytes = std::fs::read(rct_path(&disk)).unwrap();
        bytes.truncate(bytes.len() - 5);
        std::fs::write(rct_path(&disk), &bytes).unwrap();
        let mut tracker = Tracker::open(&disk, id, Uuid::nil()).unwrap().unwrap();
        tracker.record(8192, 512).unwrap();
        let log = Log::load(&disk, id, Uuid::nil()).unwrap().unwrap();
        assert_eq!(
            log.changes(&id_text(&mark), None, SIZE),
            Ok(ranges(&[(0, 512), (8192, 512)]))
        );
    }

    #[test]
    fn ids_of_another_lineage_or_of_forgotten_epochs_are_unknown() {
        let (_dir, disk) = disk();
        let id = Uuid::new_v4();
        let mut tracker = Tracker::create(&disk, id).unwrap();
        let (first, second) = (tracker.mark().unwrap(), tracker.mark().unwrap());
        drop(tracker);
        Log::load(&disk, id, Uuid::nil())
            .unwrap()
            .unwrap()
            .forget_before(second.epoch)
            .unwrap();
        let log = Log::load(&disk, id, Uuid::nil()).unwrap().unwrap();
        assert_eq!(
            log.changes(&id_text(&first), None, SIZE),
            Err(UnknownId::Forgotten)
        );
        assert_eq!(log.changes(&id_text(&second), None, SIZE), Ok(Vec::new()));
        let other = RctMark {
            lineage: Uuid::new_v4(),
            ..second
        };
        assert_eq!(
            log.changes(&id_text(&other), None, SIZE),
            Err(UnknownId::OtherLineage)
        );
        assert_eq!(log.changes("rctX:1", None, SIZE), Err(UnknownId::NotAnId));
    }

    #[test]
    fn a_disk_rewritten_from_outside_is_no_longer_tracked() {
        let (dir, disk) = disk();
        let (id, sealed) = (Uuid::new_v4(), Uuid::new_v4());
        Tracker::create(&disk, id).unwrap();
        seal(&disk, sealed).unwrap();
        assert!(Log::load(&disk, id, sealed).unwrap().is_ok());
        assert_eq!(
            Log::load(&disk, id, Uuid::new_v4()).unwrap().unwrap_err(),
            UnknownId::Rewritten
        );
        std::fs::rename(&disk, dir.path().join("old")).unwrap();
        std::fs::write(&disk, b"other").unwrap();
        assert_eq!(
            Log::load(&disk, id, sealed).unwrap().unwrap_err(),
            UnknownId::Rewritten
        );
        assert!(Tracker::open(&disk, id, sealed).unwrap().is_none());
        assert!(!rct_path(&disk).exists());
    }
}
