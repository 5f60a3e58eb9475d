//! Whether this host can run a VM: memory, processors, and the switches it is connected to.

use uuid::Uuid;
use wsman::ObjectPath;

use crate::definition::{Definition, kind};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::refusals::Refusal;

/// The host's memory in MiB, as `Win32_ComputerSystem` tells.
const MEMORY_MIB: u64 = 65_536;
/// The host's logical processors.
const PROCESSORS: u64 = 8;

/// Under which rows of the table a method refuses what does not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) memory: Refusal,
    pub(crate) processors: Refusal,
    pub(crate) switch: Refusal,
}

/// Refuses settings that this host cannot run.
pub(crate) fn check(engine: &Engine, definition: &Definition, rows: Rows) -> Result<(), Failure> {
    let quantity = |kind| {
        let bag = definition.of_kind(kind).next();
        bag.and_then(|bag| bag.number("VirtualQuantity"))
            .unwrap_or(0)
    };
    let (memory, processors) = (quantity(kind::MEMORY), quantity(kind::PROCESSOR));
    if memory > MEMORY_MIB {
        return Err(Failure::refused(
            rows.memory,
            format!(
                "there is not enough memory in the system: the virtual machine needs {memory} MB, this host has {MEMORY_MIB}"
            ),
        ));
    }
    if processors > PROCESSORS {
        return Err(Failure::refused(
            rows.processors,
            format!("the virtual machine has {processors} processors, this host has {PROCESSORS}"),
        ));
    }
    for connection in definition.of_kind(kind::CONNECTION) {
        let switch = connection.first("HostResource");
        if !switch.is_empty()
            && connection.number("EnabledState") != Some(3)
            && !switch_exists(engine, switch)
        {
            return Err(Failure::refused(
                rows.switch,
                format!(
                    "the virtual switch of '{}' was not found: {switch}",
                    connection.instance_id()
                ),
            ));
        }
    }
    Ok(())
}

fn switch_exists(engine: &Engine, path: &str) -> bool {
    let path: Option<ObjectPath> = path.parse().ok();
    let id = path
        .as_ref()
        .and_then(|path| path.get("Name"))
        .and_then(|id| Uuid::try_parse(id).ok());
    engine.read(|state| {
        state
            .host
            .switches
            .iter()
            .any(|switch| Some(switch.id) == id)
    })
}
