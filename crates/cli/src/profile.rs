//! The profile: which server `reprise login` logged in to, and the token it got.
//!
//! One TOML file, readable by its owner only. It lies at `REPRISE_PROFILE`, else in the user's configuration folder.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What a login leaves behind.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Address of the server.
    pub(crate) server: String,
    /// Who logged in.
    pub(crate) user: String,
    /// The token.
    pub(crate) token: String,
    /// When the token ends (RFC 3339).
    pub(crate) expires: String,
    /// How the server is known: a CA certificate in PEM, or the fingerprint of one; absent: the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
}

impl Profile {
    /// Returns where the profile lies.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("REPRISE_PROFILE") {
            return Ok(path.into());
        }
        let folder = variable("XDG_CONFIG_HOME")
            .or_else(|| variable("APPDATA"))
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))
            .ok_or_else(|| {
                Failure::new(
                    "failed",
                    "cannot tell where the profile lies: neither HOME nor APPDATA is set",
                )
                .hint("set REPRISE_PROFILE to a file, or use REPRISE_SERVER and REPRISE_TOKEN")
            })?;
        Ok(folder.join("reprise").join("profile.toml"))
    }

    /// Reads the profile; `None` where nobody logged in.
    pub(crate) fn read() -> Result<Option<Self>, Failure> {
        let Ok(path) = Self::path() else {
            return Ok(None);
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble("read", &path, &error)),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            Failure::new(
                "failed",
                format!(
                    "the profile {} cannot be understood: {error}",
                    path.display()
                ),
            )
            .hint("remove it and log in again")
        })
    }

    /// Writes the profile, whole or not at all, for the owner only.
    pub(crate) fn write(&self) -> Result<PathBuf, Failure> {
        let path = Self::path()?;
        self.write_to(&path)?;
        Ok(path)
    }

    /// Writes the profile to a file of the caller's choice.
    pub(crate) fn write_to(&self, path: &Path) -> Result<(), Failure> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| trouble("make the folder of", path, &error))?;
        let text = toml::to_string(self).map_err(|error| {
            Failure::new("failed", format!("cannot write the profile: {error}"))
        })?;
        // A temporary file is made for its owner only from the start.
        let mut file = tempfile::NamedTempFile::new_in(folder)
            .map_err(|error| trouble("write", path, &error))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| trouble("write", path, &error))?;
        file.persist(path)
            .map_err(|error| trouble("write", path, &error.error))?;
        Ok(())
    }

    /// Removes the profile; nothing happens where there is none.
    pub(crate) fn remove() -> Result<(), Failure> {
        let path = Self::path()?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(trouble("remove", &path, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn trouble(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        "failed",
        format!("cannot {what} the profile {}: {error}", path.display()),
    )
    .hint("set REPRISE_PROFILE to a file you may read and write")
}
