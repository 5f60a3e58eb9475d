//! The format on disk: [MS-VHDX] as bytes. Everything is little-endian; sections are those of the specification.
//!
//! Layout of a file: identifier at 0, headers at 64 and 128 KiB, region tables at 192 and 256 KiB, and from 1 MiB on, in any
//! order and aligned to 1 MiB, the log, the regions (BAT and metadata), payload blocks and sector bitmap blocks.
//!
//! Bytes come from anybody: every limit is checked before it is relied on, and nothing is allocated from an unchecked length.
//! Not here: where the bytes come from (see `backing`), and what they mean for a read (see `layer`).

pub(crate) mod bat;
pub(crate) mod header;
pub(crate) mod locator;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod region;

use uuid::Uuid;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TIB: u64 = 1 << 40;

/// Pages of the log, the BAT and the sector bitmaps.
pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const PAGE: u64 = 4096;

/// One 4 KiB page.
pub(crate) type Page = [u8; PAGE_BYTES];

/// Identifier, headers and region tables; nothing else may lie below.
pub(crate) const HEADER_AREA: u64 = MIB;
/// The lowest file offset the log may change: the first region table (2.3.1.2).
pub(crate) const LOWEST_LOG_TARGET: u64 = 192 * KIB;

pub(crate) const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array_at(bytes, at))
}

/// Copies `N` bytes at `at`. Callers pass structures whose length they checked.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC-32C over `bytes` with the four bytes at offset 4 taken as zero, as headers, region tables and log entries have it.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[8..])
}

/// Converts a length or offset below 4 GiB to an index.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).expect("bounded by the caller to what fits memory")
}
