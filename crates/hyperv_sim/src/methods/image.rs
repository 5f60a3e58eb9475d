//! The image service: disk files looked at, made and changed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vhdx::{DiskKind, FileInfo, Params};

use super::{Answer, Call, ImageOperation, Operation, changes, mounted};
use crate::cim::{Object, to_cim_xml, v2};
use crate::clock::{dmtf, now};
use crate::disks::{Hold, open_chain, open_file, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::refusals::Refusal;
use crate::state::guid;
use crate::winpath::WinPath;

const TYPE_FIXED: u64 = 2;
const TYPE_DYNAMIC: u64 = 3;
const TYPE_DIFFERENCING: u64 = 4;
const FORMAT_VHDX: u64 = 3;
const FORMAT_VHD_SET: u64 = 4;

/// Mode of CompactVirtualHardDisk: blocks of zeros are given up, too.
const MODE_FULL: u64 = 0;
const MODE_LAST: u64 = 4;

/// A disk to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewDisk {
    pub(super) path: String,
    pub(super) parent: Option<String>,
    pub(super) fixed: bool,
    pub(super) size: u64,
    pub(super) block: u32,
    pub(super) logical: u32,
    pub(super) physical: u32,
    pub(super) disk_id: Uuid,
}

impl NewDisk {
    /// Returns the parameters of the file; those of a child come from its parent.
    pub(super) fn params(&self) -> Params {
        Params {
            size: self.size,
            block_bytes: self.block,
            logical: self.logical,
            physical: self.physical,
            kind: if self.fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            disk_id: self.disk_id,
            parent: None,
        }
    }
}

/// Methods of the image service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    Some(match method {
        "GetVirtualHardDiskSettingData" => setting_data(call),
        "GetVirtualHardDiskState" => state(call),
        "GetVirtualDiskChanges" => changes::changes(call),
        "CreateVirtualHardDisk" => image_job(call, |call| {
            let disk = new_disk(call, None)?;
            Ok(ImageOperation::Create { disk })
        }),
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
        "ConvertVirtualHardDisk" => convert(call),
        "CompactVirtualHardDisk" => image_job(call, |call| {
            let mode = call.parameters.u64("Mode").unwrap_or(0);
            if mode > MODE_LAST {
                return Err(Failure::invalid(format!("there is no mode {mode}")));
            }
            Ok(ImageOperation::Compact {
                path: path(call, "Path")?,
                find_zeros: mode == MODE_FULL,
            })
        }),
        "AttachVirtualHardDisk" => image_job(call, |call| {
            Ok(ImageOperation::Attach {
                path: path(call, "Path")?,
                read_only: call.flag("ReadOnly"),
            })
        }),
        "FindMountedStorageImageInstance" => mounted::find(call),
        "GetVHDSetInformation" | "GetVHDSnapshotInformation" | "DeleteVHDSnapshot" => {
            Err(Failure::new(
                code::NOT_SUPPORTED,
                format!("{method} is not supported by this host"),
            ))
        }
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
    let path = parse_path(text)
        .map_err(|failure| Failure::refused(Refusal::ImageBadPath, failure.message))?;
    if call.engine.local(&path).is_file() {
        Ok(path.to_string())
    } else {
        Err(Failure::refused(
            Refusal::ImageMissing,
            format!("'{path}' was not found"),
        ))
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
        .with(
            "Format",
            if path.file_name().to_lowercase().ends_with(".vhds") {
                FORMAT_VHD_SET
            } else {
                FORMAT_VHDX
            },
        )
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

fn convert(call: &Call<'_>) -> Result<Answer, Failure> {
    let source = path(call, "SourcePath")?;
    image_job(call, |call| {
        let (info, _) = look(call.engine, &parse_path(&source)?)?;
        let disk = new_disk(call, Some(&info))?;
        Ok(ImageOperation::Convert { source, disk })
    })
}

/// Reads what disk is to be made; what is not said is as in `like`.
fn new_disk(call: &Call<'_>, like: Option<&FileInfo>) -> Result<NewDisk, Failure> {
    let given = call.need_embedded("VirtualDiskSettingData")?;
    if given.class.name != "Msvm_VirtualHardDiskSettingData" {
        return Err(Failure::refused(
            Refusal::WrongClass,
            "VirtualDiskSettingData is no Msvm_VirtualHardDiskSettingData",
        ));
    }
    let path = given.text("Path").filter(|path| !path.is_empty());
    let path = parse_path(path.ok_or_else(|| Failure::invalid("Path is missing"))?)?;
    if given
        .number("Format")
        .is_some_and(|format| format != FORMAT_VHDX)
    {
        return Err(Failure::refused(
            Refusal::CreateFormat,
            "this host makes VHDX files only",
        ));
    }
    let kind = match (given.number("Type"), like) {
        (Some(kind), _) => kind,
        (None, Some(like)) if like.kind == DiskKind::Fixed => TYPE_FIXED,
        (None, Some(_)) => TYPE_DYNAMIC,
        (None, None) => return Err(Failure::invalid("Type is missing")),
    };
    let parent = given.text("ParentPath").filter(|parent| !parent.is_empty());
    if !(TYPE_FIXED..=TYPE_DIFFERENCING).contains(&kind)
        || (kind == TYPE_DIFFERENCING) != parent.is_some()
        || (like.is_some() && kind == TYPE_DIFFERENCING)
    {
        return Err(Failure::invalid("Type and ParentPath do not go together"));
    }
    let small = |name: &str, default: u32| {
        let number = given.number(name).filter(|&number| number != 0);
        number.map_or(Ok(default), |number| {
            u32::try_from(number).map_err(|_| Failure::invalid(format!("{name} is out of range")))
        })
    };
    let size = given.number("MaxInternalSize").filter(|&size| size != 0);
    Ok(NewDisk {
        path: path.to_string(),
        parent: parent
            .map(parse_path)
            .transpose()?
            .map(|parent| parent.to_string()),
        fixed: kind == TYPE_FIXED,
        size: size.or(like.map(|like| like.size)).unwrap_or(0),
        block: small("BlockSize", vhdx::DEFAULT_BLOCK_BYTES)?,
        logical: small(
            "LogicalSectorSize",
            like.map_or(512, |like| like.logical_sector_bytes),
        )?,
        physical: small(
            "PhysicalSectorSize",
            like.map_or(4096, |like| like.physical_sector_bytes),
        )?,
        disk_id: given
            .text("VirtualDiskId")
            .and_then(|id| Uuid::try_parse(id).ok())
            .unwrap_or_else(Uuid::new_v4),
    })
}
