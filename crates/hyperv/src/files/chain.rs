//! Chains of differencing disks, found by the paths their files name.

use std::io;
use std::sync::Arc;

use model::host_path;
use vhdx::{Chain, ParentLocator, ParentResolver, ReadAt};

use super::{FileError, FileErrorKind, HostFiles};

/// A disk file or one of its parents could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The leaf could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is damaged, or a parent is missing or not the right one.
    #[error("failed to open the disk {path}")]
    Disk {
        /// Path of the leaf on the host.
        path: String,
        /// Cause.
        source: vhdx::Error,
    },
}

impl HostFiles {
    /// Opens a disk with all its parents, by paths on the host.
    pub fn open_chain(&self, path: &str) -> Result<Chain, ChainError> {
        let leaf = self.open_read(path)?;
        let resolver = HostPathResolver {
            files: self.clone(),
        };
        Chain::open(leaf, path, &resolver).map_err(|source| ChainError::Disk {
            path: path.to_owned(),
            source,
        })
    }
}

impl HostFiles {
    /// Opens a disk with all its parents as [`HostFiles::open_unheld`] opens a file.
    pub fn open_chain_unheld(&self, path: &str) -> Result<Chain, ChainError> {
        let leaf = self.open_unheld(path)?;
        Chain::open(leaf, path, &Unheld(self)).map_err(|source| ChainError::Disk {
            path: path.to_owned(),
            source,
        })
    }
}

/// Finds parents as [`HostPathResolver`] does, and holds none of them.
#[derive(Debug)]
struct Unheld<'a>(&'a HostFiles);

impl ParentResolver for Unheld<'_> {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        candidates(child, locator)
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        reader(self.0.open_unheld(location))
    }
}

/// Finds parents by the paths in a child's locator, through the path map.
#[derive(Clone, Debug)]
pub struct HostPathResolver {
    /// The files.
    pub files: HostFiles,
}

impl ParentResolver for HostPathResolver {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        candidates(child, locator)
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        reader(self.files.open_read(location))
    }
}

/// Returns where the parent of the disk at `child` may be, best first.
pub(super) fn candidates(child: &str, locator: &ParentLocator) -> Vec<String> {
    // Where the child lies now says more than where its parent once was.
    let relative = locator
        .relative_path
        .as_deref()
        .and_then(|relative| joined(child, relative));
    let mut found: Vec<String> = Vec::new();
    for path in [
        relative,
        locator.absolute_path.clone(),
        locator.volume_path.clone(),
    ]
    .into_iter()
    .flatten()
    {
        if !found.iter().any(|known| host_path::same(known, &path)) {
            found.push(path);
        }
    }
    found
}

/// Says of a file that was opened what `vhdx` understands.
pub(super) fn reader(opened: Result<super::HostFile, FileError>) -> io::Result<Arc<dyn ReadAt>> {
    match opened {
        Ok(file) => Ok(Arc::new(file)),
        Err(error) => {
            let kind = match error.kind() {
                // A path that is not mapped is as good as missing: the next candidate may be better.
                FileErrorKind::NotFound | FileErrorKind::BadPath => io::ErrorKind::NotFound,
                FileErrorKind::InUse => io::ErrorKind::ResourceBusy,
                FileErrorKind::Denied => io::ErrorKind::PermissionDenied,
                FileErrorKind::Exists | FileErrorKind::Full | FileErrorKind::Failed => {
                    io::ErrorKind::Other
                }
            };
            Err(io::Error::new(kind, error))
        }
    }
}

/// Joins the folder of a file with a relative path, `.` and `..` taken out; `None` where it leads above the root.
fn joined(file: &str, relative: &str) -> Option<String> {
    let folder = host_path::parent(file)?;
    let relative = relative.replace('/', "\\");
    // A share's server and share name, or a drive, cannot be left.
    let keep = if folder.starts_with(r"\\") { 4 } else { 1 };
    let mut names: Vec<&str> = folder.trim_end_matches('\\').split('\\').collect();
    for name in relative.split('\\') {
        match name {
            "" | "." => {}
            ".." if names.len() > keep => {
                names.pop();
            }
            ".." => return None,
            name => names.push(name),
        }
    }
    Some(names.join("\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_parents_are_found_from_the_child() {
        assert_eq!(
            joined(r"C:\VMs\a\leaf.avhdx", r".\root.vhdx").as_deref(),
            Some(r"C:\VMs\a\root.vhdx")
        );
        assert_eq!(
            joined(r"C:\VMs\a\leaf.avhdx", r"..\b\root.vhdx").as_deref(),
            Some(r"C:\VMs\b\root.vhdx")
        );
        assert_eq!(
            joined(r"C:\leaf.avhdx", "root.vhdx").as_deref(),
            Some(r"C:\root.vhdx")
        );
        assert_eq!(joined(r"C:\leaf.avhdx", r"..\root.vhdx"), None);
        assert_eq!(joined(r"\\srv\share\leaf.avhdx", r"..\root.vhdx"), None);
    }
}
