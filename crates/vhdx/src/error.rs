//! What can go wrong: which rule of the format a file breaks, which read failed, what a caller asked that cannot be.

use std::fmt;
use std::io;

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
            Self::Read { .. }
            | Self::Write { .. }
            | Self::ParentNotFound { .. }
            | Self::ParentNeeded
            | Self::NoParent
            | Self::OutOfRange { .. }
            | Self::NotAscending { .. }
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

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident $code:literal $section:literal $text:literal,)*) => {
        /// A rule of the format that a file can break, in the order of [MS-VHDX]; those of VHD follow.
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

            /// Returns the section of [MS-VHDX] the rule comes from, or the part of a VHD.
            #[must_use]
            pub fn section(self) -> &'static str {
                match self { $(Self::$name => $section,)* }
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
    FileTooShort "file-too-short" "2.2" "the file is shorter than its header area of 1 MiB",
    FileSignature "file-signature" "2.2.1" "the file does not begin with the signature of a VHDX file",
    HeaderNoneValid "header-none-valid" "2.2.2" "neither header is valid (damaged, or the file was never finished)",
    HeaderTie "header-tie" "2.2.2" "the two headers differ but carry the same sequence number",
    HeaderVersion "header-version" "2.2.2" "the version of the format is not 1",
    LogVersion "log-version" "2.2.2" "the log is in use and its version is not 0",
    LogPlace "log-place" "2.2.2" "the log is not aligned to 1 MiB, lies in the header area or beyond the end of the file",
    LogTooLong "log-too-long" "2.2.2" "the log in use is longer than 64 MiB",
    LogNoSequence "log-no-sequence" "2.3.3" "the log is in use but holds no valid sequence of entries",
    LogFileTruncated "log-file-truncated" "2.3.3" "the file is shorter than the log says it was",
    RegionNoneValid "region-none-valid" "2.2.3" "neither region table is valid",
    RegionCount "region-count" "2.2.3" "the region table has more than 2047 entries",
    RegionDuplicate "region-duplicate" "2.2.3" "a region is listed twice",
    RegionPlace "region-place" "2.2.3" "a region is empty, not aligned to 1 MiB, in the header area or beyond the end of the file",
    RegionOverlap "region-overlap" "2.2.3" "a region overlaps another one or the log",
    RegionUnknown "region-unknown" "2.2.3" "a required region is unknown to this version",
    RegionMissing "region-missing" "2.2.3" "the BAT or the metadata region is missing",
    MetadataSignature "metadata-signature" "2.6.1" "the metadata table has no signature",
    MetadataCount "metadata-count" "2.6.1" "the metadata table has more than 2047 entries, or too many of one class",
    MetadataEntry "metadata-entry" "2.6.1" "a metadata entry lies outside the region or has impossible flags",
    MetadataOverlap "metadata-overlap" "2.6.1" "two metadata items overlap",
    MetadataDuplicate "metadata-duplicate" "2.6.1" "a metadata item is listed twice",
    MetadataUnknown "metadata-unknown" "2.6.1" "a required metadata item is unknown to this version",
    MetadataMissing "metadata-missing" "2.6.2" "a known metadata item is missing",
    MetadataLength "metadata-length" "2.6.2" "a known metadata item has the wrong length",
    Incomplete "incomplete" "2.6.2" "the creation of the file was never finished",
    BlockSize "block-size" "2.6.2.1" "the block size is not a power of two from 1 to 256 MiB",
    DiskSize "disk-size" "2.6.2.2" "the virtual size is zero, over 64 TiB or no multiple of the sector size",
    SectorSize "sector-size" "2.6.2.4" "a sector size is neither 512 nor 4096",
    LocatorMissing "locator-missing" "2.6.2.6" "the disk has a parent but no parent locator",
    LocatorFormat "locator-format" "2.6.2.6" "the parent locator is malformed",
    LocatorType "locator-type" "2.6.2.6" "the parent locator is of an unknown type",
    LocatorLinkage "locator-linkage" "2.6.2.6" "the parent locator names no valid parent identity",
    LocatorPath "locator-path" "2.6.2.6" "the parent locator names no path",
    BatTooShort "bat-too-short" "2.5" "the block allocation table does not cover the virtual disk",
    BlockState "block-state" "2.5.1.1" "a block has a reserved state",
    BlockPartial "block-partial" "2.5.1.1" "a block is partially present, but the disk has no parent or no sector bitmap for it",
    BitmapState "bitmap-state" "2.5.1.2" "a sector bitmap block has a reserved state, or is present without a parent",
    BlockPlace "block-place" "2.5" "a block lies in the header area or beyond the end of the file",
    BlockOverlap "block-overlap" "2.5" "a block overlaps another one, a region or the log",
    ParentIdentity "parent-identity" "2.6.2.6" "the identity of the parent is not the one the child was made from: the parent was changed or is another disk",
    ParentSectorSize "parent-sector-size" "2.6.2.4" "child and parent have different logical sector sizes",
    ChainCycle "chain-cycle" "2.6.2.6" "the chain of parents leads back to a disk already in it",
    ChainDepth "chain-depth" "2.6.2.6" "the chain of parents is longer than 256 disks",
    VhdFooter "vhd-footer" "VHD: footer" "neither the end nor the beginning of the file holds the footer of a VHD",
    VhdFooterChecksum "vhd-footer-checksum" "VHD: footer" "the checksum of the footer is wrong, and there is no sound copy of it",
    VhdVersion "vhd-version" "VHD: footer" "the version of the format is not 1.0",
    VhdType "vhd-type" "VHD: footer" "the disk is neither fixed nor dynamic nor differencing",
    VhdSize "vhd-size" "VHD: footer" "the virtual size is zero, over 2040 GiB or no multiple of 512",
    VhdFixedLength "vhd-fixed-length" "VHD: footer" "the file is shorter than the fixed disk it holds",
    VhdHeaderPlace "vhd-header-place" "VHD: dynamic header" "the dynamic header is not aligned to 512 bytes, or lies over the footer or beyond the end of the file",
    VhdHeaderSignature "vhd-header-signature" "VHD: dynamic header" "the dynamic header has no signature",
    VhdHeaderChecksum "vhd-header-checksum" "VHD: dynamic header" "the checksum of the dynamic header is wrong",
    VhdHeaderVersion "vhd-header-version" "VHD: dynamic header" "the version of the dynamic header is not 1.0",
    VhdBlockSize "vhd-block-size" "VHD: dynamic header" "the block size is not a power of two of at least 512",
    VhdTableLength "vhd-table-length" "VHD: dynamic header" "the block table has fewer entries than the disk has blocks, or the disk has more than 8,388,608 blocks",
    VhdTablePlace "vhd-table-place" "VHD: dynamic header" "the block table is not aligned to 512 bytes, overlaps another structure or lies beyond the end of the file",
    VhdLocator "vhd-locator" "VHD: parent locator" "a parent locator lies beyond the end of the file, is longer than 64 KiB or no UTF-16",
    VhdLocatorPath "vhd-locator-path" "VHD: parent locator" "a differencing disk does not name its parent",
    VhdBlockPlace "vhd-block-place" "VHD: block allocation table" "a block lies over a structure or beyond the end of the file",
    VhdBlockOverlap "vhd-block-overlap" "VHD: block allocation table" "a block overlaps another one",
    VhdChainFormat "vhd-chain-format" "VHD: parent locator" "child and parent are of different formats",
}
