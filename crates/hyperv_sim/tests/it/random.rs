//! Random sequences of what people and backups do to a machine: the disk always holds what a plain model says.

use std::collections::BTreeMap;

use hyperv_sim::ctl::{Command, PowerAction};
use hyperv_sim::pattern;

use crate::support::{DISK, Sim, read_chain};

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let mut bytes = [0; 8];
        pattern(self.0, 0, &mut bytes);
        self.0 = u64::from_le_bytes(bytes);
        self.0 % sides
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What a backup remembers: RCT id, the checkpoint's content.
type Backup = (String, Vec<u8>);

async fn life_of_a_machine(seed: u64) {
    let mut sim = Sim::start().await;
    sim.set("job_millis", "0").await;
    sim.set("merge_millis", "0").await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let mut dice = Dice(seed);
    let mut model = vec![0; index(DISK)];
    pattern(2, 0, &mut model[..4 << 20]);
    let mut checkpoints: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut last: Option<Backup> = None;
    for step in 0..40 {
        let name = format!("c{step}");
        let picked = index(dice.roll(u64::MAX)) % checkpoints.len().max(1);
        let picked = checkpoints.keys().nth(picked).cloned();
        let what = dice.roll(10);
        match (what, picked) {
            (0..=3, _) => {
                let (offset, length) = (
                    dice.roll(DISK / 512 - 4096) * 512,
                    512 + dice.roll(4095) * 512,
                );
                sim.guest_write("a", offset, step, length).await;
                pattern(step, 0, &mut model[index(offset)..index(offset + length)]);
            }
            (4, _) => {
                sim.ctl(Command::CheckpointCreate {
                    vm: "a".into(),
                    name: Some(name.clone()),
                })
                .await;
                checkpoints.insert(name, model.clone());
            }
            (5 | 6, Some(picked)) => {
                sim.ctl(Command::CheckpointDelete {
                    vm: "a".into(),
                    checkpoint: picked.clone(),
                })
                .await;
                checkpoints.remove(&picked);
            }
            (7, Some(picked)) => {
                sim.power("a", PowerAction::Off).await;
                sim.ctl(Command::CheckpointApply {
                    vm: "a".into(),
                    checkpoint: picked.clone(),
                })
                .await;
                sim.power("a", PowerAction::On).await;
                model.clone_from(&checkpoints[&picked]);
            }
            (8, _) => {
                sim.stop().await;
                sim.serve().await;
            }
            _ => last = Some(backup(&sim, &vm.id, &model, last).await),
        }
        assert!(
            sim.guest_read("a").await == model,
            "seed {seed}, step {step}, {what}"
        );
        let kept: Vec<_> = sim
            .checkpoints("a")
            .await
            .into_iter()
            .map(|c| (c.name, c.id))
            .collect();
        assert_eq!(
            kept.len(),
            checkpoints.len(),
            "seed {seed}, step {step}, {what}"
        );
        for (name, id) in kept {
            let file = sim.disks_of(&id).await[0].1.clone();
            let held = read_chain(&sim.local(&file).await);
            assert!(
                held == checkpoints[&name],
                "seed {seed}, step {step}, {what}: {name}"
            );
        }
    }
    for name in checkpoints.into_keys() {
        sim.ctl(Command::CheckpointDelete {
            vm: "a".into(),
            checkpoint: name,
        })
        .await;
    }
    assert!(sim.guest_read("a").await == model, "seed {seed}");
    assert!(
        sim.files("*.avhdx").await.is_empty(),
        "seed {seed}: {:?}",
        sim.files("*").await
    );
    assert_eq!(sim.show("a").await.disks[0].path, r"C:\VMs\a\disk.vhdx");
}

/// A backup, incremental where the id of the last one is still good; returns what the next one needs.
async fn backup(sim: &Sim, vm: &str, model: &[u8], last: Option<Backup>) -> Backup {
    let checkpoint = sim.recovery_checkpoint(vm, 2).await;
    let file = sim.disks_of(checkpoint.text("InstanceID").unwrap()).await[0]
        .1
        .clone();
    let now = read_chain(&sim.local(&file).await);
    assert!(now == model);
    if let Some((id, mut content)) = last
        && let Some(ranges) = sim.try_changes(&file, &id).await
    {
        for (offset, length) in ranges {
            content[index(offset)..index(offset + length)]
                .copy_from_slice(&now[index(offset)..index(offset + length)]);
        }
        assert!(content == now, "the tracker left something out");
    }
    let point = sim.convert(&checkpoint).await;
    sim.settle("a").await;
    (
        point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned(),
        now,
    )
}

#[tokio::test]
async fn a_machine_that_lives_a_random_life_keeps_its_data() {
    let seeds = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(2);
    for seed in 1..=seeds {
        life_of_a_machine(seed).await;
    }
}
