//! Merges that are stopped or killed at any moment, and the rules of identity around them.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::power::{Recorder, all_ends, apply};
use crate::support::{MIB, disk_of, link, pattern, read, sound};
use vhdx::{
    Beyond, Chain, DiskKind, DiskWriter, Durability, Error, FileInfo, MemoryFile, MergedIdentity,
    Params, Rule, Vhdx, create_differencing, inspect, merge, resize, set_disk_id, set_parent,
};

fn child_of(parent: &FileInfo) -> Arc<MemoryFile> {
    let file = Arc::new(MemoryFile::new());
    create_differencing(
        Arc::clone(&file),
        &Params::child_of(parent, link(parent, "parent.vhdx")),
    )
    .unwrap();
    file
}

fn open(leaf: &Arc<MemoryFile>, parents: &[&Arc<MemoryFile>]) -> DiskWriter {
    let parents = parents
        .iter()
        .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
        .collect();
    DiskWriter::open(Arc::clone(leaf), parents, Durability::ProcessKill).unwrap()
}

/// Parent, child with data, holes of zeros and partial blocks, and what the child reads as.
fn family() -> (Arc<MemoryFile>, Arc<MemoryFile>, Vec<u8>) {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(7 * MIB)
    };
    let (parent, info) = disk_of(&params, &[(MIB / 2, pattern(1, 0, 3 << 20))]);
    let child = child_of(&info);
    let writer = open(&child, &[&parent]);
    writer.write_at(&pattern(2, 0, 5000), 100_000).unwrap();
    writer.write_at(&pattern(3, 0, 1 << 20), 5 * MIB).unwrap();
    writer.zero(2 * MIB, 2 * MIB).unwrap();
    writer.zero(MIB + 512, 1024).unwrap();
    writer.close().unwrap();
    let bytes = content(&[&child, &parent]);
    (parent, child, bytes)
}

/// As [`family`], with a child that is larger than its parent.
fn grown_family(kind: DiskKind) -> (Arc<MemoryFile>, Arc<MemoryFile>, Vec<u8>) {
    let params = Params {
        block_bytes: 2 << 20,
        kind,
        ..Params::dynamic(3 * MIB + 4096)
    };
    let (parent, info) = disk_of(&params, &[(MIB / 2, pattern(1, 0, (5 << 19) + 4096))]);
    let child = child_of(&info);
    let mut go_on = |_| ControlFlow::Continue(());
    resize(
        Arc::clone(&child),
        7 * MIB,
        Beyond::MustBeZero,
        Durability::PowerLoss,
        &mut go_on,
    )
    .unwrap();
    let writer = open(&child, &[&parent]);
    writer.write_at(&pattern(2, 0, 5000), 100_000).unwrap();
    writer.write_at(&pattern(3, 0, 1 << 20), 5 * MIB).unwrap();
    writer.trim(2 * MIB, 2 * MIB).unwrap();
    writer.close().unwrap();
    let bytes = content(&[&child, &parent]);
    (parent, child, bytes)
}

fn content(files: &[&Arc<MemoryFile>]) -> Vec<u8> {
    let layers = files
        .iter()
        .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
        .collect();
    let disk = Chain::from_layers(layers).unwrap().into_disk();
    read(&disk, 0, usize::try_from(disk.size()).unwrap())
}

fn merge_all(
    child: &Arc<MemoryFile>,
    parent: &Arc<MemoryFile>,
    identity: MergedIdentity,
) -> Result<FileInfo, Error> {
    let mut go_on = |_| ControlFlow::Continue(());
    merge(
        Arc::clone(child),
        Arc::clone(parent),
        identity,
        Durability::ProcessKill,
        &mut go_on,
    )
}

#[test]
fn goes_on_after_being_stopped_between_any_two_blocks() {
    for blocks in 1..4 {
        let (parent, child, bytes) = family();
        let mut left = blocks;
        let mut stop = |_| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let result = merge(
            Arc::clone(&child),
            Arc::clone(&parent),
            MergedIdentity::New,
            Durability::ProcessKill,
            &mut stop,
        );
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(!inspect(Arc::clone(&parent)).unwrap().unclean);
        assert_eq!(content(&[&child, &parent]), bytes);
        merge_all(&child, &parent, MergedIdentity::New).unwrap();
        assert_eq!(content(&[&parent]), bytes);
        assert_eq!(content(&[&child, &parent]), bytes);
    }
}

/// Merges a family, and looks at every unplanned end of that.
fn survives(family: impl Fn() -> (Arc<MemoryFile>, Arc<MemoryFile>, Vec<u8>), seed: u64) {
    for identity in [MergedIdentity::New, MergedIdentity::Child] {
        let (parent, child, bytes) = family();
        let child_identity = inspect(Arc::clone(&child)).unwrap().data_write_guid;
        let (recorded_child, recorded_parent) = (
            Arc::new(Recorder::new(&child)),
            Arc::new(Recorder::new(&parent)),
        );
        let mut go_on = |_| ControlFlow::Continue(());
        let (file, onto) = (Arc::clone(&recorded_child), Arc::clone(&recorded_parent));
        merge(file, onto, identity, Durability::PowerLoss, &mut go_on).unwrap();
        let judge = |child: MemoryFile, parent: MemoryFile, end: usize, kind: &str| {
            let (child, parent) = (Arc::new(child), Arc::new(parent));
            let context = format!("after write {end} ({kind})");
            // Once the parent has the child's identity the merge is done, and the child is no child any more.
            if inspect(Arc::clone(&parent)).unwrap().data_write_guid != child_identity {
                assert!(content(&[&child, &parent]) == bytes, "{context}: the chain");
            }
            sound(&parent, &context);
            let merged = merge_all(&child, &parent, identity).unwrap();
            assert!(content(&[&parent]) == bytes, "{context}: the parent after");
            assert_eq!(
                merged.data_write_guid == child_identity,
                identity == MergedIdentity::Child
            );
            assert_eq!(merged.size, bytes.len() as u64);
            sound(&parent, &context);
        };
        // The child is written before the parent is touched, so ending either in turn covers every moment.
        all_ends(&child, &recorded_child.ops(), seed, |child, end, kind| {
            judge(child, parent.duplicate(), end, kind);
        });
        let child = child.duplicate();
        recorded_child.ops().iter().for_each(|op| apply(&child, op));
        all_ends(
            &parent,
            &recorded_parent.ops(),
            seed,
            |parent, end, kind| {
                judge(child.duplicate(), parent, end, kind);
            },
        );
    }
}

#[test]
fn goes_on_after_any_end_after_any_write() {
    survives(family, 1);
}

#[test]
fn goes_on_after_any_end_while_the_parent_grows() {
    survives(|| grown_family(DiskKind::Dynamic), 2);
    survives(|| grown_family(DiskKind::Fixed), 3);
}

#[test]
fn grandchildren_stay_linked_if_the_parent_takes_the_childs_identity() {
    let (parent, child, _) = family();
    let info = inspect(Arc::clone(&child)).unwrap();
    let grandchild = child_of(&info);
    open(&grandchild, &[&child, &parent])
        .write_at(&[7; 512], 0)
        .unwrap();
    let writer = open(&grandchild, &[&child, &parent]);
    writer.write_at(&[7; 512], 0).unwrap();
    writer.close().unwrap();
    let bytes = content(&[&grandchild, &child, &parent]);
    let merged = merge_all(&child, &parent, MergedIdentity::Child).unwrap();
    assert_eq!(merged.data_write_guid, info.data_write_guid);
    assert_eq!(content(&[&grandchild, &parent]), bytes);
}

#[test]
fn refuses_to_merge_strangers_and_smaller_children() {
    let (_, child, _) = family();
    let (stranger, _, _) = family();
    assert_eq!(
        merge_all(&child, &stranger, MergedIdentity::New)
            .unwrap_err()
            .rule(),
        Some(Rule::ParentIdentity)
    );
    assert!(matches!(
        merge_all(&stranger, &child, MergedIdentity::New),
        Err(Error::NoParent)
    ));

    let (parent, info) = disk_of(&Params::dynamic(2 * MIB), &[]);
    let smaller = Arc::new(MemoryFile::new());
    let params = Params {
        size: MIB,
        ..Params::child_of(&info, link(&info, "parent.vhdx"))
    };
    create_differencing(Arc::clone(&smaller), &params).unwrap();
    assert!(matches!(
        merge_all(&smaller, &parent, MergedIdentity::New),
        Err(Error::SizesDiffer { .. })
    ));
}

#[test]
fn a_new_parent_or_id_is_written_as_one_change() {
    let (parent, child, bytes) = family();
    let before = inspect(Arc::clone(&child)).unwrap();
    let long = format!(r"C:\{}\parent.vhdx", "x".repeat(20_000));
    let mut to = link(&inspect(Arc::clone(&parent)).unwrap(), "moved.vhdx");
    to.absolute_path = Some(long.clone());
    let recorded = Arc::new(Recorder::new(&child));
    let after = set_parent(Arc::clone(&recorded), &to, Durability::PowerLoss).unwrap();
    assert_eq!(after.data_write_guid, before.data_write_guid);
    assert_ne!(after.file_write_guid, before.file_write_guid);
    assert_eq!(after.parent.as_ref().unwrap().absolute_path, Some(long));
    // Killed at any moment: the old locator or the new one.
    let now = child.duplicate();
    for op in recorded.ops() {
        apply(&now, &op);
        let found = inspect(now.duplicate()).unwrap().parent;
        assert!(found == before.parent || found == after.parent);
    }
    // And back again: the shorter one fits where the long one was.
    let now = Arc::new(now);
    set_parent(
        Arc::clone(&now),
        &link(&inspect(Arc::clone(&parent)).unwrap(), "p.vhdx"),
        Durability::PowerLoss,
    )
    .unwrap();
    assert_eq!(content(&[&now, &parent]), bytes);
    assert!(matches!(
        set_parent(Arc::clone(&parent), &to, Durability::PowerLoss),
        Err(Error::NoParent)
    ));

    let id = uuid::Uuid::from_u128(42);
    let renamed = set_disk_id(Arc::clone(&parent), id, Durability::PowerLoss).unwrap();
    assert_eq!(renamed.disk_id, id);
    assert_ne!(renamed.data_write_guid, to.data_write_guid);
}

#[test]
fn opening_and_closing_changes_nothing() {
    let (parent, child, _) = family();
    let before = inspect(Arc::clone(&child)).unwrap();
    let writer = open(&child, &[&parent]);
    writer.flush().unwrap();
    assert_eq!(writer.info(), before);
    assert_eq!(writer.close().unwrap(), before);
}
