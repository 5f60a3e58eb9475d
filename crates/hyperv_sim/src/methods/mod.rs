//! Methods: what a client can have done, and the jobs that do it.
//!
//! A method checks at once what can be checked at once and refuses with the documented code; what takes time or touches
//! files becomes an [`Operation`], which is kept with its job.

mod answers;
mod boot;
mod changes;
mod devices;
mod export;
mod features;
mod fitness;
mod image;
mod image_work;
mod import;
mod mounted;
mod params;
mod planned;
mod power;
mod security;
mod shadow;
mod snapshot;
mod summary;
mod system;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wsman::{Fault, Properties, Subcode};

use crate::cim::{Bag, Object, Value};
use crate::ctl::FaultRule;
use crate::definition::Definition;
use crate::engine::Engine;
use crate::failure::{Cause, Failure, code};
use crate::jobs::{Job, job_type};
use crate::merge;
use crate::state::Power;

pub(crate) use answers::{Answer, job_reference, system_path};
pub(crate) use devices::check_disks;
pub(crate) use mounted::{Mounted, objects as mounted_images};
pub(crate) use snapshot::reference_point_id;
pub(crate) use system::new_definition;

/// What a job does. Everything it makes has its id in here, so that it can be done twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Operation {
    Power { vm: Uuid, to: Power },
    Restart { vm: Uuid },
    Define { vm: Uuid, planned: bool, definition: Definition },
    Destroy { vm: Uuid },
    AddResources { vm: Uuid, checkpoint: Option<Uuid>, resources: Vec<Bag> },
    ModifyResources { vm: Uuid, changes: Vec<ResourceChange> },
    Checkpoint { vm: Uuid, operation: CheckpointOperation },
    Export { vm: Uuid, plan: export::ExportPlan },
    Import { vm: Uuid, file: String, checkpoint_folder: Option<String> },
    ImportCheckpoints { vm: Uuid, folder: String },
    Validate { vm: Uuid },
    Upgrade { vm: Uuid },
    Realize { vm: Uuid },
    Image { operation: ImageOperation },
    MergeDisks { vm: Uuid },
}

/// What a job does to a VM's checkpoints and reference points.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "checkpoint", rename_all = "kebab-case")]
pub(crate) enum CheckpointOperation {
    Create { id: Uuid, recovery: bool, application: bool, name: Option<String> },
    Apply { id: Uuid, made: Uuid },
    Destroy { ids: Vec<Uuid> },
    Convert { id: Uuid, made: Uuid },
    DestroyReferencePoint { point: Uuid },
    ClearState { id: Uuid },
}

/// A change to one resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ResourceChange {
    pub(crate) checkpoint: Option<Uuid>,
    pub(crate) instance_id: String,
    pub(crate) set: std::collections::BTreeMap<String, Value>,
}

/// What a job of the image service does to disk files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "image", rename_all = "kebab-case")]
pub(crate) enum ImageOperation {
    Create { disk: image::NewDisk },
    Resize { path: String, size: u64 },
    Convert { source: String, disk: image::NewDisk },
    Compact { path: String, find_zeros: bool },
    Attach { path: String, read_only: bool },
    Validate { path: String },
    SetParent { child: String, parent: String, ignore_mismatch: bool },
    Merge { child: String, parent: String },
    SetDiskId { path: String, disk_id: Uuid },
}

impl Operation {
    pub(crate) fn job_type(&self) -> u16 {
        match self {
            Operation::Power {
                to: Power::Running, ..
            }
            | Operation::Restart { .. } => job_type::START,
            Operation::Power {
                to: Power::Off | Power::Saved | Power::Paused,
                ..
            } => job_type::STOP,
            Operation::Define { .. } => job_type::DEFINE,
            Operation::Destroy { .. } => job_type::DESTROY,
            Operation::Upgrade { .. } => job_type::MODIFY,
            Operation::AddResources { .. } => job_type::ADD_RESOURCES,
            Operation::ModifyResources { .. } => job_type::MODIFY_RESOURCES,
            Operation::Checkpoint { operation, .. } => match operation {
                CheckpointOperation::Create { .. } => job_type::CREATE_SNAPSHOT,
                CheckpointOperation::Apply { .. } => job_type::APPLY_SNAPSHOT,
                CheckpointOperation::ClearState { .. } => job_type::CLEAR_SNAPSHOT,
                CheckpointOperation::Destroy { .. }
                | CheckpointOperation::Convert { .. }
                | CheckpointOperation::DestroyReferencePoint { .. } => job_type::DELETE_SNAPSHOT,
            },
            Operation::Export { .. } => job_type::EXPORT,
            Operation::Import { .. }
            | Operation::ImportCheckpoints { .. }
            | Operation::Validate { .. }
            | Operation::Realize { .. } => job_type::IMPORT,
            Operation::MergeDisks { .. }
            | Operation::Image {
                operation: ImageOperation::Merge { .. },
            } => job_type::MERGE_DISKS,
            Operation::Image { .. } => job_type::IMAGE,
        }
    }

    /// Returns the second value of `OperationalStatus` while this goes on.
    pub(crate) fn operational_status(&self) -> Option<u64> {
        match self {
            Operation::Checkpoint { operation, .. } => match operation {
                CheckpointOperation::Create { .. } => Some(32768),
                CheckpointOperation::Apply { .. } => Some(32769),
                CheckpointOperation::Destroy { .. } | CheckpointOperation::Convert { .. } => {
                    Some(32770)
                }
                CheckpointOperation::DestroyReferencePoint { .. }
                | CheckpointOperation::ClearState { .. } => None,
            },
            Operation::Export { .. } => Some(32773),
            Operation::Power { .. }
            | Operation::Restart { .. }
            | Operation::Define { .. }
            | Operation::Destroy { .. }
            | Operation::AddResources { .. }
            | Operation::ModifyResources { .. }
            | Operation::Import { .. }
            | Operation::ImportCheckpoints { .. }
            | Operation::Validate { .. }
            | Operation::Upgrade { .. }
            | Operation::Realize { .. }
            | Operation::Image { .. }
            | Operation::MergeDisks { .. } => None,
        }
    }

    /// Gives a failure the code it has outside: for the management service, a missing file is a plain failure.
    pub(crate) fn at_border(&self, failure: Failure) -> Failure {
        let is_image = matches!(self, Operation::Image { .. });
        if is_image || failure.code != code::FILE {
            return failure;
        }
        Failure {
            code: code::FAILED,
            ..failure
        }
    }

    /// Whether a client may end it before it is done: what copies for long.
    pub(crate) fn is_cancellable(&self) -> bool {
        matches!(
            self,
            Operation::Export { .. }
                | Operation::MergeDisks { .. }
                | Operation::Image {
                    operation: ImageOperation::Merge { .. }
                        | ImageOperation::Convert { .. }
                        | ImageOperation::Compact { .. },
                }
        )
    }

    /// Does it; returns the paths of the objects made or changed.
    pub(crate) fn perform(&self, engine: &Arc<Engine>, job: &Job) -> Result<Vec<String>, Failure> {
        match self {
            Operation::Power { vm, to } => power::change(engine, *vm, *to),
            Operation::Restart { vm } => power::restart(engine, *vm),
            Operation::Define {
                vm,
                planned,
                definition,
            } => system::define(engine, *vm, *planned, definition),
            Operation::Destroy { vm } => system::destroy(engine, *vm),
            Operation::AddResources {
                vm,
                checkpoint,
                resources,
            } => devices::add_resources(engine, *vm, *checkpoint, resources),
            Operation::ModifyResources { vm, changes } => {
                devices::modify_resources(engine, *vm, changes)
            }
            Operation::Checkpoint { vm, operation } => snapshot::perform(engine, *vm, operation),
            Operation::Export { vm, plan } => export::export(engine, *vm, plan, job),
            Operation::Import {
                vm,
                file,
                checkpoint_folder,
            } => import::import(engine, *vm, file, checkpoint_folder.as_deref(), job.id),
            Operation::ImportCheckpoints { vm, folder } => {
                import::import_checkpoints(engine, *vm, folder)
            }
            Operation::Validate { vm } => planned::validate(engine, *vm),
            Operation::Upgrade { vm } => system::upgrade(engine, *vm),
            Operation::Realize { vm } => planned::realize(engine, *vm),
            Operation::Image { operation } => image_work::perform(engine, operation, job),
            Operation::MergeDisks { vm } => merge::work_off(engine, *vm, job),
        }
    }
}

/// A method being called.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    /// The object it is called on.
    pub(crate) target: &'a Object,
    /// `Class.Method`.
    pub(crate) name: String,
    pub(crate) parameters: &'a Properties,
    /// The VM it is about, as far as fault rules ask.
    pub(crate) vm: Option<Uuid>,
}

/// Calls a method. A refusal is an answer with a return code; a fault means that there is no such method.
pub(crate) fn call(
    engine: &Arc<Engine>,
    target: &Object,
    method: &str,
    parameters: &Properties,
    vm: Option<Uuid>,
) -> Result<Answer, Box<Fault>> {
    let class = target.class.name;
    let call = Call {
        engine,
        target,
        name: format!("{class}.{method}"),
        parameters,
        vm,
    };
    if let Some(code) = call.told_to_answer() {
        return Ok(Answer::code(code));
    }
    let answer = match class {
        "Msvm_VirtualSystemManagementService" => system::call(&call, method),
        "Msvm_VirtualSystemSnapshotService" | "Msvm_VirtualSystemReferencePointService" => {
            snapshot::call(&call, method)
        }
        "Msvm_ImageManagementService" => image::call(&call, method),
        "Msvm_SecurityService" => security::call(&call, method),
        "Msvm_ComputerSystem" | "Msvm_ShutdownComponent" => power::call(&call, method),
        "Msvm_ConcreteJob" => answers::job_call(&call, method),
        "Msvm_MountedStorageImage" => mounted::call(&call, method),
        "Win32_ShadowCopy" => shadow::call(&call, method),
        _ => None,
    };
    match answer {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(failure)) if failure.cause == Cause::WrongType => {
            Err(Fault::new(Subcode::InvalidParameter, failure.message).into())
        }
        Some(Err(failure)) => {
            tracing::info!("{} is refused: {failure}", call.name);
            Ok(Answer::code(failure.code))
        }
        None => Err(Fault::new(
            Subcode::ActionNotSupported,
            format!("the class {class} has no method {method}, or this host does not have it"),
        )
        .into()),
    }
}

impl Call<'_> {
    /// Returns the code that a fault rule answers with in place of the method.
    fn told_to_answer(&self) -> Option<u32> {
        let code = |rule| {
            if let FaultRule::ReturnCode(code) = rule {
                Some(code)
            } else {
                None
            }
        };
        self.engine.fault_with(code, &[&self.name], self.vm)
    }

    /// Starts a job and answers with it.
    pub(crate) fn job(&self, vm: Option<Uuid>, operation: Operation) -> Result<Answer, Failure> {
        let id = self.engine.start_job(&self.name, vm, operation)?;
        Ok(Answer::job(id))
    }
}
