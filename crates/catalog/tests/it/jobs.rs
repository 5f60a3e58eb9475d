//! One job at a time: leases, fences, reports, ends.

use ::jobs::{
    CancelEffect, Ending, ErrorKind as JobErrorKind, JobKind, StateName, StepName, StepState,
};
use catalog::{
    Actor, CatalogError, ErrorKind, Event, EventKind, Figures, IdempotencyKey, JobFilter, LogLevel,
    MarkVerdict, Progress,
};
use model::{Fence, JobId, VmId};

use crate::support::{World, failure, someone};

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

#[tokio::test]
async fn one_backup_of_a_vm_at_a_time_is_queued_or_running() {
    let world = World::ready().await;
    let first = world.queue(JobKind::Backup).await;
    let create = async || {
        let new = [world.new_job(JobKind::Backup)];
        world
            .catalog
            .create_jobs(&new, None, &someone(), world.now())
            .await
    };
    let under_way = |result: Result<catalog::Created, CatalogError>| match result {
        Err(CatalogError::BackupUnderWay { job }) => job,
        other => panic!("{other:?}"),
    };
    assert_eq!(under_way(create().await), first.id);
    let (job, _) = world.claim().await;
    assert_eq!(under_way(create().await), first.id);
    world
        .finish(&job, failure(JobErrorKind::Bug))
        .await
        .unwrap();
    create().await.unwrap();
}

#[tokio::test]
async fn several_jobs_are_queued_all_or_none_and_once_per_key() {
    let world = World::ready().await;
    let mut other = world.new_job(JobKind::Backup);
    other.vm = Some(catalog::Target {
        id: VmId::random(),
        name: "db01".into(),
    });
    let twice = [
        other.clone(),
        world.new_job(JobKind::Backup),
        world.new_job(JobKind::Backup),
    ];
    let create = async |new: &[catalog::NewJob], key: Option<&IdempotencyKey>| {
        world
            .catalog
            .create_jobs(new, key, &someone(), world.now())
            .await
    };
    let key = IdempotencyKey {
        key: "ada/backup/1".into(),
        body_hash: [1; 32],
    };
    assert!(create(&twice, Some(&key)).await.is_err());
    let all = world
        .catalog
        .jobs(&JobFilter::default(), None, 10)
        .await
        .unwrap();
    assert!(all.items.is_empty());
    let made = create(&twice[..2], Some(&key)).await.unwrap();
    assert!(!made.replayed);
    let again = create(&twice[..2], Some(&key)).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.jobs, made.jobs);
    let other_body = IdempotencyKey {
        body_hash: [2; 32],
        ..key
    };
    assert!(matches!(
        create(&[other], Some(&other_body)).await,
        Err(CatalogError::KeyReused { .. })
    ));
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_filtered() {
    let world = World::ready().await;
    let mut made = Vec::new();
    for n in 0..5 {
        world.pass(i64::from(n % 2));
        made.push(
            world
                .queue(if n == 2 {
                    JobKind::Backup
                } else {
                    JobKind::Restore
                })
                .await
                .id,
        );
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = world
            .catalog
            .jobs(&JobFilter::default(), cursor.as_ref(), 2)
            .await
            .unwrap();
        seen.extend(page.items.iter().map(|job| (job.created, job.id)));
        let Some(next) = page.next else { break };
        cursor = Some(next.to_string().parse().unwrap());
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| (a.0, a.1.to_string()) > (b.0, b.1.to_string())));
    let ids = async |filter: JobFilter| {
        let page = world.catalog.jobs(&filter, None, 10).await.unwrap();
        page.items.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(JobFilter {
            kinds: vec![JobKind::Backup],
            ..JobFilter::default()
        })
        .await,
        [made[2]]
    );
    assert!(
        ids(JobFilter {
            vm: Some(VmId::random()),
            ..JobFilter::default()
        })
        .await
        .is_empty()
    );
    assert_eq!(
        ids(JobFilter {
            host: Some(world.host.id),
            vm: Some(world.vm.id),
            ..JobFilter::default()
        })
        .await
        .len(),
        5
    );
    let (running, _) = world.claim().await;
    let states = vec![StateName::Running, StateName::Failed];
    assert_eq!(
        ids(JobFilter {
            states,
            ..JobFilter::default()
        })
        .await,
        [running.id]
    );
    assert_eq!(world.catalog.job_counts().await.unwrap(), (4, 1));
    assert!(world.catalog.job_change(running.id).await.unwrap() > 1);
}

#[tokio::test]
async fn old_jobs_are_forgotten_but_not_those_a_point_names() {
    let world = World::ready().await;
    let point = world.backed_up().await;
    let (failed, _) = world.backing_up().await;
    world
        .finish(&failed, failure(JobErrorKind::Bug))
        .await
        .unwrap();
    let waiting = world.queue(JobKind::Backup).await;
    world.pass(10);
    assert_eq!(world.catalog.forget_jobs(world.now()).await.unwrap(), 1);
    assert!(world.catalog.job(failed.id).await.is_err());
    world.job(point.job).await;
    world.job(waiting.id).await;
}
