//! Single cells of chunks on the wire: what a restore asks of chunks the host has in part.
//!
//! The body of both requests is a list of asks, [`CellAsk::LEN`] bytes each. `cell-hashes` answers with frames
//! [`crate::frames::Tag::Cells`]: the chunk's id (32 bytes) and the keyed hashes of the cells asked for (16 bytes each), in
//! order. `cells` answers with frames `Seal` and `Entry`, as `chunks` does. Chunks the store cannot give are left out.

/// Most chunks of one request.
pub const CELL_ASKS_PER_REQUEST: usize = 1024;
/// Bytes of a hash.
pub const CELL_HASH_LEN: usize = 16;

/// Some cells of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellAsk {
    /// Id of the chunk.
    pub chunk: [u8; 32],
    /// A bit for each cell, bit 0 for the first; at least one is set.
    pub cells: u64,
}

impl CellAsk {
    /// Bytes on the wire: the id, the bits (`u64`, little-endian).
    pub const LEN: usize = 40;

    /// Appends it to a request.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.chunk);
        out.extend_from_slice(&self.cells.to_le_bytes());
    }

    /// Reads it from the wire.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (chunk, cells) = bytes.split_at(32);
        let (mut ask, mut bits) = ([0; 32], [0; 8]);
        ask.copy_from_slice(chunk);
        bits.copy_from_slice(cells);
        Self {
            chunk: ask,
            cells: u64::from_le_bytes(bits),
        }
    }
}

/// Reads the body of an answer's frame: the id, and the hashes; `None` where its length is wrong.
#[must_use]
pub fn read_hashes(payload: &[u8]) -> Option<([u8; 32], &[[u8; CELL_HASH_LEN]])> {
    let (id, hashes) = payload.split_first_chunk::<32>()?;
    let (hashes, rest) = hashes.as_chunks();
    rest.is_empty().then_some((*id, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_and_answers_are_read_back() {
        let ask = CellAsk {
            chunk: [7; 32],
            cells: 0x8000_0000_0000_0005,
        };
        let mut bytes = Vec::new();
        ask.encode_to(&mut bytes);
        assert_eq!(CellAsk::decode(bytes.as_slice().try_into().unwrap()), ask);
        let answer = [vec![7; 32], vec![1; 16], vec![2; 16]].concat();
        let (id, hashes) = read_hashes(&answer).unwrap();
        assert_eq!((id, hashes), ([7; 32], &[[1; 16], [2; 16]][..]));
        assert_eq!(read_hashes(&answer[..63]), None);
        assert_eq!(read_hashes(&answer[..31]), None);
    }
}
