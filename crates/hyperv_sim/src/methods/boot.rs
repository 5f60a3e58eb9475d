//! What a VM boots from, and in which order.

use uuid::Uuid;
use wsman::{ObjectPath, Value as WireValue};

use super::answers::reference;
use super::system::change_settings;
use super::{Answer, Call};
use crate::cim::{Bag, Embedded, Value};
use crate::definition::{BOOT_SOURCE, Definition, path_text};
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::guid;

/// BootSourceType of a file.
const FILE: u64 = 3;

/// Devices of a first generation VM: floppy, CD, IDE, network.
const BOOT_DEVICES: [u64; 4] = [0, 1, 2, 3];

/// Refuses a new boot order that is not the old one's devices in another order.
pub(super) fn check_order(
    definition: &Definition,
    given: &Embedded,
    running: bool,
) -> Result<(), Failure> {
    let bad = |what: &str| Err(Failure::refused(Refusal::BadBootOrder, what));
    let same = match (
        given.given.get("BootOrder"),
        given.given.get("BootSourceOrder"),
    ) {
        (None, None) => return Ok(()),
        (Some(order), None) => {
            if definition.generation() != 1 {
                return bad("BootOrder is for virtual machines of the first generation");
            }
            let mut devices: Vec<u64> = order.items().iter().filter_map(Value::as_u64).collect();
            let before = definition.vssd.props.get("BootOrder");
            let same = before.is_some_and(|before| before.items() == order.items());
            devices.sort_unstable();
            if devices != BOOT_DEVICES {
                return bad("BootOrder holds each of 0, 1, 2 and 3 once");
            }
            same
        }
        (None, Some(order)) => {
            if definition.generation() != 2 {
                return bad("BootSourceOrder is for virtual machines of the second generation");
            }
            let before = definition.vssd.props.get("BootSourceOrder");
            let (before, after) = (before.map(sources).unwrap_or_default(), sources(order));
            let sorted = |order: &[String]| {
                let mut order = order.to_vec();
                order.sort_unstable();
                order
            };
            if sorted(&before) != sorted(&after) {
                return bad("BootSourceOrder holds every boot source of the virtual machine once");
            }
            before == after
        }
        (Some(_), Some(_)) => return bad("BootOrder and BootSourceOrder do not go together"),
    };
    if running && !same {
        return Err(Failure::refused(
            Refusal::BootOrderRunning,
            "the boot order can only be changed while the virtual machine is off",
        ));
    }
    Ok(())
}

/// Returns the InstanceIDs of boot sources, in the form in which equal ones are equal texts.
fn sources(order: &Value) -> Vec<String> {
    let id = |item: &Value| {
        let text = item.as_text()?;
        let path: Option<ObjectPath> = text.parse().ok();
        let id = path.as_ref().and_then(|path| path.get("InstanceID"));
        Some(id.unwrap_or(text).to_lowercase())
    };
    order.items().iter().filter_map(id).collect()
}

pub(super) fn add_sources(call: &Call<'_>) -> Result<Answer, Failure> {
    let settings = call.settings("AffectedConfiguration")?;
    let generation = settings.definition().map_or(0, Definition::generation);
    if generation != 2 {
        return Err(Failure::invalid(
            "only a virtual machine of the second generation has boot sources",
        ));
    }
    let server = call.engine.name();
    let owner = settings
        .definition()
        .map(Definition::owner)
        .unwrap_or_default();
    let mut added = Vec::new();
    for wish in call.embedded_list("BootSourceSettings")? {
        if wish.class.name != BOOT_SOURCE {
            return Err(Failure::refused(
                Refusal::WrongClass,
                format!("BootSourceSettings is no {BOOT_SOURCE}"),
            ));
        }
        if wish.number("BootSourceType") != Some(FILE)
            || wish.text("FirmwareDevicePath").is_none_or(str::is_empty)
        {
            return Err(Failure::invalid(
                "boot sources of files only can be added, with their FirmwareDevicePath",
            ));
        }
        let mut bag = Bag::new(BOOT_SOURCE);
        for (name, value) in wish.given {
            bag.set(&name, value);
        }
        let id = format!(r"Microsoft:{owner}\BootSource\{}", guid(Uuid::new_v4()));
        bag.set("InstanceID", id);
        added.push(bag);
    }
    if added.is_empty() {
        return Err(Failure::invalid("BootSourceSettings is empty"));
    }
    let made = added
        .iter()
        .map(|bag| reference(&path_text(&server, BOOT_SOURCE, bag.instance_id())))
        .collect();
    change_settings(call.engine, &settings, |definition| {
        definition.resources.extend(added);
        definition.settle_boot_order(&server);
        Ok(())
    })?;
    Ok(Answer::done().with("ResultingBootSourceSettings", WireValue::Array(made)))
}

pub(super) fn remove_sources(call: &Call<'_>) -> Result<Answer, Failure> {
    let server = call.engine.name();
    for epr in call.references("BootSourceSettings")? {
        let id = epr.get("InstanceID").unwrap_or_default();
        let fixed = || {
            Failure::refused(
                Refusal::BootSourceFixed,
                format!("{id} is no boot source that was added: it goes with its device"),
            )
        };
        let settings = call.settings_of(id).ok_or_else(fixed)?;
        change_settings(call.engine, &settings, |definition| {
            let is_it =
                |bag: &Bag| bag.class == BOOT_SOURCE && bag.instance_id().eq_ignore_ascii_case(id);
            if !definition.resources.iter().any(is_it) {
                return Err(fixed());
            }
            definition.resources.retain(|bag| !is_it(bag));
            definition.settle_boot_order(&server);
            Ok(())
        })?;
    }
    Ok(Answer::done())
}
