//! Restores that are cut in the middle of their data and go on: what was written is not fetched again, and nothing stays
//! of one that is given up.

use harness::{DiskSpec, World, find_step, make_disk};
use serde_json::Value;

use crate::shadow_restores::children;
use crate::support::{EXE, MIB, SLOW, assert_host_is_clean, destroy_vm, guest_write, job_id, text};

/// Bytes of data on the disk.
const DATA: u64 = 192 * MIB;
/// Bytes between two checkpoints.
const SPACING: u64 = 16 * MIB;
/// What may be on its way to the disk on a machine with few cores, and what the host's progress lags behind.
const ON_THE_WAY: u64 = 48 * MIB;

/// An installation with a backed-up VM whose restore takes 12 s at least.
fn world_with_big_vm(method: &str) -> (World, String) {
    let world = World::with_host(EXE);
    let file = world.path("big.vhdx");
    let spec = DiskSpec {
        size: 256 * MIB,
        data: DATA,
        seed: 11,
    };
    make_disk(&file, spec);
    world.hosts[0].add_vm("big", &[(r"C:\VMs\big\big.vhdx", &file)]);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.wait_for_vm("big");
    if method == "vss" {
        world.hosts[0].ctl(&["checkpoint", "create", "big", "one"]);
        guest_write(&world, "big", 0, 8 * MIB, 8 * MIB, 6);
    }
    let content = world.hosts[0].guest_hash("big", 0);
    world.back_up("big", &["--method", method]);
    (world, content)
}

fn start_slow_agent(world: &mut World) {
    let spacing = SPACING.to_string();
    world.kill_agent(0);
    world.start_agent_with(0, &["--max-rate", SLOW, "--checkpoint-every", &spacing]);
}

/// A name for the copy, so that the VM's checkpoints do not come back as such.
fn start_restore(world: &World) -> String {
    job_id(&world.cli.json(&[
        "restore",
        "start",
        "big",
        "--to",
        "HV01",
        "--name",
        "back",
        "--folder",
        r"D:\back",
        "--disk",
        r"C:\VMs\big\big.vhdx",
    ]))
}

/// Waits until so much of the data was written; returns how much the job says.
fn wait_until_written(world: &World, id: &str, attempt: u64, bytes: u64) -> u64 {
    world.wait_for("data to be written", || {
        let job = world.cli.json(&["job", "show", id]);
        assert!(
            !matches!(text(&job["state"]), "failed" | "succeeded"),
            "too late to interrupt: {job}"
        );
        if job["attempt"] != attempt {
            return None;
        }
        let sending = find_step(&job, "send").is_some_and(|step| step["state"] == "running");
        let done = job["progress"]["bytes_done"].as_u64()?;
        (sending && done > bytes).then_some(done)
    })
}

/// The job ends well, with little of what was written before the cut fetched again.
#[track_caller]
fn assert_gone_on(world: &World, id: &str, written: u64, all: u64) -> Value {
    let job = world.wait_for_job(id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    let reused = job["figures"]["bytes_reused"].as_u64().unwrap();
    let stored = job["figures"]["bytes_stored"].as_u64().unwrap();
    assert!(
        reused + SPACING + ON_THE_WAY >= written,
        "{reused} bytes kept of {written}: {job}"
    );
    let detail = text(&find_step(&job, "send").unwrap()["detail"]);
    assert!(detail.starts_with("goes on: "), "{job}");
    assert!(
        stored <= all - written + SPACING + ON_THE_WAY,
        "{stored} bytes written again, {written} of {all} were there: {job}"
    );
    job
}

#[track_caller]
fn assert_nothing_stray(world: &World) {
    let left: Vec<_> = world.hosts[0]
        .files(r"D:\*")
        .into_iter()
        .filter(|(path, _)| path.contains(".reprise-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_restore_goes_on_where_its_agent_was_killed() {
    let (mut world, content) = world_with_big_vm("rct");
    destroy_vm(&world, 0, "big");
    start_slow_agent(&mut world);
    let id = job_id(&world.cli.json(&["restore", "start", "big"]));
    let written = wait_until_written(&world, &id, 1, 64 * MIB);
    world.kill_agent(0);
    start_slow_agent(&mut world);
    // Cut once more, while what is there is being looked at.
    wait_until_written(&world, &id, 2, 0);
    world.kill_agent(0);
    world.start_agent(0);
    let job = assert_gone_on(&world, &id, written, 256 * MIB);
    assert_eq!(job["attempt"], 3);
    assert_eq!(world.hosts[0].guest_hash("big", 0), content);
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_restore_of_files_goes_on_where_its_agent_was_killed() {
    let (mut world, content) = world_with_big_vm("vss");
    destroy_vm(&world, 0, "big");
    start_slow_agent(&mut world);
    let id = start_restore(&world);
    let written = wait_until_written(&world, &id, 1, 96 * MIB);
    world.kill_agent(0);
    world.start_agent(0);
    assert_gone_on(&world, &id, written, 280 * MIB);
    assert!(children(&world, 0, r"D:\back").is_empty());
    assert_nothing_stray(&world);
    let file = world.hosts[0].local(r"D:\back\big.vhdx");
    assert_eq!(harness::disk_hash(&file), content);
}

#[test]
fn a_restore_outlives_its_server_and_its_host() {
    let (mut world, content) = world_with_big_vm("rct");
    destroy_vm(&world, 0, "big");
    start_slow_agent(&mut world);
    let id = job_id(&world.cli.json(&["restore", "start", "big"]));
    wait_until_written(&world, &id, 1, 48 * MIB);
    world.kill_server();
    world.start_server();
    let written = wait_until_written(&world, &id, 1, 96 * MIB);
    world.hosts[0].kill();
    world.hosts[0].start();
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    if job["attempt"] == 1 {
        // The attempt waited for them.
        assert!(
            job["figures"]["bytes_sent"].as_u64().unwrap() < DATA + 16 * MIB,
            "{job}"
        );
    } else {
        assert_gone_on(&world, &id, written, 256 * MIB);
    }
    assert_eq!(world.hosts[0].guest_hash("big", 0), content);
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_restore_that_is_called_off_after_a_cut_leaves_nothing() {
    let (mut world, _) = world_with_big_vm("rct");
    let before = world.hosts[0].facts();
    start_slow_agent(&mut world);
    let id = start_restore(&world);
    wait_until_written(&world, &id, 1, 48 * MIB);
    world.kill_agent(0);
    assert_ne!(world.hosts[0].facts(), before, "data is there");
    world.cli.run(&["job", "cancel", &id]).expect(0);
    world.start_agent(0);
    world.wait_for_job(&id, &["cancelled"]);
    world.wait_for("the data to go", || {
        (world.hosts[0].facts() == before).then_some(())
    });
}
