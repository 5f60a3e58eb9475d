//! Which files belong to a VM, and which volumes hold them: what a backup of files reads.
//!
//! Those of the VM itself and of its checkpoints: every file of every chain, the configuration of the VM and of each
//! checkpoint. Left out: recovery checkpoints, which a backup made and removes, and checkpoints whose files are missing.

use std::collections::HashMap;

use model::host_path;
use wsman::{Instance, wql_literal};

use super::vm_objects::checkpoint_kind;
use super::{
    CheckpointFiles, CheckpointKind, DiskFile, Host, HostFacts, VmDisk, VmFacts, VolumeFacts,
    objects,
};
use crate::Error;

/// Where the configuration files of a VM or checkpoint are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPlace {
    /// InstanceID of the checkpoint; `None` for the VM itself.
    pub checkpoint: Option<String>,
    /// Where to look, in order: the first that holds files is the place.
    pub places: Vec<CheckpointFiles>,
}

/// A disk that a checkpoint holds, with its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointChain {
    /// Display name of the checkpoint.
    pub checkpoint: String,
    /// The file it names.
    pub path: String,
    /// That file first, the root last; cut short where `problem` says why.
    pub chain: Vec<DiskFile>,
    /// Why the chain could not be read to its end.
    pub problem: Option<String>,
}

/// The files of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFiles {
    /// Configurations: the VM's first, then its checkpoints'.
    pub configs: Vec<ConfigPlace>,
    /// The disks the VM uses.
    pub disks: Vec<VmDisk>,
    /// The disks its checkpoints hold.
    pub branches: Vec<CheckpointChain>,
}

impl Host {
    /// Returns the files of a VM that was just looked at with [`Host::vm`].
    pub async fn files_of(&self, vm: &VmFacts) -> Result<VmFiles, Error> {
        let id = vm.summary.config.id;
        let wql = format!(
            "SELECT * FROM {} WHERE VirtualSystemIdentifier = {}",
            objects::SETTINGS,
            wql_literal(&id.to_string())
        );
        let settings = self.query(&wql).await?;
        let mut configs: Vec<ConfigPlace> = settings.iter().filter_map(config_place).collect();
        configs.sort_by(|a, b| a.checkpoint.cmp(&b.checkpoint));
        if !configs.iter().any(|place| place.checkpoint.is_none()) {
            return Err(super::inventory::not_found(id));
        }
        let mut known: HashMap<String, DiskFile> = vm
            .disks
            .iter()
            .flat_map(|disk| &disk.chain)
            .map(|file| (host_path::key(&file.path), file.clone()))
            .collect();
        let mut branches = Vec::new();
        for checkpoint in vm.checkpoints.iter().filter(|found| is_kept(found.kind)) {
            for disk in &checkpoint.disks {
                let (chain, problem) = self.follow_chain(&disk.path, &mut known).await?;
                branches.push(CheckpointChain {
                    checkpoint: checkpoint.name.clone(),
                    path: disk.path.clone(),
                    chain,
                    problem: problem.map(|error| super::disks::describe(&error)),
                });
            }
        }
        Ok(VmFiles {
            configs,
            disks: vm.disks.clone(),
            branches,
        })
    }
}

impl HostFacts {
    /// Returns the volumes that hold these paths, each once, in order of their mount paths. Cluster volumes and mount
    /// points count by themselves.
    pub fn volumes_of<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p str>,
    ) -> Result<Vec<VolumeFacts>, Error> {
        let mut found: Vec<VolumeFacts> = Vec::new();
        for path in paths {
            let volume = self.volume_of(path).ok_or_else(|| Error::Unsupported {
                what: format!(
                    "{path} lies on no volume of host {}: shadow copies of file shares and of other machines' disks are \
                     not made",
                    self.name
                ),
            })?;
            if !found.contains(volume) {
                found.push(volume.clone());
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// Whether the files of such a checkpoint belong to the VM.
fn is_kept(kind: CheckpointKind) -> bool {
    match kind {
        CheckpointKind::User | CheckpointKind::Replica | CheckpointKind::Other => true,
        CheckpointKind::Recovery | CheckpointKind::Planned | CheckpointKind::Missing => false,
    }
}

/// [U] Public sources give `ConfigurationFile` of a checkpoint as `Snapshots\GUID.vmcx`, and do not say below which of
/// the two roots: both are looked at.
fn config_place(settings: &Instance) -> Option<ConfigPlace> {
    let checkpoint = match checkpoint_kind(settings) {
        None => None,
        Some(kind) if is_kept(kind) => Some(settings.text("InstanceID")?.to_owned()),
        Some(_) => return None,
    };
    let file = settings.text("ConfigurationFile")?.to_owned();
    let roots = match checkpoint {
        None => &["ConfigurationDataRoot"][..],
        Some(_) => &["ConfigurationDataRoot", "SnapshotDataRoot"],
    };
    let mut places: Vec<CheckpointFiles> = Vec::new();
    for root in roots.iter().filter_map(|name| settings.text(name)) {
        if !root.is_empty()
            && !places
                .iter()
                .any(|place| host_path::same(&place.root, root))
        {
            places.push(CheckpointFiles {
                root: root.to_owned(),
                file: file.clone(),
            });
        }
    }
    Some(ConfigPlace { checkpoint, places })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_found_below_either_root() {
        let settings = |kind: &str| {
            Instance::new(objects::SETTINGS)
                .with("InstanceID", "Microsoft:1")
                .with("VirtualSystemType", format!("Microsoft:Hyper-V:{kind}"))
                .with("ConfigurationDataRoot", r"C:\VMs\a")
                .with("SnapshotDataRoot", r"D:\Snap")
                .with("ConfigurationFile", r"Snapshots\1.vmcx")
        };
        let roots = |kind: &str| -> Option<Vec<String>> {
            let place = config_place(&settings(kind))?;
            Some(place.places.into_iter().map(|place| place.root).collect())
        };
        assert_eq!(roots("System:Realized").unwrap(), [r"C:\VMs\a"]);
        assert_eq!(
            roots("Snapshot:Realized").unwrap(),
            [r"C:\VMs\a", r"D:\Snap"]
        );
        assert_eq!(roots("Snapshot:Recovery"), None);
        assert_eq!(roots("Snapshot:Missing"), None);
    }
}
