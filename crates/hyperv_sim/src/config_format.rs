//! What a `.vmcx` and a `.vmrs` hold: the container Hyper-V uses, HyperVStorage, with keys as it names them.
//!
//! Name, version, generation, memory, processors, controllers with their drives, and network adapters can be read as keys
//! under `/configuration`, so that tools for real configurations find them here. What an import needs besides, the whole
//! definition, is one value in a node of our own; it alone is read.

use vmcx::Storage;

use crate::config_files::ConfigFile;
use crate::definition::{Definition, kind, subtype};
use crate::state::guid;

const OURS_FORMAT: &str = "/configuration/reprise_simulator/format";
const OURS_DEFINITION: &str = "/configuration/reprise_simulator/definition";
const FORMAT: i64 = 1;

/// Versions of virtual devices, as a host of today writes them.
const CONTROLLER_VERSION: i64 = 0x0700;
const NIC_VERSION: i64 = 0x0500;

/// Returns a configuration as the bytes of a `.vmcx`.
pub(crate) fn encode(content: &ConfigFile) -> Result<Vec<u8>, Unwritable> {
    let mut storage = Storage::new();
    properties(&mut storage, content);
    settings(&mut storage, content);
    devices(&mut storage, &content.definition);
    storage.set(OURS_FORMAT, FORMAT);
    storage.set(OURS_DEFINITION, serde_json::to_vec(content)?);
    Ok(storage.encode()?)
}

/// Returns the runtime state of a VM that has none as the bytes of a `.vmrs`.
pub(crate) fn encode_state(content: &ConfigFile) -> Result<Vec<u8>, Unwritable> {
    let mut storage = Storage::new();
    properties(&mut storage, content);
    Ok(storage.encode()?)
}

/// Reads a `.vmcx` of ours; `None` for anything else and what is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<ConfigFile> {
    let storage = Storage::read(bytes).ok()?;
    if storage.get(OURS_FORMAT)?.as_u64() != u64::try_from(FORMAT).ok() {
        return None;
    }
    serde_json::from_slice(storage.get(OURS_DEFINITION)?.as_bytes()?).ok()
}

/// A configuration the container cannot hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritable {
    #[error(transparent)]
    Container(#[from] vmcx::Error),
    #[error(transparent)]
    Definition(#[from] serde_json::Error),
}

fn properties(storage: &mut Storage, content: &ConfigFile) {
    let definition = &content.definition;
    let mut set = |name: &str, value: vmcx::Value| {
        storage.set(&format!("/configuration/properties/{name}"), value);
    };
    let (major, minor) = definition.version();
    set("version", (i64::from(major) << 8 | i64::from(minor)).into());
    set("name", definition.vssd.text("ElementName").into());
    set("global_id", guid(content.vm).into());
    // 0 is the first generation.
    set("subtype", (i64::from(definition.generation()) - 1).into());
    set(
        "type_id",
        if content.checkpoint.is_some() {
            "Snapshots"
        } else {
            "Virtual Machines"
        }
        .into(),
    );
}

fn settings(storage: &mut Storage, content: &ConfigFile) {
    let definition = &content.definition;
    let mut set = |name: &str, value: vmcx::Value| {
        storage.set(&format!("/configuration/settings/{name}"), value);
    };
    set("global/logical_id", definition.owner().into());
    let number = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX).into();
    if let Some(memory) = definition.of_kind(kind::MEMORY).next() {
        // In MiB.
        set("memory/bank/size", number(memory.number("VirtualQuantity")));
        set(
            "memory/bank/reservation",
            number(memory.number("Reservation")),
        );
        set("memory/bank/limit", number(memory.number("Limit")));
        set(
            "memory/bank/dynamic_memory_enabled",
            memory.flag("DynamicMemoryEnabled").into(),
        );
    }
    if let Some(processors) = definition.of_kind(kind::PROCESSOR).next() {
        set(
            "processors/count",
            number(processors.number("VirtualQuantity")),
        );
        set(
            "processors/reservation",
            number(processors.number("Reservation")),
        );
        set("processors/limit", number(processors.number("Limit")));
        set("processors/weight", number(processors.number("Weight")));
    }
    let secure = definition.vssd.flag("SecureBootEnabled");
    set("uefi/SecureBootEnabled", secure.into());
}

/// One node for each device, named for its GUID: `_83f8638b-8dca-4152-9eda-2ca8b33039b4_`.
fn devices(storage: &mut Storage, definition: &Definition) {
    let node = |instance_id: &str| {
        let device = instance_id.split('\\').nth(1).unwrap_or_default();
        format!("/configuration/_{}_", device.to_ascii_lowercase())
    };
    for controller in definition
        .of_kind(kind::IDE_CONTROLLER)
        .chain(definition.of_kind(kind::SCSI_CONTROLLER))
    {
        let node = node(controller.instance_id());
        storage.set(&format!("{node}/VDEVVersion"), CONTROLLER_VERSION);
    }
    for stored in definition.of_kind(kind::STORAGE) {
        let Some((drive, controller)) = definition
            .parent_of(stored)
            .and_then(|drive| Some((drive, definition.parent_of(drive)?)))
        else {
            continue;
        };
        // Both IDE controllers are one device; each of SCSI is its own.
        let number = match controller.number("ResourceType") {
            Some(kind::IDE_CONTROLLER) => controller.text("Address"),
            Some(_) | None => "0",
        };
        let slot = drive.text("AddressOnParent");
        let node = node(controller.instance_id());
        let mut set = |name: &str, value: &str| {
            let key = format!("{node}/controller{number}/drive{slot}/{name}");
            storage.set(&key, value);
        };
        set("pathname", stored.first("HostResource"));
        set("pool_id", "");
        let is_disk = stored
            .text("ResourceSubType")
            .eq_ignore_ascii_case(subtype::DISK);
        set("type", if is_disk { "VHD" } else { "ISO" });
    }
    for nic in definition.of_kind(kind::NIC) {
        let node = node(nic.instance_id());
        storage.set(&format!("{node}/VDEVVersion"), NIC_VERSION);
        storage.set(&format!("{node}/FriendlyName"), nic.text("ElementName"));
        storage.set(&format!("{node}/MacAddress"), nic.text("Address"));
        let fixed = nic.flag("StaticMacAddress");
        storage.set(&format!("{node}/StaticMacAddress"), fixed);
    }
}
