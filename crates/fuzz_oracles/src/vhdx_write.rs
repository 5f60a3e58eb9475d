//! Changing a disk in place, whatever it was made of: it then holds what was written and, elsewhere, what it held; compacting
//! and repairing its file change nothing of that.

use std::ops::ControlFlow;

use vhdx::{
    Chain, CompactOptions, Disk, DiskWriter, Durability, Error, Kind, Rule, Severity, Vhdx,
    compact, repair,
};

use crate::image::{Image, pattern};
use crate::look::{self, Spot};
use crate::plain::Plain;
use crate::sparse::{self, SparseFile};
use crate::wire::{Input, Wire};
use crate::{MIB, index};

/// Longer files, and tables of more blocks, are left to the targets that only read: a writer keeps all of the table.
const LONGEST: u64 = 1024 * MIB;
const LONGEST_REFUSED: u64 = 64 * MIB;
/// Only shorter ones are searched for blocks of zeros.
const READ_WHOLE: u64 = 64 * MIB;
const MOST_BLOCKS: u64 = 1 << 20;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Work {
    /// Leaf first.
    pub(crate) images: Vec<Image>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Step {
    /// 0 write, 1 zeros, 2 zeros to the end of a block, 3 flush; and 4 close, 5 die after a flush,
    /// 6 close and compact, 7 die after a flush and repair, each then open again.
    pub(crate) op: u8,
    pub(crate) spot: Spot,
}

impl Input for Work {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.list(&mut self.steps, 15, |wire, step| {
            wire.byte(&mut step.op);
            step.spot.wire(wire);
        });
        wire.list(&mut self.images, 3, |wire, image| image.wire(wire));
    }
}

pub(crate) fn run(input: &[u8]) -> u64 {
    let input = Work::decode(input);
    let files: Vec<SparseFile> = input.images.iter().map(Image::build).collect();
    if files.iter().all(|file| file.size() <= LONGEST) {
        check(&files, &input.steps);
    }
    sparse::total_size(&files)
}

fn open(files: &[SparseFile]) -> Result<Disk, Error> {
    let layers: Result<Vec<Vhdx>, Error> =
        files.iter().map(|file| Vhdx::open(file.clone())).collect();
    Ok(Chain::from_layers(layers?)?.into_disk())
}

fn open_writer(files: &[SparseFile]) -> Result<DiskWriter, Error> {
    let parents: Result<Vec<Vhdx>, Error> = files[1..]
        .iter()
        .map(|file| Vhdx::open(file.clone()))
        .collect();
    DiskWriter::open(files[0].clone(), parents?, Durability::PowerLoss)
}

fn check(files: &[SparseFile], steps: &[Step]) {
    if files.is_empty() {
        return;
    }
    // What the disk held, kept apart from what is written to.
    let before: Vec<SparseFile> = files.iter().map(SparseFile::copy).collect();
    let Ok(disk) = open(&before) else {
        if files[0].size() <= LONGEST_REFUSED {
            assert!(
                open_writer(files).is_err(),
                "writes to what is not to be read"
            );
        }
        return;
    };
    let (size, block) = (disk.size(), u64::from(disk.block_bytes()));
    if size / block > MOST_BLOCKS {
        return;
    }
    let mut writer = match open_writer(files) {
        Ok(writer) => writer,
        // A file without space for a log, or whose numbers cannot grow, can be read only.
        Err(refusal) => {
            let readable =
                refusal.rule() == Some(Rule::LogPlace) || refusal.kind() == Kind::Refused;
            assert!(readable, "{refusal}");
            return;
        }
    };
    let mut model = Model {
        disk,
        changes: Vec::new(),
    };
    for step in steps {
        let (offset, len) = step.spot.range(size, block);
        match step.op % 8 {
            0 => {
                let bytes = pattern(u64::from(step.spot.cut) + 1, offset, index(len));
                writer.write_at(&bytes, offset).expect("write");
                model.changes.push(Written {
                    offset,
                    len,
                    seed: Some(u64::from(step.spot.cut) + 1),
                });
            }
            op @ (1 | 2) => {
                let end = if op == 1 {
                    offset + len
                } else {
                    ((offset / block + 1) * block).min(size)
                };
                let len = end - offset;
                writer.zero(offset, len).expect("zero");
                model.changes.push(Written {
                    offset,
                    len,
                    seed: None,
                });
            }
            3 => writer.flush().expect("flush"),
            op => {
                if [4, 6].contains(&op) {
                    assert!(!writer.close().expect("close").unclean);
                } else {
                    writer.flush().expect("flush");
                    drop(writer);
                }
                if op == 6 {
                    compact_leaf(&files[0], step.spot.cut & 1 == 1);
                } else if op == 7 {
                    let report = repair(files[0].clone(), Durability::PowerLoss).expect("repair");
                    assert_eq!(report.after.count(Rule::LogInUse), 0, "repaired");
                }
                model.compare(|buf, at| {
                    open(files)
                        .expect("written files can be opened")
                        .read_at(buf, at)
                });
                writer = open_writer(files).expect("written files can be opened again");
            }
        }
    }
    model.compare(|buf, at| writer.read_at(buf, at));
    assert!(!writer.close().expect("close").unclean);
    let report = vhdx::check(files[0].clone()).expect("written files can be checked");
    assert_eq!(report.count_of(Severity::Error), 0, "{:?}", report.findings);
    let disk = open(files).expect("written files can be opened");
    let plain: Vec<Plain> = files.iter().map(Plain::vhdx).collect();
    model.compare(|buf, at| disk.read_at(buf, at));
    let spots: Vec<Spot> = steps.iter().map(|step| step.spot.clone()).collect();
    look::compare(&disk, &plain, &spots);
    for (parent, before) in files.iter().zip(&before).skip(1) {
        assert_eq!(parent.difference(before, 0), None, "a parent was changed");
    }
}

fn compact_leaf(file: &SparseFile, find_zeros: bool) {
    let options = CompactOptions {
        find_zeros: find_zeros && file.size() <= READ_WHOLE,
    };
    let before = file.size();
    let mut go_on = |_| ControlFlow::Continue(());
    let report = compact(file.clone(), options, Durability::PowerLoss, &mut go_on);
    let report = report.expect("what can be written can be compacted");
    assert_eq!(
        (report.file_bytes_before, report.file_bytes_after),
        (before, file.size())
    );
    assert!(file.size() <= before, "longer than before");
}

/// What a disk must hold: what it held, and what was written since, in order.
struct Model {
    disk: Disk,
    changes: Vec<Written>,
}

struct Written {
    offset: u64,
    len: u64,
    /// Zeros if there is none.
    seed: Option<u64>,
}

impl Model {
    fn bytes(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; index(len)];
        self.disk
            .read_at(&mut bytes, offset)
            .expect("read what was there before");
        for change in &self.changes {
            let (start, end) = (
                change.offset.max(offset),
                (change.offset + change.len).min(offset + len),
            );
            if start < end {
                let part = &mut bytes[index(start - offset)..index(end - offset)];
                match change.seed {
                    Some(seed) => part.copy_from_slice(&pattern(seed, start, index(end - start))),
                    None => part.fill(0),
                }
            }
        }
        bytes
    }

    /// Compares around both ends of every change, and the ends of the disk.
    fn compare(&self, read: impl Fn(&mut [u8], u64) -> Result<(), Error>) {
        let size = self.disk.size();
        let ends = self
            .changes
            .iter()
            .flat_map(|change| [change.offset, change.offset + change.len]);
        for at in ends.chain([0, size]) {
            let start = at.saturating_sub(4096 + 512);
            let len = (at + 4096 + 512).min(size) - start;
            let mut bytes = vec![0xEE; index(len)];
            read(&mut bytes, start).expect("read");
            assert!(bytes == self.bytes(start, len), "the disk around {at:#x}");
        }
    }
}
