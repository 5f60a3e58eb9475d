//! The step `convert`: the checkpoint becomes the reference point from which the next increment starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::agent_v1::{BackupSession, Bases};
use model::{BaseRecord, DiskId, HostId, PointId, VmId};
use serde::{Deserialize, Serialize};

use super::checkpoint::Frozen;
use super::{Backup, Committed, tracker};
use crate::errors::host_error;
use crate::home::Home;
use crate::job::JobError;
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

/// A disk of a committed point, as a base record needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommittedDisk {
    /// The attachment in the VM.
    pub(crate) attachment: String,
    /// The virtual disk.
    pub(crate) disk: DiskId,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
}

/// A committed point whose checkpoint is to be converted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conversion {
    /// The VM.
    pub(crate) vm: VmId,
    /// The host.
    pub(crate) host: HostId,
    /// The checkpoint.
    pub(crate) checkpoint: String,
    /// Reference points of the VM before.
    pub(crate) known: Vec<String>,
    /// The point.
    pub(crate) point: PointId,
    /// Its disks.
    pub(crate) disks: Vec<CommittedDisk>,
    /// What must still hold when its RCT ids are used.
    #[serde(default)]
    pub(crate) tracker: Option<tracker::Kept>,
}

impl Backup<'_> {
    pub(super) async fn convert(
        &self,
        frozen: &Frozen,
        session: &BackupSession,
        committed: &Committed,
    ) -> Result<((), String), JobError> {
        let points = self
            .shared
            .host
            .reference_points(self.work.vm)
            .await
            .map_err(host_error)?;
        let disks = committed.disks.iter().map(|disk| CommittedDisk {
            attachment: disk.attachment.clone(),
            disk: disk.id,
            size_bytes: disk.size_bytes,
        });
        let conversion = Conversion {
            vm: self.work.vm,
            host: frozen.host.id,
            checkpoint: frozen.checkpoint.clone(),
            known: points.into_iter().map(|point| point.id).collect(),
            point: committed.point,
            disks: disks.collect(),
            tracker: Some(frozen.vm.tracker_facts().into()),
        };
        self.context.check()?;
        let records = convert(self.shared, self.journal, conversion.clone()).await?;
        let count = records.len();
        let reference_point = records.first().map(|record| record.reference_point.clone());
        let bases = Bases {
            fence: self.context.fence,
            records,
        };
        self.context.server.bases(session.session, &bases).await?;
        drop_older(self.shared, self.work.vm, reference_point.as_deref()).await?;
        self.journal.undone(0)?;
        if let Err(error) = self.shared.host.wait_merged(self.work.vm).await {
            self.context.warning(format!(
                "the disks of the checkpoint are still being merged on the host: {error}"
            ));
        }
        Ok((
            (),
            format!(
                "reference point with {count} of {} disks",
                conversion.disks.len()
            ),
        ))
    }
}

/// Converts a checkpoint and returns the base records of its disks. Can run again after a crash.
pub(crate) async fn convert(
    shared: &Shared,
    journal: &Journal,
    conversion: Conversion,
) -> Result<Vec<BaseRecord>, JobError> {
    journal.will(Deed::Converting(conversion.clone()))?;
    let Conversion {
        vm,
        host,
        checkpoint,
        known,
        point,
        disks,
        tracker: facts,
    } = conversion;
    let made = shared
        .host
        .convert_to_reference_point(vm, &checkpoint, &known)
        .await
        .map_err(host_error)?;
    Owned::change(&shared.home, vm, |owned| {
        if !owned.contains(&made.id) {
            owned.push(made.id.clone());
        }
    })?;
    if let Some(facts) = facts {
        tracker::keep(&shared.home, &made.id, facts)?;
    }
    let records = disks.iter().filter_map(|disk| {
        let rct_id = made.rct_id(&disk.attachment)?;
        Some(BaseRecord {
            vm,
            disk: disk.disk,
            size_bytes: disk.size_bytes,
            host,
            point,
            reference_point: made.id.clone(),
            rct_id: rct_id.to_owned(),
        })
    });
    Ok(records.collect())
}

/// Destroys the reference points we made on a VM, but for the newest.
pub(crate) async fn drop_older(
    shared: &Arc<Shared>,
    vm: VmId,
    newest: Option<&str>,
) -> Result<(), JobError> {
    let owned = Owned::of(&shared.home, vm)?;
    for id in owned.iter().filter(|id| Some(id.as_str()) != newest) {
        shared
            .host
            .destroy_reference_point(vm, id)
            .await
            .map_err(host_error)?;
        Owned::change(&shared.home, vm, |owned| owned.retain(|kept| kept != id))?;
        tracker::forget(&shared.home, id)?;
    }
    Ok(())
}

/// The reference points this agent made, by VM: those of others are never destroyed.
struct Owned;

impl Owned {
    const FILE: &str = "reference_points.json";

    fn read(home: &Home) -> Result<BTreeMap<VmId, Vec<String>>, JobError> {
        home.read(Self::FILE)
            .map(Option::unwrap_or_default)
            .map_err(Self::error)
    }

    fn of(home: &Home, vm: VmId) -> Result<Vec<String>, JobError> {
        Ok(Self::read(home)?.remove(&vm).unwrap_or_default())
    }

    fn change(
        home: &Home,
        vm: VmId,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), JobError> {
        let _one_at_a_time = home.exclusive();
        let mut all = Self::read(home)?;
        let owned = all.entry(vm).or_default();
        change(owned);
        if owned.is_empty() {
            all.remove(&vm);
        }
        home.write(Self::FILE, &all).map_err(Self::error)
    }

    fn error(error: anyhow::Error) -> JobError {
        JobError::failed("agent-data-folder", format!("{error:#}"))
    }
}
