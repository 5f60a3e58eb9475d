//! `Win32_ShadowCopy.Create`.

use wsman::Value;

use super::{Answer, Call};
use crate::failure::Failure;
use crate::shadow;
use crate::state::guid;

/// Return code of a parameter that is missing.
const BAD_ARGUMENT: u32 = 2;

pub(super) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    match method {
        "Create" => Some(Ok(create(call))),
        _ => None,
    }
}

fn create(call: &Call<'_>) -> Answer {
    let made = match call.text("Volume") {
        Some(volume) => shadow::create(call.engine, volume, call.text("Context")),
        None => Err(Failure::new(BAD_ARGUMENT, "Volume is missing")),
    };
    match made {
        Ok(id) => Answer::done().with("ShadowID", format!("{{{}}}", guid(id))),
        Err(failure) => {
            tracing::info!("{} is refused: {failure}", call.name);
            Answer::code(failure.code).with("ShadowID", Value::Null)
        }
    }
}
