//! Disks come to VMs, change and go.

use std::sync::Arc;

use hyperv::{ErrorKind, Slot};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{ControllerKind, VmId};

use super::Bed;

/// Where the second disk of a VM goes.
const SECOND: Slot = Slot {
    kind: ControllerKind::Scsi,
    controller: 0,
    slot: 1,
};

/// A VM with one disk that runs, and copies of that disk under the given names.
async fn vm_and_copies<const N: usize>(bed: &Bed) -> (VmId, [String; N]) {
    let name = bed.name();
    let vm = bed.sim.add_vm(&name, 2, 1).await;
    let copies = std::array::from_fn(|n| {
        let copy = format!(r"C:\Copies\{name}-{n}.vhdx");
        bed.copy(&format!(r"C:\VMs\{name}\disk0.vhdx"), &copy);
        copy
    });
    bed.sim.power(vm, PowerAction::On).await;
    (vm, copies)
}

async fn drives(bed: &Bed, vm: VmId) -> usize {
    let config = bed.host().vm(vm).await.unwrap().summary.config;
    config.controllers.iter().map(|c| c.drives.len()).sum()
}

pub(super) async fn are_attached_and_detached(bed: Arc<Bed>) {
    let (vm, [a, b]) = vm_and_copies(&bed).await;
    let attach = |path, slot| bed.host().attach_disk(vm, path, slot);
    assert_eq!(attach(&a, None).await.unwrap(), SECOND);
    // Twice is the same as once.
    assert_eq!(attach(&a, None).await.unwrap(), SECOND);
    let error = attach(&b, Some(SECOND)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    for _ in 0..2 {
        bed.host().detach_disk(vm, SECOND).await.unwrap();
    }
    assert_eq!(drives(&bed, vm).await, 1);
    assert!(bed.files().stat(&a).unwrap().is_some());

    // The answers of both calls, for the drive and for the file, are lost.
    for _ in 0..2 {
        bed.fault(FaultRule::ConnectionLostAfter, "AddResourceSettings")
            .await;
    }
    assert_eq!(attach(&a, None).await.unwrap(), SECOND);
    assert_eq!(drives(&bed, vm).await, 2);
    bed.host().detach_disk(vm, SECOND).await.unwrap();
}

pub(super) async fn are_replaced(bed: Arc<Bed>) {
    let (vm, [a, b]) = vm_and_copies(&bed).await;
    bed.host().attach_disk(vm, &a, Some(SECOND)).await.unwrap();
    bed.fault(FaultRule::ConnectionLostAfter, "ModifyResourceSettings")
        .await;
    for path in [&b, &a, &b] {
        bed.host().replace_disk(vm, SECOND, path).await.unwrap();
        let facts = bed.host().vm(vm).await.unwrap();
        assert_eq!(facts.disks[1].path, *path);
    }
    let nowhere = Slot { slot: 9, ..SECOND };
    let error = bed.host().replace_disk(vm, nowhere, &a).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

pub(super) async fn that_are_missing_leave_no_drive(bed: Arc<Bed>) {
    let (vm, []) = vm_and_copies(&bed).await;
    let error = bed
        .host()
        .attach_disk(vm, r"C:\missing.vhdx", None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("missing.vhdx"), "{error}");
    assert_eq!(drives(&bed, vm).await, 1);
}

pub(super) async fn under_checkpoints_are_not_replaced(bed: Arc<Bed>) {
    let (vm, [a]) = vm_and_copies(&bed).await;
    bed.sim.user_checkpoint(vm, "mine").await;
    let first = Slot { slot: 0, ..SECOND };
    let error = bed.host().replace_disk(vm, first, &a).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("checkpoints"), "{error}");
}
