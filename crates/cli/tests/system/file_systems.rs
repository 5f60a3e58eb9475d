//! Real file systems through a full backup and two increments, judged by the tools that made them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{World, pattern, tool};

use crate::support::{EXE, MIB, assert_host_is_clean, points, text};

/// Runs a program, which must succeed.
#[track_caller]
fn run(program: &Path, arguments: &[&str]) {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(
        done.status.success(),
        "{} {arguments:?}: {}{}",
        program.display(),
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

struct Tools {
    mke2fs: PathBuf,
    e2fsck: PathBuf,
    debugfs: PathBuf,
    mkntfs: PathBuf,
    ntfscp: PathBuf,
    ntfsls: PathBuf,
    qemu_img: PathBuf,
}

fn tools() -> Option<Tools> {
    Some(Tools {
        mke2fs: tool("mke2fs")?,
        e2fsck: tool("e2fsck")?,
        debugfs: tool("debugfs")?,
        mkntfs: tool("mkntfs")?,
        ntfscp: tool("ntfscp")?,
        ntfsls: tool("ntfsls")?,
        qemu_img: tool("qemu-img")?,
    })
}

/// Makes a folder with several thousand files of many sizes.
fn make_tree(folder: &Path) {
    let mut content = vec![0; 40_000];
    for number in 0..4000_u64 {
        let below = folder.join(format!("d{}/e{}", number % 20, number % 7));
        fs::create_dir_all(&below).unwrap();
        let len =
            usize::try_from(number * 37 % 9000 + u64::from(number % 50 == 0) * 30_000).unwrap();
        pattern(9, number << 20, &mut content[..len]);
        fs::write(below.join(format!("file{number}.dat")), &content[..len]).unwrap();
    }
}

/// Has the guest write what differs between what its disk holds and `wanted`; both are raw images of one size.
fn write_difference(world: &World, vm: &str, disk: usize, held: &Path, wanted: &Path) -> u64 {
    let (old, new) = (fs::read(held).unwrap(), fs::read(wanted).unwrap());
    assert_eq!(old.len(), new.len());
    let changed: Vec<usize> = (0..old.len() / 4096)
        .filter(|n| old[n * 4096..(n + 1) * 4096] != new[n * 4096..(n + 1) * 4096])
        .collect();
    assert!(!changed.is_empty(), "the guest changed something");
    let piece = world.path("piece");
    let mut at = 0;
    while at < changed.len() {
        let first = changed[at];
        // Runs with small gaps are written at once, as an elevator would.
        let mut last = first;
        while at < changed.len() && changed[at] <= last + 16 {
            last = changed[at];
            at += 1;
        }
        fs::write(&piece, &new[first * 4096..(last + 1) * 4096]).unwrap();
        let (disk, offset) = (disk.to_string(), (first * 4096).to_string());
        world.hosts[0].ctl(&[
            "guest",
            "write",
            vm,
            &disk,
            "--offset",
            &offset,
            "--file",
            piece.to_str().unwrap(),
        ]);
    }
    u64::try_from(changed.len()).unwrap() * 4096
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

#[test]
fn ext4_and_ntfs_come_back_as_they_were_at_each_of_three_backups() {
    let Some(tools) = tools() else { return };
    let world = World::with_host(EXE);
    let path = |name: &str| world.path(name);
    let name = |path: &Path| path.to_str().unwrap().to_owned();

    let tree = path("tree");
    make_tree(&tree);
    let ext4 = [path("ext4-0.img"), path("ext4-1.img"), path("ext4-2.img")];
    let ntfs = [path("ntfs-0.img"), path("ntfs-1.img"), path("ntfs-2.img")];
    run(
        &tools.mke2fs,
        &[
            "-q",
            "-t",
            "ext4",
            "-d",
            &name(&tree),
            &name(&ext4[0]),
            "192M",
        ],
    );
    File::create(&ntfs[0]).unwrap().set_len(96 * MIB).unwrap();
    run(&tools.mkntfs, &["-q", "-F", "-f", &name(&ntfs[0])]);
    for number in 0..60 {
        let file = tree.join(format!("d{}/e{}/file{number}.dat", number % 20, number % 7));
        run(
            &tools.ntfscp,
            &[
                "-q",
                &name(&ntfs[0]),
                &name(&file),
                &format!("copied{number}.dat"),
            ],
        );
    }

    let disks: Vec<PathBuf> = [(&ext4[0], "ext4.vhdx"), (&ntfs[0], "ntfs.vhdx")]
        .map(|(image, vhdx)| {
            let vhdx = path(vhdx);
            run(
                &tools.qemu_img,
                &[
                    "convert",
                    "-f",
                    "raw",
                    "-O",
                    "vhdx",
                    &name(image),
                    &name(&vhdx),
                ],
            );
            vhdx
        })
        .into();
    world.hosts[0].add_vm(
        "files",
        &[
            ("C:\\VMs\\files\\ext4.vhdx", &disks[0]),
            ("C:\\VMs\\files\\ntfs.vhdx", &disks[1]),
        ],
    );
    world.hosts[0].ctl(&["power", "files", "on"]);
    world.wait_for_vm("files");
    world.back_up("files", &[]);

    let mut new_file = vec![0; 700_000];
    for round in 1..3_u8 {
        let (before, now) = (usize::from(round) - 1, usize::from(round));
        pattern(u64::from(round), 0, &mut new_file);
        let fresh = path(&format!("fresh{round}"));
        File::create(&fresh).unwrap().write_all(&new_file).unwrap();
        copy(&ext4[before], &ext4[now]);
        for request in [
            format!("write {} fresh{round}.bin", name(&fresh)),
            format!(
                "rm /d{round}/e{round}/file{}.dat",
                20 * 7 * 3 + usize::from(round)
            ),
            format!("mkdir /made{round}"),
        ] {
            run(&tools.debugfs, &["-w", "-R", &request, &name(&ext4[now])]);
        }
        copy(&ntfs[before], &ntfs[now]);
        run(
            &tools.ntfscp,
            &[
                "-q",
                &name(&ntfs[now]),
                &name(&fresh),
                &format!("fresh{round}.bin"),
            ],
        );
        let changed = write_difference(&world, "files", 0, &ext4[before], &ext4[now])
            + write_difference(&world, "files", 1, &ntfs[before], &ntfs[now]);
        let job = world.back_up("files", &[]);
        let read = job["figures"]["bytes_read"].as_u64().unwrap();
        assert!(
            read < changed * 3 + 4 * MIB,
            "{read} bytes read for {changed} changed"
        );
    }

    let mut made = points(&world, "files");
    made.reverse();
    let kinds: Vec<&str> = made.iter().map(|point| text(&point["kind"])).collect();
    assert_eq!(kinds, ["full", "incremental", "incremental"]);
    for (number, point) in made.iter().enumerate() {
        let folder = format!("D:\\point{number}");
        let words = [
            "--disk",
            "ext4.vhdx",
            "--disk",
            "ntfs.vhdx",
            "--folder",
            &folder,
            "--point",
            text(&point["id"]),
        ];
        world.restore("files", &words);
        for (file, image) in [("ext4.vhdx", &ext4[number]), ("ntfs.vhdx", &ntfs[number])] {
            let restored = world.hosts[0].local(&format!("{folder}\\{file}"));
            run(
                &tools.qemu_img,
                &["check", "-q", "-f", "vhdx", &name(&restored)],
            );
            run(
                &tools.qemu_img,
                &[
                    "compare",
                    "-q",
                    "-f",
                    "vhdx",
                    "-F",
                    "raw",
                    &name(&restored),
                    &name(image),
                ],
            );
            let raw = path("restored.img");
            run(
                &tools.qemu_img,
                &[
                    "convert",
                    "-f",
                    "vhdx",
                    "-O",
                    "raw",
                    &name(&restored),
                    &name(&raw),
                ],
            );
            if file == "ext4.vhdx" {
                run(&tools.e2fsck, &["-fn", &name(&raw)]);
            } else {
                run(&tools.ntfsls, &["-F", "-f", &name(&raw)]);
            }
        }
    }
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_restored_disk_is_accepted_by_judges_of_other_origin() {
    let (Some(seven), Some(info)) = (tool("7zz"), tool("vhdiinfo")) else {
        return;
    };
    let world = crate::support::world_with_vm();
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    world.restore("web01", &["--disk", "disk0.vhdx", "--folder", "D:\\out"]);
    let restored = world.hosts[0].local("D:\\out\\disk0.vhdx");
    run(&info, &[restored.to_str().unwrap()]);
    let out = world.path("unpacked");
    run(
        &seven,
        &[
            "x",
            "-y",
            "-tvhdx",
            &format!("-o{}", out.display()),
            restored.to_str().unwrap(),
        ],
    );
    let raw = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let file = File::open(raw).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let len = file.metadata().unwrap().len();
    for at in (0..len).step_by(1 << 20) {
        file.read_exact_at(&mut buffer, at).unwrap();
        hasher.update(&buffer);
    }
    assert_eq!(hasher.finalize().to_hex().to_string(), content);
}
