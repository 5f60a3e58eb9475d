//! What people and storms do: each gets a clear error, and nothing is lost or left half-made.

use std::fs;
use std::process::Command;

use harness::{World, tool};

use crate::support::{
    EXE, MIB, add_vm, assert_host_is_clean, assert_points_verify, points, text, world_with_vm,
};

/// Runs a restore or backup that must fail with this error code, and returns the error.
#[track_caller]
fn failing_job(world: &World, words: &[&str], code: &str) -> serde_json::Value {
    let done = world.run_and_wait(words, &[]);
    assert_ne!(done.code, 0, "{}", done.text());
    let job = done.value();
    assert_eq!(job["error"]["code"], code, "{job}");
    assert!(!text(&job["error"]["message"]).is_empty());
    job
}

#[test]
fn unknown_names_say_so_and_what_to_do() {
    let world = world_with_vm();
    for words in [
        &["backup", "start", "nobody"][..],
        &["restore", "start", "nobody"],
        &["vm", "show", "nobody"],
        &["point", "show", "11111111-1111-4111-8111-111111111111"],
        &["job", "show", "11111111-1111-4111-8111-111111111111"],
        &["restore", "start", "web01"],
    ] {
        let done = world.cli.run(words);
        done.expect(4);
        assert!(!done.stderr.is_empty(), "{words:?}");
    }
    world.back_up("web01", &[]);
    world
        .cli
        .run(&["restore", "start", "web01", "--to", "nowhere"])
        .expect(4);
    world
        .cli
        .run(&["restore", "start", "web01", "--disk", "nope.vhdx"])
        .expect(4);
    world.cli.run(&[
        "restore",
        "start",
        "web01",
        "--folder",
        "relative\\path",
        "--to",
        "HV01",
    ]);
}

#[test]
fn names_with_anything_in_them_are_backed_up_and_restored() {
    let world = World::with_host(EXE);
    let names = [
        "O'Brien \"quoted\" <b>&amp;",
        "..\\..\\evil",
        "größe 日本 🚀",
        &"x".repeat(255),
    ];
    let file = world.path("disk.vhdx");
    harness::make_disk(
        &file,
        harness::DiskSpec {
            size: 16 * MIB,
            data: 4 * MIB,
            seed: 5,
        },
    );
    for (number, name) in names.iter().enumerate() {
        let disk = format!("C:\\odd\\{number}.vhdx");
        world.hosts[0].add_vm(name, &[(&disk, &file)]);
    }
    for name in names {
        let vm = world.wait_for_vm(name);
        let id = text(&vm["id"]);
        world.back_up(id, &[]);
        world.restore(id, &["--to", "HV01"]);
    }
    let vms = world.hosts[0].ctl(&["vm", "list"]);
    assert_eq!(vms.as_array().unwrap().len(), 2 * names.len(), "{vms}");
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_vm_that_still_exists_is_not_overwritten() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    let before = world.hosts[0].facts();
    let job = failing_job(
        &world,
        &[
            "restore", "start", "web01", "--to", "HV01", "--id", "keep", "--folder", "D:\\out",
        ],
        "vm-exists",
    );
    assert!(text(&job["error"]["hint"]).contains("--to"), "{job}");
    world.hosts[0].ctl(&["power", "web01", "off"]);
    failing_job(
        &world,
        &[
            "restore", "start", "web01", "--to", "HV01", "--name", "WEB01",
        ],
        "name-taken",
    );
    let folder = [
        "restore",
        "start",
        "web01",
        "--disk",
        "disk0.vhdx",
        "--folder",
        "C:\\VMs\\web01",
    ];
    failing_job(&world, &folder, "path-taken");
    failing_job(
        &world,
        &[
            "restore",
            "start",
            "web01",
            "--to",
            "HV01",
            "--folder",
            "C:\\a\\..\\b",
        ],
        "bad-path",
    );
    failing_job(
        &world,
        &[
            "restore", "start", "web01", "--to", "HV01", "--folder", "Q:\\b",
        ],
        "no-volume",
    );
    world.hosts[0].ctl(&["power", "web01", "on"]);
    assert_eq!(world.hosts[0].facts(), before);
}

#[test]
fn a_damaged_disk_fails_the_backup_and_leaves_no_point() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["power", "web01", "off"]);
    let local = world.hosts[0].local("C:\\VMs\\web01\\disk0.vhdx");
    let whole = fs::read(&local).unwrap();
    for (what, damaged) in [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        (
            "headers gone",
            [vec![0; 256 * 1024], whole[256 * 1024..].to_vec()].concat(),
        ),
        ("empty", Vec::new()),
    ] {
        fs::write(&local, &damaged).unwrap();
        let done = world.run_and_wait(&["backup", "start", "web01"], &[]);
        assert_eq!(done.code, 1, "{what}: {}", done.text());
        assert!(
            !text(&done.value()["error"]["message"]).is_empty(),
            "{what}"
        );
        assert!(points(&world, "web01").is_empty(), "{what}");
    }
    fs::write(&local, &whole).unwrap();
    world.back_up("web01", &[]);
    assert_points_verify(&world, "web01");
    assert_host_is_clean(&world, 0);
}

#[test]
fn wrong_certificates_tokens_and_enrolments_are_refused() {
    let world = world_with_vm();
    let wrong = "00".repeat(32);
    let done = world.cli.with("REPRISE_CA", &wrong).run(&["status"]);
    done.expect(5);
    assert!(done.stderr.contains("fingerprint"), "{}", done.stderr);
    world
        .cli
        .with("REPRISE_TOKEN", "wrong")
        .run(&["status"])
        .expect(5);
    let token = world.cli.json(&["host", "token"]);
    let data = world.path("second");
    let enroll = |token: &str, data: &std::path::Path| {
        let server = world.server_url();
        world.cli.run(&[
            "agent",
            "enroll",
            "--data",
            data.to_str().unwrap(),
            "--server",
            &server,
            "--token",
            token,
        ])
    };
    assert_ne!(enroll("rpe1.zz.nonsense", &data).code, 0);
    let good = text(&token["token"]);
    let other = good.replacen(good.split('.').nth(1).unwrap(), &wrong, 1);
    assert_ne!(
        enroll(&other, &data).code,
        0,
        "another server's fingerprint"
    );
    enroll(good, &data).expect(0);
    assert_ne!(
        enroll(good, &world.path("third")).code,
        0,
        "a token works once"
    );
}

#[test]
fn a_file_in_the_way_at_the_original_location_is_kept_aside() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    crate::support::destroy_vm(&world, 0, "web01");
    let path = world.hosts[0].local("C:\\VMs\\web01\\disk0.vhdx");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"not to be lost").unwrap();
    let job = world.restore("web01", &[]);
    let kept = world.hosts[0].files("*\\old\\disk0.vhdx");
    assert_eq!(kept.len(), 1, "{job}");
    assert_eq!(
        fs::read(world.hosts[0].local(&kept[0].0)).unwrap(),
        b"not to be lost"
    );
}

#[test]
fn a_disk_that_another_program_holds_fails_the_backup_by_name() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["power", "web01", "off"]);
    let held = fs::File::options()
        .read(true)
        .write(true)
        .open(world.hosts[0].local("C:\\VMs\\web01\\disk0.vhdx"))
        .unwrap();
    held.lock().unwrap();
    let job = world.cli.json(&["backup", "start", "web01"]);
    let job = world.wait_for("the first attempt to fail", || {
        let job = world.cli.json(&["job", "show", text(&job["id"])]);
        job.to_string()
            .contains("disk0")
            .then_some(job)
            .filter(|job| job["state"] != "running")
    });
    assert!(
        job.to_string().contains("in use") || job.to_string().contains("holds"),
        "{job}"
    );
    drop(held);
    world.wait_for_job(text(&job["id"]), &["succeeded"]);
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_full_store_fails_the_job_and_recovers_when_there_is_room() {
    let (Some(mount), Some(umount)) = (tool("mount"), tool("umount")) else {
        return;
    };
    let small = tempfile::tempdir().unwrap();
    let mounted = Command::new(&mount)
        .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
        .arg(small.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        assert!(!harness::is_ci(), "a tmpfs can be mounted in CI");
        eprintln!("skipped: no right to mount a tmpfs");
        return;
    }
    let _unmount = Unmount {
        umount,
        folder: small.path().to_owned(),
    };
    let world = World::with_data(EXE, &small.path().join("server"));
    add_vm(&world, 0, "small", &[32]);
    add_vm(&world, 0, "large", &[512]);
    world.back_up("small", &[]);
    let job = failing_job(&world, &["backup", "start", "large"], "store-full");
    assert!(job["error"]["hint"].is_string(), "{job}");
    assert_host_is_clean(&world, 0);
    assert!(points(&world, "large").is_empty());
    assert_points_verify(&world, "small");
    let grown = Command::new(&mount)
        .args(["-o", "remount,size=1g"])
        .arg(small.path())
        .status()
        .unwrap();
    assert!(grown.success());
    world.back_up("large", &[]);
    assert_points_verify(&world, "large");
}

#[test]
fn a_full_target_fails_the_restore_and_leaves_nothing() {
    let (Some(mount), Some(umount)) = (tool("mount"), tool("umount")) else {
        return;
    };
    let world = World::with_host(EXE);
    add_vm(&world, 0, "web01", &[256]);
    world.back_up("web01", &[]);
    // The host reports room that is not there: the volume runs full while the restore writes.
    let volume = world.hosts[0].volume("D");
    let mounted = Command::new(&mount)
        .args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"])
        .arg(&volume)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        assert!(!harness::is_ci(), "a tmpfs can be mounted in CI");
        eprintln!("skipped: no right to mount a tmpfs");
        return;
    }
    let _unmount = Unmount {
        umount,
        folder: volume.clone(),
    };
    let before = world.hosts[0].facts();
    let words = [
        "restore", "start", "web01", "--to", "HV01", "--folder", "D:\\copy",
    ];
    let job = failing_job(&world, &words, "target-full");
    assert!(text(&job["error"]["message"]).contains("D:\\copy"), "{job}");
    assert!(job["error"]["hint"].is_string(), "{job}");
    assert_eq!(world.hosts[0].facts(), before, "the host is as before");
    world.restore("web01", &["--to", "HV01", "--folder", "C:\\copy"]);
}

#[test]
fn a_parent_that_is_missing_or_another_disk_fails_the_backup_by_name() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["checkpoint", "create", "web01", "first"]);
    world.hosts[0].ctl(&["power", "web01", "off"]);
    let parent = world.hosts[0].local("C:\\VMs\\web01\\disk0.vhdx");
    let aside = world.path("parent.vhdx");
    fs::rename(&parent, &aside).unwrap();
    let missing = world.run_and_wait(&["backup", "start", "web01"], &[]);
    missing.expect(1);
    assert!(
        text(&missing.value()["error"]["message"]).contains("disk0"),
        "{}",
        missing.text()
    );
    let other = harness::DiskSpec {
        size: 64 * MIB,
        data: MIB,
        seed: 99,
    };
    harness::make_disk(&parent, other);
    let wrong = world.run_and_wait(&["backup", "start", "web01"], &[]);
    wrong.expect(1);
    assert!(
        text(&wrong.value()["error"]["message"]).contains("disk0"),
        "{}",
        wrong.text()
    );
    assert!(points(&world, "web01").is_empty());
    fs::rename(&aside, &parent).unwrap();
    world.back_up("web01", &[]);
    assert_points_verify(&world, "web01");
}

#[test]
fn a_wrong_password_is_refused_and_the_right_one_is_not() {
    let world = World::new(EXE);
    let log_in = |password: &str| {
        let server = world.server_url();
        let words = ["login", "--server", &server, "--user", "admin"];
        world
            .cli
            .run_with_input(&words, format!("{password}\n").as_bytes())
    };
    log_in("wrong-password").expect(5);
    log_in(text(&world.made["password"])).expect(0);
}

struct Unmount {
    umount: std::path::PathBuf,
    folder: std::path::PathBuf,
}

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new(&self.umount)
            .arg("-l")
            .arg(&self.folder)
            .status();
    }
}
