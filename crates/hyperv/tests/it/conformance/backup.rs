//! A backup by change tracking: checkpoint, frozen disks, reference point.

use std::sync::Arc;

use hyperv::{CheckpointKind, ErrorKind, FileErrorKind};
use hyperv_sim::ctl::FaultRule;
use model::{Consistency, ConsistencyWish, MIB};

use super::Bed;
use crate::sim::{mark, pattern};

const WISH: ConsistencyWish = ConsistencyWish::PreferApplication;

pub(super) async fn reads_the_moment_of_its_checkpoint(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.sim.guest_write(vm, 0, 8 * MIB, 7, MIB).await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(3)).await.unwrap();
    assert_eq!(
        (taken.consistency, taken.note),
        (Consistency::Application, None)
    );

    // The guest goes on; the frozen disk stays.
    bed.sim.guest_write(vm, 0, 8 * MIB, 8, MIB).await;
    let disks = bed.host().frozen_disks(vm, &taken.id).await.unwrap();
    let [disk] = disks.as_slice() else {
        panic!("{disks:?}")
    };
    assert_eq!(disk.problem, None);
    assert_eq!(bed.read(&disk.path, 8 * MIB, 1 << 20), pattern(7, 1 << 20));
    // The leaf is the VM's alone, and nobody writes into what is frozen.
    let facts = bed.host().vm(vm).await.unwrap();
    assert_eq!(facts.disks[0].attachment, disk.attachment);
    let leaf = bed.files().open_read(&facts.disks[0].path).unwrap_err();
    assert_eq!(leaf.kind(), FileErrorKind::InUse);
    let frozen = bed.files().open_write(&disk.path).unwrap_err();
    assert_eq!(frozen.kind(), FileErrorKind::InUse);

    let (config, files) = bed.host().checkpoint_config(vm, &taken.id).await.unwrap();
    assert_eq!((config.id, &config.name), (vm, &facts.summary.config.name));
    assert_eq!(config.disks().next().unwrap().2, disk.path);
    let files = files.list(bed.files()).unwrap();
    assert!(files.iter().any(|file| file.role == "config"), "{files:?}");
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
}

pub(super) async fn leaves_nothing_but_a_reference_point(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(3)).await.unwrap();
    let disks = bed.host().frozen_disks(vm, &taken.id).await.unwrap();
    bed.sim.guest_write(vm, 0, 8 * MIB, 8, MIB).await;
    let point = bed
        .host()
        .convert_to_reference_point(vm, &taken.id, &[])
        .await
        .unwrap();
    assert_eq!(
        (point.vm, point.consistency),
        (vm, Some(Consistency::Application))
    );
    assert!(point.rct_id(&disks[0].attachment).is_some(), "{point:?}");
    bed.host().wait_merged(vm).await.unwrap();
    let facts = bed.host().vm(vm).await.unwrap();
    assert!(facts.checkpoints.is_empty(), "{:?}", facts.checkpoints);
    assert_eq!(facts.reference_points, std::slice::from_ref(&point));
    assert_eq!(facts.disks[0].chain.len(), 1, "{:?}", facts.disks[0].chain);
    assert_eq!(facts.disks[0].path, disks[0].path);
    let read = bed.sim.guest_read(vm, 0, 8 * MIB, MIB).await;
    assert_eq!(read, pattern(8, 1 << 20));

    // A second backup stands beside it until the first is given up.
    let second = bed.back_up(vm).await;
    assert_ne!(second.id, point.id);
    for _ in 0..2 {
        bed.host()
            .destroy_reference_point(vm, &point.id)
            .await
            .unwrap();
    }
    assert_eq!(bed.points(vm).await, [second.id]);
}

pub(super) async fn of_a_vm_that_is_off_reads_it_as_it_lies(bed: Arc<Bed>) {
    let vm = bed.vm(1).await;
    let wish = ConsistencyWish::RequireApplication;
    let taken = bed.host().take_checkpoint(vm, wish, mark(1)).await.unwrap();
    assert_eq!(taken.consistency, Consistency::Offline);
    let disks = bed.host().frozen_disks(vm, &taken.id).await.unwrap();
    assert_eq!(bed.read(&disks[0].path, 0, 4096), pattern(1, 4096));
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
}

pub(super) async fn of_a_crash_consistent_checkpoint_says_so(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let wish = ConsistencyWish::Crash;
    let taken = bed.host().take_checkpoint(vm, wish, mark(1)).await.unwrap();
    assert_eq!((taken.consistency, taken.note), (Consistency::Crash, None));
    let point = bed
        .host()
        .convert_to_reference_point(vm, &taken.id, &[])
        .await
        .unwrap();
    assert_eq!(point.consistency, Some(Consistency::Crash));
}

pub(super) async fn without_the_guests_help_says_so(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.fault(FaultRule::AppConsistencyFailed, "").await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    assert_eq!(taken.consistency, Consistency::Crash);
    let note = taken.note.unwrap_or_default();
    assert!(note.contains("CreateSnapshot"), "{note}");
    assert_eq!(bed.host().checkpoints(vm).await.unwrap().len(), 1);
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
}

pub(super) async fn that_must_have_the_guests_help_fails_without(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.fault(FaultRule::AppConsistencyFailed, "").await;
    let wish = ConsistencyWish::RequireApplication;
    let error = bed
        .host()
        .take_checkpoint(vm, wish, mark(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(bed.host().checkpoints(vm).await.unwrap().is_empty());
}

pub(super) async fn reads_through_user_checkpoints_and_keeps_them(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.sim.guest_write(vm, 0, 20 * MIB, 2, MIB).await;
    bed.sim.user_checkpoint(vm, "mine").await;
    bed.sim.guest_write(vm, 0, 21 * MIB, 3, MIB).await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    let disk = bed
        .host()
        .frozen_disks(vm, &taken.id)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(disk.chain.len(), 2);
    assert_eq!(bed.read(&disk.path, 20 * MIB, 1 << 20), pattern(2, 1 << 20));
    assert_eq!(bed.read(&disk.path, 21 * MIB, 1 << 20), pattern(3, 1 << 20));
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    bed.host().wait_merged(vm).await.unwrap();
    let left = bed.host().checkpoints(vm).await.unwrap();
    let [only] = left.as_slice() else {
        panic!("{left:?}")
    };
    assert_eq!(
        (only.name.as_str(), only.kind),
        ("mine", CheckpointKind::User)
    );
    let read = bed.sim.guest_read(vm, 0, 21 * MIB, MIB).await;
    assert_eq!(read, pattern(3, 1 << 20));
}
