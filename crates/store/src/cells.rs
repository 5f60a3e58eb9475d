//! Single cells of chunks: what a host that has most of a chunk needs to find the rest.
//!
//! A restore asks for short hashes of a chunk's cells ([`CellKey`]), looks which of them the host has, and fetches the
//! others: sealed like a pack that is never stored ([`seal_cells`]), under a key that is handed out with them and used for
//! nothing else.
//!
//! A cell hash has 16 bytes and a key of its own for each session, which nobody but the server and the session's agent
//! knows: what lies on a host was written without it.

use std::fmt;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::{
    CELL_BYTES, ChunkId, LiveCells, PackError, PackSeal, PackWriter, Salt, SealedEntry, VaultKeys,
};

/// A keyed hash of one cell, valid in one session.
pub type CellHash = [u8; 16];

/// Bytes of a [`CellHash`].
pub const CELL_HASH_BYTES: usize = 16;

/// The key of a session's cell hashes.
#[derive(Clone)]
pub struct CellKey(Zeroizing<[u8; 32]>);

impl CellKey {
    /// Takes a key as it was handed over.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Returns the key, to hand it to an agent over an authenticated connection.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the hash of a cell's plain bytes.
    #[must_use]
    pub fn hash(&self, cell: &[u8]) -> CellHash {
        let hash = blake3::keyed_hash(&self.0, cell);
        let (short, _) = hash
            .as_bytes()
            .split_first_chunk()
            .expect("a BLAKE3 hash has 32 bytes");
        *short
    }

    /// Returns the hashes of these cells of a chunk, in order; `None` where the chunk does not have them all.
    #[must_use]
    pub fn hashes(&self, plain: &[u8], cells: LiveCells) -> Option<Vec<CellHash>> {
        cells
            .cells()
            .map(|cell| {
                let start = cell * CELL_BYTES;
                Some(self.hash(plain.get(start..start + CELL_BYTES)?))
            })
            .collect()
    }
}

impl fmt::Debug for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CellKey(..)")
    }
}

impl VaultKeys {
    /// Returns the key of a session's cell hashes. It follows from the session's id and the oldest data key, so that every
    /// server of an installation gives the same.
    #[must_use]
    pub fn cell_key(&self, session: [u8; 16]) -> CellKey {
        CellKey(crate::keys::derive(
            self.first_data_key(),
            Salt(session),
            b"reprise session cell key v1",
        ))
    }
}

/// Seals some cells each of some chunks, using up the seal: entries like those of a partial chunk, in order. They come from
/// no pack that exists.
pub fn seal_cells<'a>(
    seal: PackSeal,
    chunks: impl IntoIterator<Item = (ChunkId, &'a [u8], LiveCells)>,
) -> Result<Vec<SealedEntry>, PackError> {
    let mut writer = PackWriter::new(seal);
    for (id, plain, cells) in chunks {
        writer.add_partial(id, plain, cells)?;
    }
    let (generation, salt, bytes, entries) = writer.into_entries();
    let bytes = Bytes::from(bytes);
    entries
        .into_iter()
        .map(|info| {
            let place = |at: u64| usize::try_from(at).expect("a place in a buffer");
            let sealed = bytes.slice(place(info.offset)..place(info.end()));
            SealedEntry::new(generation, salt, info, sealed)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use model::VaultId;

    use super::*;
    use crate::{Decoder, KeyMaterial, PackKeys};

    fn keys() -> VaultKeys {
        VaultKeys::from_material(&KeyMaterial {
            vault: VaultId::random(),
            generation: 1,
            id_key: [1; 32].into(),
            cut_key: [2; 32].into(),
            data_key: [3; 32].into(),
        })
    }

    fn cells(bits: u64) -> LiveCells {
        LiveCells::new(NonZeroU64::new(bits).unwrap())
    }

    #[test]
    fn every_session_hashes_cells_with_a_key_of_its_own_that_outlives_generations() {
        let mut keys = keys();
        let cell = [7; CELL_BYTES];
        let one = keys.cell_key([1; 16]).hash(&cell);
        assert_ne!(one, keys.cell_key([2; 16]).hash(&cell));
        assert_ne!(one, keys.cell_key([1; 16]).hash(&[8; CELL_BYTES]));
        let next = keys.next_generation().unwrap();
        keys.add(&next).unwrap();
        assert_eq!(one, keys.cell_key([1; 16]).hash(&cell));
    }

    #[test]
    fn sealed_cells_open_with_their_key_only_and_have_only_what_was_asked_for() {
        let keys = keys();
        let plain: Vec<u8> = (0..4 * CELL_BYTES)
            .map(|at| u8::try_from(at / CELL_BYTES + 1).unwrap())
            .collect();
        let id = keys.session().chunk_id(&plain);
        let wanted = cells(0b1010);
        let sealed = seal_cells(keys.new_seal().unwrap(), [(id, &plain[..], wanted)]).unwrap();
        assert_eq!(sealed.len(), 1);
        let key = keys
            .pack_key(sealed[0].generation(), sealed[0].salt())
            .unwrap();
        let opened = sealed[0]
            .open(&key, keys.session(), &mut Decoder::new())
            .unwrap();
        assert_eq!(opened.live, Some(wanted));
        let part = |cell: usize| cell * CELL_BYTES..(cell + 1) * CELL_BYTES;
        assert_eq!(opened.plain[part(1)], plain[part(1)]);
        assert_eq!(opened.plain[part(3)], plain[part(3)]);
        assert!(opened.plain[part(2)].iter().all(|&byte| byte == 0));
        let other = keys.pack_key(1, Salt([9; 16])).unwrap();
        assert!(
            sealed[0]
                .open(&other, keys.session(), &mut Decoder::new())
                .is_err()
        );
    }

    #[test]
    fn cells_a_chunk_does_not_have_are_refused() {
        let keys = keys();
        let plain = vec![1; 2 * CELL_BYTES];
        let id = keys.session().chunk_id(&plain);
        assert!(
            keys.cell_key([1; 16])
                .hashes(&plain, cells(0b100))
                .is_none()
        );
        assert!(seal_cells(keys.new_seal().unwrap(), [(id, &plain[..], cells(0b100))]).is_err());
    }
}
