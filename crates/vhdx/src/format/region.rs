//! The region table (2.2.3): where BAT and metadata lie.

use uuid::{Uuid, uuid};

use super::{HEADER_AREA, KIB, MIB, checksum, guid_at, index, put, u32_at, u64_at};
use crate::backing::Backing;
use crate::error::{Error, Rule};

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
    /// All regions, the optional unknown ones included.
    pub(crate) all: Vec<Region>,
    /// The copy the table was read from, if the other one is not identical.
    pub(crate) repair_from: Option<usize>,
}

/// Reads the table and checks every region against the file and the log.
pub(crate) fn read(file: &Backing, log: Option<Region>) -> Result<Regions, Error> {
    let mut copies = [vec![0; index(TABLE_BYTES)], vec![0; index(TABLE_BYTES)]];
    for (copy, at) in copies.iter_mut().zip(TABLE_AT) {
        file.read(copy, at, "the region table")?;
    }
    let valid = |copy: &[u8]| &copy[..4] == b"regi" && u32_at(copy, 4) == checksum(copy);
    let Some(slot) = (0..2).find(|slot| valid(&copies[*slot])) else {
        return Err(Error::format(
            Rule::RegionNoneValid,
            TABLE_AT[0],
            u32_at(&copies[0], 0),
        ));
    };
    let repair_from = (copies[0] != copies[1]).then_some(slot);
    parse(&copies[slot], TABLE_AT[slot], file.len(), log, repair_from)
}

fn parse(
    table: &[u8],
    at: u64,
    file_len: u64,
    log: Option<Region>,
    repair_from: Option<usize>,
) -> Result<Regions, Error> {
    let count = u32_at(table, 8);
    if count > ENTRIES_MAX {
        return Err(Error::format(Rule::RegionCount, at + 8, count));
    }
    let (mut bat, mut metadata) = (None, None);
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
        let required = u32_at(entry, 28) & 1 == 1;
        if seen.contains(&guid) {
            return Err(Error::format(Rule::RegionDuplicate, listed_at, number));
        }
        seen.push(guid);
        let placed = region.offset.is_multiple_of(MIB)
            && region.offset >= HEADER_AREA
            && region.length > 0
            && region.length.is_multiple_of(MIB)
            && region
                .offset
                .checked_add(region.length)
                .is_some_and(|end| end <= file_len);
        if !placed {
            return Err(Error::format(
                Rule::RegionPlace,
                listed_at + 16,
                region.offset,
            ));
        }
        all.push((region, listed_at));
        if guid == BAT {
            bat = Some(region);
        } else if guid == METADATA {
            metadata = Some(region);
        } else if required {
            return Err(Error::format(Rule::RegionUnknown, listed_at, number));
        }
    }
    all.sort_by_key(|(region, _)| region.offset);
    for pair in all.windows(2) {
        if pair[0].0.end() > pair[1].0.offset {
            return Err(Error::format(
                Rule::RegionOverlap,
                pair[1].1 + 16,
                pair[1].0.offset,
            ));
        }
    }
    let (Some(bat), Some(metadata)) = (bat, metadata) else {
        return Err(Error::format(Rule::RegionMissing, at, count));
    };
    let all = all.into_iter().map(|(region, _)| region).collect();
    Ok(Regions {
        bat,
        metadata,
        all,
        repair_from,
    })
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
