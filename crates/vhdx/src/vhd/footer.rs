//! The footer: what kind of disk this is, how large, and its identity.
//!
//! It is the last sector of the file. Fixed files of before 2004 end in one of 511 bytes: the last byte, always zero, is
//! missing. Files that are not fixed begin with a copy, which counts where the footer itself is lost.

use uuid::Uuid;

use super::{SECTOR, SECTOR_BYTES, checksum, id_at, read_raw, u32_be, u64_be};
use crate::error::{Error, Rule};
use crate::format::{TIB, index};
use crate::io::ReadAt;

pub(super) const SIGNATURE: &[u8; 8] = b"conectix";

const SHORT_BYTES: u64 = 511;
const VERSION: u32 = 0x0001_0000;
const CHECKSUM_AT: usize = 64;

/// The largest disk: what cylinders of 16 heads and 255 sectors of old could address, 2040 GiB.
const SIZE_MAX: u64 = 2 * TIB - (8 << 30);

/// What the footer says the file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

/// A footer that was checked.
#[derive(Clone, Debug)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    pub(super) current_size: u64,
    pub(super) header_at: u64,
    pub(super) unique_id: Uuid,
}

/// Returns where a footer or its copy may lie, best first.
pub(super) fn places(file_bytes: u64) -> impl Iterator<Item = u64> {
    let last = file_bytes.checked_sub(SECTOR);
    let short = file_bytes.checked_sub(SHORT_BYTES);
    let first = last.filter(|last| *last > 0).map(|_| 0);
    [last, short, first].into_iter().flatten()
}

/// Returns the best footer of the file, and where it lies; 0 means that only the copy is left.
pub(super) fn read(file: &dyn ReadAt, file_bytes: u64) -> Result<(Footer, u64), Error> {
    let mut bad_sum = None;
    for at in places(file_bytes) {
        let mut bytes = [0; SECTOR_BYTES];
        let len = index((file_bytes - at).min(SECTOR));
        read_raw(file, &mut bytes[..len], at, "the footer")?;
        if &bytes[..8] != SIGNATURE {
            continue;
        }
        let stored = u32_be(&bytes, CHECKSUM_AT);
        if stored != checksum(&bytes, CHECKSUM_AT) {
            bad_sum = bad_sum.or(Some(Error::format(
                Rule::VhdFooterChecksum,
                at + CHECKSUM_AT as u64,
                stored,
            )));
            continue;
        }
        let footer = Footer::parse(&bytes, at)?;
        if at == 0 && footer.disk_type == DiskType::Fixed && file_bytes > SECTOR {
            // A fixed disk has no copy: these are its first bytes, not the file's.
            continue;
        }
        return Ok((footer, at));
    }
    Err(bad_sum.unwrap_or_else(|| Error::format(Rule::VhdFooter, 0, file_bytes)))
}

impl Footer {
    fn parse(bytes: &[u8; SECTOR_BYTES], at: u64) -> Result<Self, Error> {
        let version = u32_be(bytes, 12);
        if version != VERSION {
            return Err(Error::format(Rule::VhdVersion, at + 12, version));
        }
        let disk_type = match u32_be(bytes, 60) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => return Err(Error::format(Rule::VhdType, at + 60, other)),
        };
        let current_size = u64_be(bytes, 48);
        if current_size == 0 || current_size > SIZE_MAX || !current_size.is_multiple_of(SECTOR) {
            return Err(Error::format(Rule::VhdSize, at + 48, current_size));
        }
        Ok(Self {
            disk_type,
            current_size,
            header_at: u64_be(bytes, 16),
            unique_id: id_at(bytes, 68),
        })
    }
}
