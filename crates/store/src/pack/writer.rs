//! Writing a pack.

use bytes::Bytes;
use ring::aead::Aad;

use super::{EntryInfo, LiveCells};
use crate::format::pack as layout;
use crate::{
    CHUNK_MAX_BYTES, Encoded, Encoder, EntryId, NODE_MAX_BYTES, PACK_TARGET_BYTES, PackError,
    PackId, PackKey, PackSeal, Salt,
};

/// A pack being written. Holds its bytes in memory (up to [`PACK_TARGET_BYTES`] and one entry).
pub struct PackWriter {
    key: PackKey,
    bytes: Vec<u8>,
    entries: Vec<EntryInfo>,
    encoder: Option<Encoder>,
}

/// A finished pack: what is stored under its id.
#[derive(Clone, Debug)]
pub struct SealedPack {
    /// Hash of its bytes: its name.
    pub id: PackId,
    /// The object.
    pub bytes: Bytes,
    /// Generation of the data key it is sealed under.
    pub generation: u32,
    /// Its salt.
    pub salt: Salt,
    /// What it holds, in order.
    pub entries: Vec<EntryInfo>,
}

impl PackWriter {
    /// Starts a pack, using up the seal.
    #[must_use]
    pub fn new(seal: PackSeal) -> Self {
        // Room for all of it at once: growing would copy. Pages that are not written cost nothing.
        let mut bytes = Vec::with_capacity(PACK_TARGET_BYTES + (1 << 20));
        bytes.extend_from_slice(&layout::header());
        Self {
            key: seal.into_key(),
            bytes,
            entries: Vec::new(),
            encoder: None,
        }
    }

    /// Compresses and seals plain bytes. The caller made the id of these bytes.
    pub fn add(&mut self, id: impl Into<EntryId>, plain: &[u8]) -> Result<(), PackError> {
        let mut encoder = self.encoder.take().unwrap_or_default();
        let added = self.seal(id.into(), None, encoder.encode(plain));
        self.encoder = Some(encoder);
        added
    }

    /// Seals bytes that were compressed elsewhere.
    pub fn add_encoded(
        &mut self,
        id: impl Into<EntryId>,
        encoded: Encoded<'_>,
    ) -> Result<(), PackError> {
        self.seal(id.into(), None, encoded)
    }

    /// Seals only the live cells of a chunk, under the id of the whole one.
    pub fn add_partial(
        &mut self,
        id: crate::ChunkId,
        plain: &[u8],
        live: LiveCells,
    ) -> Result<(), PackError> {
        let Some(packed) = live.gather(plain) else {
            return Err(PackError::TooLarge {
                what: "live cells of a chunk",
                found: u64::from(live.bits().ilog2()) * 4096,
                limit: plain.len() as u64,
            });
        };
        let mut encoder = self.encoder.take().unwrap_or_default();
        let added = self.seal(id.into(), Some(live), encoder.encode(&packed));
        self.encoder = Some(encoder);
        added
    }

    fn seal(
        &mut self,
        id: EntryId,
        live: Option<LiveCells>,
        encoded: Encoded<'_>,
    ) -> Result<(), PackError> {
        let (what, limit) = match id {
            EntryId::Chunk(_) => ("chunk", CHUNK_MAX_BYTES),
            EntryId::Node(_) => ("tree node", NODE_MAX_BYTES),
        };
        if encoded.plain_len > limit {
            return Err(PackError::TooLarge {
                what,
                found: encoded.plain_len as u64,
                limit: limit as u64,
            });
        }
        if self.entries.len() >= layout::MAX_ENTRIES || self.bytes.len() > PACK_TARGET_BYTES {
            return Err(PackError::TooLarge {
                what: "pack",
                found: self.bytes.len() as u64,
                limit: PACK_TARGET_BYTES as u64,
            });
        }
        let len32 =
            |len: usize| u32::try_from(len).expect("lengths were compared with their limits above");
        let entry = EntryInfo {
            number: len32(self.entries.len()),
            id,
            live,
            encoding: encoded.encoding,
            plain_len: len32(encoded.plain_len),
            stored_len: len32(encoded.bytes.len()),
            offset: self.bytes.len() as u64,
        };
        let context = layout::entry_context(self.key.generation(), self.key.salt(), &entry);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(encoded.bytes);
        let tag = self
            .key
            .cipher()
            .seal_in_place_separate_tag(
                layout::entry_nonce(entry.number),
                Aad::from(&context),
                &mut self.bytes[start..],
            )
            .expect("AES-GCM seals far more than an entry");
        self.bytes.extend_from_slice(tag.as_ref());
        self.entries.push(entry);
        Ok(())
    }

    /// Returns the bytes of the pack if it were finished now.
    #[must_use]
    pub fn sealed_len(&self) -> usize {
        let footer = 4 + self.entries.len() * layout::RECORD_BYTES + layout::TAG_BYTES;
        self.bytes.len() + footer + layout::TRAILER_BYTES
    }

    /// Says whether the pack should be finished.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.sealed_len() >= PACK_TARGET_BYTES || self.entries.len() >= layout::MAX_ENTRIES
    }

    /// Says whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what was added, in order.
    #[must_use]
    pub fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    /// Returns what was sealed, for a pack that is never finished: generation, salt, bytes and where the entries lie in them.
    pub(crate) fn into_entries(self) -> (u32, Salt, Vec<u8>, Vec<EntryInfo>) {
        (
            self.key.generation(),
            self.key.salt(),
            self.bytes,
            self.entries,
        )
    }

    /// Seals the footer, hashes the whole.
    #[must_use]
    pub fn finish(self) -> SealedPack {
        let Self {
            key,
            mut bytes,
            entries,
            encoder: _,
        } = self;
        let context = layout::footer_context(key.generation(), key.salt(), bytes.len() as u64);
        let mut footer = layout::encode_list(&entries);
        key.cipher()
            .seal_in_place_append_tag(layout::footer_nonce(), Aad::from(&context), &mut footer)
            .expect("AES-GCM seals far more than a footer");
        bytes.extend_from_slice(&footer);
        bytes.extend_from_slice(&layout::encode_trailer(&layout::Trailer {
            salt: key.salt(),
            generation: key.generation(),
            footer_len: u32::try_from(footer.len()).expect("MAX_ENTRIES records are a few MiB"),
        }));
        let id = PackId(*blake3::hash(&bytes).as_bytes());
        SealedPack {
            id,
            bytes: bytes.into(),
            generation: key.generation(),
            salt: key.salt(),
            entries,
        }
    }
}

impl std::fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PackWriter({:?}, {} entries, {} bytes)",
            self.key,
            self.entries.len(),
            self.bytes.len()
        )
    }
}
