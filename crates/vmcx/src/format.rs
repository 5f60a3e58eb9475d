//! The format on disk. Little-endian, packed; CRC-32 of ISO 3309 with the field itself taken as zero.
//!
//! Layout: two headers, at 0 and 4096; an object table at 8192; then in any order key tables, file objects, the replay log,
//! and further object tables, each aligned to what the header says.
//!
//! - Object table: `u32` signature, `u32` count, entries of 18 bytes. The last entry leads to the next table.
//! - Key table: 10 bytes of header, then entries that fill it to the last byte; none may begin in the last 21 bytes.
//! - Key: 21 bytes of header, name, data. Its parent is named by key table and offset, (0, 0) for the root, which is not
//!   stored. Values of 2048 bytes and more lie in file objects, of which the key holds length and offset.

pub(crate) const HEADER_AT: [u64; 2] = [0, 4096];
pub(crate) const HEADER_BYTES: usize = 46;
pub(crate) const HEADER_SIGNATURE: u32 = 0x0128_2014;
pub(crate) const VERSION: u32 = 0x0400;
pub(crate) const ALIGNMENT: u32 = 4096;
pub(crate) const ALIGNMENT_MAX: u32 = 64 << 10;

pub(crate) const LOG_HEADER_BYTES: usize = 34;
pub(crate) const LOG_SIGNATURE: u32 = 0x0111_0003;
pub(crate) const LOG_ENTRY_BYTES: usize = 28;

/// Where the headers end and the first object table lies.
pub(crate) const FIRST_TABLE: u64 = 8192;
pub(crate) const TABLE_SIGNATURE: u32 = 0x0111_0001;
pub(crate) const TABLE_HEADER_BYTES: usize = 8;
pub(crate) const TABLE_ENTRY_BYTES: usize = 18;
/// The longest object table or key table that is read. Written are 4 KiB, the alignment at most 64 KiB.
pub(crate) const TABLE_BYTES_MAX: u64 = 1 << 20;

pub(crate) const KEYS_SIGNATURE: u16 = 2;
pub(crate) const KEYS_HEADER_BYTES: usize = 10;
pub(crate) const KEY_HEADER_BYTES: usize = 21;
/// Length of a key table that is written.
pub(crate) const KEYS_BYTES: usize = 4096;
/// Values of this length and more lie in file objects.
pub(crate) const LARGE_BYTES: usize = 2048;

/// Flag of a key: its value lies in a file object.
pub(crate) const FLAG_IN_OBJECT: u8 = 1;

/// The deepest nesting of nodes that is read or written; Hyper-V's are some 5 deep.
pub(crate) const DEPTH_MAX: usize = 128;

/// Types of objects. Others known are the headers (5), the replay log (6) and the buffer of change tracking (7).
pub(crate) mod object {
    pub(crate) const EMPTY: u8 = 0;
    pub(crate) const OBJECT_TABLE: u8 = 1;
    pub(crate) const KEY_TABLE: u8 = 2;
    pub(crate) const FILE: u8 = 3;
    pub(crate) const FREE: u8 = 4;
    pub(crate) const LAST_KNOWN: u8 = 7;
}

/// Types of keys.
pub(crate) mod key {
    pub(crate) const FREE: u8 = 1;
    pub(crate) const INT: u8 = 3;
    pub(crate) const UINT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const STRING: u8 = 6;
    pub(crate) const ARRAY: u8 = 7;
    pub(crate) const BOOL: u8 = 8;
    pub(crate) const NODE: u8 = 9;
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Copies `N` bytes at `at`. Callers pass structures whose length they checked.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Returns the CRC-32 of a structure whose checksum lies at `field`, which is taken as zero.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        let byte = if (field..field + 4).contains(&at) {
            0
        } else {
            *byte
        };
        let [low, ..] = crc.to_le_bytes();
        crc = CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8);
    }
    !crc
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_usize;
    let mut start = 0_u32;
    while byte < 256 {
        let mut crc = start;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        start += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_is_that_of_iso_3309() {
        // The check value of CRC-32; the field lies outside.
        assert_eq!(checksum(b"123456789", 9), 0xCBF4_3926);
        assert_eq!(checksum(b"abxxxxcd", 2), checksum(b"ab\0\0\0\0cd", 8));
    }
}
