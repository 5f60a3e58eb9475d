//! Checking a file for all its faults at once.
//!
//! The rules are those of opening ([`Rule`]), run so that nothing ends at the first error, and with all that is tolerated
//! listed too. What cannot be told after an error is left out: without a valid log nothing of the file is known, without
//! metadata nothing of the blocks.
//!
//! Invariants: the file is only read. A finding of severity [`Severity::Error`] is there if and only if opening refuses the
//! file. Memory is bounded whatever the file holds: of each rule some findings are listed and the others counted.

mod blocks;
mod chain;
mod reserved;

use std::sync::Arc;

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::{Finding, Findings};
use crate::format::header::{self, CurrentHeader};
use crate::format::{HEADER_AREA, MIB, metadata, region};
use crate::info::{FileInfo, Format};
use crate::io::ReadAt;
use crate::layer::file_info;
use crate::member;
use crate::rule::Severity;
use crate::space::SpaceMap;
use crate::vhd::Vhd;

pub use chain::{ChainReport, FileReport, check_chain};

/// What was found in one file. See [`check`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckReport {
    /// What was found, in the order of the structures of a file; of each rule at most 1,000 findings.
    pub findings: Vec<Finding>,
    /// How often each rule that is broken was broken.
    pub totals: Vec<(Rule, u64)>,
    /// What the file says about itself, if its metadata is good.
    pub info: Option<FileInfo>,
    /// What was counted on the way.
    pub figures: Figures,
}

/// Sizes and numbers of one file, as far as the check got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Entries of the log that every reader must replay.
    pub log_entries: u64,
    /// Pages of 4 KiB that replaying the log gives new content.
    pub log_pages: u64,
    /// Bytes that replaying the log makes zeros.
    pub log_zeroed_bytes: u64,
    /// Length of the file in bytes once its log is replayed.
    pub replayed_file_bytes: u64,
    /// Blocks by their state.
    pub blocks: BlockFigures,
    /// Sector bitmap blocks in the file.
    pub bitmap_blocks: u64,
    /// Bytes of the file that blocks and sector bitmap blocks take, space kept for trimmed blocks included.
    pub allocated_bytes: u64,
    /// Bytes of the file that belong to nothing.
    pub leaked_bytes: u64,
}

/// Numbers of payload blocks by state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BlockFigures {
    /// Never written; of a child: as in its parent.
    pub not_present: u64,
    /// Of no defined content: zeros.
    pub undefined: u64,
    /// Zeros.
    pub zero: u64,
    /// Trimmed: zeros.
    pub unmapped: u64,
    /// In the file.
    pub fully_present: u64,
    /// In the file and in the parent, by sectors.
    pub partially_present: u64,
}

impl CheckReport {
    /// Returns how bad the worst finding is.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.totals.iter().map(|(rule, _)| rule.severity()).max()
    }

    /// Returns how often a rule was broken.
    #[must_use]
    pub fn count(&self, rule: Rule) -> u64 {
        let total = self.totals.iter().find(|(broken, _)| *broken == rule);
        total.map_or(0, |(_, count)| *count)
    }

    /// Returns how many findings of a severity there are, those not listed included.
    #[must_use]
    pub fn count_of(&self, severity: Severity) -> u64 {
        let of_severity = |(rule, _): &&(Rule, u64)| rule.severity() == severity;
        self.totals
            .iter()
            .filter(of_severity)
            .map(|(_, count)| count)
            .sum()
    }
}

/// Checks a file against every rule, alone: parents are not looked for (see [`crate::check_chain`]).
///
/// Never writes. Fails only where the file cannot be read or is no virtual disk at all. Of a VHD only the first error is
/// told.
pub fn check(file: impl ReadAt + 'static) -> Result<CheckReport, Error> {
    check_shared(Arc::new(file))
}

pub(crate) fn check_shared(file: Arc<dyn ReadAt>) -> Result<CheckReport, Error> {
    let file_bytes = file.len().map_err(|source| Error::Read {
        what: "the length",
        at: 0,
        source,
    })?;
    let mut work = Work {
        findings: Findings::all(),
        figures: Figures {
            file_bytes,
            ..Figures::default()
        },
    };
    let info = match member::format_of(&*file)? {
        Format::Vhdx => work.check(file)?,
        Format::Vhd => work.check_vhd(file)?,
    };
    let (findings, totals) = work.findings.into_parts();
    Ok(CheckReport {
        findings,
        totals,
        info,
        figures: work.figures,
    })
}

/// A check under way.
struct Work {
    findings: Findings,
    figures: Figures,
}

impl Work {
    fn check(&mut self, file: Arc<dyn ReadAt>) -> Result<Option<FileInfo>, Error> {
        let file_bytes = self.figures.file_bytes;
        let findings = &mut self.findings;
        let current = match header::read_current(&*file, file_bytes, findings) {
            Err(
                err @ Error::Format {
                    rule: Rule::FileTooShort | Rule::FileSignature,
                    ..
                },
            ) => return Err(err),
            current => findings.go_on(current)?,
        };
        reserved::header_area(&*file, findings)?;
        let odd = file_bytes % MIB;
        findings.report_if(odd != 0, Rule::FileLength, 0, file_bytes)?;
        let Some(current) = current else {
            return Ok(None);
        };
        let backing = Backing::open(file, file_bytes, &current.header, findings);
        let Some(backing) = findings.go_on(backing)? else {
            return Ok(None);
        };
        let replay = backing.replay_figures();
        self.figures.log_entries = replay.entries;
        self.figures.log_pages = replay.pages;
        self.figures.log_zeroed_bytes = replay.zeroed_bytes;
        self.figures.replayed_file_bytes = backing.len();
        self.check_structures(&backing, &current)
    }

    fn check_vhd(&mut self, file: Arc<dyn ReadAt>) -> Result<Option<FileInfo>, Error> {
        match Vhd::open(file) {
            Ok(vhd) => Ok(Some(vhd.info().clone())),
            Err(Error::Format { rule, at, found }) => {
                self.findings.report(rule, at, found)?;
                Ok(None)
            }
            Err(err) => Err(err),
        }
    }

    /// Checks regions, metadata and blocks of a file whose log was dealt with.
    fn check_structures(
        &mut self,
        backing: &Backing,
        current: &CurrentHeader,
    ) -> Result<Option<FileInfo>, Error> {
        let findings = &mut self.findings;
        let listed = region::read(backing, current.header.log(), findings);
        let Some(listed) = findings.go_on(listed)? else {
            return Ok(None);
        };
        let Some(metadata_region) = listed.metadata else {
            return Ok(None);
        };
        let known = metadata::read(backing, metadata_region, findings);
        let Some(known) = findings.go_on(known)? else {
            return Ok(None);
        };
        if let (Some(geometry), Some(bat)) = (known.geometry, listed.bat) {
            let mut space = SpaceMap::default();
            space.claim(0, HEADER_AREA / MIB);
            for region in &listed.all {
                space.claim(region.offset / MIB, region.length.div_ceil(MIB));
            }
            let fixed = known.leave_blocks_allocated && !geometry.has_parent();
            self.check_blocks(backing, bat, geometry, fixed, &mut space)?;
        }
        let file_bytes = self.figures.file_bytes;
        Ok(known
            .whole()
            .map(|metadata| file_info(&current.header, &metadata, file_bytes)))
    }
}
