//! Walking the content of a disk from front to back.

use std::path::Path;

use vhdx::{Disk, ExtentKind};

use super::files::in_file;
use super::progress::Progress;
use crate::failure::Failure;

/// How much is read and written at once.
pub(super) const PIECE_BYTES: u64 = 128 << 10;
/// Bytes looked at together for whether they are all zero.
const ZERO_BYTES: usize = 64 << 10;
static ZEROS: [u8; ZERO_BYTES] = [0; ZERO_BYTES];

/// Walks a disk: data in pieces with their offsets; zeros as the offset of their end, without bytes.
pub(super) fn each_piece(
    path: &Path,
    disk: &Disk,
    progress: &mut Progress<'_>,
    mut take: impl FnMut(u64, Option<&[u8]>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; piece_len(PIECE_BYTES)];
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.map_err(|error| in_file(path, error))?;
        let end = extent.offset + extent.len;
        match extent.kind {
            ExtentKind::Zero => take(end, None)?,
            ExtentKind::Data => {
                let mut at = extent.offset;
                while at < end {
                    progress.go_on(at, disk.size())?;
                    let piece = &mut buffer[..piece_len((end - at).min(PIECE_BYTES))];
                    disk.read_at(piece, at)
                        .map_err(|error| in_file(path, error))?;
                    take(at, Some(piece))?;
                    at += piece.len() as u64;
                }
            }
        }
        progress.go_on(end, disk.size())?;
    }
    Ok(())
}

/// Calls `take` for each run of a piece that is not zeros, with its offset in the piece.
pub(super) fn each_run_of_data(
    piece: &[u8],
    mut take: impl FnMut(usize, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut start = None;
    for (number, part) in piece.chunks(ZERO_BYTES).enumerate() {
        let at = number * ZERO_BYTES;
        if part != &ZEROS[..part.len()] {
            start.get_or_insert(at);
        } else if let Some(from) = start.take() {
            take(from, &piece[from..at])?;
        }
    }
    match start {
        Some(from) => take(from, &piece[from..]),
        None => Ok(()),
    }
}

/// Returns a length that fits one piece.
pub(super) fn piece_len(len: u64) -> usize {
    usize::try_from(len).expect("a piece is at most 4 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeros_are_left_out() {
        let mut piece = vec![0; 5 * ZERO_BYTES + 10];
        piece[ZERO_BYTES + 3] = 1;
        piece[2 * ZERO_BYTES] = 1;
        piece[5 * ZERO_BYTES + 9] = 1;
        let mut runs = Vec::new();
        each_run_of_data(&piece, |at, run| {
            runs.push((at, run.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(runs, [(ZERO_BYTES, 2 * ZERO_BYTES), (5 * ZERO_BYTES, 10)]);
    }
}
