//! A writer of VHD files for tests, plain and in memory: the other side of what the crate reads.

use std::sync::Arc;

use uuid::Uuid;
use vhdx::MemoryFile;

pub(crate) const SECTOR: usize = 512;
/// Where this writer puts what follows the copy of the footer.
pub(crate) const HEADER: usize = 512;
pub(crate) const TABLE: usize = 1536;

/// What a file is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) size: u64,
    pub(crate) block: u32,
    pub(crate) id: Uuid,
    /// Sectors that are written: their bits are set, all others of the block are clear.
    pub(crate) sectors: Vec<(u64, [u8; SECTOR])>,
    pub(crate) parent: Option<Parent>,
}

/// How a child names its parent.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    /// Code, bytes, and whether the space is given in sectors.
    pub(crate) locators: Vec<([u8; 4], Vec<u8>, bool)>,
}

impl Parent {
    /// As Windows names it: both paths in UTF-16.
    pub(crate) fn windows(id: Uuid, name: &str) -> Self {
        let absolute = format!(r"C:\disks\{name}");
        Self {
            id,
            locators: vec![
                (*b"W2ku", utf16le(&absolute), false),
                (*b"W2ru", utf16le(&format!(r".\{name}")), true),
            ],
            name: absolute,
        }
    }
}

pub(crate) fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

impl Spec {
    pub(crate) fn new(size: u64, block: u32) -> Self {
        Self {
            size,
            block,
            id: Uuid::new_v4(),
            sectors: Vec::new(),
            parent: None,
        }
    }

    /// Returns the file as a dynamic or differencing disk.
    pub(crate) fn sparse(&self) -> Vec<u8> {
        let block = u64::from(self.block);
        let blocks = usize::try_from(self.size.div_ceil(block)).unwrap();
        let mut table = vec![u32::MAX; blocks];
        let mut bytes = vec![0; (TABLE + blocks * 4).next_multiple_of(SECTOR)];

        let mut header = [0; 1024];
        put(&mut header, 0, b"cxsparse");
        put(&mut header, 8, &[0xFF; 8]);
        put(&mut header, 16, &(TABLE as u64).to_be_bytes());
        put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
        put(
            &mut header,
            28,
            &u32::try_from(blocks).unwrap().to_be_bytes(),
        );
        put(&mut header, 32, &self.block.to_be_bytes());
        if let Some(parent) = &self.parent {
            put(&mut header, 40, parent.id.as_bytes());
            let name: Vec<u8> = parent
                .name
                .encode_utf16()
                .flat_map(u16::to_be_bytes)
                .collect();
            put(&mut header, 64, &name);
            for (number, (code, data, in_sectors)) in parent.locators.iter().enumerate() {
                let entry = 576 + number * 24;
                let space = data.len().next_multiple_of(SECTOR);
                put(&mut header, entry, code);
                let written = if *in_sectors { space / SECTOR } else { space };
                put(
                    &mut header,
                    entry + 4,
                    &u32::try_from(written).unwrap().to_be_bytes(),
                );
                put(
                    &mut header,
                    entry + 8,
                    &u32::try_from(data.len()).unwrap().to_be_bytes(),
                );
                put(&mut header, entry + 16, &(bytes.len() as u64).to_be_bytes());
                bytes.extend(data);
                bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            }
        }
        seal(&mut header, 36);

        let bitmap = usize::try_from(block / 512)
            .unwrap()
            .div_ceil(8)
            .next_multiple_of(SECTOR);
        for (sector, content) in &self.sectors {
            let (number, within) = (sector * 512 / block, sector * 512 % block / 512);
            let (number, within) = (
                usize::try_from(number).unwrap(),
                usize::try_from(within).unwrap(),
            );
            if table[number] == u32::MAX {
                table[number] = u32::try_from(bytes.len() / SECTOR).unwrap();
                bytes.resize(bytes.len() + bitmap + usize::try_from(block).unwrap(), 0);
            }
            let start = usize::try_from(table[number]).unwrap() * SECTOR;
            bytes[start + within / 8] |= 0x80 >> (within % 8);
            put(&mut bytes, start + bitmap + within * SECTOR, content);
        }
        for (number, entry) in table.iter().enumerate() {
            put(&mut bytes, TABLE + number * 4, &entry.to_be_bytes());
        }
        put(&mut bytes, HEADER, &header);
        let footer = self.footer(if self.parent.is_some() { 4 } else { 3 });
        put(&mut bytes, 0, &footer);
        bytes.extend(footer);
        bytes
    }

    /// Returns the file as a fixed disk that holds the sectors.
    pub(crate) fn fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap()];
        for (sector, content) in &self.sectors {
            put(
                &mut bytes,
                usize::try_from(*sector).unwrap() * SECTOR,
                content,
            );
        }
        bytes.extend(self.footer(2));
        bytes
    }

    /// Returns what the sectors make of what lies below.
    pub(crate) fn over(&self, mut below: Vec<u8>) -> Vec<u8> {
        below.resize(usize::try_from(self.size).unwrap(), 0);
        for (sector, content) in &self.sectors {
            put(
                &mut below,
                usize::try_from(*sector).unwrap() * SECTOR,
                content,
            );
        }
        below
    }

    fn footer(&self, disk_type: u32) -> [u8; SECTOR] {
        let mut footer = [0; SECTOR];
        put(&mut footer, 0, b"conectix");
        put(&mut footer, 8, &2_u32.to_be_bytes());
        put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
        let header = if disk_type == 2 {
            u64::MAX
        } else {
            HEADER as u64
        };
        put(&mut footer, 16, &header.to_be_bytes());
        put(&mut footer, 28, b"win ");
        put(&mut footer, 32, &0x000A_0000_u32.to_be_bytes());
        put(&mut footer, 36, b"Wi2k");
        put(&mut footer, 40, &self.size.to_be_bytes());
        put(&mut footer, 48, &self.size.to_be_bytes());
        put(&mut footer, 60, &disk_type.to_be_bytes());
        put(&mut footer, 68, self.id.as_bytes());
        seal(&mut footer, 64);
        footer
    }
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Corrects the checksum, at `at`, of a structure.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    put(bytes, at, &(!sum).to_be_bytes());
}

pub(crate) fn in_memory(bytes: &[u8]) -> Arc<MemoryFile> {
    Arc::new(MemoryFile::from_bytes(bytes))
}
