//! One job at a time: leases, fences, ends.

use ::jobs::{CancelEffect, Ending, ErrorKind as JobErrorKind, JobKind, StateName, StepState};
use catalog::{ErrorKind, MarkVerdict};
use model::{Fence, JobId, VmId};

use crate::support::{World, failure, someone};

#[tokio::test]
async fn a_backup_without_a_point_has_not_succeeded() {
    let world = World::ready().await;
    let (job, _) = world.backing_up().await;
    assert_eq!(
        world
            .finish(&job, Ending::Succeeded)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Refused
    );
    let failed = world
        .finish(&job, failure(JobErrorKind::Full))
        .await
        .unwrap()
        .job;
    assert_eq!(failed.state(), StateName::Failed);
    assert_eq!(failed.error().unwrap().code, "host-down");
}

#[tokio::test]
async fn only_the_current_fence_writes() {
    let world = World::ready().await;
    let (first, session) = world.backing_up().await;
    let (id, old) = (first.id, first.life.fence);
    world.pass(61);
    assert_eq!(world.catalog.sweep(world.now()).await.unwrap().lost, [id]);
    world.poll().await;
    let (second, lease) = world.claim().await;
    assert_eq!((second.id, lease.fence, lease.attempt), (id, Fence(2), 2));
    let now = world.now();
    let catalog = &world.catalog;
    let refused = [
        catalog
            .report(id, old, &[], None, None, now)
            .await
            .map(drop),
        catalog
            .finish(id, old, Ending::Succeeded, None, now)
            .await
            .map(drop),
        catalog
            .open_session(id, old, catalog::SessionKind::Backup, &[], now)
            .await
            .map(drop),
        catalog.live_session(session.id, now).await.map(drop),
        catalog.pin_packs(session.id, &[], now).await.map(drop),
        catalog
            .register_pack(Some(session.id), &crate::support::pack(1), now)
            .await
            .map(drop),
        catalog
            .void_bases(id, old, world.vm.id, &[], "x", now)
            .await,
        catalog
            .replace_bases(id, old, model::PointId::random(), &[], now)
            .await,
        world
            .begin(&session, &world.point(&first), &[])
            .await
            .map(drop),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced, "write {n}");
    }
    for fence in [Fence(0), Fence(3)] {
        let result = catalog.report(id, fence, &[], None, None, now).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
    }
    assert_eq!(catalog.newest_pack_sequence().await.unwrap(), 0);
    assert!(catalog.open_sessions().await.unwrap().is_empty());
    catalog
        .report(id, Fence(2), &[], None, None, now)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lease_that_is_over_is_over_even_before_anyone_noticed() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    world.pass(59);
    world.report(&job, &[]).await.unwrap();
    world.pass(60);
    assert_eq!(
        world.report(&job, &[]).await.unwrap_err().kind(),
        ErrorKind::Fenced
    );
    let begin = world.begin(&session, &world.point(&job), &[]).await;
    assert_eq!(begin.unwrap_err().kind(), ErrorKind::Fenced);
    let end = world.finish(&job, failure(JobErrorKind::Bug)).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_job_cancelled_in_the_queue_never_runs() {
    let world = World::ready().await;
    let job = world.queue(JobKind::Restore).await;
    let (job, effect) = world
        .catalog
        .cancel_job(job.id, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(
        (job.state(), effect),
        (StateName::Cancelled, CancelEffect::Cancelled)
    );
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    let again = world
        .catalog
        .cancel_job(job.id, &someone(), world.now())
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    assert_eq!(job.steps.last().unwrap().state, StepState::Failed);
}

#[tokio::test]
async fn a_running_job_is_told_of_its_end_and_then_ends() {
    let world = World::ready().await;
    let (job, _) = world.backing_up().await;
    let (_, effect) = world
        .catalog
        .cancel_job(job.id, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(effect, CancelEffect::Requested);
    let outcome = world
        .catalog
        .report(job.id, Fence(1), &[], None, None, world.now())
        .await
        .unwrap();
    assert!(outcome.cancel);
    let mut poll = world.poll_of("first");
    poll.running = vec![job.id, JobId::random()];
    let polled = world
        .catalog
        .agent_polled(world.agent, &poll, world.now())
        .await
        .unwrap();
    assert_eq!(polled.stop, poll.running, "the cancelled and the unknown");
    let ended = world.finish(&job, Ending::Cancelled).await.unwrap().job;
    assert_eq!(ended.state(), StateName::Cancelled);
    assert!(world.catalog.open_sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_after_a_pause() {
    let world = World::ready().await;
    let (job, _) = world.backing_up().await;
    let again = world
        .finish(&job, failure(JobErrorKind::Retry))
        .await
        .unwrap()
        .job;
    assert_eq!(
        (again.state(), again.cause().unwrap().as_str()),
        (StateName::Queued, "window")
    );
    assert!(
        world
            .catalog
            .claim_next(world.agent, world.now())
            .await
            .unwrap()
            .is_none()
    );
    for pause in [30, 60] {
        world.pass(pause);
        world.poll().await;
        let (job, _) = world.claim().await;
        world
            .finish(&job, failure(JobErrorKind::Retry))
            .await
            .unwrap();
    }
    let failed = world.job(job.id).await;
    assert_eq!(
        (failed.state(), failed.life.attempt),
        (StateName::Failed, 3)
    );
}

#[tokio::test]
async fn an_attempt_that_met_a_host_that_is_not_ready_waits_and_says_why() {
    let world = World::ready().await;
    let job = world.queue(JobKind::Restore).await;
    for _ in 0..6 {
        let (job, _) = world.claim().await;
        let reason = "vmms is not running".to_owned();
        let job = world
            .finish(&job, Ending::NotReady { reason })
            .await
            .unwrap()
            .job;
        assert_eq!(
            job.cause().unwrap().to_string(),
            "agent-not-ready: vmms is not running"
        );
        world.catalog.sweep(world.now()).await.unwrap();
        assert_eq!(
            world.job(job.id).await.cause().unwrap().as_str(),
            "agent-not-ready"
        );
        world.pass(30);
        world.poll().await;
    }
    assert_eq!(world.job(job.id).await.life.failures, 0);
}

#[tokio::test]
async fn a_restarted_agent_loses_its_jobs_at_once() {
    let world = World::ready().await;
    let (job, _) = world.backing_up().await;
    let polled = world
        .catalog
        .agent_polled(world.agent, &world.poll_of("second"), world.now())
        .await
        .unwrap();
    assert_eq!(polled.taken_back, [job.id]);
    assert_eq!(
        world.report(&job, &[]).await.unwrap_err().kind(),
        ErrorKind::Fenced
    );
    let (again, lease) = world.claim().await;
    assert_eq!((again.id, lease.fence), (job.id, Fence(2)));
    let verdict = async |fence, vm| {
        world
            .catalog
            .judge_mark(job.id, fence, vm, world.now())
            .await
            .unwrap()
    };
    assert_eq!(verdict(Fence(1), world.vm.id).await, MarkVerdict::Dead);
    assert_eq!(verdict(Fence(2), world.vm.id).await, MarkVerdict::Alive);
    assert_eq!(verdict(Fence(2), VmId::random()).await, MarkVerdict::Dead);
    let unknown = world
        .catalog
        .judge_mark(JobId::random(), Fence(1), world.vm.id, world.now())
        .await;
    assert_eq!(unknown.unwrap(), MarkVerdict::Dead);
}
