//! Finding the parents of a differencing disk on this machine.
//!
//! A parent is looked for among the files given with `--parent`, then where the relative path in the child leads. Which one
//! it is, is decided by its identity. Volume and absolute paths are those of another machine and not followed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use vhdx::{
    Chain, CheckReport, DirectoryResolver, FileInfo, Finding, ParentLocator, ParentResolver, ReadAt,
};

use super::files::{in_file, io_failed, open};
use super::progress::Ctx;
use crate::failure::Failure;

/// Where parents may be.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ParentArgs {
    /// A parent that is not where its child says; may be given several times, in any order
    #[arg(long = "parent", value_name = "FILE")]
    given: Vec<PathBuf>,
}

/// A chain and the files it was opened from, leaf first.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) chain: Chain,
    pub(super) paths: Vec<PathBuf>,
    /// When each was written last, before anything of it was read.
    written: Vec<Option<LastWrite>>,
}

/// Length and time of the last write as the file system tells them.
type LastWrite = (u64, SystemTime);

/// Returns when a file was written last, where the file system tells.
fn last_write(metadata: &Metadata) -> Option<LastWrite> {
    Some((metadata.len(), metadata.modified().ok()?))
}

/// What was found in one file of a chain, and between it and its parent.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) report: CheckReport,
    pub(super) link: Vec<Finding>,
    pub(super) parent_candidates: Vec<PathBuf>,
}

/// What the files of a chain said when it was opened, to see whether somebody changed one meanwhile.
#[derive(Debug)]
pub(super) struct Seen {
    files: Vec<(PathBuf, FileInfo, Option<LastWrite>)>,
}

impl Opened {
    /// Takes the chain for a long read of it, which ends with [`Seen::is_unchanged`].
    ///
    /// Readers take no locks: on the hosts these files come from, others do not look at them.
    pub(super) fn for_long_read(self, ctx: &Ctx) -> (Chain, Seen) {
        let infos = self.chain.layers().iter().map(|file| file.info().clone());
        let files = self.paths.into_iter().zip(infos).zip(self.written);
        let files: Vec<_> = files
            .map(|((path, info), written)| (path, info, written))
            .collect();
        for (path, info, _) in &files {
            if info.unclean {
                ctx.out.note(&format!(
                    "{} was not closed cleanly, and its log is replayed in memory; if another program has it open, \
                     what is read may be torn",
                    path.display()
                ));
            }
        }
        (self.chain, Seen { files })
    }
}

impl Seen {
    /// Fails if one of the files was written to since.
    ///
    /// A writer gives a file a new id before anything else, but one that had it open before did so already: then only the
    /// file system tells.
    pub(super) fn is_unchanged(&self) -> Result<(), Failure> {
        for (path, before, written) in &self.files {
            let file = open(path)?;
            let metadata = file.metadata();
            let metadata = metadata.map_err(|error| io_failed("read", path, &error))?;
            let now = vhdx::inspect(file).map_err(|error| in_file(path, error))?;
            let ids = |info: &FileInfo| (info.file_write_guid, info.data_write_guid);
            let was_written = written.is_some_and(|before| last_write(&metadata) != Some(before));
            if was_written || ids(&now) != ids(before) {
                return Err(Failure::new(
                    api::codes::CONFLICT,
                    format!("{} was changed while it was read", path.display()),
                )
                .hint("run it again when nobody writes to the disk"));
            }
        }
        Ok(())
    }
}

impl ParentArgs {
    /// Opens a file with its parents, for reading.
    pub(super) fn open(&self, path: &Path) -> Result<Opened, Failure> {
        let file = open(path)?;
        let written = file.metadata();
        let written = written.map_err(|error| io_failed("read", path, &error))?;
        let finder = Finder::new(path, &self.given)?;
        let chain =
            Chain::open(file, &finder.leaf, &finder).map_err(|error| in_file(path, error))?;
        let leaf = std::iter::once((path.to_owned(), last_write(&written)));
        let files = leaf.chain(finder.followed()).take(chain.layers().len());
        let (paths, written) = files.unzip();
        Ok(Opened {
            chain,
            paths,
            written,
        })
    }

    /// Checks a file and its parents, as far as they are found, leaf first.
    pub(super) fn check(&self, path: &Path) -> Result<Vec<(PathBuf, Checked)>, Failure> {
        let file = open(path)?;
        let finder = Finder::new(path, &self.given)?;
        let report =
            vhdx::check_chain(file, &finder.leaf, &finder).map_err(|error| in_file(path, error))?;
        let named = |location: &String| finder.named(location);
        let files = report.files.into_iter().enumerate().map(|(number, found)| {
            let place = if number == 0 {
                path.to_owned()
            } else {
                named(&found.location)
            };
            let checked = Checked {
                parent_candidates: found.parent_candidates.iter().map(named).collect(),
                report: found.report,
                link: found.link,
            };
            (place, checked)
        });
        Ok(files.collect())
    }

    /// Returns the file that is the parent of the disk at `path`, by one of the identities `is_it` knows.
    pub(super) fn find(
        &self,
        path: &Path,
        locator: &ParentLocator,
        is_it: impl Fn(&FileInfo) -> bool,
    ) -> Result<PathBuf, Failure> {
        let finder = Finder::new(path, &self.given)?;
        let mut other = None;
        for location in finder.locate(&finder.leaf, locator) {
            let found = match finder.open(&location) {
                Ok(file) => finder.path(&location).map(|path| (path, file)),
                Err(error) => Err(error),
            };
            let (candidate, file) = match found {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_failed("open", Path::new(&location), &error)),
            };
            let info = vhdx::inspect(file).map_err(|error| in_file(&candidate, error))?;
            if is_it(&info) {
                return Ok(candidate);
            }
            other.get_or_insert(candidate);
        }
        let what = match other {
            Some(other) => format!(
                "{} is not the parent of {}: it was changed, or is another disk",
                other.display(),
                path.display()
            ),
            None => format!("the parent of {} was not found", path.display()),
        };
        Err(Failure::new(api::codes::NOT_FOUND, what)
            .hint("name the parent with --parent FILE, wherever it is"))
    }
}

/// Finds parents; locations are paths from the root of the volume on, with `/`.
#[derive(Debug)]
struct Finder {
    root: PathBuf,
    leaf: String,
    given: Vec<String>,
    below_root: DirectoryResolver,
    /// Locations that were asked for their parent, leaf first, and the one opened last.
    asked: RefCell<Vec<String>>,
    opened: RefCell<Option<String>>,
    /// When each location was written last as it was first opened.
    written: RefCell<BTreeMap<String, LastWrite>>,
}

impl Finder {
    fn new(leaf: &Path, given: &[PathBuf]) -> Result<Self, Failure> {
        let whole = |path: &Path| {
            std::fs::canonicalize(path).map_err(|error| io_failed("open", path, &error))
        };
        let absolute = whole(leaf)?;
        let root: PathBuf = absolute
            .components()
            .take_while(|part| matches!(part, Component::Prefix(_) | Component::RootDir))
            .collect();
        let given: Result<Vec<String>, Failure> = given
            .iter()
            .map(|path| Ok(location(&root, &whole(path)?)))
            .collect();
        Ok(Self {
            leaf: location(&root, &absolute),
            given: given?,
            below_root: DirectoryResolver::new(&root),
            root,
            asked: RefCell::default(),
            opened: RefCell::default(),
            written: RefCell::default(),
        })
    }

    /// Returns the file at a location, in the case it has there.
    fn path(&self, location: &str) -> io::Result<PathBuf> {
        if Path::new(location).is_absolute() {
            return Ok(PathBuf::from(location));
        }
        let mut path = self.root.clone();
        for name in location.split('/') {
            let exact = path.join(name);
            path = if exact.exists() {
                exact
            } else {
                let wanted = name.to_lowercase();
                let mut entries = std::fs::read_dir(&path)?.filter_map(Result::ok);
                let found = entries.find(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .is_some_and(|found| found.to_lowercase() == wanted)
                });
                found.ok_or(io::ErrorKind::NotFound)?.path()
            };
        }
        Ok(path)
    }

    /// Returns a location as a path, also where nothing lies there.
    fn named(&self, location: &str) -> PathBuf {
        self.path(location)
            .unwrap_or_else(|_| self.root.join(location))
    }

    /// Returns the parents a chain was opened from, nearest first, and when they were written last.
    fn followed(&self) -> Vec<(PathBuf, Option<LastWrite>)> {
        let asked = self.asked.borrow();
        let opened = self.opened.borrow();
        let written = self.written.borrow();
        let parents = asked.iter().skip(1).chain(opened.iter());
        parents
            .map(|location| (self.named(location), written.get(location).copied()))
            .collect()
    }
}

/// Returns a path from the root on, or the whole path where it lies elsewhere.
fn location(root: &Path, absolute: &Path) -> String {
    match absolute.strip_prefix(root) {
        Ok(below) => {
            let names: Vec<String> = below
                .components()
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect();
            names.join("/")
        }
        Err(_) => absolute.to_string_lossy().into_owned(),
    }
}

impl ParentResolver for Finder {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        self.asked.borrow_mut().push(child.to_owned());
        let mut found = self.given.clone();
        found.extend(self.below_root.locate(child, locator));
        found
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        let file: Arc<dyn ReadAt> = if Path::new(location).is_absolute() {
            Arc::new(File::open(location)?)
        } else {
            self.below_root.open(location)?
        };
        *self.opened.borrow_mut() = Some(location.to_owned());
        if let Some(written) = last_write(&std::fs::metadata(self.path(location)?)?) {
            let mut all = self.written.borrow_mut();
            all.entry(location.to_owned()).or_insert(written);
        }
        Ok(file)
    }
}

/// Returns how a child at `child` names `parent` as Windows does: relative to its folder, with backslashes.
///
/// The file at `child` need not exist, its folder must. `None` where the two have no common root.
pub(super) fn relative(child: &Path, parent: &Path) -> Result<Option<String>, Failure> {
    let whole =
        |path: &Path| std::fs::canonicalize(path).map_err(|error| io_failed("open", path, &error));
    let folder = match child.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    Ok(between(&whole(folder)?, &whole(parent)?))
}

fn between(folder: &Path, file: &Path) -> Option<String> {
    let (from, to): (Vec<_>, Vec<_>) = (folder.components().collect(), file.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    // The root at least; and a name with a backslash would be read as two.
    let names: Option<Vec<&str>> = to[common..]
        .iter()
        .map(|part| {
            part.as_os_str()
                .to_str()
                .filter(|name| !name.contains('\\'))
        })
        .collect();
    if common == 0 {
        return None;
    }
    let up = from.len() - common;
    let start = if up == 0 {
        r".\".to_owned()
    } else {
        r"..\".repeat(up)
    };
    Some(start + &names?.join(r"\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(folder: &str, file: &str, relative: Option<&str>) {
        assert_eq!(
            between(Path::new(folder), Path::new(file)).as_deref(),
            relative
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_child_names_its_parent_as_windows_does() {
        check("/vms/web", "/vms/web/base.vhdx", Some(r".\base.vhdx"));
        check(
            "/vms/web",
            "/vms/gold/base.vhdx",
            Some(r"..\gold\base.vhdx"),
        );
        check("/vms/web/a", "/base.vhdx", Some(r"..\..\..\base.vhdx"));
        check("/vms/web", r"/vms/web/a\b.vhdx", None);
    }
}
