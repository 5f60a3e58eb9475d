//! Making, listing and forgetting jobs.

use ::jobs::{ErrorKind as JobErrorKind, JobKind, StateName};
use catalog::{CatalogError, IdempotencyKey, JobFilter};
use model::VmId;

use crate::support::{World, failure, someone};

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
