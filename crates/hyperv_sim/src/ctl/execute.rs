//! Control commands, carried out on an open host.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::add::add_vm;
use super::feature::add_feature;
use super::populate::populate;
use super::show::{checkpoint_info, vm_info};
use super::{
    BytesInfo, Command, CtlError, CtlErrorKind, FaultsInfo, PathInfo, PowerAction, Reply, RuleInfo,
    VmInfo, VolumeInfo,
};
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::guest;
use crate::jobs::CONTROL;
use crate::merge;
use crate::methods::{CheckpointOperation, Operation};
use crate::state::{Knobs, Power, Vm, Volume, guid};
use crate::volume;
use crate::winpath::WinPath;

/// How long a command waits for its job and the merges after it.
const PATIENCE: Duration = Duration::from_secs(600);

/// Carries out a command.
pub(crate) fn execute(
    engine: &Arc<Engine>,
    command: &Command,
    data: &mut dyn Write,
) -> Result<Reply, CtlError> {
    match command {
        Command::VmAdd(add) => {
            let id = add_vm(engine, add)?;
            Ok(Reply::Vm(vm_info(engine, &find(engine, &guid(id))?)))
        }
        Command::VmList => {
            let vms = engine.read(|state| state.vms.values().cloned().collect::<Vec<_>>());
            let mut vms: Vec<VmInfo> = vms
                .iter()
                .filter(|vm| !vm.planned)
                .map(|vm| vm_info(engine, vm))
                .collect();
            vms.sort_by(|one, two| (&one.name, &one.id).cmp(&(&two.name, &two.id)));
            Ok(Reply::Vms(vms))
        }
        Command::VmShow { vm } => Ok(Reply::Vm(vm_info(engine, &find(engine, vm)?))),
        Command::VmRemove { vm } => {
            let vm = find(engine, vm)?;
            if vm.power.holds_disks() {
                run_job(
                    engine,
                    vm.id,
                    Operation::Power {
                        vm: vm.id,
                        to: Power::Off,
                    },
                )?;
            }
            run_job(engine, vm.id, Operation::Destroy { vm: vm.id })?;
            Ok(Reply::Done)
        }
        Command::VmFeature(add) => {
            add_feature(engine, &find(engine, &add.vm)?, add)?;
            Ok(Reply::Vm(vm_info(engine, &find(engine, &add.vm)?)))
        }
        Command::VmPopulate {
            prefix,
            count,
            disks,
        } => {
            populate(engine, prefix, *count, *disks)?;
            Ok(Reply::Done)
        }
        Command::ClusterMake { name, others } => {
            engine
                .update_host(|host| {
                    host.cluster = Some(Cluster {
                        name: name.clone(),
                        others: others.clone(),
                    });
                    Ok(())
                })
                .map_err(failed)?;
            Ok(Reply::Done)
        }
        Command::Power { vm, action } => power(engine, &find(engine, vm)?, *action),
        Command::GuestWrite {
            vm,
            disk,
            offset,
            content,
        } => {
            let vm = find(engine, vm)?;
            let index = guest::select(engine, &vm, disk)?;
            let bytes = guest::write(engine, &vm, index, *offset, content)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::GuestRead {
            vm,
            disk,
            offset,
            length,
        } => {
            let vm = find(engine, vm)?;
            let index = guest::select(engine, &vm, disk)?;
            let bytes = guest::read(engine, &vm, index, *offset, *length, data)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::GuestWorkload { vm, seed, bytes } => {
            let bytes = guest::workload(engine, &find(engine, vm)?, *seed, *bytes)?;
            Ok(Reply::Bytes(BytesInfo { bytes }))
        }
        Command::CheckpointCreate { vm, name } => {
            create_checkpoint(engine, &find(engine, vm)?, name.clone())
        }
        Command::CheckpointApply { vm, checkpoint } => {
            let vm = find(engine, vm)?;
            if vm.power.holds_disks() {
                return Err(conflict(format!(
                    "{} is running; turn it off or save it first",
                    vm.name()
                )));
            }
            let checkpoint = find_checkpoint(&vm, checkpoint)?;
            change(
                engine,
                vm.id,
                CheckpointOperation::Apply {
                    id: checkpoint,
                    made: Uuid::new_v4(),
                },
            )?;
            Ok(Reply::Done)
        }
        Command::CheckpointDelete { vm, checkpoint } => {
            let vm = find(engine, vm)?;
            let checkpoint = find_checkpoint(&vm, checkpoint)?;
            change(
                engine,
                vm.id,
                CheckpointOperation::Destroy {
                    ids: vec![checkpoint],
                },
            )?;
            Ok(Reply::Done)
        }
        Command::CheckpointList { vm } => {
            let vm = find(engine, vm)?;
            Ok(Reply::Checkpoints(
                vm.checkpoints
                    .iter()
                    .map(|c| checkpoint_info(&vm, c.id))
                    .collect(),
            ))
        }
        Command::VolumeSet {
            volume,
            capacity_bytes,
        } => set_volume(engine, volume, *capacity_bytes),
        Command::FaultAdd(spec) => {
            engine
                .update_host(|host| {
                    host.faults.push(RuleInfo {
                        spec: spec.clone(),
                        hits: 0,
                    });
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::FaultList => faults(engine),
        Command::FaultClear => {
            engine
                .update_host(|host| {
                    host.faults.clear();
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::FaultSet { key, value } => {
            engine
                .update_host(|host| {
                    host.knobs = set_knob(&host.knobs, key, value)?;
                    Ok(())
                })
                .map_err(failed)?;
            faults(engine)
        }
        Command::Files { glob } => {
            let mut files = volume::files(engine);
            if let Some(glob) = glob {
                files.retain(|file| volume::fits_glob(&file.path, glob));
            }
            Ok(Reply::Files(files))
        }
        Command::Path { path } => {
            let parsed = WinPath::parse(path)
                .map_err(|err| CtlError::new(CtlErrorKind::Usage, err.to_string()))?;
            let known = engine.read(|state| match parsed.shadow_number() {
                Some(number) => state.host.shadows.iter().any(|s| s.number == number),
                None => volume::volume_of(&state.host.volumes, &parsed).is_some(),
            });
            if !known {
                return Err(not_found(format!(
                    "this host has no volume or shadow copy for {parsed}"
                )));
            }
            let local = engine.local(&parsed);
            Ok(Reply::Path(PathInfo {
                path: parsed.to_string(),
                exists: local.exists(),
                local,
            }))
        }
    }
}

fn not_found(message: String) -> CtlError {
    CtlError::new(CtlErrorKind::NotFound, message)
}

pub(super) fn conflict(message: String) -> CtlError {
    CtlError::new(CtlErrorKind::Conflict, message)
}

pub(super) fn failed(failure: Failure) -> CtlError {
    let kind = match failure.code {
        code::INVALID_PARAMETER => CtlErrorKind::Usage,
        code::INVALID_STATE | code::IN_USE => CtlErrorKind::Conflict,
        code::FILE => CtlErrorKind::NotFound,
        _ => CtlErrorKind::Failed,
    };
    CtlError::new(kind, failure.message)
}

/// Finds a VM by id, or by name where that is unique.
fn find(engine: &Engine, wanted: &str) -> Result<Vm, CtlError> {
    let by_id = Uuid::try_parse(wanted.trim_matches(['{', '}']))
        .ok()
        .and_then(|id| engine.vm(id));
    if let Some(vm) = by_id {
        return Ok(vm);
    }
    let mut named: Vec<Vm> = engine.read(|state| {
        state
            .vms
            .values()
            .filter(|vm| !vm.planned && vm.name() == wanted)
            .cloned()
            .collect()
    });
    match (named.pop(), named.len()) {
        (Some(vm), 0) => Ok(vm),
        (Some(_), more) => Err(conflict(format!(
            "{} virtual machines are called {wanted}: name one by its id",
            more + 1
        ))),
        (None, _) => Err(not_found(format!(
            "there is no virtual machine {wanted}; see `sim ctl vm list`"
        ))),
    }
}

fn find_checkpoint(vm: &Vm, wanted: &str) -> Result<Uuid, CtlError> {
    let bare = wanted.strip_prefix("Microsoft:").unwrap_or(wanted);
    let id = Uuid::try_parse(bare).ok();
    let fits = |checkpoint: &&crate::state::Checkpoint| {
        Some(checkpoint.id) == id || checkpoint.definition.vssd.text("ElementName") == wanted
    };
    let mut found = vm.checkpoints.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id),
        (Some(_), Some(_)) => Err(conflict(format!(
            "several checkpoints of {} are called {wanted}",
            vm.name()
        ))),
        (None, _) => Err(not_found(format!(
            "{} has no checkpoint {wanted}",
            vm.name()
        ))),
    }
}

fn run_job(engine: &Arc<Engine>, vm: Uuid, operation: Operation) -> Result<(), CtlError> {
    let id = engine
        .start_job(CONTROL, Some(vm), operation)
        .map_err(failed)?;
    let outcome = engine.wait_for(PATIENCE, |state| {
        state
            .jobs
            .iter()
            .find(|job| job.id == id)
            .and_then(|job| job.outcome.clone())
    });
    match outcome.map(|outcome| outcome.failure) {
        Some(None) => Ok(()),
        Some(Some((code, message))) => Err(failed(Failure::new(code, message))),
        None => Err(CtlError::new(
            CtlErrorKind::Failed,
            "the job did not end in time; it goes on in the host",
        )),
    }
}

/// Changes a VM's checkpoints, with no merge under way before or after.
pub(super) fn change(
    engine: &Arc<Engine>,
    vm: Uuid,
    operation: CheckpointOperation,
) -> Result<(), CtlError> {
    settle(engine, vm)?;
    run_job(engine, vm, Operation::Checkpoint { vm, operation })?;
    settle(engine, vm)
}

/// Waits until nothing of a VM is being merged.
fn settle(engine: &Engine, vm: Uuid) -> Result<(), CtlError> {
    let settled = engine.wait_for(PATIENCE, |state| match state.vms.get(&vm) {
        Some(vm) if merge::is_merging(vm) => None,
        Some(_) | None => Some(()),
    });
    settled.ok_or_else(|| {
        conflict("the merge did not end in time; see `sim ctl fault list`".to_owned())
    })
}

fn power(engine: &Arc<Engine>, vm: &Vm, action: PowerAction) -> Result<Reply, CtlError> {
    let to = match action {
        PowerAction::On => Power::Running,
        PowerAction::Off => Power::Off,
        PowerAction::Save => Power::Saved,
        PowerAction::Pause => Power::Paused,
    };
    if matches!(to, Power::Saved | Power::Paused) && !vm.power.holds_disks() && vm.power != to {
        return Err(conflict(format!(
            "{} is {}: it must run for that",
            vm.name(),
            vm.power.name()
        )));
    }
    if vm.power != to {
        run_job(engine, vm.id, Operation::Power { vm: vm.id, to })?;
    }
    Ok(Reply::Vm(vm_info(engine, &find(engine, &guid(vm.id))?)))
}

fn create_checkpoint(
    engine: &Arc<Engine>,
    vm: &Vm,
    name: Option<String>,
) -> Result<Reply, CtlError> {
    let id = Uuid::new_v4();
    change(
        engine,
        vm.id,
        CheckpointOperation::Create {
            id,
            recovery: false,
            application: false,
            name,
        },
    )?;
    Ok(Reply::Checkpoint(checkpoint_info(
        &find(engine, &guid(vm.id))?,
        id,
    )))
}

fn set_volume(engine: &Engine, text: &str, capacity_bytes: u64) -> Result<Reply, CtlError> {
    let usage = |message: String| CtlError::new(CtlErrorKind::Usage, message);
    // A bare letter is enough.
    let path = if text.chars().count() == 1 {
        format!("{text}:")
    } else {
        text.to_owned()
    };
    let root = WinPath::parse(&path).ok();
    let root = root.filter(|root| root.shadow_number().is_none());
    let root = root.ok_or_else(|| {
        usage(format!(
            r"{text:?} is no place for a volume; write C or C:\Mount\Data"
        ))
    })?;
    std::fs::create_dir_all(engine.local(&root))
        .map_err(|err| failed(Failure::io("make the volume", &err)))?;
    let volume = engine
        .update_host(|host| {
            if let Some(volume) = host.volumes.iter_mut().find(|volume| volume.root() == root) {
                volume.capacity_bytes = capacity_bytes;
                return Ok(volume.clone());
            }
            if !root.is_root() && volume::volume_of(&host.volumes, &root).is_none() {
                return Err(Failure::invalid(format!(
                    "there is no volume that {root} could be a folder of"
                )));
            }
            let volume = Volume::new(&root, capacity_bytes);
            host.volumes.push(volume.clone());
            Ok(volume)
        })
        .map_err(failed)?;
    let free_bytes = volume::free_bytes(engine, &volume);
    let shown = if root.is_root() {
        volume.letter.to_string()
    } else {
        root.to_string()
    };
    Ok(Reply::Volume(VolumeInfo {
        volume: shown,
        capacity_bytes,
        free_bytes,
    }))
}

fn faults(engine: &Engine) -> Result<Reply, CtlError> {
    let (rules, knobs) = engine.read(|state| (state.host.faults.clone(), state.host.knobs.clone()));
    let settings = serde_json::to_value(knobs)
        .ok()
        .and_then(|value| value.as_object().cloned())
        .unwrap_or_default();
    Ok(Reply::Faults(FaultsInfo { rules, settings }))
}

/// Returns the settings with one changed; its text is read as the type the setting has.
fn set_knob(knobs: &Knobs, key: &str, text: &str) -> Result<Knobs, Failure> {
    let wrong = |what: String| Failure::invalid(what);
    let mut all = serde_json::to_value(knobs).map_err(|err| wrong(err.to_string()))?;
    let names: Vec<String> = all
        .as_object()
        .map(|all| all.keys().cloned().collect())
        .unwrap_or_default();
    let Some(slot) = all.get_mut(key) else {
        return Err(wrong(format!(
            "there is no setting {key}; the settings are {}",
            names.join(", ")
        )));
    };
    *slot = if slot.is_number() {
        model::parse_size(text)
            .map_err(|err| wrong(format!("{key}: {err}")))?
            .into()
    } else if slot.is_boolean() {
        text.parse::<bool>()
            .map_err(|_| wrong(format!("{key} is true or false, not {text:?}")))?
            .into()
    } else {
        text.into()
    };
    serde_json::from_value(all).map_err(|err| wrong(format!("{key}: {err}")))
}
