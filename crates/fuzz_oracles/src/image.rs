//! A VHDX file described in a few bytes, so that a fuzzer need not invent 1 MiB of structures and their checksums.
//!
//! The description says what a sound file holds; its edits then spoil it; last of all checksums are made right, so that what
//! lies behind them is reached. Written from the format, without the code under test.

use uuid::{Uuid, uuid};

use crate::sparse::SparseFile;
use crate::wire::{Input, Wire};
use crate::{MIB, index};

const KIB: u64 = 1 << 10;
const PAGE: u64 = 4096;

pub(crate) const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
pub(crate) const TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
const LOG_LEN: u64 = MIB;
/// Three groups at most: the table is checked anew with every input. Edits can still make a disk larger.
const MOST_BLOCKS: u64 = 10_000;

pub(crate) const BAT_GUID: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
pub(crate) const METADATA_GUID: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");
pub(crate) const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
pub(crate) const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
pub(crate) const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
const VHDX_PARENT: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");
const LOG_GUID: Uuid = uuid!("5C3A1F0E-0000-4000-8000-00000000106D");

/// A file. The default is an empty dynamic disk of one sector in blocks of 1 MiB.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Image {
    /// Nothing but zeros before the edits.
    pub(crate) raw: bool,
    /// 0 dynamic, 1 fixed, 2 differencing.
    pub(crate) kind: u8,
    /// Blocks of 1 MiB shifted by this, up to 8.
    pub(crate) block_shift: u8,
    /// Bit 0: logical sectors of 4096; bit 1: physical ones.
    pub(crate) sectors: u8,
    /// Order of log, metadata and BAT.
    pub(crate) layout: u8,
    /// The disk has `count + 1` of these: 0 logical sectors, 1 MiB, 2 blocks, 3 GiB, 4 TiB.
    pub(crate) unit: u8,
    pub(crate) count: u16,
    /// See [`identity`].
    pub(crate) identity: u8,
    pub(crate) link: Link,
    pub(crate) blocks: Vec<Block>,
    pub(crate) log: Vec<Entry>,
    pub(crate) edits: Vec<Edit>,
    /// Checksums left as they are: bit 0 of headers, 1 of region tables, 2 of log entries.
    pub(crate) wrong_sums: u8,
}

/// How a differencing disk names its parent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Link {
    pub(crate) linkage: u8,
    /// 0: none.
    pub(crate) linkage2: u8,
    /// Bit 0: an absolute path too; bit 1: no relative one.
    pub(crate) paths: u8,
    /// Letters of [`LETTERS`]; empty: `.\N`, where N is the linkage.
    pub(crate) path: Vec<u8>,
}

/// What paths are made of: UTF-16 units, one of them an unpaired surrogate.
const LETTERS: [u16; 16] = [
    b'.' as u16,
    b'\\' as u16,
    b'/' as u16,
    b':' as u16,
    b'0' as u16,
    b'1' as u16,
    b'2' as u16,
    b'3' as u16,
    b'4' as u16,
    b'5' as u16,
    b'a' as u16,
    b'A' as u16,
    0,
    0xE9,
    0xD800,
    b' ' as u16,
];

/// A payload block.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Block {
    /// Modulo the number of blocks.
    pub(crate) number: u16,
    pub(crate) state: u8,
    /// In MiB; 0: behind what there is.
    pub(crate) place: u8,
    /// Bits of sectors at the start and at the end of the block, in turn.
    pub(crate) bits: u8,
    /// What its first and last pages hold.
    pub(crate) seed: u8,
}

/// An entry of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Entry {
    /// How far its number lies beyond the one after the previous entry's.
    pub(crate) skip: u8,
    /// Where its tail is: so many entries back.
    pub(crate) tail: u8,
    /// The page of the log it starts on; 0: behind the previous one.
    pub(crate) page: u8,
    /// The log's id is another one.
    pub(crate) strange: bool,
    /// In MiB; 0: the length of the file.
    pub(crate) flushed: u8,
    /// MiB beyond the length of the file.
    pub(crate) more: u8,
    pub(crate) changes: Vec<Change>,
}

/// What an entry changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    /// 0 a page as it is but for one word, 1 a page of its own, 2 zeros.
    pub(crate) kind: u8,
    pub(crate) area: u8,
    /// Pages from the start of the area.
    pub(crate) page: u16,
    /// The word that changes; the length of zeros in pages.
    pub(crate) word: u16,
    pub(crate) value: u64,
}

/// A change of the finished file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Edit {
    /// 0 bytes, 1 bytes there and 64 KiB on (the other header, the other table), 2 a copy, 3 the length of the file.
    pub(crate) op: u8,
    pub(crate) area: u8,
    pub(crate) within: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Input for Image {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.flag(&mut self.raw);
        for byte in [
            &mut self.kind,
            &mut self.block_shift,
            &mut self.sectors,
            &mut self.layout,
            &mut self.unit,
        ] {
            wire.byte(byte);
        }
        wire.short(&mut self.count);
        wire.byte(&mut self.identity);
        wire.byte(&mut self.wrong_sums);
        self.link.wire(wire);
        wire.list(&mut self.blocks, 15, |wire, block| {
            wire.short(&mut block.number);
            for byte in [
                &mut block.state,
                &mut block.place,
                &mut block.bits,
                &mut block.seed,
            ] {
                wire.byte(byte);
            }
        });
        wire.list(&mut self.log, 7, |wire, entry| {
            for byte in [
                &mut entry.skip,
                &mut entry.tail,
                &mut entry.page,
                &mut entry.flushed,
                &mut entry.more,
            ] {
                wire.byte(byte);
            }
            wire.flag(&mut entry.strange);
            wire.list(&mut entry.changes, 7, |wire, change| {
                wire.byte(&mut change.kind);
                wire.byte(&mut change.area);
                wire.short(&mut change.page);
                wire.short(&mut change.word);
                wire.long(&mut change.value);
            });
        });
        wire.list(&mut self.edits, 31, |wire, edit| {
            wire.byte(&mut edit.op);
            wire.byte(&mut edit.area);
            wire.short(&mut edit.within);
            wire.list(&mut edit.bytes, 31, |wire, byte| wire.byte(byte));
        });
    }
}

/// Returns the `DataWriteGuid` of a number.
pub(crate) fn identity(number: u8) -> Uuid {
    Uuid::from_u128(0x1D00_0000_0000_4000_8000_0000_0000_0000 | u128::from(number))
}

/// Where things lie and how many.
struct Plan {
    size: u64,
    block: u64,
    sector: u64,
    log: u64,
    metadata: u64,
    bat: u64,
    bat_len: u64,
    blocks: u64,
    /// Payload blocks per sector bitmap.
    ratio: u64,
}

impl Image {
    pub(crate) fn has_parent(&self) -> bool {
        self.kind % 3 == 2
    }

    /// Returns a block that is there and holds something.
    pub(crate) fn full_block(number: u16) -> Block {
        Block {
            number,
            state: 6,
            seed: 1,
            ..Block::default()
        }
    }

    fn plan(&self) -> Plan {
        let sector = if self.sectors & 1 == 1 { 4096 } else { 512 };
        let block = MIB << (self.block_shift % 9);
        let unit = [sector, MIB, block, 1 << 30, 1 << 40][usize::from(self.unit % 5)];
        let size = (unit * (u64::from(self.count) + 1)).min(block * MOST_BLOCKS);
        let blocks = size.div_ceil(block);
        let ratio = (1 << 23) * sector / block;
        let entries = if self.has_parent() {
            blocks.div_ceil(ratio) * (ratio + 1)
        } else {
            blocks + (blocks - 1) / ratio
        };
        let bat_len = (entries * 8).next_multiple_of(MIB);
        let (log, metadata, bat) = match self.layout % 3 {
            0 => (MIB, 2 * MIB, 3 * MIB),
            1 => (MIB, 3 * MIB + bat_len, 2 * MIB),
            _ => (2 * MIB + bat_len, MIB, 2 * MIB),
        };
        Plan {
            size,
            block,
            sector,
            log,
            metadata,
            bat,
            bat_len,
            blocks,
            ratio,
        }
    }

    /// Makes the file.
    pub(crate) fn build(&self) -> SparseFile {
        let plan = self.plan();
        let file = SparseFile::default();
        if !self.raw {
            self.build_sound(&plan, &file);
        }
        for edit in &self.edits {
            edit.apply(&plan, &file);
        }
        // The first four bytes of a structure decide whether it has a checksum at all.
        for (number, len) in [(0, PAGE), (1, 64 * KIB)] {
            if self.wrong_sums >> number & 1 == 0 {
                for at in [HEADERS, TABLES][number] {
                    if file.bytes(at) != [0; 4] {
                        make_sum_right(&file, len, &|within| at + within);
                    }
                }
            }
        }
        if self.wrong_sums & 4 == 0 && !self.log.is_empty() {
            for start in (0..LOG_LEN).step_by(index(PAGE)) {
                let head: [u8; 12] = file.bytes(plan.log + start);
                let len = u64::from(word32(&head, 8));
                if &head[..4] == b"loge" && len > 0 && len <= 64 * PAGE && len.is_multiple_of(PAGE)
                {
                    make_sum_right(&file, len, &|within| plan.log + (start + within) % LOG_LEN);
                }
            }
        }
        file
    }

    fn build_sound(&self, plan: &Plan, file: &SparseFile) {
        file.put(0, b"vhdxfile");
        for (number, at) in (1_u64..).zip(HEADERS) {
            let mut header = Vec::new();
            header.extend(*b"head\0\0\0\0");
            header.extend(number.to_le_bytes());
            header.extend(identity(200).to_bytes_le());
            header.extend(identity(self.identity).to_bytes_le());
            let log_guid = if self.log.is_empty() {
                Uuid::nil()
            } else {
                LOG_GUID
            };
            header.extend(log_guid.to_bytes_le());
            header.extend([0, 0, 1, 0]);
            header.extend(u32_of(LOG_LEN));
            header.extend(plan.log.to_le_bytes());
            file.put(at, &header);
        }
        let mut table = Vec::new();
        table.extend(*b"regi\0\0\0\0\x02\0\0\0\0\0\0\0");
        for (guid, at, len) in [
            (BAT_GUID, plan.bat, plan.bat_len),
            (METADATA_GUID, plan.metadata, MIB),
        ] {
            table.extend(guid.to_bytes_le());
            table.extend(at.to_le_bytes());
            table.extend(u32_of(len));
            table.extend([1, 0, 0, 0]);
        }
        TABLES.iter().for_each(|at| file.put(*at, &table));
        self.put_metadata(plan, file);
        let mut end = [
            plan.log + LOG_LEN,
            plan.metadata + MIB,
            plan.bat + plan.bat_len,
        ]
        .into_iter()
        .max()
        .unwrap_or(0);
        self.put_blocks(plan, file, &mut end);
        file.resize(end);
        self.put_log(plan, file, end);
    }

    fn put_metadata(&self, plan: &Plan, file: &SparseFile) {
        let flags = match self.kind % 3 {
            0 => 0_u32,
            1 => 1,
            _ => 2,
        };
        let physical: u32 = if self.sectors & 2 == 2 { 4096 } else { 512 };
        let mut items = vec![
            (
                FILE_PARAMETERS,
                4,
                [u32_of(plan.block), flags.to_le_bytes()].concat(),
            ),
            (DISK_SIZE, 6, plan.size.to_le_bytes().to_vec()),
            (LOGICAL_SECTOR, 6, u32_of(plan.sector).to_vec()),
            (PHYSICAL_SECTOR, 6, physical.to_le_bytes().to_vec()),
            (DISK_ID, 6, identity(201).to_bytes_le().to_vec()),
        ];
        if self.has_parent() {
            items.push((PARENT_LOCATOR, 4, self.link.locator()));
        }
        let count = u16::try_from(items.len()).unwrap_or(0);
        file.put(plan.metadata, b"metadata");
        file.put(plan.metadata + 10, &count.to_le_bytes());
        let mut offset = 64 * KIB;
        for (number, (guid, flags, content)) in (0_u64..).zip(items) {
            let mut entry = guid.to_bytes_le().to_vec();
            entry.extend(u32_of(offset));
            entry.extend(u32_of(content.len() as u64));
            entry.extend([flags, 0, 0, 0]);
            file.put(plan.metadata + 32 + number * 32, &entry);
            file.put(plan.metadata + offset, &content);
            offset += content.len() as u64;
        }
    }

    fn put_blocks(&self, plan: &Plan, file: &SparseFile, end: &mut u64) {
        let mut blocks = self.blocks.clone();
        if self.kind % 3 == 1 && plan.blocks <= 32 {
            let all = 0..u16::try_from(plan.blocks).unwrap_or(0);
            let listed: Vec<u64> = blocks
                .iter()
                .map(|block| u64::from(block.number) % plan.blocks)
                .collect();
            blocks.extend(
                all.filter(|number| !listed.contains(&u64::from(*number)))
                    .map(|number| Block {
                        number,
                        state: 6,
                        ..Block::default()
                    }),
            );
        }
        for block in &blocks {
            let number = u64::from(block.number) % plan.blocks;
            let group = number / plan.ratio;
            let state = u64::from(block.state & 7);
            let place = match (block.place, state) {
                (0, 0..=3) => 0,
                (0, _) => {
                    *end += plan.block;
                    *end - plan.block
                }
                (mib, _) => u64::from(mib) * MIB,
            };
            file.put(
                plan.bat + (number + group) * 8,
                &(place | state).to_le_bytes(),
            );
            if place > 0 && block.seed > 0 {
                let used = plan.block.min(plan.size - number * plan.block);
                for at in [0, (used - 1) / PAGE * PAGE] {
                    let len = PAGE.min(used - at);
                    file.put(place + at, &pattern(u64::from(block.seed), at, index(len)));
                }
            }
            if state == 7 && self.has_parent() {
                let entry = plan.bat + (group * (plan.ratio + 1) + plan.ratio) * 8;
                let mut bitmap = u64::from_le_bytes(file.bytes(entry)) & !7;
                if bitmap == 0 {
                    bitmap = *end;
                    *end += MIB;
                    file.put(entry, &(bitmap | 6).to_le_bytes());
                }
                let bytes = plan.block / plan.sector / 8;
                let first = bitmap + number % plan.ratio * bytes;
                file.put(first, &[block.bits; 12]);
                file.put(first + bytes - 12, &[!block.bits; 12]);
            }
        }
    }

    fn put_log(&self, plan: &Plan, file: &SparseFile, file_len: u64) {
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

impl Link {
    pub(crate) fn wire(&mut self, wire: &mut impl Wire) {
        for byte in [&mut self.linkage, &mut self.linkage2, &mut self.paths] {
            wire.byte(byte);
        }
        wire.list(&mut self.path, 31, |wire, letter| wire.byte(letter));
    }

    /// Returns the path in UTF-16.
    pub(crate) fn path(&self) -> Vec<u16> {
        if self.path.is_empty() {
            return format!(r".\{}", self.linkage).encode_utf16().collect();
        }
        let letters = self.path.iter();
        letters
            .map(|letter| LETTERS[usize::from(letter % 16)])
            .collect()
    }

    fn locator(&self) -> Vec<u8> {
        let text = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        let braced = |number: u8| text(&identity(number).braced().to_string());
        let path = self.path();
        let mut pairs = vec![("parent_linkage", braced(self.linkage))];
        if self.linkage2 > 0 {
            pairs.push(("parent_linkage2", braced(self.linkage2)));
        }
        if self.paths & 2 == 0 {
            pairs.push(("relative_path", path.clone()));
        }
        if self.paths & 1 == 1 {
            pairs.push(("absolute_win32_path", [text(r"C:\disks\"), path].concat()));
        }
        let mut item = VHDX_PARENT.to_bytes_le().to_vec();
        item.extend([0, 0, u8::try_from(pairs.len()).unwrap_or(0), 0]);
        let mut strings: Vec<u8> = Vec::new();
        let first = item.len() + pairs.len() * 12;
        for (key, value) in pairs {
            let mut places: Vec<u8> = Vec::new();
            let mut lengths: Vec<u8> = Vec::new();
            for units in [text(key), value] {
                places.extend(u32_of((first + strings.len()) as u64));
                lengths.extend(&u32_of(units.len() as u64 * 2)[..2]);
                strings.extend(units.into_iter().flat_map(u16::to_le_bytes));
            }
            item.extend(places);
            item.extend(lengths);
        }
        item.extend(strings);
        item
    }
}

impl Plan {
    /// Returns where an area of the file starts that is worth changing.
    fn area(&self, area: u8) -> u64 {
        match area {
            0 => 0,
            1 => HEADERS[0],
            2 => HEADERS[1],
            3 => TABLES[0],
            4 => TABLES[1],
            5 => self.metadata,
            6 => self.metadata + 64 * KIB,
            7 => self.bat,
            8 => self.log,
            9 => self.bat + self.ratio.min(1 << 20) * 8,
            mib => u64::from(mib - 10) * MIB,
        }
    }
}

impl Edit {
    fn apply(&self, plan: &Plan, file: &SparseFile) {
        let at = plan.area(self.area) + u64::from(self.within);
        match self.op % 4 {
            0 => file.put(at, &self.bytes),
            1 => {
                file.put(at, &self.bytes);
                file.put(at + 64 * KIB, &self.bytes);
            }
            2 => {
                let mut from = self.bytes.clone();
                from.resize(4, 0);
                let start = plan.area(from[0]) + u64::from(u16::from_le_bytes([from[1], from[2]]));
                let mut bytes = vec![0; usize::from(from[3]) * 32];
                file.read_or_zeros(&mut bytes, start);
                file.put(at, &bytes);
            }
            _ => {
                let mut more = self.bytes.clone();
                more.resize(8, 0);
                // Beyond 64 TiB a file is only long.
                let len = (u64::from(self.within) * MIB).saturating_add(word64(&more, 0));
                file.resize(len.min(128 << 40));
            }
        }
    }
}

/// Gives a structure of `len` bytes the checksum it should have; `place` says where each of its pages lies.
fn make_sum_right(file: &SparseFile, len: u64, place: &dyn Fn(u64) -> u64) {
    let mut sum = 0;
    for within in (0..len).step_by(index(PAGE)) {
        let mut page: [u8; 4096] = file.bytes(place(within));
        if within == 0 {
            page[4..8].fill(0);
        }
        sum = crc32c::crc32c_append(sum, &page);
    }
    let size = file.size();
    file.put(place(0) + 4, &sum.to_le_bytes());
    file.resize(size);
}

/// Bytes that differ everywhere: a function of seed and offset.
pub(crate) fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let word = |number: u64| {
        let mut x = number
            .wrapping_add(seed << 32)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x ^ x >> 32).to_le_bytes()
    };
    let first = offset / 8;
    let skip = index(offset % 8);
    let words = (skip + len).div_ceil(8) as u64;
    let bytes: Vec<u8> = (first..first + words).flat_map(word).collect();
    bytes[skip..skip + len].to_vec()
}

pub(crate) fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The low four bytes of a length, as the format keeps them.
fn u32_of(value: u64) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&value.to_le_bytes()[..4]);
    bytes
}

/// Gives a sound file another `DataWriteGuid`.
pub(crate) fn forge_identity(file: &SparseFile, identity: Uuid) {
    for at in HEADERS {
        file.put(at + 32, &identity.to_bytes_le());
        make_sum_right(file, PAGE, &|within| at + within);
    }
}
