//! `reprise vhdx info`: what a file says about itself, and the chain it belongs to.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vhdx::{FileInfo, ParentLocator};

use super::files::{in_file, open};
use super::parents::{Opened, ParentArgs};
use super::progress::Ctx;
use super::{format, kind};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::{View, bytes};

/// Arguments of `vhdx info`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  reprise vhdx info disk.vhdx --json")]
pub(super) struct InfoArgs {
    /// Disk file: VHDX, AVHDX or VHD
    file: PathBuf,
    #[command(flatten)]
    parents: ParentArgs,
}

/// What is printed of one file.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    path: PathBuf,
    format: &'static str,
    kind: &'static str,
    size_bytes: u64,
    file_bytes: u64,
    block_bytes: u32,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
    disk_id: String,
    data_write_guid: String,
    file_write_guid: String,
    /// The log is in use: the file is open somewhere, or was not closed cleanly.
    unclean: bool,
    parent: Option<Parent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Vec<Layer>>,
    /// Why the chain could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain_problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_bytes: Option<u64>,
}

/// What a differencing disk says about its parent.
#[derive(Debug, Serialize)]
struct Parent {
    linkage: String,
    linkage2: Option<String>,
    relative_path: Option<String>,
    volume_path: Option<String>,
    absolute_path: Option<String>,
}

/// One file of a chain.
#[derive(Debug, Serialize)]
struct Layer {
    path: PathBuf,
    kind: &'static str,
    data_write_guid: String,
    file_bytes: u64,
}

impl From<&ParentLocator> for Parent {
    fn from(locator: &ParentLocator) -> Self {
        Self {
            linkage: locator.linkage.to_string(),
            linkage2: locator.linkage2.map(|linkage| linkage.to_string()),
            relative_path: locator.relative_path.clone(),
            volume_path: locator.volume_path.clone(),
            absolute_path: locator.absolute_path.clone(),
        }
    }
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &InfoArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let found = vhdx::inspect(open(path)?).map_err(|error| in_file(path, error))?;
    let mut info = Info::new(path, &found);
    // A child without its parent still has something to say about itself.
    match args.parents.open(path) {
        Ok(opened) => {
            if info.parent.is_some() {
                info.chain = Some(layers(&opened));
            }
            let disk = opened.chain.into_disk();
            let allocated = disk.allocated_bytes();
            info.allocated_bytes = Some(allocated.map_err(|error| in_file(path, error))?);
        }
        Err(failure) if info.parent.is_some() => {
            ctx.out
                .note(&format!("the chain cannot be opened: {}", failure.message));
            info.chain_problem = Some(failure.message);
        }
        Err(failure) => return Err(failure),
    }
    ctx.out.show(&info, Info::view)?;
    Ok(Exit::Ok)
}

fn layers(opened: &Opened) -> Vec<Layer> {
    let files = opened.chain.layers().iter().zip(&opened.paths);
    files
        .map(|(layer, path)| Layer {
            path: path.clone(),
            kind: kind(layer.info().kind),
            data_write_guid: layer.info().data_write_guid.to_string(),
            file_bytes: layer.info().file_bytes,
        })
        .collect()
}

impl Info {
    /// Makes what is printed of one file, without its chain.
    pub(super) fn new(path: &Path, info: &FileInfo) -> Self {
        Self {
            path: path.to_owned(),
            format: format(info.format),
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
            parent: info.parent.as_ref().map(Parent::from),
            chain: None,
            chain_problem: None,
            allocated_bytes: None,
        }
    }

    /// Shows it to people.
    pub(super) fn view(&self) -> View {
        let parent = self.parent.as_ref().map_or_else(String::new, |parent| {
            let paths = [
                &parent.relative_path,
                &parent.volume_path,
                &parent.absolute_path,
            ];
            let mut lines: Vec<&str> = paths.into_iter().flatten().map(String::as_str).collect();
            lines.push(&parent.linkage);
            lines.extend(parent.linkage2.as_deref());
            lines.join("\n")
        });
        let chain = self.chain.iter().flatten().map(|layer| {
            format!(
                "{}, {}, {}",
                layer.path.display(),
                layer.kind,
                bytes(layer.file_bytes)
            )
        });
        let exactly = |count: u64| format!("{} ({count} bytes)", bytes(count));
        let log = if self.unclean {
            "in use (replayed in memory; the file is open elsewhere or was not closed cleanly)"
        } else {
            "empty"
        };
        View::fields([
            ("file", self.path.display().to_string()),
            ("format", format!("{}, {}", self.format, self.kind)),
            ("virtual size", exactly(self.size_bytes)),
            ("file size", exactly(self.file_bytes)),
            (
                "allocated",
                self.allocated_bytes.map_or_else(String::new, bytes),
            ),
            (
                "block",
                match self.block_bytes {
                    0 => String::new(),
                    block => bytes(u64::from(block)),
                },
            ),
            (
                "sectors",
                format!(
                    "{} logical, {} physical",
                    self.logical_sector_bytes, self.physical_sector_bytes
                ),
            ),
            ("disk id", self.disk_id.clone()),
            ("data write id", self.data_write_guid.clone()),
            ("log", log.to_owned()),
            ("parent", parent),
            ("chain", chain.collect::<Vec<_>>().join("\n")),
        ])
    }
}
