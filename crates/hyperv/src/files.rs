//! Files of a host: read and written through a table from the host's paths to local ones.
//!
//! Everything here blocks; async callers use a blocking pool. A file that something on the host holds open is reported
//! as such ([`FileErrorKind::InUse`]): by the host's own locks over SMB and on Windows, by advisory locks on the real
//! file for a simulated host.
//!
//! Invariant: only paths that pass [`PathMap::split`] reach the local file system: below a mapped folder, every
//! component a plain name.

mod chain;
mod map;
mod past_cache;
mod platform;
mod shadow;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use model::host_path;
use vhdx::{ReadAt, WriteAt};

pub use chain::{ChainError, HostPathResolver};
pub use map::{MapError, PathMap};
pub use past_cache::{CacheBypass, UncachedFile};
pub use shadow::ShadowView;

/// What a caller can do about a [`FileError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileErrorKind {
    /// There is no such file or folder.
    NotFound,
    /// There is one already.
    Exists,
    /// Something on the host holds it open.
    InUse,
    /// No rights.
    Denied,
    /// The volume is full.
    Full,
    /// The path is not one we use.
    BadPath,
    /// Anything else.
    Failed,
}

/// A file operation on the host that failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is not mapped or not one we use.
    #[error(transparent)]
    Path(#[from] MapError),
    /// Something on the host holds the file open.
    #[error("{path} is in use on the host (sharing violation)")]
    InUse {
        /// Path on the host.
        path: String,
    },
    /// There is something already.
    #[error("{path} exists already")]
    Exists {
        /// Path on the host.
        path: String,
    },
    /// The local file system said no.
    #[error("failed to {action} {path}")]
    Io {
        /// Verb.
        action: &'static str,
        /// Path on the host.
        path: String,
        /// Cause.
        source: io::Error,
    },
}

impl FileError {
    fn new(action: &'static str, path: &str, source: io::Error) -> Self {
        let path = path.to_owned();
        if platform::is_sharing_violation(&source) {
            FileError::InUse { path }
        } else if source.kind() == io::ErrorKind::AlreadyExists {
            FileError::Exists { path }
        } else {
            FileError::Io {
                action,
                path,
                source,
            }
        }
    }

    /// Returns what a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> FileErrorKind {
        match self {
            FileError::Path(_) => FileErrorKind::BadPath,
            FileError::InUse { .. } => FileErrorKind::InUse,
            FileError::Exists { .. } => FileErrorKind::Exists,
            FileError::Io { source, .. } => kind_of(source.kind()),
        }
    }
}

fn kind_of(kind: io::ErrorKind) -> FileErrorKind {
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&kind);
    if is(&[io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]) {
        FileErrorKind::NotFound
    } else if is(&[
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
    ]) {
        FileErrorKind::Denied
    } else if is(&[io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]) {
        FileErrorKind::Full
    } else {
        FileErrorKind::Failed
    }
}

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Length in bytes; 0 for folders.
    pub len: u64,
    /// Bytes it takes on its volume, where the file system says; else its length.
    pub allocated_bytes: u64,
    /// When it was last written, where the file system says.
    pub modified: Option<SystemTime>,
}

/// The files of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostFiles {
    map: Arc<PathMap>,
}

impl HostFiles {
    /// Returns the files that a table maps.
    #[must_use]
    pub fn new(map: PathMap) -> Self {
        Self { map: Arc::new(map) }
    }

    /// Returns the local path behind a path on the host, names resolved without case where the exact one is absent.
    /// What does not exist keeps the name it was given.
    pub fn local_path(&self, path: &str) -> Result<PathBuf, FileError> {
        let (root, names) = self.map.split(path)?;
        let mut local = root.to_owned();
        for name in names {
            local = resolve_name(&local, &name);
        }
        Ok(local)
    }

    /// Lists a folder, in order of name. Names that are not Unicode are left out.
    pub fn list(&self, folder: &str) -> Result<Vec<Entry>, FileError> {
        let failed = |source| FileError::new("list", folder, source);
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.local_path(folder)?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match fs::metadata(entry.path()) {
                Ok(metadata) => entries.push(described(name, &metadata)),
                // Deleted since, or a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Describes a file or folder; `None` where there is none.
    pub fn stat(&self, path: &str) -> Result<Option<Entry>, FileError> {
        match fs::metadata(self.local_path(path)?) {
            Ok(metadata) => Ok(Some(described(
                host_path::file_name(path).to_owned(),
                &metadata,
            ))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(FileError::new("look at", path, error)),
        }
    }

    /// Opens a file for reading. Others may read it at the same time, nobody may write it.
    pub fn open_read(&self, path: &str) -> Result<HostFile, FileError> {
        let file = platform::open_read(&self.local_path(path)?)
            .map_err(|error| FileError::new("open", path, error))?;
        Ok(HostFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Opens a file for reading that nothing holds for writing, and keeps nobody from writing it meanwhile: for what is
    /// hashed after it was read.
    pub fn open_unheld(&self, path: &str) -> Result<HostFile, FileError> {
        let file = platform::open_unheld(&self.local_path(path)?)
            .map_err(|error| FileError::new("open", path, error))?;
        Ok(HostFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Opens an existing file for writing, alone.
    pub fn open_write(&self, path: &str) -> Result<HostFile, FileError> {
        let local = self.local_path(path)?;
        let file = platform::open_write(&local)
            .map_err(|error| FileError::new("open for writing", path, error))?;
        Ok(HostFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Makes a file and opens it for writing, alone. One that exists is refused.
    pub fn create_new(&self, path: &str) -> Result<HostFile, FileError> {
        let local = self.local_path(path)?;
        if fs::symlink_metadata(&local).is_ok() {
            return Err(FileError::Exists {
                path: path.to_owned(),
            });
        }
        let file =
            platform::create_new(&local).map_err(|error| FileError::new("create", path, error))?;
        Ok(HostFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Makes a folder with the folders above it and returns those that were missing, outermost first.
    pub fn create_folders(&self, path: &str) -> Result<Vec<String>, FileError> {
        let mut missing = Vec::new();
        let mut next = Some(path);
        while let Some(folder) = next {
            match self.stat(folder) {
                Ok(Some(entry)) if entry.folder => break,
                Ok(Some(_)) => {
                    return Err(FileError::Exists {
                        path: folder.to_owned(),
                    });
                }
                Ok(None) => missing.push(folder.to_owned()),
                Err(error) => return Err(error),
            }
            next = host_path::parent(folder).filter(|parent| parent.len() < folder.len());
        }
        missing.reverse();
        for folder in &missing {
            match fs::create_dir(self.local_path(folder)?) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(FileError::new("create folder", folder, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(missing)
    }

    /// Renames a file or folder. A target that exists is refused, never replaced. Survives a power loss once done.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let (source, target) = (self.local_path(from)?, self.local_path(to)?);
        platform::rename_new(&source, &target).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                FileError::Exists {
                    path: to.to_owned(),
                }
            } else {
                FileError::new("rename", from, error)
            }
        })?;
        for folder in [source.parent(), target.parent()].into_iter().flatten() {
            platform::sync_folder(folder)
                .map_err(|error| FileError::new("write out the folder of", to, error))?;
        }
        Ok(())
    }

    /// Deletes a file; one that is gone is no error. A file that something holds open is refused.
    pub fn delete(&self, path: &str) -> Result<(), FileError> {
        let local = self.local_path(path)?;
        let failed = |error| FileError::new("delete", path, error);
        // Linux would take the name away from under its user; a host would refuse.
        match platform::check_unused(&local).and_then(|()| fs::remove_file(&local)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed),
        }
    }

    /// Deletes an empty folder; one that is gone is no error.
    pub fn delete_folder(&self, path: &str) -> Result<(), FileError> {
        match fs::remove_dir(self.local_path(path)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| FileError::new("delete folder", path, error)),
        }
    }

    /// Writes a folder's entries out, so that new files survive a power loss.
    pub fn sync_folder(&self, path: &str) -> Result<(), FileError> {
        let local = self.local_path(path)?;
        platform::sync_folder(&local).map_err(|error| FileError::new("write out", path, error))
    }

    /// Returns the bytes free below the local folder behind a path, where the platform tells: a check beside what the
    /// host says about its volume, which is what counts.
    pub fn local_free_bytes(&self, path: &str) -> Result<Option<u64>, FileError> {
        let mut local = self.local_path(path)?;
        while !local.exists() && local.pop() {}
        platform::free_bytes(&local).map_err(|error| FileError::new("measure", path, error))
    }
}

/// A file of the host, open. The lock ends with it.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: String,
}

impl HostFile {
    /// Returns its path on the host.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the open file, for what the traits of `vhdx` do not offer.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for HostFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.file)
    }
}

impl WriteAt for HostFile {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        WriteAt::set_len(&self.file, len)
    }

    fn sync(&self) -> io::Result<()> {
        WriteAt::sync(&self.file)
    }
}

fn described(name: String, metadata: &fs::Metadata) -> Entry {
    Entry {
        name,
        folder: metadata.is_dir(),
        len: if metadata.is_dir() { 0 } else { metadata.len() },
        allocated_bytes: if metadata.is_dir() {
            0
        } else {
            platform::allocated_bytes(metadata)
        },
        modified: metadata.modified().ok(),
    }
}

/// The entry of a folder that Windows would take for `name`.
fn resolve_name(folder: &Path, name: &str) -> PathBuf {
    let exact = folder.join(name);
    if !platform::CASE_MATTERS || fs::symlink_metadata(&exact).is_ok() {
        return exact;
    }
    let wanted = name.to_lowercase();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // The first in order, should a case-sensitive folder hold several.
    names
        .filter(|found| found.to_lowercase() == wanted)
        .min()
        .map_or(exact, |found| folder.join(found))
}

#[cfg(test)]
mod tests;
