//! Checking files that other programs wrote, and files made to be as much work as can be.

use std::fs::File;

use crate::samples::unpack;
use crate::support::{have, run, text};
use crate::vhd;
use vhdx::{CheckReport, MemoryFile, Rule, Severity, check};

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
