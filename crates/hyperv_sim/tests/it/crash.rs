//! A host that is killed goes on where it was.
//!
//! The host runs in a process of its own: this test binary, started again with a directory in its environment.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use hyperv_sim::ctl::{Command, Reply};
use hyperv_sim::{RunOptions, pattern};

use crate::support::{DISK, MIB, Sim, read_chain};

const CHILD: &str = "HYPERV_SIM_TEST_HOST";

/// Not a test of its own: the host process of the other tests.
#[test]
fn host_process() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = RunOptions::new(dir, "127.0.0.1:0".parse().unwrap());
        let _running = hyperv_sim::start(options).await.unwrap();
        println!("ready");
        std::future::pending::<()>().await;
    });
}

pub(crate) struct Host(Child);

impl Host {
    pub(crate) fn start(sim: &Sim) -> Self {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::host_process", "--nocapture"])
            .env(CHILD, sim.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("ready")));
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts a command and kills the host some time after, wherever that hits it.
pub(crate) async fn kill_during(sim: &Sim, host: Host, command: Command, after: Duration) {
    let mut task = sim.spawn_ctl(command);
    let ended = tokio::time::timeout(after, &mut task).await.is_ok();
    host.kill();
    if !ended {
        // Answered, cut off, or not even begun and then done without the host: all are well.
        let _ = task.await.unwrap();
    }
}

/// Kills the host at several moments of an operation; afterwards the disk must hold what the guest wrote, and nothing
/// may be left over.
#[tokio::test]
async fn a_kill_in_a_checkpoint_or_merge_loses_nothing() {
    let mut sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", hyperv_sim::ctl::PowerAction::On).await;
    sim.set("job_millis", "5").await;
    sim.set("merge_millis", "5").await;
    sim.stop().await;
    let mut model = vec![0; usize::try_from(DISK).unwrap()];
    pattern(2, 0, &mut model[..4 << 20]);
    for round in 0..12_u64 {
        let host = Host::start(&sim);
        let offset = round * 4 * MIB;
        sim.guest_write("a", offset, round, 3 * MIB).await;
        let at = usize::try_from(offset).unwrap();
        pattern(round, 0, &mut model[at..at + (3 << 20)]);
        let name = format!("r{round}");
        let create = |name: &str| Command::CheckpointCreate {
            vm: "a".into(),
            name: Some(name.into()),
        };
        kill_during(&sim, host, create(&name), Duration::from_millis(round * 4)).await;
        // The next start finishes what was begun.
        sim.serve().await;
        sim.settle("a").await;
        let checkpoints = sim.checkpoints("a").await;
        sim.stop().await;
        for checkpoint in checkpoints {
            let delete = Command::CheckpointDelete {
                vm: "a".into(),
                checkpoint: checkpoint.id,
            };
            let host = Host::start(&sim);
            kill_during(&sim, host, delete.clone(), Duration::from_millis(round * 5)).await;
            sim.serve().await;
            sim.settle("a").await;
            // Whether it had got as far as to be a job.
            let _ = sim.try_ctl(delete).await;
            sim.stop().await;
        }
        sim.settle("a").await;
        assert!(sim.guest_read("a").await == model, "round {round}");
        assert!(
            sim.files("*.avhdx").await.is_empty(),
            "round {round}: {:?}",
            sim.files("*").await
        );
        let shown = sim.show("a").await;
        assert_eq!(
            (shown.id.as_str(), shown.disks[0].parents.len()),
            (vm.id.as_str(), 0)
        );
    }
}

/// Slow enough that each kill hits the merge somewhere else, with a guest that wrote beside it.
#[tokio::test]
async fn a_kill_anywhere_in_a_merge_beside_a_writing_guest_loses_nothing() {
    let mut sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    sim.power("a", hyperv_sim::ctl::PowerAction::On).await;
    let mut model = vec![0; usize::try_from(DISK).unwrap()];
    pattern(2, 0, &mut model[..4 << 20]);
    let fill = |model: &mut Vec<u8>, offset: u64, seed: u64| {
        let at = usize::try_from(offset).unwrap();
        pattern(seed, 0, &mut model[at..at + (1 << 20)]);
    };
    for round in 0..8_u64 {
        sim.set("merge_bytes_per_second", "0").await;
        let create = Command::CheckpointCreate {
            vm: "a".into(),
            name: None,
        };
        sim.ctl(create).await;
        let written = 8 * MIB + round * 2 * MIB;
        sim.guest_write("a", written, round, MIB).await;
        fill(&mut model, written, round);
        sim.set("merge_bytes_per_second", "256MiB").await;
        sim.stop().await;
        let host = Host::start(&sim);
        let checkpoint = sim.checkpoints("a").await.remove(0).id;
        let delete = sim.spawn_ctl(Command::CheckpointDelete {
            vm: "a".into(),
            checkpoint,
        });
        let beside = 40 * MIB + round * 2 * MIB;
        // On a slow machine it may be over before anybody looks.
        while sim.show("a").await.busy.is_empty() && !sim.files("*.avhdx").await.is_empty() {}
        sim.guest_write("a", beside, 100 + round, MIB).await;
        fill(&mut model, beside, 100 + round);
        let _ = tokio::time::timeout(
            Duration::from_millis(round * 35),
            std::future::pending::<()>(),
        )
        .await;
        host.kill();
        let _ = delete.await.unwrap();
        sim.serve().await;
        sim.settle("a").await;
        assert!(sim.guest_read("a").await == model, "round {round}");
        // Whether it had got as far as to be a job.
        for left in sim.checkpoints("a").await {
            sim.ctl(Command::CheckpointDelete {
                vm: "a".into(),
                checkpoint: left.id,
            })
            .await;
        }
        assert!(sim.files("*.avhdx").await.is_empty(), "round {round}");
    }
}

#[tokio::test]
async fn a_kill_while_the_guest_writes_reports_at_least_what_changed() {
    let mut sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", hyperv_sim::ctl::PowerAction::On).await;
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    let point = sim.convert(&checkpoint).await;
    let id = point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned();
    sim.settle("a").await;
    let before = sim.guest_read("a").await;
    sim.stop().await;
    for round in 0..3_u64 {
        let host = Host::start(&sim);
        let work = sim.try_ctl(Command::GuestWorkload {
            vm: "a".into(),
            seed: round,
            bytes: 200 * MIB,
        });
        let _ = tokio::time::timeout(Duration::from_millis(40 + 30 * round), work).await;
        host.kill();
    }
    sim.serve().await;
    assert_eq!(sim.show("a").await.state, "running");
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    let file = sim.disks_of(checkpoint.text("InstanceID").unwrap()).await[0]
        .1
        .clone();
    let now = read_chain(&sim.local(&file).await);
    let ranges = sim.changes(&file, &id).await;
    let mut rebuilt = before.clone();
    for (offset, length) in ranges {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        rebuilt[range.clone()].copy_from_slice(&now[range]);
    }
    assert!(now != before && rebuilt == now);
}

#[tokio::test]
async fn a_job_that_was_cut_off_is_taken_up_again() {
    let mut sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    sim.set("job_millis", "300").await;
    sim.stop().await;
    let host = Host::start(&sim);
    let ask = sim.spawn_ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("x".into()),
    });
    let until = Instant::now() + Duration::from_secs(30);
    let look = async {
        loop {
            let busy = sim.show("a").await.busy;
            if busy.contains(&"creating-checkpoint".to_owned()) {
                break;
            }
            assert!(Instant::now() < until);
        }
    };
    look.await;
    host.kill();
    assert!(ask.await.unwrap().is_err());
    sim.serve().await;
    sim.settle("a").await;
    let Reply::Checkpoints(found) = sim.ctl(Command::CheckpointList { vm: "a".into() }).await
    else {
        panic!()
    };
    assert_eq!(
        found.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["x"]
    );
}
