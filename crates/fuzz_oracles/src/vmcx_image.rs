//! A HyperVStorage file described in a few bytes; as [`crate::image`] does it for VHDX.

use crate::image::{pattern, word32};
use crate::wire::{Input, Wire};

const PAGE: usize = 4096;
const OBJECTS: usize = 2 * PAGE;
const LOG: usize = 3 * PAGE;
const TABLES: usize = 4 * PAGE;
const KEY_HEADER: usize = 21;

/// A file. The default has one empty key table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VmcxImage {
    /// Key tables, 1 to 4; the high bits: which of them is an older copy of the first.
    pub(crate) tables: u8,
    /// Which header is the newer one.
    pub(crate) second: bool,
    pub(crate) keys: Vec<VmcxKey>,
    pub(crate) edits: Vec<VmcxEdit>,
    /// Checksums left as they are: bit 0 headers, 1 log, 2 object table, 3 key tables, 4 keys.
    pub(crate) wrong_sums: u8,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VmcxKey {
    /// From the type of an integer on, modulo 7; 6 is a node.
    pub(crate) kind: u8,
    /// 0 the root, else the key so many back.
    pub(crate) parent: u8,
    pub(crate) table: u8,
    pub(crate) flags: u8,
    pub(crate) order: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Bytes of a large value in an object of its own, in 64; 0: the value is beside the key.
    pub(crate) large: u8,
    /// Unused bytes behind the key.
    pub(crate) slack: u8,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct VmcxEdit {
    /// In pages.
    pub(crate) page: u8,
    pub(crate) within: u16,
    /// Empty: the file ends here.
    pub(crate) bytes: Vec<u8>,
}

impl Input for VmcxImage {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.byte(&mut self.tables);
        wire.flag(&mut self.second);
        wire.byte(&mut self.wrong_sums);
        wire.list(&mut self.keys, 31, |wire, key| {
            for byte in [
                &mut key.kind,
                &mut key.parent,
                &mut key.table,
                &mut key.flags,
                &mut key.order,
                &mut key.large,
                &mut key.slack,
            ] {
                wire.byte(byte);
            }
            wire.list(&mut key.name, 15, |wire, byte| wire.byte(byte));
            wire.list(&mut key.value, 31, |wire, byte| wire.byte(byte));
        });
        wire.list(&mut self.edits, 31, |wire, edit| {
            wire.byte(&mut edit.page);
            wire.short(&mut edit.within);
            wire.list(&mut edit.bytes, 31, |wire, byte| wire.byte(byte));
        });
    }
}

impl VmcxImage {
    /// Makes the file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let count = 1 + usize::from(self.tables % 4);
        let mut file = vec![0; TABLES + count * PAGE];
        for (at, sequence) in [(0, u8::from(!self.second)), (PAGE, u8::from(self.second))] {
            put(&mut file, at, &[0x14, 0x20, 0x28, 0x01]);
            put(&mut file, at + 8, &[sequence, 0, 0, 4, 0, 0, 7]);
            put(&mut file, at + 22, &word(PAGE));
            put(&mut file, at + 26, &word(LOG));
            put(&mut file, at + 34, &word(PAGE));
        }
        put(&mut file, OBJECTS, &[0x01, 0x00, 0x11, 0x01, 226]);
        put(&mut file, LOG, &[0x03, 0x00, 0x11, 0x01]);
        put(&mut file, LOG + 13, &word(8));
        let mut listed = 0;
        for number in 0..count {
            let at = TABLES + number * PAGE;
            list(&mut file, &mut listed, 2, at, PAGE);
            let older = number > 0 && usize::from(self.tables >> 4) == number;
            let index = if older { 1 } else { number + 1 };
            put(&mut file, at, &word(2)[..2]);
            put(&mut file, at + 2, &word(index)[..2]);
            put(&mut file, at + 4, &word(usize::from(!older))[..2]);
        }
        self.put_keys(&mut file, count, &mut listed);
        for edit in &self.edits {
            let at = usize::from(edit.page) * PAGE + usize::from(edit.within);
            if edit.bytes.is_empty() {
                file.truncate(at);
            } else if at + edit.bytes.len() <= file.len() {
                put(&mut file, at, &edit.bytes);
            }
        }
        self.make_sums_right(&mut file, count);
        file
    }

    fn put_keys(&self, file: &mut Vec<u8>, count: usize, listed: &mut usize) {
        // Where the next key of each table goes, and where keys went: table and offset.
        let mut next = vec![10; count];
        let mut places: Vec<(usize, usize)> = Vec::new();
        for key in &self.keys {
            let table = usize::from(key.table) % count;
            let parent = match usize::from(key.parent) {
                0 => (0, 0),
                back => places.iter().rev().nth(back - 1).copied().unwrap_or((0, 0)),
            };
            let kind = 3 + key.kind % 7;
            let mut value = key.value.clone();
            let large = key.large > 0 && [6, 7].contains(&kind);
            let data = match kind {
                6 | 7 if large => {
                    let len = usize::from(key.large) * 64;
                    let at = file.len().next_multiple_of(PAGE);
                    file.resize(at + len.next_multiple_of(PAGE), 0);
                    put(file, at, &pattern(u64::from(key.order), 0, len));
                    list(file, listed, 3, at, len.next_multiple_of(PAGE));
                    [word(len).to_vec(), word(at).to_vec(), vec![0; 4]].concat()
                }
                6 | 7 => [word(value.len()).to_vec(), value].concat(),
                8 => vec![value.first().map_or(0, |byte| byte & 1), 0, 0, 0],
                9 => vec![0; 12],
                _ => {
                    value.resize(8, 0);
                    value
                }
            };
            let len = KEY_HEADER + key.name.len() + 1 + data.len() + usize::from(key.slack % 16);
            let at = next[table];
            // What is left must be nothing, or hold a free entry.
            if at + len + KEY_HEADER + 1 > PAGE || *listed > 224 {
                continue;
            }
            let start = TABLES + table * PAGE + at;
            put(file, start, &[kind, key.flags & !1 | u8::from(large)]);
            put(file, start + 2, &word(len));
            put(file, start + 6, &word(parent.0)[..2]);
            put(file, start + 8, &word(parent.1));
            put(file, start + 16, &word(usize::from(key.order)));
            put(file, start + 20, &word(key.name.len() + 1)[..1]);
            put(file, start + KEY_HEADER, &key.name);
            put(file, start + KEY_HEADER + key.name.len() + 1, &data);
            places.push((table + 1, at));
            next[table] = at + len;
        }
        for (table, at) in next.into_iter().enumerate() {
            let start = TABLES + table * PAGE + at;
            put(file, start, &[1, 0]);
            put(file, start + 2, &word(PAGE - at));
        }
    }

    fn make_sums_right(&self, file: &mut [u8], count: usize) {
        let right = |bit: u8| self.wrong_sums >> bit & 1 == 0;
        if right(0) {
            seal(file, 0, 46, 4);
            seal(file, PAGE, 46, 4);
        }
        if right(1) {
            seal(file, LOG, 34, 4);
        }
        for number in 0..226 {
            let at = OBJECTS + 8 + number * 18;
            if right(2) && file.get(at..at + 18).is_some_and(|entry| entry != [0; 18]) {
                seal(file, at, 18, 1);
            }
        }
        for number in 0..count {
            let table = TABLES + number * PAGE;
            if right(3) {
                seal(file, table, 10, 6);
            }
            let mut at = 10;
            while right(4) && at + KEY_HEADER < PAGE && table + PAGE <= file.len() {
                let key = &file[table + at..table + PAGE];
                let data = KEY_HEADER + usize::from(key[20]);
                let len = match key[0] {
                    6 | 7 if key[1] & 1 == 1 => 12,
                    6 | 7 => key
                        .get(data..data + 4)
                        .map_or(0, |len| small(word32(len, 0)) + 4),
                    8 => 4,
                    9 => 12,
                    _ => 8,
                };
                let size = small(word32(key, 2));
                if key[0] != 1 && data + len <= key.len() {
                    seal(file, table + at, data + len, 12);
                }
                at += size.max(1);
            }
        }
    }
}

/// Lists an object in the object table.
fn list(file: &mut [u8], listed: &mut usize, kind: u8, at: usize, len: usize) {
    let entry = OBJECTS + 8 + *listed * 18;
    put(file, entry, &[kind]);
    put(file, entry + 5, &word(at));
    put(file, entry + 13, &word(len));
    put(file, entry + 17, &[1]);
    *listed += 1;
}

/// A length or offset as the file keeps it; files here are short.
fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn small(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX).min(1 << 20)
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Gives a structure the checksum it should have, if the file has the structure.
fn seal(file: &mut [u8], at: usize, len: usize, field: usize) {
    if let Some(bytes) = file.get_mut(at..at + len) {
        bytes[field..field + 4].fill(0);
        let sum = crc32(bytes);
        bytes[field..field + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-32 of ISO 3309, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}
