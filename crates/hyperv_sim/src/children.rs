//! The differencing files that checkpoints make.

use std::fs::File;
use std::sync::Arc;

use uuid::Uuid;
use vhdx::{FileInfo, Params, ParentLink};

use crate::definition::DiskSlot;
use crate::disks::{Hold, base_of, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::state::{Vm, guid};
use crate::volume::volume_of;
use crate::winpath::WinPath;

/// Names the child each disk gets: `<disk>_<GUID>.avhdx` beside the file it freezes.
pub(crate) fn children_of(vm: &Vm, slots: &[DiskSlot], id: Uuid) -> Result<Vec<WinPath>, Failure> {
    slots
        .iter()
        .map(|slot| {
            let leaf = parse_path(&slot.path)?;
            let base = base_of(vm, &leaf)?;
            let name = base.file_name();
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            leaf.parent()
                .join(&format!("{stem}_{}.avhdx", guid(id)))
                .map_err(|err| Failure::invalid(err.to_string()))
        })
        .collect()
}

/// Makes an empty child of a file nobody writes to; returns what the parent says about itself.
pub(crate) fn make_child(
    engine: &Engine,
    parent: &WinPath,
    child: &WinPath,
) -> Result<FileInfo, Failure> {
    let info = open_link(engine, parent, Hold::Shared)?.info;
    let params = Params::child_of(&info, link_to(engine, parent, child, &info));
    let local = engine.local(child);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&local);
    let file = Arc::new(file.map_err(|err| Failure::io(format!("create '{child}'"), &err))?);
    vhdx::create_differencing(file, &params).map_err(|err| Failure::vhdx(child, &err))?;
    Ok(info)
}

/// Returns how a child names its parent.
pub(crate) fn link_to(
    engine: &Engine,
    parent: &WinPath,
    child: &WinPath,
    parent_info: &FileInfo,
) -> ParentLink {
    let volume_path = engine.read(|state| {
        let volume = volume_of(&state.host.volumes, parent)?;
        let below = parent.below(&volume.root())?;
        Some(format!("{}{}", volume.device_id(), below.join(r"\")))
    });
    let relative =
        (parent.parent() == child.parent()).then(|| format!(r".\{}", parent.file_name()));
    ParentLink {
        data_write_guid: parent_info.data_write_guid,
        relative_path: relative,
        volume_path,
        absolute_path: Some(parent.to_string()),
    }
}

pub(crate) fn discard(engine: &Engine, path: &WinPath) {
    if let Err(err) = std::fs::remove_file(engine.local(path))
        && err.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("failed to remove '{path}': {err}");
    }
}
