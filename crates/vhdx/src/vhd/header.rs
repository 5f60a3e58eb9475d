//! The dynamic header: block size, where the table lies, and how a differencing disk names its parent.
//!
//! Of the codes of parent locators `W2ru` and `W2ku` (UTF-16, relative and absolute) are read, `Wi2r` and `Wi2k` (bytes, of
//! old) where the newer ones are missing, and of no locator at all the parent's name in the header. `MacX` and `Mac ` are
//! passed over. The space of a locator is written in sectors by some and in bytes by others, so it is not relied on.

use uuid::Uuid;

use super::footer::{DiskType, Footer};
use super::{SECTOR, checksum, id_at, u16_be, u32_be, u64_be};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::format::{index, u16_at};
use crate::info::ParentLocator;

const BYTES: usize = 1024;
const SIGNATURE: &[u8; 8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
const CHECKSUM_AT: usize = 36;
const NAME_AT: usize = 64;
const NAME_BYTES: usize = 512;
const LOCATORS_AT: usize = 576;
const LOCATOR_BYTES: usize = 24;
const LOCATORS: usize = 8;

/// The longest locator that is read: the longest path of Windows, 32,767 UTF-16 units.
const LOCATOR_DATA_MAX: u32 = 64 << 10;

/// A dynamic header that was checked.
#[derive(Clone, Debug)]
pub(super) struct DynamicHeader {
    pub(super) at: u64,
    pub(super) table_at: u64,
    pub(super) table_entries: u32,
    pub(super) block_bytes: u32,
    /// Where the parent is; exactly for a differencing disk.
    pub(super) parent: Option<ParentLocator>,
}

impl DynamicHeader {
    pub(super) const LEN: u64 = BYTES as u64;

    /// Reads the header the footer names, below `end`.
    pub(super) fn read(file: &Backing, footer: &Footer, end: u64) -> Result<Self, Error> {
        let at = footer.header_at;
        let fits = at.checked_add(Self::LEN).is_some_and(|stop| stop <= end);
        // The first sector is the copy of the footer.
        if !fits || at < SECTOR || !at.is_multiple_of(SECTOR) {
            return Err(Error::format(Rule::VhdHeaderPlace, 16, at));
        }
        let mut bytes = [0; BYTES];
        file.read(&mut bytes, at, "the dynamic header")?;
        if &bytes[..8] != SIGNATURE {
            return Err(Error::format(
                Rule::VhdHeaderSignature,
                at,
                u64_be(&bytes, 0),
            ));
        }
        let stored = u32_be(&bytes, CHECKSUM_AT);
        if stored != checksum(&bytes, CHECKSUM_AT) {
            return Err(Error::format(
                Rule::VhdHeaderChecksum,
                at + CHECKSUM_AT as u64,
                stored,
            ));
        }
        let version = u32_be(&bytes, 24);
        if version != VERSION {
            return Err(Error::format(Rule::VhdHeaderVersion, at + 24, version));
        }
        let block_bytes = u32_be(&bytes, 32);
        if !block_bytes.is_power_of_two() || u64::from(block_bytes) < SECTOR {
            return Err(Error::format(Rule::VhdBlockSize, at + 32, block_bytes));
        }
        let parent = match footer.disk_type {
            DiskType::Fixed | DiskType::Dynamic => None,
            DiskType::Differencing => Some(parent(file, &bytes, at, end)?),
        };
        Ok(Self {
            at,
            table_at: u64_be(&bytes, 16),
            table_entries: u32_be(&bytes, 28),
            block_bytes,
            parent,
        })
    }
}

/// Reads how the parent is named.
fn parent(file: &Backing, header: &[u8; BYTES], at: u64, end: u64) -> Result<ParentLocator, Error> {
    let linkage: Uuid = id_at(header, 40);
    let (mut relative, mut absolute) = (None, None);
    let (mut old_relative, mut old_absolute) = (None, None);
    for number in 0..LOCATORS {
        let entry = LOCATORS_AT + number * LOCATOR_BYTES;
        let (wide, path) = match &header[entry..entry + 4] {
            b"W2ru" => (true, &mut relative),
            b"W2ku" => (true, &mut absolute),
            b"Wi2r" => (false, &mut old_relative),
            b"Wi2k" => (false, &mut old_absolute),
            _ => continue,
        };
        let len = u32_be(header, entry + 8);
        let place = u64_be(header, entry + 16);
        let bad = |found: u64| Error::format(Rule::VhdLocator, at + entry as u64, found);
        let fits = place
            .checked_add(u64::from(len))
            .is_some_and(|stop| stop <= end);
        if len > LOCATOR_DATA_MAX || wide && !len.is_multiple_of(2) {
            return Err(bad(u64::from(len)));
        }
        if !fits {
            return Err(bad(place));
        }
        let mut bytes = vec![0; index(u64::from(len))];
        file.read(&mut bytes, place, "a parent locator")?;
        let text = if wide {
            let units = bytes.chunks_exact(2).map(|unit| u16_at(unit, 0));
            utf16(units)
        } else {
            let part = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(part).into_owned()
        };
        if path.is_none() && !text.is_empty() {
            *path = Some(text);
        }
    }
    let name = &header[NAME_AT..NAME_AT + NAME_BYTES];
    let name = utf16(name.chunks_exact(2).map(|unit| u16_be(unit, 0)));
    let mut locator = ParentLocator {
        linkage,
        linkage2: None,
        relative_path: relative.or(old_relative),
        volume_path: None,
        absolute_path: absolute.or(old_absolute),
    };
    if locator.relative_path.is_none() && locator.absolute_path.is_none() {
        if name.is_empty() {
            return Err(Error::format(
                Rule::VhdLocatorPath,
                at + NAME_AT as u64,
                0_u64,
            ));
        }
        // The name may be a whole path; beside the child is worth a look in any case.
        let last = name.rsplit(['\\', '/']).next().unwrap_or_default();
        locator.relative_path = (!last.is_empty()).then(|| last.to_owned());
        locator.absolute_path = (last != name).then_some(name);
    }
    Ok(locator)
}

/// Returns the text up to the first NUL; unpaired surrogates become a sign that matches nothing.
fn utf16(units: impl Iterator<Item = u16>) -> String {
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}
