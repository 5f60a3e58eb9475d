//! What becomes of the marks an attempt left on a host.

use model::{Fence, JobId, PointId, Timestamp, VmId};

use super::finish::{committed_point, publishing_point};
use crate::{Catalog, CatalogError};

/// What to do with what carries the mark of a job and fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkVerdict {
    /// The attempt goes on, or its point is being committed: leave it.
    Alive,
    /// Its point is committed: convert the checkpoint.
    Committed(PointId),
    /// Nothing came of it: destroy it.
    Dead,
}

impl Catalog {
    /// Judges a mark. A job this catalog does not know is dead: its point could not have been committed here.
    pub async fn judge_mark(
        &self,
        job: JobId,
        fence: Fence,
        vm: VmId,
        now: Timestamp,
    ) -> Result<MarkVerdict, CatalogError> {
        let mut snapshot = self.snapshot("judge a mark").await?;
        let found = match super::load(&mut snapshot, job).await {
            Ok(found) => found,
            Err(CatalogError::NotFound { .. }) => return Ok(MarkVerdict::Dead),
            Err(error) => return Err(error),
        };
        if found.vm.as_ref().is_some_and(|target| target.id != vm) {
            return Ok(MarkVerdict::Dead);
        }
        if found.life.check_fence(fence, now).is_ok() {
            return Ok(MarkVerdict::Alive);
        }
        if let Some(point) = committed_point(&mut snapshot, job, fence).await? {
            return Ok(MarkVerdict::Committed(point));
        }
        if publishing_point(&mut snapshot, job).await?.is_some() {
            return Ok(MarkVerdict::Alive);
        }
        // Publishing needs a lease that holds, so what has none and no point will never have one.
        Ok(MarkVerdict::Dead)
    }
}
