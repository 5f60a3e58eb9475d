//! What a backup makes, in small: chunks, a tree, packs, a recovery point. With the real formats.

use api::agent_v1 as v1;
use api::frames::{PackKeyBytes, Tag};
use bytes::{Bytes, BytesMut};
use model::{
    Consistency, DiskId, DiskImage, FullReason, ImageRef, Memory, Method, PointId, PointKind,
    PowerState, RecoveryPoint, SourceHost, Timestamp, VmConfig, VmId,
};
use store::{
    CELL_BYTES, ChunkRef, DigestBuilder, LeafBuilder, NewNode, Node, NodeId, PackKey, PackSeal,
    PackWriter, Run, Salt, SealedEntry, SealedPack, SessionKeys, TreeRoot,
};

use crate::support::FakeAgent;

/// Cells of the chunks made here.
pub(crate) const CHUNK_CELLS: u16 = 16;
/// Length of the disk: 1 MiB.
pub(crate) const DISK_BYTES: u64 = 1 << 20;

/// A disk image: some chunks of content, then zeros.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) node: NewNode,
    pub(crate) image: ImageRef,
}

impl Image {
    /// Makes the image whose `n`-th chunk is filled from `seeds[n]`.
    pub(crate) fn new(names: &SessionKeys, seeds: &[u8]) -> Self {
        let chunks: Vec<Vec<u8>> = seeds.iter().map(|seed| chunk(*seed)).collect();
        let mut leaf = LeafBuilder::new();
        for plain in &chunks {
            let chunk = ChunkRef {
                id: names.chunk_id(plain),
                cells: CHUNK_CELLS,
            };
            leaf.push(Run::whole(chunk));
        }
        let cells = u16::try_from(DISK_BYTES / 4096).unwrap();
        let used = CHUNK_CELLS * u16::try_from(chunks.len()).unwrap();
        leaf.push(Run::hole(cells - used));
        let leaf = leaf.finish(cells).unwrap();
        let node = NewNode::new(&Node::Leaf(leaf), names).unwrap();
        let mut digest = DigestBuilder::new();
        digest.push(store::hash_mib(&content(&chunks)));
        let digest = digest.finish(DISK_BYTES);
        let image = TreeRoot {
            len: DISK_BYTES,
            root: Some(node.id),
        }
        .to_image_ref(digest);
        Self {
            chunks,
            node,
            image,
        }
    }

    pub(crate) fn chunk_ids(&self, names: &SessionKeys) -> Vec<u8> {
        self.chunks
            .iter()
            .flat_map(|plain| names.chunk_id(plain).0)
            .collect()
    }
}

/// The content of an image that begins with these chunks.
pub(crate) fn content(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut content = chunks.concat();
    content.resize(usize::try_from(DISK_BYTES).unwrap(), 0);
    content
}

fn chunk(seed: u8) -> Vec<u8> {
    let len = usize::from(CHUNK_CELLS) * CELL_BYTES;
    (0..len)
        .map(|at| seed ^ u8::try_from((at * 31 + at / 4096) % 251).unwrap() | 1)
        .collect()
}

/// A backup session of a fake agent.
pub(crate) struct Backup<'a> {
    pub(crate) agent: &'a FakeAgent,
    pub(crate) assignment: v1::Assignment,
    pub(crate) session: v1::BackupSession,
    pub(crate) names: SessionKeys,
    pub(crate) vm: VmId,
    pub(crate) disk: DiskId,
}

impl<'a> Backup<'a> {
    /// Takes the next backup and opens its session.
    pub(crate) async fn open(
        agent: &'a FakeAgent,
        vm: VmId,
        disk: DiskId,
        reference_points: &[&str],
    ) -> Self {
        let assignment = agent.next_work().await;
        let request = v1::OpenBackup {
            fence: assignment.fence,
            vm,
            host: agent.host.id,
            disks: vec![v1::DiskIdentity {
                disk,
                size_bytes: DISK_BYTES,
            }],
            reference_points: reference_points.iter().map(|id| (*id).to_owned()).collect(),
            files: false,
        };
        let session = agent
            .client
            .open_backup(assignment.job, &request)
            .await
            .unwrap();
        let names = SessionKeys::new(key(&session.id_key), key(&session.cut_key));
        Self {
            agent,
            assignment,
            session,
            names,
            vm,
            disk,
        }
    }

    /// Returns the right to write a pack.
    pub(crate) async fn seal(&self) -> PackSeal {
        let reply = self
            .agent
            .client
            .seals(self.session.session, 1)
            .await
            .unwrap();
        let key = PackKeyBytes::decode(&hex::decode(&reply.seals[0]).unwrap()).unwrap();
        PackSeal::from_parts(key.generation, Salt(key.salt), key.key)
    }

    /// Seals chunks and nodes.
    pub(crate) async fn pack(&self, chunks: &[Vec<u8>], nodes: &[&NewNode]) -> SealedPack {
        let mut pack = PackWriter::new(self.seal().await);
        for plain in chunks {
            pack.add(self.names.chunk_id(plain), plain).unwrap();
        }
        for node in nodes {
            pack.add(node.id, &node.plain).unwrap();
        }
        pack.finish()
    }

    pub(crate) async fn put(&self, pack: &SealedPack) {
        let id = pack.id.to_string();
        self.agent
            .client
            .put_pack(self.session.session, &id, pack.bytes.clone())
            .await
            .unwrap();
    }

    pub(crate) async fn have(&self, ids: Vec<u8>) -> Vec<bool> {
        self.agent
            .client
            .have(self.session.session, ids)
            .await
            .unwrap()
    }

    /// The recovery point of this session with one disk.
    pub(crate) fn point(&self, image: &Image, parent: Option<PointId>) -> RecoveryPoint {
        RecoveryPoint {
            id: self.session.point,
            job: self.assignment.job,
            fence: self.assignment.fence,
            vm: config(self.vm),
            host: SourceHost {
                id: self.agent.host.id,
                name: self.agent.host.name.clone(),
                os_version: self.agent.host.os_version.clone(),
            },
            power: PowerState::Running,
            created: Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()),
            method: Method::Rct,
            kind: if parent.is_some() {
                PointKind::Incremental
            } else {
                PointKind::Full
            },
            consistency: Consistency::Crash,
            consistency_note: None,
            parent,
            disks: vec![DiskImage {
                id: self.disk,
                path: "C:\\vms\\disk0.vhdx".into(),
                base_path: "C:\\vms\\disk0.vhdx".into(),
                attachment: "Microsoft:1".into(),
                size_bytes: DISK_BYTES,
                block_bytes: 1 << 20,
                logical_sector_bytes: 512,
                physical_sector_bytes: 4096,
                fixed: false,
                allocated_bytes: DISK_BYTES,
                image: image.image.clone(),
                full_reason: parent.is_none().then_some(FullReason::First),
                changed_bytes: DISK_BYTES,
            }],
            files: Vec::new(),
            chains: Vec::new(),
            excluded: Vec::new(),
            unsupported: Vec::new(),
            checkpoints: Vec::new(),
            stored_bytes: 0,
        }
    }

    pub(crate) async fn publish(
        &self,
        point: &RecoveryPoint,
    ) -> Result<v1::Published, api_client::ClientError> {
        let request = v1::Publish {
            fence: self.assignment.fence,
            point: point.clone(),
        };
        self.agent
            .client
            .publish(self.session.session, &request)
            .await
    }

    /// Stores base records for the disk and ends the job well.
    pub(crate) async fn convert_and_finish(&self, reference_point: &str) {
        let record = model::BaseRecord {
            vm: self.vm,
            disk: self.disk,
            size_bytes: DISK_BYTES,
            host: self.agent.host.id,
            point: self.session.point,
            reference_point: reference_point.to_owned(),
            rct_id: "rctX:1".into(),
        };
        let bases = v1::Bases {
            fence: self.assignment.fence,
            records: vec![record],
        };
        self.agent
            .client
            .bases(self.session.session, &bases)
            .await
            .unwrap();
        let close = v1::CloseSession {
            fence: self.assignment.fence,
        };
        self.agent
            .client
            .close(self.session.session, &close)
            .await
            .unwrap();
        self.agent
            .finish(&self.assignment, v1::Outcome::Succeeded)
            .await
            .unwrap();
    }

    /// A whole backup: one pack, the point, base records, the end.
    pub(crate) async fn complete(&self, image: &Image, parent: Option<PointId>) -> RecoveryPoint {
        let wanted = self.have(image.chunk_ids(&self.names)).await;
        let missing: Vec<Vec<u8>> = image
            .chunks
            .iter()
            .zip(wanted)
            .filter(|(_, held)| !held)
            .map(|(plain, _)| plain.clone())
            .collect();
        self.put(&self.pack(&missing, &[&image.node]).await).await;
        let point = self.point(image, parent);
        self.publish(&point).await.unwrap();
        self.convert_and_finish(&format!("ref-{}", self.session.point))
            .await;
        point
    }
}

fn key(hex_text: &str) -> [u8; 32] {
    hex::decode(hex_text).unwrap().try_into().unwrap()
}

fn config(vm: VmId) -> VmConfig {
    VmConfig {
        id: vm,
        name: "web01".into(),
        generation: model::Generation::Gen2,
        version: "9.0".into(),
        notes: Vec::new(),
        config_root: None,
        snapshot_root: None,
        processors: 2,
        memory: Memory {
            startup_mib: 1024,
            dynamic: false,
            minimum_mib: 512,
            maximum_mib: 2048,
        },
        secure_boot: None,
        secure_boot_template: None,
        automatic_start: None,
        automatic_stop: None,
        boot_order: Vec::new(),
        boot_entries: Vec::new(),
        controllers: Vec::new(),
        nics: Vec::new(),
    }
}

/// Reads a stream of nodes to its end.
pub(crate) async fn read_nodes(
    agent: &FakeAgent,
    session: model::SessionId,
    ids: &[NodeId],
) -> Result<Vec<(NodeId, Bytes)>, api_client::ClientError> {
    let ids = ids.iter().flat_map(|id| id.0).collect();
    let mut stream = agent.client.nodes(session, ids).await?;
    let mut nodes = Vec::new();
    while let Some((tag, payload)) = stream.next().await? {
        assert_eq!(tag, Tag::Node);
        let id: [u8; 32] = payload[..32].try_into().unwrap();
        nodes.push((NodeId(id), payload.slice(32..)));
    }
    Ok(nodes)
}

/// Reads a stream of sealed chunks to its end and opens them.
pub(crate) async fn read_chunks(
    agent: &FakeAgent,
    session: model::SessionId,
    names: &SessionKeys,
    ids: Vec<u8>,
) -> Result<Vec<Vec<u8>>, api_client::ClientError> {
    let mut stream = agent.client.chunks(session, ids).await?;
    let (mut keys, mut plains): (Vec<PackKey>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    while let Some((tag, payload)) = stream.next().await? {
        match tag {
            Tag::Seal => {
                let key = PackKeyBytes::decode(&payload).unwrap();
                keys.push(PackKey::from_parts(key.generation, Salt(key.salt), key.key));
            }
            Tag::Entry => {
                let mut buffer = BytesMut::from(&*payload);
                let entry = SealedEntry::decode_from(&mut buffer).unwrap().unwrap();
                let key = keys.iter().find(|key| key.salt() == entry.salt()).unwrap();
                let opened = entry.open(key, names, &mut store::Decoder::new()).unwrap();
                plains.push(opened.plain);
            }
            Tag::Node | Tag::Cells | Tag::Problem | Tag::End => panic!("{tag:?} among chunks"),
        }
    }
    Ok(plains)
}
