//! Where rules report to: opening ends at the first error, checking goes on and lists everything.
//!
//! The parsers of `format` state each rule once and report what breaks it here; what becomes of a report is decided by how
//! the work was begun. What is only worth a note costs an opened file nothing but the look.
//!
//! Invariant: where everything is listed, an [`Error::Format`] that a parser returns was reported before it was returned, so
//! that it may be passed over ([`Findings::go_on`]).

use std::fmt;

use crate::error::{Error, Rule};
use crate::rule::Severity;

/// Findings listed for each rule; more are only counted.
const LISTED_PER_RULE: u64 = 1000;

/// A rule that a file breaks, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file.
    pub at: u64,
    /// The value found there.
    pub found: u64,
}

impl Finding {
    pub(crate) fn new(rule: Rule, at: u64, found: u64) -> Self {
        Self {
            rule,
            severity: rule.severity(),
            at,
            found,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (section {}; file offset {:#x}, found {:#x})",
            self.severity,
            self.rule,
            self.rule.section(),
            self.at,
            self.found
        )
    }
}

/// What becomes of a broken rule.
pub(crate) enum Findings {
    /// The first error ends the work; what is tolerated is tolerated.
    FirstError,
    /// Everything is listed.
    All(Collected),
}

/// Findings of one file.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    listed: Vec<Finding>,
    /// How often each rule was broken; in the order in which that was met.
    totals: Vec<(Rule, u64)>,
}

impl Findings {
    /// Returns one that lists everything.
    pub(crate) fn all() -> Self {
        Self::All(Collected::default())
    }

    /// Returns whether anybody wants to know of what is tolerated.
    pub(crate) fn wants_all(&self) -> bool {
        match self {
            Self::FirstError => false,
            Self::All(_) => true,
        }
    }

    /// Takes a finding. Fails where it ends the work.
    pub(crate) fn report(
        &mut self,
        rule: Rule,
        at: u64,
        found: impl Into<u64>,
    ) -> Result<(), Error> {
        match self {
            Self::FirstError if rule.severity() == Severity::Error => {
                Err(Error::format(rule, at, found))
            }
            Self::FirstError => Ok(()),
            Self::All(collected) => {
                collected.add(Finding::new(rule, at, found.into()));
                Ok(())
            }
        }
    }

    /// Takes a finding if `broken`.
    pub(crate) fn report_if(
        &mut self,
        broken: bool,
        rule: Rule,
        at: u64,
        found: impl Into<u64>,
    ) -> Result<(), Error> {
        if broken {
            self.report(rule, at, found)
        } else {
            Ok(())
        }
    }

    /// Takes what another one collected of rules this one has not met.
    pub(crate) fn append(&mut self, other: Self) {
        if let (Self::All(mine), Self::All(other)) = (self, other) {
            mine.listed.extend(other.listed);
            mine.totals.extend(other.totals);
        }
    }

    /// Returns what was listed, and how often each rule was broken.
    pub(crate) fn into_parts(self) -> (Vec<Finding>, Vec<(Rule, u64)>) {
        match self {
            Self::FirstError => (Vec::new(), Vec::new()),
            Self::All(collected) => (collected.listed, collected.totals),
        }
    }

    /// Takes a finding that leaves its structure without sense; the caller returns the error.
    pub(crate) fn fatal(&mut self, rule: Rule, at: u64, found: impl Into<u64>) -> Error {
        let found = found.into();
        match self.report(rule, at, found) {
            Ok(()) => Error::format(rule, at, found),
            Err(err) => err,
        }
    }

    /// Passes over a structure without sense where everything is listed: its finding is in the list already.
    pub(crate) fn go_on<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Format { .. }) if self.wants_all() => Ok(None),
            Err(err) => Err(err),
        }
    }
}

impl Collected {
    fn add(&mut self, finding: Finding) {
        let known = self
            .totals
            .iter()
            .position(|(rule, _)| *rule == finding.rule);
        let number = known.unwrap_or(self.totals.len());
        if known.is_none() {
            self.totals.push((finding.rule, 0));
        }
        let total = &mut self.totals[number].1;
        *total += 1;
        if *total <= LISTED_PER_RULE {
            self.listed.push(finding);
        }
    }
}
