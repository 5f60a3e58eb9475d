//! A file open for writing: its header, its log, and the order in which things reach the disk.
//!
//! Commit of a set of changed metadata pages: payload durable -> log entry durable -> (first time: both headers name the log)
//! -> pages to their places. The next commit begins by making those places durable, so one entry at a time is needed; it is
//! its own tail. The entry before stays untouched until the new one is durable, so the log always holds a valid sequence.
//!
//! The first entry is written before the headers name the log: no moment exists in which a header names an empty log.
//!
//! After any failed write or flush nothing more is written: what reached the disk is unknown.

use std::sync::Arc;

use uuid::Uuid;

use super::Durability;
use crate::backing::{Backing, Replayed};
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::bat::FILE_MIB_MAX;
use crate::format::header::{self, CurrentHeader, HEADER_AT, Header};
use crate::format::log::{EntryHead, LOG_MAX, encode, entry_len};
use crate::format::region::Region;
use crate::format::{MIB, Page, index};
use crate::io::{ReadAt, WriteAt};
use crate::layer::{Structures, Vhdx};

/// Pages in one entry at most: two such entries fit the smallest log, of 1 MiB.
pub(super) const COMMIT_PAGES: usize = 120;

/// A header with a higher number is not succeeded by others: no writer that counts gets there.
const SEQUENCE_MAX: u64 = u64::MAX / 2;
/// A log is replayed under headers of higher numbers too, as long as there are enough for that: what was begun at the limit
/// above can be ended.
const SEQUENCE_MAX_TO_REPLAY: u64 = u64::MAX - (1 << 20);
const NO_MORE_NUMBERS: Error = Error::Parameters(
    "the sequence number of the header can hardly grow: convert the disk instead of changing it",
);

/// Zeros written at a time.
const ZEROS_BYTES: u64 = MIB;

pub(crate) struct Session {
    file: Arc<dyn WriteAt>,
    durability: Durability,
    header: Header,
    slot: usize,
    log: Region,
    /// The log's id while this session lasts.
    log_guid: Uuid,
    /// Where the next entry goes, from the start of the log.
    head: u64,
    sequence: u64,
    /// Length of the file.
    file_len: u64,
    /// `FileWriteGuid` was renewed.
    began: bool,
    /// `DataWriteGuid` was renewed.
    visible: bool,
    /// The `DataWriteGuid` to take instead of a random one.
    identity: Option<Uuid>,
    poisoned: bool,
}

impl Session {
    /// As [`Session::replayed`], for what is going to be changed.
    pub(crate) fn open(
        file: Arc<dyn WriteAt>,
        durability: Durability,
    ) -> Result<(Self, Structures), Error> {
        let opened = Self::replayed(file, durability)?;
        // What a replay has begun may go on.
        if opened.0.header.sequence > SEQUENCE_MAX && !opened.0.began {
            return Err(NO_MORE_NUMBERS);
        }
        Ok(opened)
    }

    /// Reads the structures of a file and replays its log in place if it was not closed cleanly.
    ///
    /// The file is judged first, with its log replayed in memory: what breaks a rule is refused as it is.
    pub(crate) fn replayed(
        file: Arc<dyn WriteAt>,
        durability: Durability,
    ) -> Result<(Self, Structures), Error> {
        let file_len = file.len().map_err(|source| Error::Read {
            what: "the length",
            at: 0,
            source,
        })?;
        let CurrentHeader { mut header, slot } =
            header::read_current(&*file, file_len, &mut Findings::FirstError)?;
        if header.log_in_use() {
            Vhdx::open(Arc::clone(&file) as Arc<dyn ReadAt>)?;
        }
        let log = Region {
            offset: header.log_offset,
            length: u64::from(header.log_length),
        };
        if log.length == 0 {
            return Err(Error::format(
                Rule::LogPlace,
                HEADER_AT[slot] + 68,
                log.length,
            ));
        }
        // What no reader would take from the log is not begun.
        if log.length > LOG_MAX {
            return Err(Error::format(Rule::LogTooLong, log.offset, log.length));
        }
        if file_len > FILE_MIB_MAX * MIB {
            return Err(Error::format(Rule::LogFileTooLong, 0, file_len));
        }
        if header.log_in_use() && header.sequence > SEQUENCE_MAX_TO_REPLAY {
            return Err(NO_MORE_NUMBERS);
        }
        // The version of a log that was not in use says nothing; of the one that comes it would.
        header.log_version = 0;
        let mut session = Self {
            file,
            durability,
            header,
            slot,
            log,
            log_guid: Uuid::new_v4(),
            head: 0,
            sequence: 1,
            file_len,
            began: false,
            visible: false,
            identity: None,
            poisoned: false,
        };
        if session.header.log_in_use() {
            session.replay()?;
        }
        let current = CurrentHeader {
            header: session.header.clone(),
            slot: session.slot,
        };
        let backing = Backing::clean(session.file(), session.file_len);
        let structures = Structures::from_backing(backing, current, session.file_len)?;
        Ok((session, structures))
    }

    /// Brings what the active log entries make of the file into it, each byte once: entries may change one again and again.
    /// Stopped half-way, it is simply done again.
    fn replay(&mut self) -> Result<(), Error> {
        let had = self.file_len;
        let findings = &mut Findings::FirstError;
        let backing = Backing::open(self.file(), had, &self.header, findings)?;
        self.begin(false)?;
        backing.replay(|part| match part {
            // What the file gains reads as zeros without being written.
            Replayed::Zeros { start, end } => self.zero(start, end.min(had).saturating_sub(start)),
            Replayed::Page { at, page } => self.write(page, at, "a replayed page"),
        })?;
        self.grow(backing.len())?;
        self.header.log_guid = Uuid::nil();
        self.put_header()?;
        self.put_header()
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn file(&self) -> Arc<dyn ReadAt> {
        Arc::clone(&self.file) as Arc<dyn ReadAt>
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Gives the disk this `DataWriteGuid` at the first change, instead of a random one.
    pub(crate) fn set_identity(&mut self, identity: Uuid) {
        self.identity = Some(identity);
    }

    /// Must come before any change of the file; `visible` if a reader of the disk could see it.
    pub(crate) fn begin(&mut self, visible: bool) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        if self.began && (self.visible || !visible) {
            return Ok(());
        }
        if !self.began {
            self.header.file_write_guid = Uuid::new_v4();
        }
        if visible {
            self.header.data_write_guid = self.identity.unwrap_or_else(Uuid::new_v4);
        }
        self.put_header()?;
        self.began = true;
        self.visible |= visible;
        Ok(())
    }

    /// Makes earlier writes durable, then writes the header into the slot that is not current, and makes that durable.
    fn put_header(&mut self) -> Result<(), Error> {
        self.sync()?;
        let next = self.header.sequence.checked_add(1);
        self.header.sequence = next.ok_or(Error::Parameters(
            "the sequence number of the headers has come to its end",
        ))?;
        self.slot = 1 - self.slot;
        let bytes = self.header.encode();
        self.write(&bytes, HEADER_AT[self.slot], "a header")?;
        self.sync()
    }

    /// Writes the current state into both headers.
    pub(crate) fn renew_headers(&mut self) -> Result<(), Error> {
        self.begin(false)?;
        self.put_header()
    }

    /// Makes the pages, named by their place in the file, durable as one change: all of them or none.
    pub(crate) fn commit(&mut self, pages: &[(u64, Arc<Page>)]) -> Result<(), Error> {
        self.commit_with_zeros(pages, &[])
    }

    /// As [`Session::commit`]; in the same change ranges of whole pages become zeros.
    pub(crate) fn commit_with_zeros(
        &mut self,
        pages: &[(u64, Arc<Page>)],
        zeros: &[Region],
    ) -> Result<(), Error> {
        if pages.len() + zeros.len() > COMMIT_PAGES {
            return Err(Error::Parameters(
                "a change of metadata is too large for the log",
            ));
        }
        self.begin(false)?;
        self.sync()?;
        let by_place: Vec<(u64, &Page)> = pages.iter().map(|(at, page)| (*at, &**page)).collect();
        let head = EntryHead {
            tail: u32::try_from(self.head).expect("the log is shorter than 4 GiB"),
            sequence: self.sequence,
            guid: self.log_guid,
            file_len: self.file_len,
        };
        let entry = encode(&head, &by_place, zeros);
        let before_end = index((self.log.length - self.head).min(entry.len() as u64));
        self.write(&entry[..before_end], self.log.offset + self.head, "the log")?;
        if before_end < entry.len() {
            self.write(&entry[before_end..], self.log.offset, "the log")?;
        }
        self.sync()?;
        self.head = (self.head + entry_len(pages.len(), zeros.len())) % self.log.length;
        self.sequence += 1;
        if !self.header.log_in_use() {
            self.header.log_guid = self.log_guid;
            self.put_header()?;
            self.put_header()?;
        }
        for (at, page) in pages {
            self.write(&page[..], *at, "metadata")?;
        }
        for range in zeros {
            self.zero(range.offset, range.length)?;
        }
        Ok(())
    }

    /// Makes all that was written durable and marks the file as cleanly closed, in the same step under another identity if
    /// one is given.
    pub(crate) fn close(&mut self, identity: Option<Uuid>) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let renamed = identity.filter(|identity| *identity != self.header.data_write_guid);
        if renamed.is_some() {
            self.begin(false)?;
        }
        if let Some(identity) = renamed {
            self.header.data_write_guid = identity;
        }
        if renamed.is_some() || self.header.log_in_use() {
            self.header.log_guid = Uuid::nil();
            self.put_header()?;
            self.put_header()?;
        } else if self.began {
            self.sync()?;
        }
        Ok(())
    }

    /// Writes payload or pages; the order towards metadata is the caller's business.
    pub(crate) fn write(&mut self, bytes: &[u8], at: u64, what: &'static str) -> Result<(), Error> {
        let result = self.file.write_all_at(bytes, at);
        self.file_len = self.file_len.max(at + bytes.len() as u64);
        self.judge(result, what, at)
    }

    /// Writes zeros over bytes the file has.
    pub(crate) fn zero(&mut self, at: u64, len: u64) -> Result<(), Error> {
        let zeros = vec![0; index(len.min(ZEROS_BYTES))];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(ZEROS_BYTES);
            self.write(&zeros[..index(part)], at + done, "zeros")?;
            done += part;
        }
        Ok(())
    }

    /// Grows the file to at least `len` bytes; what is gained reads as zeros.
    pub(crate) fn grow(&mut self, len: u64) -> Result<(), Error> {
        if len <= self.file_len {
            return Ok(());
        }
        let result = self.file.set_len(len);
        self.judge(result, "the length", len)?;
        self.file_len = len;
        Ok(())
    }

    /// Cuts the file to `len` bytes if it is longer.
    ///
    /// Only while the log is not in use: an active entry tells a length that the file must not fall below.
    pub(crate) fn cut(&mut self, len: u64) -> Result<(), Error> {
        if len >= self.file_len || self.header.log_in_use() {
            return Ok(());
        }
        self.begin(false)?;
        let result = self.file.set_len(len);
        self.judge(result, "the length", len)?;
        self.file_len = len;
        self.sync()
    }

    /// Waits until all that was written is durable, if this session is to survive a power loss.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        match self.durability {
            Durability::PowerLoss => {
                let result = self.file.sync();
                self.judge(result, "everything (flush)", 0)
            }
            Durability::ProcessKill => Ok(()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.poisoned {
            Err(Error::Poisoned)
        } else {
            Ok(())
        }
    }

    pub(crate) fn began(&self) -> bool {
        self.began
    }

    /// Stops this session for good. For failures that leave memory and file apart.
    pub(crate) fn poison(&mut self) {
        self.poisoned = true;
    }

    fn judge(
        &mut self,
        result: std::io::Result<()>,
        what: &'static str,
        at: u64,
    ) -> Result<(), Error> {
        result.map_err(|source| {
            self.poisoned = true;
            Error::Write { what, at, source }
        })
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("header", &self.header)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}
