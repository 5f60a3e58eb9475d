//! Packs, pins, damage.

use catalog::{Actor, ErrorKind, NewDamage, PackState};
use store::PackId;

use crate::support::{World, pack};

#[tokio::test]
async fn sequences_follow_the_order_of_registration_and_repeat_for_the_same_pack() {
    let mut world = World::ready().await;
    let (_, session) = world.backing_up().await;
    assert_eq!(world.pack(&session, 1).await, 1);
    assert_eq!(world.pack(&session, 2).await, 2);
    assert_eq!(world.pack(&session, 1).await, 1, "sent again");
    world.reopen().await;
    assert_eq!(world.pack(&session, 3).await, 3);
    let after: Vec<u64> = world
        .catalog
        .packs_after(1, 10)
        .await
        .unwrap()
        .iter()
        .map(|pack| pack.sequence)
        .collect();
    assert_eq!(after, [2, 3]);
    assert_eq!(world.catalog.packs_after(0, 1).await.unwrap().len(), 1);
    assert_eq!(world.catalog.newest_pack_sequence().await.unwrap(), 3);
    assert_eq!(world.catalog.pack_totals().await.unwrap(), (3, 3000));
    assert_eq!(
        world
            .catalog
            .session_stored_bytes(session.id)
            .await
            .unwrap(),
        3000
    );
    let found = world
        .catalog
        .pack_by_id(&PackId([2; 32]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.sequence, found.session, &found.pack),
        (2, Some(session.id), &pack(2))
    );
    assert_eq!(world.catalog.pack(2).await.unwrap(), Some(found));
    assert_eq!(world.catalog.pack(9).await.unwrap(), None);
}

#[tokio::test]
async fn a_pinned_pack_is_not_condemned_and_a_condemned_one_not_pinned() {
    let world = World::ready().await;
    let (job, session) = world.backing_up().await;
    let catalog = &world.catalog;
    let (a, b) = (world.pack(&session, 1).await, world.pack(&session, 2).await);
    let condemn = async |packs: &[u64]| {
        catalog
            .condemn_packs(packs, &Actor::Server, world.now())
            .await
            .unwrap()
    };
    assert!(condemn(&[a, b]).await.is_empty());
    catalog
        .close_session(session.id, world.now())
        .await
        .unwrap();
    catalog
        .close_session(session.id, world.now())
        .await
        .unwrap();
    let session = world.open(&job, &[]).await.unwrap();
    assert!(
        catalog
            .pin_packs(session.id, &[b], world.now())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(condemn(&[a, b]).await, [a]);
    assert_eq!(
        catalog
            .pin_packs(session.id, &[a, b, 77], world.now())
            .await
            .unwrap(),
        [a, 77]
    );
    let again = catalog
        .register_pack(Some(session.id), &pack(1), world.now())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        catalog.pack(a).await.unwrap().unwrap().state,
        PackState::Condemned
    );
    assert!(
        catalog
            .forget_pack(b, &Actor::Server, world.now())
            .await
            .is_err()
    );
    catalog
        .forget_pack(a, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(catalog.pack(a).await.unwrap(), None);
    assert_eq!(
        world.pack(&session, 1).await,
        3,
        "a sequence is never used again"
    );
}

#[tokio::test]
async fn pins_end_with_the_lease() {
    let world = World::ready().await;
    let (_, session) = world.backing_up().await;
    let pack = world.pack(&session, 1).await;
    world.pass(60);
    world.catalog.sweep(world.now()).await.unwrap();
    assert_eq!(
        world
            .catalog
            .condemn_packs(&[pack], &Actor::Server, world.now())
            .await
            .unwrap(),
        [pack]
    );
}

#[tokio::test]
async fn numbers_beyond_the_engine_are_refused_not_wrapped() {
    let world = World::ready().await;
    let (_, session) = world.backing_up().await;
    let huge = catalog::NewPack {
        size_bytes: u64::MAX,
        ..pack(1)
    };
    let refused = world
        .catalog
        .register_pack(Some(session.id), &huge, world.now())
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(
        world.pack(&session, 1).await,
        1,
        "the number was not used up"
    );
}

#[tokio::test]
async fn damage_is_listed_until_it_is_healed() {
    let world = World::empty().await;
    let catalog = &world.catalog;
    let new = NewDamage {
        pack: PackId([1; 32]),
        entry: Some("chunk ab".into()),
        what: "bit flip".into(),
    };
    let damage = catalog
        .add_damage(new, &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(
        catalog.open_damage().await.unwrap(),
        std::slice::from_ref(&damage)
    );
    catalog
        .heal_damage(damage.id, &Actor::Server, world.now())
        .await
        .unwrap();
    assert!(catalog.open_damage().await.unwrap().is_empty());
    assert!(
        catalog
            .heal_damage(damage.id, &Actor::Server, world.now())
            .await
            .is_err()
    );
    world.audit_is_whole().await;
}
