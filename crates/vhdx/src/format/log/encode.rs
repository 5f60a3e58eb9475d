//! Entries of the log as they are written (2.3.1).

use uuid::Uuid;

use super::{DESCRIPTOR_BYTES, ENTRY_HEADER_BYTES, descriptor_sectors};
use crate::format::region::Region;
use crate::format::{MIB, PAGE, PAGE_BYTES, Page, checksum, index, put};

/// What an entry to be written says of itself.
pub(crate) struct EntryHead {
    pub(crate) tail: u32,
    pub(crate) sequence: u64,
    pub(crate) guid: Uuid,
    pub(crate) file_len: u64,
}

/// Returns how many bytes of the log an entry with so many pages and zero ranges takes.
pub(crate) fn entry_len(pages: usize, zeros: usize) -> u64 {
    (descriptor_sectors((pages + zeros) as u64) + pages as u64) * PAGE
}

/// Returns an entry that gives each page, named by its place in the file, new content, and makes ranges of whole pages zeros.
pub(crate) fn encode(head: &EntryHead, pages: &[(u64, &Page)], zeros: &[Region]) -> Vec<u8> {
    let length = entry_len(pages.len(), zeros.len());
    let mut entry = vec![0; index(length)];
    put(&mut entry, 0, b"loge");
    put(
        &mut entry,
        8,
        &u32::try_from(length)
            .expect("an entry is shorter than the log")
            .to_le_bytes(),
    );
    put(&mut entry, 12, &head.tail.to_le_bytes());
    put(&mut entry, 16, &head.sequence.to_le_bytes());
    put(
        &mut entry,
        24,
        &u32::try_from(pages.len() + zeros.len())
            .expect("as many as fit the log")
            .to_le_bytes(),
    );
    put(&mut entry, 32, &head.guid.to_bytes_le());
    put(&mut entry, 48, &(head.file_len / MIB * MIB).to_le_bytes());
    put(
        &mut entry,
        56,
        &head.file_len.next_multiple_of(MIB).to_le_bytes(),
    );
    let data = index(descriptor_sectors((pages.len() + zeros.len()) as u64) * PAGE);
    let sequence = head.sequence.to_le_bytes();
    for (number, (at, page)) in pages.iter().enumerate() {
        let descriptor = index(ENTRY_HEADER_BYTES) + number * index(DESCRIPTOR_BYTES);
        put(&mut entry, descriptor, b"desc");
        put(&mut entry, descriptor + 4, &page[PAGE_BYTES - 4..]);
        put(&mut entry, descriptor + 8, &page[..8]);
        put(&mut entry, descriptor + 16, &at.to_le_bytes());
        put(&mut entry, descriptor + 24, &sequence);
        let sector = data + number * PAGE_BYTES;
        put(&mut entry, sector, *page);
        put(&mut entry, sector, b"data");
        put(&mut entry, sector + 4, &sequence[4..]);
        put(&mut entry, sector + PAGE_BYTES - 4, &sequence[..4]);
    }
    for (number, range) in zeros.iter().enumerate() {
        let descriptor =
            index(ENTRY_HEADER_BYTES) + (pages.len() + number) * index(DESCRIPTOR_BYTES);
        put(&mut entry, descriptor, b"zero");
        put(&mut entry, descriptor + 8, &range.length.to_le_bytes());
        put(&mut entry, descriptor + 16, &range.offset.to_le_bytes());
        put(&mut entry, descriptor + 24, &sequence);
    }
    let sum = checksum(&entry);
    put(&mut entry, 4, &sum.to_le_bytes());
    entry
}
