//! A sparse file in memory that can be compared, and that can lose its disk after so many writes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhdx::{ReadAt, WriteAt};

use crate::index;

const PAGE: u64 = 4096;

type Page = [u8; 4096];

/// A sparse file: pages never written, or written with zeros first, cost nothing. Clones are the same file.
#[derive(Clone, Default)]
pub(crate) struct SparseFile {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    len: u64,
    pages: BTreeMap<u64, Box<Page>>,
    /// Calls that changed the file.
    writes: u64,
    /// How many more changes succeed.
    left: Option<u64>,
}

impl SparseFile {
    /// Returns a file of its own with the same content, whose changes all succeed.
    pub(crate) fn copy(&self) -> Self {
        let state = self.lock();
        Self {
            state: Arc::new(Mutex::new(State {
                len: state.len,
                pages: state.pages.clone(),
                writes: 0,
                left: None,
            })),
        }
    }

    /// Returns such a copy on which every change after the first `writes` fails.
    pub(crate) fn copy_that_dies_after(&self, writes: u64) -> Self {
        let copy = self.copy();
        copy.lock().left = Some(writes);
        copy
    }

    /// Returns how often the file was changed.
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }

    pub(crate) fn size(&self) -> u64 {
        self.lock().len
    }

    /// Returns bytes of the file; what lies beyond its end is zeros.
    pub(crate) fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.lock().read(&mut bytes, at);
        bytes
    }

    pub(crate) fn read_or_zeros(&self, buf: &mut [u8], at: u64) {
        self.lock().read(buf, at);
    }

    /// Writes where a test wants it: not counted.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.lock().write(bytes, at);
    }

    pub(crate) fn resize(&self, len: u64) {
        self.lock().resize(len);
    }

    /// Returns the first offset from `from` on at which the two differ.
    pub(crate) fn difference(&self, other: &Self, from: u64) -> Option<u64> {
        if Arc::ptr_eq(&self.state, &other.state) {
            return None;
        }
        let (ours, theirs) = (self.lock(), other.lock());
        if ours.len != theirs.len {
            return Some(ours.len.min(theirs.len));
        }
        let mut numbers: Vec<u64> = ours
            .pages
            .keys()
            .chain(theirs.pages.keys())
            .copied()
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let zeros = Box::new([0; 4096]);
        numbers.into_iter().find_map(|number| {
            let page = ours.pages.get(&number).unwrap_or(&zeros);
            let other = theirs.pages.get(&number).unwrap_or(&zeros);
            let unequal = page.iter().zip(other.iter()).enumerate();
            unequal
                .filter(|(_, (byte, other))| byte != other)
                .map(|(within, _)| number * PAGE + within as u64)
                .find(|at| *at >= from)
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.lock();
        match &mut state.left {
            Some(0) => return Err(io::Error::other("the disk is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        state.writes += 1;
        change(&mut state);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(&self, buf: &mut [u8], at: u64) {
        for (number, within, range) in pieces(at, buf.len()) {
            let part = &mut buf[range];
            match self.pages.get(&number) {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
        }
    }

    fn write(&mut self, bytes: &[u8], at: u64) {
        let end = at + bytes.len() as u64;
        // Compared with itself, one byte on: as fast as memory is read.
        let zeros = bytes.first() == Some(&0) && bytes[..bytes.len() - 1] == bytes[1..];
        if zeros {
            let pages = self.pages.range_mut(at / PAGE..end.div_ceil(PAGE));
            for (number, page) in pages {
                let start = number * PAGE;
                let from = index(at.max(start) - start);
                let to = index(end.min(start + PAGE) - start);
                page[from..to].fill(0);
            }
        } else {
            for (number, within, range) in pieces(at, bytes.len()) {
                let part = &bytes[range];
                let page = self
                    .pages
                    .entry(number)
                    .or_insert_with(|| Box::new([0; 4096]));
                page[within..within + part.len()].copy_from_slice(part);
            }
        }
        self.len = self.len.max(end);
    }

    fn resize(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                page[index(len % PAGE)..].fill(0);
            }
        }
        self.len = len;
    }
}

impl ReadAt for SparseFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.lock();
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.read(buf, offset);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.size())
    }
}

impl WriteAt for SparseFile {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(|state| state.write(buf, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|state| state.resize(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(|_| ())
    }
}

/// Returns how long files claim to be, all together.
pub(crate) fn total_size(files: &[SparseFile]) -> u64 {
    files
        .iter()
        .map(SparseFile::size)
        .fold(0, u64::saturating_add)
}

/// Cuts `len` bytes at `at` along pages: page number, offset in the page, range of the buffer.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = at + done as u64;
        let within = index(at % PAGE);
        let part = (4096 - within).min(len - done);
        let range = done..done + part;
        done += part;
        Some((at / PAGE, within, range))
    })
}
