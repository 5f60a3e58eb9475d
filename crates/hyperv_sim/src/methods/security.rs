//! The security service: a virtual TPM, and the key protector it needs.

use super::params::Settings;
use super::{Answer, Call};
use crate::cim::{Embedded, Value};
use crate::failure::{Failure, code};
use crate::refusals::Refusal;
use crate::state::Power;

/// Longest key protector that is kept.
const MAX_PROTECTOR_BYTES: usize = 1 << 20;

/// Methods of the security service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    match method {
        "ModifySecuritySettings" => Some(modify(call)),
        "GetKeyProtector" => Some(get_protector(call)),
        "SetKeyProtector" => Some(set_protector(call)),
        "SetSecurityPolicy" => Some(Err(Failure::new(
            code::NOT_SUPPORTED,
            format!("{method} is not supported by this host"),
        ))),
        _ => None,
    }
}

/// Returns the settings that SecuritySettingData is of.
fn target(call: &Call<'_>) -> Result<(Embedded, Settings), Failure> {
    let given = call.need_embedded("SecuritySettingData")?;
    if given.class.name != "Msvm_SecuritySettingData" {
        return Err(Failure::refused(
            Refusal::WrongClass,
            "SecuritySettingData is no Msvm_SecuritySettingData",
        ));
    }
    let id = given
        .text("InstanceID")
        .ok_or_else(|| Failure::invalid("SecuritySettingData has no InstanceID"))?;
    let settings = call
        .settings_of(id)
        .ok_or_else(|| Failure::invalid(format!("there are no settings {id}")))?;
    Ok((given, settings))
}

fn need_off(settings: &Settings) -> Result<(), Failure> {
    if settings.vm.power == Power::Off {
        return Ok(());
    }
    Err(Failure::refused(
        Refusal::SecurityRunning,
        format!("the virtual machine is {}", settings.vm.power.name()),
    ))
}

fn modify(call: &Call<'_>) -> Result<Answer, Failure> {
    let (given, settings) = target(call)?;
    let id = given.text("InstanceID").unwrap_or_default();
    if given.given.get("TpmEnabled").and_then(Value::as_bool) == Some(true) {
        if settings.vm.definition.generation() != 2 {
            return Err(Failure::refused(
                Refusal::SecurityGeneration,
                "a virtual machine of the first generation has no virtual TPM",
            ));
        }
        if settings.vm.key_protector.is_empty() {
            return Err(Failure::refused(
                Refusal::TpmWithoutKey,
                "the virtual machine has no key protector; set one first",
            ));
        }
    }
    need_off(&settings)?;
    let server = call.engine.name();
    call.engine.with_disks(settings.vm.id, |_| {
        call.engine.update_vm(settings.vm.id, |vm| {
            crate::resources::modify(&mut vm.definition, &server, id, &given.given)
        })
    })?;
    Ok(Answer::done())
}

fn get_protector(call: &Call<'_>) -> Result<Answer, Failure> {
    let (_, settings) = target(call)?;
    let bytes = settings.vm.key_protector.iter();
    let bytes = bytes.map(|byte| wsman::Value::U8(*byte)).collect();
    Ok(Answer::done().with("KeyProtector", wsman::Value::Array(bytes)))
}

fn set_protector(call: &Call<'_>) -> Result<Answer, Failure> {
    let (_, settings) = target(call)?;
    let items = call.parameters.items("KeyProtector");
    if items.is_empty() || items.len() > MAX_PROTECTOR_BYTES {
        return Err(Failure::invalid("KeyProtector is empty or too long"));
    }
    let byte = |item: &wsman::Value| item.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
    let bytes = bytes.ok_or_else(|| Failure::invalid("KeyProtector is no array of bytes"))?;
    need_off(&settings)?;
    call.engine.update_vm(settings.vm.id, |vm| {
        vm.key_protector = bytes;
        Ok(())
    })?;
    Ok(Answer::done())
}
