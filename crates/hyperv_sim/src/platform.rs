//! What differs between operating systems: space a file takes, its number, its holes; private files; links.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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

/// Copies a file to an empty one without filling its holes; shares its blocks where the file system can.
pub(crate) fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(source, at, length)? {
        copy_range(source, target, start, end)?;
        at = end;
    }
    Ok(())
}

/// Returns the next run of bytes that are no hole.
#[cfg(target_os = "linux")]
fn next_data(source: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom as Place;
    if at >= length {
        return Ok(None);
    }
    match rustix::fs::seek(source, Place::Data(at)) {
        Ok(start) => {
            let end = rustix::fs::seek(source, Place::Hole(start))?;
            Ok(Some((start, end.min(length))).filter(|(start, end)| start < end))
        }
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // The file system knows no holes.
        Err(rustix::io::Errno::INVAL) => Ok(Some((at, length))),
        Err(err) => Err(err.into()),
    }
}

/// Returns the next run of bytes that are no hole.
#[cfg(not(target_os = "linux"))]
fn next_data(_source: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    Ok((at < length).then_some((at, length)))
}

fn copy_range(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    const PIECE: usize = 64 * 1024;
    source.seek(SeekFrom::Start(start))?;
    target.seek(SeekFrom::Start(start))?;
    let mut buffer = vec![0; PIECE];
    let mut left = end - start;
    while left > 0 {
        let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut buffer[..most];
        source.read_exact(piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            target.write_all(piece)?;
        } else {
            target.seek(SeekFrom::Current(i64::try_from(piece.len()).unwrap_or(0)))?;
        }
        left -= u64::try_from(piece.len()).unwrap_or(left);
    }
    Ok(())
}

/// Makes a second name for a folder.
#[cfg(unix)]
pub(crate) fn link_folder(folder: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(std::path::absolute(folder)?, link)
}

/// Makes a second name for a folder; not on this system, where that takes rights.
#[cfg(not(unix))]
pub(crate) fn link_folder(_folder: &Path, _link: &Path) -> io::Result<()> {
    Ok(())
}
