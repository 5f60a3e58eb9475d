//! The command line from outside: commands that need no server, people and their roles, what backups cost.
//!
//! What the product as a whole must do has its tests in `tests/system`.

mod backups;
mod commands;
mod people;
#[expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
mod vhdx;

use std::path::PathBuf;

use harness::{DiskSpec, World, make_disk};

/// The executable under test.
const EXE: &str = env!("CARGO_BIN_EXE_reprise");
const MIB: u64 = 1 << 20;

/// Makes a disk file and returns its path and VirtualDiskId.
fn disk(world: &World, name: &str, size_mib: u64, data_mib: u64, seed: u64) -> (PathBuf, String) {
    let path = world.path(&format!("{name}.vhdx"));
    let spec = DiskSpec {
        size: size_mib * MIB,
        data: data_mib * MIB,
        seed,
    };
    let id = make_disk(&path, spec);
    (path, id)
}

/// A world with a host and one running VM with one disk, known to the server.
fn world_with_vm(name: &str, size_mib: u64, data_mib: u64) -> World {
    let world = World::with_host(EXE);
    add_vm(&world, 0, name, size_mib, data_mib);
    world
}

/// Adds a running VM `C:\VMs\NAME\disk.vhdx` to a host.
fn add_vm(world: &World, host: usize, name: &str, size_mib: u64, data_mib: u64) -> String {
    let seed = name.bytes().map(u64::from).sum();
    let (file, id) = disk(world, &format!("{name}-source"), size_mib, data_mib, seed);
    let host = &world.hosts[host];
    host.add_vm(name, &[(&format!(r"C:\VMs\{name}\disk.vhdx"), &file)]);
    host.ctl(&["power", name, "on"]);
    world.wait_for_vm(name);
    id
}
