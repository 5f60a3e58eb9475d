//! The metadata region (2.6): a table of 64 KiB, then the items.

mod encode;

use uuid::{Uuid, uuid};

use super::bat::Geometry;
use super::region::Region;
use super::{KIB, MIB, TIB, guid_at, index, locator, put, u16_at, u32_at, u64_at};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::info::ParentLocator;

pub(crate) use encode::encode;

pub(crate) const TABLE_BYTES: u64 = 64 * KIB;
/// The largest virtual disk (2.6.2.2).
pub(crate) const DISK_MAX: u64 = 64 * TIB;

const ITEM_MAX: u32 = 1 << 20;
const ENTRIES_MAX: u16 = 2047;
const USER_ENTRIES_MAX: usize = 1024;
const SYSTEM_ENTRIES_MAX: usize = 1023;

pub(crate) const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
pub(crate) const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
pub(crate) const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
pub(crate) const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
pub(crate) const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
pub(crate) const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
// Not in the published specification; OpenVMM knows them.
const CHS_PARAMETERS: Uuid = uuid!("DA02D7BC-3D3A-423C-AC88-2A36AB21479B");
const INCOMPLETE: Uuid = uuid!("71CC85F0-1B69-4E28-9558-C3BF83AE75D3");
const PMEM_LABELS: Uuid = uuid!("10E1AE8A-4B7E-4169-A40F-CD70DE928393");

pub(crate) const IS_USER: u32 = 1;
const IS_VIRTUAL_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;

/// Flags of the items of a new file.
pub(crate) const FILE_ITEM: u32 = IS_REQUIRED;
/// Flags of items that belong to the virtual disk.
pub(crate) const DISK_ITEM: u32 = IS_REQUIRED | IS_VIRTUAL_DISK;

const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) id: Uuid,
    pub(crate) flags: u32,
    /// From the start of the region.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// Where the entry lies, from the start of the region.
    pub(crate) listed_at: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) geometry: Geometry,
    pub(crate) physical_sector_bytes: u32,
    pub(crate) leave_blocks_allocated: bool,
    pub(crate) disk_id: Uuid,
    pub(crate) parent: Option<ParentLocator>,
    pub(crate) items: Vec<Item>,
}

/// What the items say, as far as they make sense; where one is missing, a finding said why.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) geometry: Option<Geometry>,
    physical_sector_bytes: Option<u32>,
    pub(crate) leave_blocks_allocated: bool,
    disk_id: Option<Uuid>,
    parent: Option<ParentLocator>,
    items: Vec<Item>,
}

impl Known {
    /// Returns the metadata if all of it is good.
    pub(crate) fn whole(self) -> Option<Metadata> {
        let geometry = self.geometry?;
        if geometry.has_parent() && self.parent.is_none() {
            return None;
        }
        Some(Metadata {
            geometry,
            physical_sector_bytes: self.physical_sector_bytes?,
            leave_blocks_allocated: self.leave_blocks_allocated,
            disk_id: self.disk_id?,
            parent: self.parent,
            items: self.items,
        })
    }
}

/// Reads the table and the known items.
pub(crate) fn read(
    file: &Backing,
    region: Region,
    findings: &mut Findings,
) -> Result<Known, Error> {
    let reader = Reader {
        file,
        region,
        items: read_table(file, region, findings)?,
    };
    if let Some(item) = reader.find(INCOMPLETE) {
        let at = region.offset + item.listed_at;
        return Err(findings.fatal(Rule::Incomplete, at, 1_u32));
    }
    let parameters = reader.fixed(FILE_PARAMETERS, 8, findings)?;
    let (block_bytes, flags) = match &parameters {
        Some((at, item)) => {
            let (block_bytes, flags) = (u32_at(item, 0), u32_at(item, 4));
            let reserved = flags & !(LEAVE_BLOCKS_ALLOCATED | HAS_PARENT);
            findings.report_if(
                reserved != 0,
                Rule::ParametersReserved,
                at + 4,
                u64::from(flags),
            )?;
            (checked_block_size(*at, block_bytes, findings)?, Some(flags))
        }
        None => (None, None),
    };
    let flags_at = parameters.map_or(region.offset, |(at, _)| at + 4);
    let logical = reader.sector_size(LOGICAL_SECTOR, findings)?;
    let physical = reader.sector_size(PHYSICAL_SECTOR, findings)?;
    if let (Some((_, logical)), Some((at, physical))) = (logical, physical) {
        findings.report_if(physical < logical, Rule::SectorSizeOrder, at, physical)?;
    }
    let size = match (reader.fixed(DISK_SIZE, 8, findings)?, logical) {
        (Some((at, item)), Some((_, logical))) => {
            let size = u64_at(&item, 0);
            if size == 0 || size > DISK_MAX || !size.is_multiple_of(u64::from(logical)) {
                findings.report(Rule::DiskSize, at, size)?;
                None
            } else {
                Some(size)
            }
        }
        (Some(_) | None, _) => None,
    };
    let disk_id = reader.fixed(DISK_ID, 16, findings)?;
    let disk_id = match disk_id {
        Some((at, item)) => {
            let id = guid_at(&item, 0);
            findings.report_if(id.is_nil(), Rule::DiskIdNil, at, 0_u64)?;
            Some(id)
        }
        None => None,
    };
    let parent = match flags {
        Some(flags) => reader.parent(flags_at, flags, findings)?,
        None => None,
    };
    let geometry =
        match (size, block_bytes, logical, flags) {
            (Some(size), Some(block_bytes), Some((_, logical)), Some(flags)) => Some(
                Geometry::new(size, block_bytes, logical, flags & HAS_PARENT != 0),
            ),
            _ => None,
        };
    Ok(Known {
        geometry,
        physical_sector_bytes: physical.map(|(_, bytes)| bytes),
        leave_blocks_allocated: flags.is_some_and(|flags| flags & LEAVE_BLOCKS_ALLOCATED != 0),
        disk_id,
        parent,
        items: reader.items,
    })
}

fn checked_block_size(at: u64, bytes: u32, findings: &mut Findings) -> Result<Option<u32>, Error> {
    if bytes.is_power_of_two() && (MIB..=256 * MIB).contains(&u64::from(bytes)) {
        return Ok(Some(bytes));
    }
    findings.report(Rule::BlockSize, at, bytes)?;
    Ok(None)
}

/// Reads items of a table that was read.
struct Reader<'a> {
    file: &'a Backing,
    region: Region,
    items: Vec<Item>,
}

impl Reader<'_> {
    fn find(&self, id: Uuid) -> Option<&Item> {
        self.items
            .iter()
            .find(|item| item.id == id && item.flags & IS_USER == 0)
    }

    /// Reads an item of a known length; returns where in the file it lies, and it.
    fn fixed(
        &self,
        id: Uuid,
        length: u32,
        findings: &mut Findings,
    ) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let start = self.region.offset;
        let Some(item) = self.find(id) else {
            findings.report(Rule::MetadataMissing, start, id.as_fields().0)?;
            return Ok(None);
        };
        if item.length != length {
            let at = start + item.listed_at + 20;
            findings.report(Rule::MetadataLength, at, item.length)?;
            return Ok(None);
        }
        let bytes = read_item(self.file, self.region, item)?;
        Ok(Some((start + u64::from(item.offset), bytes)))
    }

    fn sector_size(&self, id: Uuid, findings: &mut Findings) -> Result<Option<(u64, u32)>, Error> {
        let Some((at, item)) = self.fixed(id, 4, findings)? else {
            return Ok(None);
        };
        let bytes = u32_at(&item, 0);
        if [512, 4096].contains(&bytes) {
            return Ok(Some((at, bytes)));
        }
        findings.report(Rule::SectorSize, at, bytes)?;
        Ok(None)
    }

    /// Reads the parent locator if the flags of the file parameters ask for one.
    fn parent(
        &self,
        flags_at: u64,
        flags: u32,
        findings: &mut Findings,
    ) -> Result<Option<ParentLocator>, Error> {
        let start = self.region.offset;
        let item = self.find(PARENT_LOCATOR);
        let item = match (item, flags & HAS_PARENT != 0) {
            (Some(item), true) => item,
            (None, true) => {
                findings.report(Rule::LocatorMissing, flags_at, flags)?;
                return Ok(None);
            }
            (Some(item), false) => {
                let at = start + item.listed_at;
                findings.report(Rule::LocatorUnused, at, flags)?;
                return Ok(None);
            }
            (None, false) => return Ok(None),
        };
        let fixed = flags & LEAVE_BLOCKS_ALLOCATED != 0;
        findings.report_if(fixed, Rule::FixedChild, flags_at, flags)?;
        let bytes = read_item(self.file, self.region, item)?;
        let parsed = locator::parse(&bytes, start + u64::from(item.offset), findings);
        findings.go_on(parsed)
    }
}

fn read_table(file: &Backing, region: Region, findings: &mut Findings) -> Result<Vec<Item>, Error> {
    let mut table = vec![0; index(TABLE_BYTES)];
    file.read(&mut table, region.offset, "the metadata table")?;
    if &table[..8] != b"metadata" {
        let found = u64_at(&table, 0);
        return Err(findings.fatal(Rule::MetadataSignature, region.offset, found));
    }
    let count_at = region.offset + 10;
    let count = u16_at(&table, 10);
    if count > ENTRIES_MAX {
        return Err(findings.fatal(Rule::MetadataCount, count_at, count));
    }
    let mut items: Vec<Item> = Vec::with_capacity(usize::from(count));
    for number in 0..u64::from(count) {
        let listed_at = 32 + number * 32;
        let entry = &table[index(listed_at)..index(listed_at) + 32];
        let item = Item {
            id: guid_at(entry, 0),
            offset: u32_at(entry, 16),
            length: u32_at(entry, 20),
            flags: u32_at(entry, 24),
            listed_at,
        };
        if check_entry(&item, region, findings)? {
            items.push(item);
        }
        let reserved = u32_at(entry, 28);
        let at = region.offset + listed_at + 28;
        findings.report_if(reserved != 0, Rule::MetadataReserved, at, reserved)?;
    }
    let user = items
        .iter()
        .filter(|item| item.flags & IS_USER != 0)
        .count();
    if user > USER_ENTRIES_MAX || items.len() - user > SYSTEM_ENTRIES_MAX {
        findings.report(Rule::MetadataCount, count_at, count)?;
    }
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by_key(|item| (item.id, item.flags & IS_USER));
    for pair in sorted.windows(2) {
        if pair[0].id == pair[1].id && pair[0].flags & IS_USER == pair[1].flags & IS_USER {
            let at = region.offset + pair[1].listed_at;
            findings.report(Rule::MetadataDuplicate, at, pair[1].offset)?;
        }
    }
    sorted.retain(|item| item.length > 0);
    sorted.sort_by_key(|item| item.offset);
    for pair in sorted.windows(2) {
        if u64::from(pair[0].offset) + u64::from(pair[0].length) > u64::from(pair[1].offset) {
            let at = region.offset + pair[1].listed_at;
            findings.report(Rule::MetadataOverlap, at, pair[1].offset)?;
        }
    }
    // What lies behind the last entry may be anything: Windows leaves entries there that it no longer counts.
    let reserved = (8..10).chain(12..32);
    if let Some(byte) = reserved.into_iter().find(|byte| table[*byte] != 0) {
        let at = region.offset + byte as u64;
        findings.report(Rule::MetadataReserved, at, table[byte])?;
    }
    Ok(items)
}

/// Judges one entry; returns whether it can be used.
fn check_entry(item: &Item, region: Region, findings: &mut Findings) -> Result<bool, Error> {
    let at = region.offset + item.listed_at;
    let end = u64::from(item.offset) + u64::from(item.length);
    let placed = if item.length == 0 {
        item.offset == 0
    } else {
        u64::from(item.offset) >= TABLE_BYTES && item.length <= ITEM_MAX && end <= region.length
    };
    let (user, required) = (item.flags & IS_USER != 0, item.flags & IS_REQUIRED != 0);
    if !placed || item.id.is_nil() || (user && required) {
        findings.report(Rule::MetadataEntry, at + 16, item.offset)?;
        return Ok(false);
    }
    let reserved = item.flags & !(IS_USER | IS_VIRTUAL_DISK | IS_REQUIRED);
    findings.report_if(
        reserved != 0,
        Rule::MetadataReserved,
        at + 24,
        u64::from(item.flags),
    )?;
    let known = KNOWN.iter().find(|(id, _)| *id == item.id && !user);
    match known {
        Some((_, Some(flags))) => {
            let differs = item.flags & !reserved != *flags;
            findings.report_if(differs, Rule::MetadataFlags, at + 24, item.flags)?;
        }
        Some((_, None)) => {}
        None if required => {
            let found = item.id.as_fields().0;
            findings.report(Rule::MetadataUnknown, at, found)?;
        }
        // What users keep in the file is theirs.
        None => {
            let found = item.id.as_fields().0;
            findings.report_if(!user, Rule::MetadataOptional, at, found)?;
        }
    }
    Ok(true)
}

/// The system items this version knows, and the flags the specification gives them.
const KNOWN: [(Uuid, Option<u32>); 9] = [
    (FILE_PARAMETERS, Some(FILE_ITEM)),
    (DISK_SIZE, Some(DISK_ITEM)),
    (DISK_ID, Some(DISK_ITEM)),
    (LOGICAL_SECTOR, Some(DISK_ITEM)),
    (PHYSICAL_SECTOR, Some(DISK_ITEM)),
    (PARENT_LOCATOR, Some(FILE_ITEM)),
    (CHS_PARAMETERS, None),
    (INCOMPLETE, None),
    (PMEM_LABELS, None),
];

fn read_item(file: &Backing, region: Region, item: &Item) -> Result<Vec<u8>, Error> {
    // At most 1 MiB and inside the region: checked with the table.
    let mut bytes = vec![0; index(u64::from(item.length))];
    if !bytes.is_empty() {
        file.read(
            &mut bytes,
            region.offset + u64::from(item.offset),
            "a metadata item",
        )?;
    }
    Ok(bytes)
}

impl Item {
    /// Returns the entry of the table.
    pub(crate) fn encode(&self) -> [u8; 32] {
        let mut entry = [0; 32];
        put(&mut entry, 0, &self.id.to_bytes_le());
        put(&mut entry, 16, &self.offset.to_le_bytes());
        put(&mut entry, 20, &self.length.to_le_bytes());
        put(&mut entry, 24, &self.flags.to_le_bytes());
        entry
    }
}
