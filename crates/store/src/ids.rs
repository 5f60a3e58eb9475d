//! Ids made from content: 32 bytes, shown as 64 lower case hexadecimal digits.
//!
//! Chunk and node ids are keyed hashes of plain bytes (they tell nothing to who lacks the key); a pack id is the
//! plain BLAKE3 of the pack's bytes, so that a pack can be checked without any key.

use std::fmt;
use std::str::FromStr;

/// A text that should have been 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an id of 64 hexadecimal digits")]
pub struct ParseHexError {
    text: String,
}

macro_rules! content_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Returns the bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..6]))
            }
        }
        impl FromStr for $name {
            type Err = ParseHexError;
            fn from_str(text: &str) -> Result<Self, ParseHexError> {
                let mut bytes = [0; 32];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(ParseHexError { text: text.chars().take(80).collect() }),
                }
            }
        }
    };
}

content_id!(
    /// A chunk: keyed hash of its plain bytes.
    ChunkId
);
content_id!(
    /// A node of an image tree: keyed hash of its plain bytes, under another key than chunks.
    NodeId
);
content_id!(
    /// A pack: BLAKE3 of all its bytes.
    PackId
);

/// What an entry of a pack holds: its kind and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryId {
    /// A chunk.
    Chunk(ChunkId),
    /// A node of an image tree.
    Node(NodeId),
}

impl EntryId {
    /// Returns the bytes of the id, whatever its kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        match self {
            EntryId::Chunk(id) => &id.0,
            EntryId::Node(id) => &id.0,
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryId::Chunk(id) => write!(f, "chunk {id}"),
            EntryId::Node(id) => write!(f, "node {id}"),
        }
    }
}

impl From<ChunkId> for EntryId {
    fn from(id: ChunkId) -> Self {
        EntryId::Chunk(id)
    }
}

impl From<NodeId> for EntryId {
    fn from(id: NodeId) -> Self {
        EntryId::Node(id)
    }
}
