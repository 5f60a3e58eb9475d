//! The vault as the server uses it: keys, objects, the index of chunks, what is damaged.
//!
//! Invariants: the index is read on to the newest pack before anything is decided with it ([`Vault::catch_up`]); a
//! chunk counts as held only where the footer of its pack confirms it and neither pack nor chunk is damaged.

mod cache;
mod closure;
mod create;
mod locate;
mod node_source;
mod read;
mod receive;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use catalog::{Actor, Catalog, NewDamage};
use chunk_index::ChunkIndex;
use model::{SessionId, VaultId};
use store::{EntryId, NodeId, Objects, PackFooter, PackId, VaultKeys};

use crate::clock;
use crate::http::ApiResult;

pub(crate) use cache::ByteCache;
pub(crate) use closure::read_root;
pub(crate) use create::{create, open_keys};
pub(crate) use node_source::VaultNodes;
pub(crate) use read::ReadError;

/// Footers kept in memory, in bytes.
const FOOTER_CACHE_BYTES: u64 = 64 * model::MIB;

/// See the module.
pub(crate) struct Vault {
    id: VaultId,
    keys: Arc<VaultKeys>,
    objects: Arc<dyn Objects>,
    index: Arc<ChunkIndex>,
    catalog: Catalog,
    /// Names of packs by sequence; a sequence never changes its pack.
    names: Mutex<HashMap<u64, PackId>>,
    footers: ByteCache<PackId, Arc<PackFooter>>,
    nodes: ByteCache<NodeId, bytes::Bytes>,
    damaged: RwLock<Damaged>,
    /// Packs already pinned, by session: saves writing the same pin again.
    pinned: Mutex<HashMap<SessionId, HashSet<u64>>>,
    /// One reader on of the index at a time.
    catching_up: tokio::sync::Mutex<()>,
}

/// What is known to be damaged.
#[derive(Debug, Default)]
struct Damaged {
    packs: HashSet<PackId>,
    /// Pack and `chunk <id>` or `node <id>`.
    entries: HashSet<(PackId, String)>,
}

impl Vault {
    pub(crate) async fn open(
        id: VaultId,
        keys: VaultKeys,
        objects: Arc<dyn Objects>,
        index: ChunkIndex,
        catalog: Catalog,
        node_cache_bytes: u64,
    ) -> ApiResult<Self> {
        let vault = Self {
            id,
            keys: Arc::new(keys),
            objects,
            index: Arc::new(index),
            catalog,
            names: Mutex::default(),
            footers: ByteCache::new(FOOTER_CACHE_BYTES),
            nodes: ByteCache::new(node_cache_bytes),
            damaged: RwLock::default(),
            pinned: Mutex::default(),
            catching_up: tokio::sync::Mutex::new(()),
        };
        for damage in vault.catalog.open_damage().await? {
            vault.mark_damaged(damage.found.pack, damage.found.entry);
        }
        Ok(vault)
    }

    pub(crate) fn id(&self) -> VaultId {
        self.id
    }

    pub(crate) fn keys(&self) -> &Arc<VaultKeys> {
        &self.keys
    }

    pub(crate) fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// Takes note of damage, so that nothing new builds on it.
    pub(crate) async fn note_damage(&self, pack: PackId, entry: Option<EntryId>, what: &str) {
        let entry = entry.map(|entry| entry.to_string());
        if !self.mark_damaged(pack, entry.clone()) {
            return;
        }
        tracing::error!(pack.id = %pack, "damage found: {what}");
        let found = NewDamage {
            pack,
            entry,
            what: what.chars().take(500).collect(),
        };
        if let Err(err) = self
            .catalog
            .add_damage(found, &Actor::Server, clock::now())
            .await
        {
            tracing::error!(pack.id = %pack, "failed to note damage: {err}");
        }
    }

    /// Says whether anything is known to be damaged.
    pub(crate) fn has_damage(&self) -> bool {
        let damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner);
        !damaged.packs.is_empty() || !damaged.entries.is_empty()
    }

    fn is_damaged(&self, pack: &PackId, entry: &EntryId) -> bool {
        let damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner);
        damaged.packs.contains(pack)
            || (!damaged.entries.is_empty()
                && damaged.entries.contains(&(*pack, entry.to_string())))
    }

    /// Returns whether that was new.
    fn mark_damaged(&self, pack: PackId, entry: Option<String>) -> bool {
        let mut damaged = self.damaged.write().unwrap_or_else(PoisonError::into_inner);
        match entry {
            Some(entry) => damaged.entries.insert((pack, entry)),
            None => damaged.packs.insert(pack),
        }
    }

    /// Pins packs for a session; returns those that cannot be counted on.
    pub(crate) async fn pin(
        &self,
        session: SessionId,
        sequences: impl IntoIterator<Item = u64>,
    ) -> ApiResult<HashSet<u64>> {
        let wanted: HashSet<u64> = {
            let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
            let known = pinned.get(&session);
            let is_new = |n: &u64| known.is_none_or(|known| !known.contains(n));
            sequences.into_iter().filter(is_new).collect()
        };
        if wanted.is_empty() {
            return Ok(HashSet::new());
        }
        let list: Vec<u64> = wanted.iter().copied().collect();
        let refused: HashSet<u64> = self
            .catalog
            .pin_packs(session, &list, clock::now())
            .await?
            .into_iter()
            .collect();
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned
            .entry(session)
            .or_default()
            .extend(wanted.difference(&refused));
        Ok(refused)
    }

    /// Forgets what was pinned by sessions that are no longer open.
    pub(crate) fn keep_pins_of(&self, open: &HashSet<SessionId>) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.retain(|session, _| open.contains(session));
    }
}
