//! Room a restore needs, per volume (S12).

use std::fmt;

use model::{DiskSource, FileImage, HumanBytes, KIB, MIB, RecoveryPoint, host_path};

use super::{ChainFilePlan, DiskPlan, Findings, HostFacts, Refusal, TreeFilePlan};

/// What a volume must have free, and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeNeed {
    /// Mount path.
    pub path: String,
    /// Bytes the restore writes there at most.
    pub needed_bytes: u64,
    /// Free bytes.
    pub available_bytes: u64,
    /// Bytes that must stay free.
    pub reserve_bytes: u64,
}

impl VolumeNeed {
    /// Whether writing would touch the reserve.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.needed_bytes.saturating_add(self.reserve_bytes) > self.available_bytes
    }
}

impl fmt::Display for VolumeNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: needs {} bytes ({}) and {} bytes ({}) kept free, {} bytes ({}) available",
            self.path,
            self.needed_bytes,
            HumanBytes(self.needed_bytes),
            self.reserve_bytes,
            HumanBytes(self.reserve_bytes),
            self.available_bytes,
            HumanBytes(self.available_bytes),
        )
    }
}

/// Room for configuration files, where the point does not tell more.
const CONFIG_BYTES: u64 = 16 * MIB;

/// Returns the bytes the VHDX of a disk takes at most: content, block allocation table, headers, log and metadata.
pub(super) fn file_bytes(disk: &DiskSource<'_>) -> u64 {
    let block = u64::from(disk.block_bytes.max(1));
    let blocks = disk.size_bytes.div_ceil(block);
    let table = blocks
        .saturating_mul(8)
        .saturating_add(64 * KIB)
        .div_ceil(MIB)
        .saturating_mul(MIB);
    let content = if disk.fixed {
        blocks.saturating_mul(block)
    } else {
        disk.allocated_bytes
    };
    content.saturating_add(table).saturating_add(4 * MIB)
}

/// Returns the bytes a chain takes at most until it is one file: its files, and what its root takes in from the others
/// before they are removed.
pub(super) fn chain_bytes(disk: &DiskSource<'_>, chain: &[ChainFilePlan], path: &str) -> u64 {
    let all = chain
        .iter()
        .map(|file| file.file_bytes)
        .fold(0, u64::saturating_add);
    let Some((root, others)) = chain.split_last() else {
        return file_bytes(disk);
    };
    let peak = if !host_path::same(&root.target_path, path) {
        // It is copied into a new file.
        file_bytes(disk)
    } else if disk.fixed {
        0
    } else {
        let taken_in = others
            .iter()
            .map(|file| file.file_bytes)
            .fold(0, u64::saturating_add);
        taken_in.min(file_bytes(disk))
    };
    all.saturating_add(peak)
}

/// Sums the need of each volume the plan writes to; refuses paths on no volume, and volumes that are too small.
pub(super) fn needs(
    facts: &HostFacts,
    disks: &[DiskPlan],
    tree: &[TreeFilePlan],
    config_folder: Option<&str>,
    point: &RecoveryPoint,
    found: &mut Findings,
) -> Vec<VolumeNeed> {
    let config_bytes = point
        .files
        .iter()
        .filter(|file| !FileImage::is_disk(file))
        .map(|file| file.image.len)
        .fold(0, u64::saturating_add)
        .max(CONFIG_BYTES);
    let disk_writes = disks
        .iter()
        .filter(|_| tree.is_empty())
        .map(|disk| (disk.target_path.as_str(), disk.needed_bytes));
    let tree_writes = tree
        .iter()
        .map(|file| (file.target_path.as_str(), file.file_bytes));
    let writes = disk_writes
        .chain(tree_writes)
        .chain(config_folder.map(|folder| (folder, config_bytes)));
    let mut needs: Vec<VolumeNeed> = Vec::new();
    for (path, bytes) in writes {
        let Some(volume) = facts.volume_of(path) else {
            found.refuse(Refusal::NoVolume {
                path: path.to_owned(),
                host: facts.name.clone(),
            });
            continue;
        };
        match needs
            .iter_mut()
            .find(|need| host_path::same(&need.path, &volume.path))
        {
            Some(need) => need.needed_bytes = need.needed_bytes.saturating_add(bytes),
            None => needs.push(VolumeNeed {
                path: volume.path.clone(),
                needed_bytes: bytes,
                available_bytes: volume.free_bytes,
                reserve_bytes: facts.reserve.bytes(volume.capacity_bytes),
            }),
        }
    }
    let short: Vec<VolumeNeed> = needs
        .iter()
        .filter(|need| need.is_short())
        .cloned()
        .collect();
    if !short.is_empty() {
        found.refuse(Refusal::NotEnoughSpace { short });
    }
    needs
}
