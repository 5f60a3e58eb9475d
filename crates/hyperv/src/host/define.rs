//! Restore by definition (a VM with a new id made from a configuration), and single disks of existing VMs.

use model::{Generation, Media, VmConfig, VmId};
use wsman::{Instance, Properties, Value};

use super::boot::has_boot_order;
use super::components::disk_path;
use super::edit::{change_of, free_slot};
use super::objects::resource_type;
use super::vm::{CheckpointKind, Folders};
use super::vm_objects::power_state;
use super::{Host, Slot, config, objects};
use crate::{Error, ErrorKind};

impl Host {
    /// Makes a VM with a new id from a configuration. Disk paths, switches (by their id on this host) and the name are
    /// taken as they stand; pass-through disks are left out. On failure the VM is destroyed again, its disk files stay.
    pub async fn define_vm(&self, wanted: &VmConfig, folders: &Folders) -> Result<VmId, Error> {
        let id = self.define_empty(wanted, folders).await?;
        match self.furnish(id, wanted).await {
            Ok(()) => Ok(id),
            Err(error) => {
                if let Err(second) = self.destroy_vm(id).await {
                    tracing::warn!("failed to destroy the unfinished VM {id}: {second}");
                }
                Err(error)
            }
        }
    }

    async fn define_empty(&self, wanted: &VmConfig, folders: &Folders) -> Result<VmId, Error> {
        let subtype = match wanted.generation {
            Generation::Gen1 => "Microsoft:Hyper-V:SubType:1",
            Generation::Gen2 => "Microsoft:Hyper-V:SubType:2",
        };
        // Without a version the host takes its newest, which it can always run.
        let mut settings = Instance::new(objects::SETTINGS)
            .with("ElementName", wanted.name.as_str())
            .with("VirtualSystemSubType", subtype);
        if !wanted.notes.is_empty() {
            settings.set(
                "Notes",
                Value::texts(wanted.notes.iter().map(String::as_str)),
            );
        }
        for (name, value) in [
            ("AutomaticStartupAction", wanted.automatic_start),
            ("AutomaticShutdownAction", wanted.automatic_stop),
        ] {
            if let Some(value) = value {
                settings.set(name, value);
            }
        }
        if wanted.generation == Generation::Gen2 {
            if let Some(on) = wanted.secure_boot {
                settings.set("SecureBootEnabled", on);
            }
            if let Some(template) = &wanted.secure_boot_template {
                settings.set("SecureBootTemplateId", template.as_str());
            }
        }
        for (name, folder) in [
            ("ConfigurationDataRoot", &folders.config),
            ("SnapshotDataRoot", &folders.checkpoints),
            ("SuspendDataRoot", &folders.saved_state),
            ("SwapFileDataRoot", &folders.swap),
        ] {
            if !folder.is_empty() {
                settings.set(name, folder.as_str());
            }
        }
        let before = self.vm_names().await?;
        let only_new = async || -> Result<Option<VmId>, Error> {
            let mut new = self.vm_names().await?;
            new.retain(|(id, name)| {
                name == &wanted.name && !before.iter().any(|(old, _)| old == id)
            });
            Ok(new.pop().filter(|_| new.is_empty()).map(|(id, _)| id))
        };
        let parameters = Properties::new().with("SystemSettings", Value::embedded(&settings));
        let done = match self
            .call(objects::MANAGEMENT, "DefineSystem", parameters)
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
            Err(error) => return Err(error),
        };
        let made = self
            .result_of(&done, "ResultingSystem", objects::VM)
            .await?;
        match made
            .as_ref()
            .and_then(|vm| vm.text("Name"))
            .and_then(|name| name.parse().ok())
        {
            Some(id) => Ok(id),
            None => only_new().await?.ok_or_else(|| Error::Nonsense {
                doing: "DefineSystem".into(),
                what: "it succeeded, but which VM it made cannot be told".into(),
            }),
        }
    }

    async fn vm_names(&self) -> Result<Vec<(VmId, String)>, Error> {
        let found = self
            .query(&format!("SELECT * FROM {}", objects::VM))
            .await?;
        let name = |vm: &Instance| {
            Some((
                vm.text("Name")?.parse().ok()?,
                vm.text("ElementName").unwrap_or_default().to_owned(),
            ))
        };
        Ok(found.iter().filter_map(name).collect())
    }

    /// Gives a new VM what its configuration lists.
    async fn furnish(&self, id: VmId, wanted: &VmConfig) -> Result<(), Error> {
        let settings = self.active_settings(&objects::vm(id)).await?;
        self.set_processors_and_memory(&settings, wanted).await?;
        self.ensure_scsi_controllers(&settings, config::scsi_controllers(wanted))
            .await?;
        for controller in &wanted.controllers {
            for drive in &controller.drives {
                let slot = Slot {
                    kind: controller.kind,
                    controller: controller.number,
                    slot: drive.slot,
                };
                match &drive.media {
                    Media::Disk { path } => self.put_disk(&settings, slot, path).await?,
                    Media::Iso { path } => self.put_dvd(&settings, slot, Some(path)).await?,
                    Media::Empty => self.put_dvd(&settings, slot, None).await?,
                    Media::PassThrough { .. } => {}
                }
            }
        }
        for nic in &wanted.nics {
            self.add_nic(&settings, nic).await?;
        }
        if has_boot_order(wanted) {
            // Boot sources appear once the devices are there.
            let settings = self.active_settings(&objects::vm(id)).await?;
            if let Err(error) = self.set_boot_order(&settings, wanted).await {
                tracing::warn!("failed to set the boot order of VM {id}; set it by hand: {error}");
            }
        }
        Ok(())
    }

    async fn set_processors_and_memory(
        &self,
        settings: &Instance,
        wanted: &VmConfig,
    ) -> Result<(), Error> {
        let parts = self.components(settings).await?;
        let mut changes = Vec::new();
        if let Some(processor) = parts.of_type(resource_type::PROCESSOR).next() {
            changes.push(change_of(processor).with("VirtualQuantity", wanted.processors));
        }
        if let Some(memory) = parts.of_type(resource_type::MEMORY).next() {
            let wish = wanted.memory;
            let mut change = change_of(memory)
                .with("VirtualQuantity", wish.startup_mib)
                .with("DynamicMemoryEnabled", wish.dynamic);
            if wish.dynamic {
                change.set("Reservation", wish.minimum_mib);
                change.set("Limit", wish.maximum_mib);
            }
            changes.push(change);
        }
        self.modify_parts(&changes).await
    }

    /// Attaches a disk file to a VM, in the slot given or the first free one, and returns the slot. The same file in the
    /// same slot is no error.
    pub async fn attach_disk(
        &self,
        vm: VmId,
        path: &str,
        slot: Option<Slot>,
    ) -> Result<Slot, Error> {
        let off = power_state(&self.system(vm).await?) == model::PowerState::Off;
        let settings = self.active_settings(&objects::vm(vm)).await?;
        let parts = self.components(&settings).await?;
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let found = parts
                    .drives()
                    .into_iter()
                    .find(|drive| drive.media.and_then(disk_path) == Some(path));
                if let Some(drive) = found {
                    return Ok(drive.slot);
                }
                free_slot(&parts, off).ok_or_else(|| Error::Refused {
                    what: format!(
                        "VM {vm} has no free slot for a disk{}",
                        if off {
                            ""
                        } else {
                            "; turned off, it may have one on IDE"
                        }
                    ),
                })?
            }
        };
        let held = parts
            .drives()
            .into_iter()
            .find(|drive| drive.slot == slot)
            .and_then(|drive| drive.media);
        match held.map(disk_path) {
            Some(Some(current)) if current == path => return Ok(slot),
            Some(_) => {
                return Err(Error::Refused {
                    what: format!("{slot} of VM {vm} is taken"),
                });
            }
            None => {}
        }
        self.put_disk(&settings, slot, path).await?;
        Ok(slot)
    }

    /// Puts another file into a slot that holds a disk. Refused while the VM has checkpoints, whose chain it would break.
    pub async fn replace_disk(&self, vm: VmId, slot: Slot, path: &str) -> Result<(), Error> {
        let users = self.checkpoints(vm).await?;
        if users.iter().any(|c| {
            matches!(
                c.kind,
                CheckpointKind::User | CheckpointKind::Recovery | CheckpointKind::Replica
            )
        }) {
            let what = format!(
                "VM {vm} has checkpoints; replacing a disk would break their chains: delete them first"
            );
            return Err(Error::Refused { what });
        }
        let settings = self.active_settings(&objects::vm(vm)).await?;
        let parts = self.components(&settings).await?;
        let drive = parts.drives().into_iter().find(|drive| drive.slot == slot);
        let Some((media, old)) = drive
            .and_then(|drive| drive.media)
            .and_then(|media| Some((media, disk_path(media)?.to_owned())))
        else {
            return Err(Error::NotFound {
                what: format!("a disk at {slot} of VM {vm}"),
            });
        };
        match self.put_disk(&settings, slot, path).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::debug!(
                    "the host does not change a disk in place, taking it out first: {error}"
                );
            }
            result => return result,
        }
        self.remove_parts(&[media]).await?;
        let Err(error) = self.put_disk(&settings, slot, path).await else {
            return Ok(());
        };
        if let Err(second) = self.put_disk(&settings, slot, &old).await {
            tracing::warn!("failed to put {old} back into {slot} of VM {vm}: {second}");
        }
        Err(error)
    }

    /// Takes a disk and its drive out of a slot; an empty slot is no error. The file stays.
    pub async fn detach_disk(&self, vm: VmId, slot: Slot) -> Result<(), Error> {
        let settings = self.active_settings(&objects::vm(vm)).await?;
        let parts = self.components(&settings).await?;
        self.clear_slot(&parts, slot).await
    }
}
