//! Policies, protections and the schedule.

use ::jobs::{ErrorKind as JobErrorKind, StateName};
use catalog::{ErrorKind, NewPolicy, Policy, PolicyId, Retention, ScheduledRun};
use model::{ConsistencyWish, Method};
use serde_json::json;

use crate::support::{World, failure, someone};

fn spec(name: &str, interval_secs: Option<u64>) -> NewPolicy {
    NewPolicy {
        name: name.into(),
        interval_secs,
        enabled: true,
        method: Some(Method::Rct),
        consistency: ConsistencyWish::PreferApplication,
        retention: Retention {
            keep_last: Some(7),
            ..Retention::default()
        },
    }
}

async fn protected(interval_secs: Option<u64>) -> (World, Policy) {
    let world = World::ready().await;
    let policy = world
        .catalog
        .create_policy(spec("hourly", interval_secs), &someone(), world.now())
        .await
        .unwrap();
    world
        .catalog
        .protect(
            &world.vm,
            world.host.id,
            policy.id,
            &["C:\\swap.vhdx".into()],
            &someone(),
            world.now(),
        )
        .await
        .unwrap();
    (world, policy)
}

async fn tick(world: &World) -> Vec<ScheduledRun> {
    world.poll().await;
    let request = |protection: &catalog::Protection, policy: &NewPolicy| json!({ "excluded": protection.excluded, "method": policy.method });
    world.catalog.schedule(world.now(), request).await.unwrap()
}

#[tokio::test]
async fn a_protected_vm_is_backed_up_at_once_and_then_every_interval() {
    let (mut world, _) = protected(Some(3600)).await;
    let runs = tick(&world).await;
    let job = world.job(runs[0].queued.unwrap()).await;
    assert_eq!(
        (job.vm.as_ref(), job.requested_by.as_str()),
        (Some(&world.vm), "server")
    );
    assert_eq!(
        job.request,
        json!({ "excluded": ["C:\\swap.vhdx"], "method": "rct" })
    );
    assert!(tick(&world).await.is_empty());
    let (job, _) = world.claim().await;
    world
        .finish(&job, failure(JobErrorKind::Bug))
        .await
        .unwrap();
    world.pass(3599);
    assert!(tick(&world).await.is_empty());
    world.reopen().await;
    world.pass(1);
    assert!(tick(&world).await[0].queued.is_some());
}

#[tokio::test]
async fn missed_backups_do_not_pile_up() {
    let (world, _) = protected(Some(3600)).await;
    world.pass(10 * 3600 + 5);
    let runs = tick(&world).await;
    assert_eq!(runs.len(), 1);
    let skipped = world.job(runs[0].skipped.unwrap()).await;
    assert_eq!(skipped.state(), StateName::Skipped);
    let log = world.catalog.job_log(skipped.id, 0, 10).await.unwrap();
    assert!(
        log[0].text.starts_with("10 scheduled backups were missed"),
        "{}",
        log[0].text
    );
    assert!(runs[0].queued.is_some());
    assert_eq!(world.catalog.job_counts().await.unwrap(), (1, 0));
    assert!(tick(&world).await.is_empty());
}

#[tokio::test]
async fn a_backup_under_way_is_not_joined_by_another() {
    let (world, _) = protected(Some(3600)).await;
    let first = tick(&world).await[0].queued.unwrap();
    world.pass(3600);
    let runs = tick(&world).await;
    assert_eq!(runs[0].queued, None);
    let skipped = world.job(runs[0].skipped.unwrap()).await;
    let log = world.catalog.job_log(skipped.id, 0, 10).await.unwrap();
    assert!(log[0].text.contains(&first.to_string()), "{}", log[0].text);
}

#[tokio::test]
async fn paused_disabled_and_manual_schedules_stand_still() {
    let (world, policy) = protected(Some(3600)).await;
    let (catalog, actor) = (&world.catalog, someone());
    catalog
        .pause_protection(world.vm.id, true, &actor, world.now())
        .await
        .unwrap();
    world.pass(100_000);
    assert!(tick(&world).await.is_empty());
    catalog
        .pause_protection(world.vm.id, false, &actor, world.now())
        .await
        .unwrap();
    let mut off = spec("hourly", Some(3600));
    off.enabled = false;
    catalog
        .update_policy(policy.id, off, &actor, world.now())
        .await
        .unwrap();
    assert!(tick(&world).await.is_empty());
    let manual = catalog
        .update_policy(policy.id, spec("manual", None), &actor, world.now())
        .await
        .unwrap();
    assert_eq!((manual.spec.interval_secs, manual.vms), (None, 1));
    assert!(tick(&world).await.is_empty());
    assert_eq!(
        catalog
            .protection(world.vm.id)
            .await
            .unwrap()
            .unwrap()
            .next_due,
        None
    );
    catalog
        .update_policy(policy.id, spec("hourly", Some(60)), &actor, world.now())
        .await
        .unwrap();
    world.pass(60);
    assert_eq!(tick(&world).await.len(), 1);
}

#[tokio::test]
async fn changing_disks_keeps_the_due_time_and_changing_the_policy_starts_anew() {
    let (world, policy) = protected(Some(3600)).await;
    tick(&world).await;
    let (catalog, actor) = (&world.catalog, someone());
    let due = catalog
        .protection(world.vm.id)
        .await
        .unwrap()
        .unwrap()
        .next_due;
    world.pass(5);
    let protect = async |policy: PolicyId| {
        catalog
            .protect(&world.vm, world.host.id, policy, &[], &actor, world.now())
            .await
    };
    assert_eq!(protect(policy.id).await.unwrap().next_due, due);
    let other = catalog
        .create_policy(spec("daily", Some(86_400)), &actor, world.now())
        .await
        .unwrap();
    assert_eq!(protect(other.id).await.unwrap().next_due, Some(world.now()));
    assert_eq!(
        protect(PolicyId::random()).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(catalog.protections().await.unwrap().len(), 1);
    catalog
        .unprotect(world.vm.id, &actor, world.now())
        .await
        .unwrap();
    assert!(
        catalog
            .unprotect(world.vm.id, &actor, world.now())
            .await
            .is_err()
    );
    assert_eq!(catalog.protection(world.vm.id).await.unwrap(), None);
}

#[tokio::test]
async fn policies_are_named_uniquely_and_removed_only_when_unused() {
    let (world, policy) = protected(Some(3600)).await;
    let (catalog, actor) = (&world.catalog, someone());
    let again = catalog
        .create_policy(spec("hourly", None), &actor, world.now())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    for wrong in [spec("", None), spec(" x", None), spec("x", Some(0))] {
        let refused = catalog.create_policy(wrong, &actor, world.now()).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    }
    let used = catalog.delete_policy(policy.id, &actor, world.now()).await;
    assert_eq!(used.unwrap_err().kind(), ErrorKind::Conflict);
    catalog
        .unprotect(world.vm.id, &actor, world.now())
        .await
        .unwrap();
    catalog
        .delete_policy(policy.id, &actor, world.now())
        .await
        .unwrap();
    assert_eq!(catalog.policy_by_name("hourly").await.unwrap(), None);
    world.audit_is_whole().await;
}
