//! What can go wrong on the way, and whose fault it is.

use store::{BoxError, ChunkId, ErrorKind, PackError, TreeError};

/// Why a backup ended.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The caller asked for it.
    #[error("the backup was cancelled")]
    Cancelled,
    /// The disk or file could not be read.
    #[error("failed to read the source at offset {offset}")]
    Read {
        /// Where in the image, in bytes.
        offset: u64,
        /// Why.
        source: BoxError,
    },
    /// The vault did not do what was asked.
    #[error("the vault failed to {verb}")]
    Link {
        /// What was asked.
        verb: &'static str,
        /// Why.
        source: BoxError,
    },
    /// Another part of the same session failed before.
    #[error("the backup session failed before: {cause}")]
    SessionFailed {
        /// What failed first.
        cause: String,
    },
    /// The tree of the base could not be read, or the new one not be made.
    #[error("failed to make the image tree")]
    Tree(#[source] TreeError),
    /// A chunk could not be sealed.
    #[error("failed to seal a pack")]
    Pack(#[source] PackError),
    /// The base is of another image.
    #[error(
        "the base image has {base_bytes} bytes, the source {source_bytes}; a full backup is needed"
    )]
    BaseDoesNotFit {
        /// Length of the base.
        base_bytes: u64,
        /// Length of the source.
        source_bytes: u64,
    },
}

impl BackupError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            BackupError::Cancelled | BackupError::BaseDoesNotFit { .. } => ErrorKind::Refused,
            BackupError::Read { .. }
            | BackupError::Link { .. }
            | BackupError::SessionFailed { .. } => ErrorKind::Retry,
            BackupError::Tree(source) => source.kind(),
            BackupError::Pack(source) => source.kind(),
        }
    }
}

/// Why a restore ended. No byte after the place it names was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The caller asked for it.
    #[error("the restore was cancelled")]
    Cancelled,
    /// The image's tree could not be read.
    #[error("failed to read the image tree")]
    Tree(#[source] TreeError),
    /// The vault did not do what was asked.
    #[error("the vault failed to send the chunks of the image at offset {offset}")]
    Link {
        /// Where in the image, in bytes.
        offset: u64,
        /// Why.
        source: BoxError,
    },
    /// A chunk did not come.
    #[error("chunk {chunk}, needed at offset {offset} of the image, is missing from the vault")]
    MissingChunk {
        /// The chunk.
        chunk: ChunkId,
        /// Where in the image, in bytes.
        offset: u64,
    },
    /// A chunk came, but is not what it should be.
    #[error("chunk {chunk}, needed at offset {offset} of the image, is damaged")]
    DamagedChunk {
        /// The chunk.
        chunk: ChunkId,
        /// Where in the image, in bytes.
        offset: u64,
        /// What is wrong.
        source: PackError,
    },
    /// A chunk lacks cells that the image needs.
    #[error("chunk {chunk} lacks bytes needed at offset {offset} of the image")]
    ShortChunk {
        /// The chunk.
        chunk: ChunkId,
        /// Where in the image, in bytes.
        offset: u64,
    },
    /// The target could not be written.
    #[error("failed to write the target at offset {offset}")]
    Write {
        /// Where in the image, in bytes.
        offset: u64,
        /// Why.
        source: BoxError,
    },
    /// The run ended before all was written.
    #[error("only {found} of {expected} bytes were restored")]
    Incomplete {
        /// Bytes restored.
        found: u64,
        /// Bytes asked for.
        expected: u64,
    },
    /// All chunks were right, but together they are not the image that was backed up.
    #[error("the restored content has digest {found}, the recovery point says {expected}")]
    WrongDigest {
        /// The digest of the recovery point.
        expected: String,
        /// The digest of what was written.
        found: String,
    },
}

impl RestoreError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            RestoreError::Cancelled => ErrorKind::Refused,
            RestoreError::Tree(source) => source.kind(),
            RestoreError::Link { .. } | RestoreError::Write { .. } => ErrorKind::Retry,
            RestoreError::Incomplete { .. } => ErrorKind::Bug,
            RestoreError::MissingChunk { .. }
            | RestoreError::DamagedChunk { .. }
            | RestoreError::ShortChunk { .. }
            | RestoreError::WrongDigest { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Why a verification ended.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The caller asked for it.
    #[error("the verification was cancelled")]
    Cancelled,
    /// What was written could not be read.
    #[error("failed to read back at offset {offset}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// Why.
        source: BoxError,
    },
    /// It reads back as something else.
    #[error("what reads back at offset {offset} ({len} bytes) is not what was written")]
    Mismatch {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes were compared together.
        len: u64,
    },
    /// It has another length.
    #[error("what reads back has {found} bytes, {expected} were expected")]
    WrongLength {
        /// Length of the image.
        expected: u64,
        /// Length found.
        found: u64,
    },
}

impl VerifyError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            VerifyError::Cancelled => ErrorKind::Refused,
            VerifyError::Read { .. } => ErrorKind::Retry,
            VerifyError::Mismatch { .. } | VerifyError::WrongLength { .. } => ErrorKind::Corrupt,
        }
    }
}
