//! `reprise vhdx merge`: a child into its parent, in place, or a whole chain into a new file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use vhdx::{Durability, MergedIdentity};

use super::convert::{ShapeArgs, of_chain};
use super::files::{in_file, open_locked, remove};
use super::info::Info;
use super::parents::ParentArgs;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::View;

/// Arguments of `vhdx merge`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx merge disk_2.avhdx\n  reprise vhdx merge disk_2.avhdx --out whole.vhdx\n\nThe parent then holds what the child read as, and the child is removed. Stopped or killed, it goes on when run again; until then use the child only, never the parent alone.\n\nOther children of the parent are lost by this, and nothing in the files tells whether there are any. Disks made from the child must be told of their new parent: `reprise vhdx set-parent`."
)]
pub(super) struct MergeArgs {
    /// Differencing disk
    file: PathBuf,
    /// Make a new file of the whole chain instead; nothing of the chain is changed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep the child's file
    #[arg(long, conflicts_with = "out")]
    keep: bool,
    /// Give the parent the child's identity, so that disks made from the child accept it
    #[arg(long, conflicts_with = "out")]
    keep_identity: bool,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    parents: ParentArgs,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Merged {
    path: PathBuf,
    child: PathBuf,
    child_removed: bool,
    size_bytes: u64,
    file_bytes: u64,
    data_write_guid: String,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &MergeArgs) -> Result<Exit, Failure> {
    match &args.out {
        Some(target) => {
            let opened = args.parents.open(&args.file)?;
            let made = of_chain(ctx, &args.file, opened, target, &args.shape)?;
            ctx.out.show(&Info::new(target, &made), Info::view)?;
            Ok(Exit::Ok)
        }
        None if args.shape.is_given() => Err(Failure::usage(
            "--fixed, --dynamic, --block and --new-id are for a new file: give --out",
        )),
        None => into_parent(ctx, args),
    }
}

fn into_parent(ctx: &Ctx, args: &MergeArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let child = open_locked(path)?;
    let info = vhdx::inspect(Arc::clone(&child)).map_err(|error| in_file(path, error))?;
    let Some(locator) = &info.parent else {
        return Err(in_file(path, vhdx::Error::NoParent));
    };
    // A parent with the child's identity is what an earlier run with --keep-identity left: only the child is still there. A copy
    // of the child is not: it has the child's parent.
    let parent_path = args.parents.find(path, locator, |parent| {
        let is_copy = parent.parent.as_ref().map(|of| of.linkage) == Some(locator.linkage);
        locator.accepts(parent.data_write_guid)
            || parent.data_write_guid == info.data_write_guid && !is_copy
    })?;
    let parent = open_locked(&parent_path)?;
    let now = vhdx::inspect(Arc::clone(&parent)).map_err(|error| in_file(&parent_path, error))?;
    let identity = if args.keep_identity || now.data_write_guid == info.data_write_guid {
        MergedIdentity::Child
    } else {
        MergedIdentity::New
    };
    let mut progress = ctx.progress(format!("merge {}", path.display()));
    let merged = vhdx::merge(
        Arc::clone(&child),
        Arc::clone(&parent),
        identity,
        Durability::PowerLoss,
        &mut |at| progress.at(at.bytes_done, at.bytes_total),
    )
    .map_err(|error| {
        let mut failure = in_file(path, error);
        failure.message = format!("into {}: {}", parent_path.display(), failure.message);
        failure
    })?;
    drop(progress);
    // Both are locked still: nobody can begin to use the child now.
    if !args.keep {
        remove(path)?;
    }
    let done = Merged {
        path: parent_path,
        child: path.clone(),
        child_removed: !args.keep,
        size_bytes: merged.size,
        file_bytes: merged.file_bytes,
        data_write_guid: merged.data_write_guid.to_string(),
    };
    ctx.out.show(&done, |done| {
        View::Text(format!(
            "{} is merged into {}{}",
            done.child.display(),
            done.path.display(),
            if done.child_removed {
                " and removed"
            } else {
                ""
            }
        ))
    })?;
    Ok(Exit::Ok)
}
