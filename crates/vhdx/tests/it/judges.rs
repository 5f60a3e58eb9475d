//! Round trips against other implementations, in both directions.

use std::fs::File;
use std::path::Path;

use crate::support::{MIB, disk_of, have, link, pattern, run, text};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vhdx::{
    BulkWriter, Chain, DirectoryResolver, Disk, DiskKind, DiskWriter, Durability, ExtentKind,
    MemoryFile, Params, Vhdx, create_differencing, inspect,
};

/// Writes a sparse raw image with some data: at the start, across a block border, far in, and at the very end.
fn raw_image(path: &Path, size: u64, block: u64) {
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

fn open_rw(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

/// Work that allocates, gives up and uses space again; mirrored in a raw image.
fn work(writer: &DiskWriter, raw: &File, seed: u64) {
    let write = |offset: u64, len: usize| {
        let bytes = pattern(seed, offset, len);
        writer.write_at(&bytes, offset).unwrap();
        vhdx::WriteAt::write_all_at(raw, &bytes, offset).unwrap();
    };
    let zero = |offset: u64, len: u64| {
        writer.zero(offset, len).unwrap();
        let zeros = vec![0; usize::try_from(len).unwrap()];
        vhdx::WriteAt::write_all_at(raw, &zeros, offset).unwrap();
    };
    write(MIB - 4096, 100_000);
    write(10 * MIB + 512, 512);
    zero(10 * MIB, 4 * MIB);
    writer.flush().unwrap();
    write(20 * MIB, 3 << 20);
    zero(21 * MIB + 512, 5 * 512);
    write(10 * MIB + 8192, 12_288);
}

#[test]
fn qemu_replays_our_log_and_reads_what_we_wrote_in_place() {
    if !have("qemu-img") {
        return;
    }
    for clean in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (ours, raw) = (folder.path().join("ours.vhdx"), folder.path().join("raw"));
        let params = Params {
            block_bytes: 2 << 20,
            ..Params::dynamic(40 * MIB)
        };
        BulkWriter::create(open_rw(&ours), &params)
            .unwrap()
            .finish()
            .unwrap();
        let raw_file = open_rw(&raw);
        raw_file.set_len(40 * MIB).unwrap();
        let writer = DiskWriter::open(open_rw(&ours), Vec::new(), Durability::PowerLoss).unwrap();
        work(&writer, &raw_file, 5);
        if clean {
            writer.close().unwrap();
            run("qemu-img", &["check", "-f", "vhdx", text(&ours)]);
        } else {
            writer.flush().unwrap();
            drop(writer);
            assert!(inspect(File::open(&ours).unwrap()).unwrap().unclean);
            // "-r all" is how QEMU replays a log.
            run(
                "qemu-img",
                &["check", "-r", "all", "-f", "vhdx", text(&ours)],
            );
            assert!(!inspect(File::open(&ours).unwrap()).unwrap().unclean);
        }
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
fn we_go_on_with_a_disk_of_qemu() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (theirs, raw) = (folder.path().join("theirs.vhdx"), folder.path().join("raw"));
    raw_image(&raw, 40 * MIB, 2 * MIB);
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "vhdx",
            "-o",
            "block_size=2M",
            text(&raw),
            text(&theirs),
        ],
    );
    let writer = DiskWriter::open(open_rw(&theirs), Vec::new(), Durability::PowerLoss).unwrap();
    work(&writer, &open_rw(&raw), 6);
    writer.close().unwrap();
    run("qemu-img", &["check", "-f", "vhdx", text(&theirs)]);
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "vhdx",
            "-F",
            "raw",
            text(&theirs),
            text(&raw),
        ],
    );
}

#[test]
fn seven_zip_reads_our_chains() {
    if !have("7zz") {
        return;
    }
    for logical in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let raw = open_rw(&at("raw"));
        raw.set_len(40 * MIB).unwrap();
        let params = Params {
            block_bytes: 4 << 20,
            logical,
            ..Params::dynamic(40 * MIB)
        };
        BulkWriter::create(open_rw(&at("0.vhdx")), &params)
            .unwrap()
            .finish()
            .unwrap();
        for layer in 0..3 {
            let name = format!("{layer}.vhdx");
            let parents = (0..layer).rev();
            let parents = parents
                .map(|n| Vhdx::open(File::open(at(&format!("{n}.vhdx"))).unwrap()).unwrap())
                .collect();
            let writer =
                DiskWriter::open(open_rw(&at(&name)), parents, Durability::PowerLoss).unwrap();
            work(&writer, &raw, layer);
            // Something only this layer has.
            let own = pattern(layer, 0, 4096);
            writer.write_at(&own, (25 + layer) * MIB).unwrap();
            vhdx::WriteAt::write_all_at(&raw, &own, (25 + layer) * MIB).unwrap();
            let info = writer.close().unwrap();
            let child = open_rw(&at(&format!("{}.vhdx", layer + 1)));
            create_differencing(child, &Params::child_of(&info, link(&info, &name))).unwrap();
        }
        let expected = std::fs::read(at("raw")).unwrap();
        let leaf = File::open(at("3.vhdx")).unwrap();
        let disk = Chain::open(leaf, "3.vhdx", &DirectoryResolver::new(folder.path()))
            .unwrap()
            .into_disk();
        let mut found = vec![1; expected.len()];
        disk.read_at(&mut found, 0).unwrap();
        assert!(found == expected);
        let out = at("out");
        run(
            "7zz",
            &[
                "x",
                "-tvhdx",
                "-y",
                &format!("-o{}", text(&out)),
                text(&at("3.vhdx")),
            ],
        );
        let file = std::fs::read_dir(&out)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert!(
            std::fs::read(file).unwrap() == expected,
            "7-Zip reads something else"
        );
        if have("vhdiinfo") {
            let info = inspect(File::open(at("3.vhdx")).unwrap()).unwrap();
            let told = run("vhdiinfo", &[text(&at("3.vhdx"))]);
            assert!(told.contains("Differential"), "{told}");
            assert!(
                told.contains(&info.parent.unwrap().linkage.to_string()),
                "{told}"
            );
        }
    }
}

#[test]
fn readers_see_old_or_new_bytes_while_another_thread_writes() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(8 * MIB)
    };
    let (parent, info) = disk_of(&params, &[(0, vec![1; 8 << 20])]);
    let child = Arc::new(MemoryFile::new());
    create_differencing(
        Arc::clone(&child),
        &Params::child_of(&info, link(&info, "parent.vhdx")),
    )
    .unwrap();
    let parents = vec![Vhdx::open(parent).unwrap()];
    let writer = DiskWriter::open(child, parents, Durability::ProcessKill).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (writer, done) = (&writer, &done);
            scope.spawn(move || {
                let mut bytes = [0; 512];
                let mut number = thread;
                while !done.load(Ordering::Relaxed) {
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let sector = (number >> 33) % (8 * 2048);
                    writer.read_at(&mut bytes, sector * 512).unwrap();
                    assert!(
                        bytes.iter().all(|byte| *byte == bytes[0] && *byte < 3),
                        "sector {sector} of another block"
                    );
                }
            });
        }
        // Blocks lose their space to one another all the time.
        for round in 0..300_u64 {
            let block = round % 8;
            writer.zero(block * MIB, MIB).unwrap();
            writer.flush().unwrap();
            let other = (block + 3) % 8;
            writer
                .write_at(&[2; 4096], other * MIB + (round % 200) * 4096)
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    writer.close().unwrap();
}
