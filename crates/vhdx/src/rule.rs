//! The rules of the format: what each says, how bad it is to break it, and where [MS-VHDX] has it.
//!
//! One list, in the order of the specification. Rules of severity [`Severity::Error`] are those that opening refuses; the
//! others are tolerated, and only [`crate::check`] tells of them. Some limits are ours and not the specification's: their
//! texts name the number.
//!
//! Invariant: the code of a rule never changes, and is never used again for another one.

use std::fmt;

/// How bad it is that a rule is broken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Allowed, but worth knowing.
    Note,
    /// The file can be read, but something is not as it should be and may do harm later.
    Warning,
    /// The file is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

// What to do about a finding.
const NOTHING: &str = "nothing needs to be done";
const RESTORE: &str = "bring the file back from where it was copied, or from a backup";
const FINISH: &str = "make the file again: the work that wrote it never ended";
const REPAIR: &str = "repair the file";
const CONVERT: &str = "convert the disk into a new file";
const COMPACT: &str = "compact the file to give the space back";
const OTHER_PROGRAM: &str = "read the file with the program that wrote it";
const RELINK: &str =
    "bring back the parent the child was made from, or set another one if its content is the same";
const MERGE: &str = "run the merge again, so that it ends";
const RESIZE: &str = "resize one of them before a merge";

macro_rules! rules {
    ($($name:ident $code:literal $section:literal $severity:ident $advice:ident $text:literal,)*) => {
        /// A rule of the format that a file can break, in the order of [MS-VHDX]; those of VHD follow.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
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

            /// Returns how bad it is to break the rule.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// Returns what can be done about a file that breaks the rule.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
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
    FileTooShort "file-too-short" "2.2" Error RESTORE "the file is shorter than its header area of 1 MiB",
    FileLength "file-length" "2.2" Note NOTHING "the length of the file is no multiple of 1 MiB",
    FileTail "file-tail" "2.2" Note COMPACT "the file goes on behind everything it uses",
    SpaceLeaked "space-leaked" "2.2" Note COMPACT "space inside the file belongs to nothing",
    HeaderAreaReserved "header-area-reserved" "2.2" Note NOTHING "reserved bytes of the header area are not zero",
    FileSignature "file-signature" "2.2.1" Error RESTORE "the file does not begin with the signature of a VHDX file",
    HeaderNoneValid "header-none-valid" "2.2.2" Error FINISH "neither header is valid (damaged, or the file was never finished)",
    HeaderOneBad "header-one-bad" "2.2.2" Warning REPAIR "one of the two headers is not valid",
    HeaderTie "header-tie" "2.2.2" Error RESTORE "the two headers differ but carry the same sequence number",
    HeaderTwins "header-twins" "2.2.2" Warning REPAIR "the two headers are the same, sequence number included",
    HeaderOtherLog "header-other-log" "2.2.2" Warning REPAIR "the two headers name different logs: if the newer one is lost, an old log is taken for current",
    HeaderVersion "header-version" "2.2.2" Error OTHER_PROGRAM "the version of the format is not 1",
    HeaderReserved "header-reserved" "2.2.2" Note NOTHING "reserved bytes of the current header are not zero",
    FileWriteGuidNil "file-write-guid-nil" "2.2.2" Note NOTHING "the file has no FileWriteGuid",
    DataWriteGuidNil "data-write-guid-nil" "2.2.2" Warning CONVERT "the disk has no DataWriteGuid, so children cannot tell it from another",
    LogVersion "log-version" "2.2.2" Error OTHER_PROGRAM "the log is in use and its version is not 0",
    LogVersionUnused "log-version-unused" "2.2.2" Note NOTHING "the version of the log is not 0, but the log is empty",
    LogPlace "log-place" "2.2.2" Error RESTORE "the log is not aligned to 1 MiB, lies in the header area or beyond the end of the file",
    LogMissing "log-missing" "2.2.2" Warning CONVERT "the file has no log, so it can be read but not changed",
    LogTooLong "log-too-long" "2.2.2" Error OTHER_PROGRAM "the log in use is longer than 256 MiB",
    LogInUse "log-in-use" "2.2.2" Note REPAIR "the file was not closed cleanly: its log holds changes that every reader must replay",
    RegionNoneValid "region-none-valid" "2.2.3.1" Error RESTORE "neither region table is valid",
    RegionOneBad "region-one-bad" "2.2.3.1" Warning REPAIR "one of the two region tables is not valid",
    RegionCopies "region-copies" "2.2.3.1" Warning REPAIR "the two region tables are not the same",
    RegionCount "region-count" "2.2.3.1" Error RESTORE "the region table has more than 2047 entries",
    RegionReserved "region-reserved" "2.2.3" Note NOTHING "reserved bytes of the region table are not zero",
    RegionDuplicate "region-duplicate" "2.2.3.2" Error RESTORE "a region is listed twice",
    RegionPlace "region-place" "2.2.3.2" Error RESTORE "a region is empty, not aligned to 1 MiB, in the header area or beyond the end of the file",
    RegionOverlap "region-overlap" "2.2.3.2" Error RESTORE "a region overlaps another one or the log",
    RegionUnknown "region-unknown" "2.2.3.2" Error OTHER_PROGRAM "a required region is unknown to this version",
    RegionOptional "region-optional" "2.2.3.2" Note NOTHING "an optional region is unknown to this version: it is left alone",
    RegionNotRequired "region-not-required" "2.2.3.2" Note NOTHING "a known region is not marked as required",
    RegionMissing "region-missing" "2.2.3.2" Error RESTORE "the BAT or the metadata region is missing",
    LogEntryHeader "log-entry-header" "2.3.1.1" Note NOTHING "an entry of the log in use has impossible sizes, tail or number: it is as if never written",
    LogEntryChecksum "log-entry-checksum" "2.3.1.1" Note NOTHING "an entry of the log in use has a wrong checksum: it is as if never written",
    LogEntryReserved "log-entry-reserved" "2.3.1.1" Note NOTHING "reserved bytes of an entry of the log in use are not zero",
    LogFileSizes "log-file-sizes" "2.3.1.1" Note NOTHING "a length of the file in an entry of the log in use is no multiple of 1 MiB",
    LogFileTooLong "log-file-too-long" "2.3.1.1" Error RESTORE "the log in use makes the file longer than 256 TiB",
    LogZeroDescriptor "log-zero-descriptor" "2.3.1.2" Note NOTHING "an entry of the log in use has an impossible zero descriptor: it is as if never written",
    LogZeroRanges "log-zero-ranges" "2.3.1.2" Error OTHER_PROGRAM "the log in use has more than 262,144 zero descriptors",
    LogDataDescriptor "log-data-descriptor" "2.3.1.3" Note NOTHING "an entry of the log in use has an impossible data descriptor: it is as if never written",
    LogDataSector "log-data-sector" "2.3.1.4" Note NOTHING "an entry of the log in use has a data sector of another entry: it is as if never written",
    LogNoSequence "log-no-sequence" "2.3.2" Error RESTORE "the log is in use but holds no valid sequence of entries",
    LogFileTruncated "log-file-truncated" "2.3.3" Error RESTORE "the file is shorter than the log says it was",
    BitmapUnused "bitmap-unused" "2.4.2" Note NOTHING "a sector bitmap block is present, but no block is partially present in its group",
    BitmapFull "bitmap-full" "2.4.2" Note NOTHING "a block is partially present, but every sector of it lies in this file",
    BatTooShort "bat-too-short" "2.5" Error RESTORE "the block allocation table does not cover the virtual disk",
    BatPadding "bat-padding" "2.5" Note NOTHING "the block allocation table goes on behind the last block and is not zero there",
    BatReserved "bat-reserved" "2.5.1" Note NOTHING "reserved bits of an entry of the block allocation table are not zero",
    BlockState "block-state" "2.5.1.1" Error RESTORE "a block has a reserved state",
    BlockPartial "block-partial" "2.5.1.1" Error RESTORE "a block is partially present, but the disk has no parent or no sector bitmap for it",
    BlockOffset "block-offset" "2.5.1.1" Note NOTHING "a block that has no place in the file names one: it means nothing",
    BitmapState "bitmap-state" "2.5.1.2" Error RESTORE "a sector bitmap block has a reserved state, or is present without a parent",
    BlockPlace "block-place" "2.5.1" Error RESTORE "a block lies in the header area or beyond the end of the file",
    BlockOverlap "block-overlap" "2.5.1" Error RESTORE "a block overlaps another one, a region or the log",
    BlockCut "block-cut" "2.5.1" Warning CONVERT "the last block is cut by the end of the file, behind the end of the disk",
    AnchorPlace "anchor-place" "2.5.1.1" Note NOTHING "space kept for a trimmed block lies beyond the end of the file",
    MetadataSignature "metadata-signature" "2.6.1.1" Error RESTORE "the metadata table has no signature",
    MetadataCount "metadata-count" "2.6.1.1" Error RESTORE "the metadata table has more than 2047 entries, or too many of one class",
    MetadataReserved "metadata-reserved" "2.6.1" Note NOTHING "reserved bytes of the metadata table are not zero",
    MetadataEntry "metadata-entry" "2.6.1.2" Error RESTORE "a metadata entry lies outside the region or has impossible flags",
    MetadataOverlap "metadata-overlap" "2.6.1.2" Error RESTORE "two metadata items overlap",
    MetadataDuplicate "metadata-duplicate" "2.6.1.2" Error RESTORE "a metadata item is listed twice",
    MetadataUnknown "metadata-unknown" "2.6.1.2" Error OTHER_PROGRAM "a required metadata item is unknown to this version",
    MetadataOptional "metadata-optional" "2.6.1.2" Note NOTHING "an optional metadata item is unknown to this version: it is kept as it is",
    MetadataFlags "metadata-flags" "2.6.2" Note NOTHING "a known metadata item has other flags than the specification gives it",
    MetadataMissing "metadata-missing" "2.6.2" Error RESTORE "a known metadata item is missing",
    MetadataLength "metadata-length" "2.6.2" Error RESTORE "a known metadata item has the wrong length",
    Incomplete "incomplete" "2.6.2" Error FINISH "the creation of the file was never finished",
    BlockSize "block-size" "2.6.2.1" Error RESTORE "the block size is not a power of two from 1 to 256 MiB",
    ParametersReserved "parameters-reserved" "2.6.2.1" Note NOTHING "reserved bits of the file parameters are not zero",
    FixedChild "fixed-child" "2.6.2.1" Note NOTHING "the disk has a parent and is marked as fixed: the mark means nothing",
    FixedHole "fixed-hole" "2.6.2.1" Warning CONVERT "the disk is marked as fixed, but a block has no place in the file",
    DiskSize "disk-size" "2.6.2.2" Error RESTORE "the virtual size is zero, over 64 TiB or no multiple of the sector size",
    DiskIdNil "disk-id-nil" "2.6.2.3" Note NOTHING "the virtual disk has no id",
    SectorSize "sector-size" "2.6.2.4" Error RESTORE "a sector size is neither 512 nor 4096",
    SectorSizeOrder "sector-size-order" "2.6.2.5" Warning NOTHING "the physical sector size is smaller than the logical one",
    LocatorMissing "locator-missing" "2.6.2.6" Error RESTORE "the disk has a parent but no parent locator",
    LocatorUnused "locator-unused" "2.6.2.6" Note NOTHING "there is a parent locator, but the disk is not marked to have a parent",
    LocatorFormat "locator-format" "2.6.2.6" Error RESTORE "the parent locator is malformed",
    LocatorReserved "locator-reserved" "2.6.2.6.1" Note NOTHING "reserved bytes of the parent locator are not zero",
    LocatorType "locator-type" "2.6.2.6.1" Error OTHER_PROGRAM "the parent locator is of an unknown type",
    LocatorLinkage "locator-linkage" "2.6.2.6.3" Error RELINK "the parent locator names no valid parent identity",
    MergeUnfinished "merge-unfinished" "2.6.2.6.3" Warning MERGE "the parent locator names a second parent identity: a merge into the parent has not ended",
    LocatorPath "locator-path" "2.6.2.6.3" Error RELINK "the parent locator names no path",
    LocatorText "locator-text" "2.6.2.6.3" Note NOTHING "a path of the parent locator is not valid UTF-16",
    LocatorKey "locator-key" "2.6.2.6.3" Note NOTHING "the parent locator has a key unknown to this version",
    ParentMissing "parent-missing" "2.6.2.6.3" Error RELINK "no file is where the parent locator says the parent is",
    ParentIdentity "parent-identity" "2.6.2.6.3" Error RELINK "the identity of the parent is not the one the child was made from: the parent was changed or is another disk",
    ParentSectorSize "parent-sector-size" "2.6.2.4" Error RELINK "child and parent have different logical sector sizes",
    ParentSize "parent-size" "2.6.2.2" Warning RESIZE "child and parent have different virtual sizes",
    ParentDiskId "parent-disk-id" "2.6.2.3" Note NOTHING "child and parent have different virtual disk ids",
    ChainCycle "chain-cycle" "2.6.2.6" Error RELINK "the chain of parents leads back to a disk already in it",
    ChainDepth "chain-depth" "2.6.2.6" Error CONVERT "the chain of parents is longer than 256 disks",
    VhdFooter "vhd-footer" "VHD: footer" Error RESTORE "neither the end nor the beginning of the file holds the footer of a VHD",
    VhdFooterChecksum "vhd-footer-checksum" "VHD: footer" Error RESTORE "the checksum of the footer is wrong, and there is no sound copy of it",
    VhdVersion "vhd-version" "VHD: footer" Error OTHER_PROGRAM "the version of the format is not 1.0",
    VhdType "vhd-type" "VHD: footer" Error OTHER_PROGRAM "the disk is neither fixed nor dynamic nor differencing",
    VhdSize "vhd-size" "VHD: footer" Error RESTORE "the virtual size is zero, over 2040 GiB or no multiple of 512",
    VhdFixedLength "vhd-fixed-length" "VHD: footer" Error RESTORE "the file is shorter than the fixed disk it holds",
    VhdHeaderPlace "vhd-header-place" "VHD: dynamic header" Error RESTORE "the dynamic header is not aligned to 512 bytes, or lies over the footer or beyond the end of the file",
    VhdHeaderSignature "vhd-header-signature" "VHD: dynamic header" Error RESTORE "the dynamic header has no signature",
    VhdHeaderChecksum "vhd-header-checksum" "VHD: dynamic header" Error RESTORE "the checksum of the dynamic header is wrong",
    VhdHeaderVersion "vhd-header-version" "VHD: dynamic header" Error OTHER_PROGRAM "the version of the dynamic header is not 1.0",
    VhdBlockSize "vhd-block-size" "VHD: dynamic header" Error RESTORE "the block size is not a power of two of at least 512",
    VhdTableLength "vhd-table-length" "VHD: dynamic header" Error RESTORE "the block table has fewer entries than the disk has blocks, or the disk has more than 8,388,608 blocks",
    VhdTablePlace "vhd-table-place" "VHD: dynamic header" Error RESTORE "the block table is not aligned to 512 bytes, overlaps another structure or lies beyond the end of the file",
    VhdLocator "vhd-locator" "VHD: parent locator" Error RESTORE "a parent locator lies beyond the end of the file, is longer than 64 KiB or no UTF-16",
    VhdLocatorPath "vhd-locator-path" "VHD: parent locator" Error RELINK "a differencing disk does not name its parent",
    VhdBlockPlace "vhd-block-place" "VHD: block allocation table" Error RESTORE "a block lies over a structure or beyond the end of the file",
    VhdBlockOverlap "vhd-block-overlap" "VHD: block allocation table" Error RESTORE "a block overlaps another one",
    VhdChainFormat "vhd-chain-format" "VHD: parent locator" Error CONVERT "child and parent are of different formats",
}
