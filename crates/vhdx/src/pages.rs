//! Pages of metadata in memory: those read lately, and those a writer changed but has not committed.
//!
//! Used for sector bitmaps, and for the block table where it is too long to be kept. Never on the way to a block that is
//! fully present in a table kept in memory.
//!
//! Invariant: a page is in `changed` from its change until it is in its final place in the file, so that what is read from
//! the file under the lock is current.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::backing::Backing;
use crate::error::Error;
use crate::format::{PAGE, PAGE_BYTES, Page};

/// Pages kept per file: 2 MiB, the bitmaps of 8 GiB of disk.
const KEPT_PAGES: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Pages {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    read: HashMap<u64, Arc<Page>>,
    age: VecDeque<u64>,
    changed: BTreeMap<u64, Arc<Page>>,
}

impl State {
    fn get(&self, at: u64) -> Option<Arc<Page>> {
        self.changed
            .get(&at)
            .or_else(|| self.read.get(&at))
            .cloned()
    }

    fn keep(&mut self, at: u64, page: Arc<Page>) {
        if self.read.insert(at, page).is_none() {
            self.age.push_back(at);
        }
        if self.age.len() > KEPT_PAGES
            && let Some(oldest) = self.age.pop_front()
        {
            self.read.remove(&oldest);
        }
    }
}

impl Pages {
    /// Returns the page at file offset `at`, a multiple of 4 KiB.
    pub(crate) fn get(
        &self,
        file: &Backing,
        at: u64,
        what: &'static str,
    ) -> Result<Arc<Page>, Error> {
        debug_assert!(at.is_multiple_of(PAGE));
        if let Some(page) = self.shared().get(at) {
            return Ok(page);
        }
        let mut state = self.exclusive();
        if let Some(page) = state.get(at) {
            return Ok(page);
        }
        let mut page = Box::new([0; PAGE_BYTES]);
        file.read(&mut page[..], at, what)?;
        let page: Arc<Page> = Arc::from(page);
        state.keep(at, Arc::clone(&page));
        Ok(page)
    }

    /// Replaces a page; it stays until [`Pages::settle`].
    pub(crate) fn change(&self, at: u64, page: Arc<Page>) {
        self.exclusive().changed.insert(at, page);
    }

    /// Returns how many pages were changed and not settled.
    pub(crate) fn changed_count(&self) -> usize {
        self.shared().changed.len()
    }

    /// Returns the changed pages in the order of the file.
    pub(crate) fn changed(&self) -> Vec<(u64, Arc<Page>)> {
        self.shared()
            .changed
            .iter()
            .map(|(at, page)| (*at, Arc::clone(page)))
            .collect()
    }

    /// Forgets that pages were changed: all of them are in their final places in the file now.
    pub(crate) fn settle(&self) {
        let mut state = self.exclusive();
        for (at, page) in std::mem::take(&mut state.changed) {
            state.keep(at, page);
        }
    }

    /// Forgets pages of a range of the file that is about to hold something else.
    pub(crate) fn forget(&self, at: u64, len: u64) {
        let mut state = self.exclusive();
        state.read.retain(|page, _| *page < at || *page >= at + len);
        let State { read, age, .. } = &mut *state;
        age.retain(|page| read.contains_key(page));
    }

    fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
