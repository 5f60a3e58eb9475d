//! Whether the host merges the disks of a VM, and definitions exported without breaking that.
//!
//! An export without the disks (`CopyVmStorage` false) tells the host that somebody is about to read the disk files
//! themselves, so it stops merging for that VM until `ModifyDiskMergeSettings` switches merging on again. Checkpoints
//! deleted meanwhile leave their files in the chain, which then only grows. `Msvm_DiskMergeSettingData` holds the switch:
//! `EnabledState` 0 "temporarily disabled", 1 enabled.
//!
//! Invariant: an export made here switches merging on again, whether it succeeded or not. Merging that another product
//! switched off for a backup under way (a recovery checkpoint that is not ours) is left alone and told.

use model::VmId;
use wsman::{FaultClass, Instance, Properties, Value};

use super::vm::{Checkpoint, CheckpointKind};
use super::{Host, objects};
use crate::{Error, ErrorKind};

/// CopySnapshotConfiguration of an export.
mod copy {
    pub(super) const ALL: u8 = 0;
    pub(super) const NONE: u8 = 1;
    pub(super) const ONE: u8 = 2;
}

/// Which checkpoints an exported definition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportCheckpoints<'a> {
    /// None of them.
    None,
    /// Every one.
    All,
    /// Only this one (InstanceID).
    One(&'a str),
}

impl Host {
    /// Returns whether the host merges the disks of a VM. Hosts that do not have the switch merge.
    pub async fn merges_disks(&self, vm: VmId) -> Result<bool, Error> {
        let settings = self.merge_settings(vm).await?;
        Ok(settings.as_ref().is_none_or(is_on))
    }

    /// Switches merging on for a VM and returns whether it was off.
    pub async fn switch_merging_on(&self, vm: VmId) -> Result<bool, Error> {
        let Some(settings) = self.merge_settings(vm).await? else {
            return Ok(false);
        };
        if is_on(&settings) {
            return Ok(false);
        }
        self.set_merging_on(&settings).await?;
        if self.merges_disks(vm).await? {
            tracing::info!("merging of the disks of VM {vm} was switched off; it is on again");
            return Ok(true);
        }
        Err(Error::Refused {
            what: format!(
                "the host leaves merging of the disks of VM {vm} switched off; restart its management service (vmms)"
            ),
        })
    }

    /// Writes a VM's definition below a folder of the host, without its disks. A folder named after the VM is made in it.
    pub async fn export_definition(
        &self,
        vm: VmId,
        folder: &str,
        checkpoints: ExportCheckpoints<'_>,
    ) -> Result<(), Error> {
        self.wait_settled(vm).await?;
        let mut settings = Instance::new("Msvm_VirtualSystemExportSettingData")
            .with("CopyVmStorage", false)
            .with("CopyVmRuntimeInformation", true)
            .with("CreateVmExportSubdirectory", true);
        match checkpoints {
            ExportCheckpoints::All => settings.set("CopySnapshotConfiguration", copy::ALL),
            ExportCheckpoints::None => settings.set("CopySnapshotConfiguration", copy::NONE),
            ExportCheckpoints::One(id) => {
                let host = self.host_name().await?;
                let checkpoint = objects::by_instance_id(objects::SETTINGS, id);
                settings.set("CopySnapshotConfiguration", copy::ONE);
                settings.set(
                    "SnapshotVirtualSystem",
                    objects::path_text(&host, &checkpoint),
                );
            }
        }
        let parameters = Properties::new()
            .with("ComputerSystem", objects::vm(vm))
            .with("ExportDirectory", folder)
            .with("ExportSettingData", Value::embedded(&settings));
        let exported = self
            .call(objects::MANAGEMENT, "ExportSystemDefinition", parameters)
            .await
            .map(drop);
        let exported = match exported {
            // Which files there are now is for the caller to see; the host is at least done with it.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                Err(self.wait_quiet(error).await)
            }
            result => result,
        };
        // Also after a failure: the host may have switched it off before it failed.
        let merging = self.switch_merging_on(vm).await;
        match (exported, merging) {
            (Err(error), Err(second)) => {
                tracing::warn!("merging of the disks of VM {vm} may be switched off: {second}");
                Err(error)
            }
            (exported, merging) => exported.and(merging.map(drop)),
        }
    }

    /// Makes sure that what is about to be deleted will be merged. Never fails: a checkpoint that cannot be merged is
    /// better deleted than kept.
    pub(super) async fn ensure_merging(&self, vm: VmId) {
        let switched = match self.merges_disks(vm).await {
            Ok(true) => return,
            Ok(false) => match self.checkpoints(vm).await {
                Ok(all) if all.iter().any(is_foreign) => {
                    tracing::warn!(
                        "merging of the disks of VM {vm} is switched off, and another product's backup is under way"
                    );
                    return;
                }
                Ok(_) => self.switch_merging_on(vm).await.map(drop),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = switched {
            tracing::warn!("merging of the disks of VM {vm} may be switched off: {error}");
        }
    }

    /// [U] The class is documented; that an export without disks switches merging off, and that an object per VM tells,
    /// was reported from real hosts and not seen by us. No class or no object means that merging is on.
    async fn merge_settings(&self, vm: VmId) -> Result<Option<Instance>, Error> {
        // A literal of LIKE: GUIDs hold nothing special.
        let wql = format!(
            "SELECT * FROM {} WHERE InstanceID LIKE 'Microsoft:{vm}%'",
            objects::DISK_MERGE
        );
        match self.query(&wql).await {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// [U] The parameter's name stands in public documentation but was not seen on a real host.
    async fn set_merging_on(&self, settings: &Instance) -> Result<(), Error> {
        let change = super::edit::change_of(settings).with("EnabledState", 1_u32);
        let parameters = Properties::new().with("SettingData", Value::embedded(&change));
        self.call_setting("ModifyDiskMergeSettings", parameters)
            .await
    }
}

fn is_on(settings: &Instance) -> bool {
    settings.u32("EnabledState") != Some(0)
}

/// A recovery checkpoint that does not carry our mark.
fn is_foreign(checkpoint: &Checkpoint) -> bool {
    checkpoint.kind == CheckpointKind::Recovery && checkpoint.mark().is_none()
}
