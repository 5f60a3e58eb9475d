//! `vhdx check`: what it finds, how it ends, and that it never writes.

use std::fs::File;
use std::path::Path;

use ::vhdx::{ReadAt, WriteAt};
use serde_json::Value;

use super::Bench;
use crate::MIB;

fn codes(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| finding["code"].as_str().unwrap())
        .collect()
}

/// Inverts a byte of a file.
pub(super) fn damage(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn a_sound_disk_is_clean() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &["--block", "1MiB"]);
    disk.write(0, 3 * MIB, 1);
    let report = bench.json(&["check", "disk.vhdx"]);
    assert_eq!(report["path"], bench.text("disk.vhdx").as_str());
    for count in ["errors", "warnings", "notes", "not_listed"] {
        assert_eq!(report[count], 0, "{count}: {report}");
    }
    assert!(report["findings"].as_array().unwrap().is_empty());
    assert_eq!(report["files"][0]["blocks"]["fully_present"], 3);
    assert_eq!(report["files"][0]["allocated_bytes"], 3 * MIB);
    let done = bench.run(&["check", "disk.vhdx"]);
    assert_eq!(done.expect(0).text(), "nothing found\n");
    assert!(done.stderr.contains("errors 0"), "{}", done.stderr);
}

#[test]
fn damage_is_told_with_code_place_and_advice() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &["--block", "1MiB"]);
    disk.write(0, 3 * MIB, 1);
    // One header of two: tolerated, and a warning at most. Both: an error.
    damage(&disk.disk, 64 * 1024 + 100);
    let before = std::fs::read(&disk.disk).unwrap();
    let report = bench.json(&["check", "disk.vhdx"]);
    assert_eq!(report["errors"], 0, "{report}");
    assert!(!codes(&report).is_empty(), "{report}");

    damage(&disk.disk, 128 * 1024 + 100);
    let done = bench.run_as(&["check", "disk.vhdx"], &["--json"]);
    let report = done.expect(7).value();
    assert!(codes(&report).contains(&"header-none-valid"), "{report}");
    let finding = report["findings"].as_array().unwrap();
    let finding = finding
        .iter()
        .find(|finding| finding["code"] == "header-none-valid")
        .unwrap();
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["section"], "2.2.2");
    assert!(finding["offset"].is_u64(), "{finding}");
    for text in ["message", "hint", "path"] {
        assert!(finding[text].as_str().is_some_and(|text| !text.is_empty()));
    }
    assert!(report["errors"].as_u64().unwrap() >= 1);
    bench.run(&["check", "disk.vhdx"]).expect(7);
    // A file with an error is refused, with the way to learn more.
    let done = bench.run(&["info", "disk.vhdx"]);
    assert!(
        done.expect(1).stderr.contains("vhdx check"),
        "{}",
        done.stderr
    );
    damage(&disk.disk, 128 * 1024 + 100);
    assert!(
        std::fs::read(&disk.disk).unwrap() == before,
        "check wrote into the file"
    );
}

#[test]
fn parents_are_checked_too_and_missed_as_a_finding() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 64 * MIB, &["--block", "1MiB"]);
    base.write(0, 3 * MIB, 1);
    let middle = bench.child("middle.avhdx", &base);
    middle.write(MIB, MIB, 2);
    let leaf = bench.child("leaf.avhdx", &middle);
    leaf.write(2 * MIB, MIB, 3);
    let report = bench.json(&["check", "leaf.avhdx"]);
    let files = report["files"].as_array().unwrap();
    let names: Vec<&str> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names, ["leaf.avhdx", "middle.avhdx", "base.vhdx"]);
    assert_eq!(report["errors"], 0, "{report}");

    // A block of the base names a place outside the file.
    let file = File::options().write(true).open(&base.disk).unwrap();
    file.write_all_at(&(6_u64 | 1 << 50).to_le_bytes(), 3 * MIB)
        .unwrap();
    let done = bench.run_as(&["check", "leaf.avhdx"], &["--json"]);
    let report = done.expect(7).value();
    let finding = &report["findings"][0];
    assert_eq!(finding["code"], "block-place", "{report}");
    assert_eq!(finding["path"], bench.text("base.vhdx").as_str());
    assert_eq!(finding["offset"], 3 * MIB);
    bench.run(&["check", "leaf.avhdx", "--own"]).expect(0);

    std::fs::rename(&base.disk, bench.path("gone.vhdx")).unwrap();
    let done = bench.run_as(&["check", "leaf.avhdx"], &["--json"]);
    let report = done.expect(7).value();
    assert_eq!(codes(&report), ["parent-missing"]);
    let finding = &report["findings"][0];
    assert_eq!(finding["path"], bench.text("middle.avhdx").as_str());
    assert!(
        finding["message"].as_str().unwrap().contains("base.vhdx"),
        "{report}"
    );
    bench.run(&["check", "middle.avhdx", "--own"]).expect(0);
}

#[test]
fn what_is_no_vhdx_cannot_be_checked() {
    let bench = Bench::new();
    std::fs::write(bench.path("noise.vhdx"), vec![7; 3 << 20]).unwrap();
    std::fs::write(bench.path("short.vhdx"), b"vhdxfile").unwrap();
    for file in ["noise.vhdx", "short.vhdx"] {
        bench.run(&["check", file]).expect(1);
        bench.run(&["check", file, "--own"]).expect(1);
    }
    bench.run(&["check", "absent.vhdx"]).expect(4);
    bench.run(&["check"]).expect(2);
}
