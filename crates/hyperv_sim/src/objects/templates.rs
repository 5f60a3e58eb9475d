//! Templates for new resources: one object per kind whose InstanceID ends in `\Default`.

use crate::cim::{Object, v2};
use crate::definition::{kind, subtype};

const TEMPLATES: [(&str, u64, &str); 15] = [
    (
        "Msvm_ProcessorSettingData",
        kind::PROCESSOR,
        subtype::PROCESSOR,
    ),
    ("Msvm_MemorySettingData", kind::MEMORY, subtype::MEMORY),
    (
        "Msvm_ResourceAllocationSettingData",
        kind::IDE_CONTROLLER,
        subtype::IDE_CONTROLLER,
    ),
    (
        "Msvm_ResourceAllocationSettingData",
        kind::SCSI_CONTROLLER,
        subtype::SCSI_CONTROLLER,
    ),
    (
        "Msvm_ResourceAllocationSettingData",
        kind::DISK_DRIVE,
        subtype::DISK_DRIVE,
    ),
    (
        "Msvm_ResourceAllocationSettingData",
        kind::DISK_DRIVE,
        subtype::PHYSICAL_DISK,
    ),
    (
        "Msvm_ResourceAllocationSettingData",
        kind::DVD_DRIVE,
        subtype::DVD_DRIVE,
    ),
    (
        "Msvm_StorageAllocationSettingData",
        kind::STORAGE,
        subtype::DISK,
    ),
    (
        "Msvm_StorageAllocationSettingData",
        kind::STORAGE,
        subtype::ISO,
    ),
    (
        "Msvm_StorageAllocationSettingData",
        kind::STORAGE,
        subtype::FLOPPY,
    ),
    (
        "Msvm_SyntheticEthernetPortSettingData",
        kind::NIC,
        subtype::NIC,
    ),
    (
        "Msvm_EmulatedEthernetPortSettingData",
        kind::NIC,
        subtype::LEGACY_NIC,
    ),
    (
        "Msvm_EthernetPortAllocationSettingData",
        kind::CONNECTION,
        subtype::CONNECTION,
    ),
    (
        "Msvm_SyntheticFcPortSettingData",
        kind::FC_PORT,
        subtype::FC_PORT,
    ),
    (
        "Msvm_SerialPortSettingData",
        kind::SERIAL_PORT,
        subtype::SERIAL_PORT,
    ),
];

pub(super) fn of_class(class: &str) -> impl Iterator<Item = Object> {
    TEMPLATES
        .into_iter()
        .enumerate()
        .filter(move |(_, (name, ..))| *name == class)
        .map(|(at, (name, resource_type, sub))| {
            Object::new(v2(name))
                .with(
                    "InstanceID",
                    format!(
                        r"Microsoft:Definition\{:08X}-0000-4000-8000-000000000000\Default",
                        at + 1
                    ),
                )
                .with("ResourceType", resource_type)
                .with("ResourceSubType", sub)
                .with("ElementName", "Default")
                .with("ConsumerVisibility", 3_u64)
                .with("AutomaticAllocation", true)
                .with("AutomaticDeallocation", true)
        })
}
