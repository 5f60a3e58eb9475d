//! `reprise vhdx`: VHDX files and chains, without any server. One file per verb.
//!
//! Invariants:
//! - A new file appears under its name whole and durable, or not at all; nothing that exists is written over.
//! - A verb that changes a file in place holds its lock, so that two of these programs never write one file.
//! - Ctrl-C ends such work at a point where the file is whole; a second one ends the program as a kill does, which the log of
//!   the file survives.

mod check;
mod compact;
mod convert;
mod copy;
mod create;
mod export;
mod files;
mod info;
mod merge;
mod parents;
mod progress;
mod ranges;
mod repair;
mod resize;
mod set_parent;

use std::path::Path;

use clap::{Args, Subcommand};
use vhdx::{Chain, DiskKind, Format};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::process;
use progress::{Ctx, Stop};

const EXIT_CODES: &str = "\
Exit codes:
  0 done; of check: no error found     5 the operating system does not allow it
  1 failed, stopped, or not a disk     6 a file is in use, or exists already
  2 wrong usage                        7 check found errors
  4 no such file or parent             130 interrupted, nothing was being written

Ctrl-C is safe: work in place stops where the file is whole, and goes on when run again; a new file is removed.

Example:
  reprise vhdx info disk.vhdx";

/// Arguments of `vhdx`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct VhdxArgs {
    /// Tell progress on standard error line by line, also where nobody watches a terminal
    #[arg(long, global = true, help_heading = "Output")]
    progress: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what a file says about itself, and its parents
    Info(info::InfoArgs),
    /// List everything that is wrong with a file, and with its parents
    Check(check::CheckArgs),
    /// List which ranges of a disk hold data and which are zeros, without reading data
    Ranges(ranges::RangesArgs),
    /// Write a disk, with all its parents, as a raw image
    Export(export::ExportArgs),
    /// Make a disk: empty, with the content of a raw image, or as the child of another
    Create(create::CreateArgs),
    /// Make a VHDX without parents of any disk: VHDX, chain, VHD or raw image
    Convert(convert::ConvertArgs),
    /// Merge a child into its parent, or a whole chain into a new file
    Merge(merge::MergeArgs),
    /// Make a file as short as its content allows
    Compact(compact::CompactArgs),
    /// Give the virtual disk another size
    Resize(resize::ResizeArgs),
    /// Bring a file back to the state a clean close leaves; never guesses
    Repair(repair::RepairArgs),
    /// Tell a differencing disk where its parent is now
    SetParent(set_parent::SetParentArgs),
}

impl Verb {
    fn run(self, ctx: &Ctx) -> Result<Exit, Failure> {
        match self {
            Verb::Info(args) => info::run(ctx, &args),
            Verb::Check(args) => check::run(ctx, &args),
            Verb::Ranges(args) => ranges::run(ctx, &args),
            Verb::Export(args) => export::run(ctx, &args),
            Verb::Create(args) => create::run(ctx, &args),
            Verb::Convert(args) => convert::run(ctx, &args),
            Verb::Merge(args) => merge::run(ctx, &args),
            Verb::Compact(args) => compact::run(ctx, &args),
            Verb::Resize(args) => resize::run(ctx, &args),
            Verb::Repair(args) => repair::run(ctx, &args),
            Verb::SetParent(args) => set_parent::run(ctx, &args),
        }
    }

    /// Returns whether the work writes files and must therefore be ended in its own way.
    fn writes(&self) -> bool {
        match self {
            Verb::Info(_) | Verb::Check(_) | Verb::Ranges(_) => false,
            Verb::Export(args) => !args.is_to_stdout(),
            Verb::Create(_)
            | Verb::Convert(_)
            | Verb::Merge(_)
            | Verb::Compact(_)
            | Verb::Resize(_)
            | Verb::Repair(_)
            | Verb::SetParent(_) => true,
        }
    }
}

/// Runs a verb on a thread of its own and passes on when someone asks it to end.
pub(crate) async fn run(out: Output, args: VhdxArgs) -> Result<Exit, Failure> {
    let stop = Stop::default();
    let ctx = Ctx::new(out, stop.clone(), args.progress);
    let writes = args.verb.writes();
    let mut asked = std::pin::pin!(process::asked_to_end());
    // Waited for once before the work starts, so that no signal falls in between.
    tokio::select! {
        biased;
        () = &mut asked => return Ok(Exit::Interrupted),
        () = std::future::ready(()) => {}
    }
    let mut work = tokio::task::spawn_blocking(move || args.verb.run(&ctx));
    tokio::select! {
        done = &mut work => return ended(done),
        () = &mut asked => {}
    }
    if !writes {
        return Ok(Exit::Interrupted);
    }
    stop.ask();
    out.note("stopping where the file is whole; once more ends at once");
    tokio::select! {
        done = &mut work => ended(done),
        () = process::asked_to_end() => Ok(Exit::Interrupted),
    }
}

fn ended(done: Result<Result<Exit, Failure>, tokio::task::JoinError>) -> Result<Exit, Failure> {
    match done {
        Ok(result) => result,
        Err(broken) => match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(broken) => Err(Failure::new("failed", broken.to_string())),
        },
    }
}

/// Opens a file with its parents, wherever on this machine their relative paths lead.
pub(crate) fn chain(path: &Path) -> Result<Chain, Failure> {
    Ok(parents::ParentArgs::default().open(path)?.chain)
}

/// Names a kind of disk, for people and JSON.
fn kind(kind: DiskKind) -> &'static str {
    match kind {
        DiskKind::Fixed => "fixed",
        DiskKind::Dynamic => "dynamic",
        DiskKind::Differencing => "differencing",
    }
}

/// Names a format, for people and JSON.
fn format(format: Format) -> &'static str {
    match format {
        Format::Vhdx => "vhdx",
        Format::Vhd => "vhd",
    }
}
