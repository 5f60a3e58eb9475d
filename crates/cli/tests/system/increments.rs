//! What increments cost: what changed, not what the disk holds.

use harness::{DiskSpec, World, make_disk};

use crate::support::{
    EXE, MIB, assert_host_is_clean, assert_points_verify, guest_write, points, text,
};

#[test]
fn an_increment_after_one_per_cent_reads_and_sends_about_one_per_cent() {
    let world = World::with_host(EXE);
    let file = world.path("big.vhdx");
    make_disk(
        &file,
        DiskSpec {
            size: 400 * MIB,
            data: 400 * MIB,
            seed: 1,
        },
    );
    world.hosts[0].add_vm("big", &[("C:\\VMs\\big\\big.vhdx", &file)]);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.wait_for_vm("big");
    let full = world.back_up("big", &[]);
    let read = full["figures"]["bytes_read"].as_u64().unwrap();
    assert!(
        (400 * MIB..440 * MIB).contains(&read),
        "a full reads what is allocated: {read}"
    );

    // 4 MiB of 400, in 64 pieces of 64 KiB all over the disk.
    for piece in 0..64 {
        guest_write(
            &world,
            "big",
            0,
            piece * 6 * MIB + 128 * 1024,
            64 * 1024,
            1000 + piece,
        );
    }
    let content = world.hosts[0].guest_hash("big", 0);
    let job = world.back_up("big", &[]);
    let figure = |name: &str| job["figures"][name].as_u64().unwrap();
    for name in ["bytes_read", "bytes_sent", "bytes_stored"] {
        assert!(
            (4 * MIB..6 * MIB).contains(&figure(name)),
            "{name} of 4 MiB changed: {}",
            figure(name)
        );
    }
    let newest = &points(&world, "big")[0];
    assert_eq!(newest["kind"], "incremental");
    assert_eq!(newest["changed_bytes"].as_u64().unwrap(), 4 * MIB);

    world.restore(
        "big",
        &["--to", "HV01", "--name", "copy", "--folder", "D:\\copy"],
    );
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
    assert_host_is_clean(&world, 0);
}

#[test]
fn a_lost_rct_id_gives_a_full_with_its_reason_and_no_wrong_byte() {
    let world = crate::support::world_with_vm();
    world.back_up("web01", &[]);
    guest_write(&world, "web01", 0, 0, MIB, 5);
    world.hosts[0].ctl(&[
        "fault",
        "add",
        "rct-id-unknown",
        "--on",
        "GetVirtualDiskChanges",
    ]);
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    let newest = &points(&world, "web01")[0];
    assert_eq!(newest["kind"], "full");
    assert!(
        text(&newest["reason"]).contains("rct-id-lost")
            || text(&newest["reason"]).contains("tracker"),
        "{newest}"
    );
    world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
}

#[test]
fn an_applied_checkpoint_ends_the_chain_of_increments() {
    let world = crate::support::world_with_vm();
    world.hosts[0].ctl(&["checkpoint", "create", "web01", "good"]);
    world.back_up("web01", &[]);
    guest_write(&world, "web01", 0, 0, 8 * MIB, 5);
    world.hosts[0].ctl(&["power", "web01", "off"]);
    world.hosts[0].ctl(&["checkpoint", "apply", "web01", "good"]);
    world.hosts[0].ctl(&["power", "web01", "on"]);
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    assert_eq!(points(&world, "web01")[0]["kind"], "full");
    world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
    assert_points_verify(&world, "web01");
}

#[test]
fn partial_and_coarse_answers_of_the_tracker_lose_nothing() {
    let world = crate::support::world_with_vm();
    world.hosts[0].ctl(&["fault", "set", "partial_changes=3MiB"]);
    world.hosts[0].ctl(&["fault", "set", "coarse_bytes=1048576"]);
    world.back_up("web01", &[]);
    for piece in 0..10 {
        guest_write(
            &world,
            "web01",
            0,
            piece * 5 * MIB + 4096 * piece,
            4096,
            40 + piece,
        );
    }
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    assert_eq!(points(&world, "web01")[0]["kind"], "incremental");
    world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
}

#[test]
fn writes_between_checkpoint_and_conversion_are_in_the_next_increment() {
    let world = crate::support::world_with_vm();
    // The conversion takes a while; the guest goes on writing.
    world.hosts[0].ctl(&["fault", "set", "job_millis=1000"]);
    let job = world.cli.json(&["backup", "start", "web01"]);
    let id = text(&job["id"]).to_owned();
    let mut seed = 0;
    world.wait_for("the backup to end while the guest writes", || {
        seed += 1;
        guest_write(&world, "web01", 0, (seed % 60) * MIB, 4096, seed);
        let job = world.cli.json(&["job", "show", &id]);
        matches!(text(&job["state"]), "succeeded" | "warnings" | "failed").then_some(())
    });
    world.hosts[0].ctl(&["fault", "set", "job_millis=50"]);
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    assert_eq!(points(&world, "web01")[0]["kind"], "incremental");
    world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
}
