//! Power, and the end of VMs.

use std::sync::Arc;

use hyperv::ErrorKind;
use hyperv_sim::ctl::FaultRule;
use model::PowerState;

use super::Bed;

pub(super) async fn goes_where_it_is_asked_to(bed: Arc<Bed>) {
    let vm = bed.vm(1).await;
    let power = async || bed.host().power(vm).await.unwrap().0;
    for _ in 0..2 {
        bed.host().start(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Running);
    }
    for _ in 0..2 {
        bed.host().save(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Saved);
    }
    let vms = bed.host().vms().await.unwrap();
    let saved = vms.iter().find(|found| found.config.id == vm).unwrap();
    assert!(saved.unsupported.iter().any(|u| u.code == "saved-state"));
    for _ in 0..2 {
        bed.host().turn_off(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Off);
    }
    bed.host().save(vm).await.unwrap();
    assert_eq!(power().await, PowerState::Off);
    for rule in [
        FaultRule::ConnectionLostAfter,
        FaultRule::TimedOut,
        FaultRule::JobVanishes,
    ] {
        bed.fault(rule, "RequestStateChange").await;
        bed.host().start(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Running, "{rule}");
        bed.host().turn_off(vm).await.unwrap();
    }
}

pub(super) async fn of_a_guest_goes_down(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    for _ in 0..2 {
        bed.host().shut_down(vm).await.unwrap();
        assert_eq!(bed.host().power(vm).await.unwrap().0, PowerState::Off);
    }
}

pub(super) async fn is_off_before_a_vm_is_destroyed(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let disk = bed.host().vm(vm).await.unwrap().disks[0].path.clone();
    let error = bed.host().destroy_vm(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    assert!(bed.host().vm_exists(vm).await.unwrap());
    bed.host().turn_off(vm).await.unwrap();
    bed.fault(FaultRule::ConnectionLostAfter, "DestroySystem")
        .await;
    for _ in 0..2 {
        bed.host().destroy_vm(vm).await.unwrap();
    }
    let error = bed.host().start(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(bed.files().stat(&disk).unwrap().is_some());
}
