//! The log (2.3): a ring of entries that hold metadata updates, and which of them are active.
//!
//! Only whole pages of metadata go through the log. An entry counts only if it is valid to the last bit, so a torn one is as
//! if it had never been written.

mod encode;

use uuid::Uuid;

use super::bat::FILE_MIB_MAX;
use super::header::Header;
use super::region::Region;
use super::{LOWEST_LOG_TARGET, MIB, PAGE, PAGE_BYTES, Page, guid_at, index, put, u32_at, u64_at};
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::io::ReadAt;

pub(crate) use encode::{EntryHead, encode, entry_len};

/// A log in use that is longer is refused. Windows makes logs of 1 MiB.
///
/// It bounds memory: an entry takes 64 bytes while they are sorted out, a logged page some 50, and both take at least 4 KiB
/// of the log, so that 8 MiB are enough for the longest one.
pub(crate) const LOG_MAX: u64 = 256 * MIB;

/// Zero descriptors in use at most. They are short, so the length of the log does not bound them well: 8 MiB of ranges.
const ZEROS_MAX: u64 = 1 << 18;

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
    reserved: u32,
    /// The length the file had for certain when the entry was written.
    flushed_file_offset: u64,
    /// The length the file must have.
    last_file_offset: u64,
}

/// What lies at a place of the log where an entry may start.
enum Found {
    Entry(Entry),
    /// Nothing of this log.
    Nothing,
    /// What looks like an entry of this log, but breaks a rule.
    Broken {
        rule: Rule,
        at: u64,
        found: u64,
    },
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

    /// Returns how many entries there are.
    pub(crate) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns the length the file must have.
    pub(crate) fn last_file_offset(&self) -> u64 {
        self.last().last_file_offset
    }
}

impl<'a> Log<'a> {
    /// Returns the log the header names.
    pub(crate) fn new(
        file: &'a dyn ReadAt,
        header: &Header,
        findings: &mut Findings,
    ) -> Result<Self, Error> {
        let region = Region {
            offset: header.log_offset,
            length: u64::from(header.log_length),
        };
        if region.length > LOG_MAX {
            return Err(findings.fatal(Rule::LogTooLong, region.offset, region.length));
        }
        Ok(Self {
            file,
            region,
            guid: header.log_guid,
        })
    }

    /// Finds the active sequence: of the runs whose tail they contain, the one that ends last.
    pub(crate) fn active(
        &self,
        file_len: u64,
        findings: &mut Findings,
    ) -> Result<ActiveEntries, Error> {
        let mut best: Option<Vec<Entry>> = None;
        let mut start = 0;
        while start < self.region.length {
            let run = self.run_from(start, findings)?;
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
            let (at, found) = (self.region.offset, self.region.length);
            return Err(findings.fatal(Rule::LogNoSequence, at, found));
        };
        let active = ActiveEntries { entries };
        self.check_active(&active, file_len, findings)?;
        Ok(active)
    }

    /// Judges what the active entries ask for together.
    fn check_active(
        &self,
        active: &ActiveEntries,
        file_len: u64,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        for entry in &active.entries {
            let at = self.region.offset + entry.offset;
            findings.report_if(
                entry.reserved != 0,
                Rule::LogEntryReserved,
                at + 28,
                entry.reserved,
            )?;
            for (field, found) in [
                (48, entry.flushed_file_offset),
                (56, entry.last_file_offset),
            ] {
                let odd = !found.is_multiple_of(MIB);
                findings.report_if(odd, Rule::LogFileSizes, at + field, found)?;
            }
        }
        let last = active.last();
        let at = self.region.offset + last.offset;
        let (flushed, needed) = (last.flushed_file_offset, last.last_file_offset);
        if file_len < flushed {
            return Err(findings.fatal(Rule::LogFileTruncated, at + 48, flushed));
        }
        if needed > FILE_MIB_MAX * MIB {
            return Err(findings.fatal(Rule::LogFileTooLong, at + 56, needed));
        }
        let zeros: u64 = active.entries.iter().map(Entry::zero_descriptors).sum();
        if zeros > ZEROS_MAX {
            return Err(findings.fatal(Rule::LogZeroRanges, self.region.offset, zeros));
        }
        Ok(())
    }

    /// Returns the valid entries in a row from `start`, each with the number after the one before, at most once around.
    fn run_from(&self, start: u64, findings: &mut Findings) -> Result<Vec<Entry>, Error> {
        let mut run: Vec<Entry> = Vec::new();
        let mut length = 0;
        loop {
            let entry = match self.entry_at((start + length) % self.region.length)? {
                Found::Entry(entry) => entry,
                Found::Nothing => break,
                // What ends a run is looked at once more, as the start of another one.
                Found::Broken { rule, at, found } => {
                    findings.report_if(run.is_empty(), rule, at, found)?;
                    break;
                }
            };
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
    fn entry_at(&self, offset: u64) -> Result<Found, Error> {
        let first = self.sector(offset)?;
        if &first[..4] != b"loge" || guid_at(&first, 32) != self.guid {
            return Ok(Found::Nothing);
        }
        let entry = Entry {
            offset,
            length: u64::from(u32_at(&first, 8)),
            tail: u64::from(u32_at(&first, 12)),
            sequence: u64_at(&first, 16),
            descriptors: u64::from(u32_at(&first, 24)),
            reserved: u32_at(&first, 28),
            flushed_file_offset: u64_at(&first, 48),
            last_file_offset: u64_at(&first, 56),
        };
        let plausible = entry.sequence > 0
            && entry.length > 0
            && entry.length.is_multiple_of(PAGE)
            && entry.length <= self.region.length
            && entry.tail.is_multiple_of(PAGE)
            && entry.tail < self.region.length
            && entry.descriptor_sectors() * PAGE <= entry.length;
        let broken = |rule, by: u64, found| Found::Broken {
            rule,
            at: self.region.offset + (offset + by) % self.region.length,
            found,
        };
        if !plausible {
            return Ok(broken(Rule::LogEntryHeader, 8, entry.length));
        }
        let sum = u32_at(&first, 4);
        let mut crc = 0;
        let mut data_sectors = 0;
        for number in 0..entry.length / PAGE {
            let start = number * PAGE;
            let mut sector = if number == 0 {
                first
            } else {
                self.sector(offset + start)?
            };
            if number < entry.descriptor_sectors() {
                let skipped = if number == 0 { ENTRY_HEADER_BYTES } else { 0 };
                for (descriptor, place) in entry.descriptors_of(&sector, number).zip(0_u64..) {
                    match self.check_descriptor(descriptor, entry.sequence) {
                        Ok(is_data) => data_sectors += u64::from(is_data),
                        Err(rule) => {
                            let by = start + skipped + place * DESCRIPTOR_BYTES;
                            return Ok(broken(rule, by, u64_at(descriptor, 16)));
                        }
                    }
                }
            } else if &sector[..4] != b"data" || sequence_of(&sector) != entry.sequence {
                return Ok(broken(Rule::LogDataSector, start, sequence_of(&sector)));
            }
            if number == 0 {
                put(&mut sector, 4, &[0; 4]);
            }
            crc = crc32c::crc32c_append(crc, &sector);
        }
        if entry.length != (entry.descriptor_sectors() + data_sectors) * PAGE {
            return Ok(broken(Rule::LogEntryHeader, 8, entry.length));
        }
        if crc != sum {
            return Ok(broken(Rule::LogEntryChecksum, 4, u64::from(sum)));
        }
        Ok(Found::Entry(entry))
    }

    /// Returns whether a descriptor is one of data; the rule it breaks if it is not valid.
    fn check_descriptor(&self, descriptor: &[u8], sequence: u64) -> Result<bool, Rule> {
        let is_data = match &descriptor[..4] {
            b"desc" => true,
            b"zero" => false,
            _ => return Err(Rule::LogEntryHeader),
        };
        let at = u64_at(descriptor, 16);
        let len = if is_data { PAGE } else { u64_at(descriptor, 8) };
        let sound = at.checked_add(len).is_some_and(|end| {
            u64_at(descriptor, 24) == sequence
                && at.is_multiple_of(PAGE)
                && len.is_multiple_of(PAGE)
                && at >= LOWEST_LOG_TARGET
                && end <= FILE_MIB_MAX * MIB
                && (end <= self.region.offset || at >= self.region.end())
        });
        match (sound, is_data) {
            (true, _) => Ok(is_data),
            (false, true) => Err(Rule::LogDataDescriptor),
            (false, false) => Err(Rule::LogZeroDescriptor),
        }
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

    fn zero_descriptors(&self) -> u64 {
        let data_sectors = self.length / PAGE - self.descriptor_sectors();
        self.descriptors - data_sectors
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
