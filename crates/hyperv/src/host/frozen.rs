//! What a checkpoint holds: frozen disks, configuration, configuration files.

use model::{VmConfig, VmId, host_path};
use wsman::Instance;

use super::disks::VmDisk;
use super::objects::by_instance_id;
use super::vm::ConfigFile;
use super::{Host, objects};
use crate::files::{FileError, HostFiles};
use crate::{Error, ErrorKind};

impl Host {
    /// Returns the frozen disks of a checkpoint with their chains. `attachment` is the one in the VM (as reference points
    /// name it), not the one in the checkpoint.
    pub async fn frozen_disks(&self, vm: VmId, checkpoint: &str) -> Result<Vec<VmDisk>, Error> {
        let (config, _) = self.checkpoint_config(vm, checkpoint).await?;
        self.disks_of(&config).await
    }

    /// Returns the configuration of the VM as the checkpoint holds it, attachments named as in the VM, and where its files
    /// are.
    pub async fn checkpoint_config(
        &self,
        vm: VmId,
        checkpoint: &str,
    ) -> Result<(VmConfig, CheckpointFiles), Error> {
        let settings = self.checkpoint_settings(checkpoint).await?;
        let (mut config, _) = self.full_config(&settings).await?;
        let inner = objects::owner_guid(checkpoint)
            .map(|guid| guid.to_string())
            .unwrap_or_default();
        for drive in config
            .controllers
            .iter_mut()
            .flat_map(|controller| &mut controller.drives)
        {
            drive.attachment = in_vm(&drive.attachment, &inner, vm);
        }
        // The checkpoint is called by our mark; the VM has its own name.
        self.system(vm)
            .await?
            .text("ElementName")
            .unwrap_or_default()
            .clone_into(&mut config.name);
        let root = settings.text("ConfigurationDataRoot").unwrap_or_default();
        let file = settings.text("ConfigurationFile").unwrap_or_default();
        Ok((
            config,
            CheckpointFiles {
                root: root.to_owned(),
                file: file.to_owned(),
            },
        ))
    }

    /// Reads the settings object of a checkpoint.
    pub(super) async fn checkpoint_settings(&self, checkpoint: &str) -> Result<Instance, Error> {
        match self
            .session
            .get(&by_instance_id(objects::SETTINGS, checkpoint))
            .await
        {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NotFound {
                what: format!("checkpoint {checkpoint}"),
            }),
            result => result,
        }
    }
}

/// Where the configuration files of a checkpoint are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// ConfigurationDataRoot.
    pub root: String,
    /// ConfigurationFile, relative to it.
    pub file: String,
}

impl CheckpointFiles {
    /// Lists the files: everything beside the configuration file that has its name and another extension.
    pub fn list(&self, files: &HostFiles) -> Result<Vec<ConfigFile>, FileError> {
        let file = host_path::join(&self.root, self.file.trim_start_matches('\\'));
        let folder = host_path::parent(&file).unwrap_or(&self.root);
        let (stem, _) = host_path::split_extension(host_path::file_name(&file));
        let mut found: Vec<ConfigFile> = files
            .list(folder)?
            .into_iter()
            .filter(|entry| !entry.folder)
            .filter_map(|entry| {
                let (name, extension) = host_path::split_extension(&entry.name);
                let role = match extension.to_lowercase().as_str() {
                    ".vmcx" | ".xml" => "config",
                    ".vmrs" | ".bin" | ".vsv" => "runtime-state",
                    ".vmgs" => "guest-state",
                    _ => return None,
                };
                let ours = name.to_lowercase() == stem.to_lowercase();
                ours.then(|| ConfigFile {
                    path: host_path::join(folder, &entry.name),
                    role,
                })
            })
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// An attachment of a checkpoint, named as in the VM: the checkpoint's GUID stands in place of the VM's.
fn in_vm(attachment: &str, checkpoint_guid: &str, vm: VmId) -> String {
    let prefix = format!("Microsoft:{checkpoint_guid}\\");
    match attachment.get(..prefix.len()) {
        Some(start) if !checkpoint_guid.is_empty() && start.eq_ignore_ascii_case(&prefix) => {
            format!("Microsoft:{vm}\\{}", &attachment[prefix.len()..])
        }
        _ => attachment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_named_as_in_the_vm() {
        let vm: VmId = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D".parse().unwrap();
        let inner = "11111111-6A0E-4DEC-AF52-BD70CB80A21D";
        let attachment = r"Microsoft:11111111-6a0e-4dec-af52-bd70cb80a21d\8\0\0\L";
        assert_eq!(
            in_vm(attachment, inner, vm),
            r"Microsoft:B637F346-6A0E-4DEC-AF52-BD70CB80A21D\8\0\0\L"
        );
        assert_eq!(in_vm("other", inner, vm), "other");
    }
}
