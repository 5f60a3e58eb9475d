//! What differs between operating systems: space a file takes, its number, private files.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Returns the bytes a file takes on its file system: holes do not count.
#[cfg(unix)]
pub(crate) fn allocated_bytes(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

/// Returns the bytes a file takes on its file system.
#[cfg(not(unix))]
pub(crate) fn allocated_bytes(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// Returns a number that another file in the same place would not have; 0 where the system tells none.
#[cfg(unix)]
pub(crate) fn file_number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Returns a number that another file in the same place would not have; 0 where the system tells none.
#[cfg(not(unix))]
pub(crate) fn file_number(_metadata: &Metadata) -> u64 {
    0
}

/// Creates a file only its owner may read.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
