//! Volumes: what they hold and how much room is left.
//!
//! A volume has a drive letter, or is mounted at a folder of another volume: its files then lie below that folder, and
//! belong to the mounted volume alone.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::ctl::{FaultRule, FileInfo};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::platform;
use crate::shadow;
use crate::state::Volume;
use crate::winpath::WinPath;

impl Volume {
    /// A new volume, to be mounted at a path.
    pub(crate) fn new(root: &WinPath, capacity_bytes: u64) -> Self {
        Self {
            letter: root.letter().unwrap_or('C'),
            folder: root.below_root(),
            id: Uuid::new_v4(),
            capacity_bytes,
        }
    }

    /// Returns where the volume is mounted.
    pub(crate) fn root(&self) -> WinPath {
        let drive = WinPath::drive(self.letter);
        drive.join(&self.folder).unwrap_or(drive)
    }

    /// Returns `Win32_Volume.Name`: `C:\`, `C:\Mount\Data\`.
    pub(crate) fn name(&self) -> String {
        let root = self.root();
        if root.is_root() {
            root.to_string()
        } else {
            format!(r"{root}\")
        }
    }

    /// Returns `Win32_Volume.DeviceID`: the volume's name that no mounting changes.
    pub(crate) fn device_id(&self) -> String {
        format!(r"\\?\Volume{{{}}}\", self.id)
    }
}

/// Returns the volume a path is on: the one that is mounted nearest above it.
pub(crate) fn volume_of<'a>(volumes: &'a [Volume], path: &WinPath) -> Option<&'a Volume> {
    volumes
        .iter()
        .filter_map(|volume| Some((volume, path.below(&volume.root())?.len())))
        .min_by_key(|&(_, below)| below)
        .map(|(volume, _)| volume)
}

/// Returns the local folder of a volume, and those within it that belong to other volumes.
pub(crate) fn local_folders(engine: &Engine, volume: &Volume) -> (PathBuf, Vec<PathBuf>) {
    let others = engine.read(|state| state.host.volumes.clone());
    let root = volume.root();
    let mounted = others
        .iter()
        .filter(|other| other.id != volume.id && other.root().below(&root).is_some())
        .map(|other| engine.local(&other.root()))
        .collect();
    (engine.local(&root), mounted)
}

/// Returns the bytes left on a volume: its capacity without what its files and shadow copies take.
pub(crate) fn free_bytes(engine: &Engine, volume: &Volume) -> u64 {
    let mut used = shadow::used_bytes(engine, volume);
    let (root, mounted) = local_folders(engine, volume);
    walk(&root, &mounted, &mut |_, metadata| {
        used = used.saturating_add(platform::allocated_bytes(metadata));
    });
    volume.capacity_bytes.saturating_sub(used)
}

/// Refuses where the volume of a path has less than `needed` bytes left, or a fault rule says that it has none.
pub(crate) fn need_room(
    engine: &Engine,
    path: &WinPath,
    needed: u64,
    on: &str,
) -> Result<(), Failure> {
    if path.shadow_number().is_some() {
        return Err(Failure::failed(format!(
            "the media is write protected: '{path}' is on a shadow copy"
        )));
    }
    let volume = engine.read(|state| volume_of(&state.host.volumes, path).cloned());
    let volume = volume.ok_or_else(|| Failure::invalid(format!("there is no volume of {path}")))?;
    let free = free_bytes(engine, &volume);
    if free < needed || engine.fault(FaultRule::DiskFull, &[on], None) {
        return Err(Failure::no_room(format!(
            "there is not enough space on the disk: volume {} has {free} bytes left, {needed} are needed",
            volume.name()
        )));
    }
    Ok(())
}

/// Lists the files of every volume and shadow copy by Windows path.
pub(crate) fn files(engine: &Engine) -> Vec<FileInfo> {
    let (volumes, shadows) =
        engine.read(|state| (state.host.volumes.clone(), state.host.shadows.clone()));
    let mut roots: Vec<(WinPath, PathBuf, Vec<PathBuf>)> = Vec::new();
    for volume in volumes {
        let (local, mounted) = local_folders(engine, &volume);
        roots.push((volume.root(), local, mounted));
    }
    for shadow in shadows {
        let root = WinPath::shadow(shadow.number);
        let local = engine.local(&root);
        roots.push((root, local, Vec::new()));
    }
    let mut files = Vec::new();
    for (root, local, mounted) in roots {
        walk(&local, &mounted, &mut |path, metadata| {
            let names: Vec<_> = path
                .strip_prefix(&local)
                .map(|below| {
                    below
                        .iter()
                        .map(|name| name.to_string_lossy().into_owned())
                        .collect()
                })
                .unwrap_or_default();
            let folder = root.to_string();
            files.push(FileInfo {
                path: format!(r"{}\{}", folder.trim_end_matches('\\'), names.join(r"\")),
                size_bytes: metadata.len(),
            });
        });
    }
    files.sort_by_cached_key(|file| file.path.to_lowercase());
    files
}

/// Lists the folders of every volume.
pub(crate) fn folders(engine: &Engine) -> Vec<WinPath> {
    let mut found = Vec::new();
    for volume in engine.read(|state| state.host.volumes.clone()) {
        let (_, mounted) = local_folders(engine, &volume);
        let mut open = vec![volume.root()];
        while let Some(folder) = open.pop() {
            let entries = std::fs::read_dir(engine.local(&folder));
            for entry in entries.into_iter().flatten().flatten() {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder
                    && !mounted.contains(&entry.path())
                    && let Ok(below) = folder.join(&entry.file_name().to_string_lossy())
                {
                    open.push(below);
                }
            }
            found.push(folder);
        }
    }
    found
}

/// Visits every file below a folder, without the folders in `skip`. Links are not followed.
pub(crate) fn walk(
    folder: &Path,
    skip: &[PathBuf],
    visit: &mut dyn FnMut(&Path, &std::fs::Metadata),
) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        // A file may vanish while we look: it takes no room then.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let path = entry.path();
            if !skip.contains(&path) {
                walk(&path, skip, visit);
            }
        } else if metadata.is_file() {
            visit(&entry.path(), &metadata);
        }
    }
}

/// Whether a path fits a pattern of `*` and `?`, in any case.
pub(crate) fn fits_glob(path: &str, glob: &str) -> bool {
    let text: Vec<char> = path.to_lowercase().chars().collect();
    let glob: Vec<char> = glob.to_lowercase().replace('/', r"\").chars().collect();
    let (mut at, mut sign) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while at < text.len() {
        match glob.get(sign) {
            Some('*') => {
                back = Some((sign, at));
                sign += 1;
            }
            Some(c) if *c == '?' || *c == text[at] => {
                at += 1;
                sign += 1;
            }
            Some(_) | None => match back {
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    at = taken + 1;
                    sign = star + 1;
                }
                None => return false,
            },
        }
    }
    glob[sign..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_paths_in_any_case() {
        for (path, glob, fits) in [
            (r"C:\VMs\web01\disk.vhdx", "*.VHDX", true),
            (r"C:\VMs\web01\disk.vhdx", r"c:\vms\*\disk.????", true),
            (r"C:\VMs\web01\disk.vhdx", "*.avhdx", false),
            (r"C:\VMs\web01\disk.vhdx.rct", "*.vhdx", false),
        ] {
            assert_eq!(fits_glob(path, glob), fits, "{glob}");
        }
    }
}
