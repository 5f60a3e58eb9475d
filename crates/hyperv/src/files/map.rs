//! The table from host paths to local ones.

use std::path::{Path, PathBuf};

use model::host_path;

/// A path of the host that has no local one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No entry of the table fits.
    #[error(
        "{path} cannot be reached from the agent: no path map entry covers it; add one such as \"{example}\""
    )]
    NotMapped {
        /// The path.
        path: String,
        /// An entry that would help.
        example: String,
    },
    /// It holds `..`, a reserved name or the like.
    #[error("{path:?} is not used as a path on the host: {reason}")]
    Bad {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where the host's devices are, shadow copies among them.
const DEVICES: &str = r"\\?\GLOBALROOT\Device\";

/// Which local folder stands for which folder of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathMap {
    /// Normalised host prefix without trailing backslash, with the local folder; longest first.
    entries: Vec<(String, PathBuf)>,
    /// Whether drive paths that no entry covers are local paths as they are.
    local: bool,
}

impl PathMap {
    /// Makes a table of host folders (`C:\`, `\\server\share`, a shadow copy's device path) and local folders.
    pub fn new<H: AsRef<str>, L: Into<PathBuf>>(
        entries: impl IntoIterator<Item = (H, L)>,
    ) -> Result<Self, MapError> {
        let mut map = Self::default();
        for (host, local) in entries {
            map.add(host.as_ref(), local)?;
        }
        Ok(map)
    }

    /// Makes the table of an agent on the host itself: drive paths are local paths as they are.
    #[must_use]
    pub fn on_the_host() -> Self {
        Self {
            entries: Vec::new(),
            local: true,
        }
    }

    /// Adds an entry; one for the same host folder is replaced.
    pub fn add(&mut self, host: &str, local: impl Into<PathBuf>) -> Result<(), MapError> {
        let host = normalised(host);
        let host = host.trim_end_matches('\\');
        let drive = host.len() == 2
            && host.ends_with(':')
            && host.starts_with(|c: char| c.is_ascii_alphabetic());
        if !drive && !host.starts_with(r"\\") && host_path::check(host).is_err() {
            return Err(MapError::Bad {
                path: host.to_owned(),
                reason: "it must be a drive, a folder or a share",
            });
        }
        self.entries
            .retain(|(known, _)| !host_path::same(known, host));
        self.entries.push((host.to_owned(), local.into()));
        self.entries
            .sort_by_key(|(known, _)| std::cmp::Reverse(known.len()));
        Ok(())
    }

    /// Returns the local folder of the longest entry that covers a path, and the names below it. Every name is plain:
    /// no `..`, no stream, no reserved device name.
    pub fn split(&self, path: &str) -> Result<(&Path, Vec<String>), MapError> {
        let full = normalised(path);
        let below = |host: &str| {
            let start = full.get(..host.len())?;
            let rest = &full[host.len()..];
            let covered = start.to_lowercase() == host.to_lowercase()
                && (rest.is_empty() || rest.starts_with('\\'));
            covered.then_some(rest)
        };
        let found = self
            .entries
            .iter()
            .find_map(|(host, local)| Some((local.as_path(), below(host)?)));
        let (local, rest) = match found {
            Some(found) => found,
            None if self.local && (host_path::check(&full).is_ok() || is_on_device(&full)) => {
                return Ok((Path::new(""), vec![full]));
            }
            None => return Err(not_mapped(path)),
        };
        let bad = |reason| MapError::Bad {
            path: path.chars().take(300).collect(),
            reason,
        };
        let rest = rest.trim_start_matches('\\').trim_end_matches('\\');
        if rest.is_empty() {
            return Ok((local, Vec::new()));
        }
        let names: Vec<String> = rest.split('\\').map(str::to_owned).collect();
        for name in &names {
            host_path::check_name(name).map_err(bad)?;
        }
        Ok((local, names))
    }
}

/// Whether a path names plain files of a shadow copy by its device, which the host itself can open.
fn is_on_device(path: &str) -> bool {
    let device = path
        .get(..DEVICES.len())
        .filter(|start| start.eq_ignore_ascii_case(DEVICES))
        .map(|_| path[DEVICES.len()..].trim_end_matches('\\'));
    device.is_some_and(|rest| {
        rest.to_lowercase().starts_with("harddiskvolumeshadowcopy")
            && rest
                .split('\\')
                .all(|name| host_path::check_name(name).is_ok())
    })
}

fn not_mapped(path: &str) -> MapError {
    let path: String = path.chars().take(300).collect();
    let root = match path.as_bytes() {
        [drive, b':', ..] if drive.is_ascii_alphabetic() => format!("{}:\\", char::from(*drive)),
        _ => host_path::parent(&path).unwrap_or(&path).to_owned(),
    };
    MapError::NotMapped {
        example: format!("{root} = /mnt/host"),
        path,
    }
}

/// Backslashes only, and `\\?\C:\x` as `C:\x`.
pub(super) fn normalised(path: &str) -> String {
    let path = path.trim().replace('/', "\\");
    let plain = path
        .strip_prefix(r"\\?\")
        .filter(|rest| rest.as_bytes().get(1) == Some(&b':'));
    plain.unwrap_or(&path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_itself_opens_shadow_copies_by_device_and_nothing_else_there() {
        let map = PathMap::on_the_host();
        let inside = r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy12\VMs\a.vhdx";
        assert_eq!(map.split(inside).unwrap().1, [inside]);
        for path in [
            r"\\?\GLOBALROOT\Device\Harddisk0\Partition1\a",
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\..\a",
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\a:b",
            r"\\?\GLOBALROOT\Device",
        ] {
            assert!(map.split(path).is_err(), "{path}");
        }
    }
}
