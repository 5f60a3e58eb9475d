//! What a host knows as a node of a failover cluster. The namespace is missing on every other host.
//!
//! Not tested on a real cluster.

use std::collections::HashSet;
use std::time::Duration;

use model::{VmId, host_path};
use tokio::time::Instant;
use wsman::{FaultClass, Instance, uri};

use super::facts::VolumeFacts;
use super::{Host, objects};
use crate::Error;

/// How long a host that was no node is taken for none without asking again.
const NOT_CLUSTERED_FOR: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

impl Host {
    /// Returns whether the host is a node of a failover cluster.
    pub async fn is_clustered(&self) -> Result<bool, Error> {
        let known = self.known().not_clustered_at;
        if known.is_some_and(|at| at.elapsed() < NOT_CLUSTERED_FOR) {
            return Ok(false);
        }
        match self.cluster_query("SELECT * FROM MSCluster_Cluster").await {
            Ok(found) => {
                let clustered = !found.is_empty();
                self.known().not_clustered_at = (!clustered).then(Instant::now);
                Ok(clustered)
            }
            // The namespace is there, so it is a node; the account just may not look.
            Err(error) if error.fault_class() == Some(FaultClass::AccessDenied) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Returns the VMs that a cluster owns, of all nodes; none where there is no cluster or the account may not look.
    pub async fn clustered_vms(&self) -> Result<HashSet<VmId>, Error> {
        if !self.is_clustered().await? {
            return Ok(HashSet::new());
        }
        let found = self
            .cluster_query("SELECT * FROM MSCluster_Resource WHERE Type = 'Virtual Machine'")
            .await;
        match found {
            Ok(found) => Ok(found.iter().filter_map(vm_of_resource).collect()),
            Err(error) if error.fault_class() == Some(FaultClass::AccessDenied) => {
                Ok(HashSet::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the cluster shared volumes as this node mounts them.
    pub(super) async fn cluster_volumes(&self) -> Result<Vec<VolumeFacts>, Error> {
        let denied = |result: Result<Vec<Instance>, Error>| match result {
            Err(error) if error.fault_class() == Some(FaultClass::AccessDenied) => Ok(Vec::new()),
            result => result,
        };
        let shared = denied(
            self.cluster_query("SELECT * FROM MSCluster_ClusterSharedVolume")
                .await,
        )?;
        if shared.is_empty() {
            return Ok(Vec::new());
        }
        let partitions = denied(
            self.cluster_query("SELECT * FROM MSCluster_DiskPartition")
                .await,
        )?;
        Ok(shared
            .iter()
            .filter_map(|volume| shared_volume(volume, &partitions))
            .collect())
    }

    async fn cluster_query(&self, wql: &str) -> Result<Vec<Instance>, Error> {
        match self.session.query(uri::NS_CLUSTER, wql).await {
            Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => Ok(Vec::new()),
            result => result,
        }
    }
}

/// [U] How a cluster's resource names its VM: `PrivateProperties.VmID`.
fn vm_of_resource(resource: &Instance) -> Option<VmId> {
    let private = resource.instance("PrivateProperties");
    let id = private
        .as_ref()
        .and_then(|private| private.text("VmID").or_else(|| private.text("VmId")));
    id.or_else(|| resource.text("VmID"))?
        .trim_matches(['{', '}'])
        .parse()
        .ok()
}

/// [U] How a shared volume's partition is told: by the volume's GUID, else by the mount path. Sizes are in MiB.
fn shared_volume(volume: &Instance, partitions: &[Instance]) -> Option<VolumeFacts> {
    let path = volume.text("Name").filter(|path| !path.is_empty())?;
    let device = volume.text("VolumeName").unwrap_or_default();
    let guid = |text: &str| {
        let (_, rest) = text.split_once('{')?;
        Some(rest.split_once('}')?.0.to_lowercase())
    };
    let bare = |text: &str| guid(text).unwrap_or_else(|| text.to_lowercase());
    let same_guid = |partition: &&Instance| {
        partition
            .text("VolumeGuid")
            .is_some_and(|found| !found.is_empty() && Some(bare(found)) == guid(device))
    };
    let same_path = |partition: &&Instance| {
        partition
            .texts("MountPoints")
            .iter()
            .any(|mount| host_path::same(mount, path))
    };
    let partition = partitions
        .iter()
        .find(same_guid)
        .or_else(|| partitions.iter().find(same_path));
    let mib = |name: &str| {
        partition
            .and_then(|partition| partition.u64(name))
            .unwrap_or(0)
            .saturating_mul(MIB)
    };
    Some(VolumeFacts {
        path: path.to_owned(),
        device_id: device.to_owned(),
        label: objects::text(partition, "VolumeLabel"),
        file_system: "CSVFS".to_owned(),
        capacity_bytes: mib("TotalSize"),
        free_bytes: mib("FreeSpace"),
        block_bytes: 0,
        cluster_shared: true,
    })
}

#[cfg(test)]
mod tests {
    use wsman::Value;

    use super::*;

    #[test]
    fn a_shared_volume_has_the_free_space_of_its_partition() {
        let device = r"\\?\Volume{0A1B2C3D-0000-0000-0000-000000000001}\";
        let volume = Instance::new("MSCluster_ClusterSharedVolume")
            .with("Name", r"C:\ClusterStorage\Volume1")
            .with("VolumeName", device);
        let partition = |guid: &str, mount: &str, free: u32| {
            Instance::new("MSCluster_DiskPartition")
                .with("VolumeGuid", guid)
                .with("MountPoints", Value::texts([mount]))
                .with("TotalSize", 4096_u32)
                .with("FreeSpace", free)
        };
        let free = |partitions: &[Instance]| {
            let found = shared_volume(&volume, partitions).unwrap();
            assert_eq!(found.path, r"C:\ClusterStorage\Volume1");
            found.free_bytes / MIB
        };
        let other = partition("ffffffff-0000-0000-0000-000000000001", "X:", 7);
        let by_guid = partition("0a1b2c3d-0000-0000-0000-000000000001", "", 100);
        assert_eq!(free(&[other.clone(), by_guid]), 100);
        let by_path = partition("", r"c:\clusterstorage\volume1\", 200);
        assert_eq!(free(&[other, by_path]), 200);
        assert_eq!(free(&[]), 0);
    }

    #[test]
    fn a_resource_names_its_vm() {
        let vm = VmId::random();
        let private = Instance::new("Properties").with("VmID", format!("{{{vm}}}"));
        let resource = Instance::new("MSCluster_Resource")
            .with("PrivateProperties", Value::embedded(&private));
        assert_eq!(vm_of_resource(&resource), Some(vm));
        assert_eq!(vm_of_resource(&Instance::new("MSCluster_Resource")), None);
    }
}
