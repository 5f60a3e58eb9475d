//! Laying out a new file in one go, at the speed of the disk.
//!
//! Nothing is logged: until the headers are written, last and after everything else is durable, the file has none and every
//! reader refuses it.
//!
//! A writer that was cut can be gone on with ([`Unfinished`]): metadata is there from the start, and a checkpoint makes the
//! blocks and their table durable. Places follow from the order of the blocks, so the file needs no further record of them.

mod unfinished;

use std::sync::Arc;

use uuid::Uuid;

use crate::error::Error;
use crate::format::bat::{BlockEntry, Geometry, State};
use crate::format::header::{HEADER_AT, Header};
use crate::format::region::{self, Region, TABLE_AT};
use crate::format::{FILE_SIGNATURE, KIB, MIB, PAGE_BYTES, index, metadata, put};
use crate::info::{DiskKind, FileInfo, ParentLocator};
use crate::io::{ReadAt, WriteAt};
use crate::layer::Structures;
use crate::params::{Params, is_block_size};

pub use unfinished::Unfinished;

const LOG: Region = Region {
    offset: MIB,
    length: MIB,
};
const METADATA: Region = Region {
    offset: 2 * MIB,
    length: MIB,
};
const BAT_AT: u64 = 3 * MIB;

/// Table bytes gathered before they are written.
const BAT_BUFFER_BYTES: u64 = 64 * KIB;

/// Writes a new disk from front to back; the file is refused by every reader until [`BulkWriter::finish`].
///
/// Laid out as Windows does: log at 1 MiB, metadata at 2 MiB, BAT at 3 MiB, blocks behind it. Ranges not written are zeros
/// and, in a dynamic disk, take no space.
pub struct BulkWriter {
    file: Arc<dyn WriteAt>,
    geometry: Geometry,
    fixed: bool,
    bat: BatWriter,
    /// Where the next block goes.
    end: u64,
    /// The newest block that has a place, and where.
    newest: Option<(u64, u64)>,
    /// The lowest offset that can still be written.
    next: u64,
}

impl std::fmt::Debug for BulkWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkWriter")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl BulkWriter {
    /// Starts a new disk in `file`, whose old content is discarded.
    pub fn create(file: impl WriteAt + 'static, params: &Params) -> Result<Self, Error> {
        Self::start(Arc::new(file), params)
    }

    fn start(file: Arc<dyn WriteAt>, params: &Params) -> Result<Self, Error> {
        let (geometry, metadata) = laid_out(params)?;
        let fixed = params.kind == DiskKind::Fixed;
        let bat = table_of(&geometry);
        let mut end = bat.end();
        // Emptied first, and for good, so that nothing of an older file can be taken for this one.
        set_len(&*file, 0)?;
        sync(&*file)?;
        let blocks_len = if fixed {
            geometry.blocks() * geometry.block_len()
        } else {
            0
        };
        set_len(&*file, end + blocks_len)?;
        write(&*file, &metadata, METADATA.offset, "the metadata")?;
        let mut bat = BatWriter {
            geometry,
            region: bat,
            buffer_at: 0,
            buffer: vec![0; index(BAT_BUFFER_BYTES)],
        };
        if fixed {
            for block in 0..geometry.blocks() {
                bat.set(&*file, block, end)?;
                end += geometry.block_len();
            }
        }
        Ok(Self {
            file,
            geometry,
            fixed,
            bat,
            end,
            newest: None,
            next: 0,
        })
    }

    /// Writes `bytes` at `offset` of the virtual disk; offsets ascend, any lengths, gaps are zeros.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (len, size) = (bytes.len() as u64, self.geometry.size());
        if offset < self.next {
            return Err(Error::NotAscending {
                offset,
                next: self.next,
            });
        }
        let end = offset.checked_add(len).filter(|end| *end <= size);
        let end = end.ok_or(Error::OutOfRange { offset, len, size })?;
        // Blocks written one after the other lie one after the other, so this is nearly always a single write.
        let (mut at, mut run_start, mut run_place) = (offset, offset, None);
        while at < end {
            let block = self.geometry.block_of(at);
            let place = self.place(block)? + self.geometry.within_block(at);
            let start = *run_place.get_or_insert(place);
            if start + (at - run_start) != place {
                self.write_run(&bytes[index(run_start - offset)..index(at - offset)], start)?;
                (run_start, run_place) = (at, Some(place));
            }
            at = end.min(self.geometry.block_start(block + 1));
        }
        if let Some(start) = run_place {
            self.write_run(&bytes[index(run_start - offset)..], start)?;
        }
        self.next = end;
        Ok(())
    }

    fn write_run(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        write(&*self.file, bytes, at, "a block")
    }

    /// Returns where a block lies, giving it a place if it has none. Blocks come in ascending order.
    fn place(&mut self, block: u64) -> Result<u64, Error> {
        if self.fixed {
            return Ok(self.bat.region.end() + block * self.geometry.block_len());
        }
        if let Some((newest, place)) = self.newest
            && newest == block
        {
            return Ok(place);
        }
        let place = self.end;
        self.bat.set(&*self.file, block, place)?;
        self.end += self.geometry.block_len();
        self.newest = Some((block, place));
        Ok(place)
    }

    /// Makes everything that was written durable, and returns the offset of the virtual disk that it reaches to: from
    /// there an [`Unfinished`] goes on after a kill or a loss of power.
    pub fn checkpoint(&mut self) -> Result<u64, Error> {
        let file = &*self.file;
        self.bat.write_out(file)?;
        set_len(file, self.file_end())?;
        sync(file)?;
        Ok(self.next)
    }

    /// Returns the length the file has with all blocks that have a place.
    fn file_end(&self) -> u64 {
        if self.fixed {
            self.bat.region.end() + self.geometry.blocks() * self.geometry.block_len()
        } else {
            self.end
        }
    }

    /// Writes the table and, once everything else is durable, the headers. Returns what the file now says about itself.
    pub fn finish(self) -> Result<FileInfo, Error> {
        let file = &*self.file;
        self.bat.write_out(file)?;
        set_len(file, self.file_end())?;
        let table = region::encode(self.bat.region, METADATA);
        for at in TABLE_AT {
            write(file, &table, at, "the region table")?;
        }
        write(file, &identifier(), 0, "the file identifier")?;
        sync(file)?;
        let mut header = Header {
            sequence: 0,
            file_write_guid: Uuid::new_v4(),
            data_write_guid: Uuid::new_v4(),
            log_guid: Uuid::nil(),
            log_version: 0,
            version: 1,
            log_length: u32::try_from(LOG.length).expect("1 MiB"),
            log_offset: LOG.offset,
        };
        for at in HEADER_AT {
            header.sequence += 1;
            write(file, &header.encode(), at, "a header")?;
        }
        sync(file)?;
        let file: Arc<dyn ReadAt> = self.file;
        Ok(Structures::read(file)?.info())
    }
}

/// Makes an empty child of the disk described by `params.parent` in `file`. See [`Params::child_of`].
pub fn create_differencing(
    file: impl WriteAt + 'static,
    params: &Params,
) -> Result<FileInfo, Error> {
    if params.kind != DiskKind::Differencing {
        return Err(Error::Parameters("a child is a differencing disk"));
    }
    BulkWriter::start(Arc::new(file), params)?.finish()
}

/// Gathers the table; entries come in ascending order.
struct BatWriter {
    geometry: Geometry,
    region: Region,
    /// Where the buffer lies, from the start of the table.
    buffer_at: u64,
    buffer: Vec<u8>,
}

impl BatWriter {
    fn set(&mut self, file: &dyn WriteAt, block: u64, place: u64) -> Result<(), Error> {
        let at = self.geometry.block_entry(block) * 8;
        if at >= self.buffer_at + BAT_BUFFER_BYTES {
            self.write_out(file)?;
            self.buffer.fill(0);
            self.buffer_at = at / BAT_BUFFER_BYTES * BAT_BUFFER_BYTES;
        }
        let entry = BlockEntry {
            state: State::FullyPresent,
            place,
        };
        put(
            &mut self.buffer,
            index(at - self.buffer_at),
            &entry.raw().to_le_bytes(),
        );
        Ok(())
    }

    fn write_out(&self, file: &dyn WriteAt) -> Result<(), Error> {
        let at = self.region.offset + self.buffer_at;
        write(file, &self.buffer, at, "the block table")
    }
}

/// Returns geometry and metadata of a new disk.
fn laid_out(params: &Params) -> Result<(Geometry, Vec<u8>), Error> {
    check(params)?;
    let geometry = Geometry::new(
        params.size,
        params.block_bytes,
        params.logical,
        params.parent.is_some(),
    );
    let parent = params.parent.as_ref().map(ParentLocator::from);
    let metadata = metadata::encode(
        &geometry,
        params.physical,
        params.kind == DiskKind::Fixed,
        params.disk_id,
        parent.as_ref(),
    )?;
    Ok((geometry, metadata))
}

/// Returns where the block table of a new disk lies.
fn table_of(geometry: &Geometry) -> Region {
    Region {
        offset: BAT_AT,
        length: geometry.region_len(),
    }
}

fn check(params: &Params) -> Result<(), Error> {
    let refuse = |problem| Err(Error::Parameters(problem));
    if !is_block_size(params.block_bytes) {
        return refuse("the block size must be a power of two from 1 to 256 MiB");
    }
    if ![512, 4096].contains(&params.logical) || ![512, 4096].contains(&params.physical) {
        return refuse("sector sizes must be 512 or 4096");
    }
    if params.size == 0
        || params.size > metadata::DISK_MAX
        || !params.size.is_multiple_of(u64::from(params.logical))
    {
        return refuse(
            "the size must be a multiple of the logical sector size, from one sector up to 64 TiB",
        );
    }
    if (params.kind == DiskKind::Differencing) != params.parent.is_some() {
        return refuse("a differencing disk, and no other, has a parent");
    }
    Ok(())
}

/// Returns the file identifier: signature and creator.
fn identifier() -> Vec<u8> {
    let mut identifier = vec![0; PAGE_BYTES];
    put(&mut identifier, 0, FILE_SIGNATURE);
    let creator = concat!("vhdx ", env!("CARGO_PKG_VERSION"));
    let creator: Vec<u8> = creator.encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(&mut identifier, 8, &creator);
    identifier
}

fn write(file: &dyn WriteAt, bytes: &[u8], at: u64, what: &'static str) -> Result<(), Error> {
    file.write_all_at(bytes, at)
        .map_err(|source| Error::Write { what, at, source })
}

fn set_len(file: &dyn WriteAt, len: u64) -> Result<(), Error> {
    file.set_len(len).map_err(|source| Error::Write {
        what: "the length",
        at: len,
        source,
    })
}

fn sync(file: &dyn WriteAt) -> Result<(), Error> {
    file.sync().map_err(|source| Error::Write {
        what: "everything (flush)",
        at: 0,
        source,
    })
}
