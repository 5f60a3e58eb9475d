//! What restores keep beside on the host, written down in the agent's data folder (`parked/<job>.json`).
//!
//! A record is there from just before its restore succeeds until the restore is undone or finished. Nothing but the files
//! and folders it names is ever deleted by a finish. It may hold a whole VM, or files of disks alone.

use anyhow::Context as _;
use model::{JobId, PowerState, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use crate::job::JobError;
use crate::journal::{Deed, Journal};
use crate::restore::{Definition, MovedAside};
use crate::worker::Shared;

/// What one restore keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The job that keeps it.
    pub(crate) job: JobId,
    /// The VM.
    pub(crate) vm: VmId,
    /// Its display name.
    pub(crate) name: String,
    /// Since when.
    pub(crate) since: Timestamp,
    /// The VM as it was, where a whole one is kept.
    pub(crate) whole: Option<KeptVm>,
    /// Files that are kept.
    pub(crate) files: Vec<MovedAside>,
    /// Folders that are removed once they are empty, inner ones first.
    pub(crate) folders: Vec<String>,
}

/// A VM that is kept: unregistered, with a proven definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptVm {
    /// What it did before it was stopped.
    pub(crate) power: PowerState,
    /// Its definition.
    pub(crate) definition: Definition,
    /// How many checkpoints it has.
    pub(crate) checkpoints: usize,
    /// Its disks that stay where they are, whoever has them.
    pub(crate) stay: Vec<StayingFiles>,
}

/// A disk that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StayingFiles {
    /// Controller and slot, such as `scsi 0:1`.
    pub(crate) slot: String,
    /// The file the VM used.
    pub(crate) path: String,
    /// All its files.
    pub(crate) files: Vec<String>,
}

fn file_name(job: JobId) -> String {
    format!("parked/{job}.json")
}

impl Shared {
    /// Returns what a job keeps.
    pub(crate) fn record_of(&self, job: JobId) -> anyhow::Result<Option<Record>> {
        self.home
            .read(&file_name(job))
            .with_context(|| format!("read what job {job} keeps"))
    }

    /// Returns what a job keeps, as the server is told.
    pub(crate) fn kept_by(&self, job: JobId) -> anyhow::Result<Option<api::agent_v1::Parked>> {
        let record = self.record_of(job)?;
        Ok(record.map(|record| api::agent_v1::Parked {
            vm: record.vm,
            whole_vm: record.whole.is_some(),
            files: u64::try_from(record.files.len()).unwrap_or(u64::MAX),
            bytes: record.files.iter().map(|file| file.bytes).sum(),
            since: record.since,
        }))
    }

    /// Writes down what a job keeps, in its journal first.
    pub(crate) fn keep(&self, journal: &Journal, record: &Record) -> Result<(), JobError> {
        let name = file_name(record.job);
        journal.will(Deed::Record { name: name.clone() })?;
        self.home.write(&name, record).map_err(data_folder)
    }

    /// Forgets what a job kept.
    pub(crate) fn forget(&self, job: JobId) -> Result<(), JobError> {
        self.home.remove(&file_name(job)).map_err(data_folder)
    }
}

fn data_folder(error: anyhow::Error) -> JobError {
    JobError::failed(
        "agent-data-folder",
        format!("cannot write what is kept: {error:#}"),
    )
    .hint("free space in the agent's data folder and check its rights")
}
