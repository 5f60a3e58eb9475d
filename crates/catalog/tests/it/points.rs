//! Points after they are committed, and VMs.

use ::jobs::JobKind;
use catalog::{Actor, ErrorKind, PointState, VmSeen};
use model::VmId;
use serde_json::json;

use crate::support::{World, someone};

#[tokio::test]
async fn points_are_listed_newest_first_in_pages() {
    let world = World::ready().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        world.pass(10);
        made.push(world.backed_up().await.id);
    }
    made.reverse();
    let first = world
        .catalog
        .points(Some(world.vm.id), None, 3)
        .await
        .unwrap();
    let cursor = first.next.unwrap();
    let second = world
        .catalog
        .points(Some(world.vm.id), Some(&cursor), 3)
        .await
        .unwrap();
    assert_eq!(second.next, None);
    let ids: Vec<_> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|point| point.point.id)
        .collect();
    assert_eq!(ids, made);
    assert!(
        world
            .catalog
            .points(Some(VmId::random()), None, 3)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(
        world
            .catalog
            .points(None, None, 100)
            .await
            .unwrap()
            .items
            .len(),
        5
    );
    assert_eq!(world.catalog.point_count().await.unwrap(), 5);
    let latest = world.catalog.latest_points().await.unwrap();
    assert_eq!(latest.len(), 1);
    assert_eq!((latest[0].0, latest[0].2), (world.vm.id, made[0]));
}

#[tokio::test]
async fn the_latest_point_is_the_newest_that_is_whole() {
    let world = World::ready().await;
    let older = world.backed_up().await;
    world.pass(10);
    let newer = world.backed_up().await;
    let latest = async || {
        world
            .catalog
            .latest_point(world.vm.id)
            .await
            .unwrap()
            .map(|point| point.point.id)
    };
    assert_eq!(latest().await, Some(newer.id));
    world
        .catalog
        .set_point_verified(newer.id, false, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(
        world.catalog.point(newer.id).await.unwrap().state,
        PointState::Damaged
    );
    assert_eq!(latest().await, Some(older.id));
    world
        .catalog
        .set_point_verified(newer.id, true, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(latest().await, Some(newer.id));
    assert_eq!(
        world.catalog.point(newer.id).await.unwrap().verified,
        Some(world.now())
    );
}

#[tokio::test]
async fn a_locked_point_is_not_deleted_and_a_lock_only_grows() {
    let world = World::ready().await;
    let point = world.backed_up().await;
    let (catalog, actor) = (&world.catalog, someone());
    let until = world.now().plus_secs(100);
    assert_eq!(
        catalog
            .lock_point(point.id, until, &actor, world.now())
            .await
            .unwrap(),
        until
    );
    let shorter = world.now().plus_secs(1);
    assert_eq!(
        catalog
            .lock_point(point.id, shorter, &actor, world.now())
            .await
            .unwrap(),
        until
    );
    world.pass(99);
    let delete = catalog.tombstone_point(point.id, &actor, world.now()).await;
    assert_eq!(delete.unwrap_err().kind(), ErrorKind::Conflict);
    world.pass(1);
    catalog
        .tombstone_point(point.id, &actor, world.now())
        .await
        .unwrap();
}

#[tokio::test]
async fn deleting_goes_from_tombstone_to_forgotten() {
    let world = World::ready().await;
    let point = world.backed_up().await;
    let (catalog, actor) = (&world.catalog, someone());
    let early = catalog.forget_point(point.id, &actor, world.now()).await;
    assert_eq!(early.unwrap_err().kind(), ErrorKind::NotFound);
    catalog
        .tombstone_point(point.id, &actor, world.now())
        .await
        .unwrap();
    catalog
        .tombstone_point(point.id, &actor, world.now())
        .await
        .unwrap();
    assert_eq!(catalog.points_being_deleted().await.unwrap(), [point.id]);
    assert!(
        catalog
            .points(None, None, 10)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(catalog.latest_point(world.vm.id).await.unwrap(), None);
    catalog
        .set_point_verified(point.id, true, &actor, world.now())
        .await
        .unwrap();
    assert_eq!(
        catalog.point(point.id).await.unwrap().state,
        PointState::Deleting
    );
    catalog
        .forget_point(point.id, &actor, world.now())
        .await
        .unwrap();
    assert_eq!(
        catalog.point(point.id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    world.audit_is_whole().await;
}

#[tokio::test]
async fn a_point_being_restored_is_not_deleted() {
    let world = World::ready().await;
    let point = world.backed_up().await;
    world.queue(JobKind::Restore).await;
    let (job, _) = world.claim().await;
    world.open(&job, &[point.id]).await.unwrap();
    let delete = async || {
        world
            .catalog
            .tombstone_point(point.id, &someone(), world.now())
            .await
    };
    assert_eq!(delete().await.unwrap_err().kind(), ErrorKind::Conflict);
    world.pass(60);
    world.catalog.sweep(world.now()).await.unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn vms_that_vanish_are_kept_and_marked() {
    let world = World::empty().await;
    let (catalog, host) = (&world.catalog, world.host.id);
    let seen = |id, name: &str| VmSeen {
        id,
        name: name.into(),
        summary: json!({ "state": "running" }),
    };
    let (a, b) = (VmId::random(), VmId::random());
    catalog
        .update_inventory(host, &[seen(a, "same"), seen(b, "same")], world.now())
        .await
        .unwrap();
    assert_eq!(catalog.vms_by_name("same").await.unwrap().len(), 2);
    world.pass(10);
    catalog
        .update_inventory(host, &[seen(a, "renamed' --")], world.now())
        .await
        .unwrap();
    let vms = catalog.vms(Some(host)).await.unwrap();
    let gone: Vec<_> = vms.iter().map(|vm| (vm.id, vm.gone)).collect();
    assert!(gone.contains(&(a, None)) && gone.contains(&(b, Some(world.now()))));
    let other = model::HostId::random();
    world.pass(10);
    catalog
        .update_inventory(other, &[seen(b, "moved")], world.now())
        .await
        .unwrap();
    let places = catalog.vm_by_id(b).await.unwrap();
    assert_eq!(
        (places[0].host, places[1].host),
        (other, host),
        "where it is comes first"
    );
    catalog
        .update_inventory(host, &[seen(a, "x"), seen(b, "back")], world.now())
        .await
        .unwrap();
    assert!(
        catalog
            .vms(None)
            .await
            .unwrap()
            .iter()
            .all(|vm| vm.gone.is_none())
    );
}
