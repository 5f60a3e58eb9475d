//! Checking files that other programs wrote, and files made to be as much work as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use crate::power::Chance;
use crate::refusals::{BAT, poke64};
use crate::samples::unpack;
use crate::support::{MIB, disk_of, have, rounds, run, text};
use crate::vhd;
use vhdx::{CheckReport, MemoryFile, Params, Rule, Severity, Vhdx, check};

/// Returns the codes of what was found, with how often.
fn codes(report: &CheckReport) -> String {
    let code = |(rule, count): &(Rule, u64)| format!("{} {count}", rule.code());
    report
        .totals
        .iter()
        .map(code)
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn files_of_other_programs_have_no_errors() {
    for (sample, expected) in [
        ("discutils/btrfs.vhdx.gz", ""),
        ("discutils/swap.vhdx.gz", ""),
        ("discutils/vhdx-log-replay.vhdx.gz", "log-in-use 1"),
        ("discutils/xfs5.vhdx.gz", ""),
        (
            "qemu/iotest-dirtylog-10G-4M.vhdx.bz2",
            "log-in-use 1, region-not-required 2, space-leaked 1",
        ),
        ("qemu/iotest-dynamic-1G.vhdx.bz2", ""),
        (
            "qemu/test-disk2vhd.vhdx.bz2",
            "header-twins 1, file-length 1, file-tail 1",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = unpack(folder.path(), sample) else {
            return;
        };
        let report = check(File::open(path).unwrap()).unwrap();
        assert_eq!(codes(&report), expected, "{sample}: {report:?}");
        assert!(report.info.is_some());
    }
}

#[test]
fn files_of_qemu_are_as_they_are_known() {
    if !have("qemu-img") {
        return;
    }
    for (options, expected) in [
        // It keeps space for a fixed disk, but names no block in it.
        ("subformat=fixed", "fixed-hole 1"),
        ("subformat=dynamic,block_size=1M", ""),
        ("log_size=2M", ""),
        ("block_state_zero=off", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theirs.vhdx");
        let path = text(&path);
        run(
            "qemu-img",
            &["create", "-q", "-f", "vhdx", "-o", options, path, "24M"],
        );
        let report = check(File::open(path).unwrap()).unwrap();
        let mut found = report.clone();
        found
            .totals
            .retain(|(rule, _)| rule.severity() > Severity::Note);
        assert_eq!(codes(&found), expected, "{options}: {report:?}");
    }
}

#[test]
fn of_a_vhd_the_first_error_is_told() {
    for (rule, case, make, spoil) in vhd::CASES {
        let mut bytes = make();
        assert_eq!(codes(&checked(&bytes).unwrap()), "");
        spoil(&mut bytes);
        match checked(&bytes) {
            Ok(report) => assert_eq!(report.count(*rule), 1, "{case}: {report:?}"),
            // What has no signature is taken for a damaged VHDX.
            Err(err) => assert_eq!(err.kind(), vhdx::Kind::Corrupt, "{case}: {err}"),
        }
    }
}

fn checked(bytes: &[u8]) -> Result<CheckReport, vhdx::Error> {
    check(MemoryFile::from_bytes(bytes))
}

/// Random block tables, mostly in runs, against the rules entry by entry: what is judged at once is judged the same.
#[test]
fn runs_of_blocks_are_judged_as_each_block_is() {
    const BLOCKS: u64 = 48;
    const FILE_MIB: u64 = 120;
    let mut chance = Chance(41 + u64::from(rounds(0)));
    let mut sound = 0;
    for round in 0..rounds(400) {
        let block_mib = 1 + u64::from(round % 2);
        let params = Params {
            block_bytes: u32::try_from(block_mib * MIB).unwrap(),
            ..Params::dynamic(BLOCKS * block_mib * MIB)
        };
        let (file, _) = disk_of(&params, &[]);
        vhdx::WriteAt::set_len(&*file, FILE_MIB * MIB).unwrap();
        let odd = chance.next(40) * u64::from(chance.next(4) > 0);
        // Header area, log, metadata and table.
        let mut taken: BTreeSet<u64> = (0..4).collect();
        let mut expected: BTreeMap<Rule, u64> = BTreeMap::new();
        let mut present = 0;
        let mut next = 4;
        for block in 0..BLOCKS {
            let (state, place) = match chance.next(60) {
                roll if roll >= odd => (6, next),
                0..10 => (chance.next(8), 0),
                10..20 => (6, chance.next(FILE_MIB + 4)),
                20..25 => (chance.next(8), next),
                _ => (6, next + chance.next(3)),
            };
            next = place + block_mib;
            poke64(&file, BAT + block * 8, place << 20 | state);
            let blocks: Vec<u64> = (place..place + block_mib).collect();
            let free = blocks.iter().all(|mib| !taken.contains(mib));
            let broken = match state {
                4 | 5 => Some(Rule::BlockState),
                7 => Some(Rule::BlockPartial),
                0 | 2 => (place > 0).then_some(Rule::BlockOffset),
                1 | 3 if place == 0 => None,
                6 if place == 0 || place + block_mib > FILE_MIB => Some(Rule::BlockPlace),
                _ => {
                    taken.extend(blocks);
                    let beyond = place + block_mib > FILE_MIB;
                    present += u64::from(free && state == 6);
                    (!free)
                        .then_some(Rule::BlockOverlap)
                        .or(beyond.then_some(Rule::AnchorPlace))
                }
            };
            if let Some(rule) = broken {
                *expected.entry(rule).or_default() += 1;
            }
        }
        let report = check(Arc::clone(&file)).unwrap();
        let mut found: BTreeMap<Rule, u64> = report.totals.iter().copied().collect();
        [Rule::FileTail, Rule::SpaceLeaked].iter().for_each(|rule| {
            found.remove(rule);
        });
        assert_eq!(found, expected, "round {round}");
        assert_eq!(
            report.figures.blocks.fully_present, present,
            "round {round}"
        );
        let used = taken.iter().filter(|mib| **mib < FILE_MIB).count() as u64;
        let leaked = (FILE_MIB - used) * MIB;
        assert_eq!(report.figures.leaked_bytes, leaked, "round {round}");
        let is_sound = expected
            .keys()
            .all(|rule| rule.severity() < Severity::Error);
        assert_eq!(Vhdx::open(file).is_ok(), is_sound, "round {round}");
        sound += u32::from(is_sound);
    }
    assert!(sound > rounds(400) / 20, "{sound} sound");
}
