//! Virtual disks and plain files as sources and targets.

use std::fs::File;
use std::sync::Arc;

use pipeline::{
    FileTarget, ImageSource, PlainFile, Plan, image_digest, restore_image, verify_image,
};
use vhdx::{BulkWriter, Disk, MemoryFile, Params};

use crate::support::{CELL, Model, Vault, assert_same, backup, changed, options, random};

#[test]
fn a_file_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut content = random(5, 3_000_001);
    content[100_000..1_900_000].fill(0);
    std::fs::write(path("source"), &content).unwrap();
    let vault = Arc::new(Vault::new());
    let source = PlainFile::new(File::open(path("source")).unwrap()).unwrap();
    assert_eq!(source.len(), 3_000_001);
    let image = backup(&vault, &source, &Plan::Full).unwrap().0.image;

    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path("target"))
        .unwrap();
    let mut target = FileTarget::create(file, image.len).unwrap();
    let outcome = restore_image(&image, &vault.names(), &*vault, &mut target, &options(2)).unwrap();
    target.finish().unwrap();
    assert_eq!(std::fs::read(path("target")).unwrap(), content);
    let read_back = PlainFile::new(File::open(path("target")).unwrap()).unwrap();
    verify_image(&outcome.pieces, &read_back, &options(2)).unwrap();
}

/// Lays a model out as a virtual disk.
fn vhdx_of(model: &Model, params: &Params) -> Disk {
    let file = Arc::new(MemoryFile::new());
    let mut writer = BulkWriter::create(Arc::clone(&file), params).unwrap();
    for (cell, bytes) in &model.cells {
        let offset = cell * CELL as u64;
        let len = usize::try_from((model.len - offset).min(CELL as u64)).unwrap();
        writer.write(offset, &bytes[..len]).unwrap();
    }
    writer.finish().unwrap();
    Disk::open(file).unwrap()
}

fn model_of(disk: &Disk) -> Model {
    let mut model = Model::new(disk.size());
    for cell in 0..disk.size().div_ceil(CELL as u64) {
        let offset = cell * CELL as u64;
        let mut bytes = vec![0; CELL];
        let len = usize::try_from((disk.size() - offset).min(CELL as u64)).unwrap();
        disk.read_at(&mut bytes[..len], offset).unwrap();
        if bytes.iter().any(|&byte| byte != 0) {
            model.cells.insert(cell, Arc::new(bytes));
        }
    }
    model
}

#[test]
fn virtual_disks_come_back_with_equal_content_and_no_more_room() {
    let len = (130 << 20) + 512;
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(len)
    };
    let vault = Arc::new(Vault::new());
    let mut model = Model::new(len);
    model.write(0, 700, 1);
    model.write(20_000, 2000, 4);
    model.write(33_200, 100, 7);
    let disk = vhdx_of(&model, &params);
    let (full, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    assert!(
        full.figures.bytes_read <= disk.allocated_bytes().unwrap(),
        "{:?}",
        full.figures
    );
    let before = model.clone();
    model.write(100, 5, 90_001);
    model.write(25_000, 400, 80_002);
    let ranges = [
        (100 * CELL as u64, 5 * CELL as u64),
        (25_000 * CELL as u64, 400 * CELL as u64),
    ];
    let (step, _) = backup(
        &vault,
        &vhdx_of(&model, &params),
        &changed(&ranges, len, &full.image),
    )
    .unwrap();

    for (image, expected) in [(&full.image, &before), (&step.image, &model)] {
        for params in [params.clone(), Params::fixed(len)] {
            let file = Arc::new(MemoryFile::new());
            let mut target = BulkWriter::create(Arc::clone(&file), &params).unwrap();
            let outcome =
                restore_image(image, &vault.names(), &*vault, &mut target, &options(2)).unwrap();
            target.finish().unwrap();
            let restored = Disk::open(file).unwrap();
            verify_image(&outcome.pieces, &restored, &options(2)).unwrap();
            assert_eq!(
                image_digest(&restored, &options(2)).unwrap(),
                outcome.digest.unwrap()
            );
            assert_same(&model_of(&restored), expected);
            if !restored.is_fixed() {
                let room = vhdx_of(expected, &params).allocated_bytes().unwrap();
                assert!(restored.allocated_bytes().unwrap() <= room);
            }
        }
    }
}
