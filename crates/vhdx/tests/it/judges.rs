//! Round trips against other implementations, in both directions.

use std::fs::File;
use std::path::Path;

use crate::support::{MIB, have, pattern, run, text};

use vhdx::{BulkWriter, Disk, DiskKind, ExtentKind, Params};

/// Writes a sparse raw image with some data: at the start, across a block border, far in, and at the very end.
pub(crate) fn raw_image(path: &Path, size: u64, block: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, len) in pieces(size, block) {
        vhdx::WriteAt::write_all_at(&file, &pattern(7, offset, len), offset).unwrap();
    }
}

fn pieces(size: u64, block: u64) -> Vec<(u64, usize)> {
    let wanted = [
        (0, 4096),
        (block.saturating_sub(4096), 12_288),
        (3 * block + 65_536, 512),
        (size - 4096, 4096),
    ];
    let mut end = 0;
    let mut pieces = Vec::new();
    for (offset, len) in wanted {
        if offset >= end && offset + len <= size {
            pieces.push((offset, usize::try_from(len).unwrap()));
            end = offset + len;
        }
    }
    pieces
}

fn write_bulk(path: &Path, params: &Params) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let mut writer = BulkWriter::create(file, params).unwrap();
    for (offset, len) in pieces(params.size, u64::from(params.block_bytes)) {
        // In odd steps, so that writes begin and end anywhere.
        let bytes = pattern(7, offset, len);
        for (number, part) in bytes.chunks(1000).enumerate() {
            writer.write(offset + number as u64 * 1000, part).unwrap();
        }
    }
    writer.finish().unwrap();
}

fn check_content(disk: &Disk, block: u64) {
    let mut data = 0;
    for extent in disk.extents(0, disk.size()).map(Result::unwrap) {
        data += if extent.kind == ExtentKind::Data {
            extent.len
        } else {
            0
        };
    }
    assert_eq!(disk.allocated_bytes().unwrap(), data);
    let mut at = 0;
    for (offset, len) in pieces(disk.size(), block) {
        let mut bytes = vec![1; usize::try_from((offset - at).min(2 * MIB)).unwrap()];
        disk.read_at(&mut bytes, at).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "zeros at {at}");
        let mut bytes = vec![0; len];
        disk.read_at(&mut bytes, offset).unwrap();
        assert!(bytes == pattern(7, offset, len), "data at {offset}");
        at = offset + len as u64;
    }
}

/// Block size in MiB, size in bytes, kind. QEMU compares at some 6 GiB/s of holes, so the very large are only checked.
const CASES: [(u64, u64, DiskKind); 7] = [
    (1, 5 * MIB, DiskKind::Dynamic),
    (1, 5 * MIB + 4096, DiskKind::Fixed),
    (2, 64 * MIB - 512, DiskKind::Dynamic),
    (32, 130 * MIB, DiskKind::Fixed),
    (1, 1 << 30, DiskKind::Dynamic),
    (256, 1 << 30, DiskKind::Dynamic),
    (256, 300 * MIB, DiskKind::Fixed),
];

#[test]
fn qemu_reads_what_we_write() {
    if !have("qemu-img") {
        return;
    }
    for (block, size, kind) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let (ours, raw) = (folder.path().join("ours.vhdx"), folder.path().join("raw"));
        let block_bytes = u32::try_from(block * MIB).unwrap();
        write_bulk(
            &ours,
            &Params {
                kind,
                block_bytes,
                ..Params::dynamic(size)
            },
        );
        check_content(
            &Disk::open(File::open(&ours).unwrap()).unwrap(),
            block * MIB,
        );
        run("qemu-img", &["check", "-f", "vhdx", text(&ours)]);
        raw_image(&raw, size, block * MIB);
        run(
            "qemu-img",
            &[
                "compare",
                "-f",
                "vhdx",
                "-F",
                "raw",
                text(&ours),
                text(&raw),
            ],
        );
    }
}

#[test]
fn we_read_what_qemu_writes() {
    if !have("qemu-img") {
        return;
    }
    for (block, size, kind) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let (theirs, raw) = (folder.path().join("theirs.vhdx"), folder.path().join("raw"));
        raw_image(&raw, size, block * MIB);
        let kind_name = if kind == DiskKind::Fixed {
            "fixed"
        } else {
            "dynamic"
        };
        // Fixed disks of QEMU are written out in full.
        if kind == DiskKind::Fixed && size > 200 * MIB {
            continue;
        }
        let options = format!(
            "subformat={kind_name},block_size={},log_size=1M",
            block * MIB
        );
        run(
            "qemu-img",
            &[
                "convert",
                "-f",
                "raw",
                "-O",
                "vhdx",
                "-o",
                &options,
                text(&raw),
                text(&theirs),
            ],
        );
        let disk = Disk::open(File::open(&theirs).unwrap()).unwrap();
        assert_eq!(
            (disk.size(), u64::from(disk.block_bytes())),
            (size, block * MIB)
        );
        check_content(&disk, block * MIB);
    }
}

#[test]
fn seven_zip_and_libvhdi_read_disks_of_4k_sectors() {
    for (block, size, kind) in [
        (2, 9 * MIB, DiskKind::Dynamic),
        (32, 70 * MIB, DiskKind::Fixed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (ours, raw) = (folder.path().join("ours.vhdx"), folder.path().join("raw"));
        let block_bytes = u32::try_from(block * MIB).unwrap();
        write_bulk(
            &ours,
            &Params {
                kind,
                block_bytes,
                logical: 4096,
                ..Params::dynamic(size)
            },
        );
        let disk = Disk::open(File::open(&ours).unwrap()).unwrap();
        assert_eq!(
            (disk.logical_sector_bytes(), disk.physical_sector_bytes()),
            (4096, 4096)
        );
        check_content(&disk, block * MIB);
        if have("7zz") {
            raw_image(&raw, size, block * MIB);
            let out = folder.path().join("out");
            run(
                "7zz",
                &[
                    "x",
                    "-tvhdx",
                    "-y",
                    &format!("-o{}", text(&out)),
                    text(&ours),
                ],
            );
            let file = std::fs::read_dir(&out)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path();
            assert!(std::fs::read(file).unwrap() == std::fs::read(&raw).unwrap());
        }
        if have("vhdiinfo") {
            assert!(
                run("vhdiinfo", &[text(&ours)]).contains(&disk.info().data_write_guid.to_string())
            );
        }
    }
}

#[test]
fn qemu_finds_no_fault_in_the_largest_disk() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.vhdx");
    write_bulk(&path, &Params::dynamic(64 << 40));
    check_content(&Disk::open(File::open(&path).unwrap()).unwrap(), 32 * MIB);
    run("qemu-img", &["check", "-f", "vhdx", text(&path)]);
    let info: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", text(&path)])).unwrap();
    assert_eq!(info["virtual-size"], 64_u64 << 40);
    assert_eq!(info["cluster-size"], 32 * MIB);
}
