//! Verbs that read: info, ranges, export.

use ::vhdx::ReadAt;
use harness::{DiskSpec, disk_hash, make_disk};

use super::Bench;
use crate::MIB;

#[test]
fn a_disk_is_looked_at_and_exported() {
    let bench = Bench::new();
    let spec = DiskSpec {
        size: 64 * MIB,
        data: 8 * MIB,
        seed: 3,
    };
    let id = make_disk(&bench.path("disk.vhdx"), spec);

    let info = bench.json(&["info", "disk.vhdx"]);
    assert_eq!(info["format"], "vhdx");
    assert_eq!(info["kind"], "dynamic");
    assert_eq!(info["size_bytes"], 64 * MIB);
    assert_eq!(info["disk_id"], id.as_str());
    assert_eq!(info["allocated_bytes"], 8 * MIB);
    assert_eq!(info["unclean"], false);
    assert!(info["parent"].is_null());

    let ranges = bench.run_as(&["ranges", "disk.vhdx"], &["--json"]).values();
    let mut next = 0;
    let mut data = 0;
    for range in &ranges {
        assert_eq!(range["offset"], next, "ranges have no gap");
        next += range["length"].as_u64().unwrap();
        if range["kind"] == "data" {
            data += range["length"].as_u64().unwrap();
        }
    }
    assert_eq!((next, data), (64 * MIB, 8 * MIB));
    let table = bench.run(&["ranges", "disk.vhdx"]);
    assert_eq!(table.expect(0).text().lines().count(), ranges.len() + 1);

    let exported = bench.json(&["export", "disk.vhdx", "disk.raw"]);
    assert_eq!(exported["size_bytes"], 64 * MIB);
    assert_eq!(exported["data_bytes"], 8 * MIB);
    let image = std::fs::read(bench.path("disk.raw")).unwrap();
    assert_eq!(
        blake3::hash(&image).to_hex().as_str(),
        disk_hash(&bench.path("disk.vhdx"))
    );
    let piped = bench.run(&["export", "disk.vhdx", "-"]);
    assert!(piped.stdout == image, "standard output differs");
    bench.run(&["export", "disk.vhdx", "disk.raw"]).expect(6);
    assert!(std::fs::read(bench.path("disk.raw")).unwrap() == image);
}

#[test]
#[cfg(unix)]
fn an_exported_image_has_holes_where_the_disk_has_zeros() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 160 * MIB, &["--fixed"]);
    disk.write(100 * MIB, 300_000, 7);
    bench.run(&["export", "disk.vhdx", "out.raw"]).expect(0);
    disk.is_image(&bench.path("out.raw"));
    let meta = std::fs::metadata(bench.path("out.raw")).unwrap();
    assert_eq!(meta.len(), 160 * MIB);
    assert!(meta.blocks() * 512 <= MIB, "{} blocks", meta.blocks());
    assert_eq!(meta.mode() & 0o600, 0o600);
}

#[test]
fn a_chain_is_shown_with_its_files_and_read_as_one() {
    let bench = Bench::new();
    let base = bench.disk("Base.vhdx", 32 * MIB, &[]);
    base.write(0, 3 * MIB, 1);
    let middle = bench.child("middle.avhdx", &base);
    middle.write(2 * MIB, MIB, 2);
    let leaf = bench.child("leaf.avhdx", &middle);
    leaf.zero(MIB, 512 * 3);

    let info = bench.json(&["info", "leaf.avhdx"]);
    assert_eq!(info["kind"], "differencing");
    assert_eq!(info["parent"]["relative_path"], r".\middle.avhdx");
    let chain = info["chain"].as_array().unwrap();
    let files: Vec<&str> = chain
        .iter()
        .map(|layer| layer["path"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(files, ["leaf.avhdx", "middle.avhdx", "Base.vhdx"]);
    assert_eq!(info["parent"]["linkage"], chain[1]["data_write_guid"]);
    bench.run(&["export", "leaf.avhdx", "out.raw"]).expect(0);
    leaf.is_image(&bench.path("out.raw"));

    // Names differ in case, as between Windows and this machine.
    std::fs::rename(bench.path("Base.vhdx"), bench.path("bASE.vhdx")).unwrap();
    let chain = bench.json(&["info", "leaf.avhdx"])["chain"].clone();
    assert!(chain[2]["path"].as_str().unwrap().ends_with("bASE.vhdx"));
}

/// Reads the bytes of a disk from the places that `ranges` tells of.
fn read_by_places(ranges: &[serde_json::Value], image: &mut [u8]) {
    for range in ranges.iter().filter(|range| range["kind"] == "data") {
        let number = |field: &str| usize::try_from(range[field].as_u64().unwrap()).unwrap();
        let (offset, length) = (number("offset"), number("length"));
        let file = std::fs::File::open(range["file"].as_str().unwrap()).unwrap();
        let at = number("file_offset") as u64;
        ReadAt::read_exact_at(&file, &mut image[offset..offset + length], at).unwrap();
    }
}

#[test]
fn payload_can_be_read_from_the_places_told() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &["--block", "1MiB"]);
    base.write(0, 4 * MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(MIB + 512, 1024, 2);
    child.write(10 * MIB, 4 * MIB, 2);
    child.zero(2 * MIB, 2 * MIB);

    let words = ["ranges", "child.avhdx", "--places"];
    let ranges = bench.run_as(&words, &["--json"]).values();
    let mut image = vec![0; 32 << 20];
    read_by_places(&ranges, &mut image);
    assert!(image == std::fs::read(&child.image).unwrap());

    // The same from each file alone, nearest last.
    let mut image = vec![0; 32 << 20];
    for file in ["base.vhdx", "child.avhdx"] {
        let ranges = bench
            .run_as(&["ranges", file, "--own"], &["--json"])
            .values();
        let mut next = 0;
        for range in &ranges {
            assert_eq!(range["offset"], next, "ranges have no gap");
            next += range["length"].as_u64().unwrap();
            let zeros = range["kind"] == "zero";
            if zeros {
                let from = usize::try_from(range["offset"].as_u64().unwrap()).unwrap();
                image[from..usize::try_from(next).unwrap()].fill(0);
            }
            assert_eq!(
                range["file"].is_null(),
                zeros || range["kind"] == "parent",
                "{range}"
            );
        }
        assert_eq!(next, 32 * MIB);
        read_by_places(&ranges, &mut image);
    }
    assert!(image == std::fs::read(&child.image).unwrap());
    let table = bench.run(&["ranges", "child.avhdx", "--own"]);
    assert!(table.expect(0).text().contains("parent"));
}

#[test]
fn a_parent_that_moved_is_missed_and_can_be_named() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 32 * MIB, &[]);
    base.write(0, MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(MIB, MIB, 2);
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    std::fs::rename(&base.disk, bench.path("elsewhere/base.vhdx")).unwrap();

    let done = bench.run_as(&["info", "child.avhdx"], &["--json"]);
    let info = done.expect(0).value();
    assert!(info["chain"].is_null());
    assert!(
        info["chain_problem"]
            .as_str()
            .unwrap()
            .contains("base.vhdx"),
        "{info}"
    );
    let done = bench.run(&["export", "child.avhdx", "out.raw"]);
    assert!(
        done.expect(4).stderr.contains("--parent"),
        "{}",
        done.stderr
    );
    assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());

    // Of several, the identity says which one it is.
    bench.disk("other.vhdx", 32 * MIB, &[]);
    let named = ["--parent", "other.vhdx", "--parent", "elsewhere/base.vhdx"];
    let mut words = vec!["export", "child.avhdx", "out.raw"];
    words.extend(named);
    bench.run(&words).expect(0);
    child.is_image(&bench.path("out.raw"));
    let mut words = vec!["info", "child.avhdx"];
    words.extend(named);
    let info = bench.json(&words);
    assert!(
        info["chain"][1]["path"]
            .as_str()
            .unwrap()
            .ends_with("elsewhere/base.vhdx")
    );
}

#[test]
fn what_is_no_disk_is_refused() {
    let bench = Bench::new();
    std::fs::write(bench.path("noise.vhdx"), vec![7; 3 << 20]).unwrap();
    std::fs::write(bench.path("empty.vhdx"), []).unwrap();
    for file in ["noise.vhdx", "empty.vhdx"] {
        for verb in ["info", "ranges"] {
            let done = bench.run(&[verb, file]);
            assert!(done.expect(1).stderr.contains(file), "{}", done.stderr);
        }
        bench.run(&["export", file, "out.raw"]).expect(1);
        bench.run(&["convert", file, "out.vhdx"]).expect(1);
        bench.run(&["merge", file]).expect(1);
    }
    for verb in ["info", "ranges", "merge"] {
        bench.run(&[verb, "absent.vhdx"]).expect(4);
    }
    for verb in ["export", "convert"] {
        bench.run(&[verb, "absent.vhdx", "out.raw"]).expect(4);
    }
    assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());
}
