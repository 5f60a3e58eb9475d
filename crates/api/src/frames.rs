//! Framing of binary streams between server and agent.
//!
//! A frame: tag (`u8`), length of the payload (`u32`, little-endian), payload. A stream ends with [`Tag::End`];
//! one that ends otherwise was cut. What a payload holds is the business of `store`.

/// Largest payload of a frame, in bytes: a tree node or a sealed chunk with its header.
pub const MAX_PAYLOAD: usize = 9 << 20;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Salt and key of a pack that later frames come from ([`PackKeyBytes`]).
    Seal,
    /// A sealed chunk or node (`store::SealedEntry` bytes).
    Entry,
    /// Plain bytes of a tree node, after its id (32 bytes).
    Node,
    /// Hashes of some cells of a chunk, after its id ([`crate::cells`]).
    Cells,
    /// Why the stream stops here: a JSON [`crate::Problem`].
    Problem,
    /// The stream is complete.
    End,
}

impl Tag {
    fn byte(self) -> u8 {
        match self {
            Tag::Seal => 1,
            Tag::Entry => 2,
            Tag::Node => 3,
            Tag::Problem => 4,
            Tag::End => 5,
            Tag::Cells => 6,
        }
    }
}

/// A pack's key as it crosses the wire: payload of [`Tag::Seal`], and in hexadecimal an entry of
/// [`crate::agent_v1::SealsReply`]. Generation (`u32`, little-endian), salt (16 bytes), key (32 bytes).
#[derive(Clone, PartialEq, Eq)]
pub struct PackKeyBytes {
    /// Generation of the data key it comes from.
    pub generation: u32,
    /// The pack's salt.
    pub salt: [u8; 16],
    /// The pack's key.
    pub key: [u8; 32],
}

impl PackKeyBytes {
    /// Bytes on the wire.
    pub const LEN: usize = 52;

    /// Returns the bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4..20].copy_from_slice(&self.salt);
        bytes[20..].copy_from_slice(&self.key);
        bytes
    }

    /// Reads the bytes from the wire; `None` where their number is wrong.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, rest) = bytes.split_first_chunk::<4>()?;
        let (salt, key) = rest.split_first_chunk::<16>()?;
        Some(Self {
            generation: u32::from_le_bytes(*generation),
            salt: *salt,
            key: key.try_into().ok()?,
        })
    }
}

impl std::fmt::Debug for PackKeyBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PackKeyBytes(generation {}, key hidden)",
            self.generation
        )
    }
}

/// A stream that does not follow the framing.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Unknown tag.
    #[error("unknown frame tag {0}")]
    Tag(u8),
    /// Payload over [`MAX_PAYLOAD`].
    #[error("frame of {0} bytes is larger than the limit of {MAX_PAYLOAD}")]
    TooLarge(usize),
}

/// A frame at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub tag: Tag,
    /// Its content.
    pub payload: &'a [u8],
    /// Bytes it takes in the buffer, header included.
    pub bytes: usize,
}

/// Appends a frame to `out`.
pub fn write(out: &mut Vec<u8>, tag: Tag, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("payloads are bounded by MAX_PAYLOAD");
    out.push(tag.byte());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Returns the frame at the front of `buffer`; `None` where it is not complete yet.
pub fn split(buffer: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((&tag, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let tag = match tag {
        1 => Tag::Seal,
        2 => Tag::Entry,
        3 => Tag::Node,
        4 => Tag::Problem,
        5 => Tag::End,
        6 => Tag::Cells,
        other => return Err(FrameError::Tag(other)),
    };
    let Some((len, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len =
        usize::try_from(u32::from_le_bytes(*len)).map_err(|_| FrameError::TooLarge(usize::MAX))?;
    if len > MAX_PAYLOAD {
        return Err(FrameError::TooLarge(len));
    }
    Ok(rest.get(..len).map(|payload| Frame {
        tag,
        payload,
        bytes: HEADER_BYTES + len,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_at_any_cut() {
        let mut stream = Vec::new();
        write(&mut stream, Tag::Entry, b"sealed");
        write(&mut stream, Tag::End, b"");
        for cut in 0..11 {
            assert!(split(&stream[..cut]).unwrap().is_none(), "{cut}");
        }
        let frame = split(&stream).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                tag: Tag::Entry,
                payload: b"sealed",
                bytes: 11
            }
        );
        assert_eq!(split(&stream[11..]).unwrap().unwrap().tag, Tag::End);
    }

    #[test]
    fn pack_keys_are_read_back() {
        let key = PackKeyBytes {
            generation: 3,
            salt: [7; 16],
            key: [9; 32],
        };
        assert_eq!(PackKeyBytes::decode(&key.encode()), Some(key));
        for len in [0, 51, 53] {
            assert_eq!(PackKeyBytes::decode(&vec![0; len]), None);
        }
    }

    #[test]
    fn lying_lengths_and_unknown_tags_are_refused() {
        assert!(split(&[9, 0, 0, 0, 0]).is_err());
        assert!(split(&[2, 255, 255, 255, 255]).is_err());
    }
}
