//! Who may ask, and what happens while the agent is away (S7, S11, S12).

use crate::support::{EXE, MIB, add_vm, job_id, points, text, world_with_vm};

#[test]
fn s07_only_an_administrator_starts_a_restore() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    let restore = [
        "restore", "start", "web01", "--to", "HV01", "--name", "copy",
    ];
    for role in ["viewer", "operator"] {
        let made = world.cli.json(&["token", "create", role, "--role", role]);
        let cli = world.cli.with("REPRISE_TOKEN", text(&made["secret"]));
        cli.run(&restore).expect(5);
        let backup = if role == "operator" { 0 } else { 5 };
        cli.run(&["backup", "start", "web01"]).expect(backup);
        cli.run(&["job", "list"]).expect(0);
        cli.run(&["user", "list"]).expect(5);
    }
    world
        .cli
        .with("REPRISE_TOKEN", "nonsense")
        .run(&restore)
        .expect(5);
    let jobs = world.cli.json(&["job", "list"]);
    assert!(
        jobs.as_array()
            .unwrap()
            .iter()
            .all(|job| job["kind"] != "restore"),
        "none was made: {jobs}"
    );
    let made = world
        .cli
        .json(&["token", "create", "second", "--role", "administrator"]);
    let cli = world.cli.with("REPRISE_TOKEN", text(&made["secret"]));
    let job = cli.json(&restore);
    world.wait_for_job(text(&job["id"]), &["succeeded"]);
}

#[test]
fn s11_a_restore_waits_for_an_absent_agent_and_survives_a_restart_of_the_server() {
    let mut world = world_with_vm();
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    world.kill_agent(0);
    world.wait_for_host("HV01", "offline");
    let job = world.cli.json(&[
        "restore", "start", "web01", "--to", "HV01", "--name", "copy",
    ]);
    let id = job_id(&job);
    assert_eq!(
        (text(&job["state"]), text(&job["cause"])),
        ("queued", "agent-offline")
    );
    world.stop_server();
    world.start_server();
    let job = world.cli.json(&["job", "show", &id]);
    assert_eq!(
        (text(&job["state"]), text(&job["cause"])),
        ("queued", "agent-offline")
    );
    world.start_agent(0);
    world.wait_for_job(&id, &["succeeded"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
}

#[test]
fn s11_a_restore_cancelled_in_the_queue_never_runs() {
    let mut world = world_with_vm();
    world.back_up("web01", &[]);
    world.kill_agent(0);
    world.wait_for_host("HV01", "offline");
    let cancelled = job_id(&world.cli.json(&[
        "restore", "start", "web01", "--to", "HV01", "--name", "never",
    ]));
    let other = job_id(&world.cli.json(&[
        "restore", "start", "web01", "--to", "HV01", "--name", "later",
    ]));
    world.cli.run(&["job", "cancel", &cancelled]).expect(0);
    world.start_agent(0);
    world.wait_for_job(&other, &["succeeded"]);
    let job = world.cli.json(&["job", "show", &cancelled]);
    assert_eq!(job["state"], "cancelled");
    assert_eq!(job["attempt"], 0);
    assert!(world.hosts[0].vm("never").is_none());
    world.cli.run(&["job", "cancel", &cancelled]).expect(6);
}

#[test]
fn s11_a_restore_waits_for_a_host_that_is_down() {
    let mut world = world_with_vm();
    world.back_up("web01", &[]);
    world.hosts[0].kill();
    let shown = world.wait_for_host("HV01", "not-ready");
    assert!(text(&shown["reason"]).contains("cannot reach"), "{shown}");
    let job = world.cli.json(&[
        "restore", "start", "web01", "--to", "HV01", "--name", "copy",
    ]);
    let id = job_id(&job);
    assert_eq!(
        (text(&job["state"]), text(&job["cause"])),
        ("queued", "agent-not-ready")
    );
    world.hosts[0].start();
    world.wait_for_job(&id, &["succeeded"]);
    assert!(world.hosts[0].vm("copy").is_some());
}

#[test]
fn s12_too_small_a_volume_fails_before_anything_is_written() {
    let world = harness::World::with_host(EXE);
    add_vm(&world, 0, "web01", &[256]);
    world.back_up("web01", &[]);
    world.hosts[0].ctl(&["volume", "set", "D", "--capacity", "40MiB"]);
    let before = world.hosts[0].facts();
    let words = [
        "restore", "start", "web01", "--to", "HV01", "--name", "copy", "--folder", "D:\\copy",
    ];
    let done = world.run_and_wait(&words, &[]);
    done.expect(1);
    let job = done.value();
    assert_eq!(job["error"]["code"], "not-enough-space", "{job}");
    let message = text(&job["error"]["message"]);
    let available = 40 * MIB;
    assert!(
        message.contains("D:\\") && message.contains(&available.to_string()),
        "{message}"
    );
    let needed = 64 * MIB;
    let named = message
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse::<u64>().ok());
    assert!(
        named
            .into_iter()
            .any(|bytes| (needed..needed + 32 * MIB).contains(&bytes)),
        "needed bytes: {message}"
    );
    assert_eq!(
        world.hosts[0].facts(),
        before,
        "the host is exactly as before"
    );
    assert_eq!(points(&world, "web01").len(), 1);
}
