//! The facts a plan is made from.

use std::sync::Arc;

use model::{MIB, RecoveryPoint, RestoreWish, host_path};
use plan::restore::{
    HostFacts, Rate, RateBasis, VmElsewhere, VmOnHost, Volume, wanted_paths, wanted_vm,
};

use super::kept::Leftovers;
use super::target_vm;
use super::{seeds, swap};
use crate::clock;
use crate::errors::{files_error, host_error};
use crate::job::JobError;
use crate::worker::Shared;

/// What a restore is taken to bring in a second before one was measured: what a network of 1 Gbit/s carries.
const ASSUMED_BYTES_PER_SEC: u64 = 100 * MIB;

/// Gathers what a plan needs to know of the host; changes nothing. What earlier attempts of the job left there does not
/// count: their data is room for this one, and what they moved aside is taken to stand where it stood.
pub(super) async fn gather(
    shared: &Shared,
    point: &RecoveryPoint,
    wish: &RestoreWish,
    elsewhere: Vec<VmElsewhere>,
    left: &Leftovers,
) -> Result<HostFacts, JobError> {
    let host = &shared.host;
    let found = host.facts().await.map_err(host_error)?;
    let vms = host.vms().await.map_err(host_error)?;
    let mut facts = HostFacts {
        id: found.id,
        name: found.name,
        now: clock::now(),
        default_disk_folder: found.default_disk_folder,
        default_config_folder: found.default_config_folder,
        volumes: found
            .volumes
            .into_iter()
            .map(|volume| Volume {
                path: volume.path,
                capacity_bytes: volume.capacity_bytes,
                free_bytes: volume.free_bytes,
            })
            .collect(),
        switches: found.switches,
        vms: vms
            .into_iter()
            .map(|vm| VmOnHost {
                id: vm.config.id,
                files: vm
                    .config
                    .disks()
                    .map(|(_, _, path)| path.to_owned())
                    .collect(),
                macs: crate::host::macs(&vm.config),
                name: vm.config.name,
            })
            .collect(),
        standing: None,
        target_vm: None,
        elsewhere,
        existing: Vec::new(),
        seeds: Vec::new(),
        reserve: shared.options.reserve,
        rate: Some(rate(shared)),
    };
    swap::standing(shared, point, wish, &mut facts).await?;
    if let Some(vm) = wanted_vm(wish)
        && facts.vms.iter().any(|known| known.id == vm)
    {
        facts.target_vm = target_vm::look(shared, vm).await?;
    }
    let mut wanted = wanted_paths(point, wish, &facts);
    // On a volume the host does not have, nothing exists; the plan refuses such a path by name.
    wanted.retain(|path| facts.volume_of(path).is_some());
    let moved = |path: &String| left.moved.iter().any(|from| host_path::same(from, path));
    let mut existing: Vec<String> = wanted.iter().filter(|path| moved(path)).cloned().collect();
    wanted.retain(|path| !moved(path) && !left.has(path));
    let volumes = facts.volumes.clone();
    for volume in &mut facts.volumes {
        let here = |path: &str| {
            let found = volumes
                .iter()
                .filter(|other| host_path::is_below(path, &other.path))
                .max_by_key(|other| other.path.len());
            found.is_some_and(|other| other.path == volume.path)
        };
        volume.free_bytes = volume.free_bytes.saturating_add(left.bytes_on(here));
    }
    let files = Arc::clone(&shared.files);
    let looked = tokio::task::spawn_blocking(move || {
        let mut existing = Vec::new();
        for path in wanted {
            if files.stat(&path).map_err(files_error)?.is_some() {
                existing.push(path);
            }
        }
        Ok::<_, JobError>(existing)
    });
    existing.extend(looked.await.map_err(crate::errors::task_error)??);
    facts.existing = existing;
    facts.seeds = seeds::find(shared, point, wish, &facts, left).await?;
    Ok(facts)
}

fn rate(shared: &Shared) -> Rate {
    match shared.restore_rate() {
        Some(bytes_per_sec) => Rate {
            bytes_per_sec,
            basis: RateBasis::Measured,
        },
        None => Rate {
            bytes_per_sec: ASSUMED_BYTES_PER_SEC,
            basis: RateBasis::Assumed,
        },
    }
}
