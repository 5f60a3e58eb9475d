//! A vault, a disk and a target in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::{ByteRange, ChangedRanges, ImageRef, VaultId};
use pipeline::{
    BackupError, BackupLink, BackupSession, CellHashes, ChunkCells, FetchedChunk, ImageOutcome,
    ImageSource, ImageTarget, Options, Plan, RestoreError, RestoreLink, RestoreOutcome,
    SessionFigures, restore_image,
};
use store::{
    BoxError, CellKey, ChunkId, Decoder, EntryId, KeyMaterial, Node, NodeId, PackKeys, PackReader,
    PackSeal, RunSource, SealedEntry, SealedPack, SessionKeys, VaultKeys, seal_cells,
};
use vhdx::{Extent, ExtentKind};

pub(crate) const CELL: usize = 4096;

pub(crate) fn keys() -> VaultKeys {
    VaultKeys::from_material(&KeyMaterial {
        vault: VaultId::random(),
        generation: 1,
        id_key: [1; 32].into(),
        cut_key: [2; 32].into(),
        data_key: [3; 32].into(),
    })
}

/// What the vault should do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The n-th pack cannot be stored.
    PutPack(u64),
    /// The n-th look-up fails.
    Have(u64),
    /// The n-th key is refused.
    Seal(u64),
    /// The n-th fetch fails.
    Fetch(u64),
}

pub(crate) struct Vault {
    pub(crate) keys: VaultKeys,
    pub(crate) entries: Mutex<HashMap<EntryId, SealedEntry>>,
    /// Plain nodes.
    pub(crate) nodes: Mutex<HashMap<NodeId, Bytes>>,
    pub(crate) fault: Option<Fault>,
    pub(crate) calls: [AtomicU64; 4],
    pub(crate) fetched: AtomicU64,
    /// Bytes of chunks, cells and cell hashes that went over the link, with what names them.
    pub(crate) wire: AtomicU64,
}

impl Vault {
    pub(crate) fn new() -> Self {
        Self {
            keys: keys(),
            entries: Mutex::default(),
            nodes: Mutex::default(),
            fault: None,
            calls: Default::default(),
            fetched: AtomicU64::new(0),
            wire: AtomicU64::new(0),
        }
    }

    pub(crate) fn names(&self) -> SessionKeys {
        self.keys.session().clone()
    }

    pub(crate) fn cell_key(&self) -> CellKey {
        self.keys.cell_key([7; 16])
    }

    fn plain(&self, id: ChunkId) -> Option<Vec<u8>> {
        let entry = self
            .entries
            .lock()
            .unwrap()
            .get(&EntryId::Chunk(id))?
            .clone();
        let opened = entry.open(&self.keys, &self.names(), &mut Decoder::new());
        Some(opened.unwrap().plain)
    }

    fn fail(&self, call: usize, make: fn(u64) -> Fault) -> Result<(), BoxError> {
        let n = self.calls[call].fetch_add(1, Ordering::Relaxed);
        if self.fault == Some(make(n)) {
            Err(format!("fault {:?}", make(n)).into())
        } else {
            Ok(())
        }
    }

    pub(crate) fn chunks(&self) -> Vec<ChunkId> {
        let entries = self.entries.lock().unwrap();
        let mut ids: Vec<ChunkId> = entries
            .keys()
            .filter_map(|id| match id {
                EntryId::Chunk(id) => Some(*id),
                EntryId::Node(_) => None,
            })
            .collect();
        ids.sort();
        ids
    }
}

impl BackupLink for Vault {
    fn have(&self, ids: &[ChunkId]) -> Result<Vec<bool>, BoxError> {
        self.fail(0, Fault::Have)?;
        let entries = self.entries.lock().unwrap();
        Ok(ids
            .iter()
            .map(|id| entries.contains_key(&EntryId::Chunk(*id)))
            .collect())
    }

    fn next_seal(&self) -> Result<PackSeal, BoxError> {
        self.fail(1, Fault::Seal)?;
        Ok(self.keys.new_seal()?)
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), BoxError> {
        self.fail(2, Fault::PutPack)?;
        let reader = PackReader::open(&pack.id, pack.bytes, &self.keys)?;
        let mut nodes = Vec::new();
        reader.check_entries(&self.names(), |info, opened| {
            if let EntryId::Node(id) = info.id {
                nodes.push((id, Bytes::from(opened.plain.clone())));
            }
            Ok(())
        })?;
        // The order of writes: whatever a node refers to is here before it.
        let mut entries = self.entries.lock().unwrap();
        let mut known = self.nodes.lock().unwrap();
        for (id, plain) in nodes {
            let check_runs = |runs: &mut dyn Iterator<Item = RunSource>| {
                for run in runs {
                    if let RunSource::Chunk { chunk, .. } = run {
                        assert!(
                            entries.contains_key(&EntryId::Chunk(chunk.id)),
                            "a node came before its chunks"
                        );
                    }
                }
            };
            match Node::decode(&plain)? {
                Node::Leaf(leaf) => check_runs(&mut leaf.runs().iter().map(|run| run.source)),
                Node::Delta(delta) => {
                    assert!(known.contains_key(&delta.base));
                    check_runs(&mut delta.overrides.iter().map(|change| change.run.source));
                }
                Node::Inner(inner) => assert!(
                    inner
                        .children
                        .iter()
                        .flatten()
                        .all(|id| known.contains_key(id))
                ),
            }
            known.insert(id, plain);
        }
        for info in reader.footer().entries.clone() {
            entries.insert(info.id, reader.sealed(info.number).unwrap());
        }
        Ok(())
    }

    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        let nodes = self.nodes.lock().unwrap();
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

impl RestoreLink for Vault {
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError> {
        BackupLink::read_nodes(self, ids)
    }

    fn fetch(&self, ids: &[ChunkId]) -> Result<Vec<FetchedChunk>, BoxError> {
        self.fail(3, Fault::Fetch)?;
        self.fetched.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let entries = self.entries.lock().unwrap();
        let mut found = Vec::new();
        // In another order than asked for, those that are missing left out.
        for id in ids.iter().rev() {
            if let Some(entry) = entries.get(&EntryId::Chunk(*id)) {
                self.wire
                    .fetch_add(entry.info().sealed_len() + 96, Ordering::Relaxed);
                let key = Arc::new(self.keys.pack_key(entry.generation(), entry.salt())?);
                found.push(FetchedChunk {
                    entry: entry.clone(),
                    key,
                });
            }
        }
        Ok(found)
    }

    fn cell_hashes(&self, asks: &[ChunkCells]) -> Result<Vec<CellHashes>, BoxError> {
        let key = self.cell_key();
        // In another order than asked for, those that are missing left out.
        Ok(asks
            .iter()
            .rev()
            .filter_map(|ask| {
                let plain = self.plain(ask.id)?;
                let hashes = key.hashes(&plain, ask.cells)?;
                let bytes = 72 + 16 * hashes.len() as u64;
                self.wire.fetch_add(bytes, Ordering::Relaxed);
                Some(CellHashes { id: ask.id, hashes })
            })
            .collect())
    }

    fn fetch_cells(&self, asks: &[ChunkCells]) -> Result<Vec<FetchedChunk>, BoxError> {
        self.fail(3, Fault::Fetch)?;
        let seal = self.keys.new_seal()?;
        let plains: Vec<_> = asks
            .iter()
            .rev()
            .filter_map(|ask| Some((ask.id, self.plain(ask.id)?, ask.cells)))
            .collect();
        let parts = plains
            .iter()
            .map(|(id, plain, cells)| (*id, plain.as_slice(), *cells));
        let entries = seal_cells(seal, parts)?;
        let mut found = Vec::new();
        for entry in entries {
            self.wire
                .fetch_add(entry.info().sealed_len() + 104, Ordering::Relaxed);
            let key = Arc::new(self.keys.pack_key(entry.generation(), entry.salt())?);
            found.push(FetchedChunk { entry, key });
        }
        Ok(found)
    }
}

pub(crate) fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A sparse disk: cells by number; those not in the map are zero. Ranges of 64 cells without any are known holes.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) len: u64,
    pub(crate) cells: BTreeMap<u64, Arc<Vec<u8>>>,
    pub(crate) fail_at: Option<u64>,
}

const BLOCK: u64 = 64 * CELL as u64;

impl Model {
    pub(crate) fn new(len: u64) -> Self {
        Self {
            len,
            cells: BTreeMap::new(),
            fail_at: None,
        }
    }

    /// Writes cells: pseudo-random bytes, half of the cells compressible; kind 0 writes zeros.
    pub(crate) fn write(&mut self, cell: u64, cells: u64, seed: u64) {
        for i in 0..cells {
            if (cell + i) * CELL as u64 >= self.len {
                return;
            }
            let mut bytes = if seed == 0 {
                vec![0; CELL]
            } else {
                random(seed + i, CELL)
            };
            if seed.is_multiple_of(2) {
                bytes.iter_mut().for_each(|byte| *byte &= 15);
            }
            let beyond = (self.len - (cell + i) * CELL as u64).min(CELL as u64);
            bytes[usize::try_from(beyond).unwrap()..].fill(0);
            self.cells.insert(cell + i, Arc::new(bytes));
        }
    }

    pub(crate) fn bytes(&self, range: ByteRange) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(range.len).unwrap()];
        self.read_at(&mut bytes, range.offset).unwrap();
        bytes
    }
}

impl ImageSource for Model {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError> {
        let end = offset + buf.len() as u64;
        if end > self.len || self.fail_at.is_some_and(|at| offset <= at && at < end) {
            return Err("the disk cannot be read here".into());
        }
        buf.fill(0);
        let first = offset / CELL as u64;
        for (cell, bytes) in self.cells.range(first..end.div_ceil(CELL as u64)) {
            let start = cell * CELL as u64;
            let from = offset.max(start);
            let to = end.min(start + CELL as u64);
            let at = |n: u64| usize::try_from(n).unwrap();
            buf[at(from - offset)..at(to - offset)]
                .copy_from_slice(&bytes[at(from - start)..at(to - start)]);
        }
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError> {
        let (mut at, end) = (offset, offset + len);
        let mut extents = Vec::new();
        while at < end {
            let block = at / BLOCK;
            let to = end.min((block + 1) * BLOCK);
            let any = self
                .cells
                .range(block * 64..(block + 1) * 64)
                .next()
                .is_some();
            let kind = if any {
                ExtentKind::Data
            } else {
                ExtentKind::Zero
            };
            extents.push(Extent {
                offset: at,
                len: to - at,
                kind,
            });
            at = to;
        }
        Ok(extents)
    }
}

/// Takes what a restore writes; fails unless it comes in order.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) parts: BTreeMap<u64, Vec<u8>>,
    pub(crate) end: u64,
    pub(crate) fail_at: Option<u64>,
}

impl ImageTarget for Written {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        assert!(offset >= self.end && !bytes.is_empty(), "written in order");
        if self
            .fail_at
            .is_some_and(|at| at < offset + bytes.len() as u64)
        {
            return Err("the target is full".into());
        }
        self.end = offset + bytes.len() as u64;
        self.parts.insert(offset, bytes.to_vec());
        Ok(())
    }
}

impl Written {
    /// What was written as a disk.
    pub(crate) fn into_model(self, len: u64) -> Model {
        let mut model = Model::new(len);
        for (offset, bytes) in self.parts {
            for (i, part) in bytes.chunks(CELL).enumerate() {
                assert_eq!(offset % CELL as u64, 0);
                let mut cell = part.to_vec();
                cell.resize(CELL, 0);
                model
                    .cells
                    .insert(offset / CELL as u64 + i as u64, Arc::new(cell));
            }
        }
        model
    }
}

#[track_caller]
pub(crate) fn assert_same(one: &Model, other: &Model) {
    assert_eq!(one.len, other.len);
    let zero = Arc::new(vec![0; CELL]);
    for cell in one.cells.keys().chain(other.cells.keys()) {
        let get = |model: &Model| Arc::clone(model.cells.get(cell).unwrap_or(&zero));
        assert!(get(one) == get(other), "cell {cell} differs");
    }
}

pub(crate) fn options(threads: usize) -> Options {
    Options {
        threads: threads.try_into().ok(),
        ..Options::default()
    }
}

pub(crate) fn backup(
    vault: &Arc<Vault>,
    source: &dyn ImageSource,
    plan: &Plan,
) -> Result<(ImageOutcome, SessionFigures), BackupError> {
    let session = BackupSession::new(vault.clone(), vault.names(), options(3));
    let outcome = session.add_image(source, plan)?;
    Ok((outcome, session.finish()?))
}

pub(crate) fn changed(ranges: &[(u64, u64)], len: u64, base: &ImageRef) -> Plan {
    let ranges = ranges
        .iter()
        .map(|&(offset, len)| ByteRange { offset, len })
        .collect();
    Plan::Changed {
        ranges: ChangedRanges::new(ranges, len).unwrap(),
        base: base.clone(),
    }
}

pub(crate) fn restore(
    vault: &Vault,
    image: &ImageRef,
    options: &Options,
) -> Result<(RestoreOutcome, Model), RestoreError> {
    let mut target = Written::default();
    let outcome = restore_image(image, &vault.names(), vault, &mut target, options)?;
    Ok((outcome, target.into_model(image.len)))
}

/// Opens a chunk of the vault.
pub(crate) fn open(vault: &Vault, id: ChunkId) -> Vec<u8> {
    let entry = vault.entries.lock().unwrap()[&EntryId::Chunk(id)].clone();
    entry
        .open(&vault.keys, &vault.names(), &mut Decoder::new())
        .unwrap()
        .plain
}
