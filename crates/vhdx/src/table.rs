//! The block table of an open file: packed in memory, or read page by page where it is very long.
//!
//! Kept in memory an entry takes 4 bytes and is read without a lock. A writer replaces entries one by one; a reader sees the
//! old or the new one. Of a longer table the changed pages are in [`Pages`] until they are in the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::bat::{
    BlockEntry, Checker, Geometry, PAGE_ENTRIES, Run, bitmap_raw, pack, parse_bitmap, unpack,
};
use crate::format::region::Region;
use crate::format::{PAGE, PAGE_BYTES, Page, index, put, u64_at};
use crate::pages::Pages;
use crate::space::SpaceMap;

/// Tables of more entries are not kept in memory: 32 MiB, 8 TiB in blocks of 1 MiB.
const KEPT_ENTRIES: u64 = 1 << 23;

/// Bytes read at a time while a table is judged: they stay in the cache of a core.
const CHECK_BYTES: u64 = 256 << 10;

const WHAT: &str = "the block table";

#[derive(Debug)]
pub(crate) struct Table {
    geometry: Geometry,
    at: u64,
    entries: Entries,
}

#[derive(Debug)]
enum Entries {
    Kept(Vec<AtomicU32>),
    Paged,
}

/// Reads a table once from end to end and judges every entry, claiming the space of blocks in `space`.
pub(crate) fn walk(
    file: &Backing,
    region: Region,
    geometry: Geometry,
    space: &mut SpaceMap,
    findings: &mut Findings,
    mut each: impl FnMut(Run) -> Result<(), Error>,
) -> Result<(), Error> {
    let count = geometry.entries();
    if region.length < geometry.region_len() {
        return Err(findings.fatal(Rule::BatTooShort, region.offset, region.length));
    }
    let mut checker = Checker::new(geometry, region.offset, file.len(), space, findings);
    let mut buf = vec![0; index(CHECK_BYTES.min(count.next_multiple_of(PAGE_ENTRIES) * 8))];
    let mut entry = 0;
    while entry < count {
        let part = &mut buf[..index(CHECK_BYTES.min((count - entry) * 8))];
        file.read(part, region.offset + entry * 8, WHAT)?;
        let (entries, _) = part.as_chunks();
        checker.check(entry, entries, &mut each)?;
        entry += entries.len() as u64;
    }
    Ok(())
}

impl Table {
    /// Reads the table and refuses what breaks a rule.
    pub(crate) fn open(
        file: &Backing,
        region: Region,
        geometry: Geometry,
        space: &mut SpaceMap,
    ) -> Result<Self, Error> {
        let kept = geometry.entries() <= KEPT_ENTRIES;
        let mut entries = Vec::new();
        let each = |run: Run| {
            if kept {
                keep_run(&mut entries, run);
            }
            Ok(())
        };
        walk(
            file,
            region,
            geometry,
            space,
            &mut Findings::FirstError,
            each,
        )?;
        let entries = if kept {
            Entries::Kept(entries)
        } else {
            Entries::Paged
        };
        Ok(Self {
            geometry,
            at: region.offset,
            entries,
        })
    }

    /// Returns the entry of a block.
    pub(crate) fn block(
        &self,
        file: &Backing,
        pages: &Pages,
        block: u64,
    ) -> Result<BlockEntry, Error> {
        let entry = self.geometry.block_entry(block);
        let raw = self.raw(file, pages, entry)?;
        BlockEntry::parse(raw)
            .ok_or_else(|| Error::format(Rule::BlockState, self.at + entry * 8, raw))
    }

    /// Returns where the bitmap block of a group lies, if it is present.
    pub(crate) fn bitmap(
        &self,
        file: &Backing,
        pages: &Pages,
        group: u64,
    ) -> Result<Option<u64>, Error> {
        let entry = self.geometry.bitmap_entry(group);
        let raw = self.raw(file, pages, entry)?;
        parse_bitmap(raw).ok_or_else(|| Error::format(Rule::BitmapState, self.at + entry * 8, raw))
    }

    fn raw(&self, file: &Backing, pages: &Pages, entry: u64) -> Result<u64, Error> {
        match &self.entries {
            Entries::Kept(entries) => Ok(unpack(entries[index(entry)].load(Ordering::Acquire))),
            Entries::Paged => {
                let page = pages.get(file, self.at + entry * 8 / PAGE * PAGE, WHAT)?;
                Ok(u64_at(&page[..], index(entry * 8 % PAGE)))
            }
        }
    }

    /// Replaces the entry of a block.
    ///
    /// Returns the page of the table it lies on if that is to be made with [`Table::page`]; else it is a changed page of
    /// `pages` already.
    pub(crate) fn set_block(
        &self,
        file: &Backing,
        pages: &Pages,
        block: u64,
        value: BlockEntry,
    ) -> Result<Option<u64>, Error> {
        self.set(file, pages, self.geometry.block_entry(block), value.raw())
    }

    /// Gives a group its bitmap block, or takes it away. Returns what [`Table::set_block`] returns.
    pub(crate) fn set_bitmap(
        &self,
        file: &Backing,
        pages: &Pages,
        group: u64,
        place: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let raw = place.map_or(0, bitmap_raw);
        self.set(file, pages, self.geometry.bitmap_entry(group), raw)
    }

    fn set(
        &self,
        file: &Backing,
        pages: &Pages,
        entry: u64,
        raw: u64,
    ) -> Result<Option<u64>, Error> {
        let at = self.at + entry * 8;
        let page_at = at / PAGE * PAGE;
        match &self.entries {
            Entries::Kept(entries) => {
                let packed = pack(raw).ok_or_else(|| beyond(at, raw))?;
                entries[index(entry)].store(packed, Ordering::Release);
                Ok(Some(page_at))
            }
            Entries::Paged => {
                let mut page = *pages.get(file, page_at, WHAT)?;
                put(&mut page, index(at - page_at), &raw.to_le_bytes());
                pages.change(page_at, Arc::new(page));
                Ok(None)
            }
        }
    }

    /// Returns the page at file offset `at` as the entries in memory make it.
    pub(crate) fn page(&self, at: u64) -> Page {
        let mut page = [0; PAGE_BYTES];
        if let Entries::Kept(entries) = &self.entries {
            let first = (at - self.at) / 8;
            let last = (first + PAGE_ENTRIES).min(entries.len() as u64);
            for (slot, entry) in entries[index(first)..index(last)].iter().enumerate() {
                put(
                    &mut page,
                    slot * 8,
                    &unpack(entry.load(Ordering::Acquire)).to_le_bytes(),
                );
            }
        }
        page
    }
}

fn keep_run(entries: &mut Vec<AtomicU32>, run: Run) {
    const SOUND: &str = "places that cannot be packed were refused";
    let first = pack(run.raw).expect(SOUND);
    let step = pack(run.step).expect(SOUND);
    let count = u32::try_from(run.count).expect("runs end with their group");
    entries.extend((0..count).map(|number| AtomicU32::new(first + step * number)));
}

fn beyond(at: u64, raw: u64) -> Error {
    Error::format(Rule::BlockPlace, at, raw)
}
