//! One chunk or node of a pack.

use std::num::NonZeroU64;

use bytes::{Buf, Bytes, BytesMut};

use crate::format::{Cursor, pack as layout};
use crate::{
    CELL_BYTES, CHUNK_MAX_CELLS, Decoder, Encoding, EntryId, FormatError, PackError, PackKey,
    PackKeys, Salt, SessionKeys,
};

/// Which cells of a chunk a partial chunk still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LiveCells(NonZeroU64);

impl LiveCells {
    /// Takes a bit per cell, bit 0 for the first.
    #[must_use]
    pub fn new(bits: NonZeroU64) -> Self {
        Self(bits)
    }

    /// Returns a bit per cell.
    #[must_use]
    pub fn bits(&self) -> NonZeroU64 {
        self.0
    }

    /// Says whether all of these cells are there.
    #[must_use]
    pub fn has(&self, at: u16, cells: u16) -> bool {
        at.checked_add(cells)
            .is_some_and(|end| end <= CHUNK_MAX_CELLS)
            && (at..at + cells).all(|cell| self.0.get() >> cell & 1 == 1)
    }

    /// Returns how many cells are live.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count_ones().get() as usize
    }

    /// Returns the number of the cell behind the last live one.
    #[must_use]
    pub fn end(&self) -> usize {
        64 - self.0.get().leading_zeros() as usize
    }

    /// Returns the numbers of the live cells, ascending.
    pub fn cells(self) -> impl Iterator<Item = usize> {
        (0..64usize).filter(move |cell| self.0.get() >> cell & 1 == 1)
    }

    /// Returns only the live cells of a chunk's plain bytes, one behind the other.
    pub(crate) fn gather(self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut packed = Vec::with_capacity(self.0.count_ones().get() as usize * CELL_BYTES);
        for cell in self.cells() {
            packed.extend_from_slice(plain.get(cell * CELL_BYTES..(cell + 1) * CELL_BYTES)?);
        }
        Some(packed)
    }

    fn scatter(self, packed: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; self.end() * CELL_BYTES];
        for (cell, bytes) in self.cells().zip(packed.chunks_exact(CELL_BYTES)) {
            plain[cell * CELL_BYTES..(cell + 1) * CELL_BYTES].copy_from_slice(bytes);
        }
        plain
    }
}

/// What a pack's footer says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Its number in the pack, from 0.
    pub number: u32,
    /// What it holds.
    pub id: EntryId,
    /// The cells it has, where it is a partial chunk.
    pub live: Option<LiveCells>,
    /// How its bytes are stored.
    pub encoding: Encoding,
    /// Plain bytes.
    pub plain_len: u32,
    /// Stored bytes, without the authentication tag.
    pub stored_len: u32,
    /// Where its sealed bytes begin in the pack.
    pub offset: u64,
}

impl EntryInfo {
    /// Returns the length of the sealed bytes, tag included.
    #[must_use]
    pub fn sealed_len(&self) -> u64 {
        u64::from(self.stored_len) + layout::TAG_BYTES as u64
    }

    /// Returns where its sealed bytes end in the pack.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.sealed_len()
    }
}

/// One sealed entry with all that is needed to open it but the key. A server can send it on unopened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEntry {
    generation: u32,
    salt: Salt,
    info: EntryInfo,
    sealed: Bytes,
}

/// The plain bytes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Plain bytes at their places; of a partial chunk only the live cells mean something.
    pub plain: Vec<u8>,
    /// The cells that are there, where it is a partial chunk; `None`: all.
    pub live: Option<LiveCells>,
}

impl SealedEntry {
    /// Takes the sealed bytes of an entry that a footer lists.
    pub fn new(
        generation: u32,
        salt: Salt,
        info: EntryInfo,
        sealed: Bytes,
    ) -> Result<Self, PackError> {
        if sealed.len() as u64 != info.sealed_len() {
            return Err(PackError::Entry {
                number: info.number,
                id: info.id,
                source: FormatError::Truncated {
                    what: "pack entry",
                    needed: info.sealed_len(),
                    found: sealed.len() as u64,
                },
            });
        }
        Ok(Self {
            generation,
            salt,
            info,
            sealed,
        })
    }

    /// Returns what it holds.
    #[must_use]
    pub fn id(&self) -> EntryId {
        self.info.id
    }

    /// Returns what the footer says of it.
    #[must_use]
    pub fn info(&self) -> &EntryInfo {
        &self.info
    }

    /// Returns the generation of the data key its pack was sealed under.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns its pack's salt.
    #[must_use]
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// Opens, decompresses and checks against the id (a partial chunk, whose id cannot be computed, by its seal alone).
    pub fn open(
        &self,
        keys: &dyn PackKeys,
        names: &SessionKeys,
        decoder: &mut Decoder,
    ) -> Result<Opened, PackError> {
        let key = keys
            .pack_key(self.generation, self.salt)
            .map_err(PackError::Key)?;
        open_entry(&key, &self.info, &self.sealed, names, decoder)
    }

    /// Appends the entry for a wire: generation `u32`, salt, number `u32`, record, sealed bytes (their length is in the
    /// record). Entries follow one another without anything between them.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.salt.0);
        out.extend_from_slice(&self.info.number.to_le_bytes());
        out.extend_from_slice(&layout::encode_record(&self.info));
        out.extend_from_slice(&self.sealed);
    }

    /// Bytes before the sealed bytes on a wire.
    pub const WIRE_HEADER_BYTES: usize = 24 + layout::RECORD_BYTES;

    /// Takes one entry from the front of bytes that came over a wire; `None` where more bytes are needed.
    pub fn decode_from(buffer: &mut BytesMut) -> Result<Option<Self>, FormatError> {
        let Some(header) = buffer.get(..Self::WIRE_HEADER_BYTES) else {
            return Ok(None);
        };
        let mut cursor = Cursor::new("sealed entry", header);
        let (generation, salt, number) = (cursor.u32()?, Salt(cursor.array()?), cursor.u32()?);
        let info = layout::decode_record(cursor.take(layout::RECORD_BYTES)?, number, 0)?;
        let sealed_len = info.stored_len as usize + layout::TAG_BYTES;
        if buffer.len() < Self::WIRE_HEADER_BYTES + sealed_len {
            return Ok(None);
        }
        buffer.advance(Self::WIRE_HEADER_BYTES);
        let sealed = buffer.split_to(sealed_len).freeze();
        Ok(Some(Self {
            generation,
            salt,
            info,
            sealed,
        }))
    }
}

/// Opens an entry.
pub(crate) fn open_entry(
    key: &PackKey,
    info: &EntryInfo,
    sealed: &[u8],
    names: &SessionKeys,
    decoder: &mut Decoder,
) -> Result<Opened, PackError> {
    let wrong = |source| PackError::Entry {
        number: info.number,
        id: info.id,
        source,
    };
    let mut buffer = std::mem::take(&mut decoder.scratch);
    buffer.clear();
    buffer.extend_from_slice(sealed);
    let context = layout::entry_context(key.generation(), key.salt(), info);
    let stored = key
        .cipher()
        .open_in_place(
            layout::entry_nonce(info.number),
            ring::aead::Aad::from(&context),
            &mut buffer,
        )
        .map_err(|_| wrong(FormatError::NotAuthentic { what: "pack entry" }))?;
    let mut plain = vec![0; info.plain_len as usize];
    decoder
        .decode(info.encoding, stored, &mut plain)
        .map_err(wrong)?;
    decoder.scratch = buffer;
    if let Some(live) = info.live {
        return Ok(Opened {
            plain: live.scatter(&plain),
            live: Some(live),
        });
    }
    let found = match info.id {
        EntryId::Chunk(_) => EntryId::Chunk(names.chunk_id(&plain)),
        EntryId::Node(_) => EntryId::Node(names.node_id(&plain)),
    };
    if found != info.id {
        return Err(PackError::WrongContent {
            number: info.number,
            id: info.id,
        });
    }
    Ok(Opened { plain, live: None })
}
