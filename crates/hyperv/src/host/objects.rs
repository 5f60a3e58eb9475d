//! Class names, references and paths of the objects we deal with.

use model::VmId;
use wsman::{Epr, Instance, ObjectPath, Value, uri};

pub(super) const MANAGEMENT: &str = "Msvm_VirtualSystemManagementService";
pub(super) const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
pub(super) const REFERENCE_POINTS: &str = "Msvm_VirtualSystemReferencePointService";
pub(super) const IMAGES: &str = "Msvm_ImageManagementService";

pub(super) const VM: &str = "Msvm_ComputerSystem";
pub(super) const PLANNED_VM: &str = "Msvm_PlannedComputerSystem";
pub(super) const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
pub(super) const RESOURCE: &str = "Msvm_ResourceAllocationSettingData";
pub(super) const STORAGE: &str = "Msvm_StorageAllocationSettingData";
pub(super) const NIC: &str = "Msvm_SyntheticEthernetPortSettingData";
pub(super) const LEGACY_NIC: &str = "Msvm_EmulatedEthernetPortSettingData";
pub(super) const NIC_CONNECTION: &str = "Msvm_EthernetPortAllocationSettingData";
pub(super) const MEMORY: &str = "Msvm_MemorySettingData";
pub(super) const PROCESSOR: &str = "Msvm_ProcessorSettingData";
pub(super) const SECURITY: &str = "Msvm_SecuritySettingData";
pub(super) const FIBRE_CHANNEL: &str = "Msvm_SyntheticFcPortSettingData";
pub(super) const SWITCH: &str = "Msvm_VirtualEthernetSwitch";
pub(super) const REFERENCE_POINT: &str = "Msvm_VirtualSystemReferencePoint";
pub(super) const VLAN: &str = "Msvm_EthernetSwitchPortVlanSettingData";
pub(super) const DISK_MERGE: &str = "Msvm_DiskMergeSettingData";

pub(super) const SUBTYPE_SCSI: &str = "Microsoft:Hyper-V:Synthetic SCSI Controller";
pub(super) const SUBTYPE_DISK_DRIVE: &str = "Microsoft:Hyper-V:Synthetic Disk Drive";
pub(super) const SUBTYPE_PASS_THROUGH: &str = "Microsoft:Hyper-V:Physical Disk Drive";
pub(super) const SUBTYPE_DVD_DRIVE: &str = "Microsoft:Hyper-V:Synthetic DVD Drive";
pub(super) const SUBTYPE_DISK: &str = "Microsoft:Hyper-V:Virtual Hard Disk";
pub(super) const SUBTYPE_ISO: &str = "Microsoft:Hyper-V:Virtual CD/DVD Disk";
pub(super) const SUBTYPE_FLOPPY: &str = "Microsoft:Hyper-V:Virtual Floppy Disk";
pub(super) const SUBTYPE_NIC: &str = "Microsoft:Hyper-V:Synthetic Ethernet Port";
pub(super) const SUBTYPE_LEGACY_NIC: &str = "Microsoft:Hyper-V:Emulated Ethernet Port";
pub(super) const SUBTYPE_NIC_CONNECTION: &str = "Microsoft:Hyper-V:Ethernet Connection";

/// Resource types (`ResourceType`).
pub(super) mod resource_type {
    pub(crate) const PROCESSOR: u16 = 3;
    pub(crate) const MEMORY: u16 = 4;
    pub(crate) const IDE: u16 = 5;
    pub(crate) const SCSI: u16 = 6;
    pub(crate) const FIBRE_CHANNEL: u16 = 7;
    pub(crate) const NIC: u16 = 10;
    pub(crate) const FLOPPY_DRIVE: u16 = 14;
    pub(crate) const DVD_DRIVE: u16 = 16;
    pub(crate) const DISK_DRIVE: u16 = 17;
    pub(crate) const MEDIA: u16 = 31;
    pub(crate) const NIC_CONNECTION: u16 = 33;
}

fn epr(class: &str) -> Epr {
    Epr::new(uri::NS_VIRTUALIZATION, class)
}

pub(super) fn vm(id: VmId) -> Epr {
    epr(VM)
        .with("CreationClassName", VM)
        .with("Name", id.to_string())
}

pub(super) fn planned_vm(id: VmId) -> Epr {
    epr(PLANNED_VM)
        .with("CreationClassName", PLANNED_VM)
        .with("Name", id.to_string())
}

/// A reference to anything whose only key is InstanceID.
pub(super) fn by_instance_id(class: &str, instance_id: &str) -> Epr {
    epr(class).with("InstanceID", instance_id)
}

pub(super) fn reference_point(id: &str, vm: VmId) -> Epr {
    by_instance_id(REFERENCE_POINT, id).with("VirtualSystemIdentifier", vm.to_string())
}

/// The path of an object for a property that holds paths: absolute, with the host's name.
pub(super) fn path_text(host: &str, object: &Epr) -> String {
    object
        .to_path()
        .on(host, r"root\virtualization\v2")
        .to_string()
}

/// The path of a switch, as the connection of an adapter names it.
pub(super) fn switch_path(host: &str, switch_id: &str) -> String {
    path_text(
        host,
        &epr(SWITCH)
            .with("CreationClassName", SWITCH)
            .with("Name", switch_id),
    )
}

/// A text of an object that may be missing; empty without.
pub(super) fn text(object: Option<&Instance>, name: &str) -> String {
    let text = object.and_then(|object| object.text(name));
    text.unwrap_or_default().to_owned()
}

/// InstanceID of an object, lower-cased to compare.
pub(super) fn id_key(instance: &Instance) -> String {
    instance
        .text("InstanceID")
        .unwrap_or_default()
        .to_lowercase()
}

/// InstanceID (lower-cased) of the object a path property names; the whole key map where it has another key.
pub(super) fn path_key(value: &Value, key: &str) -> Option<String> {
    let path: ObjectPath = value.items().first()?.as_text()?.parse().ok()?;
    path.get(key).map(str::to_lowercase)
}

/// The GUID inside `Microsoft:<GUID>` or `Microsoft:<GUID>\...`, upper case; `None` for templates (`Definition`).
pub(super) fn owner_guid(instance_id: &str) -> Option<VmId> {
    let rest = instance_id
        .get(10..)
        .filter(|_| instance_id[..10].eq_ignore_ascii_case("Microsoft:"))?;
    rest.split('\\').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_in_instance_ids() {
        let vm: VmId = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D".parse().unwrap();
        assert_eq!(
            owner_guid("Microsoft:b637f346-6a0e-4dec-af52-bd70cb80a21d"),
            Some(vm)
        );
        assert_eq!(
            owner_guid(r"Microsoft:B637F346-6A0E-4DEC-AF52-BD70CB80A21D\8\0\0\L"),
            Some(vm)
        );
        for other in [
            r"Microsoft:Definition\6\Default",
            "Microsoft:",
            "",
            "x",
            "Mïcrosoft:é",
        ] {
            assert_eq!(owner_guid(other), None, "{other}");
        }
    }
}
