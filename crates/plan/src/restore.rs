//! The restore of a recovery point, as a plan.
//!
//! [`plan_restore`] either refuses, with a reason and a hint, or names every file, VM and byte the restore will touch.
//! Two of its promises are relied on elsewhere: no path in a plan has escaped [`model::host_path::check`], and no path
//! in it exists on the host except those listed in [`RestorePlan::park`].

mod facts;
mod names;
mod space;

use model::{
    DiskId, FileImage, KeepOrNew, Method, Nic, PowerAfter, PowerState, RecoveryPoint, RestoreScope,
    RestoreTarget, RestoreWish, VmId, host_path,
};
use serde::Serialize;

pub use facts::{HostFacts, ReservePolicy, VmOnHost, Volume};
pub use names::wanted_paths;
pub use space::VolumeNeed;

/// Everything a restore will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    /// Whole VM or disks.
    pub kind: RestoreKind,
    /// Disks to write.
    pub disks: Vec<DiskPlan>,
    /// Files that stand where the restore writes and are moved aside first; no VM uses them.
    pub park: Vec<String>,
    /// What each volume must have free.
    pub volumes: Vec<VolumeNeed>,
    /// What the plan cannot honour, for people.
    pub warnings: Vec<String>,
}

/// Full virtual machine restore or virtual disk restore (S13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RestoreKind {
    /// A VM with its disks.
    Vm(Box<VmPlan>),
    /// Disk files, attached to nothing.
    Disks,
}

/// The VM a full restore registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmPlan {
    /// How it is registered.
    pub route: Route,
    /// Its id afterwards, where it is known before.
    pub id: Option<VmId>,
    /// Its display name.
    pub name: String,
    /// Folder of its configuration (ConfigurationDataRoot).
    pub config_folder: String,
    /// Adapters with the switch each will have.
    pub nics: Vec<NicPlan>,
    /// Whether MAC addresses are kept.
    pub keep_mac: bool,
    /// Whether it is started at the end.
    pub start: bool,
}

/// How a VM is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// The host imports the stored configuration files; the only way to keep an id.
    Import {
        /// Whether the id is kept.
        keep_id: bool,
    },
    /// The VM is defined from the stored description, with a new id.
    Define,
}

/// A network adapter and what it will be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicPlan {
    /// The adapter in the point.
    pub nic: Nic,
    /// Name of the switch on the target host; `None`: disconnected.
    pub switch: Option<String>,
}

/// A disk file to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// The disk of the point.
    pub disk: DiskId,
    /// Path in the point of the leaf the VM used: how the configuration names it.
    pub source_path: String,
    /// Path on the target host.
    pub target_path: String,
    /// Whether the file gets a new VirtualDiskId, because it will be a second copy.
    pub new_disk_id: bool,
    /// Whether the file is of fixed size.
    pub fixed: bool,
    /// Bytes it will take at most, on the way included.
    pub needed_bytes: u64,
    /// The files of its chain, leaf first, which are written and then merged into one (VSS method); empty for a disk that
    /// comes flat.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ChainFilePlan>,
}

/// A file of a chain to write, and to merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainFilePlan {
    /// Path in the point.
    pub source_path: String,
    /// Path on the target host, from its first byte on.
    pub target_path: String,
    /// Its length.
    pub file_bytes: u64,
}

/// Why a restore is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The VM is still there.
    #[error("VM {name:?} ({id}) still exists on host {host}")]
    VmExists {
        /// Its id.
        id: VmId,
        /// Its name.
        name: String,
        /// The host.
        host: String,
    },
    /// The name is taken.
    #[error("a VM named {name:?} exists on host {host}")]
    NameTaken {
        /// The name.
        name: String,
        /// The host.
        host: String,
    },
    /// A file is in the way.
    #[error("{path} exists on host {host}{}", used_by(.vm.as_deref()))]
    PathTaken {
        /// The file.
        path: String,
        /// The VM that uses it.
        vm: Option<String>,
        /// The host.
        host: String,
    },
    /// A path of the wish or the point is not used.
    #[error(transparent)]
    BadPath(#[from] host_path::BadPath),
    /// The point has no such disk.
    #[error("the recovery point has no disk {disk}; it has {}", .known.join(", "))]
    NoSuchDisk {
        /// What was asked for.
        disk: DiskId,
        /// Disks of the point.
        known: Vec<String>,
    },
    /// No such switch.
    #[error("host {host} has no virtual switch {switch:?}; it has {}", list_or_none(.known))]
    NoSuchSwitch {
        /// What was asked for.
        switch: String,
        /// Switches of the host.
        known: Vec<String>,
        /// The host.
        host: String,
    },
    /// An adapter's switch was mapped that the point does not have.
    #[error("no adapter of the recovery point was connected to a switch {switch:?}; they were connected to {}", list_or_none(.known))]
    NoSuchSource {
        /// What was asked for.
        switch: String,
        /// Switches in the point.
        known: Vec<String>,
    },
    /// The path is on no volume of the host.
    #[error("no volume of host {host} holds {path}")]
    NoVolume {
        /// The path.
        path: String,
        /// The host.
        host: String,
    },
    /// Too little room (S12).
    #[error("not enough space on {}", .short.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotEnoughSpace {
        /// Every volume that is too small.
        short: Vec<VolumeNeed>,
    },
    /// The point was made somewhere else and the wish says original.
    #[error("the recovery point was made on host {made_on}; this agent serves {host}")]
    OtherHost {
        /// Host of the point.
        made_on: String,
        /// Host of the agent.
        host: String,
    },
    /// Nothing in the point can be imported.
    #[error("the recovery point holds no configuration file, so the VM's id cannot be kept")]
    NoConfiguration,
    /// Files that nothing says how to put together.
    #[error(
        "the recovery point was made with the VSS method and does not say which files make up its disks"
    )]
    VssPoint,
    /// A file of a chain is not in the point.
    #[error("the recovery point does not hold {file}, which disk {disk} is made of")]
    IncompleteChain {
        /// The disk.
        disk: DiskId,
        /// The file.
        file: String,
    },
}

fn used_by(vm: Option<&str>) -> String {
    vm.map(|name| format!(", used by VM {name:?}"))
        .unwrap_or_default()
}

fn list_or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl Refusal {
    /// Returns the stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::VmExists { .. } => "vm-exists",
            Refusal::NameTaken { .. } => "name-taken",
            Refusal::PathTaken { .. } => "path-taken",
            Refusal::BadPath(_) => "bad-path",
            Refusal::NoSuchDisk { .. } => "no-such-disk",
            Refusal::NoSuchSwitch { .. } | Refusal::NoSuchSource { .. } => "no-such-switch",
            Refusal::NoVolume { .. } => "no-volume",
            Refusal::NotEnoughSpace { .. } => "not-enough-space",
            Refusal::OtherHost { .. } => "other-host",
            Refusal::NoConfiguration => "no-configuration",
            Refusal::VssPoint => "method-not-supported",
            Refusal::IncompleteChain { .. } => "incomplete-chain",
        }
    }

    /// Returns what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::VmExists { .. } => {
                "remove the VM first, or restore beside it: --to HOST with its own --folder gives it a new id"
            }
            Refusal::NameTaken { .. } => "choose another name with --name",
            Refusal::PathTaken { .. } => {
                "choose another folder with --folder, or move the file away"
            }
            Refusal::BadPath(_) => {
                "choose an absolute folder of the host with --folder, such as D:\\Restored"
            }
            Refusal::NoSuchDisk { .. } => {
                "`reprise point show` lists the disks of a recovery point"
            }
            Refusal::NoSuchSwitch { .. } => {
                "create the switch on the host, or map to another with --network FROM=TO"
            }
            Refusal::NoSuchSource { .. } => {
                "`reprise point show --json` lists the adapters of a recovery point"
            }
            Refusal::NoVolume { .. } => "choose a folder on a volume of the host with --folder",
            Refusal::NotEnoughSpace { .. } => {
                "free space on the volume, or choose a folder on another one with --folder; nothing was changed"
            }
            Refusal::OtherHost { .. } => "name the host with --to HOST",
            Refusal::NoConfiguration => "restore with a new id: --id new",
            Refusal::VssPoint | Refusal::IncompleteChain { .. } => {
                "use another recovery point: `reprise point list`"
            }
        }
    }
}

/// Plans a restore, or refuses it.
pub fn plan_restore(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Result<RestorePlan, Refusal> {
    if point.method == Method::Vss && point.chains.is_empty() {
        return Err(Refusal::VssPoint);
    }
    if wish.target == RestoreTarget::Original && point.host.id != facts.id {
        return Err(Refusal::OtherHost {
            made_on: point.host.name.clone(),
            host: facts.name.clone(),
        });
    }
    let mut warnings = Vec::new();
    let vm = match &wish.scope {
        RestoreScope::Vm => Some(plan_vm(point, wish, facts, &mut warnings)?),
        RestoreScope::Disks { disks } => {
            known_disks(point, disks)?;
            None
        }
    };
    let keep_disk_ids = vm
        .as_ref()
        .is_some_and(|vm| vm.route == Route::Import { keep_id: true });
    let disks = plan_disks(point, wish, facts, keep_disk_ids)?;
    let park = check_paths(wish, facts, &disks)?;
    let volumes = space::needs(
        facts,
        &disks,
        vm.as_ref().map(|vm| vm.config_folder.as_str()),
        point,
    )?;
    let short: Vec<VolumeNeed> = volumes
        .iter()
        .filter(|volume| volume.is_short())
        .cloned()
        .collect();
    if !short.is_empty() {
        return Err(Refusal::NotEnoughSpace { short });
    }
    let kind = vm.map_or(RestoreKind::Disks, |vm| RestoreKind::Vm(Box::new(vm)));
    Ok(RestorePlan {
        kind,
        disks,
        park,
        volumes,
        warnings,
    })
}

fn known_disks(point: &RecoveryPoint, disks: &[DiskId]) -> Result<(), Refusal> {
    for disk in disks {
        if !point.disk_sources().any(|known| known.id == *disk) {
            let known = point
                .disk_sources()
                .map(|disk| format!("{} ({})", disk.id, disk.base_path))
                .collect();
            return Err(Refusal::NoSuchDisk { disk: *disk, known });
        }
    }
    Ok(())
}

fn plan_vm(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<VmPlan, Refusal> {
    let original = wish.target == RestoreTarget::Original;
    let keep_id = match wish.id {
        Some(KeepOrNew::Keep) => true,
        Some(KeepOrNew::New) => false,
        None => original,
    };
    let keep_mac = match wish.mac {
        Some(KeepOrNew::Keep) => true,
        Some(KeepOrNew::New) => false,
        None => original,
    };
    if keep_id && let Some(vm) = facts.vms.iter().find(|vm| vm.id == point.vm.id) {
        return Err(Refusal::VmExists {
            id: vm.id,
            name: vm.name.clone(),
            host: facts.name.clone(),
        });
    }
    let name = names::vm_name(point, wish, facts.now);
    if facts
        .vms
        .iter()
        .any(|vm| vm.name.to_lowercase() == name.to_lowercase())
    {
        return Err(Refusal::NameTaken {
            name,
            host: facts.name.clone(),
        });
    }
    let has_configuration = point.files.iter().any(FileImage::is_own_config);
    if keep_id && !has_configuration {
        return Err(Refusal::NoConfiguration);
    }
    let route = if keep_id {
        Route::Import { keep_id: true }
    } else if has_configuration && point.host.id == facts.id {
        Route::Import { keep_id: false }
    } else {
        Route::Define
    };
    for unsupported in &point.unsupported {
        warnings.push(format!("not in the recovery point: {}", unsupported.what));
    }
    for excluded in &point.excluded {
        warnings.push(format!(
            "disk {} ({}) was excluded from the backup: its slot is left out",
            excluded.path, excluded.slot
        ));
    }
    if keeps_checkpoints(point, facts) {
        warnings.push(format!(
            "{} checkpoints were merged into their disks: this version does not bring checkpoints back",
            point.checkpoints.len()
        ));
    }
    let nics = plan_nics(point, wish, facts, original, warnings)?;
    let start = match wish.power {
        PowerAfter::Off => false,
        PowerAfter::On => true,
        PowerAfter::AsBefore => point.power == PowerState::Running,
    };
    let config_folder = names::config_folder(point, wish, facts, &name)?;
    Ok(VmPlan {
        route,
        id: keep_id.then_some(point.vm.id),
        name,
        config_folder,
        nics,
        keep_mac,
        start,
    })
}

/// Whether this point would come back with its checkpoints on this host (S19): VSS method, no disk left out, same host.
fn keeps_checkpoints(point: &RecoveryPoint, facts: &HostFacts) -> bool {
    point.method == Method::Vss
        && point.excluded.is_empty()
        && point.host.id == facts.id
        && !point.checkpoints.is_empty()
}

/// Connects each adapter: at the original location to its own switch where the host has it, elsewhere only as mapped.
fn plan_nics(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    original: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<NicPlan>, Refusal> {
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    for map in &wish.networks {
        if !facts
            .switches
            .iter()
            .any(|switch| same(&switch.name, &map.to))
        {
            let known = facts
                .switches
                .iter()
                .map(|switch| switch.name.clone())
                .collect();
            return Err(Refusal::NoSuchSwitch {
                switch: map.to.clone(),
                known,
                host: facts.name.clone(),
            });
        }
        let sources = || point.vm.nics.iter().filter_map(|nic| nic.switch.as_ref());
        if !sources().any(|switch| same(&switch.name, &map.from)) {
            let known = sources().map(|switch| switch.name.clone()).collect();
            return Err(Refusal::NoSuchSource {
                switch: map.from.clone(),
                known,
            });
        }
    }
    let connect = |nic: &Nic, warnings: &mut Vec<String>| {
        let was = nic.switch.as_ref()?;
        if let Some(map) = wish.networks.iter().find(|map| same(&map.from, &was.name)) {
            return Some(map.to.clone());
        }
        if !original {
            return None;
        }
        let found = facts
            .switches
            .iter()
            .find(|switch| switch.id == was.id || same(&switch.name, &was.name));
        if found.is_none() {
            warnings.push(format!(
                "adapter {:?} stays disconnected: host {} has no switch {:?}",
                nic.name, facts.name, was.name
            ));
        }
        found.map(|switch| switch.name.clone())
    };
    Ok(point
        .vm
        .nics
        .iter()
        .map(|nic| NicPlan {
            nic: nic.clone(),
            switch: connect(nic, warnings),
        })
        .collect())
}

fn plan_disks(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    keep_ids: bool,
) -> Result<Vec<DiskPlan>, Refusal> {
    let targets = names::disk_targets(point, wish, facts)?;
    Ok(targets
        .into_iter()
        .map(|target| DiskPlan {
            disk: target.disk.id,
            source_path: target.disk.path.to_owned(),
            new_disk_id: !keep_ids,
            fixed: target.disk.fixed,
            needed_bytes: space::chain_bytes(&target.disk, &target.chain, &target.path),
            target_path: target.path,
            chain: target.chain,
        })
        .collect())
}

/// Refuses paths that are in use; returns those that are moved aside at the original location.
fn check_paths(
    wish: &RestoreWish,
    facts: &HostFacts,
    disks: &[DiskPlan],
) -> Result<Vec<String>, Refusal> {
    let mut park: Vec<String> = Vec::new();
    let written = disks.iter().flat_map(|disk| {
        let files = disk.chain.iter().map(|file| &file.target_path);
        files.chain([&disk.target_path])
    });
    for path in written {
        if park.contains(path) {
            continue;
        }
        let user = facts
            .vms
            .iter()
            .find(|vm| vm.files.iter().any(|file| host_path::same(file, path)));
        let exists = facts
            .existing
            .iter()
            .any(|file| host_path::same(file, path));
        let own_place = wish.target == RestoreTarget::Original
            && wish.scope == RestoreScope::Vm
            && wish.folder.is_none();
        match user {
            None if !exists => {}
            None if own_place => park.push(path.clone()),
            user => {
                let vm = user.map(|vm| vm.name.clone());
                return Err(Refusal::PathTaken {
                    path: path.clone(),
                    vm,
                    host: facts.name.clone(),
                });
            }
        }
    }
    Ok(park)
}

#[cfg(test)]
mod tests;
