//! Layout of the object `keys/<generation>`, version 1, and of what a recovery kit holds.
//!
//! ```text
//! magic "REPRKEYS" [8], version u32, vault id [16], generation u32, number of wraps u32
//! wraps    each: type u16, length of its label u16, length of its bytes u32, label (UTF-8), bytes
//! end      BLAKE3 of everything before [32]
//! ```
//!
//! Types of wraps: 1 = master key: salt \[16\], then the key material sealed with AES-256-GCM; key: HKDF-SHA256(master key,
//! salt, "reprise wrap key v1"); nonce zero; associated data: "reprise wrap 1", vault id, generation u32.
//! 2 = recovery kit: the key material encrypted with `age` to the kit's recipient (whoever makes the kit does that).
//! A reader skips types it does not know. A new revision of the object has other wraps of the same material.
//!
//! Key material, 128 bytes: magic "REPRKMAT", version u32, generation u32, vault id \[16\], id key \[32\], cut key \[32\],
//! data key \[32\].

use model::VaultId;
use ring::aead::{Aad, NONCE_LEN, Nonce};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Cursor;
use crate::keys::{cipher, derive};
use crate::{FormatError, KeyError, KeyMaterial, MasterKey, Salt};

const WHAT: &str = "keys object";

/// Magic bytes of a keys object.
pub const MAGIC: [u8; 8] = *b"REPRKEYS";
/// Magic bytes of key material.
pub const MATERIAL_MAGIC: [u8; 8] = *b"REPRKMAT";
/// Bytes of key material.
pub const MATERIAL_BYTES: usize = 128;
/// The most bytes of a keys object that are ever accepted.
pub const MAX_BYTES: usize = 1 << 20;
/// The most wraps of a keys object.
pub const MAX_WRAPS: u32 = 64;

/// By what a wrap opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapKind {
    /// The master key.
    Master,
    /// The recovery kit, through `age`.
    RecoveryKit,
    /// One this program does not know.
    Unknown(u16),
}

impl WrapKind {
    fn code(self) -> u16 {
        match self {
            WrapKind::Master => 1,
            WrapKind::RecoveryKit => 2,
            WrapKind::Unknown(code) => code,
        }
    }
}

/// The key material, closed in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// By what it opens.
    pub kind: WrapKind,
    /// Tells wraps apart for people, such as the kit's recipient.
    pub label: String,
    /// The closed bytes.
    pub bytes: Vec<u8>,
}

/// What is stored under `keys/<generation>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysObject {
    /// The vault.
    pub vault: VaultId,
    /// The generation.
    pub generation: u32,
    /// The ways to its keys.
    pub wraps: Vec<Wrap>,
}

impl KeysObject {
    /// Starts without any wrap.
    #[must_use]
    pub fn new(material: &KeyMaterial) -> Self {
        Self {
            vault: material.vault,
            generation: material.generation,
            wraps: Vec::new(),
        }
    }

    /// Adds a wrap by a master key.
    pub fn wrap_with_master(
        &mut self,
        material: &KeyMaterial,
        master: &MasterKey,
        salt: Salt,
    ) -> Result<(), KeyError> {
        if (material.vault, material.generation) != (self.vault, self.generation) {
            return Err(KeyError::OtherVault {
                expected: self.vault,
                found: material.vault,
            });
        }
        let mut bytes = Zeroizing::new(encode_material(material).to_vec());
        bytes.reserve_exact(16);
        let key = cipher(&derive(master.expose(), salt, b"reprise wrap key v1"));
        let tag = key
            .seal_in_place_separate_tag(nonce(), Aad::from(self.context()), &mut bytes)
            .expect("AES-GCM seals far more than key material");
        let bytes = [&salt.0, &bytes[..], tag.as_ref()].concat();
        self.wraps.push(Wrap {
            kind: WrapKind::Master,
            label: "master key".to_owned(),
            bytes,
        });
        Ok(())
    }

    /// Opens the wrap that belongs to this master key.
    pub fn unwrap_with_master(&self, master: &MasterKey) -> Result<KeyMaterial, KeyError> {
        for wrap in self
            .wraps
            .iter()
            .filter(|wrap| wrap.kind == WrapKind::Master)
        {
            let Some((salt, sealed)) = wrap.bytes.split_first_chunk::<16>() else {
                continue;
            };
            let key = cipher(&derive(
                master.expose(),
                Salt(*salt),
                b"reprise wrap key v1",
            ));
            let mut sealed = Zeroizing::new(sealed.to_vec());
            if let Ok(plain) = key.open_in_place(nonce(), Aad::from(self.context()), &mut sealed) {
                return self.check_material(plain);
            }
        }
        Err(KeyError::NoWrapOpens)
    }

    /// Takes key material that came out of a wrap opened elsewhere (the recovery kit).
    pub fn check_material(&self, material: &[u8]) -> Result<KeyMaterial, KeyError> {
        let material = decode_material(material).map_err(KeyError::Format)?;
        if (material.vault, material.generation) != (self.vault, self.generation) {
            return Err(KeyError::OtherVault {
                expected: self.vault,
                found: material.vault,
            });
        }
        Ok(material)
    }

    /// Returns the bytes of the object.
    pub fn encode(&self) -> Result<Vec<u8>, KeyError> {
        let too_large = || {
            KeyError::Format(FormatError::invalid(
                WHAT,
                "more or larger wraps than it may hold",
            ))
        };
        let count = u32::try_from(self.wraps.len())
            .ok()
            .filter(|&n| n <= MAX_WRAPS)
            .ok_or_else(too_large)?;
        let mut object = Vec::new();
        object.extend_from_slice(&MAGIC);
        object.extend_from_slice(&1u32.to_le_bytes());
        object.extend_from_slice(self.vault.0.as_bytes());
        object.extend_from_slice(&self.generation.to_le_bytes());
        object.extend_from_slice(&count.to_le_bytes());
        for wrap in &self.wraps {
            let label_len = u16::try_from(wrap.label.len()).map_err(|_| too_large())?;
            let len = u32::try_from(wrap.bytes.len()).map_err(|_| too_large())?;
            object.extend_from_slice(&wrap.kind.code().to_le_bytes());
            object.extend_from_slice(&label_len.to_le_bytes());
            object.extend_from_slice(&len.to_le_bytes());
            object.extend_from_slice(wrap.label.as_bytes());
            object.extend_from_slice(&wrap.bytes);
        }
        let end = blake3::hash(&object);
        object.extend_from_slice(end.as_bytes());
        if object.len() > MAX_BYTES {
            Err(too_large())
        } else {
            Ok(object)
        }
    }

    /// Reads the bytes of the object.
    pub fn decode(object: &[u8]) -> Result<Self, KeyError> {
        decode_object(object).map_err(KeyError::Format)
    }

    fn context(&self) -> Vec<u8> {
        [
            b"reprise wrap 1".as_slice(),
            self.vault.0.as_bytes(),
            &self.generation.to_le_bytes(),
        ]
        .concat()
    }
}

fn decode_object(object: &[u8]) -> Result<KeysObject, FormatError> {
    let mut opening = Cursor::new(WHAT, object);
    opening.opening(MAGIC)?;
    let Some((body, end)) = object
        .split_last_chunk::<32>()
        .filter(|_| object.len() <= MAX_BYTES)
    else {
        return Err(FormatError::invalid(
            WHAT,
            format!("a length of {} bytes", object.len()),
        ));
    };
    if blake3::hash(body) != *end {
        return Err(FormatError::invalid(
            WHAT,
            "damaged: its checksum does not fit",
        ));
    }
    let mut cursor = Cursor::new(WHAT, body);
    cursor.opening(MAGIC)?;
    let vault = VaultId(Uuid::from_bytes(cursor.array()?));
    let (generation, count) = (cursor.u32()?, cursor.u32()?);
    if count > MAX_WRAPS {
        return Err(cursor.invalid(format!("{count} wraps")));
    }
    let mut wraps = Vec::new();
    for _ in 0..count {
        let (kind, label_len, len) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
        let label = String::from_utf8_lossy(cursor.take(label_len.into())?).into_owned();
        let bytes = cursor
            .take(usize::try_from(len).unwrap_or(usize::MAX))?
            .to_vec();
        let kind = match kind {
            1 => WrapKind::Master,
            2 => WrapKind::RecoveryKit,
            other => WrapKind::Unknown(other),
        };
        wraps.push(Wrap { kind, label, bytes });
    }
    cursor.end()?;
    Ok(KeysObject {
        vault,
        generation,
        wraps,
    })
}

/// Returns key material in the clear, to close it in a recovery kit.
#[must_use]
pub fn encode_material(material: &KeyMaterial) -> Zeroizing<[u8; MATERIAL_BYTES]> {
    let mut bytes = Zeroizing::new([0; MATERIAL_BYTES]);
    bytes[..8].copy_from_slice(&MATERIAL_MAGIC);
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&material.generation.to_le_bytes());
    bytes[16..32].copy_from_slice(material.vault.0.as_bytes());
    bytes[32..64].copy_from_slice(&*material.id_key);
    bytes[64..96].copy_from_slice(&*material.cut_key);
    bytes[96..].copy_from_slice(&*material.data_key);
    bytes
}

/// Reads key material.
pub fn decode_material(bytes: &[u8]) -> Result<KeyMaterial, FormatError> {
    let mut cursor = Cursor::new("key material", bytes);
    cursor.opening(MATERIAL_MAGIC)?;
    let generation = cursor.u32()?;
    let vault = VaultId(Uuid::from_bytes(cursor.array()?));
    let mut key = || cursor.array().map(Zeroizing::new);
    let material = KeyMaterial {
        vault,
        generation,
        id_key: key()?,
        cut_key: key()?,
        data_key: key()?,
    };
    cursor.end()?;
    Ok(material)
}

// A wrap key is used once: its salt is random and for this wrap alone.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
