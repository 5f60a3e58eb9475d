//! `reprise vhdx ranges`: where data is, from the block tables only.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vhdx::{DiskFile, ExtentKind, OwnPlace, OwnRun, Place, Run};

use super::files::{in_file, open};
use super::parents::ParentArgs;
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{clean, stdout_failed};

/// Arguments of `vhdx ranges`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx ranges disk.avhdx --json\n  reprise vhdx ranges disk.avhdx --own --json\n\nRanges come in order and without gap, with --json one object per line. A range of kind log has no place of its own: its bytes lie in the log of a file that was not closed cleanly."
)]
pub(super) struct RangesArgs {
    /// Disk file; its parents are found by themselves
    file: PathBuf,
    /// Also say which file of the chain holds the bytes, and where in it
    #[arg(long)]
    places: bool,
    /// Of this file alone, with its places: what it leaves to its parent is of kind parent
    #[arg(long, conflicts_with = "given")]
    own: bool,
    #[command(flatten)]
    parents: ParentArgs,
}

/// One range.
#[derive(Debug, Serialize)]
struct Range<'a> {
    offset: u64,
    length: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_offset: Option<u64>,
}

/// Runs the verb. A disk may have millions of ranges, so each is printed as it is found.
pub(super) fn run(ctx: &Ctx, args: &RangesArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let in_file = |error| in_file(path, error);
    let mut list = List::begin(ctx, args.own || args.places)?;
    if args.own {
        let file = DiskFile::open(open(path)?).map_err(in_file)?;
        for run in file.own_runs() {
            list.add(&of_own(run.map_err(in_file)?, path))?;
        }
        return list.end();
    }
    let opened = args.parents.open(path)?;
    let disk = opened.chain.into_disk();
    if args.places {
        for run in disk.runs(0, disk.size()) {
            list.add(&of_chain(run.map_err(in_file)?, &opened.paths))?;
        }
        return list.end();
    }
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.map_err(in_file)?;
        let kind = match extent.kind {
            ExtentKind::Data => "data",
            ExtentKind::Zero => "zero",
        };
        list.add(&Range::new(extent.offset, extent.len, kind))?;
    }
    list.end()
}

fn of_own(run: OwnRun, path: &Path) -> Range<'_> {
    let range = |kind| Range::new(run.offset, run.len, kind);
    match run.place {
        OwnPlace::File { offset } => range("data").at(path, Some(offset)),
        OwnPlace::Log => range("log").at(path, None),
        OwnPlace::Zero => range("zero"),
        OwnPlace::Parent => range("parent"),
    }
}

fn of_chain(run: Run, paths: &[PathBuf]) -> Range<'_> {
    let range = |kind| Range::new(run.offset, run.len, kind);
    match run.place {
        Place::File { number, offset } => range("data").at(&paths[number], Some(offset)),
        Place::Log { number } => range("log").at(&paths[number], None),
        Place::Zero => range("zero"),
    }
}

impl<'a> Range<'a> {
    fn new(offset: u64, length: u64, kind: &'static str) -> Self {
        Self {
            offset,
            length,
            kind,
            file: None,
            file_offset: None,
        }
    }

    fn at(self, file: &'a Path, file_offset: Option<u64>) -> Self {
        Self {
            file: Some(file),
            file_offset,
            ..self
        }
    }
}

/// The output, line by line.
struct List<W> {
    writer: W,
    json: bool,
    places: bool,
}

impl List<()> {
    fn begin(ctx: &Ctx, places: bool) -> Result<List<impl Write>, Failure> {
        let mut writer = ctx.out.writer();
        let json = ctx.out.is_json();
        let heading = if places {
            "          OFFSET           LENGTH  KIND         FILE OFFSET  FILE\n"
        } else {
            "          OFFSET           LENGTH  KIND\n"
        };
        if !json {
            writer
                .write_all(heading.as_bytes())
                .map_err(|error| stdout_failed(&error))?;
        }
        Ok(List {
            writer,
            json,
            places,
        })
    }
}

impl<W: Write> List<W> {
    fn add(&mut self, range: &Range<'_>) -> Result<(), Failure> {
        self.write(range).map_err(|error| stdout_failed(&error))
    }

    fn write(&mut self, range: &Range<'_>) -> std::io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.writer, range)?;
            return self.writer.write_all(b"\n");
        }
        let Range {
            offset,
            length,
            kind,
            ..
        } = range;
        write!(self.writer, "{offset:>16} {length:>16}  ")?;
        if !self.places {
            return writeln!(self.writer, "{kind}");
        }
        let at = range
            .file_offset
            .map_or_else(|| "-".to_owned(), |at| at.to_string());
        let file = range
            .file
            .map_or_else(|| "-".to_owned(), |file| clean(&file.display().to_string()));
        writeln!(self.writer, "{kind:<6} {at:>18}  {file}")
    }

    fn end(mut self) -> Result<Exit, Failure> {
        self.writer.flush().map_err(|error| stdout_failed(&error))?;
        Ok(Exit::Ok)
    }
}
