//! What we wrote in place, and the chains we made, read by other implementations; and work on their files.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::judges::raw_image;
use crate::power::{Recorder, apply};
use crate::support::{MIB, disk_of, have, link, pattern, read, run, text};
use vhdx::{
    Beyond, BulkWriter, Chain, CompactOptions, DirectoryResolver, Disk, DiskWriter, Durability,
    MemoryFile, Params, ReadAt, Vhdx, create_differencing, inspect,
};

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

/// Writes a file in memory to disk, holes left out.
fn put(file: &MemoryFile, path: &Path) {
    let on_disk = open_rw(path);
    on_disk.set_len(0).unwrap();
    let len = ReadAt::len(file).unwrap();
    let mut piece = vec![0; 1 << 16];
    let zeros = piece.clone();
    for at in (0..len).step_by(piece.len()) {
        let count = piece.len().min(usize::try_from(len - at).unwrap());
        file.read_exact_at(&mut piece[..count], at).unwrap();
        if piece[..count] != zeros[..count] {
            vhdx::WriteAt::write_all_at(&on_disk, &piece[..count], at).unwrap();
        }
    }
    on_disk.set_len(len).unwrap();
}

#[test]
fn qemu_mends_what_a_kill_leaves_of_layout_changes() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("left.vhdx");
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(12 * MIB)
    };
    let (start, _) = disk_of(&params, &[(0, pattern(1, 0, 12 << 20))]);
    let writer = DiskWriter::open(Arc::clone(&start), Vec::new(), Durability::ProcessKill).unwrap();
    writer.trim(MIB, 3 * MIB).unwrap();
    writer.zero(7 * MIB, MIB).unwrap();
    writer.close().unwrap();
    type Work = fn(Arc<Recorder>);
    let works: [(&str, Work); 3] = [
        ("grow", |file| {
            let mut go_on = |_| ControlFlow::Continue(());
            let (size, kept) = (30 * MIB, Beyond::MustBeZero);
            vhdx::resize(file, size, kept, Durability::PowerLoss, &mut go_on).unwrap();
        }),
        ("shrink", |file| {
            let mut go_on = |_| ControlFlow::Continue(());
            let size = 5 * MIB + 512;
            vhdx::resize(
                file,
                size,
                Beyond::Discard,
                Durability::PowerLoss,
                &mut go_on,
            )
            .unwrap();
        }),
        ("compact", |file| {
            let mut go_on = |_| ControlFlow::Continue(());
            let options = CompactOptions::default();
            vhdx::compact(file, options, Durability::PowerLoss, &mut go_on).unwrap();
        }),
    ];
    for (name, work) in works {
        let recorder = Arc::new(Recorder::new(&start));
        work(Arc::clone(&recorder));
        let ops = recorder.ops();
        let now = start.duplicate();
        let mut judged = 0;
        for (number, op) in ops.iter().enumerate() {
            apply(&now, op);
            let left = Arc::new(now.duplicate());
            let last = number + 1 == ops.len();
            if !inspect(Arc::clone(&left)).unwrap().unclean && !last {
                continue;
            }
            judged += 1;
            put(&left, &path);
            run(
                "qemu-img",
                &["check", "-r", "all", "-f", "vhdx", text(&path)],
            );
            let (ours, theirs) = (
                Disk::open(left).unwrap(),
                Disk::open(File::open(&path).unwrap()).unwrap(),
            );
            assert!(!theirs.info().unclean, "{name}, operation {number}");
            assert_eq!(ours.size(), theirs.size());
            let size = usize::try_from(ours.size()).unwrap();
            assert!(
                read(&ours, 0, size) == read(&theirs, 0, size),
                "{name}, operation {number}: other bytes"
            );
        }
        assert!(judged > 2, "{name}: the log was in use");
    }
}
