//! What can go wrong: which rule of the format a file breaks, which read failed, what a tree holds that no file can.

use std::{fmt, io};

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file breaks a rule of the format, or holds something that must be refused.
    #[error("{rule} (file offset {at:#x}, found {found:#x})")]
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
    /// The tree holds what the format cannot.
    #[error("cannot be stored: {what} ({key})")]
    Unstorable {
        /// What is wrong with it.
        what: &'static str,
        /// The path of the key.
        key: String,
    },
}

impl Error {
    /// Returns the rule of the format that is broken.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Format { rule, .. } => Some(*rule),
            Self::Read { .. } | Self::Unstorable { .. } => None,
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

macro_rules! rules {
    ($($name:ident $code:literal $text:literal,)*) => {
        /// A rule of the format that a file can break, in the order of the file.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the stable code of the rule.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }

        impl fmt::Display for Rule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

rules! {
    HeaderNoneValid "header-none-valid" "neither header is valid: this is no HyperVStorage file, or it is damaged",
    HeaderTie "header-tie" "both headers carry the same sequence number",
    HeaderVersion "header-version" "the version of the format is not 4.0",
    HeaderAlignment "header-alignment" "the alignment is not a power of two from 4 to 64 KiB",
    LogPlace "log-place" "the replay log lies over the headers or beyond the end of the file",
    LogHeader "log-header" "the header of the replay log is damaged",
    LogPending "log-pending" "the replay log has pending entries: the file was not closed cleanly, copy it once it was",
    TableSignature "table-signature" "an object table has no signature",
    TablePlace "table-place" "an object table lies over the headers or beyond the end of the file, or is not where it is needed",
    TableEntry "table-entry" "the checksum of an object table's entry is wrong",
    ObjectType "object-type" "an object is of an unknown type",
    ObjectPlace "object-place" "an object lies over the headers or beyond the end of the file",
    ObjectOverlap "object-overlap" "an object overlaps another one",
    KeysHeader "keys-header" "the header of a key table is damaged",
    KeysTwice "keys-twice" "two key tables have the same index and the same sequence number",
    KeysFill "keys-fill" "the entries of a key table do not fill it exactly",
    EntrySize "entry-size" "an entry of a key table is shorter than what it holds, or reaches beyond its table",
    EntryChecksum "entry-checksum" "the checksum of a key is wrong",
    EntryType "entry-type" "a key is of an unknown type",
    EntryName "entry-name" "the name of a key is empty, not terminated or not UTF-8",
    EntryParent "entry-parent" "a key belongs to a node that does not exist",
    EntryLoop "entry-loop" "keys belong to themselves, or lie deeper than 128 nodes",
    ValueLength "value-length" "a text is of an odd number of bytes, or a yes or no is neither",
    ValuePlace "value-place" "a large value does not lie in a file object of its own",
}
