//! `vhdx merge`: into the parent, and into a new file.

use std::fs::File;

use super::Bench;
use crate::MIB;

#[test]
fn a_child_is_merged_into_its_parent_and_removed() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 64 * MIB, &["--block", "4MiB"]);
    base.write(0, 9 * MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(5 * MIB, 512, 2);
    child.write(30 * MIB, 3 * MIB, 2);
    child.zero(0, 2 * MIB);
    let merged = bench.json(&["merge", "child.avhdx"]);
    assert_eq!(merged["path"], bench.text("base.vhdx").as_str());
    assert_eq!(merged["child_removed"], true);
    assert_eq!(merged["size_bytes"], 64 * MIB);
    assert!(!child.disk.exists());
    child.judge(&base.disk);
    assert_eq!(bench.json(&["info", "base.vhdx"])["unclean"], false);
    // Now it has no child any more.
    bench.run(&["merge", "base.vhdx"]).expect(2);
}

#[test]
fn a_merge_in_the_middle_can_keep_the_identity() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    base.write(0, 2 * MIB, 1);
    let middle = bench.child("middle.avhdx", &base);
    middle.write(MIB, 2 * MIB, 2);
    let leaf = bench.child("leaf.avhdx", &middle);
    leaf.write(2 * MIB, MIB / 2, 3);
    bench
        .run(&["merge", "middle.avhdx", "--keep-identity", "--keep"])
        .expect(0);
    // As after a kill between the end of the merge and the removal: nothing is left to do but that.
    bench.run(&["merge", "middle.avhdx"]).expect(0);
    assert!(!middle.disk.exists());
    bench
        .run(&["set-parent", "leaf.avhdx", "base.vhdx"])
        .expect(0);
    bench.run(&["convert", "leaf.avhdx", "out.vhdx"]).expect(0);
    leaf.judge(&bench.path("out.vhdx"));
    middle.judge(&base.disk);
}

#[test]
fn a_copy_of_the_child_is_not_its_parent() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    let child = bench.child("child.avhdx", &base);
    child.write(MIB, MIB, 2);
    std::fs::copy(&child.disk, bench.path("copy.avhdx")).unwrap();
    // Found by its own path, it is merged into the true parent.
    for more in [vec![], vec!["--keep-identity"]] {
        let mut words = vec!["merge", "child.avhdx", "--keep", "--parent", "copy.avhdx"];
        words.extend(more);
        let merged = bench.json(&words);
        assert_eq!(merged["path"], bench.text("base.vhdx").as_str());
    }
    std::fs::rename(&base.disk, bench.path("away.vhdx")).unwrap();
    bench
        .run(&["merge", "child.avhdx", "--parent", "copy.avhdx"])
        .expect(4);
    assert!(child.disk.exists());
    child.judge(&bench.path("away.vhdx"));
}

#[test]
fn a_chain_becomes_a_new_file() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 48 * MIB, &[]);
    base.write(0, 3 * MIB, 1);
    let middle = bench.child("middle.avhdx", &base);
    middle.write(MIB, MIB, 2);
    let leaf = bench.child("leaf.avhdx", &middle);
    leaf.zero(2 * MIB, MIB);
    let made = bench.json(&["merge", "leaf.avhdx", "--out", "whole.vhdx"]);
    assert_eq!(made["kind"], "dynamic");
    assert_eq!(
        made["disk_id"],
        bench.json(&["info", "base.vhdx"])["disk_id"]
    );
    leaf.judge(&bench.path("whole.vhdx"));
    for file in [&base, &middle, &leaf] {
        assert!(file.disk.exists());
    }
    bench
        .run(&["merge", "leaf.avhdx", "--out", "whole.vhdx"])
        .expect(6);
    for wrong in [
        vec!["merge", "leaf.avhdx", "--fixed"],
        vec!["merge", "leaf.avhdx", "--keep", "--out", "x.vhdx"],
    ] {
        bench.run(&wrong).expect(2);
    }
}

#[test]
fn a_parent_that_was_changed_is_not_merged_into() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    let child = bench.child("child.avhdx", &base);
    child.write(0, MIB, 2);
    base.write(MIB, MIB, 1);
    let done = bench.run(&["merge", "child.avhdx"]);
    assert!(
        done.expect(4).stderr.contains("is not the parent"),
        "{}",
        done.stderr
    );
    assert!(child.disk.exists());
    base.judge(&base.disk);
}

#[test]
fn a_file_in_use_is_left_alone() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    let child = bench.child("child.avhdx", &base);
    child.write(0, MIB, 2);
    for file in [&base, &child] {
        let held = File::open(&file.disk).unwrap();
        held.try_lock_shared().unwrap();
        let done = bench.run_as(&["merge", "child.avhdx"], &["--json"]);
        let error: serde_json::Value = serde_json::from_str(&done.expect(6).stderr).unwrap();
        assert_eq!(error["error"]["code"], "conflict");
        assert!(
            error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("in use"),
            "{error}"
        );
        // Reading needs no lock.
        bench.run(&["info", "child.avhdx"]).expect(0);
    }
    bench.run(&["merge", "child.avhdx"]).expect(0);
    child.judge(&base.disk);
}
