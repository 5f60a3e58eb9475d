//! New disks whose writer is cut at any write, by a kill or a loss of power, and gone on with from the last checkpoint.

use std::sync::Arc;

use crate::power::{Chance, Op, Recorder, all_ends, settled};
use crate::support::{MIB, disk_of, pattern, read, rounds, sound};
use vhdx::{BulkWriter, Disk, Error, MemoryFile, Params, ReadAt, Unfinished, WriteAt, inspect};

/// How much is written between two checkpoints.
const SPACING: u64 = MIB;

/// What a disk holds: pieces in order, with gaps.
fn pieces(size: u64, chance: &mut Chance) -> Vec<(u64, Vec<u8>)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let len = (1 + chance.next(400)) * 4096;
        let len = len.min(size - at);
        pieces.push((at, pattern(at + 1, at, usize::try_from(len).unwrap())));
        at += len;
        at += [0, 0, 4096, 300 * 4096, 2 * MIB][usize::try_from(chance.next(5)).unwrap()];
    }
    pieces
}

fn content(size: u64, pieces: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    for (at, bytes) in pieces {
        let at = usize::try_from(*at).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    content
}

/// A checkpoint: number of file operations when it was done, and how far it reached.
type Checkpoint = (usize, u64);

fn write_with_checkpoints(
    recorder: &Arc<Recorder>,
    writer: &mut BulkWriter,
    pieces: &[(u64, Vec<u8>)],
    checkpoints: &mut Vec<Checkpoint>,
) {
    let mut since = 0;
    for (at, bytes) in pieces {
        writer.write(*at, bytes).unwrap();
        since += bytes.len() as u64;
        if since >= SPACING {
            let reached = writer.checkpoint().unwrap();
            checkpoints.push((recorder.count(), reached));
            since = 0;
        }
    }
}

/// The rest of the pieces behind an offset, the first one cut.
fn rest(pieces: &[(u64, Vec<u8>)], from: u64) -> Vec<(u64, Vec<u8>)> {
    let behind = pieces
        .iter()
        .filter(|(at, bytes)| at + bytes.len() as u64 > from);
    behind
        .map(|(at, bytes)| {
            let cut = usize::try_from(from.saturating_sub(*at)).unwrap();
            (*at.max(&from), bytes[cut..].to_vec())
        })
        .collect()
}

fn goes_on_after_any_end(params: &Params, seed: u64) {
    let mut chance = Chance(seed);
    let pieces = pieces(params.size, &mut chance);
    let expected = content(params.size, &pieces);
    let start = MemoryFile::new();
    let recorder = Arc::new(Recorder::new(&start));
    let mut writer = BulkWriter::create(Arc::clone(&recorder), params).unwrap();
    let mut checkpoints = Vec::new();
    write_with_checkpoints(&recorder, &mut writer, &pieces, &mut checkpoints);
    writer.finish().unwrap();
    let ops = recorder.ops();
    assert!(checkpoints.len() > 1, "{checkpoints:?}");
    let mut longest = 0;
    all_ends(&start, &ops, seed, |left, end, kind| {
        let context = format!("after operation {end} ({kind})");
        let newest = checkpoints.iter().rfind(|(count, _)| *count <= end);
        let Some(&(count, reached)) = newest else {
            return;
        };
        let again = ops[count..end].iter().map(|op| match op {
            Op::Write(_, bytes) => bytes.len() as u64,
            Op::SetLen(_) | Op::Sync => 0,
        });
        longest = longest.max(again.sum());
        let left = Arc::new(left);
        let found = Unfinished::open(Arc::clone(&left), params, reached)
            .unwrap_or_else(|err| panic!("{context}: {err}"));
        let mut there = vec![0xEE; usize::try_from(reached).unwrap()];
        found.read_at(&mut there, 0).unwrap();
        assert!(there == expected[..there.len()], "{context}: lost data");
        // What was synced stays, from wherever the caller goes on.
        let from = match chance.next(3) {
            0 => chance.next(reached + 1) / 512 * 512,
            _ => reached,
        };
        let again = Arc::new(Recorder::new(&left));
        drop(found);
        let found = Unfinished::open(Arc::clone(&again), params, reached).unwrap();
        let mut writer = found.resume(from).unwrap();
        let mut more = Vec::new();
        write_with_checkpoints(&again, &mut writer, &rest(&pieces, from), &mut more);
        writer.finish().unwrap();
        let done = Arc::new(settled(&left, &again.ops()));
        sound(&done, &context);
        let disk = Disk::open(done).unwrap();
        assert!(
            read(&disk, 0, expected.len()) == expected,
            "{context}: gone on from {from} of {reached}"
        );
    });
    // One piece more than the spacing, and pages of the table.
    assert!(
        (1..SPACING + 400 * 4096 + 256 * 1024).contains(&longest),
        "{longest}"
    );
}

#[test]
fn a_dynamic_disk_goes_on_after_any_end() {
    for seed in 0..u64::from(rounds(3)) {
        let params = Params {
            block_bytes: 1 << (20 + u32::try_from(seed % 3).unwrap()),
            ..Params::dynamic(12 * MIB)
        };
        goes_on_after_any_end(&params, seed);
    }
}

#[test]
fn a_fixed_disk_goes_on_after_any_end() {
    let params = Params {
        block_bytes: 1 << 21,
        ..Params::fixed(11 * MIB)
    };
    goes_on_after_any_end(&params, 7);
}

#[test]
fn a_resumed_writer_can_be_cut_again() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(24 * MIB)
    };
    let pieces = pieces(params.size, &mut Chance(5));
    let expected = content(params.size, &pieces);
    let mut file = MemoryFile::new();
    let mut reached = None;
    // Each run is lost a few operations behind its first checkpoint; each gets further than the one before.
    for run in 0..40 {
        let recorder = Arc::new(Recorder::new(&file));
        let mut writer = match reached {
            None => BulkWriter::create(Arc::clone(&recorder), &params).unwrap(),
            Some(at) => Unfinished::open(Arc::clone(&recorder), &params, at)
                .and_then(|found| found.resume(at))
                .unwrap(),
        };
        let left = rest(&pieces, reached.unwrap_or(0));
        let mut checkpoints = Vec::new();
        write_with_checkpoints(&recorder, &mut writer, &left, &mut checkpoints);
        let Some(&(count, at)) = checkpoints.first() else {
            writer.finish().unwrap();
            let done = Arc::new(settled(&file, &recorder.ops()));
            sound(&done, "at the end");
            let disk = Disk::open(done).unwrap();
            assert!(read(&disk, 0, expected.len()) == expected);
            assert!(run > 2, "{run}");
            return;
        };
        assert!(reached.is_none_or(|before| before < at));
        reached = Some(at);
        let mut chance = Chance(run);
        let ops = recorder.ops();
        let end = (count + 3).min(ops.len());
        file = crate::power::after_power_loss(
            &file,
            &ops[..end],
            crate::power::Kept::Chance,
            &mut chance,
        );
    }
    panic!("forty runs did not come to an end");
}

#[test]
fn what_is_another_file_is_refused() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(8 * MIB)
    };
    let file = Arc::new(MemoryFile::new());
    let mut writer = BulkWriter::create(Arc::clone(&file), &params).unwrap();
    for block in [0, 2, 3] {
        writer.write(block * MIB, &pattern(1, block, 4096)).unwrap();
    }
    let reached = writer.checkpoint().unwrap();
    assert_eq!(reached, 3 * MIB + 4096);
    let refusal = |file: &MemoryFile, params: &Params| match Unfinished::open(
        Arc::new(file.duplicate()),
        params,
        reached,
    ) {
        Err(Error::NotUnfinished { problem }) => problem,
        other => panic!("{other:?}"),
    };
    assert!(Unfinished::open(Arc::clone(&file), &params, reached).is_ok());
    let other = Params::dynamic(8 * MIB);
    assert!(refusal(&file, &other).contains("metadata"));
    assert!(refusal(&MemoryFile::new(), &params).contains("short"));
    let (finished, _) = disk_of(&other, &[(0, vec![1; 4096])]);
    assert!(refusal(&finished, &params).contains("metadata"));
    let table = 3 * MIB;
    for (entry, raw, problem) in [
        (2, (6 * MIB) | 6, "where it was put"),
        (1, (5 * MIB) | 6, "where it was put"),
        (3, 7 * MIB, "no writer makes"),
        (0, (4 * MIB) | 7, "no writer makes"),
        (0, u64::MAX, "no writer makes"),
    ] {
        let changed = file.duplicate();
        changed
            .write_all_at(&raw.to_le_bytes(), table + entry * 8)
            .unwrap();
        assert!(refusal(&changed, &params).contains(problem), "{raw:#x}");
    }
    let beyond = Unfinished::open(Arc::clone(&file), &params, 9 * MIB);
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    let found = Unfinished::open(Arc::clone(&file), &params, reached).unwrap();
    assert!(matches!(
        found.resume(reached + 512),
        Err(Error::OutOfRange { .. })
    ));
}

#[test]
fn a_finished_file_is_refused_by_readers_once_it_is_gone_on_with() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(4 * MIB)
    };
    let (file, _) = disk_of(&params, &[(0, pattern(1, 0, 1 << 20))]);
    let found = Unfinished::open(Arc::clone(&file), &params, MIB).unwrap();
    let mut bytes = vec![0; 1 << 20];
    found.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(1, 0, 1 << 20));
    let mut writer = found.resume(4096).unwrap();
    assert!(inspect(Arc::clone(&file)).is_err());
    assert!(file.len().unwrap() > 4 * MIB);
    writer.write(2 * MIB, &[5; 512]).unwrap();
    writer.finish().unwrap();
    let disk = Disk::open(file).unwrap();
    assert!(read(&disk, 0, 4096) == pattern(1, 0, 4096));
    assert!(read(&disk, 4096, 4096) == [0; 4096]);
    assert!(read(&disk, 2 * MIB, 512) == [5; 512]);
}
