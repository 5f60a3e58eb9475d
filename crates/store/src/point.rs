//! Recovery point objects: the commit of a backup, or the void that makes a late commit fail.
//!
//! Layout: [`crate::format::point`].

use model::{Fence, JobId, PointId, RecoveryPoint, VmId};
use serde::{Deserialize, Serialize};

use crate::format::point as layout;
use crate::{FormatError, KeyError, Salt, VaultKeys};

/// What takes a point's name so that a late put fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidRecord {
    /// The point that will never be.
    pub id: PointId,
    /// Why, for people.
    pub reason: String,
    /// When it was voided.
    pub voided: model::Timestamp,
}

/// What lies under a point's name.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, and nearly always a point"
)]
pub enum PointObject {
    /// A recovery point.
    Point(RecoveryPoint),
    /// A void.
    Void(VoidRecord),
}

/// Why a point object cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// The bytes are not valid or not authentic.
    #[error("recovery point {point} cannot be read")]
    Format {
        /// The point asked for.
        point: PointId,
        /// What is wrong.
        source: FormatError,
    },
    /// No key for it.
    #[error("no key for recovery point {point}")]
    Key {
        /// The point asked for.
        point: PointId,
        /// Why.
        source: KeyError,
    },
}

impl PointError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> crate::ErrorKind {
        match self {
            PointError::Format { source, .. } => source.kind(),
            PointError::Key { source, .. } => source.kind(),
        }
    }
}

/// Returns the id of the point that this attempt of a job makes for a VM: one attempt can make only one.
#[must_use]
pub fn point_id(job: JobId, vm: VmId, fence: Fence) -> PointId {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(b"reprise point id v1")
        .update(job.0.as_bytes())
        .update(vm.0.as_bytes())
        .update(&fence.0.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    PointId(uuid::Uuid::from_bytes(id))
}

/// Seals a recovery point: the bytes of the object `points/<id>`.
pub fn seal_point(
    point: &RecoveryPoint,
    keys: &VaultKeys,
    salt: Salt,
) -> Result<Vec<u8>, PointError> {
    layout::seal(
        point.id,
        &layout::Body::Point {
            point: Box::new(point.clone()),
        },
        keys,
        salt,
    )
}

/// Seals a void: the bytes of the object `points/<id>` of a point that will never be.
pub fn seal_void(void: &VoidRecord, keys: &VaultKeys, salt: Salt) -> Result<Vec<u8>, PointError> {
    layout::seal(
        void.id,
        &layout::Body::Void { void: void.clone() },
        keys,
        salt,
    )
}

/// Opens what lies under the name of the point `id`.
pub fn open_point(id: PointId, bytes: &[u8], keys: &VaultKeys) -> Result<PointObject, PointError> {
    let wrong = |why: &str| PointError::Format {
        point: id,
        source: FormatError::invalid(layout::WHAT, why),
    };
    match layout::open(id, bytes, keys)? {
        layout::Body::Point { point } if point.id == id => Ok(PointObject::Point(*point)),
        layout::Body::Void { void } if void.id == id => Ok(PointObject::Void(void)),
        layout::Body::Point { .. } | layout::Body::Void { .. } => {
            Err(wrong("it is another point's"))
        }
    }
}
