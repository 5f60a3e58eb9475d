//! Files as they were at the moment of a shadow copy, by their own paths.
//!
//! A path on the shadow copy is its device plus the path below the volume's root. Where the path map has an entry for
//! `\\?\GLOBALROOT\Device\` (the host's own devices, or what a simulated host keeps in its place) that is used; else the
//! volume's mapped root with `@GMT-yyyy.mm.dd-hh.mm.ss` in it, which is how a Windows share shows its previous versions.
//!
//! Invariant: nothing is read from the volume as it is now. A parent that a disk names is looked for on the shadow
//! copies, too.

use std::io;
use std::sync::Arc;

use model::{Timestamp, host_path};
use vhdx::{Chain, ParentLocator, ParentResolver, ReadAt};

use super::chain::{candidates, reader};
use super::{ChainError, Entry, FileError, HostFile, HostFiles, MapError};
use crate::host::{CheckpointFiles, ConfigFile, ConfigPlace, Shadow, VolumeFacts};

/// Volumes of a host as shadow copies hold them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShadowView {
    files: HostFiles,
    /// Mount path of a volume, and the folder that is its root on the shadow copy.
    volumes: Vec<(String, String)>,
}

impl ShadowView {
    /// Makes a view without volumes.
    #[must_use]
    pub fn new(files: HostFiles) -> Self {
        Self {
            files,
            volumes: Vec::new(),
        }
    }

    /// Adds a volume. Fails where neither form of the path leads to the shadow copy.
    pub fn add(&mut self, volume: &VolumeFacts, shadow: &Shadow) -> Result<(), FileError> {
        let root = self.root_of(volume, shadow)?;
        self.volumes.push((volume.path.clone(), root));
        // A path is on the volume with the longest mount path.
        self.volumes
            .sort_by_key(|(mount, _)| std::cmp::Reverse(host_path::key(mount).len()));
        Ok(())
    }

    fn root_of(&self, volume: &VolumeFacts, shadow: &Shadow) -> Result<String, FileError> {
        let is_folder = |path: &str| {
            self.files
                .stat(path)
                .map(|found| found.is_some_and(|entry| entry.folder))
        };
        let device = is_folder(&format!("{}\\", shadow.device));
        if let Ok(true) = device {
            return Ok(shadow.device.clone());
        }
        if let Some(created) = shadow.created {
            let versions = host_path::join(&volume.path, &version_name(created));
            if let Ok(true) = is_folder(&versions) {
                return Ok(versions);
            }
        }
        device?;
        Err(FileError::Path(MapError::NotMapped {
            path: shadow.device.clone(),
            example: r"\\?\GLOBALROOT\Device\ = /mnt/shadows".to_owned(),
        }))
    }

    /// Returns where the shadow copies hold what has this path on the host.
    pub fn path(&self, path: &str) -> Result<String, FileError> {
        let full = super::map::normalised(path);
        let found = self
            .volumes
            .iter()
            .find(|(mount, _)| host_path::is_below(&full, mount));
        let (mount, root) = found.ok_or_else(|| FileError::Io {
            action: "find a shadow copy for",
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let below = full
            .get(mount.trim_end_matches('\\').len()..)
            .unwrap_or_default();
        Ok(host_path::join(root, below.trim_matches('\\')))
    }

    /// Opens a file for reading.
    pub fn open_read(&self, path: &str) -> Result<HostFile, FileError> {
        self.files.open_read(&self.path(path)?)
    }

    /// Describes a file or folder; `None` where there is none.
    pub fn stat(&self, path: &str) -> Result<Option<Entry>, FileError> {
        self.files.stat(&self.path(path)?)
    }

    /// Opens a disk with all its parents, each on its shadow copy.
    pub fn open_chain(&self, path: &str) -> Result<Chain, ChainError> {
        let leaf = self.open_read(path)?;
        Chain::open(leaf, path, self).map_err(|source| ChainError::Disk {
            path: path.to_owned(),
            source,
        })
    }

    /// Lists the configuration files of a place, by their paths on the host; empty where there are none.
    pub fn config_files(&self, place: &ConfigPlace) -> Result<Vec<ConfigFile>, FileError> {
        for place in &place.places {
            let on_shadow = CheckpointFiles {
                root: self.path(&place.root)?,
                file: place.file.clone(),
            };
            let found = match on_shadow.list(&self.files) {
                Ok(found) => found,
                Err(error) if error.kind() == super::FileErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !found.is_empty() {
                let own = |file: ConfigFile| ConfigFile {
                    path: format!(
                        "{}{}",
                        place.root.trim_end_matches('\\'),
                        file.path.get(on_shadow.root.len()..).unwrap_or_default()
                    ),
                    role: file.role,
                };
                return Ok(found.into_iter().map(own).collect());
            }
        }
        Ok(Vec::new())
    }
}

impl ParentResolver for ShadowView {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        candidates(child, locator)
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        reader(self.open_read(location))
    }
}

/// How a share names the moment of a previous version.
fn version_name(at: Timestamp) -> String {
    // RFC 3339: 2026-01-02T03:04:05.678Z
    let text: String = at.to_string().chars().take(19).collect();
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    format!("@GMT-{}-{}", day.replace('-', "."), time.replace(':', "."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::PathMap;
    use super::*;

    fn volume(path: &str) -> VolumeFacts {
        VolumeFacts {
            path: path.into(),
            device_id: String::new(),
            label: String::new(),
            file_system: "NTFS".into(),
            capacity_bytes: 0,
            free_bytes: 0,
            block_bytes: 4096,
            cluster_shared: false,
        }
    }

    fn shadow(number: u32) -> Shadow {
        Shadow {
            id: format!("{{{number}}}"),
            device: format!(r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy{number}"),
            volume: String::new(),
            created: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
            state: Some(12),
        }
    }

    #[test]
    fn paths_lead_to_the_copy_of_their_own_volume() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, text) in [
            ("c/VMs", "now"),
            ("shadows/HarddiskVolumeShadowCopy1/VMs", "copy 1"),
            ("shadows/HarddiskVolumeShadowCopy2/VMs", "copy 2"),
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("a.vhdx"), text).unwrap();
        }
        let map = PathMap::new([
            (r"C:\", dir.path().join("c")),
            (r"\\?\GLOBALROOT\Device\", dir.path().join("shadows")),
        ]);
        let mut view = ShadowView::new(HostFiles::new(map.unwrap()));
        view.add(&volume(r"C:\"), &shadow(1)).unwrap();
        view.add(&volume(r"C:\mnt\data\"), &shadow(2)).unwrap();
        let read = |path: &str| {
            let file = view.open_read(path).unwrap();
            let mut text = vec![0; usize::try_from(ReadAt::len(&file).unwrap()).unwrap()];
            file.read_exact_at(&mut text, 0).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(read(r"c:\vms\A.VHDX"), "copy 1");
        assert_eq!(read(r"C:\mnt\data\VMs\a.vhdx"), "copy 2");
        assert_eq!(read(r"\\?\C:\mnt\DATA\VMs\a.vhdx"), "copy 2");
        assert!(view.open_read(r"D:\VMs\a.vhdx").is_err());
        assert!(view.open_read(r"C:\..\a.vhdx").is_err());
    }

    #[test]
    fn previous_versions_of_a_share_serve_where_devices_cannot_be_reached() {
        let dir = tempfile::tempdir().unwrap();
        let versions = dir.path().join("c/@GMT-2026.01.02-03.04.05/VMs");
        fs::create_dir_all(&versions).unwrap();
        fs::write(versions.join("a.vhdx"), "as it was").unwrap();
        let map = PathMap::new([(r"C:\", dir.path().join("c"))]).unwrap();
        let mut view = ShadowView::new(HostFiles::new(map));
        view.add(&volume(r"C:\"), &shadow(1)).unwrap();
        assert_eq!(
            view.path(r"C:\VMs\a.vhdx").unwrap(),
            r"C:\@GMT-2026.01.02-03.04.05\VMs\a.vhdx"
        );
        assert!(view.stat(r"C:\VMs\a.vhdx").unwrap().is_some());
        // Without either the volume as it is now is not taken for its copy.
        let mut other = shadow(2);
        other.created = None;
        let error = view.add(&volume(r"C:\"), &other).unwrap_err().to_string();
        assert!(error.contains(r"\\?\GLOBALROOT\Device"), "{error}");
    }
}
