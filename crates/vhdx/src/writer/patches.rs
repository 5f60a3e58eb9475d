//! Pages of metadata that are to change together: read when first touched, then patched in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backing::Backing;
use crate::error::Error;
use crate::format::region::Region;
use crate::format::{PAGE, PAGE_BYTES, Page, index, put};

/// A change of metadata in the making, for one entry of the log.
#[derive(Debug, Default)]
pub(super) struct Patches {
    pages: BTreeMap<u64, Box<Page>>,
    zeros: Vec<Region>,
}

impl Patches {
    /// Returns the page at file offset `at`, a multiple of 4 KiB, to be changed.
    pub(super) fn page(&mut self, file: &Backing, at: u64) -> Result<&mut Page, Error> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(at) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let mut page = Box::new([0; PAGE_BYTES]);
                file.read(&mut page[..], at, "the metadata")?;
                Ok(new.insert(page))
            }
        }
    }

    /// Writes bytes at a file offset.
    pub(super) fn write(&mut self, file: &Backing, at: u64, bytes: &[u8]) -> Result<(), Error> {
        for (page, range) in pages_of(at, bytes.len() as u64) {
            let from = range.start - at;
            let part = &bytes[index(from)..index(range.end - at)];
            put(self.page(file, page)?, index(range.start - page), part);
        }
        Ok(())
    }

    /// Makes a range zeros: whole pages without reading them.
    pub(super) fn clear(&mut self, file: &Backing, at: u64, len: u64) -> Result<(), Error> {
        let whole = Region {
            offset: at.next_multiple_of(PAGE),
            length: ((at + len) / PAGE * PAGE).saturating_sub(at.next_multiple_of(PAGE)),
        };
        for (page, range) in pages_of(at, len) {
            if page >= whole.offset && page < whole.end() {
                break;
            }
            self.page(file, page)?[index(range.start - page)..index(range.end - page)].fill(0);
        }
        if whole.length > 0 {
            self.zeros.push(whole);
            let end = at + len;
            if whole.end() < end {
                self.page(file, whole.end())?[..index(end - whole.end())].fill(0);
            }
        }
        Ok(())
    }

    /// Returns the changed pages in the order of the file.
    pub(super) fn into_pages(self) -> Vec<(u64, Arc<Page>)> {
        self.into_parts().0
    }

    /// Returns the changed pages, and the ranges of whole pages that become zeros.
    pub(super) fn into_parts(self) -> (Vec<(u64, Arc<Page>)>, Vec<Region>) {
        let pages = self.pages.into_iter();
        (
            pages.map(|(at, page)| (at, Arc::from(page))).collect(),
            self.zeros,
        )
    }
}

/// Cuts a range of the file along pages: the page, and the part of the range on it.
fn pages_of(at: u64, len: u64) -> impl Iterator<Item = (u64, std::ops::Range<u64>)> {
    let end = at + len;
    let mut from = at;
    std::iter::from_fn(move || {
        let page = from / PAGE * PAGE;
        let range = from..end.min(page + PAGE);
        from = range.end;
        (!range.is_empty()).then_some((page, range))
    })
}
