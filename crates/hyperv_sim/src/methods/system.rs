//! The management service: VMs made, changed and destroyed.

use std::sync::Arc;

use uuid::Uuid;
use wsman::Value as WireValue;

use super::answers::{settings_path, system_path};
use super::params::Settings;
use super::snapshot::need_peace;
use super::{Answer, Call, Operation, boot, devices, export, features, import, planned, summary};
use crate::cim::Embedded;
use crate::clock::{dmtf, now};
use crate::config_files;
use crate::definition::{Definition, version_of};
use crate::disks::parse_path;
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::merge;
use crate::objects;
use crate::refusals::Refusal;
use crate::resources;
use crate::state::{Power, Vm};

/// Methods of the management service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    Some(match method {
        "DefineSystem" => define_system(call, false),
        "DefinePlannedSystem" => define_system(call, true),
        "DestroySystem" => destroy_system(call),
        "ModifySystemSettings" => modify_system(call),
        "AddResourceSettings" => devices::add(call),
        "ModifyResourceSettings" => devices::modify(call),
        "RemoveResourceSettings" => devices::remove(call),
        "ExportSystemDefinition" => export::export_call(call),
        "ImportSystemDefinition" => import::import_call(call),
        "ImportSnapshotDefinitions" => import::import_checkpoints_call(call),
        "ValidatePlannedSystem" => {
            planned::planned(call, "PlannedSystem", |vm| Operation::Validate { vm })
        }
        "RealizePlannedSystem" => {
            planned::planned(call, "PlannedSystem", |vm| Operation::Realize { vm })
                .map(|answer| answer.with("ResultingSystem", WireValue::Null))
        }
        "GetSummaryInformation" => summary::summary(call),
        "GetDefinitionFileSummaryInformation" => summary::of_files(call),
        "GetSizeOfSystemFiles" => summary::size_of_files(call),
        "AddFeatureSettings" => features::add(call),
        "ModifyFeatureSettings" => features::modify(call),
        "RemoveFeatureSettings" => features::remove(call),
        "AddBootSourceSettings" => boot::add_sources(call),
        "RemoveBootSourceSettings" => boot::remove_sources(call),
        "UpgradeSystemVersion" => upgrade_call(call),
        "ModifyDiskMergeSettings" => modify_merging(call),
        "ModifyServiceSettings" => Err(Failure::new(
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

/// Configuration version this host gives.
const HOST_VERSION: &str = "10.0";

/// Folders of a VM besides that of its configuration.
const OTHER_ROOTS: [&str; 4] = [
    "SnapshotDataRoot",
    "SuspendDataRoot",
    "SwapFileDataRoot",
    "GuestStateDataRoot",
];

fn define_system(call: &Call<'_>, planned: bool) -> Result<Answer, Failure> {
    let settings = call.need_embedded("SystemSettings")?;
    if settings.class.name != "Msvm_VirtualSystemSettingData" {
        return Err(Failure::refused(
            Refusal::WrongClass,
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
    // One folder for everything, where only the first is named.
    let root = definition.vssd.text("ConfigurationDataRoot").to_owned();
    for name in OTHER_ROOTS {
        if settings.text(name).is_none_or(str::is_empty) {
            definition.vssd.set(name, root.as_str());
        }
    }
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
        version.unwrap_or(HOST_VERSION),
        &dmtf(now()),
    );
    let root = objects::default_data_root(engine);
    definition.vssd.set("ConfigurationDataRoot", root.as_str());
    for name in OTHER_ROOTS {
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
                return Err(Failure::refused(
                    Refusal::MoveConfiguration,
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
            devices::check_disks(engine, vm, &new.definition)?;
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
        return Err(Failure::refused(
            Refusal::DestroyRunning,
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
        boot::check_order(definition, &given, settings.vm.power.holds_disks())?;
        apply_settings(definition, &given, settings.vm.planned)?;
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(Answer::done())
}

/// Changes settings of a VM or checkpoint while nobody else does.
pub(super) fn change_settings(
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

fn upgrade_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("ComputerSystem")?;
    if vm.power != Power::Off {
        return Err(Failure::refused(
            Refusal::UpgradeRunning,
            format!("the virtual machine is {}", vm.power.name()),
        ));
    }
    if vm.definition.version() >= version_of(HOST_VERSION) {
        return Err(Failure::refused(
            Refusal::UpgradeNothing,
            "the virtual machine has the newest version this host knows",
        ));
    }
    call.job(Some(vm.id), Operation::Upgrade { vm: vm.id })
}

/// Gives a VM the host's configuration version.
pub(crate) fn upgrade(engine: &Arc<Engine>, vm_id: Uuid) -> Result<Vec<String>, Failure> {
    engine.with_disks(vm_id, |_| {
        engine.update_vm(vm_id, |vm| {
            vm.definition.vssd.set("Version", HOST_VERSION);
            Ok(())
        })
    })?;
    Ok(vec![
        system_path(engine, vm_id, false),
        settings_path(engine, vm_id),
    ])
}

/// Switches merging for a VM off or on again.
fn modify_merging(call: &Call<'_>) -> Result<Answer, Failure> {
    let given = call.need_embedded("SettingData")?;
    let id = given.text("InstanceID").unwrap_or_default();
    let settings = call
        .settings_of(id)
        .filter(|settings| settings.checkpoint.is_none() && !settings.vm.planned);
    let vm = settings
        .ok_or_else(|| Failure::invalid("SettingData names no virtual machine"))?
        .vm
        .id;
    let on = match given.number("EnabledState") {
        Some(0) => false,
        Some(1) => true,
        Some(_) | None => return Err(Failure::invalid("EnabledState is 0 or 1")),
    };
    call.engine.update_vm(vm, |vm| {
        vm.chain_locked = !on;
        Ok(())
    })?;
    call.engine.start_merging(vm);
    Ok(Answer::done())
}

pub(super) fn definition_mut(
    vm: &mut Vm,
    checkpoint: Option<Uuid>,
) -> Result<&mut Definition, Failure> {
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
