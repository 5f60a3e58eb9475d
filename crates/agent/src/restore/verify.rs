//! The step `verify`: what is on the host is read back and compared, and the VM looked at (S17).

use std::sync::Arc;

use model::{HumanBytes, VmId, host_path};
use pipeline::verify_image;
use plan::restore::{RestoreKind, RestorePlan};

use super::Restore;
use super::disks::Written;
use crate::errors::{chain_error, host_error, task_error, verify_error};
use crate::job::{JobContext, JobError};

impl Restore<'_> {
    pub(super) async fn verify(
        &self,
        plan: &RestorePlan,
        written: &Written,
        vm: Option<VmId>,
    ) -> Result<((), String), JobError> {
        let bytes = self.read_back(written).await?;
        let mut detail = format!(
            "{} read back and equal to the recovery point",
            HumanBytes(bytes)
        );
        if let (RestoreKind::Vm(planned), Some(vm)) = (&plan.kind, vm) {
            self.look_at_vm(plan, vm).await?;
            detail.push_str(&format!(
                "; VM {:?} has its {} disks",
                planned.name,
                plan.disks.len()
            ));
        }
        Ok(((), detail))
    }

    /// Reads every disk file that was written, opened anew.
    async fn read_back(&self, written: &Written) -> Result<u64, JobError> {
        let context = Arc::clone(self.context);
        let files = Arc::clone(&self.shared.files);
        let disks: Vec<_> = written
            .disks
            .iter()
            .map(|disk| (disk.plan.target_path.clone(), disk.pieces.clone()))
            .collect();
        let total = disks.iter().map(|(_, pieces)| pieces.image_bytes()).sum();
        context.set_progress(0, total);
        let reading = tokio::task::spawn_blocking(move || {
            for (path, pieces) in &disks {
                let disk = files.open_chain(path).map_err(chain_error)?.into_disk();
                let options = JobContext::pipeline_options(&context);
                verify_image(pieces, &disk, &options).map_err(|error| verify_error(path, error))?;
                context.end_part(pieces.image_bytes());
            }
            Ok::<_, JobError>(())
        });
        reading.await.map_err(task_error)??;
        Ok(total)
    }

    /// The registered VM must have exactly the disks of the plan.
    async fn look_at_vm(&self, plan: &RestorePlan, vm: VmId) -> Result<(), JobError> {
        let found = self.shared.host.vm(vm).await.map_err(host_error)?;
        let has: Vec<&str> = found
            .summary
            .config
            .disks()
            .map(|(_, _, path)| path)
            .collect();
        let missing = plan.disks.iter().find(|disk| {
            !has.iter()
                .any(|path| host_path::same(path, &disk.target_path))
        });
        if let Some(missing) = missing {
            let message = format!(
                "the registered VM {vm} does not have the disk {}",
                missing.target_path
            );
            return Err(JobError::failed("verify-failed", message));
        }
        let surplus = has.iter().find(|path| {
            !plan
                .disks
                .iter()
                .any(|disk| host_path::same(path, &disk.target_path))
        });
        if let Some(surplus) = surplus {
            let message = format!(
                "the registered VM {vm} has a disk {surplus} that the restore did not give it"
            );
            return Err(JobError::failed("verify-failed", message));
        }
        if !found.checkpoints.is_empty() {
            let message = format!(
                "the registered VM {vm} has {} checkpoints; it should have none",
                found.checkpoints.len()
            );
            return Err(JobError::failed("verify-failed", message));
        }
        Ok(())
    }
}
