//! The framing of sealed messages: `multipart/encrypted`, as NTLM over plain HTTP needs it.
//!
//! ```text
//! --Encrypted Boundary                                                              lines end in CRLF
//! <TAB>Content-Type: application/HTTP-SPNEGO-session-encrypted
//! <TAB>OriginalContent: type=application/soap+xml;charset=UTF-8;Length=N            N bytes before sealing
//! --Encrypted Boundary
//! <TAB>Content-Type: application/octet-stream
//! S (4 bytes, little-endian), signature (S bytes), sealed (N bytes)--Encrypted Boundary--
//! ```
//!
//! No blank line separates headers from data, so readers of MIME fail on it. NTLM seals with a stream cipher: sealed
//! and plain length are equal, and the data ends where its length says, whatever its bytes look like.
//!
//! Invariants: what [`write()`] gives, [`read()`] returns; nothing is allocated from a length that was not checked.
//! Not here: keys, sealing and unsealing. CredSSP's `multipart/x-multi-encrypted` is refused by name.

use crate::limits;

/// The `Content-Type` of a sealed message.
pub const CONTENT_TYPE: &str = "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";

const PROTOCOL: &str = "application/HTTP-SPNEGO-session-encrypted";
const BOUNDARY: &str = "Encrypted Boundary";
/// Longest signature; NTLM's has 16 bytes.
const MAX_SIGNATURE_BYTES: usize = 1024;
/// Longest line of a part's header.
const MAX_LINE_BYTES: usize = 1024;
/// Most lines of a part's header.
const MAX_HEADER_LINES: usize = 16;
/// Most parts of a message.
const MAX_PARTS: usize = 1024;

/// One sealed piece of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The signature of the piece.
    pub signature: &'a [u8],
    /// The sealed bytes; as many as the plain ones.
    pub sealed: &'a [u8],
}

/// A sealed message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Sealed in a way this program does not know.
    #[error(
        "the message is sealed as {found}; only {PROTOCOL} in multipart/encrypted (NTLM through Negotiate) is known"
    )]
    Protocol {
        /// What its header says.
        found: String,
    },
    /// The framing is broken.
    #[error("the sealed message is broken at byte {at}: {what}")]
    Framing {
        /// Byte of the body.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// Larger than [`limits::ENVELOPE_BYTES`].
    #[error(
        "the sealed message holds {bytes} bytes; the limit is {}",
        limits::ENVELOPE_BYTES
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Tells whether a `Content-Type` is that of a sealed message, of whatever protocol.
#[must_use]
pub fn is_sealed(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("multipart/encrypted")
        || kind.eq_ignore_ascii_case("multipart/x-multi-encrypted")
}

/// Writes a sealed message of one piece.
#[must_use]
pub fn write(piece: Sealed<'_>) -> Vec<u8> {
    let Sealed { signature, sealed } = piece;
    let head = format!(
        "--{BOUNDARY}\r\n\tContent-Type: {PROTOCOL}\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;\
         Length={}\r\n--{BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n",
        sealed.len()
    );
    let tail = format!("--{BOUNDARY}--\r\n");
    let signature_bytes = u32::try_from(signature.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(head.len() + 4 + signature.len() + sealed.len() + tail.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&signature_bytes.to_le_bytes());
    out.extend_from_slice(signature);
    out.extend_from_slice(sealed);
    out.extend_from_slice(tail.as_bytes());
    out
}

/// Reads the pieces of a sealed message; there is at least one, and their plain bytes joined are the envelope.
///
/// `content_type` is the HTTP header. Taken as well: another boundary, blanks after the dashes (Exchange), a line's end
/// before a boundary, no line's end after the last one, several pieces.
pub fn read<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Sealed<'a>>, SealedError> {
    let boundary = boundary(content_type)?;
    let mut reader = Reader { body, at: 0 };
    let mut pieces = Vec::new();
    let mut total = 0_usize;
    reader.boundary(&boundary)?;
    loop {
        let length = reader.head()?;
        total = total.saturating_add(length);
        if total > limits::ENVELOPE_BYTES {
            return Err(SealedError::TooLarge { bytes: total });
        }
        reader.boundary(&boundary)?;
        reader.octet_stream()?;
        pieces.push(reader.data(length)?);
        reader.skip_line_end();
        if reader.at_end(&boundary)? {
            return Ok(pieces);
        }
        if pieces.len() >= MAX_PARTS {
            return Err(reader.broken("fewer parts"));
        }
        reader.boundary(&boundary)?;
    }
}

/// Returns the boundary a `Content-Type` names, where the protocol is the one we know.
fn boundary(content_type: &str) -> Result<String, SealedError> {
    let unknown = || SealedError::Protocol {
        found: content_type.chars().take(200).collect(),
    };
    let mut fields = content_type.split(';').map(str::trim);
    let kind = fields.next().unwrap_or_default();
    if !kind.eq_ignore_ascii_case("multipart/encrypted") {
        return Err(unknown());
    }
    let (mut protocol, mut boundary) = (None, None);
    for field in fields {
        let Some((name, value)) = field.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches(['"', '\'']);
        if name.trim().eq_ignore_ascii_case("protocol") {
            protocol = Some(value);
        } else if name.trim().eq_ignore_ascii_case("boundary") {
            boundary = Some(value);
        }
    }
    if !protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(unknown());
    }
    Ok(boundary
        .filter(|boundary| !boundary.is_empty())
        .unwrap_or(BOUNDARY)
        .to_owned())
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.body.get(self.at..).unwrap_or_default()
    }

    fn broken(&self, what: &'static str) -> SealedError {
        SealedError::Framing { at: self.at, what }
    }

    /// Reads `--boundary`, without what follows.
    fn dashes(&mut self, boundary: &str) -> Result<(), SealedError> {
        let rest = self.rest();
        let after = rest.strip_prefix(b"--").map(|rest| {
            let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
            &rest[blanks..]
        });
        let Some(after) = after.and_then(|after| after.strip_prefix(boundary.as_bytes())) else {
            return Err(self.broken("a boundary"));
        };
        self.at = self.body.len() - after.len();
        Ok(())
    }

    fn boundary(&mut self, boundary: &str) -> Result<(), SealedError> {
        self.dashes(boundary)?;
        self.line_end()
    }

    /// Whether the last boundary comes next; it is read then, and nothing may follow it.
    fn at_end(&mut self, boundary: &str) -> Result<bool, SealedError> {
        let start = self.at;
        self.dashes(boundary)?;
        if !self.rest().starts_with(b"--") {
            self.at = start;
            return Ok(false);
        }
        self.at += 2;
        self.skip_line_end();
        if self.rest().is_empty() {
            Ok(true)
        } else {
            Err(self.broken("the end after the last boundary"))
        }
    }

    fn line_end(&mut self) -> Result<(), SealedError> {
        if self.rest().starts_with(b"\r\n") {
            self.at += 2;
            Ok(())
        } else {
            Err(self.broken("the end of a line"))
        }
    }

    fn skip_line_end(&mut self) {
        if self.rest().starts_with(b"\r\n") {
            self.at += 2;
        }
    }

    /// Reads a header line as name and value.
    fn header(&mut self) -> Result<(&'a str, &'a str), SealedError> {
        let line = self.rest();
        let line = &line[..line.len().min(MAX_LINE_BYTES)];
        let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
            return Err(self.broken("a header line"));
        };
        let pair = std::str::from_utf8(&line[..end])
            .ok()
            .and_then(|line| line.split_once(':'));
        let Some((name, value)) = pair else {
            return Err(self.broken("a header line"));
        };
        self.at += end + 2;
        Ok((name.trim(), value.trim()))
    }

    /// Reads the headers of a first part and returns the plain length.
    fn head(&mut self) -> Result<usize, SealedError> {
        let mut length = None;
        let mut protocol = None;
        for _ in 0..MAX_HEADER_LINES {
            if self.rest().starts_with(b"--") {
                break;
            }
            let (name, value) = self.header()?;
            if name.eq_ignore_ascii_case("Content-Type") {
                protocol = Some(value);
            } else if name.eq_ignore_ascii_case("OriginalContent") {
                length = value
                    .split(';')
                    .filter_map(|field| field.split_once('='))
                    .find(|(name, _)| name.trim().eq_ignore_ascii_case("Length"))
                    .and_then(|(_, text)| text.trim().parse().ok());
            }
        }
        if let Some(found) = protocol.filter(|found| !found.eq_ignore_ascii_case(PROTOCOL)) {
            return Err(SealedError::Protocol {
                found: found.to_owned(),
            });
        }
        length.ok_or_else(|| self.broken("OriginalContent with a Length before it"))
    }

    /// Reads the header of a second part: exactly one line, as data follows at once.
    fn octet_stream(&mut self) -> Result<(), SealedError> {
        let start = self.at;
        let (name, value) = self.header()?;
        if name.eq_ignore_ascii_case("Content-Type")
            && value.eq_ignore_ascii_case("application/octet-stream")
        {
            return Ok(());
        }
        self.at = start;
        Err(self.broken("Content-Type: application/octet-stream"))
    }

    fn data(&mut self, length: usize) -> Result<Sealed<'a>, SealedError> {
        let Some((count, rest)) = self.rest().split_first_chunk::<4>() else {
            return Err(self.broken("the length of a signature"));
        };
        let signature_bytes = usize::try_from(u32::from_le_bytes(*count))
            .ok()
            .filter(|bytes| *bytes <= MAX_SIGNATURE_BYTES)
            .ok_or_else(|| self.broken("the length of a signature"))?;
        let Some((signature, rest)) = rest.split_at_checked(signature_bytes) else {
            return Err(self.broken("a whole signature"));
        };
        let Some((sealed, rest)) = rest.split_at_checked(length) else {
            return Err(self.broken("as many sealed bytes as the header says"));
        };
        self.at = self.body.len() - rest.len();
        Ok(Sealed { signature, sealed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECE: Sealed<'static> = Sealed {
        signature: b"0123456789abcdef",
        sealed: b"<sealed/>",
    };

    /// To the byte what the page says.
    fn by_hand() -> Vec<u8> {
        let mut out = b"--Encrypted Boundary\r\n\
            \tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\
            \tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=9\r\n\
            --Encrypted Boundary\r\n\
            \tContent-Type: application/octet-stream\r\n\
            \x10\x00\x00\x000123456789abcdef"
            .to_vec();
        out.extend_from_slice(b"<sealed/>--Encrypted Boundary--\r\n");
        out
    }

    fn replaced(what: &str, with: &str) -> Vec<u8> {
        let text = String::from_utf8(by_hand()).unwrap();
        assert!(text.contains(what), "{what}");
        text.replace(what, with).into_bytes()
    }

    #[test]
    fn writes_the_bytes_of_the_page() {
        assert_eq!(write(PIECE), by_hand());
        assert!(is_sealed(CONTENT_TYPE));
        assert!(!is_sealed("application/soap+xml;charset=UTF-8"));
    }

    #[test]
    fn reads_what_peers_write() {
        for body in [
            by_hand(),
            replaced("\t", ""),
            replaced("--Encrypted Boundary--\r\n", "--Encrypted Boundary--"),
            replaced(
                "--Encrypted Boundary--\r\n",
                "\r\n--Encrypted Boundary--\r\n",
            ),
            replaced("--Encrypted", "-- Encrypted"),
            replaced("OriginalContent", "originalcontent"),
            replaced("UTF-8;Length", "utf-8; length"),
        ] {
            assert_eq!(read(CONTENT_TYPE, &body), Ok(vec![PIECE]));
        }
        let other = CONTENT_TYPE.replace("\"Encrypted Boundary\"", "b1");
        let body = replaced("Encrypted Boundary", "b1");
        assert_eq!(read(&other, &body), Ok(vec![PIECE]));
    }

    #[test]
    fn reads_a_message_of_several_pieces() {
        let one = replaced("--Encrypted Boundary--\r\n", "");
        let body = [one.clone(), one, b"--Encrypted Boundary--\r\n".to_vec()].concat();
        assert_eq!(read(CONTENT_TYPE, &body), Ok(vec![PIECE, PIECE]));
    }

    #[test]
    fn refuses_other_protocols_by_name() {
        for (from, to) in [
            ("multipart/encrypted", "multipart/x-multi-encrypted"),
            ("HTTP-SPNEGO", "HTTP-CredSSP"),
            ("HTTP-SPNEGO", "HTTP-Kerberos"),
        ] {
            let error = read(&CONTENT_TYPE.replace(from, to), &by_hand()).unwrap_err();
            assert!(error.to_string().contains(to), "{error}");
        }
        let error = read(CONTENT_TYPE, &replaced("SPNEGO", "CredSSP")).unwrap_err();
        assert!(error.to_string().contains("CredSSP"), "{error}");
    }

    #[test]
    fn refuses_lengths_that_lie() {
        for (from, to) in [
            ("Length=9", "Length=8"),
            ("Length=9", "Length=10"),
            ("Length=9", "Length=-1"),
            ("Length=9", "Length=99999999999999999999999"),
            ("Length=9", "Length=16777217"),
            ("\u{10}\0\0\0", "\u{7f}\u{7f}\u{7f}\u{7f}"),
        ] {
            assert!(read(CONTENT_TYPE, &replaced(from, to)).is_err(), "{to}");
        }
        let body = [by_hand(), b"more".to_vec()].concat();
        assert!(read(CONTENT_TYPE, &body).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(
            signature in prop::collection::vec(any::<u8>(), 0..40),
            sealed in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let piece = Sealed { signature: &signature, sealed: &sealed };
            let body = write(piece);
            prop_assert_eq!(read(CONTENT_TYPE, &body), Ok(vec![piece]));
            // The line's end after the last boundary is the only thing that may be missing.
            let cut = cut.index(body.len() - 2);
            prop_assert!(read(CONTENT_TYPE, &body[..cut]).is_err());
        }

        #[test]
        fn no_bytes_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), header in ".{0,80}") {
            let mut body = by_hand();
            let at = at.index(body.len());
            body[at] = byte;
            let _ = read(CONTENT_TYPE, &body);
            let _ = read(&header, &body);
            let _ = read(CONTENT_TYPE, header.as_bytes());
        }
    }
}
