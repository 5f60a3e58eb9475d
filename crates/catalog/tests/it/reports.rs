//! What a holder reports while it works.

use ::jobs::{Ending, JobKind, StateName, StepName, StepState};
use catalog::{Actor, CatalogError, ErrorKind, Event, EventKind, Figures, LogLevel, Progress};
use model::Fence;

use crate::support::World;

#[tokio::test]
async fn a_restore_goes_through_its_steps_in_order_and_succeeds() {
    let world = World::ready().await;
    let queued = world.queue(JobKind::Restore).await;
    assert_eq!((queued.state(), queued.cause()), (StateName::Queued, None));
    world.pass(2);
    let (job, lease) = world.claim().await;
    assert_eq!(
        (job.id, lease.fence, lease.attempt),
        (queued.id, Fence(1), 1)
    );
    let too_early = world
        .report(&job, &[EventKind::StepStarted(StepName::Restore)])
        .await
        .unwrap_err();
    assert!(
        matches!(too_early, CatalogError::StepOrder { .. }),
        "{too_early}"
    );
    for step in [StepName::Space, StepName::Kind, StepName::Connect] {
        world.pass(1);
        world.step(&job, step).await;
    }
    assert_eq!(
        world
            .finish(&job, Ending::Succeeded)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Refused
    );
    world
        .report(&job, &[EventKind::StepStarted(StepName::Send)])
        .await
        .unwrap();
    world
        .report(&job, &[EventKind::StepStarted(StepName::Restore)])
        .await
        .unwrap();
    world
        .report(&job, &[EventKind::StepDone(StepName::Send, "1 GiB".into())])
        .await
        .unwrap();
    world
        .report(
            &job,
            &[EventKind::StepDone(StepName::Restore, "1 GiB".into())],
        )
        .await
        .unwrap();
    world.step(&job, StepName::Verify).await;
    let finished = world.finish(&job, Ending::Succeeded).await.unwrap();
    assert_eq!(finished.job.state(), StateName::Succeeded);
    let steps: Vec<_> = finished
        .job
        .steps
        .iter()
        .map(|step| (step.name, step.state))
        .collect();
    let all: Vec<_> = JobKind::Restore
        .steps()
        .iter()
        .map(|&step| (step, StepState::Done))
        .collect();
    assert_eq!(steps, all);
    let times: Vec<_> = finished.job.steps.iter().map(|step| step.started).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(
        world
            .finish(&job, Ending::Succeeded)
            .await
            .unwrap()
            .repeated
    );
    world.audit_is_whole().await;
}

#[tokio::test]
async fn a_repeated_report_adds_nothing_twice() {
    let world = World::ready().await;
    world.queue(JobKind::Restore).await;
    let (job, _) = world.claim().await;
    let event = |number, kind| Event {
        number,
        at: world.now(),
        kind,
    };
    let events = [
        event(1, EventKind::StepStarted(StepName::Space)),
        event(2, EventKind::Note("looking".into())),
        event(3, EventKind::Warning("no RDMA".into())),
        event(4, EventKind::StepDone(StepName::Space, "enough".into())),
    ];
    let report = async |events: &[Event]| {
        let progress = Some(Progress {
            bytes_done: 5,
            bytes_total: 10,
        });
        let figures = Some(Figures {
            bytes_read: 7,
            ..Figures::default()
        });
        world
            .catalog
            .report(job.id, Fence(1), events, progress, figures, world.now())
            .await
    };
    report(&events[..2]).await.unwrap();
    report(&events).await.unwrap();
    report(&events).await.unwrap();
    let log = world.catalog.job_log(job.id, 0, 100).await.unwrap();
    assert_eq!(log.iter().filter(|line| line.text == "looking").count(), 1);
    assert_eq!(
        log.iter()
            .filter(|line| line.level == LogLevel::Warning)
            .count(),
        1
    );
    assert!(log.iter().map(|line| line.line).eq(1..=log.len() as u64));
    assert_eq!(
        world.catalog.job_log(job.id, 2, 1).await.unwrap()[0].line,
        3
    );
    let job = world.job(job.id).await;
    assert_eq!(job.warnings, ["no RDMA"]);
    assert_eq!((job.progress.bytes_done, job.figures.bytes_read), (5, 7));
}

#[tokio::test]
async fn a_report_that_is_wrong_in_part_changes_nothing() {
    let world = World::ready().await;
    world.queue(JobKind::Restore).await;
    let (job, _) = world.claim().await;
    let before = world.job(job.id).await;
    let kinds = [
        EventKind::Note("a".into()),
        EventKind::StepDone(StepName::Verify, "never begun".into()),
    ];
    assert_eq!(
        world.report(&job, &kinds).await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(world.job(job.id).await, before);
}

#[tokio::test]
async fn step_times_stay_within_the_job_whatever_the_agents_clock_says() {
    let world = World::ready().await;
    world.queue(JobKind::Restore).await;
    let (job, _) = world.claim().await;
    world.pass(5);
    let at = |days: i64| model::Timestamp::from_millis(world.now().as_millis() + days * 86_400_000);
    let events = [
        Event {
            number: 1,
            at: at(-400),
            kind: EventKind::StepStarted(StepName::Space),
        },
        Event {
            number: 2,
            at: at(400),
            kind: EventKind::StepDone(StepName::Space, "x".into()),
        },
    ];
    world
        .catalog
        .report(job.id, Fence(1), &events, None, None, world.now())
        .await
        .unwrap();
    let steps = world.job(job.id).await.steps;
    let space = steps
        .iter()
        .find(|step| step.name == StepName::Space)
        .unwrap();
    assert_eq!(
        (space.started, space.ended),
        (job.started.unwrap(), Some(world.now()))
    );
}

#[tokio::test]
async fn warnings_turn_success_into_warnings() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    world
        .report(
            &job,
            &[EventKind::Warning("pass-through disk left out".into())],
        )
        .await
        .unwrap();
    let point = world.point(&job);
    world.begin(&session, &point, &[]).await.unwrap();
    world
        .catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    let finished = world.finish(&job, Ending::Succeeded).await.unwrap();
    assert_eq!(finished.job.state(), StateName::Warnings);
    assert_eq!(finished.job.point, Some(point.id));
}
