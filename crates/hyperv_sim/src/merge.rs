//! Merging: what becomes of files that no settings refer to any more.
//!
//! What is to be done follows from a VM's state alone ([`next`]), so a host that was killed in the middle goes on by
//! looking again. Order: the child's content goes down into the parent; its own children are pointed at the parent;
//! settings and chain are changed in one write that also condemns the child; the child is deleted. Until that write
//! the child over the parent reads as before.

mod pace;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use vhdx::{Durability, MergedIdentity};

use crate::checkpoints::reattach;
use crate::children::link_to;
use crate::ctl::FaultRule;
use crate::disks::{Hold, base_of, open_file, open_link, parse_path, seal_base};
use crate::engine::{Engine, Waited};
use crate::failure::{Cause, Failure, code};
use crate::jobs::{Job, MERGE};
use crate::methods::{Operation, system_path};
use crate::platform;
use crate::rct;
use crate::state::{CheckpointKind, Power, Vm};
use crate::volume;
use crate::winpath::same_path;

pub(crate) use pace::Pace;

/// How long to wait before a merge that could not be done is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long others get at least when they are let at the files.
const BREATH: Duration = Duration::from_millis(1);
/// How often others are let in before a file is merged in one go: a guest that never stops writing must not keep it
/// from ending.
const MAX_TURNS: u32 = 16;

/// One thing to do to a VM's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Delete a file nobody refers to.
    Delete { path: String },
    /// Merge a file into its parent.
    Merge { child: String, parent: String },
}

/// Returns what is to be done next to a VM's files.
pub(crate) fn next(vm: &Vm) -> Option<Work> {
    if let Some(path) = vm.doomed.first() {
        return Some(Work::Delete { path: path.clone() });
    }
    // Files of a checkpoint whose own files are missing are not known well enough to touch.
    if vm.planned
        || vm
            .checkpoints
            .iter()
            .any(|checkpoint| checkpoint.kind == CheckpointKind::Missing)
    {
        return None;
    }
    let used = |path: &str| {
        vm.definitions()
            .any(|definition| definition.uses_file(path))
    };
    let children = |path: &str| -> Vec<&String> {
        vm.chain
            .iter()
            .filter(|(_, parent)| same_path(parent, path))
            .map(|(child, _)| child)
            .collect()
    };
    if let Some(path) = vm
        .chain
        .keys()
        .find(|path| !used(path) && children(path).is_empty())
    {
        return Some(Work::Delete { path: path.clone() });
    }
    vm.chain
        .iter()
        .find_map(|(child, parent)| match children(parent).as_slice() {
            [only] if *only == child && !used(parent) => Some(Work::Merge {
                child: child.clone(),
                parent: parent.clone(),
            }),
            _ => None,
        })
}

/// Whether disks of the VM are being merged or about to be.
pub(crate) fn is_merging(vm: &Vm) -> bool {
    !vm.merge_put_off && !vm.chain_locked && next(vm).is_some()
}

impl Engine {
    /// Starts the work on a VM's files, where there is any and nobody does it yet.
    pub(crate) fn start_merging(self: &Arc<Self>, vm_id: Uuid) {
        let Some(vm) = self.vm(vm_id) else { return };
        let is_new = || {
            let mut merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
            merging.insert(vm_id)
        };
        if !is_merging(&vm) || self.is_stopping() || !is_new() {
            return;
        }
        let operation = Operation::MergeDisks { vm: vm_id };
        if let Err(failure) = self.start_job(MERGE, Some(vm_id), operation) {
            tracing::error!("the files of {} are not merged: {failure}", vm.name());
        }
    }
}

/// Does what there is to do to a VM's files; takes as long as that takes.
pub(crate) fn work_off(engine: &Engine, vm_id: Uuid, job: &Job) -> Result<Vec<String>, Failure> {
    let mut merged = 0;
    let mut turns = 0;
    let mut waited = false;
    loop {
        let vm = engine.vm(vm_id).filter(is_merging);
        let Some((vm, work)) = vm.and_then(|vm| next(&vm).map(|work| (vm, work))) else {
            return Ok(vec![system_path(engine, vm_id, false)]);
        };
        if !waited {
            let time = Duration::from_millis(engine.knobs().merge_millis);
            rest(engine, vm_id, job, time)?;
            waited = true;
            continue;
        }
        let is_merge = matches!(work, Work::Merge { .. });
        let held = is_merge && engine.fault(FaultRule::MergeNeverEnds, &[MERGE], Some(vm_id));
        let result = if held {
            Err(Failure::failed("a fault rule holds the merge"))
        } else {
            let pace = Pace::new(engine, job, vm_id, merged, turns < MAX_TURNS);
            step(engine, vm_id, &work, &pace)
        };
        starve(
            engine,
            vm_id,
            matches!(&result, Err(err) if err.cause == Cause::NoRoom),
        );
        let Err(failure) = result else {
            merged += u64::from(is_merge);
            turns = 0;
            // Each file takes its time.
            waited = !is_merge;
            continue;
        };
        if engine.is_stopping() {
            return Err(failure);
        }
        let time = match failure.cause {
            Cause::Yielded => {
                turns += 1;
                BREATH
            }
            Cause::Cancelled | Cause::NoRoom | Cause::WrongType | Cause::Other => {
                tracing::debug!("{work:?} of {} waits: {failure}", vm.name());
                RETRY
            }
        };
        rest(engine, vm_id, job, time)?;
    }
}

/// Waits between two steps; a client that ends the job puts the rest off.
fn rest(engine: &Engine, vm_id: Uuid, job: &Job, time: Duration) -> Result<(), Failure> {
    match engine.pause_job(job.id, time) {
        Waited::Out => Ok(()),
        Waited::Stopped => Err(Failure::failed("the host stops")),
        Waited::Cancelled => {
            starve(engine, vm_id, false);
            engine.update_vm(vm_id, |vm| {
                vm.merge_put_off = true;
                Ok(())
            })?;
            Err(Failure::cancelled())
        }
    }
}

/// Pauses a running VM whose files cannot be merged for want of room, and lets it go on when there is some.
fn starve(engine: &Engine, vm_id: Uuid, starved: bool) {
    let Some(vm) = engine.vm(vm_id) else { return };
    let power = match (starved, vm.power) {
        (true, Power::Running) => Power::Paused,
        (false, Power::Paused) if vm.starved => Power::Running,
        _ => return,
    };
    let changed = engine.update_vm(vm_id, |vm| {
        vm.power = power;
        vm.starved = starved;
        Ok(())
    });
    if let Err(err) = changed {
        tracing::error!("failed to change the state of {}: {err}", vm.name());
    }
}

/// Takes a merge to its end that was killed after the parent had become the child: the child no longer knows its
/// parent then, so nothing can be opened before.
pub(crate) fn finish_interrupted(engine: &Engine, vm_id: Uuid) {
    let Some(vm) = engine.vm(vm_id) else { return };
    let Some(work @ Work::Merge { child, parent }) = &next(&vm) else {
        return;
    };
    let identity = |path: &str| {
        let link = parse_path(path).and_then(|path| open_link(engine, &path, Hold::None));
        link.map(|link| link.info.data_write_guid).ok()
    };
    let merged = identity(child).is_some_and(|child| identity(parent) == Some(child));
    if merged && let Err(failure) = step(engine, vm_id, work, &Pace::of_job(engine, None)) {
        tracing::warn!("failed to end a merge of {}: {failure}", vm.name());
    }
}

/// Does what can be done to a VM's files right now; used when the VM is about to go.
pub(crate) fn work_off_now(engine: &Engine, vm_id: Uuid) {
    while let Some(vm) = engine.vm(vm_id)
        && let Some(work) = next(&vm)
    {
        if let Err(failure) = step(engine, vm_id, &work, &Pace::of_job(engine, None)) {
            tracing::info!("the files of {} stay as they are: {failure}", vm.name());
            return;
        }
    }
}

fn step(engine: &Engine, vm_id: Uuid, work: &Work, pace: &Pace<'_>) -> Result<(), Failure> {
    engine.with_disks(vm_id, |disks| {
        // Asked again under the lock: it may have been done or undone meanwhile.
        let vm = engine.need_vm(vm_id)?;
        if next(&vm).as_ref() != Some(work) {
            return Ok(());
        }
        match work {
            Work::Delete { path } => delete(engine, &vm, path),
            Work::Merge { child, parent } => {
                let held = disks.detach_using(engine, &vm, child);
                let result = merge_files(engine, &vm, child, parent, pace);
                if held {
                    reattach(engine, disks, vm_id)?;
                }
                result?;
                finish(engine, vm_id)
            }
        }
    })
}

/// Deletes what a merge has just condemned.
fn finish(engine: &Engine, vm_id: Uuid) -> Result<(), Failure> {
    let vm = engine.need_vm(vm_id)?;
    match next(&vm) {
        Some(Work::Delete { path }) => delete(engine, &vm, &path),
        Some(Work::Merge { .. }) | None => Ok(()),
    }
}

fn delete(engine: &Engine, vm: &Vm, path: &str) -> Result<(), Failure> {
    let file = parse_path(path)?;
    match open_file(engine, &file, Hold::Exclusive) {
        Ok(_) => {
            let local = engine.local(&file);
            std::fs::remove_file(&local)
                .map_err(|err| Failure::io(format!("delete '{path}'"), &err))?;
        }
        Err(failure) if failure.code == code::FILE => {}
        Err(failure) => return Err(failure),
    }
    engine.update_vm(vm.id, |vm| {
        vm.doomed.retain(|doomed| !same_path(doomed, path));
        vm.chain.retain(|child, _| !same_path(child, path));
        Ok(())
    })
}

fn merge_files(
    engine: &Engine,
    vm: &Vm,
    child: &str,
    parent: &str,
    pace: &Pace<'_>,
) -> Result<(), Failure> {
    let (child_path, parent_path) = (parse_path(child)?, parse_path(parent)?);
    let child_file = open_file(engine, &child_path, Hold::Exclusive)?;
    let parent_file = open_file(engine, &parent_path, Hold::Exclusive)?;
    // Taken before anything is changed: whoever reads one of them holds up the merge, not its end.
    let mut grandchildren = Vec::new();
    for (grandchild, _) in vm.chain.iter().filter(|(_, of)| same_path(of, child)) {
        let path = parse_path(grandchild)?;
        let file = open_file(engine, &path, Hold::Exclusive)?;
        grandchildren.push((path, file));
    }
    let room = child_file
        .metadata()
        .map_or(0, |metadata| platform::allocated_bytes(&metadata));
    volume::need_room(engine, &parent_path, room, MERGE)?;
    let base = base_of(vm, &child_path)?;
    rct::unseal(&engine.local(&base))
        .map_err(|err| Failure::io(format!("mark '{base}' as used"), &err))?;
    let merged = vhdx::merge(
        child_file,
        parent_file,
        MergedIdentity::Child,
        Durability::ProcessKill,
        &mut |at| pace.go_on(at),
    )
    .map_err(|err| pace.failure(&child_path, &err))?;
    for (path, file) in grandchildren {
        let link = link_to(engine, &parent_path, &path, &merged);
        vhdx::set_parent(file, &link, Durability::ProcessKill)
            .map_err(|err| Failure::vhdx(&path, &err))?;
    }
    engine.update_vm(vm.id, |vm| {
        vm.definition.replace_file(child, parent);
        for checkpoint in &mut vm.checkpoints {
            checkpoint.definition.replace_file(child, parent);
        }
        vm.chain.retain(|file, _| !same_path(file, child));
        for of in vm.chain.values_mut().filter(|of| same_path(of, child)) {
            parent.clone_into(of);
        }
        vm.doomed.push(child.to_owned());
        Ok(())
    })?;
    seal_base(engine, &base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cim::Value;
    use crate::clock::now;
    use crate::definition::{Definition, kind, resource, subtype};
    use crate::state::Checkpoint;

    fn definition(id: Uuid, file: &str) -> Definition {
        let mut definition = Definition::new(id, "vm", 2, "10.0", "");
        definition.resources.push(
            resource(
                "Msvm_StorageAllocationSettingData",
                kind::STORAGE,
                subtype::DISK,
            )
            .with("InstanceID", format!(r"Microsoft:{id}\x\0\0\L"))
            .with("HostResource", Value::texts([file])),
        );
        definition
    }

    /// A VM with a chain (`child>parent`), a leaf, and a checkpoint per file given.
    fn vm(chain: &[&str], leaf: &str, checkpoints: &[&str]) -> Vm {
        let id = Uuid::new_v4();
        let mut vm = Vm::new(id, definition(id, leaf), now());
        for edge in chain {
            let (child, parent) = edge.split_once('>').unwrap();
            vm.chain.insert(child.to_owned(), parent.to_owned());
        }
        for file in checkpoints {
            let id = Uuid::new_v4();
            vm.checkpoints.push(Checkpoint {
                id,
                imported_as: None,
                kind: CheckpointKind::User,
                parent: None,
                created: now(),
                application: false,
                definition: definition(id, file),
                marks: std::collections::BTreeMap::new(),
            });
        }
        vm
    }

    #[test]
    fn files_nobody_refers_to_are_merged_or_deleted() {
        let merge = |child: &str, parent: &str| {
            Some(Work::Merge {
                child: child.into(),
                parent: parent.into(),
            })
        };
        let delete = |path: &str| Some(Work::Delete { path: path.into() });
        for (chain, leaf, checkpoints, expected) in [
            (&["a>base"][..], "a", &["base"][..], None),
            (&["a>base"], "a", &[], merge("a", "base")),
            // A middle checkpoint is gone: its successor goes down into it.
            (&["a>base", "b>a"], "b", &["base"], merge("b", "a")),
            // A checkpoint was applied: the old leaf has no users.
            (&["a>base", "b>base"], "b", &["base"], delete("a")),
            // Two children: the file must stay.
            (&["a>base", "b>base"], "b", &["a"], None),
            // A shared parent that no checkpoint made is nobody's business.
            (&[], "base", &[], None),
        ] {
            assert_eq!(
                next(&vm(chain, leaf, checkpoints)),
                expected,
                "{chain:?} {leaf} {checkpoints:?}"
            );
        }
    }
}
