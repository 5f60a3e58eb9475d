//! Merging: what becomes of files that no settings refer to any more.
//!
//! What is to be done follows from a VM's state alone ([`next`]), so a host that was killed in the middle goes on by
//! looking again. Order: the child's content goes down into the parent; its own children are pointed at the parent;
//! settings and chain are changed in one write that also condemns the child; the child is deleted. Until that write
//! the child over the parent reads as before.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use vhdx::{Durability, MergedIdentity};

use crate::checkpoints::reattach;
use crate::children::link_to;
use crate::ctl::FaultRule;
use crate::disks::{Hold, base_of, open_file, open_link, parse_path, seal_base};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::platform;
use crate::rct;
use crate::state::{CheckpointKind, Vm};
use crate::volume;
use crate::winpath::same_path;

/// How long to wait before a merge that could not be done is tried again.
const RETRY: Duration = Duration::from_millis(250);

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
    next(vm).is_some()
}

impl Engine {
    /// Starts the work on a VM's files, where there is any and nobody does it yet.
    pub(crate) fn start_merging(self: &Arc<Self>, vm_id: Uuid) {
        let Some(vm) = self.vm(vm_id) else { return };
        if next(&vm).is_none()
            || !self
                .merging
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(vm_id)
        {
            return;
        }
        let engine = Arc::clone(self);
        self.spawn("merge", move || {
            work_off(&engine, vm_id);
            engine
                .merging
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&vm_id);
            // Work that came up between the last look and now.
            engine.start_merging(vm_id);
        });
    }
}

fn work_off(engine: &Arc<Engine>, vm_id: Uuid) {
    if !engine.pause(Duration::from_millis(engine.knobs().merge_millis)) {
        return;
    }
    while let Some(vm) = engine.vm(vm_id)
        && let Some(work) = next(&vm)
    {
        let held = matches!(work, Work::Merge { .. })
            && engine.fault(FaultRule::MergeNeverEnds, &["merge"], Some(vm_id));
        let result = if held {
            Err(Failure::failed("a fault rule holds the merge"))
        } else {
            step(engine, vm_id, &work)
        };
        if let Err(failure) = result {
            if engine.is_stopping() {
                return;
            }
            tracing::debug!("{work:?} of {} waits: {failure}", vm.name());
            if !engine.pause(RETRY) {
                return;
            }
        }
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
    if merged && let Err(failure) = step(engine, vm_id, work) {
        tracing::warn!("failed to end a merge of {}: {failure}", vm.name());
    }
}

/// Does what can be done to a VM's files right now; used when the VM is about to go.
pub(crate) fn work_off_now(engine: &Engine, vm_id: Uuid) {
    while let Some(vm) = engine.vm(vm_id)
        && let Some(work) = next(&vm)
    {
        if let Err(failure) = step(engine, vm_id, &work) {
            tracing::info!("the files of {} stay as they are: {failure}", vm.name());
            return;
        }
    }
}

fn step(engine: &Engine, vm_id: Uuid, work: &Work) -> Result<(), Failure> {
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
                let result = merge_files(engine, &vm, child, parent);
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

fn merge_files(engine: &Engine, vm: &Vm, child: &str, parent: &str) -> Result<(), Failure> {
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
    volume::need_room(engine, &parent_path, room, "merge")?;
    let base = base_of(vm, &child_path)?;
    rct::unseal(&engine.local(&base))
        .map_err(|err| Failure::io(format!("mark '{base}' as used"), &err))?;
    let mut go_on = |_| {
        if engine.is_stopping() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let merged = vhdx::merge(
        child_file,
        parent_file,
        MergedIdentity::Child,
        Durability::ProcessKill,
        &mut go_on,
    )
    .map_err(|err| Failure::vhdx(&child_path, &err))?;
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
