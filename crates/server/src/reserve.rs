//! Room kept free on the data folder's volume, so that a full store does not stop the catalog: a file of zeros that is
//! given up when a write finds no room, and taken again once there is.
//!
//! While it is given up no pack is accepted; what it freed is for ends of jobs, deletions and the audit log.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BLOCK: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: Mutex<bool>,
}

impl Reserve {
    /// Takes the reserve, where there is room for it.
    pub(crate) fn open(path: PathBuf, bytes: u64) -> Self {
        let reserve = Self {
            path,
            bytes,
            held: Mutex::new(false),
        };
        if !reserve.take() {
            tracing::warn!("the data folder's volume is nearly full: no pack is accepted");
        }
        reserve
    }

    /// Says whether there is room to work.
    pub(crate) fn is_held(&self) -> bool {
        *self.lock()
    }

    /// Takes the reserve, unless it is held; `false` where there is no room for it.
    pub(crate) fn take(&self) -> bool {
        let mut held = self.lock();
        if !*held {
            *held = self.write().is_ok();
            if !*held {
                self.remove();
            }
        }
        *held
    }

    /// Gives the reserve up.
    pub(crate) fn give_up(&self) {
        let mut held = self.lock();
        if *held {
            tracing::error!("the store's volume is full: no pack is accepted until there is room");
            *held = false;
            self.remove();
        }
    }

    fn write(&self) -> std::io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|there| there.len() == self.bytes) {
            return Ok(());
        }
        let mut file = fs::File::create(&self.path)?;
        let zeros = vec![0; BLOCK];
        // As much again must be free: else what giving it up has freed would be taken back at once.
        let mut left = self.bytes.saturating_mul(2);
        while left > 0 {
            let some = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            file.write_all(&zeros[..some])?;
            left = left.saturating_sub(u64::try_from(some).unwrap_or(left));
        }
        file.set_len(self.bytes)?;
        file.sync_all()
    }

    fn remove(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => tracing::error!("failed to remove {}: {err}", self.path.display()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_given_up_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reserve");
        let reserve = Reserve::open(path.clone(), (3 << 20) + 5);
        assert!(reserve.is_held());
        assert_eq!(fs::metadata(&path).unwrap().len(), (3 << 20) + 5);
        reserve.give_up();
        assert!(!reserve.is_held() && !path.exists());
        assert!(reserve.take() && path.exists());
        // A reserve that an earlier run left is as good.
        assert!(Reserve::open(path, (3 << 20) + 5).is_held());
        // Where it cannot lie, it is not held.
        assert!(!Reserve::open(dir.path().join("no/folder"), 1).is_held());
    }
}
