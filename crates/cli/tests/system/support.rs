//! What the tests share: an installation with VMs whose disks hold known data.

use std::path::PathBuf;

use harness::{DiskSpec, World, make_disk};
use serde_json::Value;

/// The executable under test.
pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_reprise");
/// How fast an agent goes that is to be interrupted.
pub(crate) const SLOW: &str = "16MiB";
/// A MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// Makes an installation with one host and a running VM `web01` with one disk of 64 MiB, a fourth of it data.
pub(crate) fn world_with_vm() -> World {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "web01", &[64]);
    world
}

/// Adds a running VM with disks of these sizes (MiB), named `C:\VMs\NAME\diskN.vhdx`.
pub(crate) fn add_vm(world: &World, host: usize, name: &str, sizes: &[u64]) {
    let disks: Vec<(String, PathBuf)> = sizes
        .iter()
        .enumerate()
        .map(|(number, size)| {
            let file = world.path(&format!("{name}-{number}.vhdx"));
            let seed = 100 + u64::try_from(number).unwrap();
            make_disk(
                &file,
                DiskSpec {
                    size: size * MIB,
                    data: size * MIB / 4,
                    seed,
                },
            );
            (format!("C:\\VMs\\{name}\\disk{number}.vhdx"), file)
        })
        .collect();
    let given: Vec<_> = disks
        .iter()
        .map(|(path, file)| (path.as_str(), file.as_path()))
        .collect();
    world.hosts[host].add_vm(name, &given);
    world.hosts[host].ctl(&["power", name, "on"]);
    world.wait_for_vm(name);
}

/// Has the guest write a seeded pattern.
pub(crate) fn guest_write(
    world: &World,
    vm: &str,
    disk: usize,
    offset: u64,
    length: u64,
    seed: u64,
) {
    let (disk, offset) = (disk.to_string(), offset.to_string());
    let (length, seed) = (length.to_string(), seed.to_string());
    let words = [
        "guest",
        "write",
        vm,
        &disk,
        "--offset",
        &offset,
        "--pattern",
        &seed,
        "--length",
        &length,
    ];
    world.hosts[0].ctl(&words);
}

/// Removes a VM from a host and deletes what is left of its disk files.
pub(crate) fn destroy_vm(world: &World, host: usize, vm: &str) {
    let host = &world.hosts[host];
    host.ctl(&["power", vm, "off"]);
    host.ctl(&["vm", "remove", vm]);
    for (path, _) in host.files(&format!("*\\{vm}\\*")) {
        let _ = std::fs::remove_file(host.local(&path));
    }
}

/// Returns the recovery points of a VM, newest first.
pub(crate) fn points(world: &World, vm: &str) -> Vec<Value> {
    world
        .cli
        .json(&["point", "list", vm])
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// Returns a text of a JSON value.
#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// Returns the only job of an answer to `backup start` or `restore start`.
#[track_caller]
pub(crate) fn job_id(answer: &Value) -> String {
    text(&answer["id"]).to_owned()
}

/// Nothing of ours may be left on a host but one reference point for each VM that was backed up.
#[track_caller]
pub(crate) fn assert_host_is_clean(world: &World, host: usize) {
    let host = &world.hosts[host];
    let left: Vec<_> = host
        .files("*")
        .into_iter()
        .filter(|(path, _)| path.contains(".reprise-") || path.to_lowercase().ends_with(".avhdx"))
        .collect();
    assert!(left.is_empty(), "left on the host: {left:?}");
    let vms = host.ctl(&["vm", "list"]);
    for vm in vms.as_array().unwrap() {
        let checkpoints = host.ctl(&["checkpoint", "list", text(&vm["id"])]);
        let shown = host.vm(text(&vm["id"])).unwrap();
        let reference_points = shown["reference_points"].as_array().unwrap();
        assert!(
            reference_points.len() <= 1,
            "reference points of {}: {reference_points:?}",
            vm["name"]
        );
        assert_eq!(
            checkpoints,
            serde_json::json!([]),
            "checkpoints of {}",
            vm["name"]
        );
    }
}

/// Every recovery point of a VM must verify.
#[track_caller]
pub(crate) fn assert_points_verify(world: &World, vm: &str) {
    for point in points(world, vm) {
        let done = world.run_and_wait(&["point", "verify", text(&point["id"])], &[]);
        done.expect(0);
    }
}
