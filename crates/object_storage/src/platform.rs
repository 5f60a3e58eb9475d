//! What differs between operating systems: making a change to a folder durable.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes what was linked into or removed from a folder durable.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(test)]
    fault::next()?;
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
    #[cfg(test)]
    fault::next()?;
    file.sync_all()
}

/// Flushes that fail, for the tests of this crate; counted by thread, so that tests do not meet.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Lets `flushes` succeed and the next one fail.
    pub(crate) fn after(flushes: u32) {
        LEFT.set(Some(flushes));
    }

    /// Ends it; tells whether a flush has failed.
    pub(crate) fn has_struck() -> bool {
        LEFT.take().is_none()
    }

    pub(super) fn next() -> io::Result<()> {
        let Some(left) = LEFT.get() else {
            return Ok(());
        };
        let next = left.checked_sub(1);
        LEFT.set(next);
        match next {
            Some(_) => Ok(()),
            None => Err(io::Error::other("injected failure of a flush")),
        }
    }
}
