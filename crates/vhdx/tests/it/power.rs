//! A file that remembers what was done to it, and what an unplanned end could have left of that.
//!
//! A kill keeps the order of writes. A loss of power keeps what was synced; of the rest it may keep anything: whole writes or
//! torn ones, in any order. Besides chance, the cases that order mistakes show in are tried at every moment.

use std::io;
use std::sync::Mutex;

use vhdx::{MemoryFile, ReadAt, WriteAt};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// A file that remembers everything done to it.
#[derive(Default)]
pub(crate) struct Recorder {
    now: MemoryFile,
    ops: Mutex<Vec<Op>>,
}

impl Recorder {
    pub(crate) fn new(start: &MemoryFile) -> Self {
        Self {
            now: start.duplicate(),
            ops: Mutex::default(),
        }
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.ops.lock().unwrap().len()
    }

    fn push(&self, op: Op) {
        self.ops.lock().unwrap().push(op);
    }
}

impl ReadAt for Recorder {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.now.read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }
}

impl WriteAt for Recorder {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.push(Op::Write(offset, buf.to_vec()));
        self.now.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.push(Op::SetLen(len));
        WriteAt::set_len(&self.now, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.push(Op::Sync);
        Ok(())
    }
}

pub(crate) fn apply(file: &MemoryFile, op: &Op) {
    match op {
        Op::Write(at, bytes) => file.write_all_at(bytes, *at).unwrap(),
        Op::SetLen(len) => WriteAt::set_len(file, *len).unwrap(),
        Op::Sync => {}
    }
}

/// A small generator: the tests are the same every time.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What a loss of power keeps of the operations that were not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kept {
    /// Anything, in any order, torn at 512 bytes.
    Chance,
    /// Only the newest: it overtook all the others.
    Newest,
    /// Nothing: what was not synced is lost.
    Nothing,
    /// All but the one that lies `0` before the newest.
    AllBut(usize),
}

/// Returns what is left after power was lost behind the last of `ops`.
pub(crate) fn after_power_loss(
    start: &MemoryFile,
    ops: &[Op],
    kept: Kept,
    chance: &mut Chance,
) -> MemoryFile {
    let synced = synced(ops);
    let file = start.duplicate();
    ops[..synced].iter().for_each(|op| apply(&file, op));
    let late = &ops[synced..];
    match kept {
        Kept::Chance => keep_by_chance(&file, late, chance),
        Kept::Nothing => {}
        Kept::Newest => late.iter().rev().take(1).for_each(|op| apply(&file, op)),
        Kept::AllBut(lost) => {
            let lost = late.len().checked_sub(lost + 1);
            for (number, op) in late.iter().enumerate() {
                if Some(number) != lost {
                    apply(&file, op);
                }
            }
        }
    }
    file
}

/// Returns what is left for certain once the work is done.
pub(crate) fn settled(start: &MemoryFile, ops: &[Op]) -> MemoryFile {
    after_power_loss(start, ops, Kept::Nothing, &mut Chance(0))
}

/// Returns how many operations are behind the last sync.
fn synced(ops: &[Op]) -> usize {
    let last = ops.iter().rposition(|op| matches!(op, Op::Sync));
    last.map_or(0, |at| at + 1)
}

fn keep_by_chance(file: &MemoryFile, late: &[Op], chance: &mut Chance) {
    let mut late: Vec<&Op> = late.iter().collect();
    for number in (1..late.len()).rev() {
        let other = usize::try_from(chance.next(number as u64 + 1)).unwrap();
        late.swap(number, other);
    }
    for op in late {
        match op {
            Op::Write(..) if chance.next(3) == 0 => apply(file, op),
            Op::Write(at, bytes) if chance.next(2) == 0 => {
                for (number, sector) in bytes.chunks(512).enumerate() {
                    if chance.next(2) == 0 {
                        file.write_all_at(sector, at + number as u64 * 512).unwrap();
                    }
                }
            }
            Op::SetLen(_) if chance.next(2) == 0 => apply(file, op),
            Op::Write(..) | Op::SetLen(_) | Op::Sync => {}
        }
    }
}

/// Calls `judge` with what is left after a kill, then a loss of power, behind every operation; with their number.
pub(crate) fn all_ends(
    start: &MemoryFile,
    ops: &[Op],
    seed: u64,
    mut judge: impl FnMut(MemoryFile, usize, &str),
) {
    let mut chance = Chance(seed);
    let now = start.duplicate();
    judge(start.duplicate(), 0, "nothing done");
    for end in 1..=ops.len() {
        apply(&now, &ops[end - 1]);
        if matches!(ops[end - 1], Op::Sync) {
            continue;
        }
        judge(now.duplicate(), end, "kill");
        // Of many writes in a row without sync, some are looked at.
        let late = end - synced(&ops[..end]);
        let lost = usize::try_from(chance.next(late as u64)).unwrap();
        let mut kinds = vec![Kept::Chance, Kept::Newest];
        if late > 1 {
            kinds.push(Kept::AllBut(lost));
        }
        for kept in kinds {
            let left = after_power_loss(start, &ops[..end], kept, &mut chance);
            judge(left, end, &format!("{kept:?}"));
        }
    }
}
