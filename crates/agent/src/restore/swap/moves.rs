//! Files that change places: described, renamed, compared with what was written down of them.

use std::sync::Arc;

use hyperv::{FileErrorKind, HostFiles};
use model::{JobId, host_path};
use uuid::Uuid;

use super::MovedAside;
use crate::errors::{files_error, task_error};
use crate::job::JobError;
use crate::journal::Journal;
use crate::restore::parked_folder;
use crate::worker::Shared;

/// What the host keeps beside a disk file, by what is added to its name.
const TRACKERS: [&str; 2] = [".rct", ".mrt"];
/// A folder of ours is no deeper than this.
const MOST_DEPTH: usize = 8;

/// Describes files that are there, with their trackers, and says where each goes.
pub(super) async fn describe(
    files: &Arc<HostFiles>,
    wanted: Vec<(String, bool)>,
    job: JobId,
) -> Result<Vec<MovedAside>, JobError> {
    let files = Arc::clone(files);
    let describing = tokio::task::spawn_blocking(move || {
        let mut moves = Vec::new();
        for (path, stays) in wanted {
            let trackers = TRACKERS.map(|tracker| format!("{path}{tracker}"));
            for from in [path].into_iter().chain(trackers) {
                let Some(entry) = files.stat(&from).map_err(files_error)? else {
                    continue;
                };
                let folder = host_path::parent(&from).unwrap_or(&from);
                moves.push(MovedAside {
                    to: host_path::join(&parked_folder(folder, job), host_path::file_name(&from)),
                    bytes: entry.len,
                    data_write_guid: guid(&files, &from)?,
                    from,
                    stays,
                });
            }
        }
        Ok(moves)
    });
    describing.await.map_err(task_error)?
}

/// Returns what a VHDX is known by; `None` for other files and for one that cannot be read.
fn guid(files: &HostFiles, path: &str) -> Result<Option<Uuid>, JobError> {
    if !path.to_lowercase().ends_with("vhdx") {
        return Ok(None);
    }
    let open = files.open_read(path).map_err(files_error)?;
    Ok(vhdx::inspect(open).ok().map(|info| info.data_write_guid))
}

/// Renames files to where they go, or back. One that is there already is left.
pub(in crate::restore) async fn rename_all(
    shared: &Arc<Shared>,
    journal: &Arc<Journal>,
    moves: &[MovedAside],
    back: bool,
) -> Result<(), JobError> {
    let files = Arc::clone(&shared.files);
    let journal = Arc::clone(journal);
    let moves = moves.to_vec();
    let renaming = tokio::task::spawn_blocking(move || {
        for file in &moves {
            let (from, to) = match back {
                true => (&file.to, &file.from),
                false => (&file.from, &file.to),
            };
            journal.boundary();
            rename(&files, from, to)?;
        }
        journal.boundary();
        Ok(())
    });
    renaming.await.map_err(task_error)?
}

/// Renames a file; one that has been renamed before is left.
pub(super) fn rename(files: &HostFiles, from: &str, to: &str) -> Result<(), JobError> {
    match files.rename(from, to) {
        Err(error) if error.kind() == FileErrorKind::NotFound => {
            match files.stat(to).map_err(files_error)? {
                Some(_) => Ok(()),
                None => Err(files_error(error)),
            }
        }
        result => result.map_err(files_error),
    }
}

/// Fails where a file that was moved aside is not what was written down of it.
pub(in crate::restore) async fn compare(
    shared: &Arc<Shared>,
    moves: &[MovedAside],
) -> Result<(), JobError> {
    let files = Arc::clone(&shared.files);
    let moves = moves.to_vec();
    let comparing = tokio::task::spawn_blocking(move || {
        for file in &moves {
            let path = &file.to;
            let changed = |what: &str| {
                JobError::failed("parked-changed", format!("{path}, which is kept, {what}"))
                    .hint("look at the file; nothing of it is deleted")
            };
            let entry = files.stat(path).map_err(files_error)?;
            let entry = entry.ok_or_else(|| changed("is gone"))?;
            if entry.len != file.bytes {
                return Err(changed(&format!(
                    "has {} bytes instead of {}",
                    entry.len, file.bytes
                )));
            }
            if guid(&files, path)? != file.data_write_guid {
                return Err(changed("was written to"));
            }
        }
        Ok(())
    });
    comparing.await.map_err(task_error)?
}

/// Fails where something stands where a file goes back to.
pub(in crate::restore) async fn free(
    shared: &Arc<Shared>,
    paths: Vec<String>,
) -> Result<(), JobError> {
    let files = Arc::clone(&shared.files);
    let looking = tokio::task::spawn_blocking(move || {
        for path in &paths {
            if files.stat(path).map_err(files_error)?.is_some() {
                let message = format!("{path}, where a kept file goes back to, exists");
                return Err(JobError::failed("path-taken", message).hint("move the file away"));
            }
        }
        Ok(())
    });
    looking.await.map_err(task_error)?
}

/// Finds the configuration file the host has exported into a folder, and the folder of its checkpoints' files.
pub(super) async fn find_definition(
    files: &Arc<HostFiles>,
    folder: &str,
) -> Result<(String, Option<String>), JobError> {
    let (files, folder) = (Arc::clone(files), folder.to_owned());
    let finding = tokio::task::spawn_blocking(move || {
        let mut tops = vec![folder.clone()];
        for entry in files.list(&folder).map_err(files_error)? {
            if entry.folder {
                tops.push(host_path::join(&folder, &entry.name));
            }
        }
        for top in tops {
            let machines = host_path::join(&top, "Virtual Machines");
            if files.stat(&machines).map_err(files_error)?.is_none() {
                continue;
            }
            let entries = files.list(&machines).map_err(files_error)?;
            let config = entries.iter().find(|entry| {
                let name = entry.name.to_lowercase();
                name.ends_with(".vmcx") || name.ends_with(".xml")
            });
            if let Some(config) = config {
                let snapshots = host_path::join(&top, "Snapshots");
                let there = files.stat(&snapshots).map_err(files_error)?.is_some();
                return Ok((
                    host_path::join(&machines, &config.name),
                    there.then_some(snapshots),
                ));
            }
        }
        Err(JobError::failed(
            "export-incomplete",
            format!("the host exported no definition into {folder}"),
        ))
    });
    finding.await.map_err(task_error)?
}

/// Deletes a folder of ours with everything in it.
pub(in crate::restore) fn delete_tree(files: &HostFiles, path: &str) -> Result<(), JobError> {
    delete_below(files, path, MOST_DEPTH)
}

fn delete_below(files: &HostFiles, path: &str, depth: usize) -> Result<(), JobError> {
    if files.stat(path).map_err(files_error)?.is_none() {
        return Ok(());
    }
    for entry in files.list(path).map_err(files_error)? {
        let below = host_path::join(path, &entry.name);
        match (entry.folder, depth) {
            (true, 0) => {}
            (true, depth) => delete_below(files, &below, depth - 1)?,
            (false, _) => files.delete(&below).map_err(files_error)?,
        }
    }
    files.delete_folder(path).map_err(files_error)
}
