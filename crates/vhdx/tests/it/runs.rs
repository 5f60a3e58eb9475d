//! Where bytes lie, by the tables alone: the files read there give what the disk reads as.

use std::sync::Arc;

use crate::power::Chance;
use crate::refusals::unclean;
use crate::support::{MIB, disk_of, link, pattern, read, rounds};
use vhdx::{
    Chain, Disk, DiskWriter, Durability, ExtentKind, MemoryFile, OwnPlace, Params, Place, ReadAt,
    Run, Vhdx, create_differencing,
};

/// Checks the runs of a range against reads and extents; returns them.
#[track_caller]
fn check(disk: &Disk, files: &[Arc<MemoryFile>], offset: u64, len: u64) -> Vec<Run> {
    let runs: Vec<Run> = disk.runs(offset, len).map(Result::unwrap).collect();
    let mut at = offset;
    for run in &runs {
        assert_eq!(run.offset, at);
        assert!(run.len > 0);
        at += run.len;
        let run_len = usize::try_from(run.len).unwrap();
        let mut bytes = vec![0; run_len];
        if let Place::File { number, offset } = run.place {
            files[number].read_exact_at(&mut bytes, offset).unwrap();
        }
        assert!(bytes == read(disk, run.offset, run_len), "{run:?}");
    }
    assert_eq!(at, (offset + len).min(disk.size()));
    let data = |kind: bool, len: u64| if kind { len } else { 0 };
    let by_runs: u64 = runs
        .iter()
        .map(|run| data(run.place != Place::Zero, run.len))
        .sum();
    let by_extents: u64 = disk
        .extents(offset, len)
        .map(Result::unwrap)
        .map(|extent| data(extent.kind == ExtentKind::Data, extent.len))
        .sum();
    assert_eq!(by_runs, by_extents);
    runs
}

/// Checks that what each file holds by itself, laid over what its parents hold, is what the chain reads as.
#[track_caller]
fn check_own(disk: &Disk, files: &[Arc<MemoryFile>]) {
    let size = usize::try_from(disk.size()).unwrap();
    let mut image = vec![0xEE; size];
    for (layer, file) in disk.layers().iter().zip(files).rev() {
        let mut at = 0;
        let mut last = None;
        for run in layer.own_runs() {
            let run = run.unwrap();
            assert_eq!(run.offset, at as u64);
            let end = at + usize::try_from(run.len).unwrap();
            match run.place {
                OwnPlace::File { offset } => {
                    file.read_exact_at(&mut image[at..end], offset).unwrap();
                }
                OwnPlace::Log => layer_alone(file, &mut image[at..end], run.offset),
                OwnPlace::Zero => image[at..end].fill(0),
                OwnPlace::Parent => assert!(layer.info().parent.is_some()),
            }
            if matches!(run.place, OwnPlace::Zero | OwnPlace::Parent) {
                assert_ne!(last, Some(run.place), "neighbours are joined");
            }
            last = Some(run.place);
            at = end;
        }
        assert_eq!(at, size);
    }
    assert!(image == read(disk, 0, size));
}

/// Bytes that lie in the log of a file are had from that file only.
fn layer_alone(file: &Arc<MemoryFile>, bytes: &mut [u8], offset: u64) {
    Disk::open(Arc::clone(file))
        .and_then(|disk| disk.read_at(bytes, offset))
        .expect("payload of a child is never logged");
}

#[test]
fn runs_of_a_chain_lead_to_what_is_read() {
    let mut chance = Chance(3);
    for round in 0..rounds(10) {
        let params = Params {
            block_bytes: 1 << 20,
            ..Params::dynamic(12 * MIB)
        };
        let pieces = [(0, pattern(1, 0, 3 << 20)), (9 * MIB, pattern(2, 0, 5000))];
        let (parent, info) = disk_of(&params, &pieces);
        let child = Arc::new(MemoryFile::new());
        let of_child = Params::child_of(&info, link(&info, "parent.vhdx"));
        create_differencing(Arc::clone(&child), &of_child).unwrap();
        let parents = || vec![Vhdx::open(Arc::clone(&parent)).unwrap()];
        let writer = DiskWriter::open(Arc::clone(&child), parents(), Durability::ProcessKill);
        let writer = writer.unwrap();
        for _ in 0..chance.next(20) {
            let len = 1 + chance.next(100_000);
            let at = chance.next(12 * MIB - len);
            if chance.next(4) == 0 {
                writer.zero(at, len).unwrap();
            } else {
                writer
                    .write_at(&vec![0xA5; usize::try_from(len).unwrap()], at)
                    .unwrap();
            }
        }
        // Half of them with a log to replay.
        if round % 2 == 0 {
            writer.close().unwrap();
        } else {
            writer.flush().unwrap();
            drop(writer);
        }
        let mut layers = vec![Vhdx::open(Arc::clone(&child)).unwrap()];
        layers.extend(parents());
        let disk = Chain::from_layers(layers).unwrap().into_disk();
        let files = [child, Arc::clone(&parent)];
        check(&disk, &files, 0, u64::MAX - 1 - 12 * MIB);
        check_own(&disk, &files);
        let at = chance.next(12 * MIB);
        check(&disk, &files, at, chance.next(12 * MIB - at) + 1);
    }
}

#[test]
fn runs_of_an_unclean_file_lie_in_the_file() {
    let file = unclean();
    let disk = Disk::open(Arc::clone(&file)).unwrap();
    let files = [file];
    check_own(&disk, &files);
    let runs = check(&disk, &files, 0, disk.size());
    assert!(runs.len() > 3, "{runs:?}");
}
