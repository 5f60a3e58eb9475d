//! Associations: which objects belong together.
//!
//! A class of associations is a list of pairs of paths, made from the state; ASSOCIATORS and REFERENCES look in those.

use std::collections::{BTreeMap, BTreeSet};

use wsman::ObjectPath;

use super::{Scope, scope_of, vms};
use crate::cim::{Bag, Class, MSCLUSTER, Object, V2, Value, find, same_object};
use crate::clock::now;
use crate::cluster;
use crate::definition::path_text;
use crate::engine::{Engine, State};
use crate::jobs::Job;
use crate::state::{Vm, guid};
use crate::wql::AssocFilter;

/// Association classes with the names of their two ends.
const CLASSES: [(&str, &str, &str); 17] = [
    ("Msvm_SettingsDefineState", "ManagedElement", "SettingData"),
    ("Msvm_SnapshotOfVirtualSystem", "Antecedent", "Dependent"),
    (
        "Msvm_MostCurrentSnapshotInBranch",
        "Antecedent",
        "Dependent",
    ),
    ("Msvm_LastAppliedSnapshot", "Antecedent", "Dependent"),
    (
        "Msvm_ReferencePointOfVirtualSystem",
        "Antecedent",
        "Dependent",
    ),
    ("Msvm_ParentChildSettingData", "Parent", "Child"),
    (
        "Msvm_VirtualSystemSettingDataComponent",
        "GroupComponent",
        "PartComponent",
    ),
    (
        "Msvm_AffectedJobElement",
        "AffectedElement",
        "AffectingElement",
    ),
    ("Msvm_SystemDevice", "GroupComponent", "PartComponent"),
    ("Msvm_LogicalIdentity", "SameElement", "SystemElement"),
    (
        "Msvm_SystemExportSettingData",
        "ManagedElement",
        "SettingData",
    ),
    (
        "Msvm_BootSourceComponent",
        "GroupComponent",
        "PartComponent",
    ),
    (
        "Msvm_EthernetPortSettingDataComponent",
        "GroupComponent",
        "PartComponent",
    ),
    (
        "MSCluster_ClusterSharedVolumeToPartition",
        "GroupComponent",
        "PartComponent",
    ),
    (
        "MSCluster_ResourceGroupToResource",
        "GroupComponent",
        "PartComponent",
    ),
    (
        "MSCluster_NodeToActiveGroup",
        "GroupComponent",
        "PartComponent",
    ),
    ("MSCluster_ClusterToNode", "GroupComponent", "PartComponent"),
];

/// Finds the class of an association; its name alone says the namespace.
fn class_of(name: &str) -> Option<&'static Class> {
    find(V2, name).or_else(|| find(MSCLUSTER, name))
}

pub(super) fn is_association(class: &str) -> bool {
    CLASSES.iter().any(|(name, ..)| *name == class)
}

/// Returns the instances of an association class.
pub(super) fn links(state: &State, class: &'static str, scope: Scope) -> Vec<Object> {
    let known = CLASSES.into_iter().find(|(name, ..)| *name == class);
    let Some(((_, one, two), own)) = known.zip(class_of(class)) else {
        return Vec::new();
    };
    pairs(state, class, scope)
        .into_iter()
        .map(|(from, to)| {
            let object = Object::new(own).with(one, from).with(two, to);
            // 5: the job creates it.
            if class == "Msvm_AffectedJobElement" {
                object.with("ElementEffects", Value::numbers([5]))
            } else {
                object
            }
        })
        .collect()
}

fn pairs(state: &State, class: &str, scope: Scope) -> Vec<(String, String)> {
    let of_host = class.starts_with("MSCluster_") || class == "Msvm_AffectedJobElement";
    if of_host && !scope.has_host() {
        return Vec::new();
    }
    if class.starts_with("MSCluster_") {
        return cluster::pairs(state, class);
    }
    if class == "Msvm_AffectedJobElement" {
        let now = now();
        let kept = state.host.knobs.job_kept_millis;
        let shows = |job: &&Job| !job.is_gone(now, kept) && !job.twist.unlinked;
        let jobs = state.jobs.iter().filter(shows);
        return jobs
            .filter_map(|job| Some((job, job.outcome.as_ref()?)))
            .flat_map(|(job, outcome)| {
                let path = path_text(&state.host.name, "Msvm_ConcreteJob", &guid(job.id));
                outcome
                    .affected
                    .iter()
                    .map(move |affected| (affected.clone(), path.clone()))
            })
            .collect();
    }
    scope
        .vms(state)
        .flat_map(|vm| pairs_of_vm(state, vm, class))
        .collect()
}

/// Whether a bag belongs to a network connection rather than to the VM itself.
fn is_port_feature(bag: &Bag) -> bool {
    bag.class == "Msvm_EthernetSwitchPortVlanSettingData"
}

fn pairs_of_vm(state: &State, vm: &Vm, class: &str) -> Vec<(String, String)> {
    let server = &state.host.name;
    let system = vms::system(state, vm).path(server).to_string();
    let bag = |bag: &Bag| path_text(server, &bag.class, bag.instance_id());
    let checkpoint = |id| {
        path_text(
            server,
            "Msvm_VirtualSystemSettingData",
            &format!("Microsoft:{}", guid(id)),
        )
    };
    let from_system = |to: Vec<String>| to.into_iter().map(|to| (system.clone(), to)).collect();
    match class {
        "Msvm_SettingsDefineState" => vec![(system.clone(), bag(&vm.definition.vssd))],
        "Msvm_SnapshotOfVirtualSystem" => {
            from_system(vm.checkpoints.iter().map(|c| checkpoint(c.id)).collect())
        }
        "Msvm_MostCurrentSnapshotInBranch" => {
            from_system(vm.current.into_iter().map(checkpoint).collect())
        }
        "Msvm_LastAppliedSnapshot" => {
            from_system(vm.last_applied.into_iter().map(checkpoint).collect())
        }
        "Msvm_ReferencePointOfVirtualSystem" => from_system(
            vm.reference_points
                .iter()
                .map(|point| vms::reference_point(vm, point).path(server).to_string())
                .collect(),
        ),
        "Msvm_ParentChildSettingData" => vm
            .checkpoints
            .iter()
            .filter_map(|child| Some((checkpoint(child.parent?), checkpoint(child.id))))
            .collect(),
        "Msvm_EthernetPortSettingDataComponent" => vm
            .definitions()
            .flat_map(|definition| &definition.resources)
            .filter(|feature| is_port_feature(feature))
            .filter_map(|feature| {
                let port = feature.instance_id().rsplit_once('\\')?.0;
                let class = "Msvm_EthernetPortAllocationSettingData";
                Some((path_text(server, class, port), bag(feature)))
            })
            .collect(),
        "Msvm_VirtualSystemSettingDataComponent" => vm
            .definitions()
            .flat_map(|definition| {
                let settings = bag(&definition.vssd);
                definition
                    .resources
                    .iter()
                    .filter(|resource| !is_port_feature(resource))
                    .map(move |resource| (settings.clone(), bag(resource)))
            })
            .collect(),
        "Msvm_SystemDevice" => from_system(
            ["Msvm_ShutdownComponent", "Msvm_VssComponent"]
                .into_iter()
                .filter_map(|class| vms::component(vm, class))
                .map(|component| component.path(server).to_string())
                .collect(),
        ),
        "Msvm_LogicalIdentity" => vm
            .definition
            .boot_sources()
            .iter()
            .filter_map(|(source, device)| {
                Some((bag(vm.definition.resource(device)?), bag(source)))
            })
            .collect(),
        "Msvm_SystemExportSettingData" if !vm.planned => {
            from_system(vec![vms::export_settings(vm).path(server).to_string()])
        }
        "Msvm_BootSourceComponent" => {
            let settings = bag(&vm.definition.vssd);
            vm.definition
                .boot_sources()
                .iter()
                .map(|(source, _)| (settings.clone(), bag(source)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the association objects that have the object at one end.
pub(crate) fn references(engine: &Engine, path: &ObjectPath, filter: &AssocFilter) -> Vec<Object> {
    linked(
        engine,
        path,
        filter.result_class.as_deref(),
        filter.role.as_deref(),
    )
    .into_iter()
    .map(|(link, _)| link)
    .collect()
}

/// Returns the objects at the other end of associations with the object.
pub(crate) fn associators(engine: &Engine, path: &ObjectPath, filter: &AssocFilter) -> Vec<Object> {
    let linked = linked(
        engine,
        path,
        filter.assoc_class.as_deref(),
        filter.role.as_deref(),
    );
    // All objects of a class are made at once, so each class is only asked for once.
    let mut wanted: BTreeMap<(&str, String, Scope), BTreeSet<String>> = BTreeMap::new();
    for (link, role) in linked {
        for (property, value) in link.properties() {
            let right_role = filter
                .result_role
                .as_deref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(property.name));
            if property.name == role || !right_role {
                continue;
            }
            let end = (property.cim_type == crate::cim::CimType::Reference)
                .then(|| value.and_then(Value::as_text))
                .flatten()
                .and_then(|text| text.parse::<ObjectPath>().ok());
            if let Some(end) = end {
                let scope = scope_of(engine, &end.keys);
                wanted
                    .entry((link.class.namespace, end.class.clone(), scope))
                    .or_default()
                    .insert(key_of(&end));
            }
        }
    }
    let server = engine.name();
    let mut found = Vec::new();
    for ((namespace, class, scope), ends) in wanted {
        let Some(class) = find(namespace, &class) else {
            continue;
        };
        if filter
            .result_class
            .as_deref()
            .is_some_and(|result| !class.is_a(result))
        {
            continue;
        }
        let objects = super::instances_in(engine, class, scope);
        found.extend(
            objects
                .into_iter()
                .filter(|object| ends.contains(&key_of(&object.path(&server)))),
        );
    }
    found
}

/// Returns a path of this host in the form in which equal paths are equal texts.
fn key_of(path: &ObjectPath) -> String {
    path.relative().to_lowercase()
}

/// Returns the association objects with the object at one end, each with the name of that end.
fn linked(
    engine: &Engine,
    path: &ObjectPath,
    class: Option<&str>,
    role: Option<&str>,
) -> Vec<(Object, &'static str)> {
    let mut found = Vec::new();
    // An object of a VM is linked with others of that VM, and with jobs.
    let scopes = match scope_of(engine, &path.keys) {
        Scope::All | Scope::Host => vec![Scope::All],
        vm @ Scope::Vm(_) => vec![vm, Scope::Host],
    };
    for (name, one, two) in CLASSES {
        let is_wanted =
            |class_name: &str| class_of(name).is_some_and(|own: &Class| own.is_a(class_name));
        if class.is_some_and(|class| !is_wanted(class)) {
            continue;
        }
        for link in engine.read(|state| {
            let scopes = scopes.iter();
            scopes
                .flat_map(|scope| links(state, name, *scope))
                .collect::<Vec<_>>()
        }) {
            for end in [one, two] {
                let right_role = role.is_none_or(|role| role.eq_ignore_ascii_case(end));
                let held = link
                    .get(end)
                    .and_then(Value::as_text)
                    .and_then(|text| text.parse::<ObjectPath>().ok());
                if right_role && held.is_some_and(|held| same_object(&held, path)) {
                    found.push((link.clone(), end));
                }
            }
        }
    }
    found
}
