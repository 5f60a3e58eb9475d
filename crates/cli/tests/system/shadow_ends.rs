//! How backups by the VSS method end when something goes wrong under way.

use harness::World;

use crate::support::{EXE, MIB, SLOW, add_vm, assert_points_verify, job_id, points, text};

#[test]
fn a_shadow_copy_that_vanishes_under_way_costs_a_second_run() {
    let mut world = World::with_host(EXE);
    add_vm(&world, 0, "big", &[256, 256]);
    let content = world.hosts[0].guest_hash("big", 1);
    world.slow_agent(0, SLOW);
    let id = job_id(
        &world
            .cli
            .json(&["backup", "start", "big", "--method", "vss"]),
    );
    // The host drops it for want of room: what is open can be read on, the next file is gone.
    world.wait_for("the middle of reading", || {
        let job = world.cli.json(&["job", "show", &id]);
        assert!(text(&job["state"]) != "succeeded", "too late: {job}");
        let done = job["progress"]["bytes_done"].as_u64()?;
        let name = world.hosts[0].shadows().pop()?;
        if done < 2 * MIB {
            return None;
        }
        let folder = world.hosts[0].shadows_folder().join(name);
        std::fs::remove_dir_all(folder).ok()
    });
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert_eq!(job["attempt"], 2);
    assert_eq!(world.hosts[0].shadows(), Vec::<String>::new());
    assert_eq!(points(&world, "big").len(), 1);
    world.kill_agent(0);
    world.start_agent(0);
    assert_points_verify(&world, "big");
    world.restore("big", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 1), content);
}

#[test]
fn a_cancelled_backup_leaves_no_shadow_copy() {
    let mut world = World::with_host(EXE);
    add_vm(&world, 0, "big", &[512]);
    world.slow_agent(0, SLOW);
    let id = job_id(
        &world
            .cli
            .json(&["backup", "start", "big", "--method", "vss"]),
    );
    world.wait_for("the middle of reading", || {
        let job = world.cli.json(&["job", "show", &id]);
        assert!(text(&job["state"]) != "succeeded", "too late: {job}");
        (job["progress"]["bytes_done"].as_u64()? > 8 * MIB).then_some(())
    });
    assert_eq!(world.hosts[0].shadows().len(), 1);
    world.cli.run(&["job", "cancel", &id]).expect(0);
    let job = world.wait_for_job(&id, &["cancelled", "succeeded", "failed"]);
    assert_eq!(text(&job["state"]), "cancelled", "{job}");
    assert_eq!(world.hosts[0].shadows(), Vec::<String>::new());
    assert!(points(&world, "big").is_empty());
}
