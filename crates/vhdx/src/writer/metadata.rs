//! Changing metadata items of a file nobody has open: parent locator, disk id.
//!
//! Each change is one log entry, so a file holds the old item or the new one.

use std::sync::Arc;

use uuid::Uuid;

use super::Durability;
use super::patches::Patches;
use super::session::Session;
use crate::error::{Error, Rule};
use crate::format::locator;
use crate::format::metadata::{self, FILE_ITEM, Item};
use crate::info::{FileInfo, ParentLocator};
use crate::io::{ReadAt, WriteAt};
use crate::layer::Structures;
use crate::params::ParentLink;

/// Points a differencing disk at another parent, or at the same one elsewhere: `SetParentVirtualHardDisk`.
///
/// The caller vouches that the content of the new parent is right; the child's own `DataWriteGuid` stays, so that its
/// children stay linked.
pub fn set_parent(
    child: impl WriteAt + 'static,
    link: &ParentLink,
    durability: Durability,
) -> Result<FileInfo, Error> {
    set_locator(Arc::new(child), &ParentLocator::from(link), durability)
}

/// Gives the virtual disk another id. Changes its `DataWriteGuid`, so it must not have children.
pub fn set_disk_id(
    file: impl WriteAt + 'static,
    disk_id: Uuid,
    durability: Durability,
) -> Result<FileInfo, Error> {
    edit(Arc::new(file), durability, true, |structures| {
        let item = find(structures, metadata::DISK_ID)?;
        Ok(vec![(
            u64::from(item.offset),
            disk_id.to_bytes_le().to_vec(),
        )])
    })
}

/// Brings a file that was not closed cleanly into a clean state: its log is replayed in place.
///
/// Needs no parents and changes nothing of what the disk reads as; a clean file is left alone.
pub fn replay_log(file: impl WriteAt + 'static, durability: Durability) -> Result<FileInfo, Error> {
    let (_, structures) = Session::replayed(Arc::new(file), durability)?;
    Ok(structures.info())
}

/// Replaces the parent locator.
pub(crate) fn set_locator(
    child: Arc<dyn WriteAt>,
    new: &ParentLocator,
    durability: Durability,
) -> Result<FileInfo, Error> {
    let content = locator::encode(new)?;
    edit(child, durability, false, |structures| {
        if structures.metadata.parent.is_none() {
            return Err(Error::NoParent);
        }
        let item = find(structures, metadata::PARENT_LOCATOR)?;
        let length = u32::try_from(content.len()).expect("five values of at most 64 KiB");
        let offset = find_gap(structures, length)?;
        let entry = Item {
            offset,
            length,
            flags: item.flags | FILE_ITEM,
            ..item
        };
        Ok(vec![
            (item.listed_at, entry.encode().to_vec()),
            (u64::from(offset), content.clone()),
        ])
    })
}

/// Returns the item of the file's own, not a user's, with this id.
pub(super) fn find(structures: &Structures, id: Uuid) -> Result<Item, Error> {
    let found = structures
        .metadata
        .items
        .iter()
        .find(|item| item.id == id && item.flags & metadata::IS_USER == 0);
    let missing = || {
        Error::format(
            Rule::MetadataMissing,
            structures.regions.metadata.offset,
            id.as_fields().0,
        )
    };
    found.copied().ok_or_else(missing)
}

/// Returns the first place in the region for a parent locator of this length; the present one does not count.
fn find_gap(structures: &Structures, length: u32) -> Result<u32, Error> {
    let locators =
        |item: &&Item| item.id != metadata::PARENT_LOCATOR || item.flags & metadata::IS_USER != 0;
    let mut items: Vec<&Item> = structures.metadata.items.iter().filter(locators).collect();
    items.retain(|item| item.length > 0);
    items.sort_by_key(|item| item.offset);
    let mut start = metadata::TABLE_BYTES;
    for item in items {
        if start + u64::from(length) <= u64::from(item.offset) {
            break;
        }
        start = start.max(u64::from(item.offset) + u64::from(item.length));
    }
    let fits = start + u64::from(length) <= structures.regions.metadata.length;
    let offset = u32::try_from(start).ok().filter(|_| fits);
    offset.ok_or(Error::Parameters(
        "the metadata region has no room for the parent locator",
    ))
}

/// Opens a file, writes bytes at offsets of its metadata region as one change, and closes it.
fn edit(
    file: Arc<dyn WriteAt>,
    durability: Durability,
    visible: bool,
    changes: impl Fn(&Structures) -> Result<Vec<(u64, Vec<u8>)>, Error>,
) -> Result<FileInfo, Error> {
    // What is to be refused is, before a log is replayed in place.
    changes(&Structures::read(Arc::clone(&file) as Arc<dyn ReadAt>)?)?;
    let (mut session, structures) = Session::open(Arc::clone(&file), durability)?;
    let mut patches = Patches::default();
    for (offset, bytes) in changes(&structures)? {
        let at = structures.regions.metadata.offset + offset;
        patches.write(&structures.backing, at, &bytes)?;
    }
    session.begin(visible)?;
    session.commit(&patches.into_pages())?;
    session.close(None)?;
    let file: Arc<dyn ReadAt> = file;
    Ok(Structures::read(file)?.info())
}
