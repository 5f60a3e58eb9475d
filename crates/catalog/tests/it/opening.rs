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
async fn every_step_of_the_schema_is_taken() {
    let world = World::empty().await;
    world.catalog.close().await;
    let file = options(&world.dir).file;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap();
    let taken: Vec<(i64, String)> =
        sqlx::query_as("SELECT version, description FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&pool)
            .await
            .unwrap();
    pool.close().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let taken = taken
        .iter()
        .map(|(version, name)| format!("{version:04}_{name}.sql"));
    assert!(taken.eq(names.iter().cloned()), "{names:?}");
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

/// A small file system of its own, so that it can be full; needs the right to mount.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        done.is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(
            std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0.path())
                .status(),
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_accepted_and_work_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(2048) else {
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !in_ci,
            "no right to mount a tmpfs: nothing is skipped in CI"
        );
        return;
    };
    let options = Options::new(disk.0.path().join("catalog.db"));
    let filler = disk.0.path().join("filler");
    let catalog = Catalog::open(&options).await.unwrap();
    let now = model::Timestamp::from_millis(1_800_000_000_000);
    std::fs::write(&filler, vec![1; 1000 * 1024]).unwrap();
    let text = "x".repeat(4000);
    let mut accepted = 0;
    let full = loop {
        let detail = serde_json::json!({ "text": text });
        match catalog
            .audit(now, &Actor::Server, "note", "x", &detail)
            .await
        {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::Full, "{full:?}");
    assert!(accepted > 0);
    let count = catalog.audit_entries(None, 500).await.unwrap().len();
    assert_eq!(count, accepted);
    std::fs::remove_file(filler).unwrap();
    catalog
        .audit(now, &Actor::Server, "note", "x", &serde_json::json!({}))
        .await
        .unwrap();
    catalog.close().await;
    let catalog = Catalog::open(&options).await.unwrap();
    assert_eq!(
        catalog.audit_entries(None, 500).await.unwrap().len(),
        accepted + 1
    );
    let verdict = catalog.verify_audit().await.unwrap();
    assert!(matches!(verdict, catalog::AuditVerdict::Whole { .. }));
    catalog.close().await;
}
