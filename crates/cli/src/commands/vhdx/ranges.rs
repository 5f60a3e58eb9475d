//! `reprise vhdx ranges`: where data is, from the block tables only.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use vhdx::ExtentKind;

use super::files::in_file;
use super::parents::ParentArgs;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::stdout_failed;

/// Arguments of `vhdx ranges`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise vhdx ranges disk.avhdx --json")]
pub(super) struct RangesArgs {
    /// Disk file; its parents are found by themselves
    file: PathBuf,
    #[command(flatten)]
    parents: ParentArgs,
}

/// Runs the verb. A disk may have millions of ranges, so each is printed as it is found.
pub(super) fn run(ctx: &Ctx, args: &RangesArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let disk = args.parents.open(path)?.chain.into_disk();
    let mut writer = ctx.out.writer();
    if !ctx.out.is_json() {
        writeln!(writer, "{:>16} {:>16}  KIND", "OFFSET", "LENGTH")
            .map_err(|error| stdout_failed(&error))?;
    }
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.map_err(|error| in_file(path, error))?;
        let (offset, length) = (extent.offset, extent.len);
        let kind = match extent.kind {
            ExtentKind::Data => "data",
            ExtentKind::Zero => "zero",
        };
        if ctx.out.is_json() {
            let line = serde_json::json!({ "offset": offset, "length": length, "kind": kind });
            writeln!(writer, "{line}")
        } else {
            writeln!(writer, "{offset:>16} {length:>16}  {kind}")
        }
        .map_err(|error| stdout_failed(&error))?;
    }
    writer.flush().map_err(|error| stdout_failed(&error))?;
    Ok(Exit::Ok)
}
