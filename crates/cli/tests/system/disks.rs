//! Virtual disk restores onto a VM that is there (S4): attached as new disks, or in place of its own.

use harness::{World, disk_hash, find_step};
use serde_json::{Value, json};

use crate::shadows::add_vm_at;
use crate::support::{
    EXE, MIB, add_vm, assert_host_is_clean, assert_points_verify, guest_write, points, text,
};

/// What the host itself says of the disks of a VM: slot, path and VirtualDiskId.
fn disks(world: &World, vm: &str) -> Vec<(String, String, String)> {
    let vm = world.hosts[0].vm(vm).unwrap();
    let disks = vm["disks"].as_array().unwrap().iter();
    let field = |disk: &Value, name: &str| text(&disk[name]).to_owned();
    disks
        .map(|disk| {
            (
                field(disk, "slot"),
                field(disk, "path"),
                field(disk, "disk_id"),
            )
        })
        .collect()
}

/// Every planned disk must be where the plan says, as the host sees it; the others are as they were.
#[track_caller]
fn assert_as_planned(world: &World, vm: &str, plan: &Value, before: &[(String, String, String)]) {
    let after = disks(world, vm);
    let planned = plan["disks"].as_array().unwrap();
    for disk in planned {
        let found = after.iter().find(|(slot, _, _)| disk["slot"] == **slot);
        let (_, path, id) = found.unwrap_or_else(|| panic!("{disk} is not among {after:?}"));
        assert_eq!(path, text(&disk["path"]), "{after:?}");
        assert_eq!(disk["new_id"] == json!(true), *id != text(&disk["id"]));
    }
    let other = |disk: &&(String, String, String)| !planned.iter().any(|of| of["slot"] == *disk.0);
    let (kept, was): (Vec<_>, Vec<_>) = (
        after.iter().filter(other).collect(),
        before.iter().filter(other).collect(),
    );
    assert_eq!(kept, was);
}

fn plan(world: &World, words: &[&str]) -> Value {
    world.cli.json(&[&["restore", "plan"], words].concat())
}

/// The refusal codes of a plan, which must have some.
fn refusals(world: &World, words: &[&str]) -> Vec<String> {
    let done = world.cli.run_json(&[&["restore", "plan"], words].concat());
    done.expect(1);
    let plan = done.value();
    let found = plan["refusals"].as_array().unwrap();
    assert!(
        found
            .iter()
            .all(|refusal| !text(&refusal["hint"]).is_empty())
    );
    found
        .iter()
        .map(|refusal| text(&refusal["code"]).to_owned())
        .collect()
}

#[test]
fn s04_a_disk_is_attached_to_a_running_vm() {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[32, 48]);
    let content = world.hosts[0].guest_hash("db01", 1);
    world.back_up("db01", &[]);
    guest_write(&world, "db01", 1, MIB, MIB, 9);
    let before = disks(&world, "db01");
    let words = ["db01", "--disk", "disk1.vhdx", "--attach", "db01"];
    let planned = plan(&world, &words);
    let path = text(&planned["disks"][0]["path"]).to_owned();
    assert!(
        path.starts_with(r"C:\VMs\db01\disk1-restored-"),
        "{planned}"
    );
    let file = world.path("plan.json");
    std::fs::write(&file, planned.to_string()).unwrap();
    let done = world.run_and_wait(&["restore", "start", "--plan", file.to_str().unwrap()], &[]);
    done.expect(0);
    let job = done.value();
    assert_as_planned(&world, "db01", &planned, &before);
    assert_eq!(world.hosts[0].vm("db01").unwrap()["state"], "running");
    assert_eq!(world.hosts[0].guest_hash("db01", 2), content);
    let kind = text(&find_step(&job, "kind").unwrap()["detail"]).to_owned();
    assert!(
        kind.contains("virtual disk restore") && kind.contains("attached to VM \"db01\""),
        "{kind}"
    );
    assert_host_is_clean(&world, 0);
    // The new disk is one of the VM's from here on.
    world.back_up("db01", &[]);
    assert_eq!(
        points(&world, "db01")[0]["disks"].as_array().unwrap().len(),
        3
    );
    assert_points_verify(&world, "db01");
}

#[test]
fn s04_disks_are_attached_to_another_vm_of_another_generation() {
    let mut world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[32, 48]);
    let contents = [0, 1].map(|disk| world.hosts[0].guest_hash("db01", disk));
    world.back_up("db01", &[]);
    add_vm_at(&world, "old", "1", &[r"D:\old\os.vhdx"], &[]);
    world.hosts[0].ctl(&["power", "old", "off"]);
    let before = disks(&world, "old");
    let words = [
        "db01",
        "--disk",
        "disk0.vhdx",
        "--disk",
        "disk1.vhdx",
        "--attach",
        "old",
    ];
    let planned = plan(&world, &words);
    world.restore("db01", &words[1..]);
    for disk in planned["disks"].as_array().unwrap() {
        assert!(text(&disk["path"]).starts_with(r"D:\old\disk"), "{disk}");
    }
    assert_eq!(disks(&world, "old").len(), before.len() + 2);
    let of = |disk: usize| {
        let named = format!("disk{disk}-restored");
        let after = disks(&world, "old");
        after.iter().position(|(_, path, _)| path.contains(&named))
    };
    for (disk, content) in contents.iter().enumerate() {
        assert_eq!(
            &world.hosts[0].guest_hash("old", of(disk).unwrap()),
            content
        );
    }
    assert_host_is_clean(&world, 0);

    // A VM of another host: it gets the disks there.
    world.add_host("HV02", &["C=64GiB", "D=64GiB"]);
    let file = world.path("far.vhdx");
    let spec = harness::DiskSpec {
        size: 16 * MIB,
        data: MIB,
        seed: 3,
    };
    harness::make_disk(&file, spec);
    world.hosts[1].add_vm("far", &[(r"C:\far\os.vhdx", &file)]);
    world.wait_for_vm("far");
    let job = world.restore(
        "db01",
        &[
            "--disk",
            "disk1.vhdx",
            "--attach",
            "far",
            "--folder",
            r"D:\x",
        ],
    );
    assert_eq!(job["host"]["name"], "HV02");
    let far = world.hosts[1].vm("far").unwrap();
    assert_eq!(far["disks"][1]["path"], r"D:\x\disk1.vhdx");
    assert_eq!(world.hosts[1].guest_hash("far", 1), contents[1]);
}

/// A VM `db01` that is off, with three disks that were backed up and have changed since.
struct Changed {
    world: World,
    /// Hashes of the disks in the recovery point.
    stored: Vec<String>,
    /// Hashes of the disks now.
    now: Vec<String>,
    before: Vec<(String, String, String)>,
}

fn changed_vm() -> Changed {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[32, 48, 16]);
    let hashes = |world: &World| {
        (0..3)
            .map(|disk| world.hosts[0].guest_hash("db01", disk))
            .collect()
    };
    let stored = hashes(&world);
    world.back_up("db01", &[]);
    for disk in 0..3 {
        guest_write(&world, "db01", disk, 3 * MIB, MIB, 9);
    }
    world.hosts[0].ctl(&["power", "db01", "off"]);
    let (now, before) = (hashes(&world), disks(&world, "db01"));
    Changed {
        world,
        stored,
        now,
        before,
    }
}

const REPLACE: [&str; 4] = ["db01", "--disk", "disk1.vhdx", "--replace-disk"];

#[test]
fn s04_a_disk_takes_the_place_of_the_one_it_was() {
    let Changed {
        world,
        stored,
        now,
        before,
    } = changed_vm();
    let planned = plan(&world, &REPLACE);
    assert_eq!(
        planned["disks"][0]["path"], r"C:\VMs\db01\disk1.vhdx",
        "{planned}"
    );
    let parked: Vec<&str> = planned["disks"][0]["parks"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    assert!(parked.contains(&r"C:\VMs\db01\disk1.vhdx"), "{planned}");
    let job = world.restore("db01", &REPLACE[1..]);
    assert_as_planned(&world, "db01", &planned, &before);
    assert_eq!(disks(&world, "db01"), before, "same slots, paths and ids");
    let after: Vec<String> = (0..3)
        .map(|disk| world.hosts[0].guest_hash("db01", disk))
        .collect();
    assert_eq!(after, [&now[0], &stored[1], &now[2]].map(String::clone));
    let kept = world.hosts[0].files(r"*\.reprise-*\old\disk1.vhdx");
    assert_eq!(kept.len(), 1, "{job}");
    assert_eq!(disk_hash(&world.hosts[0].local(&kept[0].0)), now[1]);
    let beside: Vec<_> = world.hosts[0].files(r"C:\VMs\db01\*-restored-*");
    assert!(beside.is_empty(), "{beside:?}");
    assert!(
        world.hosts[0]
            .files(r"C:\VMs\db01\disk1.vhdx.rct")
            .is_empty()
    );

    // The next backup reads this disk whole, and only this one.
    world.hosts[0].ctl(&["power", "db01", "on"]);
    world.back_up("db01", &[]);
    let newest = world
        .cli
        .json(&["point", "show", text(&points(&world, "db01")[0]["id"])]);
    let reasons: Vec<&Value> = newest["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| &disk["reason"])
        .collect();
    assert!(
        reasons[0].is_null() && !reasons[1].is_null() && reasons[2].is_null(),
        "{newest}"
    );
    assert_points_verify(&world, "db01");
}

#[test]
fn s04_several_disks_of_a_running_vm_are_replaced_and_it_runs_again() {
    let Changed {
        world,
        stored,
        now,
        before,
    } = changed_vm();
    world.hosts[0].ctl(&["power", "db01", "on"]);
    let words = [
        "db01",
        "--disk",
        "disk0.vhdx",
        "--disk",
        "disk2.vhdx",
        "--replace-disk",
    ];
    assert_eq!(refusals(&world, &words), ["vm-runs"]);
    let more = [&words[1..], &["--power", "as-before"]].concat();
    let planned = plan(&world, &[&["db01"], more.as_slice()].concat());
    let steps = planned["steps"].as_array().unwrap();
    let steps: Vec<&str> = steps.iter().map(|step| text(&step["name"])).collect();
    assert_eq!(
        steps,
        [
            "void-bases",
            "write-disk",
            "write-disk",
            "read-back",
            "stop-vm",
            "park-disk",
            "replace-disk",
            "park-disk",
            "replace-disk",
            "start-vm"
        ]
    );
    world.restore("db01", &more);
    assert_as_planned(&world, "db01", &planned, &before);
    assert_eq!(world.hosts[0].vm("db01").unwrap()["state"], "running");
    world.hosts[0].ctl(&["power", "db01", "off"]);
    let after: Vec<String> = (0..3)
        .map(|disk| world.hosts[0].guest_hash("db01", disk))
        .collect();
    assert_eq!(after, [&stored[0], &now[1], &stored[2]].map(String::clone));
}

#[test]
fn s04_a_disk_of_a_point_made_of_files_is_attached_and_replaces() {
    let world = World::with_host(EXE);
    add_vm(&world, 0, "db01", &[32, 48]);
    world.hosts[0].ctl(&["checkpoint", "create", "db01", "one"]);
    guest_write(&world, "db01", 1, MIB, 2 * MIB, 5);
    let content = world.hosts[0].guest_hash("db01", 1);
    world.back_up("db01", &["--method", "vss"]);
    // Files are read under the names of their chain, beside those of the VM.
    let words = [
        "restore",
        "start",
        "db01",
        "--disk",
        "disk1.vhdx",
        "--attach",
        "db01",
    ];
    let done = world.run_and_wait(&words, &[]);
    done.expect(3);
    assert!(
        done.text().contains("applying one takes it out"),
        "{}",
        done.text()
    );
    assert_eq!(world.hosts[0].guest_hash("db01", 2), content);
    let left = world.hosts[0].files(r"C:\VMs\db01\*-restored-*.avhdx");
    assert!(left.is_empty(), "{left:?}");

    let words = ["db01", "--disk", "disk1.vhdx", "--replace-disk"];
    world.hosts[0].ctl(&["power", "db01", "off"]);
    assert_eq!(refusals(&world, &words), ["vm-has-checkpoints"]);
    world.hosts[0].ctl(&["checkpoint", "delete", "db01", "one"]);
    world.hosts[0].ctl(&["power", "db01", "on"]);
    guest_write(&world, "db01", 1, MIB, 2 * MIB, 6);
    world.hosts[0].ctl(&["power", "db01", "off"]);
    let first = world.hosts[0].guest_hash("db01", 0);
    world.restore("db01", &words[1..]);
    assert_eq!(world.hosts[0].guest_hash("db01", 1), content);
    assert_eq!(world.hosts[0].guest_hash("db01", 0), first);
    assert_eq!(disks(&world, "db01")[1].1, r"C:\VMs\db01\disk1.vhdx");
}

#[test]
fn s04_what_a_vm_cannot_take_is_refused_with_a_way_out() {
    let Changed { world, .. } = changed_vm();
    let before = world.hosts[0].facts();
    let attach = ["db01", "--disk", "disk1.vhdx", "--attach"];
    // A first generation VM that runs takes disks on SCSI only.
    let attach_to = |vm: &'static str| [&attach[..], &[vm]].concat();
    world.hosts[0].ctl(&["power", "db01", "on"]);
    world.hosts[0].ctl(&["power", "db01", "save"]);
    assert_eq!(refusals(&world, &attach_to("db01")), ["vm-held"]);
    assert_eq!(refusals(&world, &REPLACE), ["vm-held"]);
    world.hosts[0].ctl(&["power", "db01", "on"]);
    world.hosts[0].ctl(&["power", "db01", "off"]);
    assert_eq!(world.hosts[0].facts(), before);
    world
        .cli
        .run(&[
            "restore",
            "plan",
            "db01",
            "--disk",
            "disk1.vhdx",
            "--attach",
            "nobody",
        ])
        .expect(4);
    for wrong in [
        &["--replace-disk", "--folder", r"D:\x"][..],
        &["--replace-disk", "--attach", "db01"],
        &["--replace-disk", "--to", "HV01"],
    ] {
        let words = [&["restore", "start"], &attach[..3], wrong].concat();
        world.cli.run(&words).expect(2);
    }
    // The VM has gone: a disk of it has no place.
    world.hosts[0].ctl(&["vm", "remove", "db01"]);
    assert_eq!(refusals(&world, &REPLACE), ["no-such-vm"]);
}

#[test]
fn s04_a_disk_that_is_gone_or_broken_is_replaced_by_its_path() {
    let Changed {
        world,
        stored,
        before,
        ..
    } = changed_vm();
    let local = world.hosts[0].local(r"C:\VMs\db01\disk1.vhdx");
    std::fs::write(&local, b"no disk any more").unwrap();
    let planned = plan(&world, &REPLACE);
    assert!(
        planned["warnings"]
            .to_string()
            .contains("by its path alone"),
        "{planned}"
    );
    let done = world.run_and_wait(&["restore", "start"], &REPLACE);
    done.expect(3);
    assert_eq!(disks(&world, "db01"), before);
    assert_eq!(world.hosts[0].guest_hash("db01", 1), stored[1]);
    let kept = world.hosts[0].files(r"*\.reprise-*\old\disk1.vhdx");
    let kept = std::fs::read(world.hosts[0].local(&kept[0].0)).unwrap();
    assert_eq!(kept, b"no disk any more");

    std::fs::remove_file(&local).unwrap();
    world
        .run_and_wait(&["restore", "start"], &REPLACE)
        .expect(3);
    assert_eq!(disks(&world, "db01"), before);
    assert_eq!(world.hosts[0].guest_hash("db01", 1), stored[1]);
}

/// Waits until the journal of a job on a host holds this text.
fn wait_for_deed(world: &World, job: &str, deed: &str) {
    let folder = world.path("HV01-agent").join("jobs");
    world.wait_for(&format!("the journal to hold {deed}"), || {
        let files = std::fs::read_dir(&folder).ok()?.flatten();
        let mut own = files.filter(|file| file.file_name().to_string_lossy().starts_with(job));
        own.any(|file| std::fs::read_to_string(file.path()).is_ok_and(|text| text.contains(deed)))
            .then_some(())
    });
}

#[test]
fn s04_a_replacement_that_is_cut_anywhere_ends_whole() {
    let Changed {
        mut world,
        stored,
        now,
        before,
    } = changed_vm();
    let words = [
        "restore",
        "start",
        "db01",
        "--disk",
        "disk0.vhdx",
        "--disk",
        "disk1.vhdx",
        "--replace-disk",
        "--power",
        "as-before",
    ];
    let state = world.hosts[0].facts();
    let mut kills = 0;
    for (round, boundary) in (8..).step_by(2).take(8).enumerate() {
        world.kill_agent(0);
        world.start_agent_with(0, &["--crash-at", &boundary.to_string()]);
        world.wait_for_host("HV01", "ready");
        let id = text(&world.cli.json(&words)["id"]).to_owned();
        world.wait_for("the agent or the job to end", || {
            let job = world.cli.json(&["job", "show", &id]);
            let over = !matches!(text(&job["state"]), "queued" | "running");
            (over || !world.agent_runs(0)).then_some(())
        });
        kills += u32::from(!world.agent_runs(0));
        world.kill_agent(0);
        // The last one is after its success: then it is only told.
        if round % 2 == 1 && boundary < 20 {
            // Nobody wants it any more: the VM has its old disks.
            world.cli.run(&["job", "cancel", &id]);
        }
        world.start_agent(0);
        let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed", "cancelled"]);
        world.wait_for_host("HV01", "ready");
        assert_eq!(disks(&world, "db01"), before, "{job}");
        let hashes: Vec<String> = (0..3)
            .map(|disk| world.hosts[0].guest_hash("db01", disk))
            .collect();
        if job["state"] == "cancelled" {
            assert_eq!(hashes, now, "round {round}: {job}");
            assert_eq!(world.hosts[0].facts(), state, "round {round}");
            continue;
        }
        assert_eq!(job["state"], "succeeded", "{job}");
        assert_eq!(hashes[..2], stored[..2], "round {round}: {job}");
        assert_eq!(hashes[2], now[2]);
        // The old disks are whole beside; they go back for the next round.
        for (disk, content) in now.iter().enumerate().take(2) {
            let kept = world.hosts[0].files(&format!(r"*\.reprise-{id}\old\disk{disk}.vhdx"));
            assert_eq!(kept.len(), 1, "round {round}: {kept:?}");
            let kept = world.hosts[0].local(&kept[0].0);
            assert_eq!(disk_hash(&kept), *content);
            let own = world.hosts[0].local(&format!(r"C:\VMs\db01\disk{disk}.vhdx"));
            std::fs::rename(&kept, &own).unwrap();
        }
        let left = world.hosts[0].files(&format!(r"*\.reprise-{id}\*"));
        for (path, _) in left {
            let name = path.rsplit('\\').next().unwrap_or_default();
            assert!(name.ends_with("rct") || name.ends_with("mrt"), "{path}");
            std::fs::rename(
                world.hosts[0].local(&path),
                world.hosts[0].local(&format!(r"C:\VMs\db01\{name}")),
            )
            .unwrap();
        }
    }
    assert!(kills > 5, "only {kills} of 8 came in time");
}

/// Everything of the host but what a restore under way has written.
fn without_ours(world: &World) -> Value {
    let mut facts = world.hosts[0].facts();
    let files = facts["files"].as_array_mut().unwrap();
    files.retain(|file| !text(&file["path"]).contains("-restored-"));
    facts
}

#[test]
fn s04_a_vm_that_changes_meanwhile_is_left_alone() {
    let Changed { mut world, now, .. } = changed_vm();
    let words = [&["restore", "start"], &REPLACE[..]].concat();
    for (change, back) in [
        (&["power", "db01", "on"][..], &["power", "db01", "off"][..]),
        (
            &["checkpoint", "create", "db01", "mine"],
            &["checkpoint", "delete", "db01", "mine"],
        ),
    ] {
        world.slow_agent(0, "8MiB");
        let id = text(&world.cli.json(&words)["id"]).to_owned();
        wait_for_deed(&world, &id, "\"data\"");
        world.hosts[0].ctl(change);
        let changed = without_ours(&world);
        let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
        assert_eq!(job["error"]["code"], "vm-changed", "{job}");
        assert!(text(&job["error"]["hint"]).contains("again"), "{job}");
        assert_eq!(without_ours(&world), changed);
        assert_eq!(world.hosts[0].files("*-restored-*"), []);
        world.hosts[0].ctl(back);
        assert_eq!(world.hosts[0].guest_hash("db01", 1), now[1]);
    }
}
