//! Names and paths of what a restore makes.

use std::collections::BTreeSet;

use model::{
    DiskSource, FileImage, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, Timestamp,
    host_path,
};

use super::checkpoints::come_back;
use super::{ChainFilePlan, Findings, HostFacts, Refusal, TreeFilePlan, on_vm};

/// Returns the paths whose existence a plan must know: where the files of this wish would be written.
///
/// `facts` needs no [`existing`](HostFacts::existing) for this. Paths that cannot be used are left out: the plan refuses
/// them by name.
#[must_use]
pub fn wanted_paths(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> Vec<String> {
    let mut paths = Vec::new();
    let tree = tree_targets(point, wish, facts).unwrap_or_default();
    paths.extend(tree.iter().map(|file| file.target_path.clone()));
    for target in disk_targets(point, wish, facts, &tree, &mut Findings::default()) {
        for file in target.chain {
            if !host_path::same(&file.target_path, &target.path) {
                paths.push(file.target_path);
            }
        }
        paths.push(target.path);
    }
    paths.extend(on_vm::final_paths(point, wish, facts));
    paths
}

/// Returns the display name of the restored VM.
pub(super) fn vm_name(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> String {
    match (&wish.name, &wish.target) {
        (Some(name), _) => name.clone(),
        (None, RestoreTarget::Original) => point.vm.name.clone(),
        (None, RestoreTarget::Alternate { .. }) => {
            // Hyper-V takes at most 100 characters.
            let name: String = point.vm.name.chars().take(75).collect();
            format!("{name}-restored-{}", minute(moment(wish, facts)))
        }
    }
}

/// Returns `yyyymmdd-hhmmss` of the moment that default names are made from, in UTC.
pub(super) fn second_of(wish: &RestoreWish, facts: &HostFacts) -> String {
    digits(moment(wish, facts), 14)
}

/// Returns the moment that default names are made from: a plan that is carried out later keeps its names.
fn moment(wish: &RestoreWish, facts: &HostFacts) -> Timestamp {
    wish.named_at.unwrap_or(facts.now)
}

/// Returns `yyyymmdd-hhmm` of a moment, in UTC.
fn minute(now: Timestamp) -> String {
    digits(now, 12)
}

/// Returns so many digits of a moment, its day apart from its time.
fn digits(now: Timestamp, count: usize) -> String {
    let digits: String = now
        .to_string()
        .chars()
        .filter(char::is_ascii_digit)
        .take(count)
        .collect();
    let (day, time) = digits.split_at(digits.len().min(8));
    format!("{day}-{time}")
}

/// Returns the folder of the VM's configuration.
pub(super) fn config_folder(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    vm_name: &str,
) -> Result<String, Refusal> {
    if let Some(folder) = &wish.folder {
        return Ok(host_path::check(folder)?);
    }
    match (&wish.target, &point.vm.config_root) {
        (RestoreTarget::Original, Some(root)) => Ok(host_path::check(root)?),
        (RestoreTarget::Original | RestoreTarget::Alternate { .. }, _) => {
            let folder =
                host_path::join(&facts.default_config_folder, &host_path::name_from(vm_name));
            Ok(host_path::check(&folder)?)
        }
    }
}

/// Where a disk is written to.
pub(super) struct DiskTarget<'p> {
    pub(super) disk: DiskSource<'p>,
    /// The file it is in the end.
    pub(super) path: String,
    /// The files of its chain that are written first; empty for a flat disk.
    pub(super) chain: Vec<ChainFilePlan>,
}

/// Returns each disk of the wish with the paths it is written to. No two are the same. A disk for which there is no
/// path is refused and left out. Disks of a tree of checkpoints are its leaves.
pub(super) fn disk_targets<'p>(
    point: &'p RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    tree: &[TreeFilePlan],
    found: &mut Findings,
) -> Vec<DiskTarget<'p>> {
    let mut taken = BTreeSet::new();
    let mut targets = Vec::new();
    for disk in point.disk_sources() {
        if let RestoreScope::Disks { disks, .. } = &wish.scope
            && !disks.contains(&disk.id)
        {
            continue;
        }
        let target = match tree {
            [] => disk_target(point, wish, facts, disk, &mut taken),
            tree => leaf_target(disk, tree),
        };
        targets.extend(found.take(target));
    }
    targets
}

fn disk_target<'p>(
    point: &'p RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: DiskSource<'p>,
    taken: &mut BTreeSet<String>,
) -> Result<DiskTarget<'p>, Refusal> {
    let (folder, suffix) = match on_vm::place(point, wish, facts, &disk)? {
        Some(place) => (host_path::check(&place.folder)?, place.suffix),
        None => (disk_folder(point, wish, facts, Some(&disk))?, String::new()),
    };
    let path = free_name(&folder, disk.base_path, &suffix, ".vhdx", taken);
    let path = host_path::check(&path)?;
    let chain = chain_targets(point, &disk, &folder, &path, &suffix, taken)?;
    Ok(DiskTarget { disk, path, chain })
}

fn leaf_target<'p>(disk: DiskSource<'p>, tree: &[TreeFilePlan]) -> Result<DiskTarget<'p>, Refusal> {
    let leaf = tree
        .iter()
        .find(|file| host_path::same(&file.source_path, disk.path))
        .ok_or_else(|| incomplete(&disk, disk.path))?;
    Ok(DiskTarget {
        disk,
        path: leaf.target_path.clone(),
        chain: Vec::new(),
    })
}

fn incomplete(disk: &DiskSource<'_>, file: &str) -> Refusal {
    Refusal::IncompleteChain {
        of: format!("disk {}", disk.id),
        file: file.to_owned(),
    }
}

/// Returns where the files of a chain are written, leaf first: under their own names beside the disk. The root of a VHDX
/// chain is the disk itself in the end.
fn chain_targets(
    point: &RecoveryPoint,
    disk: &DiskSource<'_>,
    folder: &str,
    disk_path: &str,
    suffix: &str,
    taken: &mut BTreeSet<String>,
) -> Result<Vec<ChainFilePlan>, Refusal> {
    let Some(chain) = disk.chain else {
        return Ok(Vec::new());
    };
    let last = chain.files.len().saturating_sub(1);
    let mut files = Vec::new();
    for (place, source_path) in chain.files.iter().enumerate() {
        let file = point
            .file(source_path)
            .ok_or_else(|| incomplete(disk, source_path))?;
        let extension = extension(source_path);
        let target_path = if place == last && extension == ".vhdx" {
            disk_path.to_owned()
        } else {
            host_path::check(&free_name(folder, source_path, suffix, extension, taken))?
        };
        files.push(ChainFilePlan {
            source_path: source_path.clone(),
            target_path,
            file_bytes: file.image.len,
        });
    }
    Ok(files)
}

/// Returns the extension a file of a chain gets: its own where it is one of a disk.
pub(super) fn extension(path: &str) -> &'static str {
    let (_, found) = host_path::split_extension(host_path::file_name(path));
    [".vhdx", ".avhdx", ".vhd", ".avhd"]
        .into_iter()
        .find(|known| found.eq_ignore_ascii_case(known))
        .unwrap_or(".file")
}

/// Whether every file comes back where it was.
pub(super) fn in_place(wish: &RestoreWish) -> bool {
    wish.target == RestoreTarget::Original && wish.folder.is_none() && wish.disk_folders.is_empty()
}

/// Returns every disk file of a point whose checkpoints come back, with the path it is written to, parents before
/// children: at its own place, or beside the disk it belongs to. Empty where they do not.
pub(super) fn tree_targets(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Result<Vec<TreeFilePlan>, Refusal> {
    if !come_back(point, wish, facts) {
        return Ok(Vec::new());
    }
    let mut left: Vec<&FileImage> = point.files.iter().filter(|file| file.is_disk()).collect();
    let (mut tree, mut taken) = (Vec::<TreeFilePlan>::new(), BTreeSet::new());
    while !left.is_empty() {
        let before = left.len();
        let mut waiting = Vec::new();
        for file in left {
            let parent = file.disk.as_ref().and_then(|facts| facts.parent.as_deref());
            let place = parent.map(|parent| {
                tree.iter()
                    .position(|there| host_path::same(&there.source_path, parent))
            });
            let Some(parent) = place.map_or(Some(None), |place| place.map(Some)) else {
                waiting.push(file);
                continue;
            };
            let own = host_path::parent(&file.path).filter(|_| in_place(wish));
            let folder = match own {
                Some(own) => host_path::check(own)?,
                None => disk_folder(point, wish, facts, disk_of(point, file).as_ref())?,
            };
            let name = free_name(&folder, &file.path, "", extension(&file.path), &mut taken);
            tree.push(TreeFilePlan {
                source_path: file.path.clone(),
                target_path: host_path::check(&name)?,
                file_bytes: file.image.len,
                parent,
            });
        }
        if waiting.len() == before {
            let orphan = waiting[0];
            let parent = orphan.disk.as_ref().and_then(|facts| facts.parent.clone());
            return Err(Refusal::IncompleteChain {
                of: orphan.path.clone(),
                file: parent.unwrap_or_default(),
            });
        }
        left = waiting;
    }
    Ok(tree)
}

/// Returns the disk that a file belongs to: the one whose chain holds it, or the file it hangs on; `None` where the VM has
/// no such disk any more.
fn disk_of<'p>(point: &'p RecoveryPoint, file: &FileImage) -> Option<DiskSource<'p>> {
    let mut path = file.path.as_str();
    let mut found = None;
    // A path that leads in a circle ends with the number of files.
    for _ in 0..=point.files.len() {
        let holds = |disk: &DiskSource<'_>| {
            let files = disk.chain.iter().flat_map(|chain| &chain.files);
            files.into_iter().any(|of| host_path::same(of, path))
        };
        found = point.disk_sources().find(holds);
        let parent = || point.file(path)?.disk.as_ref()?.parent.as_deref();
        match (found, parent()) {
            (None, Some(parent)) => path = parent,
            (Some(_), _) | (None, None) => break,
        }
    }
    found
}

/// Returns the folder of a disk; without a disk, that of files no disk of the VM goes back to.
fn disk_folder(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    disk: Option<&DiskSource<'_>>,
) -> Result<String, Refusal> {
    let own = |disk: &&DiskSource<'_>| wish.disk_folders.iter().find(|own| own.disk == disk.id);
    if let Some(own) = disk.as_ref().and_then(own) {
        return Ok(host_path::check(&own.folder)?);
    }
    if let Some(folder) = &wish.folder {
        return Ok(host_path::check(folder)?);
    }
    let original = wish.target == RestoreTarget::Original && wish.scope == RestoreScope::Vm;
    if original && let Some(folder) = disk.and_then(|disk| host_path::parent(disk.base_path)) {
        return Ok(host_path::check(folder)?);
    }
    let name = match wish.scope {
        RestoreScope::Vm => vm_name(point, wish, facts),
        RestoreScope::Disks { .. } => {
            let minute = minute(moment(wish, facts));
            format!("{}-disks-{minute}", point.vm.name)
        }
    };
    let folder = host_path::join(&facts.default_disk_folder, &host_path::name_from(&name));
    Ok(host_path::check(&folder)?)
}

/// Keeps the file's own name with this suffix and extension, numbered where another file of this restore has it.
fn free_name(
    folder: &str,
    own: &str,
    suffix: &str,
    extension: &str,
    taken: &mut BTreeSet<String>,
) -> String {
    let (stem, _) = host_path::split_extension(host_path::file_name(own));
    let stem = host_path::name_from(&format!("{stem}{suffix}"));
    let mut path = host_path::join(folder, &format!("{stem}{extension}"));
    let mut number = 2;
    while !taken.insert(host_path::key(&path)) {
        path = host_path::join(folder, &format!("{stem}-{number}{extension}"));
        number += 1;
    }
    path
}
