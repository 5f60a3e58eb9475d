//! Checkpoints: real differencing files, and the tree of settings over them.
//!
//! A checkpoint freezes the files the VM used and gives it new children of them. Which file has which parent is kept
//! in [`Vm::chain`] for the files checkpoints made; what is no longer referred to is left to `merge`.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::children::{children_of, discard, make_child};
use crate::cim::Value;
use crate::clock::{dmtf, now};
use crate::config_files;
use crate::ctl::FaultRule;
use crate::definition::{Definition, DiskSlot, path_text};
use crate::disks::{Hold, VmDisks, base_of, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::rct::{self, Tracker};
use crate::state::{Checkpoint, CheckpointKind, Power, RctMark, Vm, guid};
use crate::volume;
use crate::winpath::{WinPath, same_path};

/// VM versions from here on are tracked.
const FIRST_TRACKED_VERSION: (u32, u32) = (6, 2);
/// Room a new, empty child takes.
const CHILD_BYTES: u64 = 4 << 20;

/// UserSnapshotType of a VM whose checkpoints hold its memory.
const STANDARD: u64 = 5;

/// What a checkpoint is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) id: Uuid,
    pub(crate) kind: CheckpointKind,
    pub(crate) application: bool,
    pub(crate) name: Option<&'a str>,
}

/// Takes a checkpoint.
pub(crate) fn create(engine: &Engine, vm_id: Uuid, wish: Wish<'_>) -> Result<(), Failure> {
    engine.with_disks(vm_id, |disks| {
        let vm = engine.need_vm(vm_id)?;
        if vm.checkpoint(wish.id).is_some() {
            return Ok(());
        }
        let running = vm.power == Power::Running;
        if wish.application
            && running
            && engine.fault(FaultRule::AppConsistencyFailed, &["CreateSnapshot"], Some(vm_id))
        {
            return Err(Failure::failed(
                "the guest's VSS writers did not answer in time: no application-consistent checkpoint could be taken",
            ));
        }
        let slots = vm.definition.disk_slots();
        let children = children_of(&vm, &slots, wish.id)?;
        for slot in &slots {
            let path = parse_path(&slot.path)?;
            volume::need_room(engine, &path, CHILD_BYTES, "CreateSnapshot")?;
        }
        disks.detach_all(engine);
        if wish.kind == CheckpointKind::User {
            forget_changes(engine, &vm)?;
        }
        let frozen = freeze(engine, &vm, &slots, &children, wish);
        let result = frozen.and_then(|marks| {
            engine.update_vm(vm_id, |vm| {
                add_checkpoint(engine, vm, wish, running, marks);
                for (slot, child) in slots.iter().zip(&children) {
                    point_disk_at(&mut vm.definition, &slot.attachment, &child.to_string());
                    vm.chain.insert(child.to_string(), parse_path(&slot.path)?.to_string());
                }
                Ok(())
            })
        });
        if result.is_err() {
            for child in &children {
                discard(engine, child);
            }
        }
        reattach(engine, disks, vm_id)?;
        result
    })
}

/// Ends tracking of a VM's disks where a setting says that user checkpoints do so.
fn forget_changes(engine: &Engine, vm: &Vm) -> Result<(), Failure> {
    if engine.knobs().rct_survives_checkpoints {
        return Ok(());
    }
    for slot in vm.definition.disk_slots() {
        let base = base_of(vm, &parse_path(&slot.path)?)?;
        rct::remove(&engine.local(&base))
            .map_err(|err| Failure::io(format!("end tracking of '{base}'"), &err))?;
    }
    Ok(())
}

/// Gives a VM that holds its disks those it names now; a VM that cannot have them is off.
pub(crate) fn reattach(engine: &Engine, disks: &mut VmDisks, vm_id: Uuid) -> Result<(), Failure> {
    let vm = engine.need_vm(vm_id)?;
    if !vm.power.holds_disks() {
        return Ok(());
    }
    disks.attach_all(engine, &vm).inspect_err(|failure| {
        tracing::error!("{} lost its disks and is off: {failure}", vm.name());
        disks.detach_all(engine);
        let off = engine.update_vm(vm_id, |vm| {
            vm.power = Power::Off;
            Ok(())
        });
        if let Err(err) = off {
            tracing::error!("failed to turn it off: {err}");
        }
    })
}

/// Makes the children, and ends the trackers' epochs for a backup.
fn freeze(
    engine: &Engine,
    vm: &Vm,
    slots: &[DiskSlot],
    children: &[WinPath],
    wish: Wish<'_>,
) -> Result<BTreeMap<String, RctMark>, Failure> {
    let mut marks = BTreeMap::new();
    for (slot, child) in slots.iter().zip(children) {
        let leaf = parse_path(&slot.path)?;
        let parent = make_child(engine, &leaf, child)?;
        if wish.kind != CheckpointKind::Recovery || vm.definition.version() < FIRST_TRACKED_VERSION
        {
            continue;
        }
        let base = base_of(vm, &leaf)?;
        let base_info = open_link(engine, &base, Hold::None)?.info;
        let local = engine.local(&base);
        let io = |err: std::io::Error| Failure::io(format!("track '{base}'"), &err);
        let open = Tracker::open(&local, parent.disk_id, base_info.data_write_guid).map_err(io)?;
        let mut tracker = match open {
            Some(tracker) => tracker,
            None => Tracker::create(&local, parent.disk_id).map_err(io)?,
        };
        marks.insert(slot.attachment.clone(), tracker.mark().map_err(io)?);
        rct::seal(&local, base_info.data_write_guid).map_err(io)?;
    }
    Ok(marks)
}

fn point_disk_at(definition: &mut Definition, attachment: &str, path: &str) {
    if let Some(bag) = definition.resource_mut(attachment) {
        bag.set("HostResource", Value::texts([path]));
    }
}

fn add_checkpoint(
    engine: &Engine,
    vm: &mut Vm,
    wish: Wish<'_>,
    running: bool,
    marks: BTreeMap<String, RctMark>,
) {
    let created = now();
    let default_name = match wish.kind {
        CheckpointKind::Recovery => format!("{} - Backup - ({})", vm.name(), dmtf(created)),
        CheckpointKind::User | CheckpointKind::Missing => {
            format!("{} - ({})", vm.name(), dmtf(created))
        }
    };
    let mut definition = vm.definition.under(wish.id);
    let parent = vm.current;
    describe(&mut definition, &engine.name(), wish.id, wish.kind, parent);
    definition
        .vssd
        .set("ElementName", wish.name.map_or(default_name, str::to_owned));
    definition.vssd.set("CreationTime", dmtf(created));
    // A standard checkpoint holds the memory of a running VM, those of backups and production ones do not.
    let standard = vm.definition.vssd.number("UserSnapshotType") == Some(STANDARD);
    let memory = wish.kind == CheckpointKind::User && running && standard;
    let saved = vm.power == Power::Saved;
    definition.vssd.set("IsSaved", memory || saved);
    definition.vssd.set(
        "ConfigurationDataRoot",
        vm.definition.vssd.text("SnapshotDataRoot"),
    );
    vm.checkpoints.push(Checkpoint {
        id: wish.id,
        imported_as: None,
        kind: wish.kind,
        parent,
        created,
        application: wish.application && running,
        definition,
        marks,
    });
    // Backups take no part in the tree people see.
    if wish.kind == CheckpointKind::User {
        vm.current = Some(wish.id);
    }
}

/// Sets what makes settings those of a checkpoint.
pub(crate) fn describe(
    definition: &mut Definition,
    server: &str,
    id: Uuid,
    kind: CheckpointKind,
    parent: Option<Uuid>,
) {
    let (system_type, what) = match kind {
        CheckpointKind::User => ("Microsoft:Hyper-V:Snapshot:Realized", "Checkpoint Settings"),
        CheckpointKind::Recovery => (
            "Microsoft:Hyper-V:Snapshot:Recovery",
            "Recovery Checkpoint Settings",
        ),
        CheckpointKind::Missing => (
            "Microsoft:Hyper-V:Snapshot:Missing",
            "Missing Checkpoint Settings",
        ),
    };
    let vssd = &mut definition.vssd;
    vssd.set("VirtualSystemType", system_type);
    vssd.set("Caption", what);
    vssd.set("ConfigurationID", guid(id));
    vssd.set("ConfigurationFile", format!(r"Snapshots\{}.vmcx", guid(id)));
    vssd.set("GuestStateFile", format!(r"Snapshots\{}.VMRS", guid(id)));
    match parent {
        Some(parent) => {
            let path = path_text(
                server,
                "Msvm_VirtualSystemSettingData",
                &format!("Microsoft:{}", guid(parent)),
            );
            vssd.set("Parent", path);
        }
        None => {
            vssd.props.remove("Parent");
        }
    }
}

/// Puts a VM (off or saved) back to a checkpoint: new children of the checkpoint's files.
pub(crate) fn apply(
    engine: &Engine,
    vm_id: Uuid,
    checkpoint_id: Uuid,
    made: Uuid,
) -> Result<(), Failure> {
    engine.with_disks(vm_id, |_| {
        let vm = engine.need_vm(vm_id)?;
        if vm.power.holds_disks() {
            return Err(Failure::state(
                "the virtual machine is running; turn it off or save it first",
            ));
        }
        let checkpoint = vm
            .checkpoint(checkpoint_id)
            .ok_or_else(|| Failure::invalid("the checkpoint is gone"))?;
        let mut definition = checkpoint.definition.under(vm_id);
        let slots = definition.disk_slots();
        let children = children_of(&vm, &slots, made)?;
        let is_done = |child: &WinPath| {
            vm.chain
                .keys()
                .any(|file| same_path(file, &child.to_string()))
        };
        if !children.is_empty() && children.iter().all(is_done) {
            return Ok(());
        }
        for (slot, child) in slots.iter().zip(&children) {
            let frozen = parse_path(&slot.path)?;
            make_child(engine, &frozen, child)?;
            // What was written since is undone without being recorded: no id may be answered for any more.
            let base = base_of(&vm, &frozen)?;
            rct::remove(&engine.local(&base))
                .map_err(|err| Failure::io(format!("end tracking of '{base}'"), &err))?;
            point_disk_at(&mut definition, &slot.attachment, &child.to_string());
        }
        let active = &vm.definition.vssd;
        for name in [
            "VirtualSystemType",
            "Caption",
            "ConfigurationID",
            "ConfigurationFile",
            "ConfigurationDataRoot",
        ] {
            definition.vssd.set(name, active.text(name));
        }
        definition
            .vssd
            .set("GuestStateFile", active.text("GuestStateFile"));
        definition
            .vssd
            .set("ElementName", active.text("ElementName"));
        definition
            .vssd
            .set("CreationTime", active.text("CreationTime"));
        definition.vssd.props.remove("Parent");
        engine.update_vm(vm_id, |vm| {
            for (slot, child) in slots.iter().zip(&children) {
                vm.chain
                    .insert(child.to_string(), parse_path(&slot.path)?.to_string());
            }
            definition
                .vssd
                .set("Parent", parent_of(&engine.name(), checkpoint_id));
            vm.definition = definition;
            vm.current = Some(checkpoint_id);
            vm.last_applied = Some(checkpoint_id);
            // With its memory, it goes on where it was when it is started.
            vm.power = if vm.definition.vssd.flag("IsSaved") {
                Power::Saved
            } else {
                Power::Off
            };
            Ok(())
        })
    })
}

/// Removes checkpoints: their settings at once, their files by merging. Those already gone do not matter.
pub(crate) fn destroy(engine: &Engine, vm_id: Uuid, ids: &[Uuid]) -> Result<(), Failure> {
    destroy_and(engine, vm_id, ids, |_| {})
}

pub(crate) fn destroy_and(
    engine: &Engine,
    vm_id: Uuid,
    ids: &[Uuid],
    and: impl FnOnce(&mut Vm),
) -> Result<(), Failure> {
    engine.with_disks(vm_id, |_| {
        let vm = engine.need_vm(vm_id)?;
        let leftover: Vec<WinPath> = vm
            .checkpoints
            .iter()
            // A planned VM has written no files: those its settings name are another's.
            .filter(|checkpoint| !vm.planned && ids.contains(&checkpoint.id))
            .filter_map(|checkpoint| config_files::path_of(&checkpoint.definition).ok())
            .flat_map(|path| {
                let state = path.to_string().replace(".vmcx", ".vmrs");
                [Some(path), WinPath::parse(&state).ok()]
            })
            .flatten()
            .collect();
        let server = engine.name();
        let is_users = |id: &Uuid| {
            vm.checkpoint(*id)
                .is_some_and(|checkpoint| checkpoint.kind == CheckpointKind::User)
        };
        if ids.iter().any(is_users) {
            forget_changes(engine, &vm)?;
        }
        engine.update_vm(vm_id, |vm| {
            for &id in ids {
                let Some(at) = vm
                    .checkpoints
                    .iter()
                    .position(|checkpoint| checkpoint.id == id)
                else {
                    continue;
                };
                let gone = vm.checkpoints.remove(at);
                for child in vm
                    .checkpoints
                    .iter_mut()
                    .filter(|child| child.parent == Some(id))
                {
                    child.parent = gone.parent;
                    describe(
                        &mut child.definition,
                        &server,
                        child.id,
                        child.kind,
                        gone.parent,
                    );
                }
                if vm.current == Some(id) {
                    vm.current = gone.parent;
                }
                if vm.last_applied == Some(id) {
                    vm.last_applied = None;
                }
            }
            match vm.current {
                Some(current) => vm
                    .definition
                    .vssd
                    .set("Parent", parent_of(&server, current)),
                None => {
                    vm.definition.vssd.props.remove("Parent");
                }
            }
            vm.stale_files
                .extend(leftover.iter().map(WinPath::to_string));
            and(vm);
            Ok(())
        })?;
        remove_stale_files(engine, vm_id)
    })
}

/// Throws away the memory a checkpoint holds.
pub(crate) fn clear_state(engine: &Engine, vm_id: Uuid, id: Uuid) -> Result<(), Failure> {
    engine.update_vm(vm_id, |vm| {
        let mut all = vm.checkpoints.iter_mut();
        let checkpoint = all.find(|checkpoint| checkpoint.id == id);
        let checkpoint = checkpoint.ok_or_else(|| Failure::invalid("the checkpoint is gone"))?;
        checkpoint.definition.vssd.set("IsSaved", false);
        Ok(())
    })
}

/// Deletes the configuration files of checkpoints that are gone; a host that was killed before does it when it starts.
pub(crate) fn remove_stale_files(engine: &Engine, vm_id: Uuid) -> Result<(), Failure> {
    let stale = engine
        .vm(vm_id)
        .map(|vm| vm.stale_files)
        .unwrap_or_default();
    if stale.is_empty() {
        return Ok(());
    }
    let paths: Vec<WinPath> = stale
        .iter()
        .filter_map(|path| WinPath::parse(path).ok())
        .collect();
    config_files::remove(engine, &paths)?;
    engine.update_vm(vm_id, |vm| {
        vm.stale_files.clear();
        Ok(())
    })
}

fn parent_of(server: &str, checkpoint: Uuid) -> String {
    path_text(
        server,
        "Msvm_VirtualSystemSettingData",
        &format!("Microsoft:{}", guid(checkpoint)),
    )
}

/// Returns a checkpoint and everything below it.
pub(crate) fn subtree(vm: &Vm, root: Uuid) -> Vec<Uuid> {
    let mut ids = vec![root];
    let mut at = 0;
    while at < ids.len() {
        let children = vm
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.parent == Some(ids[at]));
        let children: Vec<Uuid> = children
            .map(|checkpoint| checkpoint.id)
            .filter(|id| !ids.contains(id))
            .collect();
        ids.extend(children);
        at += 1;
    }
    ids
}
