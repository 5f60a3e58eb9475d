//! What can go wrong: which rule of the format a file breaks, which read failed, what a caller asked that cannot be.

use std::io;

pub use crate::rule::Rule;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The file system failed; the same call may succeed later.
    Retry,
    /// The request cannot be met for this file or with these parameters.
    Refused,
    /// A parent of a differencing disk was not found.
    NotFound,
    /// The file breaks a rule of the format.
    Corrupt,
    /// The caller stopped the work.
    Cancelled,
}

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file breaks a rule of the format, or holds something that must be refused.
    #[error("{rule} (section {section}; file offset {at:#x}, found {found:#x})", section = rule.section())]
    Format {
        /// The rule it breaks.
        rule: Rule,
        /// Where in the file.
        at: u64,
        /// The value found there.
        found: u64,
    },
    /// Reading the file failed.
    #[error("failed to read {what} at file offset {at:#x}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// Where in the file.
        at: u64,
        /// The cause.
        source: io::Error,
    },
    /// Writing the file failed.
    #[error("failed to write {what} at file offset {at:#x}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where in the file.
        at: u64,
        /// The cause.
        source: io::Error,
    },
    /// An error in a file of the chain above the leaf.
    #[error("in the parent disk {location}")]
    InParent {
        /// The parent, as the resolver names it.
        location: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// No candidate for a parent exists.
    #[error(
        "the parent of {child} was not found (tried {tried}); bring it back or name it explicitly"
    )]
    ParentNotFound {
        /// The child, as the resolver names it.
        child: String,
        /// The locations that were tried.
        tried: String,
    },
    /// A differencing disk was opened without its parent.
    #[error("this is a differencing disk: open it together with its parent")]
    ParentNeeded,
    /// A parent was given to a disk that has none.
    #[error("this disk has no parent")]
    NoParent,
    /// The range lies outside the virtual disk.
    #[error("{len} bytes at offset {offset} reach beyond the virtual disk of {size} bytes")]
    OutOfRange {
        /// Start of the range in the virtual disk.
        offset: u64,
        /// Length of the range.
        len: u64,
        /// Size of the virtual disk.
        size: u64,
    },
    /// The bulk writer was given data before the end of what it already wrote.
    #[error("offset {offset} lies before {next}: a new disk is written in ascending order")]
    NotAscending {
        /// Offset of the write that was refused.
        offset: u64,
        /// The lowest offset that can still be written.
        next: u64,
    },
    /// A file was to be gone on with that is not the unfinished disk it should be.
    #[error(
        "this is not the unfinished disk that was described: {problem}; write it from the start"
    )]
    NotUnfinished {
        /// What is different.
        problem: &'static str,
    },
    /// A VHD was given where only a VHDX can be.
    #[error(
        "this is a VHD file of the first generation: it is read and converted, but not changed in place"
    )]
    VhdUnchangeable,
    /// Parameters of a new disk that the format or this crate does not allow.
    #[error("cannot make such a disk: {0}")]
    Parameters(&'static str),
    /// The child is smaller than its parent, so a merge would have to shrink the parent.
    #[error(
        "the child holds {child} bytes, its parent {parent}: grow the child to that before the merge"
    )]
    SizesDiffer {
        /// Virtual size of the child.
        child: u64,
        /// Virtual size of the parent.
        parent: u64,
    },
    /// A disk is to shrink, but holds something beyond its new end.
    #[error(
        "the disk holds data at offset {offset}, beyond its new end: make room there first, or discard it explicitly"
    )]
    DataBeyondEnd {
        /// Where in the virtual disk.
        offset: u64,
    },
    /// A differencing disk is to shrink, and only its parent knows what lies beyond the new end.
    #[error(
        "at offset {offset}, beyond the new end, the disk shows what its parent holds: discard it explicitly"
    )]
    ParentBeyondEnd {
        /// Where in the virtual disk.
        offset: u64,
    },
    /// An earlier write or flush failed: what reached the disk is unknown.
    #[error("an earlier write failed, so nothing more is written; open the file again")]
    Poisoned,
    /// The caller stopped the work; it can be run again.
    #[error("stopped on request; run it again to go on")]
    Cancelled,
}

impl Error {
    /// Returns what a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Format { .. } => Kind::Corrupt,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                Kind::Corrupt
            }
            Self::Read { .. } | Self::Write { .. } | Self::Poisoned => Kind::Retry,
            Self::InParent { source, .. } => source.kind(),
            Self::ParentNotFound { .. } => Kind::NotFound,
            Self::ParentNeeded
            | Self::NoParent
            | Self::OutOfRange { .. }
            | Self::NotAscending { .. }
            | Self::NotUnfinished { .. }
            | Self::VhdUnchangeable
            | Self::Parameters(_)
            | Self::SizesDiffer { .. }
            | Self::DataBeyondEnd { .. }
            | Self::ParentBeyondEnd { .. } => Kind::Refused,
            Self::Cancelled => Kind::Cancelled,
        }
    }

    /// Returns the rule of the format that is broken, also where the error lies in a parent.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Format { rule, .. } => Some(*rule),
            Self::InParent { source, .. } => source.rule(),
            Self::ParentNotFound { .. } => Some(Rule::ParentMissing),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::ParentNeeded
            | Self::NoParent
            | Self::OutOfRange { .. }
            | Self::NotAscending { .. }
            | Self::NotUnfinished { .. }
            | Self::VhdUnchangeable
            | Self::Parameters(_)
            | Self::SizesDiffer { .. }
            | Self::DataBeyondEnd { .. }
            | Self::ParentBeyondEnd { .. }
            | Self::Poisoned
            | Self::Cancelled => None,
        }
    }

    pub(crate) fn format(rule: Rule, at: u64, found: impl Into<u64>) -> Self {
        Self::Format {
            rule,
            at,
            found: found.into(),
        }
    }
}
