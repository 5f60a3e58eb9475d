//! The inventory as last seen, read again only as far as the host says that it changed.
//!
//! A look costs one request where nothing changed. The rules, in order:
//! - all is read where nothing is known or the last whole look is older than [`Inventory::MAX_AGE`] (not everything that
//!   changes moves the host's time of change, as far as anybody has written down);
//! - a VM is read where it is new, where its TimeOfLastConfigurationChange differs or is missing, and where the host is or
//!   was doing something with it (a merge changes paths of disks when it ends);
//! - where more than a few are to be read, all are;
//! - what a VM does (power, activity, uptime) is always new.
//!
//! Disk facts (chains, sizes) are read when asked for and kept as long as the rest. Backups and restores do not use this:
//! they read what they need when they need it.

use std::collections::HashMap;
use std::time::Duration;

use model::VmId;
use tokio::time::Instant;
use wsman::Instance as CimObject;

use super::Host;
use super::disks::VmDisk;
use super::inventory::not_found;
use super::vm::VmSummary;
use super::vm_objects::{activity, power_state, replication, timestamp};
use crate::{Error, ErrorKind};

/// Most VMs that are read one by one.
const ONE_BY_ONE: usize = 3;

/// The VMs of one host as last seen.
#[derive(Debug, Default)]
pub struct Inventory {
    vms: HashMap<VmId, Entry>,
    order: Vec<VmId>,
    whole: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    summary: VmSummary,
    disks: Option<Vec<VmDisk>>,
}

impl Inventory {
    /// How long a whole look is good.
    pub const MAX_AGE: Duration = Duration::from_secs(300);

    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the VMs as last seen, in the host's order.
    pub fn vms(&self) -> impl Iterator<Item = &VmSummary> {
        self.order
            .iter()
            .filter_map(|id| self.vms.get(id))
            .map(|entry| &entry.summary)
    }

    /// Forgets a VM, so that the next look reads it: for who has changed it.
    pub fn forget(&mut self, vm: VmId) {
        self.vms.remove(&vm);
    }

    /// Looks at the host and reads what changed. On failure what was known stays.
    pub async fn refresh(&mut self, host: &Host) -> Result<(), Error> {
        if self.whole.is_none_or(|at| at.elapsed() > Self::MAX_AGE) {
            return self.read_all(host).await;
        }
        let systems = host.systems().await?;
        let stale: Vec<VmId> = systems
            .iter()
            .filter(|(id, system)| self.is_stale(*id, system))
            .map(|(id, _)| *id)
            .collect();
        if stale.len() > ONE_BY_ONE {
            return self.read_all(host).await;
        }
        for id in stale {
            match host.vm_summary(id).await {
                Ok(summary) => {
                    let disks = None;
                    self.vms.insert(id, Entry { summary, disks });
                }
                // Gone since we asked.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.vms.remove(&id);
                }
                Err(error) => return Err(error),
            }
        }
        for (id, system) in &systems {
            if let Some(entry) = self.vms.get_mut(id) {
                entry.summary.power = power_state(system);
                entry.summary.activity = activity(system);
                entry.summary.uptime_ms = system.u64("OnTimeInMilliseconds");
            }
        }
        self.order = systems.into_iter().map(|(id, _)| id).collect();
        let there = &self.order;
        self.vms.retain(|id, _| there.contains(id));
        Ok(())
    }

    /// Returns the disks of a VM with their chains, as long as nothing says that they changed.
    pub async fn disks(&mut self, host: &Host, vm: VmId) -> Result<&[VmDisk], Error> {
        let entry = self.vms.get_mut(&vm).ok_or_else(|| not_found(vm))?;
        if entry.disks.is_none() {
            entry.disks = Some(host.disks_of(&entry.summary.config).await?);
        }
        Ok(entry.disks.as_deref().unwrap_or_default())
    }

    async fn read_all(&mut self, host: &Host) -> Result<(), Error> {
        let found = host.vms().await?;
        self.order = found.iter().map(|summary| summary.config.id).collect();
        let mut old = std::mem::take(&mut self.vms);
        for summary in found {
            let id = summary.config.id;
            let same = |entry: &Entry| {
                let before = &entry.summary;
                before.changed.is_some()
                    && before.changed == summary.changed
                    && before.config == summary.config
                    && before.checkpoints == summary.checkpoints
                    && before.activity.is_none()
                    && summary.activity.is_none()
            };
            let disks = old.remove(&id).filter(same).and_then(|entry| entry.disks);
            self.vms.insert(id, Entry { summary, disks });
        }
        self.whole = Some(Instant::now());
        Ok(())
    }

    fn is_stale(&self, id: VmId, system: &CimObject) -> bool {
        let Some(entry) = self.vms.get(&id) else {
            return true;
        };
        let known = &entry.summary;
        let changed = timestamp(system, "TimeOfLastConfigurationChange");
        changed.is_none()
            || changed != known.changed
            || known.activity.is_some()
            || activity(system).is_some()
            || replication(system) != known.replication
            || power_state(system) != known.power
    }
}
