//! Keys of a vault, who holds which, and how each is made from another.
//!
//! - `id key`: keyed BLAKE3 names of chunks and nodes; `cut key`: where chunks end. Both never change in the life of a
//!   vault; servers and agents hold them ([`SessionKeys`]).
//! - `data key`: one per generation; seals everything. Servers only ([`VaultKeys`]).
//! - `pack key`: HKDF-SHA256 of a data key and the pack's random salt. Agents get single ones: [`PackSeal`] to write one
//!   pack, [`PackKey`] to read one.
//! - `master key`: wraps the rest in the object `keys/<generation>` (see [`crate::format::keys`]).
//!
//! Invariant: a pack key seals one pack. [`PackSeal`] cannot be cloned and [`crate::PackWriter::new`] consumes it, salts
//! are 16 random bytes, and within a pack the nonce is the entry's number: key and nonce never meet twice.

use std::collections::BTreeMap;
use std::fmt;

use model::VaultId;
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::{ChunkId, Cutter, KeyError, NodeId};

/// The random part of a key: 16 bytes, stored in the clear.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// Returns a new random salt.
    pub fn random() -> Result<Self, KeyError> {
        random_bytes().map(Self)
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({self})")
    }
}

/// What names chunks and nodes and ends chunks. Never rotates. Agents may hold it.
#[derive(Clone)]
pub struct SessionKeys {
    id_key: Zeroizing<[u8; 32]>,
    cut_key: Zeroizing<[u8; 32]>,
    chunk_key: Zeroizing<[u8; 32]>,
    node_key: Zeroizing<[u8; 32]>,
}

impl SessionKeys {
    /// Takes the two keys as they were handed over.
    #[must_use]
    pub fn new(id_key: [u8; 32], cut_key: [u8; 32]) -> Self {
        let chunk_key = blake3::derive_key("reprise vault 2026 chunk id v1", &id_key);
        let node_key = blake3::derive_key("reprise vault 2026 node id v1", &id_key);
        Self {
            id_key: Zeroizing::new(id_key),
            cut_key: Zeroizing::new(cut_key),
            chunk_key: Zeroizing::new(chunk_key),
            node_key: Zeroizing::new(node_key),
        }
    }

    /// Returns the id of a chunk's plain bytes.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk_key, plain).as_bytes())
    }

    /// Returns the id of a node's plain bytes.
    #[must_use]
    pub fn node_id(&self, plain: &[u8]) -> NodeId {
        NodeId(*blake3::keyed_hash(&self.node_key, plain).as_bytes())
    }

    /// Returns what ends chunks by content.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        Cutter::new(&self.cut_key)
    }

    /// Returns the id key, to hand it to an agent over an authenticated connection.
    #[must_use]
    pub fn expose_id_key(&self) -> &[u8; 32] {
        &self.id_key
    }

    /// Returns the cut key, to hand it to an agent over an authenticated connection.
    #[must_use]
    pub fn expose_cut_key(&self) -> &[u8; 32] {
        &self.cut_key
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(..)")
    }
}

/// The key of one pack, to read it.
#[derive(Clone)]
pub struct PackKey {
    generation: u32,
    salt: Salt,
    key: Zeroizing<[u8; 32]>,
    cipher: LessSafeKey,
}

impl PackKey {
    /// Takes a pack key as it was handed over.
    #[must_use]
    pub fn from_parts(generation: u32, salt: Salt, key: [u8; 32]) -> Self {
        let cipher = cipher(&key);
        Self {
            generation,
            salt,
            key: Zeroizing::new(key),
            cipher,
        }
    }

    /// Returns the generation of the data key it comes from.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the pack's salt.
    #[must_use]
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// Returns the key, to hand it to an agent over an authenticated connection.
    #[must_use]
    pub fn expose_key(&self) -> &[u8; 32] {
        &self.key
    }

    pub(crate) fn cipher(&self) -> &LessSafeKey {
        &self.cipher
    }
}

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PackKey(generation {}, salt {}, ..)",
            self.generation, self.salt
        )
    }
}

/// The right to write one pack. Used up by [`crate::PackWriter::new`]; whoever hands it over must hand it over once.
pub struct PackSeal(PackKey);

impl PackSeal {
    /// Takes a seal as it was handed over. It must not have been used.
    #[must_use]
    pub fn from_parts(generation: u32, salt: Salt, key: [u8; 32]) -> Self {
        Self(PackKey::from_parts(generation, salt, key))
    }

    /// Returns the parts, to hand the seal over; it is gone here.
    #[must_use]
    pub fn into_parts(self) -> (u32, Salt, Zeroizing<[u8; 32]>) {
        (self.0.generation, self.0.salt, self.0.key)
    }

    /// Returns the generation of the data key it comes from.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// Returns the salt of the pack to be.
    #[must_use]
    pub fn salt(&self) -> Salt {
        self.0.salt
    }

    pub(crate) fn into_key(self) -> PackKey {
        self.0
    }
}

impl fmt::Debug for PackSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PackSeal(generation {}, salt {}, ..)",
            self.0.generation, self.0.salt
        )
    }
}

/// Where the keys of packs come from: all of them on a server, those handed out on an agent.
pub trait PackKeys {
    /// Returns the key of the pack with this salt.
    fn pack_key(&self, generation: u32, salt: Salt) -> Result<PackKey, KeyError>;
}

impl PackKeys for PackKey {
    fn pack_key(&self, generation: u32, salt: Salt) -> Result<PackKey, KeyError> {
        if (self.generation, self.salt) == (generation, salt) {
            return Ok(self.clone());
        }
        Err(KeyError::OtherPack {
            needed: salt.to_string(),
            found: self.salt.to_string(),
        })
    }
}

/// The secrets of one generation in the clear: what is wrapped by the master key and goes into a recovery kit.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyMaterial {
    /// The vault.
    pub vault: VaultId,
    /// The generation of the data key, from 1.
    pub generation: u32,
    /// Names chunks and nodes; the same in every generation.
    pub id_key: Zeroizing<[u8; 32]>,
    /// Ends chunks; the same in every generation.
    pub cut_key: Zeroizing<[u8; 32]>,
    /// Seals what is written in this generation.
    pub data_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KeyMaterial(vault {}, generation {}, ..)",
            self.vault, self.generation
        )
    }
}

/// The key that wraps the vault's keys: 32 bytes from a file, the environment or a command.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Takes the key's bytes.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Returns a new random key.
    pub fn random() -> Result<Self, KeyError> {
        random_bytes().map(Self::new)
    }

    /// Returns the key's bytes, to write them to the key file.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// All keys of a vault. Never leaves the server (or the program that opened a vault directly).
pub struct VaultKeys {
    vault: VaultId,
    session: SessionKeys,
    data_keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
    current: u32,
}

impl VaultKeys {
    /// Makes the keys of a new vault: generation 1.
    pub fn generate(vault: VaultId) -> Result<Self, KeyError> {
        Ok(Self::from_material(&KeyMaterial {
            vault,
            generation: 1,
            id_key: Zeroizing::new(random_bytes()?),
            cut_key: Zeroizing::new(random_bytes()?),
            data_key: Zeroizing::new(random_bytes()?),
        }))
    }

    /// Takes the secrets of one generation; more may be added.
    #[must_use]
    pub fn from_material(material: &KeyMaterial) -> Self {
        Self {
            vault: material.vault,
            session: SessionKeys::new(*material.id_key, *material.cut_key),
            data_keys: BTreeMap::from([(material.generation, material.data_key.clone())]),
            current: material.generation,
        }
    }

    /// Adds another generation of the same vault. The newest one seals from then on.
    pub fn add(&mut self, material: &KeyMaterial) -> Result<(), KeyError> {
        let same_names =
            material.id_key == self.session.id_key && material.cut_key == self.session.cut_key;
        if material.vault != self.vault || !same_names {
            return Err(KeyError::OtherVault {
                expected: self.vault,
                found: material.vault,
            });
        }
        self.data_keys
            .insert(material.generation, material.data_key.clone());
        self.current = self.current.max(material.generation);
        Ok(())
    }

    /// Returns the secrets of a generation, to wrap them.
    pub fn material(&self, generation: u32) -> Result<KeyMaterial, KeyError> {
        Ok(KeyMaterial {
            vault: self.vault,
            generation,
            id_key: self.session.id_key.clone(),
            cut_key: self.session.cut_key.clone(),
            data_key: self.data_key(generation)?.clone(),
        })
    }

    /// Makes the secrets of the next generation; they seal nothing until they were stored and given to [`Self::add`].
    pub fn next_generation(&self) -> Result<KeyMaterial, KeyError> {
        let mut material = self.material(self.current)?;
        material.generation = self
            .current
            .checked_add(1)
            .ok_or(KeyError::UnknownGeneration {
                generation: u32::MAX,
            })?;
        material.data_key = Zeroizing::new(random_bytes()?);
        Ok(material)
    }

    /// Returns the vault.
    #[must_use]
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Returns the generation that seals.
    #[must_use]
    pub fn current_generation(&self) -> u32 {
        self.current
    }

    /// Returns what an agent may hold.
    #[must_use]
    pub fn session(&self) -> &SessionKeys {
        &self.session
    }

    /// Returns the right to write one pack, under the newest generation.
    pub fn new_seal(&self) -> Result<PackSeal, KeyError> {
        self.seal_with(Salt::random()?)
    }

    /// Returns the right to write one pack with a given salt, which must never have been used.
    pub fn seal_with(&self, salt: Salt) -> Result<PackSeal, KeyError> {
        self.pack_key(self.current, salt).map(PackSeal)
    }

    /// Returns the key that seals the recovery point object with this salt.
    pub(crate) fn point_key(&self, generation: u32, salt: Salt) -> Result<LessSafeKey, KeyError> {
        Ok(cipher(&derive(
            self.data_key(generation)?,
            salt,
            b"reprise point key v1",
        )))
    }

    pub(crate) fn first_data_key(&self) -> &Zeroizing<[u8; 32]> {
        self.data_keys
            .values()
            .next()
            .expect("keys are made with a generation")
    }

    fn data_key(&self, generation: u32) -> Result<&Zeroizing<[u8; 32]>, KeyError> {
        self.data_keys
            .get(&generation)
            .ok_or(KeyError::UnknownGeneration { generation })
    }
}

impl PackKeys for VaultKeys {
    fn pack_key(&self, generation: u32, salt: Salt) -> Result<PackKey, KeyError> {
        let key = derive(self.data_key(generation)?, salt, b"reprise pack key v1");
        Ok(PackKey::from_parts(generation, salt, *key))
    }
}

impl fmt::Debug for VaultKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VaultKeys(vault {}, generations {:?}, ..)",
            self.vault,
            self.data_keys.keys()
        )
    }
}

/// HKDF-SHA256 to 32 bytes.
pub(crate) fn derive(secret: &[u8; 32], salt: Salt, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let purposes = [purpose];
    hkdf::Salt::new(hkdf::HKDF_SHA256, &salt.0)
        .extract(secret)
        .expand(&purposes, hkdf::HKDF_SHA256)
        .and_then(|out| out.fill(&mut *key))
        .expect("HKDF-SHA256 gives 32 bytes");
    key
}

pub(crate) fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes"))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::NoRandom)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_seal_has_its_own_key() {
        let keys = VaultKeys::generate(VaultId::random()).unwrap();
        let seals: HashSet<[u8; 32]> = (0..2000)
            .map(|_| *keys.new_seal().unwrap().into_parts().2)
            .collect();
        assert_eq!(seals.len(), 2000);
    }

    #[test]
    fn generations_share_names_but_no_pack_key() {
        let mut keys = VaultKeys::generate(VaultId::random()).unwrap();
        let next = keys.next_generation().unwrap();
        let (chunk, salt) = (keys.session().chunk_id(b"x"), Salt([3; 16]));
        assert_eq!(keys.new_seal().unwrap().generation(), 1);
        keys.add(&next).unwrap();
        assert_eq!(keys.new_seal().unwrap().generation(), 2);
        assert_eq!(keys.session().chunk_id(b"x"), chunk);
        let (old, new) = (
            keys.pack_key(1, salt).unwrap(),
            keys.pack_key(2, salt).unwrap(),
        );
        assert_ne!(old.expose_key(), new.expose_key());
        assert!(matches!(
            keys.pack_key(3, salt),
            Err(KeyError::UnknownGeneration { generation: 3 })
        ));
        let stranger = VaultKeys::generate(VaultId::random()).unwrap();
        assert!(keys.add(&stranger.material(1).unwrap()).is_err());
    }

    #[test]
    fn chunks_and_nodes_of_the_same_bytes_have_other_names() {
        let session = SessionKeys::new([1; 32], [2; 32]);
        assert_ne!(session.chunk_id(b"same").0, session.node_id(b"same").0);
        assert_ne!(
            session.chunk_id(b"same").0,
            SessionKeys::new([9; 32], [2; 32]).chunk_id(b"same").0
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let keys = VaultKeys::generate(VaultId::random()).unwrap();
        let material = keys.material(1).unwrap();
        let seal = keys.new_seal().unwrap();
        let shown = format!(
            "{keys:?} {:?} {material:?} {seal:?} {:?}",
            keys.session(),
            MasterKey::new(*material.data_key)
        );
        let key = seal.into_parts().2;
        for secret in [
            &material.id_key,
            &material.cut_key,
            &material.data_key,
            &key,
        ] {
            assert!(!shown.contains(&hex::encode(&secret[..4])));
        }
    }
}
