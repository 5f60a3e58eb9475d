//! What QEMU writes, in every geometry it knows: read here, changed here, and read by QEMU again.

use std::fs::File;
use std::path::Path;

use crate::judges_matrix::{BLOCKS_MIB, Size, check_finds_nothing};
use crate::judges_model::{Model, places, work};
use crate::judges_tools::{is_large, qemu_agrees};
use crate::support::{MIB, have, pattern, run, text};
use vhdx::{Disk, DiskKind, DiskWriter, Durability, ReadAt, Rule};

/// How QEMU comes to write the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// `qemu-img convert` of a raw image.
    Convert,
    /// `qemu-img create`, then writes of `qemu-io`.
    Writes,
    /// The same, killed before the file is closed.
    Abort,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    block_mib: u64,
    size: Size,
    kind: DiskKind,
    /// New blocks are told to be zeros, rather than not present.
    state_zero: bool,
    by: By,
}

/// Returns every block size with every size, and all else in turn.
fn cases() -> Vec<Case> {
    let sizes = [
        Size::Blocks,
        Size::SectorOver,
        Size::SectorUnder,
        Size::Odd,
        Size::OverGroup,
        Size::Over2TiB,
    ];
    let turns = [
        (DiskKind::Dynamic, By::Convert),
        (DiskKind::Dynamic, By::Abort),
        (DiskKind::Fixed, By::Writes),
        (DiskKind::Dynamic, By::Writes),
        (DiskKind::Dynamic, By::Abort),
    ];
    let mut cases = Vec::new();
    for block_mib in BLOCKS_MIB {
        for size in sizes {
            let number = cases.len();
            let (kind, by) = turns[number % turns.len()];
            // QEMU refuses its own fixed disks where the last block is cut by a MiB or more.
            let kind = match size {
                Size::Blocks | Size::SectorUnder => kind,
                Size::SectorOver | Size::Odd | Size::OverGroup | Size::Over2TiB => {
                    DiskKind::Dynamic
                }
            };
            let large = is_large(size.bytes(block_mib * MIB, 512));
            cases.push(Case {
                block_mib,
                size,
                kind,
                state_zero: number % 3 == 0,
                // All of a large image would be looked at.
                by: if by == By::Convert && large {
                    By::Writes
                } else {
                    by
                },
            });
        }
    }
    cases
}

fn write(case: &Case, folder: &Path, model: &mut Model) {
    let block = case.block_mib * MIB;
    let (disk, raw) = (folder.join("disk.vhdx"), folder.join("raw"));
    let options = format!(
        "subformat={},block_size={block},block_state_zero={}",
        if case.kind == DiskKind::Fixed {
            "fixed"
        } else {
            "dynamic"
        },
        if case.state_zero { "on" } else { "off" }
    );
    let pieces = places(model.size, block, 512);
    for &(offset, len) in &pieces {
        model.write(offset, &pattern(4, offset, len));
    }
    if case.by == By::Convert {
        model.write_raw(&raw);
        let from_raw = ["convert", "-f", "raw", "-O", "vhdx", "-o", &options];
        run(
            "qemu-img",
            &[&from_raw[..], &[text(&raw), text(&disk)]].concat(),
        );
        return;
    }
    let size = model.size.to_string();
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "vhdx",
            "-o",
            &options,
            text(&disk),
            &size,
        ],
    );
    let mut commands = Vec::new();
    for (number, &(offset, len)) in pieces.iter().enumerate() {
        let piece = folder.join(format!("piece{number}"));
        std::fs::write(&piece, pattern(4, offset, len)).unwrap();
        commands.push(format!("write -q -s {} {offset} {len}", text(&piece)));
    }
    if case.by == By::Abort {
        commands.push("abort".to_owned());
    }
    let mut arguments = vec!["-f", "vhdx"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(&disk));
    let ended = std::process::Command::new("qemu-io")
        .args(&arguments)
        .output()
        .expect("the tool was found before");
    assert_eq!(ended.status.success(), case.by != By::Abort, "{ended:?}");
}

#[test]
fn we_read_and_go_on_with_what_qemu_writes() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    for (number, case) in cases().into_iter().enumerate() {
        let what = format!("{case:?}");
        let folder = tempfile::tempdir().unwrap();
        let block = case.block_mib * MIB;
        let mut model = Model::new(case.size.bytes(block, 512));
        write(&case, folder.path(), &mut model);
        let file = folder.path().join("disk.vhdx");
        let headers = |file: &Path| {
            let mut headers = vec![0; 192 << 10];
            File::open(file)
                .unwrap()
                .read_exact_at(&mut headers, 0)
                .unwrap();
            headers
        };
        let before = headers(&file);
        {
            let disk = Disk::open(File::open(&file).unwrap()).unwrap();
            let info = disk.info();
            assert_eq!(
                (u64::from(info.block_bytes), info.kind),
                (block, case.kind),
                "{what}"
            );
            model.check_disk(&disk, &what);
        }
        assert!(before == headers(&file), "{what}: reading changed the file");
        // QEMU ends a fixed disk in the middle of its last block.
        check_finds_nothing(&file, &[Rule::BlockCut], &what);
        // Each is changed here, and every third left with our log in use.
        let ours = File::options().read(true).write(true).open(&file).unwrap();
        let writer = DiskWriter::open(ours, Vec::new(), Durability::ProcessKill).unwrap();
        let zeros = case.kind == DiskKind::Dynamic && number % 2 == 0;
        work(&writer, &mut model, block, 5, zeros);
        let unclean = number % 3 == 1 && writer.info().unclean;
        if unclean {
            drop(writer);
        } else {
            writer.close().unwrap();
        }
        model.check_disk(&Disk::open(File::open(&file).unwrap()).unwrap(), &what);
        qemu_agrees(&file, unclean, &model, &what);
    }
}
