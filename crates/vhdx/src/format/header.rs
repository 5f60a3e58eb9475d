//! The two headers (2.2.2): which one is current, how they are written.

use uuid::Uuid;

use super::region::Region;
use super::{
    FILE_SIGNATURE, HEADER_AREA, KIB, MIB, PAGE_BYTES, Page, checksum, guid_at, put, u16_at,
    u32_at, u64_at,
};
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::io::ReadAt;
use crate::vhd;

/// Where the two headers lie.
pub(crate) const HEADER_AT: [u64; 2] = [64 * KIB, 128 * KIB];

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) file_write_guid: Uuid,
    pub(crate) data_write_guid: Uuid,
    pub(crate) log_guid: Uuid,
    pub(crate) log_version: u16,
    pub(crate) version: u16,
    pub(crate) log_length: u32,
    pub(crate) log_offset: u64,
}

/// The current header and the slot it was read from.
#[derive(Clone, Debug)]
pub(crate) struct CurrentHeader {
    pub(crate) header: Header,
    pub(crate) slot: usize,
}

impl Header {
    /// Reads one header; `None` if signature or checksum are wrong.
    fn parse(bytes: &Page) -> Option<Self> {
        (&bytes[..4] == b"head" && u32_at(bytes, 4) == checksum(bytes)).then(|| Self {
            sequence: u64_at(bytes, 8),
            file_write_guid: guid_at(bytes, 16),
            data_write_guid: guid_at(bytes, 32),
            log_guid: guid_at(bytes, 48),
            log_version: u16_at(bytes, 64),
            version: u16_at(bytes, 66),
            log_length: u32_at(bytes, 68),
            log_offset: u64_at(bytes, 72),
        })
    }

    pub(crate) fn encode(&self) -> Page {
        let mut bytes = [0; PAGE_BYTES];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write_guid.to_bytes_le());
        put(&mut bytes, 32, &self.data_write_guid.to_bytes_le());
        put(&mut bytes, 48, &self.log_guid.to_bytes_le());
        put(&mut bytes, 64, &self.log_version.to_le_bytes());
        put(&mut bytes, 66, &self.version.to_le_bytes());
        put(&mut bytes, 68, &self.log_length.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }

    /// Returns whether the log must be replayed before anything else of the file is read.
    pub(crate) fn log_in_use(&self) -> bool {
        !self.log_guid.is_nil()
    }

    /// Judges the current header, which lies at `at`.
    fn check(&self, at: u64, file_len: u64, findings: &mut Findings) -> Result<(), Error> {
        if self.version != 1 {
            return Err(findings.fatal(Rule::HeaderVersion, at + 66, self.version));
        }
        let (data, file) = (self.data_write_guid, self.file_write_guid);
        findings.report_if(file.is_nil(), Rule::FileWriteGuidNil, at + 16, 0_u64)?;
        findings.report_if(data.is_nil(), Rule::DataWriteGuidNil, at + 32, 0_u64)?;
        let length = u64::from(self.log_length);
        let end = self.log_offset.checked_add(length);
        let unused = length == 0 && !self.log_in_use();
        let placed = length > 0
            && length.is_multiple_of(MIB)
            && self.log_offset.is_multiple_of(MIB)
            && self.log_offset >= HEADER_AREA
            && end.is_some_and(|end| end <= file_len);
        findings.report_if(unused, Rule::LogMissing, at + 68, 0_u64)?;
        if !unused && !placed {
            let err = findings.fatal(Rule::LogPlace, at + 72, self.log_offset);
            // A log that is empty is not read.
            if self.log_in_use() || !findings.wants_all() {
                return Err(err);
            }
        }
        if self.log_version != 0 {
            if self.log_in_use() {
                return Err(findings.fatal(Rule::LogVersion, at + 64, self.log_version));
            }
            findings.report(Rule::LogVersionUnused, at + 64, self.log_version)?;
        }
        if self.log_in_use() {
            findings.report(Rule::LogInUse, at + 48, self.log_guid.as_fields().0)?;
        }
        Ok(())
    }

    /// Returns where the log lies, if there is one.
    pub(crate) fn log(&self) -> Option<Region> {
        let log = Region {
            offset: self.log_offset,
            length: u64::from(self.log_length),
        };
        (log.length > 0 && log.offset.checked_add(log.length).is_some()).then_some(log)
    }
}

/// Returns the refusal of what is no VHDX file; a VHD is called by its name.
fn not_vhdx(file: &dyn ReadAt, file_len: u64, rule: Rule, found: u64) -> Error {
    match vhd::has_signature(file, file_len) {
        Ok(true) => Error::VhdUnchangeable,
        Ok(false) | Err(_) => Error::format(rule, 0, found),
    }
}

/// Reads the identifier and both headers of a file of `file_len` bytes and returns the current header.
pub(crate) fn read_current(
    file: &dyn ReadAt,
    file_len: u64,
    findings: &mut Findings,
) -> Result<CurrentHeader, Error> {
    if file_len < HEADER_AREA {
        return Err(not_vhdx(file, file_len, Rule::FileTooShort, file_len));
    }
    let read = |buf: &mut [u8], at| {
        file.read_exact_at(buf, at).map_err(|source| Error::Read {
            what: "the file header",
            at,
            source,
        })
    };
    let mut signature = [0; 8];
    read(&mut signature, 0)?;
    if &signature != FILE_SIGNATURE {
        let found = u64::from_le_bytes(signature);
        return Err(not_vhdx(file, file_len, Rule::FileSignature, found));
    }
    let mut pages = [[0; PAGE_BYTES]; 2];
    for (page, at) in pages.iter_mut().zip(HEADER_AT) {
        read(page, at)?;
    }
    let headers = [Header::parse(&pages[0]), Header::parse(&pages[1])];
    let slot = match &headers {
        [None, None] => {
            let found = u32_at(&pages[0], 0);
            return Err(findings.fatal(Rule::HeaderNoneValid, HEADER_AT[0], found));
        }
        [Some(_), None] => 0,
        [None, Some(_)] => 1,
        [Some(first), Some(second)] if first.sequence == second.sequence => {
            let at = HEADER_AT[0] + 8;
            if pages[0] != pages[1] {
                return Err(findings.fatal(Rule::HeaderTie, at, first.sequence));
            }
            // Disk2vhd writes the same header twice.
            findings.report(Rule::HeaderTwins, at, first.sequence)?;
            0
        }
        [Some(first), Some(second)] => usize::from(second.sequence > first.sequence),
    };
    let (at, other) = (HEADER_AT[slot], 1 - slot);
    let header = Header::parse(&pages[slot]).expect("this slot was parsed above");
    match &headers[other] {
        None => {
            let found = u32_at(&pages[other], 0);
            findings.report(Rule::HeaderOneBad, HEADER_AT[other], found)?;
        }
        Some(stale) => {
            let differs = stale.log_guid != header.log_guid;
            let found = stale.log_guid.as_fields().0;
            findings.report_if(differs, Rule::HeaderOtherLog, HEADER_AT[other] + 48, found)?;
        }
    }
    header.check(at, file_len, findings)?;
    if let Some(byte) = pages[slot][80..].iter().position(|byte| *byte != 0) {
        let byte = 80 + byte;
        findings.report(Rule::HeaderReserved, at + byte as u64, pages[slot][byte])?;
    }
    Ok(CurrentHeader { header, slot })
}
