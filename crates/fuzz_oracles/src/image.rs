//! A VHDX file described in a few bytes, so that a fuzzer need not invent 1 MiB of structures and their checksums.
//!
//! The description says what a sound file holds; its edits then spoil it; last of all checksums are made right, so that what
//! lies behind them is reached. Written from the format, without the code under test.

mod build;
mod log;

use uuid::{Uuid, uuid};

use crate::index;
use crate::wire::{Input, Wire};
pub(crate) use build::forge_identity;

const KIB: u64 = 1 << 10;

pub(crate) const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
pub(crate) const TABLES: [u64; 2] = [192 * KIB, 256 * KIB];

pub(crate) const BAT_GUID: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
pub(crate) const METADATA_GUID: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");
pub(crate) const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
pub(crate) const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
pub(crate) const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");

/// A file. The default is an empty dynamic disk of one sector in blocks of 1 MiB.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Image {
    /// Nothing but zeros before the edits.
    pub(crate) raw: bool,
    /// 0 dynamic, 1 fixed, 2 differencing.
    pub(crate) kind: u8,
    /// Blocks of 1 MiB shifted by this, up to 8.
    pub(crate) block_shift: u8,
    /// Bit 0: logical sectors of 4096; bit 1: physical ones.
    pub(crate) sectors: u8,
    /// Order of log, metadata and BAT.
    pub(crate) layout: u8,
    /// The disk has `count + 1` of these: 0 logical sectors, 1 MiB, 2 blocks, 3 GiB, 4 TiB.
    pub(crate) unit: u8,
    pub(crate) count: u16,
    /// See [`identity`].
    pub(crate) identity: u8,
    pub(crate) link: Link,
    pub(crate) blocks: Vec<Block>,
    pub(crate) log: Vec<Entry>,
    pub(crate) edits: Vec<Edit>,
    /// Checksums left as they are: bit 0 of headers, 1 of region tables, 2 of log entries.
    pub(crate) wrong_sums: u8,
}

/// How a differencing disk names its parent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Link {
    pub(crate) linkage: u8,
    /// 0: none.
    pub(crate) linkage2: u8,
    /// Bit 0: an absolute path too; bit 1: no relative one.
    pub(crate) paths: u8,
    /// Letters of [`LETTERS`]; empty: `.\N`, where N is the linkage.
    pub(crate) path: Vec<u8>,
}

/// What paths are made of: UTF-16 units, one of them an unpaired surrogate.
const LETTERS: [u16; 16] = [
    b'.' as u16,
    b'\\' as u16,
    b'/' as u16,
    b':' as u16,
    b'0' as u16,
    b'1' as u16,
    b'2' as u16,
    b'3' as u16,
    b'4' as u16,
    b'5' as u16,
    b'a' as u16,
    b'A' as u16,
    0,
    0xE9,
    0xD800,
    b' ' as u16,
];

/// A payload block.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Block {
    /// Modulo the number of blocks.
    pub(crate) number: u16,
    pub(crate) state: u8,
    /// In MiB; 0: behind what there is.
    pub(crate) place: u8,
    /// Bits of sectors at the start and at the end of the block, in turn.
    pub(crate) bits: u8,
    /// What its first and last pages hold.
    pub(crate) seed: u8,
}

/// An entry of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Entry {
    /// How far its number lies beyond the one after the previous entry's.
    pub(crate) skip: u8,
    /// Where its tail is: so many entries back.
    pub(crate) tail: u8,
    /// The page of the log it starts on; 0: behind the previous one.
    pub(crate) page: u8,
    /// The log's id is another one.
    pub(crate) strange: bool,
    /// In MiB; 0: the length of the file.
    pub(crate) flushed: u8,
    /// MiB beyond the length of the file.
    pub(crate) more: u8,
    pub(crate) changes: Vec<Change>,
}

/// What an entry changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    /// 0 a page as it is but for one word, 1 a page of its own, 2 zeros.
    pub(crate) kind: u8,
    pub(crate) area: u8,
    /// Pages from the start of the area.
    pub(crate) page: u16,
    /// The word that changes; the length of zeros in pages.
    pub(crate) word: u16,
    pub(crate) value: u64,
}

/// A change of the finished file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Edit {
    /// 0 bytes, 1 bytes there and 64 KiB on (the other header, the other table), 2 a copy, 3 the length of the file.
    pub(crate) op: u8,
    pub(crate) area: u8,
    pub(crate) within: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Input for Image {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.flag(&mut self.raw);
        for byte in [
            &mut self.kind,
            &mut self.block_shift,
            &mut self.sectors,
            &mut self.layout,
            &mut self.unit,
        ] {
            wire.byte(byte);
        }
        wire.short(&mut self.count);
        wire.byte(&mut self.identity);
        wire.byte(&mut self.wrong_sums);
        self.link.wire(wire);
        wire.list(&mut self.blocks, 15, |wire, block| {
            wire.short(&mut block.number);
            for byte in [
                &mut block.state,
                &mut block.place,
                &mut block.bits,
                &mut block.seed,
            ] {
                wire.byte(byte);
            }
        });
        wire.list(&mut self.log, 7, |wire, entry| {
            for byte in [
                &mut entry.skip,
                &mut entry.tail,
                &mut entry.page,
                &mut entry.flushed,
                &mut entry.more,
            ] {
                wire.byte(byte);
            }
            wire.flag(&mut entry.strange);
            wire.list(&mut entry.changes, 7, |wire, change| {
                wire.byte(&mut change.kind);
                wire.byte(&mut change.area);
                wire.short(&mut change.page);
                wire.short(&mut change.word);
                wire.long(&mut change.value);
            });
        });
        wire.list(&mut self.edits, 31, |wire, edit| {
            wire.byte(&mut edit.op);
            wire.byte(&mut edit.area);
            wire.short(&mut edit.within);
            wire.list(&mut edit.bytes, 31, |wire, byte| wire.byte(byte));
        });
    }
}

/// Returns the `DataWriteGuid` of a number.
pub(crate) fn identity(number: u8) -> Uuid {
    Uuid::from_u128(0x1D00_0000_0000_4000_8000_0000_0000_0000 | u128::from(number))
}

impl Image {
    pub(crate) fn has_parent(&self) -> bool {
        self.kind % 3 == 2
    }

    /// Returns a block that is there and holds something.
    pub(crate) fn full_block(number: u16) -> Block {
        Block {
            number,
            state: 6,
            seed: 1,
            ..Block::default()
        }
    }
}

impl Link {
    pub(crate) fn wire(&mut self, wire: &mut impl Wire) {
        for byte in [&mut self.linkage, &mut self.linkage2, &mut self.paths] {
            wire.byte(byte);
        }
        wire.list(&mut self.path, 31, |wire, letter| wire.byte(letter));
    }

    /// Returns the path in UTF-16.
    pub(crate) fn path(&self) -> Vec<u16> {
        if self.path.is_empty() {
            return format!(r".\{}", self.linkage).encode_utf16().collect();
        }
        let letters = self.path.iter();
        letters
            .map(|letter| LETTERS[usize::from(letter % 16)])
            .collect()
    }
}

/// Bytes that differ everywhere: a function of seed and offset.
pub(crate) fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let word = |number: u64| {
        let mut x = number
            .wrapping_add(seed << 32)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x ^ x >> 32).to_le_bytes()
    };
    let first = offset / 8;
    let skip = index(offset % 8);
    let words = (skip + len).div_ceil(8) as u64;
    let bytes: Vec<u8> = (first..first + words).flat_map(word).collect();
    bytes[skip..skip + len].to_vec()
}

pub(crate) fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
