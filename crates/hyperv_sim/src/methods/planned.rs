//! A planned VM: what stands in its way, and how it becomes a real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::answers::{settings_path, system_path};
use super::devices::check_disks;
use super::fitness::{self, Rows};
use super::{Answer, Call, Operation};
use crate::clock::now;
use crate::config_files;
use crate::definition::Definition;
use crate::disks::{Hold, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::{CheckpointKind, Vm, guid};
use crate::winpath::same_path;

/// Starts what is to be done to a planned VM.
pub(crate) fn planned(
    call: &Call<'_>,
    parameter: &str,
    operation: impl FnOnce(Uuid) -> Operation,
) -> Result<Answer, Failure> {
    let vm = call.system(parameter)?;
    if !vm.planned {
        return Err(Failure::refused(
            Refusal::NotPlanned,
            format!("{parameter} names a virtual machine that is realised"),
        ));
    }
    call.job(Some(vm.id), operation(vm.id))
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
        return Err(Failure::refused(
            Refusal::RealizeCheckpoint,
            format!(
                "the configuration of checkpoint {} is missing; import or destroy it",
                guid(missing.id)
            ),
        ));
    }
    for definition in vm.definitions() {
        check_disks(engine, vm.id, definition)?;
        let rows = Rows {
            memory: Refusal::RealizeMemory,
            processors: Refusal::RealizeProcessors,
            switch: Refusal::RealizeSwitch,
        };
        fitness::check(engine, definition, rows)?;
    }
    Ok(())
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
            // From here on the checkpoints' files are this VM's own, in its folder.
            let folder = vm.definition.vssd.text("SnapshotDataRoot").to_owned();
            for checkpoint in &mut vm.checkpoints {
                checkpoint
                    .definition
                    .vssd
                    .set("ConfigurationDataRoot", folder.as_str());
            }
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
