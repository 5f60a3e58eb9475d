//! Processes are killed where it hurts; afterwards nothing is left on the host and everything verifies.

use harness::{DiskSpec, World, make_disk};

use crate::support::{
    EXE, MIB, SLOW, assert_host_is_clean, assert_points_verify, destroy_vm, guest_write, points,
    text,
};

/// An installation with a VM whose backup and restore take 16 s at least when its agent is a slow one.
fn world_with_big_vm() -> World {
    let world = World::with_host(EXE);
    let file = world.path("big.vhdx");
    make_disk(
        &file,
        DiskSpec {
            size: 256 * MIB,
            data: 256 * MIB,
            seed: 3,
        },
    );
    world.hosts[0].add_vm("big", &[("C:\\VMs\\big\\big.vhdx", &file)]);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.wait_for_vm("big");
    world
}

/// Waits until a job has done a part of a step.
fn wait_for_middle(world: &World, id: &str, step: &str) {
    world.wait_for(&format!("the middle of step {step}"), || {
        let job = world.cli.json(&["job", "show", id]);
        let running = job["steps"]
            .as_array()?
            .iter()
            .any(|found| found["name"] == step && found["state"] == "running");
        let done = job["progress"]["bytes_done"].as_u64()?;
        assert!(
            !matches!(text(&job["state"]), "failed" | "succeeded"),
            "too late to interrupt: {job}"
        );
        (running && done > 32 * MIB).then_some(())
    });
}

/// After an interrupted backup: the job ends, the host is clean, the next backup succeeds, everything verifies and
/// restores.
fn assert_recovered(world: &mut World, id: &str) {
    world.wait_for_job(id, &["succeeded", "warnings", "failed"]);
    world.kill_agent(0);
    world.start_agent(0);
    world.wait_for_host("HV01", "ready");
    guest_write(world, "big", 0, 7 * MIB, MIB, 77);
    let content = world.hosts[0].guest_hash("big", 0);
    world.back_up("big", &[]);
    assert_host_is_clean(world, 0);
    assert_points_verify(world, "big");
    world.restore(
        "big",
        &["--to", "HV01", "--name", "copy", "--folder", "D:\\copy"],
    );
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
}

#[test]
fn the_agent_killed_in_mid_backup() {
    let mut world = world_with_big_vm();
    world.slow_agent(0, SLOW);
    let id = text(&world.cli.json(&["backup", "start", "big"])["id"]).to_owned();
    wait_for_middle(&world, &id, "read");
    world.kill_agent(0);
    world.start_agent(0);
    assert_recovered(&mut world, &id);
}

#[test]
fn the_server_killed_in_mid_backup() {
    let mut world = world_with_big_vm();
    world.slow_agent(0, SLOW);
    let id = text(&world.cli.json(&["backup", "start", "big"])["id"]).to_owned();
    wait_for_middle(&world, &id, "read");
    world.kill_server();
    world.start_server();
    assert_recovered(&mut world, &id);
}

#[test]
fn the_host_killed_in_mid_backup() {
    let mut world = world_with_big_vm();
    world.slow_agent(0, SLOW);
    let id = text(&world.cli.json(&["backup", "start", "big"])["id"]).to_owned();
    wait_for_middle(&world, &id, "read");
    world.hosts[0].kill();
    world.hosts[0].start();
    assert_recovered(&mut world, &id);
}

#[test]
fn the_agent_killed_in_mid_restore() {
    let mut world = world_with_big_vm();
    let content = world.hosts[0].guest_hash("big", 0);
    world.back_up("big", &[]);
    destroy_vm(&world, 0, "big");
    world.slow_agent(0, SLOW);
    let id = text(&world.cli.json(&["restore", "start", "big"])["id"]).to_owned();
    wait_for_middle(&world, &id, "send");
    world.kill_agent(0);
    world.start_agent(0);
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["attempt"], 2);
    assert_eq!(world.hosts[0].guest_hash("big", 0), content);
    assert_host_is_clean(&world, 0);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.back_up("big", &[]);
    assert_points_verify(&world, "big");
    assert_eq!(points(&world, "big").len(), 2);
}

#[test]
fn a_backup_cancelled_in_the_middle_leaves_nothing() {
    let mut world = world_with_big_vm();
    world.slow_agent(0, SLOW);
    let id = text(&world.cli.json(&["backup", "start", "big"])["id"]).to_owned();
    wait_for_middle(&world, &id, "read");
    world.cli.run(&["job", "cancel", &id]).expect(0);
    let job = world.wait_for_job(&id, &["cancelled", "succeeded", "failed"]);
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_host_is_clean(&world, 0);
    assert!(points(&world, "big").is_empty());
    world.back_up("big", &[]);
}
