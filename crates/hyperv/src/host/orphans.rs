//! Differencing files that were left behind: whose checkpoint is gone and which the host does not merge any more.
//!
//! That happens after a merge that failed, and where merging was switched off. Such a file is merged by hand: its data go
//! down into its parent, it vanishes, and what stood on it is put onto the parent.
//!
//! Invariant: nothing is merged that a VM, a checkpoint or a planned VM names, nor into a file that something else
//! stands on, nor under a VM that is not off: all of that would change the content of a disk.

use std::collections::HashMap;

use model::{PowerState, VmId, host_path};
use wsman::{Properties, Value};

use super::Host;
use super::components::disk_path;
use super::disks::DiskFile;
use super::objects::{self, owner_guid};
use super::user_checkpoints::Merge;
use super::vm_objects::power_state;
use crate::{Error, ErrorKind};

/// A differencing file that no VM, checkpoint or planned VM names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The file.
    pub file: DiskFile,
    /// The files that stand on it.
    pub children: Vec<String>,
    /// VMs whose disks read through it.
    pub vms: Vec<VmId>,
}

/// A disk file that settings name.
struct Used {
    path: String,
    /// GUID of the VM or checkpoint.
    owner: VmId,
}

impl Host {
    /// Returns which of these files (usually every `.avhdx` of a VM's folders) were left behind. It asks the host about
    /// every file of every chain, so it is for repairs and not for every day.
    pub async fn orphans(&self, candidates: &[String]) -> Result<Vec<Orphan>, Error> {
        let used = self.used_disks().await?;
        let owners = self.owners().await?;
        let mut known = HashMap::new();
        let mut chains = Vec::new();
        for disk in &used {
            let (chain, _) = self.follow_chain(&disk.path, &mut known).await?;
            chains.push((disk, chain));
        }
        let named = |path: &str| used.iter().any(|disk| host_path::same(&disk.path, path));
        let mut orphans = Vec::new();
        for path in candidates.iter().filter(|path| !named(path)) {
            let (chain, problem) = self.follow_chain(path, &mut known).await?;
            let Some(file) = chain.into_iter().next() else {
                if let Some(problem) = problem {
                    tracing::debug!("passing over {path}: {problem}");
                }
                continue;
            };
            if file.parent.is_none() {
                continue;
            }
            let mut children: Vec<String> = known
                .values()
                .filter(|other| is_parent(other, path))
                .map(|other| other.path.clone())
                .collect();
            children.sort();
            let through = chains.iter().filter(|(_, chain)| {
                chain
                    .iter()
                    .any(|member| host_path::same(&member.path, path))
            });
            let mut vms: Vec<VmId> = through
                .filter_map(|(disk, _)| owners.get(&disk.owner).copied())
                .collect();
            vms.sort();
            vms.dedup();
            orphans.push(Orphan {
                file,
                children,
                vms,
            });
        }
        Ok(orphans)
    }

    /// Merges a file that was left behind into its parent and puts what stands on it onto the parent. Asks the host anew
    /// whether it may, and whether there is room.
    pub async fn merge_orphan(&self, path: &str, candidates: &[String]) -> Result<(), Error> {
        let refused = |what: String| Err(Error::Refused { what });
        if let Some(user) = self.users_of(path).await?.first() {
            return refused(format!("{path} is not left behind: {user} uses it"));
        }
        let mut all = candidates.to_vec();
        all.push(path.to_owned());
        let orphans = self.orphans(&all).await?;
        let orphan = orphans
            .iter()
            .find(|orphan| host_path::same(&orphan.file.path, path));
        let Some((orphan, parent)) = orphan.and_then(|o| Some((o, o.file.parent.clone()?))) else {
            return refused(format!(
                "{path} is no differencing disk that was left behind"
            ));
        };
        if let Some(user) = self.users_of(&parent).await?.first() {
            return refused(format!(
                "{path} is not merged: {user} uses its parent {parent}, whose content would change"
            ));
        }
        let beside = self.beside(path, &parent, &all).await?;
        if let Some(other) = beside {
            return refused(format!(
                "{path} is not merged: {other} stands on the same parent {parent} and would break"
            ));
        }
        for vm in &orphan.vms {
            if power_state(&self.system(*vm).await?) != PowerState::Off {
                return refused(format!(
                    "{path} is not merged: VM {vm} reads through it; turn the VM off first"
                ));
            }
        }
        let merge = Merge {
            from: path.to_owned(),
            into: parent.clone(),
            bytes: orphan.file.file_bytes.unwrap_or(0),
        };
        self.need_room(std::slice::from_ref(&merge)).await?;
        self.call_merge(&merge).await?;
        for child in &orphan.children {
            self.set_parent(child, &parent).await?;
        }
        Ok(())
    }

    /// Returns who names a disk file: VMs, planned VMs and checkpoints, for people.
    pub(super) async fn users_of(&self, path: &str) -> Result<Vec<String>, Error> {
        let used = self.used_disks().await?;
        Ok(used
            .into_iter()
            .filter(|disk| host_path::same(&disk.path, path))
            .map(|disk| format!("the VM or checkpoint {}", disk.owner))
            .collect())
    }

    async fn used_disks(&self) -> Result<Vec<Used>, Error> {
        let wql = format!("SELECT * FROM {}", objects::STORAGE);
        self.query_map(&wql, |media| {
            Some(Used {
                path: disk_path(&media)?.to_owned(),
                owner: media.text("InstanceID").and_then(owner_guid)?,
            })
        })
        .await
    }

    /// The VM that settings belong to, by the GUID of the VM or checkpoint.
    async fn owners(&self) -> Result<HashMap<VmId, VmId>, Error> {
        let wql = format!("SELECT * FROM {}", objects::SETTINGS);
        let found = self
            .query_map(&wql, |settings| {
                let owner = settings.text("InstanceID").and_then(owner_guid)?;
                let vm = super::config::vm_id(&settings).ok()?;
                Some((owner, vm))
            })
            .await?;
        Ok(found.into_iter().collect())
    }

    /// Another file than `path` that stands on `parent`, of all files in use and all candidates.
    async fn beside(
        &self,
        path: &str,
        parent: &str,
        candidates: &[String],
    ) -> Result<Option<String>, Error> {
        let mut known = HashMap::new();
        let used = self.used_disks().await?;
        let leaves = used.iter().map(|disk| &disk.path).chain(candidates);
        for leaf in leaves {
            self.follow_chain(leaf, &mut known).await?;
        }
        let other = known
            .into_values()
            .find(|file| is_parent(file, parent) && !host_path::same(&file.path, path));
        Ok(other.map(|file| file.path))
    }

    async fn call_merge(&self, merge: &Merge) -> Result<(), Error> {
        let parameters = Properties::new()
            .with("SourcePath", merge.from.as_str())
            .with("DestinationPath", merge.into.as_str());
        match self
            .call(objects::IMAGES, "MergeVirtualHardDisk", parameters)
            .await
        {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while self.disk_file_exists(&merge.from).await? {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Puts a differencing file onto another parent with the same content; its identity may have changed.
    async fn set_parent(&self, child: &str, parent: &str) -> Result<(), Error> {
        let parameters = Properties::new()
            .with("ChildPath", child)
            .with("ParentPath", parent)
            .with("LeafPath", Value::Null)
            .with("IgnoreIDMismatch", true);
        let set = async || {
            self.call(
                objects::IMAGES,
                "SetParentVirtualHardDisk",
                parameters.clone(),
            )
            .await
            .map(drop)
        };
        match set().await {
            // Twice is the same as once.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                self.wait_quiet(error).await;
                set().await
            }
            result => result,
        }
    }
}

fn is_parent(child: &DiskFile, path: &str) -> bool {
    let parent = child.parent.as_ref();
    parent.is_some_and(|parent| host_path::same(parent, path))
}
