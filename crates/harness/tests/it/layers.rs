//! Who may depend on whom: the rows of ARCHITECTURE.md, and nothing upwards or sideways.

use std::process::Command;

use serde_json::Value;

/// Rows from the bottom; a crate sees only rows below its own.
const LAYERS: [&[&str]; 5] = [
    &["model"],
    &["vhdx", "vmcx", "wsman", "store", "plan", "jobs", "api"],
    &[
        "object_storage",
        "catalog",
        "chunk_index",
        "hyperv",
        "pipeline",
        "api_client",
    ],
    &["server", "agent", "hyperv_sim"],
    &["reprise", "harness", "fuzz_oracles"],
];
/// What tests may use although no product code may: the executable is started through the harness, which knows programs
/// only by their command line; the driver of a host is tested against the simulated one, over HTTP.
const ONLY_IN_TESTS: [(&str, &str); 2] = [("reprise", "harness"), ("hyperv", "hyperv_sim")];
/// Use nothing of ours: they could be published alone.
const ALONE: [&str; 3] = ["vhdx", "vmcx", "wsman"];

#[test]
fn crates_depend_downwards_only() {
    let edges = workspace_edges();
    assert!(edges.len() > 20, "only {} edges were found", edges.len());
    for Edge { from, to, dev } in edges {
        assert!(
            !ALONE.contains(&from.as_str()),
            "{from} must use nothing of ours, but depends on {to}"
        );
        if dev && ONLY_IN_TESTS.contains(&(from.as_str(), to.as_str())) {
            continue;
        }
        assert!(layer(&to) < layer(&from), "{from} must not depend on {to}");
    }
}

#[test]
fn every_crate_has_its_layer() {
    for name in packages().iter().map(name_of) {
        if name != "xtask" {
            layer(&name);
        }
    }
}

struct Edge {
    from: String,
    to: String,
    dev: bool,
}

#[track_caller]
fn layer(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|row| row.contains(&name))
        .unwrap_or_else(|| {
            panic!("{name} has no layer: add it to the table here and in ARCHITECTURE.md")
        })
}

fn workspace_edges() -> Vec<Edge> {
    let packages = packages();
    let ours: Vec<String> = packages.iter().map(name_of).collect();
    let mut edges = Vec::new();
    // The chores of the project are above all layers.
    for package in packages
        .iter()
        .filter(|package| name_of(package) != "xtask")
    {
        for dependency in package["dependencies"]
            .as_array()
            .expect("a package has dependencies")
        {
            let to = name_of(dependency);
            if ours.contains(&to) {
                edges.push(Edge {
                    from: name_of(package),
                    to,
                    dev: dependency["kind"] == "dev",
                });
            }
        }
    }
    edges
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"]
        .as_array()
        .expect("a workspace has packages")
        .clone()
}

fn name_of(value: &Value) -> String {
    value["name"]
        .as_str()
        .expect("everything has a name")
        .to_owned()
}
