//! Restores over a VM that still exists: the swap, its undo, its finish, and what a failure on the way leaves.

use harness::{World, find_step};
use serde_json::{Value, json};

use crate::shadows::{add_vm_at, grow_tree};
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
    for role in ["viewer", "operator"] {
        let made = world.cli.json(&["token", "create", role, "--role", role]);
        let cli = world.cli.with("REPRISE_TOKEN", text(&made["secret"]));
        for verb in ["undo", "finish"] {
            cli.run(&["restore", verb, &job_id(&again)]).expect(5);
        }
    }
    let missing = "2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11";
    world
        .cli
        .run(&["restore", "undo", missing, "--json"])
        .expect(4);
}

/// An installation with a running VM of one small disk and a recovery point; its disk has been written to since.
fn world_with_changed_vm() -> World {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "web01", &[8]);
    world.back_up("web01", &[]);
    guest_write(&world, "web01", 0, MIB, MIB, 9);
    world
}

/// Nothing of ours is left but what carries a VM's data.
#[track_caller]
fn assert_untouched(world: &World, before: &Value, what: &str) {
    assert_eq!(&seen(world, "web01"), before, "{what}");
    assert_eq!(parked_files(world), Vec::<String>::new(), "{what}");
    let vms = world.hosts[0].ctl(&["vm", "list"]);
    assert_eq!(vms.as_array().unwrap().len(), 1, "{what}: {vms}");
}

#[test]
fn a_swap_that_fails_at_any_method_of_the_host_leaves_the_old_vm_whole_and_running() {
    let world = world_with_changed_vm();
    let before = seen(&world, "web01");
    let id = text(&before["id"]).to_owned();
    // Trials come first and have ids of their own; with the VM's id it is the swap itself.
    for (method, of_vm) in [
        ("ImportSystemDefinition", false),
        ("ModifySystemSettings", false),
        ("ValidatePlannedSystem", false),
        ("DestroySystem", false),
        ("ExportSystemDefinition", true),
        ("DestroySystem", true),
        ("ValidatePlannedSystem", true),
        ("RealizePlannedSystem", true),
    ] {
        let mut rule = vec!["fault", "add", "return-code=32773", "--on", method];
        rule.extend(["--times", "1"]);
        if of_vm {
            rule.extend(["--vm", &id]);
        }
        world.hosts[0].ctl(&rule);
        let done = world.run_and_wait(&["restore", "start", "web01"], &[]);
        done.expect(1);
        let rules = world.hosts[0].ctl(&["fault", "list"]);
        assert!(
            rules.to_string().contains("\"hits\":1"),
            "{method}: {rules}"
        );
        world.hosts[0].ctl(&["fault", "clear"]);
        assert_untouched(&world, &before, &format!("{method} of the VM: {of_vm}"));
    }
    // What failed so often goes well in the end.
    world.restore("web01", &[]);
}

/// Kills the agent at boundaries of a job, cancels the job, starts the agent anew: all is as it was before the job.
/// Returns the boundary at which the job had come to its end.
fn crash_campaign(
    world: &mut World,
    boundaries: impl Iterator<Item = u64>,
    words: &[&str],
    before: &Value,
) -> u64 {
    let files = parked_files(world);
    for boundary in boundaries {
        world.kill_agent(0);
        let at = boundary.to_string();
        world.start_agent_with(0, &["--crash-at", &at]);
        world.wait_for_host("HV01", "ready");
        let id = job_id(&world.cli.json(words));
        let states = ["succeeded", "warnings", "failed"];
        let ended = world.wait_for("the agent or the job to end", || {
            let shown = world.cli.json(&["job", "show", &id]);
            if states.contains(&text(&shown["state"])) {
                return Some(true);
            }
            (!world.agent_runs(0)).then_some(false)
        });
        if ended {
            return boundary;
        }
        world.cli.run(&["job", "cancel", &id, "--json"]);
        world.kill_agent(0);
        world.start_agent(0);
        world.wait_for_job(&id, &["cancelled", "failed", "succeeded", "warnings"]);
        world.wait_for_host("HV01", "ready");
        if &seen(world, "web01") != before {
            // The work was done, only the server had not heard of it: then it hears what is kept.
            world.wait_for("what is kept to be known", || {
                let shown = world.cli.json(&["job", "show", &id]);
                (shown["parked"]["state"] == "parked").then_some(())
            });
            return boundary;
        }
        let what = format!("killed at boundary {boundary} of {words:?}");
        assert_eq!(parked_files(world), files, "{what}");
    }
    panic!("{words:?} has no end");
}

/// Boundaries to be killed at: some of them here, all of them where `REPRISE_EVERY_BOUNDARY` is set.
fn boundaries(from: usize) -> impl Iterator<Item = u64> {
    let step = match std::env::var_os("REPRISE_EVERY_BOUNDARY") {
        Some(_) => 1,
        None => 5,
    };
    (1..400)
        .skip(if step == 1 { 0 } else { from })
        .step_by(step)
}

#[test]
fn the_agent_killed_between_the_steps_of_a_swap_leaves_the_old_vm_whole() {
    let mut world = world_with_changed_vm();
    let before = seen(&world, "web01");
    let words = ["restore", "start", "web01"];
    let last = crash_campaign(&mut world, boundaries(13), &words, &before);
    assert!(last > 40, "{last}");
    assert_eq!(seen(&world, "web01")["state"], "off");
}

#[test]
fn the_agent_killed_between_the_steps_of_an_undo_leaves_the_restored_vm_whole() {
    let mut world = world_with_changed_vm();
    let before = seen(&world, "web01");
    let restored = job_id(&world.restore("web01", &[]));
    let now = seen(&world, "web01");
    let words = ["restore", "undo", &restored];
    let last = crash_campaign(&mut world, boundaries(9), &words, &now);
    assert!(last > 20, "{last}");
    // Its power comes last: an agent that was killed before sees to it when it is back.
    world.wait_for("the VM to be as it was", || {
        (world.hosts[0].vm("web01")?["state"] == before["state"]).then_some(())
    });
    assert_eq!(seen(&world, "web01"), before);
}

#[test]
fn checkpoints_and_excluded_disks_survive_a_swap_and_its_undo() {
    let world = World::with_host(EXE);
    let paths = [r"C:\VMs\tree\os.vhdx", r"D:\data\scratch.vhdx"];
    add_vm_at(&world, "tree", "2", &paths, &[]);
    world.cli.json(&["policy", "create", "p"]);
    world.cli.json(&["vm", "protect", "tree", "--policy", "p"]);
    world
        .cli
        .json(&["vm", "exclude", "tree", "--disk", paths[1]]);
    let at_backup = world.hosts[0].guest_hash("tree", 0);
    for method in ["rct", "vss"] {
        world.back_up("tree", &["--method", method]);
        let checkpoints = |world: &World| world.hosts[0].ctl(&["checkpoint", "list", "tree"]);
        world.hosts[0].ctl(&["checkpoint", "create", "tree", method]);
        guest_write(&world, "tree", 0, MIB, MIB, 21);
        guest_write(&world, "tree", 1, 2 * MIB, MIB, 22);
        let (before, tree) = (seen(&world, "tree"), checkpoints(&world));

        let restored = world.restore("tree", &["--power", "on"]);
        let after = seen(&world, "tree");
        assert_eq!(after["state"], "running", "{method}");
        assert_eq!(after["content"][0], json!(at_backup), "{method}");
        assert_eq!(
            after["content"][1], before["content"][1],
            "the disk that was left out: {method}"
        );
        // It stays where it is; the host may have merged it by now, as nothing of the restored VM needs its checkpoint.
        let place = text(&after["disks"][1]).to_owned();
        assert!(place.starts_with(r"D:\data\scratch"), "{method}: {place}");
        assert_eq!(checkpoints(&world), json!([]));
        // What the restored VM writes to it is there after an undo, too.
        guest_write(&world, "tree", 1, 3 * MIB, MIB, 23);
        let newer = world.hosts[0].guest_hash("tree", 1);
        end(&world, "undo", &job_id(&restored));
        let undone = seen(&world, "tree");
        assert_eq!(
            undone["content"],
            json!([before["content"][0], newer]),
            "{method}"
        );
        assert_eq!(checkpoints(&world), tree, "{method}");
        assert_eq!(undone["state"], before["state"], "{method}");
        // Make the VM what it was for the other method.
        let undo = world
            .cli
            .json(&["job", "list", "--kind", "restore-undo", "--limit", "1"]);
        let again = end(&world, "undo", text(&undo[0]["id"]));
        assert_eq!(world.hosts[0].guest_hash("tree", 0), at_backup, "{method}");
        end(&world, "finish", &job_id(&again));
        assert_eq!(parked_files(&world), Vec::<String>::new(), "{method}");
    }
}

#[test]
fn a_tree_comes_back_over_a_vm_with_another_one() {
    let world = World::with_host(EXE);
    add_vm_at(&world, "tree", "2", &[r"C:\VMs\tree\os.vhdx"], &[]);
    grow_tree(&world, "tree");
    let checkpoints = |world: &World| world.hosts[0].ctl(&["checkpoint", "list", "tree"]);
    let (held, tree) = (world.hosts[0].guest_hash("tree", 0), checkpoints(&world));
    world.back_up("tree", &["--method", "vss"]);
    world.hosts[0].ctl(&["checkpoint", "create", "tree", "later"]);
    guest_write(&world, "tree", 0, MIB, MIB, 31);
    let (before, later) = (seen(&world, "tree"), checkpoints(&world));
    let restored = world.restore("tree", &[]);
    assert_eq!(world.hosts[0].guest_hash("tree", 0), held);
    assert_eq!(checkpoints(&world), tree);
    end(&world, "undo", &job_id(&restored));
    assert_eq!(seen(&world, "tree"), before);
    assert_eq!(checkpoints(&world), later);
}

#[test]
fn what_a_restore_keeps_is_released_in_time_once_the_restored_vm_has_run() {
    let config = "[restores]\nkeep_replaced = '1s'\n";
    let mut world = World::with_host(EXE);
    world.configure(config);
    add_vm(&world, 0, "web01", &[8]);
    world.back_up("web01", &[]);
    let restored = job_id(&world.restore("web01", &[]));
    // Its time is over at once, but nobody has seen the restored VM run.
    world.back_up("web01", &[]);
    let shown = world.cli.json(&["job", "show", &restored]);
    assert_eq!(shown["parked"]["state"], "parked", "{shown}");
    assert!(!parked_files(&world).is_empty());
    world.hosts[0].ctl(&["power", "web01", "on"]);
    world.wait_for("what is kept to be released", || {
        // Looking at VMs has their host listed anew.
        world.cli.json(&["vm", "list"]);
        let shown = world.cli.json(&["job", "show", &restored]);
        (shown["parked"]["state"] == "finished").then_some(())
    });
    assert_eq!(parked_files(&world), Vec::<String>::new());
    assert_conflict(&world, "undo", &restored, "is finished");
    let by = world.cli.json(&["job", "list", "--kind", "restore-finish"]);
    assert_eq!(by[0]["requested_by"], "server", "{by}");
}
