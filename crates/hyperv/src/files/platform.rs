//! What differs between operating systems.

#[cfg(unix)]
pub(super) use unix::*;
#[cfg(windows)]
pub(super) use windows::*;

#[cfg(unix)]
mod unix {
    use std::fs::{File, OpenOptions, TryLockError};
    use std::io;
    use std::path::Path;

    use crate::files::CacheBypass;

    /// Names that differ in case are different files.
    pub(crate) const CASE_MATTERS: bool = true;

    pub(crate) fn open_read(path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        locked(file.try_lock_shared()).map(|()| file)
    }

    pub(crate) fn open_unheld(path: &Path) -> io::Result<File> {
        let file = open_read(path)?;
        match file.unlock() {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
            Ok(()) | Err(_) => Ok(file),
        }
    }

    /// Writes a file out and opens it past the page cache, as far as the file system can.
    pub(crate) fn open_past_cache(path: &Path) -> io::Result<(File, CacheBypass)> {
        let (file, bypass) = open_dropped(path)?;
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            let direct = rustix::fs::OFlags::DIRECT.bits();
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(direct.cast_signed());
            // Where the file system does not know the flag, the file that is open already is read.
            if let Ok(direct) = options.open(path) {
                return locked(direct.try_lock_shared())
                    .map(|()| (direct, CacheBypass::Unbuffered));
            }
        }
        Ok((file, bypass))
    }

    /// Writes a file out, opens it, and has the system forget its pages.
    pub(crate) fn open_dropped(path: &Path) -> io::Result<(File, CacheBypass)> {
        let file = open_read(path)?;
        file.sync_all()?;
        #[cfg(target_os = "linux")]
        if rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok() {
            return Ok((file, CacheBypass::Dropped));
        }
        Ok((file, CacheBypass::None))
    }

    pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(file, buf, offset)
    }

    pub(crate) fn open_write(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        locked(file.try_lock()).map(|()| file)
    }

    pub(crate) fn create_new(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        locked(file.try_lock()).map(|()| file)
    }

    /// Fails where something holds the file open.
    pub(crate) fn check_unused(path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            // What cannot be read can still be deleted.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            result => result?,
        };
        locked(file.try_lock())
    }

    fn locked(result: Result<(), TryLockError>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::ResourceBusy.into()),
            // A mounted share may know no locks; the server's own sharing rules hold then.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(crate) fn is_sharing_violation(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::ResourceBusy | io::ErrorKind::ExecutableFileBusy
        )
    }

    pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Some network file systems do not know the flag. A link fails where the target exists, too.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !from.is_dir() => {
                std::fs::hard_link(from, to)?;
                std::fs::remove_file(from)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(crate) fn allocated_bytes(metadata: &std::fs::Metadata) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        metadata.blocks().saturating_mul(512)
    }

    pub(crate) fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
        let volume = rustix::fs::statvfs(path)?;
        Ok(Some(volume.f_bavail.saturating_mul(volume.f_frsize)))
    }
}

#[cfg(windows)]
mod windows {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::windows::fs::OpenOptionsExt as _;
    use std::path::Path;

    use crate::files::CacheBypass;

    /// The file system finds names without case.
    pub(crate) const CASE_MATTERS: bool = false;

    const FILE_FLAG_NO_BUFFERING: u32 = 0x2000_0000;

    const FILE_SHARE_READ: u32 = 1;
    const FILE_SHARE_WRITE: u32 = 2;
    const FILE_SHARE_DELETE: u32 = 4;
    const ERROR_SHARING_VIOLATION: i32 = 32;
    const ERROR_LOCK_VIOLATION: i32 = 33;

    pub(crate) fn open_read(path: &Path) -> io::Result<File> {
        // A frozen disk of a running VM is open in the host's worker: it is read with full sharing.
        OpenOptions::new()
            .read(true)
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
            .open(path)
    }

    pub(crate) fn open_unheld(path: &Path) -> io::Result<File> {
        open_read(path)
    }

    /// Writes a file out and opens it past the system's cache.
    pub(crate) fn open_past_cache(path: &Path) -> io::Result<(File, CacheBypass)> {
        write_out(path)?;
        let file = OpenOptions::new()
            .read(true)
            .share_mode(FILE_SHARE_READ)
            .custom_flags(FILE_FLAG_NO_BUFFERING)
            .open(path)?;
        Ok((file, CacheBypass::Unbuffered))
    }

    /// Writes a file out and opens it; Windows drops no pages on request.
    pub(crate) fn open_dropped(path: &Path) -> io::Result<(File, CacheBypass)> {
        write_out(path)?;
        Ok((open_read(path)?, CacheBypass::None))
    }

    /// Only a handle that may write can flush.
    fn write_out(path: &Path) -> io::Result<()> {
        open_write(path)?.sync_all()
    }

    pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(file, buf, offset)
    }

    pub(crate) fn open_write(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .share_mode(0)
            .open(path)
    }

    pub(crate) fn create_new(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .share_mode(0)
            .open(path)
    }

    /// Windows itself refuses to delete a file that is open.
    pub(crate) fn check_unused(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn is_sharing_violation(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(ERROR_SHARING_VIOLATION | ERROR_LOCK_VIOLATION)
        )
    }

    pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        // The standard library renames with replacement. Nothing but this agent makes names in its restore folders, so
        // the moment between look and rename is ours.
        if std::fs::symlink_metadata(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(from, to)
    }

    /// Folders cannot be written out on Windows; NTFS journals its entries.
    pub(crate) fn sync_folder(_path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// The files a restore writes are not sparse on NTFS.
    pub(crate) fn allocated_bytes(metadata: &std::fs::Metadata) -> u64 {
        metadata.len()
    }

    pub(crate) fn free_bytes(_path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}
