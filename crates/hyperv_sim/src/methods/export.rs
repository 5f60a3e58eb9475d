//! Definitions out of a host: configuration files below a folder.

use std::sync::Arc;

use uuid::Uuid;
use wsman::ObjectPath;

use super::answers::system_path;
use super::snapshot::need_peace;
use super::{Answer, Call, Operation};
use crate::cim::Value;
use crate::config_files::{self, ConfigFile};
use crate::definition::owner_of;
use crate::disks::parse_path;
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::state::guid;
use crate::winpath::ParsePathError;

/// CopySnapshotConfiguration.
mod copy {
    pub(super) const ALL: u64 = 0;
    pub(super) const NONE: u64 = 1;
    pub(super) const ONE: u64 = 2;
}

pub(crate) fn export_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("ComputerSystem")?;
    let folder = parse_path(call.need_text("ExportDirectory")?)?;
    let settings = call.embedded("ExportSettingData")?;
    let flag = |name: &str| {
        settings
            .as_ref()
            .and_then(|settings| settings.given.get(name))
            .and_then(Value::as_bool)
    };
    if flag("CopyVmStorage") != Some(false) {
        return Err(Failure::new(
            code::NOT_SUPPORTED,
            "this host exports definitions only: set CopyVmStorage to false",
        ));
    }
    let which = settings
        .as_ref()
        .and_then(|settings| settings.number("CopySnapshotConfiguration"))
        .unwrap_or(copy::ALL);
    let checkpoints = match which {
        copy::ALL => vm
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.id)
            .collect(),
        copy::NONE => Vec::new(),
        copy::ONE => {
            let path = settings
                .as_ref()
                .and_then(|settings| settings.text("SnapshotVirtualSystem"));
            let path: Option<ObjectPath> = path.and_then(|path| path.parse().ok());
            let id = path
                .as_ref()
                .and_then(|path| path.get("InstanceID"))
                .map(owner_of);
            let id = id
                .and_then(|id| Uuid::try_parse(id).ok())
                .filter(|&id| vm.checkpoint(id).is_some());
            vec![id.ok_or_else(|| {
                Failure::invalid("SnapshotVirtualSystem names no checkpoint of the VM")
            })?]
        }
        other => {
            return Err(Failure::new(
                code::NOT_SUPPORTED,
                format!("CopySnapshotConfiguration {other}"),
            ));
        }
    };
    if !vm.planned {
        need_peace(call.engine, &vm)?;
    }
    let subfolder = flag("CreateVmExportSubdirectory").unwrap_or(true);
    call.job(
        Some(vm.id),
        Operation::Export {
            vm: vm.id,
            folder: folder.to_string(),
            checkpoints,
            subfolder,
        },
    )
}

/// Writes a VM's definition, and those of checkpoints, below a folder.
pub(crate) fn export(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    folder: &str,
    checkpoints: &[Uuid],
    subfolder: bool,
) -> Result<Vec<String>, Failure> {
    let vm = engine.need_vm(vm_id)?;
    let wrong = |err: ParsePathError| Failure::invalid(err.to_string());
    let mut folder = parse_path(folder)?;
    if subfolder {
        // A display name that cannot be a folder's name gives way to the id.
        folder = match folder.join(vm.name()) {
            Ok(named) if named.parent() == folder => named,
            Ok(_) | Err(_) => folder.join(&guid(vm.id)).map_err(wrong)?,
        };
    }
    let file = folder
        .join(&format!(r"Virtual Machines\{}.vmcx", guid(vm.id)))
        .map_err(wrong)?;
    let mut content = ConfigFile::of_vm(&vm);
    content
        .checkpoints
        .retain(|part| checkpoints.contains(&part.id));
    config_files::write_one(engine, &file, &content)?;
    for checkpoint in vm
        .checkpoints
        .iter()
        .filter(|checkpoint| checkpoints.contains(&checkpoint.id))
    {
        let file = folder
            .join(&format!(r"Snapshots\{}.vmcx", guid(checkpoint.id)))
            .map_err(wrong)?;
        config_files::write_one(engine, &file, &ConfigFile::of_checkpoint(&vm, checkpoint))?;
    }
    Ok(vec![system_path(engine, vm_id, vm.planned)])
}
