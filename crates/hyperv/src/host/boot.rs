//! Boot order of second generation VMs.
//!
//! [U] How real hosts relate boot sources to drives and adapters is documented (`Msvm_LogicalIdentity`) but was not
//! seen: everything about it is in this file, and an order that cannot be read or set never stops a backup or restore.

use model::{BootEntry, ControllerKind, Generation, VmConfig};
use wsman::{Instance, ObjectPath, Value, uri};

use super::components::Components;
use super::objects::{self, id_key};
use super::{Host, config};
use crate::{Error, ErrorKind};

/// A boot source of a VM: where the settings name it, and what it stands for.
struct BootSource {
    /// Path as the settings write it.
    path: String,
    entry: BootEntry,
}

impl Host {
    /// Returns the boot entries of a second generation VM, in order.
    pub(super) async fn boot_entries(
        &self,
        settings: &Instance,
        parts: &Components,
    ) -> Result<Vec<BootEntry>, Error> {
        Ok(self
            .boot_sources(settings, parts)
            .await?
            .into_iter()
            .map(|source| source.entry)
            .collect())
    }

    /// Sets the boot order as far as the VM has what the configuration names; the rest keeps its place behind.
    pub(super) async fn set_boot_order(
        &self,
        settings: &Instance,
        config: &VmConfig,
    ) -> Result<(), Error> {
        let id = settings.text("InstanceID").unwrap_or_default();
        let change = Instance::new(objects::SETTINGS).with("InstanceID", id);
        match config.generation {
            Generation::Gen1 => {
                let mut sorted = config.boot_order.clone();
                sorted.sort_unstable();
                // The host takes all four, each once, or refuses.
                if sorted != [0, 1, 2, 3] {
                    return Ok(());
                }
                let order: Vec<Value> = config
                    .boot_order
                    .iter()
                    .map(|&entry| Value::U16(entry))
                    .collect();
                self.modify_settings(&change.with("BootOrder", order)).await
            }
            Generation::Gen2 => {
                let parts = self.components(settings).await?;
                let sources = self.boot_sources(settings, &parts).await?;
                let wished =
                    |entry: &BootEntry| config.boot_entries.iter().position(|wish| wish == entry);
                let mut order: Vec<_> = sources.iter().collect();
                order.sort_by_key(|source| wished(&source.entry).unwrap_or(usize::MAX));
                if order
                    .iter()
                    .map(|s| &s.path)
                    .eq(sources.iter().map(|s| &s.path))
                {
                    return Ok(());
                }
                let paths = Value::texts(order.into_iter().map(|source| source.path.clone()));
                self.modify_settings(&change.with("BootSourceOrder", paths))
                    .await
            }
        }
    }

    async fn boot_sources(
        &self,
        settings: &Instance,
        parts: &Components,
    ) -> Result<Vec<BootSource>, Error> {
        let mut sources = Vec::new();
        for path in settings.texts("BootSourceOrder") {
            let Ok(source) = path.parse::<ObjectPath>() else {
                continue;
            };
            let entry = match self.boot_entry(&source, parts).await {
                Ok(entry) => entry,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Refused
                    ) =>
                {
                    tracing::debug!("failed to resolve boot source {path}: {error}");
                    unknown(path)
                }
                Err(error) => return Err(error),
            };
            sources.push(BootSource {
                path: path.to_owned(),
                entry,
            });
        }
        Ok(sources)
    }

    async fn boot_entry(
        &self,
        source: &ObjectPath,
        parts: &Components,
    ) -> Result<BootEntry, Error> {
        let query = wsman::association_query(source, "Msvm_LogicalIdentity", None);
        let same = self.session.query(uri::NS_VIRTUALIZATION, &query).await?;
        for object in &same {
            let id = id_key(object);
            let drive = parts.drives().into_iter().find(|drive| {
                id_key(drive.drive) == id || drive.media.is_some_and(|media| id_key(media) == id)
            });
            if let Some(drive) = drive.filter(|drive| drive.slot.kind == ControllerKind::Scsi) {
                return Ok(BootEntry::Drive {
                    controller: drive.slot.controller,
                    slot: drive.slot.slot,
                });
            }
            let nic = parts.nics().iter().position(|nic| id_key(nic.nic) == id);
            if let Some(index) = nic.and_then(|index| u32::try_from(index).ok()) {
                return Ok(BootEntry::Nic { index });
            }
        }
        let id = source.get("InstanceID").unwrap_or_default();
        let source = self
            .session
            .get(&objects::by_instance_id("Msvm_BootSourceSettingData", id))
            .await?;
        let description = source
            .text("BootSourceDescription")
            .or_else(|| source.text("ElementName"))
            .unwrap_or_default();
        Ok(BootEntry::File {
            description: description.to_owned(),
        })
    }
}

fn unknown(path: &str) -> BootEntry {
    BootEntry::File {
        description: path.chars().take(200).collect(),
    }
}

/// Whether a configuration asks for a boot order at all.
pub(super) fn has_boot_order(config: &VmConfig) -> bool {
    match config.generation {
        Generation::Gen1 => !config.boot_order.is_empty(),
        Generation::Gen2 => !config.boot_entries.is_empty() && config::scsi_controllers(config) > 0,
    }
}
