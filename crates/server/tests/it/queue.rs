//! Jobs between people and agents: waiting, handing out, fences, calling off, restarts.

use api::agent_v1::{EventKind, Outcome, Readiness, Work};
use api::v1::{Job, Jobs, PolicySpec, ProtectRequest, Role, Vm};
use api_client::People;
use model::{Fence, HostId, JobId, VmId};

use crate::support::{FakeAgent, TestServer, code};

async fn with_vm() -> (TestServer, FakeAgent, VmId) {
    let server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let vm = VmId::random();
    agent.list_vm(vm, "web01").await;
    (server, agent, vm)
}

#[tokio::test]
async fn a_held_poll_gets_work_as_soon_as_there_is_some() {
    let (server, agent, vm) = with_vm().await;
    let (job, assignment) = tokio::join!(server.start_backup(vm, false), agent.next_work());
    assert_eq!(assignment.job, job);
    let Work::Backup(work) = assignment.work else {
        panic!("not a backup")
    };
    assert_eq!(
        (work.vm, work.vm_name.as_str(), work.full),
        (vm, "web01", false)
    );
    let found = server.job(job).await;
    assert_eq!((found.state.as_str(), found.attempt), ("running", 1));
    let steps: Vec<(&str, &str)> = found
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.state.as_str()))
        .collect();
    assert_eq!(steps, [("request", "done"), ("agent", "done")]);
}

#[tokio::test]
async fn work_whose_reply_was_lost_is_handed_out_again() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let lost = agent.poll(&[]).await.assignment.unwrap();
    let again = agent.poll(&[]).await.assignment.unwrap();
    assert_eq!((again.job, again.fence), (lost.job, lost.fence));
    assert!(agent.poll(&[lost.job]).await.assignment.is_none());
    // Once it was heard of, it is not handed out again.
    assert!(agent.poll(&[]).await.assignment.is_none());
}

#[tokio::test]
async fn s11_an_agent_that_is_not_ready_gets_no_work_and_the_job_says_why() {
    let (server, agent, vm) = with_vm().await;
    let mut request = agent.poll_request(&[]);
    request.readiness = Readiness::NotReady {
        reason: "vmms does not answer".into(),
    };
    agent.client.poll(&request).await.unwrap();
    let job = server.start_backup(vm, false).await;
    assert!(
        agent
            .client
            .poll(&request)
            .await
            .unwrap()
            .assignment
            .is_none()
    );
    let found = server.job(job).await;
    assert_eq!(found.cause.as_deref(), Some("agent-not-ready"));
    assert_eq!(found.cause_detail.as_deref(), Some("vmms does not answer"));
    assert_eq!(agent.poll(&[]).await.assignment.unwrap().job, job);
}

#[tokio::test]
async fn an_old_fence_changes_nothing() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let mut assignment = agent.poll(&[]).await.assignment.unwrap();
    let current = assignment.fence;
    for wrong in [Fence(current.0 - 1), Fence(current.0 + 1)] {
        assignment.fence = wrong;
        let note = vec![EventKind::Note {
            text: "late".into(),
        }];
        assert_eq!(code(agent.report(&assignment, 1, note).await), "fenced");
        assert_eq!(
            code(agent.finish(&assignment, Outcome::Succeeded).await),
            "fenced"
        );
    }
    // The job of another agent, with the right fence.
    assignment.fence = current;
    let other = server.enrol(HostId::random()).await;
    assert_eq!(
        code(other.finish(&assignment, Outcome::Cancelled).await),
        "fenced"
    );
    let found = server.job(assignment.job).await;
    assert_eq!(found.state, "running");
    let failed = Outcome::Failed {
        code: "host-error".into(),
        message: "no".into(),
        hint: Some("look".into()),
        retry: false,
    };
    agent.finish(&assignment, failed.clone()).await.unwrap();
    let ended = server.job(assignment.job).await;
    assert_eq!(
        (ended.state.as_str(), ended.error.unwrap().code.as_str()),
        ("failed", "host-error")
    );
    // The same end again is no error, another word after the end is.
    agent.finish(&assignment, failed).await.unwrap();
    assert_eq!(
        code(agent.report(&assignment, 2, Vec::new()).await),
        "fenced"
    );
}

#[tokio::test]
async fn one_backup_of_a_vm_at_a_time() {
    let (server, _agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let request = api::v1::BackupRequest {
        vms: vec!["web01".into()],
        full: false,
        method: None,
    };
    let second = server
        .admin()
        .post::<_, Jobs>("/backups", &request, None)
        .await;
    assert_eq!(code(second), "conflict");
}

#[tokio::test]
async fn a_cancelled_job_never_runs() {
    let (server, agent, vm) = with_vm().await;
    let job = server.start_backup(vm, false).await;
    let operator = server.with_role(Role::Operator).await;
    let people = People::new(&server.url(), &server.trust(), Some(operator)).unwrap();
    let path = format!("/jobs/{job}/cancel");
    let cancelled: Job = people.post(&path, &(), None).await.unwrap();
    assert_eq!(cancelled.state, "cancelled");
    assert!(agent.poll(&[]).await.assignment.is_none());
    assert_eq!(
        code(people.post::<_, Job>(&path, &(), None).await),
        "conflict"
    );
}

#[tokio::test]
async fn a_running_job_is_told_to_stop() {
    let (server, agent, vm) = with_vm().await;
    let job = server.start_backup(vm, false).await;
    let assignment = agent.poll(&[]).await.assignment.unwrap();
    let mut held = agent.poll_request(&[job]);
    held.wait_secs = 20;
    let cancel = async {
        let path = format!("/jobs/{job}/cancel");
        server
            .admin()
            .post::<_, Job>(&path, &(), None)
            .await
            .unwrap()
    };
    let (reply, asked) = tokio::join!(agent.client.poll(&held), cancel);
    assert_eq!(asked.state, "running");
    assert_eq!(reply.unwrap().stop, [job]);
    assert!(
        agent
            .report(&assignment, 1, Vec::new())
            .await
            .unwrap()
            .cancel
    );
    agent.finish(&assignment, Outcome::Cancelled).await.unwrap();
    assert_eq!(server.job(job).await.state, "cancelled");
}

#[tokio::test]
async fn a_restarted_agent_gets_its_job_anew_with_a_higher_fence() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let first = agent.poll(&[]).await.assignment.unwrap();
    let restarted = agent.moved_to(&server, "two");
    let second = restarted.poll(&[]).await.assignment.unwrap();
    assert_eq!(second.job, first.job);
    assert!(second.fence > first.fence);
    assert_eq!(code(agent.report(&first, 1, Vec::new()).await), "fenced");
}

#[tokio::test]
async fn s11_the_queue_survives_a_restart() {
    let (mut server, agent, vm) = with_vm().await;
    let kept = server.start_backup(vm, true).await;
    let other = VmId::random();
    agent.list_vm(other, "db01").await;
    let dropped = server.start_backup(other, false).await;
    let path = format!("/jobs/{dropped}/cancel");
    server
        .admin()
        .post::<_, Job>(&path, &(), None)
        .await
        .unwrap();
    server.restart().await;
    let found = server.job(kept).await;
    assert_eq!(found.state, "queued");
    let agent = agent.moved_to(&server, "two");
    let assignment = agent.poll(&[]).await.assignment.unwrap();
    assert_eq!(assignment.job, kept);
    assert!(agent.poll(&[kept]).await.assignment.is_none());
}

#[tokio::test]
async fn s01_a_protected_vm_is_backed_up_by_its_schedule() {
    let (server, agent, vm) = with_vm().await;
    let admin = server.admin();
    let spec = PolicySpec {
        name: "hourly".into(),
        interval_secs: Some(3600),
        method: Some("rct".into()),
        consistency: None,
        keep_last: Some(3),
    };
    let _made: api::v1::Policy = admin.post("/policies", &spec, None).await.unwrap();
    let wish = ProtectRequest {
        policy: Some("hourly".into()),
        excluded: Some(vec!["c:\\VMS\\disk0.vhdx".into()]),
    };
    let vm_path = format!("/vms/{vm}/protection");
    let protected: Vm = admin.put(&vm_path, &wish).await.unwrap();
    assert!(protected.disks[0].excluded);
    let assignment = agent.next_work().await;
    let Work::Backup(work) = assignment.work else {
        panic!("not a backup")
    };
    assert_eq!(work.method, Some(model::Method::Rct));
    assert_eq!(work.excluded, ["C:\\vms\\disk0.vhdx"]);
    let job: Job = admin
        .get(&format!("/jobs/{}", assignment.job))
        .await
        .unwrap();
    assert_eq!(job.requested_by, "server");
    let unknown = ProtectRequest {
        policy: None,
        excluded: Some(vec!["D:\\other.vhdx".into()]),
    };
    assert_eq!(
        code(admin.put::<_, Vm>(&vm_path, &unknown).await),
        "bad-request"
    );
    admin.delete(&vm_path).await.unwrap();
}

#[tokio::test]
async fn steps_out_of_order_are_refused() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let assignment = agent.poll(&[]).await.assignment.unwrap();
    let start = |step: &str| vec![EventKind::StepStarted { step: step.into() }];
    assert_eq!(
        code(agent.report(&assignment, 1, start("publish")).await),
        "bad-request"
    );
    assert_eq!(
        code(agent.report(&assignment, 1, start("dance")).await),
        "bad-request"
    );
    agent.steps(&assignment, 1, &["checkpoint"]).await;
    // A report that comes twice adds nothing.
    agent.steps(&assignment, 1, &["checkpoint"]).await;
    assert_eq!(server.job(assignment.job).await.steps.len(), 3);
}

#[tokio::test]
async fn unknown_jobs_are_not_found() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let mut assignment = agent.poll(&[]).await.assignment.unwrap();
    assignment.job = JobId::random();
    assert_eq!(
        code(agent.report(&assignment, 1, Vec::new()).await),
        "not-found"
    );
}

#[tokio::test]
async fn a_job_that_has_ended_is_not_stopped_and_frees_its_slot() {
    let (server, agent, vm) = with_vm().await;
    server.start_backup(vm, false).await;
    let first = agent.next_work().await;
    let failed = Outcome::Failed {
        code: "host-error".into(),
        message: "no".into(),
        hint: None,
        retry: false,
    };
    agent.finish(&first, failed).await.unwrap();
    let second = server.start_backup(vm, false).await;
    // The agent has not dropped the first one from its list yet.
    let mut request = agent.poll_request(&[first.job]);
    request.slots = 1;
    let reply = agent.client.poll(&request).await.unwrap();
    assert_eq!(
        (reply.stop.len(), reply.assignment.unwrap().job),
        (0, second)
    );
}

#[tokio::test]
async fn looking_at_the_vms_asks_the_hosts_what_they_have() {
    let (server, agent, _vm) = with_vm().await;
    let mut request = agent.poll_request(&[]);
    request.wait_secs = 20;
    let other = VmId::random();
    let look = async {
        // Until the list is older than what counts as fresh, looking asks for nothing.
        loop {
            let page: api::v1::Page<Vm> = server.admin().get("/vms").await.unwrap();
            if page.items.iter().any(|found| found.id == other.to_string()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = async {
        while !agent.client.poll(&request).await.unwrap().inventory_wanted {}
        agent.list_vm(other, "new").await;
    };
    tokio::join!(look, answer);
}
