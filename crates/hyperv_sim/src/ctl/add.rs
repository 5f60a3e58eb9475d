//! `vm add`: a VM with copies of local disk files.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use uuid::Uuid;

use super::execute::{conflict, failed};
use super::{CtlError, CtlErrorKind, DiskAdd, VmAdd};
use crate::cim::{Bag, Embedded, V2, Value, v2};
use crate::clock::now;
use crate::definition::{Definition, kind, path_text, resource, subtype};
use crate::engine::Engine;
use crate::methods::{check_disks, new_definition};
use crate::platform;
use crate::resources;
use crate::state::{Switch, Vm, guid};
use crate::volume;
use crate::winpath::WinPath;

pub(super) fn add_vm(engine: &Engine, add: &VmAdd) -> Result<Uuid, CtlError> {
    let usage = |message: String| CtlError::new(CtlErrorKind::Usage, message);
    if !(1..=2).contains(&add.generation) {
        return Err(usage(format!("there is no generation {}", add.generation)));
    }
    if add.name.is_empty() {
        return Err(usage("a virtual machine needs a name".to_owned()));
    }
    let numbers = |version: &str| version.split('.').all(|part| part.parse::<u32>().is_ok());
    if let Some(version) = add.version.as_deref().filter(|version| !numbers(version)) {
        return Err(usage(format!(
            "{version:?} is no configuration version; write one such as 10.0"
        )));
    }
    let id = Uuid::new_v4();
    let server = engine.name();
    let mut definition = new_definition(
        engine,
        id,
        &add.name,
        add.generation,
        add.version.as_deref(),
    );
    let mut copied = Vec::new();
    let built = build(engine, &mut definition, add, &server, &mut copied);
    let result = built.and_then(|()| {
        definition.settle_boot_order(&server);
        check_disks(engine, id, &definition).map_err(failed)?;
        engine
            .insert_vm(Vm::new(id, definition, now()))
            .map_err(failed)
    });
    if let Err(err) = result {
        for path in copied {
            let _ = std::fs::remove_file(engine.local(&path));
        }
        return Err(err);
    }
    Ok(id)
}

fn build(
    engine: &Engine,
    definition: &mut Definition,
    add: &VmAdd,
    server: &str,
    copied: &mut Vec<WinPath>,
) -> Result<(), CtlError> {
    for disk in &add.disks {
        copied.push(copy_disk(engine, disk)?);
    }
    let paths: Vec<String> = copied.iter().map(WinPath::to_string).collect();
    build_disks(definition, add.generation, &paths, server)?;
    for name in &add.nics {
        let switch = switch(engine, name)?;
        let wish = Embedded {
            class: v2("Msvm_SyntheticEthernetPortSettingData"),
            given: [("ResourceType".to_owned(), Value::Unsigned(kind::NIC))].into(),
        };
        let nic = resources::prepare(definition, server, &wish, false).map_err(failed)?;
        definition.resources.push(nic.clone());
        let path = wsman::ObjectPath::new("Msvm_VirtualEthernetSwitch")
            .with("CreationClassName", "Msvm_VirtualEthernetSwitch")
            .with("Name", guid(switch.id))
            .on(server, V2);
        put(
            definition,
            server,
            kind::CONNECTION,
            &nic,
            Some(path.to_string()),
        )?;
    }
    Ok(())
}

/// Attaches disk files, in order.
pub(super) fn build_disks(
    definition: &mut Definition,
    generation: u8,
    paths: &[String],
    server: &str,
) -> Result<(), CtlError> {
    for (at, path) in paths.iter().enumerate() {
        // A first generation VM boots from IDE; everything else hangs on SCSI.
        let ide = generation == 1 && at == 0;
        let wanted = if ide {
            kind::IDE_CONTROLLER
        } else {
            kind::SCSI_CONTROLLER
        };
        let there = definition.of_kind(wanted).next().cloned();
        let controller = match there {
            Some(controller) => controller,
            None => {
                let device = guid(Uuid::new_v4());
                let controller = resource(
                    "Msvm_ResourceAllocationSettingData",
                    kind::SCSI_CONTROLLER,
                    subtype::SCSI_CONTROLLER,
                )
                .with(
                    "InstanceID",
                    format!(r"Microsoft:{}\{device}\0", definition.owner()),
                )
                .with("ElementName", "SCSI Controller");
                definition.resources.push(controller.clone());
                controller
            }
        };
        let drive = put(definition, server, kind::DISK_DRIVE, &controller, None)?;
        put(
            definition,
            server,
            kind::STORAGE,
            &drive,
            Some(path.clone()),
        )?;
    }
    Ok(())
}

/// Puts a resource into another one.
pub(super) fn put(
    definition: &mut Definition,
    server: &str,
    resource_type: u64,
    parent: &Bag,
    host_resource: Option<String>,
) -> Result<Bag, CtlError> {
    let parent = path_text(server, &parent.class, parent.instance_id());
    let mut wish = Embedded {
        class: v2("Msvm_ResourceAllocationSettingData"),
        given: [
            ("ResourceType".to_owned(), Value::Unsigned(resource_type)),
            ("Parent".to_owned(), parent.into()),
        ]
        .into(),
    };
    if let Some(path) = host_resource {
        wish.given
            .insert("HostResource".to_owned(), Value::texts([path]));
    }
    let bag = resources::prepare(definition, server, &wish, false).map_err(failed)?;
    definition.resources.push(bag.clone());
    Ok(bag)
}

/// Finds a switch; makes it where it is missing.
pub(super) fn switch(engine: &Engine, name: &str) -> Result<Switch, CtlError> {
    engine
        .update_host(|host| {
            if let Some(switch) = host.switches.iter().find(|switch| switch.name == name) {
                return Ok(switch.clone());
            }
            let switch = Switch {
                id: Uuid::new_v4(),
                name: name.to_owned(),
            };
            host.switches.push(switch.clone());
            Ok(switch)
        })
        .map_err(failed)
}

/// Copies a local VHDX file onto a volume.
fn copy_disk(engine: &Engine, disk: &DiskAdd) -> Result<WinPath, CtlError> {
    let path = WinPath::parse(&disk.path)
        .map_err(|err| CtlError::new(CtlErrorKind::Usage, err.to_string()))?;
    let shown = disk.file.display();
    let source = File::open(&disk.file).map_err(|err| {
        let kind = if err.kind() == ErrorKind::NotFound {
            CtlErrorKind::NotFound
        } else {
            CtlErrorKind::Failed
        };
        CtlError::new(kind, format!("failed to open {shown}: {err}"))
    })?;
    let io = |err: std::io::Error| {
        CtlError::new(
            CtlErrorKind::Failed,
            format!("failed to copy {shown}: {err}"),
        )
    };
    let info = vhdx::inspect(source.try_clone().map_err(io)?).map_err(|err| {
        CtlError::new(
            CtlErrorKind::Usage,
            format!("{shown} is no VHDX file this host can use ({err}); make one with `reprise vhdx convert`"),
        )
    })?;
    if info.format != vhdx::Format::Vhdx {
        return Err(CtlError::new(
            CtlErrorKind::Usage,
            format!(
                "{shown} is a {} file, and this host's disks are VHDX; make one with `reprise vhdx convert`",
                info.format
            ),
        ));
    }
    if info.parent.is_some() {
        return Err(CtlError::new(
            CtlErrorKind::Usage,
            format!(
                "{shown} is a differencing disk; merge it with its parent first (`reprise vhdx convert`)"
            ),
        ));
    }
    let local = engine.local(&path);
    if local.exists() {
        return Err(conflict(format!("'{path}' exists already")));
    }
    let needed = platform::allocated_bytes(&source.metadata().map_err(io)?);
    volume::need_room(engine, &path, needed, "vm-add").map_err(failed)?;
    if let Some(folder) = local.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    copy_sparse(&source, &local).map_err(io)?;
    Ok(path)
}

/// Copies a file without filling its holes.
fn copy_sparse(source: &File, target: &Path) -> std::io::Result<()> {
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".new");
    let out = File::create(&temporary)?;
    copy_holes(source, &out, &mut |_| ControlFlow::Continue(()))?;
    drop(out);
    std::fs::rename(temporary, target)
}

/// Copies the content of a file into an empty one without filling its holes. `progress` is asked between pieces; where
/// it breaks off, the copy ends with [`ErrorKind::Interrupted`].
pub(crate) fn copy_holes(
    mut source: &File,
    mut out: &File,
    progress: &mut dyn FnMut(vhdx::Progress) -> ControlFlow<()>,
) -> std::io::Result<()> {
    const PIECE: usize = 64 * 1024;
    let mut buffer = vec![0; PIECE];
    let length = source.metadata()?.len();
    source.seek(SeekFrom::Start(0))?;
    let mut left = length;
    while left > 0 {
        let piece = &mut buffer[..usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
        source.read_exact(piece)?;
        if piece.iter().all(|byte| *byte == 0) {
            out.seek(SeekFrom::Current(i64::try_from(piece.len()).unwrap_or(0)))?;
        } else {
            out.write_all(piece)?;
        }
        left -= u64::try_from(piece.len()).unwrap_or(left);
        let at = vhdx::Progress {
            bytes_done: length - left,
            bytes_total: length,
        };
        if progress(at).is_break() {
            return Err(ErrorKind::Interrupted.into());
        }
    }
    out.set_len(length)
}
