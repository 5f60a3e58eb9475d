//! Checkpoints and reference points.

use std::sync::Arc;

use uuid::Uuid;

use super::answers::{settings_path, system_path};
use super::{Answer, Call, CheckpointOperation, Operation};
use crate::checkpoints::{self, Wish};
use crate::cim::V2;
use crate::definition::{kind, subtype};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::merge;
use crate::reference_points;
use crate::refusals::Refusal;
use crate::state::{CheckpointKind, Vm, guid};

const TYPE_FULL: u64 = 2;
const TYPE_RECOVERY: u64 = 32768;
const LEVEL_APPLICATION: u64 = 1;

/// Methods of the snapshot and reference point services.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    if call.target.class.name == "Msvm_VirtualSystemReferencePointService" {
        return match method {
            "DestroyReferencePoint" => Some(destroy_reference_point(call)),
            "CreateReferencePoint" => Some(Err(Failure::refused(
                Refusal::CreateReferencePoint,
                "this host makes reference points of recovery checkpoints only",
            ))),
            "ExportReferencePoint" | "ImportReferencePointMetadata" | "RemoveAssociatedData" => {
                Some(unsupported(method))
            }
            _ => None,
        };
    }
    match method {
        "CreateSnapshot" => Some(create(call)),
        "ApplySnapshot" => Some(apply(call)),
        "DestroySnapshot" => Some(destroy(call, "AffectedSnapshot", false)),
        "DestroySnapshotTree" => Some(destroy(call, "SnapshotSettingData", true)),
        "ConvertToReferencePoint" => Some(convert(call)),
        "ClearSnapshotState" => Some(clear(call)),
        _ => None,
    }
}

fn unsupported(method: &str) -> Result<Answer, Failure> {
    Err(Failure::new(
        code::NOT_SUPPORTED,
        format!("{method} is not supported by this host"),
    ))
}

fn job(call: &Call<'_>, vm: Uuid, operation: CheckpointOperation) -> Result<Answer, Failure> {
    call.job(Some(vm), Operation::Checkpoint { vm, operation })
}

/// Refuses while the host is doing something to the VM's checkpoints or files.
pub(crate) fn need_peace(engine: &Engine, vm: &Vm) -> Result<(), Failure> {
    let busy = engine.read(|state| {
        state.jobs.iter().any(|job| {
            job.vm == Some(vm.id)
                && job.outcome.is_none()
                && job.operation.operational_status().is_some()
        })
    });
    if busy || merge::is_merging(vm) {
        let row = if busy {
            Refusal::BusyWithJob
        } else {
            Refusal::BusyMerging
        };
        return Err(Failure::refused(
            row,
            format!(
                "{} is busy with a checkpoint, an export or a merge",
                vm.name()
            ),
        ));
    }
    Ok(())
}

fn create(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("AffectedSystem")?;
    if vm.planned {
        return Err(Failure::refused(
            Refusal::SnapshotPlanned,
            "a planned virtual machine has no checkpoints of its own",
        ));
    }
    let recovery = match call.need_number("SnapshotType")? {
        TYPE_FULL => false,
        TYPE_RECOVERY => true,
        other => {
            return Err(Failure::refused(
                Refusal::SnapshotType,
                format!("this host does not take checkpoints of type {other}"),
            ));
        }
    };
    let settings = call.embedded("SnapshotSettings")?;
    if settings
        .as_ref()
        .is_some_and(|settings| settings.class.name != "Msvm_VirtualSystemSnapshotSettingData")
    {
        return Err(Failure::refused(
            Refusal::WrongClass,
            "SnapshotSettings is no Msvm_VirtualSystemSnapshotSettingData",
        ));
    }
    let level = settings
        .as_ref()
        .and_then(|settings| settings.number("ConsistencyLevel"))
        .unwrap_or(0);
    if level > 2 {
        return Err(Failure::invalid(format!(
            "there is no consistency level {level}"
        )));
    }
    need_peace(call.engine, &vm)?;
    if !recovery && vm.definition.vssd.number("UserSnapshotType") == Some(2) {
        return Err(Failure::refused(
            Refusal::SnapshotsDisabled,
            "checkpoints are disabled for this virtual machine",
        ));
    }
    let skip = settings.is_some_and(|settings| {
        settings
            .given
            .get("IgnoreNonSnapshottableDisks")
            .and_then(crate::cim::Value::as_bool)
            == Some(true)
    });
    let pass_through = vm.definition.of_kind(kind::DISK_DRIVE).any(|drive| {
        drive
            .text("ResourceSubType")
            .eq_ignore_ascii_case(subtype::PHYSICAL_DISK)
    });
    let shared = vm
        .definition
        .disks()
        .any(|disk| disk.flag("PersistentReservationsSupported"));
    if (pass_through && !skip) || shared {
        return Err(Failure::refused(
            Refusal::SnapshotUnfit,
            "a disk of the virtual machine cannot be checkpointed",
        ));
    }
    let operation = CheckpointOperation::Create {
        id: Uuid::new_v4(),
        recovery,
        application: recovery && level == LEVEL_APPLICATION,
        name: None,
    };
    Ok(job(call, vm.id, operation)?.with("ResultingSnapshot", wsman::Value::Null))
}

fn apply(call: &Call<'_>) -> Result<Answer, Failure> {
    let (vm, checkpoint) = call.checkpoint("Snapshot")?;
    if vm.power.holds_disks() {
        return Err(Failure::refused(
            Refusal::ApplyRunning,
            "the virtual machine is running; turn it off or save it first",
        ));
    }
    if vm
        .checkpoint(checkpoint)
        .is_some_and(|checkpoint| checkpoint.kind != CheckpointKind::User)
    {
        return Err(Failure::refused(
            Refusal::ApplyRecovery,
            "only a user's checkpoint can be applied",
        ));
    }
    need_peace(call.engine, &vm)?;
    job(
        call,
        vm.id,
        CheckpointOperation::Apply {
            id: checkpoint,
            made: Uuid::new_v4(),
        },
    )
}

fn destroy(call: &Call<'_>, parameter: &str, tree: bool) -> Result<Answer, Failure> {
    let (vm, checkpoint) = call.checkpoint(parameter)?;
    if !vm.planned {
        need_peace(call.engine, &vm)?;
    }
    let ids = if tree {
        checkpoints::subtree(&vm, checkpoint)
    } else {
        vec![checkpoint]
    };
    job(call, vm.id, CheckpointOperation::Destroy { ids })
}

fn convert(call: &Call<'_>) -> Result<Answer, Failure> {
    let (vm, checkpoint) = call.checkpoint("AffectedSnapshot")?;
    if vm
        .checkpoint(checkpoint)
        .is_some_and(|checkpoint| checkpoint.kind != CheckpointKind::Recovery)
    {
        return Err(Failure::refused(
            Refusal::ConvertUser,
            "only a recovery checkpoint can become a reference point",
        ));
    }
    need_peace(call.engine, &vm)?;
    let operation = CheckpointOperation::Convert {
        id: checkpoint,
        made: Uuid::new_v4(),
    };
    Ok(job(call, vm.id, operation)?.with("ResultingReferencePoint", wsman::Value::Null))
}

/// Throws away the memory a checkpoint of a running VM holds.
fn clear(call: &Call<'_>) -> Result<Answer, Failure> {
    let (vm, id) = call.checkpoint("SnapshotSettingData")?;
    let holds = vm
        .checkpoint(id)
        .is_some_and(|checkpoint| checkpoint.definition.vssd.flag("IsSaved"));
    if !holds {
        return Err(Failure::refused(
            Refusal::ClearNothing,
            "the checkpoint holds no saved state",
        ));
    }
    need_peace(call.engine, &vm)?;
    job(call, vm.id, CheckpointOperation::ClearState { id })
}

fn destroy_reference_point(call: &Call<'_>) -> Result<Answer, Failure> {
    let id = call
        .reference("AffectedReferencePoint")?
        .get("InstanceID")
        .unwrap_or_default()
        .to_owned();
    let id = Uuid::try_parse(id.rsplit(':').next().unwrap_or_default()).ok();
    let found = id.and_then(|id| {
        call.engine.read(|state| {
            let holds = |vm: &&Vm| vm.reference_points.iter().any(|point| point.id == id);
            state.vms.values().find(holds).map(|vm| (vm.id, id))
        })
    });
    let (vm, point) =
        found.ok_or_else(|| Failure::invalid("AffectedReferencePoint names none of this host"))?;
    job(
        call,
        vm,
        CheckpointOperation::DestroyReferencePoint { point },
    )
}

/// Does what a job of these services is to do.
pub(crate) fn perform(
    engine: &Arc<Engine>,
    vm: Uuid,
    operation: &CheckpointOperation,
) -> Result<Vec<String>, Failure> {
    let mut affected = Vec::new();
    match operation {
        CheckpointOperation::Create {
            id,
            recovery,
            application,
            name,
        } => {
            let kind = if *recovery {
                CheckpointKind::Recovery
            } else {
                CheckpointKind::User
            };
            let wish = Wish {
                id: *id,
                kind,
                application: *application,
                name: name.as_deref(),
            };
            checkpoints::create(engine, vm, wish)?;
            affected.push(settings_path(engine, *id));
        }
        CheckpointOperation::Apply { id, made } => checkpoints::apply(engine, vm, *id, *made)?,
        CheckpointOperation::Destroy { ids } => checkpoints::destroy(engine, vm, ids)?,
        CheckpointOperation::Convert { id, made } => {
            reference_points::convert(engine, vm, *id, *made)?;
            affected.push(reference_point_path(engine, vm, *made));
        }
        CheckpointOperation::ClearState { id } => {
            checkpoints::clear_state(engine, vm, *id)?;
            affected.push(settings_path(engine, *id));
        }
        CheckpointOperation::DestroyReferencePoint { point } => {
            reference_points::destroy_reference_point(engine, vm, *point)?;
        }
    }
    affected.push(system_path(engine, vm, false));
    Ok(affected)
}

/// Returns InstanceID of a reference point.
pub(crate) fn reference_point_id(point: Uuid) -> String {
    format!("Microsoft:{}", guid(point))
}

fn reference_point_path(engine: &Engine, vm: Uuid, point: Uuid) -> String {
    wsman::ObjectPath::new("Msvm_VirtualSystemReferencePoint")
        .with("InstanceID", reference_point_id(point))
        .with("VirtualSystemIdentifier", guid(vm))
        .on(&engine.name(), V2)
        .to_string()
}
