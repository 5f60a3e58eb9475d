//! Random damage to what is read first.

use std::sync::Arc;

use crate::power::Chance;
use crate::refusals::{
    BAT, HEADERS, ITEMS, LOG, METADATA, Make, TABLES, base, child, edit_summed, large, poke,
    unclean,
};
use crate::support::{MIB, rounds};
use vhdx::{Chain, DiskWriter, Durability, MemoryFile, Rule, Severity, Vhdx, check};

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
