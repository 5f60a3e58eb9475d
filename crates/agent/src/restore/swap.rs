//! A VM makes room for another with its id: the transaction behind a restore over a VM that still exists, and its undo.
//!
//! The host has one VM per id, and destroying one may merge its checkpoints. So the one that comes is whole and rehearsed
//! before the one that goes is stopped; the one that goes is exported, its chains are moved into `.reprise-<job>\old`
//! first, its definition is rehearsed there, and only then its registration is removed.
//!
//! Invariants: every step is in the journal before it is done and can be repeated; files are renamed, never copied, never
//! deleted; at any moment one of the two is registered or can be, from a rehearsed definition and files on the host alone.

mod incoming;
mod look;
mod moves;
mod rehearse;
mod reverse;

use std::sync::Arc;
use std::time::Duration;

use hyperv::{ExportCheckpoints, Folders, Limits};
use model::{PowerState, VmId, host_path};
use plan::restore::{OverVm, StandingVm};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disks::make_folders;
use super::{parked_folder, staging_folder};
use crate::errors::{host_error, task_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::parked::{KeptVm, Record, StayingFiles};
use crate::worker::Shared;

pub(super) use incoming::over;
pub(super) use look::{look, standing};
pub(super) use moves::{compare, delete_tree, free, rename_all};
pub(super) use rehearse::{Trial, spread};
pub(super) use reverse::{bring_back, destroy_trials, power_as_before, register, silence};

/// The folder of a kept definition, in that of a VM's kept files.
const DEFINITION: &str = "definition";
/// How long a guest may take to shut down before it is turned off.
const SHUT_DOWN: Duration = Duration::from_secs(180);

/// A VM that makes room, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Swap {
    /// Its id.
    pub(crate) vm: VmId,
    /// Its display name.
    pub(crate) name: String,
    /// Its definition.
    pub(crate) definition: Definition,
    /// Its files.
    pub(crate) files: Vec<MovedAside>,
}

/// A definition that a VM can be registered from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    /// The configuration file.
    pub(crate) file: String,
    /// Folder with the configuration files of its checkpoints, where it has some.
    pub(crate) checkpoints: Option<String>,
    /// ConfigurationDataRoot.
    pub(crate) config_root: String,
    /// SnapshotDataRoot.
    pub(crate) checkpoint_root: String,
    /// SuspendDataRoot.
    pub(crate) saved_state_root: String,
    /// SwapFileDataRoot.
    pub(crate) swap_root: String,
}

impl Definition {
    fn folders(&self) -> Folders {
        Folders {
            config: self.config_root.clone(),
            checkpoints: self.checkpoint_root.clone(),
            saved_state: self.saved_state_root.clone(),
            swap: self.swap_root.clone(),
        }
    }
}

/// A file that is moved aside, with what makes it that file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedAside {
    /// From here.
    pub(crate) from: String,
    /// To here.
    pub(crate) to: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// What a VHDX is known by.
    #[serde(default)]
    pub(crate) data_write_guid: Option<Uuid>,
    /// Whether it goes back as soon as the registration is removed.
    #[serde(default)]
    pub(crate) stays: bool,
}

/// What a swap works with.
pub(super) struct Room<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) context: &'a Arc<JobContext>,
    pub(super) journal: &'a Arc<Journal>,
    pub(super) over: &'a OverVm,
}

impl Room<'_> {
    /// Stops the VM, moves all it is made of aside, and removes its registration.
    pub(super) async fn make(&self) -> Result<Swap, JobError> {
        let vm = self.over.id;
        let host = &self.shared.host;
        host.wait_merged(vm).await.map_err(host_error)?;
        self.context.check()?;
        self.stop().await?;
        // Stopping may have ended a merge, or begun one.
        host.wait_merged(vm).await.map_err(host_error)?;
        let standing = look(self.shared, vm).await?;
        self.check_unchanged(&standing)?;
        let definition = self.export().await?;
        let swap = Swap {
            vm,
            name: self.over.name.clone(),
            definition,
            files: self.list_moves().await?,
        };
        self.make_folders(&swap).await?;
        self.context.check()?;
        self.journal.will(Deed::Swap(Box::new(swap.clone())))?;
        rename_all(self.shared, self.journal, &swap.files, false).await?;
        self.rehearse_kept(&swap).await?;
        self.context.check()?;
        self.journal.boundary();
        host.destroy_vm(vm).await.map_err(host_error)?;
        self.journal.boundary();
        compare(self.shared, &swap.files).await?;
        let stays: Vec<MovedAside> = swap
            .files
            .iter()
            .filter(|file| file.stays)
            .cloned()
            .collect();
        rename_all(self.shared, self.journal, &stays, true).await?;
        self.context.note(format!(
            "VM {:?} makes room: {} files and its definition are kept; by hand it is registered with: Import-VM -Path '{}', once its files are back",
            self.over.name,
            swap.files.len() - stays.len(),
            swap.definition.file
        ));
        Ok(swap)
    }

    /// Returns what is to be remembered of the VM that made room.
    pub(super) fn record(&self, swap: &Swap, power: PowerState) -> Record {
        let job = self.context.job;
        let mut folders: Vec<String> = Vec::new();
        let config = parked_folder(&self.over.config_folder, job);
        let of_files = swap
            .files
            .iter()
            .filter_map(|file| host_path::parent(&file.to));
        for old in of_files.chain([config.as_str()]) {
            if folders.iter().any(|there| host_path::same(there, old)) {
                continue;
            }
            folders.push(old.to_owned());
            folders.extend(host_path::parent(old).map(str::to_owned));
        }
        let stay = self.over.stay.iter().map(|disk| StayingFiles {
            slot: disk.slot.clone(),
            path: disk.path.clone(),
            files: disk.files.clone(),
        });
        Record {
            job,
            vm: swap.vm,
            name: swap.name.clone(),
            since: crate::clock::now(),
            whole: Some(KeptVm {
                power,
                definition: swap.definition.clone(),
                checkpoints: self.over.checkpoints,
                stay: stay.collect(),
            }),
            files: swap
                .files
                .iter()
                .filter(|file| !file.stays)
                .cloned()
                .collect(),
            folders,
        }
    }

    async fn stop(&self) -> Result<(), JobError> {
        let (vm, name) = (self.over.id, &self.over.name);
        let host = &self.shared.host;
        let (power, _) = host.power(vm).await.map_err(host_error)?;
        match power {
            PowerState::Off => return Ok(()),
            PowerState::Saved => {
                let message = format!("VM {name:?} was saved while the restore was under way");
                return Err(JobError::failed("vm-saved", message)
                    .hint("start it, or discard its saved state on the host, then restore again"));
            }
            PowerState::Running
            | PowerState::Paused
            | PowerState::Changing
            | PowerState::Unknown => {}
        }
        self.journal.will(Deed::Stop { vm, power })?;
        let limits = Limits {
            settle: SHUT_DOWN,
            ..Limits::default()
        };
        let gently = match power {
            PowerState::Running => host.clone().with_limits(limits).shut_down(vm).await,
            PowerState::Off
            | PowerState::Saved
            | PowerState::Paused
            | PowerState::Changing
            | PowerState::Unknown => host.turn_off(vm).await,
        };
        match gently {
            Ok(()) => self.context.note(format!("VM {name:?} is stopped")),
            Err(error) => {
                self.context.note(format!(
                    "VM {name:?} is turned off, as its guest did not shut down: {error}"
                ));
                host.turn_off(vm).await.map_err(host_error)?;
            }
        }
        self.journal.boundary();
        Ok(())
    }

    /// Refuses to go on where the VM has become another one since the plan was made.
    fn check_unchanged(&self, now: &StandingVm) -> Result<(), JobError> {
        let disks = now.disks.iter().flat_map(|disk| &disk.files);
        let mut files = disks.chain(now.branches.iter().map(|(path, _)| path));
        let Some(new) = files.find(|path| !self.over.knows(path)) else {
            return Ok(());
        };
        let message = format!(
            "VM {:?} was changed while the restore was under way: it has {new} now",
            self.over.name
        );
        Err(JobError::transient("vm-changed", message)
            .hint("leave the VM and its checkpoints alone while it is restored"))
    }

    /// Writes the definition of the VM, with all its checkpoints, into a folder of ours.
    async fn export(&self) -> Result<Definition, JobError> {
        let vm = self.over.id;
        let parked = parked_folder(&self.over.config_folder, self.context.job);
        let folder = host_path::join(&parked, DEFINITION);
        let (files, journal) = (Arc::clone(&self.shared.files), Arc::clone(self.journal));
        let made = folder.clone();
        let making = tokio::task::spawn_blocking(move || {
            make_folders(&files, &journal, &parked)?;
            journal.will(Deed::OwnFolder { path: made.clone() })?;
            make_folders(&files, &journal, &made)
        });
        making.await.map_err(task_error)??;
        let host = &self.shared.host;
        host.export_definition(vm, &folder, ExportCheckpoints::All)
            .await
            .map_err(host_error)?;
        self.journal.boundary();
        let found = host.vm(vm).await.map_err(host_error)?;
        let (file, checkpoints) = moves::find_definition(&self.shared.files, &folder).await?;
        let or = |given: String| match given.is_empty() {
            true => self.over.config_folder.clone(),
            false => given,
        };
        Ok(Definition {
            file,
            checkpoints,
            config_root: or(found.folders.config),
            checkpoint_root: or(found.folders.checkpoints),
            saved_state_root: or(found.folders.saved_state),
            swap_root: or(found.folders.swap),
        })
    }

    /// Lists what is to be moved: every file that is kept, with what the host keeps beside it. Where the VM has
    /// checkpoints, the disks that stay go as well until its registration is removed, as the host may merge them.
    async fn list_moves(&self) -> Result<Vec<MovedAside>, JobError> {
        let mut wanted: Vec<(String, bool)> = Vec::new();
        wanted.extend(self.over.park.iter().map(|path| (path.clone(), false)));
        if self.over.checkpoints > 0 {
            let stays = self.over.stay.iter().flat_map(|disk| &disk.files);
            wanted.extend(stays.map(|path| (path.clone(), true)));
        }
        moves::describe(&self.shared.files, wanted, self.context.job).await
    }

    async fn make_folders(&self, swap: &Swap) -> Result<(), JobError> {
        let (files, journal) = (Arc::clone(&self.shared.files), Arc::clone(self.journal));
        let moves = swap.files.clone();
        let making = tokio::task::spawn_blocking(move || {
            for file in &moves {
                if let Some(folder) = host_path::parent(&file.to) {
                    make_folders(&files, &journal, folder)?;
                }
            }
            Ok::<_, JobError>(())
        });
        making.await.map_err(task_error)?
    }

    /// Tries the kept definition with the kept files, while the VM is still registered.
    async fn rehearse_kept(&self, swap: &Swap) -> Result<(), JobError> {
        let staging = staging_folder(&self.over.config_folder, self.context.job);
        let trial = Trial {
            shared: self.shared,
            context: self.context,
            journal: self.journal,
            folder: staging,
            name: &swap.name,
        };
        let stays = |path: &str| {
            let files = self.over.stay.iter().flat_map(|disk| &disk.files);
            files.into_iter().any(|file| host_path::same(file, path))
        };
        let tried = trial.kept(&swap.definition, &swap.files, stays, true).await;
        match tried {
            Err(error) if !self.over.problems.is_empty() => {
                self.context.warning(format!(
                    "VM {:?} as it was cannot be registered again: {error}; an undo gives its files back all the same",
                    swap.name
                ));
                Ok(())
            }
            tried => tried,
        }
    }
}
