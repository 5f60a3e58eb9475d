//! Small files of the data folder: written as a whole, durable, secrets readable by the owner only.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Context;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everyone the folder lets in.
    Public,
    /// The owner alone.
    Secret,
}

/// Replaces a file: temporary name, flush, rename, flush of the folder.
pub(crate) fn replace(path: &Path, bytes: &[u8], access: Access) -> anyhow::Result<()> {
    // A bare name has an empty parent, which is no folder to flush.
    let folder = match path.parent().context("a file needs a folder")? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let name = path
        .file_name()
        .context("a file needs a name")?
        .to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_new(&temporary, bytes, access)
        .and_then(|()| Ok(fs::rename(&temporary, path)?))
        .and_then(|()| sync_folder(folder));
    if written.is_err() {
        // The temporary file may not exist; what matters is the error that is returned.
        let _gone = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("write {}", path.display()))
}

/// Writes a file that must not exist yet, and flushes it.
pub(crate) fn write_new(path: &Path, bytes: &[u8], access: Access) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    system::restrict(&mut options, access);
    let mut file = options
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))
}

/// Makes a folder, unless it is there, that only the owner may enter.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    system::restrict_folder(&mut builder);
    builder
        .create(path)
        .with_context(|| format!("make the folder {}", path.display()))
}

/// Flushes a folder's entries, where the system knows that.
pub(crate) fn sync_folder(path: &Path) -> anyhow::Result<()> {
    system::sync_folder(path).with_context(|| format!("flush the folder {}", path.display()))
}

/// Takes the operating system's lock on a file; held until the file is dropped, freed when the process dies.
pub(crate) fn lock(path: &Path) -> anyhow::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(err)) => {
            Err(err).with_context(|| format!("lock {}", path.display()))
        }
    }
}

#[cfg(unix)]
mod system {
    use std::fs::{DirBuilder, File, OpenOptions};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    use std::path::Path;

    use super::Access;

    pub(super) fn restrict(options: &mut OpenOptions, access: Access) {
        options.mode(match access {
            Access::Public => 0o644,
            Access::Secret => 0o600,
        });
    }

    pub(super) fn restrict_folder(builder: &mut DirBuilder) {
        builder.mode(0o700);
    }

    pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
        File::open(path)?.sync_all()
    }
}

#[cfg(not(unix))]
mod system {
    use std::fs::{DirBuilder, OpenOptions};
    use std::path::Path;

    use super::Access;

    // Files inherit the rights of the folder they lie in; the installer sets those.
    pub(super) fn restrict(_options: &mut OpenOptions, _access: Access) {}

    pub(super) fn restrict_folder(_builder: &mut DirBuilder) {}

    // A folder cannot be flushed; nothing here hangs on the rename being durable.
    pub(super) fn sync_folder(_path: &Path) -> std::io::Result<()> {
        Ok(())
    }
}
