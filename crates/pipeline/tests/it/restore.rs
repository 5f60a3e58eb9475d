//! Restores of damaged, incomplete and lying vaults; ranges.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::{ByteRange, ImageRef};
use pipeline::{Cancel, Options, Plan, RestoreError, restore_image, verify_image};
use proptest::prelude::*;
use store::{EntryId, ErrorKind, SealedEntry};

use crate::support::{CELL, Fault, Model, Vault, Written, backup, changed, options, restore};

const MIB: u64 = 1 << 20;

fn filled() -> (Vault, Model, ImageRef) {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(80 * MIB + 777);
    disk.write(300, 2000, 1);
    disk.write(17_000, 3000, 4);
    let base = backup(&vault, &disk, &Plan::Full).unwrap().0.image;
    let mut ranges = Vec::new();
    for i in 0..60 {
        disk.write(301 + 31 * i, 1, 900_001 + 2 * i);
        ranges.push(((301 + 31 * i) * CELL as u64, CELL as u64));
    }
    let image = backup(&vault, &disk, &changed(&ranges, disk.len, &base))
        .unwrap()
        .0
        .image;
    (Arc::into_inner(vault).unwrap(), disk, image)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ranges_are_restored_and_nothing_else(list in prop::collection::vec((0u64..80 * MIB, 1u64..9 * MIB), 1..6)) {
        let (vault, disk, image) = filled();
        let mut list = list;
        list.sort_unstable();
        let mut ranges: Vec<ByteRange> = Vec::new();
        for (offset, len) in list {
            let offset = ranges.last().map_or(0, |last| last.offset + last.len).max(offset);
            let len = len.min(disk.len.saturating_sub(offset));
            if len > 0 {
                ranges.push(ByteRange { offset, len });
            }
        }
        let options = Options { ranges: Some(ranges.clone()), ..options(2) };
        let mut target = Written::default();
        let outcome = restore_image(&image, &vault.names(), &vault, &mut target, &options).unwrap();
        prop_assert_eq!(outcome.digest, None);
        for range in &ranges {
            let mut bytes = vec![0; usize::try_from(range.len).unwrap()];
            for (offset, part) in &target.parts {
                let inside = ranges.iter().any(|r| r.offset <= *offset && *offset + part.len() as u64 <= r.offset + r.len);
                prop_assert!(inside, "written outside the ranges");
                if *offset >= range.offset && *offset < range.offset + range.len {
                    let at = usize::try_from(offset - range.offset).unwrap();
                    bytes[at..at + part.len()].copy_from_slice(part);
                }
            }
            prop_assert!(bytes == disk.bytes(*range));
        }
        verify_image(&outcome.pieces, &disk, &options).unwrap();
    }
}

#[test]
fn any_chunk_that_is_missing_is_named_with_its_place() {
    let (vault, disk, image) = filled();
    let all = vault.chunks();
    for id in all.iter().step_by(7) {
        let taken = vault
            .entries
            .lock()
            .unwrap()
            .remove(&EntryId::Chunk(*id))
            .unwrap();
        match restore(&vault, &image, &options(2)) {
            Err(error @ RestoreError::MissingChunk { chunk, offset }) => {
                assert_eq!(chunk, *id);
                assert!(offset < disk.len && error.to_string().contains(&offset.to_string()));
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            // A chunk that only the first point needs.
            Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
        vault
            .entries
            .lock()
            .unwrap()
            .insert(EntryId::Chunk(*id), taken);
    }
    assert!(restore(&vault, &image, &options(2)).is_ok());
}

#[test]
fn damaged_and_swapped_chunks_are_never_written() {
    let (vault, _, image) = filled();
    let all = vault.chunks();
    for (i, id) in all.iter().enumerate().step_by(11) {
        let sound = vault.entries.lock().unwrap()[&EntryId::Chunk(*id)].clone();
        // A flipped bit somewhere.
        let mut wire = Vec::new();
        sound.encode_to(&mut wire);
        let at =
            SealedEntry::WIRE_HEADER_BYTES + i * 37 % (wire.len() - SealedEntry::WIRE_HEADER_BYTES);
        wire[at] ^= 4;
        let damaged = SealedEntry::decode_from(&mut bytes::BytesMut::from(&wire[..]))
            .unwrap()
            .unwrap();
        vault
            .entries
            .lock()
            .unwrap()
            .insert(EntryId::Chunk(*id), damaged);
        match restore(&vault, &image, &options(1)) {
            Err(RestoreError::DamagedChunk { chunk, .. }) => assert_eq!(chunk, *id),
            Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
        // Another chunk in its place.
        let other =
            vault.entries.lock().unwrap()[&EntryId::Chunk(all[(i + 1) % all.len()])].clone();
        vault
            .entries
            .lock()
            .unwrap()
            .insert(EntryId::Chunk(*id), other);
        match restore(&vault, &image, &options(1)) {
            Ok(_) => {}
            Err(error) => assert!(
                matches!(
                    error,
                    RestoreError::MissingChunk { .. } | RestoreError::Link { .. }
                ),
                "{error}"
            ),
        }
        vault
            .entries
            .lock()
            .unwrap()
            .insert(EntryId::Chunk(*id), sound);
    }
}

#[test]
fn failures_of_link_tree_and_target_surface() {
    let (mut vault, disk, image) = filled();
    vault.fault = Some(Fault::Fetch(2));
    let error = restore(&vault, &image, &options(2)).unwrap_err();
    assert!(matches!(error, RestoreError::Link { .. }), "{error}");
    vault.fault = None;
    let mut target = Written {
        fail_at: Some(40 * MIB),
        ..Written::default()
    };
    let error =
        restore_image(&image, &vault.names(), &vault, &mut target, &options(2)).unwrap_err();
    assert!(
        matches!(error, RestoreError::Write { offset, .. } if offset > 30 * MIB),
        "{error}"
    );
    let nodes: Vec<_> = vault.nodes.lock().unwrap().keys().copied().collect();
    for id in nodes {
        let node = vault.nodes.lock().unwrap().remove(&id).unwrap();
        let outcome = restore(&vault, &image, &options(2));
        assert!(matches!(outcome, Ok(_) | Err(RestoreError::Tree(_))));
        vault.nodes.lock().unwrap().insert(id, node);
    }
    // A digest that is not this content's.
    let wrong = ImageRef {
        digest: Some("00".repeat(32)),
        ..image.clone()
    };
    assert!(matches!(
        restore(&vault, &wrong, &options(2)),
        Err(RestoreError::WrongDigest { .. })
    ));
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = Options {
        cancel,
        ..options(2)
    };
    assert!(matches!(
        restore(&vault, &image, &cancelled),
        Err(RestoreError::Cancelled)
    ));
    let beyond = Options {
        ranges: Some(vec![ByteRange {
            offset: disk.len,
            len: 1,
        }]),
        ..options(2)
    };
    assert!(matches!(
        restore(&vault, &image, &beyond),
        Err(RestoreError::Tree(_))
    ));
}

#[test]
fn chunks_that_many_windows_need_are_fetched_once() {
    let (vault, _, image) = filled();
    vault.fetched.store(0, Ordering::Relaxed);
    let (outcome, _) = restore(&vault, &image, &options(3)).unwrap();
    let fetched = vault.fetched.load(Ordering::Relaxed);
    assert!(fetched <= vault.chunks().len() as u64, "{fetched}");
    assert_eq!(outcome.figures.chunks, fetched);
    assert_eq!(
        outcome.figures.bytes_written + outcome.figures.bytes_skipped,
        image.len
    );
}
