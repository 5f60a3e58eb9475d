//! What VMs there are: all of them with few requests, one of them whole.

use std::collections::HashMap;

use model::{PowerState, SwitchRef, Timestamp, Unsupported, VmConfig, VmId};
use wsman::{Instance, wql_literal};

use super::components::{Components, disk_path};
use super::objects::{self, owner_guid, path_key};
use super::vm::{
    Activity, Checkpoint, CheckpointDisk, CheckpointKind, Folders, VmFacts, VmSummary,
};
use super::{Host, config};
use crate::Error;

/// Classes of parts the inventory reads.
const PART_CLASSES: [&str; 9] = [
    objects::RESOURCE,
    objects::STORAGE,
    objects::NIC,
    objects::LEGACY_NIC,
    objects::NIC_CONNECTION,
    objects::MEMORY,
    objects::PROCESSOR,
    objects::SECURITY,
    objects::FIBRE_CHANNEL,
];

impl Host {
    /// Returns every VM, with a fixed number of requests.
    pub async fn vms(&self) -> Result<Vec<VmSummary>, Error> {
        self.service(objects::MANAGEMENT).await?;
        let systems = self
            .query(&format!("SELECT * FROM {}", objects::VM))
            .await?;
        let settings = self
            .query(&format!("SELECT * FROM {}", objects::SETTINGS))
            .await?;
        let switches = self.switches().await?;
        let mut parts: HashMap<VmId, Components> = HashMap::new();
        for class in PART_CLASSES {
            let found = match self.query(&format!("SELECT * FROM {class}")).await {
                Ok(found) => found,
                // Old hosts have no class for what they cannot do.
                Err(error) if error.fault_class() == Some(wsman::FaultClass::UnknownClass) => {
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            for part in found {
                if let Some(owner) = part.text("InstanceID").and_then(owner_guid) {
                    parts.entry(owner).or_default().parts.push(part);
                }
            }
        }

        let mut vms = Vec::new();
        for system in &systems {
            // The host itself is an instance too; its name is no GUID.
            let Some(id) = system
                .text("Name")
                .and_then(|name| name.parse::<VmId>().ok())
            else {
                continue;
            };
            let own: Vec<_> = settings
                .iter()
                .filter(|s| config::vm_id(s).ok() == Some(id))
                .collect();
            // Made or destroyed while we were asking: the next inventory shows it whole.
            let Some(active) = own.iter().find(|s| is_active(s)) else {
                continue;
            };
            let checkpoints = own
                .iter()
                .filter(|s| checkpoint_kind(s) == Some(CheckpointKind::User))
                .count();
            let no_parts = Components::default();
            let parts = parts.get(&id).unwrap_or(&no_parts);
            vms.push(summary(system, active, parts, &switches, checkpoints)?);
        }
        Ok(vms)
    }

    /// Returns one VM whole: checkpoints, reference points, disks with their chains.
    pub async fn vm(&self, id: VmId) -> Result<VmFacts, Error> {
        let system = self.system(id).await?;
        let wql = format!(
            "SELECT * FROM {} WHERE VirtualSystemIdentifier = {}",
            objects::SETTINGS,
            wql_literal(&id.to_string())
        );
        let settings = self.query(&wql).await?;
        let active = settings
            .iter()
            .find(|s| is_active(s))
            .ok_or_else(|| not_found(id))?;
        let parts = self.components(active).await?;
        let switches = self.switches().await?;
        let vm = objects::vm(id);
        let associated = async |association| -> Result<Option<String>, Error> {
            let found = self
                .associated(&vm, association, Some(objects::SETTINGS))
                .await?;
            Ok(found.first().map(objects::id_key))
        };
        let current = associated("Msvm_MostCurrentSnapshotInBranch").await?;
        let last_applied = associated("Msvm_LastAppliedSnapshot").await?;

        let mut checkpoints = Vec::new();
        for settings in &settings {
            if let Some(mut checkpoint) = checkpoint(settings) {
                checkpoint.current = current.as_ref() == Some(&checkpoint.id.to_lowercase());
                checkpoint.disks = checkpoint_disks(&self.components(settings).await?);
                checkpoints.push(checkpoint);
            }
        }
        let ids: HashMap<String, String> = checkpoints
            .iter()
            .map(|c| (c.id.to_lowercase(), c.id.clone()))
            .collect();
        for checkpoint in &mut checkpoints {
            // Hosts vary the case of ids between properties.
            let parent = checkpoint.parent.take();
            checkpoint.parent = parent.map(|id| ids.get(&id.to_lowercase()).cloned().unwrap_or(id));
        }
        checkpoints.sort_by_key(|checkpoint| checkpoint.created);
        let users = checkpoints
            .iter()
            .filter(|c| c.kind == CheckpointKind::User)
            .count();
        let mut summary = summary(&system, active, &parts, &switches, users)?;
        summary.config.boot_entries = self.boot_entries(active, &parts).await?;
        let disks = self.disks_of(&summary.config).await?;
        Ok(VmFacts {
            summary,
            folders: folders(active),
            checkpoints,
            last_applied,
            reference_points: self.reference_points(id).await?,
            disks,
        })
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

    /// Returns settings and switches of a checkpoint or VM as a configuration with boot entries.
    pub(super) async fn full_config(
        &self,
        settings: &Instance,
    ) -> Result<(VmConfig, Components), Error> {
        let parts = self.components(settings).await?;
        let switches = self.switches().await?;
        let mut config = config::read(settings, &parts, &switches)?.config;
        config.boot_entries = self.boot_entries(settings, &parts).await?;
        Ok((config, parts))
    }
}

pub(super) fn not_found(id: VmId) -> Error {
    Error::NotFound {
        what: format!("VM {id}"),
    }
}

fn summary(
    system: &Instance,
    active: &Instance,
    parts: &Components,
    switches: &[SwitchRef],
    checkpoints: usize,
) -> Result<VmSummary, Error> {
    let config::ReadConfig {
        config,
        mut unsupported,
    } = config::read(active, parts, switches)?;
    let power = power_state(system);
    if power == PowerState::Saved {
        let what =
            "the VM's saved memory is not part of a backup; a restored VM starts from its disks"
                .to_owned();
        unsupported.push(Unsupported {
            code: "saved-state".into(),
            what,
        });
    }
    Ok(VmSummary {
        config,
        power,
        activity: activity(system),
        uptime_ms: system.u64("OnTimeInMilliseconds"),
        changed: timestamp(system, "TimeOfLastConfigurationChange"),
        checkpoints,
        unsupported,
    })
}

/// Reads both sets of EnabledState values.
pub(super) fn power_state(system: &Instance) -> PowerState {
    match system.u32("EnabledState") {
        Some(2) => PowerState::Running,
        Some(3) => PowerState::Off,
        Some(9 | 32768) => PowerState::Paused,
        Some(6 | 32769) => PowerState::Saved,
        Some(4 | 10 | 32770 | 32773 | 32774 | 32776 | 32777) => PowerState::Changing,
        _ => PowerState::Unknown,
    }
}

pub(super) fn activity(system: &Instance) -> Option<Activity> {
    let status = system.items("OperationalStatus").get(1)?.as_u32()?;
    Some(match status {
        32768 => Activity::CreatingCheckpoint,
        32769 => Activity::ApplyingCheckpoint,
        32770 => Activity::DeletingCheckpoint,
        32771 => Activity::WaitingToStart,
        32772 => Activity::MergingDisks,
        32773 => Activity::Exporting,
        32774 => Activity::Migrating,
        other => Activity::Other(other),
    })
}

fn is_active(settings: &Instance) -> bool {
    settings
        .text("VirtualSystemType")
        .is_some_and(|kind| kind.eq_ignore_ascii_case("Microsoft:Hyper-V:System:Realized"))
}

/// What a checkpoint is for; `None` for settings of a system.
pub(super) fn checkpoint_kind(settings: &Instance) -> Option<CheckpointKind> {
    let kind = settings.text("VirtualSystemType")?.to_lowercase();
    let kind = kind.strip_prefix("microsoft:hyper-v:snapshot:")?;
    Some(match kind {
        "realized" => CheckpointKind::User,
        "recovery" => CheckpointKind::Recovery,
        "planned" => CheckpointKind::Planned,
        "missing" => CheckpointKind::Missing,
        kind if kind.starts_with("replica") => CheckpointKind::Replica,
        _ => CheckpointKind::Other,
    })
}

/// Reads settings as a checkpoint; `None` where they are none.
pub(super) fn checkpoint(settings: &Instance) -> Option<Checkpoint> {
    Some(Checkpoint {
        id: settings.text("InstanceID")?.to_owned(),
        name: settings.text("ElementName").unwrap_or_default().to_owned(),
        kind: checkpoint_kind(settings)?,
        parent: path_key(settings.get("Parent"), "InstanceID"),
        created: timestamp(settings, "CreationTime"),
        current: false,
        disks: Vec::new(),
    })
}

pub(super) fn checkpoint_disks(parts: &Components) -> Vec<CheckpointDisk> {
    let media = parts.drives().into_iter().filter_map(|drive| drive.media);
    media
        .filter_map(|media| {
            Some(CheckpointDisk {
                attachment: media.text("InstanceID")?.to_owned(),
                path: disk_path(media)?.to_owned(),
            })
        })
        .collect()
}

pub(super) fn folders(settings: &Instance) -> Folders {
    let text = |name: &str| settings.text(name).unwrap_or_default().to_owned();
    Folders {
        config: text("ConfigurationDataRoot"),
        checkpoints: text("SnapshotDataRoot"),
        saved_state: text("SuspendDataRoot"),
        swap: text("SwapFileDataRoot"),
    }
}

fn timestamp(instance: &Instance, name: &str) -> Option<Timestamp> {
    let moment = instance.time(name)?.moment()?;
    Some(Timestamp::from_millis(moment.unix_millis()))
}
