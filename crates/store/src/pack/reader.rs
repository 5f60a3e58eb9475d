//! Reading packs: whole, by the tail, entry by entry.

use std::ops::Range;

use bytes::Bytes;
use ring::aead::Aad;

use super::entry::open_entry;
use super::{EntryInfo, Opened, SealedEntry};
use crate::format::pack as layout;
use crate::{
    Decoder, FormatError, PACK_MAX_BYTES, PackError, PackId, PackKey, PackKeys, Salt, SessionKeys,
};

/// What the last bytes of a pack say: which key it needs and where its footer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackTail {
    /// Generation of the data key.
    pub generation: u32,
    /// The pack's salt.
    pub salt: Salt,
    /// Where the sealed footer lies in the pack.
    pub footer: Range<u64>,
}

impl PackTail {
    /// Bytes from the end of a pack that are read at first: enough for the footer of most packs.
    pub const GUESS_BYTES: u64 = 64 * 1024;

    /// Reads the last bytes of a pack of `pack_len` bytes. `tail` is any number of them, at least the trailer's 32.
    pub fn parse(tail: &[u8], pack_len: u64) -> Result<Self, PackError> {
        let truncated = || {
            PackError::Format(FormatError::Truncated {
                what: layout::WHAT,
                needed: layout::TRAILER_BYTES as u64,
                found: tail.len() as u64,
            })
        };
        if pack_len > PACK_MAX_BYTES {
            return Err(PackError::TooLarge {
                what: layout::WHAT,
                found: pack_len,
                limit: PACK_MAX_BYTES,
            });
        }
        let at = tail
            .len()
            .checked_sub(layout::TRAILER_BYTES)
            .ok_or_else(truncated)?;
        let trailer = layout::decode_trailer(&tail[at..]).map_err(PackError::Format)?;
        let end = pack_len
            .checked_sub(layout::TRAILER_BYTES as u64)
            .ok_or_else(truncated)?;
        let start = end
            .checked_sub(u64::from(trailer.footer_len))
            .filter(|&start| {
                start >= layout::HEADER_BYTES
                    && trailer.footer_len as usize >= layout::TAG_BYTES + 4
            })
            .ok_or_else(|| {
                PackError::Format(FormatError::invalid(
                    layout::WHAT,
                    format!("a footer of {} bytes", trailer.footer_len),
                ))
            })?;
        Ok(Self {
            generation: trailer.generation,
            salt: trailer.salt,
            footer: start..end,
        })
    }
}

/// What a pack holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFooter {
    /// Generation of the data key it is sealed under.
    pub generation: u32,
    /// Its salt.
    pub salt: Salt,
    /// Its entries in order.
    pub entries: Vec<EntryInfo>,
}

impl PackFooter {
    /// Opens the sealed footer that [`PackTail`] located.
    pub fn open(
        tail: &PackTail,
        sealed_footer: &[u8],
        keys: &dyn PackKeys,
    ) -> Result<Self, PackError> {
        let key = keys
            .pack_key(tail.generation, tail.salt)
            .map_err(PackError::Key)?;
        if sealed_footer.len() as u64 != tail.footer.end - tail.footer.start {
            return Err(PackError::Format(FormatError::Truncated {
                what: "pack footer",
                needed: tail.footer.end - tail.footer.start,
                found: sealed_footer.len() as u64,
            }));
        }
        let context = layout::footer_context(tail.generation, tail.salt, tail.footer.start);
        let mut buffer = sealed_footer.to_vec();
        let list = key
            .cipher()
            .open_in_place(layout::footer_nonce(), Aad::from(&context), &mut buffer)
            .map_err(|_| {
                PackError::Format(FormatError::NotAuthentic {
                    what: "pack footer",
                })
            })?;
        let entries = layout::decode_list(list, tail.footer.start).map_err(PackError::Format)?;
        Ok(Self {
            generation: tail.generation,
            salt: tail.salt,
            entries,
        })
    }

    /// Returns an entry by its number, with the sealed bytes that were read from its place in the pack.
    pub fn entry(&self, number: u32, sealed: Bytes) -> Option<Result<SealedEntry, PackError>> {
        let info = self.entries.get(number as usize)?;
        Some(SealedEntry::new(self.generation, self.salt, *info, sealed))
    }
}

/// A pack held whole, its footer read.
#[derive(Clone, Debug)]
pub struct PackReader {
    bytes: Bytes,
    key: PackKey,
    footer: PackFooter,
}

impl PackReader {
    /// Reads a pack whose bytes should hash to `id`.
    pub fn open(id: &PackId, bytes: Bytes, keys: &dyn PackKeys) -> Result<Self, PackError> {
        check_pack(id, &bytes)?;
        layout::check_header(&bytes).map_err(PackError::Format)?;
        let tail = PackTail::parse(&bytes, bytes.len() as u64)?;
        let range = |at: u64| usize::try_from(at).expect("the pack is in memory");
        let footer = PackFooter::open(
            &tail,
            &bytes[range(tail.footer.start)..range(tail.footer.end)],
            keys,
        )?;
        let key = keys
            .pack_key(tail.generation, tail.salt)
            .map_err(PackError::Key)?;
        Ok(Self { bytes, key, footer })
    }

    /// Returns what the pack holds.
    #[must_use]
    pub fn footer(&self) -> &PackFooter {
        &self.footer
    }

    /// Returns an entry by its number, sealed.
    #[must_use]
    pub fn sealed(&self, number: u32) -> Option<SealedEntry> {
        let info = self.footer.entries.get(number as usize)?;
        self.footer.entry(number, self.sealed_bytes(info))?.ok()
    }

    /// Opens an entry by its number and checks it against its id.
    pub fn read(
        &self,
        number: u32,
        names: &SessionKeys,
        decoder: &mut Decoder,
    ) -> Option<Result<Opened, PackError>> {
        let info = self.footer.entries.get(number as usize)?;
        Some(open_entry(
            &self.key,
            info,
            &self.sealed_bytes(info),
            names,
            decoder,
        ))
    }

    /// Opens every entry, checks it against its id and hands its plain bytes to `each`. What a server does with a pack
    /// before it acknowledges it.
    pub fn check_entries(
        &self,
        names: &SessionKeys,
        mut each: impl FnMut(&EntryInfo, &Opened) -> Result<(), PackError>,
    ) -> Result<(), PackError> {
        let mut decoder = Decoder::new();
        for info in &self.footer.entries {
            let opened = open_entry(
                &self.key,
                info,
                &self.sealed_bytes(info),
                names,
                &mut decoder,
            )?;
            each(info, &opened)?;
        }
        Ok(())
    }

    fn sealed_bytes(&self, info: &EntryInfo) -> Bytes {
        let at = |offset: u64| {
            usize::try_from(offset).expect("the footer ends where the entries do, in memory")
        };
        self.bytes.slice(at(info.offset)..at(info.end()))
    }
}

/// Checks a pack's bytes against its name: what a scrub does, without any key.
pub fn check_pack(id: &PackId, bytes: &[u8]) -> Result<(), PackError> {
    let found = PackId(*blake3::hash(bytes).as_bytes());
    if found == *id {
        Ok(())
    } else {
        Err(PackError::WrongHash {
            expected: *id,
            found,
        })
    }
}
