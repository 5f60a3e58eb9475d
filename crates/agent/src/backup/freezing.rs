//! What the VSS method decides about a VM before and after its shadow copies are made: what is refused, which files count,
//! what consistency comes of it. Values only; nothing is asked of the host here.

use std::collections::BTreeSet;

use hyperv::{ConfigPlace, DiskFormat, VmDisk, VmFacts, VmFiles, VolumeFacts};
use model::{Consistency, host_path};

use crate::job::JobError;

/// How a VM is treated while shadow copies are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It is off or saved.
    Offline,
    /// Somebody has paused it.
    WasPaused,
    /// It runs on one volume.
    Running,
    /// It is paused meanwhile.
    Pause,
    /// It is saved meanwhile.
    Save,
}

impl Manner {
    /// Whether its memory is saved (`true`) or held (`false`), where we do either.
    pub(super) fn hold(self) -> Option<bool> {
        match self {
            Manner::Pause => Some(false),
            Manner::Save => Some(true),
            Manner::Offline | Manner::WasPaused | Manner::Running => None,
        }
    }

    pub(super) fn holds(self) -> bool {
        self.hold().is_some()
    }

    pub(super) fn consistency(self, volumes: &[VolumeFacts]) -> (Consistency, Option<String>) {
        let crash = |how: &str| {
            let note = format!("{how}; the guest took no part: its disks are as after a power cut");
            (Consistency::Crash, Some(note))
        };
        match self {
            Manner::Offline => (Consistency::Offline, None),
            Manner::WasPaused => crash("shadow copies of a paused VM"),
            Manner::Running => crash("a shadow copy of one volume under a running VM"),
            Manner::Pause => crash(&format!(
                "the VM was paused while shadow copies of {} were made",
                names(volumes)
            )),
            Manner::Save => crash(&format!(
                "the VM was saved while shadow copies of {} were made",
                names(volumes)
            )),
        }
    }
}

/// Refuses what cannot be read or kept, while nothing has been changed.
pub(super) fn check(files: &VmFiles, vm: &VmFacts, excluded: &[VmDisk]) -> Result<(), JobError> {
    for disk in &files.disks {
        let place = format!("disk {} at {}", disk.path, disk.slot);
        check_chain(&place, disk.problem.as_deref(), &disk.chain)?;
    }
    for branch in &files.branches {
        let place = format!("disk {} of checkpoint {:?}", branch.path, branch.checkpoint);
        check_chain(&place, branch.problem.as_deref(), &branch.chain)?;
    }
    let is_out = |what: &str| excluded.iter().any(|disk| what.contains(&disk.path));
    let shared = vm
        .summary
        .unsupported
        .iter()
        .find(|item| hyperv::unsupported::blocks_checkpoint(&item.code) && !is_out(&item.what));
    match shared {
        None => Ok(()),
        Some(shared) => Err(JobError::failed(
            "shared-disk",
            format!(
                "VM {:?} cannot be backed up: {}",
                vm.summary.config.name, shared.what
            ),
        )
        .hint("exclude the disk, or back it up from inside the guest")),
    }
}

fn check_chain(
    place: &str,
    problem: Option<&str>,
    chain: &[hyperv::DiskFile],
) -> Result<(), JobError> {
    const HINT: &str = "repair or detach the disk, or exclude it with `reprise vm exclude`; delete a checkpoint that is broken";
    if let Some(problem) = problem {
        let message = format!("{place} cannot be read: {problem}");
        return Err(JobError::failed("disk-unreadable", message).hint(HINT));
    }
    for file in chain {
        match file.format {
            DiskFormat::Vhd | DiskFormat::Vhdx => {}
            DiskFormat::VhdSet | DiskFormat::Unknown => {
                let message = format!(
                    "{place} has a file of a format that is not kept: {}",
                    file.path
                );
                return Err(JobError::failed("disk-format", message).hint(HINT));
            }
        }
    }
    Ok(())
}

pub(super) fn no_config(place: &ConfigPlace) -> JobError {
    let of = match &place.checkpoint {
        Some(id) => format!("checkpoint {id}"),
        None => "the VM".to_owned(),
    };
    let looked: Vec<String> = place
        .places
        .iter()
        .map(|place| host_path::join(&place.root, &place.file))
        .collect();
    let message = format!(
        "the configuration of {of} was not found at {}",
        looked.join(" or ")
    );
    JobError::failed("configuration-missing", message)
        .hint("look whether the path map covers the VM's configuration folders")
}

/// Every path that must be on a shadow copy.
pub(super) fn paths(files: &VmFiles) -> BTreeSet<String> {
    let chains = files
        .disks
        .iter()
        .map(|disk| &disk.chain)
        .chain(files.branches.iter().map(|branch| &branch.chain));
    let disks = chains.flatten().map(|file| file.path.clone());
    let configs = files
        .configs
        .iter()
        .flat_map(|config| &config.places)
        .map(|place| host_path::join(&place.root, place.file.trim_start_matches('\\')));
    disks.chain(configs).collect()
}

/// What must be the same before and after: which files there are and how they hang together, not how large they are.
pub(super) fn layout(files: &VmFiles) -> BTreeSet<(String, String)> {
    let key = |path: &str| host_path::key(path);
    let mut all = BTreeSet::new();
    for (name, chain) in files
        .disks
        .iter()
        .map(|disk| (disk.attachment.clone(), &disk.chain))
        .chain(
            files
                .branches
                .iter()
                .map(|branch| (key(&branch.path), &branch.chain)),
        )
    {
        let chain: Vec<String> = chain.iter().map(|file| key(&file.path)).collect();
        all.insert((name, chain.join("|")));
    }
    let configs = files.configs.iter();
    all.extend(
        configs.map(|config| (config.checkpoint.clone().unwrap_or_default(), String::new())),
    );
    all
}

pub(super) fn names(volumes: &[VolumeFacts]) -> String {
    let paths: Vec<&str> = volumes.iter().map(|volume| volume.path.as_str()).collect();
    paths.join(", ")
}
