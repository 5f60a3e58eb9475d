//! The object model: every instance a client can see, made from the state at the moment it is asked for.

mod associations;
mod files;
mod host;
mod templates;
mod vms;

use std::collections::BTreeMap;

use crate::cim::{CIMV2, Class, Object, V2, classes};
use crate::cluster;
use crate::engine::{Engine, State};
use crate::merge;
use crate::state::Vm;

pub(crate) use associations::{associators, references};
pub(crate) use host::default_data_root;

/// Returns every instance of a class and of the classes derived from it.
pub(crate) fn instances(engine: &Engine, class: &Class) -> Vec<Object> {
    let mut objects = Vec::new();
    // Free space is looked up outside the lock, and only where it is asked for: it walks over files.
    let volumes = if class.namespace == V2 {
        Vec::new()
    } else {
        host::volumes(engine)
    };
    engine.read(|state| {
        for wanted in classes(class.namespace).filter(|wanted| wanted.is_a(class.name)) {
            match wanted.namespace {
                V2 => of_class(state, wanted.name, &mut objects),
                CIMV2 => host::of_class(state, wanted.name, &volumes, &mut objects),
                _ if associations::is_association(wanted.name) => {
                    objects.extend(associations::links(state, wanted.name));
                }
                _ => cluster::of_class(state, wanted.name, &volumes, &mut objects),
            }
        }
    });
    if class.namespace == CIMV2 {
        files::of_class(engine, class, &mut objects);
    }
    objects
}

fn of_class(state: &State, class: &'static str, objects: &mut Vec<Object>) {
    match class {
        "Msvm_ComputerSystem" => {
            objects.push(host::computer_system(state));
            objects.extend(
                state
                    .vms
                    .values()
                    .filter(|vm| !vm.planned)
                    .map(|vm| vms::system(state, vm)),
            );
        }
        "Msvm_PlannedComputerSystem" => {
            objects.extend(
                state
                    .vms
                    .values()
                    .filter(|vm| vm.planned)
                    .map(|vm| vms::system(state, vm)),
            );
        }
        "Msvm_VirtualSystemSettingData" => objects.extend(
            state
                .vms
                .values()
                .flat_map(Vm::definitions)
                .map(|definition| definition.vssd.object()),
        ),
        "Msvm_BootSourceSettingData" => objects.extend(
            state
                .vms
                .values()
                .flat_map(|vm| vm.definition.boot_sources())
                .map(|(source, _)| source.object()),
        ),
        "Msvm_VirtualSystemReferencePoint" => objects.extend(state.vms.values().flat_map(|vm| {
            vm.reference_points
                .iter()
                .map(|point| vms::reference_point(vm, point))
        })),
        "Msvm_VirtualSystemExportSettingData" => {
            objects.extend(
                state
                    .vms
                    .values()
                    .filter(|vm| !vm.planned)
                    .map(vms::export_settings),
            );
        }
        "Msvm_ShutdownComponent" | "Msvm_VssComponent" => {
            objects.extend(
                state
                    .vms
                    .values()
                    .filter_map(|vm| vms::component(vm, class)),
            );
        }
        "Msvm_DiskDrive" => {
            let disks = state.vms.values().flat_map(vms::physical_disks);
            // The same disk of the host, whoever names it.
            let by_path: BTreeMap<String, Object> = disks
                .map(|disk| (disk.path("").to_string(), disk))
                .collect();
            objects.extend(by_path.into_values());
        }
        "Msvm_ConcreteJob" => objects.extend(vms::jobs(state)),
        "Msvm_MountedStorageImage" => objects.extend(crate::methods::mounted_images(state)),
        "Msvm_DiskMergeSettingData" => objects.extend(
            state
                .vms
                .values()
                .filter(|vm| !vm.planned)
                .map(vms::merge_settings),
        ),
        "Msvm_VirtualEthernetSwitch" => {
            objects.extend(state.host.switches.iter().map(host::switch));
        }
        "Msvm_VirtualSystemManagementService"
        | "Msvm_VirtualSystemSnapshotService"
        | "Msvm_VirtualSystemReferencePointService"
        | "Msvm_ImageManagementService"
        | "Msvm_SecurityService" => objects.push(host::service(state, class)),
        "Msvm_VirtualSystemManagementServiceSettingData" => {
            objects.push(host::service_settings(state));
        }
        _ if associations::is_association(class) => {
            objects.extend(associations::links(state, class));
        }
        _ => {
            objects.extend(templates::of_class(class));
            let resources = state
                .vms
                .values()
                .flat_map(Vm::definitions)
                .flat_map(|definition| &definition.resources);
            objects.extend(
                resources
                    .filter(|bag| bag.class == class)
                    .map(crate::cim::Bag::object),
            );
        }
    }
}

/// Returns `OperationalStatus` of a VM: its condition, and what the host is doing with it.
pub(crate) fn operational_status(engine: &Engine, vm: &Vm) -> Vec<u64> {
    engine.read(|state| status_of(state, vm))
}

pub(crate) fn status_of(state: &State, vm: &Vm) -> Vec<u64> {
    const MERGING: u64 = 32772;
    let working = state
        .jobs
        .iter()
        .filter(|job| job.vm == Some(vm.id) && job.outcome.is_none())
        .find_map(|job| job.operation.operational_status());
    let second = working.or_else(|| merge::is_merging(vm).then_some(MERGING));
    // 5: predictive failure; the volume is running out of space.
    let first = if vm.starved { 5 } else { 2 };
    std::iter::once(first).chain(second).collect()
}
