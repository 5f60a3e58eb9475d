//! The index itself.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use model::VaultId;
use store::EntryId;

use crate::error::{IndexError, failed};
use crate::value::{Place, decode, encode};

/// Changes with every change of keys or values.
const FORMAT: &[u8] = b"1";
/// What reopening has to read again at most; the least the store takes.
const JOURNAL_BYTES: u64 = 64 * model::MIB;
const KEY_LEN: usize = 12;
const MOST_ENTRIES: usize = 1 << 24;

// Kept beside the places, under keys that are shorter than theirs: a second tree that is hardly written would hold
// back the journal of this one, and reopening would take as long as filling.
const META_FORMAT: &[u8] = b"format";
const META_VAULT: &[u8] = b"vault";
const META_APPLIED: &[u8] = b"applied";

type Key = [u8; KEY_LEN];

/// Where the index is and what it may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder; nothing else may be in it.
    pub folder: PathBuf,
    /// The vault it is of; the index of another one is wiped.
    pub vault: VaultId,
    /// Memory for blocks read from disk, in bytes.
    pub cache_bytes: u64,
    /// Memory for what is not yet written out, in bytes.
    pub write_buffer_bytes: u64,
}

impl Options {
    /// Returns the options for a folder with modest memory: 32 MiB of cache, 16 MiB of write buffer.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, vault: VaultId) -> Self {
        Self {
            folder: folder.into(),
            vault,
            cache_bytes: 32 * model::MIB,
            write_buffer_bytes: 16 * model::MIB,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An index in good order.
    Existing,
    /// None that could be used: an empty one was made and is to be filled from the first pack on.
    Rebuilt {
        /// What was wrong with the one before.
        why: String,
    },
}

/// The index. Calls block; use it from a blocking pool.
pub struct ChunkIndex {
    // Before the database: its handle must be gone when that closes.
    tree: Keyspace,
    database: Database,
    /// How far it got; held while a pack is added.
    applied: Mutex<u64>,
}

impl std::fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkIndex").finish_non_exhaustive()
    }
}

impl ChunkIndex {
    /// Opens the index, or makes an empty one where there is none that can be used.
    ///
    /// # Errors
    /// [`IndexError::InUse`] where another process has it; a failure where not even an empty one can be made.
    pub fn open(options: &Options) -> Result<(Self, Opened), IndexError> {
        let why = if options.folder.join("version").exists() || has_files(&options.folder) {
            match try_open(options) {
                Ok(Some(index)) => return Ok((index, Opened::Existing)),
                Ok(None) => "it is of another vault or format, or was never finished".to_owned(),
                Err(fjall::Error::Locked) => {
                    return Err(IndexError::InUse {
                        path: options.folder.clone(),
                    });
                }
                Err(error) => format!("it cannot be opened: {error}"),
            }
        } else {
            "there was none".to_owned()
        };
        tracing::info!(
            "making the chunk index at {} anew: {why}",
            options.folder.display()
        );
        Ok((Self::make(options)?, Opened::Rebuilt { why }))
    }

    fn make(options: &Options) -> Result<Self, IndexError> {
        match fs::remove_dir_all(&options.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove")(error)),
        }
        fs::create_dir_all(&options.folder).map_err(failed("make a folder for"))?;
        let (database, tree) = handles(options).map_err(failed("make"))?;
        let index = Self {
            tree,
            database,
            applied: Mutex::new(0),
        };
        index
            .write_meta(&options.vault.to_string(), 0)
            .map_err(failed("make"))?;
        Ok(index)
    }

    fn write_meta(&self, vault: &str, applied: u64) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch();
        batch.insert(&self.tree, META_FORMAT, FORMAT);
        batch.insert(&self.tree, META_VAULT, vault.as_bytes());
        batch.insert(&self.tree, META_APPLIED, applied.to_le_bytes());
        batch.commit()
    }

    /// Returns how far it got: every pack up to this sequence that was there when it was read is in.
    pub fn applied_sequence(&self) -> u64 {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a pack: what its entries hold, in the order of its footer. All of it or nothing, and with it how far the
    /// index got.
    ///
    /// Packs are added in the order of their sequences; one that is in already changes nothing and gives `false`.
    /// Sequences may have gaps: a pack between that was deleted is passed over.
    pub fn add_pack(&self, sequence: u64, entries: &[EntryId]) -> Result<bool, IndexError> {
        if entries.len() > MOST_ENTRIES {
            return Err(IndexError::TooManyEntries {
                entries: entries.len(),
            });
        }
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if sequence <= *applied {
            return Ok(false);
        }
        // An entry may be in the pack twice, or share its key with another.
        let mut changed: HashMap<Key, Vec<Place>> = HashMap::with_capacity(entries.len());
        for (entry, id) in (0u32..).zip(entries) {
            let place = Place { sequence, entry };
            let key = key_of(id);
            let places = match changed.entry(key) {
                std::collections::hash_map::Entry::Occupied(places) => places.into_mut(),
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(self.read(&key)?)
                }
            };
            if !places.contains(&place) {
                places.insert(0, place);
            }
        }
        // In the order of keys, which is the order the store wants.
        let mut changed: Vec<_> = changed.into_iter().collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        let mut batch = self.database.batch();
        for (key, places) in &changed {
            batch.insert(&self.tree, &key[..], encode(places));
        }
        batch.insert(&self.tree, META_APPLIED, sequence.to_le_bytes());
        batch.commit().map_err(failed("write to"))?;
        *applied = sequence;
        Ok(true)
    }

    /// Notes that packs up to `sequence` need not be added: they no longer exist.
    pub fn skip_to(&self, sequence: u64) -> Result<(), IndexError> {
        self.add_pack(sequence, &[]).map(drop)
    }

    /// Returns the candidates for each id, newest first; none where nothing is known.
    pub fn look_up(&self, ids: &[EntryId]) -> Result<Vec<Vec<Place>>, IndexError> {
        ids.iter().map(|id| self.read(&key_of(id))).collect()
    }

    /// Removes what is known of a pack that was deleted; `entries` are those of its footer.
    pub fn remove_pack(&self, sequence: u64, entries: &[EntryId]) -> Result<(), IndexError> {
        let _held = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<Key> = entries.iter().map(key_of).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut batch = self.database.batch();
        for key in keys {
            let before = self.read(&key)?;
            let after: Vec<Place> = before
                .iter()
                .copied()
                .filter(|place| place.sequence != sequence)
                .collect();
            if after.is_empty() && !before.is_empty() {
                batch.remove(&self.tree, &key[..]);
            } else if after.len() != before.len() {
                batch.insert(&self.tree, &key[..], encode(&after));
            }
        }
        batch.commit().map_err(failed("write to"))
    }

    /// Empties the index; it is to be filled from the first pack on.
    pub fn wipe(&self) -> Result<(), IndexError> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let vault = self.tree.get(META_VAULT).map_err(failed("empty"))?;
        // Cut short after this, it says nothing of itself and is made anew when opened.
        self.tree.clear().map_err(failed("empty"))?;
        *applied = 0;
        let vault = vault
            .map(|vault| String::from_utf8_lossy(&vault).into_owned())
            .unwrap_or_default();
        self.write_meta(&vault, 0).map_err(failed("empty"))
    }

    /// Returns roughly how many keys it holds.
    #[must_use]
    pub fn approximate_len(&self) -> usize {
        self.tree.approximate_len()
    }

    /// Returns how many bytes it takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    fn read(&self, key: &Key) -> Result<Vec<Place>, IndexError> {
        let value = self.tree.get(key).map_err(failed("read"))?;
        Ok(value.map(|value| decode(&value)).unwrap_or_default())
    }
}

fn has_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn handles(options: &Options) -> Result<(Database, Keyspace), fjall::Error> {
    let database = Database::builder(&options.folder)
        .cache_size(options.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES)
        .worker_threads(2)
        .open()?;
    let buffer = options.write_buffer_bytes.max(model::MIB);
    let tree = database.keyspace("places", || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(buffer)
            .expect_point_read_hits(false)
    })?;
    Ok((database, tree))
}

/// Opens what is there; `None` where it is not the index that is asked for.
fn try_open(options: &Options) -> Result<Option<ChunkIndex>, fjall::Error> {
    let (database, tree) = handles(options)?;
    let vault = options.vault.to_string();
    let same_format = tree
        .get(META_FORMAT)?
        .is_some_and(|format| *format == *FORMAT);
    let same_vault = tree
        .get(META_VAULT)?
        .is_some_and(|found| *found == *vault.as_bytes());
    let applied = tree
        .get(META_APPLIED)?
        .and_then(|bytes| <[u8; 8]>::try_from(&*bytes).ok());
    let Some(applied) = applied.filter(|_| same_format && same_vault) else {
        return Ok(None);
    };
    let applied = Mutex::new(u64::from_le_bytes(applied));
    Ok(Some(ChunkIndex {
        tree,
        database,
        applied,
    }))
}

fn key_of(id: &EntryId) -> Key {
    let mut key = [0; KEY_LEN];
    for (to, from) in key.iter_mut().zip(id.as_bytes()) {
        *to = *from;
    }
    key
}
