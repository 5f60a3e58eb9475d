//! `reprise vhdx export`: a disk as a raw image.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use vhdx::{Disk, WriteAt};

use super::copy::{PIECE_BYTES, each_piece, each_run_of_data, piece_len};
use super::files::{NewFile, io_failed};
use super::parents::{ParentArgs, Seen};
use super::progress::{Ctx, Progress};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::stdout_failed;
use crate::view::{View, bytes};

/// Arguments of `vhdx export`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx export disk.avhdx disk.raw\n  reprise vhdx export disk.vhdx - > disk.raw"
)]
pub(super) struct ExportArgs {
    /// Disk file; its parents are found by themselves
    file: PathBuf,
    /// File that gets the image, sparse, refused where it exists; - for standard output
    out: PathBuf,
    #[command(flatten)]
    parents: ParentArgs,
}

impl ExportArgs {
    /// Returns whether the image goes to standard output, so that there is nothing to clean up.
    pub(super) fn is_to_stdout(&self) -> bool {
        self.out == Path::new("-")
    }
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &ExportArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let (chain, seen) = args.parents.open(path)?.for_long_read(ctx);
    let disk = chain.into_disk();
    let mut progress = ctx.progress(format!("export {}", path.display()));
    if args.is_to_stdout() {
        to_stream(path, &disk, &mut progress, &mut ctx.out.writer())?;
        seen.is_unchanged()?;
        return Ok(Exit::Ok);
    }
    let written = to_file(path, &disk, &seen, &mut progress, &args.out)?;
    drop(progress);
    let value =
        serde_json::json!({ "path": args.out, "size_bytes": disk.size(), "data_bytes": written });
    ctx.out.show(&value, |_| {
        View::Text(format!(
            "{}: {}, of these {} data",
            args.out.display(),
            bytes(disk.size()),
            bytes(written)
        ))
    })?;
    Ok(Exit::Ok)
}

/// Writes the image and returns how many bytes of it are data.
fn to_file(
    path: &Path,
    disk: &Disk,
    seen: &Seen,
    progress: &mut Progress<'_>,
    target: &Path,
) -> Result<u64, Failure> {
    let new = NewFile::begin(target)?;
    let file = new.file()?;
    let trouble = |error: std::io::Error| io_failed("write", target, &error);
    WriteAt::set_len(&file, disk.size()).map_err(trouble)?;
    let mut written = 0;
    each_piece(path, disk, progress, |offset, piece| {
        each_run_of_data(piece.unwrap_or_default(), |at, run| {
            written += run.len() as u64;
            file.write_all_at(run, offset + at as u64).map_err(trouble)
        })
    })?;
    WriteAt::sync(&file).map_err(trouble)?;
    seen.is_unchanged()?;
    new.finish()?;
    Ok(written)
}

fn to_stream(
    path: &Path,
    disk: &Disk,
    progress: &mut Progress<'_>,
    stream: &mut impl Write,
) -> Result<(), Failure> {
    let zeros = vec![0; piece_len(PIECE_BYTES)];
    let mut at = 0;
    each_piece(path, disk, progress, |offset, piece| {
        if let Some(piece) = piece {
            at = offset + piece.len() as u64;
            return stream
                .write_all(piece)
                .map_err(|error| stdout_failed(&error));
        }
        while at < offset {
            let some = piece_len((offset - at).min(PIECE_BYTES));
            stream
                .write_all(&zeros[..some])
                .map_err(|error| stdout_failed(&error))?;
            at += some as u64;
        }
        Ok(())
    })?;
    stream.flush().map_err(|error| stdout_failed(&error))
}
