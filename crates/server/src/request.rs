//! What a job was asked to do, as it is kept in the catalog.

use api::agent_v1::{BackupWork, ParkedWork};
use api::v1::AgreedPlan;
use catalog::Job;
use model::{PointId, RestoreWish};
use serde::{Deserialize, Serialize};

use crate::http::{ApiError, ApiResult};

/// A job's request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum JobRequest {
    /// Make a recovery point.
    Backup(BackupWork),
    /// Bring one back.
    Restore(Box<RestoreRequest>),
    /// Put back what a restore keeps beside.
    Undo(ParkedWork),
    /// Delete what a restore keeps beside.
    Release(ParkedWork),
    /// Read one whole and compare.
    Verify(VerifyRequest),
}

/// A restore with what was decided when it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RestoreRequest {
    /// The wish, with names resolved.
    pub(crate) wish: RestoreWish,
    /// What the job's log should say of the choice, such as newer points that were passed over.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// The plan that was agreed to.
    #[serde(default)]
    pub(crate) agreed: Option<AgreedPlan>,
}

/// A point to verify.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct VerifyRequest {
    /// Which.
    pub(crate) point: PointId,
}

impl JobRequest {
    /// Reads the request of a job.
    pub(crate) fn read(job: &Job) -> ApiResult<Self> {
        serde_json::from_value(job.request.clone()).map_err(|err| {
            ApiError::internal(
                anyhow::Error::new(err).context(format!("read request of {}", job.id)),
            )
        })
    }

    /// Returns the form the catalog keeps.
    pub(crate) fn to_value(&self) -> ApiResult<serde_json::Value> {
        serde_json::to_value(self).map_err(ApiError::internal)
    }
}
