//! Volumes: what they hold and how much room is left.

use std::path::Path;

use crate::ctl::{FaultRule, FileInfo};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::platform;
use crate::state::Volume;

/// Returns the bytes left on a volume: its capacity without what its files take.
pub(crate) fn free_bytes(engine: &Engine, volume: &Volume) -> u64 {
    let mut used = 0_u64;
    walk(
        &engine.volumes().join(volume.letter.to_string()),
        &mut |_, metadata| {
            used = used.saturating_add(platform::allocated_bytes(metadata));
        },
    );
    volume.capacity_bytes.saturating_sub(used)
}

/// Refuses where a volume has less than `needed` bytes left, or a fault rule says that it has none.
pub(crate) fn need_room(
    engine: &Engine,
    letter: char,
    needed: u64,
    on: &str,
) -> Result<(), Failure> {
    let volume = engine.read(|state| {
        state
            .host
            .volumes
            .iter()
            .find(|volume| volume.letter == letter)
            .cloned()
    });
    let volume = volume.ok_or_else(|| Failure::invalid(format!("there is no volume {letter}:")))?;
    let free = free_bytes(engine, &volume);
    if free < needed || engine.fault(FaultRule::DiskFull, &[on], None) {
        return Err(Failure::failed(format!(
            "there is not enough space on the disk: volume {letter}: has {free} bytes left, {needed} are needed"
        )));
    }
    Ok(())
}

/// Lists the files of every volume by Windows path.
pub(crate) fn files(engine: &Engine) -> Vec<FileInfo> {
    let mut files = Vec::new();
    for volume in engine.read(|state| state.host.volumes.clone()) {
        let root = engine.volumes().join(volume.letter.to_string());
        walk(&root, &mut |path, metadata| {
            let names: Vec<_> = path
                .strip_prefix(&root)
                .map(|below| {
                    below
                        .iter()
                        .map(|name| name.to_string_lossy().into_owned())
                        .collect()
                })
                .unwrap_or_default();
            let path = format!(r"{}:\{}", volume.letter, names.join(r"\"));
            files.push(FileInfo {
                path,
                size_bytes: metadata.len(),
            });
        });
    }
    files.sort_by_cached_key(|file| file.path.to_lowercase());
    files
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &std::fs::Metadata)) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        // A file may vanish while we look: it takes no room then.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), visit);
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
