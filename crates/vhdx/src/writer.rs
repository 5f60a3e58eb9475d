//! Changing a file in place: metadata through the log, readers beside the writer.

use crate::disk::Disk;
use crate::error::Error;
use crate::info::FileInfo;
use crate::io::WriteAt;
use crate::layer::Vhdx;
use crate::params::ParentLink;
use uuid::Uuid;

/// What an unplanned end may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The machine may lose power: flushes reach the disk.
    PowerLoss,
    /// Only the process may be killed: same order of writes and same log, without waiting for the disk.
    ProcessKill,
}

/// The leaf of a chain, open for writing over read-only parents.
///
/// All methods take `&self`: one thread may write while others read. What was written is read back at once; what was
/// written before [`DiskWriter::flush`] returned is still there after a crash.
#[derive(Debug)]
pub struct DiskWriter {
    disk: Disk,
}

impl DiskWriter {
    /// Opens `leaf` over its `parents`, nearest first; replays the log in place if the file was not closed cleanly.
    pub fn open(
        _leaf: impl WriteAt + 'static,
        _parents: Vec<Vhdx>,
        _durability: Durability,
    ) -> Result<Self, Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Returns what the leaf says about itself now, its `DataWriteGuid` included.
    #[must_use]
    pub fn info(&self) -> FileInfo {
        self.disk.info().clone()
    }

    /// Returns the disk as it reads now. Only its geometry should be used: it does not wait for this writer.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Fills `buf` with the bytes of the disk from `offset`.
    pub fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Writes `bytes` at `offset`.
    pub fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Makes `len` bytes at `offset` read as zeros; whole blocks of a dynamic or differencing disk give up their space.
    pub fn zero(&self, _offset: u64, _len: u64) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Returns once everything written so far survives the end the writer was opened for.
    pub fn flush(&self) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Flushes and marks the file as cleanly closed. Returns what it then says about itself.
    ///
    /// A writer dropped without it leaves a file whose log must be replayed, as a killed process does.
    pub fn close(self) -> Result<FileInfo, Error> {
        Err(Error::Parameters("not available yet"))
    }
}

/// Points a differencing disk at another parent, or at the same one elsewhere: `SetParentVirtualHardDisk`.
///
/// The caller vouches that the content of the new parent is right; the child's own `DataWriteGuid` stays, so that its
/// children stay linked.
pub fn set_parent(
    _child: impl WriteAt + 'static,
    _link: &ParentLink,
    _durability: Durability,
) -> Result<FileInfo, Error> {
    Err(Error::Parameters("not available yet"))
}

/// Gives the virtual disk another id. Changes its `DataWriteGuid`, so it must not have children.
pub fn set_disk_id(
    _file: impl WriteAt + 'static,
    _disk_id: Uuid,
    _durability: Durability,
) -> Result<FileInfo, Error> {
    Err(Error::Parameters("not available yet"))
}
