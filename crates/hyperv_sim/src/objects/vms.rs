//! VMs, their reference points and components, and jobs.

use wsman::ObjectPath;

use super::status_of;
use crate::cim::{Object, Value, v2};
use crate::clock::{dmtf, dmtf_interval, now};
use crate::definition::{kind, subtype};
use crate::engine::State;
use crate::jobs::{Ending, Job};
use crate::methods::reference_point_id;
use crate::state::{Language, Power, ReferencePoint, Replication, Vm, guid};

/// ReferencePointType of resilient change tracking.
const RCT: u64 = 2;

pub(super) fn system(state: &State, vm: &Vm) -> Object {
    let class = if vm.planned {
        "Msvm_PlannedComputerSystem"
    } else {
        "Msvm_ComputerSystem"
    };
    let caption = match (vm.planned, state.host.knobs.language) {
        (true, Language::English) => "Planned Virtual Machine",
        (true, Language::German) => "Geplanter virtueller Computer",
        (false, Language::English) => "Virtual Machine",
        (false, Language::German) => "Virtueller Computer",
    };
    let now = now();
    let mut object = Object::new(v2(class))
        .with("CreationClassName", class)
        .with("Name", guid(vm.id))
        .with("ElementName", vm.name())
        .with("Caption", caption)
        .with("Description", "Microsoft Virtual Machine")
        .with(
            "EnabledState",
            vm.power.enabled_state(state.host.knobs.enabled_states),
        )
        .with("RequestedState", 12_u64)
        .with("EnabledDefault", 2_u64)
        .with(
            "HealthState",
            match (vm.starved, vm.power) {
                (true, _) => 25_u64,
                (false, Power::Paused) => 20,
                (false, Power::Running | Power::Saved | Power::Off) => 5,
            },
        )
        .with("OperationalStatus", Value::numbers(status_of(state, vm)))
        .with(
            "StatusDescriptions",
            Value::texts([if vm.starved {
                "A volume is running out of space: the virtual machine is paused"
            } else {
                "Operating normally"
            }]),
        )
        .with("Status", "OK")
        .with("InstallDate", dmtf(vm.config_changed))
        .with("TimeOfLastStateChange", dmtf(vm.state_changed))
        .with("TimeOfLastConfigurationChange", dmtf(vm.config_changed))
        .with("NumberOfNumaNodes", 1_u64)
        .with("EnhancedSessionModeState", 3_u64);
    let on_millis = if vm.power.holds_disks() {
        now.millis_since(vm.state_changed)
    } else {
        0
    };
    object = object.with("OnTimeInMilliseconds", on_millis);
    if vm.power.holds_disks() {
        object = object.with("ProcessID", 4_000 + u64::from(vm.id.as_bytes()[0]));
    }
    if !vm.planned {
        // Mode: 1 primary, 2 replica. State 3: replicating.
        let (replication_mode, replication_state) = match vm.replication {
            Replication::None => (0_u64, 0_u64),
            Replication::Primary => (1, 3),
            Replication::Replica => (2, 3),
        };
        object = object
            .with("ReplicationState", replication_state)
            .with("ReplicationHealth", u64::from(replication_mode > 0))
            .with("ReplicationMode", replication_mode)
            .with("FailedOverReplicationType", 0_u64)
            .with("LastReplicationType", 0_u64);
    }
    object
}

pub(super) fn reference_point(vm: &Vm, point: &ReferencePoint) -> Object {
    Object::new(v2("Msvm_VirtualSystemReferencePoint"))
        .with("InstanceID", reference_point_id(point.id))
        .with("VirtualSystemIdentifier", guid(vm.id))
        .with("ElementName", vm.name())
        .with("ReferencePointType", RCT)
        .with(
            "ConsistencyLevel",
            if point.application { 1_u64 } else { 2 },
        )
        .with("HasAssociatedData", false)
        .with("CreationTime", dmtf(point.created))
        .with(
            "VirtualDiskIdentifiers",
            Value::texts(point.disks.iter().map(|(disk, _)| disk.as_str())),
        )
        .with(
            "ResilientChangeTrackingIdentifiers",
            Value::texts(point.disks.iter().map(|(_, id)| id.as_str())),
        )
}

pub(super) fn export_settings(vm: &Vm) -> Object {
    Object::new(v2("Msvm_VirtualSystemExportSettingData"))
        .with("InstanceID", format!(r"Microsoft:{}\Export", guid(vm.id)))
        .with("CopySnapshotConfiguration", 0_u64)
        .with("CaptureLiveState", 1_u64)
        .with("CopyVmRuntimeInformation", true)
        .with("CopyVmStorage", true)
        .with("CreateVmExportSubdirectory", true)
        .with("BackupIntent", 0_u64)
        .with("DisableDifferentialOfIgnoredStorage", false)
}

/// Whether the host merges a VM's disks.
pub(super) fn merge_settings(vm: &Vm) -> Object {
    Object::new(v2("Msvm_DiskMergeSettingData"))
        .with(
            "InstanceID",
            format!(r"Microsoft:{}\DiskMerge", guid(vm.id)),
        )
        .with("ElementName", "Disk Merge Settings")
        .with("EnabledState", u64::from(!vm.chain_locked))
}

/// An integration component: there while the guest runs.
pub(super) fn component(vm: &Vm, class: &'static str) -> Option<Object> {
    let device = match class {
        "Msvm_ShutdownComponent" => "9F8233AC-BE49-4C79-8EE3-E7E1985B2077",
        _ => "5CED1297-4598-4915-A5FC-AD21BB4D02A4",
    };
    (vm.power == Power::Running && !vm.planned).then(|| {
        Object::new(v2(class))
            .with("CreationClassName", class)
            .with("DeviceID", format!(r"Microsoft:{}\{device}", guid(vm.id)))
            .with("SystemCreationClassName", "Msvm_ComputerSystem")
            .with("SystemName", guid(vm.id))
            .with("EnabledState", 2_u64)
            .with("HealthState", 5_u64)
            .with("OperationalStatus", Value::numbers([2]))
    })
}

pub(super) fn jobs(state: &State) -> Vec<Object> {
    let now = now();
    let kept = state.host.knobs.job_kept_millis;
    state
        .jobs
        .iter()
        .filter(|job| !job.is_gone(now, kept))
        .map(|job| object(job, state.done.get(&job.id).copied(), kept))
        .collect()
}

fn object(job: &Job, done: Option<u64>, kept: u64) -> Object {
    let now = now();
    let (state, percent) = job.progress(now, done);
    let ending = job.outcome.as_ref().map(|outcome| outcome.ending);
    let is_bad =
        ending.is_some_and(|ending| !matches!(ending, Ending::Completed | Ending::Warnings));
    let ended = job.outcome.as_ref().map(|outcome| outcome.at);
    let failure = job
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.failure.as_ref());
    let mut object = Object::new(v2("Msvm_ConcreteJob"))
        .with("InstanceID", guid(job.id))
        .with("Name", "Msvm_ConcreteJob")
        .with("Caption", job.method.as_str())
        .with("ElementName", job.method.as_str())
        .with("JobState", state)
        .with(
            "JobStatus",
            match ending {
                Some(ending) => ending.status(),
                None if state == 5 => "Job is suspended.",
                None => "Job is running.",
            },
        )
        .with("PercentComplete", percent)
        .with("JobType", u64::from(job.job_type))
        .with("Cancellable", job.is_cancellable())
        .with("DeleteOnCompletion", true)
        .with(
            "OperationalStatus",
            Value::numbers([if is_bad { 6 } else { 2 }]),
        )
        .with("HealthState", 5_u64)
        .with("LocalOrUtcTime", 2_u64)
        .with("JobRunTimes", 1_u64)
        .with("Priority", 0_u64)
        .with("TimeSubmitted", dmtf(job.submitted))
        .with("StartTime", dmtf(job.submitted))
        .with(
            "ElapsedTime",
            dmtf_interval(ended.unwrap_or(now).millis_since(job.submitted)),
        )
        .with(
            "TimeOfLastStateChange",
            dmtf(ended.unwrap_or(job.submitted)),
        )
        .with("TimeBeforeRemoval", dmtf_interval(kept))
        .with("ErrorCode", failure.map_or(0, |(code, _)| u64::from(*code)));
    if let Some((_, message)) = failure {
        object = object
            .with("ErrorDescription", message.as_str())
            .with("ErrorSummaryDescription", message.as_str());
    }
    object
}

/// The disks of the host that a VM has as its own.
pub(super) fn physical_disks(vm: &Vm) -> Vec<Object> {
    let drives = vm.definition.of_kind(kind::DISK_DRIVE);
    drives
        .filter(|drive| {
            drive
                .text("ResourceSubType")
                .eq_ignore_ascii_case(subtype::PHYSICAL_DISK)
        })
        .filter_map(|drive| {
            let path: ObjectPath = drive.first("HostResource").parse().ok()?;
            let number: u64 = path.get("DeviceID")?.rsplit('\\').next()?.parse().ok()?;
            let key = |name: &str| path.get(name).unwrap_or_default().to_owned();
            let object = Object::new(v2("Msvm_DiskDrive"))
                .with("CreationClassName", key("CreationClassName"))
                .with("DeviceID", key("DeviceID"))
                .with("SystemCreationClassName", key("SystemCreationClassName"))
                .with("SystemName", key("SystemName"))
                .with(
                    "ElementName",
                    format!("Disk {number} 100.00 GB Bus 0 Lun 0 Target 0"),
                )
                .with("DriveNumber", number)
                .with("MaxMediaSize", 104_857_600_u64)
                .with("EnabledState", 2_u64);
            Some(object)
        })
        .collect()
}
