//! `reprise vhdx info|ranges|export|create`: VHDX files and chains, without any server.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vhdx::{
    BulkWriter, Chain, DirectoryResolver, Disk, DiskKind, Extent, ExtentKind, FileInfo, Params,
};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, stdout_failed};
use crate::values;
use crate::view::{Rows, View, bytes};

/// How much is read and written at once.
const PIECE_BYTES: u64 = 4 << 20;

/// Arguments of `vhdx`.
#[derive(Args, Debug)]
pub(crate) struct VhdxArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what a file says about itself, and its parents
    #[command(after_help = "Example:\n  reprise vhdx info disk.vhdx --json")]
    Info {
        /// VHDX or AVHDX file
        file: PathBuf,
    },
    /// List which ranges of a disk hold data and which are zeros, without reading data
    #[command(after_help = "Example:\n  reprise vhdx ranges disk.avhdx --json")]
    Ranges {
        /// VHDX or AVHDX file; its parents are found by themselves
        file: PathBuf,
    },
    /// Write a disk, with all its parents, as a raw image
    #[command(
        after_help = "Examples:\n  reprise vhdx export disk.avhdx disk.raw\n  reprise vhdx export disk.vhdx - > disk.raw"
    )]
    Export {
        /// VHDX or AVHDX file; its parents are found by themselves
        file: PathBuf,
        /// File that gets the image, sparse; - for standard output
        out: PathBuf,
    },
    /// Make a disk: empty, or with the content of a raw image
    #[command(
        after_help = "Examples:\n  reprise vhdx create empty.vhdx --size 64GiB\n  reprise vhdx create disk.vhdx --from disk.raw"
    )]
    Create {
        /// File to make; refused where it exists
        file: PathBuf,
        /// Virtual size; with --from at least that of the image [default: that of the image]
        #[arg(long, value_name = "SIZE", value_parser = values::size, required_unless_present = "from")]
        size: Option<u64>,
        /// Raw image whose bytes the disk gets
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Give every block its place from the start
        #[arg(long)]
        fixed: bool,
        /// Size of a block: a power of two from 1MiB to 256MiB
        #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = "32MiB")]
        block: u64,
        /// Logical sector size
        #[arg(long, value_name = "512|4096", default_value_t = 512)]
        sector: u32,
    },
}

/// Runs a verb.
pub(crate) fn run(out: Output, args: VhdxArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Info { file } => info(out, &file),
        Verb::Ranges { file } => ranges(out, &file),
        Verb::Export { file, out: target } => export(out, &file, &target),
        Verb::Create {
            file,
            size,
            from,
            fixed,
            block,
            sector,
        } => {
            let source = from
                .map(|path| open(&path).map(|file| (path, file)))
                .transpose()?;
            let params = Params {
                block_bytes: u32::try_from(block)
                    .map_err(|_| Failure::usage("--block is beyond 256MiB"))?,
                logical: sector,
                physical: 4096,
                kind: if fixed {
                    DiskKind::Fixed
                } else {
                    DiskKind::Dynamic
                },
                ..Params::dynamic(disk_size(size, source.as_ref(), sector)?)
            };
            let made = create(
                &file,
                &params,
                source.as_ref().map(|(path, file)| (path.as_path(), file)),
            )?;
            out.show(&Info::new(&file, &made), |info| info.view())?;
            Ok(Exit::Ok)
        }
    }
}

/// What `info` prints of one file.
#[derive(Debug, Serialize)]
struct Info {
    path: PathBuf,
    kind: &'static str,
    size_bytes: u64,
    file_bytes: u64,
    block_bytes: u32,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
    disk_id: String,
    data_write_guid: String,
    file_write_guid: String,
    unclean: bool,
    parent: Option<Parent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Vec<Layer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_bytes: Option<u64>,
}

/// What a differencing disk says about its parent.
#[derive(Debug, Serialize)]
struct Parent {
    linkage: String,
    relative_path: Option<String>,
    volume_path: Option<String>,
    absolute_path: Option<String>,
}

/// One file of a chain.
#[derive(Debug, Serialize)]
struct Layer {
    kind: &'static str,
    data_write_guid: String,
    file_bytes: u64,
}

impl Info {
    fn new(path: &Path, info: &FileInfo) -> Self {
        Self {
            path: path.to_owned(),
            kind: kind(info.kind),
            size_bytes: info.size,
            file_bytes: info.file_bytes,
            block_bytes: info.block_bytes,
            logical_sector_bytes: info.logical_sector_bytes,
            physical_sector_bytes: info.physical_sector_bytes,
            disk_id: info.disk_id.to_string(),
            data_write_guid: info.data_write_guid.to_string(),
            file_write_guid: info.file_write_guid.to_string(),
            unclean: info.unclean,
            parent: info.parent.as_ref().map(|parent| Parent {
                linkage: parent.linkage.to_string(),
                relative_path: parent.relative_path.clone(),
                volume_path: parent.volume_path.clone(),
                absolute_path: parent.absolute_path.clone(),
            }),
            chain: None,
            allocated_bytes: None,
        }
    }

    fn view(&self) -> View {
        let parent = self.parent.as_ref().map_or_else(String::new, |parent| {
            let path = parent
                .relative_path
                .as_deref()
                .or(parent.absolute_path.as_deref());
            format!("{} ({})", path.unwrap_or("?"), parent.linkage)
        });
        let chain = self.chain.as_ref().map_or_else(String::new, |layers| {
            let layers: Vec<String> = layers
                .iter()
                .map(|layer| {
                    format!(
                        "{}, {}, {}",
                        layer.kind,
                        bytes(layer.file_bytes),
                        layer.data_write_guid
                    )
                })
                .collect();
            layers.join("\n")
        });
        View::fields([
            ("file", self.path.display().to_string()),
            ("kind", self.kind.to_owned()),
            (
                "virtual size",
                format!("{} ({} bytes)", bytes(self.size_bytes), self.size_bytes),
            ),
            (
                "file size",
                format!("{} ({} bytes)", bytes(self.file_bytes), self.file_bytes),
            ),
            (
                "allocated",
                self.allocated_bytes.map_or_else(String::new, bytes),
            ),
            ("block", bytes(u64::from(self.block_bytes))),
            (
                "sectors",
                format!(
                    "{} logical, {} physical",
                    self.logical_sector_bytes, self.physical_sector_bytes
                ),
            ),
            ("disk id", self.disk_id.clone()),
            ("data write id", self.data_write_guid.clone()),
            (
                "closed cleanly",
                if self.unclean {
                    "no (log replayed in memory)"
                } else {
                    "yes"
                }
                .to_owned(),
            ),
            ("parent", parent),
            ("chain", chain),
        ])
    }
}

fn kind(kind: DiskKind) -> &'static str {
    match kind {
        DiskKind::Fixed => "fixed",
        DiskKind::Dynamic => "dynamic",
        DiskKind::Differencing => "differencing",
    }
}

fn info(out: Output, path: &Path) -> Result<Exit, Failure> {
    let mut info = Info::new(
        path,
        &vhdx::inspect(open(path)?).map_err(|error| in_file(path, error))?,
    );
    // A child without its parent still has something to say about itself.
    match chain(path) {
        Ok(chain) => {
            if info.parent.is_some() {
                let layers = chain.layers().iter().map(|layer| Layer {
                    kind: kind(layer.info().kind),
                    data_write_guid: layer.info().data_write_guid.to_string(),
                    file_bytes: layer.info().file_bytes,
                });
                info.chain = Some(layers.collect());
            }
            info.allocated_bytes = chain.into_disk().allocated_bytes().ok();
        }
        Err(failure) if info.parent.is_some() => {
            out.note(&format!("the chain cannot be opened: {}", failure.message));
        }
        Err(failure) => return Err(failure),
    }
    out.show(&info, Info::view)?;
    Ok(Exit::Ok)
}

fn ranges(out: Output, path: &Path) -> Result<Exit, Failure> {
    let disk = chain(path)?.into_disk();
    let name = |kind: ExtentKind| match kind {
        ExtentKind::Data => "data",
        ExtentKind::Zero => "zero",
    };
    if out.is_json() {
        let mut writer = out.writer();
        for extent in disk.extents(0, disk.size()) {
            let Extent { offset, len, kind } = extent.map_err(|error| in_file(path, error))?;
            let line = serde_json::json!({ "offset": offset, "length": len, "kind": name(kind) });
            writeln!(writer, "{line}").map_err(|error| stdout_failed(&error))?;
        }
        writer.flush().map_err(|error| stdout_failed(&error))?;
        return Ok(Exit::Ok);
    }
    let mut rows = Rows::new(["OFFSET", "LENGTH", "KIND"], "the disk is empty");
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.map_err(|error| in_file(path, error))?;
        rows.row([
            extent.offset.to_string(),
            extent.len.to_string(),
            name(extent.kind).to_owned(),
        ]);
    }
    out.show(&(), |()| View::Table(rows))?;
    Ok(Exit::Ok)
}

fn export(out: Output, path: &Path, target: &Path) -> Result<Exit, Failure> {
    let disk = chain(path)?.into_disk();
    if target == Path::new("-") {
        copy_to_stream(path, &disk, &mut out.writer())?;
        return Ok(Exit::Ok);
    }
    let trouble = |error: io::Error| {
        Failure::new(
            "failed",
            format!("cannot write {}: {error}", target.display()),
        )
    };
    let file = File::create_new(target).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Failure::new(
                api::codes::CONFLICT,
                format!("{} exists already", target.display()),
            )
            .hint("choose another name, or remove it first");
        }
        trouble(error)
    })?;
    let copied = copy_to_file(path, &disk, &file, trouble);
    let written = match copied {
        Ok(written) => written,
        Err(failure) => {
            // Half an image must not look like one.
            let _ = std::fs::remove_file(target);
            return Err(failure);
        }
    };
    let value =
        serde_json::json!({ "path": target, "size_bytes": disk.size(), "data_bytes": written });
    out.show(&value, |_| {
        View::Text(format!(
            "{}: {}, of these {} data",
            target.display(),
            bytes(disk.size()),
            bytes(written)
        ))
    })?;
    Ok(Exit::Ok)
}

fn copy_to_file(
    path: &Path,
    disk: &Disk,
    file: &File,
    trouble: impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    use vhdx::WriteAt;
    WriteAt::set_len(file, disk.size()).map_err(&trouble)?;
    let mut written = 0;
    each_piece(path, disk, |offset, piece| {
        if let Some(piece) = piece {
            file.write_all_at(piece, offset).map_err(&trouble)?;
            written += u64::try_from(piece.len()).unwrap_or(0);
        }
        Ok(())
    })?;
    WriteAt::sync(file).map_err(&trouble)?;
    Ok(written)
}

fn copy_to_stream(path: &Path, disk: &Disk, stream: &mut impl Write) -> Result<(), Failure> {
    let zeros = vec![0; piece_len(PIECE_BYTES)];
    let mut at = 0;
    each_piece(path, disk, |offset, piece| {
        let len = piece.map_or(0, <[u8]>::len);
        if piece.is_none() {
            // A hole ends where the next piece begins.
            while at < offset {
                let some = piece_len((offset - at).min(PIECE_BYTES));
                stream
                    .write_all(&zeros[..some])
                    .map_err(|error| stdout_failed(&error))?;
                at += u64::try_from(some).unwrap_or(0);
            }
        }
        if let Some(piece) = piece {
            stream
                .write_all(piece)
                .map_err(|error| stdout_failed(&error))?;
            at = offset + u64::try_from(len).unwrap_or(0);
        }
        Ok(())
    })?;
    stream.flush().map_err(|error| stdout_failed(&error))
}

/// Walks a disk from front to back: data in pieces with their offsets; a hole as its end, without bytes.
fn each_piece(
    path: &Path,
    disk: &Disk,
    mut take: impl FnMut(u64, Option<&[u8]>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; piece_len(PIECE_BYTES)];
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.map_err(|error| in_file(path, error))?;
        let end = extent.offset + extent.len;
        match extent.kind {
            ExtentKind::Zero => take(end, None)?,
            ExtentKind::Data => {
                let mut at = extent.offset;
                while at < end {
                    let piece = &mut buffer[..piece_len((end - at).min(PIECE_BYTES))];
                    disk.read_at(piece, at)
                        .map_err(|error| in_file(path, error))?;
                    take(at, Some(piece))?;
                    at += u64::try_from(piece.len()).unwrap_or(0);
                }
            }
        }
    }
    Ok(())
}

fn piece_len(len: u64) -> usize {
    usize::try_from(len).expect("a piece is at most 4 MiB")
}

fn disk_size(
    size: Option<u64>,
    source: Option<&(PathBuf, File)>,
    sector: u32,
) -> Result<u64, Failure> {
    let Some((path, file)) = source else {
        return size.ok_or_else(|| Failure::usage("give --size or --from"));
    };
    let len = vhdx::ReadAt::len(file).map_err(|error| {
        Failure::new("failed", format!("cannot read {}: {error}", path.display()))
    })?;
    match size {
        Some(size) if size < len => Err(Failure::usage(format!(
            "the image {} has {len} bytes, more than --size",
            path.display()
        ))),
        Some(size) => Ok(size),
        None => len
            .checked_next_multiple_of(u64::from(sector.max(1)))
            .ok_or_else(|| Failure::usage("the image is too large")),
    }
}

/// Makes a disk, and nothing where that fails.
fn create(
    path: &Path,
    params: &Params,
    source: Option<(&Path, &File)>,
) -> Result<FileInfo, Failure> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return Failure::new(
                    api::codes::CONFLICT,
                    format!("{} exists already", path.display()),
                )
                .hint("choose another name, or remove it first");
            }
            Failure::new("failed", format!("cannot make {}: {error}", path.display()))
        })?;
    let made = fill(file, path, params, source);
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

fn fill(
    file: File,
    path: &Path,
    params: &Params,
    source: Option<(&Path, &File)>,
) -> Result<FileInfo, Failure> {
    let mut writer = BulkWriter::create(file, params).map_err(|error| in_file(path, error))?;
    if let Some((from, image)) = source {
        use vhdx::ReadAt;
        let trouble = |error: io::Error| {
            Failure::new("failed", format!("cannot read {}: {error}", from.display()))
        };
        let len = ReadAt::len(image).map_err(trouble)?;
        let mut buffer = vec![0; piece_len(PIECE_BYTES)];
        let mut at = 0;
        while at < len {
            let piece = &mut buffer[..piece_len((len - at).min(PIECE_BYTES))];
            image.read_exact_at(piece, at).map_err(trouble)?;
            // Runs of zeros of a MiB, the smallest block, need no place.
            for (index, part) in piece.chunks(1 << 20).enumerate() {
                if part.iter().any(|byte| *byte != 0) {
                    let offset = at + (u64::try_from(index).unwrap_or(0) << 20);
                    writer
                        .write(offset, part)
                        .map_err(|error| in_file(path, error))?;
                }
            }
            at += u64::try_from(piece.len()).unwrap_or(0);
        }
    }
    writer.finish().map_err(|error| in_file(path, error))
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound {
            api::codes::NOT_FOUND
        } else {
            "failed"
        };
        Failure::new(code, format!("cannot open {}: {error}", path.display()))
    })
}

/// Opens a file with its parents, wherever on this machine their relative paths lead.
pub(crate) fn chain(path: &Path) -> Result<Chain, Failure> {
    let file = open(path)?;
    let absolute = std::fs::canonicalize(path).map_err(|error| {
        Failure::new(
            "failed",
            format!("cannot resolve {}: {error}", path.display()),
        )
    })?;
    let root: PathBuf = absolute
        .components()
        .take_while(|part| {
            matches!(
                part,
                std::path::Component::Prefix(_) | std::path::Component::RootDir
            )
        })
        .collect();
    let location: Vec<String> = absolute
        .strip_prefix(&root)
        .unwrap_or(&absolute)
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    Chain::open(file, &location.join("/"), &DirectoryResolver::new(root))
        .map_err(|error| in_file(path, error))
}

fn in_file(path: &Path, error: vhdx::Error) -> Failure {
    let mut failure = Failure::from(error);
    failure.message = format!("{}: {}", path.display(), failure.message);
    failure
}
