//! Putting a chain together: finding each parent and making sure it is the one.

use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::info::{FileInfo, Format, ParentLocator};
use crate::io::ReadAt;
use crate::member::DiskFile;

/// The longest chain that is opened, leaf and root included.
pub const MAX_CHAIN_DEPTH: usize = 256;

/// Finds and opens the parents of a chain.
///
/// A *location* is whatever the resolver likes to name a file by: a path, an index. It also names the file in errors.
pub trait ParentResolver {
    /// Returns where the parent of the disk at `child` may be, best first.
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String>;

    /// Opens the file at a location; `NotFound` moves on to the next one.
    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>>;
}

/// A leaf and its parents, each checked to be the one its child was made from.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<DiskFile>,
}

impl Chain {
    /// Opens `leaf`, which lies at `location`, and all its parents through `resolver`.
    ///
    /// A candidate whose identity does not match is passed over for the next one.
    pub fn open(
        leaf: impl ReadAt + 'static,
        location: &str,
        resolver: &dyn ParentResolver,
    ) -> Result<Self, Error> {
        let mut location = location.to_owned();
        let mut layers = vec![DiskFile::open(leaf)?];
        while let Some(child) = layers.last()
            && let Some(locator) = &child.info().parent
        {
            let (parent, found) = open_parent(child, &location, locator, resolver)?;
            let in_parent = |source| Error::InParent {
                location: found.clone(),
                source: Box::new(source),
            };
            judge_link(&infos(&layers), parent.info(), &mut Findings::FirstError)
                .map_err(in_parent)?;
            layers.push(parent);
            location = found;
        }
        Ok(Self { layers })
    }

    /// Puts together a chain of files already opened, leaf first.
    ///
    /// Errors name a parent by its place in the list.
    pub fn from_layers<L: Into<DiskFile>>(layers: Vec<L>) -> Result<Self, Error> {
        let mut checked: Vec<DiskFile> = Vec::with_capacity(layers.len());
        for (number, layer) in layers.into_iter().map(Into::into).enumerate() {
            if let Some(child) = checked.last() {
                let locator = child.info().parent.as_ref().ok_or(Error::NoParent)?;
                let in_parent = |source| Error::InParent {
                    location: format!("number {number}"),
                    source: Box::new(source),
                };
                let findings = &mut Findings::FirstError;
                judge_identity(locator, layer.info(), findings)
                    .and_then(|()| judge_link(&infos(&checked), layer.info(), findings))
                    .map_err(in_parent)?;
            }
            checked.push(layer);
        }
        match checked.last() {
            Some(root) if root.info().parent.is_none() => Ok(Self { layers: checked }),
            Some(_) | None => Err(Error::ParentNeeded),
        }
    }

    /// Returns the files, leaf first.
    #[must_use]
    pub fn layers(&self) -> &[DiskFile] {
        &self.layers
    }

    /// Takes the chain apart, leaf first.
    #[must_use]
    pub fn into_layers(self) -> Vec<DiskFile> {
        self.layers
    }

    /// Returns the chain as one disk.
    #[must_use]
    pub fn into_disk(self) -> Disk {
        Disk::from(self)
    }
}

/// Opens the first candidate that is the parent.
fn open_parent(
    child: &DiskFile,
    location: &str,
    locator: &ParentLocator,
    resolver: &dyn ParentResolver,
) -> Result<(DiskFile, String), Error> {
    let candidates = resolver.locate(location, locator);
    let mut refusal = None;
    for candidate in &candidates {
        let in_parent = |source| Error::InParent {
            location: candidate.clone(),
            source: Box::new(source),
        };
        let file = match resolver.open(candidate) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(in_parent(Error::Read {
                    what: "the file",
                    at: 0,
                    source,
                }));
            }
        };
        let opened = DiskFile::open(file).and_then(|parent| {
            judge_identity(locator, parent.info(), &mut Findings::FirstError)?;
            Ok(parent)
        });
        match opened {
            Ok(parent) => return Ok((parent, candidate.clone())),
            Err(err) => refusal = refusal.or(Some(in_parent(err))),
        }
    }
    Err(refusal.unwrap_or_else(|| Error::ParentNotFound {
        child: location.to_owned(),
        tried: if candidates.is_empty() {
            describe(&child.info().parent)
        } else {
            candidates.join(", ")
        },
    }))
}

/// Returns the paths a locator names, for a message.
fn describe(locator: &Option<ParentLocator>) -> String {
    let paths = locator.iter().flat_map(|locator| {
        [
            &locator.relative_path,
            &locator.volume_path,
            &locator.absolute_path,
        ]
    });
    paths
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn infos(layers: &[DiskFile]) -> Vec<&FileInfo> {
    layers.iter().map(DiskFile::info).collect()
}

/// Judges whether a file is the parent that a locator names.
pub(crate) fn judge_identity(
    locator: &ParentLocator,
    parent: &FileInfo,
    findings: &mut Findings,
) -> Result<(), Error> {
    let found = parent.data_write_guid;
    let other = !locator.accepts(found);
    findings.report_if(other, Rule::ParentIdentity, 0, found.as_fields().0)
}

/// Judges what concerns the chain so far, leaf first, and the next parent.
pub(crate) fn judge_link(
    chain: &[&FileInfo],
    parent: &FileInfo,
    findings: &mut Findings,
) -> Result<(), Error> {
    let (leaf, child) = (chain[0], chain[chain.len() - 1]);
    let depth = chain.len() as u64;
    let format = leaf.format != parent.format;
    findings.report_if(format, Rule::VhdChainFormat, 0, depth)?;
    let sector = parent.logical_sector_bytes;
    let sectors = leaf.logical_sector_bytes != sector;
    findings.report_if(sectors, Rule::ParentSectorSize, 0, sector)?;
    // No two disks of a chain can have one identity, so a file met again is known by it.
    if chain
        .iter()
        .any(|file| file.data_write_guid == parent.data_write_guid)
    {
        return Err(findings.fatal(Rule::ChainCycle, 0, depth));
    }
    if chain.len() == MAX_CHAIN_DEPTH {
        return Err(findings.fatal(Rule::ChainDepth, 0, depth));
    }
    findings.report_if(child.size != parent.size, Rule::ParentSize, 0, parent.size)?;
    // Every VHD has an id of its own.
    let ids = parent.format == Format::Vhdx && child.disk_id != parent.disk_id;
    findings.report_if(ids, Rule::ParentDiskId, 0, parent.disk_id.as_fields().0)
}
