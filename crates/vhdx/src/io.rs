//! Positioned I/O: all this crate asks of a file.
//!
//! Reads and writes name their offset, so one open file serves many threads. Implemented for [`std::fs::File`], for shared
//! pointers to anything that implements it, and for [`MemoryFile`], a sparse file in memory for tests.
//!
//! Invariant: nothing in this crate opens, names or removes a file; only [`crate::DirectoryResolver`] looks at paths.

mod memory;
mod system;

use std::io;
use std::sync::Arc;

pub use memory::MemoryFile;

/// A file that can be read at any offset, by several threads at once.
#[expect(
    clippy::len_without_is_empty,
    reason = "an empty file is no case of its own here"
)]
pub trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset`; fails with `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns the length of the file in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// A file that can be written at any offset.
///
/// Bytes between the old end and a write beyond it, or gained by `set_len`, read as zeros.
pub trait WriteAt: ReadAt {
    /// Writes all of `buf` at `offset`, growing the file where needed.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the length of the file in bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once everything written so far, the length included, survives a power loss.
    fn sync(&self) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
}

impl<T: WriteAt + ?Sized> WriteAt for Arc<T> {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}
