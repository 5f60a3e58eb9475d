//! Restores of points made by the VSS method: chains are written as files and merged (S20, S21).

use harness::{DiskSpec, World, disk_hash, find_step, make_disk};

use crate::shadows::{add_vm_at, grow_tree};
use crate::support::{
    EXE, MIB, SLOW, assert_points_verify, guest_write, job_id, points, text, world_with_vm,
};

/// Every `.avhdx` below a folder of a host.
pub(crate) fn children(world: &World, host: usize, folder: &str) -> Vec<String> {
    let files = world.hosts[host].files(&format!(r"{folder}\*"));
    let paths = files.into_iter().map(|(path, _)| path);
    paths
        .filter(|path| path.to_lowercase().ends_with(".avhdx"))
        .collect()
}

#[test]
fn s20_a_tree_of_checkpoints_comes_back_as_one_disk_with_the_current_state() {
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    for (name, generation) in [("old", "1"), ("new", "2")] {
        let path = format!(r"C:\VMs\{name}\disk0.vhdx");
        add_vm_at(&world, name, generation, &[&path], &[]);
        grow_tree(&world, name);
        let content = world.hosts[0].guest_hash(name, 0);
        world.back_up(name, &["--method", "vss"]);
        // What is written after the moment of the point is not in it.
        guest_write(&world, name, 0, 30 * MIB, MIB, 99);

        let (copy, folder) = (format!("{name}-copy"), format!(r"D:\{name}"));
        let job = world.restore(
            name,
            &["--to", "HV02", "--name", &copy, "--folder", &folder],
        );
        assert!(
            text(&find_step(&job, "restore").unwrap()["detail"]).contains("3 files"),
            "{job}"
        );
        assert_eq!(world.hosts[1].guest_hash(&copy, 0), content);
        assert!(children(&world, 1, &folder).is_empty());
        let checkpoints = world.hosts[1].ctl(&["checkpoint", "list", &copy]);
        assert_eq!(checkpoints, serde_json::json!([]));
        world.hosts[1].ctl(&["power", &copy, "on"]);
        world.hosts[1].ctl(&["power", &copy, "off"]);
        assert_points_verify(&world, name);
    }
}

#[test]
fn s21_the_files_of_a_chain_are_there_from_the_start_and_gone_at_the_end() {
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    let file = world.path("big.vhdx");
    let spec = DiskSpec {
        size: 256 * MIB,
        data: 128 * MIB,
        seed: 5,
    };
    make_disk(&file, spec);
    world.hosts[0].add_vm("big", &[(r"C:\VMs\big\big.vhdx", &file)]);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.wait_for_vm("big");
    world.hosts[0].ctl(&["checkpoint", "create", "big", "one"]);
    guest_write(&world, "big", 0, 8 * MIB, 32 * MIB, 6);
    let leaf = children(&world, 0, r"C:\VMs\big").remove(0);
    let leaf = leaf.rsplit('\\').next().unwrap().to_owned();
    let content = world.hosts[0].guest_hash("big", 0);
    world.back_up("big", &["--method", "vss"]);

    world.slow_agent(1, SLOW);
    let folder = r"D:\back";
    let id = job_id(&world.cli.json(&[
        "restore", "start", "big", "--to", "HV02", "--name", "back", "--folder", folder,
    ]));
    world.wait_for("the leaf under its own name", || {
        let there = children(&world, 1, folder);
        there.contains(&format!(r"{folder}\{leaf}")).then_some(())
    });
    let job = world.cli.json(&["job", "show", &id]);
    assert_eq!(text(&job["state"]), "running", "seen too late: {job}");
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert!(children(&world, 1, folder).is_empty());
    assert_eq!(world.hosts[1].guest_hash("back", 0), content);
}

#[test]
fn disks_of_a_point_made_of_files_come_back_one_by_one() {
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    let paths = [r"C:\VMs\two\a.vhdx", r"D:\Data\a.vhdx"];
    add_vm_at(&world, "two", "2", &paths, &[]);
    world.hosts[0].ctl(&["checkpoint", "create", "two", "one"]);
    guest_write(&world, "two", 1, 3 * MIB, 2 * MIB, 8);
    world.hosts[0].ctl(&["power", "two", "off"]);
    let contents = [0, 1].map(|disk| world.hosts[0].guest_hash("two", disk));
    world.back_up("two", &["--method", "vss"]);
    world.restore("two", &["--disk", paths[1], "--folder", r"D:\one"]);
    let file = world.hosts[0].local(r"D:\one\a.vhdx");
    assert_eq!(disk_hash(&file), contents[1]);
    assert!(children(&world, 0, r"D:\one").is_empty());
    // Two disks of one name, and children of one name pattern, in one folder.
    world.restore(
        "two",
        &["--to", "HV02", "--name", "both", "--folder", r"D:\both"],
    );
    for (disk, content) in contents.iter().enumerate() {
        assert_eq!(&world.hosts[1].guest_hash("both", disk), content);
    }
    assert!(children(&world, 1, r"D:\both").is_empty());
}

#[test]
fn an_agent_killed_while_a_chain_comes_back_begins_anew_and_leaves_nothing() {
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    let file = world.path("big.vhdx");
    let spec = DiskSpec {
        size: 256 * MIB,
        data: 128 * MIB,
        seed: 5,
    };
    make_disk(&file, spec);
    world.hosts[0].add_vm("big", &[(r"C:\VMs\big\big.vhdx", &file)]);
    world.hosts[0].ctl(&["power", "big", "on"]);
    world.wait_for_vm("big");
    world.hosts[0].ctl(&["checkpoint", "create", "big", "one"]);
    guest_write(&world, "big", 0, 8 * MIB, 64 * MIB, 6);
    let content = world.hosts[0].guest_hash("big", 0);
    world.back_up("big", &["--method", "vss"]);
    world.slow_agent(1, SLOW);
    let id = job_id(&world.cli.json(&[
        "restore", "start", "big", "--to", "HV02", "--name", "back", "--folder", r"D:\back",
    ]));
    world.wait_for("the leaf to be written", || {
        (!children(&world, 1, r"D:\back").is_empty()).then_some(())
    });
    world.kill_agent(1);
    world.start_agent(1);
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert_eq!(job["attempt"], 2);
    assert_eq!(world.hosts[1].guest_hash("back", 0), content);
    let left: Vec<_> = world.hosts[1]
        .files(r"D:\back\*")
        .into_iter()
        .filter(|(path, _)| path.contains(".reprise-") || path.ends_with(".avhdx"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_point_without_checkpoints_comes_back_without_a_warning() {
    let world = world_with_vm();
    let content = world.hosts[0].guest_hash("web01", 0);
    world.back_up("web01", &["--method", "vss"]);
    world.restore("web01", &["--to", "HV01", "--name", "copy"]);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), content);
    assert_eq!(points(&world, "web01").len(), 1);
}
