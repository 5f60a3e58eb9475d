//! Programs that are measured, and the files they work on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::measure::{Usage, measure};
use super::{GIB, MIB};
use crate::run::say;

/// A program to be measured.
#[derive(Clone)]
pub(crate) struct Job {
    /// How the table names it.
    pub(crate) name: String,
    command: Vec<String>,
    /// Copied before each run, not measured.
    fresh: Option<(PathBuf, PathBuf)>,
    /// Removed before and after each run.
    output: Option<PathBuf>,
}

impl Job {
    /// Describes one.
    pub(crate) fn new(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            fresh: None,
            output: None,
        }
    }

    /// Says what file or folder it makes.
    pub(crate) fn makes(self, output: &Path) -> Self {
        Self {
            output: Some(output.to_owned()),
            ..self
        }
    }

    /// Says what it changes, and what that is made from before each run.
    pub(crate) fn on_fresh(self, from: &Path, to: &Path) -> Self {
        Self {
            fresh: Some((from.to_owned(), to.to_owned())),
            ..self
        }
    }

    fn clear(&self) -> anyhow::Result<()> {
        match &self.output {
            Some(output) => remove(output),
            None => Ok(()),
        }
    }

    /// Runs it once.
    pub(crate) fn measure(&self) -> anyhow::Result<Usage> {
        self.clear()?;
        if let Some((from, to)) = &self.fresh {
            std::fs::copy(from, to).context("copy a disk")?;
        }
        settle();
        let (program, arguments) = self.command.split_first().context("a program")?;
        let usage = measure(Command::new(program).args(arguments))?;
        self.clear()?;
        Ok(usage)
    }
}

/// Has the system write what it holds back, so that no run pays for another.
pub(crate) fn settle() {
    #[cfg(target_os = "linux")]
    rustix::fs::sync();
}

/// A folder that is removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!(
                "{} could not be removed: {error}",
                self.0.display()
            ));
        }
    }
}

impl Folder {
    /// Makes one within another.
    pub(crate) fn new(within: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = within.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Returns a path in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Removes a file or folder, if it is there.
pub(crate) fn remove(file: &Path) -> anyhow::Result<()> {
    let removed = match file.is_dir() {
        true => std::fs::remove_dir_all(file),
        false => std::fs::remove_file(file),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns a path as text.
pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Returns a size for people.
pub(crate) fn shown(bytes: u64) -> String {
    if bytes < GIB {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{} GiB", bytes / GIB)
    }
}
