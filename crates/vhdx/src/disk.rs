//! A virtual disk: one file, or a chain of differencing disks read as one.

use std::sync::Arc;

use crate::error::Error;
use crate::info::{FileInfo, ParentLocator};
use crate::io::ReadAt;
use uuid::Uuid;

/// The longest chain that is opened, leaf and root included.
pub const MAX_CHAIN_DEPTH: usize = 256;

/// One VHDX file, opened and checked; its log, if it was in use, replayed in memory.
///
/// The file itself is never changed. Make a [`Disk`] of it, alone or with its parents.
#[derive(Debug)]
pub struct Vhdx {
    info: FileInfo,
}

impl Vhdx {
    /// Opens `file` and checks it against every rule that reading relies on.
    pub fn open(_file: impl ReadAt + 'static) -> Result<Self, Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Returns what the file says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }
}

/// Finds and opens the parents of a chain.
///
/// A *location* is whatever the resolver likes to name a file by: a path, an index. It also names the file in errors.
pub trait ParentResolver {
    /// Returns where the parent of the disk at `child` may be, best first.
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String>;

    /// Opens the file at a location; `NotFound` moves on to the next one.
    fn open(&self, location: &str) -> std::io::Result<Arc<dyn ReadAt>>;
}

/// A leaf and its parents, each checked to be the one its child was made from.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Vhdx>,
}

impl Chain {
    /// Opens `leaf`, which lies at `location`, and all its parents through `resolver`.
    ///
    /// A candidate whose identity does not match is passed over for the next one.
    pub fn open(
        _leaf: impl ReadAt + 'static,
        _location: &str,
        _resolver: &dyn ParentResolver,
    ) -> Result<Self, Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Puts together a chain of files already opened, leaf first.
    pub fn from_layers(layers: Vec<Vhdx>) -> Result<Self, Error> {
        Ok(Self { layers })
    }

    /// Returns the files, leaf first.
    #[must_use]
    pub fn layers(&self) -> &[Vhdx] {
        &self.layers
    }

    /// Returns the chain as one disk.
    #[must_use]
    pub fn into_disk(self) -> Disk {
        Disk {
            layers: self.layers,
        }
    }
}

/// What a range of a virtual disk holds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ExtentKind {
    /// Bytes in a file. They may be zeros all the same.
    Data,
    /// Zeros, known without reading.
    Zero,
}

/// A range of a virtual disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Where it starts in the virtual disk.
    pub offset: u64,
    /// Its length in bytes, never zero.
    pub len: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// A virtual disk that can be read, by many threads at once.
#[derive(Debug)]
pub struct Disk {
    layers: Vec<Vhdx>,
}

impl Disk {
    /// Opens a file that has no parent.
    pub fn open(file: impl ReadAt + 'static) -> Result<Self, Error> {
        Ok(Chain::from_layers(vec![Vhdx::open(file)?])?.into_disk())
    }

    /// Returns what the leaf says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.layers[0].info
    }

    /// Returns the size of the virtual disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info().size
    }

    /// Returns the logical sector size: 512 or 4096.
    #[must_use]
    pub fn logical_sector_bytes(&self) -> u32 {
        self.info().logical_sector_bytes
    }

    /// Returns the physical sector size: 512 or 4096.
    #[must_use]
    pub fn physical_sector_bytes(&self) -> u32 {
        self.info().physical_sector_bytes
    }

    /// Returns the block size of the leaf in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.info().block_bytes
    }

    /// Returns the virtual disk's id.
    #[must_use]
    pub fn disk_id(&self) -> Uuid {
        self.info().disk_id
    }

    /// Returns whether the leaf is a fixed disk.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.info().kind == crate::info::DiskKind::Fixed
    }

    /// Fills `buf` with the bytes of the disk from `offset`: one read per run that lies together in a file.
    pub fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<(), Error> {
        Err(Error::Parameters("not available yet"))
    }

    /// Returns what the range holds, in order, without gap, neighbours of one kind joined; from the block tables only.
    #[must_use]
    pub fn extents(&self, _offset: u64, _len: u64) -> Extents<'_> {
        Extents { _disk: self }
    }

    /// Returns how many bytes of the disk lie in files (the sum of its data extents).
    pub fn allocated_bytes(&self) -> Result<u64, Error> {
        Err(Error::Parameters("not available yet"))
    }
}

/// The extents of a range of a disk. See [`Disk::extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    _disk: &'a Disk,
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}
