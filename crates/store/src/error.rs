//! What can be wrong with bytes, keys, packs and trees, and what a caller does about it.

use crate::{EntryId, NodeId, PackId};

/// An error of whoever implements one of our traits.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again later.
    Retry,
    /// The request itself is wrong, or not allowed.
    Refused,
    /// The thing asked for is not there.
    NotFound,
    /// Stored bytes are damaged or were tampered with.
    Corrupt,
    /// An error of this program.
    Bug,
}

/// Bytes that do not have the layout they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Shorter than the layout says.
    #[error("{what} is cut short: {needed} bytes needed, {found} found")]
    Truncated {
        /// Which layout.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        found: u64,
    },
    /// It does not open with its magic bytes.
    #[error("these bytes are not a {what}")]
    WrongMagic {
        /// Which layout was expected.
        what: &'static str,
    },
    /// A version this program does not know.
    #[error("{what} has version {version}, which this program does not know; use a newer reprise")]
    UnknownVersion {
        /// Which layout.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// A field contradicts the layout.
    #[error("{what} is not valid: {why}")]
    Invalid {
        /// Which layout.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The seal does not open: damaged, tampered with, or another key.
    #[error("{what} does not open under this key: damaged, tampered with, or another vault's")]
    NotAuthentic {
        /// Which layout.
        what: &'static str,
    },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        FormatError::Invalid {
            what,
            why: why.into(),
        }
    }

    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            FormatError::UnknownVersion { .. } => ErrorKind::Refused,
            FormatError::Truncated { .. }
            | FormatError::WrongMagic { .. }
            | FormatError::Invalid { .. }
            | FormatError::NotAuthentic { .. } => ErrorKind::Corrupt,
        }
    }
}

/// A key that is missing or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The vault's keys at hand lack a generation.
    #[error("data key generation {generation} is not among the vault's keys at hand")]
    UnknownGeneration {
        /// The generation asked for.
        generation: u32,
    },
    /// A key for another pack was offered.
    #[error("the key at hand is for another pack (salt {found}, needed {needed})")]
    OtherPack {
        /// Salt needed.
        needed: String,
        /// Salt of the key at hand.
        found: String,
    },
    /// Key material of another vault was offered.
    #[error("key material is of vault {found}, not of vault {expected}")]
    OtherVault {
        /// The vault in use.
        expected: model::VaultId,
        /// The vault the material names.
        found: model::VaultId,
    },
    /// No wrap in the keys object opens.
    #[error(
        "no wrapped key for this master key; use the key this vault was made with, or the recovery kit"
    )]
    NoWrapOpens,
    /// The bytes are not valid.
    #[error("failed to read the keys object")]
    Format(#[source] FormatError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
}

impl KeyError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            KeyError::UnknownGeneration { .. } => ErrorKind::NotFound,
            KeyError::NoWrapOpens | KeyError::OtherVault { .. } => ErrorKind::Refused,
            KeyError::OtherPack { .. } => ErrorKind::Bug,
            KeyError::Format(source) => source.kind(),
            KeyError::NoRandom => ErrorKind::Retry,
        }
    }
}

/// A pack or an entry of one that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The bytes do not hash to the pack's name.
    #[error("pack {expected} is damaged: its bytes hash to {found}")]
    WrongHash {
        /// Its name.
        expected: PackId,
        /// The hash of the bytes.
        found: PackId,
    },
    /// The pack's layout or footer is wrong.
    #[error("failed to read a pack")]
    Format(#[source] FormatError),
    /// An entry does not open.
    #[error("entry {number} ({id}) cannot be read")]
    Entry {
        /// Its number in the pack.
        number: u32,
        /// What it should hold.
        id: EntryId,
        /// What is wrong with it.
        source: FormatError,
    },
    /// An entry opened to bytes that do not hash to its id.
    #[error("entry {number} holds other bytes than its id says: {id}")]
    WrongContent {
        /// Its number in the pack.
        number: u32,
        /// What it should hold.
        id: EntryId,
    },
    /// The key of the pack is not at hand.
    #[error("no key for a pack")]
    Key(#[source] KeyError),
    /// More was put into a pack or an entry than it may hold.
    #[error("{what} of {found} bytes is more than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
}

impl PackError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            PackError::WrongHash { .. } | PackError::WrongContent { .. } => ErrorKind::Corrupt,
            PackError::Format(source) | PackError::Entry { source, .. } => source.kind(),
            PackError::Key(source) => source.kind(),
            PackError::TooLarge { .. } => ErrorKind::Bug,
        }
    }
}

/// An image tree that cannot be read, built or edited.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A node could not be fetched.
    #[error("failed to read {count} tree node(s), the first {first}")]
    Source {
        /// The first node asked for.
        first: NodeId,
        /// How many were asked for together.
        count: usize,
        /// Why.
        source: BoxError,
    },
    /// The bytes given for a node are another's.
    #[error("bytes given for tree node {node} do not match its id")]
    WrongNode {
        /// The node asked for.
        node: NodeId,
    },
    /// A node's bytes are not valid.
    #[error("tree node {node} cannot be read")]
    Format {
        /// The node.
        node: NodeId,
        /// What is wrong.
        source: FormatError,
    },
    /// A node does not fit its place.
    #[error("tree node {node} does not fit its place in the image at offset {offset}: {why}")]
    Misplaced {
        /// The node.
        node: NodeId,
        /// Where its part of the image starts, in bytes.
        offset: u64,
        /// What does not fit.
        why: String,
    },
    /// A new node could not be handed on.
    #[error("failed to store a new tree node")]
    Sink(#[source] BoxError),
    /// Leaves or runs given by the caller do not make an image.
    #[error("not an image tree: {why}")]
    Shape {
        /// What is wrong.
        why: String,
    },
    /// A range reaches beyond the image.
    #[error("range at {offset} of {len} bytes reaches beyond the image of {image_bytes} bytes")]
    BeyondImage {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Length of the image.
        image_bytes: u64,
    },
}

impl TreeError {
    pub(crate) fn shape(why: impl Into<String>) -> Self {
        TreeError::Shape { why: why.into() }
    }

    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            TreeError::Source { .. } | TreeError::Sink(_) => ErrorKind::Retry,
            TreeError::WrongNode { .. } | TreeError::Misplaced { .. } => ErrorKind::Corrupt,
            TreeError::Format { source, .. } => source.kind(),
            TreeError::Shape { .. } => ErrorKind::Bug,
            TreeError::BeyondImage { .. } => ErrorKind::Refused,
        }
    }
}
