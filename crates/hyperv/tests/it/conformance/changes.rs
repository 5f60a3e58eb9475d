//! What changed on a disk since a reference point.

use std::sync::Arc;

use hyperv::{Changes, ErrorKind};
use hyperv_sim::ctl::FaultRule;
use model::{ConsistencyWish, FullReason, MIB, VmId};

use super::Bed;
use crate::sim::{DISK_BYTES, mark};

const WISH: ConsistencyWish = ConsistencyWish::PreferApplication;
/// What the guest writes between two backups: offset and length in bytes.
const WRITES: [(u64, u64); 3] = [
    (10 * MIB + 4096, 8192),
    (40 * MIB, 512),
    (DISK_BYTES - 4096, 4096),
];

/// A disk at its second backup.
struct Second {
    vm: VmId,
    checkpoint: String,
    path: String,
    rct_id: String,
}

impl Second {
    async fn of(bed: &Bed) -> Self {
        let vm = bed.running_vm().await;
        let point = bed.back_up(vm).await;
        for (seed, (offset, len)) in (5..).zip(WRITES) {
            bed.sim.guest_write(vm, 0, offset, seed, len).await;
        }
        let taken = bed.host().take_checkpoint(vm, WISH, mark(2)).await.unwrap();
        let disks = bed.host().frozen_disks(vm, &taken.id).await.unwrap();
        let rct_id = point.rct_id(&disks[0].attachment).unwrap().to_owned();
        Self {
            vm,
            checkpoint: taken.id,
            path: disks[0].path.clone(),
            rct_id,
        }
    }

    async fn ask(&self, bed: &Bed) -> Changes {
        bed.host()
            .changed_ranges(&self.path, &self.rct_id, DISK_BYTES)
            .await
            .unwrap()
    }

    async fn end(self, bed: &Bed) {
        bed.host()
            .destroy_checkpoint(self.vm, &self.checkpoint)
            .await
            .unwrap();
    }
}

/// Whether every write is covered, and not much else.
#[track_caller]
fn assert_covered(changes: Changes) {
    let Changes::Ranges(ranges) = changes else {
        panic!("{changes:?}")
    };
    for (offset, len) in WRITES {
        let covered = ranges
            .as_slice()
            .iter()
            .any(|range| range.offset <= offset && offset + len <= range.offset + range.len);
        assert!(covered, "{offset}+{len} is not in {ranges:?}");
    }
    assert!(ranges.bytes() < 16 * MIB, "{} bytes", ranges.bytes());
}

pub(super) async fn are_told_whole(bed: Arc<Bed>) {
    let second = Second::of(&bed).await;
    assert_covered(second.ask(&bed).await);
    second.end(&bed).await;
}

pub(super) async fn are_told_in_parts(bed: Arc<Bed>) {
    bed.set("partial_changes", "3MiB").await;
    let second = Second::of(&bed).await;
    assert_covered(second.ask(&bed).await);
    second.end(&bed).await;
}

pub(super) async fn are_told_coarsely(bed: Arc<Bed>) {
    bed.set("partial_changes", "1MiB").await;
    bed.set("coarse_bytes", "2MiB").await;
    let second = Second::of(&bed).await;
    assert_covered(second.ask(&bed).await);
    second.end(&bed).await;
}

pub(super) async fn are_asked_for_in_smaller_parts_where_the_answer_does_not_fit(bed: Arc<Bed>) {
    let second = Second::of(&bed).await;
    for _ in 0..3 {
        bed.fault(FaultRule::EnvelopeLimit, "GetVirtualDiskChanges")
            .await;
    }
    assert_covered(second.ask(&bed).await);
    second.end(&bed).await;
}

pub(super) async fn since_an_unknown_id_are_not_known(bed: Arc<Bed>) {
    let second = Second::of(&bed).await;
    // The tracker's failure means a full read of this disk.
    for unknown in ["rctX:nonsense", "x"] {
        let changes = bed
            .host()
            .changed_ranges(&second.path, unknown, DISK_BYTES)
            .await
            .unwrap();
        assert!(is_unknown(&changes, FullReason::RctIdLost), "{changes:?}");
    }
    bed.fault(FaultRule::RctIdUnknown, "").await;
    let changes = second.ask(&bed).await;
    assert!(is_unknown(&changes, FullReason::RctIdLost), "{changes:?}");
    // Missing rights are no failure of the tracker.
    bed.fault(FaultRule::AccessDenied, "GetVirtualDiskChanges")
        .await;
    let error = bed
        .host()
        .changed_ranges(&second.path, &second.rct_id, DISK_BYTES)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    second.end(&bed).await;
}

pub(super) async fn of_a_file_that_is_gone_are_not_known(bed: Arc<Bed>) {
    let changes = bed
        .host()
        .changed_ranges(r"C:\gone.vhdx", "rctX:1", DISK_BYTES)
        .await
        .unwrap();
    assert!(
        is_unknown(&changes, FullReason::TrackerFailed),
        "{changes:?}"
    );
}

fn is_unknown(changes: &Changes, wanted: FullReason) -> bool {
    matches!(changes, Changes::Unknown { reason, .. } if *reason == wanted)
}
