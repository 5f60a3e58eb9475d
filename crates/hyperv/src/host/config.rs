//! Settings objects read as a [`VmConfig`].

use model::{
    Controller, ControllerKind, Drive, Generation, Media, Memory, Nic, SwitchRef, VmConfig, VmId,
};
use wsman::Instance;

use super::components::{Components, NicParts, disk_path, has_subtype, is_legacy, media_path};
use super::objects::{self, path_key, resource_type};
use crate::Error;

/// Reads settings and their parts, without the boot entries: those need further requests.
pub(super) fn read(
    settings: &Instance,
    parts: &Components,
    switches: &[SwitchRef],
) -> Result<VmConfig, Error> {
    let id = vm_id(settings)?;
    let memory = parts.of_type(resource_type::MEMORY).next();
    let mib = |name: &str| memory.and_then(|memory| memory.u64(name)).unwrap_or(0);
    let texts = |name: &str| {
        settings
            .texts(name)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let text = |name: &str| {
        settings
            .text(name)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    Ok(VmConfig {
        id,
        name: settings.text("ElementName").unwrap_or_default().to_owned(),
        generation: generation(settings),
        version: settings.text("Version").unwrap_or_default().to_owned(),
        notes: texts("Notes"),
        processors: parts
            .of_type(resource_type::PROCESSOR)
            .next()
            .and_then(|p| p.u64("VirtualQuantity"))
            .unwrap_or(1),
        memory: Memory {
            startup_mib: mib("VirtualQuantity"),
            dynamic: memory
                .and_then(|memory| memory.bool("DynamicMemoryEnabled"))
                .unwrap_or(false),
            minimum_mib: mib("Reservation"),
            maximum_mib: mib("Limit"),
        },
        secure_boot: settings.bool("SecureBootEnabled"),
        secure_boot_template: text("SecureBootTemplateId"),
        automatic_start: settings.u16("AutomaticStartupAction"),
        automatic_stop: settings.u16("AutomaticShutdownAction"),
        boot_order: settings
            .items("BootOrder")
            .iter()
            .filter_map(wsman::Value::as_u16)
            .collect(),
        boot_entries: Vec::new(),
        config_root: text("ConfigurationDataRoot"),
        snapshot_root: text("SnapshotDataRoot"),
        controllers: controllers(parts),
        nics: parts
            .nics()
            .iter()
            .map(|nic| read_nic(nic, switches))
            .collect(),
    })
}

/// The VM that settings belong to.
pub(super) fn vm_id(settings: &Instance) -> Result<VmId, Error> {
    let text = settings.text("VirtualSystemIdentifier").unwrap_or_default();
    text.parse().map_err(|_| Error::Nonsense {
        doing: format!("query for {}", objects::SETTINGS),
        what: format!("VirtualSystemIdentifier {text:?} is no GUID"),
    })
}

fn generation(settings: &Instance) -> Generation {
    match settings.text("VirtualSystemSubType") {
        Some(sub) if sub.ends_with(":2") => Generation::Gen2,
        _ => Generation::Gen1,
    }
}

fn controllers(parts: &Components) -> Vec<Controller> {
    let mut all: Vec<Controller> = parts
        .controllers()
        .into_iter()
        .map(|(kind, number, _)| Controller {
            kind,
            number,
            drives: Vec::new(),
        })
        .collect();
    for drive in parts.drives() {
        let slot = drive.slot;
        let Some(controller) = all
            .iter_mut()
            .find(|c| (c.kind, c.number) == (slot.kind, slot.controller))
        else {
            continue;
        };
        let attachment = drive
            .media
            .and_then(|media| media.text("InstanceID"))
            .unwrap_or_default()
            .to_owned();
        let media = if has_subtype(drive.drive, objects::SUBTYPE_PASS_THROUGH) {
            Media::PassThrough {
                path: media_path(drive.drive).unwrap_or_default().to_owned(),
            }
        } else {
            match drive.media {
                Some(media) => match (disk_path(media), media_path(media)) {
                    (Some(path), _) => Media::Disk {
                        path: path.to_owned(),
                    },
                    (None, Some(path))
                        if has_subtype(media, objects::SUBTYPE_ISO) && !is_drive(path) =>
                    {
                        Media::Iso {
                            path: path.to_owned(),
                        }
                    }
                    (None, _) => Media::Empty,
                },
                None => Media::Empty,
            }
        };
        controller.drives.push(Drive {
            slot: slot.slot,
            attachment,
            media,
        });
    }
    // Generation 1 VMs always have both IDE controllers; what matters is only that none is listed twice.
    all.dedup_by_key(|controller| (controller.kind, controller.number));
    all
}

/// Whether the "file" of a CD is a drive of the host: that is no part of the VM, and its own drive reads as empty.
fn is_drive(path: &str) -> bool {
    path.to_lowercase().contains(":win32_cdromdrive.")
}

fn read_nic(parts: &NicParts<'_>, switches: &[SwitchRef]) -> Nic {
    let nic = parts.nic;
    let mac = nic
        .text("Address")
        .map(|text| text.replace([':', '-'], "").to_uppercase());
    let mac = mac.filter(|mac| {
        mac.len() == 12 && mac.bytes().all(|b| b.is_ascii_hexdigit()) && mac != "000000000000"
    });
    Nic {
        name: nic.text("ElementName").unwrap_or_default().to_owned(),
        mac,
        static_mac: nic.bool("StaticMacAddress").unwrap_or(false),
        legacy: is_legacy(nic),
        switch: parts
            .connection
            .and_then(|connection| connected_switch(connection, switches)),
        vlan: parts.vlan.and_then(access_vlan),
    }
}

/// The VLAN of a port in access mode (1); other modes are named as unsupported.
fn access_vlan(vlan: &Instance) -> Option<u16> {
    let id = vlan.u16("AccessVlanId").filter(|&id| id != 0)?;
    (vlan.u32("OperationMode") == Some(1)).then_some(id)
}

/// The switch of a connection; `None` where it is switched off or leads nowhere.
fn connected_switch(connection: &Instance, switches: &[SwitchRef]) -> Option<SwitchRef> {
    if connection.u16("EnabledState") == Some(3) {
        return None;
    }
    let id = path_key(connection.get("HostResource"), "Name")?;
    let known = switches
        .iter()
        .find(|switch| switch.id.eq_ignore_ascii_case(&id));
    // A switch that is gone still has a name the connection remembers.
    let remembered = || SwitchRef {
        id: id.to_uppercase(),
        name: connection
            .text("LastKnownSwitchName")
            .unwrap_or_default()
            .to_owned(),
    };
    Some(known.cloned().unwrap_or_else(remembered))
}

/// Numbers of SCSI controllers a configuration needs.
pub(super) fn scsi_controllers(config: &VmConfig) -> usize {
    let highest = config
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Scsi)
        .map(|c| c.number)
        .max();
    highest.map_or(0, |number| {
        usize::try_from(number)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    })
}

#[cfg(test)]
mod tests {
    use model::Media;
    use wsman::Value;

    use super::*;

    const VM: &str = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D";

    fn part(class: &str, id: &str, resource_type: u16, subtype: &str) -> Instance {
        Instance::new(class)
            .with("InstanceID", format!(r"Microsoft:{VM}\{id}"))
            .with("ResourceType", resource_type.to_string())
            .with("ResourceSubType", subtype)
    }

    /// A path as another property of the same host may write it.
    fn path(id: &str) -> String {
        let id = format!(r"microsoft:{VM}\{id}")
            .to_lowercase()
            .replace('\\', r"\\");
        format!(
            r#"\\hv01\Root\Virtualization\V2:Msvm_ResourceAllocationSettingData.InstanceID="{id}""#
        )
    }

    fn drive(slot: u32, subtype: &str) -> Instance {
        let id = format!(r"C\0\{slot}\D");
        part(objects::RESOURCE, &id, resource_type::DISK_DRIVE, subtype)
            .with("Parent", path("C"))
            .with("AddressOnParent", slot.to_string())
    }

    fn media(slot: u32, subtype: &str, file: &str) -> Instance {
        let id = format!(r"C\0\{slot}\L");
        part(objects::STORAGE, &id, resource_type::MEDIA, subtype)
            .with("Parent", path(&format!(r"C\0\{slot}\D")))
            .with("HostResource", Value::texts([file]))
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let settings = Instance::new(objects::SETTINGS)
            .with("VirtualSystemIdentifier", VM)
            .with("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2");
        let switch = r#"\\HV01\root\virtualization\v2:Msvm_VirtualEthernetSwitch.CreationClassName="Msvm_VirtualEthernetSwitch",Name="abc-1""#;
        let nic = |id: &str| {
            part(objects::NIC, id, resource_type::NIC, objects::SUBTYPE_NIC)
                .with("Address", "00155D000001")
        };
        let connection = |id: &str, state: u16| {
            part(
                objects::NIC_CONNECTION,
                &format!(r"{id}\C"),
                resource_type::NIC_CONNECTION,
                objects::SUBTYPE_NIC_CONNECTION,
            )
            .with("Parent", path(id))
            .with("HostResource", Value::texts([switch]))
            .with("EnabledState", state)
            .with("LastKnownSwitchName", "gone")
        };
        let vlan = |nic: &str, mode: u32, id: u16| {
            part(objects::VLAN, &format!(r"{nic}\C\V"), 0, "")
                .with("OperationMode", mode)
                .with("AccessVlanId", id)
        };
        let parts = vec![
            part(
                objects::RESOURCE,
                "C",
                resource_type::SCSI,
                objects::SUBTYPE_SCSI,
            ),
            media(3, objects::SUBTYPE_ISO, r"C:\setup.iso"),
            media(0, objects::SUBTYPE_DISK, r"C:\shared.VHDS"),
            drive(3, objects::SUBTYPE_DVD_DRIVE).with("ResourceType", resource_type::DVD_DRIVE),
            drive(1, objects::SUBTYPE_PASS_THROUGH).with("HostResource", Value::texts(["disk 7"])),
            drive(0, objects::SUBTYPE_DISK_DRIVE),
            drive(2, objects::SUBTYPE_DISK_DRIVE),
            media(2, objects::SUBTYPE_DISK, r"C:\b.vhdx")
                .with("PersistentReservationsSupported", "True"),
            nic("N1"),
            nic("N2"),
            nic("N3").with("Address", "000000000000"),
            connection("N1", 2),
            connection("N2", 3),
            part(
                objects::FIBRE_CHANNEL,
                "F",
                resource_type::FIBRE_CHANNEL,
                "",
            ),
            part(
                objects::STORAGE,
                "F1",
                resource_type::MEDIA,
                objects::SUBTYPE_FLOPPY,
            )
            .with("HostResource", Value::texts([r"C:\boot.vfd"])),
            Instance::new(objects::SECURITY)
                .with("TpmEnabled", "true")
                .with("ShieldingRequested", "TRUE"),
            vlan("N1", 1, 42),
            vlan("N2", 2, 43),
        ];
        let known = [SwitchRef {
            id: "ABC-1".into(),
            name: "LAN".into(),
        }];
        let parts = Components { parts };
        let read_with = |switches: &[SwitchRef]| read(&settings, &parts, switches).unwrap();
        let config = read_with(&known);
        let unsupported = crate::host::unsupported::of_parts(&parts);
        let codes: Vec<&str> = unsupported
            .iter()
            .map(|found| found.code.as_str())
            .collect();
        assert_eq!(
            codes,
            [
                "vhd-set",
                "pass-through",
                "shared-disk",
                "floppy",
                "vtpm",
                "shielded",
                "fibre-channel",
                "vlan-mode"
            ]
        );
        let media: Vec<&Media> = config.controllers[0]
            .drives
            .iter()
            .map(|drive| &drive.media)
            .collect();
        let disk = |path: &str| Media::Disk { path: path.into() };
        assert_eq!(
            media,
            [
                &disk(r"C:\shared.VHDS"),
                &Media::PassThrough {
                    path: "disk 7".into()
                },
                &disk(r"C:\b.vhdx"),
                &Media::Iso {
                    path: r"C:\setup.iso".into()
                },
            ]
        );
        let switches = |config: &VmConfig| -> Vec<Option<String>> {
            config
                .nics
                .iter()
                .map(|nic| nic.switch.as_ref().map(|switch| switch.name.clone()))
                .collect()
        };
        assert_eq!(switches(&config), [Some("LAN".into()), None, None]);
        // A switch that is gone is called by the name the connection remembers.
        assert_eq!(switches(&read_with(&[])), [Some("gone".into()), None, None]);
        let vlans: Vec<Option<u16>> = config.nics.iter().map(|nic| nic.vlan).collect();
        assert_eq!(vlans, [Some(42), None, None]);
        assert_eq!(
            (config.nics[0].mac.as_deref(), config.nics[2].mac.as_deref()),
            (Some("00155D000001"), None)
        );
    }
}
