//! Adding, changing and removing resources of a VM, within what Hyper-V allows.
//!
//! Plain functions over settings: whether files exist and who else uses them is checked where the files are.

use std::collections::BTreeMap;

use uuid::Uuid;
use wsman::ObjectPath;

use crate::cim::{Bag, Embedded, V2, Value, find};
use crate::definition::{Definition, kind, path_text, resource, subtype};
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::guid;

const IDE_SLOTS: u64 = 2;
const SCSI_SLOTS: u64 = 64;
const SCSI_CONTROLLERS: usize = 4;
const NICS: usize = 8;

/// Properties that name a resource and cannot be changed.
const FIXED: [&str; 3] = ["InstanceID", "ResourceType", "ResourceSubType"];

/// Makes the resource a client asks for, with its InstanceID, and checks that there is room for it.
pub(crate) fn prepare(
    definition: &Definition,
    server: &str,
    wish: &Embedded,
    running: bool,
) -> Result<Bag, Failure> {
    if !wish.class.is_a("CIM_ResourceAllocationSettingData") {
        return Err(Failure::refused(
            Refusal::WrongClass,
            format!("{} is no resource", wish.class.name),
        ));
    }
    let sub = wish.text("ResourceSubType").unwrap_or_default();
    let resource_type = wish
        .number("ResourceType")
        .or_else(|| type_of(sub))
        .ok_or_else(|| Failure::invalid("ResourceType is missing"))?;
    let prefix = format!("Microsoft:{}", definition.owner());
    let device = guid(Uuid::new_v4());
    let mut bag = match resource_type {
        kind::SCSI_CONTROLLER => {
            if definition.of_kind(kind::SCSI_CONTROLLER).count() == SCSI_CONTROLLERS {
                return Err(Failure::refused(
                    Refusal::TooManyControllers,
                    "a virtual machine has at most 4 SCSI controllers",
                ));
            }
            need_off(running, Refusal::HotController, "a SCSI controller")?;
            resource(
                "Msvm_ResourceAllocationSettingData",
                resource_type,
                subtype::SCSI_CONTROLLER,
            )
            .with("InstanceID", format!(r"{prefix}\{device}\0"))
            .with("ElementName", "SCSI Controller")
        }
        kind::DISK_DRIVE | kind::DVD_DRIVE => drive(definition, wish, resource_type, sub, running)?,
        kind::STORAGE => storage(definition, wish, sub)?,
        kind::NIC => nic(definition, wish, sub, running, &device)?,
        kind::CONNECTION => {
            let nic = parent(definition, wish)
                .filter(|bag| bag.number("ResourceType") == Some(kind::NIC));
            let nic = nic.ok_or_else(|| {
                Failure::refused(
                    Refusal::NoParent,
                    "Parent names no network adapter of this virtual machine",
                )
            })?;
            let id = format!(r"{}\C", nic.instance_id());
            if definition.resource(&id).is_some() {
                return Err(Failure::invalid(
                    "the network adapter has a connection already",
                ));
            }
            resource(
                "Msvm_EthernetPortAllocationSettingData",
                resource_type,
                subtype::CONNECTION,
            )
            .with("InstanceID", id)
            .with("ElementName", "Ethernet Connection")
            .with("EnabledState", 2_u64)
        }
        kind::SERIAL_PORT => resource(
            "Msvm_SerialPortSettingData",
            resource_type,
            subtype::SERIAL_PORT,
        )
        .with("InstanceID", format!(r"{prefix}\{device}\0")),
        kind::FC_PORT => resource(
            "Msvm_SyntheticFcPortSettingData",
            resource_type,
            subtype::FC_PORT,
        )
        .with("InstanceID", format!(r"{prefix}\{device}")),
        other => {
            return Err(Failure::invalid(format!(
                "a resource of type {other} cannot be added"
            )));
        }
    };
    set_all(&mut bag, &wish.given);
    settle_mac(&mut bag);
    normalise_parent(definition, server, &mut bag);
    Ok(bag)
}

fn type_of(sub: &str) -> Option<u64> {
    [
        (subtype::SCSI_CONTROLLER, kind::SCSI_CONTROLLER),
        (subtype::DISK_DRIVE, kind::DISK_DRIVE),
        (subtype::PHYSICAL_DISK, kind::DISK_DRIVE),
        (subtype::DVD_DRIVE, kind::DVD_DRIVE),
        (subtype::DISK, kind::STORAGE),
        (subtype::ISO, kind::STORAGE),
        (subtype::FLOPPY, kind::STORAGE),
        (subtype::NIC, kind::NIC),
        (subtype::LEGACY_NIC, kind::NIC),
        (subtype::CONNECTION, kind::CONNECTION),
    ]
    .into_iter()
    .find(|(name, _)| name.eq_ignore_ascii_case(sub))
    .map(|(_, resource_type)| resource_type)
}

fn need_off(running: bool, row: Refusal, what: &str) -> Result<(), Failure> {
    if running {
        Err(Failure::refused(
            row,
            format!("{what} can only be changed while the virtual machine is off"),
        ))
    } else {
        Ok(())
    }
}

fn parent<'a>(definition: &'a Definition, wish: &Embedded) -> Option<&'a Bag> {
    let path: ObjectPath = wish.text("Parent")?.parse().ok()?;
    definition.resource(path.get("InstanceID")?)
}

fn drive(
    definition: &Definition,
    wish: &Embedded,
    resource_type: u64,
    sub: &str,
    running: bool,
) -> Result<Bag, Failure> {
    let controller = parent(definition, wish).filter(|bag| {
        matches!(
            bag.number("ResourceType"),
            Some(kind::IDE_CONTROLLER | kind::SCSI_CONTROLLER)
        )
    });
    let controller = controller.ok_or_else(|| {
        Failure::refused(
            Refusal::NoParent,
            "Parent names no controller of this virtual machine",
        )
    })?;
    let ide = controller.number("ResourceType") == Some(kind::IDE_CONTROLLER);
    if ide {
        need_off(running, Refusal::HotIde, "an IDE drive")?;
    }
    let slots = if ide { IDE_SLOTS } else { SCSI_SLOTS };
    let taken = |slot: u64| {
        definition.resources.iter().any(|bag| {
            definition
                .parent_of(bag)
                .is_some_and(|parent| parent.instance_id() == controller.instance_id())
                && bag.text("AddressOnParent").parse() == Ok(slot)
        })
    };
    let slot = match wish
        .text("AddressOnParent")
        .map(|text| text.trim().parse::<u64>())
    {
        Some(Ok(slot)) if slot < slots => slot,
        Some(_) => {
            return Err(Failure::refused(
                Refusal::NoSuchSlot,
                format!("AddressOnParent is no slot from 0 to {}", slots - 1),
            ));
        }
        None => (0..slots)
            .find(|&slot| !taken(slot))
            .ok_or_else(|| Failure::refused(Refusal::ControllerFull, "the controller is full"))?,
    };
    if taken(slot) {
        return Err(Failure::refused(
            Refusal::SlotTaken,
            format!("slot {slot} of {} is taken", controller.instance_id()),
        ));
    }
    let sub = match sub {
        "" if resource_type == kind::DVD_DRIVE => subtype::DVD_DRIVE,
        "" => subtype::DISK_DRIVE,
        sub => sub,
    };
    // Slots of IDE controllers have the controller's number in front, those of SCSI controllers always 0.
    let number = if ide { controller.text("Address") } else { "0" };
    let device = controller
        .instance_id()
        .rsplit_once('\\')
        .map_or(controller.instance_id(), |(device, _)| device);
    Ok(
        resource("Msvm_ResourceAllocationSettingData", resource_type, sub)
            .with("InstanceID", format!(r"{device}\{number}\{slot}\D"))
            .with(
                "ElementName",
                if resource_type == kind::DVD_DRIVE {
                    "DVD Drive"
                } else {
                    "Hard Drive"
                },
            )
            .with("AddressOnParent", slot.to_string()),
    )
}

fn storage(definition: &Definition, wish: &Embedded, sub: &str) -> Result<Bag, Failure> {
    let drive = parent(definition, wish).filter(|bag| {
        matches!(
            bag.number("ResourceType"),
            Some(kind::DISK_DRIVE | kind::DVD_DRIVE)
        )
    });
    let drive = drive.ok_or_else(|| {
        Failure::refused(
            Refusal::NoParent,
            "Parent names no drive of this virtual machine",
        )
    })?;
    let dvd = drive.number("ResourceType") == Some(kind::DVD_DRIVE);
    let sub = match sub {
        "" if dvd => subtype::ISO,
        "" => subtype::DISK,
        sub => sub,
    };
    if dvd != sub.eq_ignore_ascii_case(subtype::ISO) {
        return Err(Failure::invalid(format!(
            "{sub} does not go into a {}",
            drive.text("ElementName")
        )));
    }
    let id = drive.instance_id();
    let id = format!(r"{}\L", id.strip_suffix(r"\D").unwrap_or(id));
    if definition.resource(&id).is_some() {
        return Err(Failure::refused(
            Refusal::DriveFilled,
            "the drive holds something already",
        ));
    }
    if wish.first("HostResource").unwrap_or_default().is_empty() {
        return Err(Failure::invalid("HostResource names no file"));
    }
    // A client may ask for this with the class of a plain resource; it becomes storage all the same.
    Ok(
        resource("Msvm_StorageAllocationSettingData", kind::STORAGE, sub)
            .with("InstanceID", id)
            .with(
                "ElementName",
                if dvd {
                    "ISO Disk Image"
                } else {
                    "Hard Disk Image"
                },
            )
            .with("AddressOnParent", "0")
            .with("Access", 3_u64)
            .with("IOPSLimit", 0_u64)
            .with("IOPSReservation", 0_u64)
            .with("PersistentReservationsSupported", false)
            .with("CachingMode", 0_u64)
            .with("IgnoreFlushes", false),
    )
}

fn nic(
    definition: &Definition,
    wish: &Embedded,
    sub: &str,
    running: bool,
    device: &str,
) -> Result<Bag, Failure> {
    if definition.of_kind(kind::NIC).count() == NICS {
        return Err(Failure::refused(
            Refusal::TooManyAdapters,
            "a virtual machine has at most 8 network adapters",
        ));
    }
    let legacy = wish.class.name == "Msvm_EmulatedEthernetPortSettingData"
        || sub.eq_ignore_ascii_case(subtype::LEGACY_NIC);
    if legacy && definition.generation() == 2 {
        return Err(Failure::invalid(
            "a second generation virtual machine has no legacy network adapters",
        ));
    }
    if legacy || definition.generation() == 1 {
        need_off(running, Refusal::HotAdapter, "a network adapter")?;
    }
    let (class, sub) = if legacy {
        ("Msvm_EmulatedEthernetPortSettingData", subtype::LEGACY_NIC)
    } else {
        ("Msvm_SyntheticEthernetPortSettingData", subtype::NIC)
    };
    let given = wish.text("Address").is_some_and(|mac| !is_no_mac(mac));
    Ok(resource(class, kind::NIC, sub)
        .with(
            "InstanceID",
            format!(r"Microsoft:{}\{device}", definition.owner()),
        )
        .with("ElementName", "Network Adapter")
        .with("StaticMacAddress", given)
        .with("ClusterMonitored", true)
        .with(
            "VirtualSystemIdentifiers",
            Value::texts([format!("{{{device}}}")]),
        ))
}

/// Gives a network adapter an address where it has none of its own: zeros, not set by hand, ask for one.
fn settle_mac(bag: &mut Bag) {
    let dynamic = bag.number("ResourceType") == Some(kind::NIC) && !bag.flag("StaticMacAddress");
    if dynamic && is_no_mac(bag.text("Address")) {
        bag.set("Address", new_mac());
    }
}

fn is_no_mac(mac: &str) -> bool {
    mac.chars().all(|c| c == '0' || c == '-' || c == ':')
}

/// Makes an address of the range Hyper-V gives out.
pub(crate) fn new_mac() -> String {
    let random = Uuid::new_v4();
    let bytes = random.as_bytes();
    format!("00155D{:02X}{:02X}{:02X}", bytes[0], bytes[1], bytes[2])
}

/// Changes a resource; what is not given stays.
pub(crate) fn modify(
    definition: &mut Definition,
    server: &str,
    instance_id: &str,
    set: &BTreeMap<String, Value>,
) -> Result<(), Failure> {
    let bag = definition.resource(instance_id);
    let mut bag = bag
        .ok_or_else(|| Failure::invalid(format!("there is no resource {instance_id}")))?
        .clone();
    let class = find(V2, &bag.class).ok_or_else(|| Failure::failed("the resource has no class"))?;
    if let Some(name) = set.keys().find(|name| class.property(name).is_none()) {
        return Err(Failure::invalid(format!(
            "{} has no property {name}",
            bag.class
        )));
    }
    set_all(&mut bag, set);
    settle_mac(&mut bag);
    normalise_parent(definition, server, &mut bag);
    if let Some(there) = definition.resource_mut(instance_id) {
        *there = bag;
    }
    Ok(())
}

/// Sets what is given; what names the resource stays.
fn set_all(bag: &mut Bag, given: &BTreeMap<String, Value>) {
    for (name, value) in given {
        let fixed = FIXED.contains(&name.as_str()) && bag.props.contains_key(name);
        if !fixed {
            bag.set(name, value.clone());
        }
    }
}

/// Writes `Parent` the way this host writes paths, whatever spelling came in.
fn normalise_parent(definition: &Definition, server: &str, bag: &mut Bag) {
    if let Some(parent) = definition.parent_of(bag) {
        let path = path_text(server, &parent.class, parent.instance_id());
        bag.set("Parent", path);
    }
}

/// Removes a resource that nothing else hangs on.
pub(crate) fn remove(
    definition: &mut Definition,
    instance_id: &str,
    running: bool,
) -> Result<(), Failure> {
    let bag = definition.resource(instance_id);
    let bag = bag.ok_or_else(|| Failure::invalid(format!("there is no resource {instance_id}")))?;
    match bag.number("ResourceType") {
        Some(kind::PROCESSOR | kind::MEMORY | kind::IDE_CONTROLLER) | None => {
            return Err(Failure::refused(
                Refusal::RemoveFixed,
                format!("{} cannot be removed", bag.text("ElementName")),
            ));
        }
        Some(kind::SCSI_CONTROLLER) => {
            need_off(running, Refusal::HotController, "a SCSI controller")?;
        }
        Some(kind::DISK_DRIVE | kind::DVD_DRIVE | kind::STORAGE) => {
            let mut top = bag;
            while let Some(parent) = definition.parent_of(top) {
                top = parent;
            }
            if top.number("ResourceType") == Some(kind::IDE_CONTROLLER)
                && bag.text("ResourceSubType") != subtype::ISO
            {
                need_off(running, Refusal::HotIde, "an IDE drive")?;
            }
        }
        Some(_) => {}
    }
    // The connection goes with its network adapter; a drive with something in it stays.
    let id = bag.instance_id().to_owned();
    let children: Vec<&Bag> = definition
        .resources
        .iter()
        .filter(|child| {
            definition
                .parent_of(child)
                .is_some_and(|parent| parent.instance_id() == id)
        })
        .collect();
    if children
        .iter()
        .any(|child| child.number("ResourceType") != Some(kind::CONNECTION))
    {
        return Err(Failure::refused(
            Refusal::RemoveHolding,
            format!("{instance_id} still holds something; remove that first"),
        ));
    }
    let gone: Vec<String> = children
        .iter()
        .map(|child| child.instance_id().to_owned())
        .chain(std::iter::once(id))
        .collect();
    // Features have their connection's InstanceID in front.
    let goes = |bag: &Bag| {
        gone.iter().any(|gone| {
            let rest = bag.instance_id().strip_prefix(gone.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
        })
    };
    definition.resources.retain(|bag| !goes(bag));
    Ok(())
}
