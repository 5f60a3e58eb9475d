//! Sector bitmaps: one bit per sector of a block, the most significant of a byte first.
//!
//! A set bit means that the sector's bytes are in the file. A clear one means the parent's in a differencing disk, and
//! zeros in a dynamic one, where most writers set every bit of a block they allocate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::{SECTOR, SECTOR_BYTES, u64_be};
use crate::backing::Backing;
use crate::error::Error;
use crate::format::index;

/// Sectors of bitmaps kept per file: 2 MiB, the bitmaps of 8 GiB of disk.
const KEPT: usize = 4096;

/// Bits in a sector of a bitmap.
const SECTOR_BITS: u64 = SECTOR * 8;

type Sector = [u8; SECTOR_BYTES];

/// The bitmaps of a file, those read lately in memory.
#[derive(Debug, Default)]
pub(super) struct Bitmaps {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    sectors: HashMap<u64, Arc<Sector>>,
    age: VecDeque<u64>,
}

impl Bitmaps {
    /// Returns the bit `first` of the bitmap at `at`, and how many of the `count` bits from there are equal to it.
    pub(super) fn run(
        &self,
        file: &Backing,
        at: u64,
        first: u64,
        count: u64,
    ) -> Result<(bool, u64), Error> {
        let mut sought = None;
        let mut bit = first;
        while bit < first + count {
            let sector = self.sector(file, at + bit / SECTOR_BITS * SECTOR)?;
            let stop = (bit / SECTOR_BITS + 1) * SECTOR_BITS;
            while bit < stop.min(first + count) {
                let word = u64_be(&sector[..], index(bit % SECTOR_BITS / 64 * 8)) << (bit % 64);
                let here = *sought.get_or_insert(word >> 63 == 1);
                let same = if here {
                    word.leading_ones()
                } else {
                    word.leading_zeros()
                };
                let left = 64 - bit % 64;
                let same = u64::from(same).min(left);
                bit += same;
                if same < left {
                    return Ok((here, bit.min(first + count) - first));
                }
            }
        }
        Ok((sought.unwrap_or(false), count))
    }

    fn sector(&self, file: &Backing, at: u64) -> Result<Arc<Sector>, Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sector) = kept.sectors.get(&at) {
            return Ok(Arc::clone(sector));
        }
        let mut sector = [0; SECTOR_BYTES];
        file.read(&mut sector, at, "a sector bitmap")?;
        let sector = Arc::new(sector);
        if kept.sectors.insert(at, Arc::clone(&sector)).is_none() {
            kept.age.push_back(at);
        }
        if kept.age.len() > KEPT
            && let Some(oldest) = kept.age.pop_front()
        {
            kept.sectors.remove(&oldest);
        }
        Ok(sector)
    }
}
