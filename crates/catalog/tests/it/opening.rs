//! Opening, closing, and files that are not what they should be.

use catalog::{Actor, Catalog, CatalogError, ErrorKind, Options};

use crate::support::{World, options};

#[tokio::test]
async fn settings_survive_a_restart() {
    let mut world = World::empty().await;
    world
        .catalog
        .set_setting("vault", "a", &Actor::Server, world.now())
        .await
        .unwrap();
    world
        .catalog
        .set_setting("vault", "b", &Actor::Server, world.now())
        .await
        .unwrap();
    world.reopen().await;
    assert_eq!(
        world.catalog.setting("vault").await.unwrap().as_deref(),
        Some("b")
    );
    assert_eq!(world.catalog.setting("none").await.unwrap(), None);
    let kept = world
        .catalog
        .init_setting("vault", "c", &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(kept, "b");
    let made = world
        .catalog
        .init_setting("port", "1", &Actor::Server, world.now())
        .await
        .unwrap();
    assert_eq!(made, "1");
    world.audit_is_whole().await;
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_by_name() {
    let world = World::empty().await;
    world.catalog.close().await;
    let file = options(&world.dir).file;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         VALUES (9999, 'later', '2030-01-01', 1, x'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    let error = Catalog::open(&options(&world.dir)).await.unwrap_err();
    assert!(
        matches!(error, CatalogError::NewerSchema { found: 9999, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("newer reprise"));
}

#[tokio::test]
async fn a_file_that_is_no_database_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("catalog.db"), vec![0x5A; 20_000]).unwrap();
    let error = Catalog::open(&options(&dir)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");

    let world = World::ready().await;
    for _ in 0..50 {
        world
            .catalog
            .audit(
                world.now(),
                &Actor::Server,
                "x",
                "y",
                &serde_json::json!({}),
            )
            .await
            .unwrap();
    }
    world.catalog.close().await;
    let file = options(&world.dir).file;
    let mut bytes = std::fs::read(&file).unwrap();
    for page in 2..bytes.len() / 4096 {
        bytes[page * 4096..page * 4096 + 64].fill(0xA5);
    }
    std::fs::write(&file, bytes).unwrap();
    let error = Catalog::open(&options(&world.dir)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_copy_made_while_open_is_a_whole_catalog() {
    let world = World::ready().await;
    let copy = world.dir.path().join("copy.db");
    world.catalog.copy_to(&copy).await.unwrap();
    let copy = Catalog::open(&Options::new(copy)).await.unwrap();
    assert_eq!(
        copy.agents().await.unwrap(),
        world.catalog.agents().await.unwrap()
    );
}

#[tokio::test]
async fn waiting_for_changes_wakes_up() {
    let world = World::empty().await;
    let mut changes = world.catalog.changes();
    changes.mark_unchanged();
    world
        .catalog
        .set_setting("a", "b", &Actor::Server, world.now())
        .await
        .unwrap();
    changes.changed().await.unwrap();
}
