//! A virtual machine as Hyper-V describes it, reduced to what a backup must keep and a restore must set.

use serde::{Deserialize, Serialize};

use crate::VmId;

/// First or second generation: BIOS with IDE, or UEFI with SCSI only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generation {
    /// `Microsoft:Hyper-V:SubType:1`.
    Gen1,
    /// `Microsoft:Hyper-V:SubType:2`.
    Gen2,
}

/// What a VM is doing, from `Msvm_ComputerSystem.EnabledState` (both value sets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// Executing.
    Running,
    /// Off, without saved state.
    Off,
    /// Held in memory.
    Paused,
    /// Memory written to disk.
    Saved,
    /// Between two of the others (starting, stopping, saving, resuming).
    Changing,
    /// A value this program does not know.
    Unknown,
}

/// A VM's configuration. It is stored with every recovery point and drives the define route of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Hyper-V's id.
    pub id: VmId,
    /// Display name (ElementName): any text, not unique.
    pub name: String,
    /// First or second generation.
    pub generation: Generation,
    /// Configuration version, such as `8.0`.
    pub version: String,
    /// Notes of the administrator, a line each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// ConfigurationDataRoot: the folder that holds `Virtual Machines`.
    #[serde(default)]
    pub config_root: Option<String>,
    /// SnapshotDataRoot: the folder that holds `Snapshots`.
    #[serde(default)]
    pub snapshot_root: Option<String>,
    /// Number of virtual processors.
    pub processors: u64,
    /// Memory.
    pub memory: Memory,
    /// Secure boot, where the generation has it.
    #[serde(default)]
    pub secure_boot: Option<bool>,
    /// Template of the secure boot keys (a GUID text), where there is one.
    #[serde(default)]
    pub secure_boot_template: Option<String>,
    /// AutomaticStartupAction (2 none, 3 if it ran, 4 always).
    #[serde(default)]
    pub automatic_start: Option<u16>,
    /// AutomaticShutdownAction (2 off, 3 save, 4 shut down).
    #[serde(default)]
    pub automatic_stop: Option<u16>,
    /// Boot order of a first generation VM (0 floppy, 1 CD, 2 IDE, 3 network).
    #[serde(default)]
    pub boot_order: Vec<u16>,
    /// Boot order of a second generation VM.
    #[serde(default)]
    pub boot_entries: Vec<BootEntry>,
    /// Disk controllers with their drives.
    pub controllers: Vec<Controller>,
    /// Network adapters.
    pub nics: Vec<Nic>,
}

impl VmConfig {
    /// Returns the slots that hold a virtual hard disk file, in controller and slot order.
    pub fn disks(&self) -> impl Iterator<Item = (&Controller, &Drive, &str)> {
        self.controllers.iter().flat_map(|controller| {
            controller
                .drives
                .iter()
                .filter_map(move |drive| match &drive.media {
                    Media::Disk { path } => Some((controller, drive, path.as_str())),
                    Media::Iso { .. } | Media::PassThrough { .. } | Media::Empty => None,
                })
        })
    }
}

/// Memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// At start (VirtualQuantity).
    pub startup_mib: u64,
    /// Whether Hyper-V may change it while the VM runs.
    pub dynamic: bool,
    /// Lower bound (Reservation) where dynamic.
    pub minimum_mib: u64,
    /// Upper bound (Limit) where dynamic.
    pub maximum_mib: u64,
}

/// IDE or SCSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerKind {
    /// Two per first generation VM, two drives each.
    Ide,
    /// Up to four, 64 drives each.
    Scsi,
}

/// A disk controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// IDE or SCSI.
    pub kind: ControllerKind,
    /// IDE: its address, 0 or 1. SCSI: its place in the order of the host's list.
    pub number: u32,
    /// Drives in slot order.
    pub drives: Vec<Drive>,
}

/// A drive in a controller's slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// AddressOnParent.
    pub slot: u32,
    /// InstanceID of the file's settings object (the attachment); how reference points name a disk.
    #[serde(default)]
    pub attachment: String,
    /// What is in it.
    pub media: Media,
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Media {
    /// A virtual hard disk file; the path is the host's, of the leaf the VM uses.
    Disk {
        /// Path on the host.
        path: String,
    },
    /// A CD or DVD image.
    Iso {
        /// Path on the host.
        path: String,
    },
    /// A physical disk of the host: never backed up, always named.
    PassThrough {
        /// The host's path of the physical disk object.
        path: String,
    },
    /// Nothing.
    Empty,
}

/// An entry of a second generation VM's boot order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BootEntry {
    /// The drive in this slot of this SCSI controller.
    Drive {
        /// Controller number.
        controller: u32,
        /// Slot.
        slot: u32,
    },
    /// The network adapter with this place in the list.
    Nic {
        /// Index into [`VmConfig::nics`].
        index: u32,
    },
    /// A boot file named by the firmware; cannot be set from outside.
    File {
        /// Its description.
        description: String,
    },
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Display name.
    pub name: String,
    /// MAC address, 12 hexadecimal digits; `None` where not yet given.
    pub mac: Option<String>,
    /// Whether the address was set by hand.
    pub static_mac: bool,
    /// Emulated adapter of a first generation VM.
    pub legacy: bool,
    /// The switch it is connected to.
    pub switch: Option<SwitchRef>,
    /// Its VLAN, where its port is an access port of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// A virtual switch of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRef {
    /// Its GUID name.
    pub id: String,
    /// Display name: what a restore on another host goes by.
    pub name: String,
}
