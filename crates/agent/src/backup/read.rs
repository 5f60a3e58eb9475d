//! The step `read`: disks by their changed ranges or whole, configuration files whole, all into shared packs.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::agent_v1::{BackupSession, BaseDecision, DiskIdentity, OpenBackup};
use hyperv::{Changes, ConfigFile, HostFiles, VmDisk};
use model::{
    ByteRange, ChangedRanges, DiskId, DiskImage, FileImage, FullReason, HumanBytes, ImageRef,
    PointId,
};
use pipeline::{BackupSession as Pipeline, Plan};
use store::SessionKeys;
use vhdx::Format;

use super::checkpoint::Frozen;
use super::{Backup, reasons_text, tracker};
use crate::errors::{backup_error, chain_error, files_error, host_error, task_error};
use crate::job::{JobContext, JobError};
use crate::links::ServerLink;

/// What was read.
pub(super) struct ReadImages {
    pub(super) disks: Vec<DiskImage>,
    pub(super) files: Vec<FileImage>,
    /// The newest point an increment was read against.
    pub(super) parent: Option<PointId>,
}

/// A disk with the decision how to read it.
struct PlannedDisk {
    disk: VmDisk,
    id: DiskId,
    size_bytes: u64,
    plan: Plan,
    full_reason: Option<FullReason>,
}

impl Backup<'_> {
    pub(super) async fn read(
        &self,
        frozen: &Frozen,
    ) -> Result<((BackupSession, ReadImages), String), JobError> {
        let identities = identities(&frozen.disks)?;
        let request = OpenBackup {
            fence: self.context.fence,
            vm: self.work.vm,
            host: frozen.host.id,
            disks: identities.clone(),
            files: false,
            reference_points: frozen
                .vm
                .reference_points
                .iter()
                .map(|point| point.id.clone())
                .collect(),
        };
        let session = self
            .context
            .server
            .open_backup(self.context.job, &request)
            .await?;
        let (planned, parent) = self.plan(frozen, &identities, &session).await?;
        let reasons: Vec<FullReason> = planned.iter().filter_map(|disk| disk.full_reason).collect();

        let link = Arc::new(ServerLink::new(self.context, session.session));
        let keys = session_keys(&session)?;
        let context = Arc::clone(self.context);
        let files = Arc::clone(&self.shared.files);
        let config_files = frozen.config_files.clone();
        let reading = tokio::task::spawn_blocking(move || {
            read_all(&context, &files, link, keys, planned, &config_files)
        });
        let (disks, files) = reading.await.map_err(task_error)??;

        let figures = self.context.figures(|_| ());
        let kind = if reasons.is_empty() {
            "increment".to_owned()
        } else {
            format!("full ({})", reasons_text(&reasons))
        };
        let detail = format!(
            "{kind}: {} changed, {} read, {} sent, {} already stored",
            HumanBytes(disks.iter().map(|disk| disk.changed_bytes).sum()),
            HumanBytes(figures.bytes_read),
            HumanBytes(figures.bytes_sent),
            HumanBytes(figures.bytes_reused)
        );
        Ok((
            (
                session,
                ReadImages {
                    disks,
                    files,
                    parent,
                },
            ),
            detail,
        ))
    }

    /// Decides for each disk: the ranges since its base, or all of it and why.
    async fn plan(
        &self,
        frozen: &Frozen,
        identities: &[DiskIdentity],
        session: &BackupSession,
    ) -> Result<(Vec<PlannedDisk>, Option<PointId>), JobError> {
        let mut bases = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for decision in &session.bases {
            match decision {
                BaseDecision::Increment {
                    disk,
                    base,
                    image,
                    reread,
                } => {
                    bases.insert(*disk, (base, image, reread));
                }
                BaseDecision::Full { disk, reason } => {
                    reasons.insert(*disk, *reason);
                }
            }
        }
        let mut planned = Vec::new();
        let mut parent = None;
        for (disk, identity) in frozen.disks.iter().zip(identities) {
            let twice = identities
                .iter()
                .filter(|other| other.disk == identity.disk)
                .count()
                > 1;
            let base = bases
                .get(&identity.disk)
                .filter(|_| !self.work.full && !twice);
            let (plan, full_reason) = match base {
                None => {
                    let reason = reasons
                        .get(&identity.disk)
                        .copied()
                        .unwrap_or(FullReason::NoBase);
                    let reason = if self.work.full {
                        FullReason::Forced
                    } else {
                        reason
                    };
                    (Plan::Full, Some(reason))
                }
                Some((base, image, reread)) => {
                    let answer = match self.distrust(frozen, disk, &base.reference_point)? {
                        Some(reason) => Err(reason),
                        None => self.changes(disk, identity, &base.rct_id, reread).await?,
                    };
                    match answer {
                        Ok(ranges) => {
                            parent = Some(base.point);
                            (
                                Plan::Changed {
                                    ranges,
                                    base: ImageRef::clone(image),
                                },
                                None,
                            )
                        }
                        Err(reason) => (Plan::Full, Some(reason)),
                    }
                }
            };
            planned.push(PlannedDisk {
                disk: disk.clone(),
                id: identity.disk,
                size_bytes: identity.size_bytes,
                plan,
                full_reason,
            });
        }
        Ok((planned, parent))
    }

    /// Why the tracker is not even asked about a disk, given what held at its base.
    fn distrust(
        &self,
        frozen: &Frozen,
        disk: &VmDisk,
        reference_point: &str,
    ) -> Result<Option<FullReason>, JobError> {
        let base = tracker::of(&self.shared.home, reference_point)?;
        Ok(base.and_then(|base| frozen.vm.tracker_facts().distrust(&base, &disk.attachment)))
    }

    /// Asks the tracker; what it cannot tell makes this disk a full, not the job a failure.
    async fn changes(
        &self,
        disk: &VmDisk,
        identity: &DiskIdentity,
        rct_id: &str,
        reread: &[(u64, u64)],
    ) -> Result<Result<ChangedRanges, FullReason>, JobError> {
        let host = self
            .shared
            .host
            .clone()
            .with_cancel(self.context.host_cancel());
        match host
            .changed_ranges(&disk.path, rct_id, identity.size_bytes)
            .await
            .map_err(host_error)?
        {
            Changes::Ranges(ranges) => {
                let mut all = ranges.as_slice().to_vec();
                all.extend(
                    reread
                        .iter()
                        .map(|&(offset, len)| ByteRange { offset, len }),
                );
                let all = ChangedRanges::new(all, identity.size_bytes).map_err(|error| {
                    JobError::failed("server-protocol", format!("ranges to read again: {error}"))
                })?;
                Ok(Ok(all))
            }
            Changes::Unknown { reason, detail } => {
                self.context.note(format!(
                    "disk {} is read whole ({reason}): {detail}",
                    disk.path
                ));
                Ok(Err(reason))
            }
        }
    }
}

/// Says of each disk which virtual disk it is.
fn identities(disks: &[VmDisk]) -> Result<Vec<DiskIdentity>, JobError> {
    let identity = |disk: &VmDisk| {
        let leaf = disk.leaf()?;
        Some(DiskIdentity {
            disk: leaf.disk_id.or(disk.root()?.disk_id)?,
            size_bytes: leaf.size_bytes,
        })
    };
    let unknown = |disk: &VmDisk| {
        JobError::failed(
            "disk-unreadable",
            format!("the host does not say which virtual disk {} is", disk.path),
        )
    };
    disks
        .iter()
        .map(|disk| identity(disk).ok_or_else(|| unknown(disk)))
        .collect()
}

pub(super) fn session_keys(session: &BackupSession) -> Result<SessionKeys, JobError> {
    let key = |text: &str| {
        let bytes = hex::decode(text)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .ok_or_else(|| JobError::failed("server-protocol", "the session's keys cannot be read"))
    };
    Ok(SessionKeys::new(
        key(&session.id_key)?,
        key(&session.cut_key)?,
    ))
}

/// Reads everything; runs on a thread that may block.
fn read_all(
    context: &Arc<JobContext>,
    files: &HostFiles,
    link: Arc<ServerLink>,
    keys: SessionKeys,
    planned: Vec<PlannedDisk>,
    config_files: &[ConfigFile],
) -> Result<(Vec<DiskImage>, Vec<FileImage>), JobError> {
    let mut opened = Vec::new();
    let mut total = 0;
    for planned in planned {
        let disk = files
            .open_chain(&planned.disk.path)
            .map_err(chain_error)?
            .into_disk();
        // The host's word was asked before; a restore would make a VHDX of it whatever its name says.
        if disk.info().format != Format::Vhdx {
            return Err(JobError::failed("disk-format", format!("disk {} is not in VHDX format", planned.disk.path))
                .hint("convert it to VHDX on the host (Convert-VHD), or exclude it with `reprise vm exclude`"));
        }
        let allocated = disk
            .allocated_bytes()
            .map_err(|error| JobError::failed("disk-unreadable", error.to_string()))?;
        let changed = match &planned.plan {
            Plan::Full => allocated,
            Plan::Changed { ranges, .. } => ranges.bytes(),
        };
        total += changed;
        opened.push((planned, disk, allocated, changed));
    }
    context.set_progress(0, total);

    let options = JobContext::pipeline_options(context);
    let pipeline = Pipeline::new(link, keys, options);
    let mut disks = Vec::new();
    for (planned, disk, allocated_bytes, changed_bytes) in opened {
        let outcome = pipeline
            .add_image(&disk, &planned.plan)
            .map_err(backup_error)?;
        context.end_part(changed_bytes);
        count(context, &outcome.figures);
        let root = planned.disk.root().cloned();
        disks.push(DiskImage {
            id: planned.id,
            base_path: root.map_or_else(|| planned.disk.path.clone(), |root| root.path),
            path: planned.disk.path,
            attachment: planned.disk.attachment,
            size_bytes: planned.size_bytes,
            block_bytes: disk.block_bytes(),
            logical_sector_bytes: disk.logical_sector_bytes(),
            physical_sector_bytes: disk.physical_sector_bytes(),
            fixed: disk.is_fixed(),
            allocated_bytes,
            image: outcome.image,
            full_reason: planned.full_reason,
            changed_bytes,
        });
    }
    let mut stored = Vec::new();
    for file in config_files {
        let open = files.open_read(&file.path).map_err(files_error)?;
        let source = pipeline::PlainFile::new(open).map_err(|error| {
            JobError::transient("file-error", format!("cannot read {}: {error}", file.path))
        })?;
        let outcome = pipeline
            .add_image(&source, &Plan::Full)
            .map_err(backup_error)?;
        count(context, &outcome.figures);
        stored.push(FileImage {
            path: file.path.clone(),
            role: file.role.to_owned(),
            image: outcome.image,
            checkpoint: None,
            disk: None,
        });
    }
    pipeline.finish().map_err(backup_error)?;
    Ok((disks, stored))
}

pub(super) fn count(context: &JobContext, image: &pipeline::ImageFigures) {
    context.figures(|figures| {
        figures.bytes_read += image.bytes_read;
        figures.bytes_reused += image.bytes_reused;
    });
}
