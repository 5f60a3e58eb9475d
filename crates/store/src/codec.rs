//! Compression of chunks and nodes, with limits.
//!
//! zstd level 1, raw where it does not help. A cheap probe (how evenly a sample's byte values are spread) spares
//! compressed and encrypted data the attempt. What comes back has exactly the length that was authenticated, or is refused.

use zstd::zstd_safe::CParameter;

use crate::FormatError;

const WHAT: &str = "compressed data";

/// zstd's level: the ceiling of a backup's speed.
const LEVEL: i32 = 1;
/// The largest window a frame may ask for, as a power of two: 8 MiB.
const WINDOW_LOG_MAX: u8 = 23;
/// Compression must save a 32nd to be worth undoing.
const LEAST_GAIN: usize = 32;

/// How an entry's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame, without checksum and content size (the seal has both).
    Zstd,
}

/// Plain bytes made ready for sealing.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// How they are stored.
    pub encoding: Encoding,
    /// Length before compression.
    pub plain_len: usize,
    /// The bytes to be sealed.
    pub bytes: &'a [u8],
}

/// Compresses; keeps its tables and buffer between calls, so one per thread.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Encoder {
    /// Makes a compressor.
    #[must_use]
    pub fn new() -> Self {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL).expect("zstd knows level 1");
        zstd.set_parameter(CParameter::ContentSizeFlag(false))
            .expect("zstd knows its parameters");
        zstd.set_parameter(CParameter::ChecksumFlag(false))
            .expect("zstd knows its parameters");
        Self {
            zstd,
            buffer: Vec::new(),
        }
    }

    /// Compresses where that helps.
    pub fn encode<'a>(&'a mut self, plain: &'a [u8]) -> Encoded<'a> {
        let raw = Encoded {
            encoding: Encoding::Raw,
            plain_len: plain.len(),
            bytes: plain,
        };
        if plain.len() < 64 || looks_random(plain) {
            return raw;
        }
        self.buffer.clear();
        self.buffer
            .reserve(zstd::zstd_safe::compress_bound(plain.len()));
        match self.zstd.compress_to_buffer(plain, &mut self.buffer) {
            Ok(len) if len + plain.len() / LEAST_GAIN < plain.len() => Encoded {
                encoding: Encoding::Zstd,
                plain_len: plain.len(),
                bytes: &self.buffer[..len],
            },
            // A compressor that fails costs room, not data.
            Ok(_) | Err(_) => raw,
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder(..)")
    }
}

/// Opens and decompresses; keeps its tables and buffer between calls, so one per thread.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    /// Where seals are opened.
    pub(crate) scratch: Vec<u8>,
}

impl Decoder {
    /// Makes a decompressor.
    #[must_use]
    pub fn new() -> Self {
        Self {
            zstd: zstd::bulk::Decompressor::new().expect("zstd makes a context"),
            scratch: Vec::new(),
        }
    }

    /// Decompresses to exactly `plain.len()` bytes, or fails.
    pub(crate) fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        plain: &mut [u8],
    ) -> Result<(), FormatError> {
        let wrong = |why: String| FormatError::invalid(WHAT, why);
        match encoding {
            Encoding::Raw if stored.len() == plain.len() => plain.copy_from_slice(stored),
            Encoding::Raw => {
                return Err(wrong(format!(
                    "{} raw bytes where {} were said",
                    stored.len(),
                    plain.len()
                )));
            }
            Encoding::Zstd => {
                check_frame(stored)?;
                let len = self
                    .zstd
                    .decompress_to_buffer(stored, plain)
                    .map_err(|source| wrong(source.to_string()))?;
                if len != plain.len() {
                    return Err(wrong(format!(
                        "{len} bytes come out where {} were said",
                        plain.len()
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder(..)")
    }
}

/// Refuses what is no zstd frame (a skippable one included) and frames whose window is larger than we ever make.
fn check_frame(stored: &[u8]) -> Result<(), FormatError> {
    let [0x28, 0xB5, 0x2F, 0xFD, descriptor, window, ..] = *stored else {
        return Err(FormatError::invalid(WHAT, "not a zstd frame"));
    };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment && 10 + (window >> 3) > WINDOW_LOG_MAX {
        return Err(FormatError::invalid(
            WHAT,
            format!("window of 2^{} bytes", 10 + (window >> 3)),
        ));
    }
    Ok(())
}

/// Says whether byte values of a sample are spread as evenly as random bytes': 16 runs of 256 bytes over the input.
fn looks_random(plain: &[u8]) -> bool {
    const RUNS: usize = 16;
    const RUN: usize = 256;
    if plain.len() < RUNS * RUN {
        return false;
    }
    let mut counts = [0u32; 256];
    for run in plain.chunks(plain.len() / RUNS).take(RUNS) {
        for &byte in run.iter().take(RUN) {
            counts[usize::from(byte)] += 1;
        }
    }
    // Random bytes: n + n (n - 1) / 256 = 69,616 for n = 4096, with a deviation of about 360.
    counts.iter().map(|&count| count * count).sum::<u32>() < 71_500
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(b"random")
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    #[track_caller]
    fn check(plain: &[u8], expected: Encoding) {
        let mut encoder = Encoder::new();
        let encoded = encoder.encode(plain);
        assert_eq!(
            (encoded.encoding, encoded.plain_len),
            (expected, plain.len())
        );
        assert!(encoded.bytes.len() <= plain.len());
        let mut out = vec![0; plain.len()];
        Decoder::new()
            .decode(encoded.encoding, encoded.bytes, &mut out)
            .unwrap();
        assert_eq!(out, plain);
        for wrong in [plain.len().wrapping_sub(1), plain.len() + 1] {
            if wrong < 1 << 24 {
                assert!(
                    Decoder::new()
                        .decode(encoded.encoding, encoded.bytes, &mut vec![0; wrong])
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        check(b"", Encoding::Raw);
        check(b"short", Encoding::Raw);
        check(&b"the same again and again ".repeat(3000), Encoding::Zstd);
        check(&random(100_000), Encoding::Raw);
        check(&random(3000), Encoding::Raw);
        let text: Vec<u8> = random(50_000).iter().map(|byte| b'a' + byte % 16).collect();
        check(&text, Encoding::Zstd);
    }

    #[test]
    fn bombs_are_refused_before_they_go_off() {
        // 256 MiB of zeros in a few bytes, said to be 64 KiB.
        let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap();
        assert!(
            Decoder::new()
                .decode(Encoding::Zstd, &bomb, &mut vec![0; 65_536])
                .is_err()
        );
        // A window of 2^27 bytes.
        let mut wide = zstd::bulk::Compressor::new(1).unwrap();
        wide.set_parameter(CParameter::ContentSizeFlag(false))
            .unwrap();
        wide.set_parameter(CParameter::WindowLog(27)).unwrap();
        let frame = [
            &[0x28, 0xB5, 0x2F, 0xFD, 0x00, 17 << 3],
            &wide.compress(&[1; 100]).unwrap()[6..],
        ]
        .concat();
        let error = Decoder::new()
            .decode(Encoding::Zstd, &frame, &mut [0; 100])
            .unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
        let skippable = [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0, 0, 0];
        assert!(
            Decoder::new()
                .decode(Encoding::Zstd, &skippable, &mut [])
                .is_err()
        );
    }
}
