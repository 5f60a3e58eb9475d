//! Merging a child into its parent, so that it can be stopped or killed at any moment and run again.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::info::FileInfo;
use crate::io::WriteAt;
use crate::writer::Durability;

/// The identity the parent has after a merge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MergedIdentity {
    /// A new one: disks made from the child must be pointed at the parent with [`crate::set_parent`].
    New,
    /// The child's: disks made from the child accept the parent as it is, only the paths in them are stale.
    Child,
}

/// How far a merge is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MergeProgress {
    /// Bytes of the virtual disk looked at so far.
    pub bytes_done: u64,
    /// Size of the virtual disk.
    pub bytes_total: u64,
}

/// Merges `child` into `parent`, which then holds what the child read as; the caller removes the child.
///
/// `progress` is called between blocks and stops the merge by returning `Break`; it then ends with [`Error::Cancelled`].
/// Stopped or killed, it goes on when run again with the same files. Until it is done the parent alone is inconsistent,
/// while the child over the parent reads as before at any moment.
/// Returns what the parent then says about itself.
pub fn merge(
    _child: impl WriteAt + 'static,
    _parent: impl WriteAt + 'static,
    _identity: MergedIdentity,
    _durability: Durability,
    _progress: &mut dyn FnMut(MergeProgress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    Err(Error::Parameters("not available yet"))
}
