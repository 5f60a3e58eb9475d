//! Delta restores: what the host has anyway is not sent again, and nothing of it is trusted unhashed.

use harness::{DiskSpec, World, damage_disk, disk_hash, find_step, make_disk};
use serde_json::Value;

use crate::support::{EXE, MIB, SLOW, destroy_vm, job_id, text};

const CELL: u64 = 4096;
const PATH: &str = r"C:\VMs\web01\disk0.vhdx";

/// An installation with a VM that is off, whose disk is full of data, and a recovery point of it.
struct Ground {
    world: World,
    mib: u64,
    content: String,
}

impl Ground {
    fn new(mib: u64) -> Self {
        let world = World::with_host(EXE);
        let file = world.path("web01.vhdx");
        let spec = DiskSpec {
            size: mib * MIB,
            data: mib * MIB,
            seed: 5,
        };
        make_disk(&file, spec);
        world.hosts[0].add_vm("web01", &[(PATH, &file)]);
        std::fs::remove_file(&file).unwrap();
        world.wait_for_vm("web01");
        let content = world.hosts[0].guest_hash("web01", 0);
        world.back_up("web01", &[]);
        Self {
            world,
            mib,
            content,
        }
    }

    /// Offsets of so many per cent of the disk in runs of a MiB, none of them aligned to one.
    fn runs(&self, percent: u64) -> impl Iterator<Item = u64> + use<> {
        let runs = (self.mib * percent).div_ceil(100);
        let stride = self.mib / runs;
        (0..runs).map(move |run| (run * stride) * MIB + run % 200 * CELL)
    }

    /// Offsets of so many per cent of the disk in single cells.
    fn cells(&self, percent: u64) -> impl Iterator<Item = u64> + use<> {
        let cells = self.mib * MIB / CELL;
        // An odd step meets every cell once in so many.
        (0..cells * percent / 100).map(move |cell| cell * 40_503 % cells * CELL)
    }

    fn damage(&self, path: &str, offsets: impl Iterator<Item = u64>, run_bytes: u64, seed: u64) {
        let file = self.world.hosts[0].local(path);
        damage_disk(&file, offsets, usize::try_from(run_bytes).unwrap(), seed);
    }

    /// What a restore brought must be the disk, and have cost at most so many per cent of it over the wire.
    #[track_caller]
    fn assert_cost(&self, job: &Value, percent: f64) {
        let sent = figure(job, "bytes_sent");
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = sent as f64 * 100.0 / (self.mib * MIB) as f64;
        #[expect(clippy::print_stderr, reason = "the figure is what a long run is for")]
        {
            eprintln!(
                "{share:.2} % of {} MiB came ({percent} % allowed)",
                self.mib
            );
        }
        assert!(share <= percent, "{share:.2} % came: {job}");
        assert_eq!(job["warnings"], serde_json::json!([]));
    }

    /// The three cases of a damaged VM, and of one that is gone beside a twin.
    fn restore_three_times(&self, told: bool) {
        let world = &self.world;
        let finish = |job: &Value| {
            let done = world.run_and_wait(&["restore", "finish", &job_id(job)], &[]);
            done.expect(0);
        };
        self.damage(PATH, self.runs(3), MIB, 6);
        let job = world.restore("web01", &[]);
        self.assert_cost(&job, 4.0);
        assert_eq!(world.hosts[0].guest_hash("web01", 0), self.content);
        finish(&job);

        self.damage(PATH, self.cells(3), CELL, 7);
        let job = world.restore("web01", &[]);
        self.assert_cost(&job, 8.0);
        assert_eq!(world.hosts[0].guest_hash("web01", 0), self.content);
        finish(&job);

        let twin = r"D:\twin\other.vhdx";
        let file = world.hosts[0].local(twin);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(world.hosts[0].local(PATH), &file).unwrap();
        self.damage(twin, self.cells(2), CELL, 8);
        destroy_vm(world, 0, "web01");
        let job = world.restore("web01", &["--seed", twin]);
        self.assert_cost(&job, 5.0);
        assert_eq!(world.hosts[0].guest_hash("web01", 0), self.content);
        if told {
            // The estimate is what the seed holds; the figures are what it gave.
            let reused = figure(&job, "bytes_reused");
            assert!(reused > self.mib * MIB * 9 / 10, "{job}");
        }
    }
}

#[track_caller]
fn figure(job: &Value, name: &str) -> u64 {
    let figures = &job["figures"];
    figures[name].as_u64().unwrap_or_else(|| panic!("{job}"))
}

/// Everything a job's log says.
fn log(world: &World, job: &Value) -> String {
    let shown = world.cli.json(&["job", "show", &job_id(job), "--log"]);
    shown["log"].to_string()
}

#[test]
fn damaged_disks_and_twins_cost_little_more_than_what_differs() {
    Ground::new(128).restore_three_times(true);
}

#[test]
#[ignore = "needs 20 GiB of disk and many minutes: .ci/long runs it"]
fn damaged_disks_and_twins_of_4_gib() {
    Ground::new(4096).restore_three_times(true);
}

#[test]
fn copies_and_single_disks_take_what_the_vm_has() {
    let ground = Ground::new(32);
    let world = &ground.world;
    let plan = world.cli.json(&[
        "restore", "plan", "web01", "--to", "HV01", "--name", "copy", "--folder", r"D:\copy",
    ]);
    assert_eq!(plan["seeds"][0]["path"], PATH, "{plan}");
    assert_eq!(plan["seeds"][0]["found_as"], "own-disk");
    assert!(plan["reuse_bytes"].as_u64().unwrap() >= 32 * MIB, "{plan}");
    let job = world.restore(
        "web01",
        &["--to", "HV01", "--name", "copy", "--folder", r"D:\copy"],
    );
    ground.assert_cost(&job, 0.1);
    assert_eq!(world.hosts[0].guest_hash("copy", 0), ground.content);

    ground.damage(PATH, ground.cells(3), CELL, 9);
    let job = world.restore("web01", &["--disk", "disk0.vhdx", "--folder", r"D:\one"]);
    // The copy is a twin of the disk: both together have it whole.
    ground.assert_cost(&job, 1.0);
    let file = world.hosts[0].local(r"D:\one\disk0.vhdx");
    assert_eq!(disk_hash(&file), ground.content);
}

#[test]
fn a_replaced_disk_and_a_vm_that_is_gone_take_what_was_there_and_what_is_kept() {
    let ground = Ground::new(32);
    let world = &ground.world;
    ground.damage(PATH, ground.cells(3), CELL, 9);
    let job = world.restore("web01", &["--disk", "disk0.vhdx", "--replace-disk"]);
    ground.assert_cost(&job, 8.0);
    assert_eq!(world.hosts[0].guest_hash("web01", 0), ground.content);
    ground.damage(PATH, ground.cells(2), CELL, 10);
    world.restore("web01", &[]);
    let host = &world.hosts[0];
    host.ctl(&["vm", "remove", "web01"]);
    if let Err(error) = std::fs::remove_file(host.local(PATH)) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    // Damaged disks are all that is left of it, kept by the restores before.
    let job = world.restore("web01", &[]);
    ground.assert_cost(&job, 8.0);
    let log = log(world, &job);
    assert!(log.contains("(kept)") && log.contains(".reprise-"), "{log}");
    assert_eq!(host.guest_hash("web01", 0), ground.content);
}

#[test]
fn of_a_vm_that_runs_the_parents_of_its_disks_are_used() {
    let ground = Ground::new(32);
    let host = &ground.world.hosts[0];
    host.ctl(&["checkpoint", "create", "web01", "one"]);
    host.ctl(&["power", "web01", "on"]);
    let job = ground.world.restore("web01", &[]);
    ground.assert_cost(&job, 1.0);
    assert_eq!(host.guest_hash("web01", 0), ground.content);
}

#[test]
fn files_of_a_chain_take_what_the_old_files_have() {
    let ground = Ground::new(32);
    let world = &ground.world;
    world.back_up("web01", &["--method", "vss"]);
    ground.damage(PATH, ground.cells(2), CELL, 3);
    let job = world.restore("web01", &[]);
    ground.assert_cost(&job, 5.0);
    assert_eq!(world.hosts[0].guest_hash("web01", 0), ground.content);
}

#[test]
fn a_seed_that_changes_while_it_is_read_makes_no_wrong_disk() {
    let mut ground = Ground::new(96);
    ground.world.slow_agent(0, SLOW);
    let world = &ground.world;
    let words = [
        "restore",
        "start",
        "web01",
        "--disk",
        "disk0.vhdx",
        "--folder",
        r"D:\one",
    ];
    let id = job_id(&world.cli.json(&words));
    world.wait_for("data from the seed", || {
        let job = world.cli.json(&["job", "show", &id]);
        let done = job["progress"]["bytes_done"].as_u64()?;
        (find_step(&job, "send").is_some() && done > 8 * MIB).then_some(())
    });
    ground.damage(PATH, ground.cells(5), CELL, 11);
    let job = world.cli.json(&["job", "show", &id]);
    assert_eq!(text(&job["state"]), "running", "seen too late: {job}");
    let job = world.wait_for_job(&id, &["succeeded", "warnings", "failed"]);
    assert_eq!(text(&job["state"]), "succeeded", "{job}");
    assert!(
        figure(&job, "bytes_reused") > 0 && figure(&job, "bytes_sent") > 0,
        "{job}"
    );
    let file = world.hosts[0].local(r"D:\one\disk0.vhdx");
    assert_eq!(disk_hash(&file), ground.content);
}

#[test]
fn seeds_that_are_missing_damaged_or_in_use_are_told_by_name() {
    let ground = Ground::new(16);
    let world = &ground.world;
    for path in [
        r"D:\no\such.vhdx",
        "nowhere",
        r"C:\..\up.vhdx",
        r"Q:\q.vhdx",
    ] {
        let missing = ["restore", "plan", "web01", "--seed", path];
        let plan = world.cli.run_json(&missing).expect(1).value();
        let refusal = &plan["refusals"][0];
        assert_eq!(refusal["code"], "no-such-seed", "{plan}");
        assert!(text(&refusal["message"]).contains(path), "{plan}");
    }

    let broken = r"D:\broken.vhdx";
    let file = world.hosts[0].local(broken);
    std::fs::copy(world.hosts[0].local(PATH), &file).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[64 << 10..192 << 10].fill(0xee);
    std::fs::write(&file, bytes).unwrap();
    world.hosts[0].ctl(&["power", "web01", "on"]);
    let words = [
        "--disk",
        "disk0.vhdx",
        "--folder",
        r"D:\one",
        "--seed",
        broken,
    ];
    let job = world.restore("web01", &words);
    assert_eq!(text(&job["state"]), "succeeded");
    assert_eq!(figure(&job, "bytes_reused"), 0);
    let log = log(world, &job);
    for path in [broken, PATH] {
        let path = path.replace('\\', r"\\");
        assert!(
            log.contains(&format!("{path} is not used as a seed")),
            "{log}"
        );
    }
    let file = world.hosts[0].local(r"D:\one\disk0.vhdx");
    assert_eq!(disk_hash(&file), ground.content);
}
