//! The data folder: what lies where, and who may use it.
//!
//! Layout: `reprise.json` (marks the folder as ours), `lock`, `reserve`, `catalog.sqlite`, `vault/`, `index/`, `keys/`, `tls/`.
//! Invariant: a [`DataDir`] in hand means this process holds the folder's lock.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::files::{self, Access};

const MARKER: &str = "reprise.json";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// `reprise server`.
    program: String,
    /// Version of the layout.
    format: u32,
    /// False until everything was set up.
    complete: bool,
}

/// A data folder in use by this process.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Takes an empty or new folder to set it up.
    pub(crate) fn create(root: &Path) -> anyhow::Result<Self> {
        files::make_folder(root)?;
        let mut foreign = Vec::new();
        let entries =
            std::fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
        for entry in entries {
            let name = entry
                .with_context(|| format!("read {}", root.display()))?
                .file_name();
            foreign.push(name.to_string_lossy().into_owned());
        }
        if foreign.iter().any(|name| name == MARKER) {
            ensure!(
                !read_marker(root)?.complete,
                "{} was set up before; run it with `reprise server run --data {}`",
                root.display(),
                root.display()
            );
            bail!(
                "an earlier `reprise server init` of {} did not finish; delete the folder and run it again",
                root.display()
            );
        }
        if let Some(name) = foreign.first() {
            bail!(
                "{} is not empty (it holds {name:?}); name a new or empty folder",
                root.display()
            );
        }
        let dir = Self {
            root: root.to_owned(),
            _lock: take_lock(root)?,
        };
        dir.write_marker(false)?;
        for folder in [dir.vault(), dir.index(), dir.keys(), dir.tls()] {
            files::make_folder(&folder)?;
        }
        files::sync_folder(root)?;
        Ok(dir)
    }

    /// Marks the folder as set up.
    pub(crate) fn complete(&self) -> anyhow::Result<()> {
        self.write_marker(true)
    }

    /// Takes a folder that was set up.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let marker = read_marker(root)?;
        ensure!(
            marker.complete,
            "`reprise server init` of {} did not finish; delete the folder and run it again",
            root.display()
        );
        Ok(Self {
            root: root.to_owned(),
            _lock: take_lock(root)?,
        })
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.root.join("catalog.sqlite")
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.root.join("vault")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub(crate) fn master_key_file(&self) -> PathBuf {
        self.keys().join("master.key")
    }

    pub(crate) fn recovery_recipient_file(&self) -> PathBuf {
        self.keys().join("recovery.recipient")
    }

    fn write_marker(&self, complete: bool) -> anyhow::Result<()> {
        let marker = Marker {
            program: "reprise server".to_owned(),
            format: FORMAT,
            complete,
        };
        let text = serde_json::to_vec_pretty(&marker).context("write the folder's mark")?;
        files::replace(&self.root.join(MARKER), &text, Access::Public)
    }
}

fn read_marker(root: &Path) -> anyhow::Result<Marker> {
    let path = root.join(MARKER);
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "{} is not a server's data folder; make one with `reprise server init --data {}`",
            root.display(),
            root.display()
        )
    })?;
    let marker: Marker =
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        marker.program == "reprise server",
        "{} belongs to {:?}, not to a server",
        root.display(),
        marker.program
    );
    ensure!(
        marker.format == FORMAT,
        "{} has layout {}, which this program does not know; use a newer reprise",
        root.display(),
        marker.format
    );
    Ok(marker)
}

fn take_lock(root: &Path) -> anyhow::Result<File> {
    files::lock(&root.join("lock"))?.with_context(|| {
        format!(
            "{} is in use by another server; stop that one first",
            root.display()
        )
    })
}
