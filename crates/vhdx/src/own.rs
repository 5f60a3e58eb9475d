//! What one file of a chain holds by itself: data, zeros, or "see the parent".
//!
//! Needs no parents; of a file without one it says the same as [`crate::Disk::runs`]. Zeros of a child are said to be zeros
//! and not left to the parent, so whoever copies a file range by range keeps what it hides.

use crate::backing::Stored;
use crate::error::Error;
use crate::layer::Found;
use crate::member::DiskFile;

/// Where the bytes of an [`OwnRun`] lie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OwnPlace {
    /// Together in this file.
    File {
        /// Where the first byte lies in the file.
        offset: u64,
    },
    /// In the log of this file, which was not closed cleanly. See [`crate::Place::Log`].
    Log,
    /// Nowhere: they are zeros, whatever the parent holds.
    Zero,
    /// In the parent.
    Parent,
}

/// A range of a virtual disk as one file of its chain knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnRun {
    /// Where it starts in the virtual disk.
    pub offset: u64,
    /// Its length in bytes, never zero.
    pub len: u64,
    /// Where its bytes lie.
    pub place: OwnPlace,
}

impl DiskFile {
    /// Returns what this file alone says of each byte of the disk: in order, without gap, neighbours that lie together
    /// joined, from its block table and sector bitmaps only.
    #[must_use]
    pub fn own_runs(&self) -> OwnRuns<'_> {
        OwnRuns {
            file: self,
            offset: 0,
            ahead: None,
        }
    }
}

/// The runs of one file. See [`DiskFile::own_runs`].
#[derive(Debug)]
pub struct OwnRuns<'a> {
    file: &'a DiskFile,
    offset: u64,
    /// The run at `offset`, if it was found already.
    ahead: Option<OwnRun>,
}

impl OwnRuns<'_> {
    fn look_at(&self, offset: u64) -> Result<OwnRun, Error> {
        let (found, len) = self.file.find(offset, self.file.info().size - offset)?;
        let (place, len) = match found {
            Found::Parent => (OwnPlace::Parent, len),
            Found::Zero => (OwnPlace::Zero, len),
            Found::File(at) => {
                let (stored, len) = self.file.backing().stored(at, len);
                let place = match stored {
                    Stored::File => OwnPlace::File { offset: at },
                    Stored::Log => OwnPlace::Log,
                    Stored::Zero => OwnPlace::Zero,
                };
                (place, len)
            }
        };
        Ok(OwnRun { offset, len, place })
    }
}

impl OwnPlace {
    /// Returns the place `by` bytes on, if it is of one run with this one.
    fn plus(self, by: u64) -> Self {
        match self {
            Self::File { offset } => Self::File {
                offset: offset + by,
            },
            Self::Log | Self::Zero | Self::Parent => self,
        }
    }
}

impl Iterator for OwnRuns<'_> {
    type Item = Result<OwnRun, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.file.info().size;
        if self.offset == size {
            return None;
        }
        let first = self
            .ahead
            .take()
            .map_or_else(|| self.look_at(self.offset), Ok);
        let mut run = match first {
            Ok(run) => run,
            Err(err) => {
                self.offset = size;
                return Some(Err(err));
            }
        };
        while run.offset + run.len < size {
            match self.look_at(run.offset + run.len) {
                Ok(next) if next.place == run.place.plus(run.len) => run.len += next.len,
                Ok(next) => {
                    self.ahead = Some(next);
                    break;
                }
                // Reported when its turn comes.
                Err(_) => break,
            }
        }
        self.offset += run.len;
        Some(Ok(run))
    }
}
