//! The failover cluster a host may be a node of: what is kept of it, and what `root/MSCluster` shows.
//!
//! A host that is no node has no such namespace. Volumes mounted below `C:\ClusterStorage` are Cluster Shared Volumes.
//! Not here: moving anything to another node; this host owns whatever there is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cim::{Bag, MSCLUSTER, Object, Value, find};
use crate::clock::dmtf;
use crate::engine::State;
use crate::state::{Vm, Volume, guid};

/// GroupType of a group that holds a virtual machine.
const GROUP_OF_VM: u64 = 111;
/// `State` of a resource.
const RESOURCE_ONLINE: u64 = 2;
const RESOURCE_OFFLINE: u64 = 3;
const MIB: u64 = 1 << 20;

/// What is kept of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// Names of the other nodes; they only exist here.
    pub(crate) others: Vec<String>,
}

/// Whether a volume is shared by the cluster.
pub(crate) fn is_shared(volume: &Volume) -> bool {
    let mut parts = volume.folder.split('\\');
    parts
        .next()
        .is_some_and(|first| first.eq_ignore_ascii_case("ClusterStorage"))
        && parts.next().is_some()
}

fn object(class: &str) -> Object {
    let class = find(MSCLUSTER, class);
    Object::new(
        class.expect("classes named in the source are in classes.txt; a test checks the table"),
    )
}

/// Adds the objects of a class of `root/MSCluster`.
pub(crate) fn of_class(
    state: &State,
    class: &'static str,
    volumes: &[(Volume, u64)],
    objects: &mut Vec<Object>,
) {
    let Some(cluster) = &state.host.cluster else {
        return;
    };
    let node = state.host.name.as_str();
    let shared = volumes.iter().filter(|(volume, _)| is_shared(volume));
    let clustered = || state.vms.values().filter(|vm| vm.clustered);
    match class {
        "MSCluster_Cluster" => objects.push(
            object(class)
                .with("Name", cluster.name.as_str())
                .with("Caption", cluster.name.as_str())
                .with("Fqdn", format!("{}.example.test", cluster.name))
                .with("SharedVolumesRoot", r"C:\ClusterStorage")
                .with("EnableSharedVolumes", 1_u64)
                .with("InstallDate", dmtf(state.host.created)),
        ),
        "MSCluster_Node" => {
            let names = std::iter::once(node).chain(cluster.others.iter().map(String::as_str));
            objects.extend(names.enumerate().map(|(at, name)| {
                // 0 up, 1 down.
                object(class)
                    .with("Name", name)
                    .with("Caption", name)
                    .with("Id", (at + 1).to_string())
                    .with("State", u64::from(at > 0))
            }));
        }
        "MSCluster_ResourceGroup" => objects.extend(clustered().map(|vm| {
            object(class)
                .with("Name", vm.name())
                .with("Id", vm_part(vm, "group"))
                .with("GroupType", GROUP_OF_VM)
                .with("OwnerNode", node)
                .with("IsCore", false)
                .with("State", group_state(vm))
        })),
        "MSCluster_Resource" => {
            for vm in clustered() {
                objects.extend(resources(vm, node));
            }
            objects.extend(shared.enumerate().map(|(at, (volume, _))| {
                object(class)
                    .with("Name", disk_name(at))
                    .with("Id", volume.id.to_string())
                    .with("Type", "Physical Disk")
                    .with("OwnerNode", node)
                    .with("OwnerGroup", "Available Storage")
                    .with("State", RESOURCE_ONLINE)
                    .with("IsClusterSharedVolume", true)
            }));
        }
        "MSCluster_ClusterSharedVolume" => objects.extend(shared.map(|(volume, _)| {
            object(class)
                .with("Name", volume.root().to_string())
                .with("VolumeName", volume.device_id())
                .with("FaultState", 0_u64)
                .with("BackupState", 1_u64)
                .with("Flags", 0_u64)
        })),
        "MSCluster_DiskPartition" => objects.extend(shared.map(|(volume, free)| {
            object(class)
                .with("Path", volume.device_id())
                .with("VolumeGuid", volume.id.to_string())
                .with("VolumeLabel", "")
                .with("FileSystem", "CSVFS")
                .with("TotalSize", volume.capacity_bytes / MIB)
                .with("FreeSpace", free / MIB)
                .with("PartitionNumber", 2_u64)
                .with("MountPoints", Value::texts([volume.root().to_string()]))
        })),
        _ => {}
    }
}

/// Returns the pairs of an association of `root/MSCluster`, as paths.
pub(crate) fn pairs(state: &State, class: &str) -> Vec<(String, String)> {
    let Some(cluster) = &state.host.cluster else {
        return Vec::new();
    };
    let server = state.host.name.as_str();
    let path = |object: &Object| object.path(server).to_string();
    let of = |class: &'static str| {
        let volumes: Vec<(Volume, u64)> = state
            .host
            .volumes
            .iter()
            .map(|volume| (volume.clone(), 0))
            .collect();
        let mut objects = Vec::new();
        of_class(state, class, &volumes, &mut objects);
        objects
    };
    let text = |object: &Object, name: &str| {
        object
            .get(name)
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned()
    };
    match class {
        "MSCluster_ClusterSharedVolumeToPartition" => of("MSCluster_ClusterSharedVolume")
            .iter()
            .zip(of("MSCluster_DiskPartition"))
            .map(|(volume, partition)| (path(volume), path(&partition)))
            .collect(),
        "MSCluster_ResourceGroupToResource" => {
            let resources = of("MSCluster_Resource");
            let mut pairs = Vec::new();
            for group in of("MSCluster_ResourceGroup") {
                let inside = resources
                    .iter()
                    .filter(|resource| text(resource, "OwnerGroup") == text(&group, "Name"));
                pairs.extend(inside.map(|resource| (path(&group), path(resource))));
            }
            pairs
        }
        "MSCluster_NodeToActiveGroup" => {
            let node = object("MSCluster_Node").with("Name", server);
            let groups = of("MSCluster_ResourceGroup");
            groups
                .iter()
                .map(|group| (path(&node), path(group)))
                .collect()
        }
        "MSCluster_ClusterToNode" => {
            let own = object("MSCluster_Cluster").with("Name", cluster.name.as_str());
            let nodes = of("MSCluster_Node");
            nodes.iter().map(|node| (path(&own), path(node))).collect()
        }
        _ => Vec::new(),
    }
}

/// The two resources of a VM: itself, and its configuration.
fn resources(vm: &Vm, node: &str) -> [Object; 2] {
    let private =
        Bag::new("MSCluster_Property_Resource_Private").with("VmID", guid(vm.id).to_lowercase());
    [
        ("Virtual Machine", "Virtual Machine"),
        (
            "Virtual Machine Configuration",
            "Virtual Machine Configuration",
        ),
    ]
    .map(|(kind, prefix)| {
        object("MSCluster_Resource")
            .with("Name", format!("{prefix} {}", vm.name()))
            .with("Id", vm_part(vm, kind))
            .with("Type", kind)
            .with("OwnerNode", node)
            .with("OwnerGroup", vm.name())
            .with(
                "State",
                if kind == "Virtual Machine" {
                    resource_state(vm)
                } else {
                    RESOURCE_ONLINE
                },
            )
            .with("IsClusterSharedVolume", false)
            .with("PrivateProperties", Value::Embedded(private.clone()))
    })
}

/// `State` of a group: 0 online, 1 offline.
fn group_state(vm: &Vm) -> u64 {
    u64::from(!vm.power.holds_disks())
}

fn resource_state(vm: &Vm) -> u64 {
    if vm.power.holds_disks() {
        RESOURCE_ONLINE
    } else {
        RESOURCE_OFFLINE
    }
}

fn disk_name(at: usize) -> String {
    format!("Cluster Disk {}", at + 1)
}

/// An id that follows from the VM's, so that it never changes.
fn vm_part(vm: &Vm, part: &str) -> String {
    let salt = part
        .bytes()
        .fold(0_u128, |sum, byte| sum.rotate_left(8) ^ u128::from(byte));
    Uuid::from_u128(vm.id.as_u128() ^ salt).to_string()
}
