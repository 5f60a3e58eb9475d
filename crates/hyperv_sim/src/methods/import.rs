//! Definitions out of a host and into one: export, import as a planned VM, realise.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use wsman::{ObjectPath, Value as WireValue};

use super::answers::{settings_path, system_path};
use super::snapshot::need_peace;
use super::system::check_disks;
use super::{Answer, Call, Operation};
use crate::checkpoints::describe;
use crate::clock::now;
use crate::config_files::{self, CheckpointPart, ConfigFile};
use crate::definition::{Definition, kind};
use crate::disks::{Hold, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::state::{Checkpoint, CheckpointKind, Vm, guid};
use crate::winpath::{WinPath, same_path};

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
            .and_then(crate::cim::Value::as_bool)
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
                .map(crate::definition::owner_of);
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
    let wrong = |err: crate::winpath::ParsePathError| Failure::invalid(err.to_string());
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

pub(crate) fn import_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let file = parse_path(call.need_text("SystemDefinitionFile")?)?;
    let folder = call.text("SnapshotFolder").map(parse_path).transpose()?;
    let new_id = call.flag("GenerateNewSystemIdentifier");
    let in_use = call.engine.read(|state| {
        state
            .vms
            .values()
            .any(|vm| !vm.planned && config_files::paths(vm).contains(&file))
    });
    if in_use {
        return Err(Failure::new(
            code::FILE,
            format!("'{file}' belongs to a virtual machine of this host; copy it first"),
        ));
    }
    let vm = if new_id {
        Uuid::new_v4()
    } else {
        // What cannot be read fails in the job.
        config_files::read(call.engine, &file).map_or_else(
            |_| Uuid::new_v4(),
            |content| content.import_id(call.engine.knobs().recovery_import_id),
        )
    };
    let operation = Operation::Import {
        vm,
        file: file.to_string(),
        checkpoint_folder: folder.map(|folder| folder.to_string()),
    };
    Ok(call
        .job(Some(vm), operation)?
        .with("ImportedSystem", WireValue::Null))
}

/// Makes a planned VM of a configuration file.
pub(crate) fn import(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    file: &str,
    checkpoint_folder: Option<&str>,
    job: Uuid,
) -> Result<Vec<String>, Failure> {
    let file = parse_path(file)?;
    let content = config_files::read(engine, &file)?;
    if let Some(there) = engine.vm(vm_id) {
        // Made by this very job before the host was killed, or somebody else's.
        if there.imported_by == Some(job) {
            return Ok(imported(engine, vm_id));
        }
        return Err(Failure::failed(format!(
            "a virtual machine with the id {} is on this host already: {}",
            guid(vm_id),
            there.name()
        )));
    }
    let mut definition = content.definition.under(vm_id);
    let vssd = &mut definition.vssd;
    vssd.set("VirtualSystemIdentifier", guid(vm_id));
    vssd.set("VirtualSystemType", "Microsoft:Hyper-V:System:Planned");
    vssd.set("Caption", "Virtual Machine Settings");
    vssd.set("ConfigurationID", guid(vm_id));
    vssd.set(
        "ConfigurationFile",
        format!(r"Virtual Machines\{}.vmcx", guid(vm_id)),
    );
    vssd.set(
        "GuestStateFile",
        format!(r"Virtual Machines\{}.VMRS", guid(vm_id)),
    );
    vssd.set("IsSaved", false);
    vssd.props.remove("Parent");
    let folder = file.parent();
    let above =
        ["virtual machines", "snapshots"].contains(&folder.file_name().to_lowercase().as_str());
    let root = if above { folder.parent() } else { folder };
    vssd.set("ConfigurationDataRoot", root.to_string());
    let mut vm = Vm::new(vm_id, definition, now());
    vm.planned = true;
    vm.imported_by = Some(job);
    vm.current = content.current;
    let server = engine.name();
    for part in &content.checkpoints {
        vm.checkpoints.push(missing(&vm, part, &server));
    }
    if let Some(folder) = checkpoint_folder {
        let found = read_checkpoints(engine, &parse_path(folder)?, content.vm)?;
        put_checkpoints(&mut vm, found, &server);
    }
    vm.current = vm
        .current
        .filter(|&current| vm.checkpoint(current).is_some());
    engine.insert_vm(vm)?;
    Ok(imported(engine, vm_id))
}

fn imported(engine: &Engine, vm: Uuid) -> Vec<String> {
    vec![system_path(engine, vm, true), settings_path(engine, vm)]
}

/// Stands for a checkpoint whose own file was not given.
fn missing(vm: &Vm, part: &CheckpointPart, server: &str) -> Checkpoint {
    let mut definition = vm.definition.under(part.id);
    describe(
        &mut definition,
        server,
        part.id,
        CheckpointKind::Missing,
        part.parent,
    );
    definition
        .resources
        .retain(|bag| bag.number("ResourceType") != Some(kind::STORAGE));
    Checkpoint {
        id: part.id,
        kind: CheckpointKind::Missing,
        parent: part.parent,
        created: part.created,
        application: false,
        definition,
        marks: BTreeMap::new(),
    }
}

fn read_checkpoints(
    engine: &Engine,
    folder: &WinPath,
    vm: Uuid,
) -> Result<Vec<ConfigFile>, Failure> {
    let local = engine.local(folder);
    let io = |err| Failure::io(format!("list '{folder}'"), &err);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&local).map_err(io)? {
        let name = entry
            .map_err(io)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !name.to_lowercase().ends_with(".vmcx") {
            continue;
        }
        let path = folder
            .join(&name)
            .map_err(|err| Failure::invalid(err.to_string()))?;
        let content = config_files::read(engine, &path)?;
        if content.vm == vm && content.checkpoint.is_some() {
            found.push(content);
        }
    }
    Ok(found)
}

fn put_checkpoints(vm: &mut Vm, found: Vec<ConfigFile>, server: &str) {
    for content in found {
        let Some(part) = content.checkpoint else {
            continue;
        };
        let mut definition = content.definition;
        definition.vssd.set("VirtualSystemIdentifier", guid(vm.id));
        describe(&mut definition, server, part.id, part.kind, part.parent);
        let checkpoint = Checkpoint {
            id: part.id,
            kind: part.kind,
            parent: part.parent,
            created: part.created,
            application: false,
            definition,
            marks: BTreeMap::new(),
        };
        match vm.checkpoints.iter_mut().find(|there| there.id == part.id) {
            Some(there) => *there = checkpoint,
            None => vm.checkpoints.push(checkpoint),
        }
    }
}

pub(crate) fn import_checkpoints_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("PlannedSystem")?;
    if !vm.planned {
        return Err(Failure::invalid(
            "PlannedSystem names a virtual machine that is realised",
        ));
    }
    let folder = parse_path(call.need_text("SnapshotFolder")?)?.to_string();
    let answer = call.job(
        Some(vm.id),
        Operation::ImportCheckpoints { vm: vm.id, folder },
    )?;
    Ok(answer.with("ImportedSnapshots", WireValue::Array(Vec::new())))
}

/// Adds the checkpoints in a folder to a planned VM.
pub(crate) fn import_checkpoints(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    folder: &str,
) -> Result<Vec<String>, Failure> {
    let folder = parse_path(folder)?;
    let vm = engine.need_vm(vm_id)?;
    // A VM with a new id finds its checkpoints by their ids, one with its own by itself.
    let known: Vec<Uuid> = vm
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.id)
        .collect();
    let local = engine.local(&folder);
    let mut owners = vec![vm_id];
    if let Ok(entries) = std::fs::read_dir(&local) {
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let content = folder
                .join(&name)
                .ok()
                .and_then(|path| config_files::read(engine, &path).ok());
            if let Some(content) = content
                && content
                    .checkpoint
                    .as_ref()
                    .is_some_and(|part| known.contains(&part.id))
                && !owners.contains(&content.vm)
            {
                owners.push(content.vm);
            }
        }
    }
    let mut found = Vec::new();
    for owner in owners {
        found.extend(read_checkpoints(engine, &folder, owner)?);
    }
    let ids: Vec<Uuid> = found
        .iter()
        .filter_map(|content| Some(content.checkpoint.as_ref()?.id))
        .collect();
    let server = engine.name();
    engine.update_vm(vm_id, |vm| {
        put_checkpoints(vm, found, &server);
        Ok(())
    })?;
    Ok(ids
        .into_iter()
        .map(|id| settings_path(engine, id))
        .collect())
}

/// Starts what is to be done to a planned VM.
pub(crate) fn planned(
    call: &Call<'_>,
    parameter: &str,
    operation: impl FnOnce(Uuid) -> Operation,
) -> Result<Answer, Failure> {
    let vm = call.system(parameter)?;
    if !vm.planned {
        return Err(Failure::invalid(format!(
            "{parameter} names a virtual machine that is realised"
        )));
    }
    let answer = call.job(Some(vm.id), operation(vm.id))?;
    Ok(answer.with("ResultingSystem", WireValue::Null))
}

/// Says what stands in the way of realising a planned VM.
pub(crate) fn validate(engine: &Arc<Engine>, vm_id: Uuid) -> Result<Vec<String>, Failure> {
    let vm = engine.need_vm(vm_id)?;
    check(engine, &vm)?;
    Ok(vec![system_path(engine, vm_id, true)])
}

fn check(engine: &Engine, vm: &Vm) -> Result<(), Failure> {
    if let Some(missing) = vm
        .checkpoints
        .iter()
        .find(|checkpoint| checkpoint.kind == CheckpointKind::Missing)
    {
        return Err(Failure::failed(format!(
            "the configuration of checkpoint {} is missing; import or destroy it",
            guid(missing.id)
        )));
    }
    for definition in vm.definitions() {
        check_disks(engine, vm.id, definition)?;
        for connection in definition.of_kind(kind::CONNECTION) {
            let switch = connection.first("HostResource");
            if !switch.is_empty()
                && connection.number("EnabledState") != Some(3)
                && !switch_exists(engine, switch)
            {
                return Err(Failure::failed(format!(
                    "the virtual switch of '{}' was not found: {switch}",
                    connection.instance_id()
                )));
            }
        }
    }
    Ok(())
}

fn switch_exists(engine: &Engine, path: &str) -> bool {
    let path: Option<ObjectPath> = path.parse().ok();
    let id = path
        .as_ref()
        .and_then(|path| path.get("Name"))
        .and_then(|id| Uuid::try_parse(id).ok());
    engine.read(|state| {
        state
            .host
            .switches
            .iter()
            .any(|switch| Some(switch.id) == id)
    })
}

/// Makes a planned VM a real one.
pub(crate) fn realize(engine: &Arc<Engine>, vm_id: Uuid) -> Result<Vec<String>, Failure> {
    engine.with_disks(vm_id, |_| {
        let vm = engine.need_vm(vm_id)?;
        if !vm.planned {
            return Ok(());
        }
        check(engine, &vm)?;
        let chain = chain_of(engine, &vm)?;
        engine.update_vm(vm_id, |vm| {
            vm.planned = false;
            vm.chain = chain;
            vm.definition
                .vssd
                .set("VirtualSystemType", "Microsoft:Hyper-V:System:Realized");
            if let Some(current) = vm.current {
                let parent = settings_path(engine, current);
                vm.definition.vssd.set("Parent", parent);
            }
            vm.config_changed = now();
            Ok(())
        })?;
        config_files::write(engine, &engine.need_vm(vm_id)?)
    })?;
    Ok(vec![
        system_path(engine, vm_id, false),
        settings_path(engine, vm_id),
    ])
}

/// Finds the files checkpoints made: `.avhdx` files below what the settings name, each with its parent.
fn chain_of(engine: &Engine, vm: &Vm) -> Result<BTreeMap<String, String>, Failure> {
    let mut chain = BTreeMap::new();
    for path in vm
        .definitions()
        .flat_map(Definition::disk_slots)
        .map(|slot| slot.path)
    {
        let links = open_chain(engine, &parse_path(&path)?, Hold::None)?;
        for pair in links.windows(2) {
            let (child, parent) = (pair[0].path.to_string(), pair[1].path.to_string());
            if child.to_lowercase().ends_with(".avhdx")
                && !chain.keys().any(|there: &String| same_path(there, &child))
            {
                chain.insert(child, parent);
            }
        }
    }
    Ok(chain)
}
