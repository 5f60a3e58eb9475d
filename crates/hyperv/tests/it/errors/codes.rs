//! Return codes, error codes of jobs, faults and endings of jobs: what the driver makes of each.

use std::collections::BTreeSet;

use hyperv::{Error, ErrorKind};
use hyperv_sim::ctl::{Command, FaultName, FaultRule, FaultSpec};
use model::{PowerState, VmId};
use wsman::{Epr, FaultClass, Properties};

use super::{chain, check};
use crate::sim::Sim;

/// Codes of methods and jobs: what they mean for a caller, and the word for people.
const CODES: &[(u32, ErrorKind, &str)] = &[
    (1, ErrorKind::Unsupported, "not supported"),
    (2, ErrorKind::Failed, "failed"),
    (3, ErrorKind::ResultUnknown, "timeout"),
    (4, ErrorKind::Refused, "invalid parameter"),
    (5, ErrorKind::WrongState, "invalid state"),
    (6, ErrorKind::Refused, "incompatible"),
    (32768, ErrorKind::Failed, "failed"),
    (32769, ErrorKind::AccessDenied, "access denied"),
    (32770, ErrorKind::Unsupported, "not supported"),
    (32771, ErrorKind::ResultUnknown, "status unknown"),
    (32772, ErrorKind::ResultUnknown, "timeout"),
    (32773, ErrorKind::Refused, "invalid parameter"),
    (32774, ErrorKind::InUse, "in use"),
    (32775, ErrorKind::WrongState, "invalid state"),
    (32776, ErrorKind::Refused, "incompatible"),
    (32777, ErrorKind::Retry, "not available"),
    (32778, ErrorKind::Retry, "out of memory"),
    // Of the management service, and so of VMs: a file is in use.
    (32779, ErrorKind::InUse, "in use"),
    (40000, ErrorKind::Failed, "unknown to Reprise"),
];

#[tokio::test]
async fn every_return_code_is_told_apart() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    for &(code, kind, word) in CODES {
        sim.fault(FaultRule::ReturnCode(code), "RequestStateChange")
            .await;
        let error = sim.host.start(vm).await.unwrap_err();
        check(
            &error,
            kind,
            &["RequestStateChange", &code.to_string(), word],
        );
        assert_eq!(error.code(), Some(code));
        assert!(matches!(error, Error::Return { .. }), "{error:?}");
    }
    assert_eq!(sim.host.power(vm).await.unwrap().0, PowerState::Off);
}

#[tokio::test]
async fn every_error_code_of_a_job_is_told_apart() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    for &(code, kind, word) in CODES {
        let rule = FaultRule::JobFailedWith(u16::try_from(code).unwrap());
        sim.fault(rule, "RequestStateChange").await;
        let error = sim.host.start(vm).await.unwrap_err();
        check(
            &error,
            kind,
            &["RequestStateChange", &code.to_string(), word],
        );
        let Error::Job { text, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(text.contains("was told to fail"), "{text}");
    }
    assert_eq!(sim.host.power(vm).await.unwrap().0, PowerState::Off);
}

#[tokio::test]
async fn a_file_is_in_use_for_one_service_and_missing_for_another() {
    let sim = Sim::start(false).await;
    sim.add_vm("web", 2, 1).await;
    sim.fault(
        FaultRule::ReturnCode(32779),
        "GetVirtualHardDiskSettingData",
    )
    .await;
    let error = sim
        .host
        .disk_file(r"C:\VMs\web\disk0.vhdx")
        .await
        .unwrap_err();
    check(&error, ErrorKind::NotFound, &["disk0.vhdx"]);
}

#[test]
fn codes_that_are_not_documented_are_failures() {
    let known: BTreeSet<u32> = CODES.iter().map(|(code, _, _)| *code).collect();
    for code in (7..0x1_0000).filter(|code| !known.contains(code)) {
        let error = Error::Return {
            method: "Msvm_ImageManagementService.Do".into(),
            code,
        };
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.to_string().contains("unknown to Reprise"), "{error}");
    }
}

macro_rules! faults {
    ($($name:ident => $class:ident $kind:ident;)*) => {
        /// Every fault of the simulated host by name.
        const NAMED: &[(FaultName, FaultClass, ErrorKind)] =
            &[$((FaultName::$name, FaultClass::$class, ErrorKind::$kind)),*];

        /// Fails to compile where a name is missing above.
        fn is_named(name: FaultName) -> bool {
            match name {
                $(FaultName::$name => true,)*
                FaultName::Result(_) | FaultName::Code(_) => false,
            }
        }
    };
}

faults! {
    InvalidSelectors => NotFound NotFound;
    DestinationUnreachable => UnknownClass Unsupported;
    ActionNotSupported => UnknownMethod Unsupported;
    MessageInformationHeaderRequired => Failed Failed;
    InvalidMessageInformationHeader => Failed Failed;
    EndpointUnavailable => Retry Retry;
    CannotProcessFilter => BadQuery Refused;
    FilterDialectRequestedUnavailable => BadQuery Refused;
    InvalidEnumerationContext => InvalidContext Failed;
    AccessDenied => AccessDenied AccessDenied;
    TimedOut => ResultUnknown ResultUnknown;
    InternalError => Failed Failed;
    EncodingLimit => EncodingLimit Failed;
    QuotaLimit => Quota Retry;
    InvalidParameter => InvalidParameter Refused;
    SchemaValidationError => InvalidParameter Refused;
    Concurrency => Retry Retry;
    UnsupportedFeature => Unsupported Unsupported;
    InvalidOptions => Unsupported Unsupported;
}

/// Faults told apart by what is inside: WMI results and codes of the service.
const INSIDE: &[(FaultName, FaultClass, ErrorKind)] = &[
    (
        FaultName::Result(0x8004_1001),
        FaultClass::Failed,
        ErrorKind::Failed,
    ),
    (
        FaultName::Result(0x8004_1002),
        FaultClass::NotFound,
        ErrorKind::NotFound,
    ),
    (
        FaultName::Result(0x8004_1003),
        FaultClass::AccessDenied,
        ErrorKind::AccessDenied,
    ),
    (
        FaultName::Result(0x8004_1008),
        FaultClass::InvalidParameter,
        ErrorKind::Refused,
    ),
    (
        FaultName::Result(0x8004_100E),
        FaultClass::UnknownClass,
        ErrorKind::Unsupported,
    ),
    (
        FaultName::Result(0x8004_1010),
        FaultClass::UnknownClass,
        ErrorKind::Unsupported,
    ),
    (
        FaultName::Result(0x8004_1017),
        FaultClass::BadQuery,
        ErrorKind::Refused,
    ),
    (
        FaultName::Result(0x8004_1055),
        FaultClass::UnknownMethod,
        ErrorKind::Unsupported,
    ),
    (
        FaultName::Code(5),
        FaultClass::AccessDenied,
        ErrorKind::AccessDenied,
    ),
    (
        FaultName::Code(2_150_858_793),
        FaultClass::ResultUnknown,
        ErrorKind::ResultUnknown,
    ),
    (
        FaultName::Code(2_150_858_829),
        FaultClass::ResultUnknown,
        ErrorKind::ResultUnknown,
    ),
    (FaultName::Code(1), FaultClass::Failed, ErrorKind::Failed),
];

macro_rules! classes {
    ($($name:ident)*) => {
        const CLASSES: &[FaultClass] = &[$(FaultClass::$name),*];

        /// Fails to compile where a class is missing above.
        fn is_class(class: FaultClass) -> bool {
            match class {
                $(FaultClass::$name => true,)*
            }
        }
    };
}

classes! {
    Retry NotFound UnknownClass UnknownMethod AccessDenied ResultUnknown EncodingLimit Quota InvalidParameter BadQuery
    InvalidContext Unsupported Failed
}

#[tokio::test]
async fn every_fault_is_told_apart_and_keeps_the_hosts_words() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let mut seen = Vec::new();
    for &(name, class, kind) in NAMED.iter().chain(INSIDE) {
        assert!(is_class(class));
        assert_eq!(is_named(name), NAMED.iter().any(|named| named.0 == name));
        stands(&sim, FaultRule::Fault(name), "RequestStateChange").await;
        let error = ask(&sim, vm).await.unwrap_err();
        sim.ctl(Command::FaultClear).await;
        // It comes with HTTP 503, as of a proxy, and is told as that.
        if name == FaultName::EndpointUnavailable {
            let text = error.to_string();
            assert!(text.contains("HTTP status 503"), "{text}");
            assert_eq!(error.kind(), kind, "{text}");
            seen.push(class);
            continue;
        }
        assert_eq!(
            error.fault_class(),
            Some(class),
            "{name}: {}",
            chain(&error)
        );
        let words = match class {
            FaultClass::AccessDenied if name == FaultName::AccessDenied => "Access is denied",
            _ => "a fault rule says so",
        };
        check(&error, kind, &["RequestStateChange", words]);
        seen.push(class);
    }
    let missed: Vec<_> = CLASSES
        .iter()
        .filter(|class| !seen.contains(class))
        .collect();
    assert!(missed.is_empty(), "given by nothing: {missed:?}");
    assert_eq!(sim.host.power(vm).await.unwrap().0, PowerState::Off);
}

async fn stands(sim: &Sim, rule: FaultRule, on: &str) {
    let spec = FaultSpec {
        rule,
        on: Some(on.to_owned()),
        times: None,
        vm: None,
    };
    sim.ctl(Command::FaultAdd(spec)).await;
}

/// Asks a VM to start and does not look whether it did.
async fn ask(sim: &Sim, vm: VmId) -> Result<Properties, Error> {
    let system = Epr::new("root/virtualization/v2", "Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", vm.to_string());
    let parameters = Properties::new().with("RequestedState", 2_u16);
    sim.host
        .session()
        .invoke(&system, "RequestStateChange", parameters)
        .await
}

/// What becomes of a start of a VM while a rule strikes its call.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It runs, and the driver says so.
    Runs,
    /// The driver tells an error of this kind.
    Fails(ErrorKind),
}

fn outcome(rule: FaultRule) -> Outcome {
    match rule {
        // Not carried out, and said so.
        FaultRule::AccessDenied | FaultRule::Unauthorized => {
            Outcome::Fails(ErrorKind::AccessDenied)
        }
        FaultRule::EnvelopeLimit | FaultRule::JobFailed | FaultRule::JobTerminated => {
            Outcome::Fails(ErrorKind::Failed)
        }
        FaultRule::ReturnCode(_) | FaultRule::JobFailedWith(_) | FaultRule::Fault(_) => {
            unreachable!("they have tables of their own")
        }
        // Carried out, and yet reported as failed: the host has the last word.
        FaultRule::JobFailedAfter => Outcome::Fails(ErrorKind::Failed),
        // Nothing came of it, and nobody can know before a look.
        FaultRule::ConnectionLostBefore => Outcome::Fails(ErrorKind::ResultUnknown),
        // It passes, or the look shows that it was carried out.
        FaultRule::Busy
        | FaultRule::QuotaLimit
        | FaultRule::SlowReply
        | FaultRule::TimedOut
        | FaultRule::ConnectionLostAfter
        | FaultRule::JobWarnings
        | FaultRule::JobSuspended
        | FaultRule::JobVanishes
        | FaultRule::AssociationMissing => Outcome::Runs,
        // Rules of other operations.
        FaultRule::StaleContext
        | FaultRule::AppConsistencyFailed
        | FaultRule::RctIdUnknown
        | FaultRule::ChangesOmitted
        | FaultRule::MergeNeverEnds
        | FaultRule::DiskFull => Outcome::Runs,
    }
}

#[tokio::test]
async fn every_rule_has_its_outcome() {
    let sim = Sim::start(false).await;
    sim.set("slow_millis", "50").await;
    sim.set("suspend_millis", "50").await;
    for (n, &rule) in FaultRule::PLAIN.iter().enumerate() {
        let vm = sim.add_vm(&format!("vm{n}"), 2, 1).await;
        sim.fault(rule, "RequestStateChange").await;
        let found = match sim.host.start(vm).await {
            Ok(()) => {
                let power = sim.host.power(vm).await.unwrap().0;
                assert_eq!(power, PowerState::Running, "{rule}");
                Outcome::Runs
            }
            Err(error) => Outcome::Fails(error.kind()),
        };
        assert_eq!(found, outcome(rule), "{rule}");
        sim.ctl(Command::FaultClear).await;
    }
}
