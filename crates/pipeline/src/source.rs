//! Where bytes are read from and written to: virtual disks and plain files.

use store::BoxError;
use vhdx::{BulkWriter, Disk, Extent, ExtentKind, ReadAt, Unfinished, WriteAt};

use crate::verify::{Piece, WrittenPieces};

/// Bytes looked at together while a file is cleared.
const CLEARED_TOGETHER: u64 = 1 << 20;

/// Bytes of known length that can be read anywhere, by many threads at once.
pub trait ImageSource: Sync {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    /// Says whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the bytes from `offset`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError>;

    /// Returns what a range holds as far as that is known without reading: in order, without gap.
    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError>;
}

/// Where an image is written, from front to back. Ranges that are not written are zero.
pub trait ImageTarget {
    /// Writes bytes at an offset behind all that was written before.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError>;

    /// Called after each part of the image, in order: its data was written, the rest of it is zeros.
    fn reached(&mut self, pieces: &[Piece]) -> Result<(), BoxError> {
        let _ = pieces;
        Ok(())
    }
}

impl ImageSource for Disk {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError> {
        Ok(Disk::read_at(self, buf, offset)?)
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError> {
        Ok(Disk::extents(self, offset, len).collect::<Result<_, _>>()?)
    }
}

impl ImageSource for Unfinished {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError> {
        Ok(Unfinished::read_at(self, buf, offset)?)
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError> {
        Ok(Unfinished::extents(self, offset, len)?)
    }
}

/// The bytes of a file as they are.
#[derive(Debug)]
pub struct PlainFile<F> {
    file: F,
    len: u64,
}

impl<F: ReadAt> PlainFile<F> {
    /// Takes a file; its length of now is the image's.
    pub fn new(file: F) -> std::io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len })
    }
}

impl<F: ReadAt> ImageSource for PlainFile<F> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError> {
        Ok(self.file.read_exact_at(buf, offset)?)
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError> {
        let kind = ExtentKind::Data;
        Ok(if len == 0 {
            Vec::new()
        } else {
            vec![Extent { offset, len, kind }]
        })
    }
}

impl ImageTarget for BulkWriter {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(BulkWriter::write(self, offset, bytes)?)
    }
}

/// A file that becomes the image byte by byte; sparse where its file system can.
#[derive(Debug)]
pub struct FileTarget<F> {
    file: F,
}

impl<F: WriteAt> FileTarget<F> {
    /// Takes a file whose old content is discarded and gives it the image's length.
    pub fn create(file: F, len: u64) -> std::io::Result<Self> {
        file.set_len(0)?;
        file.set_len(len)?;
        Ok(Self { file })
    }

    /// Goes on with a file that was cut: what `held` says is kept, all else becomes zeros. Fails with `InvalidData` where
    /// the file does not have the image's length.
    pub fn resume(file: F, held: &WrittenPieces) -> std::io::Result<Self> {
        let len = held.image_bytes();
        if file.len()? != len {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut buffer = Vec::new();
        for range in held.missing() {
            let end = range.offset + range.len;
            if end == len {
                file.set_len(range.offset)?;
                file.set_len(len)?;
                break;
            }
            let mut at = range.offset;
            while at < end {
                let part = CLEARED_TOGETHER.min(end - at);
                buffer.resize(usize::try_from(part).unwrap_or(0), 0);
                file.read_exact_at(&mut buffer, at)?;
                if !store::is_zero(&buffer) {
                    buffer.fill(0);
                    file.write_all_at(&buffer, at)?;
                }
                at += part;
            }
        }
        Ok(Self { file })
    }

    /// Makes what was written so far durable.
    pub fn checkpoint(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    /// Makes what was written durable.
    pub fn finish(self) -> std::io::Result<F> {
        self.file.sync()?;
        Ok(self.file)
    }
}

impl<F: WriteAt> ImageTarget for FileTarget<F> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(self.file.write_all_at(bytes, offset)?)
    }
}
