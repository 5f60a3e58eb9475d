//! GetVirtualDiskChanges: what the change log says, cut to the window asked for.

use model::ByteRange;

use super::image::{look, path};
use super::{Answer, Call};
use crate::ctl::FaultRule;
use crate::disks::{Hold, base_of, open_link, parse_path};
use crate::failure::Failure;
use crate::rct::Log;
use crate::refusals::Refusal;
use crate::state::{RctMark, Vm};
use crate::winpath::same_path;

pub(super) fn changes(call: &Call<'_>) -> Result<Answer, Failure> {
    let path = parse_path(&path(call, "Path")?)?;
    let id = call.need_text("LimitId")?;
    let is_set = path.file_name().to_lowercase().ends_with(".vhds");
    if !is_set && call.text("TargetSnapshotId").is_some() {
        return Err(Failure::invalid(
            "only a VHD set has snapshots that TargetSnapshotId could name",
        ));
    }
    let (offset, length) = (
        call.need_number("ByteOffset")?,
        call.need_number("ByteLength")?,
    );
    let engine = call.engine;
    let text = path.to_string();
    let vm = engine.read(|state| {
        let uses = |vm: &&Vm| {
            !vm.planned
                && vm
                    .definitions()
                    .any(|definition| definition.uses_file(&text))
        };
        state.vms.values().find(uses).cloned()
    });
    let vm = vm.ok_or_else(|| {
        Failure::failed(format!(
            "'{path}' belongs to no virtual machine of this host"
        ))
    })?;
    if engine.fault(FaultRule::RctIdUnknown, &[&call.name], Some(vm.id)) {
        return Err(Failure::refused(
            Refusal::ChangesUnknown,
            format!("the change tracking id {id} is unknown"),
        ));
    }
    let (info, _) = look(engine, &path)?;
    if offset.checked_add(length).is_none_or(|end| end > info.size) || length == 0 {
        return Err(Failure::refused(
            Refusal::ChangesBeyond,
            format!(
                "offset {offset} and length {length} lead beyond the disk's end at {} bytes",
                info.size
            ),
        ));
    }
    let base = base_of(&vm, &path)?;
    let guid_now = open_link(engine, &base, Hold::None)?.info.data_write_guid;
    let log = Log::load(&engine.local(&base), info.disk_id, guid_now)
        .map_err(|err| Failure::io(format!("read the change log of '{base}'"), &err))?
        .and_then(|log| log.changes(id, mark_of(&vm, &text).as_ref(), info.size))
        .map_err(|unknown| Failure::invalid(format!("{path}: {unknown}")))?;
    let knobs = engine.knobs();
    let processed = match knobs.partial_changes {
        0 => length,
        limit => length.min(limit),
    };
    let mut ranges = window(&log, offset, processed, knobs.coarse_bytes.max(512));
    if engine.fault(FaultRule::ChangesOmitted, &[&call.name], Some(vm.id)) {
        let mut keep = false;
        ranges.retain(|_| {
            keep = !keep;
            keep
        });
    }
    let numbers = |pick: fn(&ByteRange) -> u64| {
        wsman::Value::Array(
            ranges
                .iter()
                .map(|range| wsman::Value::U64(pick(range)))
                .collect(),
        )
    };
    Ok(Answer::done()
        .with("ProcessedByteLength", processed)
        .with("ChangedByteOffsets", numbers(|range| range.offset))
        .with("ChangedByteLengths", numbers(|range| range.len)))
}

/// Where the tracker stood at the checkpoint that froze this file; nothing for the file the VM writes to.
fn mark_of(vm: &Vm, path: &str) -> Option<RctMark> {
    if vm.definition.uses_file(path) {
        return None;
    }
    let marks = vm.checkpoints.iter().filter_map(|checkpoint| {
        let slots = checkpoint.definition.under(vm.id).disk_slots();
        let slot = slots.into_iter().find(|slot| same_path(&slot.path, path))?;
        checkpoint.marks.get(&slot.attachment).cloned()
    });
    marks.max_by_key(|mark| mark.epoch)
}

/// Cuts ranges to a window and widens them to a grain within it.
fn window(ranges: &[ByteRange], offset: u64, length: u64, grain: u64) -> Vec<ByteRange> {
    let end = offset.saturating_add(length);
    let mut out: Vec<ByteRange> = Vec::new();
    for range in ranges {
        let start = (range.offset - range.offset % grain).max(offset);
        let stop = range
            .end()
            .unwrap_or(u64::MAX)
            .div_ceil(grain)
            .saturating_mul(grain)
            .min(end);
        if start >= stop {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.offset + last.len >= start => {
                last.len = last.len.max(stop - last.offset);
            }
            Some(_) | None => out.push(ByteRange {
                offset: start,
                len: stop - start,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_cut_to_the_window_and_widened_to_the_grain() {
        let ranges: Vec<ByteRange> = [(0, 512), (4096, 512), (9000, 100)]
            .map(|(offset, len)| ByteRange { offset, len })
            .to_vec();
        let cut = |offset, length, grain| -> Vec<(u64, u64)> {
            window(&ranges, offset, length, grain)
                .iter()
                .map(|range| (range.offset, range.len))
                .collect()
        };
        assert_eq!(cut(0, 1 << 20, 512), [(0, 512), (4096, 512), (8704, 512)]);
        assert_eq!(cut(0, 1 << 20, 4096), [(0, 12288)]);
        assert_eq!(cut(256, 4000, 512), [(256, 256), (4096, 160)]);
        assert_eq!(cut(1 << 19, 4096, 512), []);
    }
}
