//! Commands that need no server, and what happens without one.

use harness::{Cli, DiskSpec, SimHost, make_disk};

use crate::{EXE, MIB};

fn cli(folder: &tempfile::TempDir) -> Cli {
    let mut cli = Cli::new(EXE);
    cli.set(
        "REPRISE_PROFILE",
        folder
            .path()
            .join("profile.toml")
            .to_str()
            .expect("a plain path"),
    );
    cli
}

#[test]
fn exit_codes_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let cli = cli(&folder);
    cli.run(&["--help"]).expect(0);
    cli.run(&["vm", "list", "--help"]).expect(0);
    cli.run(&["vm", "dance"]).expect(2);
    cli.run(&["backup", "start"]).expect(2);
    // No server named; named but not logged in; logged in but nobody there; no https.
    cli.run(&["vm", "list"]).expect(2);
    cli.run(&["vm", "list", "--server", "https://localhost:1"])
        .expect(5);
    let logged_in = cli.with("REPRISE_TOKEN", "x");
    logged_in
        .run(&[
            "vm",
            "list",
            "--server",
            "https://localhost:1",
            "--ca",
            &"ab".repeat(32),
        ])
        .expect(1);
    logged_in
        .run(&[
            "vm",
            "list",
            "--server",
            "http://localhost:1",
            "--ca",
            &"ab".repeat(32),
        ])
        .expect(2);
    cli.run(&["sim", "ctl", "vm", "list", "--dir", "/no/such/host"])
        .expect(4);
    cli.run(&["vhdx", "info", "/no/such/disk.vhdx"]).expect(4);
    cli.run(&["demo", "--disk", "/no/such/disk.vhdx"]).expect(4);
    cli.run(&["demo", "--dir", folder.path().to_str().unwrap()])
        .expect(6);
}

#[test]
fn an_error_says_what_to_do_also_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let cli = cli(&folder);
    let done = cli.run(&["vm", "list"]);
    assert!(
        done.stdout.is_empty() && done.stderr.contains("reprise login"),
        "{}",
        done.stderr
    );
    let done = cli.run_json(&["vm", "list"]);
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    assert_eq!(error["error"]["exit"], 2);
    assert!(
        error["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("reprise login")
    );
}

#[test]
fn completions_and_manual_pages_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let cli = cli(&folder);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let done = cli.run(&["completions", shell]);
        assert!(done.expect(0).text().contains("restore"), "{shell}");
    }
    let pages = folder.path().join("man1");
    cli.run(&["man", pages.to_str().unwrap()]).expect(0);
    for page in [
        "reprise.1",
        "reprise-restore-start.1",
        "reprise-sim-ctl-guest-write.1",
    ] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

#[test]
fn a_simulated_host_is_worked_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let cli = cli(&folder);
    let dir = folder.path().join("host").to_str().unwrap().to_owned();
    let disk = folder.path().join("disk.vhdx");
    make_disk(
        &disk,
        DiskSpec {
            size: 64 * MIB,
            data: 4 * MIB,
            seed: 5,
        },
    );
    cli.json(&["sim", "init", "--dir", &dir, "--volume", "C=8GiB"]);
    cli.run(&["sim", "init", "--dir", &dir]).expect(6);
    let ctl = |words: &[&str]| {
        let mut all = vec!["sim", "ctl", "--dir", &dir];
        all.extend(words);
        cli.json(&all)
    };
    let add = format!(r"C:\VMs\web01.vhdx={}", disk.to_str().unwrap());
    let vm = ctl(&["vm", "add", "web01", "--disk", &add, "--nic", "LAN"]);
    assert_eq!(
        (&vm["state"], &vm["disks"][0]["size_bytes"]),
        (&"off".into(), &(64 * MIB).into())
    );
    assert_eq!(ctl(&["vm", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(ctl(&["power", "web01", "on"])["state"], "running");

    ctl(&[
        "guest",
        "write",
        "web01",
        "0",
        "--offset",
        "1MiB",
        "--pattern",
        "9",
        "--length",
        "100KiB",
    ]);
    let words = [
        "sim",
        "ctl",
        "--dir",
        &dir,
        "guest",
        "read",
        "web01",
        r"C:\VMs\web01.vhdx",
        "--offset",
        "1MiB",
        "--length",
        "100KiB",
    ];
    let read = cli.run(&words);
    assert_eq!(read.expect(0).stdout.len(), 100 << 10);
    assert!(read.stdout.iter().any(|byte| *byte != 0));

    ctl(&["checkpoint", "create", "web01", "before"]);
    assert_eq!(ctl(&["checkpoint", "list", "web01"])[0]["name"], "before");
    assert_eq!(
        ctl(&["files", "--glob", "*.avhdx"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    ctl(&["checkpoint", "delete", "web01", "before"]);
    assert_eq!(
        ctl(&["files", "--glob", "*.avhdx"])
            .as_array()
            .unwrap()
            .len(),
        0
    );

    let path = ctl(&["path", r"C:\VMs\web01.vhdx"]);
    assert!(std::path::Path::new(path["local"].as_str().unwrap()).is_file());
    ctl(&["vm", "remove", "web01"]);
    assert_eq!(
        ctl(&["files", "--glob", r"C:\VMs\web01.vhdx"])
            .as_array()
            .unwrap()
            .len(),
        1,
        "disk files stay"
    );
    cli.run(&["sim", "ctl", "--dir", &dir, "vm", "show", "web01"])
        .expect(4);
}

#[test]
fn a_recorded_host_is_compared_with_the_simulated_one() {
    let folder = tempfile::tempdir().unwrap();
    let cli = cli(&folder);
    let mut host = SimHost::new(&cli, folder.path(), "HV01", &["C=4GiB"]);
    host.start();
    let disk = folder.path().join("disk.vhdx");
    let spec = DiskSpec {
        size: 64 * MIB,
        data: MIB,
        seed: 1,
    };
    make_disk(&disk, spec);
    host.add_vm("payroll", &[(r"C:\VMs\payroll.vhdx", &disk)]);

    let file = folder.path().join("host.jsonl");
    let name = file.to_str().unwrap();
    let record = [
        "agent",
        "record",
        "--out",
        name,
        "--host",
        &host.url(),
        "--vm",
        "Payroll",
    ];
    let done = cli.run_json(&record);
    done.expect(0);
    assert!(done.stderr.contains("changes nothing"), "{}", done.stderr);
    assert!(done.value()["exchanges"].as_u64().unwrap() > 20);
    // A recording is not written over.
    cli.run(&record).expect(1);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.to_lowercase().contains("payroll"));

    let done = cli.run_json(&["sim", "replay-check", name]);
    done.expect(0);
    assert_eq!(done.value()["differences"].as_array().unwrap().len(), 0);
    let odd = text.replacen("<p:HealthState>", "<p:Odd>x</p:Odd><p:HealthState>", 1);
    std::fs::write(&file, odd).unwrap();
    let done = cli.run(&["sim", "replay-check", name]);
    done.expect(3);
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(shown.contains("unknown-property"), "{shown}");
    std::fs::write(&file, "hello").unwrap();
    cli.run(&["sim", "replay-check", name]).expect(1);
}
