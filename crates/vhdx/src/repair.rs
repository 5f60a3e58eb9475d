//! Bringing a file back to the state a clean close leaves.
//!
//! Three things are mended, because for each the format itself says what is right: the log of a file that was not closed
//! cleanly is replayed, a damaged or old header gives way to the current one, and the second region table becomes a copy of
//! the one that counts. Anything else would be a guess, and is refused.
//!
//! Invariants: nothing is written before the whole file was judged. Stopped at any moment, by a kill or a power loss, the
//! file reads as before, and repairing it again ends the work.

use std::sync::Arc;

use crate::check::{CheckReport, check_shared};
use crate::error::{Error, Rule};
use crate::info::Format;
use crate::io::{ReadAt, WriteAt};
use crate::rule::Severity;
use crate::writer::{Durability, Session, copy_of_table};

/// What a repair found and did. See [`repair`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RepairReport {
    /// What was found before.
    pub before: CheckReport,
    /// What is found now.
    pub after: CheckReport,
    /// Log entries that were replayed.
    pub replayed_entries: u64,
    /// Both headers were written anew.
    pub renewed_headers: bool,
    /// One region table became a copy of the other.
    pub renewed_region_table: bool,
}

impl RepairReport {
    /// Returns whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.replayed_entries > 0 || self.renewed_headers || self.renewed_region_table
    }
}

/// Replays the log in place, makes both headers current and both region tables the same, as far as they are not.
///
/// What the disk reads as stays, and so does its `DataWriteGuid`: children stay linked. Needs no parents. A file that breaks
/// a rule of severity [`Severity::Error`] is refused untouched, with the first such rule. A VHD has nothing to mend.
pub fn repair(file: impl WriteAt + 'static, durability: Durability) -> Result<RepairReport, Error> {
    let file: Arc<dyn WriteAt> = Arc::new(file);
    let check = || check_shared(Arc::clone(&file) as Arc<dyn ReadAt>);
    let before = check()?;
    let mut findings = before.findings.iter();
    if let Some(error) = findings.find(|finding| finding.severity == Severity::Error) {
        return Err(Error::format(error.rule, error.at, error.found));
    }
    if before.info.as_ref().map(|info| info.format) == Some(Format::Vhd) {
        return Err(Error::VhdUnchangeable);
    }
    let any = |rules: &[Rule]| rules.iter().any(|rule| before.count(*rule) > 0);
    let log = any(&[Rule::LogInUse]);
    let headers = any(&[Rule::HeaderOneBad, Rule::HeaderTwins, Rule::HeaderOtherLog]);
    let tables = any(&[Rule::RegionOneBad, Rule::RegionCopies]);
    if log || headers || tables {
        // This replays the log, after which both headers are new.
        let (mut session, structures) = Session::open(Arc::clone(&file), durability)?;
        if let Some(sound) = structures.regions.repair_from {
            // Beginning and ending the use of the log renews both headers, too.
            session.commit(&copy_of_table(&structures.backing, sound)?)?;
        } else if headers && !log {
            session.renew_headers()?;
        }
        session.close(None)?;
    }
    Ok(RepairReport {
        after: check()?,
        replayed_entries: before.figures.log_entries,
        renewed_headers: log || headers || tables,
        renewed_region_table: tables,
        before,
    })
}
