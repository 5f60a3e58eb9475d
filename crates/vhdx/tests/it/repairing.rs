//! Repair: what it mends, that it ends well whenever it is stopped, and what it leaves alone.

use std::sync::Arc;

use crate::power::{Recorder, all_ends};
use crate::refusals::{
    Break, CASES, HEADERS, Make, TABLES, base, child, copy, edit_summed, poke, put, unclean,
};
use crate::support::{MIB, rounds};
use vhdx::{
    DiskFile, Durability, MemoryFile, ReadAt, Rule, Severity, Vhdx, WriteAt, check, repair,
};

/// Whether headers and region tables are to be written.
type Mends = (bool, bool);

#[rustfmt::skip]
const MENDED: &[(&str, Make, Break, Mends)] = &[
    ("log in use", unclean, |_| (), (true, false)),
    ("first header", base, |f| poke(f, HEADERS[0], b"x"), (true, false)),
    ("second header", base, |f| poke(f, HEADERS[1], b"x"), (true, false)),
    ("second header of a child", child, |f| poke(f, HEADERS[1], &[0; 4096]), (true, false)),
    ("twins", base, |f| copy(f, HEADERS[1], HEADERS[0], 4096), (true, false)),
    ("an old log", base, |f| edit_summed(f, older_header(f), 4096, |h| put(h, 48, &[7; 16])), (true, false)),
    ("first table", base, |f| poke(f, TABLES[0], &[0xFF; 100]), (true, true)),
    ("second table", child, |f| poke(f, TABLES[1] + 5000, b"x"), (true, true)),
    ("tables differ", base, |f| edit_summed(f, TABLES[1], 64 << 10, |t| put(t, 44, &[0])), (true, true)),
    ("log in use and a header", unclean, |f| poke(f, older_header(f), b"x"), (true, false)),
    ("log in use and a table", unclean, |f| poke(f, TABLES[0], b"x"), (true, true)),
];

/// Returns where the header lies that is not current.
fn older_header(file: &MemoryFile) -> u64 {
    let number = |at: u64| {
        let mut number = [0; 8];
        file.read_exact_at(&mut number, at + 8).unwrap();
        u64::from_le_bytes(number)
    };
    let older = number(HEADERS[0]) > number(HEADERS[1]);
    HEADERS[usize::from(older)]
}

/// What must stay: the disk's identity, and its bytes as far as they lie in this file.
fn content(file: &Arc<MemoryFile>) -> (uuid::Uuid, Vec<Option<Vec<u8>>>) {
    let layer = Vhdx::open(Arc::clone(file)).unwrap();
    let identity = layer.info().data_write_guid;
    let layer = DiskFile::from(layer);
    let mut bytes = Vec::new();
    for run in layer.own_runs() {
        let run = run.unwrap();
        bytes.push(match run.place {
            vhdx::OwnPlace::File { offset } => {
                let mut part = vec![0; usize::try_from(run.len).unwrap()];
                file.read_exact_at(&mut part, offset).unwrap();
                Some(part)
            }
            vhdx::OwnPlace::Log | vhdx::OwnPlace::Zero | vhdx::OwnPlace::Parent => None,
        });
    }
    (identity, bytes)
}

#[test]
fn mends_headers_tables_and_log_and_nothing_else() {
    for (case, make, spoil, mends) in MENDED {
        let file = make();
        spoil(&file);
        let before = content(&file);
        let report = repair(Arc::clone(&file), Durability::PowerLoss).unwrap();
        assert_eq!(
            (report.renewed_headers, report.renewed_region_table),
            *mends,
            "{case}"
        );
        assert!(report.changed(), "{case}");
        assert_eq!(
            report.before.count(Rule::LogInUse),
            u64::from(report.replayed_entries > 0)
        );
        assert!(
            report.after.worst() < Some(Severity::Warning),
            "{case}: {report:?}"
        );
        assert!(content(&file) == before, "{case}: the disk has changed");
        let mut tables = [vec![0; 64 << 10], vec![0; 64 << 10]];
        for (table, at) in tables.iter_mut().zip(TABLES) {
            file.read_exact_at(table, at).unwrap();
        }
        assert!(tables[0] == tables[1], "{case}");
        // Nothing is left to do.
        let again = Arc::new(Recorder::new(&file));
        let report = repair(Arc::clone(&again), Durability::PowerLoss).unwrap();
        assert!(!report.changed() && again.count() == 0, "{case}");
    }
}

#[test]
fn may_be_stopped_after_any_write() {
    for (case, make, spoil, _) in MENDED {
        let start = make();
        spoil(&start);
        let before = content(&start);
        let judge = |left: MemoryFile, end: usize| {
            let left = Arc::new(left);
            assert!(content(&left) == before, "{case}: after operation {end}");
            let report = repair(Arc::clone(&left), Durability::PowerLoss)
                .unwrap_or_else(|err| panic!("{case}: after operation {end}: {err}"));
            assert!(
                report.after.worst() < Some(Severity::Warning),
                "{case}: after {end}"
            );
            assert!(
                content(&left) == before,
                "{case}: after operation {end}, repaired"
            );
        };
        let recorder = Arc::new(Recorder::new(&start));
        repair(Arc::clone(&recorder), Durability::PowerLoss).unwrap();
        let ops = recorder.ops();
        for round in 0..u64::from(rounds(1)) {
            all_ends(&start, &ops, round, |left, end, _| judge(left, end));
        }
    }
}

#[test]
fn refuses_what_would_be_a_guess_and_leaves_it_untouched() {
    for (rule, case, make, spoil) in CASES {
        let file = make();
        spoil(&file);
        let recorder = Arc::new(Recorder::new(&file));
        let err = repair(Arc::clone(&recorder), Durability::PowerLoss).unwrap_err();
        assert_eq!(err.rule(), Some(*rule), "{}, {case}: {err}", rule.code());
        assert_eq!(recorder.count(), 0, "{}, {case}: was written", rule.code());
    }
}

#[test]
fn a_header_number_at_its_end_is_an_error_and_no_overflow() {
    let file = base();
    let older = older_header(&file);
    let newer = if older == HEADERS[0] {
        HEADERS[1]
    } else {
        HEADERS[0]
    };
    edit_summed(&file, newer, 4096, |header| put(header, 8, &[0xFF; 8]));
    poke(&file, older, b"x");
    assert!(check(Arc::clone(&file)).is_ok());
    let err = repair(Arc::clone(&file), Durability::PowerLoss).unwrap_err();
    assert_eq!(err.kind(), vhdx::Kind::Refused);
    WriteAt::set_len(&*file, 64 * MIB).unwrap();
    Vhdx::open(file).unwrap();
}
