//! A sparse file in memory, for tests: pages that were never written cost nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ReadAt, WriteAt};

const PAGE_BYTES: u64 = 64 * 1024;

/// A sparse file in memory. Disks of many TiB can be laid out in it, as long as few pages are written.
#[derive(Debug, Default)]
pub struct MemoryFile {
    content: Mutex<Content>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl MemoryFile {
    /// Returns an empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a file that holds `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut content = Content::default();
        content.write(bytes, 0);
        Self {
            content: Mutex::new(content),
        }
    }

    /// Returns a copy with the same content, as a file of its own.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            content: Mutex::new(self.lock().clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn write(&mut self, buf: &[u8], offset: u64) {
        for (page, within, range) in pieces(offset, buf.len()) {
            let part = &buf[range];
            if !self.pages.contains_key(&page) && part.iter().all(|byte| *byte == 0) {
                continue;
            }
            let content = self
                .pages
                .entry(page)
                .or_insert_with(|| vec![0; page_len()]);
            content[within..within + part.len()].copy_from_slice(part);
        }
        self.len = self.len.max(offset + buf.len() as u64);
    }
}

impl ReadAt for MemoryFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.lock();
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > content.len)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, range) in pieces(offset, buf.len()) {
            let part = &mut buf[range];
            match content.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }
}

impl WriteAt for MemoryFile {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.lock().write(buf, offset);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.lock();
        if len < content.len {
            content.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let within = usize::try_from(len % PAGE_BYTES).unwrap_or(0);
            if within > 0
                && let Some(page) = content.pages.get_mut(&(len / PAGE_BYTES))
            {
                page[within..].fill(0);
            }
        }
        content.len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn page_len() -> usize {
    usize::try_from(PAGE_BYTES).expect("64 KiB fits a usize")
}

/// Cuts `len` bytes at `offset` along pages: page number, offset in the page, range of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0_usize;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE_BYTES).expect("below 64 KiB");
        let part = (page_len() - within).min(len - done);
        let range = done..done + part;
        done += part;
        Some((at / PAGE_BYTES, within, range))
    })
}
