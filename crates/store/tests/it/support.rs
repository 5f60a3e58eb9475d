//! Fixed keys, a store of nodes in memory, pseudo-random numbers.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use model::{Fence, JobId, PointId, RecoveryPoint, VaultId, VmId};
use store::{BoxError, KeyMaterial, NewNode, NodeId, NodeSink, NodeSource, SessionKeys, VaultKeys};
use uuid::Uuid;

pub(crate) fn material() -> KeyMaterial {
    KeyMaterial {
        vault: VaultId(Uuid::from_u128(0x1234)),
        generation: 1,
        id_key: [1; 32].into(),
        cut_key: [2; 32].into(),
        data_key: [3; 32].into(),
    }
}

pub(crate) fn keys() -> VaultKeys {
    VaultKeys::from_material(&material())
}

pub(crate) fn names() -> SessionKeys {
    keys().session().clone()
}

pub(crate) fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Nodes by id; counts what is read.
#[derive(Default)]
pub(crate) struct Nodes {
    pub(crate) nodes: RefCell<HashMap<NodeId, Bytes>>,
    pub(crate) reads: RefCell<usize>,
}

impl Nodes {
    pub(crate) fn add(&self, new: Vec<NewNode>) {
        for node in new {
            self.nodes.borrow_mut().insert(node.id, node.plain.into());
        }
    }
}

impl NodeSource for Nodes {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        *self.reads.borrow_mut() += ids.len();
        let nodes = self.nodes.borrow();
        ids.iter()
            .map(|id| {
                nodes
                    .get(id)
                    .cloned()
                    .ok_or_else(|| format!("no node {id}").into())
            })
            .collect()
    }
}

impl NodeSink for &Nodes {
    fn put_node(&mut self, node: NewNode) -> Result<(), BoxError> {
        self.nodes.borrow_mut().insert(node.id, node.plain.into());
        Ok(())
    }
}

/// A point of the VSS method: a disk as a chain of two files, and configuration files.
pub(crate) fn point_of_files() -> RecoveryPoint {
    let image = |len: u64| serde_json::json!({ "len": len, "root": "33".repeat(32), "height": 1, "digest": null });
    let mut json = serde_json::to_value(point()).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.insert("method".into(), "vss".into());
    fields.insert("consistency".into(), "crash".into());
    fields.insert("disks".into(), serde_json::json!([]));
    let files = serde_json::json!([
        {
            "path": "C:\\vm\\disk_1.avhdx", "role": "disk", "image": image(9 << 20),
            "disk": {
                "parent": "C:\\vm\\disk.vhdx", "data_write_guid": Uuid::from_u128(11).to_string(),
                "modified": "2026-01-02T03:04:05.678Z",
            },
        },
        {
            "path": "C:\\vm\\disk.vhdx", "role": "disk", "image": image(40 << 20),
            "disk": { "parent": null, "data_write_guid": Uuid::from_u128(12).to_string(), "modified": null },
        },
        { "path": "C:\\vm\\Virtual Machines\\8.vmcx", "role": "config", "image": image(4096) },
        { "path": "C:\\vm\\Snapshots\\9.vmcx", "role": "config", "image": image(4096), "checkpoint": "Microsoft:9" },
    ]);
    fields.insert("files".into(), files);
    let chains = serde_json::json!([{
        "id": Uuid::from_u128(10).to_string(), "path": "C:\\vm\\disk_1.avhdx", "base_path": "C:\\vm\\disk.vhdx",
        "attachment": "Microsoft:1", "size_bytes": 1u64 << 30, "block_bytes": 1 << 21, "logical_sector_bytes": 512,
        "physical_sector_bytes": 4096, "fixed": false, "allocated_bytes": 4096,
        "files": ["C:\\vm\\disk_1.avhdx", "C:\\vm\\disk.vhdx"], "changed_bytes": 9 << 20,
    }]);
    fields.insert("chains".into(), chains);
    serde_json::from_value(json).unwrap()
}

pub(crate) fn point() -> RecoveryPoint {
    let (job, vm, fence) = (
        JobId(Uuid::from_u128(7)),
        VmId(Uuid::from_u128(8)),
        Fence(3),
    );
    let id: PointId = store::point_id(job, vm, fence);
    let json = serde_json::json!({
        "id": id, "job": job, "fence": fence,
        "vm": {
            "id": vm, "name": "web 01 \"Ü\"", "generation": "gen2", "version": "9.0", "processors": 2,
            "memory": { "startup_mib": 1024, "dynamic": false, "minimum_mib": 512, "maximum_mib": 2048 },
            "controllers": [], "nics": [],
        },
        "host": { "id": Uuid::from_u128(9).to_string(), "name": "HV01", "os_version": "10.0.20348" },
        "created": "2026-01-02T03:04:05.678Z", "method": "rct", "kind": "full", "consistency": "application", "power": "running",
        "disks": [{
            "id": Uuid::from_u128(10).to_string(), "path": "C:\\vm\\disk.avhdx", "base_path": "C:\\vm\\disk.vhdx",
            "attachment": "Microsoft:1", "size_bytes": 1u64 << 30, "block_bytes": 1 << 25,
            "logical_sector_bytes": 512, "physical_sector_bytes": 4096, "fixed": false, "allocated_bytes": 4096,
            "image": { "len": 1u64 << 30, "root": "11".repeat(32), "height": 2, "digest": "22".repeat(32) },
            "full_reason": "first", "changed_bytes": 4096,
        }],
        "files": [], "stored_bytes": 123,
    });
    serde_json::from_value(json).unwrap()
}
