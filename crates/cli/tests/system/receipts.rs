//! The proof of a restore: a signed receipt, and disks held against it.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::{Done, World};
use serde_json::Value;

use crate::support::{EXE, MIB, add_vm, destroy_vm, guest_write, text, world_with_vm};

/// Runs `verify-receipt`, without a server.
fn verify(world: &World, file: &str, more: &[&str]) -> Done {
    let mut words = vec!["verify-receipt", file];
    words.extend(more);
    world
        .cli
        .with("REPRISE_SERVER", "https://localhost:1")
        .run_json(&words)
}

fn ca(world: &World) -> String {
    text(&world.made["ca_fingerprint"]).to_owned()
}

/// Returns what was signed.
fn payload(file: &Value) -> Value {
    let bytes = STANDARD.decode(text(&file["payload"])).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn a_receipt_proves_a_restore_anywhere_and_only_what_it_proves() {
    let world = world_with_vm();
    let backup = world.back_up("web01", &[]);
    destroy_vm(&world, 0, "web01");
    let job = world.restore("web01", &[]);
    let path = world.path("receipt.json");
    let path = path.to_str().unwrap();
    let id = text(&job["id"]);
    let file = world.cli.json(&["restore", "receipt", id, "--out", path]);
    assert_eq!(
        world.cli.json(&["restore", "receipt", id]),
        file,
        "it never changes"
    );
    let said = payload(&file);
    let vm = world.hosts[0].vm("web01").unwrap();
    assert_eq!(said["job"], job["id"]);
    assert_eq!(said["point"]["id"], backup["point"]);
    assert_eq!(said["result"], "succeeded");
    assert_eq!(said["requested_by"], job["requested_by"]);
    assert_eq!(said["vm"]["id"], vm["id"]);
    assert_eq!(said["vm"]["name"], "web01");
    let disk = &said["disks"][0];
    assert_eq!(disk["path"], vm["disks"][0]["path"]);
    assert_eq!(said["vm"]["disks"][0]["path"], disk["path"]);
    let image = &said["point"]["images"][0];
    assert_eq!(disk["disk"], image["disk"]);
    assert_eq!(disk["digest"], image["digest"], "it is what was backed up");
    assert_eq!(disk["size_bytes"], 64 * MIB);
    assert!(
        ["unbuffered", "cache-dropped"].contains(&text(&disk["read_back"])),
        "{disk}"
    );
    assert!(!said["plan"]["effects"].as_array().unwrap().is_empty());
    let steps: Vec<&str> = said["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| text(&step["name"]))
        .collect();
    assert_eq!(
        steps,
        [
            "request", "agent", "space", "kind", "connect", "send", "restore", "verify"
        ]
    );

    // Whom to trust: nobody (said so), the key, the CA by fingerprint or file.
    let alone = verify(&world, path, &[]);
    alone.expect(0);
    assert!(
        alone.stderr.contains("nobody said whom to trust"),
        "{}",
        alone.stderr
    );
    let local = world.hosts[0].local(text(&disk["path"]));
    let local = local.to_str().unwrap();
    let key = text(&file["key"]["fingerprint"]).to_owned();
    let ca_file = text(&world.made["ca_file"]).to_owned();
    for (known, trusted) in [(&key, "key"), (&ca(&world), "ca"), (&ca_file, "ca")] {
        let done = verify(&world, path, &["--key", known, "--disk", local]);
        done.expect(0);
        let value = done.value();
        assert_eq!(value["trusted"], trusted);
        assert_eq!(value["disks"][0]["verdict"], "equal");
        assert_eq!(value["disks"][0]["disk"], disk["path"]);
    }
    let stranger = "ab".repeat(32);
    verify(&world, path, &["--key", &stranger]).expect(7);

    // A raw image of the same content is the same disk.
    let raw = world.path("disk.raw");
    world
        .cli
        .run(&["vhdx", "export", local, raw.to_str().unwrap()])
        .expect(0);
    verify(&world, path, &["--disk", raw.to_str().unwrap()]).expect(0);

    // One byte of the disk, and one of the receipt.
    world.hosts[0].ctl(&["power", "web01", "on"]);
    guest_write(&world, "web01", 0, 5 * MIB, 4096, 9);
    world.hosts[0].ctl(&["power", "web01", "off"]);
    let done = verify(&world, path, &["--disk", local, "--key", &key]);
    done.expect(7);
    assert_eq!(done.value()["disks"][0]["verdict"], "different");
    assert!(
        done.stderr.contains("has changed, naturally"),
        "{}",
        done.stderr
    );
    let mut forged = said;
    forged["requested_by"] = "nobody".into();
    let mut changed = file;
    changed["payload"] = STANDARD.encode(forged.to_string()).into();
    fs::write(path, changed.to_string()).unwrap();
    verify(&world, path, &[]).expect(7);
}

#[test]
fn only_a_restore_that_ended_well_has_a_receipt() {
    let world = world_with_vm();
    let backup = world.back_up("web01", &[]);
    let done = world
        .cli
        .run_json(&["restore", "receipt", text(&backup["id"])]);
    done.expect(4);
    assert!(done.stderr.contains("no restore"), "{}", done.stderr);
    let failed = world.run_and_wait(
        &["restore", "start", "web01"],
        &[
            "--to",
            "HV01",
            "--name",
            "web01",
            "--folder",
            "C:\\VMs\\web01",
        ],
    );
    assert_ne!(failed.code, 0);
    let jobs = world.cli.json(&["job", "list", "--kind", "restore"]);
    let done = world
        .cli
        .run_json(&["restore", "receipt", text(&jobs[0]["id"])]);
    done.expect(4);
    assert!(done.stderr.contains("proved nothing"), "{}", done.stderr);
}

#[test]
fn a_receipt_of_files_and_checkpoints_names_every_file_of_the_tree() {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[16]);
    world.hosts[0].ctl(&["checkpoint", "create", "db01", "one"]);
    guest_write(&world, "db01", 0, MIB, MIB, 3);
    world.back_up("db01", &["--method", "vss"]);
    destroy_vm(&world, 0, "db01");
    let job = world.restore("db01", &[]);
    let said = payload(&world.cli.json(&["restore", "receipt", text(&job["id"])]));
    assert_eq!(said["vm"]["checkpoints"], serde_json::json!(["one"]));
    let files = said["files"].as_array().unwrap();
    assert_eq!(files.len(), 2, "{files:?}");
    let images = said["point"]["images"].as_array().unwrap();
    for file in files {
        let image = images
            .iter()
            .find(|image| image["path"] == file["source_path"])
            .unwrap();
        assert_eq!(file["digest"], image["digest"]);
        assert!(file["digest"].is_string());
    }
    let leaf = said["disks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|disk| disk["disk"].is_string())
        .unwrap();
    assert_eq!(leaf["files"], 2);
    let path = world.path("receipt.json");
    let path = path.to_str().unwrap();
    world
        .cli
        .run(&["restore", "receipt", text(&job["id"]), "--out", path])
        .expect(0);
    let local = world.hosts[0].local(text(&leaf["path"]));
    verify(&world, path, &["--disk", local.to_str().unwrap()]).expect(0);
}
