//! How long work tells how far it is, and is stopped.

use std::ops::ControlFlow;

use crate::error::Error;

/// How far a merge, a conversion, a change of size or a compaction is.
///
/// Passed to the caller's function between steps, often enough for a display; its return value `Break` stops the work, which
/// then ends with [`Error::Cancelled`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Bytes dealt with so far; never goes back.
    pub bytes_done: u64,
    /// Bytes in all. Where that is only known on the way it may change.
    pub bytes_total: u64,
}

/// Reports progress; [`Error::Cancelled`] if the caller wants to stop.
pub(crate) fn report(
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    bytes_done: u64,
    bytes_total: u64,
) -> Result<(), Error> {
    let at = Progress {
        bytes_done,
        bytes_total,
    };
    match progress(at) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
