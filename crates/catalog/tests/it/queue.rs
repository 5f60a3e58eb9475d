//! The queue: who gets what, what holds jobs back, what a restart leaves.

use std::collections::HashSet;

use ::jobs::{JobKind, StateName};
use catalog::{NewJob, Target};
use model::{AgentId, VmId};

use crate::support::{World, someone};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claimers_get_different_jobs() {
    let world = World::ready().await;
    for n in 0..4 {
        let mut job = world.new_job(JobKind::Backup);
        job.vm = Some(Target {
            id: VmId::random(),
            name: format!("vm{n}"),
        });
        world
            .catalog
            .create_jobs(&[job], None, &someone(), world.now())
            .await
            .unwrap();
    }
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (catalog, agent, now) = (world.catalog.clone(), world.agent, world.now());
            tokio::spawn(async move {
                catalog
                    .claim_next(agent, now)
                    .await
                    .unwrap()
                    .map(|(job, _)| job.id)
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for task in tasks {
        claimed.extend(task.await.unwrap());
    }
    assert_eq!(claimed.len(), 4);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_get_different_jobs() {
    let world = World::empty().await;
    for _ in 0..6 {
        world.queue(JobKind::VerifyPoint).await;
    }
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (catalog, now) = (world.catalog.clone(), world.now());
            let server = format!("server-{n}");
            tokio::spawn(async move {
                catalog
                    .claim_next_for_server(&server, now)
                    .await
                    .unwrap()
                    .map(|(job, _)| job.id)
            })
        })
        .collect();
    let mut claimed = HashSet::new();
    for task in tasks {
        if let Some(id) = task.await.unwrap() {
            assert!(claimed.insert(id), "{id} was handed out twice");
        }
    }
    assert_eq!(claimed.len(), 6);
}

#[tokio::test]
async fn a_restore_goes_before_backups_and_older_before_newer() {
    let world = World::ready().await;
    let queue = async |kind, name: &str| {
        world.pass(1);
        let mut job = world.new_job(kind);
        job.vm = Some(Target {
            id: VmId::random(),
            name: name.into(),
        });
        let created = world
            .catalog
            .create_jobs(&[job], None, &someone(), world.now())
            .await
            .unwrap();
        created.jobs[0].id
    };
    let first = queue(JobKind::Backup, "a").await;
    let second = queue(JobKind::Backup, "b").await;
    let restore = queue(JobKind::Restore, "c").await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(world.claim().await.0.id);
    }
    assert_eq!(order, [restore, first, second]);
}

#[tokio::test]
async fn a_busy_vm_and_a_busy_host_hold_jobs_back_and_are_named() {
    let world = World::ready().await;
    world.backing_up().await;
    let restore = world.queue(JobKind::Restore).await;
    assert_eq!(restore.cause().unwrap().as_str(), "vm-busy");
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    for n in 0..3 {
        let mut job = world.new_job(JobKind::Backup);
        job.vm = Some(Target {
            id: VmId::random(),
            name: format!("vm{n}"),
        });
        world
            .catalog
            .create_jobs(&[job], None, &someone(), world.now())
            .await
            .unwrap();
        world.claim().await;
    }
    let mut job = world.new_job(JobKind::Backup);
    job.vm = Some(Target {
        id: VmId::random(),
        name: "one too many".into(),
    });
    let created = world
        .catalog
        .create_jobs(&[job], None, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(created.jobs[0].cause().unwrap().as_str(), "host-busy");
}

/// S9, S10, S11: the wish waits for the agent, says why, and runs by itself.
#[tokio::test]
async fn a_job_waits_for_an_absent_then_unready_agent_across_a_restart() {
    let mut world = World::ready().await;
    world.pass(3600);
    let job = world.queue(JobKind::Restore).await;
    assert_eq!(job.cause().unwrap().as_str(), "agent-offline");
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    world.reopen().await;
    let mut poll = world.poll_of("second");
    poll.not_ready = Some("path map: D:\\ is not mounted".into());
    world
        .catalog
        .agent_polled(world.agent, &poll, world.now())
        .await
        .unwrap();
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        world.catalog.sweep(world.now()).await.unwrap().recaused,
        [job.id]
    );
    let waiting = world.job(job.id).await;
    assert_eq!(
        waiting.cause().unwrap().to_string(),
        "agent-not-ready: path map: D:\\ is not mounted"
    );
    world.pass(6 * 24 * 3600);
    world
        .catalog
        .agent_polled(world.agent, &world.poll_of("second"), world.now())
        .await
        .unwrap();
    let (running, _) = world.claim().await;
    assert_eq!(running.id, job.id);
    assert_eq!(world.audited("agent.not-ready").await, 1);
    assert_eq!(world.audited("agent.ready").await, 1);
}

#[tokio::test]
async fn a_job_that_waited_too_long_expires_and_never_runs() {
    let world = World::ready().await;
    let job = world.queue(JobKind::Restore).await;
    world.pass(7 * 24 * 3600);
    // Even before anyone swept.
    world.poll().await;
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        world.catalog.sweep(world.now()).await.unwrap().expired,
        [job.id]
    );
    assert_eq!(world.job(job.id).await.state(), StateName::Expired);
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        world.catalog.sweep(world.now()).await.unwrap(),
        catalog::Swept::default()
    );
}

#[tokio::test]
async fn queue_and_leases_survive_a_restart() {
    let mut world = World::ready().await;
    let (running, session) = world.backing_up().await;
    let waiting = world.queue(JobKind::Restore).await;
    world.pass(20);
    world.reopen().await;
    let (before, after) = (running, world.job(session.job).await);
    assert_eq!(
        (after.state(), after.lease()),
        (StateName::Running, before.lease())
    );
    assert_eq!(
        world.job(waiting.id).await.cause().unwrap().as_str(),
        "vm-busy"
    );
    world.report(&after, &[]).await.unwrap();
    assert_eq!(
        world
            .catalog
            .live_session(session.id, world.now())
            .await
            .unwrap(),
        session
    );
    world.audit_is_whole().await;
}

#[tokio::test]
async fn lost_too_often_a_job_fails() {
    let world = World::ready().await;
    let job = world.queue(JobKind::Restore).await;
    for attempt in 1..=3 {
        let (claimed, lease) = world.claim().await;
        assert_eq!((claimed.id, lease.attempt), (job.id, attempt));
        world.pass(60);
        world.poll().await;
        assert_eq!(
            world.catalog.sweep(world.now()).await.unwrap().lost,
            [job.id]
        );
    }
    let job = world.job(job.id).await;
    assert_eq!(job.error().unwrap().code, "lease-lost");
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_server_that_starts_anew_gives_its_own_jobs_back() {
    let world = World::empty().await;
    let job = world.queue(JobKind::VerifyPoint).await;
    let (_, lease) = world
        .catalog
        .claim_next_for_server("a", world.now())
        .await
        .unwrap()
        .unwrap();
    assert!(
        world
            .catalog
            .server_started("b", world.now())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        world
            .catalog
            .server_started("a", world.now())
            .await
            .unwrap(),
        [job.id]
    );
    let again = world
        .catalog
        .report(job.id, lease.fence, &[], None, None, world.now())
        .await;
    assert!(again.is_err());
    assert!(
        world
            .catalog
            .claim_next_for_server("b", world.now())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn an_agent_gets_only_jobs_of_its_own_host() {
    let world = World::ready().await;
    world.queue(JobKind::Backup).await;
    let stranger = AgentId::random();
    world.enrol(stranger).await.unwrap();
    assert!(
        world
            .catalog
            .claim_next(stranger, world.now())
            .await
            .unwrap()
            .is_none()
    );
    let host = None;
    let no_host = NewJob {
        host,
        ..world.new_job(JobKind::Backup)
    };
    assert!(
        world
            .catalog
            .create_jobs(&[no_host], None, &someone(), world.now())
            .await
            .is_err()
    );
    world
        .catalog
        .revoke_agent(world.agent, &someone(), world.now())
        .await
        .unwrap();
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    world.catalog.sweep(world.now()).await.unwrap();
}

#[tokio::test]
async fn not_before_a_time_means_not_before_it() {
    let world = World::ready().await;
    let mut job = world.new_job(JobKind::Backup);
    job.not_before = Some(world.now().plus_secs(50));
    let created = world
        .catalog
        .create_jobs(&[job], None, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(created.jobs[0].cause().unwrap().as_str(), "window");
    world.pass(49);
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    world.pass(1);
    world.claim().await;
}
