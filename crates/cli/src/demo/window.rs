//! A partition seen as a device of its own, and a virtual disk that can be read like a file.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use vhdx::Disk;

/// A part of a device.
#[derive(Debug)]
pub(crate) struct Window<D> {
    device: D,
    start: u64,
    len: u64,
    at: u64,
    written: Written,
}

/// Ranges of the device that were written through a window, in the order of the writes.
pub(crate) type Written = Arc<Mutex<Vec<Range<u64>>>>;

impl<D> Window<D> {
    /// Makes a window of `len` bytes from `start`; what is written goes into `written`, in bytes of the device.
    pub(crate) fn new(device: D, start: u64, len: u64, written: Written) -> Self {
        Self {
            device,
            start,
            len,
            at: 0,
            written,
        }
    }

    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).map_or(wanted, |left| left.min(wanted))
    }
}

impl<D: Read + Seek> Read for Window<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buf.len());
        self.device.seek(SeekFrom::Start(self.start + self.at))?;
        let done = self.device.read(&mut buf[..room])?;
        self.at += u64::try_from(done).unwrap_or(0);
        Ok(done)
    }
}

impl<D: Write + Seek> Write for Window<D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.room(buf.len());
        let from = self.start + self.at;
        self.device.seek(SeekFrom::Start(from))?;
        let done = self.device.write(&buf[..room])?;
        let len = u64::try_from(done).unwrap_or(0);
        self.at += len;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written.last_mut() {
            Some(last) if last.end == from => last.end += len,
            Some(_) | None => written.push(from..from + len),
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }
}

impl<D> Seek for Window<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = position(to, self.at, self.len)?;
        Ok(self.at)
    }
}

/// A virtual disk as a file that cannot be written.
#[derive(Debug)]
pub(crate) struct DiskReader {
    disk: Disk,
    at: u64,
}

impl DiskReader {
    /// Reads `disk` from its start.
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk, at: 0 }
    }
}

impl Read for DiskReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.disk.size().saturating_sub(self.at);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        self.disk
            .read_at(&mut buf[..len], self.at)
            .map_err(io::Error::other)?;
        self.at += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }
}

impl Write for DiskReader {
    fn write(&mut self, _buf: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for DiskReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = position(to, self.at, self.disk.size())?;
        Ok(self.at)
    }
}

fn position(to: SeekFrom, at: u64, len: u64) -> io::Result<u64> {
    match to {
        SeekFrom::Start(start) => Some(start),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => len.checked_add_signed(by),
    }
    .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
