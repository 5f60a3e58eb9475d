//! Splits what is to be restored into windows.

use std::sync::Arc;

use model::ByteRange;
use store::{ChunkId, ChunkSlice, ImageRun, Resolve, Tree, TreeError};

use super::hints::{Hint, Hints};

const MIB: u64 = 1 << 20;
/// Bytes of the disk under one window; windows with data never cross a multiple of it.
/// Between a window with data and a hole lies a whole MiB, so that each MiB is hashed in one window.
pub(super) const WINDOW_BYTES: u64 = 4 << 20;

/// A part of the image. Without runs it is a hole and may be of any length.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) range: ByteRange,
    /// The runs that have data, in order.
    pub(super) runs: Vec<(ImageRun, ChunkSlice)>,
    /// With seeds: what is known of chunks it shares with other windows.
    pub(super) hints: Option<Arc<Hints>>,
}

impl Window {
    pub(super) fn hint(&self, id: &ChunkId) -> Option<&Hint> {
        self.hints.as_ref()?.get(id)
    }
}

/// Returns the windows of the ranges in order: together they cover the ranges without gap or overlap. Ends after the first
/// error.
pub(super) fn plan_windows<'a>(
    tree: &Tree<'a>,
    ranges: &[ByteRange],
) -> impl Iterator<Item = Result<Window, TreeError>> {
    ranges
        .iter()
        .flat_map(move |range| match tree.resolve(*range) {
            Ok(runs) => Windows {
                runs: Some(runs),
                rest: None,
                start: None,
                error: None,
            },
            Err(error) => Windows {
                runs: None,
                rest: None,
                start: None,
                error: Some(error),
            },
        })
}

struct Windows<'a> {
    runs: Option<Resolve<'a>>,
    /// A run, or the rest of one, that the next window begins with.
    rest: Option<ImageRun>,
    /// Where the next window begins, if that is in the hole before `rest`.
    start: Option<u64>,
    error: Option<TreeError>,
}

impl Windows<'_> {
    fn next_run(&mut self) -> Option<ImageRun> {
        if let Some(run) = self.rest.take() {
            return Some(run);
        }
        match self.runs.as_mut()?.next()? {
            Ok(run) => Some(run),
            Err(error) => {
                self.runs = None;
                self.error = Some(error);
                None
            }
        }
    }

    /// Takes a run that follows the window into it, as far as it belongs there; says whether the window may grow further.
    fn take(&mut self, window: &mut Window, run: ImageRun) -> bool {
        let run_end = run.offset + run.len;
        let floor = run.offset - run.offset % MIB;
        let until = match (window.runs.is_empty(), run.chunk) {
            // A hole grows by holes; it ends with the last whole MiB before data.
            (true, None) => run_end,
            (true, Some(_)) if floor > window.range.offset => {
                window.range.len = floor - window.range.offset;
                self.start = Some(floor);
                floor
            }
            (true, Some(_)) => border(window.range.offset),
            (false, Some(_)) => border(window.range.offset),
            // A long hole is not part of a window with data, but for the MiB that has data as well.
            (false, None) if run_end > border(window.range.offset) => {
                run.offset.next_multiple_of(MIB)
            }
            (false, None) => run_end,
        };
        let (inside, beyond) = split(run, until);
        self.rest = beyond;
        if let Some(inside) = inside {
            window.range.len += inside.len;
            if let Some(slice) = inside.chunk {
                window.runs.push((inside, slice));
            }
        }
        self.rest.is_none()
    }
}

impl Iterator for Windows<'_> {
    type Item = Result<Window, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut window: Option<Window> = None;
        while let Some(run) = self.next_run() {
            let window = window.get_or_insert_with(|| {
                let offset = self.start.take().unwrap_or(run.offset);
                Window {
                    range: ByteRange {
                        offset,
                        len: run.offset - offset,
                    },
                    runs: Vec::new(),
                    hints: None,
                }
            });
            debug_assert_eq!(
                window.range.offset + window.range.len,
                run.offset,
                "resolved runs have no gap"
            );
            if !self.take(window, run) {
                break;
            }
        }
        // What was read before an error is not handed out: the error comes instead, and ends the restore.
        match self.error.take() {
            Some(error) => {
                self.runs = None;
                self.rest = None;
                Some(Err(error))
            }
            None => window.map(Ok),
        }
    }
}

/// Returns where a window that begins at `offset` must end if it has data.
fn border(offset: u64) -> u64 {
    (offset / WINDOW_BYTES + 1).saturating_mul(WINDOW_BYTES)
}

/// Splits a run at a place; either part may be missing.
fn split(run: ImageRun, place: u64) -> (Option<ImageRun>, Option<ImageRun>) {
    let inside = place.saturating_sub(run.offset).min(run.len);
    if inside == run.len {
        return (Some(run), None);
    }
    if inside == 0 {
        return (None, Some(run));
    }
    let skipped = usize::try_from(inside).unwrap_or(usize::MAX);
    let beyond = ImageRun {
        offset: run.offset + inside,
        len: run.len - inside,
        chunk: run.chunk.map(|slice| ChunkSlice {
            at_bytes: slice.at_bytes + skipped,
            ..slice
        }),
    };
    (Some(ImageRun { len: inside, ..run }), Some(beyond))
}
