//! VHDX: the log replayed onto a copy, then headers, regions, metadata and table as the format lists them.

use uuid::Uuid;

use super::Holds;
use crate::image::{
    BAT_GUID, DISK_SIZE, FILE_PARAMETERS, HEADERS, LOGICAL_SECTOR, METADATA_GUID, TABLES, word32,
    word64,
};
use crate::sparse::SparseFile;
use crate::{MIB, index};

const PAGE: u64 = 4096;

pub(super) struct Map {
    pub(super) size: u64,
    pub(super) sector: u64,
    block: u64,
    bat: u64,
    has_parent: bool,
}

impl Map {
    /// Reads a file that was replayed.
    pub(super) fn read(file: &SparseFile) -> Self {
        let summed = TABLES
            .map(|at| file.bytes::<65_536>(at))
            .into_iter()
            .find(|table| &table[..4] == b"regi" && sum_is_right(table))
            .expect("an accepted file has a region table");
        let region = |guid: Uuid| {
            let entries = summed[16..].chunks_exact(32);
            let entry = entries
                .take(index(u64::from(word32(&summed, 8))))
                .find(|entry| entry[..16] == guid.to_bytes_le());
            word64(entry.expect("an accepted file has both regions"), 16)
        };
        let (bat, metadata) = (region(BAT_GUID), region(METADATA_GUID));
        let listed: [u8; 65_536] = file.bytes(metadata);
        let item = |guid: Uuid| -> [u8; 8] {
            let count = usize::from(u16::from_le_bytes([listed[10], listed[11]]));
            let mut entries = listed[32..].chunks_exact(32).take(count);
            let entry =
                entries.find(|entry| entry[..16] == guid.to_bytes_le() && entry[24] & 1 == 0);
            let entry = entry.expect("an accepted file has all items");
            file.bytes(metadata + u64::from(word32(entry, 16)))
        };
        let parameters = item(FILE_PARAMETERS);
        Self {
            size: u64::from_le_bytes(item(DISK_SIZE)),
            block: u64::from(word32(&parameters, 0)),
            sector: u64::from(word32(&item(LOGICAL_SECTOR), 0)),
            has_parent: parameters[4] & 2 == 2,
            bat,
        }
    }

    /// Returns what the file says of a byte of the disk.
    pub(super) fn holds(&self, file: &SparseFile, offset: u64) -> Holds {
        let block = offset / self.block;
        let ratio = (1 << 23) * self.sector / self.block;
        let chunk = block / ratio;
        let entry = u64::from_le_bytes(file.bytes(self.bat + (block + chunk) * 8));
        // Only a block that is there has a place: the number in another entry may be anything.
        let place = || entry / MIB * MIB + offset % self.block;
        match entry % 8 {
            6 => Holds::At(place()),
            7 => {
                let listed = self.bat + (chunk * (ratio + 1) + ratio) * 8;
                let bitmap = u64::from_le_bytes(file.bytes(listed)) / MIB * MIB;
                let bit = offset / self.sector % (1 << 23);
                let [byte] = file.bytes(bitmap + bit / 8);
                if byte >> (bit % 8) & 1 == 1 {
                    Holds::At(place())
                } else {
                    Holds::Parent
                }
            }
            0 if self.has_parent => Holds::Parent,
            _ => Holds::Zero,
        }
    }
}

/// Returns a copy of the file with its log replayed, if it is in use; the headers stay.
pub(crate) fn replayed(file: &SparseFile) -> SparseFile {
    let copy = file.copy();
    let header = HEADERS
        .map(|at| copy.bytes::<4096>(at))
        .into_iter()
        .filter(|header| &header[..4] == b"head" && sum_is_right(header))
        .max_by_key(|header| word64(header, 8))
        .expect("an accepted file has a header");
    let guid = &header[48..64];
    if guid == [0; 16] {
        return copy;
    }
    let log = Log {
        file: &copy,
        guid,
        at: word64(&header, 72),
        len: u64::from(word32(&header, 68)),
    };
    let mut best: Vec<Logged> = Vec::new();
    for start in (0..log.len).step_by(index(PAGE)) {
        let run = log.run(start);
        let tail = run
            .last()
            .and_then(|last| run.iter().position(|entry| entry.start == last.tail));
        let newer = run.last().map(|last| last.sequence) > best.last().map(|last| last.sequence);
        if let (Some(tail), true) = (tail, newer) {
            best = run.into_iter().skip(tail).collect();
        }
    }
    let last = best
        .last()
        .expect("the log of an accepted file has an active sequence");
    let mut end = copy.size().max(last.last_file_offset);
    for entry in &best {
        let mut sector = descriptor_sectors(entry.descriptors.len());
        for descriptor in &entry.descriptors {
            let at = word64(descriptor, 16);
            if &descriptor[..4] == b"zero" {
                let stop = at + word64(descriptor, 8);
                zero(&copy, at, stop.min(copy.size()));
                end = end.max(stop);
            } else {
                let mut page = log.sector(entry.start + sector * PAGE);
                page[..8].copy_from_slice(&descriptor[8..16]);
                page[4092..].copy_from_slice(&descriptor[4..8]);
                copy.put(at, &page);
                sector += 1;
            }
        }
    }
    if copy.size() < end {
        copy.resize(end);
    }
    copy
}

/// Returns how many sectors an entry's header and so many descriptors take.
fn descriptor_sectors(count: usize) -> u64 {
    (64 + count as u64 * 32).div_ceil(PAGE)
}

fn zero(file: &SparseFile, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let part = (to - at).min(MIB);
        file.put(at, &vec![0; index(part)]);
        at += part;
    }
}

struct Log<'a> {
    file: &'a SparseFile,
    guid: &'a [u8],
    at: u64,
    len: u64,
}

#[derive(Clone)]
struct Logged {
    start: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    last_file_offset: u64,
    descriptors: Vec<[u8; 32]>,
}

impl Log<'_> {
    fn sector(&self, at: u64) -> [u8; 4096] {
        self.file.bytes(self.at + at % self.len)
    }

    /// Returns the entries in a row from `start`.
    fn run(&self, start: u64) -> Vec<Logged> {
        let mut run: Vec<Logged> = Vec::new();
        let mut at = start;
        while let Some(entry) = self.entry(at % self.len) {
            let gap = run
                .last()
                .is_some_and(|last| Some(entry.sequence) != last.sequence.checked_add(1));
            at += entry.len;
            if gap || at > start + self.len {
                break;
            }
            run.push(entry);
            if at == start + self.len {
                break;
            }
        }
        run
    }

    /// Returns the entry at `start`, if it is valid to the last bit.
    fn entry(&self, start: u64) -> Option<Logged> {
        let first = self.sector(start);
        let len = u64::from(word32(&first, 8));
        let tail = u64::from(word32(&first, 12));
        let sequence = word64(&first, 16);
        let sound = &first[..4] == b"loge"
            && first[32..48] == *self.guid
            && sequence > 0
            && (PAGE..=self.len).contains(&len)
            && len.is_multiple_of(PAGE)
            && tail < self.len
            && tail.is_multiple_of(PAGE);
        if !sound {
            return None;
        }
        let mut bytes: Vec<u8> = (0..len / PAGE)
            .flat_map(|number| self.sector(start + number * PAGE))
            .collect();
        bytes[4..8].fill(0);
        if crc32c::crc32c(&bytes) != word32(&first, 4) {
            return None;
        }
        let count = usize::try_from(word32(&first, 24)).ok()?;
        let area = descriptor_sectors(count) * PAGE;
        if area > len {
            return None;
        }
        let descriptors: Vec<[u8; 32]> = bytes[64..index(area)]
            .chunks_exact(32)
            .take(count)
            .map(|chunk| std::array::from_fn(|byte| chunk[byte]))
            .collect();
        let mut data = bytes[index(area)..].chunks_exact(4096);
        for descriptor in &descriptors {
            let at = word64(descriptor, 16);
            let reach = match &descriptor[..4] {
                b"desc" => {
                    let sector = data.next()?;
                    let number =
                        u64::from(word32(sector, 4)) << 32 | u64::from(word32(sector, 4092));
                    if &sector[..4] != b"data" || number != sequence {
                        return None;
                    }
                    PAGE
                }
                b"zero" => word64(descriptor, 8),
                _ => return None,
            };
            let end = at.checked_add(reach)?;
            let sound = word64(descriptor, 24) == sequence
                && at.is_multiple_of(PAGE)
                && reach.is_multiple_of(PAGE)
                && at >= TABLES[0]
                && (end <= self.at || at >= self.at + self.len);
            if !sound {
                return None;
            }
        }
        data.next().is_none().then_some(Logged {
            start,
            len,
            tail,
            sequence,
            last_file_offset: word64(&first, 56),
            descriptors,
        })
    }
}

fn sum_is_right(bytes: &[u8]) -> bool {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &[0; 4]);
    crc32c::crc32c_append(sum, &bytes[8..]) == word32(bytes, 4)
}
