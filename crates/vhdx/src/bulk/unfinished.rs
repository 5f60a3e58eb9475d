//! A disk whose writer was cut: what it holds so far, and going on with it.
//!
//! The caller knows how far the writer had come at its last checkpoint. Nothing else is taken for granted: metadata must be
//! what the parameters say, and the table must give the blocks up to there exactly the places the writer gives them. What the
//! blocks hold is for the caller to compare: it may read, and then go on from any offset up to the checkpoint.
//!
//! What lies behind that offset, whatever it is, is cleared before the writer goes on.

use std::sync::Arc;

use super::{
    BAT_BUFFER_BYTES, BatWriter, BulkWriter, METADATA, laid_out, set_len, sync, table_of, write,
};
use crate::disk::{Extent, ExtentKind};
use crate::error::Error;
use crate::format::bat::{BlockEntry, Geometry, State};
use crate::format::region::Region;
use crate::format::{HEADER_AREA, index, u64_at};
use crate::info::DiskKind;
use crate::io::WriteAt;
use crate::params::Params;

/// What a [`BulkWriter`] left that was cut after a checkpoint.
pub struct Unfinished {
    file: Arc<dyn WriteAt>,
    geometry: Geometry,
    fixed: bool,
    bat: Region,
    written_to: u64,
}

impl std::fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unfinished")
            .field("written_to", &self.written_to)
            .finish_non_exhaustive()
    }
}

impl Unfinished {
    /// Opens a file that a writer with these parameters had made durable up to `written_to` of the virtual disk (see
    /// [`BulkWriter::checkpoint`]). Fails with [`Error::NotUnfinished`] where it is another file, or was changed.
    pub fn open(
        file: impl WriteAt + 'static,
        params: &Params,
        written_to: u64,
    ) -> Result<Self, Error> {
        let (geometry, metadata) = laid_out(params)?;
        if written_to > geometry.size() {
            return Err(Error::OutOfRange {
                offset: 0,
                len: written_to,
                size: geometry.size(),
            });
        }
        let found = Self {
            file: Arc::new(file),
            fixed: params.kind == DiskKind::Fixed,
            bat: table_of(&geometry),
            geometry,
            written_to,
        };
        if found.len()? < found.bat.end() {
            return Err(refused("it is too short"));
        }
        let mut there = vec![0; metadata.len()];
        found.read_exact(&mut there, METADATA.offset, "the metadata")?;
        if there != metadata {
            return Err(refused("its metadata are others"));
        }
        found.blocks_to(written_to)?;
        Ok(found)
    }

    /// Returns the size of the virtual disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry.size()
    }

    /// Returns the offset of the virtual disk that the writer had come to at its checkpoint.
    #[must_use]
    pub fn written_to(&self) -> u64 {
        self.written_to
    }

    /// Fills `buf` with what the file holds at `offset`. Behind [`written_to`](Self::written_to) that means nothing.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.check_range(offset, buf.len() as u64)?;
        let (mut at, end) = (offset, offset + buf.len() as u64);
        while at < end {
            let block = self.geometry.block_of(at);
            let stop = end.min(self.geometry.block_start(block + 1));
            let part = &mut buf[index(at - offset)..index(stop - offset)];
            match self.place(block)? {
                Some(place) => self.read_part(part, place + self.geometry.within_block(at))?,
                None => part.fill(0),
            }
            at = stop;
        }
        Ok(())
    }

    /// Returns what a range holds as far as the table says: in order, without gap.
    pub fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, Error> {
        self.check_range(offset, len)?;
        let mut extents: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let block = self.geometry.block_of(at);
            let stop = end.min(self.geometry.block_start(block + 1));
            let kind = match self.place(block)? {
                Some(_) => ExtentKind::Data,
                None => ExtentKind::Zero,
            };
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.len += stop - at,
                Some(_) | None => extents.push(Extent {
                    offset: at,
                    len: stop - at,
                    kind,
                }),
            }
            at = stop;
        }
        Ok(extents)
    }

    /// Goes on from `at`, which lies at or before the checkpoint. What the file holds before it stays, all else is zeros.
    pub fn resume(self, at: u64) -> Result<BulkWriter, Error> {
        if at > self.written_to {
            return Err(Error::OutOfRange {
                offset: 0,
                len: at,
                size: self.written_to,
            });
        }
        let (newest, end) = self.blocks_to(at)?;
        let file = &*self.file;
        // Where the end of a finished file was reached, its headers go first, and for good.
        clear(file, 0, HEADER_AREA)?;
        sync(file)?;
        let keep = if self.fixed {
            self.bat.end() + at
        } else {
            newest.map_or(self.bat.end(), |(block, place)| {
                let within = at - self.geometry.block_start(block);
                place + within.min(self.geometry.block_len())
            })
        };
        if self.len()? > keep {
            set_len(file, keep)?;
        }
        let mut bat = BatWriter {
            geometry: self.geometry,
            region: self.bat,
            buffer_at: 0,
            buffer: vec![0; index(BAT_BUFFER_BYTES)],
        };
        if !self.fixed {
            let behind = newest.map_or(0, |(block, _)| self.geometry.block_entry(block) * 8 + 8);
            clear(file, self.bat.offset + behind, self.bat.end())?;
            let entry = newest.map_or(0, |(block, _)| self.geometry.block_entry(block) * 8);
            bat.buffer_at = entry / BAT_BUFFER_BYTES * BAT_BUFFER_BYTES;
        }
        let table_at = self.bat.offset + bat.buffer_at;
        self.read_exact(&mut bat.buffer, table_at, "the block table")?;
        let writer = BulkWriter {
            file: self.file,
            geometry: self.geometry,
            fixed: self.fixed,
            bat,
            end,
            newest: newest.filter(|_| !self.fixed),
            next: at,
        };
        set_len(&*writer.file, writer.file_end())?;
        Ok(writer)
    }

    /// Returns the newest block that begins before `at`, with its place, and where the block behind it goes. Each must lie
    /// where the writer puts it.
    fn blocks_to(&self, at: u64) -> Result<(Option<(u64, u64)>, u64), Error> {
        let (mut newest, mut end) = (None, self.bat.end());
        let blocks = if self.fixed {
            self.geometry.blocks()
        } else {
            at.div_ceil(self.geometry.block_len())
        };
        let mut buffer = vec![0; index(BAT_BUFFER_BYTES)];
        let mut buffer_at = None;
        for block in 0..blocks {
            let entry = self.geometry.block_entry(block) * 8;
            let part = entry / BAT_BUFFER_BYTES * BAT_BUFFER_BYTES;
            if buffer_at != Some(part) {
                self.read_exact(&mut buffer, self.bat.offset + part, "the block table")?;
                buffer_at = Some(part);
            }
            match parsed(u64_at(&buffer, index(entry - part)))? {
                None if self.fixed => return Err(refused("a block of a fixed disk has no place")),
                None => {}
                Some(place) if place == end => {
                    newest = Some((block, place));
                    end += self.geometry.block_len();
                }
                Some(_) => return Err(refused("a block does not lie where it was put")),
            }
        }
        Ok((newest, end))
    }

    fn place(&self, block: u64) -> Result<Option<u64>, Error> {
        if self.fixed {
            return Ok(Some(self.bat.end() + block * self.geometry.block_len()));
        }
        let mut entry = [0; 8];
        let at = self.bat.offset + self.geometry.block_entry(block) * 8;
        self.read_exact(&mut entry, at, "the block table")?;
        parsed(u64_at(&entry, 0))
    }

    /// Reads of a block, which the file may end in: what is behind its end was never written.
    fn read_part(&self, part: &mut [u8], at: u64) -> Result<(), Error> {
        let there = self.len()?.saturating_sub(at).min(part.len() as u64);
        let (found, beyond) = part.split_at_mut(index(there));
        beyond.fill(0);
        self.read_exact(found, at, "a block")
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.geometry.size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            Some(_) | None => Err(Error::OutOfRange { offset, len, size }),
        }
    }

    fn read_exact(&self, buf: &mut [u8], at: u64, what: &'static str) -> Result<(), Error> {
        let read = self.file.read_exact_at(buf, at);
        read.map_err(|source| Error::Read { what, at, source })
    }

    fn len(&self) -> Result<u64, Error> {
        self.file.len().map_err(|source| Error::Read {
            what: "the length",
            at: 0,
            source,
        })
    }
}

fn refused(problem: &'static str) -> Error {
    Error::NotUnfinished { problem }
}

/// Returns the place a table entry of a new disk names; `None` for a block that was not written.
fn parsed(raw: u64) -> Result<Option<u64>, Error> {
    match raw {
        0 => Ok(None),
        raw => match BlockEntry::parse(raw) {
            Some(entry) if entry.state == State::FullyPresent && entry.raw() == raw => {
                Ok(Some(entry.place))
            }
            Some(_) | None => Err(refused("its block table has an entry that no writer makes")),
        },
    }
}

/// Makes a range of the file zeros; what is zero is not written.
fn clear(file: &dyn WriteAt, from: u64, to: u64) -> Result<(), Error> {
    let mut buffer = vec![0; index(BAT_BUFFER_BYTES)];
    let mut at = from;
    while at < to {
        let part = &mut buffer[..index((to - at).min(BAT_BUFFER_BYTES))];
        file.read_exact_at(part, at).map_err(|source| Error::Read {
            what: "what is to be cleared",
            at,
            source,
        })?;
        if part.iter().any(|byte| *byte != 0) {
            part.fill(0);
            write(file, part, at, "zeros")?;
        }
        at += part.len() as u64;
    }
    Ok(())
}
