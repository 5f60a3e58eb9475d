//! The log (2.3): a ring of entries that hold metadata updates, and which of them are active.
//!
//! Only whole pages of metadata go through the log. An entry counts only if it is valid to the last bit, so a torn one is as
//! if it had never been written.

use uuid::Uuid;

use super::header::Header;
use super::region::Region;
use super::{LOWEST_LOG_TARGET, MIB, PAGE, PAGE_BYTES, Page, guid_at, index, put, u32_at, u64_at};
use crate::error::{Error, Rule};
use crate::io::ReadAt;

/// A log in use that is longer is refused. Windows makes logs of 1 MiB.
const LOG_MAX: u64 = 64 * MIB;

const ENTRY_HEADER_BYTES: u64 = 64;
const DESCRIPTOR_BYTES: u64 = 32;

/// A valid entry of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where it starts, from the start of the log.
    offset: u64,
    length: u64,
    tail: u64,
    sequence: u64,
    descriptors: u64,
    /// The length the file had for certain when the entry was written.
    flushed_file_offset: u64,
    /// The length the file must have.
    last_file_offset: u64,
}

/// A change an entry makes to the file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A page gets new content; `sector` is where its data sector lies in the log.
    Page { at: u64, leading: [u8; 8], trailing: [u8; 4], sector: u64 },
    /// A range becomes zeros.
    Zero { at: u64, len: u64 },
}

/// The log of an open file.
pub(crate) struct Log<'a> {
    file: &'a dyn ReadAt,
    region: Region,
    guid: Uuid,
}

/// The entries to replay, oldest first.
pub(crate) struct ActiveEntries {
    entries: Vec<Entry>,
}

impl ActiveEntries {
    fn last(&self) -> &Entry {
        self.entries
            .last()
            .expect("an active sequence has an entry")
    }

    /// Returns the length the file must have.
    pub(crate) fn last_file_offset(&self) -> u64 {
        self.last().last_file_offset
    }
}

impl<'a> Log<'a> {
    /// Returns the log the header names.
    pub(crate) fn new(file: &'a dyn ReadAt, header: &Header) -> Result<Self, Error> {
        let region = Region {
            offset: header.log_offset,
            length: u64::from(header.log_length),
        };
        if region.length > LOG_MAX {
            return Err(Error::format(
                Rule::LogTooLong,
                region.offset,
                region.length,
            ));
        }
        Ok(Self {
            file,
            region,
            guid: header.log_guid,
        })
    }

    /// Finds the active sequence: of the runs whose tail they contain, the one that ends last.
    pub(crate) fn active(&self, file_len: u64) -> Result<ActiveEntries, Error> {
        let mut best: Option<Vec<Entry>> = None;
        let mut start = 0;
        while start < self.region.length {
            let run = self.run_from(start)?;
            let Some(last) = run.last() else {
                start += PAGE;
                continue;
            };
            let newer = best
                .as_ref()
                .and_then(|best| best.last())
                .is_none_or(|best| last.sequence > best.sequence);
            start += run.iter().map(|entry| entry.length).sum::<u64>();
            if let Some(tail) = run.iter().position(|entry| entry.offset == last.tail)
                && newer
            {
                best = Some(run[tail..].to_vec());
            }
        }
        let Some(entries) = best else {
            return Err(Error::format(
                Rule::LogNoSequence,
                self.region.offset,
                self.region.length,
            ));
        };
        let active = ActiveEntries { entries };
        let flushed = active.last().flushed_file_offset;
        if file_len < flushed {
            return Err(Error::format(
                Rule::LogFileTruncated,
                self.region.offset + active.last().offset + 48,
                flushed,
            ));
        }
        Ok(active)
    }

    /// Returns the valid entries in a row from `start`, each with the number after the one before, at most once around.
    fn run_from(&self, start: u64) -> Result<Vec<Entry>, Error> {
        let mut run: Vec<Entry> = Vec::new();
        let mut length = 0;
        while let Some(entry) = self.entry_at((start + length) % self.region.length)? {
            let follows = run
                .last()
                .is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            if !follows || length + entry.length > self.region.length {
                break;
            }
            length += entry.length;
            run.push(entry);
            if length == self.region.length {
                break;
            }
        }
        Ok(run)
    }

    /// Reads and checks the entry that starts at `offset`.
    ///
    /// No sector inside a valid entry can look like the start of another one, so all starts together cost one pass.
    fn entry_at(&self, offset: u64) -> Result<Option<Entry>, Error> {
        let first = self.sector(offset)?;
        let entry = Entry {
            offset,
            length: u64::from(u32_at(&first, 8)),
            tail: u64::from(u32_at(&first, 12)),
            sequence: u64_at(&first, 16),
            descriptors: u64::from(u32_at(&first, 24)),
            flushed_file_offset: u64_at(&first, 48),
            last_file_offset: u64_at(&first, 56),
        };
        let plausible = &first[..4] == b"loge"
            && guid_at(&first, 32) == self.guid
            && entry.sequence > 0
            && entry.length > 0
            && entry.length.is_multiple_of(PAGE)
            && entry.length <= self.region.length
            && entry.tail.is_multiple_of(PAGE)
            && entry.tail < self.region.length
            && entry.descriptor_sectors() * PAGE <= entry.length;
        if !plausible {
            return Ok(None);
        }
        let sum = u32_at(&first, 4);
        let mut crc = 0;
        let mut data_sectors = 0;
        for number in 0..entry.length / PAGE {
            let mut sector = if number == 0 {
                first
            } else {
                self.sector(offset + number * PAGE)?
            };
            if number < entry.descriptor_sectors() {
                for descriptor in entry.descriptors_of(&sector, number) {
                    let Some(is_data) = self.check_descriptor(descriptor, entry.sequence) else {
                        return Ok(None);
                    };
                    data_sectors += u64::from(is_data);
                }
            } else if &sector[..4] != b"data" || sequence_of(&sector) != entry.sequence {
                return Ok(None);
            }
            if number == 0 {
                put(&mut sector, 4, &[0; 4]);
            }
            crc = crc32c::crc32c_append(crc, &sector);
        }
        let whole = entry.length == (entry.descriptor_sectors() + data_sectors) * PAGE;
        Ok((whole && crc == sum).then_some(entry))
    }

    /// Returns whether a descriptor is one of data; `None` if it is not valid.
    fn check_descriptor(&self, descriptor: &[u8], sequence: u64) -> Option<bool> {
        let is_data = match &descriptor[..4] {
            b"desc" => true,
            b"zero" => false,
            _ => return None,
        };
        let at = u64_at(descriptor, 16);
        let len = if is_data { PAGE } else { u64_at(descriptor, 8) };
        let end = at.checked_add(len)?;
        let sound = u64_at(descriptor, 24) == sequence
            && at.is_multiple_of(PAGE)
            && len.is_multiple_of(PAGE)
            && at >= LOWEST_LOG_TARGET
            && (end <= self.region.offset || at >= self.region.end());
        sound.then_some(is_data)
    }

    /// Passes every change of the active entries to `apply`, in order.
    pub(crate) fn changes(
        &self,
        active: &ActiveEntries,
        mut apply: impl FnMut(Change) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for entry in &active.entries {
            let mut data_sector = entry.offset + entry.descriptor_sectors() * PAGE;
            for number in 0..entry.descriptor_sectors() {
                let sector = self.sector(entry.offset + number * PAGE)?;
                for descriptor in entry.descriptors_of(&sector, number) {
                    let at = u64_at(descriptor, 16);
                    if &descriptor[..4] == b"zero" {
                        apply(Change::Zero {
                            at,
                            len: u64_at(descriptor, 8),
                        })?;
                        continue;
                    }
                    let mut change = ([0; 8], [0; 4]);
                    change.0.copy_from_slice(&descriptor[8..16]);
                    change.1.copy_from_slice(&descriptor[4..8]);
                    let sector = self.region.offset + data_sector % self.region.length;
                    apply(Change::Page {
                        at,
                        leading: change.0,
                        trailing: change.1,
                        sector,
                    })?;
                    data_sector += PAGE;
                }
            }
        }
        Ok(())
    }

    fn sector(&self, offset: u64) -> Result<Page, Error> {
        let at = self.region.offset + offset % self.region.length;
        let mut sector = [0; PAGE_BYTES];
        self.file
            .read_exact_at(&mut sector, at)
            .map_err(|source| Error::Read {
                what: "the log",
                at,
                source,
            })?;
        Ok(sector)
    }
}

impl Entry {
    fn descriptor_sectors(&self) -> u64 {
        descriptor_sectors(self.descriptors)
    }

    /// Returns the descriptors that lie in descriptor sector `number`.
    fn descriptors_of<'s>(&self, sector: &'s Page, number: u64) -> impl Iterator<Item = &'s [u8]> {
        let skipped = if number == 0 { ENTRY_HEADER_BYTES } else { 0 };
        let before = (number * PAGE).saturating_sub(ENTRY_HEADER_BYTES) / DESCRIPTOR_BYTES;
        let count = self.descriptors.saturating_sub(before);
        sector[index(skipped)..]
            .chunks_exact(index(DESCRIPTOR_BYTES))
            .take(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// Puts the page of a data sector together again: its first 8 and last 4 bytes travel in the descriptor.
pub(crate) fn rebuild_page(sector: &mut Page, leading: [u8; 8], trailing: [u8; 4]) {
    put(sector, 0, &leading);
    put(sector, PAGE_BYTES - 4, &trailing);
}

fn descriptor_sectors(descriptors: u64) -> u64 {
    (ENTRY_HEADER_BYTES + descriptors * DESCRIPTOR_BYTES).div_ceil(PAGE)
}

/// The number in a data sector: its upper half in front, its lower half at the end.
fn sequence_of(sector: &Page) -> u64 {
    u64::from(u32_at(sector, 4)) << 32 | u64::from(u32_at(sector, PAGE_BYTES - 4))
}

/// What an entry to be written says of itself.
pub(crate) struct EntryHead {
    pub(crate) tail: u32,
    pub(crate) sequence: u64,
    pub(crate) guid: Uuid,
    pub(crate) file_len: u64,
}

/// Returns how many bytes of the log an entry with so many pages and zero ranges takes.
pub(crate) fn entry_len(pages: usize, zeros: usize) -> u64 {
    (descriptor_sectors((pages + zeros) as u64) + pages as u64) * PAGE
}

/// Returns an entry that gives each page, named by its place in the file, new content, and makes ranges of whole pages zeros.
pub(crate) fn encode(head: &EntryHead, pages: &[(u64, &Page)], zeros: &[Region]) -> Vec<u8> {
    let length = entry_len(pages.len(), zeros.len());
    let mut entry = vec![0; index(length)];
    put(&mut entry, 0, b"loge");
    put(
        &mut entry,
        8,
        &u32::try_from(length)
            .expect("an entry is shorter than the log")
            .to_le_bytes(),
    );
    put(&mut entry, 12, &head.tail.to_le_bytes());
    put(&mut entry, 16, &head.sequence.to_le_bytes());
    put(
        &mut entry,
        24,
        &u32::try_from(pages.len() + zeros.len())
            .expect("as many as fit the log")
            .to_le_bytes(),
    );
    put(&mut entry, 32, &head.guid.to_bytes_le());
    put(&mut entry, 48, &(head.file_len / MIB * MIB).to_le_bytes());
    put(
        &mut entry,
        56,
        &head.file_len.next_multiple_of(MIB).to_le_bytes(),
    );
    let data = index(descriptor_sectors((pages.len() + zeros.len()) as u64) * PAGE);
    let sequence = head.sequence.to_le_bytes();
    for (number, (at, page)) in pages.iter().enumerate() {
        let descriptor = index(ENTRY_HEADER_BYTES) + number * index(DESCRIPTOR_BYTES);
        put(&mut entry, descriptor, b"desc");
        put(&mut entry, descriptor + 4, &page[PAGE_BYTES - 4..]);
        put(&mut entry, descriptor + 8, &page[..8]);
        put(&mut entry, descriptor + 16, &at.to_le_bytes());
        put(&mut entry, descriptor + 24, &sequence);
        let sector = data + number * PAGE_BYTES;
        put(&mut entry, sector, *page);
        put(&mut entry, sector, b"data");
        put(&mut entry, sector + 4, &sequence[4..]);
        put(&mut entry, sector + PAGE_BYTES - 4, &sequence[..4]);
    }
    for (number, range) in zeros.iter().enumerate() {
        let descriptor =
            index(ENTRY_HEADER_BYTES) + (pages.len() + number) * index(DESCRIPTOR_BYTES);
        put(&mut entry, descriptor, b"zero");
        put(&mut entry, descriptor + 8, &range.length.to_le_bytes());
        put(&mut entry, descriptor + 16, &range.offset.to_le_bytes());
        put(&mut entry, descriptor + 24, &sequence);
    }
    let sum = super::checksum(&entry);
    put(&mut entry, 4, &sum.to_le_bytes());
    entry
}
