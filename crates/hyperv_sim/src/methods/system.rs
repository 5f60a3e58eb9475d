//! The management service: VMs made, changed and destroyed.

use std::sync::Arc;

use uuid::Uuid;
use wsman::Value as WireValue;

use super::answers::{reference, settings_path, system_path};
use super::params::Settings;
use super::snapshot::need_peace;
use super::{Answer, Call, Operation, ResourceChange, import};
use crate::cim::{Bag, Embedded, Object, Value, instance, v2};
use crate::clock::{dmtf, now};
use crate::config_files;
use crate::definition::{Definition, kind, path_text};
use crate::disks::{Hold, VmDisks, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::merge;
use crate::objects;
use crate::resources;
use crate::state::{Vm, guid};

/// Methods of the management service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    Some(match method {
        "DefineSystem" => define_system(call, false),
        "DefinePlannedSystem" => define_system(call, true),
        "DestroySystem" => destroy_system(call),
        "ModifySystemSettings" => modify_system(call),
        "AddResourceSettings" => add(call),
        "ModifyResourceSettings" => modify(call),
        "RemoveResourceSettings" => remove(call),
        "ExportSystemDefinition" => import::export_call(call),
        "ImportSystemDefinition" => import::import_call(call),
        "ImportSnapshotDefinitions" => import::import_checkpoints_call(call),
        "ValidatePlannedSystem" => {
            import::planned(call, "PlannedSystem", |vm| Operation::Validate { vm })
        }
        "RealizePlannedSystem" => {
            import::planned(call, "PlannedSystem", |vm| Operation::Realize { vm })
        }
        "GetSummaryInformation" => summary(call),
        "GetDefinitionFileSummaryInformation"
        | "GetSizeOfSystemFiles"
        | "AddFeatureSettings"
        | "ModifyFeatureSettings"
        | "RemoveFeatureSettings"
        | "AddBootSourceSettings"
        | "RemoveBootSourceSettings"
        | "UpgradeSystemVersion"
        | "ModifyServiceSettings" => Err(Failure::new(
            code::NOT_SUPPORTED,
            format!("{method} is not supported by this host"),
        )),
        _ => return None,
    })
}

/// Properties of the settings that the host alone sets.
const HOSTS_OWN: [&str; 9] = [
    "InstanceID",
    "VirtualSystemIdentifier",
    "VirtualSystemType",
    "ConfigurationID",
    "ConfigurationFile",
    "CreationTime",
    "Parent",
    "IsSaved",
    "Caption",
];

fn define_system(call: &Call<'_>, planned: bool) -> Result<Answer, Failure> {
    let settings = call.need_embedded("SystemSettings")?;
    if settings.class.name != "Msvm_VirtualSystemSettingData" {
        return Err(Failure::invalid(
            "SystemSettings is no Msvm_VirtualSystemSettingData",
        ));
    }
    let generation = match settings.text("VirtualSystemSubType") {
        Some(sub) if sub.eq_ignore_ascii_case(crate::definition::GEN2) => 2,
        Some(sub) if !sub.eq_ignore_ascii_case(crate::definition::GEN1) => {
            return Err(Failure::invalid(format!(
                "there is no virtual machine of type {sub}"
            )));
        }
        Some(_) | None => 1,
    };
    let id = Uuid::new_v4();
    let mut definition = new_definition(call.engine, id, "New Virtual Machine", generation, None);
    apply_settings(&mut definition, &settings, true)?;
    let server = call.engine.name();
    for wish in call.embedded_list("ResourceSettings")? {
        let bag = resources::prepare(&definition, &server, &wish, false)?;
        definition.resources.push(bag);
    }
    definition.settle_boot_order(&server);
    let answer = call.job(
        Some(id),
        Operation::Define {
            vm: id,
            planned,
            definition,
        },
    )?;
    Ok(answer.with("ResultingSystem", WireValue::Null))
}

/// Makes the settings of a new VM of this host.
pub(crate) fn new_definition(
    engine: &Engine,
    id: Uuid,
    name: &str,
    generation: u8,
    version: Option<&str>,
) -> Definition {
    let mut definition = Definition::new(
        id,
        name,
        generation,
        version.unwrap_or("10.0"),
        &dmtf(now()),
    );
    let root = objects::default_data_root(engine);
    for name in [
        "ConfigurationDataRoot",
        "SnapshotDataRoot",
        "SuspendDataRoot",
        "SwapFileDataRoot",
        "GuestStateDataRoot",
    ] {
        definition.vssd.set(name, root.as_str());
    }
    definition
}

/// Sets what a client gives; what is the host's own stays. Folders can only be set before a VM is realised.
fn apply_settings(
    definition: &mut Definition,
    given: &Embedded,
    folders: bool,
) -> Result<(), Failure> {
    for (name, value) in &given.given {
        if HOSTS_OWN.contains(&name.as_str()) || name == "VirtualSystemSubType" {
            continue;
        }
        if name.ends_with("DataRoot") {
            let text = value.as_text().unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            let path = parse_path(text)?;
            if name == "ConfigurationDataRoot"
                && !folders
                && !crate::winpath::same_path(text, definition.vssd.text(name))
            {
                return Err(Failure::state(
                    "the configuration folder of a virtual machine cannot be changed",
                ));
            }
            definition.vssd.set(name, path.to_string());
            continue;
        }
        definition.vssd.set(name, value.clone());
    }
    Ok(())
}

/// Makes a VM.
pub(crate) fn define(
    engine: &Arc<Engine>,
    vm: Uuid,
    planned: bool,
    definition: &Definition,
) -> Result<Vec<String>, Failure> {
    if engine.vm(vm).is_none() {
        let mut new = Vm::new(vm, definition.clone(), now());
        new.planned = planned;
        if planned {
            new.definition
                .vssd
                .set("VirtualSystemType", "Microsoft:Hyper-V:System:Planned");
        } else {
            check_disks(engine, vm, &new.definition)?;
        }
        engine.insert_vm(new)?;
    }
    Ok(vec![
        system_path(engine, vm, planned),
        settings_path(engine, vm),
    ])
}

fn destroy_system(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("AffectedSystem")?;
    if vm.power.holds_disks() {
        return Err(Failure::state(
            "the virtual machine is running; turn it off or save it first",
        ));
    }
    if !vm.planned {
        need_peace(call.engine, &vm)?;
    }
    call.job(Some(vm.id), Operation::Destroy { vm: vm.id })
}

/// Removes a VM with its checkpoints (whose files are merged as far as they are there) and its configuration files.
/// Disk files stay.
pub(crate) fn destroy(engine: &Arc<Engine>, vm_id: Uuid) -> Result<Vec<String>, Failure> {
    let Some(vm) = engine.vm(vm_id) else {
        return Ok(Vec::new());
    };
    if vm.power.holds_disks() {
        return Err(Failure::state("the virtual machine was started meanwhile"));
    }
    if !vm.planned {
        let all: Vec<Uuid> = vm
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.id)
            .collect();
        crate::checkpoints::destroy(engine, vm_id, &all)?;
        merge::work_off_now(engine, vm_id);
    }
    let files = if vm.planned {
        Vec::new()
    } else {
        config_files::paths(&engine.need_vm(vm_id)?)
    };
    engine.remove_vm(vm_id)?;
    config_files::remove(engine, &files)?;
    Ok(Vec::new())
}

fn modify_system(call: &Call<'_>) -> Result<Answer, Failure> {
    let given = call.need_embedded("SystemSettings")?;
    let id = given
        .text("InstanceID")
        .ok_or_else(|| Failure::invalid("SystemSettings has no InstanceID"))?;
    let settings = call
        .settings_of(id)
        .ok_or_else(|| Failure::invalid(format!("there are no settings {id}")))?;
    let server = call.engine.name();
    change_settings(call.engine, &settings, |definition| {
        apply_settings(definition, &given, settings.vm.planned)?;
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(Answer::done())
}

/// Changes settings of a VM or checkpoint while nobody else does.
fn change_settings(
    engine: &Engine,
    settings: &Settings,
    change: impl FnOnce(&mut Definition) -> Result<(), Failure>,
) -> Result<(), Failure> {
    engine.with_disks(settings.vm.id, |_| {
        engine.update_vm(settings.vm.id, |vm| {
            change(definition_mut(vm, settings.checkpoint)?)
        })
    })
}

fn definition_mut(vm: &mut Vm, checkpoint: Option<Uuid>) -> Result<&mut Definition, Failure> {
    match checkpoint {
        None => Ok(&mut vm.definition),
        Some(id) => vm
            .checkpoints
            .iter_mut()
            .find(|checkpoint| checkpoint.id == id)
            .map(|checkpoint| &mut checkpoint.definition)
            .ok_or_else(|| Failure::invalid("the checkpoint is gone")),
    }
}

fn add(call: &Call<'_>) -> Result<Answer, Failure> {
    let settings = call.settings("AffectedConfiguration")?;
    if settings.checkpoint.is_some() && !settings.vm.planned {
        return Err(Failure::state(
            "the resources of a checkpoint cannot be changed",
        ));
    }
    let server = call.engine.name();
    let running = settings.vm.power.holds_disks();
    let mut definition = settings.vm.definition.clone();
    if let Some(id) = settings.checkpoint {
        definition_mut(&mut settings.vm.clone(), Some(id))?.clone_into(&mut definition);
    }
    let mut added = Vec::new();
    for wish in call.embedded_list("ResourceSettings")? {
        let bag = resources::prepare(&definition, &server, &wish, running)?;
        definition.resources.push(bag.clone());
        added.push(bag);
    }
    if added.is_empty() {
        return Err(Failure::invalid("ResourceSettings is empty"));
    }
    // What touches files takes a job; the rest is done at once.
    if added
        .iter()
        .any(|bag| bag.number("ResourceType") == Some(kind::STORAGE))
    {
        let (vm, checkpoint) = (settings.vm.id, settings.checkpoint);
        let answer = call.job(
            Some(vm),
            Operation::AddResources {
                vm,
                checkpoint,
                resources: added,
            },
        )?;
        return Ok(answer.with("ResultingResourceSettings", WireValue::Array(Vec::new())));
    }
    let made: Vec<WireValue> = added
        .iter()
        .map(|bag| reference(&path_text(&server, &bag.class, bag.instance_id())))
        .collect();
    change_settings(call.engine, &settings, |definition| {
        definition.resources.extend(added);
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(Answer::done().with("ResultingResourceSettings", WireValue::Array(made)))
}

/// Adds resources that name files.
pub(crate) fn add_resources(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    checkpoint: Option<Uuid>,
    added: &[Bag],
) -> Result<Vec<String>, Failure> {
    let server = engine.name();
    change_disks(engine, vm_id, |vm| {
        let definition = definition_mut(vm, checkpoint)?;
        for bag in added {
            if definition.resource(bag.instance_id()).is_none() {
                definition.resources.push(bag.clone());
            }
        }
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(added
        .iter()
        .map(|bag| path_text(&server, &bag.class, bag.instance_id()))
        .collect())
}

fn modify(call: &Call<'_>) -> Result<Answer, Failure> {
    let mut changes = Vec::new();
    let mut vm_id = None;
    let server = call.engine.name();
    let mut files = false;
    for wish in call.embedded_list("ResourceSettings")? {
        let id = wish
            .text("InstanceID")
            .ok_or_else(|| Failure::invalid("ResourceSettings has no InstanceID"))?;
        let settings = call
            .settings_of(id)
            .ok_or_else(|| Failure::invalid(format!("there is no resource {id}")))?;
        if settings.checkpoint.is_some() && !settings.vm.planned {
            return Err(Failure::state(
                "the resources of a checkpoint cannot be changed",
            ));
        }
        if vm_id.is_some_and(|vm| vm != settings.vm.id) {
            return Err(Failure::invalid(
                "the resources belong to several virtual machines",
            ));
        }
        vm_id = Some(settings.vm.id);
        // A dry run finds what is wrong before a job is started.
        let mut copy = settings.vm.clone();
        let definition = definition_mut(&mut copy, settings.checkpoint)?;
        resources::modify(definition, &server, id, &wish.given)?;
        files |= definition
            .resource(id)
            .is_some_and(|bag| bag.number("ResourceType") == Some(kind::STORAGE));
        changes.push(ResourceChange {
            checkpoint: settings.checkpoint,
            instance_id: id.to_owned(),
            set: wish.given,
        });
    }
    let vm = vm_id.ok_or_else(|| Failure::invalid("ResourceSettings is empty"))?;
    if files {
        let answer = call.job(Some(vm), Operation::ModifyResources { vm, changes })?;
        return Ok(answer.with("ResultingResourceSettings", WireValue::Array(Vec::new())));
    }
    let made = modify_resources(call.engine, vm, &changes)?;
    let made = made.iter().map(|path| reference(path)).collect();
    Ok(Answer::done().with("ResultingResourceSettings", WireValue::Array(made)))
}

/// Changes resources, files among them.
pub(crate) fn modify_resources(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    changes: &[ResourceChange],
) -> Result<Vec<String>, Failure> {
    let server = engine.name();
    let mut made = Vec::new();
    change_disks(engine, vm_id, |vm| {
        for change in changes {
            let definition = definition_mut(vm, change.checkpoint)?;
            resources::modify(definition, &server, &change.instance_id, &change.set)?;
            if let Some(bag) = definition.resource(&change.instance_id) {
                made.push(path_text(&server, &bag.class, bag.instance_id()));
            }
        }
        Ok(())
    })?;
    Ok(made)
}

fn remove(call: &Call<'_>) -> Result<Answer, Failure> {
    let references = call.references("ResourceSettings")?;
    let mut ids = Vec::new();
    let mut target: Option<Settings> = None;
    for epr in references {
        let id = epr.get("InstanceID").unwrap_or_default();
        let settings = call
            .settings_of(id)
            .ok_or_else(|| Failure::invalid(format!("there is no resource {id}")))?;
        if settings.checkpoint.is_some() && !settings.vm.planned {
            return Err(Failure::state(
                "the resources of a checkpoint cannot be changed",
            ));
        }
        if target.as_ref().is_some_and(|first| {
            first.vm.id != settings.vm.id || first.checkpoint != settings.checkpoint
        }) {
            return Err(Failure::invalid(
                "the resources belong to several sets of settings",
            ));
        }
        target = Some(settings);
        ids.push(id.to_owned());
    }
    let target = target.ok_or_else(|| Failure::invalid("ResourceSettings is empty"))?;
    let server = call.engine.name();
    let running = target.vm.power.holds_disks();
    change_disks(call.engine, target.vm.id, |vm| {
        let definition = definition_mut(vm, target.checkpoint)?;
        for id in &ids {
            resources::remove(definition, id, running)?;
        }
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(Answer::done())
}

/// Changes a VM's settings where files may be concerned: they must be there and free, and a running VM takes and
/// releases them.
fn change_disks(
    engine: &Engine,
    vm_id: Uuid,
    change: impl FnOnce(&mut Vm) -> Result<(), Failure>,
) -> Result<(), Failure> {
    engine.with_disks(vm_id, |disks| {
        let old = engine.need_vm(vm_id)?;
        let mut new = old.clone();
        change(&mut new)?;
        if !new.planned {
            check_disks(engine, vm_id, &new.definition)?;
        }
        release(engine, disks, &old, &new);
        if new.power.holds_disks()
            && let Err(failure) = disks.attach_all(engine, &new)
        {
            crate::checkpoints::reattach(engine, disks, vm_id)?;
            return Err(failure);
        }
        engine.update_vm(vm_id, |vm| {
            vm.definition = new.definition;
            for (checkpoint, new) in vm.checkpoints.iter_mut().zip(new.checkpoints) {
                checkpoint.definition = new.definition;
            }
            Ok(())
        })
    })
}

/// Lets go of the disks whose file changes or goes.
fn release(engine: &Engine, disks: &mut VmDisks, old: &Vm, new: &Vm) {
    let (before, after) = (old.definition.disk_slots(), new.definition.disk_slots());
    let mut kept = Vec::new();
    for disk in std::mem::take(&mut disks.open) {
        let same = |slot: &&crate::definition::DiskSlot| slot.attachment == disk.attachment;
        if before.iter().find(same).map(|slot| &slot.path)
            == after.iter().find(same).map(|slot| &slot.path)
        {
            kept.push(disk);
        } else {
            let path = disk.path.clone();
            if let Err(failure) = disk.detach(engine) {
                tracing::warn!("failed to close '{path}': {failure}");
            }
        }
    }
    disks.open = kept;
}

/// Refuses files that are missing, unreadable, or used by another VM.
pub(crate) fn check_disks(
    engine: &Engine,
    vm_id: Uuid,
    definition: &Definition,
) -> Result<(), Failure> {
    for bag in definition.of_kind(kind::STORAGE) {
        let path = parse_path(bag.first("HostResource"))?;
        if !engine.local(&path).is_file() {
            return Err(Failure::new(
                code::FAILED,
                format!("'{path}' was not found"),
            ));
        }
    }
    let slots = definition.disk_slots();
    for (at, slot) in slots.iter().enumerate() {
        let path = parse_path(&slot.path)?;
        if slots[..at]
            .iter()
            .any(|other| crate::winpath::same_path(&other.path, &slot.path))
        {
            return Err(Failure::failed(format!("'{path}' is attached twice")));
        }
        let user = engine.read(|state| {
            let other = state.vms.values().find(|vm| {
                vm.id != vm_id
                    && !vm.planned
                    && vm
                        .definitions()
                        .any(|definition| definition.uses_file(&slot.path))
            });
            other.map(|vm| vm.name().to_owned())
        });
        if let Some(user) = user {
            return Err(Failure::failed(format!(
                "'{path}' is in use by the virtual machine {user}"
            )));
        }
        open_chain(engine, &path, Hold::None)?;
    }
    Ok(())
}

fn summary(call: &Call<'_>) -> Result<Answer, Failure> {
    let wanted = call.references("SettingData")?;
    let nil_arrays = call.engine.knobs().nil_arrays;
    let systems: Vec<Vm> = call.engine.read(|state| {
        state
            .vms
            .values()
            .filter(|vm| !vm.planned)
            .cloned()
            .collect()
    });
    let mut items = Vec::new();
    for vm in systems {
        let id = format!("Microsoft:{}", guid(vm.id));
        let asked = wanted.is_empty()
            || wanted.iter().any(|epr| {
                epr.get("InstanceID")
                    .is_some_and(|asked| asked.eq_ignore_ascii_case(&id))
            });
        if asked {
            let definition = &vm.definition;
            let quantity = |kind| {
                definition
                    .of_kind(kind)
                    .next()
                    .and_then(|bag| bag.number("VirtualQuantity"))
            };
            let object = Object::new(v2("Msvm_SummaryInformation"))
                .with("InstanceID", id)
                .with("Name", guid(vm.id))
                .with("ElementName", vm.name())
                .with("EnabledState", vm.power.enabled_state())
                .with("HealthState", 5_u64)
                .with("NumberOfProcessors", quantity(kind::PROCESSOR).unwrap_or(1))
                .with("MemoryUsage", quantity(kind::MEMORY).unwrap_or(0))
                .with(
                    "OperationalStatus",
                    Value::numbers(objects::operational_status(call.engine, &vm)),
                )
                .with("CreationTime", definition.vssd.text("CreationTime"))
                .with("Version", definition.vssd.text("Version"))
                .with(
                    "VirtualSystemSubType",
                    definition.vssd.text("VirtualSystemSubType"),
                );
            items.push(WireValue::Instance(instance(&object, nil_arrays)));
        }
    }
    Ok(Answer::done().with("SummaryInformation", WireValue::Array(items)))
}
