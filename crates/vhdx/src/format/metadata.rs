//! The metadata region (2.6): a table of 64 KiB, then the items.

use uuid::{Uuid, uuid};

use super::bat::Geometry;
use super::region::Region;
use super::{KIB, MIB, TIB, guid_at, index, locator, put, u16_at, u32_at, u64_at};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::info::ParentLocator;

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

/// Reads the table and the known items.
pub(crate) fn read(file: &Backing, region: Region) -> Result<Metadata, Error> {
    let items = read_table(file, region)?;
    let find = |id: Uuid| {
        items
            .iter()
            .find(|item| item.id == id && item.flags & IS_USER == 0)
    };
    let fixed = |id: Uuid, length: u32| {
        let Some(item) = find(id) else {
            return Err(Error::format(
                Rule::MetadataMissing,
                region.offset,
                id.as_fields().0,
            ));
        };
        if item.length != length {
            return Err(Error::format(
                Rule::MetadataLength,
                region.offset + item.listed_at + 20,
                item.length,
            ));
        }
        read_item(file, region, item)
    };
    if let Some(item) = find(INCOMPLETE) {
        return Err(Error::format(
            Rule::Incomplete,
            region.offset + item.listed_at,
            1_u32,
        ));
    }
    let at =
        |id: Uuid| find(id).map_or(region.offset, |item| region.offset + u64::from(item.offset));

    let parameters = fixed(FILE_PARAMETERS, 8)?;
    let (block_bytes, flags) = (u32_at(&parameters, 0), u32_at(&parameters, 4));
    if !block_bytes.is_power_of_two() || !(MIB..=256 * MIB).contains(&u64::from(block_bytes)) {
        return Err(Error::format(
            Rule::BlockSize,
            at(FILE_PARAMETERS),
            block_bytes,
        ));
    }
    let sector = |id: Uuid| {
        let bytes = u32_at(&fixed(id, 4)?, 0);
        match bytes {
            512 | 4096 => Ok(bytes),
            _ => Err(Error::format(Rule::SectorSize, at(id), bytes)),
        }
    };
    let logical_sector_bytes = sector(LOGICAL_SECTOR)?;
    let physical_sector_bytes = sector(PHYSICAL_SECTOR)?;
    let size = u64_at(&fixed(DISK_SIZE, 8)?, 0);
    if size == 0 || size > DISK_MAX || !size.is_multiple_of(u64::from(logical_sector_bytes)) {
        return Err(Error::format(Rule::DiskSize, at(DISK_SIZE), size));
    }
    let disk_id = guid_at(&fixed(DISK_ID, 16)?, 0);
    let has_parent = flags & HAS_PARENT != 0;
    let parent = if has_parent {
        let Some(item) = find(PARENT_LOCATOR) else {
            return Err(Error::format(Rule::LocatorMissing, region.offset, flags));
        };
        Some(locator::parse(
            &read_item(file, region, item)?,
            region.offset + u64::from(item.offset),
        )?)
    } else {
        None
    };
    Ok(Metadata {
        geometry: Geometry::new(size, block_bytes, logical_sector_bytes, has_parent),
        physical_sector_bytes,
        leave_blocks_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0,
        disk_id,
        parent,
        items,
    })
}

fn read_table(file: &Backing, region: Region) -> Result<Vec<Item>, Error> {
    let mut table = vec![0; index(TABLE_BYTES)];
    file.read(&mut table, region.offset, "the metadata table")?;
    if &table[..8] != b"metadata" {
        return Err(Error::format(
            Rule::MetadataSignature,
            region.offset,
            u64_at(&table, 0),
        ));
    }
    let count = u16_at(&table, 10);
    if count > ENTRIES_MAX {
        return Err(Error::format(
            Rule::MetadataCount,
            region.offset + 10,
            count,
        ));
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
        check_entry(&item, region)?;
        items.push(item);
    }
    let user = items
        .iter()
        .filter(|item| item.flags & IS_USER != 0)
        .count();
    if user > USER_ENTRIES_MAX || items.len() - user > SYSTEM_ENTRIES_MAX {
        return Err(Error::format(
            Rule::MetadataCount,
            region.offset + 10,
            count,
        ));
    }
    let refuse = |rule, item: &Item| {
        Err(Error::format(
            rule,
            region.offset + item.listed_at,
            item.offset,
        ))
    };
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by_key(|item| (item.id, item.flags & IS_USER));
    for pair in sorted.windows(2) {
        if pair[0].id == pair[1].id && pair[0].flags & IS_USER == pair[1].flags & IS_USER {
            return refuse(Rule::MetadataDuplicate, pair[1]);
        }
    }
    sorted.retain(|item| item.length > 0);
    sorted.sort_by_key(|item| item.offset);
    for pair in sorted.windows(2) {
        if u64::from(pair[0].offset) + u64::from(pair[0].length) > u64::from(pair[1].offset) {
            return refuse(Rule::MetadataOverlap, pair[1]);
        }
    }
    Ok(items)
}

fn check_entry(item: &Item, region: Region) -> Result<(), Error> {
    let at = region.offset + item.listed_at;
    let end = u64::from(item.offset) + u64::from(item.length);
    let placed = if item.length == 0 {
        item.offset == 0
    } else {
        u64::from(item.offset) >= TABLE_BYTES && item.length <= ITEM_MAX && end <= region.length
    };
    let (user, required) = (item.flags & IS_USER != 0, item.flags & IS_REQUIRED != 0);
    if !placed || item.id.is_nil() || (user && required) {
        return Err(Error::format(Rule::MetadataEntry, at + 16, item.offset));
    }
    let known = [
        FILE_PARAMETERS,
        DISK_SIZE,
        DISK_ID,
        LOGICAL_SECTOR,
        PHYSICAL_SECTOR,
        PARENT_LOCATOR,
        CHS_PARAMETERS,
        INCOMPLETE,
        PMEM_LABELS,
    ];
    if required && !known.contains(&item.id) {
        return Err(Error::format(
            Rule::MetadataUnknown,
            at,
            item.id.as_fields().0,
        ));
    }
    Ok(())
}

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

/// Returns the used front of the metadata region of a new file: table and items, in the order Windows writes them.
pub(crate) fn encode(
    geometry: &Geometry,
    physical_sector_bytes: u32,
    leave_blocks_allocated: bool,
    disk_id: Uuid,
    parent: Option<&ParentLocator>,
) -> Result<Vec<u8>, Error> {
    let mut flags = 0;
    if leave_blocks_allocated {
        flags |= LEAVE_BLOCKS_ALLOCATED;
    }
    if parent.is_some() {
        flags |= HAS_PARENT;
    }
    let parameters = [geometry.block_bytes().to_le_bytes(), flags.to_le_bytes()].concat();
    let mut items: Vec<(Uuid, u32, Vec<u8>)> = vec![
        (FILE_PARAMETERS, FILE_ITEM, parameters),
        (DISK_SIZE, DISK_ITEM, geometry.size().to_le_bytes().to_vec()),
        (
            LOGICAL_SECTOR,
            DISK_ITEM,
            geometry.sector_bytes().to_le_bytes().to_vec(),
        ),
        (
            PHYSICAL_SECTOR,
            DISK_ITEM,
            physical_sector_bytes.to_le_bytes().to_vec(),
        ),
        (DISK_ID, DISK_ITEM, disk_id.to_bytes_le().to_vec()),
    ];
    if let Some(parent) = parent {
        items.push((PARENT_LOCATOR, FILE_ITEM, locator::encode(parent)?));
    }
    let mut region = vec![0; index(TABLE_BYTES)];
    put(&mut region, 0, b"metadata");
    put(
        &mut region,
        10,
        &u16::try_from(items.len()).expect("six items").to_le_bytes(),
    );
    for (number, (id, flags, content)) in items.into_iter().enumerate() {
        let listed_at = 32 + number * 32;
        let offset =
            u32::try_from(region.len()).expect("below 1 MiB: the locator has five short values");
        let length = u32::try_from(content.len()).expect("below 1 MiB");
        let item = Item {
            id,
            flags,
            offset,
            length,
            listed_at: listed_at as u64,
        };
        put(&mut region, listed_at, &item.encode());
        region.extend(content);
    }
    Ok(region)
}
