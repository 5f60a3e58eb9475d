//! What a restore moves, and how long that takes.

use model::{DiskSource, FileImage, RecoveryPoint};

use super::{
    ChainFilePlan, DiskPlan, HostFacts, RestoreKind, Route, SeedOnHost, TreeFilePlan, seeds,
};

/// What comes over the wire, and what need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedBytes {
    /// Bytes that come from the store, before compression: at most, where nothing is reused.
    pub fetch_bytes: u64,
    /// Bytes taken from what the host already has: an estimate, from what the seeds hold.
    pub reuse_bytes: u64,
    /// Bytes of the disks that hold nothing: neither stored nor sent.
    pub hole_bytes: u64,
}

impl PlannedBytes {
    /// Returns the bytes that are written, wherever they come from.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.fetch_bytes.saturating_add(self.reuse_bytes)
    }
}

/// How many bytes a second a restore brings, from the first byte fetched to the last one read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes fetched or reused in a second.
    pub bytes_per_sec: u64,
    /// Where the figure comes from.
    pub basis: RateBasis,
}

/// Where a rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateBasis {
    /// An earlier restore on this host.
    Measured,
    /// Nothing was measured; a cautious figure.
    Assumed,
}

/// How long a restore takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Seconds.
    pub seconds: u64,
    /// Bytes it was computed from.
    pub bytes: u64,
    /// Rate it was computed from.
    pub rate: Rate,
}

/// Returns the bytes that come for a disk at most.
pub(super) fn fetched(disk: &DiskSource<'_>, chain: &[ChainFilePlan]) -> u64 {
    if chain.is_empty() {
        return disk.allocated_bytes.min(disk.size_bytes);
    }
    chain
        .iter()
        .map(|file| file.file_bytes)
        .fold(0, u64::saturating_add)
}

/// Sums what the disks and, where the host imports it, the configuration need.
pub(super) fn planned(
    point: &RecoveryPoint,
    kind: &RestoreKind,
    disks: &[DiskPlan],
    tree: &[TreeFilePlan],
    seeds: &[SeedOnHost],
) -> PlannedBytes {
    let imports = kind.vm().is_some_and(|vm| match vm.route {
        Route::Import { .. } => true,
        Route::Define => false,
    });
    let comes = |file: &&FileImage| {
        imports && !file.is_disk() && (file.checkpoint.is_none() || !tree.is_empty())
    };
    let config = point.files.iter().filter(comes);
    let config = config.map(|file| file.image.len);
    let disk_bytes = disks.iter().filter(|_| tree.is_empty());
    let fetch = disk_bytes
        .map(|disk| disk.fetch_bytes)
        .chain(tree.iter().map(|file| file.file_bytes))
        .chain(config);
    let holes = point
        .disk_sources()
        .filter(|source| disks.iter().any(|disk| disk.disk == source.id))
        .map(|source| source.size_bytes.saturating_sub(source.allocated_bytes));
    let all = fetch.fold(0, u64::saturating_add);
    let reuse_bytes = seeds::reusable(disks, seeds).min(all);
    PlannedBytes {
        fetch_bytes: all - reuse_bytes,
        reuse_bytes,
        hole_bytes: holes.fold(0, u64::saturating_add),
    }
}

/// Returns how long it takes to bring these bytes, where a rate is known.
pub(super) fn estimate(bytes: &PlannedBytes, facts: &HostFacts) -> Option<Estimate> {
    let rate = facts.rate.filter(|rate| rate.bytes_per_sec > 0)?;
    // What is reused is read, written and read back all the same.
    let moved = bytes.moved();
    Some(Estimate {
        seconds: moved.div_ceil(rate.bytes_per_sec),
        bytes: moved,
        rate,
    })
}
