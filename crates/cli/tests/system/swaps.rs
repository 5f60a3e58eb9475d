//! Restores over a VM that still exists: the swap, its undo, its finish, and what a failure on the way leaves.

use harness::{World, find_step};
use serde_json::{Value, json};

use crate::support::{EXE, MIB, add_vm, guest_write, job_id, points, text};

/// What a person sees of a VM, with what its guest sees of its disks.
fn seen(world: &World, vm: &str) -> Value {
    let host = &world.hosts[0];
    let mut shown = host.vm(vm).unwrap_or_else(|| panic!("there is no VM {vm}"));
    let disks = shown["disks"].as_array().map_or(0, Vec::len);
    let content: Vec<String> = (0..disks).map(|disk| host.guest_hash(vm, disk)).collect();
    let kept = json!({
        "id": shown["id"].take(), "name": shown["name"].take(), "state": shown["state"].take(),
        "nics": shown["nics"].take(), "content": content,
        "disks": shown["disks"].as_array().unwrap().iter().map(|disk| disk["path"].clone()).collect::<Vec<_>>(),
    });
    kept
}

fn parked_files(world: &World) -> Vec<String> {
    let files = world.hosts[0].files("*");
    let mut found: Vec<String> = files.into_iter().map(|(path, _)| path).collect();
    found.retain(|path| path.contains(".reprise-"));
    found
}

fn end(world: &World, verb: &str, job: &str) -> Value {
    let done = world.run_and_wait(&["restore", verb, job], &[]);
    done.expect(0);
    done.value()
}

#[track_caller]
fn assert_conflict(world: &World, verb: &str, job: &str, why: &str) {
    let done = world.cli.run(&["restore", verb, job, "--json"]);
    done.expect(6);
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), done.stderr);
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_vm_that_still_exists_makes_room_and_can_come_back() {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "web01", &[64, 32]);
    let at_backup = seen(&world, "web01");
    world.back_up("web01", &[]);
    guest_write(&world, "web01", 0, MIB, 3 * MIB, 7);
    guest_write(&world, "web01", 1, 2 * MIB, MIB, 8);
    let before = seen(&world, "web01");
    assert_eq!(before["state"], "running");

    let restored = world.restore("web01", &[]);
    assert_eq!(restored["warnings"], json!([]));
    let mut expected = at_backup.clone();
    expected["state"] = json!("off");
    assert_eq!(seen(&world, "web01"), expected);
    assert_eq!(restored["parked"]["state"], "parked");
    assert_eq!(restored["parked"]["whole_vm"], true);
    let kept = parked_files(&world);
    for name in ["disk0.vhdx", "disk1.vhdx", ".vmcx"] {
        assert!(kept.iter().any(|path| path.ends_with(name)), "{kept:?}");
    }
    let shown = world.cli.run(&["job", "show", text(&restored["id"])]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("kept until") && shown.contains("reprise restore undo"),
        "{shown}"
    );
    // Nothing of the tracker lies beside a disk we wrote: the next backup reads it whole.
    world.hosts[0].ctl(&["power", "web01", "on"]);
    world.back_up("web01", &[]);
    assert_eq!(points(&world, "web01")[0]["kind"], "full");
    world.hosts[0].ctl(&["power", "web01", "off"]);

    // The undo gives back what was there, running as it was, and keeps the restored one in turn.
    let undo = end(&world, "undo", &job_id(&restored));
    assert_eq!(seen(&world, "web01"), before);
    assert!(find_step(&undo, "verify").is_some());
    assert_conflict(&world, "undo", &job_id(&restored), "undone already");
    let first = world.cli.json(&["job", "show", &job_id(&restored)]);
    assert_eq!(first["parked"]["state"], "undone");
    assert_eq!(undo["parked"]["state"], "parked");

    // An undo can be undone, and finished.
    let again = end(&world, "undo", &job_id(&undo));
    assert_eq!(seen(&world, "web01"), expected);
    let finished = end(&world, "finish", &job_id(&again));
    assert!(text(&find_step(&finished, "release").unwrap()["detail"]).contains("files deleted"));
    assert_eq!(parked_files(&world), Vec::<String>::new());
    assert_eq!(seen(&world, "web01"), expected);
    assert_conflict(&world, "undo", &job_id(&again), "is finished");
    assert_conflict(&world, "finish", &job_id(&again), "is finished");
    assert_conflict(&world, "finish", &job_id(&finished), "keeps nothing");
    let backup = world.back_up("web01", &[]);
    assert_conflict(&world, "undo", &job_id(&backup), "is no restore");
    let missing = "2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11";
    world
        .cli
        .run(&["restore", "undo", missing, "--json"])
        .expect(4);
}
