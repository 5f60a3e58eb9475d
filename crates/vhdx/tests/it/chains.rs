//! Chains: finding parents, telling them apart, reading through them.

use std::io;
use std::sync::Arc;

use crate::support::{MIB, disk_of, link, pattern, read};
use vhdx::{
    Chain, DirectoryResolver, DiskKind, DiskWriter, Durability, ExtentKind, FileInfo, Kind,
    MAX_CHAIN_DEPTH, MemoryFile, Params, ParentLocator, ParentResolver, ReadAt, Rule, Vhdx,
    WriteAt, create_differencing, inspect,
};

/// Files in memory by name; a relative path names one of them.
#[derive(Default)]
pub(crate) struct Shelf(pub(crate) Vec<(String, Arc<MemoryFile>)>);

impl ParentResolver for Shelf {
    fn locate(&self, _child: &str, locator: &ParentLocator) -> Vec<String> {
        let path = locator.relative_path.clone().unwrap_or_default();
        vec![path.replace(r".\", "old/"), path.replace(r".\", "")]
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        let found = self
            .0
            .iter()
            .find(|(name, _)| name == location)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(&found.1) as Arc<dyn ReadAt>)
    }
}

pub(crate) fn child_of(parent: &FileInfo, name: &str) -> (Arc<MemoryFile>, FileInfo) {
    let file = Arc::new(MemoryFile::new());
    let info = create_differencing(
        Arc::clone(&file),
        &Params::child_of(parent, link(parent, name)),
    )
    .unwrap();
    (file, info)
}

fn base() -> (Arc<MemoryFile>, FileInfo) {
    disk_of(
        &Params::dynamic(40 * MIB),
        &[(0, pattern(1, 0, 5000)), (33 * MIB, pattern(2, 0, 4096))],
    )
}

#[test]
fn a_new_child_reads_as_its_parent() {
    let (parent, parent_info) = base();
    let (child, info) = child_of(&parent_info, "base.vhdx");
    assert_eq!(
        (info.kind, info.disk_id, info.size),
        (DiskKind::Differencing, parent_info.disk_id, 40 * MIB)
    );
    let locator = info.parent.clone().unwrap();
    assert_eq!(locator.linkage, parent_info.data_write_guid);
    assert_eq!(locator.relative_path.as_deref(), Some(r".\base.vhdx"));
    assert_eq!(
        locator.absolute_path.as_deref(),
        Some(r"C:\disks\base.vhdx")
    );
    assert_eq!(inspect(Arc::clone(&child)).unwrap(), info);

    let shelf = Shelf(vec![("base.vhdx".into(), parent)]);
    let disk = Chain::open(child, "leaf.avhdx", &shelf)
        .unwrap()
        .into_disk();
    assert_eq!(read(&disk, 0, 5000), pattern(1, 0, 5000));
    assert_eq!(read(&disk, 33 * MIB, 4096), pattern(2, 0, 4096));
    let extents: Vec<_> = disk.extents(MIB, 100 * MIB).map(Result::unwrap).collect();
    assert_eq!(extents.len(), 1);
    assert_eq!(
        (extents[0].offset, extents[0].len, extents[0].kind),
        (MIB, 39 * MIB, ExtentKind::Data)
    );
}

#[test]
fn a_leaf_alone_asks_for_its_parent() {
    let (_, parent) = base();
    let (child, _) = child_of(&parent, "base.vhdx");
    let err = Chain::from_layers(vec![Vhdx::open(child).unwrap()]).unwrap_err();
    assert_eq!(err.kind(), Kind::Refused);
}

#[test]
fn passes_over_a_candidate_of_another_identity() {
    let (parent, info) = base();
    let (other, _) = base();
    let (child, _) = child_of(&info, "base.vhdx");
    let shelf = Shelf(vec![
        ("old/base.vhdx".into(), Arc::clone(&other)),
        ("base.vhdx".into(), parent),
    ]);
    Chain::open(Arc::clone(&child), "leaf", &shelf).unwrap();

    let shelf = Shelf(vec![("base.vhdx".into(), other)]);
    let err = Chain::open(Arc::clone(&child), "leaf", &shelf).unwrap_err();
    assert_eq!(err.rule(), Some(Rule::ParentIdentity));
    assert!(err.to_string().contains("base.vhdx"), "{err}");

    let err = Chain::open(child, "leaf", &Shelf::default()).unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.to_string().contains("leaf"), "{err}");
}

#[test]
fn refuses_a_parent_of_other_sectors() {
    let (parent, info) = disk_of(
        &Params {
            logical: 4096,
            ..Params::dynamic(8 * MIB)
        },
        &[],
    );
    let file = Arc::new(MemoryFile::new());
    let params = Params {
        logical: 512,
        ..Params::child_of(&info, link(&info, "base.vhdx"))
    };
    create_differencing(Arc::clone(&file), &params).unwrap();
    let err = Chain::open(file, "leaf", &Shelf(vec![("base.vhdx".into(), parent)])).unwrap_err();
    assert_eq!(err.rule(), Some(Rule::ParentSectorSize));
}

#[test]
fn refuses_a_chain_that_leads_back_to_itself() {
    // A child whose own identity is the one it seeks: only a forged header can do that.
    let (_, info) = base();
    let (file, child) = child_of(&info, "self.avhdx");
    crate::refusals::forge_identity(&file, child.parent.unwrap().linkage);
    let err = Chain::open(
        Arc::clone(&file),
        "self.avhdx",
        &Shelf(vec![("self.avhdx".into(), file)]),
    )
    .unwrap_err();
    assert_eq!(err.rule(), Some(Rule::ChainCycle));
}

#[test]
fn opens_the_longest_chain_and_refuses_a_longer_one() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(MIB)
    };
    let (file, mut parent) = disk_of(&params, &[(0, pattern(3, 0, 512))]);
    let mut shelf = Shelf(vec![("0".into(), file)]);
    for depth in 1..MAX_CHAIN_DEPTH {
        let (file, info) = child_of(&parent, &(depth - 1).to_string());
        shelf.0.push((depth.to_string(), file));
        parent = info;
    }
    let leaf = Arc::clone(&shelf.0.last().unwrap().1);
    let disk = Chain::open(leaf, "leaf", &shelf).unwrap().into_disk();
    assert_eq!(disk.layers().len(), MAX_CHAIN_DEPTH);
    assert_eq!(read(&disk, 0, 512), pattern(3, 0, 512));

    let (leaf, _) = child_of(&parent, &(MAX_CHAIN_DEPTH - 1).to_string());
    assert_eq!(
        Chain::open(leaf, "leaf", &shelf).unwrap_err().rule(),
        Some(Rule::ChainDepth)
    );
}

#[test]
fn reads_zeros_where_a_child_is_larger_than_its_parent() {
    let (parent, info) = base();
    let file = Arc::new(MemoryFile::new());
    let params = Params {
        size: 50 * MIB,
        ..Params::child_of(&info, link(&info, "base.vhdx"))
    };
    create_differencing(Arc::clone(&file), &params).unwrap();
    let disk = Chain::open(file, "leaf", &Shelf(vec![("base.vhdx".into(), parent)]))
        .unwrap()
        .into_disk();
    assert_eq!(read(&disk, 40 * MIB, 4096), [0; 4096]);
    let last = disk.extents(0, disk.size()).last().unwrap().unwrap();
    assert_eq!(
        (last.offset, last.len, last.kind),
        (40 * MIB, 10 * MIB, ExtentKind::Zero)
    );
}

#[test]
fn bits_left_over_from_earlier_mean_nothing() {
    let (parent, info) = base();
    let (child, _) = child_of(&info, "base.vhdx");
    let open = || {
        let parents = vec![Vhdx::open(Arc::clone(&parent)).unwrap()];
        DiskWriter::open(Arc::clone(&child), parents, Durability::ProcessKill).unwrap()
    };
    let writer = open();
    writer.write_at(&[7; 8192], 0).unwrap();
    writer.close().unwrap();
    // As if block 0 had never been written; its bits stay.
    child.write_all_at(&[0; 8], 3 * MIB).unwrap();
    let writer = open();
    writer.write_at(&[8; 512], 1024).unwrap();
    writer.close().unwrap();
    let disk = Chain::open(
        Arc::clone(&child),
        "leaf",
        &Shelf(vec![("base.vhdx".into(), Arc::clone(&parent))]),
    )
    .unwrap();
    let disk = disk.into_disk();
    assert_eq!(read(&disk, 0, 1024), pattern(1, 0, 1024));
    assert_eq!(read(&disk, 1024, 512), [8; 512]);
    assert_eq!(
        read(&disk, 1536, 5000 - 1536),
        pattern(1, 1536, 5000 - 1536)
    );
}

#[test]
fn finds_parents_in_a_folder_whatever_the_case() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, file: &MemoryFile| {
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    let (parent, info) = disk_of(
        &Params {
            block_bytes: 1 << 20,
            ..Params::dynamic(4 * MIB)
        },
        &[(0, pattern(9, 0, 512))],
    );
    write("Base.VHDX", &parent);
    let (child, _) = child_of(&info, r"..\base.vhdx");
    write("sub/leaf.avhdx", &child);
    let resolver = DirectoryResolver::new(folder.path());
    let disk = Chain::open(Arc::clone(&child), "sub/leaf.avhdx", &resolver)
        .unwrap()
        .into_disk();
    assert_eq!(read(&disk, 0, 512), pattern(9, 0, 512));

    let err = Chain::open(child, "leaf.avhdx", &resolver).unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}

#[cfg(unix)]
#[test]
fn a_parent_that_is_no_plain_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("base.vhdx"))
        .status();
    assert!(made.unwrap().success());
    let (_, info) = disk_of(&Params::dynamic(4 * MIB), &[]);
    let (child, _) = child_of(&info, r".\base.vhdx");
    let resolver = DirectoryResolver::new(folder.path());
    let err = Chain::open(child, "leaf.avhdx", &resolver).unwrap_err();
    assert!(matches!(err, vhdx::Error::InParent { .. }), "{err}");
}
