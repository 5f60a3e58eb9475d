//! Changes of size and compaction, and ends that nobody planned after every single write of them (see `power`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::power::{Recorder, all_ends, settled};
use crate::support::{MIB, disk_of, link, pattern, rounds, sound};
use vhdx::{
    Beyond, Chain, CompactOptions, Disk, DiskWriter, Durability, ExtentKind, Kind, MemoryFile,
    Params, ReadAt, Vhdx, WriteAt, compact, create_differencing, inspect, resize,
};

/// Pieces that are not zero, by their place: a disk of any size as what it holds.
type Content = BTreeMap<u64, Vec<u8>>;

const PIECE: u64 = 4096;
const ZEROS: [u8; 4096] = [0; 4096];

fn disk(leaf: &Arc<MemoryFile>, parents: &[Arc<MemoryFile>]) -> Disk {
    let files = std::iter::once(leaf).chain(parents);
    let layers = files
        .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
        .collect();
    Chain::from_layers(layers).unwrap().into_disk()
}

fn content(disk: &Disk) -> Content {
    let mut content = Content::new();
    for extent in disk.extents(0, disk.size()).map(Result::unwrap) {
        if extent.kind == ExtentKind::Zero {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap()];
        disk.read_at(&mut bytes, extent.offset).unwrap();
        // Extents begin with sectors, pieces with 4 KiB.
        let mut at = extent.offset;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = usize::try_from(PIECE - at % PIECE).unwrap().min(rest.len());
            if rest[..len] != ZEROS[..len] {
                let piece = content.entry(at / PIECE).or_insert_with(|| ZEROS.to_vec());
                let within = usize::try_from(at % PIECE).unwrap();
                piece[within..within + len].copy_from_slice(&rest[..len]);
            }
            at += len as u64;
            rest = &rest[len..];
        }
    }
    content
}

/// What a disk holds once it was cut to a size.
fn cut(content: &Content, size: u64) -> Content {
    let mut content: Content = content
        .range(..size.div_ceil(PIECE))
        .map(|(at, piece)| (*at, piece.clone()))
        .collect();
    if let Some(last) = content.get_mut(&(size / PIECE)) {
        last[usize::try_from(size % PIECE).unwrap()..].fill(0);
    }
    content.retain(|_, piece| piece[..] != ZEROS);
    content
}

fn resize_now(file: impl WriteAt + 'static, size: u64) {
    let mut go_on = |_| ControlFlow::Continue(());
    let durability = Durability::PowerLoss;
    let info = resize(file, size, Beyond::Discard, durability, &mut go_on).unwrap();
    assert_eq!((info.size, info.unclean), (size, false));
}

/// Resizes a disk, and looks at every unplanned end of that: the old disk or the new one.
fn resize_survives(start: &Arc<MemoryFile>, parents: &[Arc<MemoryFile>], size: u64) {
    let old = disk(start, parents);
    let before = content(&old);
    let after = cut(&before, size);
    let recorder = Arc::new(Recorder::new(start));
    resize_now(Arc::clone(&recorder), size);
    let left = inspect(settled(start, &recorder.ops())).unwrap();
    assert_eq!((left.size, left.unclean), (size, false));
    all_ends(start, &recorder.ops(), size, |left, end, kind| {
        let context = format!("{} to {size}, operation {end} ({kind})", old.size());
        let left = Arc::new(left);
        sound(&left, &context);
        let found = disk(&left, parents);
        if found.size() == size {
            assert!(content(&found) == after, "{context}: new size");
            assert_ne!(found.info().data_write_guid, old.info().data_write_guid);
        } else {
            assert_eq!(found.size(), old.size(), "{context}");
            assert!(content(&found) == before, "{context}: old size");
        }
        resize_now(Arc::clone(&left), size);
        sound(&left, &context);
        assert!(content(&disk(&left, parents)) == after, "{context}: again");
        // What was left behind is no more than padding: another size shows nothing of it.
        resize_now(Arc::clone(&left), old.size() + 5 * MIB);
        sound(&left, &context);
        let grown = disk(&left, parents);
        assert!(content(&grown) == after, "{context}: grown after");
    });
}

fn child_over(parent: &Arc<MemoryFile>, block_bytes: u32) -> Arc<MemoryFile> {
    let info = inspect(Arc::clone(parent)).unwrap();
    let params = Params {
        block_bytes,
        ..Params::child_of(&info, link(&info, "parent.vhdx"))
    };
    let child = Arc::new(MemoryFile::new());
    create_differencing(Arc::clone(&child), &params).unwrap();
    child
}

fn open(leaf: &Arc<MemoryFile>, parents: &[Arc<MemoryFile>]) -> DiskWriter {
    let parents = parents
        .iter()
        .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
        .collect();
    DiskWriter::open(Arc::clone(leaf), parents, Durability::ProcessKill).unwrap()
}

/// Of what a test goes through, a few cases by default and all of them in long campaigns.
fn some_of<T>(cases: Vec<T>) -> impl Iterator<Item = T> {
    let count = if rounds(1) > 1 { cases.len() } else { 2 };
    cases.into_iter().take(count)
}

#[test]
fn a_disk_has_its_old_or_its_new_size_after_any_end() {
    type Make = fn(u64) -> Params;
    let kinds: Vec<(u32, Make)> = vec![
        (512, Params::dynamic),
        (4096, Params::fixed),
        (4096, Params::dynamic),
        (512, Params::fixed),
    ];
    for (logical, make) in some_of(kinds) {
        let params = Params {
            block_bytes: 2 << 20,
            logical,
            ..make(5 * MIB + 8192)
        };
        let pieces = [
            (MIB, pattern(1, 0, 1 << 20)),
            (4 * MIB, pattern(2, 0, (1 << 20) + 8192)),
        ];
        let (start, _) = disk_of(&params, &pieces);
        let sizes = vec![
            12 * MIB,
            MIB + 12_288,
            5 * MIB + 16_384,
            5 * MIB,
            4 * MIB,
            4096,
        ];
        for size in some_of(sizes) {
            resize_survives(&start, &[], size);
        }
    }
}

#[test]
fn a_child_has_its_old_or_its_new_size_after_any_end() {
    for (number, logical) in [512, 4096].into_iter().enumerate() {
        let params = Params {
            block_bytes: 4 << 20,
            logical,
            ..Params::dynamic(9 * MIB)
        };
        let (parent, _) = disk_of(&params, &[(0, pattern(1, 0, 9 << 20))]);
        // Smaller than its parent, whose rest must stay hidden.
        let children = vec![
            (5 * MIB + 4096, vec![(5 * MIB - 8192, 12_288), (MIB, 4096)]),
            (5 * MIB + 4096, vec![]),
            (8 * MIB, vec![(6 * MIB, 2 << 20), (4096, 8192)]),
        ];
        for (size, pieces) in some_of(children).skip(number) {
            let child = child_over(&parent, 2 << 20);
            resize_now(Arc::clone(&child), size);
            let parents = [Arc::clone(&parent)];
            let writer = open(&child, &parents);
            for (offset, len) in pieces {
                writer.write_at(&pattern(3, offset, len), offset).unwrap();
            }
            writer.close().unwrap();
            let sizes = vec![
                9 * MIB,
                4096,
                12 * MIB + 4096,
                5 * MIB + 8192,
                5 * MIB,
                4 * MIB,
            ];
            for size in some_of(sizes) {
                resize_survives(&child, &parents, size);
            }
        }
    }
}

#[test]
fn a_table_that_must_move_does_so_as_one_change() {
    // In blocks of 1 MiB a table of 1 MiB ends with 128 GiB of disk.
    let gib = 1 << 30;
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(100 * gib)
    };
    let pieces = [
        (0, pattern(1, 0, 5000)),
        (100 * gib - MIB, pattern(2, 0, 1 << 20)),
    ];
    let (start, _) = disk_of(&params, &pieces);
    resize_survives(&start, &[], 300 * gib);
    let child = child_over(&start, 1 << 20);
    resize_survives(&child, &[Arc::clone(&start)], 200 * gib);
    resize_now(Arc::clone(&start), 300 * gib);
    resize_survives(&start, &[], 10 * gib);
}

/// Compacts a file, and looks at every unplanned end of that.
fn compact_survives(start: &Arc<MemoryFile>, parents: &[Arc<MemoryFile>], expected_bytes: u64) {
    let before = content(&disk(start, parents));
    let identity = inspect(Arc::clone(start)).unwrap().data_write_guid;
    let compact_now = |file: Arc<MemoryFile>| {
        let mut go_on = |_| ControlFlow::Continue(());
        let options = CompactOptions::default();
        compact(file, options, Durability::PowerLoss, &mut go_on).unwrap()
    };
    let recorder = Arc::new(Recorder::new(start));
    let mut go_on = |_| ControlFlow::Continue(());
    let options = CompactOptions::default();
    let file = Arc::clone(&recorder);
    let report = compact(file, options, Durability::PowerLoss, &mut go_on).unwrap();
    assert_eq!(report.file_bytes_after, expected_bytes);
    let left = inspect(settled(start, &recorder.ops())).unwrap();
    assert_eq!((left.file_bytes, left.unclean), (expected_bytes, false));
    all_ends(start, &recorder.ops(), 5, |left, end, kind| {
        let context = format!("operation {end} ({kind})");
        let left = Arc::new(left);
        sound(&left, &context);
        let found = disk(&left, parents);
        assert!(content(&found) == before, "{context}");
        assert_eq!(found.info().data_write_guid, identity);
        compact_now(Arc::clone(&left));
        sound(&left, &context);
        assert!(content(&disk(&left, parents)) == before, "{context}: again");
        assert_eq!(ReadAt::len(&left).unwrap(), expected_bytes, "{context}");
    });
}

#[test]
fn compacting_keeps_every_byte_after_any_end() {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(12 * MIB + 4096)
    };
    let (start, _) = disk_of(&params, &[(0, pattern(1, 0, (12 << 20) + 4096))]);
    let child = child_over(&start, 2 << 20);
    let parents = [Arc::clone(&start)];

    let writer = open(&start, &[]);
    writer.zero(MIB, 3 * MIB).unwrap();
    writer.trim(8 * MIB, MIB).unwrap();
    // Zeros in a block that keeps its space.
    writer.write_at(&vec![0; 1 << 20], 6 * MIB).unwrap();
    let info = writer.close().unwrap();
    compact_survives(&start, &[], 4 * MIB + 8 * MIB);

    let to = link(&info, "parent.vhdx");
    vhdx::set_parent(Arc::clone(&child), &to, Durability::PowerLoss).unwrap();
    let writer = open(&child, &parents);
    writer.write_at(&pattern(3, 0, 6 << 20), 0).unwrap();
    writer.write_at(&pattern(4, 0, 4096), 9 * MIB).unwrap();
    writer.write_at(&vec![0; 2 << 20], 10 * MIB).unwrap();
    writer.trim(2 * MIB, 2 * MIB).unwrap();
    writer.close().unwrap();
    compact_survives(&child, &parents, 4 * MIB + 3 * 2 * MIB + MIB);
}

#[test]
fn a_table_behind_the_blocks_moves_into_the_hole_they_leave() {
    let gib = 1 << 30;
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(100 * gib)
    };
    let (start, _) = disk_of(&params, &[(0, pattern(1, 0, 5 << 20))]);
    resize_now(Arc::clone(&start), 300 * gib);
    let writer = open(&start, &[]);
    writer.trim(0, 2 * MIB).unwrap();
    writer.close().unwrap();
    compact_survives(&start, &[], 3 * MIB + 3 * MIB + 3 * MIB);
}

#[test]
fn sizes_that_cannot_be_are_refused_and_nothing_is_written() {
    let params = Params {
        logical: 4096,
        ..Params::dynamic(8 * MIB)
    };
    let (file, before) = disk_of(&params, &[(7 * MIB, vec![1])]);
    let tib = 1 << 40;
    let mut go_on = |_| ControlFlow::Continue(());
    for size in [0, 8 * MIB + 512, 64 * tib + 4096, u64::MAX, 7 * MIB] {
        let recorder = Arc::new(Recorder::new(&file));
        let (beyond, durability) = (Beyond::MustBeZero, Durability::PowerLoss);
        let refused = resize(Arc::clone(&recorder), size, beyond, durability, &mut go_on);
        assert_eq!(refused.unwrap_err().kind(), Kind::Refused, "{size}");
        assert_eq!(recorder.count(), 0);
    }
    // The last bytes of the disk before it were zeros, so this is allowed.
    let kept = Beyond::MustBeZero;
    let info = resize(
        Arc::clone(&file),
        7 * MIB + 4096,
        kept,
        Durability::PowerLoss,
        &mut go_on,
    );
    assert_ne!(info.unwrap().data_write_guid, before.data_write_guid);
    resize_now(Arc::clone(&file), 64 * tib);
    let child = child_over(&file, 256 << 20);
    resize_now(Arc::clone(&child), 100 * MIB);
    resize_now(Arc::clone(&child), 64 * tib);
    sound(&file, "64 TiB");
    sound(&child, "child of 64 TiB");
}

#[test]
fn a_table_too_long_for_memory_is_written_page_by_page() {
    let size = (9 << 40) + 4096;
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(size)
    };
    let (file, _) = disk_of(&params, &[]);
    let writer = open(&file, &[]);
    let places = [0, 5 << 40, size - 4096];
    for at in places {
        writer.write_at(&pattern(1, at, 4096), at).unwrap();
    }
    writer.trim(0, MIB).unwrap();
    writer.flush().unwrap();
    // Ended without closing: the pages of the table are in the log.
    drop(writer);
    let writer = open(&file, &[]);
    writer.write_at(&pattern(2, 0, 4096), 6 << 40).unwrap();
    writer.close().unwrap();
    let found = disk(&file, &[]);
    for (seed, at) in [(1, 5 << 40), (1, size - 4096), (2, 6 << 40)] {
        let mut bytes = vec![0; 4096];
        found.read_at(&mut bytes, at).unwrap();
        let offset = if seed == 1 { at } else { 0 };
        assert!(bytes == pattern(seed, offset, 4096), "at {at}");
    }
    assert_eq!(found.allocated_bytes().unwrap(), 2 * MIB + 4096);
}
