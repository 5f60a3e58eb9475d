//! Jobs as a client sees them: their states, their end, their results, and what a client can do about them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hyperv_sim::ctl::{FaultRule, PowerAction};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{MIB, Sim, V2, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";

fn create(vm: &str) -> Properties {
    Properties::new()
        .with("AffectedSystem", system(vm))
        .with("SnapshotSettings", "")
        .with("SnapshotType", 2_u16)
}

fn job_of(outputs: &Properties) -> String {
    let job = outputs.epr("Job").expect("a job");
    job.get("InstanceID").unwrap().to_owned()
}

async fn try_job(sim: &Sim, id: &str) -> Option<Instance> {
    let query = format!("SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = '{id}'");
    sim.query(&query).await.pop()
}

async fn affected(sim: &Sim, id: &str) -> Vec<Instance> {
    sim.query(&format!(
        "REFERENCES OF {{Msvm_ConcreteJob.InstanceID='{id}'}} WHERE ResultClass = Msvm_AffectedJobElement"
    ))
    .await
}

async fn request(sim: &Sim, job: &str, state: u16) -> Option<u32> {
    let target = Epr::new(V2, "Msvm_ConcreteJob").with("InstanceID", job);
    let parameters = Properties::new()
        .with("RequestedState", state)
        .with("TimeoutPeriod", Value::Null);
    let outputs = sim
        .try_invoke(&target, "RequestStateChange", parameters)
        .await;
    outputs.unwrap().u32("ReturnValue")
}

async fn errors(sim: &Sim, job: &str) -> Vec<Instance> {
    let target = Epr::new(V2, "Msvm_ConcreteJob").with("InstanceID", job);
    let outputs = sim
        .try_invoke(&target, "GetErrorEx", Properties::new())
        .await
        .unwrap();
    let texts = outputs.texts("Errors");
    texts
        .iter()
        .map(|text| Instance::from_cim_xml(text).unwrap())
        .collect()
}

#[tokio::test]
async fn a_job_is_watched_from_its_start_to_its_end() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.set("job_millis", "900").await;
    sim.set("suspend_millis", "600").await;
    sim.fault(FaultRule::JobSuspended, Some("CreateSnapshot"), Some(1))
        .await;
    let outputs = sim
        .invoke(SNAPSHOTS, "CreateSnapshot", create(&vm.id))
        .await;
    assert_eq!(outputs.u32("ReturnValue"), Some(4096));
    assert!(outputs.get("ResultingSnapshot").is_null());
    let id = job_of(&outputs);
    let until = Instant::now() + Duration::from_secs(60);
    let (mut states, mut percents) = (Vec::new(), Vec::new());
    let last = loop {
        let job = try_job(&sim, &id).await.expect("it is kept for a while");
        states.push(job.u16("JobState").unwrap());
        percents.push(job.u16("PercentComplete").unwrap());
        if job.u16("JobState") == Some(7) {
            break job;
        }
        assert_eq!(job.bool("Cancellable"), Some(false));
        assert_eq!(job.u16("ErrorCode"), Some(0));
        assert!(Instant::now() < until);
    };
    states.dedup();
    // A slow machine may look too seldom to see them all; the order is the same.
    let mut all = [2, 3, 4, 5, 4, 7].into_iter();
    assert!(
        states.iter().all(|state| all.any(|there| there == *state)),
        "{states:?}"
    );
    assert!(
        states.contains(&5) && states.last() == Some(&7),
        "{states:?}"
    );
    assert!(
        percents.is_sorted() && percents.iter().collect::<BTreeSet<_>>().len() > 2,
        "{percents:?}"
    );
    assert_eq!(last.u16("PercentComplete"), Some(100));
    assert_eq!(last.u16("JobType"), Some(70));
    assert!(last.time("ElapsedTime").is_some() && last.time("TimeBeforeRemoval").is_some());
    let links = affected(&sim, &id).await;
    assert!(!links.is_empty());
    assert!(
        links
            .iter()
            .all(|link| link.u64s("ElementEffects") == Some(vec![5]))
    );
    assert!(errors(&sim, &id).await.is_empty());

    // Gone after its time, with its association.
    sim.set("job_kept_millis", "0").await;
    while try_job(&sim, &id).await.is_some() {
        assert!(Instant::now() < until);
    }
    assert_eq!(sim.checkpoints("a").await.len(), 1);
}

#[tokio::test]
async fn every_end_of_a_job_can_be_had() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    for (rule, state, code, done) in [
        (FaultRule::JobFailed, 10, 32768, false),
        (FaultRule::JobFailedWith(32779), 10, 32779, false),
        (FaultRule::JobFailedAfter, 10, 32768, true),
        (FaultRule::JobTerminated, 8, 32768, false),
        (FaultRule::JobWarnings, 32768, 0, true),
    ] {
        let before = sim.checkpoints("a").await.len();
        sim.fault(rule, Some("CreateSnapshot"), Some(1)).await;
        let job = sim.run(SNAPSHOTS, "CreateSnapshot", create(&vm.id)).await;
        assert_eq!(
            (job.u16("JobState"), job.u16("ErrorCode")),
            (Some(state), Some(code)),
            "{rule}"
        );
        let errors = errors(&sim, job.text("InstanceID").unwrap()).await;
        assert_eq!(errors.len(), 1, "{rule}");
        assert!(
            errors[0]
                .text("Message")
                .unwrap()
                .contains("CreateSnapshot")
                || state == 8,
            "{rule}"
        );
        assert_eq!(
            sim.checkpoints("a").await.len(),
            before + usize::from(done),
            "{rule}"
        );
    }
    // What was done can no longer be found.
    sim.fault(
        FaultRule::AssociationMissing,
        Some("CreateSnapshot"),
        Some(1),
    )
    .await;
    let job = sim.run(SNAPSHOTS, "CreateSnapshot", create(&vm.id)).await;
    assert!(
        affected(&sim, job.text("InstanceID").unwrap())
            .await
            .is_empty()
    );
    sim.fault(FaultRule::JobVanishes, Some("CreateSnapshot"), Some(1))
        .await;
    let before = sim.checkpoints("a").await.len();
    let id = job_of(
        &sim.invoke(SNAPSHOTS, "CreateSnapshot", create(&vm.id))
            .await,
    );
    let until = Instant::now() + Duration::from_secs(60);
    while try_job(&sim, &id).await.is_some() {
        assert!(Instant::now() < until);
    }
    sim.settle("a").await;
    assert_eq!(sim.checkpoints("a").await.len(), before + 1);
}

#[tokio::test]
async fn exports_and_merges_can_be_ended_and_others_cannot() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.set("job_millis", "30000").await;
    let settings = Instance::new("Msvm_VirtualSystemExportSettingData")
        .with("CopySnapshotConfiguration", 1_u8);
    let export = Properties::new()
        .with("ComputerSystem", system(&vm.id))
        .with("ExportDirectory", r"C:\Export")
        .with("ExportSettingData", Value::embedded(&settings));
    for (state, ended) in [(4, 8), (5, 9)] {
        let outputs = sim
            .invoke(SYSTEMS, "ExportSystemDefinition", export.clone())
            .await;
        let id = job_of(&outputs);
        let job = try_job(&sim, &id).await.unwrap();
        assert_eq!(
            (job.bool("Cancellable"), job.u16("JobType")),
            (Some(true), Some(62))
        );
        assert_eq!(sim.show("a").await.busy, ["exporting"]);
        assert_eq!(request(&sim, &id, state).await, Some(0));
        let job = sim.follow(&outputs).await;
        assert_eq!(job.u16("JobState"), Some(ended));
        assert!(!errors(&sim, &id).await.is_empty());
        assert_eq!(request(&sim, &id, state).await, Some(32775));
        assert!(sim.files(r"C:\Export\*").await.is_empty());
    }
    sim.set("job_millis", "0").await;

    // A merge that was ended begins anew after the next job of the VM.
    sim.power("a", PowerAction::On).await;
    sim.run(SNAPSHOTS, "CreateSnapshot", create(&vm.id)).await;
    sim.guest_write("a", 8 * MIB, 3, 4 * MIB).await;
    sim.fault(FaultRule::MergeNeverEnds, None, None).await;
    let checkpoint = sim.checkpoints("a").await.remove(0).id;
    let parameters =
        Properties::new().with("AffectedSnapshot", crate::support::settings(&checkpoint));
    sim.run(SNAPSHOTS, "DestroySnapshot", parameters).await;
    let until = Instant::now() + Duration::from_secs(60);
    let merge = loop {
        let query = "SELECT * FROM Msvm_ConcreteJob WHERE JobType = 50 AND JobState < 7";
        if let Some(job) = sim.query(query).await.pop() {
            break job;
        }
        assert!(Instant::now() < until);
    };
    let id = merge.text("InstanceID").unwrap().to_owned();
    assert_eq!(merge.bool("Cancellable"), Some(true));
    assert_eq!(request(&sim, &id, 4).await, Some(0));
    assert_eq!(sim.job_end(&id).await.u16("JobState"), Some(8));
    sim.settle("a").await;
    assert_eq!(sim.files("*.avhdx").await.len(), 1);
    let before = sim.guest_read("a").await;
    sim.ctl(hyperv_sim::ctl::Command::FaultClear).await;
    sim.power("a", PowerAction::Off).await;
    // The merge begins a moment after the machine is off.
    let until = Instant::now() + Duration::from_secs(60);
    while !sim.files("*.avhdx").await.is_empty() {
        assert!(Instant::now() < until);
        sim.settle("a").await;
    }
    assert!(sim.guest_read("a").await == before);
}

#[tokio::test]
async fn a_second_job_of_a_machine_is_refused_and_of_another_is_not() {
    let sim = Sim::start().await;
    let (a, b) = (sim.add_vm("a", 2).await, sim.add_vm("b", 2).await);
    sim.set("job_millis", "1000").await;
    let first = sim.invoke(SNAPSHOTS, "CreateSnapshot", create(&a.id)).await;
    let again = sim.invoke(SNAPSHOTS, "CreateSnapshot", create(&a.id)).await;
    assert_eq!(again.u32("ReturnValue"), Some(32775));
    let start = Properties::new()
        .with("RequestedState", 2_u16)
        .with("TimeoutPeriod", Value::Null);
    let outputs = sim
        .try_invoke(&system(&a.id), "RequestStateChange", start)
        .await
        .unwrap();
    assert_eq!(outputs.u32("ReturnValue"), Some(32775));
    let other = sim.invoke(SNAPSHOTS, "CreateSnapshot", create(&b.id)).await;
    assert_eq!(other.u32("ReturnValue"), Some(4096));
    assert_eq!(sim.follow(&first).await.u16("JobState"), Some(7));
    assert_eq!(sim.follow(&other).await.u16("JobState"), Some(7));
}
