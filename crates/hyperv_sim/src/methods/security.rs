//! The security service: settings without a virtual TPM.

use super::{Answer, Call};
use crate::cim::Value;
use crate::failure::{Failure, code};

/// Methods of the security service.
pub(crate) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    match method {
        "ModifySecuritySettings" => Some(modify(call)),
        "GetKeyProtector" | "SetKeyProtector" | "SetSecurityPolicy" => Some(Err(Failure::new(
            code::NOT_SUPPORTED,
            format!("{method} is not supported by this host"),
        ))),
        _ => None,
    }
}

fn modify(call: &Call<'_>) -> Result<Answer, Failure> {
    let given = call.need_embedded("SecuritySettingData")?;
    let id = given
        .text("InstanceID")
        .ok_or_else(|| Failure::invalid("SecuritySettingData has no InstanceID"))?;
    let settings = call
        .settings_of(id)
        .ok_or_else(|| Failure::invalid(format!("there are no settings {id}")))?;
    if given.given.get("TpmEnabled").and_then(Value::as_bool) == Some(true) {
        return Err(Failure::new(
            code::NOT_SUPPORTED,
            "this host has no virtual TPM",
        ));
    }
    let server = call.engine.name();
    call.engine.with_disks(settings.vm.id, |_| {
        call.engine.update_vm(settings.vm.id, |vm| {
            crate::resources::modify(&mut vm.definition, &server, id, &given.given)
        })
    })?;
    Ok(Answer::done())
}
