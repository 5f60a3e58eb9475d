//! Layout of a recovery point object, version 1.
//!
//! ```text
//! magic "REPRPNT1" [8], version u32, generation u32, salt [16], sealed JSON (AES-256-GCM), tag of 16 bytes
//! ```
//!
//! Key: HKDF-SHA256(data key of the generation, salt, "reprise point key v1"); nonce zero; associated data: the 32 bytes
//! before the seal and the point's id (16 bytes), so that an object under another name does not open.
//! The JSON is `{"kind":"point","point":{…}}` with [`model::RecoveryPoint`], or `{"kind":"void","void":{…}}`.
//! Fields may be added to it within a version, never renamed or given another meaning.

use model::{PointId, RecoveryPoint};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use serde::{Deserialize, Serialize};

use super::Cursor;
use crate::point::PointError;
use crate::{FormatError, Salt, VaultKeys, VoidRecord};

pub(crate) const WHAT: &str = "recovery point object";

/// Magic bytes of a recovery point object.
pub const MAGIC: [u8; 8] = *b"REPRPNT1";
/// The most bytes of a recovery point object that are ever accepted.
pub const MAX_BYTES: usize = 64 << 20;
const HEADER_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Body {
    Point { point: Box<RecoveryPoint> },
    Void { void: VoidRecord },
}

pub(crate) fn seal(
    id: PointId,
    body: &Body,
    keys: &VaultKeys,
    salt: Salt,
) -> Result<Vec<u8>, PointError> {
    let generation = keys.current_generation();
    let key = keys
        .point_key(generation, salt)
        .map_err(|source| PointError::Key { point: id, source })?;
    let mut object = Vec::new();
    object.extend_from_slice(&MAGIC);
    object.extend_from_slice(&1u32.to_le_bytes());
    object.extend_from_slice(&generation.to_le_bytes());
    object.extend_from_slice(&salt.0);
    let context = context(&object, id);
    let mut json = serde_json::to_vec(body).map_err(|source| PointError::Format {
        point: id,
        source: FormatError::invalid(WHAT, source.to_string()),
    })?;
    key.seal_in_place_append_tag(nonce(), Aad::from(&context), &mut json)
        .expect("AES-GCM seals far more than a recovery point");
    object.extend_from_slice(&json);
    Ok(object)
}

pub(crate) fn open(id: PointId, object: &[u8], keys: &VaultKeys) -> Result<Body, PointError> {
    let wrong = |source| PointError::Format { point: id, source };
    let (generation, salt) = decode_header(object).map_err(wrong)?;
    let key = keys
        .point_key(generation, salt)
        .map_err(|source| PointError::Key { point: id, source })?;
    let (header, sealed) = object.split_at(HEADER_BYTES);
    let mut sealed = sealed.to_vec();
    let json = key
        .open_in_place(nonce(), Aad::from(&context(header, id)), &mut sealed)
        .map_err(|_| wrong(FormatError::NotAuthentic { what: WHAT }))?;
    serde_json::from_slice(json)
        .map_err(|source| wrong(FormatError::invalid(WHAT, source.to_string())))
}

fn decode_header(object: &[u8]) -> Result<(u32, Salt), FormatError> {
    if object.len() > MAX_BYTES {
        return Err(FormatError::invalid(
            WHAT,
            format!("{} bytes are more than {MAX_BYTES}", object.len()),
        ));
    }
    let mut cursor = Cursor::new(WHAT, object);
    cursor.opening(MAGIC)?;
    Ok((cursor.u32()?, Salt(cursor.array()?)))
}

fn context(header: &[u8], id: PointId) -> Vec<u8> {
    [header, id.0.as_bytes()].concat()
}

// The key is used once: its salt is random and for this object alone.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
