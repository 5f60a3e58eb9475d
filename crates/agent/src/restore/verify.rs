//! The step `verify`: what is on the host is read back and compared, and the VM looked at (S17).

use std::sync::Arc;

use model::{HumanBytes, VmId, host_path};
use pipeline::{Options, WrittenPieces, image_digest, verify_image};
use plan::restore::{RestoreKind, RestorePlan};
use vhdx::Disk;

use super::Restore;
use super::chains::ChainContent;
use super::disks::{Written, WrittenDisk};
use super::swap::over;
use super::tree::difference;
use crate::errors::{chain_error, host_error, task_error, verify_error};
use crate::job::{JobContext, JobError};

/// What a disk file must read as.
enum Expected {
    /// What was written into it.
    Pieces(WrittenPieces),
    /// What its chain read as before it was merged.
    Content(ChainContent),
}

impl Expected {
    fn size_bytes(&self) -> u64 {
        match self {
            Expected::Pieces(pieces) => pieces.image_bytes(),
            Expected::Content(content) => content.size_bytes,
        }
    }
}

/// Compares a disk with what its chain read as; a merged one must stand alone.
fn same_content(
    path: &str,
    content: &ChainContent,
    disk: &Disk,
    options: &Options,
) -> Result<(), JobError> {
    let failed = |what: String| {
        JobError::failed("verify-failed", format!("{path}: {what}"))
            .hint("check the host's storage, then restore again")
    };
    if disk.layers().len() != content.files {
        return Err(failed(format!(
            "it is made of {} files instead of {}",
            disk.layers().len(),
            content.files
        )));
    }
    if disk.size() != content.size_bytes {
        return Err(failed(format!(
            "it has {} bytes instead of {}",
            disk.size(),
            content.size_bytes
        )));
    }
    let found = image_digest(disk, options).map_err(|error| verify_error(path, error))?;
    if found == content.digest {
        Ok(())
    } else {
        Err(failed("it does not read as its chain did".to_owned()))
    }
}

impl Restore<'_> {
    pub(super) async fn verify(
        &self,
        plan: &RestorePlan,
        written: &Written,
        vm: Option<VmId>,
    ) -> Result<((), String), JobError> {
        if let RestoreKind::OnVm(vm) = &plan.kind {
            // Its guest may be writing to them by now: they were read back before it got them.
            self.look_at_disks(plan, vm).await?;
            let detail = format!(
                "VM {:?} has the {} disks that were read back",
                vm.name,
                plan.disks.len()
            );
            return Ok(((), detail));
        }
        let mut detail = match written.kept {
            // They were read back before the VM that was there made room, and have been renamed since.
            Some(_) => "the disks that were read back are in place".to_owned(),
            None => {
                let bytes = self.read_back(written, false).await?;
                format!(
                    "{} read back and equal to the recovery point",
                    HumanBytes(bytes)
                )
            }
        };
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
    /// `staged`: new disks do not have their names yet.
    pub(super) async fn read_back(&self, written: &Written, staged: bool) -> Result<u64, JobError> {
        let context = Arc::clone(self.context);
        let files = Arc::clone(&self.shared.files);
        let expected = |disk: &WrittenDisk| {
            let flat = disk.flat.as_ref();
            let expected = match (&disk.content, flat.map(|flat| flat.pieces.clone())) {
                (Some(content), _) => Some(Expected::Content(content.clone())),
                (None, pieces) => pieces.map(Expected::Pieces),
            };
            let at = flat.filter(|_| staged).map(|flat| &flat.staged);
            (at.unwrap_or(&disk.plan.target_path).clone(), expected)
        };
        let disks = written.disks.iter().filter(|_| written.tree.is_empty());
        let tips = written
            .tips
            .iter()
            .map(|(path, content)| (path.clone(), Some(Expected::Content(content.clone()))));
        let disks: Vec<_> = disks.map(expected).chain(tips).collect();
        let sizes = disks
            .iter()
            .map(|(_, expected)| expected.as_ref().map_or(0, Expected::size_bytes));
        let total = sizes.sum();
        context.set_progress(0, total);
        let reading = tokio::task::spawn_blocking(move || {
            for (path, expected) in &disks {
                let expected = expected.as_ref().ok_or_else(|| {
                    JobError::failed("verify-failed", format!("{path} was never written"))
                })?;
                let disk = files.open_chain(path).map_err(chain_error)?.into_disk();
                let options = JobContext::pipeline_options(&context);
                match expected {
                    Expected::Pieces(pieces) => {
                        verify_image(pieces, &disk, &options)
                            .map_err(|error| verify_error(path, error))?;
                    }
                    Expected::Content(content) => same_content(path, content, &disk, &options)?,
                }
                context.end_part(expected.size_bytes());
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
        let stay = over(plan).into_iter().flat_map(|over| &over.stay);
        let stay = stay
            .filter(|disk| disk.excluded.is_some())
            .map(|disk| &disk.path);
        let expected = plan.disks.iter().map(|disk| &disk.target_path);
        let expected: Vec<&String> = expected.chain(stay).collect();
        let missing = expected
            .iter()
            .find(|disk| !has.iter().any(|path| host_path::same(path, disk)));
        if let Some(missing) = missing {
            let message = format!("the registered VM {vm} does not have the disk {missing}");
            return Err(JobError::failed("verify-failed", message));
        }
        let surplus = has
            .iter()
            .find(|path| !expected.iter().any(|disk| host_path::same(path, disk)));
        if let Some(surplus) = surplus {
            let message = format!(
                "the registered VM {vm} has a disk {surplus} that the restore did not give it"
            );
            return Err(JobError::failed("verify-failed", message));
        }
        let stored = match plan.tree.is_empty() {
            true => &[][..],
            false => &self.work.point.checkpoints,
        };
        if let Some(difference) = difference(stored, &found.checkpoints) {
            let message = format!("the registered VM {vm} is not as it was: {difference}");
            return Err(JobError::failed("verify-failed", message));
        }
        Ok(())
    }
}
