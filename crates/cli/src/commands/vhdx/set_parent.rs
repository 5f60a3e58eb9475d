//! `reprise vhdx set-parent`: where the parent of a differencing disk is now.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use vhdx::Durability;

use super::create::link;
use super::files::{in_file, io_failed, is_same_file, open, open_locked};
use super::info::Info;
use super::parents::ParentArgs;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;

/// Arguments of `vhdx set-parent`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx set-parent child.avhdx moved/disk.vhdx\n\nThe parent must be the one the child was made from, by its identity. --force takes another one: right only where its content is the same, as after a merge; otherwise the child reads as a mix of both."
)]
pub(super) struct SetParentArgs {
    /// Differencing disk
    file: PathBuf,
    /// Its parent
    parent: PathBuf,
    /// Path of the parent as Windows is to find it, such as C:\VMs\disk.vhdx; the relative path is always written
    #[arg(long, value_name = "PATH")]
    parent_path: Option<String>,
    /// Take a parent with another identity than the child expects
    #[arg(long)]
    force: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &SetParentArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let child = open_locked(path)?;
    let parent =
        vhdx::inspect(open(&args.parent)?).map_err(|error| in_file(&args.parent, error))?;
    let info = vhdx::inspect(Arc::clone(&child)).map_err(|error| in_file(path, error))?;
    let Some(locator) = &info.parent else {
        return Err(in_file(path, vhdx::Error::NoParent));
    };
    if parent.format != info.format
        || parent.logical_sector_bytes != info.logical_sector_bytes
        || parent.size > info.size
    {
        return Err(Failure::usage(format!(
            "{} cannot be the parent of {}: format, sector size or virtual size do not fit",
            args.parent.display(),
            path.display()
        )));
    }
    // Of a parent whose own parents are missing only itself is known.
    let above = ParentArgs::default().open(&args.parent);
    let above = above.map_or_else(|_| vec![args.parent.clone()], |opened| opened.paths);
    for ancestor in &above {
        if is_same_file(ancestor, path).map_err(|error| io_failed("open", ancestor, &error))? {
            return Err(Failure::usage(format!(
                "{} cannot be the parent of {}: it is that disk itself, or made from it",
                args.parent.display(),
                path.display()
            )));
        }
    }
    if !args.force && !locator.accepts(parent.data_write_guid) {
        return Err(Failure::new(
            api::codes::CONFLICT,
            format!(
                "{} is not the parent of {}: it was changed since, or is another disk",
                args.parent.display(),
                path.display()
            ),
        )
        .hint(
            "--force takes it all the same; right only where its content is that of the parent",
        ));
    }
    // Readers look from where the file lies, not from where a link to it does.
    let place = std::fs::canonicalize(path).map_err(|error| io_failed("open", path, &error))?;
    let link = link(&place, &args.parent, &parent, &args.parent_path)?;
    let now = vhdx::set_parent(child, &link, Durability::PowerLoss)
        .map_err(|error| in_file(path, error))?;
    ctx.out.show(&Info::new(path, &now), Info::view)?;
    Ok(Exit::Ok)
}
