//! Reading back: what was written must be what the chunks held.
//!
//! A restore remembers the hash of each MiB as it left verified chunks ([`WrittenPieces`]); reading back compares MiB by
//! MiB, so a difference is named by its place, and nothing is fetched a second time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use model::ByteRange;
use store::{DigestBuilder, ImageDigest, MIB_BYTES, MibHash, hash_mib, is_zero, zero_mib_hash};
use vhdx::ExtentKind;

use crate::backup::lock;
use crate::options::Meter;
use crate::{ImageSource, Options, VerifyError};

/// Pieces of zeros longer than this are split, so that threads share them.
const ZEROS_TOGETHER: u64 = 64 << 20;

/// A part of an image that was written together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is: within one MiB where it has data, of any length where it has none.
    pub range: ByteRange,
    /// The hash of its bytes; `None`: all zero, nothing was written.
    pub hash: Option<MibHash>,
}

/// What a restore wrote, in order: the MiBs of the image, or of the ranges that were restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPieces {
    image_bytes: u64,
    pieces: Vec<Piece>,
}

impl WrittenPieces {
    pub(crate) fn new(image_bytes: u64, pieces: Vec<Piece>) -> Self {
        Self {
            image_bytes,
            pieces,
        }
    }

    /// Takes pieces that were kept in a record; `None` where they cannot be what a restore of a whole image reported.
    #[must_use]
    pub fn from_record(image_bytes: u64, pieces: Vec<Piece>) -> Option<Self> {
        let mib = MIB_BYTES as u64;
        let mut at = 0;
        for Piece { range, hash } in &pieces {
            let end = range.offset.checked_add(range.len)?;
            let whole = range.offset.is_multiple_of(mib)
                && (end.is_multiple_of(mib) || end == image_bytes)
                && (hash.is_none() || range.len <= mib);
            if !whole || range.len == 0 || range.offset < at || end > image_bytes {
                return None;
            }
            at = end;
        }
        Some(Self::new(image_bytes, pieces))
    }

    /// Returns how many bytes of the image the pieces cover.
    #[must_use]
    pub fn covered_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.range.len).sum()
    }

    /// Returns the ranges of the image that no piece covers, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<ByteRange> {
        let (mut missing, mut at) = (Vec::new(), 0);
        let end = ByteRange {
            offset: self.image_bytes,
            len: 0,
        };
        for range in self.pieces.iter().map(|piece| piece.range).chain([end]) {
            if range.offset > at {
                missing.push(ByteRange {
                    offset: at,
                    len: range.offset - at,
                });
            }
            at = range.offset + range.len;
        }
        missing
    }

    /// Keeps the pieces that follow each other from the start of the image, and returns where they end.
    pub fn keep_front(&mut self) -> u64 {
        let mut at = 0;
        let front = self.pieces.iter().take_while(|piece| {
            let follows = piece.range.offset == at;
            at += if follows { piece.range.len } else { 0 };
            follows
        });
        let count = front.count();
        self.pieces.truncate(count);
        at
    }

    /// Joins the pieces of two restores of parts of the same image.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        let mut pieces = self.pieces;
        pieces.extend(other.pieces);
        pieces.sort_by_key(|piece| piece.range.offset);
        Self::new(self.image_bytes, pieces)
    }

    /// Returns the digest of the image, where the pieces are all of it.
    #[must_use]
    pub fn digest(&self) -> Option<ImageDigest> {
        let mut builder = DigestBuilder::new();
        let mib = MIB_BYTES as u64;
        for piece in &self.pieces {
            match piece.hash {
                Some(hash) => builder.push(hash),
                None => {
                    builder.push_zeros(piece.range.len / mib);
                    let rest = usize::try_from(piece.range.len % mib).ok()?;
                    if rest > 0 {
                        builder.push(hash_mib(&vec![0; rest]));
                    }
                }
            }
        }
        builder.finish(self.image_bytes)
    }

    /// Returns the length of the image.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Returns the pieces in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Piece] {
        &self.pieces
    }
}

/// Reads a restored disk or file back and compares it with what was written. The caller opens it anew, past any cache it
/// wants to be sure about.
pub fn verify_image(
    written: &WrittenPieces,
    read_back: &dyn ImageSource,
    options: &Options,
) -> Result<(), VerifyError> {
    if read_back.len() != written.image_bytes {
        return Err(VerifyError::WrongLength {
            expected: written.image_bytes,
            found: read_back.len(),
        });
    }
    let tasks: Vec<Piece> = written.pieces.iter().flat_map(split_zeros).collect();
    let meter = Meter::new(options, tasks.iter().map(|piece| piece.range.len).sum());
    for_each(tasks.len(), options, |buffer, place| {
        let piece = &tasks[place];
        let same = match piece.hash {
            Some(hash) => {
                options.pace(piece.range.len);
                hash_mib(read(read_back, piece.range, buffer)?) == hash
            }
            None => is_zero_range(read_back, piece.range, buffer)?,
        };
        meter.add(piece.range.len);
        if same {
            return Ok(());
        }
        Err(VerifyError::Mismatch {
            offset: piece.range.offset,
            len: piece.range.len,
        })
    })
}

/// Returns the pieces of an earlier run that `source` still holds: each is read and its hash compared. What cannot be read
/// is not held.
pub fn held_pieces(
    written: &WrittenPieces,
    source: &dyn ImageSource,
    options: &Options,
) -> Result<WrittenPieces, VerifyError> {
    let tasks: Vec<Piece> = written.pieces.iter().flat_map(split_zeros).collect();
    let held = Mutex::new(vec![false; tasks.len()]);
    for_each(tasks.len(), options, |buffer, place| {
        let Piece { range, hash } = tasks[place];
        if range.offset + range.len > source.len() {
            return Ok(());
        }
        let same = match hash {
            Some(hash) => {
                options.pace(range.len);
                read(source, range, buffer).map(|bytes| hash_mib(bytes) == hash)
            }
            None => is_zero_range(source, range, buffer),
        };
        lock(&held)[place] = same.unwrap_or(false);
        Ok(())
    })?;
    let held = lock(&held);
    let pieces = tasks.iter().zip(held.iter()).filter(|(_, held)| **held);
    let pieces = pieces.map(|(piece, _)| *piece).collect();
    Ok(WrittenPieces::new(written.image_bytes, pieces))
}

/// Reads an image whole and returns its digest.
pub fn image_digest(
    source: &dyn ImageSource,
    options: &Options,
) -> Result<ImageDigest, VerifyError> {
    let (len, mib) = (source.len(), MIB_BYTES as u64);
    let mibs = usize::try_from(len.div_ceil(mib)).unwrap_or(usize::MAX);
    let meter = Meter::new(options, len);
    let (mut builder, mut first) = (DigestBuilder::new(), 0);
    // In batches, so that hashes take little memory.
    const BATCH: usize = 4096;
    while first < mibs {
        let count = BATCH.min(mibs - first);
        let hashes = Mutex::new(vec![zero_mib_hash(); count]);
        for_each(count, options, |buffer, place| {
            let offset = (first + place) as u64 * mib;
            let range = ByteRange {
                offset,
                len: mib.min(len - offset),
            };
            if range.len < mib || !is_known_zero(source, range)? {
                options.pace(range.len);
                let hash = hash_mib(read(source, range, buffer)?);
                lock(&hashes)[place] = hash;
            }
            meter.add(range.len);
            Ok(())
        })?;
        lock(&hashes).iter().for_each(|hash| builder.push(*hash));
        first += count;
    }
    builder.finish(len).ok_or(VerifyError::WrongLength {
        expected: len,
        found: source.len(),
    })
}

/// Does `work` for each place below `count` over all threads; ends with the failure of the lowest place that failed.
fn for_each(
    count: usize,
    options: &Options,
    work: impl Fn(&mut Vec<u8>, usize) -> Result<(), VerifyError> + Sync,
) -> Result<(), VerifyError> {
    let (next, stop, failure) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        Mutex::new(None),
    );
    std::thread::scope(|scope| {
        for _ in 0..options.workers().min(count) {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let outcome = if options.cancel.is_cancelled() {
                        Err(VerifyError::Cancelled)
                    } else {
                        work(&mut buffer, place)
                    };
                    if let Err(error) = outcome {
                        stop.store(true, Ordering::Relaxed);
                        let mut failure = lock(&failure);
                        if failure.as_ref().is_none_or(|(other, _)| place < *other) {
                            *failure = Some((place, error));
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(Some((_, error))) => Err(error),
        Ok(None) | Err(_) => Ok(()),
    }
}

fn split_zeros(piece: &Piece) -> impl Iterator<Item = Piece> + use<> {
    let piece = *piece;
    let step = if piece.hash.is_some() {
        u64::MAX
    } else {
        ZEROS_TOGETHER
    };
    let parts = piece.range.len.div_ceil(step);
    (0..parts).map(move |part| {
        let start = part * step;
        let len = step.min(piece.range.len - start);
        Piece {
            range: ByteRange {
                offset: piece.range.offset + start,
                len,
            },
            hash: piece.hash,
        }
    })
}

fn read<'b>(
    source: &dyn ImageSource,
    range: ByteRange,
    buffer: &'b mut Vec<u8>,
) -> Result<&'b [u8], VerifyError> {
    let len = usize::try_from(range.len).expect("a MiB at most");
    buffer.resize(len.max(buffer.len()), 0);
    let bytes = &mut buffer[..len];
    source
        .read_at(bytes, range.offset)
        .map_err(|source| VerifyError::Read {
            offset: range.offset,
            source,
        })?;
    Ok(bytes)
}

fn is_known_zero(source: &dyn ImageSource, range: ByteRange) -> Result<bool, VerifyError> {
    let extents = source
        .extents(range.offset, range.len)
        .map_err(|source| VerifyError::Read {
            offset: range.offset,
            source,
        })?;
    let covered: u64 = extents.iter().map(|extent| extent.len).sum();
    Ok(covered == range.len && extents.iter().all(|extent| extent.kind == ExtentKind::Zero))
}

fn is_zero_range(
    source: &dyn ImageSource,
    range: ByteRange,
    buffer: &mut Vec<u8>,
) -> Result<bool, VerifyError> {
    if is_known_zero(source, range)? {
        return Ok(true);
    }
    let (mut at, end) = (range.offset, range.offset + range.len);
    while at < end {
        let part = ByteRange {
            offset: at,
            len: (MIB_BYTES as u64).min(end - at),
        };
        if !is_known_zero(source, part)? && !is_zero(read(source, part, buffer)?) {
            return Ok(false);
        }
        at += part.len;
    }
    Ok(true)
}
