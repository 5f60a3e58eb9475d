//! Full backups and increments, each restored and compared with a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pipeline::{BackupError, BackupSession, Cancel, Options, Plan, image_digest, verify_image};
use proptest::prelude::*;
use store::ErrorKind;

use crate::support::{
    CELL, Fault, Model, Vault, assert_same, backup, changed, open, options, restore,
};

const REGION: u64 = 64 << 20;

fn bytes(cells: u64) -> u64 {
    cells * CELL as u64
}

/// Restores, compares, reads back.
#[track_caller]
fn check(vault: &Vault, image: &model::ImageRef, disk: &Model) {
    let (outcome, restored) = restore(vault, image, &options(2)).unwrap();
    assert_same(&restored, disk);
    assert_eq!(
        outcome.digest.unwrap(),
        image_digest(disk, &options(2)).unwrap()
    );
    verify_image(&outcome.pieces, &restored, &options(2)).unwrap();
    verify_image(&outcome.pieces, disk, &options(3)).unwrap();
}

fn writes() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    // Mostly short, some long; near each other or anywhere on a disk of about two and a half regions.
    let at = prop_oneof![0u64..40_000, 0u64..2000, 16_300u64..16_500];
    let len = prop_oneof![4 => 1u64..20, 2 => 10u64..200, 1 => 1000u64..3000];
    let seed = prop_oneof![1 => Just(0u64), 6 => 1u64..1_000_000];
    prop::collection::vec((at, len, seed), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_point_of_a_chain_restores_as_the_disk_was(
        len in prop_oneof![Just(bytes(40_000)), bytes(30_000)..bytes(41_000), 1u64..200_000],
        first in writes(), steps in prop::collection::vec(writes(), 0..5),
    ) {
        let vault = Arc::new(Vault::new());
        let mut disk = Model::new(len);
        first.iter().for_each(|&(at, cells, seed)| disk.write(at, cells, seed));
        let (outcome, _) = backup(&vault, &disk, &Plan::Full).unwrap();
        prop_assert!(outcome.image.digest.is_some());
        let mut points = vec![(outcome.image.clone(), disk.clone())];
        let mut base = outcome.image;
        for step in &steps {
            let mut ranges = Vec::new();
            for &(at, cells, seed) in step {
                disk.write(at, cells, seed);
                let start = bytes(at).min(len);
                ranges.push((start, bytes(cells).min(len - start)));
            }
            let (outcome, _) = backup(&vault, &disk, &changed(&ranges, len, &base)).unwrap();
            base = outcome.image.clone();
            points.push((outcome.image, disk.clone()));
        }
        for (image, disk) in &points {
            check(&vault, image, disk);
        }
    }
}

#[test]
fn an_empty_image_and_an_image_of_zeros_have_no_tree() {
    let vault = Arc::new(Vault::new());
    for len in [0, 1, 4096, 3 * REGION + 5] {
        let mut disk = Model::new(len);
        disk.write(0, 1, 0);
        let (outcome, figures) = backup(&vault, &disk, &Plan::Full).unwrap();
        assert_eq!(
            (
                outcome.image.root.as_ref(),
                outcome.image.height,
                figures.packs
            ),
            (None, 0, 0)
        );
        check(&vault, &outcome.image, &disk);
    }
}

#[test]
fn holes_are_not_read_and_nothing_is_stored_twice() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(4 * REGION);
    disk.write(100, 640, 1);
    let (first, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    assert!(
        first.figures.bytes_read <= bytes(640 + 128),
        "{:?}",
        first.figures
    );
    assert_eq!(first.figures.bytes_new, bytes(640));
    // The same bytes again, and elsewhere on another disk.
    let (again, figures) = backup(&vault, &disk, &Plan::Full).unwrap();
    assert_eq!((again.image, again.figures.bytes_new), (first.image, 0));
    assert_eq!(figures.packs, 1, "its nodes");
    let mut other = Model::new(2 * REGION);
    other.write(7777, 640, 1);
    let (shared, _) = backup(&vault, &other, &Plan::Full).unwrap();
    assert!(shared.figures.bytes_new < bytes(64), "{:?}", shared.figures);
    check(&vault, &shared.image, &other);
}

#[test]
fn images_of_a_job_share_packs() {
    let vault = Arc::new(Vault::new());
    let session = BackupSession::new(vault.clone(), vault.names(), options(2));
    let files: Vec<(Model, model::ImageRef)> = (1..200u64)
        .map(|seed| {
            let mut file = Model::new(10_000 + seed);
            file.write(0, 3, seed);
            let image = session.add_image(&file, &Plan::Full).unwrap().image;
            (file, image)
        })
        .collect();
    let figures = session.finish().unwrap();
    assert_eq!(figures.packs, 2, "one of chunks, one of nodes");
    for (file, image) in files {
        check(&vault, &image, &file);
    }
}

#[test]
fn an_increment_costs_what_changed() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(8 * REGION);
    disk.write(0, 40_000, 1);
    let (full, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    // 100 scattered writes of three cells; the tracker names 8 cells around each.
    let mut ranges = Vec::new();
    for i in 0..100 {
        let at = i * 400 + 2;
        disk.write(at, 3, 1_000_001 + 10 * i);
        ranges.push((bytes(at - 2), bytes(8)));
    }
    let (step, figures) = backup(&vault, &disk, &changed(&ranges, disk.len, &full.image)).unwrap();
    assert_eq!(step.figures.bytes_read, bytes(800));
    assert_eq!(step.figures.bytes_new, bytes(800));
    assert!(step.figures.chunks <= 60, "joined: {:?}", step.figures);
    assert!(figures.bytes_sent < bytes(800) + 40_000, "{figures:?}");
    assert_eq!(step.image.digest, None);
    check(&vault, &step.image, &disk);
    // Nothing changed: the same tree, and what is known of it holds on.
    let (same, figures) = backup(&vault, &disk, &changed(&[], disk.len, &full.image)).unwrap();
    assert_eq!((same.image, figures.packs), (full.image, 0));
}

#[test]
fn long_changed_runs_are_cut_by_content_and_shared_between_disks() {
    let vault = Arc::new(Vault::new());
    let (mut one, mut two) = (Model::new(REGION), Model::new(2 * REGION));
    let bases = [&one, &two].map(|disk| backup(&vault, disk, &Plan::Full).unwrap().0.image);
    one.write(1000, 800, 77);
    two.write(20_003, 800, 77);
    let ranges = [(bytes(1000), bytes(800)), (bytes(20_003), bytes(800))];
    let first = backup(&vault, &one, &changed(&ranges[..1], one.len, &bases[0]))
        .unwrap()
        .0;
    let second = backup(&vault, &two, &changed(&ranges[1..], two.len, &bases[1]))
        .unwrap()
        .0;
    assert_eq!(first.figures.bytes_new, bytes(800));
    assert_eq!(second.figures.bytes_new, 0);
    check(&vault, &second.image, &two);
}

#[test]
fn cells_that_became_zero_are_holes_again() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(REGION + 5000);
    disk.write(0, 17_000, 3);
    let (full, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    for cell in (0..16_384).chain([16_384]) {
        disk.cells.remove(&cell);
    }
    let (step, _) = backup(
        &vault,
        &disk,
        &changed(&[(0, bytes(16_385))], disk.len, &full.image),
    )
    .unwrap();
    assert_eq!(step.figures.bytes_new, 0);
    check(&vault, &step.image, &disk);
    disk.cells.clear();
    let (gone, _) = backup(
        &vault,
        &disk,
        &changed(&[(0, disk.len)], disk.len, &step.image),
    )
    .unwrap();
    assert_eq!(gone.image.root, None);
    check(&vault, &gone.image, &disk);
}

#[test]
fn a_fragmented_region_of_which_half_has_changed_is_cut_anew() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(REGION);
    disk.write(0, 16_384, 1);
    let (full, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    let every = |n: u64, disk: &mut Model, seed: u64| -> Vec<(u64, u64)> {
        (0..16_384 / n)
            .map(|i| (i * n, i))
            .map(|(cell, i)| {
                disk.write(cell, 1, seed + 2 * i);
                (bytes(cell), bytes(1))
            })
            .collect()
    };
    let ranges = every(8, &mut disk, 5_000_001);
    let (step, _) = backup(&vault, &disk, &changed(&ranges, disk.len, &full.image)).unwrap();
    assert_eq!(step.figures.bytes_read, bytes(2048));
    check(&vault, &step.image, &disk);
    let ranges = every(2, &mut disk, 6_000_001);
    let (step, _) = backup(&vault, &disk, &changed(&ranges, disk.len, &step.image)).unwrap();
    assert_eq!(step.figures.bytes_read, bytes(16_384), "read whole");
    assert!(step.figures.chunks < 1200, "{:?}", step.figures);
    check(&vault, &step.image, &disk);
}

#[test]
fn many_packs_are_sent_in_order_and_within_bounds() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(4 * REGION);
    disk.write(0, 30_000, 1);
    let (outcome, figures) = backup(&vault, &disk, &Plan::Full).unwrap();
    assert!(figures.packs >= 4, "{figures:?}");
    assert!(figures.bytes_sent >= outcome.figures.bytes_stored);
    check(&vault, &outcome.image, &disk);
}

#[test]
fn failures_of_the_vault_and_of_the_disk_surface() {
    let mut disk = Model::new(4 * REGION);
    disk.write(0, 30_000, 1);
    for fault in [
        Fault::PutPack(0),
        Fault::PutPack(2),
        Fault::Have(3),
        Fault::Seal(0),
        Fault::Seal(2),
    ] {
        let vault = Arc::new(Vault {
            fault: Some(fault),
            ..Vault::new()
        });
        let error = backup(&vault, &disk, &Plan::Full).unwrap_err();
        let text = format!(
            "{error} {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
        assert!(text.contains(&format!("{fault:?}")), "{text}");
        assert_eq!(error.kind(), ErrorKind::Retry);
    }
    let vault = Arc::new(Vault::new());
    disk.fail_at = Some(bytes(17_000) + 5);
    let error = backup(&vault, &disk, &Plan::Full).unwrap_err();
    assert!(
        matches!(error, BackupError::Read { offset, .. } if offset / REGION == 1),
        "{error}"
    );
    // The last pack of nodes fails in `finish`.
    let vault = Arc::new(Vault {
        fault: Some(Fault::PutPack(1)),
        ..Vault::new()
    });
    let mut small = Model::new(1 << 20);
    small.write(0, 10, 1);
    assert!(matches!(
        backup(&vault, &small, &Plan::Full),
        Err(BackupError::Link {
            verb: "store a pack",
            ..
        })
    ));
}

#[test]
fn a_cancelled_backup_ends_soon_and_progress_reaches_the_end() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(6 * REGION + 1234);
    disk.write(0, 100, 1);
    let seen = Arc::new(AtomicU64::new(0));
    let (cancel, tracked) = (Cancel::new(), Arc::clone(&seen));
    let stop = cancel.clone();
    let options = Options {
        threads: 1.try_into().ok(),
        cancel,
        progress: Some(Arc::new(move |progress| {
            tracked.store(progress.bytes_done, Ordering::Relaxed);
            assert_eq!(progress.bytes_total, 6 * REGION + 1234);
            if progress.bytes_done == 3 * REGION {
                stop.cancel();
            }
        })),
        ..Options::default()
    };
    let session = BackupSession::new(vault.clone(), vault.names(), options.clone());
    assert!(matches!(
        session.add_image(&disk, &Plan::Full),
        Err(BackupError::Cancelled)
    ));
    assert_eq!(seen.load(Ordering::Relaxed), 3 * REGION);
    let session = BackupSession::new(
        vault.clone(),
        vault.names(),
        Options {
            cancel: Cancel::new(),
            ..options
        },
    );
    session.add_image(&disk, &Plan::Full).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), disk.len);
}

#[test]
fn a_base_of_another_length_is_refused() {
    let vault = Arc::new(Vault::new());
    let disk = Model::new(REGION);
    let (full, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    let grown = Model::new(REGION + 4096);
    let error = backup(&vault, &grown, &changed(&[(0, 1)], REGION, &full.image)).unwrap_err();
    assert!(matches!(error, BackupError::BaseDoesNotFit { .. }));
}

#[test]
fn every_stored_chunk_is_of_whole_cells_and_not_all_zero() {
    let vault = Arc::new(Vault::new());
    let mut disk = Model::new(REGION - 100);
    disk.write(0, 500, 1);
    disk.write(16_300, 84, 9);
    let (outcome, _) = backup(&vault, &disk, &Plan::Full).unwrap();
    for id in vault.chunks() {
        let plain = open(&vault, id);
        assert!(
            plain.len().is_multiple_of(CELL)
                && plain.len() <= store::CHUNK_MAX_BYTES
                && !store::is_zero(&plain)
        );
    }
    check(&vault, &outcome.image, &disk);
}
