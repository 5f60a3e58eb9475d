//! Fetches the chunks of a window and puts its bytes together.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use model::ByteRange;
use store::{
    BoxError, CELL_BYTES, ChunkId, ChunkRef, ChunkSlice, Decoder, EntryId, ImageRun, MIB_BYTES,
    Opened, SessionKeys, hash_mib,
};

use super::Counters;
use super::cache::{ChunkCache, Claim};
use super::planner::Window;
use super::reuse::Reuse;
use crate::backup::lock;
use crate::verify::Piece;
use crate::{RestoreError, RestoreLink};

/// A window ready to be written.
pub(super) struct Filled {
    pub(super) range: ByteRange,
    /// All bytes of the window; empty where it is a hole.
    pub(super) bytes: Vec<u8>,
    /// The parts of `bytes` that are to be written, in order.
    pub(super) data: Vec<Range<usize>>,
    pub(super) pieces: Vec<Piece>,
}

impl Filled {
    /// A window without data: pieces end at each MiB only where the first and last one are not whole.
    pub(super) fn hole(range: ByteRange) -> Self {
        let mib = MIB_BYTES as u64;
        let end = range.offset + range.len;
        let first = range.offset.next_multiple_of(mib).min(end);
        let last = (end - end % mib).max(first);
        let pieces = [range.offset..first, first..last, last..end]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| Piece {
                range: ByteRange {
                    offset: part.start,
                    len: part.end - part.start,
                },
                hash: None,
            })
            .collect();
        Self {
            range,
            bytes: Vec::new(),
            data: Vec::new(),
            pieces,
        }
    }
}

/// One thread's means.
pub(super) struct Filler<'a> {
    link: &'a dyn RestoreLink,
    names: &'a SessionKeys,
    cache: &'a ChunkCache,
    counters: &'a Counters,
    /// Buffers of windows that were written, to be used again.
    buffers: &'a Mutex<Vec<Vec<u8>>>,
    reuse: Option<&'a Reuse<'a>>,
    decoder: Decoder,
}

/// A chunk that a window needs.
struct Need {
    chunk: ChunkRef,
    /// Where the image needs it first.
    offset: u64,
    /// How much of it the window needs; where that is less than all, another window may need the rest.
    bytes: u64,
}

impl<'a> Filler<'a> {
    pub(super) fn new(
        link: &'a dyn RestoreLink,
        names: &'a SessionKeys,
        cache: &'a ChunkCache,
        counters: &'a Counters,
        buffers: &'a Mutex<Vec<Vec<u8>>>,
        reuse: Option<&'a Reuse<'a>>,
    ) -> Self {
        Self {
            link,
            names,
            cache,
            counters,
            buffers,
            reuse,
            decoder: Decoder::new(),
        }
    }

    pub(super) fn fill(&mut self, window: Window) -> Result<Filled, RestoreError> {
        // A used buffer has old bytes in it; what no run covers is cleared below.
        let used = lock(self.buffers).pop();
        let mut bytes = used
            .filter(|used| used.len() == in_window(window.range.len))
            .unwrap_or_else(|| vec![0; in_window(window.range.len)]);
        match self.reuse {
            None => self.fetch_runs(&window.runs, window.range.offset, &mut bytes)?,
            Some(reuse) => {
                let rest = reuse.fill(&window, &mut bytes, &mut self.decoder)?;
                self.fetch_runs(&rest, window.range.offset, &mut bytes)?;
            }
        }
        let mut data: Vec<Range<usize>> = Vec::new();
        for (run, _) in &window.runs {
            let start = in_window(run.offset - window.range.offset);
            let end = start + in_window(run.len);
            match data.last_mut() {
                Some(last) if last.end == start => last.end = end,
                Some(_) | None => data.push(start..end),
            }
        }
        let mut at = 0;
        for part in &data {
            bytes[at..part.start].fill(0);
            at = part.end;
        }
        bytes[at..].fill(0);
        let pieces = pieces_of(window.range, &bytes, &data);
        Ok(Filled {
            range: window.range,
            bytes,
            data,
            pieces,
        })
    }

    /// Puts the bytes of runs where they belong in a window that begins at `window`.
    fn fetch_runs(
        &mut self,
        runs: &[(ImageRun, ChunkSlice)],
        window: u64,
        bytes: &mut [u8],
    ) -> Result<(), RestoreError> {
        let mut needs: HashMap<ChunkId, Need> = HashMap::new();
        let mut order = Vec::new();
        for (run, slice) in runs {
            let need = needs.entry(slice.chunk.id).or_insert_with(|| {
                order.push(slice.chunk.id);
                Need {
                    chunk: slice.chunk,
                    offset: run.offset,
                    bytes: 0,
                }
            });
            need.bytes += run.len;
        }
        let chunks = self.chunks(&order, &needs)?;
        for (run, slice) in runs {
            let short = || RestoreError::ShortChunk {
                chunk: slice.chunk.id,
                offset: run.offset,
            };
            let opened = chunks.get(&slice.chunk.id).ok_or_else(short)?;
            let part = slice.at_bytes..slice.at_bytes + in_window(run.len);
            if !has(opened, &part) {
                return Err(short());
            }
            let start = in_window(run.offset - window);
            bytes[start..start + part.len()]
                .copy_from_slice(opened.plain.get(part).ok_or_else(short)?);
        }
        Ok(())
    }

    fn chunks(
        &mut self,
        order: &[ChunkId],
        needs: &HashMap<ChunkId, Need>,
    ) -> Result<HashMap<ChunkId, Arc<Opened>>, RestoreError> {
        let mut chunks = HashMap::with_capacity(order.len());
        let (mut fetch, mut shared, mut wait) = (Vec::new(), Vec::new(), Vec::new());
        for &id in order {
            let need = &needs[&id];
            if need.bytes >= u64::from(need.chunk.cells) * CELL_BYTES as u64 {
                fetch.push(id);
                continue;
            }
            match self.cache.claim(id) {
                Claim::Ready(chunk) => {
                    chunks.insert(id, chunk);
                }
                Claim::Fetch => {
                    fetch.push(id);
                    shared.push(id);
                }
                Claim::Wait => wait.push(id),
            }
        }
        let fetched = self.fetch(&fetch, needs, &mut chunks);
        if fetched.is_err() {
            self.cache.give_up(&shared);
        }
        fetched?;
        for id in shared {
            self.cache.put(id, Arc::clone(&chunks[&id]));
        }
        let mut missed = Vec::new();
        for id in wait {
            match self.cache.wait(id) {
                Some(chunk) => {
                    chunks.insert(id, chunk);
                }
                None => missed.push(id),
            }
        }
        self.fetch(&missed, needs, &mut chunks)?;
        Ok(chunks)
    }

    /// Fetches, opens and checks chunks; all of them are in `chunks` afterwards.
    fn fetch(
        &mut self,
        ids: &[ChunkId],
        needs: &HashMap<ChunkId, Need>,
        chunks: &mut HashMap<ChunkId, Arc<Opened>>,
    ) -> Result<(), RestoreError> {
        let Some(first) = ids.first() else {
            return Ok(());
        };
        let failed = |source: BoxError| RestoreError::Link {
            offset: needs[first].offset,
            source,
        };
        for fetched in self.link.fetch(ids).map_err(failed)? {
            let EntryId::Chunk(id) = fetched.entry.id() else {
                return Err(failed(
                    format!("{} came, which was not asked for", fetched.entry.id()).into(),
                ));
            };
            let Some(need) = needs.get(&id) else {
                return Err(failed(
                    format!("chunk {id} came, which was not asked for").into(),
                ));
            };
            let opened = fetched
                .entry
                .open(&*fetched.key, self.names, &mut self.decoder)
                .map_err(|source| RestoreError::DamagedChunk {
                    chunk: id,
                    offset: need.offset,
                    source,
                })?;
            self.counters.chunks.fetch_add(1, Ordering::Relaxed);
            self.counters
                .fetched
                .fetch_add(fetched.entry.info().sealed_len(), Ordering::Relaxed);
            chunks.insert(id, Arc::new(opened));
        }
        match ids.iter().find(|id| !chunks.contains_key(id)) {
            None => Ok(()),
            Some(id) => Err(RestoreError::MissingChunk {
                chunk: *id,
                offset: needs[id].offset,
            }),
        }
    }
}

/// Returns a length or place within a window.
fn in_window(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a window has a few MiB")
}

/// Says whether a chunk has all of these bytes; a partial one lacks some.
fn has(opened: &Opened, part: &Range<usize>) -> bool {
    let Some(live) = opened.live else {
        return part.end <= opened.plain.len();
    };
    let (first, end) = (part.start / CELL_BYTES, part.end.div_ceil(CELL_BYTES));
    match (u16::try_from(first), u16::try_from(end - first)) {
        (Ok(first), Ok(cells)) => live.has(first, cells),
        (Ok(_) | Err(_), _) => false,
    }
}

/// Splits a window at each MiB and hashes the parts that have data.
fn pieces_of(range: ByteRange, bytes: &[u8], data: &[Range<usize>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let offset = range.offset + at as u64;
        let to_border =
            MIB_BYTES - usize::try_from(offset % MIB_BYTES as u64).expect("less than a MiB");
        let end = (at + to_border).min(bytes.len());
        let has_data = data.iter().any(|part| part.start < end && part.end > at);
        pieces.push(Piece {
            range: ByteRange {
                offset,
                len: (end - at) as u64,
            },
            hash: has_data.then(|| hash_mib(&bytes[at..end])),
        });
        at = end;
    }
    pieces
}
