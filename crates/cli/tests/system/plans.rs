//! Plans of restores: they show every effect, change nothing, and are what is then done, or refused.

use std::path::PathBuf;

use harness::World;
use serde_json::{Value, json};

use crate::support::{assert_host_is_clean, destroy_vm, job_id, text, world_with_vm};

/// Plans, and keeps the plan in a file as a script does.
fn plan(world: &World, words: &[&str]) -> (Value, PathBuf) {
    let plan = world
        .cli
        .json(&[&["restore", "plan", "web01"], words].concat());
    let file = world.path("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    (plan, file)
}

fn start(file: &std::path::Path) -> [&str; 4] {
    ["restore", "start", "--plan", file.to_str().unwrap()]
}

/// Everything of a host that a restore could change.
fn state_of(world: &World) -> (Value, Vec<(String, u64)>) {
    let host = &world.hosts[0];
    (host.ctl(&["vm", "list"]), host.files("*"))
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|item| text(&item[field]).to_owned())
        .collect()
}

/// The VM must be what the plan said it would be.
#[track_caller]
fn assert_as_planned(world: &World, plan: &Value) {
    let after = &plan["identities"]["after"];
    let vm = world.hosts[0].vm(text(&after["name"])).unwrap();
    let before = text(&plan["identities"]["before"]["id"]);
    match after["id"].as_str() {
        Some(id) => assert_eq!(text(&vm["id"]), id),
        None => assert_ne!(text(&vm["id"]), before, "a new id was planned"),
    }
    assert_eq!(texts(&vm["disks"], "path"), texts(&plan["disks"], "path"));
    for (disk, planned) in vm["disks"]
        .as_array()
        .unwrap()
        .iter()
        .zip(plan["disks"].as_array().unwrap())
    {
        let kept = disk["disk_id"] == planned["id"];
        assert_eq!(kept, planned["new_id"] == json!(false), "{disk} {planned}");
        let (_, size) = &world.hosts[0].files(text(&planned["path"]))[0];
        assert!(*size <= planned["needed_bytes"].as_u64().unwrap(), "{plan}");
    }
    assert_eq!(vm["nics"], json!(texts(&after["adapters"], "switch")));
}

#[test]
fn plan_shows_every_effect_changes_nothing_and_is_what_is_then_done() {
    let world = world_with_vm();
    world.back_up("web01", &[]);
    let before = state_of(&world);
    let words = [
        "--to",
        "HV01",
        "--name",
        "copy",
        "--folder",
        r"D:\copy",
        "--network",
        "LAN=LAN",
    ];
    let (plan, file) = plan(&world, &words);
    assert_eq!(state_of(&world), before, "a plan changes nothing");
    let jobs = world.cli.json(&["job", "list", "--kind", "restore"]);
    assert_eq!(jobs, json!([]), "a plan is no job");
    assert_eq!(
        texts(&plan["steps"], "name"),
        ["write-disk", "register-vm", "read-back"]
    );
    assert_eq!(texts(&plan["disks"], "path"), [r"D:\copy\disk0.vhdx"]);
    let volume = &plan["volumes"][0];
    assert_eq!(text(&volume["path"]), r"D:\");
    for name in ["needed_bytes", "available_bytes", "reserve_bytes"] {
        assert!(volume[name].as_u64().unwrap() > 0, "{name}: {plan}");
    }
    assert_eq!(plan["checkpoints"]["outcome"], "none");
    assert_eq!(
        plan["checkpoints"]["conditions"]["vss_method"],
        json!(false)
    );
    assert_eq!(
        (&plan["refusals"], &plan["warnings"]),
        (&json!([]), &json!([]))
    );
    let shown = world
        .cli
        .run(&[&["restore", "plan", "web01"], &words[..]].concat());
    let shown = shown.expect(0).text();
    for section in [
        "What happens",
        "Disks",
        "Volumes",
        "Identities",
        "Checkpoints",
    ] {
        assert!(shown.contains(&format!("\n{section}\n")), "{shown}");
    }

    let done = world.run_and_wait(&start(&file), &[]);
    let job = done.expect(0).value();
    assert_as_planned(&world, &plan);
    let figures = &job["figures"];
    let most = plan["fetch_bytes"].as_u64().unwrap();
    assert!(
        figures["bytes_read"].as_u64().unwrap() <= most,
        "{job} {plan}"
    );

    // The same again would be another VM of that name.
    let again = world.cli.run(&start(&file));
    assert!(
        again.expect(6).stderr.contains("no longer holds"),
        "{}",
        again.stderr
    );
    assert!(again.stderr.contains("copy"), "{}", again.stderr);
    let jobs = world.cli.json(&["job", "list", "--kind", "restore"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1, "nothing was started");
    let refused = world
        .cli
        .run_json(&[&["restore", "plan", "web01"], &words[..]].concat());
    let codes = texts(&refused.expect(1).value()["refusals"], "code");
    assert_eq!(codes, ["name-taken", "path-taken"], "all are told");
}

#[test]
fn plan_that_drifted_is_refused_now_and_when_the_agent_was_away() {
    let mut world = world_with_vm();
    world.back_up("web01", &[]);
    destroy_vm(&world, 0, "web01");
    let (planned, file) = plan(&world, &[]);
    assert_eq!(
        planned["identities"]["after"]["id"],
        planned["identities"]["before"]["id"]
    );
    let in_the_way = world.hosts[0].local(text(&planned["disks"][0]["path"]));
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, b"not ours").unwrap();
    let refused = world.cli.run(&start(&file));
    assert!(
        refused.expect(6).stderr.contains("now: Move"),
        "{}",
        refused.stderr
    );

    // While the agent is away nobody can plan, and a plan that was made waits for it.
    world.kill_agent(0);
    world.wait_for_host("HV01", "offline");
    let away = world.cli.run(&["restore", "plan", "web01"]);
    assert!(away.expect(6).stderr.contains("is away"), "{}", away.stderr);
    assert!(away.stderr.contains("hint:"), "{}", away.stderr);
    let id = job_id(&world.cli.json(&start(&file)));
    world.start_agent(0);
    let job = world.wait_for_job(&id, &["failed", "succeeded"]);
    assert_eq!(text(&job["error"]["code"]), "plan-drifted", "{job}");
    assert_eq!(std::fs::read(&in_the_way).unwrap(), b"not ours");
    world.cli.run(&["job", "watch", &id]).expect(6);

    // Once the host is as it was, the plan holds again.
    std::fs::remove_file(&in_the_way).unwrap();
    world.run_and_wait(&start(&file), &[]).expect(0);
    assert_as_planned(&world, &planned);
    assert_host_is_clean(&world, 0);
}

#[test]
fn plan_tells_who_else_in_the_fleet_has_the_same_identity() {
    let mut world = world_with_vm();
    world.back_up("web01", &[]);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    let keep = ["--to", "HV02", "--folder", r"D:\copy", "--name", "WEB01"];
    let same = ["--id", "keep", "--mac", "keep"];
    let (twin, _) = plan(&world, &[&keep[..], &same[..]].concat());
    let collisions = &twin["identities"]["collisions"];
    assert_eq!(texts(collisions, "shared"), ["id", "name", "mac"], "{twin}");
    assert_eq!(texts(collisions, "host"), ["HV01", "HV01", "HV01"]);
    let words = [&["restore", "plan", "web01"], &keep[..], &same[..]].concat();
    let shown = world.cli.run(&words).expect(0).text();
    assert!(shown.contains("! the name"), "{shown}");
    let (copy, _) = plan(&world, &["--to", "HV02"]);
    assert_eq!(copy["identities"]["collisions"], json!([]));
    assert_eq!(
        copy["checkpoints"]["decided_by"],
        json!(["vss-method", "same-host"])
    );
}

#[test]
fn plan_that_keeps_checkpoints_says_so_and_they_are_kept() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["checkpoint", "create", "web01", "before update"]);
    world.back_up("web01", &["--method", "vss"]);
    let (planned, file) = plan(&world, &["--to", "HV01", "--name", "copy"]);
    let checkpoints = &planned["checkpoints"];
    assert_eq!(checkpoints["outcome"], "kept", "{planned}");
    assert_eq!(checkpoints["names"], json!(["before update"]));
    assert_eq!(checkpoints["decided_by"], json!([]));
    assert_eq!(
        planned["disks"][0]["files"],
        Value::Null,
        "nothing is merged"
    );
    let names = texts(&planned["steps"], "name");
    assert!(names.contains(&"link-tree".to_owned()), "{names:?}");
    let files = names.iter().filter(|name| *name == "write-tree-file");
    assert_eq!(files.count(), 2, "{names:?}");
    world.run_and_wait(&start(&file), &[]).expect(0);
    let vm = world.hosts[0].vm("copy").unwrap();
    assert_eq!(
        texts(&vm["disks"], "path"),
        texts(&planned["disks"], "path")
    );
    let kept = world.hosts[0].ctl(&["checkpoint", "list", "copy"]);
    assert_eq!(kept.as_array().unwrap().len(), 1, "{kept}");
}
