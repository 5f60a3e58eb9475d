//! Checking a leaf and all its parents: each file, and what holds between them.
//!
//! Parents are found as [`crate::Chain::open`] finds them, and passed over for the same reasons; only, a parent that is the
//! right one by its identity is followed although it has errors.

use std::io;
use std::sync::Arc;

use super::{CheckReport, check_shared};
use crate::chain::{ParentResolver, judge_identity, judge_link};
use crate::error::{Error, Rule};
use crate::findings::{Finding, Findings};
use crate::info::{FileInfo, ParentLocator};
use crate::io::ReadAt;
use crate::rule::Severity;

/// What was found in the files of a chain. See [`check_chain`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainReport {
    /// The files as far as they were found, leaf first.
    pub files: Vec<FileReport>,
}

/// What was found in one file of a chain, and on the way to its parent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileReport {
    /// Where the file lies, as the resolver names it.
    pub location: String,
    /// What was found in the file by itself.
    pub report: CheckReport,
    /// What is wrong between the file and its parent. Offsets mean nothing here.
    pub link: Vec<Finding>,
    /// Where its parent was looked for, best first.
    pub parent_candidates: Vec<String>,
}

impl ChainReport {
    /// Returns how bad the worst finding is, in the files and between them.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        let of_links = self.files.iter().flat_map(|file| &file.link);
        let of_links = of_links.map(|finding| finding.severity).max();
        let of_files = self.files.iter().filter_map(|file| file.report.worst());
        of_files.max().max(of_links)
    }
}

/// Checks `leaf`, which lies at `location`, and all its parents through `resolver`.
///
/// Never writes. Fails only where a file cannot be read, or the leaf is no virtual disk at all; parents that are none are
/// told as findings.
pub fn check_chain(
    leaf: impl ReadAt + 'static,
    location: &str,
    resolver: &dyn ParentResolver,
) -> Result<ChainReport, Error> {
    let mut files = vec![FileReport::new(
        location.to_owned(),
        check_shared(Arc::new(leaf))?,
    )];
    while let Some((link, candidates, next)) = follow(&files, resolver)? {
        if let Some(child) = files.last_mut() {
            child.link = link;
            child.parent_candidates = candidates;
        }
        match next {
            Some(next) => files.push(next),
            None => break,
        }
    }
    Ok(ChainReport { files })
}

/// What is wrong on the way to a parent, where it was looked for, and the parent.
type Way = (Vec<Finding>, Vec<String>, Option<FileReport>);

/// Finds the parent of the last file and judges the two together; `None` if it has no parent, or nobody can tell.
fn follow(files: &[FileReport], resolver: &dyn ParentResolver) -> Result<Option<Way>, Error> {
    let chain: Option<Vec<&FileInfo>> =
        files.iter().map(|file| file.report.info.as_ref()).collect();
    let (Some(chain), Some(child)) = (chain, files.last()) else {
        return Ok(None);
    };
    let Some(locator) = chain.last().and_then(|child| child.parent.as_ref()) else {
        return Ok(None);
    };
    let candidates = resolver.locate(&child.location, locator);
    let mut findings = Findings::all();
    let mut next = None;
    match find_parent(&candidates, locator, resolver)? {
        Ok((parent, info)) => {
            let judged = judge_link(&chain, &info, &mut findings);
            next = findings.go_on(judged)?.map(|()| parent);
        }
        Err(refusal) => findings.report(refusal.rule, refusal.at, refusal.found)?,
    }
    let (link, _) = findings.into_parts();
    Ok(Some((link, candidates, next)))
}

/// Returns the first candidate that is the parent, rather without errors than with; if there is none, why not.
fn find_parent(
    candidates: &[String],
    locator: &ParentLocator,
    resolver: &dyn ParentResolver,
) -> Result<Result<(FileReport, FileInfo), Finding>, Error> {
    let mut damaged = None;
    let mut refusal = None;
    for candidate in candidates {
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
        let report = match check_shared(file) {
            Ok(report) => report,
            Err(Error::Format { rule, at, found }) => {
                refusal.get_or_insert(Finding::new(rule, at, found));
                continue;
            }
            Err(err) => return Err(in_parent(err)),
        };
        let Some(info) = report.info.clone() else {
            let mut errors = report.findings.iter();
            if let Some(error) = errors.find(|finding| finding.severity == Severity::Error) {
                refusal.get_or_insert(*error);
            }
            continue;
        };
        let mut findings = Findings::all();
        judge_identity(locator, &info, &mut findings)?;
        let (other, _) = findings.into_parts();
        if let Some(finding) = other.first() {
            refusal.get_or_insert(*finding);
            continue;
        }
        let is_sound = report.worst() < Some(Severity::Error);
        let found = (FileReport::new(candidate.clone(), report), info);
        if is_sound {
            return Ok(Ok(found));
        }
        damaged.get_or_insert(found);
    }
    Ok(damaged.ok_or_else(|| {
        let missing = Finding::new(Rule::ParentMissing, 0, candidates.len() as u64);
        refusal.unwrap_or(missing)
    }))
}

impl FileReport {
    fn new(location: String, report: CheckReport) -> Self {
        Self {
            location,
            report,
            link: Vec::new(),
            parent_candidates: Vec::new(),
        }
    }
}
