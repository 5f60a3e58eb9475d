//! Backups by the VSS method: files of chains, read from shadow copies.

use harness::{DiskSpec, World, find_step, make_disk};
use serde_json::Value;

use crate::support::{
    EXE, MIB, SLOW, add_vm, assert_points_verify, guest_write, points, text, world_with_vm,
};

/// Adds a VM of a generation with disks at these paths, 48 MiB each, half of it data; it runs.
pub(crate) fn add_vm_at(
    world: &World,
    name: &str,
    generation: &str,
    paths: &[&str],
    more: &[&str],
) {
    let mut words: Vec<String> = [
        "vm",
        "add",
        name,
        "--generation",
        generation,
        "--nic",
        "LAN",
    ]
    .map(str::to_owned)
    .to_vec();
    for (number, path) in paths.iter().enumerate() {
        let file = world.path(&format!("{name}-{number}.vhdx"));
        let spec = DiskSpec {
            size: 48 * MIB,
            data: 24 * MIB,
            seed: 7 + u64::try_from(number).unwrap(),
        };
        make_disk(&file, spec);
        words.push("--disk".to_owned());
        words.push(format!("{path}={}", file.display()));
    }
    words.extend(more.iter().map(|&word| word.to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    world.hosts[0].ctl(&words);
    world.hosts[0].ctl(&["power", name, "on"]);
    world.wait_for_vm(name);
}

/// Gives a running VM a tree of checkpoints: `a` with `b` with `c`, and, from `a` again, `d`; it runs on top of `d`.
pub(crate) fn grow_tree(world: &World, vm: &str) {
    let host = &world.hosts[0];
    let write = |seed: u64| guest_write(world, vm, 0, seed * MIB, 2 * MIB, seed);
    for (name, seed) in [("a", 1), ("b", 4), ("c", 8)] {
        host.ctl(&["checkpoint", "create", vm, name]);
        write(seed);
    }
    host.ctl(&["power", vm, "off"]);
    host.ctl(&["checkpoint", "apply", vm, "a"]);
    host.ctl(&["power", vm, "on"]);
    write(16);
    host.ctl(&["checkpoint", "create", vm, "d"]);
    write(20);
}

#[track_caller]
fn assert_no_shadows(world: &World) {
    assert_eq!(world.hosts[0].shadows(), Vec::<String>::new());
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_tree_of_checkpoints_is_backed_up_by_its_files() {
    let world = World::with_host(EXE);
    for (name, generation) in [("old", "1"), ("new", "2")] {
        let path = format!(r"C:\VMs\{name}\disk0.vhdx");
        add_vm_at(&world, name, generation, &[&path], &[]);
        grow_tree(&world, name);
        let files_before = world.hosts[0].files(&format!(r"*\{name}\*.avhdx"));
        assert!(files_before.len() >= 4, "{files_before:?}");

        world.back_up(name, &["--method", "vss"]);
        let point = world
            .cli
            .json(&["point", "show", text(&points(&world, name)[0]["id"])]);
        assert_eq!(
            (text(&point["method"]), text(&point["kind"])),
            ("vss", "full")
        );
        assert_eq!(text(&point["consistency"]), "crash");
        assert!(
            text(&point["consistency_note"]).contains("power cut"),
            "{point}"
        );
        let mut names: Vec<&str> = point["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|checkpoint| text(&checkpoint["name"]))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d"]);
        // disk0.vhdx <- a <- d <- now
        let disk = &point["disks"][0];
        assert_eq!(disk["files"].as_array().unwrap().len(), 3, "{point}");
        assert_eq!(number(&disk["size_bytes"]), 48 * MIB);
        assert!(text(&disk["path"]).ends_with("disk0.vhdx"));
        assert_no_shadows(&world);
        assert_eq!(
            world.hosts[0].files(&format!(r"*\{name}\*.avhdx")),
            files_before,
            "the backup changed the host"
        );
        assert_points_verify(&world, name);
    }
}

#[test]
fn a_second_backup_stores_what_changed_and_does_not_read_unchanged_parents() {
    let world = world_with_vm();
    world.hosts[0].ctl(&["checkpoint", "create", "web01", "first"]);
    guest_write(&world, "web01", 0, 0, 8 * MIB, 3);
    let first = world.back_up("web01", &["--method", "vss"]);
    assert!(
        number(&first["figures"]["bytes_read"]) > 24 * MIB,
        "{first}"
    );

    guest_write(&world, "web01", 0, 2 * MIB, MIB, 4);
    let second = world.back_up("web01", &["--method", "vss"]);
    let detail = text(&find_step(&second, "read").unwrap()["detail"]);
    assert!(detail.contains("1 of them unchanged parents"), "{detail}");
    let read = number(&second["figures"]["bytes_read"]);
    assert!(read < 16 * MIB, "the root was read again: {read}");
    let stored = number(&second["figures"]["bytes_stored"]);
    assert!(
        (MIB..3 * MIB).contains(&stored),
        "stored {stored} for 1 MiB"
    );

    // A point that another one took files over from can go.
    let points_now = points(&world, "web01");
    world
        .cli
        .run(&["point", "delete", text(&points_now[1]["id"])])
        .expect(0);
    assert_points_verify(&world, "web01");
    assert_no_shadows(&world);
    // The next increment starts where the last one ended: the files changed nothing about that.
    world.back_up("web01", &[]);
    assert!(
        text(&points(&world, "web01")[0]["reason"]).contains("method-without-tracker"),
        "{}",
        points(&world, "web01")[0]
    );
}

#[test]
fn a_vm_that_cannot_be_tracked_is_backed_up_by_its_files_unless_the_method_is_forced() {
    let world = World::with_host(EXE);
    add_vm_at(
        &world,
        "old",
        "1",
        &[r"C:\VMs\old\a.vhdx"],
        &["--version", "5.0"],
    );
    world.hosts[0].ctl(&["power", "old", "off"]);
    let job = world.back_up("old", &[]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    let point = &points(&world, "old")[0];
    assert_eq!(
        (text(&point["method"]), text(&point["consistency"])),
        ("vss", "offline")
    );
    let done = world.run_and_wait(&["backup", "start", "old"], &["--method", "rct"]);
    done.expect(1);
    assert!(
        done.value()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("5.0"),
        "{}",
        done.value()
    );
    assert_points_verify(&world, "old");
}

#[test]
fn a_running_vm_on_several_volumes_is_refused_or_held() {
    let mut world = World::with_host(EXE);
    let paths = [r"C:\VMs\two\a.vhdx", r"D:\Data\b.vhdx"];
    add_vm_at(&world, "two", "2", &paths, &[]);
    let done = world.run_and_wait(&["backup", "start", "two"], &["--method", "vss"]);
    done.expect(1);
    let error = &done.value()["error"];
    assert_eq!(text(&error["code"]), "several-volumes", "{error}");
    assert!(text(&error["hint"]).contains("--several-volumes pause"));
    assert!(points(&world, "two").is_empty());

    for how in ["pause", "save"] {
        world.kill_agent(0);
        world.start_agent_with(0, &["--several-volumes", how]);
        world.wait_for_host("HV01", "ready");
        world.back_up("two", &["--method", "vss"]);
        let point = &points(&world, "two")[0];
        let shown = world.cli.json(&["point", "show", text(&point["id"])]);
        assert!(text(&shown["consistency_note"]).contains(how), "{shown}");
        assert_eq!(shown["disks"].as_array().unwrap().len(), 2);
        assert_eq!(text(&world.hosts[0].vm("two").unwrap()["state"]), "running");
    }
    // Off, it needs no holding.
    world.kill_agent(0);
    world.start_agent(0);
    world.hosts[0].ctl(&["power", "two", "off"]);
    world.back_up("two", &["--method", "vss"]);
    assert_eq!(text(&points(&world, "two")[0]["consistency"]), "offline");
    assert_no_shadows(&world);
    assert_points_verify(&world, "two");
}

#[test]
fn an_excluded_disk_is_left_out_of_every_branch() {
    let world = World::with_host(EXE);
    let paths = [r"C:\VMs\two\keep.vhdx", r"C:\VMs\two\skip.vhdx"];
    add_vm_at(&world, "two", "2", &paths, &[]);
    world
        .cli
        .json(&["policy", "create", "files", "--method", "vss"]);
    world
        .cli
        .json(&["vm", "protect", "two", "--policy", "files"]);
    world
        .cli
        .json(&["vm", "exclude", "two", "--disk", paths[1]]);
    world.hosts[0].ctl(&["checkpoint", "create", "two", "one"]);
    let job = world.back_up("two", &[]);
    let point = world
        .cli
        .json(&["point", "show", text(&points(&world, "two")[0]["id"])]);
    assert_eq!(text(&point["method"]), "vss", "by the policy: {job}");
    assert_eq!(point["disks"].as_array().unwrap().len(), 1);
    let excluded = point["excluded"].as_array().unwrap();
    assert_eq!(excluded.len(), 1);
    assert!(text(&excluded[0]).contains("skip"), "{point}");
    // 24 MiB of one disk, not of two.
    let read = number(&job["figures"]["bytes_read"]);
    assert!((24 * MIB..36 * MIB).contains(&read), "{read}");
    assert_no_shadows(&world);
}

#[test]
fn a_shadow_copy_that_is_not_made_fails_the_backup_and_says_what_to_do() {
    let world = world_with_vm();
    for (code, hint) in [
        (1, "Administrators"),
        (2, "log"),
        (3, "Get-Volume"),
        (4, "NTFS"),
        (5, "Windows Server"),
        (6, "shadowstorage"),
        (8, "vssadmin delete shadows"),
    ] {
        world.hosts[0].ctl(&["fault", "set", &format!("shadow_code={code}")]);
        let done = world.run_and_wait(&["backup", "start", "web01"], &["--method", "vss"]);
        done.expect(1);
        let error = &done.value()["error"];
        assert_eq!(text(&error["code"]), "shadow-refused", "{error}");
        assert!(
            text(&error["message"]).contains(&format!("code {code}")),
            "{error}"
        );
        assert!(text(&error["hint"]).contains(hint), "{error}");
    }
    world.hosts[0].ctl(&["fault", "set", "shadow_code=0"]);
    assert!(points(&world, "web01").is_empty());
    world.back_up("web01", &["--method", "vss"]);
    assert_no_shadows(&world);
}

#[test]
fn an_answer_lost_after_the_shadow_copy_was_made_costs_nothing() {
    let world = world_with_vm();
    world.hosts[0].ctl(&[
        "fault",
        "add",
        "connection-lost-after",
        "--on",
        "Win32_ShadowCopy.Create",
        "--times",
        "1",
    ]);
    world.back_up("web01", &["--method", "vss"]);
    assert_no_shadows(&world);
}

#[test]
fn an_agent_killed_while_shadow_copies_are_made_leaves_none_and_no_held_vm() {
    let mut world = World::with_host(EXE);
    let paths = [r"C:\VMs\two\a.vhdx", r"D:\Data\b.vhdx"];
    add_vm_at(&world, "two", "2", &paths, &[]);
    world.kill_agent(0);
    world.start_agent_with(0, &["--several-volumes", "pause"]);
    world.wait_for_host("HV01", "ready");
    world.hosts[0].ctl(&["fault", "set", "slow_millis=600000"]);
    let method = "Win32_ShadowCopy.Create";
    world.hosts[0].ctl(&["fault", "add", "slow-reply", "--on", method, "--times", "1"]);
    let id = text(
        &world
            .cli
            .json(&["backup", "start", "two", "--method", "vss"])["id"],
    )
    .to_owned();
    // One is there, and the agent has not heard of it.
    world.wait_for("the first shadow copy", || {
        (!world.hosts[0].shadows().is_empty()).then_some(())
    });
    world.kill_agent(0);
    assert_eq!(text(&world.hosts[0].vm("two").unwrap()["state"]), "paused");
    world.start_agent_with(0, &["--several-volumes", "pause"]);
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert_eq!(text(&world.hosts[0].vm("two").unwrap()["state"]), "running");
    assert_no_shadows(&world);
    assert_eq!(points(&world, "two").len(), 1);
    assert_points_verify(&world, "two");
}

#[test]
fn an_agent_killed_while_it_reads_leaves_no_shadow_copy() {
    let mut world = World::with_host(EXE);
    add_vm(&world, 0, "big", &[512]);
    world.slow_agent(0, SLOW);
    let id = text(
        &world
            .cli
            .json(&["backup", "start", "big", "--method", "vss"])["id"],
    )
    .to_owned();
    world.wait_for("the middle of reading", || {
        let job = world.cli.json(&["job", "show", &id]);
        assert!(text(&job["state"]) != "succeeded", "too late: {job}");
        (number(&job["progress"]["bytes_done"]) > 16 * MIB).then_some(())
    });
    world.kill_agent(0);
    assert_eq!(world.hosts[0].shadows().len(), 1);
    world.start_agent(0);
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert_no_shadows(&world);
    assert_eq!(points(&world, "big").len(), 1);
    assert_points_verify(&world, "big");
}

#[test]
fn previous_versions_of_the_volume_serve_where_devices_are_not_mapped() {
    let mut world = world_with_vm();
    // As over a share: shadow copies are previous versions of the volume, and its devices cannot be reached.
    // The devices are mapped to a folder where there is nothing.
    world.kill_agent(0);
    let nowhere = world.path("nowhere");
    std::fs::create_dir_all(&nowhere).unwrap();
    let map = format!(r"\\?\GLOBALROOT\Device\={}", nowhere.display());
    world.start_agent_with(0, &["--path-map", &map]);
    world.wait_for_host("HV01", "ready");
    world.back_up("web01", &["--method", "vss"]);
    assert_no_shadows(&world);
    assert_points_verify(&world, "web01");
    // Without them the backup says what to map, and leaves nothing.
    world.hosts[0].ctl(&["fault", "set", "shadow_gmt=false"]);
    let done = world.run_and_wait(&["backup", "start", "web01"], &["--method", "vss"]);
    done.expect(1);
    assert!(
        text(&done.value()["error"]["hint"]).contains("GLOBALROOT"),
        "{}",
        done.value()
    );
    assert_no_shadows(&world);
}
