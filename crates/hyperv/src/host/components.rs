//! The parts of a VM's settings (or of a checkpoint's), and how they hang together.

use std::collections::HashMap;

use model::ControllerKind;
use wsman::{Instance, Value};

use super::Slot;
use super::objects::{self, id_key, path_key, resource_type};

/// The parts of one system's settings, in the host's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Components {
    pub(super) parts: Vec<Instance>,
}

/// A drive in a slot, with what is in it.
#[derive(Clone, Debug)]
pub(super) struct DriveParts<'a> {
    pub(super) slot: Slot,
    pub(super) drive: &'a Instance,
    pub(super) media: Option<&'a Instance>,
}

/// A network adapter with its connection.
#[derive(Clone, Debug)]
pub(super) struct NicParts<'a> {
    pub(super) nic: &'a Instance,
    pub(super) connection: Option<&'a Instance>,
    pub(super) vlan: Option<&'a Instance>,
}

impl Components {
    pub(super) fn of_type(&self, resource_type: u16) -> impl Iterator<Item = &Instance> {
        self.parts
            .iter()
            .filter(move |part| part.u16("ResourceType") == Some(resource_type))
    }

    /// Returns the controllers with kind and number: IDE by address, SCSI by their place in the list.
    pub(super) fn controllers(&self) -> Vec<(ControllerKind, u32, &Instance)> {
        let ide = self.of_type(resource_type::IDE).filter_map(|controller| {
            Some((
                ControllerKind::Ide,
                controller.get("Address").as_u32()?,
                controller,
            ))
        });
        let scsi = self.of_type(resource_type::SCSI).zip(0_u32..);
        let mut all: Vec<_> = ide
            .chain(scsi.map(|(controller, n)| (ControllerKind::Scsi, n, controller)))
            .collect();
        all.sort_by_key(|(kind, number, _)| (*kind == ControllerKind::Scsi, *number));
        all
    }

    /// Returns the drives that hang on a controller, in order of controller and slot.
    pub(super) fn drives(&self) -> Vec<DriveParts<'_>> {
        let controllers: HashMap<String, (ControllerKind, u32)> = self
            .controllers()
            .into_iter()
            .map(|(kind, number, part)| (id_key(part), (kind, number)))
            .collect();
        let mut media: HashMap<String, &Instance> = HashMap::new();
        for part in self.of_type(resource_type::MEDIA) {
            if let Some(parent) = path_key(part.get("Parent"), "InstanceID") {
                media.insert(parent, part);
            }
        }
        let drives = self
            .of_type(resource_type::DISK_DRIVE)
            .chain(self.of_type(resource_type::DVD_DRIVE));
        let mut all: Vec<_> = drives
            .filter_map(|drive| {
                let parent = path_key(drive.get("Parent"), "InstanceID")?;
                let &(kind, controller) = controllers.get(&parent)?;
                let slot = Slot {
                    kind,
                    controller,
                    slot: drive.get("AddressOnParent").as_u32()?,
                };
                Some(DriveParts {
                    slot,
                    drive,
                    media: media.get(&id_key(drive)).copied(),
                })
            })
            .collect();
        all.sort_by_key(|drive| drive.slot);
        all
    }

    /// Returns the adapters: synthetic ones first, then emulated ones, each in the host's order.
    pub(super) fn nics(&self) -> Vec<NicParts<'_>> {
        let mut connections: HashMap<String, &Instance> = HashMap::new();
        for part in self.of_type(resource_type::NIC_CONNECTION) {
            if let Some(parent) = path_key(part.get("Parent"), "InstanceID") {
                connections.insert(parent, part);
            }
        }
        let mut all: Vec<_> = self
            .of_type(resource_type::NIC)
            .map(|nic| {
                let connection = connections.get(&id_key(nic)).copied();
                NicParts {
                    nic,
                    connection,
                    vlan: connection.and_then(|connection| self.vlan_of(connection)),
                }
            })
            .collect();
        all.sort_by_key(|parts| is_legacy(parts.nic));
        all
    }

    /// [U] The settings of a port's VLAN belong to its connection (`Msvm_EthernetPortSettingDataComponent`); that their
    /// InstanceID begins with the connection's, as that of every part begins with its owner's, was not seen.
    fn vlan_of(&self, connection: &Instance) -> Option<&Instance> {
        let owner = format!("{}\\", id_key(connection));
        self.parts.iter().find(|part| {
            part.class.eq_ignore_ascii_case(objects::VLAN) && id_key(part).starts_with(&owner)
        })
    }

    pub(super) fn first_of_class(&self, class: &str) -> Option<&Instance> {
        self.parts
            .iter()
            .find(|part| part.class.eq_ignore_ascii_case(class))
    }
}

/// Whether an adapter is the emulated kind.
pub(super) fn is_legacy(nic: &Instance) -> bool {
    nic.class.eq_ignore_ascii_case(objects::LEGACY_NIC)
        || nic
            .text("ResourceSubType")
            .is_some_and(|sub| sub.eq_ignore_ascii_case(objects::SUBTYPE_LEGACY_NIC))
}

/// Whether a part has this subtype.
pub(super) fn has_subtype(part: &Instance, subtype: &str) -> bool {
    part.text("ResourceSubType")
        .is_some_and(|found| found.eq_ignore_ascii_case(subtype))
}

/// The file of a disk or ISO.
pub(super) fn media_path(media: &Instance) -> Option<&str> {
    media
        .items("HostResource")
        .first()
        .and_then(Value::as_text)
        .filter(|path| !path.is_empty())
}

/// Whether a path is that of a VHD set.
pub(super) fn is_vhd_set(path: &str) -> bool {
    path.to_lowercase().ends_with(".vhds")
}

/// The file of a virtual hard disk; `None` for other media.
pub(super) fn disk_path(media: &Instance) -> Option<&str> {
    media_path(media).filter(|_| has_subtype(media, objects::SUBTYPE_DISK))
}
