//! VHD: the footer at the end or its copy, the dynamic header, the table, bits from the most significant on.

use super::Holds;
use crate::index;
use crate::sparse::SparseFile;

pub(super) struct Map {
    pub(super) size: u64,
    /// None: a fixed disk.
    blocks: Option<Blocks>,
}

struct Blocks {
    block: u64,
    table: u64,
    has_parent: bool,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

fn is_footer(bytes: &[u8; 512]) -> bool {
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = bytes[64..68].iter().map(|byte| u32::from(*byte)).sum();
    &bytes[..8] == b"conectix" && !(sum - own) == be32(bytes, 64)
}

impl Map {
    pub(super) fn read(file: &SparseFile) -> Self {
        let len = file.size();
        // Beyond the end there are zeros: the byte that a footer of 511 bytes lacks.
        let footer = [len - 512, len - 511, 0]
            .map(|at| file.bytes::<512>(at))
            .into_iter()
            .find(is_footer)
            .expect("an accepted file has a footer");
        let header: [u8; 1024] = file.bytes(match be32(&footer, 60) {
            2 => 0,
            _ => be64(&footer, 16),
        });
        let blocks = Blocks {
            block: u64::from(be32(&header, 32)),
            table: be64(&header, 16),
            has_parent: be32(&footer, 60) == 4,
        };
        Self {
            size: be64(&footer, 48),
            blocks: (be32(&footer, 60) != 2).then_some(blocks),
        }
    }

    /// Returns what the file says of a byte of the disk.
    pub(super) fn holds(&self, file: &SparseFile, offset: u64) -> Holds {
        let Some(Blocks {
            block,
            table,
            has_parent,
        }) = self.blocks.as_ref()
        else {
            return Holds::At(offset);
        };
        let absent = if *has_parent {
            Holds::Parent
        } else {
            Holds::Zero
        };
        let entry: [u8; 4] = file.bytes(table + offset / block * 4);
        if entry == [0xFF; 4] {
            return absent;
        }
        let bitmap = u64::from(be32(&entry, 0)) * 512;
        let sector = offset % block / 512;
        let [byte] = file.bytes(bitmap + sector / 8);
        if byte << index(sector % 8) & 0x80 == 0 {
            return absent;
        }
        let bitmap_len = (block / 512).div_ceil(8).next_multiple_of(512);
        Holds::At(bitmap + bitmap_len + offset % block)
    }
}
