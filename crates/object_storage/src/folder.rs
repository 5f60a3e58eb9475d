//! Objects as files of a folder.
//!
//! `~new/<process>/` holds files being written, each process its own folder with a lock it holds while it lives. A put
//! writes there, flushes, links the file to its name (which fails where the name is taken, so two writers never both
//! win), flushes the folder of the name, and removes the first name. The lock tells the leftovers of a dead process
//! from the work of a living one; leftovers are removed at opening. No object's name has a `~`.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use store::{BoxFuture, ObjectError, ObjectErrorKind, ObjectMeta, ObjectName, Objects};

use crate::adapter::{Adapter, error, kind_of_io};
use crate::platform::{sync_file, sync_folder};

const STAGING: &str = "~new";
const LOCK: &str = "lock";

/// A folder that keeps objects.
#[derive(Clone, Debug)]
pub struct Folder {
    reading: Adapter,
    writing: Arc<Writing>,
}

#[derive(Debug)]
struct Writing {
    root: PathBuf,
    /// This process's own folder of files being written.
    staging: PathBuf,
    /// Held while the process lives.
    lock: File,
    next: AtomicU64,
    /// Folders whose own names are known to be durable.
    durable_folders: Mutex<HashSet<PathBuf>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Files of puts that were cut off; if this fails the next opening removes them.
        if let Err(error) = fs::remove_dir_all(&self.staging) {
            tracing::debug!("failed to remove {}: {error}", self.staging.display());
        }
        drop(self.lock.unlock());
    }
}

impl Folder {
    /// Opens a folder, making it where it does not exist, and removes what dead processes left half-written.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let root = root.into();
        let shown = root.display().to_string();
        blocking("open", shown, move || open(&root)).await
    }

    /// Returns the folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.writing.root
    }
}

impl Objects for Folder {
    fn put_new<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectError>> {
        // The put runs to its end even if this future is dropped: then it is durable or leaves nothing, either is fine.
        let writing = Arc::clone(&self.writing);
        let object = name.clone();
        Box::pin(blocking("put", name.to_string(), move || {
            writing.put(&object, &bytes)
        }))
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        self.reading.get(name)
    }

    fn get_range<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        self.reading.get_range(name, range)
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, ObjectError>> {
        self.reading.head(name)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectMeta>, ObjectError>> {
        let writing = Arc::clone(&self.writing);
        let start = prefix.to_owned();
        Box::pin(blocking("list", prefix.to_owned(), move || {
            writing.list(&start)
        }))
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<(), ObjectError>> {
        let writing = Arc::clone(&self.writing);
        let object = name.clone();
        Box::pin(blocking("delete", name.to_string(), move || {
            writing.delete(&object)
        }))
    }
}

fn open(root: &Path) -> io::Result<Folder> {
    fs::create_dir_all(root)?;
    let root = fs::canonicalize(root)?;
    let staging_root = root.join(STAGING);
    fs::create_dir_all(&staging_root)?;
    remove_leftovers(&staging_root)?;
    let staging = staging_root.join(uuid::Uuid::new_v4().simple().to_string());
    fs::create_dir(&staging)?;
    let lock = File::create_new(staging.join(LOCK))?;
    lock.try_lock().map_err(io::Error::from)?;
    if let Some(parent) = root.parent() {
        sync_folder(parent)?;
    }
    sync_folder(&root)?;
    let reading = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
    let writing = Writing {
        root: root.clone(),
        staging,
        lock,
        next: AtomicU64::new(0),
        durable_folders: Mutex::new(HashSet::from([root])),
    };
    Ok(Folder {
        reading: Adapter::new(Arc::new(reading)),
        writing: Arc::new(writing),
    })
}

/// Removes the staging folders of processes that no longer live.
fn remove_leftovers(staging_root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging_root)? {
        let folder = entry?.path();
        let dead = match OpenOptions::new().write(true).open(folder.join(LOCK)) {
            // Dropped at once: who holds it lives, who does not is gone.
            Ok(lock) => lock.try_lock().is_ok(),
            // A folder without its lock: its process is between the two steps of making it, or died there. It holds
            // nothing, so it may stay.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if dead {
            tracing::info!("removing half-written files in {}", folder.display());
            match fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

impl Writing {
    fn path_of(&self, name: &ObjectName) -> PathBuf {
        name.as_str()
            .split('/')
            .fold(self.root.clone(), |path, part| path.join(part))
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> io::Result<()> {
        let target = self.path_of(name);
        let staged = self
            .staging
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let put = self.put_staged(&staged, &target, bytes);
        match fs::remove_file(&staged) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The object is there all the same; the next opening removes the leftover.
            Err(error) => tracing::warn!("failed to remove {}: {error}", staged.display()),
        }
        put
    }

    fn put_staged(&self, staged: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = target.parent().unwrap_or(&self.root);
        self.make_folder(folder)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(staged)?;
        file.write_all(bytes)?;
        sync_file(&file)?;
        drop(file);
        if let Err(error) = fs::hard_link(staged, target) {
            if error.kind() == io::ErrorKind::AlreadyExists {
                // Whoever linked it may have died before flushing the folder; the caller will count on it.
                sync_folder(folder)?;
            }
            return Err(error);
        }
        sync_folder(folder).inspect_err(|_| {
            // It cannot be known whether the name is durable, so it must not be found by the next try.
            if let Err(error) = fs::remove_file(target) {
                tracing::error!("failed to take back {}: {error}", target.display());
            }
        })
    }

    /// Makes a folder and those above it, each durable before anything is put into it.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self
            .durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        let mut next = folder;
        while !durable.contains(next) {
            missing.push(next.to_owned());
            match next.parent() {
                Some(parent) => next = parent,
                None => break,
            }
        }
        for folder in missing.into_iter().rev() {
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            // Also where it was there: another process may have made it and died before flushing.
            if let Some(parent) = folder.parent() {
                sync_folder(parent)?;
            }
            durable.insert(folder);
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectMeta>> {
        // Walked from the last whole part of the prefix on.
        let start = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut found = Vec::new();
        if !start.is_empty() && ObjectName::parse(start).is_none() {
            return Ok(found);
        }
        let mut folders = vec![start.to_owned()];
        while let Some(folder) = folders.pop() {
            let path = folder
                .split('/')
                .filter(|part| !part.is_empty())
                .fold(self.root.clone(), |p, part| p.join(part));
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Some(part) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                let name = if folder.is_empty() {
                    part
                } else {
                    format!("{folder}/{part}")
                };
                let Some(name) = ObjectName::parse(&name) else {
                    continue;
                };
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(name.to_string());
                } else if kind.is_file() && name.as_str().starts_with(prefix) {
                    match entry.metadata() {
                        Ok(meta) => found.push(ObjectMeta {
                            name,
                            len: meta.len(),
                        }),
                        // Deleted meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> io::Result<()> {
        let path = self.path_of(name);
        let folder = path.parent().unwrap_or(&self.root);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(folder),
            // It may have been removed by a delete whose flush failed: gone is what is gone after a power cut, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match sync_folder(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                synced => synced,
            },
            Err(error) => Err(error),
        }
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    verb: &'static str,
    name: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ObjectError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => {
            let kind = kind_of_io(source.kind());
            Err(ObjectError {
                verb,
                name,
                kind,
                source: Some(Box::new(source)),
            })
        }
        Err(stopped) => Err(error(
            verb,
            &name,
            ObjectErrorKind::Unavailable,
            &format!("the program is stopping: {stopped}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::fault;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().unwrap() != LOCK {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Whichever flush fails, the put fails, nothing is left, and the next put starts from nothing and is whole.
    #[test]
    fn a_flush_that_failed_is_never_taken_for_a_success() {
        let name = ObjectName::parse("packs/aa/x").unwrap();
        let mut struck = 0;
        for flush in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let folder = open(dir.path()).unwrap();
            fault::after(flush);
            let put = folder.writing.put(&name, b"whole");
            if !fault::has_struck() {
                assert!(put.is_ok());
                break;
            }
            struck += 1;
            assert!(put.is_err(), "flush {flush} failed and the put did not");
            assert_eq!(files(dir.path()), [] as [PathBuf; 0], "after flush {flush}");
            folder.writing.put(&name, b"whole").unwrap();
            assert_eq!(fs::read(folder.writing.path_of(&name)).unwrap(), b"whole");
            assert_eq!(files(dir.path()).len(), 1);
        }
        // The names of `packs` and of `aa`, the file, and its name.
        assert_eq!(struck, 4);
    }

    #[test]
    fn an_object_that_is_there_is_made_durable_before_it_is_reported() {
        let name = ObjectName::parse("points/x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path()).unwrap();
        folder.writing.put(&name, b"first").unwrap();
        // The file of the second writer, then the folder of the name.
        fault::after(1);
        let second = folder.writing.put(&name, b"second").unwrap_err();
        assert!(fault::has_struck());
        assert_ne!(second.kind(), io::ErrorKind::AlreadyExists);
        let third = folder.writing.put(&name, b"third").unwrap_err();
        assert_eq!(third.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(folder.writing.path_of(&name)).unwrap(), b"first");
    }

    #[test]
    fn a_delete_whose_flush_failed_is_not_reported_as_done() {
        let name = ObjectName::parse("points/x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path()).unwrap();
        folder.writing.put(&name, b"x").unwrap();
        for _ in 0..2 {
            fault::after(0);
            assert!(folder.writing.delete(&name).is_err());
            assert!(fault::has_struck());
        }
        folder.writing.delete(&name).unwrap();
        folder
            .writing
            .delete(&ObjectName::parse("none/x").unwrap())
            .unwrap();
    }
}
