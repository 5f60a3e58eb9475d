//! Reference points: where a backup left off, and how long the change logs must be kept for it.

use uuid::Uuid;

use crate::checkpoints::{destroy_and, reattach};
use crate::clock::now;
use crate::definition::DiskSlot;
use crate::disks::{Hold, base_of, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::rct;
use crate::state::{ReferencePoint, Vm};

/// Turns a backup checkpoint into a reference point.
pub(crate) fn convert(
    engine: &Engine,
    vm_id: Uuid,
    checkpoint_id: Uuid,
    made: Uuid,
) -> Result<(), Failure> {
    let vm = engine.need_vm(vm_id)?;
    if vm.reference_points.iter().any(|point| point.id == made) {
        return Ok(());
    }
    let checkpoint = vm
        .checkpoint(checkpoint_id)
        .ok_or_else(|| Failure::invalid("the checkpoint is gone"))?;
    let active = vm.definition.disk_slots();
    let point = ReferencePoint {
        id: made,
        created: now(),
        application: checkpoint.application,
        disks: checkpoint
            .definition
            .under(vm_id)
            .disk_slots()
            .into_iter()
            .filter(|slot| active.iter().any(|disk| disk.attachment == slot.attachment))
            .filter_map(|slot| {
                let mark = checkpoint.marks.get(&slot.attachment)?;
                Some((slot.attachment, rct::id_text(mark)))
            })
            .collect(),
    };
    destroy_and(engine, vm_id, &[checkpoint_id], |vm| {
        vm.reference_points.push(point);
    })
}

/// Removes a reference point, and the part of the change logs that only it needed.
pub(crate) fn destroy_reference_point(
    engine: &Engine,
    vm_id: Uuid,
    id: Uuid,
) -> Result<(), Failure> {
    engine.with_disks(vm_id, |open| {
        engine.update_vm(vm_id, |vm| {
            vm.reference_points.retain(|point| point.id != id);
            Ok(())
        })?;
        let vm = engine.need_vm(vm_id)?;
        open.detach_all(engine);
        let forgotten = vm
            .definition
            .disk_slots()
            .iter()
            .try_for_each(|slot| forget(engine, &vm, slot));
        reattach(engine, open, vm_id)?;
        forgotten
    })
}

fn forget(engine: &Engine, vm: &Vm, slot: &DiskSlot) -> Result<(), Failure> {
    let leaf = parse_path(&slot.path)?;
    let base = base_of(vm, &leaf)?;
    let link = open_link(engine, &base, Hold::None)?;
    let local = engine.local(&base);
    let io = |err: std::io::Error| Failure::io(format!("shorten the change log of '{base}'"), &err);
    let kept = vm
        .reference_points
        .iter()
        .flat_map(|point| &point.disks)
        .filter(|(disk, _)| *disk == slot.attachment);
    let marks = vm
        .checkpoints
        .iter()
        .filter_map(|checkpoint| checkpoint.marks.get(&slot.attachment));
    let oldest = kept
        .filter_map(|(_, id)| rct::epoch_of(id))
        .chain(marks.map(|mark| mark.epoch))
        .min();
    if let Ok(log) =
        rct::Log::load(&local, link.info.disk_id, link.info.data_write_guid).map_err(io)?
    {
        let oldest = oldest.unwrap_or(log.epoch());
        log.forget_before(oldest).map_err(io)?;
    }
    Ok(())
}
