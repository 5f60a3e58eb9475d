//! The metadata region of a new file (2.6).

use uuid::Uuid;

use super::{
    DISK_ID, DISK_ITEM, DISK_SIZE, FILE_ITEM, FILE_PARAMETERS, HAS_PARENT, Item,
    LEAVE_BLOCKS_ALLOCATED, LOGICAL_SECTOR, PARENT_LOCATOR, PHYSICAL_SECTOR, TABLE_BYTES,
};
use crate::error::Error;
use crate::format::bat::Geometry;
use crate::format::{index, locator, put};
use crate::info::ParentLocator;

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
