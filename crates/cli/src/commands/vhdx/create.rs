//! `reprise vhdx create`: a new disk, empty, of a raw image, or as a child.

use std::path::{Path, PathBuf};

use clap::Args;
use vhdx::{BulkWriter, DEFAULT_BLOCK_BYTES, DiskKind, FileInfo, Format, Params, ParentLink};

use super::convert::{image_size, of_image};
use super::files::{CONVERT_FIRST, NewFile, in_file, open};
use super::info::Info;
use super::parents::relative;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::values;

/// Arguments of `vhdx create`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx create empty.vhdx --size 64GiB\n  reprise vhdx create disk.vhdx --from disk.raw\n  reprise vhdx create child.avhdx --parent disk.vhdx\n\nA disk that has children must not be changed any more: make a child only of a disk nobody writes to."
)]
pub(super) struct CreateArgs {
    /// File to make; refused where it exists
    file: PathBuf,
    /// Virtual size; with --from at least that of the image [default: that of the image]
    #[arg(long, value_name = "SIZE", value_parser = values::size, required_unless_present_any = ["from", "parent"], conflicts_with = "parent")]
    size: Option<u64>,
    /// Raw image whose bytes the disk gets
    #[arg(long, value_name = "FILE", conflicts_with = "parent")]
    from: Option<PathBuf>,
    /// Make a differencing disk on top of this one, with its sizes
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// Path of the parent as Windows is to find it, such as C:\VMs\disk.vhdx; the relative path is always written
    #[arg(long, value_name = "PATH", requires = "parent")]
    parent_path: Option<String>,
    /// Give every block its place from the start
    #[arg(long, conflicts_with = "parent")]
    fixed: bool,
    /// Size of a block: a power of two from 1MiB to 256MiB [default: 32MiB; of a child 2MiB]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block: Option<u32>,
    /// Logical sector size
    #[arg(long, value_name = "512|4096", value_parser = sector_size, default_value = "512", conflicts_with = "parent")]
    sector: u32,
    /// Physical sector size
    #[arg(long, value_name = "512|4096", value_parser = sector_size, default_value = "4096", conflicts_with = "parent")]
    physical: u32,
}

/// Reads the size of a block.
pub(super) fn block_size(text: &str) -> Result<u32, String> {
    let size = values::size(text)?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() && (1 << 20..=256 << 20).contains(&size) => Ok(size),
        Ok(_) | Err(_) => Err("a block is a power of two from 1MiB to 256MiB".to_owned()),
    }
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("a sector has 512 or 4096 bytes".to_owned()),
    }
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &CreateArgs) -> Result<Exit, Failure> {
    let made = match (&args.parent, &args.from) {
        (Some(parent), _) => child(args, parent)?,
        (None, Some(from)) => with_image(ctx, args, from)?,
        (None, None) => {
            let size = args
                .size
                .ok_or_else(|| Failure::usage("give --size, --from or --parent"))?;
            make(&args.file, &params(args, size))?
        }
    };
    ctx.out.show(&Info::new(&args.file, &made), Info::view)?;
    Ok(Exit::Ok)
}

fn params(args: &CreateArgs, size: u64) -> Params {
    Params {
        block_bytes: args.block.unwrap_or(DEFAULT_BLOCK_BYTES),
        logical: args.sector,
        physical: args.physical,
        kind: if args.fixed {
            DiskKind::Fixed
        } else {
            DiskKind::Dynamic
        },
        ..Params::dynamic(size)
    }
}

fn child(args: &CreateArgs, parent: &Path) -> Result<FileInfo, Failure> {
    let info = vhdx::inspect(open(parent)?).map_err(|error| in_file(parent, error))?;
    if info.format == Format::Vhd {
        let what = format!("{}: a VHD cannot be the parent of a VHDX", parent.display());
        return Err(Failure::usage(what).hint(CONVERT_FIRST));
    }
    let params = Params::child_of(&info, link(&args.file, parent, &info, &args.parent_path)?);
    let params = Params {
        block_bytes: args.block.unwrap_or(params.block_bytes),
        ..params
    };
    make(&args.file, &params)
}

/// Returns how the disk at `child` is to name its parent.
pub(super) fn link(
    child: &Path,
    parent: &Path,
    info: &FileInfo,
    absolute: &Option<String>,
) -> Result<ParentLink, Failure> {
    let relative_path = relative(child, parent)?;
    let absolute_path = absolute.clone().or_else(|| on_windows(parent));
    if relative_path.is_none() && absolute_path.is_none() {
        return Err(Failure::usage(format!(
            "{} has no path that Windows could follow from {}",
            parent.display(),
            child.display()
        ))
        .hint("put both on one volume, under names without backslashes, or give the path"));
    }
    Ok(ParentLink {
        data_write_guid: info.data_write_guid,
        relative_path,
        volume_path: None,
        absolute_path,
    })
}

/// Returns the absolute path of a file where that is a path of Windows.
#[cfg(windows)]
fn on_windows(path: &Path) -> Option<String> {
    let absolute = std::fs::canonicalize(path).ok()?;
    absolute.to_str().map(str::to_owned)
}

#[cfg(not(windows))]
fn on_windows(_path: &Path) -> Option<String> {
    None
}

fn with_image(ctx: &Ctx, args: &CreateArgs, from: &Path) -> Result<FileInfo, Failure> {
    let image = open(from)?;
    let least = image_size(from, &image, args.sector)?;
    let size = args.size.unwrap_or(least);
    if size < least {
        return Err(Failure::usage(format!(
            "the image {} needs {least} bytes, more than --size",
            from.display()
        )));
    }
    of_image(ctx, from, &image, &args.file, &params(args, size))
}

/// Makes an empty disk, and nothing where that fails.
fn make(path: &Path, params: &Params) -> Result<FileInfo, Failure> {
    let new = NewFile::begin(path)?;
    let made = BulkWriter::create(new.file()?, params).and_then(BulkWriter::finish);
    let made = made.map_err(|error| in_file(path, error))?;
    new.finish()?;
    Ok(made)
}
