//! Layout of a pack, version 1.
//!
//! ```text
//! header     16  magic "REPRPACK", version u32, zero u32
//! entries        each: sealed bytes (AES-256-GCM), tag of 16 bytes; one behind the other, in the order of their numbers
//! footer         sealed list of the entries, tag of 16 bytes
//! trailer    32  salt [16], generation u32, length of the sealed footer with its tag u32, magic "REPREND1"
//! ```
//!
//! A record of the footer's list, 52 bytes: kind u8 (1 chunk, 2 node, 3 partial chunk), encoding u8 (0 raw, 1 zstd;
//! 2 is kept for lz4), zero u16, plain length u32, stored length u32 (without tag), live cells u64, id \[32\].
//! The list opens with the number of records, u32. Offsets are not written: they follow from the stored lengths.
//!
//! A *partial chunk* has the id of a whole one and only those of its cells whose bit is set in `live cells` (bit 0 is the
//! first), one behind the other. For other kinds `live cells` is zero.
//!
//! Key: HKDF-SHA256(data key of the generation, salt, "reprise pack key v1"). Nonce of an entry: its number, u32, then
//! eight zero bytes; of the footer: twelve bytes 0xFF. Associated data of an entry: "reprise entry 1", generation u32,
//! salt, number u32, record. Of the footer: "reprise footer 1", generation u32, salt, offset of the footer u64.

use std::num::NonZeroU64;

use ring::aead::{NONCE_LEN, Nonce};

use super::Cursor;
use crate::pack::{EntryInfo, LiveCells};
use crate::{
    CELL_BYTES, CHUNK_MAX_BYTES, ChunkId, Encoding, EntryId, FormatError, NODE_MAX_BYTES, NodeId,
    PACK_MAX_BYTES, Salt,
};

pub(crate) const WHAT: &str = "pack";

/// Magic bytes of a pack.
pub const MAGIC: [u8; 8] = *b"REPRPACK";
/// Last bytes of a pack.
pub const END_MAGIC: [u8; 8] = *b"REPREND1";
/// Bytes before the first entry.
pub const HEADER_BYTES: u64 = 16;
/// Bytes behind the footer.
pub const TRAILER_BYTES: usize = 32;
/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a record of the footer.
pub const RECORD_BYTES: usize = 52;
/// The most entries of a pack.
pub const MAX_ENTRIES: usize = 65_536;

/// Returns the header.
#[must_use]
pub(crate) fn header() -> [u8; 16] {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = 1;
    header
}

pub(crate) fn check_header(bytes: &[u8]) -> Result<(), FormatError> {
    let mut cursor = Cursor::new(WHAT, bytes);
    cursor.opening(MAGIC)?;
    match cursor.u32()? {
        0 => Ok(()),
        _ => Err(cursor.invalid("reserved bytes of the header are set")),
    }
}

/// What the last bytes of a pack say.
pub(crate) struct Trailer {
    pub(crate) salt: Salt,
    pub(crate) generation: u32,
    pub(crate) footer_len: u32,
}

pub(crate) fn encode_trailer(trailer: &Trailer) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..16].copy_from_slice(&trailer.salt.0);
    bytes[16..20].copy_from_slice(&trailer.generation.to_le_bytes());
    bytes[20..24].copy_from_slice(&trailer.footer_len.to_le_bytes());
    bytes[24..].copy_from_slice(&END_MAGIC);
    bytes
}

pub(crate) fn decode_trailer(bytes: &[u8]) -> Result<Trailer, FormatError> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let (salt, generation, footer_len) = (Salt(cursor.array()?), cursor.u32()?, cursor.u32()?);
    if cursor.take(8)? != END_MAGIC {
        return Err(FormatError::WrongMagic { what: "pack's end" });
    }
    cursor.end()?;
    Ok(Trailer {
        salt,
        generation,
        footer_len,
    })
}

pub(crate) fn encode_record(entry: &EntryInfo) -> [u8; RECORD_BYTES] {
    let kind = match (&entry.id, &entry.live) {
        (EntryId::Chunk(_), None) => 1u8,
        (EntryId::Node(_), _) => 2,
        (EntryId::Chunk(_), Some(_)) => 3,
    };
    let mut record = [0; RECORD_BYTES];
    record[0] = kind;
    record[1] = match entry.encoding {
        Encoding::Raw => 0,
        Encoding::Zstd => 1,
    };
    record[4..8].copy_from_slice(&entry.plain_len.to_le_bytes());
    record[8..12].copy_from_slice(&entry.stored_len.to_le_bytes());
    record[12..20].copy_from_slice(&entry.live.map_or(0, |live| live.bits().get()).to_le_bytes());
    record[20..].copy_from_slice(entry.id.as_bytes());
    record
}

/// Reads a record; the limits of its lengths are checked here, before anything is allocated by them.
pub(crate) fn decode_record(
    bytes: &[u8],
    number: u32,
    offset: u64,
) -> Result<EntryInfo, FormatError> {
    const WHAT: &str = "pack entry";
    let mut cursor = Cursor::new(WHAT, bytes);
    let (kind, encoding, reserved) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
    let (plain_len, stored_len, live_bits) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
    let id = cursor.array()?;
    if reserved != 0 {
        return Err(cursor.invalid("reserved bytes are set"));
    }
    let encoding = match encoding {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        other => return Err(cursor.invalid(format!("unknown encoding {other}"))),
    };
    let (id, live, limit) = match kind {
        1 => (EntryId::Chunk(ChunkId(id)), None, CHUNK_MAX_BYTES),
        2 => (EntryId::Node(NodeId(id)), None, NODE_MAX_BYTES),
        3 => {
            let Some(bits) = NonZeroU64::new(live_bits) else {
                return Err(cursor.invalid("a partial chunk without live cells"));
            };
            if plain_len as usize != bits.count_ones().get() as usize * CELL_BYTES {
                return Err(cursor.invalid("length of a partial chunk differs from its live cells"));
            }
            (
                EntryId::Chunk(ChunkId(id)),
                Some(LiveCells::new(bits)),
                CHUNK_MAX_BYTES,
            )
        }
        other => return Err(cursor.invalid(format!("unknown kind {other}"))),
    };
    if live.is_none() && live_bits != 0 {
        return Err(cursor.invalid("live cells of an entry that is no partial chunk"));
    }
    if plain_len as usize > limit {
        return Err(cursor.invalid(format!("plain length {plain_len} is more than {limit}")));
    }
    let length_fits = match encoding {
        Encoding::Raw => stored_len == plain_len,
        Encoding::Zstd => stored_len < plain_len,
    };
    if !length_fits {
        return Err(cursor.invalid(format!(
            "stored length {stored_len} does not fit plain length {plain_len}"
        )));
    }
    cursor.end()?;
    Ok(EntryInfo {
        number,
        id,
        live,
        encoding,
        plain_len,
        stored_len,
        offset,
    })
}

pub(crate) fn encode_list(entries: &[EntryInfo]) -> Vec<u8> {
    let count = u32::try_from(entries.len()).expect("a pack holds at most MAX_ENTRIES entries");
    let mut list = Vec::with_capacity(4 + entries.len() * RECORD_BYTES + TAG_BYTES);
    list.extend_from_slice(&count.to_le_bytes());
    for entry in entries {
        list.extend_from_slice(&encode_record(entry));
    }
    list
}

/// Reads the list of a pack whose entries end at `entries_end`.
pub(crate) fn decode_list(bytes: &[u8], entries_end: u64) -> Result<Vec<EntryInfo>, FormatError> {
    let mut cursor = Cursor::new("pack footer", bytes);
    let count = cursor.u32()?;
    if count as usize > MAX_ENTRIES || cursor.left() != count as usize * RECORD_BYTES {
        return Err(cursor.invalid(format!("{count} entries in {} bytes", cursor.left())));
    }
    let mut entries = Vec::with_capacity(count as usize);
    let mut offset = HEADER_BYTES;
    for number in 0..count {
        let entry = decode_record(cursor.take(RECORD_BYTES)?, number, offset)?;
        offset = entry.end();
        entries.push(entry);
    }
    if offset != entries_end || offset > PACK_MAX_BYTES {
        return Err(cursor.invalid(format!(
            "entries end at {offset}, the footer begins at {entries_end}"
        )));
    }
    Ok(entries)
}

/// Returns the nonce of an entry.
pub(crate) fn entry_nonce(number: u32) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Returns the nonce of the footer.
pub(crate) fn footer_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0xFF; NONCE_LEN])
}

pub(crate) fn entry_context(generation: u32, salt: Salt, entry: &EntryInfo) -> Vec<u8> {
    let mut context = Vec::with_capacity(96);
    context.extend_from_slice(b"reprise entry 1");
    context.extend_from_slice(&generation.to_le_bytes());
    context.extend_from_slice(&salt.0);
    context.extend_from_slice(&entry.number.to_le_bytes());
    context.extend_from_slice(&encode_record(entry));
    context
}

pub(crate) fn footer_context(generation: u32, salt: Salt, footer_offset: u64) -> Vec<u8> {
    let mut context = Vec::with_capacity(48);
    context.extend_from_slice(b"reprise footer 1");
    context.extend_from_slice(&generation.to_le_bytes());
    context.extend_from_slice(&salt.0);
    context.extend_from_slice(&footer_offset.to_le_bytes());
    context
}
