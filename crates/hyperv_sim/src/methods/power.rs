//! Starting and stopping.

use std::sync::Arc;

use uuid::Uuid;

use super::answers::system_path;
use super::fitness::{self, Rows};
use super::{Answer, Call, Operation};
use crate::cim::Value;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::Power;

/// Methods of a computer system and of its shutdown component.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    match method {
        "RequestStateChange" => Some(request_state_change(call)),
        "InitiateShutdown" if call.target.class.name == "Msvm_ShutdownComponent" => {
            Some(initiate_shutdown(call))
        }
        _ => None,
    }
}

fn target(call: &Call<'_>, key: &str) -> Result<crate::state::Vm, Failure> {
    let id = call
        .target
        .get(key)
        .and_then(Value::as_text)
        .and_then(|id| Uuid::try_parse(id).ok());
    id.and_then(|id| call.engine.vm(id))
        .ok_or_else(|| Failure::invalid("the host itself cannot be switched"))
}

fn request_state_change(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = target(call, "Name")?;
    let wanted = call.need_number("RequestedState")?;
    let wrong = || {
        Failure::refused(
            Refusal::WrongPower,
            format!("the virtual machine is {}", vm.power.name()),
        )
    };
    let operation = match (wanted, vm.power) {
        (2, Power::Running) | (3, Power::Off) => return Err(wrong()),
        (2, Power::Paused | Power::Saved | Power::Off) => Operation::Power {
            vm: vm.id,
            to: Power::Running,
        },
        (3, Power::Running | Power::Paused | Power::Saved) => Operation::Power {
            vm: vm.id,
            to: Power::Off,
        },
        (6, Power::Running | Power::Paused) => Operation::Power {
            vm: vm.id,
            to: Power::Saved,
        },
        (9, Power::Running) => Operation::Power {
            vm: vm.id,
            to: Power::Paused,
        },
        (10 | 11, Power::Running) => Operation::Restart { vm: vm.id },
        (6 | 9 | 10 | 11, _) => return Err(wrong()),
        (other, _) => {
            return Err(Failure::refused(
                Refusal::UnknownPower,
                format!("there is no requested state {other}"),
            ));
        }
    };
    call.job(Some(vm.id), operation)
}

/// The guest is asked and goes down by itself: there is no job to follow.
fn initiate_shutdown(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = target(call, "SystemName")?;
    if vm.power != Power::Running {
        return Err(Failure::state(format!(
            "the virtual machine is {}",
            vm.power.name()
        )));
    }
    call.engine.start_job(
        &call.name,
        Some(vm.id),
        Operation::Power {
            vm: vm.id,
            to: Power::Off,
        },
    )?;
    Ok(Answer::done())
}

/// Brings a VM into a state: takes or releases its disks.
pub(crate) fn change(engine: &Arc<Engine>, vm_id: Uuid, to: Power) -> Result<Vec<String>, Failure> {
    engine.with_disks(vm_id, |disks| {
        let vm = engine.need_vm(vm_id)?;
        if to.holds_disks() {
            if !vm.power.holds_disks() {
                let rows = Rows {
                    memory: Refusal::StartMemory,
                    processors: Refusal::StartProcessors,
                    switch: Refusal::StartMissingSwitch,
                };
                fitness::check(engine, &vm.definition, rows)?;
            }
            disks.attach_all(engine, &vm)?;
        } else {
            disks.detach_all(engine);
        }
        engine.update_vm(vm_id, |vm| {
            vm.power = to;
            vm.starved = false;
            vm.definition.vssd.set("IsSaved", to == Power::Saved);
            Ok(())
        })
    })?;
    Ok(vec![system_path(engine, vm_id, false)])
}

/// Resets a running VM.
pub(crate) fn restart(engine: &Arc<Engine>, vm_id: Uuid) -> Result<Vec<String>, Failure> {
    change(engine, vm_id, Power::Off)?;
    change(engine, vm_id, Power::Running)
}
