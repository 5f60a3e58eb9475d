//! Checkpoints of users.

use std::sync::Arc;

use hyperv::{CheckpointKind, ErrorKind};
use hyperv_sim::ctl::FaultRule;
use model::{ConsistencyWish, MIB, PowerState, VmId};

use super::Bed;
use crate::sim::{mark, pattern};

async fn names(bed: &Bed, vm: VmId) -> Vec<String> {
    let all = bed.host().checkpoints(vm).await.unwrap();
    all.into_iter().map(|checkpoint| checkpoint.name).collect()
}

pub(super) async fn are_taken_and_renamed(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let first = bed.host().create_checkpoint(vm, "first").await.unwrap();
    bed.fault(FaultRule::ConnectionLostAfter, "CreateSnapshot")
        .await;
    let second = bed.host().create_checkpoint(vm, "second").await.unwrap();
    assert_ne!(first, second);
    bed.host()
        .rename_checkpoint(&first, "the \"first\" & oldest")
        .await
        .unwrap();
    assert_eq!(names(&bed, vm).await, ["the \"first\" & oldest", "second"]);
    let facts = bed.host().vm(vm).await.unwrap();
    assert!(
        facts
            .checkpoints
            .iter()
            .all(|c| c.kind == CheckpointKind::User)
    );
    assert_eq!(facts.checkpoints[1].parent, Some(first));
    assert!(facts.checkpoints[1].current);
    // A backup's checkpoint is not a user's to rename or delete.
    let wish = ConsistencyWish::Crash;
    let ours = bed.host().take_checkpoint(vm, wish, mark(1)).await.unwrap();
    let error = bed.host().rename_checkpoint(&ours.id, "x").await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
    let error = bed.host().delete_checkpoint(vm, &ours.id, false).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
    bed.host().destroy_checkpoint(vm, &ours.id).await.unwrap();
}

pub(super) async fn are_applied_to_a_vm_that_is_off(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.sim.guest_write(vm, 0, 5 * MIB, 2, MIB).await;
    let checkpoint = bed.host().create_checkpoint(vm, "before").await.unwrap();
    for rule in [None, Some(FaultRule::ConnectionLostAfter)] {
        bed.sim.guest_write(vm, 0, 5 * MIB, 3, MIB).await;
        let error = bed.host().apply_checkpoint(vm, &checkpoint).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
        bed.host().turn_off(vm).await.unwrap();
        if let Some(rule) = rule {
            bed.fault(rule, "ApplySnapshot").await;
        }
        bed.host().apply_checkpoint(vm, &checkpoint).await.unwrap();
        assert_eq!(bed.host().power(vm).await.unwrap().0, PowerState::Off);
        bed.host().start(vm).await.unwrap();
        let read = bed.sim.guest_read(vm, 0, 5 * MIB, MIB).await;
        assert_eq!(read, pattern(2, 1 << 20));
    }
    let facts = bed.host().vm(vm).await.unwrap();
    let applied = facts.last_applied.unwrap_or_default();
    assert!(applied.eq_ignore_ascii_case(&checkpoint), "{applied}");
}

pub(super) async fn are_deleted_one_by_one(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let mut ids = Vec::new();
    for seed in 2..5 {
        bed.sim.guest_write(vm, 0, seed * MIB, seed, MIB).await;
        let name = format!("c{seed}");
        ids.push(bed.host().create_checkpoint(vm, &name).await.unwrap());
    }
    // The one in the middle: the file above it goes down into it.
    bed.fault(FaultRule::ConnectionLostAfter, "DestroySnapshot")
        .await;
    let merges = bed
        .host()
        .delete_checkpoint(vm, &ids[1], false)
        .await
        .unwrap();
    assert_eq!(merges.len(), 1, "{merges:?}");
    let mut looks = 0;
    bed.host()
        .wait_merged_with(vm, &merges, |_| looks += 1)
        .await
        .unwrap();
    assert!(looks > 0);
    assert_eq!(names(&bed, vm).await, ["c2", "c4"]);
    assert!(bed.files().stat(&merges[0].from).unwrap().is_none());
    // One that is gone is no error.
    let again = bed.host().delete_checkpoint(vm, &ids[1], false).await;
    assert!(again.unwrap().is_empty());
    for seed in 2..5 {
        let read = bed.sim.guest_read(vm, 0, seed * MIB, MIB).await;
        assert_eq!(read, pattern(seed, 1 << 20));
    }
}

pub(super) async fn are_deleted_with_all_below(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let keep = bed.host().create_checkpoint(vm, "keep").await.unwrap();
    let root = bed.host().create_checkpoint(vm, "root").await.unwrap();
    bed.host().create_checkpoint(vm, "below").await.unwrap();
    bed.sim.guest_write(vm, 0, 9 * MIB, 6, MIB).await;
    let merges = bed.host().delete_checkpoint(vm, &root, true).await.unwrap();
    bed.host()
        .wait_merged_with(vm, &merges, |_| {})
        .await
        .unwrap();
    assert_eq!(names(&bed, vm).await, ["keep"]);
    let facts = bed.host().vm(vm).await.unwrap();
    assert_eq!(facts.disks[0].chain.len(), 2, "{:?}", facts.disks[0].chain);
    let read = bed.sim.guest_read(vm, 0, 9 * MIB, MIB).await;
    assert_eq!(read, pattern(6, 1 << 20));
    bed.host().delete_checkpoint(vm, &keep, true).await.unwrap();
    bed.host().wait_merged(vm).await.unwrap();
    let facts = bed.host().vm(vm).await.unwrap();
    assert_eq!(facts.disks[0].chain.len(), 1, "{:?}", facts.disks[0].chain);
}
