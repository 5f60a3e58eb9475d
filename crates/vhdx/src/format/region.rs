//! The region table (2.2.3): where BAT and metadata lie.

use uuid::{Uuid, uuid};

use super::{HEADER_AREA, KIB, MIB, checksum, guid_at, index, put, u32_at, u64_at};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;

/// Where the two copies of the table lie.
pub(crate) const TABLE_AT: [u64; 2] = [192 * KIB, 256 * KIB];
pub(crate) const TABLE_BYTES: u64 = 64 * KIB;

pub(crate) const BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
pub(crate) const METADATA: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");

const ENTRIES_MAX: u32 = 2047;

/// A range of the file given over to one purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Region {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.length
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Regions {
    pub(crate) bat: Region,
    pub(crate) metadata: Region,
    /// All regions, the optional unknown ones included, and the log.
    pub(crate) all: Vec<Region>,
    /// The copy the table was read from, if the other one is not identical.
    pub(crate) repair_from: Option<usize>,
}

/// What the table says, as far as it makes sense. A region that is no good is none.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) bat: Option<Region>,
    pub(crate) metadata: Option<Region>,
    /// All regions and the log, in the order of the file.
    pub(crate) all: Vec<Region>,
    repair_from: Option<usize>,
}

impl Listed {
    /// Returns the regions if both known ones are good; if not, a finding said why.
    pub(crate) fn whole(self) -> Option<Regions> {
        Some(Regions {
            bat: self.bat?,
            metadata: self.metadata?,
            all: self.all,
            repair_from: self.repair_from,
        })
    }
}

/// Reads the table and checks every region against the file and the log.
pub(crate) fn read(
    file: &Backing,
    log: Option<Region>,
    findings: &mut Findings,
) -> Result<Listed, Error> {
    let mut copies = [vec![0; index(TABLE_BYTES)], vec![0; index(TABLE_BYTES)]];
    for (copy, at) in copies.iter_mut().zip(TABLE_AT) {
        file.read(copy, at, "the region table")?;
    }
    let valid = |copy: &[u8]| &copy[..4] == b"regi" && u32_at(copy, 4) == checksum(copy);
    let [first, second] = [valid(&copies[0]), valid(&copies[1])];
    let slot = match (first, second) {
        (false, false) => {
            let found = u32_at(&copies[0], 0);
            return Err(findings.fatal(Rule::RegionNoneValid, TABLE_AT[0], found));
        }
        (true, _) => 0,
        (false, true) => 1,
    };
    let mut repair_from = None;
    if copies[0] != copies[1] {
        repair_from = Some(slot);
        let bad = usize::from(first);
        let rule = if first && second {
            Rule::RegionCopies
        } else {
            Rule::RegionOneBad
        };
        findings.report(rule, TABLE_AT[bad], u32_at(&copies[bad], 4))?;
    }
    let mut listed = parse(&copies[slot], TABLE_AT[slot], file.len(), log, findings)?;
    listed.repair_from = repair_from;
    Ok(listed)
}

fn parse(
    table: &[u8],
    at: u64,
    file_len: u64,
    log: Option<Region>,
    findings: &mut Findings,
) -> Result<Listed, Error> {
    let count = u32_at(table, 8);
    if count > ENTRIES_MAX {
        return Err(findings.fatal(Rule::RegionCount, at + 8, count));
    }
    let mut listed = Listed::default();
    let mut seen: Vec<Uuid> = Vec::new();
    // With where each was listed, to be sorted by place.
    let mut all: Vec<(Region, u64)> = log.map(|log| (log, at)).into_iter().collect();
    for number in 0..u64::from(count) {
        let entry_at = 16 + number * 32;
        let entry = &table[index(entry_at)..index(entry_at) + 32];
        let listed_at = at + entry_at;
        let guid = guid_at(entry, 0);
        let region = Region {
            offset: u64_at(entry, 16),
            length: u64::from(u32_at(entry, 24)),
        };
        let flags = u32_at(entry, 28);
        let required = flags & 1 == 1;
        if seen.contains(&guid) {
            findings.report(Rule::RegionDuplicate, listed_at, number)?;
            continue;
        }
        seen.push(guid);
        findings.report_if(flags > 1, Rule::RegionReserved, listed_at + 28, flags)?;
        let placed = region.offset.is_multiple_of(MIB)
            && region.offset >= HEADER_AREA
            && region.length > 0
            && region.length.is_multiple_of(MIB)
            && region
                .offset
                .checked_add(region.length)
                .is_some_and(|end| end <= file_len);
        if placed {
            all.push((region, listed_at));
        } else {
            findings.report(Rule::RegionPlace, listed_at + 16, region.offset)?;
        }
        if guid == BAT || guid == METADATA {
            findings.report_if(!required, Rule::RegionNotRequired, listed_at + 28, flags)?;
            let known = if guid == BAT {
                &mut listed.bat
            } else {
                &mut listed.metadata
            };
            *known = placed.then_some(region);
        } else {
            let rule = if required {
                Rule::RegionUnknown
            } else {
                Rule::RegionOptional
            };
            findings.report(rule, listed_at, number)?;
        }
    }
    all.sort_by_key(|(region, _)| region.offset);
    for pair in all.windows(2) {
        if pair[0].0.end() > pair[1].0.offset {
            findings.report(Rule::RegionOverlap, pair[1].1 + 16, pair[1].0.offset)?;
        }
    }
    let missing = !seen.contains(&BAT) || !seen.contains(&METADATA);
    findings.report_if(missing, Rule::RegionMissing, at, count)?;
    // What lies behind the last entry may be anything.
    let reserved = u32_at(table, 12);
    findings.report_if(reserved != 0, Rule::RegionReserved, at + 12, reserved)?;
    listed.all = all.into_iter().map(|(region, _)| region).collect();
    Ok(listed)
}

/// Returns the table of a new file.
pub(crate) fn encode(bat: Region, metadata: Region) -> Vec<u8> {
    let mut table = vec![0; index(TABLE_BYTES)];
    put(&mut table, 0, b"regi");
    put(&mut table, 8, &2_u32.to_le_bytes());
    for (at, guid, region) in [(16, BAT, bat), (48, METADATA, metadata)] {
        let length = u32::try_from(region.length).expect("regions of a new file are below 4 GiB");
        put(&mut table, at, &guid.to_bytes_le());
        put(&mut table, at + 16, &region.offset.to_le_bytes());
        put(&mut table, at + 24, &length.to_le_bytes());
        put(&mut table, at + 28, &1_u32.to_le_bytes());
    }
    let sum = checksum(&table);
    put(&mut table, 4, &sum.to_le_bytes());
    table
}
