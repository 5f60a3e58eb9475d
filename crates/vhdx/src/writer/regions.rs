//! Changing where a region of an open file lies.

use std::sync::Arc;

use uuid::Uuid;

use crate::backing::Backing;
use crate::error::Error;
use crate::format::region::{Region, Regions, TABLE_AT, TABLE_BYTES};
use crate::format::{PAGE, PAGE_BYTES, Page, checksum, guid_at, index, put, u32_at};

/// Returns the pages that put a region elsewhere in both copies of the region table: those that differ from the file.
///
/// A damaged copy is mended with it.
pub(super) fn moved(
    file: &Backing,
    regions: &Regions,
    id: Uuid,
    to: Region,
) -> Result<Vec<(u64, Arc<Page>)>, Error> {
    let read = |slot: usize| {
        let mut table = vec![0; index(TABLE_BYTES)];
        file.read(&mut table, TABLE_AT[slot], "the region table")?;
        Ok(table)
    };
    let old = [read(0)?, read(1)?];
    let mut new = old[regions.repair_from.unwrap_or(0)].clone();
    let entries = (0..u64::from(u32_at(&new, 8))).map(|number| index(16 + number * 32));
    if let Some(entry) = entries.into_iter().find(|at| guid_at(&new, *at) == id) {
        let length = u32::try_from(to.length)
            .map_err(|_| Error::Parameters("a region is shorter than 4 GiB"))?;
        put(&mut new, entry + 16, &to.offset.to_le_bytes());
        put(&mut new, entry + 24, &length.to_le_bytes());
        let sum = checksum(&new);
        put(&mut new, 4, &sum.to_le_bytes());
    }
    let mut pages: Vec<(u64, Arc<Page>)> = Vec::new();
    for (slot, old) in old.iter().enumerate() {
        let both = old.as_chunks::<PAGE_BYTES>().0.iter();
        let both = both.zip(new.as_chunks::<PAGE_BYTES>().0);
        for (number, (before, after)) in both.enumerate() {
            if before != after {
                pages.push((TABLE_AT[slot] + number as u64 * PAGE, Arc::new(*after)));
            }
        }
    }
    Ok(pages)
}
