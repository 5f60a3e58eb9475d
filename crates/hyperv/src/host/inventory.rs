//! What VMs there are: all of them with few requests, one of them whole.
//!
//! Objects of the host are reduced as they arrive (see `parts`): what an inventory holds of a VM is a few kilobytes.
//! Nothing here depends on texts that a localised host translates, such as Caption.

use std::collections::HashMap;

use model::{PowerState, SwitchRef, VmConfig, VmId};
use wsman::{FaultClass, Instance, wql_literal};

use super::components::{Components, disk_path};
use super::objects::{self, owner_guid};
use super::parts::{slim, slim_to};
use super::vm::{Activity, Checkpoint, CheckpointDisk, CheckpointKind, VmFacts, VmSummary};
use super::vm_objects::{
    activity, checkpoint, checkpoint_kind, folders, is_active, power_state, replication, timestamp,
};
use super::{Host, config, unsupported};
use crate::Error;

/// Properties of a VM that are looked at.
const SYSTEM: [&str; 9] = [
    "Name",
    "ElementName",
    "EnabledState",
    "OperationalStatus",
    "OnTimeInMilliseconds",
    "TimeOfLastConfigurationChange",
    "ReplicationMode",
    "ReplicationState",
    "LastSuccessfulBackupTime",
];
/// Properties of settings that are looked at.
const SETTINGS: [&str; 20] = [
    "InstanceID",
    "VirtualSystemIdentifier",
    "VirtualSystemType",
    "VirtualSystemSubType",
    "Version",
    "ElementName",
    "Notes",
    "Parent",
    "CreationTime",
    "ConfigurationDataRoot",
    "SnapshotDataRoot",
    "SuspendDataRoot",
    "SwapFileDataRoot",
    "SecureBootEnabled",
    "SecureBootTemplateId",
    "AutomaticStartupAction",
    "AutomaticShutdownAction",
    "BootOrder",
    "BootSourceOrder",
    "ConfigurationFile",
];
/// Checkpoints asked for in one query.
const CHECKPOINTS_PER_QUERY: usize = 20;

impl Host {
    /// Returns every VM, with a number of requests that grows with the bytes of the host's answers only.
    pub async fn vms(&self) -> Result<Vec<VmSummary>, Error> {
        self.service(objects::MANAGEMENT).await?;
        let systems = self.systems().await?;
        let mut settings: HashMap<VmId, Vec<Instance>> = HashMap::new();
        let all = format!("SELECT * FROM {}", objects::SETTINGS);
        for found in self.query_map(&all, slim_settings).await? {
            if let Ok(id) = config::vm_id(&found) {
                settings.entry(id).or_default().push(found);
            }
        }
        let switches = self.switches().await?;
        let mut parts = self.all_parts().await?;
        let clustered = self.clustered_vms().await?;

        let mut vms = Vec::new();
        for (id, system) in &systems {
            let own = settings.remove(id).unwrap_or_default();
            // Made or destroyed while we were asking: the next inventory shows it whole.
            let Some(active) = own.iter().find(|s| is_active(s)) else {
                continue;
            };
            let checkpoints = own
                .iter()
                .filter(|s| checkpoint_kind(s) == Some(CheckpointKind::User))
                .count();
            let parts = parts.remove(id).unwrap_or_default();
            let clustered = clustered.contains(id);
            vms.push(summary(
                system,
                active,
                &parts,
                &switches,
                checkpoints,
                clustered,
            )?);
        }
        Ok(vms)
    }

    /// Returns the objects of all VMs: the host itself, whose name is no GUID, is left out.
    pub(super) async fn systems(&self) -> Result<Vec<(VmId, Instance)>, Error> {
        self.query_map(&format!("SELECT * FROM {}", objects::VM), |mut system| {
            let id = system.text("Name")?.parse().ok()?;
            slim_to(&mut system, &SYSTEM);
            Some((id, system))
        })
        .await
    }

    /// Returns one VM as the inventory shows it, without reading any disk.
    pub async fn vm_summary(&self, id: VmId) -> Result<VmSummary, Error> {
        Ok(self.look_at(id).await?.summary)
    }

    async fn look_at(&self, id: VmId) -> Result<Look, Error> {
        let system = self.system(id).await?;
        let settings = self.settings_of(id).await?;
        let active = settings
            .iter()
            .find(|s| is_active(s))
            .ok_or_else(|| not_found(id))?;
        let parts = self.parts_of(active).await?;
        let switches = self.switches().await?;
        let clustered = self.clustered_vms().await?.contains(&id);
        let users = settings
            .iter()
            .filter(|s| checkpoint_kind(s) == Some(CheckpointKind::User))
            .count();
        let summary = summary(&system, active, &parts, &switches, users, clustered)?;
        Ok(Look {
            summary,
            active: active.clone(),
            parts,
            settings,
        })
    }

    /// Returns one VM whole: checkpoints, reference points, disks with their chains.
    pub async fn vm(&self, id: VmId) -> Result<VmFacts, Error> {
        let Look {
            mut summary,
            active,
            parts,
            settings,
        } = self.look_at(id).await?;
        let vm = objects::vm(id);
        let associated = async |association| -> Result<Option<String>, Error> {
            let found = self
                .associated(&vm, association, Some(objects::SETTINGS))
                .await?;
            Ok(found.first().map(objects::id_key))
        };
        let current = associated("Msvm_MostCurrentSnapshotInBranch").await?;
        let last_applied = associated("Msvm_LastAppliedSnapshot").await?;

        let mut checkpoints: Vec<Checkpoint> = settings.iter().filter_map(checkpoint).collect();
        let mut disks = self.disks_of_checkpoints(&checkpoints).await?;
        let ids: HashMap<String, String> = checkpoints
            .iter()
            .map(|c| (c.id.to_lowercase(), c.id.clone()))
            .collect();
        for checkpoint in &mut checkpoints {
            let key = checkpoint.id.to_lowercase();
            checkpoint.current = current.as_ref() == Some(&key);
            checkpoint.disks = owner_guid(&checkpoint.id)
                .and_then(|owner| disks.remove(&owner))
                .unwrap_or_default();
            // Hosts vary the case of ids between properties.
            let parent = checkpoint.parent.take();
            checkpoint.parent = parent.map(|id| ids.get(&id.to_lowercase()).cloned().unwrap_or(id));
        }
        checkpoints.sort_by_key(|checkpoint| checkpoint.created);
        summary.config.boot_entries = self.boot_entries(&active, &parts).await?;
        let disks = self.disks_of(&summary.config).await?;
        Ok(VmFacts {
            summary,
            folders: folders(&active),
            checkpoints,
            last_applied,
            reference_points: self.reference_points(id).await?,
            disks,
        })
    }

    /// Returns the disks that checkpoints hold, by the GUID of the checkpoint, with one query for many.
    async fn disks_of_checkpoints(
        &self,
        checkpoints: &[Checkpoint],
    ) -> Result<HashMap<VmId, Vec<CheckpointDisk>>, Error> {
        let mut all: HashMap<VmId, Vec<CheckpointDisk>> = HashMap::new();
        let guids: Vec<VmId> = checkpoints
            .iter()
            .filter_map(|checkpoint| owner_guid(&checkpoint.id))
            .collect();
        for some in guids.chunks(CHECKPOINTS_PER_QUERY) {
            let own: Vec<String> = some
                .iter()
                .map(|guid| format!("InstanceID LIKE 'Microsoft:{guid}%'"))
                .collect();
            let wql = format!(
                "SELECT * FROM {} WHERE {}",
                objects::STORAGE,
                own.join(" OR ")
            );
            let found = self
                .query_map(&wql, |media| {
                    let attachment = media.text("InstanceID")?.to_owned();
                    let path = disk_path(&media)?.to_owned();
                    Some((
                        owner_guid(&attachment)?,
                        CheckpointDisk { attachment, path },
                    ))
                })
                .await?;
            for (owner, disk) in found {
                all.entry(owner).or_default().push(disk);
            }
        }
        for disks in all.values_mut() {
            disks.sort_by(|a, b| a.attachment.cmp(&b.attachment));
        }
        Ok(all)
    }

    /// Reads the settings of a VM and of its checkpoints.
    pub(super) async fn settings_of(&self, id: VmId) -> Result<Vec<Instance>, Error> {
        let wql = format!(
            "SELECT * FROM {} WHERE VirtualSystemIdentifier = {}",
            objects::SETTINGS,
            wql_literal(&id.to_string())
        );
        self.query_map(&wql, slim_settings).await
    }

    /// Returns whether a VM with this id is registered, realised or planned.
    pub async fn vm_exists(&self, id: VmId) -> Result<bool, Error> {
        for vm in [objects::vm(id), objects::planned_vm(id)] {
            match self.session.get(&vm).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == crate::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Returns what a VM does and what the host is doing with it, with one request.
    pub async fn power(&self, id: VmId) -> Result<(PowerState, Option<Activity>), Error> {
        let system = self.system(id).await?;
        Ok((power_state(&system), activity(&system)))
    }

    /// Reads the `Msvm_ComputerSystem` of a VM.
    pub(super) async fn system(&self, id: VmId) -> Result<Instance, Error> {
        match self.session.get(&objects::vm(id)).await {
            Err(error) if error.kind() == crate::ErrorKind::NotFound => Err(not_found(id)),
            result => result,
        }
    }

    /// Reads the settings in force of a VM or planned VM.
    pub(super) async fn active_settings(&self, vm: &wsman::Epr) -> Result<Instance, Error> {
        let found = self
            .associated(vm, "Msvm_SettingsDefineState", Some(objects::SETTINGS))
            .await?;
        let name = vm.get("Name").unwrap_or_default();
        found.into_iter().next().ok_or_else(|| Error::NotFound {
            what: format!("VM {name}"),
        })
    }

    /// Reads the parts of a VM's or checkpoint's settings.
    pub(super) async fn components(&self, settings: &Instance) -> Result<Components, Error> {
        let id = settings.text("InstanceID").unwrap_or_default();
        let object = objects::by_instance_id(objects::SETTINGS, id);
        let parts = self
            .associated(&object, "Msvm_VirtualSystemSettingDataComponent", None)
            .await?;
        Ok(Components { parts })
    }

    /// Reads the parts of settings with those that are associated with parts only: VLANs.
    async fn parts_of(&self, settings: &Instance) -> Result<Components, Error> {
        let mut parts = self.components(settings).await?;
        if let Some(owner) = settings.text("InstanceID").and_then(owner_guid) {
            let wql = format!(
                "SELECT * FROM {} WHERE InstanceID LIKE 'Microsoft:{owner}%'",
                objects::VLAN
            );
            match self.query_map(&wql, |vlan| Some(slim(vlan))).await {
                Ok(vlans) => parts.parts.extend(vlans),
                Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(parts)
    }

    /// Returns settings and switches of a checkpoint or VM as a configuration with boot entries.
    pub(super) async fn full_config(
        &self,
        settings: &Instance,
    ) -> Result<(VmConfig, Components), Error> {
        let parts = self.parts_of(settings).await?;
        let switches = self.switches().await?;
        let mut config = config::read(settings, &parts, &switches)?;
        config.boot_entries = self.boot_entries(settings, &parts).await?;
        Ok((config, parts))
    }
}

pub(super) fn not_found(id: VmId) -> Error {
    Error::NotFound {
        what: format!("VM {id}"),
    }
}

/// A VM looked at, without its disks.
struct Look {
    summary: VmSummary,
    active: Instance,
    parts: Components,
    settings: Vec<Instance>,
}

fn slim_settings(mut settings: Instance) -> Option<Instance> {
    slim_to(&mut settings, &SETTINGS);
    Some(settings)
}

fn summary(
    system: &Instance,
    active: &Instance,
    parts: &Components,
    switches: &[SwitchRef],
    checkpoints: usize,
    clustered: bool,
) -> Result<VmSummary, Error> {
    let power = power_state(system);
    let replication = replication(system);
    let mut lost = unsupported::of_parts(parts);
    lost.extend(unsupported::of_state(power, replication));
    lost.extend(clustered.then(unsupported::clustered));
    Ok(VmSummary {
        config: config::read(active, parts, switches)?,
        power,
        activity: activity(system),
        uptime_ms: system.u64("OnTimeInMilliseconds"),
        changed: timestamp(system, "TimeOfLastConfigurationChange"),
        checkpoints,
        replication,
        security: unsupported::security(parts),
        last_backup: timestamp(system, "LastSuccessfulBackupTime"),
        unsupported: lost,
    })
}
