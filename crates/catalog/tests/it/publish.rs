//! Publishing, and everything that can come in between.

use ::jobs::{Ending, ErrorKind as JobErrorKind, JobKind, StateName};
use catalog::{Actor, Begin, CatalogError, ErrorKind, MarkVerdict, PointState};
use model::{Fence, PointId};

use crate::support::{World, failure, someone};

#[tokio::test]
async fn a_point_is_there_only_once_it_is_committed() {
    let mut world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let packs = [world.pack(&session, 1).await, world.pack(&session, 2).await];
    let point = world.point(&job);
    assert_eq!(
        world.begin(&session, &point, &packs).await.unwrap(),
        Begin::Ready
    );
    assert!(world.catalog.point(point.id).await.is_err());
    assert_eq!(world.catalog.latest_point(world.vm.id).await.unwrap(), None);
    // The answer was lost: asking again is fine.
    assert_eq!(
        world.begin(&session, &point, &packs).await.unwrap(),
        Begin::Ready
    );
    world.reopen().await;
    let open = world
        .catalog
        .unsettled(world.now().plus_secs(1))
        .await
        .unwrap();
    assert_eq!((open.len(), &open[0].point), (1, &point));
    assert_eq!(
        world.catalog.publishing_packs(point.id).await.unwrap(),
        packs
    );
    let committed = world
        .catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(
        (committed.state, &committed.point),
        (PointState::Live, &point)
    );
    assert_eq!(
        (committed.size_bytes, committed.changed_bytes),
        (64 << 30, 1 << 30)
    );
    assert_eq!(
        world
            .catalog
            .commit_publish(point.id, &Actor::Server, world.now())
            .await
            .unwrap(),
        committed
    );
    assert_eq!(
        world.begin(&session, &point, &packs).await.unwrap(),
        Begin::Done
    );
    assert!(
        world
            .catalog
            .unsettled(world.now().plus_secs(1))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        world.catalog.latest_point(world.vm.id).await.unwrap(),
        Some(committed)
    );
    assert_eq!(
        world
            .finish(&job, Ending::Succeeded)
            .await
            .unwrap()
            .job
            .state(),
        StateName::Succeeded
    );
    assert_eq!(world.audited("point.publish").await, 1);
    world.audit_is_whole().await;
}

#[tokio::test]
async fn condemned_or_unknown_packs_are_sent_again() {
    let world = World::ready().await;
    let (_, old) = world.backing_up().await;
    let pack = world.pack(&old, 1).await;
    world
        .catalog
        .close_session(old.id, world.now())
        .await
        .unwrap();
    assert_eq!(
        world
            .catalog
            .condemn_packs(&[pack], &Actor::Server, world.now())
            .await
            .unwrap(),
        [pack]
    );
    let job = world.job(old.job).await;
    let session = world.open(&job, &[]).await.unwrap();
    let fresh = world.pack(&session, 2).await;
    let point = world.point(&job);
    let begun = world
        .begin(&session, &point, &[pack, fresh, 999])
        .await
        .unwrap();
    assert_eq!(begun, Begin::Resend(vec![pack, 999]));
    assert!(
        world
            .catalog
            .unsettled(world.now().plus_secs(1))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        world.begin(&session, &point, &[fresh]).await.unwrap(),
        Begin::Ready
    );
}

#[tokio::test]
async fn what_is_being_published_is_pinned_without_expiry() {
    let world = World::ready().await;
    let base = world.backed_up().await;
    world.queue(JobKind::Backup).await;
    let (job, _) = world.claim().await;
    let session = world.open(&job, &[base.id]).await.unwrap();
    let pack = world.pack(&session, 1).await;
    let mut point = world.point(&job);
    point.parent = Some(base.id);
    world.begin(&session, &point, &[pack]).await.unwrap();
    world
        .catalog
        .close_session(session.id, world.now())
        .await
        .unwrap();
    world.pass(1_000_000);
    assert!(
        world
            .catalog
            .condemn_packs(&[pack], &Actor::Server, world.now())
            .await
            .unwrap()
            .is_empty()
    );
    let delete = world
        .catalog
        .tombstone_point(base.id, &someone(), world.now())
        .await;
    assert_eq!(delete.unwrap_err().kind(), ErrorKind::Conflict);
    world
        .catalog
        .abandon_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(
        world
            .catalog
            .condemn_packs(&[pack], &Actor::Server, world.now())
            .await
            .unwrap(),
        [pack]
    );
    world
        .catalog
        .tombstone_point(base.id, &someone(), world.now())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_point_of_another_job_vm_or_fence_is_refused() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let mut points = vec![world.point(&job); 4];
    points[0].job = model::JobId::random();
    points[1].fence = Fence(7);
    points[2].vm.id = model::VmId::random();
    points[3].parent = Some(PointId::random());
    for (n, point) in points.iter().enumerate() {
        let refused = world.begin(&session, point, &[]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "point {n}");
    }
}

#[tokio::test]
async fn a_base_that_was_deleted_or_damaged_meanwhile_stops_the_publish() {
    for damaged in [false, true] {
        let world = World::ready().await;
        let base = world.backed_up().await;
        world.queue(JobKind::Backup).await;
        let (job, _) = world.claim().await;
        let session = world.open(&job, &[base.id]).await.unwrap();
        let catalog = &world.catalog;
        if damaged {
            catalog
                .set_point_verified(base.id, false, &Actor::Server, world.now())
                .await
                .unwrap();
            let begin = world.begin(&session, &world.point(&job), &[]).await;
            assert_eq!(begin.unwrap_err().kind(), ErrorKind::Conflict);
        } else {
            let delete = catalog
                .tombstone_point(base.id, &someone(), world.now())
                .await;
            assert_eq!(
                delete.unwrap_err().kind(),
                ErrorKind::Conflict,
                "the session pins it"
            );
            catalog
                .close_session(session.id, world.now())
                .await
                .unwrap();
            catalog
                .tombstone_point(base.id, &someone(), world.now())
                .await
                .unwrap();
            let reopened = world.open(&job, &[base.id]).await;
            assert_eq!(reopened.unwrap_err().kind(), ErrorKind::Conflict);
        }
    }
}

#[tokio::test]
async fn cancelled_before_nothing_is_published() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    world
        .catalog
        .cancel_job(job.id, &someone(), world.now())
        .await
        .unwrap();
    let begin = world.begin(&session, &world.point(&job), &[]).await;
    assert!(matches!(begin, Err(CatalogError::BeingCancelled { .. })));
    let ended = world.finish(&job, Ending::Cancelled).await.unwrap().job;
    assert_eq!(ended.state(), StateName::Cancelled);
}

#[tokio::test]
async fn cancelled_after_the_publish_began_is_too_late() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let point = world.point(&job);
    world.begin(&session, &point, &[]).await.unwrap();
    let cancel = async || {
        world
            .catalog
            .cancel_job(job.id, &someone(), world.now())
            .await
    };
    assert!(matches!(
        cancel().await,
        Err(CatalogError::TooLateToCancel { .. })
    ));
    world
        .catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    assert!(matches!(
        cancel().await,
        Err(CatalogError::TooLateToCancel { .. })
    ));
    world.finish(&job, Ending::Succeeded).await.unwrap();
    assert!(matches!(
        cancel().await,
        Err(CatalogError::Transition { .. })
    ));
}

#[tokio::test]
async fn a_lease_lost_before_the_publish_stops_it() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    world.pass(60);
    world.catalog.sweep(world.now()).await.unwrap();
    let begin = world.begin(&session, &world.point(&job), &[]).await;
    assert_eq!(begin.unwrap_err().kind(), ErrorKind::Fenced);
}

/// The object may be in the store already: until that is settled, the job is neither ended nor handed out again.
#[tokio::test]
async fn a_lease_lost_while_publishing_waits_until_it_is_settled() {
    for object_is_there in [true, false] {
        let world = World::ready().await;
        let (job, session) = world.backing_up().await;
        let point = world.point(&job);
        world.begin(&session, &point, &[]).await.unwrap();
        world.pass(61);
        world.poll().await;
        let swept = world.catalog.sweep(world.now()).await.unwrap();
        assert_eq!((swept.lost.len(), &swept.unsettled[..]), (0, &[job.id][..]));
        assert!(
            world
                .catalog
                .claim_next(world.agent, world.now())
                .await
                .unwrap()
                .is_none()
        );
        let verdict = async || {
            world
                .catalog
                .judge_mark(job.id, job.life.fence, world.vm.id, world.now())
                .await
        };
        assert_eq!(verdict().await.unwrap(), MarkVerdict::Alive);
        if object_is_there {
            world
                .catalog
                .commit_publish(point.id, &Actor::Server, world.now())
                .await
                .unwrap();
            assert_eq!(verdict().await.unwrap(), MarkVerdict::Committed(point.id));
        } else {
            world
                .catalog
                .abandon_publish(point.id, &Actor::Server, world.now())
                .await
                .unwrap();
            assert_eq!(verdict().await.unwrap(), MarkVerdict::Dead);
        }
        assert_eq!(
            world.catalog.sweep(world.now()).await.unwrap().lost,
            [job.id]
        );
        let after = world.job(job.id).await;
        if object_is_there {
            assert_eq!(
                (after.state(), after.point),
                (StateName::Warnings, Some(point.id))
            );
            assert!(after.warnings[0].contains("committed"));
        } else {
            assert_eq!(after.state(), StateName::Queued);
            let (again, lease) = world.claim().await;
            assert_eq!((again.id, lease.fence), (job.id, Fence(2)));
        }
        world.audit_is_whole().await;
    }
}

#[tokio::test]
async fn a_restarted_agent_does_not_lose_a_point_that_is_being_published() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let point = world.point(&job);
    world.begin(&session, &point, &[]).await.unwrap();
    let polled = world
        .catalog
        .agent_polled(world.agent, &world.poll_of("second"), world.now())
        .await
        .unwrap();
    assert_eq!(
        (polled.taken_back.len(), &polled.unsettled[..]),
        (0, &[job.id][..])
    );
    world
        .catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    world.pass(61);
    world.catalog.sweep(world.now()).await.unwrap();
    assert_eq!(world.job(job.id).await.state(), StateName::Warnings);
}

#[tokio::test]
async fn once_committed_nothing_makes_the_backup_fail() {
    for ending in [
        failure(JobErrorKind::Retry),
        failure(JobErrorKind::Bug),
        Ending::NotReady {
            reason: "vmms went down".into(),
        },
    ] {
        let world = World::ready().await;
        let (job, session) = world.backing_up().await;
        let point = world.point(&job);
        world.begin(&session, &point, &[]).await.unwrap();
        let early = world.finish(&job, ending.clone()).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Conflict, "not settled yet");
        world
            .catalog
            .commit_publish(point.id, &Actor::Server, world.now())
            .await
            .unwrap();
        let ended = world.finish(&job, ending).await.unwrap().job;
        assert_eq!(
            (ended.state(), ended.point),
            (StateName::Warnings, Some(point.id))
        );
        assert_eq!(ended.warnings.len(), 1);
    }
}

#[tokio::test]
async fn what_was_given_up_or_deleted_cannot_come_back() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let point = world.point(&job);
    world.begin(&session, &point, &[]).await.unwrap();
    let catalog = &world.catalog;
    catalog
        .abandon_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    catalog
        .abandon_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    let commit = catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await;
    assert_eq!(commit.unwrap_err().kind(), ErrorKind::NotFound);
    let begin = world.begin(&session, &point, &[]).await;
    assert_eq!(begin.unwrap_err().kind(), ErrorKind::Conflict);
    let unknown = catalog
        .abandon_publish(PointId::random(), &Actor::Server, world.now())
        .await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let other = world.point(&job);
    world.begin(&session, &other, &[]).await.unwrap();
    catalog
        .commit_publish(other.id, &Actor::Server, world.now())
        .await
        .unwrap();
    let abandon = catalog
        .abandon_publish(other.id, &Actor::Server, world.now())
        .await;
    assert_eq!(
        abandon.unwrap_err().kind(),
        ErrorKind::Conflict,
        "it is committed"
    );
}
