//! The finish of a restore: what it took the place of is deleted. Exactly the files and folders of the record are; one
//! that a VM uses again is refused. It can be repeated until the record is gone.

use std::sync::Arc;

use api::agent_v1::ParkedWork;
use model::{HumanBytes, host_path};

use super::put_back::clear_folders;
use crate::errors::{files_error, host_error, task_error};
use crate::job::{JobContext, JobError};
use crate::worker::Shared;

/// Deletes what a restore keeps.
pub(crate) async fn release_kept(
    shared: &Arc<Shared>,
    context: &Arc<JobContext>,
    work: &ParkedWork,
) -> Result<(), JobError> {
    context
        .step("release", release(shared, context, work))
        .await
}

async fn release(
    shared: &Arc<Shared>,
    context: &Arc<JobContext>,
    work: &ParkedWork,
) -> Result<((), String), JobError> {
    let record = shared
        .record_of(work.of)
        .map_err(|error| JobError::failed("agent-data-folder", format!("{error:#}")))?;
    let Some(record) = record else {
        // An attempt before this one came so far.
        return Ok(((), format!("nothing of job {} is kept any more", work.of)));
    };
    for vm in shared.host.vms().await.map_err(host_error)? {
        let used = vm.config.disks().find(|(_, _, path)| {
            let mut kept = record.files.iter();
            kept.any(|file| host_path::same(&file.to, path))
        });
        if let Some((_, _, path)) = used {
            let message = format!(
                "{path}, which is to be deleted, is used by VM {:?}",
                vm.config.name
            );
            return Err(JobError::failed("parked-in-use", message)
                .hint("take the disk away from the VM, then finish again"));
        }
    }
    context.check()?;
    let files = Arc::clone(&shared.files);
    let (deleting, job) = (record.clone(), Arc::clone(context));
    let deleted = tokio::task::spawn_blocking(move || {
        for file in &deleting.files {
            job.check()?;
            files.delete(&file.to).map_err(files_error)?;
        }
        Ok::<_, JobError>(clear_folders(&files, &deleting))
    });
    for note in deleted.await.map_err(task_error)?? {
        context.note(note);
    }
    shared.forget(record.job)?;
    let bytes: u64 = record.files.iter().map(|file| file.bytes).sum();
    let count = record.files.len();
    Ok(((), format!("{count} files deleted ({})", HumanBytes(bytes))))
}
