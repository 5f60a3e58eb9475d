//! The block allocation table (2.5): geometry, states, and the table in memory.
//!
//! The table interleaves payload blocks and sector bitmap blocks: after each *bitmap group* of payload blocks (the format
//! calls it a chunk: 2^23 sectors) comes the entry of the one bitmap block that covers them.

mod checker;

use super::{MIB, PAGE};
pub(crate) use checker::{Checker, Run};

/// The sectors one sector bitmap block covers: 1 MiB of bits.
pub(crate) const GROUP_SECTORS_SHIFT: u32 = 23;

/// Entries on a page of the table.
pub(crate) const PAGE_ENTRIES: u64 = PAGE / 8;

/// Files beyond this length are refused: block places are kept in 28 bits of MiB.
pub(crate) const FILE_MIB_MAX: u64 = 1 << 28;

const STATE_BITS: u64 = 7;
const OFFSET_BITS: u64 = !(MIB - 1);
const RESERVED_BITS: u64 = !(STATE_BITS | OFFSET_BITS);

/// Sizes that follow from disk size, block size and sector size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Geometry {
    size: u64,
    block_shift: u32,
    sector_shift: u32,
    group_shift: u32,
    has_parent: bool,
}

impl Geometry {
    /// Takes values that were checked: a power of two from 1 to 256 MiB, 512 or 4096, and up to 64 TiB.
    pub(crate) fn new(size: u64, block_bytes: u32, sector_bytes: u32, has_parent: bool) -> Self {
        let block_shift = block_bytes.trailing_zeros();
        let sector_shift = sector_bytes.trailing_zeros();
        Self {
            size,
            block_shift,
            sector_shift,
            group_shift: GROUP_SECTORS_SHIFT + sector_shift - block_shift,
            has_parent,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn block_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    pub(crate) fn block_len(&self) -> u64 {
        1 << self.block_shift
    }

    pub(crate) fn sector_bytes(&self) -> u32 {
        1 << self.sector_shift
    }

    pub(crate) fn sector_shift(&self) -> u32 {
        self.sector_shift
    }

    pub(crate) fn has_parent(&self) -> bool {
        self.has_parent
    }

    /// Returns the block that holds an offset of the disk.
    pub(crate) fn block_of(&self, offset: u64) -> u64 {
        offset >> self.block_shift
    }

    /// Returns where in its block an offset of the disk lies.
    pub(crate) fn within_block(&self, offset: u64) -> u64 {
        offset & (self.block_len() - 1)
    }

    pub(crate) fn block_start(&self, block: u64) -> u64 {
        block << self.block_shift
    }

    /// Returns how many bytes of the disk a block holds: its size, less in the last one.
    pub(crate) fn used_of_block(&self, block: u64) -> u64 {
        self.block_len()
            .min(self.size.saturating_sub(self.block_start(block)))
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_len())
    }

    pub(crate) fn groups(&self) -> u64 {
        self.blocks().div_ceil(1 << self.group_shift)
    }

    /// Returns the group whose bitmap covers a block.
    pub(crate) fn group_of(&self, block: u64) -> u64 {
        block >> self.group_shift
    }

    /// Returns the blocks of a group.
    pub(crate) fn blocks_of_group(&self, group: u64) -> std::ops::Range<u64> {
        group << self.group_shift..self.blocks().min((group + 1) << self.group_shift)
    }

    /// Returns how many blocks of its group lie before a block.
    pub(crate) fn within_group(&self, block: u64) -> u64 {
        block & ((1 << self.group_shift) - 1)
    }

    /// Returns the number of table entries that have a meaning.
    pub(crate) fn entries(&self) -> u64 {
        if self.has_parent {
            self.groups() * ((1 << self.group_shift) + 1)
        } else {
            self.blocks() + ((self.blocks() - 1) >> self.group_shift)
        }
    }

    /// Returns the entry of a payload block.
    pub(crate) fn block_entry(&self, block: u64) -> u64 {
        block + (block >> self.group_shift)
    }

    /// Returns the entry of the bitmap block of a group.
    pub(crate) fn bitmap_entry(&self, group: u64) -> u64 {
        group * ((1 << self.group_shift) + 1) + (1 << self.group_shift)
    }

    /// Returns what an entry is for; `None` for the rest of the last group, which has no blocks.
    pub(crate) fn entry_of(&self, entry: u64) -> Option<EntryOf> {
        let ratio = 1 << self.group_shift;
        let (group, within) = (entry / (ratio + 1), entry % (ratio + 1));
        if within == ratio {
            return Some(EntryOf::Bitmap { group });
        }
        let block = group * ratio + within;
        (block < self.blocks()).then_some(EntryOf::Block { block })
    }

    /// Returns the length of the table as a region: whole MiB.
    pub(crate) fn region_len(&self) -> u64 {
        (self.entries() * 8).next_multiple_of(MIB)
    }
}

/// States of payload blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    NotPresent,
    Undefined,
    Zero,
    Unmapped,
    FullyPresent,
    PartiallyPresent,
}

/// An entry of a payload block: its state and the place the entry names.
///
/// In the states `Undefined` and `Unmapped` a place other than zero is a *soft anchor*: space the block still owns, whose
/// content means nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BlockEntry {
    pub(crate) state: State,
    pub(crate) place: u64,
}

impl BlockEntry {
    /// Reads a payload entry; `None` for the reserved states.
    pub(crate) fn parse(raw: u64) -> Option<Self> {
        let state = match raw & STATE_BITS {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::FullyPresent,
            7 => State::PartiallyPresent,
            _ => return None,
        };
        let place = match state {
            State::NotPresent | State::Zero => 0,
            State::Undefined | State::Unmapped | State::FullyPresent | State::PartiallyPresent => {
                raw & OFFSET_BITS
            }
        };
        Some(Self { state, place })
    }

    pub(crate) fn raw(self) -> u64 {
        let state = match self.state {
            State::NotPresent => 0,
            State::Undefined => 1,
            State::Zero => 2,
            State::Unmapped => 3,
            State::FullyPresent => 6,
            State::PartiallyPresent => 7,
        };
        self.place | state
    }
}

/// Reads the entry of a bitmap block: its place if present; `None` for reserved states.
pub(crate) fn parse_bitmap(raw: u64) -> Option<Option<u64>> {
    match raw & STATE_BITS {
        0 => Some(None),
        6 => Some(Some(raw & OFFSET_BITS)),
        _ => None,
    }
}

/// Returns the entry of a bitmap block that is present.
pub(crate) fn bitmap_raw(place: u64) -> u64 {
    place | 6
}

/// Packs an entry into 32 bits: 28 bits of MiB, 3 bits of state. `None` beyond [`FILE_MIB_MAX`].
pub(crate) fn pack(raw: u64) -> Option<u32> {
    let mib = raw / MIB;
    (mib < FILE_MIB_MAX).then(|| u32::try_from(mib << 3 | raw & STATE_BITS).expect("28 + 3 bits"))
}

/// Unpacks what [`pack`] made.
pub(crate) fn unpack(packed: u32) -> u64 {
    (u64::from(packed >> 3) * MIB) | u64::from(packed & 7)
}

/// What an entry of the table is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EntryOf {
    Block { block: u64 },
    Bitmap { group: u64 },
}
