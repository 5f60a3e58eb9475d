//! Verbs that give a file or its disk another size: compact and resize.

use super::Bench;
use crate::MIB;

#[test]
fn a_compacted_disk_holds_the_same_in_less() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &["--block", "1MiB"]);
    disk.write(0, 40 * MIB, 1);
    let child = bench.child("child.avhdx", &disk);
    // The one block of zeros has its place, the others gave theirs up.
    let zeros = vec![0; 1 << 20];
    let writer = disk.writer();
    writer.write_at(&zeros, 30 * MIB).unwrap();
    writer.close().unwrap();
    let image = std::fs::File::options()
        .write(true)
        .open(&disk.image)
        .unwrap();
    ::vhdx::WriteAt::write_all_at(&image, &zeros, 30 * MIB).unwrap();
    disk.zero(0, 20 * MIB);
    let id = bench.json(&["info", "disk.vhdx"])["data_write_guid"].clone();

    let quick = bench.json(&["compact", "disk.vhdx", "--no-zeros"]);
    disk.judge(&disk.disk);
    let length = std::fs::metadata(&disk.disk).unwrap().len();
    assert_eq!(quick["file_bytes_after"], length);
    assert_eq!(
        quick["file_bytes_before"].as_u64().unwrap() - length,
        20 * MIB
    );
    let whole = bench.json(&["compact", "disk.vhdx"]);
    assert_eq!(whole["blocks_given_up"], 1);
    assert_eq!(whole["file_bytes_after"], length - MIB);
    disk.judge(&disk.disk);
    let again = bench.json(&["compact", "disk.vhdx"]);
    assert_eq!(again["file_bytes_after"], again["file_bytes_before"]);
    // Children go on to accept it: it was made before, over what was written since.
    assert_eq!(bench.json(&["info", "disk.vhdx"])["data_write_guid"], id);
    assert!(child.disk.exists());
}

#[test]
fn a_disk_grows_and_shrinks() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 64 * MIB, &["--block", "1MiB"]);
    disk.write(0, 2 * MIB, 1);
    let grown = bench.json(&["resize", "disk.vhdx", "300GiB"]);
    assert_eq!(grown["size_bytes"], 300_u64 << 30);
    let ranges = bench.run_as(&["ranges", "disk.vhdx"], &["--json"]).values();
    assert_eq!(ranges.len(), 2, "the new space is zeros");
    let back = bench.json(&["resize", "disk.vhdx", "64MiB"]);
    assert_eq!(back["size_bytes"], 64 * MIB);
    disk.judge(&disk.disk);

    let done = bench.run(&["resize", "disk.vhdx", "1MiB"]);
    assert!(
        done.expect(6).stderr.contains("--discard"),
        "{}",
        done.stderr
    );
    disk.judge(&disk.disk);
    let cut = bench.json(&["resize", "disk.vhdx", "1MiB", "--discard"]);
    assert_eq!(cut["size_bytes"], MIB);
    for wrong in ["0", "1000", "65TiB", "much"] {
        bench.run(&["resize", "disk.vhdx", wrong]).expect(2);
    }
}

#[test]
fn what_cannot_be_changed_is_left_alone() {
    let bench = Bench::new();
    let disk = bench.disk("disk.vhdx", 32 * MIB, &[]);
    disk.write(0, MIB, 1);
    std::fs::write(bench.path("noise.vhdx"), vec![7; 3 << 20]).unwrap();
    // A fixed VHD has no more than a footer behind the data.
    let mut old = vec![0; 1 << 20];
    old.extend(footer(1 << 20));
    std::fs::write(bench.path("old.vhd"), &old).unwrap();
    assert_eq!(bench.json(&["info", "old.vhd"])["format"], "vhd");
    assert_eq!(bench.json(&["check", "old.vhd"])["errors"], 0);
    for words in [vec!["compact"], vec!["resize"], vec!["repair"]] {
        let on = |file: &'static str| {
            let mut words = words.clone();
            words.push(file);
            if words[0] == "resize" {
                words.push("64MiB");
            }
            words
        };
        bench.run(&on("absent.vhdx")).expect(4);
        bench.run(&on("noise.vhdx")).expect(1);
        let done = bench.run(&on("old.vhd"));
        assert!(
            done.expect(2).stderr.contains("vhdx convert"),
            "{}",
            done.stderr
        );
        let held = std::fs::File::open(&disk.disk).unwrap();
        held.try_lock().unwrap();
        bench.run(&on("disk.vhdx")).expect(6);
    }
    assert!(std::fs::read(bench.path("old.vhd")).unwrap() == old);
    disk.judge(&disk.disk);
}

/// Returns the footer of a fixed VHD.
fn footer(size: u64) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    footer[28..32].copy_from_slice(b"win ");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    footer[68..84].fill(9);
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}
