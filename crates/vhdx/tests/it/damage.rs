//! Random damage to what is read first.

use std::sync::Arc;

use crate::chains::{Shelf, child_of};
use crate::power::{Chance, Recorder};
use crate::refusals::{
    BAT, HEADERS, ITEMS, LOG, METADATA, Make, TABLES, base, child, edit_summed, large, poke,
    unclean,
};
use crate::support::{MIB, disk_of, rounds};
use vhdx::{
    Chain, DiskWriter, Durability, Kind, MemoryFile, Params, Rule, Severity, Vhdx, check,
    check_chain, repair,
};

/// Checks a file that was opened or refused: an error is found exactly where opening refuses, the rule it names among
/// them. (That the file is not changed is a matter of types: a `ReadAt` cannot be written.)
#[track_caller]
fn judged_alike(file: &Arc<MemoryFile>, refusal: Option<&vhdx::Error>) {
    let report = match check(Arc::clone(file)) {
        Ok(report) => report,
        Err(err) => {
            assert_eq!(err.rule(), refusal.and_then(vhdx::Error::rule));
            return;
        }
    };
    let errors = report.count_of(Severity::Error);
    match refusal {
        Some(err) => {
            let rule = err.rule().unwrap();
            assert!(report.count(rule) > 0, "{err}: {report:?}");
        }
        None => assert_eq!(errors, 0, "{report:?}"),
    }
    assert!(report.findings.len() <= 1000 * Rule::ALL.len());
}

/// Repairs a copy: what opening accepts is mended and reads as before, what it refuses is refused and not written.
#[track_caller]
fn repaired_or_untouched(file: &MemoryFile, refusal: Option<&vhdx::Error>) {
    let recorder = Arc::new(Recorder::new(file));
    let repaired = repair(Arc::clone(&recorder), Durability::ProcessKill);
    match (repaired, refusal) {
        (Ok(report), None) => {
            let (before, after) = (
                report.before.info.unwrap(),
                report.after.info.clone().unwrap(),
            );
            assert_eq!(before.data_write_guid, after.data_write_guid);
            assert_eq!(
                (before.size, before.parent),
                (after.size, after.parent.clone())
            );
            assert_eq!(report.before.figures.blocks, report.after.figures.blocks);
            assert!(!after.unclean);
            for rule in [Rule::HeaderOneBad, Rule::HeaderTwins, Rule::HeaderOtherLog] {
                assert_eq!(report.after.count(rule), 0);
            }
            for rule in [Rule::RegionOneBad, Rule::RegionCopies] {
                assert_eq!(report.after.count(rule), 0);
            }
        }
        // Without a log, or with headers counted to the end, nothing can be changed.
        (Err(err), None) => {
            let stuck = err.kind() == Kind::Refused || err.rule() == Some(Rule::LogPlace);
            assert!(stuck, "{err}");
        }
        (Err(err), Some(refusal)) => {
            assert!(recorder.count() == 0, "{err}: was written");
            assert!(err.rule().is_some(), "{refusal}");
        }
        (Ok(_), Some(refusal)) => panic!("{refusal}: was repaired"),
    }
}

/// Damages one of two files of a chain: checking finds an error exactly where opening refuses.
#[test]
fn damaged_chains_are_judged_as_they_are_opened() {
    let (parent, info) = disk_of(
        &Params {
            block_bytes: 1 << 20,
            ..Params::dynamic(4 * MIB)
        },
        &[],
    );
    let (leaf, _) = child_of(&info, "parent.vhdx");
    let mut chance = Chance(23 + u64::from(rounds(0)));
    let mut refused = 0;
    for round in 0..rounds(600) {
        let files = [leaf.duplicate(), parent.duplicate()];
        let file = &files[usize::try_from(round % 2).unwrap()];
        let areas = [
            (HEADERS[0], 80),
            (HEADERS[1], 80),
            (METADATA, 256),
            (ITEMS, 400),
        ];
        let (start, len) = areas[usize::try_from(chance.next(4)).unwrap()];
        poke(
            file,
            start + chance.next(len),
            &[u8::try_from(chance.next(256)).unwrap()],
        );
        if chance.next(4) > 0 {
            HEADERS
                .iter()
                .for_each(|at| edit_summed(file, *at, 4096, |_| ()));
        }
        let [leaf, parent] = files.map(Arc::new);
        let shelf = Shelf(vec![("parent.vhdx".into(), parent)]);
        let opened = Chain::open(Arc::clone(&leaf), "leaf", &shelf);
        refused += u32::from(opened.is_err());
        match check_chain(leaf, "leaf", &shelf) {
            Ok(report) => {
                let has_errors = report.worst() == Some(Severity::Error);
                assert_eq!(has_errors, opened.is_err(), "{opened:?} {report:?}");
            }
            Err(err) => assert_eq!(err.rule(), opened.unwrap_err().rule()),
        }
    }
    assert!(refused > rounds(600) / 10, "{refused} refused");
}

/// Flips bytes of every structure that is read, keeping checksums right half of the time: no panic, no endless work, and
/// what is accepted can be read from end to end.
#[test]
fn random_damage_is_refused_or_read_but_never_a_panic() {
    let mut chance = Chance(17 + u64::from(rounds(0)));
    let makes: [Make; 4] = [base, unclean, child, large];
    let areas = [
        (64 << 10, 256 << 10),
        (LOG, 16 << 10),
        (METADATA, 4096),
        (ITEMS, 512),
        (BAT, 96),
        (BAT + 2040 * 8, 128),
    ];
    let originals: Vec<Arc<MemoryFile>> = makes.iter().map(|make| make()).collect();
    let (mut opened, mut refused) = (0, 0);
    for round in 0..usize::try_from(rounds(6000)).unwrap() {
        let file = originals[round % originals.len()].duplicate();
        let (start, len) = areas[usize::try_from(chance.next(areas.len() as u64)).unwrap()];
        for _ in 0..=chance.next(3) {
            // Mostly near the start, where the fields are.
            let spread = if chance.next(2) == 0 {
                128.min(len)
            } else {
                len
            };
            let byte = [u8::try_from(chance.next(256)).unwrap()];
            poke(&file, start + chance.next(spread), &byte);
        }
        if chance.next(4) > 0 {
            HEADERS
                .iter()
                .for_each(|at| edit_summed(&file, *at, 4096, |_| ()));
            TABLES
                .iter()
                .for_each(|at| edit_summed(&file, *at, 64 << 10, |_| ()));
            if round % 4 == 1 {
                edit_summed(&file, LOG, 8192, |_| ());
            }
        }
        let file = Arc::new(file);
        let opened_as = Vhdx::open(Arc::clone(&file));
        judged_alike(&file, opened_as.as_ref().err());
        if round % 8 == 5 {
            repaired_or_untouched(&file, opened_as.as_ref().err());
        }
        let Ok(layer) = opened_as else {
            refused += 1;
            continue;
        };
        opened += 1;
        let has_parent = layer.info().parent.is_some();
        if let Ok(chain) = Chain::from_layers(vec![layer]) {
            let disk = chain.into_disk();
            let mut sum = 0;
            for extent in disk.extents(0, disk.size().min(1 << 40)) {
                sum += extent.unwrap().len;
            }
            assert_eq!(sum, disk.size().min(1 << 40));
            let mut bytes = vec![0; 65_536];
            let _ = disk.read_at(
                &mut bytes[..usize::try_from(disk.size().min(65_536)).unwrap()],
                0,
            );
        } else {
            assert!(has_parent);
        }
        if round % 8 < 4
            && let Ok(writer) = DiskWriter::open(file, Vec::new(), Durability::ProcessKill)
            && writer.write_at(&[1; 512], 0).is_ok()
        {
            let _ = writer.zero(0, writer.size().min(MIB));
            writer.close().unwrap();
        }
    }
    assert!(
        opened > 500 && refused > 500,
        "{opened} opened, {refused} refused"
    );
}
