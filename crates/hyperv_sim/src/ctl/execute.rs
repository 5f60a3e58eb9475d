//! Control commands, carried out on an open host.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{
    BytesInfo, CheckpointInfo, Command, CtlError, CtlErrorKind, DiskAdd, DiskInfo, FaultsInfo,
    PathInfo, PowerAction, Reply, VmAdd, VmInfo, VolumeInfo,
};
use crate::cim::{Bag, Value};
use crate::clock::now;
use crate::definition::{Definition, kind, path_text, resource, subtype};
use crate::disks::{Hold, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::guest;
use crate::merge;
use crate::methods::{CheckpointOperation, Operation, check_disks, new_definition};
use crate::objects;
use crate::platform;
use crate::resources;
use crate::state::{CheckpointKind, Knobs, Power, Switch, Vm, Volume, guid};
use crate::volume;
use crate::winpath::WinPath;

/// How long a command waits for its job and the merges after it.
const PATIENCE: Duration = Duration::from_secs(600);

/// Carries out a command.
pub(crate) fn execute(
    engine: &Arc<Engine>,
    command: &Command,
    data: &mut dyn Write,
) -> Result<Reply, CtlError> {
    match command {
        Command::VmAdd(add) => add_vm(engine, add).map(Reply::Vm),
        Command::VmList => {
            let vms = engine.read(|state| state.vms.values().cloned().collect::<Vec<_>>());
            let mut vms: Vec<VmInfo> = vms
                .iter()
                .filter(|vm| !vm.planned)
                .map(|vm| vm_info(engine, vm))
                .collect();
            vms.sort_by(|one, two| (&one.name, &one.id).cmp(&(&two.name, &two.id)));
            Ok(Reply::Vms(vms))
        }
        Command::VmShow { vm } => Ok(Reply::Vm(vm_info(engine, &find(engine, vm)?))),
        Command::VmRemove { vm } => {
            let vm = find(engine, vm)?;
            if vm.power.holds_disks() {
                run_job(
                    engine,
                    vm.id,
                    Operation::Power {
                        vm: vm.id,
                        to: Power::Off,
                    },
                )?;
            }
            run_job(engine, vm.id, Operation::Destroy { vm: vm.id })?;
            Ok(Reply::Done)
        }
        Command::Power { vm, action } => power(engine, &find(engine, vm)?, *action),
        Command::GuestWrite {
            vm,
            disk,
            offset,
            content,
        } => {
            let vm = find(engine, vm)?;
            let index = guest::select(engine, &vm, disk)?;
            let bytes = guest::write(engine, &vm, index, *offset, content)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::GuestRead {
            vm,
            disk,
            offset,
            length,
        } => {
            let vm = find(engine, vm)?;
            let index = guest::select(engine, &vm, disk)?;
            let bytes = guest::read(engine, &vm, index, *offset, *length, data)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::GuestWorkload { vm, seed, bytes } => {
            let bytes = guest::workload(engine, &find(engine, vm)?, *seed, *bytes)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::CheckpointCreate { vm, name } => {
            create_checkpoint(engine, &find(engine, vm)?, name.clone())
        }
        Command::CheckpointApply { vm, checkpoint } => {
            let vm = find(engine, vm)?;
            if vm.power.holds_disks() {
                return Err(conflict(format!(
                    "{} is running; turn it off or save it first",
                    vm.name()
                )));
            }
            let checkpoint = find_checkpoint(&vm, checkpoint)?;
            change(
                engine,
                vm.id,
                CheckpointOperation::Apply {
                    id: checkpoint,
                    made: Uuid::new_v4(),
                },
            )?;
            Ok(Reply::Done)
        }
        Command::CheckpointDelete { vm, checkpoint } => {
            let vm = find(engine, vm)?;
            let checkpoint = find_checkpoint(&vm, checkpoint)?;
            change(
                engine,
                vm.id,
                CheckpointOperation::Destroy {
                    ids: vec![checkpoint],
                },
            )?;
            Ok(Reply::Done)
        }
        Command::CheckpointList { vm } => {
            let vm = find(engine, vm)?;
            Ok(Reply::Checkpoints(
                vm.checkpoints
                    .iter()
                    .map(|c| checkpoint_info(&vm, c.id))
                    .collect(),
            ))
        }
        Command::VolumeSet {
            volume,
            capacity_bytes,
        } => set_volume(engine, volume, *capacity_bytes),
        Command::FaultAdd(spec) => {
            engine
                .update_host(|host| {
                    host.faults.push(spec.clone());
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::FaultList => faults(engine),
        Command::FaultClear => {
            engine
                .update_host(|host| {
                    host.faults.clear();
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::FaultSet { key, value } => {
            engine
                .update_host(|host| {
                    host.knobs = set_knob(&host.knobs, key, value)?;
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::Files { glob } => {
            let mut files = volume::files(engine);
            if let Some(glob) = glob {
                files.retain(|file| volume::fits_glob(&file.path, glob));
            }
            Ok(Reply::Files(files))
        }
        Command::Path { path } => {
            let parsed = WinPath::parse(path)
                .map_err(|err| CtlError::new(CtlErrorKind::Usage, err.to_string()))?;
            let known = engine.read(|state| {
                state
                    .host
                    .volumes
                    .iter()
                    .any(|volume| volume.letter == parsed.letter())
            });
            if !known {
                return Err(not_found(format!(
                    "there is no volume {}:",
                    parsed.letter()
                )));
            }
            let local = engine.local(&parsed);
            Ok(Reply::Path(PathInfo {
                path: parsed.to_string(),
                exists: local.exists(),
                local,
            }))
        }
    }
}

fn not_found(message: String) -> CtlError {
    CtlError::new(CtlErrorKind::NotFound, message)
}

fn conflict(message: String) -> CtlError {
    CtlError::new(CtlErrorKind::Conflict, message)
}

fn failed(failure: Failure) -> CtlError {
    let kind = match failure.code {
        code::INVALID_PARAMETER => CtlErrorKind::Usage,
        code::INVALID_STATE | code::IN_USE => CtlErrorKind::Conflict,
        code::FILE => CtlErrorKind::NotFound,
        _ => CtlErrorKind::Failed,
    };
    CtlError::new(kind, failure.message)
}

/// Finds a VM by id, or by name where that is unique.
fn find(engine: &Engine, wanted: &str) -> Result<Vm, CtlError> {
    let by_id = Uuid::try_parse(wanted.trim_matches(['{', '}']))
        .ok()
        .and_then(|id| engine.vm(id));
    if let Some(vm) = by_id {
        return Ok(vm);
    }
    let mut named: Vec<Vm> = engine.read(|state| {
        state
            .vms
            .values()
            .filter(|vm| !vm.planned && vm.name() == wanted)
            .cloned()
            .collect()
    });
    match (named.pop(), named.len()) {
        (Some(vm), 0) => Ok(vm),
        (Some(_), more) => Err(conflict(format!(
            "{} virtual machines are called {wanted}: name one by its id",
            more + 1
        ))),
        (None, _) => Err(not_found(format!(
            "there is no virtual machine {wanted}; see `sim ctl vm list`"
        ))),
    }
}

fn find_checkpoint(vm: &Vm, wanted: &str) -> Result<Uuid, CtlError> {
    let bare = wanted.strip_prefix("Microsoft:").unwrap_or(wanted);
    let id = Uuid::try_parse(bare).ok();
    let fits = |checkpoint: &&crate::state::Checkpoint| {
        Some(checkpoint.id) == id || checkpoint.definition.vssd.text("ElementName") == wanted
    };
    let mut found = vm.checkpoints.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id),
        (Some(_), Some(_)) => Err(conflict(format!(
            "several checkpoints of {} are called {wanted}",
            vm.name()
        ))),
        (None, _) => Err(not_found(format!(
            "{} has no checkpoint {wanted}",
            vm.name()
        ))),
    }
}

fn run_job(engine: &Arc<Engine>, vm: Uuid, operation: Operation) -> Result<(), CtlError> {
    let id = engine
        .start_job("sim.ctl", Some(vm), operation)
        .map_err(failed)?;
    let outcome = engine.wait_for(PATIENCE, |state| {
        state
            .jobs
            .iter()
            .find(|job| job.id == id)
            .and_then(|job| job.outcome.clone())
    });
    match outcome.map(|outcome| outcome.failure) {
        Some(None) => Ok(()),
        Some(Some((code, message))) => Err(failed(Failure::new(code, message))),
        None => Err(CtlError::new(
            CtlErrorKind::Failed,
            "the job did not end in time; it goes on in the host",
        )),
    }
}

/// Changes a VM's checkpoints, with no merge under way before or after.
fn change(engine: &Arc<Engine>, vm: Uuid, operation: CheckpointOperation) -> Result<(), CtlError> {
    settle(engine, vm)?;
    run_job(engine, vm, Operation::Checkpoint { vm, operation })?;
    settle(engine, vm)
}

/// Waits until nothing of a VM is being merged.
fn settle(engine: &Engine, vm: Uuid) -> Result<(), CtlError> {
    let settled = engine.wait_for(PATIENCE, |state| match state.vms.get(&vm) {
        Some(vm) if merge::is_merging(vm) => None,
        Some(_) | None => Some(()),
    });
    settled.ok_or_else(|| {
        conflict("the merge did not end in time; see `sim ctl fault list`".to_owned())
    })
}

fn power(engine: &Arc<Engine>, vm: &Vm, action: PowerAction) -> Result<Reply, CtlError> {
    let to = match action {
        PowerAction::On => Power::Running,
        PowerAction::Off => Power::Off,
        PowerAction::Save => Power::Saved,
    };
    if to == Power::Saved && vm.power == Power::Off {
        return Err(conflict(format!(
            "{} is off: there is nothing to save",
            vm.name()
        )));
    }
    if vm.power != to {
        run_job(engine, vm.id, Operation::Power { vm: vm.id, to })?;
    }
    Ok(Reply::Vm(vm_info(engine, &find(engine, &guid(vm.id))?)))
}

fn create_checkpoint(
    engine: &Arc<Engine>,
    vm: &Vm,
    name: Option<String>,
) -> Result<Reply, CtlError> {
    let id = Uuid::new_v4();
    change(
        engine,
        vm.id,
        CheckpointOperation::Create {
            id,
            recovery: false,
            application: false,
            name,
        },
    )?;
    Ok(Reply::Checkpoint(checkpoint_info(
        &find(engine, &guid(vm.id))?,
        id,
    )))
}

fn checkpoint_info(vm: &Vm, id: Uuid) -> CheckpointInfo {
    let checkpoint = vm.checkpoint(id);
    CheckpointInfo {
        id: format!("Microsoft:{}", guid(id)),
        name: checkpoint
            .map(|c| c.definition.vssd.text("ElementName").to_owned())
            .unwrap_or_default(),
        kind: match checkpoint.map(|c| c.kind) {
            Some(CheckpointKind::Recovery) => "recovery",
            Some(CheckpointKind::Missing) => "missing",
            Some(CheckpointKind::User) | None => "user",
        }
        .to_owned(),
        parent: checkpoint
            .and_then(|c| c.parent)
            .map(|parent| format!("Microsoft:{}", guid(parent))),
        created: checkpoint
            .map(|c| c.created.to_string())
            .unwrap_or_default(),
        current: vm.current == Some(id),
    }
}

fn vm_info(engine: &Engine, vm: &Vm) -> VmInfo {
    let definition = &vm.definition;
    let busy = objects::operational_status(engine, vm)
        .into_iter()
        .skip(1)
        .map(|status| {
            match status {
                32768 => "creating-checkpoint",
                32769 => "applying-checkpoint",
                32770 => "deleting-checkpoint",
                32772 => "merging",
                32773 => "exporting",
                _ => "busy",
            }
            .to_owned()
        });
    let disks = definition.disk_slots().into_iter().map(|slot| {
        let chain = parse_path(&slot.path)
            .and_then(|leaf| open_chain(engine, &leaf, Hold::None))
            .unwrap_or_default();
        DiskInfo {
            parents: chain
                .iter()
                .skip(1)
                .map(|link| link.path.to_string())
                .collect(),
            size_bytes: chain.first().map_or(0, |link| link.info.size),
            disk_id: chain
                .first()
                .map(|link| link.info.disk_id.to_string())
                .unwrap_or_default(),
            path: slot.path,
            slot: slot.slot,
        }
    });
    let nics = definition.of_kind(kind::NIC).map(|nic| {
        let connection = definition.of_kind(kind::CONNECTION).find(|connection| {
            definition
                .parent_of(connection)
                .is_some_and(|parent| parent.instance_id() == nic.instance_id())
        });
        let switch =
            connection.and_then(|bag| bag.first("HostResource").parse::<wsman::ObjectPath>().ok());
        let id = switch.and_then(|path| path.get("Name").and_then(|id| Uuid::try_parse(id).ok()));
        engine.read(|state| {
            let switch = state
                .host
                .switches
                .iter()
                .find(|switch| Some(switch.id) == id);
            switch.map(|switch| switch.name.clone()).unwrap_or_default()
        })
    });
    VmInfo {
        id: guid(vm.id),
        name: vm.name().to_owned(),
        state: vm.power.name().to_owned(),
        generation: definition.generation(),
        version: definition.vssd.text("Version").to_owned(),
        busy: busy.collect(),
        disks: disks.collect(),
        nics: nics.collect(),
        checkpoints: vm.checkpoints.len(),
        reference_points: vm
            .reference_points
            .iter()
            .map(|point| crate::methods::reference_point_id(point.id))
            .collect(),
    }
}

fn set_volume(engine: &Engine, letter: &str, capacity_bytes: u64) -> Result<Reply, CtlError> {
    let letter = letter.trim_end_matches([':', '\\']);
    let mut chars = letter.chars();
    let letter = match (chars.next(), chars.next()) {
        (Some(letter), None) if letter.is_ascii_alphabetic() => letter.to_ascii_uppercase(),
        _ => {
            return Err(CtlError::new(
                CtlErrorKind::Usage,
                format!("{letter:?} is no drive letter; write C"),
            ));
        }
    };
    std::fs::create_dir_all(engine.volumes().join(letter.to_string()))
        .map_err(|err| failed(Failure::io("make the volume", &err)))?;
    let volume = engine
        .update_host(|host| {
            if let Some(volume) = host
                .volumes
                .iter_mut()
                .find(|volume| volume.letter == letter)
            {
                volume.capacity_bytes = capacity_bytes;
                return Ok(volume.clone());
            }
            let volume = Volume {
                letter,
                id: Uuid::new_v4(),
                capacity_bytes,
            };
            host.volumes.push(volume.clone());
            Ok(volume)
        })
        .map_err(failed)?;
    let free_bytes = volume::free_bytes(engine, &volume);
    Ok(Reply::Volume(VolumeInfo {
        volume: letter.to_string(),
        capacity_bytes,
        free_bytes,
    }))
}

fn faults(engine: &Engine) -> Result<Reply, CtlError> {
    let (rules, knobs) = engine.read(|state| (state.host.faults.clone(), state.host.knobs.clone()));
    let settings = serde_json::to_value(knobs)
        .ok()
        .and_then(|value| value.as_object().cloned())
        .unwrap_or_default();
    Ok(Reply::Faults(FaultsInfo { rules, settings }))
}

/// Returns the settings with one changed; its text is read as the type the setting has.
fn set_knob(knobs: &Knobs, key: &str, text: &str) -> Result<Knobs, Failure> {
    let wrong = |what: String| Failure::invalid(what);
    let mut all = serde_json::to_value(knobs).map_err(|err| wrong(err.to_string()))?;
    let names: Vec<String> = all
        .as_object()
        .map(|all| all.keys().cloned().collect())
        .unwrap_or_default();
    let Some(slot) = all.get_mut(key) else {
        return Err(wrong(format!(
            "there is no setting {key}; the settings are {}",
            names.join(", ")
        )));
    };
    *slot = if slot.is_number() {
        model::parse_size(text)
            .map_err(|err| wrong(format!("{key}: {err}")))?
            .into()
    } else if slot.is_boolean() {
        text.parse::<bool>()
            .map_err(|_| wrong(format!("{key} is true or false, not {text:?}")))?
            .into()
    } else {
        text.into()
    };
    serde_json::from_value(all).map_err(|err| wrong(format!("{key}: {err}")))
}

fn add_vm(engine: &Arc<Engine>, add: &VmAdd) -> Result<VmInfo, CtlError> {
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
    Ok(vm_info(engine, &find(engine, &guid(id))?))
}

fn build(
    engine: &Engine,
    definition: &mut Definition,
    add: &VmAdd,
    server: &str,
    copied: &mut Vec<WinPath>,
) -> Result<(), CtlError> {
    for (at, disk) in add.disks.iter().enumerate() {
        let path = copy_disk(engine, disk)?;
        copied.push(path.clone());
        // A first generation VM boots from IDE; everything else hangs on SCSI.
        let ide = add.generation == 1 && at == 0;
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
            Some(path.to_string()),
        )?;
    }
    for name in &add.nics {
        let switch = switch(engine, name)?;
        let wish = crate::cim::Embedded {
            class: crate::cim::v2("Msvm_SyntheticEthernetPortSettingData"),
            given: [("ResourceType".to_owned(), Value::Unsigned(kind::NIC))].into(),
        };
        let nic = resources::prepare(definition, server, &wish, false).map_err(failed)?;
        definition.resources.push(nic.clone());
        let path = wsman::ObjectPath::new("Msvm_VirtualEthernetSwitch")
            .with("CreationClassName", "Msvm_VirtualEthernetSwitch")
            .with("Name", guid(switch.id))
            .on(server, crate::cim::V2);
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

fn put(
    definition: &mut Definition,
    server: &str,
    resource_type: u64,
    parent: &Bag,
    host_resource: Option<String>,
) -> Result<Bag, CtlError> {
    let parent = path_text(server, &parent.class, parent.instance_id());
    let mut wish = crate::cim::Embedded {
        class: crate::cim::v2("Msvm_ResourceAllocationSettingData"),
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

fn switch(engine: &Engine, name: &str) -> Result<Switch, CtlError> {
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
        let kind = if err.kind() == std::io::ErrorKind::NotFound {
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
    volume::need_room(engine, path.letter(), needed, "vm-add").map_err(failed)?;
    if let Some(folder) = local.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    copy_sparse(source, &local).map_err(io)?;
    Ok(path)
}

/// Copies a file without filling its holes.
fn copy_sparse(mut source: File, target: &Path) -> std::io::Result<()> {
    const PIECE: usize = 64 * 1024;
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".new");
    let mut out = File::create(&temporary)?;
    let mut buffer = vec![0; PIECE];
    let length = source.metadata()?.len();
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
    }
    out.set_len(length)?;
    drop(out);
    std::fs::rename(temporary, target)
}
