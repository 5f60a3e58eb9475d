//! Disks the target host has anyway, of which a restore takes what it can prove.
//!
//! What a plan says of them is an estimate: how much of a seed is what the recovery point holds is known only once it was
//! read and hashed. It is no effect: a plan that was agreed to holds whatever the seeds hold.

use model::DiskId;

use super::DiskPlan;

/// A disk or file of the host that may hold parts of the recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedOnHost {
    /// Its path; of a chain, that of the leaf.
    pub path: String,
    /// How it was found.
    pub origin: SeedOrigin,
    /// What it is.
    pub state: SeedState,
}

/// How a seed was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedOrigin {
    /// The wish names it.
    Named,
    /// It is (or was, where the VM is gone) a disk of the VM.
    OwnDisk,
    /// An earlier restore keeps it beside.
    Kept,
    /// A VM of the host has a disk of the same name and size.
    Twin,
}

/// Whether a seed can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// It can be read.
    Usable {
        /// VirtualDiskId.
        disk: DiskId,
        /// Virtual size in bytes.
        size_bytes: u64,
        /// Bytes it holds at most.
        held_bytes: u64,
    },
    /// There is no such file.
    Missing,
    /// It cannot be read, for this reason.
    Unusable(String),
}

impl SeedOrigin {
    /// Returns it as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SeedOrigin::Named => "named",
            SeedOrigin::OwnDisk => "own-disk",
            SeedOrigin::Kept => "kept",
            SeedOrigin::Twin => "twin",
        }
    }
}

impl SeedOnHost {
    /// Whether it may hold this disk at the disk's own offsets: the same virtual disk, or one of the same size.
    #[must_use]
    pub fn is_like(&self, id: DiskId, size_bytes: u64) -> bool {
        match &self.state {
            SeedState::Usable {
                disk,
                size_bytes: size,
                ..
            } => *disk == id || *size == size_bytes,
            SeedState::Missing | SeedState::Unusable(_) => false,
        }
    }

    fn held_bytes(&self) -> u64 {
        match self.state {
            SeedState::Usable { held_bytes, .. } => held_bytes,
            SeedState::Missing | SeedState::Unusable(_) => 0,
        }
    }
}

/// Estimates how much of what the disks need the seeds have: each disk as much as the fullest seed that is like it holds,
/// and what named seeds that are like none hold.
pub(super) fn reusable(disks: &[DiskPlan], seeds: &[SeedOnHost]) -> u64 {
    let like = |disk: &DiskPlan, seed: &&SeedOnHost| seed.is_like(disk.disk, disk.size_bytes);
    let own = disks.iter().map(|disk| {
        let held = seeds.iter().filter(|seed| like(disk, seed));
        let held = held.map(SeedOnHost::held_bytes).max().unwrap_or(0);
        held.min(disk.fetch_bytes)
    });
    let own = own.fold(0, u64::saturating_add);
    let others = seeds.iter().filter(|seed| {
        seed.origin == SeedOrigin::Named && !disks.iter().any(|disk| like(disk, seed))
    });
    let others = others
        .map(SeedOnHost::held_bytes)
        .fold(0, u64::saturating_add);
    let all = disks.iter().map(|disk| disk.fetch_bytes);
    own.saturating_add(others)
        .min(all.fold(0, u64::saturating_add))
}
