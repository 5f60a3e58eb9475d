//! One thread's way from ranges of a source to sealed chunks.
//!
//! Ranges are read into one buffer, cut there, and their chunks named, looked up, compressed and sealed in batches of a few
//! MiB. What is left of a run at the end of the buffer moves to its front.
//!
//! Two ways to cut: by content (all of a region, and runs of 64 KiB and more), or joined: shorter changed runs of a region
//! share chunks of up to 64 KiB, in the order of the disk.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use model::ByteRange;
use store::{
    CELL_BYTES, CHUNK_MAX_BYTES, ChunkId, ChunkRef, Cutter, Encoded, Encoder, Encoding, MIB_BYTES,
    MibHash, REGION_BYTES, RegionCut, Run, RunSource, SessionKeys, hash_mib, is_zero,
    zero_mib_hash,
};
use vhdx::ExtentKind;

use super::BackupSession;
use super::packer::Packer;
use crate::{BackupError, ImageSource, Options};

/// Bytes that are read and handled together.
pub(super) const PIECE_BYTES: u64 = 4 << 20;
/// A changed run of this many cells or more is cut by content; shorter ones are joined to chunks of so many.
const JOIN_CELLS: u16 = 16;

/// What all threads of an image count.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) read: AtomicU64,
    pub(super) new: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) chunks: AtomicU64,
    pub(super) chunks_new: AtomicU64,
    pub(super) nodes: AtomicU64,
}

/// A run of cells of a region, and where it is going to be.
#[derive(Clone, Copy)]
struct Item {
    region: u64,
    at: u16,
    cells: u16,
    /// The chunk's place in `chunks` and the first cell in it; `None`: a hole.
    chunk: Option<(usize, u16)>,
}

enum Place {
    Buffer(Range<usize>),
    Joined(Range<usize>),
}

pub(super) struct Worker<'a> {
    source: &'a dyn ImageSource,
    names: &'a SessionKeys,
    packer: &'a Packer,
    counters: &'a Counters,
    options: &'a Options,
    cutter: Cutter,
    encoder: Encoder,

    region: u64,
    /// The cell of the region at which `buffer[cut_at..]` lies.
    cell: u16,
    buffer: Vec<u8>,
    filled: usize,
    cut_at: usize,
    /// Whether the run at `cut_at` is cut by content.
    by_content: bool,

    /// The open joined chunk.
    join: Vec<u8>,
    join_chunk: Option<usize>,
    /// Closed joined chunks of this batch.
    joined: Vec<u8>,

    /// Chunks of this batch, not named yet.
    batch: Vec<(usize, Place)>,
    chunks: Vec<Option<ChunkRef>>,
    items: Vec<Item>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        source: &'a dyn ImageSource,
        session: &'a BackupSession,
        counters: &'a Counters,
    ) -> Self {
        let BackupSession {
            packer,
            names,
            options,
        } = session;
        let capacity = usize::try_from(PIECE_BYTES).expect("4 MiB") + CHUNK_MAX_BYTES;
        Self {
            source,
            names,
            packer,
            counters,
            options,
            cutter: names.cutter(),
            encoder: Encoder::new(),
            region: 0,
            cell: 0,
            buffer: vec![0; capacity],
            filled: 0,
            cut_at: 0,
            by_content: true,
            join: Vec::new(),
            join_chunk: None,
            joined: Vec::new(),
            batch: Vec::new(),
            chunks: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Reads a range of a region (from a cell on, to a cell's or the image's end) and cuts it. `hashes` gets the hash of
    /// each MiB; then the range must begin with one. `done` hears of bytes as they are read.
    pub(super) fn read_range(
        &mut self,
        range: ByteRange,
        join: bool,
        mut hashes: Option<&mut Vec<Option<MibHash>>>,
        done: impl Fn(u64),
    ) -> Result<(), BackupError> {
        self.region = range.offset / REGION_BYTES;
        self.cell = u16::try_from(range.offset % REGION_BYTES / CELL_BYTES as u64)
            .expect("a cell of a region");
        self.by_content = !join;
        let end = range.offset + range.len;
        let mut at = range.offset;
        while at < end {
            let len = PIECE_BYTES.min(end - at);
            let bytes = usize::try_from(len).expect("4 MiB");
            if self.buffer.len() - self.filled < bytes.next_multiple_of(CELL_BYTES)
                || hashes.is_some()
            {
                self.flush()?;
            }
            if self.read_piece(at, bytes)? {
                if let Some(hashes) = &mut hashes {
                    let piece = &self.buffer[self.filled..self.filled + bytes];
                    hashes.extend(piece.chunks(MIB_BYTES).map(|mib| Some(hash_mib(mib))));
                }
                self.filled += bytes.next_multiple_of(CELL_BYTES);
                self.cut(join, at + len == end);
            } else {
                if let Some(hashes) = &mut hashes {
                    hashes.extend(zero_hashes(len));
                }
                self.cut(join, true);
                self.push_hole(bytes.div_ceil(CELL_BYTES));
                self.by_content = !join;
            }
            at += len;
            done(len);
        }
        Ok(())
    }

    /// Closes the joined chunk of the region, so that the next one is another region's.
    pub(super) fn end_region(&mut self) {
        let Some(chunk) = self.join_chunk.take() else {
            return;
        };
        let start = self.joined.len();
        self.joined.append(&mut self.join);
        self.batch
            .push((chunk, Place::Joined(start..self.joined.len())));
    }

    /// Seals what is left and returns the runs of each region, with their first cells, in order.
    pub(super) fn take_runs(&mut self) -> Result<Vec<(u64, u16, Run)>, BackupError> {
        self.end_region();
        self.flush()?;
        let mut runs = Vec::with_capacity(self.items.len());
        for item in self.items.drain(..) {
            let source = match item.chunk {
                None => RunSource::Hole,
                Some((place, at)) => RunSource::Chunk {
                    chunk: self.chunks[place].expect("a flush names all chunks"),
                    at,
                },
            };
            runs.push((
                item.region,
                item.at,
                Run {
                    cells: item.cells,
                    source,
                },
            ));
        }
        self.chunks.clear();
        Ok(runs)
    }

    /// Reads a piece behind what is filled, the last cell padded with zeros; `false` where it is known to be zero and
    /// nothing was read.
    fn read_piece(&mut self, offset: u64, bytes: usize) -> Result<bool, BackupError> {
        let failed = |offset: u64| move |source| BackupError::Read { offset, source };
        let extents = self
            .source
            .extents(offset, bytes as u64)
            .map_err(failed(offset))?;
        if extents.iter().all(|extent| extent.kind == ExtentKind::Zero) {
            return Ok(false);
        }
        let piece = &mut self.buffer[self.filled..self.filled + bytes.next_multiple_of(CELL_BYTES)];
        let mut at = 0;
        for extent in &extents {
            let len = usize::try_from(extent.len)
                .unwrap_or(usize::MAX)
                .min(bytes - at);
            let part = &mut piece[at..at + len];
            match extent.kind {
                ExtentKind::Zero => part.fill(0),
                ExtentKind::Data => {
                    self.options.pace(len as u64);
                    self.source
                        .read_at(part, extent.offset)
                        .map_err(failed(extent.offset))?;
                    self.counters.read.fetch_add(len as u64, Ordering::Relaxed);
                }
            }
            at += len;
        }
        if at < bytes {
            let source = format!("the source names {at} of {bytes} bytes").into();
            return Err(BackupError::Read { offset, source });
        }
        piece[bytes..].fill(0);
        Ok(true)
    }

    /// Cuts what is filled; a run that may go on is left unless `is_end`.
    fn cut(&mut self, join: bool, is_end: bool) {
        while self.cut_at < self.filled {
            let rest = &self.buffer[self.cut_at..self.filled];
            let zeros = rest
                .chunks_exact(CELL_BYTES)
                .take_while(|cell| is_zero(cell))
                .count();
            if zeros > 0 {
                self.cut_at += zeros * CELL_BYTES;
                self.push_hole(zeros);
                self.by_content = !join;
                continue;
            }
            if !self.by_content {
                let run = rest
                    .chunks_exact(CELL_BYTES)
                    .take(JOIN_CELLS.into())
                    .take_while(|cell| !is_zero(cell))
                    .count();
                if run == usize::from(JOIN_CELLS) {
                    self.by_content = true;
                } else if run * CELL_BYTES == rest.len() && !is_end {
                    return;
                } else {
                    self.push_joined(run);
                    continue;
                }
            }
            match self
                .cutter
                .next(&self.buffer[self.cut_at..self.filled], is_end)
            {
                Some(RegionCut::Chunk { cells }) => {
                    let end = self.cut_at + usize::from(cells) * CELL_BYTES;
                    let chunk = self.new_chunk();
                    self.batch.push((chunk, Place::Buffer(self.cut_at..end)));
                    self.push_item(cells, Some((chunk, 0)));
                    self.cut_at = end;
                }
                Some(RegionCut::Hole { cells }) => {
                    self.cut_at += usize::from(cells) * CELL_BYTES;
                    self.push_hole(cells.into());
                }
                None => return,
            }
        }
    }

    fn push_joined(&mut self, cells: usize) {
        let bytes = cells * CELL_BYTES;
        if self.join.len() + bytes > usize::from(JOIN_CELLS) * CELL_BYTES {
            self.end_region();
        }
        let chunk = match self.join_chunk {
            Some(chunk) => chunk,
            None => self.new_chunk(),
        };
        self.join_chunk = Some(chunk);
        let at = cells16(self.join.len() / CELL_BYTES);
        self.join
            .extend_from_slice(&self.buffer[self.cut_at..self.cut_at + bytes]);
        self.push_item(cells16(cells), Some((chunk, at)));
        self.cut_at += bytes;
    }

    fn push_hole(&mut self, cells: usize) {
        self.push_item(cells16(cells), None);
    }

    fn push_item(&mut self, cells: u16, chunk: Option<(usize, u16)>) {
        self.items.push(Item {
            region: self.region,
            at: self.cell,
            cells,
            chunk,
        });
        self.cell += cells;
    }

    fn new_chunk(&mut self) -> usize {
        self.chunks.push(None);
        self.chunks.len() - 1
    }

    /// Names, looks up, compresses and seals the batch; moves what is not cut yet to the front.
    fn flush(&mut self) -> Result<(), BackupError> {
        self.seal_batch()?;
        self.joined.clear();
        self.buffer.copy_within(self.cut_at..self.filled, 0);
        self.filled -= self.cut_at;
        self.cut_at = 0;
        Ok(())
    }

    fn seal_batch(&mut self) -> Result<(), BackupError> {
        let mut plains: HashMap<ChunkId, &[u8]> = HashMap::with_capacity(self.batch.len());
        let mut ids = Vec::with_capacity(self.batch.len());
        let mut all_bytes = 0;
        for (chunk, place) in &self.batch {
            let plain = match place {
                Place::Buffer(range) => &self.buffer[range.clone()],
                Place::Joined(range) => &self.joined[range.clone()],
            };
            let id = self.names.chunk_id(plain);
            self.chunks[*chunk] = Some(ChunkRef {
                id,
                cells: cells16(plain.len() / CELL_BYTES),
            });
            all_bytes += plain.len() as u64;
            if plains.insert(id, plain).is_none() {
                ids.push(id);
            }
        }
        let pending = self.packer.pending(&ids);
        let mut pending = pending.into_iter();
        ids.retain(|_| pending.next() != Some(true));
        let lacking = self.lacking(ids)?;
        // Compressed bytes of the batch, one behind the other.
        let mut arena = Vec::new();
        let mut encoded = Vec::with_capacity(lacking.len());
        for id in lacking {
            let plain = plains[&id];
            let ready = self.encoder.encode(plain);
            let start = arena.len();
            if ready.encoding != Encoding::Raw {
                arena.extend_from_slice(ready.bytes);
            }
            encoded.push((id, ready.encoding, plain, start..arena.len()));
        }
        let ready: Vec<(ChunkId, Encoded<'_>)> = encoded
            .iter()
            .map(|(id, encoding, plain, range)| {
                let bytes = match encoding {
                    Encoding::Raw => plain,
                    Encoding::Zstd => &arena[range.clone()],
                };
                (
                    *id,
                    Encoded {
                        encoding: *encoding,
                        plain_len: plain.len(),
                        bytes,
                    },
                )
            })
            .collect();
        let sealed = self.packer.add_chunks(&ready)?;
        let (mut new, mut stored, mut count) = (0, 0, 0);
        for ((_, encoded), sealed) in ready.iter().zip(sealed) {
            if sealed {
                new += encoded.plain_len as u64;
                stored += encoded.bytes.len() as u64;
                count += 1;
            }
        }
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counters.new, new);
        add(&self.counters.reused, all_bytes - new);
        add(&self.counters.stored, stored);
        add(&self.counters.chunks_new, count);
        add(&self.counters.chunks, self.batch.len() as u64);
        self.batch.clear();
        Ok(())
    }

    /// Returns those the vault lacks.
    fn lacking(&self, ids: Vec<ChunkId>) -> Result<Vec<ChunkId>, BackupError> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let failed = |source| BackupError::Link {
            verb: "say which chunks it has",
            source,
        };
        let have = self.packer.link().have(&ids).map_err(failed)?;
        if have.len() != ids.len() {
            return Err(failed(
                format!("{} answers for {} chunks", have.len(), ids.len()).into(),
            ));
        }
        Ok(ids
            .into_iter()
            .zip(have)
            .filter(|(_, have)| !have)
            .map(|(id, _)| id)
            .collect())
    }
}

/// Hashes of a range of zeros; `None` for whole MiBs.
pub(super) fn zero_hashes(len: u64) -> impl Iterator<Item = Option<MibHash>> {
    let whole = usize::try_from(len / MIB_BYTES as u64).expect("within a region");
    let rest = usize::try_from(len % MIB_BYTES as u64).expect("less than a MiB");
    let last = (rest > 0).then(|| Some(hash_mib(&vec![0; rest])));
    std::iter::repeat_n(None, whole).chain(last)
}

/// Returns the hash that stands for a MiB.
pub(super) fn hash_of(mib: Option<MibHash>) -> MibHash {
    mib.unwrap_or_else(zero_mib_hash)
}

fn cells16(cells: usize) -> u16 {
    u16::try_from(cells).expect("a region has 16,384 cells")
}
