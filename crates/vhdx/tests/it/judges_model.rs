//! A disk as plainly as can be, the work done on disks, and where a disk is looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::support::{MIB, pattern};
use vhdx::{Disk, DiskWriter, ExtentKind, WriteAt};

const CELL: usize = 4096;

/// The bytes of a disk, without any format: cells that were written, zeros everywhere else.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) size: u64,
    cells: BTreeMap<u64, Box<[u8; CELL]>>,
}

impl Model {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            cells: BTreeMap::new(),
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.size);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = index(at % CELL as u64);
            let len = (CELL - within).min(bytes.len() - done);
            let cell = self.cells.entry(at / CELL as u64);
            cell.or_insert_with(|| Box::new([0; CELL]))[within..within + len]
                .copy_from_slice(&bytes[done..done + len]);
            done += len;
        }
    }

    pub(crate) fn zero(&mut self, offset: u64, len: u64) {
        let (first, end) = (offset / CELL as u64, (offset + len).div_ceil(CELL as u64));
        let touched: Vec<u64> = self.cells.range(first..end).map(|(at, _)| *at).collect();
        for number in touched {
            let start = number * CELL as u64;
            let from = index(offset.max(start) - start);
            let to = index((offset + len).min(start + CELL as u64) - start);
            if let Some(cell) = self.cells.get_mut(&number) {
                cell[from..to].fill(0);
            }
        }
    }

    /// Cuts the disk off, or lets it end in zeros.
    pub(crate) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size - size);
            self.cells.split_off(&size.div_ceil(CELL as u64));
        }
        self.size = size;
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let end = offset + len as u64;
        for (number, cell) in self
            .cells
            .range(offset / CELL as u64..end.div_ceil(CELL as u64))
        {
            let start = number * CELL as u64;
            let (from, to) = (offset.max(start), end.min(start + CELL as u64));
            bytes[index(from - offset)..index(to - offset)]
                .copy_from_slice(&cell[index(from - start)..index(to - start)]);
        }
        bytes
    }

    /// Writes a raw image, with holes where nothing was written.
    pub(crate) fn write_raw(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (number, cell) in &self.cells {
            let start = number * CELL as u64;
            let len = (self.size - start).min(CELL as u64);
            file.write_all_at(&cell[..index(len)], start).unwrap();
        }
    }

    /// Ranges worth a look, in order: all that was ever written with the zeros around it, and zeros in between and at the
    /// end.
    pub(crate) fn probes(&self) -> Vec<(u64, usize)> {
        const AROUND: u64 = 8192;
        let written = self.cells.keys().map(|number| number * CELL as u64);
        let between = (1..8).map(|eighth| self.size / 8 * eighth / CELL as u64 * CELL as u64);
        let end = self.size.saturating_sub(1) / CELL as u64 * CELL as u64;
        let mut starts: Vec<u64> = written.chain(between).chain([end]).collect();
        starts.sort_unstable();
        let mut probes: Vec<(u64, u64)> = Vec::new();
        for start in starts {
            let from = start.saturating_sub(AROUND);
            let to = (start + CELL as u64 + AROUND).min(self.size);
            match probes.last_mut() {
                Some((_, last)) if *last >= from && to - from < MIB => *last = to,
                Some(_) | None => probes.push((from, to)),
            }
        }
        let probes = probes.into_iter();
        probes.map(|(from, to)| (from, index(to - from))).collect()
    }

    /// Checks that a disk reads as this: all of a small one, the probes of a large one.
    #[track_caller]
    pub(crate) fn check_disk(&self, disk: &Disk, what: &str) {
        assert_eq!(disk.size(), self.size, "{what}: size");
        let mut ranges = self.probes();
        if self.size <= 64 * MIB {
            ranges.push((0, index(self.size)));
        }
        for (offset, len) in ranges {
            let mut found = vec![0xEE; len];
            disk.read_at(&mut found, offset).unwrap();
            self.check(offset, &found, what);
        }
        let mut at = 0;
        for extent in disk.extents(0, disk.size()).map(Result::unwrap) {
            assert_eq!(extent.offset, at, "{what}: extents have gaps");
            at += extent.len;
            let cells = extent.offset / CELL as u64..at.div_ceil(CELL as u64);
            if extent.kind == ExtentKind::Zero {
                for (number, cell) in self.cells.range(cells) {
                    let start = number * CELL as u64;
                    let part = index(extent.offset.max(start) - start)
                        ..index(at.min(start + CELL as u64) - start);
                    assert!(
                        cell[part].iter().all(|byte| *byte == 0),
                        "{what}: data at {start} is told to be zeros"
                    );
                }
            }
        }
        assert_eq!(at, disk.size(), "{what}: extents end early");
    }

    /// Checks what somebody read at `offset`.
    #[track_caller]
    pub(crate) fn check(&self, offset: u64, found: &[u8], what: &str) {
        let expected = self.read(offset, found.len());
        if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
            let sector = at / 512 * 512;
            let show = |bytes: &[u8]| bytes[sector..(sector + 16).min(bytes.len())].to_vec();
            panic!(
                "{what}: reads otherwise at {}: the sector begins {:02X?}, not {:02X?}",
                offset + at as u64,
                show(found),
                show(&expected)
            );
        }
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// Places of interest on a disk, in order: the start, across the first border of blocks, in the next blocks, across the first
/// border of bitmap groups, across 2 TiB, and the very end.
pub(crate) fn places(size: u64, block: u64, sector: u64) -> Vec<(u64, usize)> {
    let group = sector << 23;
    let wanted = [
        (0, 4096),
        (block - 4096, 12_288),
        (block + block / 2 + 1536, 512),
        (2 * block + 1024, 2560),
        (group - 2048, 8192),
        ((2 << 40) - 4096, 8192),
        (size - 1536, 1536),
    ];
    let mut end = 0;
    let mut places = Vec::new();
    for (offset, len) in wanted {
        if offset >= end && offset + len <= size {
            places.push((offset, index(len)));
            end = offset + len;
        }
    }
    places
}

/// Returns the partitions that large disks have, in order: what 7-Zip can be asked for one by one. Across the first border of
/// blocks, across the first border of bitmap groups, and at the end, or as far on as a partition table can tell.
pub(crate) fn partitions(size: u64, block: u64, sector: u64) -> Vec<(u64, usize)> {
    const TABLE_END: u64 = 2 << 40;
    let group = sector << 23;
    let end = size.min(TABLE_END - 512);
    let wanted = [
        (block - 8192, 32_768),
        (group - 8192, 32_768),
        (end - 16_384, 16_384),
    ];
    let within = wanted.into_iter().filter(|(at, len)| at + len <= end);
    within.map(|(at, len)| (at, index(len))).collect()
}

/// Returns the boot record with a table of these partitions.
pub(crate) fn boot_record(partitions: &[(u64, usize)]) -> Vec<u8> {
    let mut record = vec![0; 512];
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    for (number, &(offset, len)) in partitions.iter().enumerate() {
        let entry = &mut record[446 + 16 * number..][..16];
        entry[4] = 0x83;
        let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap().to_le_bytes();
        entry[8..12].copy_from_slice(&sectors(offset));
        entry[12..].copy_from_slice(&sectors(len as u64));
    }
    record
}

/// Changes a disk in place, and the model alike.
///
/// With `zeros`, whole blocks are zeroed and trimmed, so that the block table says so.
pub(crate) fn work(writer: &DiskWriter, model: &mut Model, block: u64, seed: u64, zeros: bool) {
    let size = model.size;
    let write = |model: &mut Model, offset: u64, len: u64| {
        let len = len.min(size.saturating_sub(offset));
        if len > 0 {
            let bytes = pattern(seed, offset, index(len));
            writer.write_at(&bytes, offset).unwrap();
            model.write(offset, &bytes);
        }
    };
    // Begins and ends inside sectors.
    write(model, block / 2 + 100 + seed * 4096, 70_000);
    write(model, size - 700, 700);
    write(model, block + 5000, 10_000);
    if zeros {
        let third = (2 * block).min(size)..(3 * block).min(size);
        writer.zero(block, block.min(size - block)).unwrap();
        model.zero(block, block.min(size - block));
        writer.trim(third.start, third.end - third.start).unwrap();
        model.zero(third.start, third.end - third.start);
    }
    writer.flush().unwrap();
    writer.zero(block - 2048, 2048).unwrap();
    model.zero(block - 2048, 2048);
    // Space given up above may be used now.
    write(model, (size - 3000) / 512 * 512, 1024);
    writer.flush().unwrap();
}
