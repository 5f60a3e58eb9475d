//! A VHD file described in a few bytes; as [`crate::image`] does it for VHDX.

use crate::MIB;
use crate::image::{Link, identity, pattern};
use crate::index;
use crate::look::Spot;
use crate::sparse::SparseFile;
use crate::wire::{Input, Wire};

const SECTOR: u64 = 512;
const HEADER: u64 = 512;
/// The table is read anew with every input. Edits can still make a disk larger.
const MOST_BLOCKS: u64 = 10_000;

/// A file. The default is an empty dynamic disk of one sector in blocks of one sector.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VhdImage {
    /// 0 dynamic, 1 fixed, 2 differencing.
    pub(crate) kind: u8,
    /// Blocks of a sector shifted by this, up to 13.
    pub(crate) block_shift: u8,
    /// The disk has `count + 1` of these: 0 sectors, 1 blocks, 2 MiB.
    pub(crate) unit: u8,
    pub(crate) count: u16,
    /// Bit 0: no footer at the end; 1: no copy at the start; 2: a footer of 511 bytes; 3: other locators.
    pub(crate) manners: u8,
    pub(crate) identity: u8,
    pub(crate) link: Link,
    pub(crate) blocks: Vec<VhdBlock>,
    pub(crate) edits: Vec<VhdEdit>,
    /// Checksums left as they are: bit 0 of footers, 1 of the dynamic header.
    pub(crate) wrong_sums: u8,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VhdBlock {
    /// Modulo the number of blocks.
    pub(crate) number: u16,
    /// In sectors; 0: behind what there is.
    pub(crate) place: u16,
    /// Bits of sectors at the start and at the end of the block, in turn.
    pub(crate) bits: u8,
    pub(crate) seed: u8,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VhdEdit {
    /// 0 the copy of the footer, 1 dynamic header, 2 table, 3 the footer, 4 both footers, 5 the length of the file; else
    /// so many sectors on.
    pub(crate) area: u8,
    pub(crate) within: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Input for VhdImage {
    fn wire(&mut self, wire: &mut impl Wire) {
        for byte in [
            &mut self.kind,
            &mut self.block_shift,
            &mut self.unit,
            &mut self.manners,
            &mut self.identity,
            &mut self.wrong_sums,
        ] {
            wire.byte(byte);
        }
        wire.short(&mut self.count);
        self.link.wire(wire);
        wire.list(&mut self.blocks, 15, |wire, block| {
            wire.short(&mut block.number);
            wire.short(&mut block.place);
            wire.byte(&mut block.bits);
            wire.byte(&mut block.seed);
        });
        wire.list(&mut self.edits, 31, |wire, edit| {
            wire.byte(&mut edit.area);
            wire.short(&mut edit.within);
            wire.list(&mut edit.bytes, 31, |wire, byte| wire.byte(byte));
        });
    }
}

/// Files of a chain: see [`crate::chain::check`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VhdLinks {
    pub(crate) images: Vec<VhdImage>,
    pub(crate) spots: Vec<Spot>,
    pub(crate) resolver: u8,
}

impl Input for VhdLinks {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.byte(&mut self.resolver);
        wire.list(&mut self.spots, 7, |wire, spot| spot.wire(wire));
        wire.list(&mut self.images, 3, |wire, image| image.wire(wire));
    }
}

impl VhdImage {
    /// Makes the file.
    pub(crate) fn build(&self) -> SparseFile {
        let file = SparseFile::default();
        let block = SECTOR << (self.block_shift % 14);
        let unit = [SECTOR, block, MIB][usize::from(self.unit % 3)];
        let size = (unit * (u64::from(self.count) + 1)).min(block * MOST_BLOCKS);
        let mut end = if self.kind % 3 == 1 {
            self.put_fixed(&file, size, block)
        } else {
            self.put_sparse(&file, size, block)
        };
        let footer = self.footer(size);
        if self.manners & 2 == 0 && self.kind % 3 != 1 {
            file.put(0, &footer);
        }
        file.resize(end);
        if self.manners & 1 == 0 {
            let len = if self.manners & 4 == 4 { 511 } else { 512 };
            file.put(end, &footer[..len]);
        } else {
            end = 0;
        }
        for edit in &self.edits {
            edit.apply(&file, end);
        }
        let copies = [(end, 512, 64, 1), (0, 512, 64, 1), (HEADER, 1024, 36, 2)];
        for (at, len, sum_at, bit) in copies {
            let known = [*b"cone", *b"cxsp"].contains(&file.bytes(at));
            if self.wrong_sums & bit == 0 && known && at + sum_at < file.size() {
                make_sum_right(&file, at, len, sum_at);
            }
        }
        file
    }

    fn put_fixed(&self, file: &SparseFile, size: u64, block: u64) -> u64 {
        for listed in &self.blocks {
            let at = u64::from(listed.number) % size.div_ceil(block) * block;
            let len = block.min(size - at).min(4096);
            file.put(at, &pattern(u64::from(listed.seed), at, index(len)));
        }
        size
    }

    /// Returns where the footer goes.
    fn put_sparse(&self, file: &SparseFile, size: u64, block: u64) -> u64 {
        let blocks = size.div_ceil(block);
        let table = 3 * SECTOR;
        let mut end = (table + blocks * 4).next_multiple_of(SECTOR);
        let mut header = Vec::new();
        header.extend(*b"cxsparse\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
        header.extend(table.to_be_bytes());
        header.extend([0, 1, 0, 0]);
        header.extend(&blocks.to_be_bytes()[4..]);
        header.extend(&block.to_be_bytes()[4..]);
        header.extend([0; 4]);
        if self.kind % 3 == 2 {
            header.extend(identity(self.link.linkage).as_bytes());
            header.extend([0; 8]);
            let path = self.link.path();
            let name = path.iter().take(255).flat_map(|unit| unit.to_be_bytes());
            header.extend(name);
            header.resize(576, 0);
            let wide: Vec<u8> = path.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let narrow: Vec<u8> = path.iter().map(|unit| unit.to_le_bytes()[0]).collect();
            let locators = match (self.manners & 8 == 8, self.link.paths & 3) {
                (_, 3) => vec![],
                (false, 0) => vec![(b"W2ru", &wide)],
                (false, 1) => vec![(b"W2ku", &wide), (b"W2ru", &wide)],
                (false, _) => vec![(b"W2ku", &wide)],
                (true, 0) => vec![(b"Wi2r", &narrow), (b"MacX", &narrow)],
                (true, _) => vec![(b"Wi2k", &narrow), (b"Wi2r", &narrow)],
            };
            for (code, data) in locators {
                header.extend(code);
                header.extend([0, 0, 2, 0]);
                header.extend(&(data.len() as u64).to_be_bytes()[4..]);
                header.extend([0; 4]);
                header.extend(end.to_be_bytes());
                file.put(end, data);
                end += SECTOR;
            }
        }
        header.resize(1024, 0);
        file.put(HEADER, &header);
        file.put(table, &vec![0xFF; index(blocks * 4)]);
        let bitmap_len = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        for listed in &self.blocks {
            let number = u64::from(listed.number) % blocks;
            let at = match listed.place {
                0 => {
                    end += bitmap_len + block;
                    end - bitmap_len - block
                }
                sector => u64::from(sector) * SECTOR,
            };
            file.put(table + number * 4, &(at / SECTOR).to_be_bytes()[4..]);
            let bits = (block / SECTOR).div_ceil(8);
            file.put(at, &vec![listed.bits; index(bits)]);
            file.put(at + bits / 2, &vec![!listed.bits; index(bits - bits / 2)]);
            let len = block.min(4096);
            for within in [0, block - len] {
                let bytes = pattern(u64::from(listed.seed), within, index(len));
                file.put(at + bitmap_len + within, &bytes);
            }
        }
        end
    }

    fn footer(&self, size: u64) -> Vec<u8> {
        let (header, kind) = match self.kind % 3 {
            0 => (HEADER, 3),
            1 => (u64::MAX, 2),
            _ => (HEADER, 4),
        };
        let mut footer = b"conectix\0\0\0\x02\0\x01\0\0".to_vec();
        footer.extend(header.to_be_bytes());
        footer.extend(*b"\0\0\0\0win \0\x0A\0\0Wi2k");
        footer.extend(size.to_be_bytes());
        footer.extend(size.to_be_bytes());
        footer.extend([0, 1, 1, 1, 0, 0, 0, kind, 0, 0, 0, 0]);
        footer.extend(identity(self.identity).as_bytes());
        footer.resize(512, 0);
        footer
    }
}

impl VhdEdit {
    fn apply(&self, file: &SparseFile, footer: u64) {
        let within = u64::from(self.within);
        let starts = match self.area {
            0 => vec![0],
            1 => vec![HEADER],
            2 => vec![3 * SECTOR],
            3 => vec![footer],
            4 => vec![0, footer],
            5 => {
                let mut more = self.bytes.clone();
                more.resize(4, 0);
                let more = u32::from_le_bytes([more[0], more[1], more[2], more[3]]);
                return file.resize(within * SECTOR + u64::from(more));
            }
            sectors => vec![u64::from(sectors) * SECTOR],
        };
        starts
            .into_iter()
            .for_each(|at| file.put(at + within, &self.bytes));
    }
}

/// Gives a structure the checksum it should have: the one's complement of the sum of its other bytes.
fn make_sum_right(file: &SparseFile, at: u64, len: usize, sum_at: u64) {
    let size = file.size();
    file.put(at + sum_at, &[0; 4]);
    let mut bytes = vec![0; len];
    file.read_or_zeros(&mut bytes, at);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    file.put(at + sum_at, &(!sum).to_be_bytes());
    file.resize(size);
}
