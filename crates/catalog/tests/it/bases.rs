//! Base records: only what certainly holds is used.

use ::jobs::{Ending, JobKind};
use catalog::{Actor, ErrorKind, Job, SettledBases};
use model::{BaseRecord, DiskId, RecoveryPoint};

use crate::support::{World, someone};

fn record(world: &World, point: &RecoveryPoint) -> BaseRecord {
    BaseRecord {
        vm: world.vm.id,
        disk: world.disk,
        size_bytes: 64 << 30,
        host: world.host.id,
        point: point.id,
        reference_point: "Microsoft:R1".into(),
        rct_id: "rctX:1".into(),
    }
}

/// A backup whose point is committed and whose lease still holds.
async fn committed(world: &World) -> (Job, RecoveryPoint) {
    let (job, session) = world.backing_up().await;
    let point = world.point(&job);
    world.begin(&session, &point, &[]).await.unwrap();
    world
        .catalog
        .commit_publish(point.id, &Actor::Server, world.now())
        .await
        .unwrap();
    (job, point)
}

async fn replace(world: &World, job: &Job, point: &RecoveryPoint) -> Vec<BaseRecord> {
    let records = [record(world, point)];
    world
        .catalog
        .replace_bases(job.id, job.life.fence, point.id, &records, world.now())
        .await
        .unwrap();
    world.finish(job, Ending::Succeeded).await.unwrap();
    world.catalog.bases(world.vm.id).await.unwrap()
}

#[tokio::test]
async fn the_newest_conversion_replaces_the_records() {
    let world = World::ready().await;
    let (job, first) = committed(&world).await;
    assert_eq!(
        replace(&world, &job, &first).await,
        [record(&world, &first)]
    );
    world.pass(10);
    let (job, second) = committed(&world).await;
    assert_eq!(
        replace(&world, &job, &second).await,
        [record(&world, &second)]
    );
    assert_eq!(world.audited("base.record").await, 2);
}

#[tokio::test]
async fn a_base_whose_point_is_damaged_or_deleted_is_none() {
    let world = World::ready().await;
    let (job, point) = committed(&world).await;
    replace(&world, &job, &point).await;
    let bases = async || world.catalog.bases(world.vm.id).await.unwrap().len();
    world
        .catalog
        .set_point_verified(point.id, false, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(bases().await, 0);
    world
        .catalog
        .set_point_verified(point.id, true, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(bases().await, 1);
    world
        .catalog
        .tombstone_point(point.id, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(bases().await, 0);
}

#[tokio::test]
async fn records_that_do_not_fit_the_point_are_refused() {
    let world = World::ready().await;
    let (job, point) = committed(&world).await;
    let good = record(&world, &point);
    let wrong = [
        BaseRecord {
            disk: DiskId::random(),
            ..good.clone()
        },
        BaseRecord {
            size_bytes: 1,
            ..good.clone()
        },
        BaseRecord {
            vm: model::VmId::random(),
            ..good.clone()
        },
        BaseRecord {
            point: model::PointId::random(),
            ..good
        },
    ];
    for (n, record) in wrong.into_iter().enumerate() {
        let result = world
            .catalog
            .replace_bases(job.id, job.life.fence, point.id, &[record], world.now())
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Refused, "record {n}");
    }
    assert!(world.catalog.bases(world.vm.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restore_voids_the_records_and_a_late_conversion_does_not_bring_them_back() {
    for one_disk in [true, false] {
        let world = World::ready().await;
        let (job, point) = committed(&world).await;
        replace(&world, &job, &point).await;
        world.pass(10);
        // An agent that died between commit and conversion ...
        let (lost, unconverted) = committed(&world).await;
        world.pass(61);
        world.poll().await;
        world.catalog.sweep(world.now()).await.unwrap();
        // ... a restore that rewrites the disk ...
        world.queue(JobKind::Restore).await;
        let (restore, _) = world.claim().await;
        let disks = if one_disk {
            vec![world.disk]
        } else {
            Vec::new()
        };
        world
            .catalog
            .void_bases(
                restore.id,
                restore.life.fence,
                world.vm.id,
                &disks,
                "restored",
                world.now(),
            )
            .await
            .unwrap();
        assert!(world.catalog.bases(world.vm.id).await.unwrap().is_empty());
        assert!(
            world
                .catalog
                .voided_since(world.vm.id, world.disk, point.created)
                .await
                .unwrap()
        );
        // ... and the janitor's report of the conversion afterwards.
        let records = [record(&world, &unconverted)];
        let settled = world
            .catalog
            .settle_bases(
                lost.id,
                lost.life.fence,
                unconverted.id,
                &records,
                world.now(),
            )
            .await
            .unwrap();
        assert_eq!(settled, SettledBases::Overtaken);
        assert!(world.catalog.bases(world.vm.id).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_conversion_by_the_janitor_counts_unless_a_newer_backup_was_faster() {
    let world = World::ready().await;
    let (lost, point) = committed(&world).await;
    world.pass(61);
    world.poll().await;
    world.catalog.sweep(world.now()).await.unwrap();
    let settle = async || {
        let records = [record(&world, &point)];
        world
            .catalog
            .settle_bases(lost.id, lost.life.fence, point.id, &records, world.now())
            .await
            .unwrap()
    };
    assert_eq!(settle().await, SettledBases::Recorded);
    assert_eq!(settle().await, SettledBases::Recorded, "reported twice");
    assert_eq!(
        world.catalog.bases(world.vm.id).await.unwrap(),
        [record(&world, &point)]
    );
    let (job, newer) = committed(&world).await;
    replace(&world, &job, &newer).await;
    assert_eq!(settle().await, SettledBases::Overtaken);
    assert_eq!(
        world.catalog.bases(world.vm.id).await.unwrap(),
        [record(&world, &newer)]
    );
    let wrong_fence = model::Fence(9);
    let refused = world
        .catalog
        .settle_bases(lost.id, wrong_fence, point.id, &[], world.now())
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
}
