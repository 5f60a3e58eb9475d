//! After each kind of restore a client by other authors (`pypsrp`) lists what the host has: it must be what the plan said,
//! and the files that came and went must be those of the plan.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use harness::{World, python};
use serde_json::{Value, json};

use crate::shadows::{add_vm_at, grow_tree};
use crate::support::{EXE, add_vm, destroy_vm, text};

/// What a host has, as the client lists it.
fn look(python: &Path, world: &World, host: usize) -> Value {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hyperv_sim/tests/clients");
    let output = Command::new(python)
        .args(["-B", "-s"])
        .arg(clients.join("look.py"))
        .env("REPRISE_URL", world.hosts[host].url())
        .env_remove("PYTHONPATH")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn texts(list: &Value, field: &str) -> BTreeSet<String> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|item| text(&item[field]).to_lowercase())
        .collect()
}

/// Files of disks on a host, in small letters.
fn disk_files(world: &World, host: usize) -> BTreeSet<String> {
    let files = world.hosts[host].files("*");
    let paths = files.into_iter().map(|(path, _)| path.to_lowercase());
    paths
        .filter(|path| path.ends_with("vhdx") || path.ends_with("vhd"))
        .collect()
}

/// Plans, has exactly that done, and compares what the client then sees with the plan.
fn restore_and_look(python: &Path, world: &World, host: usize, vm: &str, words: &[&str]) {
    let before = look(python, world, host);
    let files_before = disk_files(world, host);
    let plan = world.cli.json(&[&["restore", "plan", vm], words].concat());
    let file = world.path("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let start = ["restore", "start", "--plan", file.to_str().unwrap()];
    world.run_and_wait(&start, &[]).expect(0);
    let after = look(python, world, host);
    assert_eq!(after["planned"], json!([]), "{words:?}");

    let files = disk_files(world, host);
    let came: BTreeSet<String> = files.difference(&files_before).cloned().collect();
    let kept = plan["checkpoints"]["outcome"] == "kept";
    let trees: BTreeSet<String> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["name"] == "write-tree-file")
        .map(|step| text(&step["path"]).to_lowercase())
        .collect();
    let planned = match kept {
        true => trees,
        false => texts(&plan["disks"], "path"),
    };
    assert_eq!(came, planned, "{words:?}");
    assert!(files_before.is_subset(&files), "{words:?}");

    if plan["kind"] == "disks" {
        assert_eq!(after, before, "{words:?}");
        return;
    }
    let identity = &plan["identities"]["after"];
    let vms = after["vms"].as_array().unwrap();
    let new: Vec<&Value> = vms
        .iter()
        .filter(|vm| !before["vms"].as_array().unwrap().contains(vm))
        .collect();
    let [vm] = new[..] else {
        panic!("{words:?}: one VM is new: {new:?}")
    };
    assert_eq!(vm["name"], identity["name"]);
    if let Some(id) = identity["id"].as_str() {
        assert!(id.eq_ignore_ascii_case(text(&vm["id"])), "{vm}");
    }
    assert_eq!(vm["state"], "off");
    assert_eq!(texts(&vm["disks"], "path"), texts(&plan["disks"], "path"));
    let names = match kept {
        true => plan["checkpoints"]["names"].clone(),
        false => json!([]),
    };
    let mut names: Vec<&str> = names.as_array().unwrap().iter().map(text).collect();
    names.sort_unstable();
    assert_eq!(vm["checkpoints"], json!(names));
    let adapters = vm["adapters"].as_array().unwrap();
    let planned = identity["adapters"].as_array().unwrap();
    assert_eq!(adapters.len(), planned.len(), "{vm}");
    for (found, planned) in adapters.iter().zip(planned) {
        assert_eq!(found["switch"], planned["switch"], "{vm}");
        if let Some(mac) = planned["mac"].as_str() {
            let plain = |mac: &str| mac.replace(['-', ':'], "").to_uppercase();
            assert_eq!(plain(text(&found["mac"])), plain(mac), "{vm}");
        }
    }
    // All others are as they were.
    let others: Vec<&Value> = vms.iter().filter(|of| *of != vm).collect();
    let gone = before["vms"].as_array().unwrap().iter();
    let gone: Vec<&Value> = gone.filter(|of| of["id"] != vm["id"]).collect();
    assert_eq!(others, gone, "{words:?}");
}

#[test]
fn a_client_by_others_sees_what_the_plan_said() {
    let Some(python) = python() else { return };
    let mut world = World::with_host(EXE);
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    add_vm(&world, 0, "flat", &[32, 32]);
    world.back_up("flat", &[]);
    add_vm_at(&world, "tree", "1", &[r"C:\VMs\tree\os.vhdx"], &[]);
    grow_tree(&world, "tree");
    world.back_up("tree", &["--method", "vss"]);

    let copy = [
        "--to",
        "HV01",
        "--name",
        "copy",
        "--folder",
        r"D:\copy",
        "--network",
        "LAN=LAN",
    ];
    restore_and_look(&python, &world, 0, "flat", &copy);
    restore_and_look(&python, &world, 1, "flat", &["--to", "HV02"]);
    let files = ["--disk", "disk1.vhdx", "--folder", r"D:\files"];
    restore_and_look(&python, &world, 0, "flat", &files);
    let kept = ["--to", "HV01", "--name", "twig", "--folder", r"D:\twig"];
    restore_and_look(&python, &world, 0, "tree", &kept);
    restore_and_look(
        &python,
        &world,
        1,
        "tree",
        &["--to", "HV02", "--folder", r"D:\trunk"],
    );
    for vm in ["flat", "tree"] {
        destroy_vm(&world, 0, vm);
        restore_and_look(&python, &world, 0, vm, &[]);
    }
}
