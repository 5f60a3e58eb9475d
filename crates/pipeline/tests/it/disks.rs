//! Plain files as sources and targets. (Virtual disks: see the harness.)

use std::fs::File;
use std::sync::Arc;

use pipeline::{FileTarget, ImageSource, PlainFile, Plan, restore_image, verify_image};

use crate::support::{Vault, backup, options, random};

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
