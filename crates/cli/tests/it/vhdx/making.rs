//! Verbs that make files: create and convert.

use std::path::Path;
use std::process::Command;

use harness::{disk_hash, tool};

use super::Bench;
use crate::MIB;

#[test]
fn a_disk_is_made_as_asked() {
    let bench = Bench::new();
    let made = bench.json(&[
        "create",
        "disk.vhdx",
        "--size",
        "10GiB",
        "--block",
        "1MiB",
        "--sector",
        "4096",
    ]);
    assert_eq!(made["kind"], "dynamic");
    assert_eq!(made["size_bytes"], 10_u64 << 30);
    assert_eq!(made["block_bytes"], MIB);
    assert_eq!(made["logical_sector_bytes"], 4096);
    assert_eq!(made["physical_sector_bytes"], 4096);
    let made = bench.json(&[
        "create",
        "fixed.vhdx",
        "--size",
        "64MiB",
        "--fixed",
        "--physical",
        "512",
    ]);
    assert_eq!(made["kind"], "fixed");
    assert_eq!(made["physical_sector_bytes"], 512);
    assert!(made["file_bytes"].as_u64().unwrap() > 64 * MIB);

    bench
        .run(&["create", "disk.vhdx", "--size", "1GiB"])
        .expect(6);
    assert_eq!(
        bench.json(&["info", "disk.vhdx"])["size_bytes"],
        10_u64 << 30
    );
    for wrong in [
        vec!["create", "x.vhdx"],
        vec!["create", "x.vhdx", "--size", "100"],
        vec!["create", "x.vhdx", "--size", "65TiB"],
        vec!["create", "x.vhdx", "--size", "1GiB", "--block", "3MiB"],
        vec!["create", "x.vhdx", "--size", "1GiB", "--sector", "520"],
        vec![
            "create",
            "x.vhdx",
            "--size",
            "1GiB",
            "--parent",
            "disk.vhdx",
        ],
    ] {
        bench.run(&wrong).expect(2);
    }
    bench
        .run(&["create", "no/such/folder/x.vhdx", "--size", "1GiB"])
        .expect(4);
    assert!(bench.names("x").is_empty() && bench.names(".x").is_empty());
}

#[test]
fn an_image_becomes_a_disk_and_an_image_again() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 40 * MIB + 512, &[]);
    disk.write(5 * MIB, 3 * MIB, 9);
    disk.write(40 * MIB, 512, 9);
    bench.run(&["export", "disk.vhdx", "image.raw"]).expect(0);
    disk.is_image(&bench.path("image.raw"));

    for (name, more) in [
        ("dynamic.vhdx", vec!["--block", "2MiB"]),
        ("fixed.vhdx", vec!["--fixed"]),
        ("larger.vhdx", vec!["--size", "50MiB"]),
    ] {
        let mut words = vec!["create", name, "--from", "image.raw"];
        words.extend(&more);
        let made = bench.json(&words);
        if name != "larger.vhdx" {
            assert_eq!(made["size_bytes"], 40 * MIB + 512);
            assert_eq!(disk_hash(&bench.path(name)), disk_hash(&disk.disk));
        }
        disk.judge(&bench.path(name));
    }
    let small = [
        "create",
        "small.vhdx",
        "--from",
        "image.raw",
        "--size",
        "1MiB",
    ];
    bench.run(&small).expect(2);

    // The same by convert, which knows an image by its name or is told.
    std::fs::rename(bench.path("image.raw"), bench.path("image.txt")).unwrap();
    let done = bench.run(&["convert", "image.txt", "of-image.vhdx"]);
    assert!(done.expect(1).stderr.contains("--raw"), "{}", done.stderr);
    bench
        .run(&["convert", "image.txt", "of-image.vhdx", "--raw"])
        .expect(0);
    disk.judge(&bench.path("of-image.vhdx"));
    bench
        .run(&["convert", "disk.vhdx.raw", "of-raw.vhdx"])
        .expect(0);
    disk.judge(&bench.path("of-raw.vhdx"));
}

#[test]
fn disks_are_converted_among_kinds_and_stay_the_same_disk() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 96 * MIB, &["--block", "4MiB"]);
    base.write(0, 9 * MIB, 1);
    // A block of zeros that has its place all the same.
    base.write(40 * MIB, 4 * MIB, 3);
    let child = bench.child("child.avhdx", &base);
    child.write(20 * MIB, MIB, 2);
    child.zero(3 * MIB, MIB);
    child.zero(40 * MIB, 4 * MIB);
    let before = std::fs::read(&child.disk).unwrap();

    let fixed = bench.json(&["convert", "child.avhdx", "fixed.vhdx", "--fixed"]);
    assert_eq!(fixed["kind"], "fixed");
    let whole = bench.json(&["convert", "fixed.vhdx", "whole.vhdx"]);
    assert_eq!(whole["kind"], "dynamic");
    assert_eq!(whole["block_bytes"], 4 * MIB);
    assert!(whole["parent"].is_null());
    // Three blocks of the base and one of the child hold data.
    let allocated = bench.json(&["info", "whole.vhdx"])["allocated_bytes"].clone();
    assert_eq!(allocated, 16 * MIB);
    child.judge(&bench.path("fixed.vhdx"));
    child.judge(&bench.path("whole.vhdx"));

    let id = bench.json(&["info", "base.vhdx"])["disk_id"].clone();
    assert_eq!(whole["disk_id"], id);
    let words = ["convert", "base.vhdx", "clone.vhdx", "--new-id"];
    assert_ne!(bench.json(&words)["disk_id"], id);
    bench.run(&["convert", "base.vhdx", "whole.vhdx"]).expect(6);
    assert!(
        std::fs::read(&child.disk).unwrap() == before,
        "the source changed"
    );
}

#[test]
fn disks_of_others_are_converted() {
    let Some(qemu) = tool("qemu-img") else {
        return;
    };
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 70 * MIB, &[]);
    disk.write(33 * MIB, 2 * MIB, 5);
    let convert = |format: &str, target: &Path| {
        let done = Command::new(&qemu)
            .args(["convert", "-f", "raw", "-O", format])
            .args([&disk.image, &target.to_owned()])
            .status();
        assert!(done.unwrap().success());
    };
    convert("vhdx", &bench.path("qemu.vhdx"));
    bench.run(&["convert", "qemu.vhdx", "ours.vhdx"]).expect(0);
    disk.judge(&bench.path("ours.vhdx"));
    // The older format: read, and never changed.
    convert("vpc", &bench.path("old.vhd"));
    let old = bench.json(&["info", "old.vhd"]);
    assert_eq!(
        (&old["format"], &old["kind"]),
        (&"vhd".into(), &"dynamic".into())
    );
    let new = bench.json(&["convert", "old.vhd", "new.vhdx"]);
    assert_eq!(
        (&new["format"], &new["block_bytes"]),
        (&"vhdx".into(), &(32 * MIB).into())
    );
    bench.run(&["export", "old.vhd", "out.raw"]).expect(0);
    let of_old = std::fs::read(bench.path("out.raw")).unwrap();
    // A VHD may be a little larger, up to a whole cylinder.
    let image = std::fs::read(&disk.image).unwrap();
    assert!(of_old[..image.len()] == image && of_old[image.len()..].iter().all(|byte| *byte == 0));
    for words in [
        vec!["merge", "old.vhd"],
        vec!["set-parent", "old.vhd", "new.vhdx"],
        vec!["create", "child.avhdx", "--parent", "old.vhd"],
    ] {
        let done = bench.run(&words);
        assert!(
            done.expect(2).stderr.contains("vhdx convert"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn a_child_takes_its_shape_from_the_parent() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("gold")).unwrap();
    bench
        .run(&[
            "create",
            "gold/base.vhdx",
            "--size",
            "64MiB",
            "--sector",
            "4096",
        ])
        .expect(0);
    let base = bench.json(&["info", "gold/base.vhdx"]);
    let child = bench.json(&[
        "create",
        "child.avhdx",
        "--parent",
        "gold/base.vhdx",
        "--parent-path",
        r"C:\gold\base.vhdx",
    ]);
    assert_eq!(child["kind"], "differencing");
    assert_eq!(child["block_bytes"], 2 * MIB);
    for same in ["size_bytes", "logical_sector_bytes", "disk_id"] {
        assert_eq!(child[same], base[same], "{same}");
    }
    let parent = &child["parent"];
    assert_eq!(parent["linkage"], base["data_write_guid"]);
    assert_eq!(parent["relative_path"], r".\gold\base.vhdx");
    assert_eq!(parent["absolute_path"], r"C:\gold\base.vhdx");
    bench
        .run(&["create", "x.avhdx", "--parent", "absent.vhdx"])
        .expect(4);
}

#[test]
fn a_child_is_told_of_its_parent() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    base.write(0, MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(MIB, MIB, 2);
    std::fs::create_dir(bench.path("new")).unwrap();
    std::fs::rename(&base.disk, bench.path("new/moved.vhdx")).unwrap();
    let told = bench.json(&["set-parent", "child.avhdx", "new/moved.vhdx"]);
    assert_eq!(told["parent"]["relative_path"], r".\new\moved.vhdx");
    bench.run(&["export", "child.avhdx", "out.raw"]).expect(0);
    child.is_image(&bench.path("out.raw"));

    // A copy with another identity and the same content.
    bench
        .run(&["convert", "new/moved.vhdx", "copy.vhdx"])
        .expect(0);
    bench
        .run(&["set-parent", "child.avhdx", "copy.vhdx"])
        .expect(6);
    bench
        .run(&["set-parent", "child.avhdx", "copy.vhdx", "--force"])
        .expect(0);
    bench.run(&["export", "child.avhdx", "again.raw"]).expect(0);
    child.is_image(&bench.path("again.raw"));
    bench
        .run(&["set-parent", "copy.vhdx", "new/moved.vhdx"])
        .expect(2);
    bench
        .run(&[
            "create",
            "small.vhdx",
            "--size",
            "31MiB",
            "--sector",
            "4096",
        ])
        .expect(0);
    bench
        .run(&["set-parent", "child.avhdx", "small.vhdx", "--force"])
        .expect(2);
}

#[cfg(unix)]
#[test]
fn a_child_named_by_a_link_is_told_from_its_own_folder() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    let child = bench.child("child.avhdx", &base);
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    let moved = bench.path("elsewhere/child.avhdx");
    std::fs::rename(&child.disk, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &child.disk).unwrap();
    let told = bench.json(&["set-parent", "child.avhdx", "base.vhdx"]);
    assert_eq!(told["parent"]["relative_path"], r"..\base.vhdx");
    bench.run(&["export", "child.avhdx", "out.raw"]).expect(0);
    child.is_image(&bench.path("out.raw"));
}

#[test]
fn a_disk_does_not_become_its_own_ancestor() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    let child = bench.child("child.avhdx", &base);
    let leaf = bench.child("leaf.avhdx", &child);
    std::fs::hard_link(&child.disk, bench.path("same.avhdx")).unwrap();
    for parent in ["child.avhdx", "same.avhdx", "leaf.avhdx"] {
        let done = bench.run(&["set-parent", "child.avhdx", parent, "--force"]);
        assert!(done.expect(2).stderr.contains("itself"), "{}", done.stderr);
    }
    bench.run(&["export", "leaf.avhdx", "out.raw"]).expect(0);
    leaf.is_image(&bench.path("out.raw"));
}
