//! `vhdx repair`: what it mends, and what it leaves alone.

use super::Bench;
use super::checking::damage;
use crate::MIB;

#[test]
fn a_disk_that_was_not_closed_is_made_clean() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &["--block", "1MiB"]);
    disk.write(0, MIB, 1);
    let bytes = vec![7; 1 << 20];
    let writer = disk.writer();
    writer.write_at(&bytes, 5 * MIB).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let image = std::fs::File::options()
        .write(true)
        .open(&disk.image)
        .unwrap();
    ::vhdx::WriteAt::write_all_at(&image, &bytes, 5 * MIB).unwrap();

    // Readers replay it in memory and leave the file as it is.
    let before = std::fs::read(&disk.disk).unwrap();
    assert_eq!(bench.json(&["info", "disk.vhdx"])["unclean"], true);
    bench.run(&["export", "disk.vhdx", "out.raw"]).expect(0);
    disk.is_image(&bench.path("out.raw"));
    bench.run(&["check", "disk.vhdx"]).expect(0);
    assert!(std::fs::read(&disk.disk).unwrap() == before);

    let id = bench.json(&["info", "disk.vhdx"])["data_write_guid"].clone();
    let done = bench.json(&["repair", "disk.vhdx"]);
    assert_eq!(done["changed"], true);
    assert!(done["replayed_entries"].as_u64().unwrap() > 0, "{done}");
    let info = bench.json(&["info", "disk.vhdx"]);
    assert_eq!(info["unclean"], false);
    assert_eq!(info["data_write_guid"], id);
    disk.judge(&disk.disk);
    let again = bench.json(&["repair", "disk.vhdx"]);
    assert_eq!(again["changed"], false);
    let text = bench.run(&["repair", "disk.vhdx"]);
    assert!(text.expect(0).text().contains("nothing to repair"));
}

#[test]
fn one_header_and_one_region_table_are_enough() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &[]);
    disk.write(0, MIB, 1);
    for (at, what) in [
        (64 * 1024 + 100, "renewed_headers"),
        (192 * 1024 + 40, "renewed_region_table"),
    ] {
        damage(&disk.disk, at);
        assert_ne!(bench.json(&["check", "disk.vhdx"])["warnings"], 0, "{what}");
        let done = bench.json(&["repair", "disk.vhdx"]);
        assert_eq!(done[what], true, "{done}");
        assert_eq!(done["warnings_after"], 0, "{done}");
        assert_eq!(bench.json(&["check", "disk.vhdx"])["warnings"], 0);
        disk.judge(&disk.disk);
    }
}

#[test]
fn what_would_be_a_guess_is_refused() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &[]);
    for at in [64, 128] {
        damage(&disk.disk, at * 1024 + 100);
    }
    let before = std::fs::read(&disk.disk).unwrap();
    let done = bench.run(&["repair", "disk.vhdx"]);
    assert!(
        done.expect(1).stderr.contains("cannot be repaired"),
        "{}",
        done.stderr
    );
    assert!(std::fs::read(&disk.disk).unwrap() == before);
    bench.run(&["repair", "absent.vhdx"]).expect(4);
    std::fs::write(bench.path("noise.vhdx"), vec![7; 3 << 20]).unwrap();
    bench.run(&["repair", "noise.vhdx"]).expect(1);
    let held = std::fs::File::open(&disk.disk).unwrap();
    held.try_lock().unwrap();
    bench.run(&["repair", "disk.vhdx"]).expect(6);
}
