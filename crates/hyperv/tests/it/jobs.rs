//! Methods that start jobs, and every way a job can end.

use std::time::Duration;

use hyperv::{Endpoint, ErrorKind, Host, Limits};
use model::VmId;
use tokio_util::sync::CancellationToken;
use wsman::{Epr, Fault, Instance, Operation, Properties, Reply, Request, Value};

use crate::peer::{Answer, Peer};

/// A host with one VM, whose job goes through `states`; the last one stays.
async fn host_with_job(states: Vec<Instance>) -> (Peer, Host) {
    let mut states = states.into_iter().peekable();
    let mut last = None;
    let mut done = false;
    let peer = Peer::start(move |request: &Request| {
        let class = request
            .header
            .resource_uri
            .rsplit('/')
            .next()
            .unwrap_or_default();
        match (&request.operation, class) {
            (Operation::Get, "Msvm_ComputerSystem") => {
                let state = if done { 2_u16 } else { 3 };
                Reply::Object(Instance::new("Msvm_ComputerSystem").with("EnabledState", state))
                    .into()
            }
            (Operation::Get, "Msvm_ConcreteJob") => {
                last = states.next().or(last.take());
                let state = last.clone().expect("a script has a state");
                if state.class.is_empty() {
                    return Fault::not_found("no such job").into();
                }
                done = matches!(state.u16("JobState"), Some(7 | 32768));
                Reply::Object(state).into()
            }
            (Operation::Invoke { method, .. }, "Msvm_ComputerSystem") => {
                let job =
                    Epr::new("root/virtualization/v2", "Msvm_ConcreteJob").with("InstanceID", "J");
                let outputs = Properties::new()
                    .with("Job", job)
                    .with("ReturnValue", 4096_u32);
                Reply::Invoke {
                    method: method.clone(),
                    outputs,
                }
                .into()
            }
            (Operation::Invoke { method, .. }, _) if method == "GetErrorEx" => {
                let error =
                    Instance::new("Msvm_Error").with("Message", "the disk C:\\a.vhdx is missing");
                let outputs = Properties::new()
                    .with("Errors", Value::Array(vec![Value::embedded(&error)]))
                    .with("ReturnValue", 0_u32);
                Reply::Invoke {
                    method: method.clone(),
                    outputs,
                }
                .into()
            }
            (Operation::Invoke { method, .. }, _) if method == "RequestStateChange" => {
                let outputs = Properties::new().with("ReturnValue", 0_u32);
                Reply::Invoke {
                    method: method.clone(),
                    outputs,
                }
                .into()
            }
            _ => Answer::Raw(404, Vec::new()),
        }
    })
    .await;
    let limits = Limits {
        job: Duration::from_millis(300),
        settle: Duration::from_millis(300),
        first_poll: Duration::from_millis(1),
        last_poll: Duration::from_millis(4),
        ..Limits::default()
    };
    let host = Host::new(&Endpoint::new(peer.url.as_str()))
        .expect("the address is good")
        .with_limits(limits);
    (peer, host)
}

fn state(state: u16) -> Instance {
    Instance::new("Msvm_ConcreteJob")
        .with("JobState", state)
        .with("ErrorCode", 0_u16)
        .with("Cancellable", true)
}

fn failed(code: u16) -> Instance {
    state(10)
        .with("ErrorCode", code)
        .with("ErrorDescription", "it went wrong")
}

#[tokio::test]
async fn a_job_is_followed_to_its_end() {
    for end in [state(7), state(32768)] {
        let (_peer, host) = host_with_job(vec![
            state(2),
            state(3),
            state(4),
            state(5),
            state(6),
            end,
            state(7),
        ])
        .await;
        host.start(VmId::random()).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_job_tells_everything_the_host_said() {
    for (code, kind) in [
        (1, ErrorKind::Unsupported),
        (2, ErrorKind::Failed),
        (3, ErrorKind::ResultUnknown),
        (4, ErrorKind::Refused),
        (5, ErrorKind::WrongState),
        (6, ErrorKind::Refused),
        (32768, ErrorKind::Failed),
        (32769, ErrorKind::AccessDenied),
        (32770, ErrorKind::Unsupported),
        (32771, ErrorKind::ResultUnknown),
        (32772, ErrorKind::ResultUnknown),
        (32773, ErrorKind::Refused),
        (32774, ErrorKind::InUse),
        (32775, ErrorKind::WrongState),
        (32776, ErrorKind::Refused),
        (32777, ErrorKind::Retry),
        (32778, ErrorKind::Retry),
        (32779, ErrorKind::InUse),
        (32780, ErrorKind::Failed),
        (0, ErrorKind::Failed),
    ] {
        let (_peer, host) = host_with_job(vec![state(4), failed(code)]).await;
        let error = host.start(VmId::random()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}");
        let text = error.to_string();
        assert!(
            text.contains("it went wrong") && text.contains("a.vhdx is missing"),
            "{text}"
        );
    }
    // Completed, but with an error code.
    let (_peer, host) = host_with_job(vec![state(7).with("ErrorCode", 32768_u16)]).await;
    assert_eq!(
        host.start(VmId::random()).await.unwrap_err().kind(),
        ErrorKind::Failed
    );
}

#[tokio::test]
async fn a_job_that_vanished_leaves_the_result_unknown() {
    let (_peer, host) = host_with_job(vec![state(4), Instance::default()]).await;
    assert_eq!(
        host.start(VmId::random()).await.unwrap_err().kind(),
        ErrorKind::ResultUnknown
    );
}

#[tokio::test]
async fn a_job_is_not_waited_for_longer_than_the_limit() {
    let (_peer, host) = host_with_job(vec![state(4)]).await;
    assert_eq!(
        host.start(VmId::random()).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
}

#[tokio::test]
async fn cancelling_ends_a_job_that_can_be_ended_and_waits_for_one_that_cannot() {
    let cancelled = || {
        let token = CancellationToken::new();
        token.cancel();
        token
    };
    let (peer, host) = host_with_job(vec![state(4), state(4), state(8)]).await;
    let error = host
        .with_cancel(cancelled())
        .start(VmId::random())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(peer.methods(), ["RequestStateChange", "RequestStateChange"]);

    // The host finished it all the same: that is what is reported.
    let fixed = state(4).with("Cancellable", false);
    let (peer, host) = host_with_job(vec![fixed.clone(), fixed, state(7)]).await;
    host.with_cancel(cancelled())
        .start(VmId::random())
        .await
        .unwrap();
    assert_eq!(peer.methods(), ["RequestStateChange"]);
}

#[tokio::test]
async fn a_suspended_job_is_waited_for_with_a_limit_of_its_own() {
    // It goes on in time.
    let (_peer, host) = host_with_job(vec![state(5), state(5), state(4), state(7)]).await;
    host.start(VmId::random()).await.unwrap();

    let (_peer, host) = host_with_job(vec![state(4), state(5)]).await;
    let patient = Limits {
        job: Duration::from_secs(3600),
        settle: Duration::from_millis(50),
        first_poll: Duration::from_millis(1),
        last_poll: Duration::from_millis(4),
        ..Limits::default()
    };
    let error = host
        .with_limits(patient)
        .start(VmId::random())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("suspended"), "{error}");
}

#[tokio::test]
async fn every_return_code_of_a_method_is_told_apart() {
    for (code, kind) in [
        (1, ErrorKind::Unsupported),
        (2, ErrorKind::Failed),
        (3, ErrorKind::ResultUnknown),
        (4, ErrorKind::Refused),
        (5, ErrorKind::WrongState),
        (6, ErrorKind::Refused),
        (32768, ErrorKind::Failed),
        (32769, ErrorKind::AccessDenied),
        (32770, ErrorKind::Unsupported),
        (32771, ErrorKind::ResultUnknown),
        (32772, ErrorKind::ResultUnknown),
        (32773, ErrorKind::Refused),
        (32774, ErrorKind::InUse),
        (32775, ErrorKind::WrongState),
        (32776, ErrorKind::Refused),
        (32777, ErrorKind::Retry),
        (32778, ErrorKind::Retry),
        (32779, ErrorKind::InUse),
        (7, ErrorKind::Failed),
        (99999, ErrorKind::Failed),
    ] {
        let peer = Peer::start(move |request: &Request| match &request.operation {
            Operation::Get => {
                Reply::Object(Instance::new("Msvm_ComputerSystem").with("EnabledState", 3_u16))
                    .into()
            }
            Operation::Invoke { method, .. } => Reply::Invoke {
                method: method.clone(),
                outputs: Properties::new().with("ReturnValue", code),
            }
            .into(),
            // No job is under way.
            _ => Reply::Enumerate {
                batch: wsman::Items {
                    items: Vec::new(),
                    context: None,
                    end: true,
                },
                optimized: true,
            }
            .into(),
        })
        .await;
        let limits = Limits {
            first_poll: Duration::from_millis(1),
            last_poll: Duration::from_millis(4),
            ..Limits::default()
        };
        let host = Host::new(&Endpoint::new(peer.url.as_str()))
            .expect("the address is good")
            .with_limits(limits);
        let error = host.start(VmId::random()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, Some(code)), "{code}");
        assert!(error.to_string().contains(&code.to_string()), "{error}");
        // A method that may have run is not called again.
        assert_eq!(peer.methods(), ["RequestStateChange"], "{code}");
    }
}
