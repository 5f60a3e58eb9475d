//! The guest: reads and writes into the disks of a running VM, and a workload like a file system's.

use std::io::{Read, Write};
use std::path::Path;

use uuid::Uuid;
use vhdx::{Disk, Vhdx};

use crate::ctl::{CtlError, CtlErrorKind, DiskSelector, FaultRule, GuestContent};
use crate::disks::{Hold, OpenDisk, VmDisks, open_chain, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::pattern::{mix, pattern};
use crate::state::{Power, Vm};
use crate::volume::free_bytes;
use crate::winpath::same_path;

/// Bytes handled at once.
const PIECE_BYTES: usize = 1 << 20;
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
    with_running(engine, vm, |disks| {
        let slot = slot(vm, index)?;
        let disk = held(disks, &slot.attachment)?;
        let mut room = Room::new(engine, vm, disk);
        let mut buffer = vec![0; PIECE_BYTES];
        match content {
            GuestContent::Pattern { seed, length } => {
                let end = check_range(offset, *length, disk.writer.size())?;
                let mut at = offset;
                while at < end {
                    let piece = &mut buffer[..piece_len(end - at)];
                    pattern(*seed, at - offset, piece);
                    room.write(disk, at, piece)?;
                    at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                }
                Ok(*length)
            }
            GuestContent::File(path) => write_file(disk, &mut room, offset, path, &mut buffer),
        }
    })
}

fn write_file(
    disk: &mut OpenDisk,
    room: &mut Room<'_>,
    offset: u64,
    path: &Path,
    buffer: &mut [u8],
) -> Result<u64, CtlError> {
    let io = |err: std::io::Error| {
        let kind = if err.kind() == std::io::ErrorKind::NotFound {
            CtlErrorKind::NotFound
        } else {
            CtlErrorKind::Failed
        };
        CtlError::new(kind, format!("failed to read {}: {err}", path.display()))
    };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let end = check_range(offset, length, disk.writer.size())?;
    let mut at = offset;
    while at < end {
        let piece = &mut buffer[..piece_len(end - at)];
        file.read_exact(piece).map_err(io)?;
        room.write(disk, at, piece)?;
        at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    Ok(length)
}

/// Writes `bytes` over the VM's disks as a file system does: small metadata at the front again and again, files in
/// runs in the middle, some overwritten in place. The same for the same seed and disks.
pub(crate) fn workload(engine: &Engine, vm: &Vm, seed: u64, bytes: u64) -> Result<u64, CtlError> {
    with_running(engine, vm, |disks| {
        if disks.open.is_empty() {
            return Err(CtlError::new(
                CtlErrorKind::Usage,
                format!("{} has no disk to write to", vm.name()),
            ));
        }
        let mut buffer = vec![0; PIECE_BYTES];
        let mut rooms: Vec<Room<'_>> = disks
            .open
            .iter()
            .map(|disk| Room::new(engine, vm, disk))
            .collect();
        let count = u64::try_from(disks.open.len()).unwrap_or(1);
        let (mut done, mut turn) = (0, 0_u64);
        while done < bytes {
            let draw = |what: u64| mix(mix(seed ^ what).wrapping_add(turn));
            let index = usize::try_from(draw(1) % count).unwrap_or(0);
            let disk = &mut disks.open[index];
            let cells = disk.writer.size() / 4096;
            if cells == 0 {
                return Err(CtlError::new(
                    CtlErrorKind::Usage,
                    format!("'{}' is too small", disk.path),
                ));
            }
            // One in four touches metadata: a single cell in the first 64th of the disk.
            let (start, run) = match draw(2) % 4 {
                0 => (draw(3) % (cells / 64).max(1), 1),
                1 => (draw(3) % cells, 1 + draw(4) % 4),
                _ => (draw(3) % cells, 1 + draw(4) % 256),
            };
            let len = (run.min(cells - start) * 4096).min(bytes - done);
            let piece = &mut buffer[..piece_len(len)];
            pattern(draw(5), 0, piece);
            rooms[index].write(disk, start * 4096, piece)?;
            done += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            turn += 1;
        }
        Ok(done)
    })
}

/// Room on the volume of a disk, looked up anew only when what was seen last is used up.
struct Room<'a> {
    engine: &'a Engine,
    vm: Uuid,
    name: String,
    letter: char,
    left: u64,
}

impl<'a> Room<'a> {
    fn new(engine: &'a Engine, vm: &Vm, disk: &OpenDisk) -> Self {
        Self {
            engine,
            vm: vm.id,
            name: vm.name().to_owned(),
            letter: disk.path.letter(),
            left: 0,
        }
    }

    fn write(&mut self, disk: &mut OpenDisk, offset: u64, piece: &[u8]) -> Result<(), CtlError> {
        let needed = u64::try_from(piece.len())
            .unwrap_or(u64::MAX)
            .saturating_add(OVERHEAD_BYTES);
        if self.left < needed {
            let volume = self.engine.read(|state| {
                state
                    .host
                    .volumes
                    .iter()
                    .find(|volume| volume.letter == self.letter)
                    .cloned()
            });
            self.left = volume.map_or(0, |volume| free_bytes(self.engine, &volume));
        }
        if self.left < needed
            || self
                .engine
                .fault(FaultRule::DiskFull, &["guest-write"], Some(self.vm))
        {
            let paused = self.engine.update_vm(self.vm, |vm| {
                vm.power = Power::Paused;
                Ok(())
            });
            paused.map_err(failed)?;
            return Err(CtlError::new(
                CtlErrorKind::Failed,
                format!(
                    "volume {}: is full and {} is paused; make room (`sim ctl volume set`), then `sim ctl power {} on`",
                    self.letter, self.name, self.name
                ),
            ));
        }
        self.left -= needed;
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
