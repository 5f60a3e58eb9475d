//! The agent's data folder: identity, journals, and the lock that lets only one process use it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use api_client::AgentIdentity;
use serde::Serialize;
use serde::de::DeserializeOwned;

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";

/// An agent's data folder, held by this process.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
    changing: Mutex<()>,
    /// Boundaries until the process ends by itself; 0 for never.
    crash_in: AtomicU64,
}

impl Home {
    /// Opens the folder, making it where it is missing, and takes its lock.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir.join("jobs"))
            .and_then(|()| fs::create_dir_all(dir.join("parked")))
            .with_context(|| format!("make the data folder {}", dir.display()))?;
        private(dir, 0o700)?;
        let path = dir.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
                changing: Mutex::new(()),
                crash_in: AtomicU64::new(0),
            }),
            Err(TryLockError::WouldBlock) => bail!(
                "another agent process uses the data folder {}; stop it first, or give this one its own --data",
                dir.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).context(format!("lock {}", path.display()))
            }
        }
    }

    /// Has the process end at the n-th boundary between steps of jobs, as a crash would.
    pub(crate) fn crash_at(&self, boundary: u64) {
        self.crash_in.store(boundary, Ordering::Relaxed);
    }

    /// A place between two steps of a job.
    pub(crate) fn boundary(&self) {
        let next = |left: u64| left.checked_sub(1);
        let left = self
            .crash_in
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        if left == Ok(1) {
            tracing::error!("the agent ends here, as it was told to");
            std::process::abort();
        }
    }

    /// Returns the identity the agent enrolled with.
    pub(crate) fn identity(&self) -> anyhow::Result<AgentIdentity> {
        match self.read::<AgentIdentity>(IDENTITY)? {
            Some(identity) => Ok(identity),
            None => bail!(
                "this agent is not enrolled: run `reprise agent enroll --data {} --server URL --token TOKEN` first",
                self.dir.display()
            ),
        }
    }

    /// Keeps an identity.
    pub(crate) fn set_identity(&self, identity: &AgentIdentity) -> anyhow::Result<()> {
        self.write(IDENTITY, identity)
    }

    /// Lets one task at a time read a file, change it and write it back.
    pub(crate) fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a file of the folder; `None` where there is none.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(format!("read {}", path.display())),
        };
        let value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(value))
    }

    /// Writes a file of the folder so that after a crash it holds the old or the new value, whole.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let temporary = path.with_extension("tmp");
        let bytes = serde_json::to_vec_pretty(value).context("serialise state")?;
        let written = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            private(&temporary, 0o600)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_folder(path.parent().unwrap_or(&self.dir))
        };
        written().with_context(|| format!("write {}", path.display()))
    }

    /// Returns the local path of a file of the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes the folder's entries out, so that a new file survives a power loss.
    pub(crate) fn sync(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        sync_folder(path.parent().unwrap_or(&self.dir))
    }

    /// Removes a file of the folder; one that is not there is removed already.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {
                sync_folder(path.parent().unwrap_or(&self.dir)).context("sync the data folder")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context(format!("remove {}", path.display())),
        }
    }

    /// Returns the names of the journals, as [`read`](Self::read) takes them.
    pub(crate) fn journals(&self) -> anyhow::Result<Vec<String>> {
        self.names("jobs")
    }

    /// Returns the names of the records of what is kept, as [`read`](Self::read) takes them.
    pub(crate) fn records(&self) -> anyhow::Result<Vec<String>> {
        self.names("parked")
    }

    fn names(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let dir = self.dir.join(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let name = entry
                .with_context(|| format!("list {}", dir.display()))?
                .file_name();
            if let Some(name) = name.to_str().filter(|name| name.ends_with(".json")) {
                names.push(format!("{folder}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Lets nobody but the agent's account read a file or folder.
#[cfg(unix)]
pub(crate) fn private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// On Windows the folder's inherited access list decides.
#[cfg(not(unix))]
pub(crate) fn private(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A folder cannot be synced on Windows; no journal relies on the moment a rename becomes durable.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(
            Home::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("another agent process")
        );
        drop(home);
        assert!(Home::open(dir.path()).is_ok());
    }

    #[test]
    fn files_are_written_whole_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(
            home.identity()
                .unwrap_err()
                .to_string()
                .contains("not enrolled")
        );
        home.write("jobs/a.json", &vec![1, 2]).unwrap();
        home.write("jobs/a.json", &vec![3]).unwrap();
        assert_eq!(home.read::<Vec<u32>>("jobs/a.json").unwrap(), Some(vec![3]));
        assert_eq!(home.journals().unwrap(), ["jobs/a.json"]);
        home.remove("jobs/a.json").unwrap();
        home.remove("jobs/a.json").unwrap();
        assert!(home.journals().unwrap().is_empty());
    }
}
