//! Which MiB of a file are taken: one bit each, in pages made when first touched.

use crate::format::bat::FILE_MIB_MAX;

const PAGE_WORDS: usize = 1024;
const PAGE_BITS: u64 = 64 * 1024;

/// The taken MiB of a file of up to 256 TiB.
#[derive(Debug, Default)]
pub(crate) struct SpaceMap {
    pages: Vec<Option<Box<[u64; PAGE_WORDS]>>>,
}

impl SpaceMap {
    /// Takes `count` MiB from `first` on; `false` if one of them was taken already, or lies beyond 256 TiB.
    pub(crate) fn claim(&mut self, first: u64, count: u64) -> bool {
        let Some(end) = first.checked_add(count).filter(|end| *end <= FILE_MIB_MAX) else {
            return false;
        };
        let mut free = true;
        let mut at = first;
        while at < end {
            let bit = at % 64;
            let bits = (64 - bit).min(end - at);
            let mask = mask(bit, bits);
            let word = self.word(at);
            free &= *word & mask == 0;
            *word |= mask;
            at += bits;
        }
        free
    }

    /// Takes `count` MiB from `first` on if all of them are free and below 256 TiB; else takes none and returns `false`.
    pub(crate) fn claim_free(&mut self, first: u64, count: u64) -> bool {
        let end = first.checked_add(count);
        if end.is_none_or(|end| end > FILE_MIB_MAX) {
            return false;
        }
        let bit = first % 64;
        if count > 0 && bit + count <= 64 {
            // A small block: one look at memory, which is what this costs where blocks lie in no order.
            let mask = mask(bit, count);
            let word = self.word(first);
            let free = *word & mask == 0;
            if free {
                *word |= mask;
            }
            return free;
        }
        self.is_free(first, count) && self.claim(first, count)
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        let end = first + count;
        let mut at = first;
        while at < end {
            let bit = at % 64;
            let bits = (64 - bit).min(end - at);
            if self.get_word(at) & mask(bit, bits) != 0 {
                return false;
            }
            at += bits;
        }
        true
    }

    /// Returns the free runs below `end` (in MiB) as first and count.
    pub(crate) fn free_runs(&self, end: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        self.each_free_run(end, |first, count| runs.push((first, count)));
        runs
    }

    /// Passes the free runs below `end` (in MiB) to `each`, as first and count.
    pub(crate) fn each_free_run(&self, end: u64, mut each: impl FnMut(u64, u64)) {
        let mut run: Option<(u64, u64)> = None;
        let mut add = |first: u64, count: u64| match &mut run {
            Some((start, len)) if *start + *len == first => *len += count,
            Some(_) | None => {
                if let Some((start, len)) = run.replace((first, count)) {
                    each(start, len);
                }
            }
        };
        // The length of a file is anybody's claim: beyond what can be taken there is nothing to give.
        let end = end.min(FILE_MIB_MAX);
        let mut at = 0;
        while at < end {
            let (page, _) = place(at);
            if self.pages.get(page).is_none_or(Option::is_none) {
                let stop = ((page as u64 + 1) * PAGE_BITS).min(end);
                add(at, stop - at);
                at = stop;
                continue;
            }
            let step = (64 - at % 64).min(end - at);
            match self.get_word(at) {
                0 => add(at, step),
                u64::MAX => {}
                word => (at..at + step)
                    .filter(|at| word >> (at % 64) & 1 == 0)
                    .for_each(|at| add(at, 1)),
            }
            at += step;
        }
        if let Some((start, len)) = run {
            each(start, len);
        }
    }

    /// Returns the first MiB from which on nothing is taken.
    pub(crate) fn end(&self) -> u64 {
        let Some(page) = self.pages.iter().rposition(Option::is_some) else {
            return 0;
        };
        // A page is made only to take something of it.
        let end = (page as u64 + 1) * PAGE_BITS;
        (0..end)
            .rev()
            .find(|at| self.get_word(*at) >> (at % 64) & 1 == 1)
            .map_or(0, |last| last + 1)
    }

    fn word(&mut self, at: u64) -> &mut u64 {
        let (page, word) = place(at);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        &mut self.pages[page].get_or_insert_with(|| Box::new([0; PAGE_WORDS]))[word]
    }

    fn get_word(&self, at: u64) -> u64 {
        let (page, word) = place(at);
        self.pages
            .get(page)
            .and_then(Option::as_ref)
            .map_or(0, |page| page[word])
    }
}

/// Returns `bits` ones, at least one, from `bit` on.
fn mask(bit: u64, bits: u64) -> u64 {
    (u64::MAX >> (64 - bits)) << bit
}

fn place(at: u64) -> (usize, usize) {
    let page = usize::try_from(at / PAGE_BITS).expect("below 2^28 / 2^16");
    let word = usize::try_from(at % PAGE_BITS / 64).expect("below 1024");
    (page, word)
}

#[cfg(test)]
mod tests {
    use super::SpaceMap;

    #[test]
    fn refuses_what_is_taken_and_lists_what_is_free() {
        let mut space = SpaceMap::default();
        assert!(space.claim(0, 3));
        assert!(space.claim(60, 80));
        assert!(space.claim(PAST_A_PAGE, 4));
        assert!(!space.claim(139, 2));
        assert_eq!(space.free_runs(150), [(3, 57), (141, 9)]);
        assert!(!space.claim(u64::MAX, 2));
    }

    const PAST_A_PAGE: u64 = 64 * 1024 - 2;
}
