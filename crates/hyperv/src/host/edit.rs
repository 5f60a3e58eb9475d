//! Changes of a VM's parts: controllers, drives, disks, adapters. Realised and planned VMs alike.

use model::{ControllerKind, Nic, SwitchRef};
use wsman::{Instance, Properties, Value};

use super::components::{Components, disk_path};
use super::objects::{self, by_instance_id, id_key, resource_type};
use super::{Host, Slot};
use crate::{Error, ErrorKind};

/// Most SCSI controllers of a VM.
const MAX_SCSI_CONTROLLERS: usize = 4;

impl Host {
    /// Adds parts to settings that had the parts `before`. What they became is read from the settings again, as a job
    /// names no results; where the answer is lost, new parts of the same types are the proof that it was done.
    pub(super) async fn add_parts(
        &self,
        settings: &str,
        before: &Components,
        parts: &[Instance],
    ) -> Result<(), Error> {
        let parameters = Properties::new()
            .with(
                "AffectedConfiguration",
                by_instance_id(objects::SETTINGS, settings),
            )
            .with(
                "ResourceSettings",
                parts.iter().map(Value::embedded).collect::<Vec<_>>(),
            );
        let error = match self
            .call(objects::MANAGEMENT, "AddResourceSettings", parameters)
            .await
        {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => self.wait_quiet(error).await,
            result => return result.map(drop),
        };
        let settings = Instance::new(objects::SETTINGS).with("InstanceID", settings);
        let after = self.components(&settings).await?;
        let types: Vec<_> = parts.iter().map(|part| part.u16("ResourceType")).collect();
        let added = after.parts.iter().filter(|part| {
            types.contains(&part.u16("ResourceType"))
                && !before.parts.iter().any(|old| id_key(old) == id_key(part))
        });
        if added.count() >= parts.len() {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Changes parts: each holds its InstanceID and what is to change.
    pub(super) async fn modify_parts(&self, parts: &[Instance]) -> Result<(), Error> {
        if parts.is_empty() {
            return Ok(());
        }
        let texts = parts.iter().map(Value::embedded).collect::<Vec<_>>();
        let parameters = Properties::new().with("ResourceSettings", texts);
        self.call_setting("ModifyResourceSettings", parameters)
            .await
    }

    /// Removes parts; ones that are gone when the answer was lost were removed.
    pub(super) async fn remove_parts(&self, parts: &[&Instance]) -> Result<(), Error> {
        if parts.is_empty() {
            return Ok(());
        }
        let references = parts
            .iter()
            .map(|part| Value::Epr(reference(part)))
            .collect::<Vec<_>>();
        let parameters = Properties::new().with("ResourceSettings", references);
        let error = match self
            .call(objects::MANAGEMENT, "RemoveResourceSettings", parameters)
            .await
        {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => self.wait_quiet(error).await,
            result => return result.map(drop),
        };
        for part in parts {
            match self.session.get(&reference(part)).await {
                Ok(_) => return Err(error),
                Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Adds SCSI controllers until there are `count`.
    pub(super) async fn ensure_scsi_controllers(
        &self,
        settings: &Instance,
        count: usize,
    ) -> Result<(), Error> {
        if count > MAX_SCSI_CONTROLLERS {
            let what = format!(
                "the VM needs {count} SCSI controllers; Hyper-V allows {MAX_SCSI_CONTROLLERS}"
            );
            return Err(Error::Refused { what });
        }
        // One call each: the place in the list, which is a controller's number, follows from the order of calls.
        loop {
            let parts = self.components(settings).await?;
            if parts.of_type(resource_type::SCSI).count() >= count {
                return Ok(());
            }
            let controller = Instance::new(objects::RESOURCE)
                .with("ResourceType", resource_type::SCSI)
                .with("ResourceSubType", objects::SUBTYPE_SCSI);
            self.add_parts(
                settings.text("InstanceID").unwrap_or_default(),
                &parts,
                &[controller],
            )
            .await?;
        }
    }

    /// Makes sure that a slot holds this file: the drive is added where it is missing, the file added or replaced.
    pub(super) async fn put_disk(
        &self,
        settings: &Instance,
        slot: Slot,
        path: &str,
    ) -> Result<(), Error> {
        let id = settings.text("InstanceID").unwrap_or_default();
        let host = self.host_name().await?;
        let parts = self.components(settings).await?;
        let existing = parts.drives().into_iter().find(|drive| drive.slot == slot);
        if let Some(media) = existing.as_ref().and_then(|drive| drive.media) {
            let Some(current) = disk_path(media) else {
                return Err(Error::Refused {
                    what: format!("{slot} holds something else than a virtual hard disk"),
                });
            };
            if current == path {
                return Ok(());
            }
            let change = change_of(media).with("HostResource", Value::texts([path]));
            return self.modify_parts(&[change]).await;
        }
        let (drive_id, added) = match existing {
            Some(drive) => (
                drive
                    .drive
                    .text("InstanceID")
                    .unwrap_or_default()
                    .to_owned(),
                false,
            ),
            None => (self.add_drive(id, &host, &parts, slot, false).await?, true),
        };
        let drive_path = objects::path_text(&host, &by_instance_id(objects::RESOURCE, &drive_id));
        let media = Instance::new(objects::STORAGE)
            .with("ResourceType", resource_type::MEDIA)
            .with("ResourceSubType", objects::SUBTYPE_DISK)
            .with("Parent", drive_path)
            .with("HostResource", Value::texts([path]));
        let result = self.add_parts(id, &parts, &[media]).await;
        let failed = result
            .as_ref()
            .is_err_and(|error| error.kind() != ErrorKind::ResultUnknown);
        if failed && added {
            // An empty drive of ours is worth nothing.
            let drive = Instance::new(objects::RESOURCE).with("InstanceID", drive_id);
            if let Err(error) = self.remove_parts(&[&drive]).await {
                tracing::warn!("failed to remove the empty drive at {slot} again: {error}");
            }
        }
        result
    }

    /// Makes sure that a slot holds an empty DVD drive or one with this ISO.
    pub(super) async fn put_dvd(
        &self,
        settings: &Instance,
        slot: Slot,
        iso: Option<&str>,
    ) -> Result<(), Error> {
        let id = settings.text("InstanceID").unwrap_or_default();
        let host = self.host_name().await?;
        let parts = self.components(settings).await?;
        let existing = parts.drives().into_iter().find(|drive| drive.slot == slot);
        if existing.as_ref().is_some_and(|drive| drive.media.is_some()) {
            return Ok(());
        }
        let drive_id = match existing {
            Some(drive) => drive
                .drive
                .text("InstanceID")
                .unwrap_or_default()
                .to_owned(),
            None => self.add_drive(id, &host, &parts, slot, true).await?,
        };
        let Some(iso) = iso else { return Ok(()) };
        let media = Instance::new(objects::STORAGE)
            .with("ResourceType", resource_type::MEDIA)
            .with("ResourceSubType", objects::SUBTYPE_ISO)
            .with(
                "Parent",
                objects::path_text(&host, &by_instance_id(objects::RESOURCE, &drive_id)),
            )
            .with("HostResource", Value::texts([iso]));
        self.add_parts(id, &parts, &[media]).await
    }

    /// Adds a drive and returns its InstanceID.
    async fn add_drive(
        &self,
        settings: &str,
        host: &str,
        parts: &Components,
        slot: Slot,
        dvd: bool,
    ) -> Result<String, Error> {
        let controllers = parts.controllers();
        let controller = controllers
            .iter()
            .find(|(kind, number, _)| (*kind, *number) == (slot.kind, slot.controller));
        let Some((_, _, controller)) = controller else {
            return Err(Error::NotFound {
                what: format!("the controller of {slot}"),
            });
        };
        let controller = objects::path_text(host, &reference(controller));
        let (kind, subtype) = if dvd {
            (resource_type::DVD_DRIVE, objects::SUBTYPE_DVD_DRIVE)
        } else {
            (resource_type::DISK_DRIVE, objects::SUBTYPE_DISK_DRIVE)
        };
        let drive = Instance::new(objects::RESOURCE)
            .with("ResourceType", kind)
            .with("ResourceSubType", subtype)
            .with("Parent", controller)
            .with("AddressOnParent", slot.slot.to_string());
        self.add_parts(settings, parts, &[drive]).await?;
        let settings = Instance::new(objects::SETTINGS).with("InstanceID", settings);
        let parts = self.components(&settings).await?;
        let added = parts.drives().into_iter().find(|drive| drive.slot == slot);
        let id = added
            .and_then(|drive| drive.drive.text("InstanceID"))
            .map(str::to_owned);
        id.ok_or_else(|| Error::Nonsense {
            doing: "AddResourceSettings".into(),
            what: format!("it succeeded, but there is no drive at {slot}"),
        })
    }

    /// Removes what a slot holds and the drive itself.
    pub(super) async fn clear_slot(&self, parts: &Components, slot: Slot) -> Result<(), Error> {
        let Some(drive) = parts.drives().into_iter().find(|drive| drive.slot == slot) else {
            return Ok(());
        };
        if let Some(media) = drive.media {
            self.remove_parts(&[media]).await?;
        }
        self.remove_parts(&[drive.drive]).await
    }

    /// Connects an adapter to a switch, or disconnects it.
    pub(super) async fn connect_nic(
        &self,
        settings: &Instance,
        nic: &Instance,
        connection: Option<&Instance>,
        switch: Option<&SwitchRef>,
    ) -> Result<(), Error> {
        let host = self.host_name().await?;
        let target = switch.map(|switch| objects::switch_path(&host, &switch.id));
        match (connection, target) {
            (None, None) => Ok(()),
            // A connection to a switch that is missing would make validation fail, so it is removed, not switched off.
            (Some(connection), None) => self.remove_parts(&[connection]).await,
            (Some(connection), Some(target)) => {
                let change = change_of(connection)
                    .with("HostResource", Value::texts([target]))
                    .with("EnabledState", 2_u16);
                self.modify_parts(&[change]).await
            }
            (None, Some(target)) => {
                let connection = Instance::new(objects::NIC_CONNECTION)
                    .with("ResourceType", resource_type::NIC_CONNECTION)
                    .with("ResourceSubType", objects::SUBTYPE_NIC_CONNECTION)
                    .with("Parent", objects::path_text(&host, &reference(nic)))
                    .with("HostResource", Value::texts([target]))
                    .with("EnabledState", 2_u16);
                let before = self.components(settings).await?;
                self.add_parts(
                    settings.text("InstanceID").unwrap_or_default(),
                    &before,
                    &[connection],
                )
                .await
            }
        }
    }

    /// Adds an adapter, with its connection.
    pub(super) async fn add_nic(&self, settings: &Instance, wanted: &Nic) -> Result<(), Error> {
        let id = settings.text("InstanceID").unwrap_or_default();
        let parts_before = self.components(settings).await?;
        let before: Vec<String> = parts_before
            .nics()
            .iter()
            .map(|nic| id_key(nic.nic))
            .collect();
        let (class, subtype) = if wanted.legacy {
            (objects::LEGACY_NIC, objects::SUBTYPE_LEGACY_NIC)
        } else {
            (objects::NIC, objects::SUBTYPE_NIC)
        };
        let nic = Instance::new(class)
            .with("ResourceType", resource_type::NIC)
            .with("ResourceSubType", subtype)
            .with("ElementName", wanted.name.as_str());
        self.add_parts(id, &parts_before, &[with_mac(nic, wanted)])
            .await?;
        if wanted.switch.is_none() {
            return Ok(());
        }
        let parts = self.components(settings).await?;
        let nics = parts.nics();
        let added = nics.iter().find(|nic| !before.contains(&id_key(nic.nic)));
        let added = added.ok_or_else(|| Error::Nonsense {
            doing: "AddResourceSettings".into(),
            what: "it succeeded, but there is no new network adapter".into(),
        })?;
        self.connect_nic(settings, added.nic, None, wanted.switch.as_ref())
            .await?;
        if let Some(vlan) = wanted.vlan {
            let added = id_key(added.nic);
            // The adapter works without; which VLAN a switch on this host wants is its administrator's to know.
            if let Err(error) = self.set_vlan(settings, &added, vlan).await {
                tracing::warn!(
                    "failed to set VLAN {vlan} of adapter {:?}; set it by hand: {error}",
                    wanted.name
                );
            }
        }
        Ok(())
    }

    /// [U] Makes the port of an adapter an access port of a VLAN. Names stand in public documentation but were not seen on
    /// a real host.
    async fn set_vlan(&self, settings: &Instance, nic: &str, vlan: u16) -> Result<(), Error> {
        let parts = self.components(settings).await?;
        let nics = parts.nics();
        let found = nics.iter().find(|found| id_key(found.nic) == nic);
        let connection = found.and_then(|found| found.connection);
        let connection = connection.ok_or_else(|| Error::NotFound {
            what: "the connection of the new network adapter".into(),
        })?;
        let feature = Instance::new(objects::VLAN)
            .with("OperationMode", 1_u32)
            .with("AccessVlanId", vlan);
        let parameters = Properties::new()
            .with("AffectedConfiguration", reference(connection))
            .with("FeatureSettings", vec![Value::embedded(&feature)]);
        self.call(objects::MANAGEMENT, "AddFeatureSettings", parameters)
            .await
            .map(drop)
    }
}

/// Sets the address: the one given, or a new one by the host.
pub(super) fn with_mac(nic: Instance, wanted: &Nic) -> Instance {
    match &wanted.mac {
        Some(mac) if wanted.static_mac => nic
            .with("StaticMacAddress", true)
            .with("Address", mac.as_str()),
        // A dynamic address of the past may by now belong to another VM: the host gives one of its own pool.
        Some(_) | None => nic
            .with("StaticMacAddress", false)
            .with("Address", "000000000000"),
    }
}

/// An instance that changes a part: class and InstanceID only.
pub(super) fn change_of(part: &Instance) -> Instance {
    Instance::new(part.class.as_str())
        .with("InstanceID", part.text("InstanceID").unwrap_or_default())
}

/// A reference to a part.
pub(super) fn reference(part: &Instance) -> wsman::Epr {
    by_instance_id(&part.class, part.text("InstanceID").unwrap_or_default())
}

/// Returns the first free slot, SCSI before IDE; IDE only where the VM is off.
pub(super) fn free_slot(parts: &Components, off: bool) -> Option<Slot> {
    let taken: Vec<Slot> = parts.drives().iter().map(|drive| drive.slot).collect();
    let mut controllers = parts.controllers();
    controllers.sort_by_key(|(kind, number, _)| (*kind == ControllerKind::Ide, *number));
    controllers
        .into_iter()
        .filter(|(kind, _, _)| off || *kind == ControllerKind::Scsi)
        .flat_map(|(kind, controller, _)| {
            (0..Slot::per_controller(kind)).map(move |slot| Slot {
                kind,
                controller,
                slot,
            })
        })
        .find(|slot| !taken.contains(slot))
}
