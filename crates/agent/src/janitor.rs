//! Removes what dead jobs left on the host: from journals after a crash, from marks before each backup of a VM.
//!
//! Invariant: only what a journal names or what carries our mark is touched, and never what belongs to a job that runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::agent_v1::{Finish, Mark, Outcome, SettleBases, SettleRequest, Verdict};
use api_client::{Agent, Kind};
use hyperv::{CheckpointKind, Limits};
use model::{Fence, JobId, VmId};
use tracing::{info, warn};

use crate::backup::{CommittedDisk, Conversion, KeptTrackerFacts, convert, drop_older, release};
use crate::clock;
use crate::errors::host_error;
use crate::job::JobError;
use crate::journal::{Deed, Entries, Journal};
use crate::restore;
use crate::worker::Shared;

/// How long cleaning up waits for a merge.
const MERGE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the journal of a restore that succeeded is kept for a server that has not heard of it, in milliseconds.
const REMEMBER_MILLIS: u64 = 8 * 24 * 60 * 60 * 1000;

/// Undoes what journals of dead jobs name. Called before new work is asked for. Returns whether data of a restore was kept
/// for its next attempt.
pub(crate) async fn clean_up(shared: &Arc<Shared>, server: &Agent) -> anyhow::Result<bool> {
    let mut kept = false;
    for name in shared.home.journals()? {
        let Some(journal) = Journal::open(Arc::clone(&shared.home), &name)? else {
            continue;
        };
        let entries = journal.entries();
        if shared.running_jobs().contains(&entries.job) {
            continue;
        }
        let settled = if entries.succeeded.is_none() && !entries.is_backup() {
            settle_restore(shared, server, &journal, &entries).await
        } else {
            let settled = settle_journal(shared, server, &journal, &entries).await;
            settled.map(|()| false)
        };
        kept |= settled.with_context(|| format!("clean up after job {} ({name})", entries.job))?;
    }
    Ok(kept)
}

/// Undoes what an attempt of a restore left, but for its data where the job has another attempt before it. Returns whether
/// data was kept.
async fn settle_restore(
    shared: &Arc<Shared>,
    server: &Agent,
    journal: &Journal,
    entries: &Entries,
) -> anyhow::Result<bool> {
    if taken_over(shared, entries)? {
        journal.forget()?;
        return Ok(false);
    }
    if entries.data_end() < entries.deeds.len() {
        info!(job.id = %entries.job, "undoing what an interrupted restore did");
        restore::undo_behind_data(shared, journal).await?;
    }
    if entries.data_end() == 0 {
        journal.remove()?;
        return Ok(false);
    }
    let verdict = match verdicts(server, vec![mark_of(entries)]).await {
        Ok(verdicts) => verdicts.first().copied(),
        Err(error) => {
            // Nothing can be handed out meanwhile, either.
            info!(job.id = %entries.job, "the data of an interrupted restore is kept: {error:#}");
            return Ok(true);
        }
    };
    match verdict {
        Some(Verdict::Alive) => Ok(true),
        Some(Verdict::Done | Verdict::Committed { .. }) => {
            journal.remove()?;
            Ok(false)
        }
        Some(Verdict::Dead) | None => {
            info!(job.id = %entries.job, "removing the data of a restore that was given up");
            restore::undo_all(shared, journal).await?;
            journal.remove()?;
            Ok(false)
        }
    }
}

/// Whether a later attempt has this journal's deeds in its own.
fn taken_over(shared: &Shared, entries: &Entries) -> anyhow::Result<bool> {
    for name in shared.home.journals()? {
        if name.starts_with(&format!("jobs/{}-", entries.job))
            && let Some(other) = shared.home.read::<Entries>(&name)?
            && other.fence > entries.fence
        {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn settle_journal(
    shared: &Arc<Shared>,
    server: &Agent,
    journal: &Journal,
    entries: &Entries,
) -> anyhow::Result<()> {
    if let Some(at) = entries.succeeded {
        restore::start_stopped(shared, journal).await;
        return tell_success(shared, server, journal, entries, at).await;
    }
    if entries.holds_shadows() {
        info!(job.id = %entries.job, "removing the shadow copies of an interrupted backup");
        release(shared, journal).await?;
        return journal.remove();
    }
    let mark = mark_of(entries);
    match verdicts(server, vec![mark]).await?.first() {
        Some(Verdict::Alive | Verdict::Done) => {}
        Some(Verdict::Committed { point }) => {
            let point = *point;
            let conversion = entries.deeds.iter().find_map(|deed| {
                if let Deed::Converting(conversion) = deed {
                    Some(conversion.clone())
                } else {
                    None
                }
            });
            let conversion = match (conversion, checkpoint_of(entries)) {
                (Some(conversion), _) => Some(conversion),
                (None, Some(checkpoint)) => {
                    conversion_of(shared, entries.vm, checkpoint, point).await?
                }
                (None, None) => None,
            };
            if let Some(conversion) = conversion {
                finish_conversion(shared, server, journal, entries, conversion).await?;
            }
            journal.remove()?;
        }
        Some(Verdict::Dead) | None => {
            destroy_checkpoint(shared, entries).await?;
            journal.remove()?;
        }
    }
    Ok(())
}

/// Tells the server of a restore that had succeeded before the agent was killed.
async fn tell_success(
    shared: &Arc<Shared>,
    server: &Agent,
    journal: &Journal,
    entries: &Entries,
    at: model::Timestamp,
) -> anyhow::Result<()> {
    let finish = Finish {
        fence: entries.fence,
        outcome: Outcome::Succeeded,
        figures: Default::default(),
        parked: shared.kept_by(entries.job)?,
        evidence: entries.evidence.told(),
    };
    let undo = |deed: &Deed| matches!(deed, Deed::Return { .. });
    match server.finish(entries.job, &finish).await {
        Ok(()) => {
            if entries.deeds.iter().any(undo) {
                restore::clear_spent(shared).await?;
            }
            journal.remove()
        }
        Err(error) if error.kind() == Kind::NotFound => journal.remove(),
        // Handed out anew: the next run finds this journal and ends at once.
        Err(error) if error.kind() == Kind::Fenced => {
            if clock::now().millis_since(at) > REMEMBER_MILLIS {
                journal.remove()
            } else {
                Ok(())
            }
        }
        Err(error) => Err(error).context("tell the server that the job succeeded"),
    }
}

/// Returns the journal of an earlier run of this job that had succeeded.
pub(crate) fn finished_before(shared: &Shared, job: JobId) -> anyhow::Result<Option<Journal>> {
    for name in shared.home.journals()? {
        if name.starts_with(&format!("jobs/{job}-"))
            && let Some(journal) = Journal::open(Arc::clone(&shared.home), &name)?
            && journal.entries().succeeded.is_some()
        {
            return Ok(Some(journal));
        }
    }
    Ok(None)
}

/// Settles every recovery checkpoint of ours on a VM that no running job owns.
pub(crate) async fn settle_vm(
    shared: &Arc<Shared>,
    server: &Agent,
    vm: VmId,
) -> Result<(), JobError> {
    let marked = shared
        .host
        .marked_checkpoints(vm)
        .await
        .map_err(host_error)?;
    let marked: Vec<_> = marked
        .into_iter()
        .filter(|(mark, _)| !shared.runs(mark.job, mark.fence))
        .collect();
    if marked.is_empty() {
        return Ok(());
    }
    let marks = marked
        .iter()
        .map(|(mark, _)| Mark {
            job: mark.job,
            fence: mark.fence,
            vm,
            restore: false,
        })
        .collect();
    let verdicts = verdicts(server, marks)
        .await
        .map_err(|error| JobError::transient("server-unreachable", format!("{error:#}")))?;
    for ((mark, checkpoint), verdict) in marked.iter().zip(verdicts) {
        info!(job.id = %mark.job, "checkpoint {} was left on VM {vm}: {verdict:?}", checkpoint.id);
        let journal = Journal::new(Arc::clone(&shared.home), mark.job, mark.fence, vm);
        match verdict {
            Verdict::Alive | Verdict::Done => {}
            Verdict::Dead => shared
                .host
                .destroy_checkpoint(vm, &checkpoint.id)
                .await
                .map_err(host_error)?,
            Verdict::Committed { point } => {
                if let Some(conversion) = conversion_of(shared, vm, &checkpoint.id, point).await? {
                    let entries = journal.entries();
                    finish_conversion(shared, server, &journal, &entries, conversion).await?;
                }
            }
        }
        if let Err(error) = journal.remove() {
            warn!("{error:#}");
        }
    }
    shared.host.wait_merged(vm).await.map_err(host_error)
}

/// Removes the checkpoint or the shadow copies of a backup that failed before its point could have been committed.
pub(crate) async fn undo_backup(shared: &Shared, journal: &Journal) -> Result<(), JobError> {
    let entries = journal.entries();
    if entries.deeds.contains(&Deed::Publishing) {
        // Only the server knows; the next clean-up asks it.
        return Ok(());
    }
    if entries.holds_shadows() {
        return release(shared, journal).await;
    }
    destroy_checkpoint(shared, &entries).await?;
    journal.undone(0)
}

/// Destroys the checkpoint that a journal speaks of, whether it was named already or not, and waits for the merge.
async fn destroy_checkpoint(shared: &Shared, entries: &Entries) -> Result<(), JobError> {
    let host = &shared.host;
    let vm = entries.vm;
    let found = match host.checkpoints(vm).await {
        Ok(found) => found,
        Err(error) if error.kind() == hyperv::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(host_error(error)),
    };
    let known = checkpoint_of(entries);
    let before = entries.deeds.iter().find_map(|deed| {
        if let Deed::Checkpoint { before } = deed {
            Some(before)
        } else {
            None
        }
    });
    for checkpoint in found
        .iter()
        .filter(|checkpoint| checkpoint.kind == CheckpointKind::Recovery)
    {
        let same = |id: &String| id.eq_ignore_ascii_case(&checkpoint.id);
        let ours = match (checkpoint.mark(), known) {
            (Some(mark), _) => mark.job == entries.job && mark.fence == entries.fence,
            (None, Some(id)) => id.eq_ignore_ascii_case(&checkpoint.id),
            // Killed between taking and naming it: new since we looked, and without anyone's name.
            (None, None) => before.is_some_and(|before| !before.iter().any(same)),
        };
        if ours {
            info!(job.id = %entries.job, "destroying checkpoint {} on VM {vm}", checkpoint.id);
            host.destroy_checkpoint(vm, &checkpoint.id)
                .await
                .map_err(host_error)?;
        }
    }
    merged_or_told(shared, vm).await;
    Ok(())
}

/// Waits a while for the disks of a destroyed checkpoint to be merged. Longer merges are the host's own business, and
/// one that never ends (a damaged disk) must not keep a job from ending.
async fn merged_or_told(shared: &Shared, vm: VmId) {
    let limits = Limits {
        merge: MERGE_PATIENCE,
        ..Limits::default()
    };
    if let Err(error) = shared
        .host
        .clone()
        .with_limits(limits)
        .wait_merged(vm)
        .await
    {
        warn!(
            "disks of VM {vm} are still being merged on the host: {}",
            crate::errors::chain(&error)
        );
    }
}

/// Converts the checkpoint of a committed point and tells the server the base records.
async fn finish_conversion(
    shared: &Arc<Shared>,
    server: &Agent,
    journal: &Journal,
    entries: &Entries,
    conversion: Conversion,
) -> Result<(), JobError> {
    let vm = conversion.vm;
    let records = convert(shared, journal, conversion).await?;
    let newest = records.first().map(|record| record.reference_point.clone());
    server
        .settle_bases(&SettleBases {
            mark: mark_of(entries),
            records,
        })
        .await?;
    drop_older(shared, vm, newest.as_deref()).await?;
    merged_or_told(shared, vm).await;
    Ok(())
}

/// Describes the conversion of a checkpoint that is still there; `None` where it is gone and nothing can be known.
async fn conversion_of(
    shared: &Shared,
    vm: VmId,
    checkpoint: &str,
    point: model::PointId,
) -> Result<Option<Conversion>, JobError> {
    let frozen = match shared.host.frozen_disks(vm, checkpoint).await {
        Ok(frozen) => frozen,
        Err(error) if error.kind() == hyperv::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(host_error(error)),
    };
    let facts = shared.host.facts().await.map_err(host_error)?;
    let known = shared.host.reference_points(vm).await.map_err(host_error)?;
    // The frozen files are what the VM wrote to before the checkpoint, as they are again after the conversion.
    let mut tracker = shared
        .host
        .vm(vm)
        .await
        .map_err(host_error)?
        .tracker_facts();
    tracker.leaves = frozen
        .iter()
        .map(|disk| (disk.attachment.clone(), disk.path.clone()))
        .collect();
    let disks = frozen.iter().filter_map(|disk| {
        let leaf = disk.leaf()?;
        Some(CommittedDisk {
            attachment: disk.attachment.clone(),
            disk: leaf.disk_id.or(disk.root()?.disk_id)?,
            size_bytes: leaf.size_bytes,
        })
    });
    Ok(Some(Conversion {
        vm,
        host: facts.id,
        checkpoint: checkpoint.to_owned(),
        known: known.into_iter().map(|point| point.id).collect(),
        point,
        disks: disks.collect(),
        tracker: Some(KeptTrackerFacts::from(tracker)),
    }))
}

async fn verdicts(server: &Agent, marks: Vec<Mark>) -> anyhow::Result<Vec<Verdict>> {
    let asked = marks.len();
    let reply = server
        .settle(&SettleRequest { marks })
        .await
        .context("ask the server about earlier jobs")?;
    anyhow::ensure!(
        reply.verdicts.len() == asked,
        "the server gave {} verdicts on {asked} jobs",
        reply.verdicts.len()
    );
    Ok(reply.verdicts)
}

fn mark_of(entries: &Entries) -> Mark {
    Mark {
        job: entries.job,
        fence: entries.fence,
        vm: entries.vm,
        restore: !entries.is_backup(),
    }
}

fn checkpoint_of(entries: &Entries) -> Option<&str> {
    entries.deeds.iter().find_map(|deed| {
        if let Deed::CheckpointTaken { id } = deed {
            Some(id.as_str())
        } else {
            None
        }
    })
}

impl Shared {
    /// Whether this process runs this attempt of a job.
    pub(crate) fn runs(&self, job: JobId, fence: Fence) -> bool {
        self.running_attempts().contains(&(job, fence))
    }
}
