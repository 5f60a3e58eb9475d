//! Ctrl-C in the middle of long work, and running it again.

use harness::disk_hash;

use super::Bench;
use crate::MIB;

/// Enough data that the work is far from done when the first line of progress is read: copying into a new file.
const MUCH: u64 = 256 * MIB;
/// The same for work in place, which waits for the disk now and then.
const MUCH_IN_PLACE: u64 = 96 * MIB;

#[test]
fn a_stopped_merge_goes_on_when_run_again() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 2 * MUCH_IN_PLACE, &["--block", "1MiB"]);
    base.write(MUCH_IN_PLACE / 2, 16 * MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(MIB, MUCH_IN_PLACE, 2);
    let reads_as = disk_hash(&child.disk);

    let done = bench.stopped(&["merge", "child.avhdx"]);
    assert!(
        done.expect(1).stderr.contains("run it again"),
        "{}",
        done.stderr
    );
    assert!(done.stdout.is_empty());
    assert_eq!(
        disk_hash(&child.disk),
        reads_as,
        "the child over the parent"
    );
    assert_eq!(bench.json(&["info", "base.vhdx"])["unclean"], false);

    // Killed, the log of either file may be left to replay.
    let done = bench.signalled("KILL", &["merge", "child.avhdx"]);
    assert_eq!(done.code, -1, "{}", done.stderr);
    assert_eq!(
        disk_hash(&child.disk),
        reads_as,
        "the child over the parent"
    );

    bench.run(&["merge", "child.avhdx"]).expect(0);
    assert!(!child.disk.exists());
    child.judge(&base.disk);
}

#[test]
fn stopped_work_on_a_new_file_leaves_nothing() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 2 * MUCH, &[]);
    disk.write(0, MUCH, 1);
    for words in [
        ["convert", "disk.vhdx", "out.vhdx"],
        ["convert", "disk.vhdx.raw", "out.vhdx"],
        ["export", "disk.vhdx", "out.img"],
    ] {
        let done = bench.stopped(&words);
        assert!(
            done.expect(1).stderr.contains("run it again"),
            "{}",
            done.stderr
        );
        assert!(done.stdout.is_empty());
        assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());
    }
    let done = bench.signalled("TERM", &["convert", "disk.vhdx", "out.vhdx"]);
    done.expect(1);
    assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());
    // A kill leaves at most something under another name.
    let done = bench.signalled("KILL", &["convert", "disk.vhdx", "out.vhdx"]);
    assert_eq!(done.code, -1, "{}", done.stderr);
    assert!(bench.names("out").is_empty());
    bench.run(&["convert", "disk.vhdx", "out.vhdx"]).expect(0);
    disk.judge(&bench.path("out.vhdx"));
}

#[test]
fn a_stopped_compact_leaves_the_disk_whole_and_goes_on() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 2 * MUCH_IN_PLACE, &["--block", "1MiB"]);
    disk.write(0, MUCH_IN_PLACE, 1);
    disk.zero(0, MUCH_IN_PLACE / 2);
    let done = bench.stopped(&["compact", "disk.vhdx"]);
    assert!(
        done.expect(1).stderr.contains("run it again"),
        "{}",
        done.stderr
    );
    disk.judge(&disk.disk);
    assert_eq!(bench.json(&["info", "disk.vhdx"])["unclean"], false);
    bench.run(&["compact", "disk.vhdx"]).expect(0);
    disk.judge(&disk.disk);
    let file_bytes = std::fs::metadata(&disk.disk).unwrap().len();
    assert!(file_bytes <= MUCH_IN_PLACE / 2 + 8 * MIB, "{file_bytes}");
}
