//! Resources of a VM: added, changed and removed, with the files they name.

use std::sync::Arc;

use uuid::Uuid;
use wsman::Value as WireValue;

use super::answers::reference;
use super::params::Settings;
use super::system::{change_settings, definition_mut};
use super::{Answer, Call, Operation, ResourceChange};
use crate::cim::{Bag, Embedded};
use crate::definition::{Definition, DiskSlot, kind, path_text};
use crate::disks::{Hold, VmDisks, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::refusals::Refusal;
use crate::resources;
use crate::state::{Power, Vm};
use crate::winpath::same_path;

pub(super) fn add(call: &Call<'_>) -> Result<Answer, Failure> {
    let settings = call.settings("AffectedConfiguration")?;
    if settings.checkpoint.is_some() && !settings.vm.planned {
        return Err(checkpoint_fixed());
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

fn no_such(id: &str) -> Failure {
    Failure::refused(
        Refusal::NoSuchResource,
        format!("there is no resource {id}"),
    )
}

fn checkpoint_fixed() -> Failure {
    Failure::refused(
        Refusal::CheckpointFixed,
        "the resources of a checkpoint cannot be changed",
    )
}

/// Refuses what a running VM cannot have changed.
fn check_hot(settings: &Settings, id: &str, wish: &Embedded) -> Result<(), Failure> {
    let bag = settings
        .definition()
        .and_then(|definition| definition.resource(id));
    let processors = bag.filter(|bag| bag.number("ResourceType") == Some(kind::PROCESSOR));
    let Some(processors) = processors.filter(|_| settings.vm.power != Power::Off) else {
        return Ok(());
    };
    match wish.number("VirtualQuantity") {
        Some(number) if processors.number("VirtualQuantity") != Some(number) => {
            Err(Failure::refused(
                Refusal::HotProcessor,
                "the number of processors can only be changed while the virtual machine is off",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn modify(call: &Call<'_>) -> Result<Answer, Failure> {
    let mut changes = Vec::new();
    let mut vm_id = None;
    let server = call.engine.name();
    let mut files = false;
    for wish in call.embedded_list("ResourceSettings")? {
        let id = wish
            .text("InstanceID")
            .ok_or_else(|| Failure::invalid("ResourceSettings has no InstanceID"))?;
        let settings = call.settings_of(id).ok_or_else(|| no_such(id))?;
        if settings.checkpoint.is_some() && !settings.vm.planned {
            return Err(checkpoint_fixed());
        }
        check_hot(&settings, id, &wish)?;
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

pub(super) fn remove(call: &Call<'_>) -> Result<Answer, Failure> {
    let references = call.references("ResourceSettings")?;
    let mut ids = Vec::new();
    let mut target: Option<Settings> = None;
    for epr in references {
        let id = epr.get("InstanceID").unwrap_or_default();
        let settings = call.settings_of(id).ok_or_else(|| no_such(id))?;
        if settings.checkpoint.is_some() && !settings.vm.planned {
            return Err(checkpoint_fixed());
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
        let same = |slot: &&DiskSlot| slot.attachment == disk.attachment;
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
            return Err(Failure::failed(format!("'{path}' was not found")));
        }
    }
    let slots = definition.disk_slots();
    for (at, slot) in slots.iter().enumerate() {
        let path = parse_path(&slot.path)?;
        if slots[..at]
            .iter()
            .any(|other| same_path(&other.path, &slot.path))
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
        // To the image service this code says that a file is missing, to the management service that it is in use.
        open_chain(engine, &path, Hold::None).map_err(|failure| {
            if failure.code == code::FILE {
                Failure::failed(failure.message)
            } else {
                failure
            }
        })?;
    }
    Ok(())
}
