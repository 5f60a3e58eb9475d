//! Parents by relative path, inside one folder.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::chain::ParentResolver;
use crate::info::ParentLocator;
use crate::io::ReadAt;

/// Finds parents by the relative path of the locator and never outside a root folder.
///
/// Locations are paths relative to the root, with `/`. Names are compared without regard to case, as Windows does. Volume
/// and absolute paths are not followed, links that lead out of the root neither. What is no plain file is not opened: a pipe would
/// wait for ever.
#[derive(Clone, Debug)]
pub struct DirectoryResolver {
    root: PathBuf,
}

impl DirectoryResolver {
    /// Returns a resolver for the files below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the entry of `folder` that has this name, exactly or but for case.
    fn entry(&self, folder: &Path, name: &str) -> io::Result<PathBuf> {
        let exact = folder.join(name);
        if exact.exists() {
            return Ok(exact);
        }
        let wanted = name.to_lowercase();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(|found| found.to_lowercase() == wanted)
            {
                return Ok(entry.path());
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

impl ParentResolver for DirectoryResolver {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        let found = locator
            .relative_path
            .as_deref()
            .and_then(|relative| join(child, relative));
        found.into_iter().collect()
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        let root = self.root.canonicalize()?;
        let mut path = root.clone();
        for name in location.split('/') {
            // Each name is one plain component, on any platform.
            let mut components = Path::new(name).components();
            if !matches!(
                (components.next(), components.next()),
                (Some(Component::Normal(_)), None)
            ) {
                return Err(io::ErrorKind::NotFound.into());
            }
            path = self.entry(&path, name)?;
        }
        if !path.canonicalize()?.starts_with(&root) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the path leads out of the folder",
            ));
        }
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is not a plain file",
            ));
        }
        Ok(Arc::new(File::open(path)?))
    }
}

/// Applies a relative path to the folder of `child`; `None` if it is not relative or leaves the root.
fn join(child: &str, relative: &str) -> Option<String> {
    if relative.starts_with(['\\', '/']) || relative.contains([':', '\0']) {
        return None;
    }
    let mut names: Vec<&str> = child.split('/').filter(|name| !name.is_empty()).collect();
    names.pop();
    for name in relative.split(['\\', '/']) {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::join;

    #[track_caller]
    fn check(child: &str, relative: &str, found: Option<&str>) {
        assert_eq!(
            join(child, relative).as_deref(),
            found,
            "{relative} from {child}"
        );
    }

    #[test]
    fn follows_relative_paths_inside_the_root_only() {
        check("leaf.avhdx", r".\base.vhdx", Some("base.vhdx"));
        check("leaf.avhdx", "base.vhdx", Some("base.vhdx"));
        check("a/b/leaf.avhdx", r"..\base.vhdx", Some("a/base.vhdx"));
        check("a/leaf.avhdx", r"..\B\base.vhdx", Some("B/base.vhdx"));
        check("leaf.avhdx", r"..\base.vhdx", None);
        check("a/leaf.avhdx", r"..\..\etc\passwd", None);
        check("leaf.avhdx", r"\\server\share\base.vhdx", None);
        check("leaf.avhdx", r"C:\base.vhdx", None);
        check("leaf.avhdx", "/etc/passwd", None);
        check("leaf.avhdx", r".\", None);
    }
}
