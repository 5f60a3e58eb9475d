//! The block allocation table: which sector each block begins at.
//!
//! An entry names the sector of the block's bitmap; its data follow. Kept in memory in 4 bytes per block.

use super::header::DynamicHeader;
use super::{SECTOR, bitmap_bytes, u32_be};
use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::format::index;

/// The most blocks: 32 MiB of table, 2040 GiB in blocks of 256 KiB. Windows writes 512 KiB and 2 MiB.
const BLOCKS_MAX: u64 = 1 << 23;

/// Bytes read at a time.
const READ_BYTES: u64 = 1 << 20;

const ABSENT: u32 = u32::MAX;
const ENTRY: u64 = 4;

#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<u32>,
}

impl Table {
    /// Reads the table of a disk of `size` bytes and checks that every block lies below `end`, over nothing else.
    pub(super) fn open(
        file: &Backing,
        header: &DynamicHeader,
        size: u64,
        end: u64,
    ) -> Result<Self, Error> {
        let block_len = u64::from(header.block_bytes);
        let blocks = size.div_ceil(block_len);
        if blocks > BLOCKS_MAX || blocks > u64::from(header.table_entries) {
            return Err(Error::format(
                Rule::VhdTableLength,
                header.at + 28,
                header.table_entries,
            ));
        }
        let (at, len) = (header.table_at, blocks * ENTRY);
        let fits = at.checked_add(len).is_some_and(|stop| stop <= end);
        let over_header = at < header.at + DynamicHeader::LEN && header.at < at.saturating_add(len);
        if !fits || at < SECTOR || !at.is_multiple_of(SECTOR) || over_header {
            return Err(Error::format(Rule::VhdTablePlace, header.at + 16, at));
        }

        let bitmap_len = bitmap_bytes(header.block_bytes.trailing_zeros());
        // The last block may be cut off where the disk ends.
        let last_len = bitmap_len + size - (blocks - 1) * block_len;
        let structures = [
            (0, SECTOR),
            (header.at, header.at + DynamicHeader::LEN),
            (at, at + len),
        ];
        let mut entries: Vec<u32> = Vec::new();
        let mut buf = vec![0; index(READ_BYTES.min(len))];
        let mut done = 0;
        while done < len {
            let part = &mut buf[..index(READ_BYTES.min(len - done))];
            file.read(part, at + done, "the block table")?;
            for raw in part.chunks_exact(4) {
                let sector = u32_be(raw, 0);
                let block = entries.len() as u64;
                entries.push(sector);
                if sector == ABSENT {
                    continue;
                }
                let start = u64::from(sector) * SECTOR;
                let stop = start
                    + if block + 1 == blocks {
                        last_len
                    } else {
                        bitmap_len + block_len
                    };
                let over = |(from, to): &(u64, u64)| start < *to && *from < stop;
                if stop > end || structures.iter().any(over) {
                    return Err(Error::format(
                        Rule::VhdBlockPlace,
                        at + block * ENTRY,
                        sector,
                    ));
                }
            }
            done += part.len() as u64;
        }
        check_apart(&entries, bitmap_len + block_len, last_len)?;
        Ok(Self { entries })
    }

    /// Returns where the bitmap of a block lies in the file, if the block is there.
    pub(super) fn block(&self, block: u64) -> Option<u64> {
        let sector = self.entries[index(block)];
        (sector != ABSENT).then(|| u64::from(sector) * SECTOR)
    }
}

/// Refuses blocks of `len` bytes, the last of the disk of `last_len`, that share space.
fn check_apart(entries: &[u32], len: u64, last_len: u64) -> Result<(), Error> {
    let last = entries.last().copied().filter(|last| *last != ABSENT);
    let mut starts: Vec<u32> = entries
        .iter()
        .copied()
        .filter(|sector| *sector != ABSENT)
        .collect();
    starts.sort_unstable();
    for pair in starts.windows(2) {
        let (low, high) = (u64::from(pair[0]) * SECTOR, u64::from(pair[1]) * SECTOR);
        let len = if last == Some(pair[0]) { last_len } else { len };
        if high - low < len {
            return Err(Error::format(Rule::VhdBlockOverlap, high, pair[1]));
        }
    }
    Ok(())
}
