//! The step `verify`: what is on the host is read back past the page cache and compared, and the VM looked at (S17).
//!
//! What was found is written into the journal as evidence, from which the server makes its receipt.

use std::sync::Arc;

use api::receipt::{DiskEvidence, Evidence, PlanDone, ReadBack, SlotEvidence, VmEvidence};
use hyperv::{CacheBypass, Checkpoint, HostFiles};
use model::{ControllerKind, HumanBytes, VmConfig, VmId, host_path};
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
            let found = self.shared.host.vm(vm.vm).await.map_err(host_error)?;
            let registered = registered(&found.summary.config, &found.checkpoints);
            self.journal
                .found(|evidence| evidence.vm = Some(registered))?;
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
                let (bytes, how) = self.read_back(plan, written, false).await?;
                format!(
                    "{} read back and equal to the recovery point ({how})",
                    HumanBytes(bytes)
                )
            }
        };
        if let (RestoreKind::Vm(planned), Some(vm)) = (&plan.kind, vm) {
            let registered = self.look_at_vm(plan, vm).await?;
            self.journal
                .found(|evidence| evidence.vm = Some(registered))?;
            detail.push_str(&format!(
                "; VM {:?} has its {} disks",
                planned.name,
                plan.disks.len()
            ));
        }
        Ok(((), detail))
    }

    /// Reads every disk that was written, opened anew past the page cache, and notes what was found. Returns how much, and
    /// how sure it is that it came from the volume. `staged`: new disks do not have their names yet.
    pub(super) async fn read_back(
        &self,
        plan: &RestorePlan,
        written: &Written,
        staged: bool,
    ) -> Result<(u64, &'static str), JobError> {
        let disks = written.disks.iter().filter(|_| written.tree.is_empty());
        let disks = disks.map(|disk| ToRead {
            disk: Some(disk.plan.disk.to_string()),
            source_path: disk.plan.source_path.clone(),
            path: disk
                .flat
                .as_ref()
                .filter(|_| staged)
                .map_or(&disk.plan.target_path, |flat| &flat.staged)
                .clone(),
            expected: expected(disk),
        });
        let tips = written.tips.iter().map(|(path, content)| {
            let of_tree = plan
                .tree
                .iter()
                .find(|file| host_path::same(&file.target_path, path));
            let of_vm = plan
                .disks
                .iter()
                .find(|disk| host_path::same(&disk.target_path, path));
            ToRead {
                disk: of_vm.map(|disk| disk.disk.to_string()),
                source_path: of_tree.map_or_else(|| path.clone(), |file| file.source_path.clone()),
                path: path.clone(),
                expected: Some(Expected::Content(content.clone())),
            }
        });
        let disks: Vec<_> = disks.chain(tips).collect();
        let sizes = disks.iter().map(|disk| disk.expected.as_ref());
        let total = sizes.flatten().map(Expected::size_bytes).sum();
        self.context.set_progress(0, total);
        let context = Arc::clone(self.context);
        let files = Arc::clone(&self.shared.files);
        let reading = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for disk in disks {
                let size_bytes = disk.expected.as_ref().map_or(0, Expected::size_bytes);
                found.push(disk.read(&context, &files)?);
                context.end_part(size_bytes);
            }
            Ok::<_, JobError>(found)
        });
        let disks = reading.await.map_err(task_error)??;
        let weakest = disks.iter().map(|disk| disk.read_back).max_by_key(doubt);
        let (fingerprint, effects) = (plan.fingerprint().to_string(), plan.effects());
        self.journal.found(|evidence| {
            evidence.plan = PlanDone {
                fingerprint,
                effects,
            };
            evidence.disks = disks;
        })?;
        Ok((total, weakest.unwrap_or(ReadBack::Cached).text()))
    }

    /// The registered VM must have exactly the disks of the plan.
    async fn look_at_vm(&self, plan: &RestorePlan, vm: VmId) -> Result<VmEvidence, JobError> {
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
        Ok(registered(&found.summary.config, &found.checkpoints))
    }
}

/// What a receipt says of a VM.
fn registered(config: &VmConfig, checkpoints: &[Checkpoint]) -> VmEvidence {
    let disks = config.disks().map(|(controller, drive, path)| {
        let kind = match controller.kind {
            ControllerKind::Ide => "ide",
            ControllerKind::Scsi => "scsi",
        };
        SlotEvidence {
            slot: format!("{kind} {}:{}", controller.number, drive.slot),
            path: path.to_owned(),
        }
    });
    VmEvidence {
        id: config.id.to_string(),
        name: config.name.clone(),
        disks: disks.collect(),
        checkpoints: checkpoints.iter().map(|of| of.name.clone()).collect(),
    }
}

/// A disk that is to be read back.
struct ToRead {
    disk: Option<String>,
    source_path: String,
    path: String,
    expected: Option<Expected>,
}

impl ToRead {
    /// Reads it and compares; works on a thread that may block.
    fn read(self, context: &Arc<JobContext>, files: &HostFiles) -> Result<DiskEvidence, JobError> {
        let path = &self.path;
        let expected = self.expected.as_ref().ok_or_else(|| {
            JobError::failed("verify-failed", format!("{path} was never written"))
        })?;
        let (chain, bypass) = files.open_chain_past_cache(path).map_err(chain_error)?;
        let disk = chain.into_disk();
        let options = JobContext::pipeline_options(context);
        let digest = match expected {
            Expected::Pieces(pieces) => {
                verify_image(pieces, &disk, &options).map_err(|error| verify_error(path, error))?;
                // Every MiB was compared: what was read has the digest of what was written.
                pieces.digest()
            }
            Expected::Content(content) => {
                same_content(path, content, &disk, &options)?;
                Some(content.digest)
            }
        };
        Ok(DiskEvidence {
            disk: self.disk,
            source_path: self.source_path,
            virtual_disk_id: disk.disk_id().to_string(),
            size_bytes: disk.size(),
            files: u32::try_from(disk.layers().len()).unwrap_or(u32::MAX),
            digest: digest.map(|digest| digest.to_string()),
            read_back: read_back_of(bypass),
            zeroed: Vec::new(),
            path: self.path,
        })
    }
}

/// What a disk must read as; `None` where it was not written.
fn expected(disk: &WrittenDisk) -> Option<Expected> {
    let flat = disk.flat.as_ref();
    match (&disk.content, flat) {
        (Some(content), _) => Some(Expected::Content(content.clone())),
        (None, flat) => flat.map(|flat| Expected::Pieces(flat.pieces.clone())),
    }
}

/// Says of files that were read back where they are to be from now on.
pub(super) fn renamed(evidence: &mut Evidence, places: &[(String, String)]) {
    let disks = evidence.disks.iter_mut().map(|disk| &mut disk.path);
    let files = evidence.files.iter_mut().map(|file| &mut file.path);
    for path in disks.chain(files) {
        if let Some((_, to)) = places.iter().find(|(from, _)| host_path::same(from, path)) {
            path.clone_from(to);
        }
    }
}

/// What a receipt says of how a file was read.
pub(super) fn read_back_of(bypass: CacheBypass) -> ReadBack {
    match bypass {
        CacheBypass::Unbuffered => ReadBack::Unbuffered,
        CacheBypass::Dropped => ReadBack::CacheDropped,
        CacheBypass::None => ReadBack::Cached,
    }
}

/// How much is left to doubt: more is weaker.
fn doubt(read_back: &ReadBack) -> u8 {
    match read_back {
        ReadBack::Unbuffered => 0,
        ReadBack::CacheDropped => 1,
        ReadBack::Cached => 2,
    }
}
