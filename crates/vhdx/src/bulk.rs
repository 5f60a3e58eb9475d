//! Laying out a new file in one go, at the speed of the disk.

use std::sync::Arc;

use crate::error::Error;
use crate::info::FileInfo;
use crate::io::WriteAt;
use crate::params::Params;

/// Writes a new disk from front to back; the file is refused by every reader until [`BulkWriter::finish`].
///
/// Laid out as Windows does: log at 1 MiB, metadata at 2 MiB, BAT at 3 MiB, blocks behind it. Ranges not written are zeros
/// and, in a dynamic disk, take no space.
pub struct BulkWriter {
    _file: Arc<dyn WriteAt>,
}

impl std::fmt::Debug for BulkWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkWriter").finish_non_exhaustive()
    }
}

impl BulkWriter {
    /// Starts a new disk in `file`, whose old content is discarded.
    pub fn create(_file: impl WriteAt + 'static, _params: &Params) -> Result<Self, Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Writes `bytes` at `offset` of the virtual disk; offsets ascend, any lengths, gaps are zeros.
    pub fn write(&mut self, _offset: u64, _bytes: &[u8]) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Writes BAT, metadata and, once all of that is durable, the headers. Returns what the file now says about itself.
    pub fn finish(self) -> Result<FileInfo, Error> {
        Err(Error::Parameters("not available yet"))
    }
}

/// Makes an empty child of the disk described by `params.parent` in `file`. See [`Params::child_of`].
pub fn create_differencing(
    _file: impl WriteAt + 'static,
    _params: &Params,
) -> Result<FileInfo, Error> {
    Err(Error::Parameters("not available yet"))
}
