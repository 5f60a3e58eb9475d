//! `reprise vhdx convert`: any disk that can be read, as a new VHDX without parents.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use vhdx::{
    ConvertOptions, DEFAULT_BLOCK_BYTES, DiskKind, Error, FileInfo, Format, Params, ReadAt,
};

use super::create::block_size;
use super::files::{NewFile, in_file, len, open};
use super::info::Info;
use super::parents::{Opened, ParentArgs, Seen};
use super::progress::{Ctx, Tell};
use crate::exit::Exit;
use crate::failure::Failure;

/// Arguments of `vhdx convert`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx convert old.vhd new.vhdx\n  reprise vhdx convert disk_2.avhdx whole.vhdx --fixed\n  reprise vhdx convert disk.img disk.vhdx\n\nBlocks of zeros take no space in a dynamic disk. The source is not changed."
)]
pub(super) struct ConvertArgs {
    /// VHDX or AVHDX with its parents, VHD, or raw image (.raw, .img, or any name with --raw)
    source: PathBuf,
    /// VHDX to make; refused where it exists
    target: PathBuf,
    /// The source is a raw image
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    parents: ParentArgs,
}

/// What a disk made of another is to be like.
#[derive(Args, Debug)]
pub(super) struct ShapeArgs {
    /// Give every block its place from the start
    #[arg(long, conflicts_with = "dynamic")]
    fixed: bool,
    /// Give only blocks with data a place (the default)
    #[arg(long)]
    dynamic: bool,
    /// Size of a block: a power of two from 1MiB to 256MiB [default: as in the source, of a VHD or image 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block: Option<u32>,
    /// Give the disk a new id; without it, it stays the same disk to those who use it
    #[arg(long)]
    new_id: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &ConvertArgs) -> Result<Exit, Failure> {
    let made = if args.raw || is_raw_by_name(&args.source) {
        let image = open(&args.source)?;
        let size = image_size(&args.source, &image, 512)?;
        let params = Params {
            kind: args.shape.kind(),
            block_bytes: args.shape.block.unwrap_or(DEFAULT_BLOCK_BYTES),
            ..Params::dynamic(size)
        };
        of_image(ctx, &args.source, &image, &args.target, &params)?
    } else {
        let opened = args.parents.open(&args.source)?;
        of_chain(ctx, &args.source, opened, &args.target, &args.shape)?
    };
    ctx.out.show(&Info::new(&args.target, &made), Info::view)?;
    Ok(Exit::Ok)
}

fn is_raw_by_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        ["raw", "img"]
            .iter()
            .any(|raw| extension.eq_ignore_ascii_case(raw))
    })
}

/// Returns the size of a disk that holds an image, in whole sectors.
pub(super) fn image_size(path: &Path, image: &File, sector: u32) -> Result<u64, Failure> {
    len(path, image)?
        .checked_next_multiple_of(u64::from(sector))
        .ok_or_else(|| Failure::usage(format!("the image {} is too large", path.display())))
}

impl ShapeArgs {
    /// Returns whether anything was asked for.
    pub(super) fn is_given(&self) -> bool {
        self.fixed || self.dynamic || self.new_id || self.block.is_some()
    }

    fn kind(&self) -> DiskKind {
        if self.fixed {
            DiskKind::Fixed
        } else {
            DiskKind::Dynamic
        }
    }
}

/// Makes one new file of a chain.
pub(super) fn of_chain(
    ctx: &Ctx,
    source: &Path,
    opened: Opened,
    target: &Path,
    shape: &ShapeArgs,
) -> Result<FileInfo, Failure> {
    let (chain, seen) = opened.for_long_read(ctx);
    // Blocks of a child are small; those of the root are what the disk was made with.
    let root = chain.layers().last().map(|root| root.info());
    let root_block = root
        .filter(|root| root.format == Format::Vhdx)
        .map(|root| root.block_bytes);
    let disk = chain.into_disk();
    let new = Params::dynamic(disk.size());
    let params = Params {
        kind: shape.kind(),
        block_bytes: shape.block.or(root_block).unwrap_or(DEFAULT_BLOCK_BYTES),
        logical: disk.logical_sector_bytes(),
        physical: disk.physical_sector_bytes(),
        disk_id: if shape.new_id {
            new.disk_id
        } else {
            disk.disk_id()
        },
        ..new
    };
    make(ctx, source, target, |file, progress| {
        let made = vhdx::convert(&disk, file, &params, ConvertOptions::default(), progress);
        made.map(|made| (made, Some(seen)))
    })
}

/// Makes a disk of a raw image.
pub(super) fn of_image(
    ctx: &Ctx,
    source: &Path,
    image: &dyn ReadAt,
    target: &Path,
    params: &Params,
) -> Result<FileInfo, Failure> {
    make(ctx, source, target, |file, progress| {
        let made = vhdx::convert_raw(image, file, params, ConvertOptions::default(), progress);
        made.map(|made| (made, None))
    })
}

/// Makes a file with what `fill` writes into it, and nothing where that fails.
fn make(
    ctx: &Ctx,
    source: &Path,
    target: &Path,
    fill: impl FnOnce(File, &mut Tell<'_>) -> Result<(FileInfo, Option<Seen>), Error>,
) -> Result<FileInfo, Failure> {
    let new = NewFile::begin(target)?;
    let file = new.file()?;
    let mut progress = ctx.progress(format!("convert {}", source.display()));
    let made = fill(file, &mut |at| progress.at(at.bytes_done, at.bytes_total));
    let (made, seen) = made.map_err(|error| {
        if matches!(error, Error::Cancelled) {
            return progress.stopped();
        }
        let of_target = matches!(error, Error::Write { .. } | Error::Parameters(_));
        in_file(if of_target { target } else { source }, error)
    })?;
    if let Some(seen) = seen {
        seen.is_unchanged()?;
    }
    new.finish()?;
    Ok(made)
}
