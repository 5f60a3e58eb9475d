//! What differs between operating systems: making a change to a folder durable.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes what was linked into or removed from a folder durable.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows cannot flush a folder through `std`; NTFS journals its names. Nothing may hang on a name being durable the
/// moment a put returns: an object that vanished with the power is found missing by the closure check of its point.
#[cfg(windows)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let _ = folder;
    Ok(())
}

/// Makes a file's bytes durable. Called once per file: what a second call says after a failure is not to be believed.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}
