//! Files that other programs wrote, against the hashes their virtual disks are known to have.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{MIB, absent, have, run, text};
use crate::vhd_file::seal;
use crate::vhd_judges::export_by_runs;
use vhdx::{Chain, DirectoryResolver, Disk, DiskKind, Format, Kind, ReadAt, Rule, inspect};

/// Unpacks a sample; `None`, with a message, where the samples or the tool are absent.
pub(crate) fn unpack(folder: &Path, name: &str) -> Option<PathBuf> {
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
    let path = folder.join(Path::new(name).file_stem().unwrap());
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

/// Reads a VHD, checks its sizes, and has QEMU and, where it is not too large for that, 7-Zip compare it.
#[track_caller]
fn check_vhd(name: &str, kind: DiskKind, size: u64, allocated: u64) {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = unpack(folder.path(), name) else {
        return;
    };
    let file = File::open(&path).unwrap();
    let disk = Disk::open(file.try_clone().unwrap()).unwrap();
    let info = disk.info();
    assert_eq!(
        (info.format, info.kind, info.size),
        (Format::Vhd, kind, size)
    );
    assert_eq!(disk.allocated_bytes().unwrap(), allocated, "{name}");
    let raw = folder.path().join("ours.raw");
    export_by_runs(&disk, &[&file], &raw);
    if have("qemu-img") {
        // Takes a size that differs by zeros for the same.
        let compare = ["compare", "-f", "vpc", "-F", "raw", text(&path), text(&raw)];
        run("qemu-img", &compare);
    }
    if size < 1 << 30 && have("7zz") && have("cmp") {
        let out = format!("-o{}", text(&folder.path().join("7z")));
        run("7zz", &["e", "-y", "-tvhd", &out, text(&path)]);
        let theirs = std::fs::read_dir(folder.path().join("7z")).unwrap();
        let theirs = theirs.last().unwrap().unwrap().path();
        run("cmp", &[text(&raw), text(&theirs)]);
    }
}

#[test]
fn reads_a_vhd_of_hyper_v() {
    let size = 136_365_211_648;
    check_vhd(
        "qemu/hyperv2012r2-dynamic.vhd.bz2",
        DiskKind::Dynamic,
        size,
        0,
    );
}

/// Its cylinders, heads and sectors, which QEMU goes by, hold 2 MiB less.
#[test]
fn reads_a_vhd_of_virtual_pc() {
    let size = 136_365_211_648;
    check_vhd("qemu/virtualpc-dynamic.vhd.bz2", DiskKind::Dynamic, size, 0);
}

#[test]
fn reads_a_vhd_of_disk2vhd() {
    check_vhd(
        "qemu/d2v-zerofilled.vhd.bz2",
        DiskKind::Dynamic,
        263_454_720,
        263_454_720,
    );
}

#[test]
fn reads_a_vhd_of_qemu() {
    check_vhd("dfvfs/ext2.vhd.gz", DiskKind::Dynamic, 4_212_736, 2 * MIB);
}

#[test]
fn refuses_a_vhd_without_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = unpack(folder.path(), "dfvfs/fat-differential.vhd.gz") else {
        return;
    };
    let info = inspect(File::open(&path).unwrap()).unwrap();
    assert_eq!((info.kind, info.size), (DiskKind::Differencing, 4 << 20));
    let parent = info.parent.unwrap();
    assert_eq!(parent.relative_path.as_deref(), Some(r".\fat-parent.vhd"));
    let absolute = r"C:\Projects\dfvfs\test_data\fat-parent.vhd";
    assert_eq!(parent.absolute_path.as_deref(), Some(absolute));
    assert_eq!(
        parent.linkage.to_string(),
        "5fa21a55-f394-aa4d-9958-1951a67d5540"
    );
    let err = Disk::open(File::open(&path).unwrap()).unwrap_err();
    assert_eq!(err.kind(), Kind::Refused);
    let resolver = DirectoryResolver::new(folder.path());
    let err = Chain::open(
        File::open(&path).unwrap(),
        "fat-differential.vhd",
        &resolver,
    );
    assert_eq!(err.unwrap_err().kind(), Kind::NotFound);
}

/// The pair was edited by hand without its checksums: refused, as by QEMU and 7-Zip. With them corrected it is a chain
/// whose parent is named by nothing but the header.
#[test]
fn reads_a_vhd_chain_once_its_checksums_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["image-differential.vhd", "image.vhd"];
    for name in names {
        let Some(path) = unpack(folder.path(), &format!("dfvfs/{name}.gz")) else {
            return;
        };
        let err = inspect(File::open(&path).unwrap()).unwrap_err();
        assert_eq!(err.rule(), Some(Rule::VhdFooterChecksum));
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        seal(&mut bytes[..512], 64);
        seal(&mut bytes[end - 512..], 64);
        seal(&mut bytes[512..512 + 1024], 36);
        std::fs::write(&path, bytes).unwrap();
    }
    let leaf = folder.path().join(names[0]);
    let resolver = DirectoryResolver::new(folder.path());
    let chain = Chain::open(File::open(&leaf).unwrap(), names[0], &resolver).unwrap();
    let disk = chain.into_disk();
    assert_eq!((disk.layers().len(), disk.size()), (2, 104_448));
    if let Some(found) = sha256(&disk) {
        // 7-Zip and libvhdi agree.
        assert_eq!(
            found,
            "c6db12a7db548e193c29420c1b4533e4708b20c5033db5cc29ef075d48316d25"
        );
    }
    std::fs::remove_file(folder.path().join(names[1])).unwrap();
    let err = Chain::open(File::open(&leaf).unwrap(), names[0], &resolver).unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}
