//! Fault rules: each one is seen by a client, and counted.

use hyperv_sim::ctl::{Command, FaultName, FaultRule, Reply, RuleInfo};
use wsman::{FaultClass, Header, Operation, Properties, Request, uri};

use crate::support::{CIMV2, Sim, V2, system};

const QUERY: &str = "SELECT * FROM Msvm_ComputerSystem";

async fn rules(sim: &Sim) -> Vec<RuleInfo> {
    let Reply::Faults(faults) = sim.ctl(Command::FaultList).await else {
        panic!("no rules")
    };
    faults.rules
}

fn destroy(vm: &str) -> Request {
    let class = "Msvm_VirtualSystemManagementService";
    Request {
        header: Header {
            message_id: "uuid:3".into(),
            resource_uri: uri::class_uri(V2, class),
            ..Header::default()
        },
        operation: Operation::Invoke {
            method: "DestroySystem".into(),
            parameters: Properties::new().with("AffectedSystem", system(vm)),
        },
    }
}

#[tokio::test]
async fn faults_are_answered_in_place_of_the_operation() {
    let sim = Sim::start().await;
    for (rule, class) in [
        (FaultRule::AccessDenied, FaultClass::AccessDenied),
        (FaultRule::QuotaLimit, FaultClass::Quota),
        (FaultRule::EnvelopeLimit, FaultClass::EncodingLimit),
        (FaultRule::TimedOut, FaultClass::ResultUnknown),
        (FaultRule::Fault(FaultName::QuotaLimit), FaultClass::Quota),
        (
            FaultRule::Fault(FaultName::InvalidSelectors),
            FaultClass::NotFound,
        ),
        (
            FaultRule::Fault(FaultName::DestinationUnreachable),
            FaultClass::UnknownClass,
        ),
        (
            FaultRule::Fault(FaultName::ActionNotSupported),
            FaultClass::UnknownMethod,
        ),
        (
            FaultRule::Fault(FaultName::EndpointUnavailable),
            FaultClass::Retry,
        ),
        (
            FaultRule::Fault(FaultName::CannotProcessFilter),
            FaultClass::BadQuery,
        ),
        (
            FaultRule::Fault(FaultName::InvalidEnumerationContext),
            FaultClass::InvalidContext,
        ),
        (
            FaultRule::Fault(FaultName::InvalidParameter),
            FaultClass::InvalidParameter,
        ),
        (
            FaultRule::Fault(FaultName::UnsupportedFeature),
            FaultClass::Unsupported,
        ),
        (
            FaultRule::Fault(FaultName::InternalError),
            FaultClass::Failed,
        ),
        (
            FaultRule::Fault(FaultName::Result(0x8004_1002)),
            FaultClass::NotFound,
        ),
        (
            FaultRule::Fault(FaultName::Result(0x8004_1003)),
            FaultClass::AccessDenied,
        ),
        (
            FaultRule::Fault(FaultName::Code(5)),
            FaultClass::AccessDenied,
        ),
    ] {
        sim.fault(rule, Some("enumerate"), Some(1)).await;
        let fault = sim.try_query(V2, QUERY).await.unwrap_err();
        assert_eq!(fault.class(), class, "{rule}: {fault}");
        assert!(sim.try_query(V2, QUERY).await.is_ok(), "{rule}");
        let last = rules(&sim).await.pop().unwrap();
        assert_eq!(
            (last.spec.rule, last.spec.times, last.hits),
            (rule, Some(0), 1)
        );
    }
    sim.fault(FaultRule::StaleContext, None, Some(1)).await;
    let many = "SELECT * FROM Win32_Volume";
    let plain = wsman::Enumerate {
        optimize: false,
        ..wsman::Enumerate::wql(many, 1)
    };
    let fault = sim.enumerate(CIMV2, plain).await.unwrap_err();
    assert_eq!(fault.class(), FaultClass::InvalidContext);
    sim.ctl(Command::FaultClear).await;
    assert!(rules(&sim).await.is_empty());
}

#[tokio::test]
async fn connections_break_before_or_after_and_a_busy_host_says_503() {
    let sim = Sim::start().await;
    let (a, b) = (sim.add_vm("a", 2).await, sim.add_vm("b", 2).await);
    let on = Some("DestroySystem");
    for (rule, status, gone) in [
        (FaultRule::ConnectionLostBefore, "", false),
        (FaultRule::Busy, "503", false),
        (FaultRule::Unauthorized, "401", false),
        (FaultRule::ConnectionLostAfter, "", true),
    ] {
        sim.fault(rule, on, Some(1)).await;
        let sent = sim.send(&destroy(&a.id)).await;
        let error = sent.expect_err("no reply that can be read");
        assert!(error.contains(status), "{rule}: {error}");
        if gone {
            while sim
                .try_ctl(Command::VmShow { vm: "a".into() })
                .await
                .is_ok()
            {}
        } else {
            sim.show("a").await;
        }
    }
    // The method ran, and is answered as if that were not known.
    sim.fault(FaultRule::TimedOut, on, Some(1)).await;
    let answer = sim.send(&destroy(&b.id)).await.unwrap();
    assert!(
        matches!(answer.reply, wsman::Reply::Fault(fault) if fault.class() == FaultClass::ResultUnknown)
    );
    while sim
        .try_ctl(Command::VmShow { vm: "b".into() })
        .await
        .is_ok()
    {}
    sim.set("slow_millis", "150").await;
    sim.fault(FaultRule::SlowReply, Some("enumerate"), Some(1))
        .await;
    let asked = std::time::Instant::now();
    sim.query(QUERY).await;
    assert!(asked.elapsed().as_millis() >= 150);
    // One that is slower than the request allows is cut: the method ran all the same.
    let c = sim.add_vm("c", 2).await;
    sim.set("slow_millis", "600000").await;
    sim.fault(FaultRule::SlowReply, on, Some(1)).await;
    let mut request = destroy(&c.id);
    request.header.timeout = Some(std::time::Duration::from_millis(200));
    let answer = sim.send(&request).await.unwrap();
    assert!(
        matches!(answer.reply, wsman::Reply::Fault(fault) if fault.class() == FaultClass::ResultUnknown)
    );
    while sim
        .try_ctl(Command::VmShow { vm: "c".into() })
        .await
        .is_ok()
    {}
}

#[tokio::test]
async fn a_method_answers_the_code_it_is_told_to() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.add_vm("b", 2).await;
    let class = "Msvm_VirtualSystemManagementService";
    let destroy = || Properties::new().with("AffectedSystem", system(&vm.id));
    for code in [
        1, 2, 3, 4, 5, 6, 32768, 32769, 32770, 32771, 32772, 32773, 32774, 32775, 32776, 32777,
        32778, 32779,
    ] {
        sim.ctl(Command::FaultAdd(hyperv_sim::ctl::FaultSpec {
            rule: FaultRule::ReturnCode(code),
            on: Some("Msvm_VirtualSystemManagementService.DestroySystem".into()),
            times: Some(1),
            vm: Some("a".into()),
        }))
        .await;
        let outputs = sim.invoke(class, "DestroySystem", destroy()).await;
        assert_eq!(outputs.u32("ReturnValue"), Some(code));
    }
    assert!(rules(&sim).await.iter().all(|rule| rule.hits == 1));
    // A rule without limit counts as well, one for another machine does not strike.
    sim.ctl(Command::FaultClear).await;
    sim.fault(FaultRule::ReturnCode(32775), Some("DestroySystem"), None)
        .await;
    for _ in 0..3 {
        sim.invoke(class, "DestroySystem", destroy()).await;
    }
    assert_eq!(rules(&sim).await[0].hits, 3);
    sim.ctl(Command::FaultClear).await;
    sim.ctl(Command::FaultAdd(hyperv_sim::ctl::FaultSpec {
        rule: FaultRule::ReturnCode(32775),
        on: None,
        times: None,
        vm: Some("b".into()),
    }))
    .await;
    let outputs = sim.invoke(class, "DestroySystem", destroy()).await;
    assert_eq!(outputs.u32("ReturnValue"), Some(4096));
    assert_eq!(rules(&sim).await[0].hits, 0);
}
