//! Disk files read the plain way: one table entry and one bit at a time, nothing checked or kept.
//!
//! The other side of every comparison. Only for files that were accepted: what it cannot find there is a finding.

mod vhd;
mod vhdx;
pub(crate) mod vmcx;

use crate::index;
use crate::sparse::SparseFile;
pub(crate) use vhdx::replayed;

/// One file.
pub(crate) struct Plain {
    /// As it is, not replayed.
    pub(crate) original: SparseFile,
    /// Replayed.
    file: SparseFile,
    pub(crate) size: u64,
    sector: u64,
    map: Map,
}

/// How to find a byte.
enum Map {
    Vhdx(vhdx::Map),
    Vhd(vhd::Map),
}

/// What one file says of a byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holds {
    At(u64),
    Zero,
    Parent,
}

impl Plain {
    /// Opens a VHDX file.
    pub(crate) fn vhdx(file: &SparseFile) -> Self {
        let original = file.clone();
        let file = replayed(file);
        let map = vhdx::Map::read(&file);
        Self {
            original,
            size: map.size,
            sector: map.sector,
            map: Map::Vhdx(map),
            file,
        }
    }

    /// Opens a VHD file.
    pub(crate) fn vhd(file: &SparseFile) -> Self {
        let map = vhd::Map::read(file);
        Self {
            original: file.clone(),
            file: file.clone(),
            size: map.size,
            sector: 512,
            map: Map::Vhd(map),
        }
    }

    /// Returns what this file says of the byte at `offset`.
    fn holds(&self, offset: u64) -> Holds {
        if offset >= self.size {
            return Holds::Zero;
        }
        match &self.map {
            Map::Vhdx(map) => map.holds(&self.file, offset),
            Map::Vhd(map) => map.holds(&self.file, offset),
        }
    }

    /// Returns the end of the sector that holds `offset`.
    fn sector_end(&self, offset: u64) -> u64 {
        (offset / self.sector + 1) * self.sector
    }
}

/// Returns which range of which file (leaf first) holds `offset`: where, or nowhere, and for how long that is certain.
fn place_of(chain: &[Plain], offset: u64) -> (Option<(usize, u64)>, u64) {
    let end = chain[0].sector_end(offset);
    for (number, layer) in chain.iter().enumerate() {
        match layer.holds(offset) {
            Holds::At(at) => return (Some((number, at)), end),
            Holds::Zero => return (None, end),
            Holds::Parent => {}
        }
    }
    panic!("the root of an accepted chain refers to a parent at {offset:#x}");
}

/// Returns the bytes of a range of a chain, leaf first.
pub(crate) fn read(chain: &[Plain], offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let (place, end) = place_of(chain, at);
        let part = (len - done).min(index(end - at));
        if let Some((layer, place)) = place {
            chain[layer]
                .file
                .read_or_zeros(&mut bytes[done..done + part], place);
        }
        done += part;
    }
    bytes
}

/// Returns, sector by sector, whether a range of a chain lies in files: ends of sectors with the answer.
pub(crate) fn in_files(chain: &[Plain], offset: u64, len: u64) -> Vec<(u64, bool)> {
    let mut found = Vec::new();
    let mut at = offset;
    while at < offset + len {
        let (place, end) = place_of(chain, at);
        at = end.min(offset + len);
        found.push((at, place.is_some()));
    }
    found
}
