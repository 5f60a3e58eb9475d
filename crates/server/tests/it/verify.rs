//! Verification, damage, retention, the choice of a point.

use std::path::PathBuf;

use api::v1::{Job, Jobs, LogLine, Page, Point, PolicySpec, ProtectRequest, RestoreRequest, Vm};

use api_client::People;

use crate::support::{TestServer, code};
use crate::transfer::{back_up, with_vm};

async fn verify(server: &TestServer, point: &str) -> Job {
    let job: Job = server
        .admin()
        .post(&format!("/points/{point}/verify"), &(), None)
        .await
        .unwrap();
    let ended = |job: &Job| job.ended.is_some();
    server.wait_for(job.id.parse().unwrap(), ended).await
}

/// All packs in the vault, as files.
fn packs(server: &TestServer) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(server.data().join("vault/packs")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

fn damage(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    // Inside the first sealed entry.
    bytes[40] ^= 0x40;
    // The folder keeps its files read-only.
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_good_point_is_verified_by_the_server() {
    let (server, agent, vm, disk) = with_vm().await;
    let point = back_up(&server, &agent, (vm, disk), &[1, 2]).await;
    let job = verify(&server, &point.id.to_string()).await;
    assert_eq!(job.state, "succeeded", "{job:?}");
    assert_eq!(job.kind, "verify");
    let steps: Vec<&str> = job.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["request", "read", "verify"]);
    let found: Point = server
        .admin()
        .get(&format!("/points/{}", point.id))
        .await
        .unwrap();
    assert!(found.verified.is_some());
}

#[tokio::test]
async fn s02_latest_passes_over_a_damaged_point_and_says_so() {
    let (server, agent, vm, disk) = with_vm().await;
    let old = back_up(&server, &agent, (vm, disk), &[1, 2]).await;
    let before = packs(&server);
    let new = back_up(&server, &agent, (vm, disk), &[3, 4]).await;
    let added: Vec<PathBuf> = packs(&server)
        .into_iter()
        .filter(|p| !before.contains(p))
        .collect();
    damage(&added[0]);
    let job = verify(&server, &new.id.to_string()).await;
    assert_eq!(
        (job.state.as_str(), job.error.unwrap().code.as_str()),
        ("failed", "damaged")
    );
    let found: Point = server
        .admin()
        .get(&format!("/points/{}", new.id))
        .await
        .unwrap();
    assert_eq!((found.state.as_str(), found.verified), ("damaged", None));
    let latest: Point = server.admin().get("/points/latest?vm=web01").await.unwrap();
    assert_eq!(latest.id, old.id.to_string());
    let request = RestoreRequest {
        vm: "web01".into(),
        ..RestoreRequest::default()
    };
    let jobs: Jobs = server
        .admin()
        .post("/restores", &request, None)
        .await
        .unwrap();
    assert_eq!(jobs.jobs[0].point.as_deref(), Some(latest.id.as_str()));
    let path = format!("/jobs/{}/log", jobs.jobs[0].id);
    let log: Page<LogLine> = server.admin().get(&path).await.unwrap();
    assert!(
        log.items
            .iter()
            .any(|line| line.text.contains(&new.id.to_string())),
        "{log:?}"
    );
    let path = format!("/jobs/{}/cancel", jobs.jobs[0].id);
    let _cancelled: Job = server.admin().post(&path, &(), None).await.unwrap();
    // Damaged chunks are not held any more, so that the next backup sends them again.
    let healed = back_up(&server, &agent, (vm, disk), &[3, 4]).await;
    assert_eq!(
        verify(&server, &healed.id.to_string()).await.state,
        "succeeded"
    );
}

#[tokio::test]
async fn only_the_newest_points_of_the_policy_are_kept() {
    let (server, agent, vm, disk) = with_vm().await;
    let spec = PolicySpec {
        name: "two".into(),
        interval_secs: None,
        method: None,
        consistency: None,
        keep_last: Some(2),
    };
    let _made: api::v1::Policy = server.admin().post("/policies", &spec, None).await.unwrap();
    let wish = ProtectRequest {
        policy: Some("two".into()),
        excluded: None,
    };
    let _vm: Vm = server
        .admin()
        .put("/vms/web01/protection", &wish)
        .await
        .unwrap();
    let mut made = Vec::new();
    for seed in 1..=3 {
        made.push(
            back_up(&server, &agent, (vm, disk), &[seed])
                .await
                .id
                .to_string(),
        );
    }
    let kept: Page<Point> = server.admin().get("/points").await.unwrap();
    let kept: Vec<String> = kept.items.into_iter().map(|point| point.id).collect();
    assert_eq!(kept, [made[2].clone(), made[1].clone()]);
    assert!(!server.data().join("vault/points").join(&made[0]).exists());
    let gone = server
        .admin()
        .get::<Point>(&format!("/points/{}", made[0]))
        .await;
    assert_eq!(code(gone), "not-found");
    server
        .admin()
        .delete(&format!("/points/{}", made[1]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_restore_names_things_that_exist() {
    let (server, agent, vm, disk) = with_vm().await;
    let nothing = RestoreRequest {
        vm: "web01".into(),
        ..RestoreRequest::default()
    };
    let none = server
        .admin()
        .post::<_, Jobs>("/restores", &nothing, None)
        .await;
    assert_eq!(code(none), "not-found");
    back_up(&server, &agent, (vm, disk), &[1]).await;
    let base = || RestoreRequest {
        vm: "web01".into(),
        ..RestoreRequest::default()
    };
    let cases = [
        (
            "not-found",
            RestoreRequest {
                vm: "web02".into(),
                ..base()
            },
        ),
        (
            "not-found",
            RestoreRequest {
                point: Some("yesterday".into()),
                ..base()
            },
        ),
        (
            "not-found",
            RestoreRequest {
                disks: vec!["other.vhdx".into()],
                ..base()
            },
        ),
        (
            "not-found",
            RestoreRequest {
                to: Some("HV99".into()),
                ..base()
            },
        ),
        (
            "bad-request",
            RestoreRequest {
                power: Some("maybe".into()),
                ..base()
            },
        ),
        (
            "bad-request",
            RestoreRequest {
                id: Some("mine".into()),
                ..base()
            },
        ),
        (
            "bad-request",
            RestoreRequest {
                folder: Some(String::new()),
                ..base()
            },
        ),
        (
            "bad-request",
            RestoreRequest {
                name: Some("a\u{0}b".into()),
                ..base()
            },
        ),
    ];
    for (expected, request) in cases {
        let refused = server
            .admin()
            .post::<_, Jobs>("/restores", &request, None)
            .await;
        assert_eq!(code(refused), expected, "{request:?}");
    }
}

#[tokio::test]
async fn s07_an_operator_neither_starts_nor_calls_off_a_restore() {
    let (server, agent, vm, disk) = with_vm().await;
    back_up(&server, &agent, (vm, disk), &[1]).await;
    let operator = server.with_role(api::v1::Role::Operator).await;
    let operator = People::new(&server.url(), &server.trust(), Some(operator)).unwrap();
    let request = RestoreRequest {
        vm: "web01".into(),
        ..RestoreRequest::default()
    };
    let refused = operator.post::<_, Jobs>("/restores", &request, None).await;
    assert_eq!(code(refused), "not-allowed");
    let jobs: Jobs = server
        .admin()
        .post("/restores", &request, None)
        .await
        .unwrap();
    let path = format!("/jobs/{}/cancel", jobs.jobs[0].id);
    assert_eq!(
        code(operator.post::<_, Job>(&path, &(), None).await),
        "not-allowed"
    );
    let cancelled: Job = server.admin().post(&path, &(), None).await.unwrap();
    assert_eq!(cancelled.state, "cancelled");
}

#[tokio::test]
async fn s09_a_restore_for_an_agent_that_is_away_waits_for_it() {
    let (mut server, agent, vm, disk) = with_vm().await;
    let point = back_up(&server, &agent, (vm, disk), &[1]).await;
    // A host that was never heard of: its agent does not exist yet.
    server
        .admin()
        .post_empty(&format!("/hosts/{}/revoke", agent.host.id))
        .await
        .unwrap();
    let request = RestoreRequest {
        vm: vm.to_string(),
        ..RestoreRequest::default()
    };
    let jobs: Jobs = server
        .admin()
        .post("/restores", &request, None)
        .await
        .unwrap();
    let job = &jobs.jobs[0];
    assert_eq!(
        (job.state.as_str(), job.cause.as_deref()),
        ("queued", Some("agent-offline"))
    );
    assert_eq!(job.host.as_ref().unwrap().id, agent.host.id.to_string());
    assert!(job.expires.is_some());
    server.restart().await;
    let anew = server.enrol(agent.host.id).await;
    let assignment = anew.next_work().await;
    assert_eq!(assignment.job.to_string(), job.id);
    let api::agent_v1::Work::Restore(work) = assignment.work else {
        panic!("not a restore")
    };
    assert_eq!(work.wish.point, point.id);
}
