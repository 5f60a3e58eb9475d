//! Definitions into a host: configuration files become a planned VM.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use wsman::Value as WireValue;

use super::answers::{settings_path, system_path};
use super::{Answer, Call, Operation};
use crate::checkpoints::describe;
use crate::clock::now;
use crate::config_files::{self, CheckpointPart, ConfigFile};
use crate::definition::{Definition, kind};
use crate::disks::parse_path;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::{Checkpoint, CheckpointKind, Vm, guid};
use crate::winpath::WinPath;

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
        return Err(Failure::refused(
            Refusal::ImportInUse,
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
        return Err(Failure::refused(
            Refusal::ImportClash,
            format!(
                "a virtual machine with the id {} is on this host already: {}",
                guid(vm_id),
                there.name()
            ),
        ));
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
    // A copy's checkpoints are others than the original's, which may be on this host too.
    let keeps_id = vm_id == content.vm;
    for part in &content.checkpoints {
        let id = if keeps_id { part.id } else { Uuid::new_v4() };
        let checkpoint = missing(&vm, part, id);
        vm.checkpoints.push(checkpoint);
    }
    if let Some(folder) = checkpoint_folder {
        let found = read_checkpoints(engine, &parse_path(folder)?)?;
        put_checkpoints(&mut vm, found, content.vm);
    }
    link(&mut vm, &engine.name());
    engine.insert_vm(vm)?;
    Ok(imported(engine, vm_id))
}

fn imported(engine: &Engine, vm: Uuid) -> Vec<String> {
    vec![system_path(engine, vm, true), settings_path(engine, vm)]
}

/// Stands for a checkpoint whose own file was not given.
fn missing(vm: &Vm, part: &CheckpointPart, id: Uuid) -> Checkpoint {
    let mut definition = vm.definition.under(id);
    definition
        .resources
        .retain(|bag| bag.number("ResourceType") != Some(kind::STORAGE));
    checkpoint(part, id, CheckpointKind::Missing, definition)
}

fn checkpoint(
    part: &CheckpointPart,
    id: Uuid,
    kind: CheckpointKind,
    definition: Definition,
) -> Checkpoint {
    Checkpoint {
        id,
        imported_as: Some(part.id),
        kind,
        parent: part.parent,
        created: part.created,
        application: false,
        definition,
        marks: BTreeMap::new(),
    }
}

/// Reads the configuration files of checkpoints in a folder.
fn read_checkpoints(engine: &Engine, folder: &WinPath) -> Result<Vec<ConfigFile>, Failure> {
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
        if content.checkpoint.is_some() {
            found.push(content);
        }
    }
    Ok(found)
}

/// Puts checkpoints in the place of those that are missing, or beside them where they are `owner`'s.
fn put_checkpoints(vm: &mut Vm, found: Vec<ConfigFile>, owner: Uuid) -> Vec<Uuid> {
    let mut put = Vec::new();
    for content in found {
        let Some(part) = &content.checkpoint else {
            continue;
        };
        let at = vm
            .checkpoints
            .iter()
            .position(|there| there.imported_as == Some(part.id));
        if at.is_none() && content.vm != owner {
            continue;
        }
        let id = at.map_or(part.id, |at| vm.checkpoints[at].id);
        let mut definition = content.definition.under(id);
        definition.vssd.set("VirtualSystemIdentifier", guid(vm.id));
        let checkpoint = checkpoint(part, id, part.kind, definition);
        match at {
            Some(at) => vm.checkpoints[at] = checkpoint,
            None => vm.checkpoints.push(checkpoint),
        }
        put.push(id);
    }
    put
}

/// Turns the ids that configuration files name into those the checkpoints have here.
fn link(vm: &mut Vm, server: &str) {
    let ids: BTreeMap<Uuid, Uuid> = vm
        .checkpoints
        .iter()
        .filter_map(|there| Some((there.imported_as?, there.id)))
        .collect();
    let here = |id: Uuid| ids.get(&id).copied().unwrap_or(id);
    vm.current = vm
        .current
        .map(here)
        .filter(|id| ids.values().any(|there| there == id));
    for checkpoint in &mut vm.checkpoints {
        checkpoint.parent = checkpoint.parent.map(here);
        let (id, kind, parent) = (checkpoint.id, checkpoint.kind, checkpoint.parent);
        describe(&mut checkpoint.definition, server, id, kind, parent);
    }
}

pub(crate) fn import_checkpoints_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("PlannedSystem")?;
    if !vm.planned {
        return Err(Failure::refused(
            Refusal::NotPlanned,
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
    let found = read_checkpoints(engine, &parse_path(folder)?)?;
    let server = engine.name();
    let ids = engine.update_vm(vm_id, |vm| {
        let ids = put_checkpoints(vm, found, vm.id);
        link(vm, &server);
        Ok(ids)
    })?;
    Ok(ids
        .into_iter()
        .map(|id| settings_path(engine, id))
        .collect())
}
