//! What goes wrong on the way or on the host, over any form of log-in.

use std::sync::Arc;

use hyperv::{Error, ErrorKind};
use hyperv_sim::ctl::FaultRule;
use model::PowerState;

use super::Bed;

pub(super) async fn of_the_account_are_told(bed: Arc<Bed>) {
    bed.fault(FaultRule::AccessDenied, "enumerate").await;
    let error = bed.host().facts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    bed.fault_stands(FaultRule::Unauthorized, "").await;
    let error = bed.host().facts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    assert!(matches!(error, Error::LogIn { .. }), "{error:?}");
    bed.calm().await;
    bed.host().facts().await.unwrap();
}

pub(super) async fn that_pass_are_waited_for(bed: Arc<Bed>) {
    let vm = bed.vm(1).await;
    for rule in [
        FaultRule::Busy,
        FaultRule::QuotaLimit,
        FaultRule::ConnectionLostBefore,
        FaultRule::ConnectionLostAfter,
        FaultRule::TimedOut,
    ] {
        bed.fault(rule, "get").await;
        let power = bed.host().power(vm).await;
        assert_eq!(power.unwrap().0, PowerState::Off, "{rule}");
    }
    // A method that certainly has not run is called again.
    for rule in [FaultRule::Busy, FaultRule::QuotaLimit] {
        bed.fault(rule, "RequestStateChange").await;
        bed.host().start(vm).await.unwrap();
        bed.host().turn_off(vm).await.unwrap();
    }
}

pub(super) async fn of_a_job_tell_the_hosts_words(bed: Arc<Bed>) {
    let vm = bed.vm(1).await;
    bed.fault(FaultRule::JobFailedWith(32774), "RequestStateChange")
        .await;
    let error = bed.host().start(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    let Error::Job { text, code, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(!text.is_empty() && *code == 32774, "{error}");
    assert!(error.to_string().contains(text.as_str()), "{error}");
    // What the host did all the same is as good.
    bed.fault(FaultRule::JobWarnings, "RequestStateChange")
        .await;
    bed.host().start(vm).await.unwrap();
    assert_eq!(bed.host().power(vm).await.unwrap().0, PowerState::Running);
}
