//! VHD files against QEMU, 7-Zip and libvhdi: theirs read here, and the tests' own read there.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use uuid::Uuid;

use crate::judges::raw_image;
use crate::support::{MIB, have, read, run, text};
use crate::vhd_file::{Parent, SECTOR, Spec};
use vhdx::{
    Chain, ConvertOptions, DirectoryResolver, Disk, DiskKind, ExtentKind, Format, Params, Place,
    ReadAt, convert,
};

/// Writes a disk as a raw image with holes, by [`Disk::runs`] and the files alone.
pub(crate) fn export_by_runs(disk: &Disk, files: &[&File], target: &Path) {
    let target = File::create(target).unwrap();
    target.set_len(disk.size()).unwrap();
    let mut buf = vec![0; 1 << 20];
    for run in disk.runs(0, disk.size()).map(Result::unwrap) {
        let Place::File { number, offset } = run.place else {
            continue;
        };
        let mut done = 0;
        while done < run.len {
            let len = usize::try_from((run.len - done).min(1 << 20)).unwrap();
            files[number]
                .read_exact_at(&mut buf[..len], offset + done)
                .unwrap();
            vhdx::WriteAt::write_all_at(&target, &buf[..len], run.offset + done).unwrap();
            done += len as u64;
        }
    }
}

/// Says that a disk holds what a raw image does: data compared, holes by the tables; size and all.
fn check_same(disk: &Disk, raw: &Path, exact: bool) {
    let raw = File::open(raw).unwrap();
    let raw_len = ReadAt::len(&raw).unwrap();
    assert!(disk.size() >= raw_len, "{} of {raw_len}", disk.size());
    assert!(!exact || disk.size() == raw_len);
    let mut at = 0;
    while at < disk.size() {
        let len = usize::try_from((disk.size() - at).min(MIB)).unwrap();
        let mut expected = vec![0; len];
        let there = usize::try_from(raw_len.saturating_sub(at).min(len as u64)).unwrap();
        raw.read_exact_at(&mut expected[..there], at).unwrap();
        assert!(read(disk, at, len) == expected, "at {at}");
        at += len as u64;
    }
}

#[test]
fn reads_what_qemu_writes() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Sizes that fit cylinders and heads, and not; below a block and over many.
    for (size, options, kind) in [
        (10 * MIB, "subformat=dynamic", DiskKind::Dynamic),
        (10 * MIB, "subformat=fixed", DiskKind::Fixed),
        (
            3_000_320,
            "subformat=dynamic,force_size=on",
            DiskKind::Dynamic,
        ),
        (3_000_320, "subformat=fixed,force_size=on", DiskKind::Fixed),
        (
            65 * MIB + 512,
            "subformat=dynamic,force_size=on",
            DiskKind::Dynamic,
        ),
        (1_048_576, "subformat=dynamic", DiskKind::Dynamic),
    ] {
        let (raw, vhd) = (path("raw"), path("disk.vhd"));
        raw_image(&raw, size, 2 * MIB);
        let args = ["convert", "-f", "raw", "-O", "vpc", "-o", options];
        run("qemu-img", &[&args[..], &[text(&raw), text(&vhd)]].concat());
        let disk = Disk::open(File::open(&vhd).unwrap()).unwrap();
        assert_eq!((disk.info().format, disk.info().kind), (Format::Vhd, kind));
        check_same(&disk, &raw, options.contains("force_size"));

        // Into the second generation, and back to a judge.
        let target = path("disk.vhdx");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&target)
            .unwrap();
        let params = Params::dynamic(disk.size());
        let goes_on = &mut |_| ControlFlow::Continue(());
        convert(&disk, file, &params, ConvertOptions::default(), goes_on).unwrap();
        run("qemu-img", &["check", "-q", text(&target)]);
        let compare = [
            "compare",
            "-f",
            "vpc",
            "-F",
            "vhdx",
            text(&vhd),
            text(&target),
        ];
        run("qemu-img", &compare);
    }
}

#[test]
fn the_size_is_qemus_where_it_was_forced_and_up_to_the_limit() {
    if !have("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    for (size, options) in [
        ("2040G", "subformat=dynamic,force_size=on"),
        ("136899993600", "subformat=dynamic"),
        ("1T", "subformat=dynamic,force_size=on"),
    ] {
        run(
            "qemu-img",
            &["create", "-f", "vpc", "-o", options, text(&path), size],
        );
        let disk = Disk::open(File::open(&path).unwrap()).unwrap();
        let info = run(
            "qemu-img",
            &["info", "-f", "vpc", "--output=json", text(&path)],
        );
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], disk.size(), "{size}");
        let extents: Vec<_> = disk.extents(0, disk.size()).map(Result::unwrap).collect();
        assert_eq!((extents.len(), extents[0].kind), (1, ExtentKind::Zero));
    }
}

/// The tests' own writer makes what others read: else a mistake in both would not be seen.
#[test]
fn others_read_chains_as_we_do() {
    if !have("7zz") || !have("vhdiinfo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let size = 9 * MIB + 512;
    let filled = |sectors: &[u64], seed: u8| {
        let content = |at: &u64| (*at, [seed ^ at.to_le_bytes()[0]; SECTOR]);
        sectors.iter().map(content).collect::<Vec<_>>()
    };
    let base = Spec {
        sectors: filled(&[0, 1, 2, 9, 4095, 4096, 18_432], 0x50),
        ..Spec::new(size, 2 << 20)
    };
    let child = Spec {
        sectors: filled(&[1, 8, 4096, 4097, 12_000], 0x11),
        parent: Some(Parent::windows(base.id, "base.vhd")),
        ..Spec::new(size, 2 << 20)
    };
    let leaf = Spec {
        sectors: filled(&[2, 9, 13, 12_001, 18_432], 0xA7),
        parent: Some(Parent::windows(child.id, "child.vhd")),
        ..Spec::new(size, 2 << 20)
    };
    std::fs::write(path("base.vhd"), base.sparse()).unwrap();
    std::fs::write(path("child.vhd"), child.sparse()).unwrap();
    std::fs::write(path("leaf.vhd"), leaf.sparse()).unwrap();
    std::fs::write(path("fixed.vhd"), base.fixed()).unwrap();
    let expected = leaf.over(child.over(base.over(Vec::new())));

    let resolver = DirectoryResolver::new(folder.path());
    let chain = Chain::open(File::open(path("leaf.vhd")).unwrap(), "leaf.vhd", &resolver);
    let disk = chain.unwrap().into_disk();
    assert_eq!(disk.layers().len(), 3);
    assert!(read(&disk, 0, expected.len()) == expected);
    let files = ["leaf.vhd", "child.vhd", "base.vhd"].map(|name| File::open(path(name)).unwrap());
    export_by_runs(&disk, &files.each_ref(), &path("runs.raw"));
    assert!(std::fs::read(path("runs.raw")).unwrap() == expected);

    for (name, content) in [
        ("leaf", &expected),
        ("fixed", &base.over(Vec::new())),
        ("base", &base.over(Vec::new())),
    ] {
        let vhd = path(&format!("{name}.vhd"));
        let out = format!("-o{}", text(folder.path()));
        run("7zz", &["e", "-y", "-tvhd", &out, text(&vhd)]);
        let image = path(&format!("{name}.img"));
        assert!(std::fs::read(&image).unwrap() == *content, "7zz: {name}");
        let info = run("vhdiinfo", &[text(&vhd)]);
        assert!(info.contains(&format!("({size} bytes)")), "{info}");
        let id = Disk::open(File::open(&vhd).unwrap()).map_or(leaf.id, |disk| disk.disk_id());
        assert!(info.contains(&id.to_string()), "{info}");
    }
    let info = run("vhdiinfo", &[text(&path("leaf.vhd"))]);
    assert!(info.contains(&child.id.to_string()), "{info}");
    assert_ne!(child.id, Uuid::nil());
}
