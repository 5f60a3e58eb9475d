//! Opening, locking and making files, with failures that name them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;
use vhdx::{Format, Kind, ReadAt, Rule};

use crate::failure::Failure;

/// What to do with a VHD.
pub(super) const CONVERT_FIRST: &str =
    "make a VHDX of it first: `reprise vhdx convert OLD.vhd NEW.vhdx`";

/// Opens a file for reading.
pub(super) fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| io_failed("open", path, &error))
}

/// Opens a VHDX file to change it in place, and keeps other programs that lock it from doing the same.
///
/// The lock goes with the file; readers do not need it.
pub(super) fn open_locked(path: &Path) -> Result<Arc<File>, Failure> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| io_failed("open for writing", path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(in_use(path)),
        Err(std::fs::TryLockError::Error(error)) => return Err(io_failed("lock", path, &error)),
    }
    let file = Arc::new(file);
    // What is wrong with a file is for the caller to find.
    if let Ok(info) = vhdx::inspect(Arc::clone(&file))
        && info.format == Format::Vhd
    {
        return Err(in_file(path, vhdx::Error::VhdUnchangeable));
    }
    Ok(file)
}

fn in_use(path: &Path) -> Failure {
    Failure::new(
        api::codes::CONFLICT,
        format!("{} is in use by another program", path.display()),
    )
    .hint("wait until it is done, or shut the VM down that uses the disk, and run this again")
}

/// Returns the length of a file in bytes.
pub(super) fn len(path: &Path, file: &File) -> Result<u64, Failure> {
    ReadAt::len(file).map_err(|error| io_failed("read", path, &error))
}

/// A file in the making: under another name until it is whole and durable, gone where it does not get there.
#[derive(Debug)]
pub(super) struct NewFile {
    target: PathBuf,
    temporary: NamedTempFile,
}

impl NewFile {
    /// Begins a file that is to appear as `target`; refused where that exists.
    pub(super) fn begin(target: &Path) -> Result<Self, Failure> {
        if target.symlink_metadata().is_ok() {
            return Err(exists(target));
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(target.file_name().ok_or_else(|| {
            Failure::usage(format!("{} is no name for a file", target.display()))
        })?);
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder
            .tempfile_in(folder(target))
            .map_err(|error| io_failed("make", target, &error))?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
        })
    }

    /// Returns the file itself, a handle of its own.
    pub(super) fn file(&self) -> Result<File, Failure> {
        let file = self.temporary.as_file();
        file.try_clone()
            .map_err(|error| io_failed("make", &self.target, &error))
    }

    /// Gives the file its name, which from then on survives a power loss. Its content must be durable already.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let target = self.target;
        self.temporary
            .persist_noclobber(&target)
            .map_err(|refused| {
                if refused.error.kind() == io::ErrorKind::AlreadyExists {
                    exists(&target)
                } else {
                    io_failed("make", &target, &refused.error)
                }
            })?;
        sync_folder(&target)
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(
        api::codes::CONFLICT,
        format!("{} exists already", path.display()),
    )
    .hint("choose another name, or remove it first")
}

/// Removes a file, not a link to it; it stays removed after a power loss.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    let failed = |error| io_failed("remove", path, &error);
    let file = std::fs::canonicalize(path).map_err(failed)?;
    std::fs::remove_file(&file).map_err(failed)?;
    sync_folder(&file)
}

/// Returns whether two paths lead to one file, be it by links.
pub(super) fn is_same_file(one: &Path, other: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (std::fs::metadata(one)?, std::fs::metadata(other)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }
    #[cfg(not(unix))]
    {
        Ok(std::fs::canonicalize(one)? == std::fs::canonicalize(other)?)
    }
}

/// Returns the folder a file lies in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// Makes the names in the folder of `path` durable, where the platform has a way.
#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<(), Failure> {
    let folder = folder(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_failed("flush the folder of", path, &error))
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> Result<(), Failure> {
    Ok(())
}

/// Says what could not be done with a file.
pub(super) fn io_failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        let what = format!("cannot {doing} {path}: no such file or folder");
        return Failure::new(api::codes::NOT_FOUND, what);
    }
    let what = format!("cannot {doing} {path}: {error}");
    if kind == io::ErrorKind::PermissionDenied {
        return Failure::new(api::codes::NOT_ALLOWED, what).hint("run this as a user who may");
    }
    if kind == io::ErrorKind::StorageFull {
        return Failure::new("failed", what).hint("make room there, or choose another volume");
    }
    Failure::new("failed", what)
}

/// Says what is wrong with a disk file, and what to do about it.
pub(super) fn in_file(path: &Path, error: vhdx::Error) -> Failure {
    let hint = hint_of(path, &error);
    let mut failure = Failure::from(error);
    failure.message = format!("{}: {}", path.display(), failure.message);
    failure.hint = failure.hint.or(hint);
    failure
}

fn hint_of(path: &Path, error: &vhdx::Error) -> Option<String> {
    if is_full(error) {
        return Some("make room on the volume and run it again".to_owned());
    }
    if matches!(error, vhdx::Error::VhdUnchangeable) {
        return Some(CONVERT_FIRST.to_owned());
    }
    if matches!(error, vhdx::Error::SizesDiffer { .. }) {
        return Some(format!("`reprise vhdx resize {}` grows it", path.display()));
    }
    let rule = error.rule();
    match error.kind() {
        Kind::NotFound => Some("name the parent with --parent FILE, wherever it is".to_owned()),
        Kind::Corrupt if rule == Some(Rule::ParentIdentity) => Some(
            "the child cannot be used over a parent that was changed: bring back the parent as it was".to_owned(),
        ),
        Kind::Corrupt
            if rule == Some(Rule::FileSignature) || rule == Some(Rule::FileTooShort) =>
        {
            Some(
                "if it is a raw image, `reprise vhdx convert --raw` makes a disk of it".to_owned(),
            )
        }
        Kind::Corrupt => Some(format!(
            "`reprise vhdx check {}` tells all that is wrong with it",
            path.display()
        )),
        Kind::Retry | Kind::Refused | Kind::Cancelled => None,
    }
}

/// Returns whether a write failed for want of room.
fn is_full(error: &vhdx::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}
