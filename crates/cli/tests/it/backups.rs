//! Backups as the command line shows them: reasons, figures, what a failed one leaves.

use harness::World;
use serde_json::Value;

use crate::{EXE, MIB, world_with_vm};

fn figure(job: &Value, name: &str) -> u64 {
    job["figures"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no figure {name}: {job}"))
}

#[test]
fn a_full_says_why_it_was_one() {
    let world = world_with_vm("web01", 64, 4);
    let reason = |more: &[&str]| {
        let job = world.back_up("web01", more);
        let point = world
            .cli
            .json(&["point", "show", job["point"].as_str().unwrap()]);
        (
            point["kind"].as_str().unwrap().to_owned(),
            point["reason"].as_str().unwrap_or("").to_owned(),
        )
    };
    let (kind, why) = reason(&[]);
    assert!(kind == "full" && why.contains("first"), "{kind} {why}");
    let (kind, why) = reason(&["--full"]);
    assert!(kind == "full" && why.contains("forced"), "{kind} {why}");
    let (kind, why) = reason(&[]);
    assert!(kind == "incremental" && why.is_empty(), "{kind} {why}");
}

#[test]
fn a_second_vm_with_the_same_data_adds_little() {
    let world = World::with_host(EXE);
    let (file, _) = crate::disk(&world, "same", 128, 64, 1);
    for name in ["one", "two"] {
        let host = &world.hosts[0];
        host.add_vm(name, &[(&format!(r"C:\VMs\{name}\disk.vhdx"), &file)]);
        host.ctl(&["power", name, "on"]);
        world.wait_for_vm(name);
    }
    let first = world.back_up("one", &[]);
    let second = world.back_up("two", &[]);
    assert!(figure(&first, "bytes_stored") > 60 * MIB);
    assert!(
        figure(&second, "bytes_stored") < 2 * MIB,
        "{}",
        second["figures"]
    );
    assert!(
        figure(&second, "bytes_sent") < 2 * MIB,
        "{}",
        second["figures"]
    );
}

#[test]
fn a_failed_backup_leaves_nothing_and_the_next_one_succeeds() {
    let world = world_with_vm("web01", 64, 8);
    let host = &world.hosts[0];
    world.back_up("web01", &[]);
    let before = host.facts();
    host.ctl(&[
        "fault",
        "add",
        "job-failed",
        "--on",
        "CreateSnapshot",
        "--times",
        "20",
    ]);
    let done = world.run_and_wait(&["backup", "start", "web01"], &[]);
    assert_ne!(done.code, 0);
    let job = done.value();
    assert_eq!(job["state"], "failed");
    assert!(
        job["error"]["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{job}"
    );
    host.ctl(&["fault", "clear"]);
    assert_eq!(host.facts()["checkpoints"], before["checkpoints"]);
    assert_eq!(
        world
            .cli
            .json(&["point", "list", "web01"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let next = world.back_up("web01", &[]);
    let point = world
        .cli
        .json(&["point", "show", next["point"].as_str().unwrap()]);
    assert_eq!(point["kind"], "incremental", "the base did not move");
}

#[test]
fn a_folder_that_leaves_the_volume_is_refused() {
    let world = world_with_vm("web01", 64, 4);
    world.back_up("web01", &[]);
    let before = world.hosts[0].facts();
    for folder in [
        r"C:\VMs\..\..\etc",
        r"..\up",
        "/etc",
        r"Z:\nowhere",
        r"C:relative",
        r"\\?\C:\x",
    ] {
        let done = world.run_and_wait(
            &["restore", "start", "web01"],
            &["--disk", "disk.vhdx", "--folder", folder],
        );
        assert_ne!(done.code, 0, "{folder}");
    }
    assert_eq!(world.hosts[0].facts(), before);
}
