//! `vm feature`: what a VM may have that a backup must recognise.

use std::fmt;
use std::fs::File;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vhdx::{BulkWriter, Params};
use wsman::ObjectPath;

use super::add::{put, switch};
use super::execute::{change, conflict, failed};
use super::{CtlError, CtlErrorKind, ParseCommandError};
use crate::cim::{Bag, V2, Value};
use crate::clock::now;
use crate::definition::{Definition, kind, path_text, resource, subtype};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::methods::CheckpointOperation;
use crate::resources::new_mac;
use crate::state::{Replication, Vm, guid};
use crate::winpath::WinPath;

/// Virtual size of the disks made here.
const DISK_BYTES: u64 = 64 << 20;

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something a VM has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum VmFeature {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl VmFeature {
            /// Every feature.
            pub const ALL: &'static [VmFeature] = &[$(VmFeature::$name,)*];

            /// Returns the name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(VmFeature::$name => $text,)*
                }
            }
        }
    };
}

features! {
    /// A disk of the host, passed through.
    PassThrough = "pass-through",
    /// A VHDX file other VMs may use too; `path` says where.
    SharedVhdx = "shared-vhdx",
    /// A VHD set; `path` ends in `.vhds`.
    VhdSet = "vhd-set",
    /// A Fibre Channel adapter.
    FibreChannel = "fibre-channel",
    /// A virtual TPM.
    Tpm = "tpm",
    /// A shielded VM: a TPM and no way in.
    Shielded = "shielded",
    /// A legacy network adapter (first generation) on the switch `name`.
    LegacyNic = "legacy-nic",
    /// A network adapter that is connected to nothing.
    UnconnectedNic = "unconnected-nic",
    /// VLAN `number` on the first network adapter.
    Vlan = "vlan",
    /// A DVD drive; with `path` it holds that ISO file.
    Dvd = "dvd",
    /// A diskette drive with the image `path` (first generation).
    Floppy = "floppy",
    /// The VM is replicated to another host.
    ReplicaPrimary = "replica-primary",
    /// The VM is the replica of one on another host.
    Replica = "replica",
    /// The VM is a role of the cluster.
    Clustered = "clustered",
    /// A backup checkpoint of another product, called `name`.
    BackupCheckpoint = "backup-checkpoint",
    /// A planned VM of the same settings that somebody left behind.
    PlannedCopy = "planned-copy",
}

impl fmt::Display for VmFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VmFeature {
    type Err = ParseCommandError;

    fn from_str(text: &str) -> Result<Self, ParseCommandError> {
        let found = Self::ALL
            .iter()
            .copied()
            .find(|feature| feature.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|feature| feature.name()).collect();
            ParseCommandError::new(
                "a feature",
                text,
                format!("the features are {}", names.join(", ")),
            )
        })
    }
}

/// A feature to give a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureAdd {
    /// Id or name of the VM.
    pub vm: String,
    /// What.
    pub feature: VmFeature,
    /// Windows path of a file it needs; one beside the VM's other files without.
    pub path: Option<String>,
    /// Name of a switch or checkpoint.
    pub name: Option<String>,
    /// Number of a VLAN.
    pub number: Option<u16>,
}

/// Gives a VM a feature.
pub(super) fn add_feature(engine: &Arc<Engine>, vm: &Vm, add: &FeatureAdd) -> Result<(), CtlError> {
    let device = match add.feature {
        VmFeature::ReplicaPrimary | VmFeature::Replica => {
            let replication = if add.feature == VmFeature::Replica {
                Replication::Replica
            } else {
                Replication::Primary
            };
            return update(engine, vm, |vm| vm.replication = replication);
        }
        VmFeature::Clustered => {
            if engine.read(|state| state.host.cluster.is_none()) {
                return Err(conflict(
                    "the host is no node of a cluster; see `sim ctl cluster`".to_owned(),
                ));
            }
            return update(engine, vm, |vm| vm.clustered = true);
        }
        VmFeature::BackupCheckpoint => {
            let name = add.name.clone().unwrap_or_else(|| "Backup".to_owned());
            let operation = CheckpointOperation::Create {
                id: Uuid::new_v4(),
                recovery: true,
                application: false,
                name: Some(name),
            };
            return change(engine, vm.id, operation);
        }
        VmFeature::PlannedCopy => return planned_copy(engine, vm),
        device @ (VmFeature::PassThrough
        | VmFeature::SharedVhdx
        | VmFeature::VhdSet
        | VmFeature::FibreChannel
        | VmFeature::Tpm
        | VmFeature::Shielded
        | VmFeature::LegacyNic
        | VmFeature::UnconnectedNic
        | VmFeature::Vlan
        | VmFeature::Dvd
        | VmFeature::Floppy) => device,
    };
    if vm.power.holds_disks() {
        return Err(conflict(format!(
            "{} is {}; turn it off first",
            vm.name(),
            vm.power.name()
        )));
    }
    let server = engine.name();
    let mut definition = vm.definition.clone();
    let place = Place {
        engine,
        server: &server,
        add,
    };
    place.build(device, &mut definition)?;
    definition.settle_boot_order(&server);
    update(engine, vm, |vm| vm.definition = definition)
}

fn update(engine: &Engine, vm: &Vm, set: impl FnOnce(&mut Vm)) -> Result<(), CtlError> {
    engine
        .update_vm(vm.id, |vm| {
            set(vm);
            Ok(())
        })
        .map_err(failed)
}

fn planned_copy(engine: &Engine, vm: &Vm) -> Result<(), CtlError> {
    let id = Uuid::new_v4();
    let mut definition = vm.definition.under(id);
    let vssd = &mut definition.vssd;
    vssd.set("VirtualSystemIdentifier", guid(id));
    vssd.set("ConfigurationID", guid(id));
    vssd.set("VirtualSystemType", "Microsoft:Hyper-V:System:Planned");
    vssd.props.remove("Parent");
    let mut planned = Vm::new(id, definition, now());
    planned.planned = true;
    engine.insert_vm(planned).map_err(failed)
}

/// What a device is put together from.
struct Place<'a> {
    engine: &'a Engine,
    server: &'a str,
    add: &'a FeatureAdd,
}

impl Place<'_> {
    fn build(&self, device: VmFeature, definition: &mut Definition) -> Result<(), CtlError> {
        match device {
            VmFeature::PassThrough => self.pass_through(definition),
            VmFeature::SharedVhdx | VmFeature::VhdSet => self.shared_disk(definition),
            VmFeature::Dvd => self.dvd(definition),
            VmFeature::Floppy => self.floppy(definition),
            VmFeature::LegacyNic | VmFeature::UnconnectedNic => self.nic(device, definition),
            VmFeature::Vlan => self.vlan(definition),
            VmFeature::FibreChannel => {
                let id = self.new_id(definition);
                let port = resource(
                    "Msvm_SyntheticFcPortSettingData",
                    kind::FC_PORT,
                    subtype::FC_PORT,
                );
                definition.resources.push(
                    port.with("InstanceID", id)
                        .with("ElementName", "Fibre Channel Adapter")
                        .with("VirtualPortWWPN", "C003FF0000FFFF00")
                        .with("VirtualPortWWNN", "C003FF0000FFFF01"),
                );
                Ok(())
            }
            VmFeature::Tpm | VmFeature::Shielded => {
                let security = definition
                    .resources
                    .iter_mut()
                    .find(|bag| bag.class == "Msvm_SecuritySettingData");
                let security = security
                    .ok_or_else(|| conflict("the VM has no security settings".to_owned()))?;
                security.set("TpmEnabled", true);
                if device == VmFeature::Shielded {
                    security.set("ShieldingRequested", true);
                    security.set("EncryptStateAndVmMigrationTraffic", true);
                }
                Ok(())
            }
            VmFeature::ReplicaPrimary
            | VmFeature::Replica
            | VmFeature::Clustered
            | VmFeature::BackupCheckpoint
            | VmFeature::PlannedCopy => Ok(()),
        }
    }

    fn new_id(&self, definition: &Definition) -> String {
        format!(r"Microsoft:{}\{}", definition.owner(), guid(Uuid::new_v4()))
    }

    /// Returns a SCSI controller, or the last IDE controller of a VM that has no other.
    fn controller(&self, definition: &mut Definition) -> Bag {
        if let Some(there) = definition.of_kind(kind::SCSI_CONTROLLER).next() {
            return there.clone();
        }
        let id = self.new_id(definition);
        let controller = resource(
            "Msvm_ResourceAllocationSettingData",
            kind::SCSI_CONTROLLER,
            subtype::SCSI_CONTROLLER,
        )
        .with("InstanceID", format!(r"{id}\0"))
        .with("ElementName", "SCSI Controller");
        definition.resources.push(controller.clone());
        controller
    }

    fn pass_through(&self, definition: &mut Definition) -> Result<(), CtlError> {
        let controller = self.controller(definition);
        let drive = put(definition, self.server, kind::DISK_DRIVE, &controller, None)?;
        let number = self.add.number.unwrap_or(1);
        let disk = ObjectPath::new("Msvm_DiskDrive")
            .with("CreationClassName", "Msvm_DiskDrive")
            .with(
                "DeviceID",
                format!(r"Microsoft:353B3BE8-310C-4CF4-839E-4E1B14616136\{number}"),
            )
            .with("SystemCreationClassName", "Msvm_ComputerSystem")
            .with("SystemName", self.server)
            .on(self.server, V2);
        if let Some(drive) = definition.resource_mut(drive.instance_id()) {
            drive.set("ResourceSubType", subtype::PHYSICAL_DISK);
            drive.set("HostResource", Value::texts([disk.to_string()]));
        }
        Ok(())
    }

    fn shared_disk(&self, definition: &mut Definition) -> Result<(), CtlError> {
        let set = self.add.feature == VmFeature::VhdSet;
        let extension = if set { "vhds" } else { "vhdx" };
        let path = self.path(definition, extension)?;
        if set {
            let stem = path.file_name();
            let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
            let backing = format!("{stem}_{}.avhdx", guid(Uuid::new_v4()));
            let file = path.parent().join(&backing);
            let file = file.map_err(|err| failed(Failure::invalid(err.to_string())))?;
            self.make_disk(&file)?;
            self.write(&path, backing.as_bytes())?;
        } else {
            self.make_disk(&path)?;
        }
        let controller = self.controller(definition);
        let drive = put(definition, self.server, kind::DISK_DRIVE, &controller, None)?;
        let path = path.to_string();
        let storage = put(definition, self.server, kind::STORAGE, &drive, Some(path))?;
        if let Some(storage) = definition.resource_mut(storage.instance_id()) {
            storage.set("PersistentReservationsSupported", true);
        }
        Ok(())
    }

    fn dvd(&self, definition: &mut Definition) -> Result<(), CtlError> {
        let controller = self.controller(definition);
        let drive = put(definition, self.server, kind::DVD_DRIVE, &controller, None)?;
        if self.add.path.is_some() {
            let path = self.path(definition, "iso")?;
            self.write(&path, b"an ISO image")?;
            put(
                definition,
                self.server,
                kind::STORAGE,
                &drive,
                Some(path.to_string()),
            )?;
        }
        Ok(())
    }

    fn floppy(&self, definition: &mut Definition) -> Result<(), CtlError> {
        if definition.generation() != 1 {
            return Err(CtlError::new(
                CtlErrorKind::Usage,
                "only a first generation VM has a diskette drive",
            ));
        }
        let path = self.path(definition, "vfd")?;
        self.write(&path, b"a diskette image")?;
        let id = self.new_id(definition);
        let drive = resource(
            "Msvm_ResourceAllocationSettingData",
            kind::DISKETTE_DRIVE,
            subtype::DISKETTE_DRIVE,
        )
        .with("InstanceID", format!(r"{id}\0\D"))
        .with("ElementName", "Diskette Drive")
        .with("AddressOnParent", "0");
        let parent = path_text(self.server, &drive.class, drive.instance_id());
        definition.resources.push(drive);
        definition.resources.push(
            resource(
                "Msvm_StorageAllocationSettingData",
                kind::STORAGE,
                subtype::FLOPPY,
            )
            .with("InstanceID", format!(r"{id}\0\L"))
            .with("ElementName", "Floppy Disk Image")
            .with("Parent", parent)
            .with("HostResource", Value::texts([path.to_string()])),
        );
        Ok(())
    }

    fn nic(&self, device: VmFeature, definition: &mut Definition) -> Result<(), CtlError> {
        let legacy = device == VmFeature::LegacyNic;
        if legacy && definition.generation() != 1 {
            return Err(CtlError::new(
                CtlErrorKind::Usage,
                "only a first generation VM has legacy network adapters",
            ));
        }
        let (class, sub) = if legacy {
            ("Msvm_EmulatedEthernetPortSettingData", subtype::LEGACY_NIC)
        } else {
            ("Msvm_SyntheticEthernetPortSettingData", subtype::NIC)
        };
        let nic = resource(class, kind::NIC, sub)
            .with("InstanceID", self.new_id(definition))
            .with("ElementName", "Network Adapter")
            .with("StaticMacAddress", false)
            .with("ClusterMonitored", true)
            .with("Address", new_mac());
        definition.resources.push(nic.clone());
        let connection = match (&self.add.name, legacy) {
            (Some(name), true) => {
                let switch = switch(self.engine, name)?;
                let path = ObjectPath::new("Msvm_VirtualEthernetSwitch")
                    .with("CreationClassName", "Msvm_VirtualEthernetSwitch")
                    .with("Name", guid(switch.id))
                    .on(self.server, V2);
                Some(path.to_string())
            }
            (Some(_) | None, _) => None,
        };
        let off = connection.is_none();
        let made = put(definition, self.server, kind::CONNECTION, &nic, connection)?;
        if off && let Some(made) = definition.resource_mut(made.instance_id()) {
            made.set("EnabledState", 3_u64);
        }
        Ok(())
    }

    fn vlan(&self, definition: &mut Definition) -> Result<(), CtlError> {
        /// Of VLAN settings, on every host.
        const FEATURE: &str = "952C5004-4465-451C-8CB8-FA9AB382B773";
        const ACCESS: u64 = 1;
        let port = definition.of_kind(kind::CONNECTION).next();
        let port = port.ok_or_else(|| conflict("the VM has no network adapter".to_owned()))?;
        let id = format!(r"{}\{FEATURE}", port.instance_id());
        definition.resources.push(
            Bag::new("Msvm_EthernetSwitchPortVlanSettingData")
                .with("InstanceID", id)
                .with("ElementName", "Ethernet Switch Port VLAN Settings")
                .with("AccessVlanId", u64::from(self.add.number.unwrap_or(1)))
                .with("NativeVlanId", 0_u64)
                .with("OperationMode", ACCESS),
        );
        Ok(())
    }

    /// Where a file goes: as told, else beside the VM's other files.
    fn path(&self, definition: &Definition, extension: &str) -> Result<WinPath, CtlError> {
        let text = match &self.add.path {
            Some(path) => path.clone(),
            None => {
                let name = self.add.feature.name();
                let beside = definition.disk_slots().into_iter().next();
                let folder = beside
                    .and_then(|slot| WinPath::parse(&slot.path).ok())
                    .map_or_else(|| r"C:\VMs".to_owned(), |path| path.parent().to_string());
                format!(r"{folder}\{name}.{extension}")
            }
        };
        let path = WinPath::parse(&text)
            .map_err(|err| CtlError::new(CtlErrorKind::Usage, err.to_string()))?;
        if self.engine.local(&path).exists() {
            return Err(conflict(format!("'{path}' exists already")));
        }
        Ok(path)
    }

    fn write(&self, path: &WinPath, bytes: &[u8]) -> Result<(), CtlError> {
        let local = self.engine.local(path);
        let made = match local.parent() {
            Some(folder) => std::fs::create_dir_all(folder),
            None => Ok(()),
        };
        made.and_then(|()| std::fs::write(&local, bytes))
            .map_err(|err| failed(Failure::io(format!("write '{path}'"), &err)))
    }

    fn make_disk(&self, path: &WinPath) -> Result<(), CtlError> {
        self.write(path, b"")?;
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.engine.local(path));
        let file = file.map_err(|err| failed(Failure::io(format!("open '{path}'"), &err)))?;
        BulkWriter::create(file, &Params::dynamic(DISK_BYTES))
            .and_then(BulkWriter::finish)
            .map(drop)
            .map_err(|err| failed(Failure::vhdx(path, &err)))
    }
}
