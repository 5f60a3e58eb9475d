//! What a power cut may leave of a disk in use: pages that the log has and their places do not.
//!
//! The log of an open VHDX file holds the metadata pages that were changed last ([MS-VHDX] 2.3). They reach their
//! places after the log; until then a reader has to replay it. A copy made while a VM runs has both; here the places
//! are spoilt, so that whoever does not replay reads nonsense.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use uuid::Uuid;

/// Where the two headers lie.
const HEADERS_AT: [u64; 2] = [64 * 1024, 128 * 1024];
const PAGE: usize = 4096;
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// Larger logs are left alone; this host's are of 1 MiB.
const MAX_LOG_BYTES: u32 = 16 << 20;

/// Spoils in place what the newest entry of the log restores. Does nothing to a file whose log is not in use.
pub(crate) fn tear(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let modified = file.metadata()?.modified()?;
    let length = file.metadata()?.len();
    let Some(log) = read_log(&mut file)? else {
        return Ok(());
    };
    for at in newest_entry(&log).into_iter().flat_map(pages) {
        // The entry may also let the file grow: what lies beyond its end needs no spoiling.
        if at.saturating_add(4096) <= length {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&[0x5a; PAGE])?;
        }
    }
    file.set_times(std::fs::FileTimes::new().set_modified(modified))
}

/// The bytes of a log and the id its entries carry.
struct LogBytes {
    bytes: Vec<u8>,
    id: Uuid,
}

/// Reads the log that the newer of the headers names; nothing where none is in use.
fn read_log(file: &mut File) -> io::Result<Option<LogBytes>> {
    let mut newest: Option<(u64, [u8; 80])> = None;
    for at in HEADERS_AT {
        let mut header = [0; 80];
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut header) {
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        let sequence = u64_at(&header, 8);
        if header.starts_with(b"head") && newest.is_none_or(|(newest, _)| sequence > newest) {
            newest = Some((sequence, header));
        }
    }
    let Some((_, header)) = newest else {
        return Ok(None);
    };
    let id = guid_at(&header, 48);
    let length = u32_at(&header, 68);
    if id.is_nil() || length > MAX_LOG_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.seek(SeekFrom::Start(u64_at(&header, 72)))?;
    file.read_exact(&mut bytes)?;
    Ok(Some(LogBytes { bytes, id }))
}

/// Returns the bytes of the entry with the highest number, from its start.
fn newest_entry(log: &LogBytes) -> Option<&[u8]> {
    (0..log.bytes.len())
        .step_by(PAGE)
        .map(|at| &log.bytes[at..])
        .filter(|entry| {
            entry.len() >= ENTRY_HEADER
                && entry.starts_with(b"loge")
                && guid_at(entry, 32) == log.id
        })
        .max_by_key(|entry| u64_at(entry, 16))
}

/// Returns the places of the pages that an entry holds.
fn pages(entry: &[u8]) -> Vec<u64> {
    let count = usize::try_from(u32_at(entry, 24)).unwrap_or(0);
    entry[ENTRY_HEADER..]
        .chunks_exact(DESCRIPTOR)
        .take(count)
        .filter(|descriptor| descriptor.starts_with(b"desc"))
        .map(|descriptor| u64_at(descriptor, 16))
        .collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    let word = bytes.get(at..at + 16).and_then(|word| word.try_into().ok());
    word.map_or(Uuid::nil(), Uuid::from_bytes_le)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vhdx::{BulkWriter, DiskWriter, Durability, Params, Vhdx};

    use super::*;

    #[test]
    fn a_torn_copy_is_whole_once_its_log_is_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, copy) = (dir.path().join("disk.vhdx"), dir.path().join("copy.vhdx"));
        let open = |path: &Path| {
            let options = &mut File::options();
            Arc::new(
                options
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .unwrap(),
            )
        };
        BulkWriter::create(open(&disk), &Params::dynamic(64 << 20))
            .unwrap()
            .finish()
            .unwrap();
        let writer = DiskWriter::open(open(&disk), Vec::new(), Durability::ProcessKill).unwrap();
        writer.write_at(&[7; 4096], 1 << 20).unwrap();
        writer.flush().unwrap();
        std::fs::copy(&disk, &copy).unwrap();
        let before = std::fs::read(&copy).unwrap();
        tear(&copy).unwrap();
        assert_ne!(std::fs::read(&copy).unwrap(), before);
        let read = |path: &Path| {
            let layer = Vhdx::open(open(path)).unwrap();
            let disk = vhdx::Chain::from_layers(vec![layer]).unwrap().into_disk();
            let mut bytes = [0; 4096];
            disk.read_at(&mut bytes, 1 << 20).unwrap();
            bytes
        };
        assert_eq!(read(&copy), [7; 4096]);

        // A disk that was closed has nothing to replay, and stays as it is.
        writer.close().unwrap();
        let closed = std::fs::read(&disk).unwrap();
        tear(&disk).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap(), closed);
    }
}
