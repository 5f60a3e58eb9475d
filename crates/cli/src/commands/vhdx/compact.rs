//! `reprise vhdx compact`: a file as short as its content allows.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vhdx::{CompactOptions, Durability};

use super::files::{in_file, open_locked};
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::{View, bytes};

/// Arguments of `vhdx compact`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  reprise vhdx compact disk.vhdx\n\nWhat the disk reads as stays the same, and so does its identity: children may exist, but nobody may have it open. Stopped or killed, the file is whole, and running it again goes on. Files that a guest deleted are not zeros: let the guest trim its volumes first."
)]
pub(super) struct CompactArgs {
    /// VHDX or AVHDX file
    file: PathBuf,
    /// Do not read the data for blocks of zeros; only close free space, which is faster
    #[arg(long)]
    no_zeros: bool,
}

/// What it came to.
#[derive(Debug, Serialize)]
struct Compacted {
    path: PathBuf,
    file_bytes_before: u64,
    file_bytes_after: u64,
    blocks_given_up: u64,
    moved_bytes: u64,
    free_bytes: u64,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &CompactArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let file = open_locked(path)?;
    let options = CompactOptions {
        find_zeros: !args.no_zeros,
    };
    let mut progress = ctx.progress(format!("compact {}", path.display()));
    let report = vhdx::compact(file, options, Durability::PowerLoss, &mut |at| {
        progress.at(at.bytes_done, at.bytes_total)
    })
    .map_err(|error| in_file(path, error))?;
    drop(progress);
    let done = Compacted {
        path: path.clone(),
        file_bytes_before: report.file_bytes_before,
        file_bytes_after: report.file_bytes_after,
        blocks_given_up: report.blocks_given_up,
        moved_bytes: report.moved_bytes,
        free_bytes: report.free_bytes,
    };
    ctx.out.show(&done, |done| {
        View::Text(format!(
            "{}: {} before, {} after",
            done.path.display(),
            bytes(done.file_bytes_before),
            bytes(done.file_bytes_after)
        ))
    })?;
    Ok(Exit::Ok)
}
