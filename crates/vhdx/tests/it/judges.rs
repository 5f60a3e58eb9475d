//! The largest disk before QEMU, and a raw image for others. Everything smaller is in `judges_matrix` and `judges_qemu`.

use std::fs::File;
use std::path::Path;

use crate::support::{MIB, have, pattern, run, text};

use vhdx::{BulkWriter, Disk, ExtentKind, Params};

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
