//! Where chunks end.
//!
//! A cell ends a chunk when a keyed hash of a sample of it (four times 64 bytes, spread over the cell) falls below a
//! threshold; an all-zero sample never does. Chunks have 4 to 64 cells; a hole or the end of the region ends one sooner.
//! Guest file systems allocate whole cells, so the same file elsewhere, on another disk, gives the same chunks.
//!
//! Invariant: the pieces of a region, holes between them, are the region. Where a chunk ends is no part of the format a
//! reader needs, but two writers that cut differently share nothing: change it only with a reason.

use zeroize::Zeroizing;

use crate::{CELL_BYTES, CHUNK_MAX_CELLS, CHUNK_MIN_CELLS};

/// Offsets of the four samples of 64 bytes in a cell.
const SAMPLES: [usize; 4] = [0, 1344, 2688, 4032];

/// A chunk is at least 4 cells; one cell in 13 ends it from then on: 16 cells, 64 KiB, on average.
const CUT_BELOW: u64 = u64::MAX / 13;

const WORDS: usize = 32;

/// Says whether a cell ends a chunk.
#[derive(Clone)]
pub struct Cutter {
    keys: Zeroizing<[u64; WORDS + 1]>,
}

impl Cutter {
    pub(crate) fn new(cut_key: &[u8; 32]) -> Self {
        let mut stream = [0u8; (WORDS + 1) * 8];
        blake3::Hasher::new_keyed(cut_key)
            .update(b"reprise cut v1")
            .finalize_xof()
            .fill(&mut stream);
        let mut keys = Zeroizing::new([0; WORDS + 1]);
        for (key, bytes) in keys.iter_mut().zip(stream.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*bytes) | 1;
        }
        Self { keys }
    }

    /// Says whether a cell of [`CELL_BYTES`] ends the chunk it is in, if that has its least length.
    #[must_use]
    pub fn ends_chunk(&self, cell: &[u8]) -> bool {
        debug_assert_eq!(cell.len(), CELL_BYTES);
        let (mut hash, mut any) = (0u64, 0u64);
        for (sample, keys) in SAMPLES.iter().zip(self.keys.chunks_exact(8)) {
            let Some(sample) = cell.get(*sample..*sample + 64) else {
                return false;
            };
            let words: &[[u8; 8]] = sample.as_chunks().0;
            for (pair, key) in words.chunks_exact(2).zip(keys.chunks_exact(2)) {
                let (a, b) = (u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1]));
                any |= a | b;
                hash = hash.rotate_left(23) ^ fold(a ^ key[0], b ^ key[1]);
            }
        }
        any != 0 && fold(hash ^ self.keys[WORDS], 0x9E37_79B9_7F4A_7C15) < CUT_BELOW
    }
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cutter(..)")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a 128-bit product"
)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Says whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| {
        block
            .as_chunks::<8>()
            .0
            .iter()
            .fold(0, |or, w| or | u64::from_ne_bytes(*w))
            == 0
    }) && rest.iter().all(|&byte| byte == 0)
}

/// What became of a run of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionCut {
    /// All zero.
    Hole {
        /// Cells.
        cells: u16,
    },
    /// A chunk ends here; it began `cells` before.
    Chunk {
        /// Cells.
        cells: u16,
    },
}

impl Cutter {
    /// Cuts the front of `bytes` (whole cells of one region): returns the next hole or chunk, or `None` where no chunk
    /// ends in them and `is_end` does not say that the region (or the run to be cut) ends with them.
    ///
    /// A caller that streams keeps what is left and calls again with more behind it; the outcome does not depend on how
    /// the cells were handed over.
    #[must_use]
    pub fn next(&self, bytes: &[u8], is_end: bool) -> Option<RegionCut> {
        let mut cells = 0u16;
        let mut hole: Option<bool> = None;
        for cell in bytes.chunks_exact(CELL_BYTES) {
            let zero = is_zero(cell);
            match hole {
                None => hole = Some(zero),
                Some(true) if !zero => return Some(RegionCut::Hole { cells }),
                Some(false) if zero => return Some(RegionCut::Chunk { cells }),
                Some(_) => {}
            }
            cells += 1;
            if !zero
                && (cells == CHUNK_MAX_CELLS || (cells >= CHUNK_MIN_CELLS && self.ends_chunk(cell)))
            {
                return Some(RegionCut::Chunk { cells });
            }
            if cells == crate::REGION_CELLS {
                return Some(RegionCut::Hole { cells });
            }
        }
        match hole {
            Some(true) => Some(RegionCut::Hole { cells }),
            Some(false) if is_end => Some(RegionCut::Chunk { cells }),
            Some(false) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cutter() -> Cutter {
        Cutter::new(&[7; 32])
    }

    /// Cells from a small number per cell: 0 is a zero cell, others are pseudo-random bytes.
    fn cells(kinds: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, &kind) in kinds.iter().enumerate() {
            let mut cell = [0u8; CELL_BYTES];
            if kind != 0 {
                blake3::Hasher::new()
                    .update(&[kind])
                    .update(&(i / 7).to_le_bytes())
                    .finalize_xof()
                    .fill(&mut cell);
            }
            bytes.extend_from_slice(&cell);
        }
        bytes
    }

    fn cut_all(bytes: &[u8], step: usize) -> Vec<RegionCut> {
        let (mut at, mut end, mut cuts) = (0, 0, Vec::new());
        while at < bytes.len() {
            match cutter().next(&bytes[at..end], end == bytes.len()) {
                Some(cut) => {
                    let (RegionCut::Hole { cells } | RegionCut::Chunk { cells }) = cut;
                    at += usize::from(cells) * CELL_BYTES;
                    match (cuts.last_mut(), cut) {
                        (Some(RegionCut::Hole { cells: last }), RegionCut::Hole { cells }) => {
                            *last += cells;
                        }
                        _ => cuts.push(cut),
                    }
                }
                None => end = (end + step * CELL_BYTES).min(bytes.len()),
            }
        }
        cuts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_join_to_the_input_however_it_is_handed_over(
            kinds in prop::collection::vec(prop_oneof![2 => Just(0u8), 5 => any::<u8>()], 0..400), step in 1usize..90,
        ) {
            let bytes = cells(&kinds);
            let cuts = cut_all(&bytes, bytes.len() / CELL_BYTES + 1);
            prop_assert_eq!(&cuts, &cut_all(&bytes, step));
            let mut at = 0;
            for cut in &cuts {
                let (RegionCut::Hole { cells } | RegionCut::Chunk { cells }) = *cut;
                let part = &bytes[at..at + usize::from(cells) * CELL_BYTES];
                let zero = part.chunks(CELL_BYTES).filter(|cell| is_zero(cell)).count();
                match cut {
                    RegionCut::Hole { .. } => prop_assert_eq!(zero, usize::from(cells)),
                    RegionCut::Chunk { .. } => prop_assert!(zero == 0 && cells <= CHUNK_MAX_CELLS),
                }
                at += part.len();
            }
            prop_assert_eq!(at, bytes.len());
        }
    }

    #[test]
    fn chunks_of_random_bytes_are_64_kib_on_average() {
        let mut bytes = vec![0; 16_384 * CELL_BYTES];
        blake3::Hasher::new()
            .update(b"average")
            .finalize_xof()
            .fill(&mut bytes);
        let cuts = cut_all(&bytes, 16_384);
        let average = bytes.len() / cuts.len() / 1024;
        assert!((58..70).contains(&average), "{average} KiB");
        let short = cuts
            .iter()
            .filter(|cut| matches!(cut, RegionCut::Chunk { cells } if *cells < CHUNK_MIN_CELLS));
        assert!(short.count() <= 1, "only the last one may be short");
    }

    #[test]
    fn the_same_file_elsewhere_gives_the_same_chunks() {
        let mut file = vec![0; 512 * CELL_BYTES];
        blake3::Hasher::new()
            .update(b"file")
            .finalize_xof()
            .fill(&mut file);
        let lens = |front: usize| -> Vec<Vec<u8>> {
            let mut disk = vec![1u8; front * CELL_BYTES];
            disk.extend_from_slice(&file);
            let mut at = 0;
            let mut chunks = Vec::new();
            for cut in cut_all(&disk, 9999) {
                let (RegionCut::Hole { cells } | RegionCut::Chunk { cells }) = cut;
                let end = at + usize::from(cells) * CELL_BYTES;
                chunks.push(disk[at..end].to_vec());
                at = end;
            }
            chunks
        };
        let (one, other) = (lens(3), lens(50));
        let shared = other.iter().filter(|chunk| one.contains(chunk)).count();
        assert!(
            shared + 6 >= one.len().min(other.len()),
            "{shared} of {}",
            one.len()
        );
    }

    #[test]
    fn an_all_zero_sample_never_cuts() {
        for key in 0..200u8 {
            let mut cell = vec![0; CELL_BYTES];
            cell[100] = 1;
            assert!(!Cutter::new(&[key; 32]).ends_chunk(&cell));
        }
    }
}
