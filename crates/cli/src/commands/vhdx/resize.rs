//! `reprise vhdx resize`: another size for the virtual disk.

use std::path::PathBuf;

use clap::Args;
use vhdx::{Beyond, Durability, Error};

use super::files::{in_file, open_locked};
use super::info::Info;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::values;

/// Arguments of `vhdx resize`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx resize disk.vhdx 200GiB\n\nA disk that grows ends in zeros; partitions in it are not touched. Before a disk shrinks, shrink or move its partitions; a GPT keeps a copy of itself in the last sectors, which then has to be written anew. Children of the disk would not accept it any more: resize the newest disk of a chain only."
)]
pub(super) struct ResizeArgs {
    /// VHDX or AVHDX file
    file: PathBuf,
    /// New virtual size, a multiple of the sector size
    #[arg(value_parser = values::size)]
    size: u64,
    /// Lose what lies beyond the new end; without it, only zeros may be there
    #[arg(long)]
    discard: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &ResizeArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let file = open_locked(path)?;
    let beyond = if args.discard {
        Beyond::Discard
    } else {
        Beyond::MustBeZero
    };
    let mut progress = ctx.progress(format!("resize {}", path.display()));
    let resized = vhdx::resize(file, args.size, beyond, Durability::PowerLoss, &mut |at| {
        progress.at(at.bytes_done, at.bytes_total)
    });
    drop(progress);
    let info = resized.map_err(|error| {
        let in_the_way = matches!(
            error,
            Error::DataBeyondEnd { .. } | Error::ParentBeyondEnd { .. }
        );
        let failure = in_file(path, error);
        if !in_the_way {
            return failure;
        }
        Failure::new(api::codes::CONFLICT, failure.message)
            .hint("shrink or move the last partition first; --discard loses what lies there")
    })?;
    ctx.out.show(&Info::new(path, &info), Info::view)?;
    Ok(Exit::Ok)
}
