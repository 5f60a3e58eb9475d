//! Shadow copies: what every file of a volume held at one moment.
//!
//! A copy lies in `shadows/HarddiskVolumeShadowCopyN/`, laid out like the volume's root, and is known to the host once
//! it is whole: a host that is killed in between forgets it and removes the folder at its next start. While the files
//! are copied nobody changes a VM's disks, so the copy is of one moment; a disk in use is as after a power cut.
//! Files keep their holes and times, and share blocks with the original where the local file system can.
//!
//! Not here: other volumes mounted within the volume, whose folders stay empty; writers in the guest.

use std::fs::{self, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::now;
use crate::ctl::FaultRule;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::platform;
use crate::state::{Shadow, Volume};
use crate::torn;
use crate::volume::{free_bytes, local_folders, walk};
use crate::winpath::WinPath;

/// Return codes of `Win32_ShadowCopy.Create`.
mod code {
    pub(super) const BAD_ARGUMENT: u32 = 2;
    pub(super) const NO_VOLUME: u32 = 3;
    pub(super) const NO_CONTEXT: u32 = 5;
    pub(super) const NO_STORAGE: u32 = 6;
    pub(super) const TOO_MANY: u32 = 8;
    pub(super) const IN_PROGRESS: u32 = 9;
    pub(super) const UNKNOWN: u32 = 13;
}

/// What must be free on a volume before it can have a shadow copy.
const STORAGE_BYTES: u64 = 320 << 20;
/// The only context that can be had without writers.
const CONTEXT: &str = "ClientAccessible";

/// Makes a shadow copy and returns its id. Blocks for as long as copying the volume takes.
///
/// `volume` is a mount point or the volume's own name, with its final `\`.
pub(crate) fn create(
    engine: &Arc<Engine>,
    volume: &str,
    context: Option<&str>,
) -> Result<Uuid, Failure> {
    let knobs = engine.knobs();
    if knobs.shadow_code != 0 {
        let code = u32::try_from(knobs.shadow_code).unwrap_or(code::UNKNOWN);
        return Err(Failure::new(code, "the setting shadow_code says so"));
    }
    if !context.is_none_or(|context| context.eq_ignore_ascii_case(CONTEXT)) {
        return Err(Failure::new(
            code::NO_CONTEXT,
            format!("the only context is {CONTEXT}"),
        ));
    }
    if !volume.ends_with('\\') {
        return Err(Failure::new(
            code::BAD_ARGUMENT,
            format!("{volume:?} does not end in \\"),
        ));
    }
    let found = engine.read(|state| {
        let named = |found: &&Volume| {
            [found.name(), found.device_id()]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(volume))
        };
        state.host.volumes.iter().find(named).cloned()
    });
    let found = found.ok_or_else(|| {
        Failure::new(
            code::NO_VOLUME,
            format!("there is no volume called {volume:?}"),
        )
    })?;
    let _only = match engine.shadowing.try_lock() {
        Ok(only) => only,
        Err(TryLockError::Poisoned(only)) => only.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::new(
                code::IN_PROGRESS,
                "another shadow copy is being made",
            ));
        }
    };
    let there = engine.read(|state| {
        let of_volume = |shadow: &&Shadow| shadow.volume == found.id;
        state.host.shadows.iter().filter(of_volume).count()
    });
    if u64::try_from(there).unwrap_or(u64::MAX) >= knobs.shadow_limit {
        return Err(Failure::new(
            code::TOO_MANY,
            format!("{} has {there} shadow copies already", found.name()),
        ));
    }
    if free_bytes(engine, &found) < STORAGE_BYTES
        || engine.fault(FaultRule::DiskFull, &["Win32_ShadowCopy.Create"], None)
    {
        return Err(Failure::new(
            code::NO_STORAGE,
            format!("{} has no room for a shadow copy", found.name()),
        ));
    }
    if !engine.pause(Duration::from_millis(knobs.shadow_millis)) {
        return Err(Failure::new(code::UNKNOWN, "the host is stopping"));
    }
    if knobs.shadow_gmt && !wait_for_a_second_of_its_own(engine, &found) {
        return Err(Failure::new(code::UNKNOWN, "the host is stopping"));
    }
    make(engine, &found, knobs.shadow_torn, knobs.shadow_gmt)
}

/// Waits until the newest shadow copy of a volume is of an earlier second, as previous versions are named by it; false
/// where the host is stopping.
fn wait_for_a_second_of_its_own(engine: &Engine, volume: &Volume) -> bool {
    let second = |time: model::Timestamp| time.as_millis().div_euclid(1000);
    loop {
        let newest = engine.read(|state| {
            let of_volume = state.host.shadows.iter().filter(|s| s.volume == volume.id);
            of_volume.map(|shadow| second(shadow.created)).max()
        });
        if newest.is_none_or(|newest| newest < second(now())) {
            return true;
        }
        if !engine.pause(Duration::from_millis(50)) {
            return false;
        }
    }
}

fn make(engine: &Engine, volume: &Volume, tear: bool, link: bool) -> Result<Uuid, Failure> {
    let number = engine
        .read(|state| state.host.last_shadow)
        .saturating_add(1);
    let folder = engine.local(&WinPath::shadow(number));
    let (root, mounted) = local_folders(engine, volume);
    let io = |err: io::Error| {
        Failure::new(
            code::UNKNOWN,
            format!("failed to freeze {}: {err}", volume.name()),
        )
    };
    let created = engine.with_all_disks(|open| {
        // What a copy that was cut short left behind.
        remove_folder(&folder)?;
        copy_folder(&root, &folder, &mounted)?;
        let created = now();
        for disk in open.iter().filter(|_| tear) {
            let leaf = engine.local(disk);
            if let Ok(below) = leaf.strip_prefix(&root) {
                let copy = folder.join(below);
                if copy.exists() {
                    torn::tear(&copy)?;
                }
            }
        }
        make_read_only(&folder)?;
        Ok(created)
    });
    let created = created.map_err(io)?;
    let shadow = Shadow {
        id: Uuid::new_v4(),
        set: Uuid::new_v4(),
        number,
        volume: volume.id,
        created,
    };
    engine.update_host(|host| {
        host.last_shadow = number;
        host.shadows.push(shadow.clone());
        Ok(())
    })?;
    if link {
        platform::link_folder(&folder, &gmt_link(engine, volume, &shadow)).map_err(io)?;
    }
    Ok(shadow.id)
}

/// Forgets a shadow copy and removes its files.
pub(crate) fn delete(engine: &Engine, id: Uuid) -> Result<(), Failure> {
    let (shadow, volume) = engine.update_host(|host| {
        let at = host.shadows.iter().position(|shadow| shadow.id == id);
        let at = at.ok_or_else(|| Failure::invalid("the shadow copy is gone"))?;
        let shadow = host.shadows.remove(at);
        let volume = host.volumes.iter().find(|v| v.id == shadow.volume).cloned();
        Ok((shadow, volume))
    })?;
    let folder = engine.local(&WinPath::shadow(shadow.number));
    let link = volume.map(|volume| gmt_link(engine, &volume, &shadow));
    let unlinked = match link.map(fs::remove_file) {
        Some(Err(err)) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Some(Ok(()) | Err(_)) | None => Ok(()),
    };
    unlinked
        .and_then(|()| remove_folder(&folder))
        .map_err(|err| Failure::io(format!("remove {}", folder.display()), &err))
}

/// Removes the folders of shadow copies that were never finished, or are no longer known.
pub(crate) fn remove_strays(engine: &Engine) {
    let Ok(entries) = fs::read_dir(engine.layout.shadows()) else {
        return;
    };
    let known: Vec<PathBuf> = engine.read(|state| {
        let numbers = state.host.shadows.iter().map(|shadow| shadow.number);
        numbers
            .map(|number| engine.local(&WinPath::shadow(number)))
            .collect()
    });
    for path in entries.flatten().map(|entry| entry.path()) {
        if !known.contains(&path)
            && let Err(err) = remove_folder(&path)
        {
            tracing::warn!("failed to remove {}: {err}", path.display());
        }
    }
}

/// Returns the bytes that a volume's shadow copies keep: those of each file that was changed, moved or deleted since.
pub(crate) fn used_bytes(engine: &Engine, volume: &Volume) -> u64 {
    let numbers: Vec<u32> = engine.read(|state| {
        let of_volume = state.host.shadows.iter().filter(|s| s.volume == volume.id);
        of_volume.map(|shadow| shadow.number).collect()
    });
    let mut used = 0_u64;
    let root = engine.local(&volume.root());
    for number in numbers {
        let folder = engine.local(&WinPath::shadow(number));
        walk(&folder, &[], &mut |path, frozen| {
            let live = path
                .strip_prefix(&folder)
                .ok()
                .and_then(|below| fs::metadata(root.join(below)).ok());
            let same = live.is_some_and(|live| {
                live.len() == frozen.len() && live.modified().ok() == frozen.modified().ok()
            });
            if !same {
                used = used.saturating_add(platform::allocated_bytes(frozen));
            }
        });
    }
    used
}

/// Where previous versions are found over SMB: `@GMT-2026.01.02-03.04.05` below the volume's root.
fn gmt_link(engine: &Engine, volume: &Volume, shadow: &Shadow) -> PathBuf {
    let created = shadow.created.to_string();
    let (day, time) = created.split_once('T').unwrap_or((&created, ""));
    let time: String = time.chars().take(8).collect();
    engine.local(&volume.root()).join(format!(
        "@GMT-{}-{}",
        day.replace('-', "."),
        time.replace(':', ".")
    ))
}

/// Copies the files of a folder and of those below it; folders in `empty` are made, and nothing else.
fn copy_folder(from: &Path, to: &Path, empty: &[PathBuf]) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if empty.contains(&source) {
                fs::create_dir_all(&target)?;
            } else {
                copy_folder(&source, &target, empty)?;
            }
        } else if kind.is_file() {
            match copy_file(&source, &target) {
                // Somebody who is no VM removed it meanwhile.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = fs::File::open(from)?;
    let metadata = source.metadata()?;
    let target = fs::File::create(to)?;
    platform::copy_sparse(&source, &target)?;
    target.set_times(FileTimes::new().set_modified(metadata.modified()?))
}

fn make_read_only(folder: &Path) -> io::Result<()> {
    let mut result = Ok(());
    walk(folder, &[], &mut |path, metadata| {
        let mut permissions = metadata.permissions();
        permissions.set_readonly(true);
        if let Err(err) = fs::set_permissions(path, permissions) {
            result = Err(err);
        }
    });
    result
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}
