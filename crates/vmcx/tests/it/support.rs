//! A sample tree, and bytes changed under their checksums.

use vmcx::{Entry, Node, Storage, Value};

/// A tree with every type, three levels, two key tables and large values.
pub(crate) fn sample() -> Storage {
    let mut storage = Storage::new();
    storage.data_version = 7;
    storage.set("/configuration/properties/version", 2560_i64);
    storage.set("/configuration/properties/name", "Würfel 🎲");
    storage.set("/configuration/properties/empty", "");
    storage.set("/configuration/properties/terminated", "twice\0");
    storage.set("/configuration/settings/memory/bank/size", 4096_u64);
    storage.set("/configuration/settings/ratio", 0.75);
    storage.set("/configuration/settings/secure", true);
    storage.set("/configuration/settings/hidden", false);
    storage.set("/configuration/settings/least", i64::MIN);
    storage.set("/configuration/settings/most", u64::MAX);
    storage.set("/configuration/bytes/none", Vec::new());
    storage.set("/configuration/bytes/inline", vec![0xA5; 2047]);
    storage.set("/configuration/bytes/large", vec![0x5A; 2048]);
    storage.set(
        "/configuration/bytes/larger",
        (0..=255).cycle().take(9000).collect::<Vec<u8>>(),
    );
    storage.set("/configuration/bytes/text", "x".repeat(3000));
    storage.set("/top", 1_i64);
    for number in 0..60_i64 {
        storage.set(&format!("/configuration/_{number:04}_/index"), number);
    }
    let node = Node {
        entries: vec![Entry::new("same", 1_i64), Entry::new("same", 2_i64)],
        change_sequence: 99,
    };
    storage.root.entries.push(Entry {
        flags: Entry::SUBCOMPONENT | Entry::CHANGE_TRACKING,
        ..Entry::new("tracked/node", Value::Node(node))
    });
    storage
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// CRC-32, bit by bit: not the crate's own.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Corrects the checksum, at `field`, of a structure.
pub(crate) fn seal(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = crc(bytes);
    put(bytes, field, &sum.to_le_bytes());
}

/// Corrects every checksum that can be found by following what the file says.
pub(crate) fn seal_all(bytes: &mut [u8]) {
    for at in [0, 4096] {
        seal(&mut bytes[at..at + 46], 4);
    }
    let log = usize::try_from(u64_at(bytes, 26)).unwrap_or(usize::MAX);
    if log < bytes.len() - 34 {
        seal(&mut bytes[log..log + 34], 4);
    }
    let mut tables = Vec::new();
    for number in 0..227 {
        let at = 8200 + number * 18;
        seal(&mut bytes[at..at + 18], 1);
        let place = usize::try_from(u64_at(bytes, at + 5)).unwrap_or(usize::MAX);
        if bytes[at] == 2 && place <= bytes.len() - 4096 {
            tables.push(place);
        }
    }
    for table in tables {
        seal_keys(&mut bytes[table..table + 4096]);
    }
}

/// Corrects the checksums of a key table.
pub(crate) fn seal_keys(table: &mut [u8]) {
    seal(&mut table[..10], 6);
    let mut at = 10;
    while at + 21 < table.len() {
        let size = usize::try_from(u32_at(table, at + 2)).unwrap();
        if size < 21 || size > table.len() - at {
            return;
        }
        let entry = &mut table[at..at + size];
        let data = 21 + usize::from(entry[20]);
        let len = match (entry[0], entry[1] & 1) {
            (6 | 7, 0) if data + 4 <= size => 4 + usize::try_from(u32_at(entry, data)).unwrap(),
            (6 | 7, _) | (9, _) => 12,
            (8, _) => 4,
            _ => 8,
        };
        if entry[0] != 1 && data + len <= size {
            seal(&mut entry[..data + len], 12);
        }
        at += size;
    }
}
