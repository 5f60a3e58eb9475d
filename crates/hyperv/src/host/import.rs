//! Restore by import: configuration files become a planned VM, which is changed, validated and realised.
//!
//! Each step can be repeated. On any failure before the end the caller destroys the planned VM with
//! [`Host::destroy_planned`]; its disk files stay.

use model::{Media, VmConfig, VmId};
use wsman::{Instance, Properties, Value};

use super::components::{disk_path, media_path};
use super::edit::{change_of, with_mac};
use super::inventory::not_found;
use super::objects::by_instance_id;
use super::vm::{Checkpoint, CheckpointKind, Folders};
use super::{Host, Slot, config, objects};
use crate::{Error, ErrorKind};

/// A VM between import and registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVm {
    /// Its id.
    pub id: VmId,
    /// Its display name.
    pub name: String,
}

impl Host {
    /// Returns all planned VMs of the host, everybody's.
    pub async fn planned_vms(&self) -> Result<Vec<PlannedVm>, Error> {
        let found = self
            .query(&format!("SELECT * FROM {}", objects::PLANNED_VM))
            .await?;
        Ok(found.iter().filter_map(planned).collect())
    }

    /// Imports a configuration file as a planned VM, with the id in the file or a new one.
    ///
    /// If the agent dies in between, the planned VM is recognised by not having been among [`Host::planned_vms`] before.
    pub async fn import_definition(
        &self,
        config_file: &str,
        checkpoint_folder: Option<&str>,
        new_id: bool,
    ) -> Result<PlannedVm, Error> {
        let before = self.planned_vms().await?;
        let parameters = Properties::new()
            .with("SystemDefinitionFile", config_file)
            .with("SnapshotFolder", checkpoint_folder.map(str::to_owned))
            .with("GenerateNewSystemIdentifier", new_id);
        let only_new = async || -> Result<Option<PlannedVm>, Error> {
            let mut new = self.planned_vms().await?;
            new.retain(|vm| !before.iter().any(|old| old.id == vm.id));
            Ok(new.pop().filter(|_| new.is_empty()))
        };
        let done = match self
            .call(objects::MANAGEMENT, "ImportSystemDefinition", parameters)
            .await
        {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                loop {
                    if let Some(made) = only_new().await? {
                        return Ok(made);
                    }
                    lost = self.keep_looking(lost).await?;
                }
            }
            Err(error) if error.code() == Some(crate::error::code::FILE) => {
                let what = format!(
                    "the host cannot import {config_file}: it is missing or in use by a registered VM"
                );
                return Err(Error::Refused { what });
            }
            Err(error) => return Err(error),
        };
        if let Some(vm) = self
            .result_of(&done, "ImportedSystem", objects::PLANNED_VM)
            .await?
            .as_ref()
            .and_then(planned)
        {
            return Ok(vm);
        }
        only_new().await?.ok_or_else(|| Error::Nonsense {
            doing: "ImportSystemDefinition".into(),
            what: "it succeeded, but which planned VM it made cannot be told".into(),
        })
    }

    /// Returns the configuration of a planned VM.
    pub async fn planned_config(&self, id: VmId) -> Result<VmConfig, Error> {
        let settings = self.active_settings(&objects::planned_vm(id)).await?;
        Ok(self.full_config(&settings).await?.0)
    }

    /// Brings the checkpoints of a planned VM in from a folder with their configuration files, and returns those that came.
    /// One whose files are missing cannot be registered and is destroyed again; it is not among them.
    pub async fn import_checkpoints(
        &self,
        id: VmId,
        folder: &str,
    ) -> Result<Vec<Checkpoint>, Error> {
        let parameters = Properties::new()
            .with("PlannedSystem", objects::planned_vm(id))
            .with("SnapshotFolder", folder);
        match self
            .call(objects::MANAGEMENT, "ImportSnapshotDefinitions", parameters)
            .await
        {
            // What came is seen below; asking for the rest again is the caller's step, which can be repeated.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                tracing::warn!("{}", self.wait_quiet(error).await);
            }
            result => result.map(drop)?,
        }
        let mut came = Vec::new();
        for checkpoint in self.checkpoints(id).await? {
            if checkpoint.kind == CheckpointKind::Missing {
                tracing::warn!(
                    "checkpoint {:?} of planned VM {id} has no files and is left out",
                    checkpoint.name
                );
                self.destroy_planned_checkpoint(&checkpoint.id).await?;
            } else {
                came.push(checkpoint);
            }
        }
        Ok(came)
    }

    /// Gives the disks of a planned VM and of its checkpoints other paths: `moved` is asked for each, and `None` leaves it.
    pub async fn move_planned_disks(
        &self,
        id: VmId,
        moved: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Error> {
        for settings in self.settings_of(id).await? {
            let parts = self.components(&settings).await?;
            let changes: Vec<Instance> = parts
                .parts
                .iter()
                .filter_map(|media| {
                    let path = moved(disk_path(media)?)?;
                    Some(change_of(media).with("HostResource", Value::texts([path])))
                })
                .collect();
            self.modify_parts(&changes).await?;
        }
        Ok(())
    }

    async fn destroy_planned_checkpoint(&self, checkpoint: &str) -> Result<(), Error> {
        let parameters = Properties::new().with(
            "AffectedSnapshot",
            by_instance_id(objects::SETTINGS, checkpoint),
        );
        match self
            .call(objects::SNAPSHOTS, "DestroySnapshot", parameters)
            .await
        {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                self.wait_checkpoint_gone(checkpoint, error).await
            }
            result => result.map(drop),
        }
    }

    /// Destroys the checkpoints a planned VM brought along: its disks are restored flat, without them.
    pub async fn drop_planned_checkpoints(&self, id: VmId) -> Result<(), Error> {
        for checkpoint in self.checkpoints(id).await? {
            if matches!(
                checkpoint.kind,
                CheckpointKind::Planned | CheckpointKind::Missing
            ) {
                self.destroy_planned_checkpoint(&checkpoint.id).await?;
            }
        }
        Ok(())
    }

    /// Makes a planned VM what the configuration says: name, folders, disks by slot, adapters by place.
    ///
    /// Slots the configuration does not hold are emptied; an ISO it does not name is taken out. A switch is named by its id
    /// on this host; no switch means disconnected. An adapter without MAC address gets a new one.
    pub async fn change_planned(
        &self,
        id: VmId,
        wanted: &VmConfig,
        folders: &Folders,
    ) -> Result<(), Error> {
        let settings = self.active_settings(&objects::planned_vm(id)).await?;
        let change = placed(&settings, folders).with("ElementName", wanted.name.as_str());
        self.modify_settings(&change).await?;
        self.change_planned_drives(&settings, wanted).await?;
        self.change_planned_nics(&settings, wanted).await
    }

    /// Gives a planned VM its folders and nothing else: it stays as its definition says.
    pub async fn place_planned(&self, id: VmId, folders: &Folders) -> Result<(), Error> {
        let settings = self.active_settings(&objects::planned_vm(id)).await?;
        self.modify_settings(&placed(&settings, folders)).await
    }

    /// Takes disks out of a planned VM; its checkpoints keep theirs. `leaves` is asked for each.
    pub async fn drop_planned_disks(
        &self,
        id: VmId,
        leaves: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        let settings = self.active_settings(&objects::planned_vm(id)).await?;
        let parts = self.components(&settings).await?;
        for drive in parts.drives() {
            if drive.media.and_then(disk_path).is_some_and(&leaves) {
                self.clear_slot(&parts, drive.slot).await?;
            }
        }
        Ok(())
    }

    async fn change_planned_drives(
        &self,
        settings: &Instance,
        wanted: &VmConfig,
    ) -> Result<(), Error> {
        let wanted_media = |slot: Slot| {
            let controller = wanted
                .controllers
                .iter()
                .find(|c| (c.kind, c.number) == (slot.kind, slot.controller))?;
            controller
                .drives
                .iter()
                .find(|drive| drive.slot == slot.slot)
                .map(|drive| &drive.media)
        };
        let parts = self.components(settings).await?;
        let mut changes = Vec::new();
        for drive in parts.drives() {
            let current = drive.media.and_then(media_path);
            match (wanted_media(drive.slot), drive.media) {
                (None, _) | (Some(Media::PassThrough { .. }), _) => {
                    self.clear_slot(&parts, drive.slot).await?;
                }
                (Some(Media::Disk { path } | Media::Iso { path }), Some(media))
                    if current != Some(path.as_str()) =>
                {
                    changes
                        .push(change_of(media).with("HostResource", Value::texts([path.as_str()])));
                }
                (Some(Media::Empty), Some(media)) => self.remove_parts(&[media]).await?,
                (Some(Media::Disk { .. } | Media::Iso { .. } | Media::Empty), _) => {}
            }
        }
        self.modify_parts(&changes).await?;
        // What the file did not know (a disk added since) is added.
        self.ensure_scsi_controllers(settings, config::scsi_controllers(wanted))
            .await?;
        let present = self.components(settings).await?;
        for (controller, drive, path) in wanted.disks() {
            let slot = Slot {
                kind: controller.kind,
                controller: controller.number,
                slot: drive.slot,
            };
            let found = present
                .drives()
                .into_iter()
                .find(|drive| drive.slot == slot);
            if found.and_then(|drive| drive.media).and_then(disk_path) != Some(path) {
                self.put_disk(settings, slot, path).await?;
            }
        }
        Ok(())
    }

    async fn change_planned_nics(
        &self,
        settings: &Instance,
        wanted: &VmConfig,
    ) -> Result<(), Error> {
        let parts = self.components(settings).await?;
        let present = parts.nics();
        let mut changes = Vec::new();
        for (index, nic) in present.iter().enumerate() {
            let Some(wish) = wanted.nics.get(index) else {
                if let Some(connection) = nic.connection {
                    self.remove_parts(&[connection]).await?;
                }
                self.remove_parts(&[nic.nic]).await?;
                continue;
            };
            let mac = nic.nic.text("Address").unwrap_or_default();
            if !wish
                .mac
                .as_deref()
                .is_some_and(|wish| wish.eq_ignore_ascii_case(mac))
            {
                changes.push(with_mac(change_of(nic.nic), wish));
            }
            self.connect_nic(settings, nic.nic, nic.connection, wish.switch.as_ref())
                .await?;
        }
        self.modify_parts(&changes).await?;
        for wish in wanted.nics.iter().skip(present.len()) {
            self.add_nic(settings, wish).await?;
        }
        Ok(())
    }

    /// Lets the host check a planned VM; the error holds everything it found wrong.
    pub async fn validate_planned(&self, id: VmId) -> Result<(), Error> {
        // [U] The parameter's name stands in public documentation but was not seen on a real host.
        let parameters = Properties::new().with("PlannedSystem", objects::planned_vm(id));
        // It changes nothing: where the answer is lost, it is asked again.
        self.call_setting("ValidatePlannedSystem", parameters).await
    }

    /// Registers a planned VM and returns the id it has now.
    pub async fn realize_planned(&self, id: VmId) -> Result<VmId, Error> {
        let realised = async || match self.system(id).await {
            Ok(_) => Ok(Some(id)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let planned_left = self.session.get(&objects::planned_vm(id)).await;
        if let Err(error) = planned_left {
            // It may have been done by an attempt whose answer was lost.
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            return realised().await?.ok_or_else(|| not_found(id));
        }
        let done = match self.call_realize(id).await {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                loop {
                    if let Some(id) = realised().await? {
                        return Ok(id);
                    }
                    lost = self.keep_looking(lost).await?;
                }
            }
            Err(error) => return Err(error),
        };
        let made = self
            .result_of(&done, "ResultingSystem", objects::VM)
            .await?;
        match made.as_ref().and_then(planned) {
            Some(vm) => Ok(vm.id),
            None => realised().await?.ok_or_else(|| not_found(id)),
        }
    }

    /// [U] The parameter's name stands in public documentation but was not seen on a real host.
    async fn call_realize(&self, id: VmId) -> Result<super::jobs::Done, Error> {
        let parameters = Properties::new().with("PlannedSystem", objects::planned_vm(id));
        self.call(objects::MANAGEMENT, "RealizePlannedSystem", parameters)
            .await
    }

    /// Destroys a planned VM; one that is gone is no error. Its disk files stay.
    pub async fn destroy_planned(&self, id: VmId) -> Result<(), Error> {
        self.destroy_system(objects::planned_vm(id)).await
    }
}

/// Returns a change of settings to these folders; an empty one stays as it is.
fn placed(settings: &Instance, folders: &Folders) -> Instance {
    let mut change = change_of(settings);
    for (name, folder) in [
        ("ConfigurationDataRoot", &folders.config),
        ("SnapshotDataRoot", &folders.checkpoints),
        ("SuspendDataRoot", &folders.saved_state),
        ("SwapFileDataRoot", &folders.swap),
    ] {
        if !folder.is_empty() {
            change.set(name, folder.as_str());
        }
    }
    change
}

fn planned(system: &Instance) -> Option<PlannedVm> {
    let id = system.text("Name")?.parse().ok()?;
    Some(PlannedVm {
        id,
        name: system.text("ElementName").unwrap_or_default().to_owned(),
    })
}
