//! Bytes: sizes as people write them, ranges as hosts report them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;
/// 1024 GiB.
pub const TIB: u64 = 1 << 40;
/// The grain of images: 4 KiB.
pub const CELL: u64 = 4 * KIB;

/// A run of bytes of a virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl ByteRange {
    /// Returns the first byte after the range, or `None` where that does not fit 64 bits.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }
}

/// A reported range that reaches beyond the disk.
#[derive(Debug, thiserror::Error)]
#[error("changed range at {offset} of {len} bytes reaches beyond the disk of {disk_bytes} bytes")]
pub struct RangeBeyondDisk {
    offset: u64,
    len: u64,
    disk_bytes: u64,
}

/// Changed ranges of one disk: sorted, disjoint, merged, inside the disk, widened to whole cells (the last one may
/// end with the disk). Holding one proves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedRanges {
    ranges: Vec<ByteRange>,
}

impl ChangedRanges {
    /// Sorts, widens, merges and bounds what the host reported.
    pub fn new(reported: Vec<ByteRange>, disk_bytes: u64) -> Result<Self, RangeBeyondDisk> {
        let mut ranges: Vec<ByteRange> = Vec::with_capacity(reported.len());
        let mut sorted = reported;
        sorted.retain(|range| range.len > 0);
        sorted.sort_unstable();
        for range in sorted {
            let end = range
                .end()
                .filter(|&end| end <= disk_bytes)
                .ok_or(RangeBeyondDisk {
                    offset: range.offset,
                    len: range.len,
                    disk_bytes,
                })?;
            let start = range.offset - range.offset % CELL;
            let end = end.div_ceil(CELL).saturating_mul(CELL).min(disk_bytes);
            match ranges.last_mut() {
                Some(last) if last.offset + last.len >= start => {
                    last.len = last.len.max(end - last.offset);
                }
                _ => ranges.push(ByteRange {
                    offset: start,
                    len: end - start,
                }),
            }
        }
        Ok(Self { ranges })
    }

    /// Returns the ranges in order.
    #[must_use]
    pub fn as_slice(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Returns how many bytes the ranges cover.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).sum()
    }
}

/// A size that could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not a size; write bytes as a number or with KiB, MiB, GiB, TiB, such as 64MiB"
)]
pub struct ParseSizeError {
    text: String,
}

/// Reads a size such as `64MiB`, `1.5GiB` is refused; without unit it is bytes.
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let wrong = || ParseSizeError {
        text: text.chars().take(80).collect(),
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => TIB,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Shows a number of bytes for people: `1.5 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= TIB => (TIB, "TiB"),
            n if n >= GIB => (GIB, "GiB"),
            n if n >= MIB => (MIB, "MiB"),
            n if n >= KIB => (KIB, "KiB"),
            n => return write!(f, "{n} bytes"),
        };
        let tenths = u128::from(self.0) * 10 / u128::from(unit);
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)], disk: u64) -> Vec<(u64, u64)> {
        let reported = list
            .iter()
            .map(|&(offset, len)| ByteRange { offset, len })
            .collect();
        ChangedRanges::new(reported, disk)
            .unwrap()
            .as_slice()
            .iter()
            .map(|r| (r.offset, r.len))
            .collect()
    }

    #[test]
    fn unsorted_overlapping_ranges_become_whole_cells() {
        assert_eq!(
            ranges(&[(9000, 10), (512, 512), (0, 0), (4096, 4096)], 20_000),
            [(0, 12288)]
        );
        assert_eq!(
            ranges(&[(16384, 3000), (0, 1)], 19_500),
            [(0, 4096), (16384, 3116)]
        );
    }

    #[test]
    fn refuses_ranges_beyond_the_disk() {
        for (offset, len) in [(0, 4097), (4096, 1), (u64::MAX, 2)] {
            assert!(ChangedRanges::new(vec![ByteRange { offset, len }], 4096).is_err());
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_size("64MiB").unwrap(), 64 * MIB);
        assert_eq!(parse_size("512").unwrap(), 512);
        for wrong in ["", "MiB", "1.5GiB", "-1", "1MB", "99999999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(HumanBytes(3 * GIB / 2).to_string(), "1.5 GiB");
        assert_eq!(HumanBytes(7).to_string(), "7 bytes");
    }
}
