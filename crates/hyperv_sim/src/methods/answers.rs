//! What methods answer, and the methods of jobs.

use uuid::Uuid;
use wsman::{Epr, Value};

use super::Call;
use crate::cim::{Object, V2, epr_of_path, to_cim_xml, v2};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::jobs::{Ending, Outcome};
use crate::refusals::Refusal;
use crate::state::guid;

/// The answer of a method.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u32,
    pub(crate) outputs: Vec<(&'static str, Value)>,
    pub(crate) job: Option<Uuid>,
}

impl Answer {
    pub(crate) fn done() -> Self {
        Self::code(0)
    }

    pub(crate) fn code(code: u32) -> Self {
        Self {
            code,
            outputs: Vec::new(),
            job: None,
        }
    }

    pub(crate) fn job(id: Uuid) -> Self {
        Self {
            code: code::JOB_STARTED,
            outputs: Vec::new(),
            job: Some(id),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.outputs.push((name, value.into()));
        self
    }
}

/// Returns a reference to the object at a path of this host.
pub(crate) fn reference(path: &str) -> Value {
    path.parse()
        .map_or(Value::Null, |path| epr_of_path(&path).into())
}

/// Returns a reference to a job.
pub(crate) fn job_reference(id: Uuid) -> Epr {
    Epr::new(V2, "Msvm_ConcreteJob")
        .with("__cimnamespace", V2)
        .with("InstanceID", guid(id))
}

/// Returns the path of a VM's computer system.
pub(crate) fn system_path(engine: &Engine, vm: Uuid, planned: bool) -> String {
    let class = if planned {
        "Msvm_PlannedComputerSystem"
    } else {
        "Msvm_ComputerSystem"
    };
    wsman::ObjectPath::new(class)
        .with("CreationClassName", class)
        .with("Name", guid(vm))
        .on(&engine.name(), V2)
        .to_string()
}

/// Returns the path of the settings of a VM or checkpoint.
pub(crate) fn settings_path(engine: &Engine, id: Uuid) -> String {
    let id = format!("Microsoft:{}", guid(id));
    crate::definition::path_text(&engine.name(), "Msvm_VirtualSystemSettingData", &id)
}

/// Methods of a job.
pub(crate) fn job_call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    match method {
        "GetErrorEx" => Some(Ok(errors(call))),
        "RequestStateChange" => Some(cancel(call)),
        _ => None,
    }
}

/// Returns the id of the job a method is called on.
fn job_id<'a>(call: &'a Call<'_>) -> &'a str {
    call.target
        .get("InstanceID")
        .and_then(crate::cim::Value::as_text)
        .unwrap_or_default()
}

fn cancel(call: &Call<'_>) -> Result<Answer, Failure> {
    let ending = match call.need_number("RequestedState")? {
        4 => Ending::Terminated,
        5 => Ending::Killed,
        other => {
            return Err(Failure::refused(
                Refusal::CancelUnknown,
                format!("a job cannot be brought into the state {other}"),
            ));
        }
    };
    let id = Uuid::try_parse(job_id(call)).map_err(|_| Failure::invalid("the job is gone"))?;
    call.engine.cancel_job(id, ending)?;
    Ok(Answer::done())
}

fn errors(call: &Call<'_>) -> Answer {
    let id = job_id(call);
    let outcome: Option<Outcome> = call.engine.read(|state| {
        state
            .jobs
            .iter()
            .find(|job| guid(job.id) == id)
            .and_then(|job| job.outcome.clone())
    });
    let errors = outcome
        .and_then(|outcome| outcome.failure)
        .map(|(code, message)| {
            let error = Object::new(v2("Msvm_Error"))
                .with("Message", message)
                .with("MessageID", code.to_string())
                .with("ErrorSource", call.name.as_str())
                .with("CIMStatusCode", 1_u64)
                .with("ErrorType", 4_u64)
                .with("ProbableCause", 0_u64)
                .with("PerceivedSeverity", 5_u64);
            Value::Text(to_cim_xml(&error))
        });
    Answer::done().with("Errors", Value::Array(errors.into_iter().collect()))
}
