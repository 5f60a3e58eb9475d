//! One suite for every place, and what only a folder must do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use bytes::Bytes;
use object_storage::{Effect, Fault, Faulty, Folder, Verb, memory, probe};
use store::{ObjectErrorKind, ObjectName, Objects};

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).unwrap()
}

async fn names(objects: &dyn Objects, prefix: &str) -> BTreeSet<String> {
    objects
        .list(prefix)
        .await
        .unwrap()
        .into_iter()
        .map(|meta| meta.name.to_string())
        .collect()
}

async fn keeps_its_promises(objects: &dyn Objects) {
    let (a, b) = (name("packs/aa/a1"), name("packs/ab/b1"));
    objects
        .put_new(&a, Bytes::from_static(b"first"))
        .await
        .unwrap();
    objects.put_new(&b, Bytes::new()).await.unwrap();
    let again = objects
        .put_new(&a, Bytes::from_static(b"second"))
        .await
        .unwrap_err();
    assert_eq!(again.kind, ObjectErrorKind::AlreadyExists);
    assert_eq!(objects.get(&a).await.unwrap(), "first");
    assert_eq!(objects.get(&b).await.unwrap(), "");
    assert_eq!(objects.head(&a).await.unwrap().len, 5);
    assert_eq!(objects.get_range(&a, 1..4).await.unwrap(), "irs");
    assert_eq!(objects.get_range(&a, 4..4).await.unwrap(), "");
    for range in [0..6, 5..6, 9..12] {
        let error = objects.get_range(&a, range.clone()).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Corrupt, "{range:?}");
    }
    assert_eq!(
        names(objects, "").await,
        ["packs/aa/a1", "packs/ab/b1"].map(String::from).into()
    );
    assert_eq!(
        names(objects, "packs/ab/").await,
        ["packs/ab/b1"].map(String::from).into()
    );
    assert!(names(objects, "points/").await.is_empty());
    assert!(names(objects, "../").await.is_empty());
    let missing = name("points/none");
    assert_eq!(
        objects.get(&missing).await.unwrap_err().kind,
        ObjectErrorKind::NotFound
    );
    assert_eq!(
        objects.head(&missing).await.unwrap_err().kind,
        ObjectErrorKind::NotFound
    );
    assert_eq!(
        objects.get_range(&missing, 0..1).await.unwrap_err().kind,
        ObjectErrorKind::NotFound
    );
    objects.delete(&a).await.unwrap();
    objects.delete(&a).await.unwrap();
    objects
        .put_new(&a, Bytes::from_static(b"third"))
        .await
        .unwrap();
    assert_eq!(objects.get(&a).await.unwrap(), "third");
    probe(objects).await.unwrap();
    assert!(names(objects, "probe/").await.is_empty());
}

#[tokio::test]
async fn memory_keeps_its_promises() {
    keeps_its_promises(&memory()).await;
}

#[tokio::test]
async fn a_folder_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_promises(&Folder::open(dir.path().join("vault")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_of_a_name_one_wins_with_its_own_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).await.unwrap();
    let other = Folder::open(dir.path()).await.unwrap();
    for round in 0..20 {
        let name = name(&format!("points/{round}"));
        let tasks: Vec<_> = (0..16u8)
            .map(|writer| {
                let (name, folder) = (
                    name.clone(),
                    if writer % 2 == 0 {
                        folder.clone()
                    } else {
                        other.clone()
                    },
                );
                tokio::spawn(async move {
                    (
                        writer,
                        folder
                            .put_new(&name, Bytes::from(vec![writer; 100_000]))
                            .await,
                    )
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(error)) => assert_eq!(error.kind, ObjectErrorKind::AlreadyExists),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(folder.get(&name).await.unwrap(), vec![winners[0]; 100_000]);
    }
}

#[tokio::test]
async fn leftovers_of_the_dead_are_removed_and_those_of_the_living_stay() {
    let dir = tempfile::tempdir().unwrap();
    let living = Folder::open(dir.path()).await.unwrap();
    let staging = dir.path().join("~new");
    let dead = staging.join("dead");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::write(dead.join("7"), "half of a pack").unwrap();
    let second = Folder::open(dir.path()).await.unwrap();
    assert!(!dead.exists());
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 2);
    living
        .put_new(&name("packs/aa/x"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert_eq!(
        names(&second, "").await,
        ["packs/aa/x"].map(String::from).into()
    );
    drop((living, second));
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
}

#[tokio::test]
async fn objects_outlive_the_process_and_foreign_files_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).await.unwrap();
    folder
        .put_new(&name("vault.json"), Bytes::from_static(b"{}"))
        .await
        .unwrap();
    drop(folder);
    std::fs::write(dir.path().join("Thumbs.db"), "x").unwrap();
    std::fs::create_dir_all(dir.path().join("lost+found")).unwrap();
    let folder = Folder::open(dir.path()).await.unwrap();
    assert_eq!(
        names(&folder, "").await,
        ["vault.json"].map(String::from).into()
    );
}

#[tokio::test]
async fn a_file_in_the_way_of_a_folder_is_an_error_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).await.unwrap();
    folder
        .put_new(&name("packs"), Bytes::from_static(b"in the way"))
        .await
        .unwrap();
    assert!(
        folder
            .put_new(&name("packs/aa/x"), Bytes::from_static(b"x"))
            .await
            .is_err()
    );
    assert_eq!(names(&folder, "").await, ["packs"].map(String::from).into());
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
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing_half_made() {
    let Some(disk) = SmallDisk::mount(1024) else {
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !in_ci,
            "no right to mount a tmpfs: nothing is skipped in CI"
        );
        return;
    };
    let folder = Folder::open(disk.0.path().join("vault")).await.unwrap();
    let mut kept = 0;
    let full = loop {
        let name = name(&format!("packs/aa/{kept}"));
        match folder.put_new(&name, Bytes::from(vec![7; 100_000])).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind, ObjectErrorKind::Full, "{full:?}");
    assert!(kept >= 5);
    let listed = folder.list("").await.unwrap();
    assert_eq!(listed.len(), kept);
    assert!(listed.iter().all(|meta| meta.len == 100_000));
    let staged = std::fs::read_dir(folder.root().join("~new"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(
        std::fs::read_dir(staged).unwrap().count(),
        1,
        "only the lock"
    );
    // Room comes back: it goes on by itself.
    folder.delete(&name("packs/aa/0")).await.unwrap();
    folder
        .put_new(&name("packs/aa/new"), Bytes::from(vec![7; 50_000]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_faulty_place_fails_as_told() {
    let faulty = Faulty::new(memory());
    let put = |text: &'static str| {
        let faulty = &faulty;
        async move { faulty.put_new(&name(text), Bytes::from_static(b"x")).await }
    };
    let fault = |verb, after, effect| {
        faulty.inject(Fault {
            verb,
            after,
            times: 1,
            effect,
        });
    };
    put("a").await.unwrap();
    fault(Verb::Put, 1, Effect::Fail(ObjectErrorKind::Full));
    put("b").await.unwrap();
    assert_eq!(put("c").await.unwrap_err().kind, ObjectErrorKind::Full);
    put("c").await.unwrap();
    fault(
        Verb::Put,
        0,
        Effect::FailAfter(ObjectErrorKind::Unavailable),
    );
    assert_eq!(
        put("d").await.unwrap_err().kind,
        ObjectErrorKind::Unavailable
    );
    assert_eq!(
        put("d").await.unwrap_err().kind,
        ObjectErrorKind::AlreadyExists
    );
    fault(Verb::Put, 0, Effect::Twice);
    assert_eq!(
        put("e").await.unwrap_err().kind,
        ObjectErrorKind::AlreadyExists
    );
    fault(Verb::Put, 0, Effect::Lost);
    put("f").await.unwrap();
    assert_eq!(
        faulty.get(&name("f")).await.unwrap_err().kind,
        ObjectErrorKind::NotFound
    );
    fault(Verb::Get, 0, Effect::FlipBit);
    assert_ne!(faulty.get(&name("a")).await.unwrap(), "x");
    assert_eq!(faulty.get(&name("a")).await.unwrap(), "x");
    assert_eq!(faulty.calls(Verb::Put), 8);
}

#[tokio::test]
async fn a_place_that_lets_two_writers_win_is_refused() {
    let faulty = Faulty::new(memory());
    faulty.inject(Fault {
        verb: Verb::Put,
        after: 3,
        times: 1,
        effect: Effect::Lost,
    });
    assert!(
        probe(&faulty)
            .await
            .unwrap_err()
            .to_string()
            .contains("two writers")
    );
    assert!(names(faulty.inner(), "").await.is_empty());
    let faulty = Faulty::new(memory());
    faulty.inject(Fault {
        verb: Verb::Get,
        after: 1,
        times: 1,
        effect: Effect::FlipBit,
    });
    assert!(probe(&faulty).await.is_err());
}
