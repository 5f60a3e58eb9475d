//! The log of a file: entries as they are described, sound but for what the description spoils.

use super::build::{LOG_GUID, LOG_LEN, Plan, u32_of};
use super::{Change, Image, identity, pattern};
use crate::MIB;
use crate::sparse::SparseFile;

const PAGE: u64 = 4096;

impl Image {
    pub(super) fn put_log(&self, plan: &Plan, file: &SparseFile, file_len: u64) {
        let put = |at: u64, bytes: &[u8]| {
            for (number, page) in (0_u64..).zip(bytes.chunks(4096)) {
                file.put(plan.log + (at + number * PAGE) % LOG_LEN, page);
            }
        };
        let (mut next, mut sequence) = (0, 0_u64);
        let mut starts: Vec<u64> = Vec::new();
        for entry in &self.log {
            let start = if entry.page == 0 {
                next
            } else {
                u64::from(entry.page) * PAGE
            };
            starts.push(start);
            sequence += 1 + u64::from(entry.skip);
            let tail = starts[starts.len() - 1 - usize::from(entry.tail) % starts.len()];
            let data: Vec<&Change> = entry
                .changes
                .iter()
                .filter(|change| change.kind % 3 != 2)
                .collect();
            let len = (1 + data.len() as u64) * PAGE;
            let guid = if entry.strange {
                identity(202)
            } else {
                LOG_GUID
            };
            let flushed = match entry.flushed {
                0 => file_len,
                mib => u64::from(mib) * MIB,
            };
            let mut bytes = b"loge\0\0\0\0".to_vec();
            bytes.extend(u32_of(len));
            bytes.extend(u32_of(tail));
            bytes.extend(sequence.to_le_bytes());
            bytes.extend(u32_of(entry.changes.len() as u64));
            bytes.extend([0; 4]);
            bytes.extend(guid.to_bytes_le());
            bytes.extend(flushed.to_le_bytes());
            bytes.extend((file_len + u64::from(entry.more) * MIB).to_le_bytes());
            let mut sectors: Vec<[u8; 4096]> = Vec::new();
            for change in &entry.changes {
                let at = plan.area(change.area) / PAGE * PAGE + u64::from(change.page) * PAGE;
                if change.kind % 3 == 2 {
                    bytes.extend(*b"zero\0\0\0\0");
                    bytes.extend((u64::from(change.word) * PAGE).to_le_bytes());
                } else {
                    let mut page: [u8; 4096] = file.bytes(at);
                    if change.kind % 3 == 1 {
                        page.copy_from_slice(&pattern(change.value, 0, 4096));
                    } else {
                        let word = usize::from(change.word) % 512 * 8;
                        page[word..word + 8].copy_from_slice(&change.value.to_le_bytes());
                    }
                    bytes.extend(*b"desc");
                    bytes.extend(&page[4092..]);
                    bytes.extend(&page[..8]);
                    page[..4].copy_from_slice(b"data");
                    page[4..8].copy_from_slice(&sequence.to_le_bytes()[4..]);
                    page[4092..].copy_from_slice(&sequence.to_le_bytes()[..4]);
                    sectors.push(page);
                }
                bytes.extend(at.to_le_bytes());
                bytes.extend(sequence.to_le_bytes());
            }
            bytes.resize(4096, 0);
            sectors.iter().for_each(|sector| bytes.extend(sector));
            put(start, &bytes);
            next = (start + len) % LOG_LEN;
        }
    }
}
