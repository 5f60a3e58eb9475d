//! What is found again after an agent died or an answer was lost.

use std::sync::Arc;
use std::time::Duration;

use hyperv::{ErrorKind, Limits};
use hyperv_sim::ctl::{Command, FaultRule};
use model::ConsistencyWish;

use super::Bed;
use crate::sim::mark;

const WISH: ConsistencyWish = ConsistencyWish::PreferApplication;

pub(super) async fn finds_what_carries_a_mark(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    bed.sim.user_checkpoint(vm, "a user's").await;
    let mark = mark(9);
    let taken = bed.host().take_checkpoint(vm, WISH, mark).await.unwrap();
    let found = bed.host().marked_checkpoints(vm).await.unwrap();
    let [(found_mark, checkpoint)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((*found_mark, &checkpoint.id), (mark, &taken.id));
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    assert!(bed.host().marked_checkpoints(vm).await.unwrap().is_empty());
}

pub(super) async fn destroys_a_checkpoint_once(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    bed.fault(FaultRule::ConnectionLostAfter, "DestroySnapshot")
        .await;
    for _ in 0..2 {
        bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    }
    assert!(bed.host().checkpoints(vm).await.unwrap().is_empty());

    // Where the host refuses to destroy it, it is converted and that destroyed.
    bed.host().wait_merged(vm).await.unwrap();
    let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    bed.fault(FaultRule::ReturnCode(32775), "DestroySnapshot")
        .await;
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    assert!(bed.host().checkpoints(vm).await.unwrap().is_empty());
    assert!(bed.points(vm).await.is_empty());
}

pub(super) async fn finds_a_checkpoint_whose_answer_was_lost(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    for rule in [
        FaultRule::ConnectionLostAfter,
        FaultRule::TimedOut,
        FaultRule::JobVanishes,
        FaultRule::AssociationMissing,
    ] {
        bed.fault(rule, "CreateSnapshot").await;
        let mark = mark(1);
        let taken = bed.host().take_checkpoint(vm, WISH, mark).await.unwrap();
        let found = bed.host().marked_checkpoints(vm).await.unwrap();
        let [(found_mark, checkpoint)] = found.as_slice() else {
            panic!("{rule}: {found:?}")
        };
        assert_eq!((*found_mark, &checkpoint.id), (mark, &taken.id), "{rule}");
        bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    }
}

pub(super) async fn finds_a_reference_point_whose_answer_was_lost(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    for rule in [
        FaultRule::ConnectionLostAfter,
        FaultRule::TimedOut,
        FaultRule::JobVanishes,
        FaultRule::AssociationMissing,
    ] {
        let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
        bed.fault(rule, "ConvertToReferencePoint").await;
        let convert = || bed.host().convert_to_reference_point(vm, &taken.id, &[]);
        let point = convert().await.unwrap();
        assert_eq!(
            bed.points(vm).await,
            std::slice::from_ref(&point.id),
            "{rule}"
        );
        // A second attempt, by an agent that did not see the first one's end, finds the same.
        assert_eq!(convert().await.unwrap(), point, "{rule}");
        bed.fault(FaultRule::ConnectionLostAfter, "DestroyReferencePoint")
            .await;
        bed.host()
            .destroy_reference_point(vm, &point.id)
            .await
            .unwrap();
        assert!(bed.points(vm).await.is_empty(), "{rule}");
    }
}

pub(super) async fn gives_up_on_a_merge_that_does_not_end(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let taken = bed.host().take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    bed.fault_stands(FaultRule::MergeNeverEnds, "").await;
    bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
    let impatient = bed.host().clone().with_limits(Limits {
        merge: Duration::from_millis(200),
        first_poll: Duration::from_millis(5),
        ..Limits::default()
    });
    let error = impatient.wait_merged(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("merging"), "{error}");
    bed.sim.ctl(Command::FaultClear).await;
    bed.host().wait_merged(vm).await.unwrap();
}
