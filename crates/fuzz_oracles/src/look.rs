//! Looking at a disk from all sides: every way to read it must give the same, and what the plain reading gives.

use vhdx::{Disk, Error, Extent, ExtentKind, Place, ReadAt, Run};

use crate::index;
use crate::plain::{self, Plain};
use crate::wire::Wire;

/// Disks of more blocks are not walked from end to end.
const WALKED_BLOCKS: u64 = 4096;

/// A range to look at, and where to cut it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Spot {
    /// In blocks of the leaf, modulo their number.
    pub(crate) block: u16,
    /// In 64 bytes; from the end of the block where the first bit is set.
    pub(crate) within: u16,
    pub(crate) len: u16,
    /// Length of the first piece.
    pub(crate) cut: u8,
}

impl Spot {
    pub(crate) fn wire(&mut self, wire: &mut impl Wire) {
        wire.short(&mut self.block);
        wire.short(&mut self.within);
        wire.short(&mut self.len);
        wire.byte(&mut self.cut);
    }

    /// Returns offset and length in a disk of this size.
    pub(crate) fn range(&self, size: u64, block_bytes: u64) -> (u64, u64) {
        let block = u64::from(self.block) % size.div_ceil(block_bytes);
        let within = u64::from(self.within) * 64 % block_bytes;
        let within = if self.within & 1 == 1 {
            block_bytes - within
        } else {
            within
        };
        let offset = (block * block_bytes + within).min(size - 1);
        (offset, (u64::from(self.len) % 16_384).min(size - offset))
    }
}

/// Compares what `disk` says of itself with what `chain` says, around these spots and at both ends.
pub(crate) fn compare(disk: &Disk, chain: &[Plain], spots: &[Spot]) {
    let size = disk.size();
    // A fixed VHD has no blocks.
    let block = match u64::from(disk.block_bytes()) {
        0 => 4096,
        block => block,
    };
    assert_eq!(size, chain[0].size);
    let ends = [
        (0, size.min(4096), 700),
        (size - size.min(4096), size.min(4096), 512),
    ];
    let chosen = spots.iter().map(|spot| {
        let (offset, len) = spot.range(size, block);
        (offset, len, u64::from(spot.cut) * 16)
    });
    for (offset, len, cut) in ends.into_iter().chain(chosen) {
        let bytes = read(disk, offset, len);
        assert!(
            bytes == plain::read(chain, offset, index(len)),
            "{len} bytes at {offset:#x} are others when read plainly"
        );
        let cut = cut.min(len);
        let pieces = [read(disk, offset, cut), read(disk, offset + cut, len - cut)].concat();
        assert!(bytes == pieces, "{len} bytes at {offset:#x}, cut at {cut}");
        compare_extents(disk, chain, offset, &bytes);
        compare_runs(disk, chain, offset, &bytes);
    }
    let mut byte = [0];
    let beyond = disk.read_at(&mut byte, size);
    assert!(
        matches!(beyond, Err(Error::OutOfRange { .. })),
        "read at the end"
    );
    assert_eq!(disk.extents(size, 1).count(), 0);
    if size / block < WALKED_BLOCKS {
        walk(disk);
    }
}

fn read(disk: &Disk, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xEE; index(len)];
    disk.read_at(&mut bytes, offset)
        .expect("an accepted disk can be read");
    bytes
}

fn compare_extents(disk: &Disk, chain: &[Plain], offset: u64, bytes: &[u8]) {
    let len = bytes.len() as u64;
    let extents = partition(disk, offset, len);
    for extent in &extents {
        let start = index(extent.offset - offset);
        let held = &bytes[start..start + index(extent.len)];
        let zeros = held.iter().all(|byte| *byte == 0);
        assert!(
            extent.kind == ExtentKind::Data || zeros,
            "a zero extent that is none: {extent:?}"
        );
    }
    let mut extents = extents.iter().peekable();
    for (end, in_file) in plain::in_files(chain, offset, len) {
        while extents
            .next_if(|extent| extent.offset + extent.len < end)
            .is_some()
        {}
        let kind = extents.peek().map(|extent| extent.kind == ExtentKind::Data);
        assert_eq!(kind, Some(in_file), "the extent that holds {:#x}", end - 1);
    }
}

/// What a caller reads by itself, from the files as they are, must be the same.
fn compare_runs(disk: &Disk, chain: &[Plain], offset: u64, bytes: &[u8]) {
    let runs: Result<Vec<Run>, Error> = disk.runs(offset, bytes.len() as u64).collect();
    let mut at = offset;
    for run in runs.expect("an accepted disk knows its runs") {
        assert!(run.offset == at && run.len > 0, "{run:?} at {at:#x}");
        let start = index(at - offset);
        let held = &bytes[start..start + index(run.len)];
        let mut found = vec![0; held.len()];
        match run.place {
            Place::File { number, offset } => {
                let read = chain[number].original.read_exact_at(&mut found, offset);
                assert!(read.is_ok(), "{run:?} beyond the end of the file");
            }
            Place::Log { number } => {
                assert!(number < chain.len(), "{run:?}");
                found.copy_from_slice(held);
            }
            Place::Zero => {}
        }
        assert!(found == held, "other bytes at {run:?}");
        at += run.len;
    }
    assert_eq!(at, offset + bytes.len() as u64);
}

/// Returns the extents of a range, having checked that they are a partition of it.
fn partition(disk: &Disk, offset: u64, len: u64) -> Vec<Extent> {
    let extents: Result<Vec<Extent>, Error> = disk.extents(offset, len).collect();
    let extents = extents.expect("an accepted disk knows its extents");
    let mut at = offset;
    let mut before = None;
    for extent in &extents {
        assert_eq!(extent.offset, at, "a gap");
        assert!(
            extent.len > 0 && before != Some(extent.kind),
            "{extent:?} after {before:?}"
        );
        at += extent.len;
        before = Some(extent.kind);
    }
    assert_eq!(at, offset + len, "extents of {len:#x} bytes at {offset:#x}");
    extents
}

fn walk(disk: &Disk) {
    let data = partition(disk, 0, disk.size())
        .iter()
        .filter(|extent| extent.kind == ExtentKind::Data)
        .map(|extent| extent.len)
        .sum::<u64>();
    let allocated = disk
        .allocated_bytes()
        .expect("its extents were walked above");
    assert_eq!(allocated, data);
}
