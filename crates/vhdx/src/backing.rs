//! A file as it is once its log has been replayed, without touching it.
//!
//! A cleanly closed file is read directly. Otherwise the active log entries are laid over it: pages that they rewrite are
//! read from the log, ranges that they zero read as zeros, and space the file must grow by reads as zeros.
//! The overlay takes some 50 bytes per page in the log, whatever the file holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Error;
use crate::findings::Findings;
use crate::format::header::Header;
use crate::format::log::{Change, Log, rebuild_page};
use crate::format::{PAGE, PAGE_BYTES, Page, index};
use crate::io::ReadAt;

/// Where bytes of a file lie once its log is laid over it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stored {
    /// In their place in the file.
    File,
    /// In the log.
    Log,
    /// Nowhere: the log says that they are zeros, or they lie beyond the end of the file.
    Zero,
}

/// Part of what the log makes of a file.
pub(crate) enum Replayed<'a> {
    /// A range that becomes zeros.
    Zeros { start: u64, end: u64 },
    /// A page that gets new content.
    Page { at: u64, page: &'a Page },
}

/// A file read through its log.
pub(crate) struct Backing {
    file: Arc<dyn ReadAt>,
    len: u64,
    overlay: Option<Overlay>,
}

/// What replaying a log does to a file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ReplayFigures {
    /// Entries of the log.
    pub(crate) entries: u64,
    /// Pages that get new content.
    pub(crate) pages: u64,
    /// Bytes that become zeros.
    pub(crate) zeroed_bytes: u64,
}

#[derive(Default)]
struct Overlay {
    /// Entries of the log that were laid over the file.
    entries: u64,
    /// Length of the file itself; what lies beyond reads as zeros.
    file_len: u64,
    /// Pages by their place in the file. A page lies over every zero range: those laid over it removed it.
    pages: BTreeMap<u64, LoggedPage>,
    /// Zero ranges: start to end, not overlapping.
    zeros: BTreeMap<u64, u64>,
}

struct LoggedPage {
    leading: [u8; 8],
    trailing: [u8; 4],
    sector: u64,
}

impl LoggedPage {
    fn read(&self, file: &dyn ReadAt) -> std::io::Result<Page> {
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, self.sector)?;
        rebuild_page(&mut page, self.leading, self.trailing);
        Ok(page)
    }
}

impl Backing {
    /// Takes a file of `file_len` bytes whose current header is given, and replays its log in memory.
    pub(crate) fn open(
        file: Arc<dyn ReadAt>,
        file_len: u64,
        header: &Header,
        findings: &mut Findings,
    ) -> Result<Self, Error> {
        if !header.log_in_use() {
            return Ok(Self {
                file,
                len: file_len,
                overlay: None,
            });
        }
        let mut overlay = Overlay {
            file_len,
            ..Overlay::default()
        };
        let log = Log::new(&*file, header, findings)?;
        let active = log.active(file_len, findings)?;
        let mut len = file_len.max(active.last_file_offset());
        log.changes(&active, |change| {
            len = len.max(overlay.apply(change));
            Ok(())
        })?;
        overlay.entries = active.count();
        Ok(Self {
            file,
            len,
            overlay: Some(overlay),
        })
    }

    /// Takes a file that needs no replay.
    pub(crate) fn clean(file: Arc<dyn ReadAt>, len: u64) -> Self {
        Self {
            file,
            len,
            overlay: None,
        }
    }

    /// Returns the length of the file, once replayed.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns where the byte at `at` lies, and for how many of the `len` bytes from there that goes on.
    pub(crate) fn stored(&self, at: u64, len: u64) -> (Stored, u64) {
        match &self.overlay {
            None => (Stored::File, len),
            Some(overlay) => overlay.stored(at, len),
        }
    }

    /// Returns what replaying the log does to the file; nothing where it is not in use.
    pub(crate) fn replay_figures(&self) -> ReplayFigures {
        self.overlay
            .as_ref()
            .map_or_else(ReplayFigures::default, |overlay| ReplayFigures {
                entries: overlay.entries,
                pages: overlay.pages.len() as u64,
                zeroed_bytes: overlay.zeros.iter().map(|(start, end)| end - start).sum(),
            })
    }

    /// Passes on what replaying in place has to write: ranges of zeros, none of them twice, then the pages over them.
    pub(crate) fn replay(
        &self,
        mut write: impl FnMut(Replayed<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(overlay) = &self.overlay else {
            return Ok(());
        };
        for (&start, &end) in &overlay.zeros {
            write(Replayed::Zeros { start, end })?;
        }
        for (&at, logged) in &overlay.pages {
            let read = logged.read(&*self.file);
            let page = read.map_err(|source| Error::Read {
                what: "the log",
                at: logged.sector,
                source,
            })?;
            write(Replayed::Page { at, page: &page })?;
        }
        Ok(())
    }

    /// Fills `buf` from `offset`. Without an overlay this is one read of the file.
    pub(crate) fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        what: &'static str,
    ) -> Result<(), Error> {
        let failed = |source| Error::Read {
            what,
            at: offset,
            source,
        };
        match &self.overlay {
            None => self.file.read_exact_at(buf, offset).map_err(failed),
            Some(overlay) => {
                if offset
                    .checked_add(buf.len() as u64)
                    .is_none_or(|end| end > self.len)
                {
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                overlay.read(&*self.file, buf, offset).map_err(failed)
            }
        }
    }
}

impl Overlay {
    /// Lays a change over what is there; returns where it ends.
    fn apply(&mut self, change: Change) -> u64 {
        match change {
            Change::Page {
                at,
                leading,
                trailing,
                sector,
            } => {
                self.pages.insert(
                    at,
                    LoggedPage {
                        leading,
                        trailing,
                        sector,
                    },
                );
                at + PAGE
            }
            Change::Zero { at, len } => {
                let end = at + len;
                let hidden: Vec<u64> = self.pages.range(at..end).map(|(page, _)| *page).collect();
                for page in hidden {
                    self.pages.remove(&page);
                }
                self.add_zeros(at, end);
                end
            }
        }
    }

    /// Joins a zero range with those it touches.
    fn add_zeros(&mut self, mut start: u64, mut end: u64) {
        while let Some((&other, &other_end)) = self.zeros.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.zeros.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        if start < end {
            self.zeros.insert(start, end);
        }
    }

    fn stored(&self, at: u64, len: u64) -> (Stored, u64) {
        let until = |end: u64| len.min(end - at);
        if let Some((page, _)) = self.pages.range(..=at).next_back()
            && at - page < PAGE
        {
            return (Stored::Log, until(page + PAGE));
        }
        let next_page = self.pages.range(at..).next().map(|(page, _)| *page);
        let len = next_page.map_or(len, until);
        let until = |end: u64| len.min(end - at);
        if let Some((_, stop)) = self.zeros.range(..=at).next_back()
            && at < *stop
        {
            return (Stored::Zero, until(*stop));
        }
        if at >= self.file_len {
            return (Stored::Zero, len);
        }
        let next_zero = self.zeros.range(at..).next().map(|(start, _)| *start);
        let len = next_zero.map_or(len, until);
        (Stored::File, len.min(self.file_len - at))
    }

    fn read(&self, file: &dyn ReadAt, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let end = offset + buf.len() as u64;
        let in_file = index(self.file_len.saturating_sub(offset).min(buf.len() as u64));
        let (present, beyond) = buf.split_at_mut(in_file);
        // Beyond its end a file need not even answer to a read of nothing.
        if !present.is_empty() {
            file.read_exact_at(present, offset)?;
        }
        beyond.fill(0);
        for (&start, &stop) in self
            .zeros
            .range(..end)
            .rev()
            .take_while(|(_, stop)| **stop > offset)
        {
            buf[index(start.max(offset) - offset)..index(stop.min(end) - offset)].fill(0);
        }
        for (&at, logged) in self.pages.range(offset.saturating_sub(PAGE - 1)..end) {
            let page = logged.read(file)?;
            let (from, to) = (at.max(offset), (at + PAGE).min(end));
            buf[index(from - offset)..index(to - offset)]
                .copy_from_slice(&page[index(from - at)..index(to - at)]);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backing")
            .field("len", &self.len)
            .field("replayed", &self.overlay.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Overlay, PAGE, Stored};

    #[track_caller]
    fn check(overlay: &Overlay, at: u64, len: u64, expected: (Stored, u64)) {
        assert_eq!(overlay.stored(at, len), expected, "{len} bytes at {at}");
    }

    #[test]
    fn tells_what_the_log_lays_over_a_file() {
        let mut overlay = Overlay {
            file_len: 20 * PAGE,
            ..Overlay::default()
        };
        let page = |at| Change::Page {
            at,
            leading: [0; 8],
            trailing: [0; 4],
            sector: 0,
        };
        overlay.apply(page(2 * PAGE));
        overlay.apply(Change::Zero {
            at: 5 * PAGE,
            len: 3 * PAGE,
        });
        overlay.apply(page(6 * PAGE));
        overlay.apply(page(25 * PAGE));
        let all = 100 * PAGE;
        check(&overlay, 0, 10, (Stored::File, 10));
        check(&overlay, 0, all, (Stored::File, 2 * PAGE));
        check(&overlay, 2 * PAGE + 1, all, (Stored::Log, PAGE - 1));
        check(&overlay, 3 * PAGE, all, (Stored::File, 2 * PAGE));
        check(&overlay, 5 * PAGE, all, (Stored::Zero, PAGE));
        check(&overlay, 6 * PAGE, 7, (Stored::Log, 7));
        check(&overlay, 7 * PAGE, all, (Stored::Zero, PAGE));
        check(&overlay, 8 * PAGE, all, (Stored::File, 12 * PAGE));
        check(&overlay, 20 * PAGE, all, (Stored::Zero, 5 * PAGE));
        check(&overlay, 25 * PAGE, all, (Stored::Log, PAGE));
    }
}
