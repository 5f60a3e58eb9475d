//! A swap taken back from the journal: files return, the VM is registered from its kept definition, its power is as it
//! was. Each step looks what is there first, so it can run again from any point on.

use std::sync::Arc;

use hyperv::ErrorKind;
use model::{PowerState, VmId, host_path};

use super::moves::rename;
use super::rehearse::bring_checkpoints;
use super::{Definition, Swap};
use crate::errors::{files_error, host_error, task_error};
use crate::job::JobError;
use crate::journal::{Deed, Entries};
use crate::worker::Shared;

/// Turns off what a swap has registered, so that its files can be moved. A VM of that id before the swap is not meant:
/// then its registration is no deed yet, or no longer.
pub(in crate::restore) async fn silence(
    shared: &Arc<Shared>,
    entries: &Entries,
) -> Result<(), JobError> {
    let swapped = entries
        .deeds
        .iter()
        .position(|deed| matches!(deed, Deed::Swap(_)));
    let after = entries.deeds.get(swapped.unwrap_or(usize::MAX)..);
    let registered = after.unwrap_or_default().iter().find_map(|deed| {
        if let Deed::Register { id, .. } = deed {
            *id
        } else {
            None
        }
    });
    let Some(vm) = registered else { return Ok(()) };
    match shared.host.turn_off(vm).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(host_error),
    }
}

/// Destroys planned VMs that were imported as a trial.
pub(in crate::restore) async fn destroy_trials(
    shared: &Arc<Shared>,
    folder: &str,
    before: &[VmId],
) -> Result<(), JobError> {
    let host = &shared.host;
    for planned in host.planned_vms().await.map_err(host_error)? {
        if before.contains(&planned.id) {
            continue;
        }
        let config = host.planned_config(planned.id).await.map_err(host_error)?;
        let below = |path: &str| host_path::is_below(path, folder);
        if config.config_root.as_deref().is_some_and(below)
            || config.disks().any(|(_, _, path)| below(path))
        {
            host.destroy_planned(planned.id).await.map_err(host_error)?;
        }
    }
    Ok(())
}

/// Gives a VM that made room its place back.
pub(in crate::restore) async fn bring_back(
    shared: &Arc<Shared>,
    swap: &Swap,
) -> Result<(), JobError> {
    let files = Arc::clone(&shared.files);
    let moves = swap.files.clone();
    let returning = tokio::task::spawn_blocking(move || {
        for file in &moves {
            // Names are never taken over: what is in both places is not the same file, and stays where it is.
            let away = files.stat(&file.to).map_err(files_error)?.is_some();
            if away && files.stat(&file.from).map_err(files_error)?.is_none() {
                rename(&files, &file.to, &file.from)?;
            }
        }
        Ok::<_, JobError>(())
    });
    returning.await.map_err(task_error)??;
    register(shared, swap.vm, &swap.definition, |_| None)
        .await
        .map_err(|error| by_hand(swap, error))
}

/// Registers a VM from its definition with its id, where it is not registered. `moved` gives disks other paths.
pub(in crate::restore) async fn register(
    shared: &Arc<Shared>,
    vm: VmId,
    definition: &Definition,
    moved: impl Fn(&str) -> Option<String>,
) -> Result<(), JobError> {
    let host = &shared.host;
    match host.power(vm).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(host_error(error)),
    }
    // What an attempt before this one has left.
    host.destroy_planned(vm).await.map_err(host_error)?;
    let planned = host
        .import_definition(&definition.file, None, false)
        .await
        .map_err(host_error)?;
    if planned.id != vm {
        host.destroy_planned(planned.id).await.map_err(host_error)?;
        let message = format!(
            "the host imported the definition of VM {vm} as {}",
            planned.id
        );
        return Err(JobError::transient("host-protocol", message));
    }
    bring_checkpoints(shared, vm, definition).await?;
    host.move_planned_disks(vm, moved)
        .await
        .map_err(host_error)?;
    host.place_planned(vm, &definition.folders())
        .await
        .map_err(host_error)?;
    host.validate_planned(vm).await.map_err(host_error)?;
    host.realize_planned(vm).await.map(drop).map_err(host_error)
}

/// Says what a person can do where the VM cannot be registered.
fn by_hand(swap: &Swap, error: JobError) -> JobError {
    let message = format!(
        "VM {:?} ({}) has its files back and could not be registered: {error}; its definition is {}",
        swap.name, swap.vm, swap.definition.file
    );
    JobError::transient("vm-unregistered", message).hint(format!(
        "the agent tries again; by hand: Import-VM -Path '{}'",
        swap.definition.file
    ))
}

/// Gives a VM the power it had.
pub(in crate::restore) async fn power_as_before(
    shared: &Arc<Shared>,
    vm: VmId,
    power: PowerState,
) -> Result<(), JobError> {
    let host = &shared.host;
    let result = match power {
        PowerState::Off | PowerState::Saved | PowerState::Unknown => return Ok(()),
        PowerState::Running | PowerState::Changing => host.start(vm).await,
        PowerState::Paused => match host.start(vm).await {
            Ok(()) => host.pause_vm(vm).await,
            result => result,
        },
    };
    match result {
        // Whoever removed it does not want it to run.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(host_error),
    }
}
