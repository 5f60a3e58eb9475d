//! Trials: a definition is imported under another id, checked by the host, and removed again.

use std::sync::Arc;

use hyperv::Folders;
use model::{VmId, host_path};

use super::{Definition, MovedAside};
use crate::errors::host_error;
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

/// A trial of a VM's definition.
pub(in crate::restore) struct Trial<'a> {
    pub(in crate::restore) shared: &'a Arc<Shared>,
    pub(in crate::restore) context: &'a Arc<JobContext>,
    pub(in crate::restore) journal: &'a Arc<Journal>,
    /// A folder of ours that holds the definition; the trial has its configuration there.
    pub(in crate::restore) folder: String,
    /// The VM's name, for messages.
    pub(in crate::restore) name: &'a str,
}

impl Trial<'_> {
    /// Imports a definition under another id.
    pub(in crate::restore) async fn begin(&self, file: &str) -> Result<VmId, JobError> {
        let host = &self.shared.host;
        let before = host.planned_vms().await.map_err(host_error)?;
        self.context.check()?;
        self.journal.will(Deed::Rehearse {
            folder: self.folder.clone(),
            before: before.iter().map(|vm| vm.id).collect(),
        })?;
        let planned = host
            .import_definition(file, None, true)
            .await
            .map_err(host_error)?;
        self.journal.boundary();
        Ok(planned.id)
    }

    /// Lets the host check what was imported and prepared, and removes it. `spread`: a chain whose files lie in several
    /// folders finds its parents only where they belong, so that what the host says of it is no verdict.
    pub(in crate::restore) async fn end(
        &self,
        planned: VmId,
        prepared: Result<(), JobError>,
        spread: bool,
    ) -> Result<(), JobError> {
        let host = &self.shared.host;
        let checked = match prepared {
            Ok(()) => host.validate_planned(planned).await.map_err(host_error),
            Err(error) => Err(error),
        };
        let removed = host.destroy_planned(planned).await.map_err(host_error);
        self.journal.boundary();
        match checked {
            Err(error) if spread => {
                self.context.note(format!(
                    "the trial of VM {:?} says little, as files of one disk lie in several folders: {error}",
                    self.name
                ));
                removed
            }
            checked => checked.and(removed),
        }
    }

    /// Tries a kept definition with the kept files where they are now. Disks that stay belong to a VM: they are left out,
    /// and so are checkpoints that hold one (`with_checkpoints`).
    pub(in crate::restore) async fn kept(
        &self,
        definition: &Definition,
        files: &[MovedAside],
        stays: impl Fn(&str) -> bool,
        with_checkpoints: bool,
    ) -> Result<(), JobError> {
        let planned = self.begin(&definition.file).await?;
        let mut tried = definition.clone();
        tried.checkpoints = tried.checkpoints.filter(|_| with_checkpoints);
        let prepared = self.prepare_kept(planned, &tried, files, stays).await;
        self.end(
            planned,
            prepared,
            spread(files.iter().map(|file| file.from.as_str())),
        )
        .await
    }

    async fn prepare_kept(
        &self,
        planned: VmId,
        definition: &Definition,
        files: &[MovedAside],
        stays: impl Fn(&str) -> bool,
    ) -> Result<(), JobError> {
        let host = &self.shared.host;
        let moved = |path: &str| {
            let file = files
                .iter()
                .find(|file| host_path::same(&file.from, path))?;
            Some(file.to.clone())
        };
        host.drop_planned_disks(planned, |path| stays(path) && moved(path).is_none())
            .await
            .map_err(host_error)?;
        bring_checkpoints(self.shared, planned, definition).await?;
        host.move_planned_disks(planned, moved)
            .await
            .map_err(host_error)?;
        let folders = Folders {
            config: self.folder.clone(),
            ..Folders::default()
        };
        host.place_planned(planned, &folders)
            .await
            .map_err(host_error)
    }
}

/// Brings the checkpoints of a kept definition in.
pub(super) async fn bring_checkpoints(
    shared: &Arc<Shared>,
    planned: VmId,
    definition: &Definition,
) -> Result<(), JobError> {
    let host = &shared.host;
    match &definition.checkpoints {
        Some(folder) => {
            let came = host.import_checkpoints(planned, folder).await;
            came.map(drop).map_err(host_error)
        }
        None => host
            .drop_planned_checkpoints(planned)
            .await
            .map_err(host_error),
    }
}

/// Whether files of chains lie in several folders.
pub(in crate::restore) fn spread<'p>(paths: impl Iterator<Item = &'p str>) -> bool {
    let mut folders: Vec<&str> = Vec::new();
    let mut chained = false;
    for path in paths {
        let name = path.to_lowercase();
        chained |= name.ends_with(".avhdx") || name.ends_with(".avhd");
        if let Some(folder) = host_path::parent(path)
            && !folders.iter().any(|there| host_path::same(there, folder))
        {
            folders.push(folder);
        }
    }
    chained && folders.len() > 1
}
