//! What can go wrong with the index.

use std::path::PathBuf;

/// A failed operation on the index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Another process has it open.
    #[error("the chunk index at {} is in use by another process", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be read or written; wiping it and filling it anew helps unless the disk is full or broken.
    #[error("failed to {action} the chunk index")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync + 'static>,
    },
    /// A pack out of order: one that comes before it may have been passed over.
    #[error("pack {sequence} was to be added after pack {applied}: packs are added in order")]
    OutOfOrder {
        /// The pack.
        sequence: u64,
        /// How far the index had got.
        applied: u64,
    },
    /// More entries than a pack can have.
    #[error("a pack of {entries} entries is more than the index takes")]
    TooManyEntries {
        /// How many.
        entries: usize,
    },
}

pub(crate) fn failed<E>(action: &'static str) -> impl FnOnce(E) -> IndexError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| IndexError::Failed {
        action,
        source: Box::new(source),
    }
}
