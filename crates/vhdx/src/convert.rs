//! Copying what a disk reads as into a new file: conversion between kinds, and a chain made into one file.
//!
//! Only data is read, never what the block tables know to be zeros. A thread reads ahead while another writes, in pieces of
//! bounded number and size. The target is laid out from front to back (see `bulk`), so a file that was not finished is refused
//! by every reader.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::bulk::BulkWriter;
use crate::disk::{Disk, ExtentKind};
use crate::error::Error;
use crate::format::{KIB, index};
use crate::info::FileInfo;
use crate::io::{ReadAt, WriteAt};
use crate::params::Params;
use crate::progress::{Progress, report};

/// Bytes read and written at a time.
///
/// Larger ones took up to several times the processor time where it was measured, copying to the system's cache (ext4).
const PIECE_BYTES: u64 = 128 * KIB;

/// Pieces that are read and wait to be written.
const READ_AHEAD_PIECES: usize = 4;

/// Zeros are left out in parts of this size, aligned in the virtual disk.
const ZERO_BYTES: u64 = 64 * KIB;

/// How a disk is copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConvertOptions {
    /// Looks for zeros in what is read: blocks that hold nothing else take no space in a dynamic target, and parts of 64 KiB
    /// are left as holes of the file.
    pub drop_zeros: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { drop_zeros: true }
    }
}

/// Copies `source` into a new disk in `target`, whose old content is discarded.
///
/// The source may be anything that can be read: fixed, dynamic, or a chain, which becomes one file without parents. A target
/// larger than the source ends in zeros; a smaller one is refused. `progress` counts bytes of the virtual disk.
/// Returns what the new file says about itself.
pub fn convert(
    source: &Disk,
    target: impl WriteAt + 'static,
    params: &Params,
    options: ConvertOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    let extents = source.extents(0, source.size());
    let ranges = extents.filter_map(|extent| match extent {
        Ok(extent) if extent.kind == ExtentKind::Zero => None,
        Ok(extent) => Some(Ok((extent.offset, extent.len))),
        Err(err) => Some(Err(err)),
    });
    let read = |buf: &mut [u8], at| source.read_at(buf, at);
    copy(
        source.size(),
        ranges,
        read,
        target,
        params,
        options,
        progress,
    )
}

/// Copies a raw image into a new disk in `target`, as [`convert`] does. All of the image is read.
pub fn convert_raw(
    source: &dyn ReadAt,
    target: impl WriteAt + 'static,
    params: &Params,
    options: ConvertOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    let read_failed = |what, at, source| Error::Read { what, at, source };
    let size = source.len();
    let size = size.map_err(|err| read_failed("the length of the image", 0, err))?;
    let read = |buf: &mut [u8], at| {
        let read = source.read_exact_at(buf, at);
        read.map_err(|err| read_failed("the image", at, err))
    };
    let all = std::iter::once(Ok((0, size))).filter(|_| size > 0);
    copy(size, all, read, target, params, options, progress)
}

/// A piece on its way from the reading to the writing side.
struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

/// Copies the ranges of a source of `size` bytes.
fn copy(
    size: u64,
    ranges: impl Iterator<Item = Result<(u64, u64), Error>> + Send,
    read: impl Fn(&mut [u8], u64) -> Result<(), Error> + Sync + Send,
    target: impl WriteAt + 'static,
    params: &Params,
    options: ConvertOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    if params.parent.is_some() {
        return Err(Error::Parameters("a copy stands alone, without a parent"));
    }
    if size > params.size {
        return Err(Error::Parameters(
            "the new disk is smaller than the one it is to hold",
        ));
    }
    let mut writer = BulkWriter::create(target, params)?;
    let (send, pieces) = sync_channel(READ_AHEAD_PIECES);
    // As many as can be read, waiting, and being written.
    let (give_back, buffers) = sync_channel(READ_AHEAD_PIECES + 2);
    for _ in 0..READ_AHEAD_PIECES + 2 {
        give_back
            .send(Vec::new())
            .expect("the channel has room for them all");
    }
    std::thread::scope(|scope| {
        // Dropped with this block, however it ends: the reading side stops.
        let give_back = give_back;
        scope.spawn(move || read_ahead(ranges, read, &buffers, &send));
        for piece in pieces {
            let Piece { offset, bytes } = piece?;
            if options.drop_zeros {
                write_data(&mut writer, offset, &bytes)?;
            } else {
                writer.write(offset, &bytes)?;
            }
            report(progress, offset + bytes.len() as u64, params.size)?;
            // The reading side may be done.
            let _ = give_back.send(bytes);
        }
        Ok::<_, Error>(())
    })?;
    report(progress, params.size, params.size)?;
    writer.finish()
}

/// Reads the ranges in order, until done, failed, or nobody wants more.
fn read_ahead(
    ranges: impl Iterator<Item = Result<(u64, u64), Error>>,
    read: impl Fn(&mut [u8], u64) -> Result<(), Error>,
    buffers: &Receiver<Vec<u8>>,
    send: &SyncSender<Result<Piece, Error>>,
) {
    for range in ranges {
        let (start, len) = match range {
            Ok(range) => range,
            Err(err) => {
                let _ = send.send(Err(err));
                return;
            }
        };
        let mut at = start;
        while at < start + len {
            // Up to a border of pieces, so that reads and writes are aligned.
            let stop = ((at / PIECE_BYTES + 1) * PIECE_BYTES).min(start + len);
            let Ok(mut bytes) = buffers.recv() else {
                return;
            };
            bytes.resize(index(stop - at), 0);
            let piece = read(&mut bytes, at).map(|()| Piece { offset: at, bytes });
            let failed = piece.is_err();
            if send.send(piece).is_err() || failed {
                return;
            }
            at = stop;
        }
    }
}

/// Writes what is not zeros.
fn write_data(writer: &mut BulkWriter, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let end = offset + bytes.len() as u64;
    let part = |from: u64, to: u64| &bytes[index(from - offset)..index(to - offset)];
    let (mut at, mut data_start) = (offset, None);
    while at < end {
        let stop = ((at / ZERO_BYTES + 1) * ZERO_BYTES).min(end);
        if is_zero(part(at, stop)) {
            if let Some(start) = data_start.take() {
                writer.write(start, part(start, at))?;
            }
        } else {
            data_start.get_or_insert(at);
        }
        at = stop;
    }
    match data_start {
        Some(start) => writer.write(start, part(start, end)),
        None => Ok(()),
    }
}

/// Returns whether all bytes are zero, at the speed of memory.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}
