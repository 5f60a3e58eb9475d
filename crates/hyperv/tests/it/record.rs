//! Recordings of a session against the simulated host: they name nobody, and the host they were made of agrees with them.

#![expect(
    clippy::unwrap_used,
    reason = "what a test does in a function of its own may fail it"
)]

use std::sync::Arc;

use hyperv::Recorder;
use hyperv_sim::ctl::PowerAction;
use hyperv_sim::replay::{DifferenceKind, Report, check};
use model::ConsistencyWish;
use wsman::{Epr, uri};

use crate::sim::{Sim, mark};

/// Lets a driver do what an inventory and a backup do, and returns the recording with what must not be in it.
async fn recorded(nil_arrays: bool) -> (String, Vec<String>) {
    let sim = Sim::start(nil_arrays).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.jsonl");
    let recorder = Arc::new(Recorder::create(&file).unwrap());
    sim.host.session().record(Arc::clone(&recorder));

    let vm = sim.add_vm("Payroll Z\u{FC}rich", 2, 2).await;
    sim.power(vm, PowerAction::On).await;
    sim.user_checkpoint(vm, "before M\u{FC}ller").await;
    let facts = sim.host.facts().await.unwrap();
    sim.host.session().identify().await.unwrap();
    let vms = sim.host.vms().await.unwrap();
    sim.host.checkpoints(vm).await.unwrap();
    sim.host.vm(vm).await.unwrap();
    for (_, _, path) in vms[0].config.disks() {
        sim.host.disk_chain(path).await.unwrap();
    }
    let taken = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::PreferApplication, mark(1))
        .await
        .unwrap();
    let point = sim
        .host
        .convert_to_reference_point(vm, &taken.id, &[])
        .await
        .unwrap();
    let session = sim.host.session();
    let unknown =
        Epr::new(uri::NS_VIRTUALIZATION, "Msvm_ConcreteJob").with("InstanceID", vm.to_string());
    session.get(&unknown).await.unwrap_err();
    session
        .query(uri::NS_VIRTUALIZATION, "SELECT * FROM Msvm_Nothing")
        .await
        .unwrap_err();
    session
        .query(uri::NS_VIRTUALIZATION, "SELECT FROM")
        .await
        .unwrap_err();
    session
        .query_eprs(
            uri::NS_VIRTUALIZATION,
            "SELECT * FROM Msvm_VirtualSystemManagementService",
        )
        .await
        .unwrap();
    assert!(recorder.finish().unwrap() > 20);

    let private = [
        "payroll".to_owned(),
        "z\u{FC}rich".to_owned(),
        "m\u{FC}ller".to_owned(),
        "hv01".to_owned(),
        "127.0.0.1".to_owned(),
        "reprise".to_owned(),
        vm.to_string().to_lowercase(),
        facts.id.to_string().to_lowercase(),
        point.id.to_lowercase(),
        taken.id.trim_start_matches("Microsoft:").to_lowercase(),
    ];
    (std::fs::read_to_string(&file).unwrap(), private.into())
}

fn kinds(report: &Report) -> Vec<(DifferenceKind, &str)> {
    let found = report.differences.iter();
    found
        .map(|difference| (difference.kind, difference.what.as_str()))
        .collect()
}

#[tokio::test]
async fn a_recording_names_nobody_and_its_host_agrees_with_it() {
    let (text, private) = recorded(false).await;
    // The first line says which program wrote it.
    let exchanges = text.split_once('\n').unwrap().1;
    let plain = exchanges
        .to_lowercase()
        .replace("\\\\", "\\")
        .replace("&amp;", "&");
    for private in private {
        assert!(
            !plain.contains(&private),
            "{private} is in the recording: {}",
            around(&plain, &private)
        );
    }
    let report = check(&text).unwrap();
    assert_eq!(kinds(&report), [], "{report:#?}");
    assert!(report.compared > 20 && report.live > 5, "{report:?}");
}

fn around<'a>(text: &'a str, found: &str) -> &'a str {
    let at = text.find(found).unwrap_or(0);
    let from = (0..at.saturating_sub(200))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    let to = (at + 200..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    &text[from..to]
}

#[tokio::test]
async fn what_another_host_does_differently_is_named() {
    let (text, _) = recorded(true).await;
    let report = check(&text).unwrap();
    let nil = |(kind, _): &(DifferenceKind, &str)| *kind == DifferenceKind::NullForm;
    assert!(
        !kinds(&report).is_empty() && kinds(&report).iter().all(nil),
        "{report:#?}"
    );

    let (text, _) = recorded(false).await;
    let element = "<p:HealthState>5</p:HealthState>";
    assert!(text.contains(element), "an object has a health");
    for (from, to, kind, what) in [
        (
            element,
            "<p:HealthState>5</p:HealthState><p:Odd>x</p:Odd>",
            DifferenceKind::UnknownProperty,
            ".Odd",
        ),
        (element, "", DifferenceKind::MissingProperty, ".HealthState"),
        (
            element,
            "<p:HealthState>well</p:HealthState>",
            DifferenceKind::Type,
            ".HealthState",
        ),
        (
            element,
            "<p:HealthState>5</p:HealthState><p:HealthState>6</p:HealthState>",
            DifferenceKind::ArrayForm,
            ".HealthState",
        ),
        (
            "<s:Value>a:DestinationUnreachable</s:Value>",
            "<s:Value>w:InternalError</s:Value>",
            DifferenceKind::Fault,
            "SELECT * FROM",
        ),
        (
            "<p:ReturnValue>0</p:ReturnValue>",
            "<p:ReturnValue>77</p:ReturnValue>",
            DifferenceKind::ReturnCode,
            "Get",
        ),
    ] {
        assert!(text.contains(from), "{from} is in the recording");
        let report = check(&text.replacen(from, to, 1)).unwrap();
        let found = kinds(&report);
        assert!(
            found
                .iter()
                .any(|(found, about)| *found == kind && about.contains(what)),
            "{kind:?} of {what}: {report:#?}"
        );
    }
}

#[test]
fn a_recording_never_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    std::fs::write(&file, "mine").unwrap();
    assert!(Recorder::create(&file).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
