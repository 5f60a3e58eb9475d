//! Backups and restores that go well (S1 to S6, S10, S13 to S17, S22).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{World, disk_hash, find_step, step_names};
use serde_json::Value;

use crate::support::{
    EXE, MIB, add_vm, assert_host_is_clean, assert_points_verify, destroy_vm, guest_write, points,
    text, world_with_vm,
};

#[test]
fn s01_a_protected_vm_gets_recovery_points_by_the_schedule() {
    let world = world_with_vm();
    world
        .cli
        .json(&["policy", "create", "often", "--every", "1s"]);
    world
        .cli
        .json(&["vm", "protect", "web01", "--policy", "often"]);
    world.wait_for("two recovery points nobody asked for", || {
        let live = points(&world, "web01")
            .into_iter()
            .filter(|point| point["state"] == "live")
            .count();
        (live >= 2).then_some(())
    });
    world.cli.run(&["vm", "unprotect", "web01"]).expect(0);
    let newest = &points(&world, "web01")[0];
    assert_eq!(newest["vm"]["name"], "web01");
    assert_eq!(newest["method"], "rct");
}

#[test]
fn s02_latest_is_the_default_and_any_older_point_can_be_chosen() {
    let world = world_with_vm();
    let mut states = Vec::new();
    for seed in 1..=3 {
        guest_write(&world, "web01", 0, seed * MIB, 3 * MIB, seed);
        states.push(world.hosts[0].guest_hash("web01", 0));
        world.back_up("web01", &[]);
    }
    let mut made = points(&world, "web01");
    made.reverse();
    assert_eq!(made.len(), 3);
    assert_eq!(made[0]["kind"], "full");
    assert_eq!(made[1]["kind"], "incremental");
    let restore = |name: &str, more: &[&str]| {
        let folder = format!("D:\\{name}");
        let mut words = vec!["--to", "HV01", "--name", name, "--folder", &folder];
        words.extend(more);
        world.restore("web01", &words);
        world.hosts[0].guest_hash(name, 0)
    };
    assert_eq!(restore("newest", &[]), states[2]);
    for (number, point) in made.iter().enumerate() {
        let name = format!("older{number}");
        assert_eq!(
            restore(&name, &["--point", text(&point["id"])]),
            states[number]
        );
    }
}

/// Backs a VM up, destroys it and restores it where it was.
struct Returned {
    world: World,
    before: Value,
    after: Value,
    content: String,
    job: Value,
}

fn returned_vm() -> Returned {
    let world = world_with_vm();
    let before = world.hosts[0].vm("web01").unwrap();
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    assert_host_is_clean(&world, 0);
    destroy_vm(&world, 0, "web01");
    assert!(world.hosts[0].vm("web01").is_none());
    let job = world.restore("web01", &[]);
    let after = world.hosts[0].vm("web01").unwrap();
    Returned {
        world,
        before,
        after,
        content,
        job,
    }
}

#[test]
fn s03_a_whole_vm_comes_back_and_can_be_backed_up_again() {
    let Returned {
        world,
        content,
        job,
        after,
        ..
    } = returned_vm();
    assert_eq!(job["state"], "succeeded");
    assert_eq!(after["disks"].as_array().unwrap().len(), 1);
    assert_eq!(after["nics"], serde_json::json!(["LAN"]));
    assert_eq!(world.hosts[0].guest_hash("web01", 0), content);
    assert_host_is_clean(&world, 0);

    // The next backup trusts no tracker of before.
    world.hosts[0].ctl(&["power", "web01", "on"]);
    world.back_up("web01", &[]);
    assert_eq!(points(&world, "web01")[0]["kind"], "full");
    assert_points_verify(&world, "web01");
}

#[test]
fn s05_the_original_location_gives_the_vm_its_id_path_and_name_back() {
    let Returned { before, after, .. } = returned_vm();
    assert_eq!(after["id"], before["id"]);
    assert_eq!(after["name"], before["name"]);
    assert_eq!(after["disks"][0]["path"], before["disks"][0]["path"]);
    assert_eq!(after["disks"][0]["disk_id"], before["disks"][0]["disk_id"]);
    assert_eq!(after["state"], "off", "power is off unless asked");
}

#[test]
fn s04_one_disk_of_several_is_restored_to_a_folder() {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[32, 48, 16]);
    let content = world.hosts[0].guest_hash("db01", 1);
    world.back_up("db01", &[]);
    let before = world.hosts[0].ctl(&["vm", "show", "db01"]);
    let job = world.restore("db01", &["--disk", "disk1.vhdx", "--folder", "D:\\out"]);
    assert_eq!(job["state"], "succeeded");
    let files = world.hosts[0].files("D:\\out\\*");
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(
        disk_hash(&world.hosts[0].local("D:\\out\\disk1.vhdx")),
        content
    );
    assert_eq!(
        world.hosts[0].ctl(&["vm", "show", "db01"]),
        before,
        "the VM is untouched"
    );
    assert!(text(&find_step(&job, "kind").unwrap()["detail"]).contains("virtual disk restore"));
}

#[test]
fn s06_a_vm_is_restored_to_another_host_folder_name_and_network() {
    let mut world = world_with_vm();
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    world.hosts[1].ctl(&["vm", "add", "neighbour", "--nic", "DMZ"]);
    let content = world.hosts[0].guest_hash("web01", 0);
    let id = world.hosts[0].vm("web01").unwrap()["id"].clone();
    world.back_up("web01", &[]);

    let words = [
        "--to",
        "HV02",
        "--folder",
        "D:\\restored",
        "--name",
        "web02",
        "--network",
        "LAN=DMZ",
    ];
    let job = world.restore("web01", &words);
    assert_eq!(job["host"]["name"], "HV02");
    let made = world.hosts[1].vm("web02").unwrap();
    assert_ne!(made["id"], id, "a copy has its own id");
    assert_eq!(made["disks"][0]["path"], "D:\\restored\\disk0.vhdx");
    assert_eq!(world.hosts[1].guest_hash("web02", 0), content);
    assert_eq!(
        world.hosts[0].guest_hash("web01", 0),
        content,
        "the original is untouched"
    );
    assert!(made.to_string().contains("DMZ"), "{made}");
    world.hosts[1].ctl(&["power", "web02", "on"]);
}

#[test]
fn s06_the_same_host_gives_a_copy_with_its_own_id_and_name() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    world.restore("web01", &["--to", "HV01"]);
    let vms = world.hosts[0].ctl(&["vm", "list"]);
    let names: Vec<&str> = vms
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| text(&vm["name"]))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names.iter().any(|name| name.starts_with("web01-restored-")),
        "{names:?}"
    );
}

#[test]
fn s08_the_request_goes_to_the_agent_of_the_host_concerned() {
    let mut world = world_with_vm();
    world.add_host("HV02", &["C=64GiB"]);
    world.back_up("web01", &[]);
    let job = world.restore("web01", &["--to", "HV02", "--name", "copy"]);
    assert_eq!(job["host"]["name"], "HV02");
    assert!(world.hosts[1].vm("copy").is_some());
    assert!(world.hosts[0].vm("copy").is_none());
}

/// An installation after a restore beside the original, with the restore's job.
fn restored_copy() -> (World, Value) {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    let job = world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    (world, job)
}

fn step_detail<'j>(job: &'j Value, step: &str) -> &'j str {
    text(&find_step(job, step).unwrap_or_else(|| panic!("no step {step}: {job}"))["detail"])
}

#[test]
fn s09_the_log_says_that_the_agent_was_found_running() {
    let (_world, job) = restored_copy();
    let detail = step_detail(&job, "agent");
    assert!(
        detail.contains("runs") && detail.contains("ready"),
        "{detail}"
    );
}

#[test]
fn s10_with_a_running_agent_the_restore_goes_ahead_by_itself() {
    let (world, job) = restored_copy();
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&"succeeded".into(), &1.into())
    );
    assert!(world.hosts[0].vm("copy").is_some());
}

#[test]
fn s13_the_log_says_which_kind_of_restore_it_is() {
    let (world, job) = restored_copy();
    assert!(step_detail(&job, "kind").contains("full virtual machine restore"));
    let job = world.restore("web01", &["--disk", "disk0.vhdx", "--folder", "D:\\out"]);
    assert!(step_detail(&job, "kind").contains("virtual disk restore"));
}

#[test]
fn s14_the_agent_opens_the_connection_for_the_recovery_point() {
    let (world, job) = restored_copy();
    let point = points(&world, "web01")[0]["id"].clone();
    assert!(step_detail(&job, "connect").contains(text(&point)));
}

#[test]
fn s15_the_recovery_point_is_sent_to_the_agent() {
    let (_world, job) = restored_copy();
    let sent = job["figures"]["bytes_sent"].as_u64().unwrap();
    assert!(
        sent >= 16 * MIB,
        "16 MiB that do not compress were sent, not {sent} bytes"
    );
    assert_eq!(job["figures"]["bytes_stored"].as_u64().unwrap() / MIB, 16);
}

#[test]
fn s16_the_steps_come_in_the_required_order_with_their_times() {
    let (_world, job) = restored_copy();
    let order = [
        "request", "agent", "space", "kind", "connect", "send", "restore", "verify",
    ];
    assert_eq!(step_names(&job), order);
    let steps = job["steps"].as_array().unwrap();
    assert!(
        steps.iter().all(|step| step["state"] == "done"),
        "{steps:?}"
    );
    let times: Vec<&str> = steps.iter().map(|step| text(&step["started"])).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn s17_a_byte_that_changed_on_the_host_fails_the_restore_and_leaves_nothing() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    let before = world.hosts[0].facts();
    // Registering takes a while, so that the file can be damaged before it is read back.
    world.hosts[0].ctl(&["fault", "set", "job_millis=1500"]);
    let target = world.hosts[0].volume("D").join("copy").join("disk0.vhdx");
    let words = [
        "restore", "start", "web01", "--to", "HV01", "--name", "copy", "--folder", "D:\\copy",
    ];
    let job = world.cli.json(&words);
    let id = text(&job["id"]);
    world.wait_for("the restored file to be in place", || {
        target.exists().then_some(())
    });
    flip_a_data_byte(&target);
    let job = world.wait_for_job(id, &["succeeded", "warnings", "failed"]);
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "verify-failed", "{job}");
    assert!(text(&job["error"]["message"]).contains("offset"), "{job}");
    assert_eq!(
        world.hosts[0].facts(),
        before,
        "nothing is left of the restore"
    );
}

/// Flips a byte in the last MiB of a VHDX, which is payload.
fn flip_a_data_byte(path: &std::path::Path) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let at = file.metadata().unwrap().len() - MIB / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn s22_no_avhdx_is_ever_seen_while_a_point_of_a_vm_with_checkpoints_is_restored() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["checkpoint", "create", "web01", "before update"]);
    guest_write(&world, "web01", 0, 5 * MIB, 2 * MIB, 7);
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    assert_eq!(
        points(&world, "web01")[0]["checkpoints"][0]["name"],
        "before update"
    );

    let folder = world.hosts[0].volume("D");
    let (stop, seen) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(std::sync::Mutex::new(BTreeSet::new())),
    );
    let watcher = {
        let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                walk(&folder, &mut |name| {
                    seen.lock().unwrap().insert(name);
                });
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    world.restore(
        "web01",
        &["--to", "HV01", "--name", "copy", "--folder", "D:\\copy"],
    );
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().any(|name| name.ends_with(".vhdx")),
        "the watcher saw the restore: {seen:?}"
    );
    assert!(
        !seen.iter().any(|name| name.ends_with(".avhdx")),
        "{seen:?}"
    );
    assert_eq!(
        world.hosts[0].ctl(&["checkpoint", "list", "copy"]),
        serde_json::json!([])
    );
    assert_eq!(
        world.hosts[0].guest_hash("copy", 0),
        content,
        "the current state at backup time"
    );
}

fn walk(folder: &std::path::Path, found: &mut impl FnMut(String)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found(entry.file_name().to_string_lossy().to_lowercase());
        }
    }
}

#[test]
fn a_vm_with_user_checkpoints_is_backed_up_through_its_chain() {
    let world = world_with_vm();
    for round in 0..3 {
        world.hosts[0].ctl(&["checkpoint", "create", "web01", &format!("level {round}")]);
        guest_write(&world, "web01", 0, (10 + round) * MIB, MIB, round);
    }
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    guest_write(&world, "web01", 0, 20 * MIB, MIB, 9);
    let later = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &[]);
    let made = points(&world, "web01");
    for (point, content, name) in [(&made[1], content, "first"), (&made[0], later, "second")] {
        let folder = format!("D:\\{name}");
        world.restore(
            "web01",
            &[
                "--to",
                "HV01",
                "--name",
                name,
                "--folder",
                &folder,
                "--point",
                text(&point["id"]),
            ],
        );
        assert_eq!(world.hosts[0].guest_hash(name, 0), content);
    }
}
