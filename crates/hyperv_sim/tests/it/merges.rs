//! Merges, watched from outside: file by file, beside a guest that writes, and without room.

use std::time::{Duration, Instant};

use hyperv_sim::ctl::{Command, DiskAdd, DiskSelector, GuestContent, PowerAction, Reply, VmAdd};
use hyperv_sim::pattern;
use wsman::{Instance, Properties};

use crate::support::{DISK, MIB, Sim, settings};

const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const PATIENCE: Duration = Duration::from_secs(60);

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

async fn checkpoint(sim: &Sim, vm: &str) -> String {
    let create = Command::CheckpointCreate {
        vm: vm.into(),
        name: None,
    };
    sim.ctl(create).await;
    sim.checkpoints(vm).await.pop().unwrap().id
}

async fn delete(sim: &Sim, checkpoint: &str) {
    let parameters = Properties::new().with("AffectedSnapshot", settings(checkpoint));
    let job = sim.run(SNAPSHOTS, "DestroySnapshot", parameters).await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
}

async fn system(sim: &Sim, id: &str) -> Instance {
    sim.one(&format!(
        "SELECT * FROM Msvm_ComputerSystem WHERE Name = '{id}'"
    ))
    .await
}

#[tokio::test]
async fn a_merge_goes_file_by_file() {
    let sim = Sim::start().await;
    let disk = |name: &str, seed| DiskAdd {
        path: format!(r"C:\VMs\a\{name}.vhdx"),
        file: sim.disk_file(name, seed),
    };
    let add = VmAdd {
        name: "a".into(),
        generation: 2,
        version: None,
        disks: vec![disk("one", 1), disk("two", 2)],
        nics: Vec::new(),
    };
    let Reply::Vm(vm) = sim.ctl(Command::VmAdd(add)).await else {
        panic!()
    };
    sim.power("a", PowerAction::On).await;
    let made = checkpoint(&sim, "a").await;
    for disk in 0..2 {
        sim.ctl(Command::GuestWrite {
            vm: "a".into(),
            disk: DiskSelector::Index(disk),
            offset: 0,
            content: GuestContent::Pattern {
                seed: 7,
                length: 6 * MIB,
            },
        })
        .await;
    }
    let parent = sim.local(r"C:\VMs\a\one.vhdx").await;
    let before = std::fs::metadata(&parent).unwrap().len();
    sim.set("merge_millis", "400").await;
    sim.set("merge_bytes_per_second", "64MiB").await;
    delete(&sim, &made).await;
    let (mut files, mut percents, mut grown) = (Vec::new(), Vec::new(), false);
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "{files:?}");
        let left = sim.files("*.avhdx").await.len();
        let query = "SELECT * FROM Msvm_ConcreteJob WHERE JobType = 50";
        let Some(job) = sim.query(query).await.pop() else {
            continue;
        };
        percents.push(job.u16("PercentComplete").unwrap());
        files.push(left);
        let status = system(&sim, &vm.id)
            .await
            .u64s("OperationalStatus")
            .unwrap();
        let length = std::fs::metadata(&parent).unwrap().len();
        let still = sim.files("*.avhdx").await.len();
        if still > 0 {
            assert_eq!(status, [2, 32772], "while {still} files are left");
            // The parent takes what the child holds before the child vanishes.
            grown |= still == 2 && length > before;
        } else if left == 0 && job.u16("JobState") == Some(7) {
            break;
        }
    }
    files.dedup();
    assert_eq!(files, [2, 1, 0]);
    assert!(percents.is_sorted(), "{percents:?}");
    assert!(
        percents.iter().any(|percent| (1..100).contains(percent)),
        "{percents:?}"
    );
    assert!(grown);
    sim.settle("a").await;
    let disks = sim.disks_of(&format!("Microsoft:{}", vm.id)).await;
    let paths: Vec<_> = disks.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, [r"C:\VMs\a\one.vhdx", r"C:\VMs\a\two.vhdx"]);
}

#[tokio::test]
async fn a_guest_writes_on_while_its_disk_is_merged() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let mut model = vec![0; index(DISK)];
    pattern(2, 0, &mut model[..4 << 20]);
    let first = sim.recovery_checkpoint(&vm.id, 2).await;
    let point = sim.convert(&first).await;
    sim.settle("a").await;
    let id = point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned();
    let before = model.clone();
    let made = checkpoint(&sim, "a").await;
    sim.guest_write("a", 8 * MIB, 3, 8 * MIB).await;
    pattern(3, 0, &mut model[index(8 * MIB)..index(16 * MIB)]);
    sim.set("merge_bytes_per_second", "32MiB").await;
    delete(&sim, &made).await;
    let mut beside = 0;
    for round in 0..12_u64 {
        let offset = 20 * MIB + round * 3 * MIB;
        sim.guest_write("a", offset, 40 + round, MIB).await;
        pattern(
            40 + round,
            0,
            &mut model[index(offset)..index(offset + MIB)],
        );
        beside += u64::from(sim.show("a").await.busy == ["merging"]);
    }
    assert!(beside > 4, "{beside} writes ended while the merge went on");
    sim.set("merge_bytes_per_second", "0").await;
    sim.settle("a").await;
    assert!(sim.files("*.avhdx").await.is_empty());
    assert!(sim.guest_read("a").await == model);
    // The change tracker missed none of it.
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    let file = sim.disks_of(checkpoint.text("InstanceID").unwrap()).await[0]
        .1
        .clone();
    let mut rebuilt = before;
    for (offset, length) in sim.changes(&file, &id).await {
        let range = index(offset)..index(offset + length);
        rebuilt[range.clone()].copy_from_slice(&model[range]);
    }
    assert!(rebuilt == model);
}

#[tokio::test]
async fn a_merge_without_room_pauses_the_machine_until_there_is_some() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let made = checkpoint(&sim, "a").await;
    sim.guest_write("a", 8 * MIB, 3, 16 * MIB).await;
    let content = sim.guest_read("a").await;
    let capacity = async |capacity_bytes: u64| {
        let set = Command::VolumeSet {
            volume: "C".into(),
            capacity_bytes,
        };
        let Reply::Volume(volume) = sim.ctl(set).await else {
            panic!()
        };
        volume.free_bytes
    };
    let used = (1 << 40) - capacity(1 << 40).await;
    capacity(used + 4 * MIB).await;
    delete(&sim, &made).await;
    let until = Instant::now() + PATIENCE;
    let paused = loop {
        let system = system(&sim, &vm.id).await;
        if system.u16("EnabledState") == Some(9) {
            break system;
        }
        assert!(Instant::now() < until);
    };
    assert_eq!(paused.u64s("OperationalStatus"), Some(vec![5, 32772]));
    assert_eq!(paused.u16("HealthState"), Some(25));
    assert_eq!(sim.files("*.avhdx").await.len(), 1);
    capacity(1 << 40).await;
    sim.settle("a").await;
    let running = system(&sim, &vm.id).await;
    assert_eq!(running.u16("EnabledState"), Some(2));
    assert_eq!(running.u64s("OperationalStatus"), Some(vec![2]));
    assert!(sim.guest_read("a").await == content);
}
