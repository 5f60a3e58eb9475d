//! The guest: reads and writes into the disks of a running VM, and a workload like a file system's.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use model::CELL;
use uuid::Uuid;
use vhdx::{Disk, Vhdx};

use crate::ctl::{CtlError, CtlErrorKind, DiskSelector, FaultRule, GuestContent};
use crate::disks::{Hold, OpenDisk, VmDisks, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::pattern::{mix, pattern};
use crate::state::{Power, Vm};
use crate::volume::{free_bytes, volume_of};
use crate::winpath::same_path;
use crate::workload::{Act, Workload};

/// Bytes handled at once.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes written before others get a turn at the VM's files.
const TURN_BYTES: u64 = 16 << 20;
/// How long their turn is at least.
const BREATH: Duration = Duration::from_millis(1);
/// What a write may take besides its own bytes: tables, the change log.
const OVERHEAD_BYTES: u64 = 64 * 1024;

/// Finds a disk in the order of attachment.
pub(crate) fn select(engine: &Engine, vm: &Vm, disk: &DiskSelector) -> Result<usize, CtlError> {
    let slots = vm.definition.disk_slots();
    let found = match disk {
        DiskSelector::Index(index) => (*index < slots.len()).then_some(*index),
        DiskSelector::Path(path) => slots
            .iter()
            .position(|slot| same_path(&slot.path, path))
            .or_else(|| {
                slots.iter().position(|slot| {
                    let chain = parse_path(&slot.path)
                        .and_then(|leaf| open_chain(engine, &leaf, Hold::None));
                    chain.is_ok_and(|links| {
                        links
                            .iter()
                            .any(|link| same_path(&link.path.to_string(), path))
                    })
                })
            }),
    };
    found.ok_or_else(|| {
        let paths: Vec<_> = slots.into_iter().map(|slot| slot.path).collect();
        CtlError::new(
            CtlErrorKind::NotFound,
            format!(
                "{} has no disk {disk:?}; its disks are {}",
                vm.name(),
                paths.join(", ")
            ),
        )
    })
}

/// Reads virtual content. A VM that is off has its disks opened for the time it takes.
pub(crate) fn read(
    engine: &Engine,
    vm: &Vm,
    index: usize,
    offset: u64,
    length: u64,
    out: &mut dyn Write,
) -> Result<u64, CtlError> {
    engine.with_disks(vm.id, |disks| {
        let slot = slot(vm, index)?;
        if let Some(open) = disks
            .open
            .iter()
            .find(|open| open.attachment == slot.attachment)
        {
            let end = check_range(offset, length, open.writer.size())?;
            return pass(offset..end, out, |piece, at| {
                open.writer
                    .read_at(piece, at)
                    .map_err(|err| failed(Failure::vhdx(&slot.path, &err)))
            });
        }
        let leaf = parse_path(&slot.path).map_err(failed)?;
        let links = open_chain(engine, &leaf, Hold::Shared).map_err(failed)?;
        let layers: Result<Vec<Vhdx>, _> = links
            .into_iter()
            .map(|link| Vhdx::open(link.file))
            .collect();
        let disk: Result<Disk, vhdx::Error> = layers
            .and_then(vhdx::Chain::from_layers)
            .map(vhdx::Chain::into_disk);
        let disk = disk.map_err(|err| failed(Failure::vhdx(&leaf, &err)))?;
        let end = check_range(offset, length, disk.size())?;
        pass(offset..end, out, |piece, at| {
            disk.read_at(piece, at)
                .map_err(|err| failed(Failure::vhdx(&leaf, &err)))
        })
    })
}

/// Passes a range on, piece by piece.
fn pass(
    range: std::ops::Range<u64>,
    out: &mut dyn Write,
    read: impl Fn(&mut [u8], u64) -> Result<(), CtlError>,
) -> Result<u64, CtlError> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let piece = &mut buffer[..piece_len(range.end - at)];
        read(piece, at)?;
        out.write_all(piece)
            .map_err(|err| failed(Failure::io("hand on what was read", &err)))?;
        at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    Ok(range.end - range.start)
}

/// Writes a local file or a pattern at an offset.
pub(crate) fn write(
    engine: &Engine,
    vm: &Vm,
    index: usize,
    offset: u64,
    content: &GuestContent,
) -> Result<u64, CtlError> {
    let attachment = slot(vm, index)?.attachment;
    let place = Place {
        engine,
        vm,
        attachment,
        offset,
    };
    match content {
        GuestContent::Pattern { seed, length } => place.fill(*length, |at, piece| {
            pattern(*seed, at, piece);
            Ok(())
        }),
        GuestContent::File(path) => {
            let io = |err: std::io::Error| {
                let missing = err.kind() == std::io::ErrorKind::NotFound;
                let kind = if missing {
                    CtlErrorKind::NotFound
                } else {
                    CtlErrorKind::Failed
                };
                CtlError::new(kind, format!("failed to read {}: {err}", path.display()))
            };
            let mut file = std::fs::File::open(path).map_err(io)?;
            let length = file.metadata().map_err(io)?.len();
            place.fill(length, |_, piece| file.read_exact(piece).map_err(io))
        }
    }
}

/// Where a guest writes.
struct Place<'a> {
    engine: &'a Engine,
    vm: &'a Vm,
    attachment: String,
    offset: u64,
}

impl Place<'_> {
    /// Writes `length` bytes, made piece by piece.
    fn fill(
        &self,
        length: u64,
        mut make: impl FnMut(u64, &mut [u8]) -> Result<(), CtlError>,
    ) -> Result<u64, CtlError> {
        let mut room = Room::new(self.engine, self.vm);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut done = 0_u64;
        in_turns(self.engine, self.vm, |disks| {
            let disk = held(disks, &self.attachment)?;
            check_range(self.offset, length, disk.writer.size())?;
            let until = done.saturating_add(TURN_BYTES).min(length);
            while done < until {
                let piece = &mut buffer[..piece_len(until - done)];
                make(done, piece)?;
                room.write(disk, self.offset + done, piece)?;
                done += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            }
            Ok(done == length)
        })?;
        Ok(length)
    }
}

/// Writes `bytes` over the VM's disks as a file system does (see `workload`), each disk with its own. The same for the
/// same seed and disks.
pub(crate) fn workload(engine: &Engine, vm: &Vm, seed: u64, bytes: u64) -> Result<u64, CtlError> {
    let slots = vm.definition.disk_slots();
    let count = u64::try_from(slots.len()).unwrap_or(u64::MAX);
    if count == 0 {
        let message = format!("{} has no disk to write to", vm.name());
        return Err(CtlError::new(CtlErrorKind::Usage, message));
    }
    let mut room = Room::new(engine, vm);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut works: BTreeMap<usize, Workload> = BTreeMap::new();
    let (mut done, mut turn) = (0_u64, 0_u64);
    in_turns(engine, vm, |disks| {
        let until = done.saturating_add(TURN_BYTES).min(bytes);
        while done < until {
            let index = usize::try_from(mix(seed ^ mix(turn)) % count).unwrap_or(0);
            let disk = held(disks, &slots[index].attachment)?;
            let cells = disk.writer.size() / CELL;
            if cells == 0 {
                let message = format!("'{}' is too small for a workload", disk.path);
                return Err(CtlError::new(CtlErrorKind::Usage, message));
            }
            let own = mix(seed.wrapping_add(u64::try_from(index).unwrap_or(0)));
            let work = works
                .entry(index)
                .or_insert_with(|| Workload::new(own, cells));
            let step = work.next();
            let (start, len) = (step.start * CELL, step.len * CELL);
            match step.act {
                Act::Write(seed) => {
                    let piece = &mut buffer[..piece_len(len.min(bytes - done))];
                    pattern(seed, 0, piece);
                    room.write(disk, start, piece)?;
                    done += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                }
                Act::Trim => disk.trim(start, len).map_err(failed)?,
            }
            turn += 1;
        }
        Ok(done >= bytes)
    })?;
    Ok(bytes)
}

/// Works on the disks of a running VM until `work` says that it is done, giving others a turn in between: a backup
/// of a busy VM gets its checkpoint.
fn in_turns(
    engine: &Engine,
    vm: &Vm,
    mut work: impl FnMut(&mut VmDisks) -> Result<bool, CtlError>,
) -> Result<(), CtlError> {
    while !with_running(engine, vm, &mut work)? {
        if !engine.pause(BREATH) {
            return Err(CtlError::new(
                CtlErrorKind::Failed,
                "the host stopped while the guest wrote",
            ));
        }
    }
    Ok(())
}

/// Room on the volumes of a VM's disks, looked up anew only when what was seen last is used up.
struct Room<'a> {
    engine: &'a Engine,
    vm: Uuid,
    name: String,
    left: BTreeMap<Uuid, u64>,
}

impl<'a> Room<'a> {
    fn new(engine: &'a Engine, vm: &Vm) -> Self {
        Self {
            engine,
            vm: vm.id,
            name: vm.name().to_owned(),
            left: BTreeMap::new(),
        }
    }

    fn write(&mut self, disk: &mut OpenDisk, offset: u64, piece: &[u8]) -> Result<(), CtlError> {
        let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let needed = bytes.saturating_add(OVERHEAD_BYTES);
        let volume = self
            .engine
            .read(|state| volume_of(&state.host.volumes, &disk.path).cloned());
        let volume = volume.ok_or_else(|| {
            let message = format!("'{}' is on no volume of this host", disk.path);
            CtlError::new(CtlErrorKind::Failed, message)
        })?;
        let left = self.left.entry(volume.id).or_default();
        if *left < needed {
            *left = free_bytes(self.engine, &volume);
        }
        if *left < needed
            || self
                .engine
                .fault(FaultRule::DiskFull, &["guest-write"], Some(self.vm))
        {
            let paused = self.engine.update_vm(self.vm, |vm| {
                vm.power = Power::Paused;
                vm.starved = true;
                Ok(())
            });
            paused.map_err(failed)?;
            let name = &self.name;
            return Err(CtlError::new(
                CtlErrorKind::Failed,
                format!(
                    "volume {} is full and {name} is paused; make room (`sim ctl volume set`), then \
                     `sim ctl power {name} on`",
                    volume.name()
                ),
            ));
        }
        *left -= needed;
        disk.write(offset, piece).map_err(failed)
    }
}

fn with_running<T>(
    engine: &Engine,
    vm: &Vm,
    work: impl FnOnce(&mut VmDisks) -> Result<T, CtlError>,
) -> Result<T, CtlError> {
    engine.with_disks(vm.id, |disks| {
        let power = engine.vm(vm.id).map(|vm| vm.power);
        if power != Some(Power::Running) {
            let state = power.map_or("gone", Power::name);
            return Err(CtlError::new(
                CtlErrorKind::Conflict,
                format!(
                    "{} is {state}: its guest writes nothing; start it with `sim ctl power`",
                    vm.name()
                ),
            ));
        }
        let result = work(disks);
        for disk in &disks.open {
            disk.writer
                .flush()
                .map_err(|err| failed(Failure::vhdx(&disk.path, &err)))?;
        }
        result
    })
}

fn slot(vm: &Vm, index: usize) -> Result<crate::definition::DiskSlot, CtlError> {
    let slot = vm.definition.disk_slots().into_iter().nth(index);
    slot.ok_or_else(|| {
        CtlError::new(
            CtlErrorKind::NotFound,
            format!("{} has no disk {index}", vm.name()),
        )
    })
}

fn held<'a>(disks: &'a mut VmDisks, attachment: &str) -> Result<&'a mut OpenDisk, CtlError> {
    let disk = disks
        .open
        .iter_mut()
        .find(|disk| disk.attachment == attachment);
    disk.ok_or_else(|| {
        CtlError::new(
            CtlErrorKind::Failed,
            "the running VM does not hold this disk",
        )
    })
}

/// Returns the end of a range within a disk.
fn check_range(offset: u64, length: u64, size: u64) -> Result<u64, CtlError> {
    offset
        .checked_add(length)
        .filter(|&end| end <= size)
        .ok_or_else(|| {
            CtlError::new(
                CtlErrorKind::Usage,
                format!(
                    "offset {offset} and length {length} lead beyond the disk's end at {size} bytes"
                ),
            )
        })
}

fn piece_len(left: u64) -> usize {
    usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES))
}

fn failed(failure: Failure) -> CtlError {
    CtlError::new(CtlErrorKind::Failed, failure.to_string())
}
