//! Every rule of section 12 broken on purpose, one at a time, and what must be tolerated.

use uuid::Uuid;
use vhdx::{MemoryFile, ReadAt, WriteAt};

pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];

/// Gives a file another `DataWriteGuid`, in both headers.
pub(crate) fn forge_identity(file: &MemoryFile, identity: Uuid) {
    for at in HEADERS {
        edit_summed(file, at, 4096, |header| {
            header[32..48].copy_from_slice(&identity.to_bytes_le());
        });
    }
}

/// Edits a structure that carries a checksum at its offset 4, and corrects the checksum.
pub(crate) fn edit_summed(file: &MemoryFile, at: u64, len: usize, edit: impl FnOnce(&mut [u8])) {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    edit(&mut bytes);
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&bytes, at).unwrap();
}
