//! The image service: disk files looked at, made and changed.

use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vhdx::{BulkWriter, DiskKind, Durability, FileInfo, MergedIdentity, Params};

use super::{Answer, Call, ImageOperation, Operation, changes};
use crate::children::{link_to, make_child};
use crate::cim::{Object, to_cim_xml, v2};
use crate::clock::{dmtf, now};
use crate::disks::{Hold, open_chain, open_file, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::jobs::Job;
use crate::state::{Vm, guid};
use crate::volume;
use crate::winpath::WinPath;

const TYPE_FIXED: u64 = 2;
const TYPE_DYNAMIC: u64 = 3;
const TYPE_DIFFERENCING: u64 = 4;
const FORMAT_VHDX: u64 = 3;

/// A disk to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewDisk {
    path: String,
    parent: Option<String>,
    fixed: bool,
    size: u64,
    block: u32,
    logical: u32,
    physical: u32,
    disk_id: Uuid,
}

/// Methods of the image service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    Some(match method {
        "GetVirtualHardDiskSettingData" => setting_data(call),
        "GetVirtualHardDiskState" => state(call),
        "GetVirtualDiskChanges" => changes::changes(call),
        "CreateVirtualHardDisk" => create(call),
        "ResizeVirtualHardDisk" => image_job(call, |call| {
            Ok(ImageOperation::Resize {
                path: path(call, "Path")?,
                size: call.need_number("MaxInternalSize")?,
            })
        }),
        "ValidateVirtualHardDisk" => image_job(call, |call| {
            Ok(ImageOperation::Validate {
                path: path(call, "Path")?,
            })
        }),
        "SetParentVirtualHardDisk" => image_job(call, |call| {
            Ok(ImageOperation::SetParent {
                child: path(call, "ChildPath")?,
                parent: path(call, "ParentPath")?,
                ignore_mismatch: call.flag("IgnoreIDMismatch"),
            })
        }),
        "MergeVirtualHardDisk" => image_job(call, |call| {
            Ok(ImageOperation::Merge {
                child: path(call, "SourcePath")?,
                parent: path(call, "DestinationPath")?,
            })
        }),
        "SetVirtualHardDiskSettingData" => image_job(call, |call| {
            let given = call.need_embedded("VirtualDiskSettingData")?;
            let id = given
                .text("VirtualDiskId")
                .and_then(|id| Uuid::try_parse(id).ok());
            Ok(ImageOperation::SetDiskId {
                path: existing(call, given.text("Path").unwrap_or_default())?,
                disk_id: id
                    .ok_or_else(|| Failure::invalid("VirtualDiskId is missing or no GUID"))?,
            })
        }),
        "ConvertVirtualHardDisk"
        | "CompactVirtualHardDisk"
        | "AttachVirtualHardDisk"
        | "FindMountedStorageImageInstance"
        | "GetVHDSetInformation"
        | "GetVHDSnapshotInformation"
        | "DeleteVHDSnapshot" => Err(Failure::new(
            code::NOT_SUPPORTED,
            format!("{method} is not supported by this host"),
        )),
        _ => return None,
    })
}

fn image_job(
    call: &Call<'_>,
    operation: impl FnOnce(&Call<'_>) -> Result<ImageOperation, Failure>,
) -> Result<Answer, Failure> {
    let operation = operation(call)?;
    call.job(None, Operation::Image { operation })
}

/// Reads a path parameter; the file must be there.
pub(super) fn path(call: &Call<'_>, name: &str) -> Result<String, Failure> {
    existing(call, call.need_text(name)?)
}

fn existing(call: &Call<'_>, text: &str) -> Result<String, Failure> {
    let path = parse_path(text)?;
    if call.engine.local(&path).is_file() {
        Ok(path.to_string())
    } else {
        Err(Failure::new(code::FILE, format!("'{path}' was not found")))
    }
}

fn setting_data(call: &Call<'_>) -> Result<Answer, Failure> {
    let path = parse_path(&path(call, "Path")?)?;
    let (info, parent) = look(call.engine, &path)?;
    let kind = match info.kind {
        DiskKind::Fixed => TYPE_FIXED,
        DiskKind::Dynamic => TYPE_DYNAMIC,
        DiskKind::Differencing => TYPE_DIFFERENCING,
    };
    let mut object = Object::new(v2("Msvm_VirtualHardDiskSettingData"))
        .with("Path", path.to_string())
        .with("Type", kind)
        .with("Format", FORMAT_VHDX)
        .with("MaxInternalSize", info.size)
        .with("BlockSize", u64::from(info.block_bytes))
        .with("LogicalSectorSize", u64::from(info.logical_sector_bytes))
        .with("PhysicalSectorSize", u64::from(info.physical_sector_bytes))
        .with("VirtualDiskId", guid(info.disk_id));
    if let Some(locator) = &info.parent {
        object = object
            .with("ParentPath", parent)
            .with("ParentIdentifier", guid(locator.linkage));
    }
    Ok(Answer::done()
        .with("SettingData", to_cim_xml(&object))
        .with("Job", wsman::Value::Null))
}

/// Reads what a file says about itself and where its parent is (as written, where it is not there).
pub(super) fn look(engine: &Engine, path: &WinPath) -> Result<(FileInfo, String), Failure> {
    // A VM that writes may be between two states of the file's header: what it has open says it exactly.
    let owner = engine.read(|state| {
        state
            .vms
            .values()
            .find(|vm| vm.definition.uses_file(&path.to_string()))
            .map(|vm| vm.id)
    });
    let held = owner.and_then(|vm| {
        engine.with_disks(vm, |disks| {
            disks
                .open
                .iter()
                .find(|disk| disk.path == *path)
                .map(|disk| disk.writer.info())
        })
    });
    let info = match held {
        Some(info) => info,
        None => open_link(engine, path, Hold::None)?.info,
    };
    let parent = info.parent.as_ref().map_or_else(String::new, |locator| {
        match open_chain(engine, path, Hold::None) {
            Ok(links) if links.len() > 1 => links[1].path.to_string(),
            Ok(_) | Err(_) => locator
                .absolute_path
                .clone()
                .or_else(|| locator.relative_path.clone())
                .unwrap_or_default(),
        }
    });
    Ok((info, parent))
}

fn state(call: &Call<'_>) -> Result<Answer, Failure> {
    let path = parse_path(&path(call, "Path")?)?;
    let file = open_file(call.engine, &path, Hold::None)?;
    let metadata = file
        .metadata()
        .map_err(|err| Failure::io(format!("look at '{path}'"), &err))?;
    let object = Object::new(v2("Msvm_VirtualHardDiskState"))
        .with("FileSize", metadata.len())
        .with("FragmentationPercentage", 0_u64)
        .with("Alignment", 1_u64)
        .with("InUse", false)
        .with("Timestamp", dmtf(now()));
    Ok(Answer::done()
        .with("State", to_cim_xml(&object))
        .with("Job", wsman::Value::Null))
}

fn create(call: &Call<'_>) -> Result<Answer, Failure> {
    let given = call.need_embedded("VirtualDiskSettingData")?;
    let path = parse_path(
        given
            .text("Path")
            .ok_or_else(|| Failure::invalid("Path is missing"))?,
    )?;
    if given
        .number("Format")
        .is_some_and(|format| format != FORMAT_VHDX)
    {
        return Err(Failure::new(
            code::NOT_SUPPORTED,
            "this host makes VHDX files only",
        ));
    }
    let kind = given
        .number("Type")
        .ok_or_else(|| Failure::invalid("Type is missing"))?;
    let parent = given.text("ParentPath").filter(|parent| !parent.is_empty());
    if !(TYPE_FIXED..=TYPE_DIFFERENCING).contains(&kind)
        || (kind == TYPE_DIFFERENCING) != parent.is_some()
    {
        return Err(Failure::invalid("Type and ParentPath do not go together"));
    }
    let small = |name: &str, default: u32| {
        let number = given.number(name).filter(|&number| number != 0);
        number.map_or(Ok(default), |number| {
            u32::try_from(number).map_err(|_| Failure::invalid(format!("{name} is out of range")))
        })
    };
    let disk = NewDisk {
        path: path.to_string(),
        parent: parent
            .map(parse_path)
            .transpose()?
            .map(|parent| parent.to_string()),
        fixed: kind == TYPE_FIXED,
        size: given.number("MaxInternalSize").unwrap_or(0),
        block: small("BlockSize", vhdx::DEFAULT_BLOCK_BYTES)?,
        logical: small("LogicalSectorSize", 512)?,
        physical: small("PhysicalSectorSize", 4096)?,
        disk_id: given
            .text("VirtualDiskId")
            .and_then(|id| Uuid::try_parse(id).ok())
            .unwrap_or_else(Uuid::new_v4),
    };
    call.job(
        None,
        Operation::Image {
            operation: ImageOperation::Create { disk },
        },
    )
}

/// Does what a job of the image service is to do.
pub(crate) fn perform(
    engine: &Arc<Engine>,
    operation: &ImageOperation,
    job: &Job,
) -> Result<Vec<String>, Failure> {
    match operation {
        ImageOperation::Create { disk } => make(engine, disk, job)?,
        ImageOperation::Resize { path, .. } => {
            return Err(Failure::new(
                code::NOT_SUPPORTED,
                format!("this host cannot change the size of '{path}'"),
            ));
        }
        ImageOperation::Validate { path } => {
            open_chain(engine, &parse_path(path)?, Hold::None)?;
        }
        ImageOperation::SetParent {
            child,
            parent,
            ignore_mismatch,
        } => {
            set_parent(engine, child, parent, *ignore_mismatch)?;
        }
        ImageOperation::Merge { child, parent } => merge(engine, child, parent)?,
        ImageOperation::SetDiskId { path, disk_id } => {
            need_unused(engine, path)?;
            let path = parse_path(path)?;
            let file = open_file(engine, &path, Hold::Exclusive)?;
            vhdx::set_disk_id(file, *disk_id, Durability::ProcessKill)
                .map_err(|err| Failure::vhdx(&path, &err))?;
        }
    }
    Ok(Vec::new())
}

fn make(engine: &Engine, disk: &NewDisk, job: &Job) -> Result<(), Failure> {
    let path = parse_path(&disk.path)?;
    let needed = if disk.fixed { disk.size } else { 0 };
    volume::need_room(engine, &path, needed, &job.method)?;
    let local = engine.local(&path);
    let io = |err: std::io::Error| Failure::io(format!("create '{path}'"), &err);
    if local.exists() {
        return Err(Failure::failed(format!("'{path}' exists already")));
    }
    // Made under another name first: a host that is killed leaves no half of a disk under the right one.
    let mut name = local.clone().into_os_string();
    name.push(".new");
    let temporary = std::path::PathBuf::from(name);
    if let Some(parent) = &disk.parent {
        let new = parse_path(&format!("{path}.new"))?;
        make_child(engine, &parse_path(parent)?, &new)?;
    } else {
        let params = Params {
            size: disk.size,
            block_bytes: disk.block,
            logical: disk.logical,
            physical: disk.physical,
            kind: if disk.fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            disk_id: disk.disk_id,
            parent: None,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(io)?;
        let made = BulkWriter::create(file, &params).and_then(BulkWriter::finish);
        if let Err(err) = made {
            let _ = std::fs::remove_file(&temporary);
            return Err(Failure::vhdx(&path, &err));
        }
    }
    std::fs::rename(&temporary, &local).map_err(io)
}

fn need_unused(engine: &Engine, path: &str) -> Result<(), Failure> {
    let user = engine.read(|state| {
        let uses = |vm: &&Vm| {
            !vm.planned
                && vm
                    .definitions()
                    .any(|definition| definition.uses_file(path))
        };
        state.vms.values().find(uses).map(|vm| vm.name().to_owned())
    });
    match user {
        Some(user) => Err(Failure::new(
            code::IN_USE,
            format!("'{path}' is in use by the virtual machine {user}"),
        )),
        None => Ok(()),
    }
}

fn set_parent(
    engine: &Engine,
    child: &str,
    parent: &str,
    ignore_mismatch: bool,
) -> Result<(), Failure> {
    let (child, parent) = (parse_path(child)?, parse_path(parent)?);
    let child_info = open_link(engine, &child, Hold::None)?.info;
    let parent_info = open_link(engine, &parent, Hold::Shared)?.info;
    let locator = child_info
        .parent
        .as_ref()
        .ok_or_else(|| Failure::failed(format!("'{child}' is no differencing disk")))?;
    if !ignore_mismatch && !locator.accepts(parent_info.data_write_guid) {
        return Err(Failure::failed(format!(
            "'{parent}' is not the disk '{child}' was made from"
        )));
    }
    let file = open_file(engine, &child, Hold::Exclusive)?;
    let link = link_to(engine, &parent, &child, &parent_info);
    vhdx::set_parent(file, &link, Durability::ProcessKill)
        .map_err(|err| Failure::vhdx(&child, &err))?;
    Ok(())
}

/// Merges a disk into its parent, or on down to an ancestor; each merged file is removed.
fn merge(engine: &Engine, child: &str, ancestor: &str) -> Result<(), Failure> {
    need_unused(engine, child)?;
    need_unused(engine, ancestor)?;
    // It was there when the job was made: gone means merged, by this job before the host was killed.
    if !engine.local(&parse_path(child)?).exists() {
        return Ok(());
    }
    let links = open_chain(engine, &parse_path(child)?, Hold::None)?;
    let paths: Vec<WinPath> = links.iter().map(|link| link.path.clone()).collect();
    let ancestor = parse_path(ancestor)?;
    let last = paths
        .iter()
        .position(|path| *path == ancestor)
        .filter(|&at| at > 0);
    let last =
        last.ok_or_else(|| Failure::failed(format!("'{ancestor}' is no parent of '{child}'")))?;
    drop(links);
    for pair in paths[..=last].windows(2) {
        let child_file = open_file(engine, &pair[0], Hold::Exclusive)?;
        let parent_file = open_file(engine, &pair[1], Hold::Exclusive)?;
        let mut go_on = |_| {
            if engine.is_stopping() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        vhdx::merge(
            child_file,
            parent_file,
            MergedIdentity::New,
            Durability::ProcessKill,
            &mut go_on,
        )
        .map_err(|err| Failure::vhdx(&pair[0], &err))?;
        std::fs::remove_file(engine.local(&pair[0]))
            .map_err(|err| Failure::io(format!("delete '{}'", pair[0]), &err))?;
    }
    Ok(())
}
