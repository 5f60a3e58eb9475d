//! The driver of a host.

mod boot;
mod changes;
mod checkpoints;
mod cluster;
mod components;
mod config;
mod define;
mod disks;
mod edit;
mod facts;
mod frozen;
mod import;
mod inventory;
mod inventory_cache;
mod jobs;
mod marks;
mod merging;
mod objects;
mod orphans;
mod parts;
mod power;
mod reference_points;
mod settle;
mod shadow;
mod shadow_files;
mod tracker;
pub mod unsupported;
mod user_checkpoints;
mod vm;
mod vm_objects;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wsman::{Epr, FaultClass, uri};

use crate::{CimSession, Endpoint, Error};

pub use changes::Changes;
pub use checkpoints::TakenCheckpoint;
pub use disks::{DiskFile, DiskFileKind, DiskFormat, VmDisk};
pub use facts::{HostFacts, Readiness, VolumeFacts};
pub use frozen::CheckpointFiles;
pub use import::PlannedVm;
pub use inventory_cache::Inventory;
pub use marks::{Mark, NotOurs};
pub use merging::ExportCheckpoints;
pub use model::{ParseSlotError, Slot};
pub use orphans::Orphan;
pub use reference_points::{RctId, ReferencePoint};
pub use shadow::{Shadow, ShadowRefusal, new_of_volume};
pub use shadow_files::{CheckpointChain, ConfigPlace, VmFiles};
pub use tracker::TrackerFacts;
pub use user_checkpoints::{Merge, MergeProgress};
pub use vm::{
    Activity, Checkpoint, CheckpointDisk, CheckpointKind, ConfigFile, ConfigVersion, Folders,
    Replication, ReplicationRole, Security, VmFacts, VmSummary,
};

/// How long things on a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A job.
    pub job: Duration,
    /// A VM to leave a passing state (being copied, exported, migrated, merged) before we begin.
    pub settle: Duration,
    /// A merge to end.
    pub merge: Duration,
    /// First pause between two looks; it doubles.
    pub first_poll: Duration,
    /// Longest pause between two looks.
    pub last_poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            job: minutes(60),
            settle: minutes(15),
            merge: minutes(6 * 60),
            first_poll: Duration::from_millis(100),
            last_poll: Duration::from_secs(2),
        }
    }
}

/// What seldom changes on a host and is not asked for each time.
#[derive(Debug, Default)]
struct Known {
    /// The operating system's build.
    build: Option<u32>,
    /// When the host was last seen to be no node of a cluster.
    not_clustered_at: Option<tokio::time::Instant>,
}

/// A Hyper-V host. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Host {
    session: Arc<CimSession>,
    services: Arc<Mutex<HashMap<&'static str, Epr>>>,
    known: Arc<Mutex<Known>>,
    limits: Limits,
    cancel: CancellationToken,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("url", &self.session.url())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Makes a driver. Nothing is sent yet: ask for [`Host::facts`] to see whether it works.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Ok(Self {
            session: Arc::new(CimSession::new(endpoint)?),
            services: Arc::default(),
            known: Arc::default(),
            limits: Limits::default(),
            cancel: CancellationToken::new(),
        })
    }

    /// Returns the same host with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns the same host, whose waiting ends when `cancel` fires: a job that can be ended is ended on the host and
    /// [`Error::Cancelled`] returned; one that cannot is waited for, so that its result is known.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Returns the session, for requests this driver has no method for.
    #[must_use]
    pub fn session(&self) -> &CimSession {
        &self.session
    }

    /// Returns the only instance of a Hyper-V service class; its absence means missing rights.
    async fn service(&self, class: &'static str) -> Result<Epr, Error> {
        let known = self
            .services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(class)
            .cloned();
        if let Some(epr) = known {
            return Ok(epr);
        }
        let found = self
            .session
            .query(uri::NS_VIRTUALIZATION, &format!("SELECT * FROM {class}"))
            .await;
        let instance = match found {
            Ok(instances) => instances.into_iter().next(),
            Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => {
                return Err(Error::NoHyperV {
                    url: self.session.url().to_owned(),
                });
            }
            Err(error) => return Err(error),
        };
        // An account without Hyper-V rights sees empty results, not a fault.
        let instance = instance.ok_or_else(|| Error::NoRights {
            user: self.session.user().to_owned(),
        })?;
        let mut epr = Epr::new(uri::NS_VIRTUALIZATION, class);
        for key in [
            "CreationClassName",
            "Name",
            "SystemCreationClassName",
            "SystemName",
        ] {
            if let Some(value) = instance.text(key) {
                epr = epr.with(key, value);
            }
        }
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(class, epr.clone());
        Ok(epr)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the host's own name, as object paths need it.
    async fn host_name(&self) -> Result<String, Error> {
        let service = self.service(objects::MANAGEMENT).await?;
        service
            .get("SystemName")
            .map(str::to_owned)
            .ok_or_else(|| Error::Nonsense {
                doing: format!("query for {}", objects::MANAGEMENT),
                what: "it has no SystemName".into(),
            })
    }
}
