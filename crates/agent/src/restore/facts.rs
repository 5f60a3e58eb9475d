//! The facts a plan is made from.

use std::sync::Arc;

use plan::restore::{HostFacts, VmOnHost, Volume, wanted_paths};

use super::Restore;
use crate::clock;
use crate::errors::{files_error, host_error};
use crate::job::JobError;

impl Restore<'_> {
    /// Gathers what the plan needs to know of the host; changes nothing.
    pub(super) async fn facts(&self) -> Result<HostFacts, JobError> {
        let host = &self.shared.host;
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
                    name: vm.config.name,
                })
                .collect(),
            existing: Vec::new(),
            reserve: self.shared.options.reserve,
        };
        let mut wanted = wanted_paths(&self.work.point, &self.work.wish, &facts)?;
        // On a volume the host does not have, nothing exists; the plan refuses such a path by name.
        wanted.retain(|path| facts.volume_of(path).is_some());
        let files = Arc::clone(&self.shared.files);
        let looked = tokio::task::spawn_blocking(move || {
            let mut existing = Vec::new();
            for path in wanted {
                if files.stat(&path).map_err(files_error)?.is_some() {
                    existing.push(path);
                }
            }
            Ok::<_, JobError>(existing)
        });
        facts.existing = looked.await.map_err(crate::errors::task_error)??;
        Ok(facts)
    }
}
