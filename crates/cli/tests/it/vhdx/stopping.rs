//! Work that ends in the middle: Ctrl-C, kills, writes that fail, and running it again.

use std::io::Read;
use std::process::Command;

use harness::{Done, disk_hash};

use super::{Bench, send};
use crate::{EXE, MIB};

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

#[test]
fn two_programs_never_write_one_file() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 2 * MUCH_IN_PLACE, &["--block", "1MiB"]);
    let child = bench.child("child.avhdx", &base);
    child.write(0, MUCH_IN_PLACE, 1);
    let (mut first, _) = bench.started(&["merge", "child.avhdx"]);
    for words in [
        vec!["merge", "child.avhdx"],
        vec!["compact", "base.vhdx"],
        vec!["repair", "child.avhdx"],
        vec!["resize", "child.avhdx", "1GiB"],
        vec!["set-parent", "child.avhdx", "base.vhdx"],
    ] {
        let done = bench.run(&words);
        assert!(done.expect(6).stderr.contains("in use"), "{}", done.stderr);
    }
    send("CONT", &first);
    assert!(first.wait().unwrap().success());
    child.judge(&base.disk);
}

#[test]
fn a_disk_that_changes_while_it_is_read_gives_no_torn_copy() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", MUCH_IN_PLACE, &[]);
    base.write(0, MUCH_IN_PLACE, 1);
    bench.child("child.avhdx", &base);
    for words in [
        ["export", "child.avhdx", "out.img"],
        ["convert", "child.avhdx", "out.vhdx"],
    ] {
        let (reader, mut stderr) = bench.started(&words);
        base.write(MUCH_IN_PLACE / 2, 512, 9);
        send("CONT", &reader);
        let output = reader.wait_with_output().unwrap();
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(output.status.code(), Some(6), "{text}");
        assert!(text.contains("was changed while"), "{text}");
        assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());
        // Of a parent it was the last time: the child refuses it from now on.
        std::fs::remove_file(bench.path("child.avhdx")).unwrap();
        bench.child("child.avhdx", &base);
    }
}

#[test]
fn a_disk_that_was_open_for_writing_already_gives_no_torn_copy() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", MUCH_IN_PLACE, &[]);
    base.write(0, MUCH_IN_PLACE, 1);
    // The first change gives the file its new id; those that follow do not.
    let writer = base.writer();
    writer.write_at(&[2; 512], 0).unwrap();
    writer.flush().unwrap();
    let (reader, mut stderr) = bench.started(&["convert", "base.vhdx", "out.vhdx"]);
    writer.write_at(&[3; 512], MUCH_IN_PLACE / 2).unwrap();
    send("CONT", &reader);
    let output = reader.wait_with_output().unwrap();
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("was changed while"), "{text}");
    assert!(bench.names("out").is_empty());
}

/// Runs a verb that cannot write beyond `limit` bytes of any file, as on a volume without room.
fn limited(bench: &Bench, limit: u64, words: &[&str]) -> Done {
    let words = bench.words(words);
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
        limit / 1024
    );
    let output = Command::new("bash")
        .args(["-c", &script, EXE])
        .args(&words)
        .output()
        .unwrap();
    Done {
        words: words.join(" "),
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn work_that_cannot_write_fails_and_can_be_done_again() {
    let bench = Bench::new();
    let base = bench.disk("base.vhdx", 128 * MIB, &["--block", "1MiB"]);
    base.write(0, 4 * MIB, 1);
    let child = bench.child("child.avhdx", &base);
    child.write(2 * MIB, 30 * MIB, 2);
    let reads_as = disk_hash(&child.disk);

    for words in [
        ["convert", "child.avhdx", "out.vhdx"],
        ["export", "child.avhdx", "out.img"],
    ] {
        let done = limited(&bench, 16 * MIB, &words);
        assert!(done.expect(1).stderr.contains("out."), "{}", done.stderr);
        assert!(bench.names("out").is_empty() && bench.names(".out").is_empty());
    }
    let done = limited(&bench, 16 * MIB, &["merge", "child.avhdx"]);
    assert!(
        done.expect(1).stderr.contains("failed to write"),
        "{}",
        done.stderr
    );
    assert_eq!(
        disk_hash(&child.disk),
        reads_as,
        "the child over the parent"
    );
    bench.run(&["check", "child.avhdx"]).expect(0);
    bench.run(&["merge", "child.avhdx"]).expect(0);
    child.judge(&base.disk);
}
