//! Objects of VMs, settings and checkpoints, read into words.

use model::{PowerState, Timestamp};
use wsman::Instance;

use super::objects::path_key;
use super::vm::{Activity, Checkpoint, CheckpointKind, Folders, Replication, ReplicationRole};

/// The part of a VM in a replication.
pub(super) fn replication(system: &Instance) -> Replication {
    Replication {
        role: match system.u16("ReplicationMode") {
            None | Some(0) => ReplicationRole::None,
            Some(1) => ReplicationRole::Primary,
            Some(2) => ReplicationRole::Replica,
            Some(3) => ReplicationRole::TestReplica,
            Some(4) => ReplicationRole::ExtendedReplica,
            Some(other) => ReplicationRole::Other(other),
        },
        state: system.u16("ReplicationState").unwrap_or(0),
    }
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

pub(super) fn is_active(settings: &Instance) -> bool {
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

pub(super) fn folders(settings: &Instance) -> Folders {
    let text = |name: &str| settings.text(name).unwrap_or_default().to_owned();
    Folders {
        config: text("ConfigurationDataRoot"),
        checkpoints: text("SnapshotDataRoot"),
        saved_state: text("SuspendDataRoot"),
        swap: text("SwapFileDataRoot"),
    }
}

pub(super) fn timestamp(instance: &Instance, name: &str) -> Option<Timestamp> {
    let moment = instance.time(name)?.moment()?;
    Some(Timestamp::from_millis(moment.unix_millis()))
}
