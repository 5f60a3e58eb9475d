//! Checkpoints of a restored VM: when they come back, and that they then hold what they held (S18, S19).

use harness::{World, find_step};
use serde_json::{Value, json};

use crate::shadow_restores::children;
use crate::shadows::{add_vm_at, grow_tree};
use crate::support::{EXE, MIB, SLOW, assert_points_verify, destroy_vm, guest_write, job_id, text};

fn checkpoints(world: &World, host: usize, vm: &str) -> Value {
    world.hosts[host].ctl(&["checkpoint", "list", vm])
}

fn names(checkpoints: &Value) -> Vec<&str> {
    let list = checkpoints.as_array().unwrap();
    let mut names: Vec<&str> = list.iter().map(|of| text(&of["name"])).collect();
    names.sort_unstable();
    names
}

#[test]
fn s18_s19_the_eight_cases() {
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    for generation in ["1", "2"] {
        let name = format!("gen{generation}");
        let paths = ["keep", "skip"].map(|disk| format!(r"C:\VMs\{name}\{disk}.vhdx"));
        add_vm_at(&world, &name, generation, &[&paths[0], &paths[1]], &[]);
        world.cli.json(&["policy", "create", &name]);
        world.cli.json(&["vm", "protect", &name, "--policy", &name]);
        let exclude = ["vm", "exclude", &name, "--disk", &paths[1]];
        world.cli.json(&exclude);
        grow_tree(&world, &name);
        let content = world.hosts[0].guest_hash(&name, 0);
        let mut points = Vec::new();
        for excluded in [true, false] {
            if !excluded {
                world.cli.json(&["vm", "exclude", &name, "--none"]);
            }
            for method in ["vss", "rct"] {
                let job = world.back_up(&name, &["--method", method]);
                points.push((method, excluded, text(&job["point"]).to_owned()));
            }
        }
        for (method, excluded, point) in &points {
            for (number, host) in ["HV01", "HV02"].into_iter().enumerate() {
                let copy = format!("{name}-{method}-{excluded}-{host}");
                let folder = format!(r"D:\{copy}");
                let done = world.run_and_wait(
                    &["restore", "start", &name, "--point", point],
                    &["--to", host, "--name", &copy, "--folder", &folder],
                );
                // A disk that was left out is a warning, and nothing else is.
                done.expect(if *excluded { 3 } else { 0 });
                assert_eq!(world.hosts[number].guest_hash(&copy, 0), content, "{copy}");
                let kept = *method == "vss" && !excluded && host == "HV01";
                let expected = match kept {
                    true => &["a", "b", "c", "d"][..],
                    false => &[],
                };
                let found = checkpoints(&world, number, &copy);
                assert_eq!(names(&found), expected, "{copy}");
                let files = world.hosts[number].files(&format!(r"{folder}\*.avhdx"));
                assert_eq!(!files.is_empty(), kept, "{copy}: {files:?}");
                world.hosts[number].ctl(&["power", &copy, "on"]);
                world.hosts[number].ctl(&["power", &copy, "off"]);
                // Room for the next one.
                world.hosts[number].ctl(&["vm", "remove", &copy]);
            }
        }
        assert_points_verify(&world, &name);
    }
}

#[test]
fn s19_every_checkpoint_holds_what_it_held_at_the_original_place_and_in_a_copy() {
    let world = World::with_host(EXE);
    let paths = [r"C:\VMs\tree\os.vhdx", r"C:\VMs\tree\data\os.vhdx"];
    add_vm_at(&world, "tree", "2", &paths, &[]);
    grow_tree(&world, "tree");
    guest_write(&world, "tree", 1, 3 * MIB, MIB, 31);
    let before = checkpoints(&world, 0, "tree");
    let current = [0, 1].map(|disk| world.hosts[0].guest_hash("tree", disk));
    let id = world.hosts[0].vm("tree").unwrap()["id"].clone();
    world.back_up("tree", &["--method", "vss"]);
    // Both disks have one name: in one folder one of them gets another.
    let job = world.restore(
        "tree",
        &["--to", "HV01", "--name", "copy", "--folder", r"D:\copy"],
    );
    assert_eq!(job["warnings"], json!([]));
    let detail = text(&find_step(&job, "restore").unwrap()["detail"]).to_owned();
    assert!(detail.contains("4 checkpoints"), "{detail}");

    let apply = |vm: &str, name: &str| {
        world.hosts[0].ctl(&["power", vm, "off"]);
        world.hosts[0].ctl(&["checkpoint", "apply", vm, name]);
        [0, 1].map(|disk| world.hosts[0].guest_hash(vm, disk))
    };
    let held = ["a", "b", "c", "d"].map(|name| (name, apply("tree", name)));
    assert_eq!(
        [0, 1].map(|disk| world.hosts[0].guest_hash("copy", disk)),
        current
    );
    destroy_vm(&world, 0, "tree");
    let job = world.restore("tree", &[]);
    assert_eq!(job["warnings"], json!([]));
    assert_eq!(world.hosts[0].vm("tree").unwrap()["id"], id);
    assert_eq!(checkpoints(&world, 0, "tree"), before);
    for vm in ["tree", "copy"] {
        assert_eq!(
            [0, 1].map(|disk| world.hosts[0].guest_hash(vm, disk)),
            current,
            "{vm}"
        );
        for (name, content) in &held {
            assert_eq!(&apply(vm, name), content, "{vm} {name}");
        }
    }
    // They are checkpoints like any others: deleted, they merge.
    for vm in ["tree", "copy"] {
        for name in ["a", "b", "c", "d"] {
            world.hosts[0].ctl(&["checkpoint", "delete", vm, name]);
        }
        assert_eq!(
            [0, 1].map(|disk| world.hosts[0].guest_hash(vm, disk)),
            held[3].1,
            "{vm}"
        );
    }
    assert!(children(&world, 0, r"D:\copy").is_empty());
}

#[test]
fn s19_an_agent_killed_while_a_tree_comes_back_begins_anew_and_leaves_nothing() {
    let mut world = World::with_host(EXE);
    add_vm_at(&world, "tree", "1", &[r"C:\VMs\tree\os.vhdx"], &[]);
    grow_tree(&world, "tree");
    let content = world.hosts[0].guest_hash("tree", 0);
    world.back_up("tree", &["--method", "vss"]);
    let before = world.hosts[0]
        .ctl(&["vm", "list"])
        .as_array()
        .unwrap()
        .len();
    world.slow_agent(0, SLOW);
    let id = job_id(&world.cli.json(&[
        "restore", "start", "tree", "--to", "HV01", "--name", "back", "--folder", r"D:\back",
    ]));
    world.wait_for("the tree to be written", || {
        (!children(&world, 0, r"D:\back").is_empty()).then_some(())
    });
    world.kill_agent(0);
    world.start_agent(0);
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert_eq!(job["attempt"], 2);
    assert_eq!(world.hosts[0].guest_hash("back", 0), content);
    let found = checkpoints(&world, 0, "back");
    assert_eq!(names(&found), ["a", "b", "c", "d"]);
    let left: Vec<_> = world.hosts[0]
        .files(r"D:\back\*")
        .into_iter()
        .filter(|(path, _)| path.contains(".reprise-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let after = world.hosts[0]
        .ctl(&["vm", "list"])
        .as_array()
        .unwrap()
        .len();
    assert_eq!(after, before + 1);
}
