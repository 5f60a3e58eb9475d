//! The object model: every instance a client can see, made from the state at the moment it is asked for.

mod associations;
mod files;
mod host;
mod source;
mod templates;
mod vms;

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::cim::{CIMV2, Class, Object, V2, classes};
use crate::cluster;
use crate::definition::owner_of;
use crate::engine::{Engine, State};
use crate::merge;
use crate::state::Vm;

pub(crate) use associations::{associators, references};
pub(crate) use host::default_data_root;
pub(crate) use source::Source;

/// Whose objects are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    All,
    /// Those of the host itself.
    Host,
    Vm(Uuid),
}

impl Scope {
    fn vms(self, state: &State) -> impl Iterator<Item = &Vm> {
        let (first, rest) = match self {
            Scope::All => (None, Some(state.vms.values())),
            Scope::Host => (None, None),
            Scope::Vm(id) => (state.vms.get(&id), None),
        };
        first.into_iter().chain(rest.into_iter().flatten())
    }

    fn has_host(self) -> bool {
        match self {
            Scope::All | Scope::Host => true,
            Scope::Vm(_) => false,
        }
    }
}

/// Returns where the object with these keys can only be.
pub(crate) fn scope_of(engine: &Engine, keys: &BTreeMap<String, String>) -> Scope {
    let ids = keys.values().filter_map(|value| {
        Uuid::try_parse(value)
            .or_else(|_| Uuid::try_parse(owner_of(value)))
            .ok()
    });
    engine.read(|state| {
        for id in ids {
            if state.vms.contains_key(&id) {
                return Scope::Vm(id);
            }
            let owner = state.vms.values().find(|vm| vm.checkpoint(id).is_some());
            if let Some(vm) = owner {
                return Scope::Vm(vm.id);
            }
        }
        Scope::All
    })
}

/// Returns every instance of a class and of the classes derived from it.
pub(crate) fn instances(engine: &Engine, class: &Class) -> Vec<Object> {
    instances_in(engine, class, Scope::All)
}

fn classes_of(class: &Class) -> impl Iterator<Item = &'static Class> {
    classes(class.namespace).filter(move |wanted| wanted.is_a(class.name))
}

/// Returns the instances of a class of `root/virtualization/v2`, and of no other, within a scope.
fn instances_of(engine: &Engine, class: &'static Class, scope: Scope) -> Vec<Object> {
    let mut objects = Vec::new();
    engine.read(|state| of_class(state, class.name, scope, &mut objects));
    objects
}

/// Returns the instances of a class and of the classes derived from it within a scope.
pub(crate) fn instances_in(engine: &Engine, class: &Class, scope: Scope) -> Vec<Object> {
    let mut objects = Vec::new();
    // Free space is looked up outside the lock, and only where it is asked for: it walks over files.
    let volumes = if class.namespace == V2 {
        Vec::new()
    } else {
        host::volumes(engine)
    };
    engine.read(|state| {
        for wanted in classes_of(class) {
            match wanted.namespace {
                V2 => of_class(state, wanted.name, scope, &mut objects),
                CIMV2 => host::of_class(state, wanted.name, &volumes, &mut objects),
                _ if associations::is_association(wanted.name) => {
                    objects.extend(associations::links(state, wanted.name, scope));
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

fn of_class(state: &State, class: &'static str, scope: Scope, objects: &mut Vec<Object>) {
    let host = scope.has_host();
    match class {
        "Msvm_ComputerSystem" => {
            objects.extend(host.then(|| host::computer_system(state)));
            objects.extend(
                scope
                    .vms(state)
                    .filter(|vm| !vm.planned)
                    .map(|vm| vms::system(state, vm)),
            );
        }
        "Msvm_PlannedComputerSystem" => {
            objects.extend(
                scope
                    .vms(state)
                    .filter(|vm| vm.planned)
                    .map(|vm| vms::system(state, vm)),
            );
        }
        "Msvm_VirtualSystemSettingData" => objects.extend(
            scope
                .vms(state)
                .flat_map(Vm::definitions)
                .map(|definition| definition.vssd.object()),
        ),
        "Msvm_BootSourceSettingData" => objects.extend(
            scope
                .vms(state)
                .flat_map(|vm| vm.definition.boot_sources())
                .map(|(source, _)| source.object()),
        ),
        "Msvm_VirtualSystemReferencePoint" => objects.extend(scope.vms(state).flat_map(|vm| {
            vm.reference_points
                .iter()
                .map(|point| vms::reference_point(vm, point))
        })),
        "Msvm_VirtualSystemExportSettingData" => {
            objects.extend(
                scope
                    .vms(state)
                    .filter(|vm| !vm.planned)
                    .map(vms::export_settings),
            );
        }
        "Msvm_ShutdownComponent" | "Msvm_VssComponent" => {
            objects.extend(scope.vms(state).filter_map(|vm| vms::component(vm, class)));
        }
        "Msvm_DiskDrive" if !host => {}
        "Msvm_DiskDrive" => {
            let disks = state.vms.values().flat_map(vms::physical_disks);
            // The same disk of the host, whoever names it.
            let by_path: BTreeMap<String, Object> = disks
                .map(|disk| (disk.path("").to_string(), disk))
                .collect();
            objects.extend(by_path.into_values());
        }
        "Msvm_ConcreteJob" if host => objects.extend(vms::jobs(state)),
        "Msvm_MountedStorageImage" if host => {
            objects.extend(crate::methods::mounted_images(state));
        }
        "Msvm_DiskMergeSettingData" => objects.extend(
            scope
                .vms(state)
                .filter(|vm| !vm.planned)
                .map(vms::merge_settings),
        ),
        "Msvm_VirtualEthernetSwitch" if host => {
            objects.extend(state.host.switches.iter().map(host::switch));
        }
        "Msvm_VirtualSystemManagementService"
        | "Msvm_VirtualSystemSnapshotService"
        | "Msvm_VirtualSystemReferencePointService"
        | "Msvm_ImageManagementService"
        | "Msvm_SecurityService"
            if host =>
        {
            objects.push(host::service(state, class));
        }
        "Msvm_VirtualSystemManagementServiceSettingData" if host => {
            objects.push(host::service_settings(state));
        }
        _ if associations::is_association(class) => {
            objects.extend(associations::links(state, class, scope));
        }
        _ => {
            objects.extend(templates::of_class(class).filter(|_| host));
            let resources = scope
                .vms(state)
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
