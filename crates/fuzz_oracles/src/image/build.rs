//! From the description to the file: structures at their places, then the edits, then the checksums.

use uuid::{Uuid, uuid};

use super::{
    BAT_GUID, Block, DISK_SIZE, Edit, FILE_PARAMETERS, HEADERS, Image, KIB, LOGICAL_SECTOR, Link,
    METADATA_GUID, TABLES, identity, pattern, word32, word64,
};
use crate::sparse::SparseFile;
use crate::{MIB, index};

const PAGE: u64 = 4096;
pub(super) const LOG_LEN: u64 = MIB;
/// Three groups at most: the table is checked anew with every input. Edits can still make a disk larger.
const MOST_BLOCKS: u64 = 10_000;

const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
const VHDX_PARENT: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");
pub(super) const LOG_GUID: Uuid = uuid!("5C3A1F0E-0000-4000-8000-00000000106D");

/// Where things lie and how many.
pub(super) struct Plan {
    size: u64,
    block: u64,
    sector: u64,
    pub(super) log: u64,
    metadata: u64,
    bat: u64,
    bat_len: u64,
    blocks: u64,
    /// Payload blocks per sector bitmap.
    ratio: u64,
}

impl Image {
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
}

impl Link {
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
    pub(super) fn area(&self, area: u8) -> u64 {
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

/// The low four bytes of a length, as the format keeps them.
pub(super) fn u32_of(value: u64) -> [u8; 4] {
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
