//! A VM's settings: the VSSD and its resources, as bags of properties under the names WMI gives them.
//!
//! InstanceIDs begin with `Microsoft:<GUID>` of the VM or checkpoint the settings belong to; a copy for a checkpoint
//! differs in that GUID alone.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wsman::ObjectPath;

use crate::cim::{Bag, V2, Value};
use crate::state::guid;
use crate::winpath::same_path;

/// ResourceType of the resources this host knows.
pub(crate) mod kind {
    pub(crate) const PROCESSOR: u64 = 3;
    pub(crate) const MEMORY: u64 = 4;
    pub(crate) const IDE_CONTROLLER: u64 = 5;
    pub(crate) const SCSI_CONTROLLER: u64 = 6;
    pub(crate) const FC_PORT: u64 = 7;
    pub(crate) const NIC: u64 = 10;
    pub(crate) const DISKETTE_DRIVE: u64 = 14;
    pub(crate) const DVD_DRIVE: u64 = 16;
    pub(crate) const DISK_DRIVE: u64 = 17;
    pub(crate) const SERIAL_PORT: u64 = 21;
    pub(crate) const STORAGE: u64 = 31;
    pub(crate) const CONNECTION: u64 = 33;
}

/// ResourceSubType of the resources this host knows.
pub(crate) mod subtype {
    pub(crate) const PROCESSOR: &str = "Microsoft:Hyper-V:Processor";
    pub(crate) const MEMORY: &str = "Microsoft:Hyper-V:Memory";
    pub(crate) const IDE_CONTROLLER: &str = "Microsoft:Hyper-V:Emulated IDE Controller";
    pub(crate) const SCSI_CONTROLLER: &str = "Microsoft:Hyper-V:Synthetic SCSI Controller";
    pub(crate) const DISK_DRIVE: &str = "Microsoft:Hyper-V:Synthetic Disk Drive";
    pub(crate) const PHYSICAL_DISK: &str = "Microsoft:Hyper-V:Physical Disk Drive";
    pub(crate) const DVD_DRIVE: &str = "Microsoft:Hyper-V:Synthetic DVD Drive";
    pub(crate) const DISKETTE_DRIVE: &str = "Microsoft:Hyper-V:Synthetic Diskette Drive";
    pub(crate) const DISK: &str = "Microsoft:Hyper-V:Virtual Hard Disk";
    pub(crate) const ISO: &str = "Microsoft:Hyper-V:Virtual CD/DVD Disk";
    pub(crate) const FLOPPY: &str = "Microsoft:Hyper-V:Virtual Floppy Disk";
    pub(crate) const NIC: &str = "Microsoft:Hyper-V:Synthetic Ethernet Port";
    pub(crate) const LEGACY_NIC: &str = "Microsoft:Hyper-V:Emulated Ethernet Port";
    pub(crate) const CONNECTION: &str = "Microsoft:Hyper-V:Ethernet Connection";
    pub(crate) const SERIAL_PORT: &str = "Microsoft:Hyper-V:Serial Port";
    pub(crate) const FC_PORT: &str = "Microsoft:Hyper-V:Synthetic FiberChannel Port";
}

pub(crate) const GEN1: &str = "Microsoft:Hyper-V:SubType:1";
pub(crate) const GEN2: &str = "Microsoft:Hyper-V:SubType:2";

/// Class of boot sources; those that were added are kept among the resources.
pub(crate) const BOOT_SOURCE: &str = "Msvm_BootSourceSettingData";

const IDE_DEVICE: &str = "83F8638B-8DCA-4152-9EDA-2CA8B33039B4";
const PROCESSOR_DEVICE: &str = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D";
const MEMORY_DEVICE: &str = "4764334D-E001-4176-82EE-5594EC9B530E";

/// The settings of a VM or checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) vssd: Bag,
    pub(crate) resources: Vec<Bag>,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskSlot {
    /// InstanceID of its storage settings.
    pub(crate) attachment: String,
    /// Windows path of the file.
    pub(crate) path: String,
    /// Such as `scsi 0:1`.
    pub(crate) slot: String,
}

impl Definition {
    /// Makes the settings Hyper-V gives a VM about which nothing was said but its generation.
    pub(crate) fn new(id: Uuid, name: &str, generation: u8, version: &str, now: &str) -> Self {
        let owner = guid(id);
        let prefix = format!("Microsoft:{owner}");
        let vssd = Bag::new("Msvm_VirtualSystemSettingData")
            .with("InstanceID", prefix.as_str())
            .with("Caption", "Virtual Machine Settings")
            .with("Description", "Active settings for the virtual machine.")
            .with("ElementName", name)
            .with("VirtualSystemIdentifier", owner.as_str())
            .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
            .with(
                "VirtualSystemSubType",
                if generation == 2 { GEN2 } else { GEN1 },
            )
            .with("Version", version)
            .with("CreationTime", now)
            .with("ConfigurationID", owner.as_str())
            .with(
                "ConfigurationFile",
                format!(r"Virtual Machines\{owner}.vmcx"),
            )
            .with("GuestStateFile", format!(r"Virtual Machines\{owner}.VMRS"))
            .with("AutomaticStartupAction", 3_u64)
            .with("AutomaticStartupActionDelay", "00000000000000.000000:000")
            .with("AutomaticShutdownAction", 3_u64)
            .with("AutomaticRecoveryAction", 3_u64)
            .with("BIOSGUID", format!("{{{}}}", guid(Uuid::new_v4())))
            .with("BIOSSerialNumber", serial_number())
            .with("BaseBoardSerialNumber", serial_number())
            .with("ChassisSerialNumber", serial_number())
            .with("ChassisAssetTag", serial_number())
            .with("BIOSNumLock", false)
            .with("IsSaved", false)
            .with("UserSnapshotType", 3_u64)
            .with("IsAutomaticSnapshot", false)
            .with("AutomaticSnapshotsEnabled", false)
            .with("IncrementalBackupEnabled", false)
            .with("VirtualNumaEnabled", true)
            .with("AllowFullSCSICommandSet", false)
            .with("AllowReducedFcRedundancy", false)
            .with("PauseAfterBootFailure", false)
            .with("SecureBootEnabled", generation == 2)
            .with("DebugPortEnabled", 0_u64)
            .with("LowMmioGapSize", 128_u64)
            .with("NetworkBootPreferredProtocol", 4096_u64)
            .with("Notes", Value::List(Vec::new()));
        let mut vssd = vssd;
        if generation == 1 {
            vssd.set("BootOrder", Value::numbers([1, 2, 3, 0]));
        } else {
            vssd.set("BootSourceOrder", Value::List(Vec::new()));
            vssd.set(
                "SecureBootTemplateId",
                "1734C6E8-3154-4DDA-BA5F-A874CC483422",
            );
        }
        let mut resources = vec![
            resource(
                "Msvm_ProcessorSettingData",
                kind::PROCESSOR,
                subtype::PROCESSOR,
            )
            .with("InstanceID", format!(r"{prefix}\{PROCESSOR_DEVICE}\0"))
            .with("ElementName", "Processor")
            .with("VirtualQuantity", 1_u64)
            .with("Reservation", 0_u64)
            .with("Limit", 100_000_u64)
            .with("Weight", 100_u64)
            .with("LimitCPUID", false)
            .with("LimitProcessorFeatures", false)
            .with("AllocationUnits", "percent / 1000")
            .with("VirtualQuantityUnits", "count"),
            resource("Msvm_MemorySettingData", kind::MEMORY, subtype::MEMORY)
                .with("InstanceID", format!(r"{prefix}\{MEMORY_DEVICE}"))
                .with("ElementName", "Memory")
                .with("VirtualQuantity", 1024_u64)
                .with("Reservation", 512_u64)
                .with("Limit", 1_048_576_u64)
                .with("Weight", 5000_u64)
                .with("DynamicMemoryEnabled", false)
                .with("TargetMemoryBuffer", 20_u64)
                .with("AllocationUnits", "byte * 2^20")
                .with("VirtualQuantityUnits", "byte * 2^20"),
            Bag::new("Msvm_SecuritySettingData")
                .with("InstanceID", format!(r"{prefix}\Security"))
                .with("ElementName", "Security Settings")
                .with("TpmEnabled", false)
                .with("ShieldingRequested", false)
                .with("EncryptStateAndVmMigrationTraffic", false),
        ];
        if generation == 1 {
            for address in 0..2_u64 {
                resources.push(
                    resource(
                        "Msvm_ResourceAllocationSettingData",
                        kind::IDE_CONTROLLER,
                        subtype::IDE_CONTROLLER,
                    )
                    .with("InstanceID", format!(r"{prefix}\{IDE_DEVICE}\{address}"))
                    .with("ElementName", format!("IDE Controller {address}"))
                    .with("Address", address.to_string()),
                );
            }
        }
        Self { vssd, resources }
    }

    /// Returns the GUID that the InstanceIDs begin with.
    pub(crate) fn owner(&self) -> &str {
        owner_of(self.vssd.instance_id())
    }

    pub(crate) fn generation(&self) -> u8 {
        if self
            .vssd
            .text("VirtualSystemSubType")
            .eq_ignore_ascii_case(GEN2)
        {
            2
        } else {
            1
        }
    }

    /// Returns the configuration version as two numbers.
    pub(crate) fn version(&self) -> (u32, u32) {
        version_of(self.vssd.text("Version"))
    }

    pub(crate) fn of_kind(&self, resource_type: u64) -> impl Iterator<Item = &Bag> {
        self.resources
            .iter()
            .filter(move |bag| bag.number("ResourceType") == Some(resource_type))
    }

    pub(crate) fn resource(&self, instance_id: &str) -> Option<&Bag> {
        self.resources
            .iter()
            .find(|bag| bag.instance_id().eq_ignore_ascii_case(instance_id))
    }

    pub(crate) fn resource_mut(&mut self, instance_id: &str) -> Option<&mut Bag> {
        self.resources
            .iter_mut()
            .find(|bag| bag.instance_id().eq_ignore_ascii_case(instance_id))
    }

    /// Returns the resource a `Parent` path names.
    pub(crate) fn parent_of(&self, bag: &Bag) -> Option<&Bag> {
        let path: ObjectPath = bag.text("Parent").parse().ok()?;
        self.resource(path.get("InstanceID")?)
    }

    /// Returns the storage settings that hold a virtual hard disk file, in the order of attachment.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &Bag> {
        self.of_kind(kind::STORAGE).filter(|bag| {
            bag.text("ResourceSubType")
                .eq_ignore_ascii_case(subtype::DISK)
        })
    }

    pub(crate) fn disk_slots(&self) -> Vec<DiskSlot> {
        self.disks()
            .map(|bag| DiskSlot {
                attachment: bag.instance_id().to_owned(),
                path: bag.first("HostResource").to_owned(),
                slot: self.slot_text(bag),
            })
            .collect()
    }

    fn slot_text(&self, storage: &Bag) -> String {
        let Some((drive, controller)) = self
            .parent_of(storage)
            .and_then(|drive| Some((drive, self.parent_of(drive)?)))
        else {
            return "none".to_owned();
        };
        let slot = drive.text("AddressOnParent");
        if controller.number("ResourceType") == Some(kind::IDE_CONTROLLER) {
            return format!("ide {}:{slot}", controller.text("Address"));
        }
        let number = self
            .of_kind(kind::SCSI_CONTROLLER)
            .position(|other| other.instance_id() == controller.instance_id())
            .unwrap_or(0);
        format!("scsi {number}:{slot}")
    }

    /// Whether any storage settings name the file.
    pub(crate) fn uses_file(&self, path: &str) -> bool {
        self.of_kind(kind::STORAGE)
            .any(|bag| same_path(bag.first("HostResource"), path))
    }

    /// Puts `new` in the place of `old` wherever storage settings name it.
    pub(crate) fn replace_file(&mut self, old: &str, new: &str) {
        for bag in &mut self.resources {
            if bag.number("ResourceType") == Some(kind::STORAGE)
                && same_path(bag.first("HostResource"), old)
            {
                bag.set("HostResource", Value::texts([new]));
            }
        }
    }

    /// Returns a copy under another GUID: that of a checkpoint, or of a VM with a new id.
    pub(crate) fn under(&self, id: Uuid) -> Self {
        let (old, new) = (self.owner().to_owned(), guid(id));
        let mut copy = self.clone();
        for bag in copy
            .resources
            .iter_mut()
            .chain(std::iter::once(&mut copy.vssd))
        {
            for name in ["InstanceID", "Parent"] {
                let text = bag.text(name);
                if !text.is_empty() {
                    let text = replace_any_case(text, &old, &new);
                    bag.set(name, text);
                }
            }
        }
        if let Some(order) = copy.vssd.props.get("BootSourceOrder") {
            let order = Value::texts(
                order
                    .items()
                    .iter()
                    .map(|item| replace_any_case(&item.wire_text(), &old, &new)),
            );
            copy.vssd.set("BootSourceOrder", order);
        }
        copy
    }

    /// Returns the boot sources: one for each drive and network adapter, with the device's InstanceID, and those that
    /// were added, without one.
    pub(crate) fn boot_sources(&self) -> Vec<(Bag, String)> {
        if self.generation() != 2 {
            return Vec::new();
        }
        let prefix = format!("Microsoft:{}", self.owner());
        let added = self.resources.iter().filter(|bag| bag.class == BOOT_SOURCE);
        let added = added.map(|bag| (bag.clone(), String::new()));
        self.resources
            .iter()
            .filter_map(|bag| {
                let (source_type, what) = match bag.number("ResourceType")? {
                    kind::DISK_DRIVE | kind::DVD_DRIVE => (1_u64, "EFI SCSI Device"),
                    kind::NIC => (2, "EFI Network"),
                    _ => return None,
                };
                let device = bag
                    .instance_id()
                    .get(prefix.len()..)?
                    .trim_start_matches('\\')
                    .to_owned();
                let source = Bag::new("Msvm_BootSourceSettingData")
                    .with("InstanceID", format!(r"{prefix}\BootSource\{device}"))
                    .with("ElementName", what)
                    .with("BootSourceDescription", what)
                    .with("BootSourceType", source_type)
                    .with(
                        "FirmwareDevicePath",
                        format!(r"\AcpiEx(VMBus,0,0)\VenHw({device})"),
                    );
                Some((source, bag.instance_id().to_owned()))
            })
            .chain(added)
            .collect()
    }

    /// Keeps `BootSourceOrder` a list of exactly the boot sources there are: new ones come last.
    pub(crate) fn settle_boot_order(&mut self, server: &str) {
        if self.generation() != 2 {
            return;
        }
        let there: Vec<String> = self
            .boot_sources()
            .iter()
            .map(|(source, _)| source.instance_id().to_owned())
            .collect();
        let mut order: Vec<String> = Vec::new();
        if let Some(old) = self.vssd.props.get("BootSourceOrder") {
            for item in old.items() {
                let id = item
                    .as_text()
                    .and_then(|text| text.parse::<ObjectPath>().ok());
                let id = id.as_ref().and_then(|path| path.get("InstanceID"));
                if let Some(id) =
                    id.and_then(|id| there.iter().find(|there| there.eq_ignore_ascii_case(id)))
                    && !order.contains(id)
                {
                    order.push(id.clone());
                }
            }
        }
        order.extend(
            there
                .into_iter()
                .filter(|id| !order.contains(id))
                .collect::<Vec<_>>(),
        );
        let paths = order
            .iter()
            .map(|id| path_text(server, "Msvm_BootSourceSettingData", id));
        self.vssd.set("BootSourceOrder", Value::texts(paths));
    }
}

/// Reads a configuration version, such as `10.0`.
pub(crate) fn version_of(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// Returns the GUID an InstanceID begins with: `Microsoft:<GUID>\...`.
pub(crate) fn owner_of(instance_id: &str) -> &str {
    let rest = instance_id.get(10..).unwrap_or_default();
    rest.split('\\').next().unwrap_or_default()
}

/// Returns the text of the path of an object with the single key InstanceID.
pub(crate) fn path_text(server: &str, class: &str, instance_id: &str) -> String {
    ObjectPath::new(class)
        .with("InstanceID", instance_id)
        .on(server, V2)
        .to_string()
}

/// Makes a resource with what every one has.
pub(crate) fn resource(class: &str, resource_type: u64, sub: &str) -> Bag {
    Bag::new(class)
        .with("ResourceType", resource_type)
        .with("ResourceSubType", sub)
        .with("ConsumerVisibility", 3_u64)
        .with("AutomaticAllocation", true)
        .with("AutomaticDeallocation", true)
}

fn replace_any_case(text: &str, old: &str, new: &str) -> String {
    // GUIDs are ASCII, so positions in the upper-case text are positions in the text itself.
    let (upper, old) = (text.to_ascii_uppercase(), old.to_ascii_uppercase());
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = upper[at..].find(&old) {
        out.push_str(&text[at..at + found]);
        out.push_str(new);
        at += found + old.len();
    }
    out.push_str(&text[at..]);
    out
}

fn serial_number() -> String {
    let digits = Uuid::new_v4().as_u128() % 10_u128.pow(26);
    let digits = format!("{digits:026}");
    [0..4, 4..8, 8..12, 12..16, 16..20, 20..24, 24..26]
        .map(|range| digits[range].to_owned())
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_for_a_checkpoint_differs_in_its_guid_alone() {
        let (vm, checkpoint) = (Uuid::new_v4(), Uuid::new_v4());
        let mut definition = Definition::new(vm, "web01", 1, "10.0", "20260102030405.000000+000");
        let controller = path_text(
            "HV01",
            "Msvm_ResourceAllocationSettingData",
            &format!(r"Microsoft:{}\{IDE_DEVICE}\0", guid(vm)),
        );
        definition.resources.push(
            resource(
                "Msvm_ResourceAllocationSettingData",
                kind::DISK_DRIVE,
                subtype::DISK_DRIVE,
            )
            .with(
                "InstanceID",
                format!(r"Microsoft:{}\{IDE_DEVICE}\0\0\D", guid(vm)),
            )
            .with("Parent", controller),
        );
        let copy = definition.under(checkpoint);
        assert_eq!(copy.owner(), guid(checkpoint));
        let drive = copy.of_kind(kind::DISK_DRIVE).next().unwrap();
        assert!(
            copy.parent_of(drive)
                .unwrap()
                .instance_id()
                .contains(&guid(checkpoint))
        );
        assert_eq!(copy.under(vm), definition);
    }
}
