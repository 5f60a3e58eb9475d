//! Free space while data is being written: a restore stops before it touches the reserve, and waits in the queue with what
//! it wrote until there is room.

use std::time::Duration;

use plan::restore::ReservePolicy;
use tracing::warn;

use super::Restore;
use crate::job::JobError;

/// How often free space is looked at.
const LOOK: Duration = Duration::from_secs(5);

impl Restore<'_> {
    /// Waits for `work`; ends the pipeline and fails where a volume of the host runs into its reserve meanwhile.
    pub(super) async fn while_there_is_room<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, JobError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(LOOK) => {
                    if let Some(error) = self.out_of_room().await {
                        self.context.pipeline_cancel().cancel();
                        work.await;
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn out_of_room(&self) -> Option<JobError> {
        let reserve: ReservePolicy = self.shared.options.reserve;
        let volumes = match self.shared.host.volumes().await {
            Ok(volumes) => volumes,
            Err(error) => {
                warn!(job.id = %self.context.job, "cannot look at free space: {error}");
                return None;
            }
        };
        let planned = self.volumes();
        let short = volumes.iter().find(|volume| {
            let concerned = planned
                .iter()
                .any(|path| model::host_path::same(path, &volume.path));
            concerned && volume.free_bytes < reserve.bytes(volume.capacity_bytes)
        })?;
        // The data stays, and so does the room it takes: whoever makes more lets the job go on.
        Some(JobError::NotReady(format!(
            "volume {} ran low while the restore was writing: {} bytes free, {} bytes must stay free; free space on it and the restore goes on, or cancel the job to give up what was written",
            short.path,
            short.free_bytes,
            reserve.bytes(short.capacity_bytes)
        )))
    }
}
