//! Files that other programs wrote, against the hashes their virtual disks are known to have.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{MIB, absent, have};
use vhdx::{Disk, DiskKind, ReadAt};

/// Unpacks a sample; `None`, with a message, where the samples or the tool are absent.
fn unpack(folder: &Path, name: &str) -> Option<PathBuf> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vhdx-samples");
    let samples = std::env::var_os("VHDX_SAMPLES").map_or(samples, PathBuf::from);
    if !samples.exists() {
        // Samples are no part of the project, in CI neither.
        println!("skipped: no samples at {}", samples.display());
        return None;
    }
    let packed = samples.join(name);
    let tool = if name.ends_with(".gz") {
        "gzip"
    } else {
        "bzip2"
    };
    if !have(tool) {
        return None;
    }
    let path = folder.join("sample.vhdx");
    let target = File::create(&path).unwrap();
    // Written with holes: most of a sample is zeros.
    let mut child = Command::new(tool)
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut source = child.stdout.take().unwrap();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = source.read(&mut buf).unwrap();
        if read == 0 {
            break;
        }
        if buf[..read].iter().any(|byte| *byte != 0) {
            vhdx::WriteAt::write_all_at(&target, &buf[..read], at).unwrap();
        }
        at += read as u64;
    }
    target.set_len(at).unwrap();
    assert!(child.wait().unwrap().success());
    Some(path)
}

/// Returns the sha256 of the virtual disk.
fn sha256(disk: &Disk) -> Option<String> {
    if !have("sha256sum") {
        return None;
    }
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sink = child.stdin.take().unwrap();
    let mut buf = vec![0; 4 << 20];
    let mut offset = 0;
    while offset < disk.size() {
        let len = usize::try_from((disk.size() - offset).min(4 * MIB)).unwrap();
        disk.read_at(&mut buf[..len], offset).unwrap();
        sink.write_all(&buf[..len]).unwrap();
        offset += len as u64;
    }
    drop(sink);
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8(output.stdout).unwrap()[..64].to_owned())
}

#[track_caller]
fn check(name: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = unpack(folder.path(), name) else {
        return;
    };
    let disk = Disk::open(File::open(&path).unwrap()).unwrap();
    let mut at = 0;
    for extent in disk.extents(0, disk.size()) {
        let extent = extent.unwrap();
        assert_eq!(extent.offset, at, "{name}");
        at += extent.len;
    }
    assert_eq!(at, disk.size(), "{name}");
    match sha256(&disk) {
        Some(found) => assert_eq!(found, expected, "{name}"),
        None => absent("sha256sum"),
    }
}

#[test]
fn reads_a_dynamic_disk_of_windows() {
    check(
        "qemu/iotest-dynamic-1G.vhdx.bz2",
        "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478",
    );
}

#[test]
fn reads_a_disk_with_identical_headers() {
    check(
        "qemu/test-disk2vhd.vhdx.bz2",
        "96d964042be9b58dda1725567abfb0cf9fd8380e2118754afa979c2ad445938a",
    );
}

#[test]
#[ignore = "hashes tens of GiB of holes: half a minute"]
fn reads_disks_of_linux_guests() {
    check(
        "discutils/btrfs.vhdx.gz",
        "0b959f9cb4e18348ad8b646f152178282542c8304f02fddf765e3fd1a1de6864",
    );
    check(
        "discutils/swap.vhdx.gz",
        "60dd30b4c74361427d1089510cabb36e2eeda0cc4747f467ea43173acd358c49",
    );
}

#[test]
#[ignore = "hashes tens of GiB of holes: half a minute"]
fn reads_a_disk_with_xfs5() {
    check(
        "discutils/xfs5.vhdx.gz",
        "edc5d630b2da0ddb08992afb58ded06ffb56b884e184b4974fda16e31b7e6817",
    );
}

#[test]
#[ignore = "hashes tens of GiB of holes: half a minute"]
fn reads_a_disk_with_xfs() {
    check(
        "discutils/xfs.vhdx.gz",
        "8ca2bd2d91f1c6ada47128fc2f8d38587e73954ede5a664fe2bb09c19606060e",
    );
}

#[test]
fn replays_the_log_of_windows_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = unpack(folder.path(), "discutils/vhdx-log-replay.vhdx.gz") else {
        return;
    };
    let before = std::fs::read(&path).unwrap();
    let disk = Disk::open(File::open(&path).unwrap()).unwrap();
    assert!(disk.info().unclean);
    if let Some(found) = sha256(&disk) {
        assert_eq!(
            found,
            "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e"
        );
    }
    assert!(
        std::fs::read(&path).unwrap() == before,
        "the file was touched"
    );
}

#[test]
fn replays_the_log_of_qemu_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = unpack(folder.path(), "qemu/iotest-dirtylog-10G-4M.vhdx.bz2") else {
        return;
    };
    let file = File::open(&path).unwrap();
    assert_eq!(ReadAt::len(&file).unwrap(), 31_457_280);
    let disk = Disk::open(file).unwrap();
    assert_eq!(
        (disk.size(), disk.info().kind),
        (10 << 30, DiskKind::Dynamic)
    );
    let mut bytes = vec![0; 20 << 20];
    disk.read_at(&mut bytes, 0).unwrap();
    let (written, rest) = bytes.split_at(18 << 20);
    assert!(written.iter().all(|byte| *byte == 0xA5));
    assert!(rest.iter().all(|byte| *byte == 0));
}
