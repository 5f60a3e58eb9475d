//! Where new blocks go: into free space of the file, else at its end.
//!
//! Invariant: space given up by a block is offered again only once that is durable and no reader is under way in it.

use std::collections::BTreeMap;

use crate::format::MIB;
use crate::format::bat::FILE_MIB_MAX;
use crate::space::SpaceMap;

/// Runs of free space that are compared for the best fit.
const CANDIDATES: usize = 64;

/// The free space of a file, in MiB.
#[derive(Debug)]
pub(super) struct FreeSpace {
    /// First to count.
    runs: BTreeMap<u64, u64>,
    /// Beyond it the file is new.
    end: u64,
}

/// Space for a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Space {
    pub(super) place: u64,
    /// At the end of the file, so that it reads as zeros.
    pub(super) fresh: bool,
}

impl FreeSpace {
    pub(super) fn new(taken: &SpaceMap, file_len: u64) -> Self {
        let end = file_len.div_ceil(MIB);
        // A soft anchor, or a last block cut short, may own space beyond the end of the file.
        Self {
            runs: taken.free_runs(end).into_iter().collect(),
            end: end.max(taken.end()),
        }
    }

    /// Takes `len` bytes, whole MiB; `None` if the file would become too long.
    pub(super) fn take(&mut self, len: u64) -> Option<Space> {
        let count = len / MIB;
        let fitting = self
            .runs
            .iter()
            .find(|(_, free)| **free >= count)
            .map(|(first, free)| (*first, *free));
        if let Some((first, free)) = fitting {
            self.runs.remove(&first);
            if free > count {
                self.runs.insert(first + count, free - count);
            }
            return Some(Space {
                place: first * MIB,
                fresh: false,
            });
        }
        let place = self.end;
        self.end = place
            .checked_add(count)
            .filter(|end| *end <= FILE_MIB_MAX)?;
        Some(Space {
            place: place * MIB,
            fresh: true,
        })
    }

    /// Takes `len` bytes of free space that end at or below `limit`: of the lowest runs the one that fits best.
    pub(super) fn take_below(&mut self, len: u64, limit: u64) -> Option<u64> {
        let (count, limit) = (len / MIB, limit / MIB);
        let (first, free) = self
            .runs
            .iter()
            .take_while(|(first, _)| **first + count <= limit)
            .filter(|(_, free)| **free >= count)
            .take(CANDIDATES)
            .min_by_key(|(_, free)| **free)
            .map(|(first, free)| (*first, *free))?;
        self.runs.remove(&first);
        if free > count {
            self.runs.insert(first + count, free - count);
        }
        Some(first * MIB)
    }

    /// Takes `len` bytes at the end of the file, whole MiB; `None` if the file would become too long.
    pub(super) fn take_at_end(&mut self, len: u64) -> Option<u64> {
        let place = self.end;
        self.end = place
            .checked_add(len / MIB)
            .filter(|end| *end <= FILE_MIB_MAX)?;
        Some(place * MIB)
    }

    /// Returns where the last thing in the file ends.
    pub(super) fn taken_end(&self) -> u64 {
        match self.runs.last_key_value() {
            Some((first, free)) if first + free == self.end => first * MIB,
            Some(_) | None => self.end * MIB,
        }
    }

    /// Returns where the last thing would end if there were no free space before it.
    pub(super) fn packed_end(&self) -> u64 {
        self.end * MIB - self.free_bytes()
    }

    /// Forgets free space at the end of the file, which the caller cuts off; returns where that is.
    pub(super) fn cut(&mut self) -> u64 {
        let end = self.taken_end() / MIB;
        self.runs.remove(&end);
        self.end = end;
        end * MIB
    }

    /// Returns the bytes of free space.
    pub(super) fn free_bytes(&self) -> u64 {
        self.runs.values().sum::<u64>() * MIB
    }

    /// Gives space back.
    pub(super) fn give(&mut self, place: u64, len: u64) {
        let (mut first, mut count) = (place / MIB, len / MIB);
        if let Some((before, free)) = self
            .runs
            .range(..first)
            .next_back()
            .map(|(at, free)| (*at, *free))
            && before + free == first
        {
            self.runs.remove(&before);
            (first, count) = (before, count + free);
        }
        if let Some(free) = self.runs.remove(&(first + count)) {
            count += free;
        }
        self.runs.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::{FreeSpace, Space};
    use crate::format::MIB;
    use crate::space::SpaceMap;

    #[test]
    fn fills_holes_first_and_joins_what_comes_back() {
        let mut taken = SpaceMap::default();
        taken.claim(0, 4);
        taken.claim(6, 2);
        let mut free = FreeSpace::new(&taken, 8 * MIB);
        assert_eq!(
            free.take(2 * MIB),
            Some(Space {
                place: 4 * MIB,
                fresh: false
            })
        );
        assert_eq!(
            free.take(2 * MIB),
            Some(Space {
                place: 8 * MIB,
                fresh: true
            })
        );
        free.give(4 * MIB, 2 * MIB);
        free.give(6 * MIB, 2 * MIB);
        free.give(8 * MIB, 2 * MIB);
        assert_eq!(
            free.take(6 * MIB),
            Some(Space {
                place: 4 * MIB,
                fresh: false
            })
        );
        assert_eq!(
            free.take(MIB),
            Some(Space {
                place: 10 * MIB,
                fresh: true
            })
        );
    }

    #[test]
    fn stays_off_space_taken_beyond_the_end() {
        let mut taken = SpaceMap::default();
        taken.claim(0, 4);
        taken.claim(300, 20);
        let mut free = FreeSpace::new(&taken, 4 * MIB);
        assert_eq!(
            free.take(MIB),
            Some(Space {
                place: 320 * MIB,
                fresh: true
            })
        );
    }
}
