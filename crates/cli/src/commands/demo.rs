//! `reprise demo`.

use std::path::PathBuf;

use clap::Args;

use crate::demo::{self, Options};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `demo`.
#[derive(Args, Debug)]
#[command(
    after_help = "Everything happens in a folder of its own that is removed at the end. The exit code is 0 only if all that \
        was restored equals what the host had at backup time.\n\nExamples:\n  reprise demo\n  reprise demo --disk mine.vhdx --keep"
)]
pub(crate) struct DemoArgs {
    /// Put this VHDX file (a copy of it) into a VM, too; may be repeated
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// Leave everything running at the end, and say where and how to look
    #[arg(long)]
    keep: bool,
    /// Work in this new folder instead of one in the folder for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) async fn run(out: Output, args: DemoArgs) -> Result<Exit, Failure> {
    // What can be refused is refused before minutes of work.
    for disk in &args.disks {
        super::vhdx::chain(disk).map_err(|failure| {
            failure.hint("--disk takes a VHDX or AVHDX file that no running VM uses")
        })?;
    }
    if let Some(dir) = args.dir.as_deref().filter(|dir| dir.exists()) {
        let message = format!("{} exists already", dir.display());
        return Err(
            Failure::new(api::codes::CONFLICT, message).hint("give --dir a name that is free")
        );
    }
    demo::run(
        out,
        Options {
            disks: args.disks,
            keep: args.keep,
            dir: args.dir,
        },
    )
    .await
}
