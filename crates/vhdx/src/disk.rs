//! A virtual disk: one file, VHDX or VHD, or a chain of differencing disks read as one.
//!
//! A read asks each file from the leaf on where its bytes lie; the first that knows wins. Bytes that lie together in a file
//! are read at once, into the caller's buffer.

use uuid::Uuid;

use crate::backing::Stored;
use crate::chain::Chain;
use crate::error::Error;
use crate::info::{DiskKind, FileInfo};
use crate::io::ReadAt;
use crate::layer::{Found, Vhdx};
use crate::member::DiskFile;

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
    /// Leaf first, at least one.
    layers: Vec<DiskFile>,
}

/// Where the bytes of a run lie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// Together in a file of the chain.
    File {
        /// The file: its index in [`Disk::layers`], 0 for the leaf.
        number: usize,
        /// Where the first byte lies in that file.
        offset: u64,
    },
    /// In the log of a file that was not closed cleanly: in no place of their own, so only [`Disk::read_at`] gives them.
    ///
    /// Nothing known writes payload through the log; the format allows it.
    Log {
        /// The file: its index in [`Disk::layers`].
        number: usize,
    },
    /// Nowhere: they are zeros.
    Zero,
}

/// A range of a virtual disk whose bytes lie together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// Where it starts in the virtual disk.
    pub offset: u64,
    /// Its length in bytes, never zero.
    pub len: u64,
    /// Where its bytes lie.
    pub place: Place,
}

/// Where a byte of a chain lies, the log of its file laid over it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spot {
    File { layer: usize, at: u64 },
    Zero,
}

impl Spot {
    /// Returns the spot `by` bytes on, if it is of one run with this one.
    fn plus(self, by: u64) -> Self {
        match self {
            Self::File { layer, at } => Self::File { layer, at: at + by },
            Self::Zero => Self::Zero,
        }
    }

    fn kind(self) -> ExtentKind {
        match self {
            Self::File { .. } => ExtentKind::Data,
            Self::Zero => ExtentKind::Zero,
        }
    }
}

impl From<Chain> for Disk {
    fn from(chain: Chain) -> Self {
        Self {
            layers: chain.into_layers(),
        }
    }
}

impl Disk {
    /// Opens a file that has no parent.
    pub fn open(file: impl ReadAt + 'static) -> Result<Self, Error> {
        Ok(Chain::from_layers(vec![DiskFile::open(file)?])?.into_disk())
    }

    /// Returns what the leaf says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        self.layers[0].info()
    }

    /// Returns the files, leaf first.
    #[must_use]
    pub fn layers(&self) -> &[DiskFile] {
        &self.layers
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

    /// Returns the block size of the leaf in bytes; 0 for a fixed VHD, which has no blocks.
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
        self.info().kind == DiskKind::Fixed
    }

    /// Fills `buf` with the bytes of the disk from `offset`: one read per run that lies together in a file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.check_range(offset, buf.len() as u64)?;
        let mut walk = self.walk(offset, buf.len() as u64);
        let mut rest = buf;
        while let Some(run) = walk.next_together() {
            let (spot, len) = run?;
            let (part, tail) = rest.split_at_mut(crate::format::index(len));
            rest = tail;
            match spot {
                Spot::Zero => part.fill(0),
                Spot::File { layer, at } => {
                    self.layers[layer].backing().read(part, at, "a block")?;
                }
            }
        }
        Ok(())
    }

    /// Returns what the range holds, in order, without gap, neighbours of one kind joined; from the block tables only.
    ///
    /// What lies beyond the end of the disk is left out.
    #[must_use]
    pub fn extents(&self, offset: u64, len: u64) -> Extents<'_> {
        let offset = offset.min(self.size());
        Extents {
            offset,
            walk: self.walk(offset, len.min(self.size() - offset)),
        }
    }

    /// Returns where the bytes of the range lie, in order, without gap, from the block tables only: "which ranges of which
    /// files hold these bytes", for a caller that does the I/O itself.
    ///
    /// What lies beyond the end of the disk is left out.
    #[must_use]
    pub fn runs(&self, offset: u64, len: u64) -> Runs<'_> {
        let offset = offset.min(self.size());
        Runs {
            offset,
            walk: self.walk(offset, len.min(self.size() - offset)),
            rest: None,
        }
    }

    /// Returns how many bytes of the disk lie in files (the sum of its data extents).
    pub fn allocated_bytes(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for extent in self.extents(0, self.size()) {
            let extent = extent?;
            if extent.kind == ExtentKind::Data {
                sum += extent.len;
            }
        }
        Ok(sum)
    }

    /// Takes a file without its parents.
    pub(crate) fn detached(leaf: Vhdx) -> Self {
        Self {
            layers: vec![leaf.into()],
        }
    }

    /// Returns the leaf of a disk that a writer made.
    pub(crate) fn vhdx_leaf(&self) -> &Vhdx {
        match &self.layers[0] {
            DiskFile::Vhdx(leaf) => leaf,
            DiskFile::Vhd(_) => unreachable!("a writer opens its leaf as a VHDX"),
        }
    }

    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            Some(_) | None => Err(Error::OutOfRange { offset, len, size }),
        }
    }

    fn walk(&self, offset: u64, len: u64) -> Walk<'_> {
        Walk {
            disk: self,
            offset,
            end: offset + len,
            ahead: None,
        }
    }

    /// Returns where the byte at `offset` lies, and for how many of the `len` bytes from there that goes on.
    fn find(&self, offset: u64, mut len: u64) -> Result<(Spot, u64), Error> {
        for (layer, file) in self.layers.iter().enumerate() {
            // A child may be larger than its parent: zeros beyond.
            let size = file.info().size;
            if offset >= size {
                return Ok((Spot::Zero, len));
            }
            let (found, run) = file.find(offset, len.min(size - offset))?;
            len = run;
            match found {
                Found::File(at) => return Ok((Spot::File { layer, at }, len)),
                Found::Zero => return Ok((Spot::Zero, len)),
                Found::Parent => {}
            }
        }
        // Only a layer opened without its parents for a merge gets here, which never reads through it.
        Err(Error::ParentNeeded)
    }
}

/// Goes through a range: where its bytes lie, neighbours joined as far as the caller wants them.
#[derive(Debug)]
struct Walk<'a> {
    disk: &'a Disk,
    offset: u64,
    end: u64,
    /// A run that was found already, but not joined to the one before.
    ahead: Option<(Spot, u64)>,
}

impl Walk<'_> {
    /// Returns the next run of bytes that lie together.
    fn next_together(&mut self) -> Option<Result<(Spot, u64), Error>> {
        self.next_joined(|first, run, next| first.plus(run) == next)
    }

    fn next_joined(
        &mut self,
        joins: impl Fn(Spot, u64, Spot) -> bool,
    ) -> Option<Result<(Spot, u64), Error>> {
        if self.offset == self.end {
            return None;
        }
        let first = match self.ahead.take() {
            Some(run) => Ok(run),
            None => self.disk.find(self.offset, self.end - self.offset),
        };
        let (spot, mut len) = match first {
            Ok(run) => run,
            Err(err) => return self.fail(err),
        };
        while self.offset + len < self.end {
            match self
                .disk
                .find(self.offset + len, self.end - self.offset - len)
            {
                Ok((next, more)) if joins(spot, len, next) => len += more,
                Ok(run) => {
                    self.ahead = Some(run);
                    break;
                }
                Err(err) => return self.fail(err),
            }
        }
        self.offset += len;
        Some(Ok((spot, len)))
    }

    /// Ends the iteration with an error.
    fn fail(&mut self, err: Error) -> Option<Result<(Spot, u64), Error>> {
        self.offset = self.end;
        Some(Err(err))
    }
}

/// The extents of a range of a disk. See [`Disk::extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    offset: u64,
    walk: Walk<'a>,
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let run = self
            .walk
            .next_joined(|first, _, next| first.kind() == next.kind())?;
        Some(run.map(|(spot, len)| {
            let extent = Extent {
                offset: self.offset,
                len,
                kind: spot.kind(),
            };
            self.offset += len;
            extent
        }))
    }
}

/// The runs of a range of a disk. See [`Disk::runs`].
#[derive(Debug)]
pub struct Runs<'a> {
    offset: u64,
    walk: Walk<'a>,
    /// What is left of a run that a log cuts.
    rest: Option<(Spot, u64)>,
}

impl Iterator for Runs<'_> {
    type Item = Result<Run, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (spot, found) = match self.rest.take() {
            Some(rest) => rest,
            None => match self.walk.next_together()? {
                Ok(run) => run,
                Err(err) => return Some(Err(err)),
            },
        };
        let (place, len) = match spot {
            Spot::Zero => (Place::Zero, found),
            Spot::File { layer, at } => {
                let (stored, len) = self.walk.disk.layers[layer].backing().stored(at, found);
                let place = match stored {
                    Stored::File => Place::File {
                        number: layer,
                        offset: at,
                    },
                    Stored::Log => Place::Log { number: layer },
                    Stored::Zero => Place::Zero,
                };
                (place, len)
            }
        };
        if len < found {
            self.rest = Some((spot.plus(len), found - len));
        }
        let run = Run {
            offset: self.offset,
            len,
            place,
        };
        self.offset += len;
        Some(Ok(run))
    }
}
