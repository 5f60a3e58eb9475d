//! Files read past the page cache: what a volume holds, not what memory remembers of what was written.
//!
//! A file is written out first. Where the file system can, it is then read without buffers (`O_DIRECT`,
//! `FILE_FLAG_NO_BUFFERING`); elsewhere the system is asked to forget its pages, which it does for pages that are clean
//! and that nobody else uses, but does not promise. [`CacheBypass`] says which it was. Caches of a controller or of a
//! disk are beyond anyone's reach.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vhdx::{Chain, ParentLocator, ParentResolver, ReadAt};

use super::chain::candidates;
use super::{ChainError, FileError, FileErrorKind, HostFiles, platform};

/// Offsets, lengths and buffers of unbuffered reads are multiples of this: no known sector is larger.
const ALIGN: usize = 4096;
/// The most that is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// How far what was read is known to come from the volume. Ordered from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheBypass {
    /// Written out, then read as any file is: it may have come from memory.
    None,
    /// Written out, then the system was asked to forget its pages; likely, not certain.
    Dropped,
    /// Written out, then read without buffers of the system: certain.
    Unbuffered,
}

/// A file of the host, open for reading past the page cache.
#[derive(Debug)]
pub struct UncachedFile {
    file: File,
    bypass: CacheBypass,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl HostFiles {
    /// Writes a file out and opens it for reading past the page cache. Others may read it at the same time.
    pub fn open_past_cache(&self, path: &str) -> Result<UncachedFile, FileError> {
        let (file, bypass) = platform::open_past_cache(&self.local_path(path)?)
            .map_err(|error| FileError::new("open", path, error))?;
        let opened = |bypass| UncachedFile {
            file,
            bypass,
            buffers: Mutex::default(),
        };
        if bypass != CacheBypass::Unbuffered {
            return Ok(opened(bypass));
        }
        let file = opened(bypass);
        // Some file systems open a file this way and then do not read it.
        match file.read_exact_at(&mut [0], 0) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let (file, bypass) = platform::open_dropped(&self.local_path(path)?)
                    .map_err(|error| FileError::new("open", path, error))?;
                Ok(UncachedFile {
                    file,
                    bypass,
                    buffers: Mutex::default(),
                })
            }
            // An empty file ends before its first byte; whatever else there is, the reader meets it.
            Ok(()) | Err(_) => Ok(file),
        }
    }

    /// Opens a disk with all its parents past the page cache; says what holds for the weakest of its files.
    pub fn open_chain_past_cache(&self, path: &str) -> Result<(Chain, CacheBypass), ChainError> {
        let leaf = self.open_past_cache(path)?;
        let resolver = PastCache {
            files: self,
            weakest: Mutex::new(leaf.bypass()),
        };
        let chain = Chain::open(leaf, path, &resolver).map_err(|source| ChainError::Disk {
            path: path.to_owned(),
            source,
        })?;
        let weakest = resolver.weakest.into_inner();
        Ok((chain, weakest.unwrap_or_else(PoisonError::into_inner)))
    }
}

impl UncachedFile {
    /// Says how far what is read is known to come from the volume.
    #[must_use]
    pub fn bypass(&self) -> CacheBypass {
        self.bypass
    }

    /// Reads one piece; the buffer in between has the alignment that unbuffered reads need.
    fn read_piece(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let too_far = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let head = usize::try_from(offset % ALIGN as u64).map_err(|_| too_far())?;
        let wanted = head + buf.len();
        let span = wanted.next_multiple_of(ALIGN);
        let start = offset - head as u64;
        let mut bounce = self.take_buffer();
        if bounce.len() < span + ALIGN {
            bounce.resize(span + ALIGN, 0);
        }
        let shift = bounce.as_ptr().align_offset(ALIGN);
        let read = (|| {
            let aligned = bounce.get_mut(shift..shift.saturating_add(span));
            let aligned =
                aligned.ok_or_else(|| io::Error::other("a buffer could not be aligned"))?;
            let mut have = 0;
            while have < wanted {
                match platform::read_at(&self.file, &mut aligned[have..], start + have as u64) {
                    Ok(0) => return Err(too_far()),
                    Ok(count) if have + count >= wanted => have += count,
                    // A short read ends at a sector, or at the end of the file.
                    Ok(count) if count % ALIGN == 0 => have += count,
                    Ok(_) => return Err(too_far()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buf.copy_from_slice(&aligned[head..wanted]);
            Ok(())
        })();
        self.give_buffer(bounce);
        read
    }

    fn take_buffer(&self) -> Vec<u8> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.pop().unwrap_or_default()
    }

    fn give_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(buffer);
    }
}

impl ReadAt for UncachedFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.bypass != CacheBypass::Unbuffered {
            return self.file.read_exact_at(buf, offset);
        }
        let mut at = offset;
        for piece in buf.chunks_mut(PIECE) {
            self.read_piece(piece, at)?;
            let len = piece.len() as u64;
            at = at.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.file)
    }
}

/// Finds parents as [`super::HostPathResolver`] does and opens them past the page cache.
struct PastCache<'f> {
    files: &'f HostFiles,
    weakest: Mutex<CacheBypass>,
}

impl ParentResolver for PastCache<'_> {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        candidates(child, locator)
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        match self.files.open_past_cache(location) {
            Ok(file) => {
                let mut weakest = self.weakest.lock().unwrap_or_else(PoisonError::into_inner);
                *weakest = (*weakest).min(file.bypass());
                Ok(Arc::new(file))
            }
            Err(error) => {
                let kind = match error.kind() {
                    FileErrorKind::NotFound | FileErrorKind::BadPath => io::ErrorKind::NotFound,
                    FileErrorKind::InUse => io::ErrorKind::ResourceBusy,
                    FileErrorKind::Denied => io::ErrorKind::PermissionDenied,
                    FileErrorKind::Exists | FileErrorKind::Full | FileErrorKind::Failed => {
                        io::ErrorKind::Other
                    }
                };
                Err(io::Error::new(kind, error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::PathMap;

    #[test]
    fn what_is_read_past_the_cache_is_what_the_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let map = PathMap::new([(r"C:\", dir.path().to_owned())]).unwrap();
        let files = HostFiles::new(map);
        let bytes: Vec<u8> = (0..3_000_123_u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        fs::write(dir.path().join("a.bin"), &bytes).unwrap();
        let file = files.open_past_cache(r"C:\a.bin").unwrap();
        assert_eq!(ReadAt::len(&file).unwrap(), bytes.len() as u64);
        for (offset, len) in [
            (0, 1),
            (0, 4096),
            (1, 4096),
            (4095, 2),
            (1 << 20, 1 << 20),
            (777, 2_500_000),
            (0, bytes.len()),
            (bytes.len() - 1, 1),
            (bytes.len() - 5000, 5000),
        ] {
            let mut found = vec![0; len];
            file.read_exact_at(&mut found, offset as u64).unwrap();
            assert!(found == bytes[offset..offset + len], "{len} at {offset}");
        }
        for (offset, len) in [(bytes.len(), 1), (bytes.len() - 10, 11), (9_000_000, 4096)] {
            let error = file.read_exact_at(&mut vec![0; len], offset as u64);
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        file.read_exact_at(&mut [], 5).unwrap();
    }

    #[test]
    fn an_empty_file_opens_and_one_in_use_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let map = PathMap::new([(r"C:\", dir.path().to_owned())]).unwrap();
        let files = HostFiles::new(map);
        fs::write(dir.path().join("empty"), b"").unwrap();
        let file = files.open_past_cache(r"C:\empty").unwrap();
        assert!(file.read_exact_at(&mut [0], 0).is_err());
        drop(file);
        let _held = files.open_write(r"C:\empty").unwrap();
        let error = files.open_past_cache(r"C:\empty").unwrap_err();
        assert_eq!(error.kind(), FileErrorKind::InUse);
    }
}
