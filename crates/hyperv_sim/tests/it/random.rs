//! Random sequences of what people, backups and accidents do to a machine: the disk always holds what a plain model
//! says, chains are sound, nothing of a backup is left over, and no checkpoint of a user is ever lost.
//!
//! `SIM_SEEDS` says how many lives (1), `SIM_STEPS` how long each is (24), `SIM_FIRST_SEED` where to begin (1).

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use hyperv_sim::ctl::{Command, FaultRule, PowerAction};
use hyperv_sim::pattern;
use wsman::{Epr, Header, Instance, Operation, Properties, Value};

use crate::crash::{Host, kill_during};
use crate::support::{CIMV2, DISK, Sim, V2, read_chain, settings, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";

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

/// What a backup remembers.
struct Backup {
    rct_id: String,
    content: Vec<u8>,
    reference_point: Instance,
}

/// A shadow copy and what the disk held when it was made.
struct Shadow {
    id: String,
    leaf: String,
    content: Vec<u8>,
}

/// The machine, and what it should hold.
struct Life {
    sim: Sim,
    id: String,
    dice: Dice,
    step: u64,
    model: Vec<u8>,
    checkpoints: BTreeMap<String, Vec<u8>>,
    last: Option<Backup>,
    shadows: Vec<Shadow>,
}

impl Life {
    async fn begin(seed: u64) -> Self {
        let sim = Sim::start().await;
        sim.set("job_millis", "0").await;
        sim.set("merge_millis", "0").await;
        let vm = sim.add_vm("a", 2).await;
        sim.power("a", PowerAction::On).await;
        let mut model = vec![0; index(DISK)];
        pattern(2, 0, &mut model[..4 << 20]);
        Self {
            sim,
            id: vm.id,
            dice: Dice(seed),
            step: 0,
            model,
            checkpoints: BTreeMap::new(),
            last: None,
            shadows: Vec::new(),
        }
    }

    fn pick(&mut self) -> Option<String> {
        let sides = u64::try_from(self.checkpoints.len()).unwrap();
        let picked = index(self.dice.roll(sides.max(1)));
        self.checkpoints.keys().nth(picked).cloned()
    }

    /// Does something; returns what it was.
    async fn live(&mut self) -> &'static str {
        let picked = self.pick();
        match (self.dice.roll(20), picked) {
            (0..=5, _) => {
                self.write().await;
                "write"
            }
            (6 | 7, _) => {
                self.checkpoint().await;
                "checkpoint"
            }
            (8 | 9, Some(picked)) => {
                self.delete(&picked).await;
                self.checkpoints.remove(&picked);
                "delete"
            }
            (10, Some(picked)) => {
                self.sim.power("a", PowerAction::Off).await;
                let command = Command::CheckpointApply {
                    vm: "a".into(),
                    checkpoint: picked.clone(),
                };
                self.sim.ctl(command).await;
                self.sim.power("a", PowerAction::On).await;
                self.model.clone_from(&self.checkpoints[&picked]);
                "apply"
            }
            (11, _) => {
                self.sim.stop().await;
                self.sim.serve().await;
                "restart"
            }
            (12, _) => {
                let rest = [PowerAction::Off, PowerAction::Save][index(self.dice.roll(2))];
                self.sim.power("a", rest).await;
                self.sim.power("a", PowerAction::On).await;
                "power"
            }
            (13, _) => {
                self.shadow().await;
                "shadow"
            }
            (14, _) => {
                self.export_and_import().await;
                "export"
            }
            (15, picked) => {
                self.kill(picked).await;
                "kill"
            }
            (16, _) => {
                self.accident().await;
                "accident"
            }
            _ => {
                self.backup().await;
                "backup"
            }
        }
    }

    async fn write(&mut self) {
        let offset = self.dice.roll(DISK / 512 - 4096) * 512;
        let length = 512 + self.dice.roll(4095) * 512;
        self.sim.guest_write("a", offset, self.step, length).await;
        let place = index(offset)..index(offset + length);
        pattern(self.step, 0, &mut self.model[place]);
    }

    fn create(&self) -> (String, Command) {
        let name = format!("c{}", self.step);
        let command = Command::CheckpointCreate {
            vm: "a".into(),
            name: Some(name.clone()),
        };
        (name, command)
    }

    async fn checkpoint(&mut self) {
        let (name, command) = self.create();
        self.sim.ctl(command).await;
        self.checkpoints.insert(name, self.model.clone());
    }

    async fn delete(&self, name: &str) {
        self.sim
            .ctl(Command::CheckpointDelete {
                vm: "a".into(),
                checkpoint: name.into(),
            })
            .await;
    }

    /// A backup, incremental where the id of the last one is still good; one in four is given up half-way.
    async fn backup(&mut self) {
        let sim = &self.sim;
        let checkpoint = sim.recovery_checkpoint(&self.id, 2).await;
        let id = checkpoint.text("InstanceID").unwrap();
        let file = sim.disks_of(id).await[0].1.clone();
        let now = read_chain(&sim.local(&file).await);
        assert!(now == self.model, "the frozen disk is not the guest's");
        if self.dice.roll(4) == 0 {
            let parameters = Properties::new().with("AffectedSnapshot", settings(id));
            let job = sim.run(SNAPSHOTS, "DestroySnapshot", parameters).await;
            assert_eq!(job.u16("JobState"), Some(7));
            sim.settle("a").await;
            return;
        }
        if let Some(last) = &self.last
            && let Some(ranges) = sim.try_changes(&file, &last.rct_id).await
        {
            let mut content = last.content.clone();
            for (offset, length) in ranges {
                let place = index(offset)..index(offset + length);
                content[place.clone()].copy_from_slice(&now[place]);
            }
            assert!(content == now, "the tracker left something out");
        }
        let point = sim.convert(&checkpoint).await;
        sim.settle("a").await;
        let next = Backup {
            rct_id: point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned(),
            content: now,
            reference_point: point,
        };
        if let Some(old) = self.last.replace(next) {
            self.forget(&old).await;
        }
    }

    async fn forget(&self, backup: &Backup) {
        let point = &backup.reference_point;
        let mut target = Epr::new(V2, "Msvm_VirtualSystemReferencePoint");
        for key in ["InstanceID", "VirtualSystemIdentifier"] {
            target = target.with(key, point.text(key).unwrap());
        }
        let parameters = Properties::new().with("AffectedReferencePoint", target);
        let service = "Msvm_VirtualSystemReferencePointService";
        let outputs = self
            .sim
            .invoke(service, "DestroyReferencePoint", parameters)
            .await;
        if outputs.u32("ReturnValue") == Some(4096) {
            self.sim.follow(&outputs).await;
        } else {
            assert_eq!(outputs.u32("ReturnValue"), Some(0));
        }
    }

    async fn shadow(&mut self) {
        if self.shadows.len() == 2 {
            let old = self.shadows.remove(0);
            self.end_shadow(old).await;
        }
        let sim = &self.sim;
        let parameters = Properties::new().with("Volume", r"C:\");
        let class = Epr::new(CIMV2, "Win32_ShadowCopy");
        let outputs = sim.try_invoke(&class, "Create", parameters).await.unwrap();
        assert_eq!(outputs.u32("ReturnValue"), Some(0));
        let id = outputs.text("ShadowID").unwrap().to_owned();
        let query = format!("SELECT * FROM Win32_ShadowCopy WHERE ID = '{id}'");
        let found = sim.try_query(CIMV2, &query).await.unwrap();
        let device = found[0].text("DeviceObject").unwrap();
        let leaf = sim.show("a").await.disks[0].path.clone();
        self.shadows.push(Shadow {
            leaf: format!(r"{device}\{}", &leaf[3..]),
            id,
            content: self.model.clone(),
        });
    }

    async fn end_shadow(&self, shadow: Shadow) {
        let held = read_chain(&self.sim.local(&shadow.leaf).await);
        assert!(held == shadow.content, "the shadow copy changed");
        let target = Epr::new(CIMV2, "Win32_ShadowCopy").with("ID", &shadow.id);
        let header = Header {
            resource_uri: target.resource_uri,
            selectors: target.selectors,
            ..Header::default()
        };
        self.sim.operate(header, Operation::Delete).await.unwrap();
    }

    /// The definition goes out, comes in as a planned machine, and that goes again.
    async fn export_and_import(&self) {
        let sim = &self.sim;
        let export = Instance::new("Msvm_VirtualSystemExportSettingData")
            .with("CopyVmStorage", false)
            .with("CopySnapshotConfiguration", 1_u8);
        let folder = format!(r"C:\Export{}", self.step);
        let parameters = Properties::new()
            .with("ComputerSystem", system(&self.id))
            .with("ExportDirectory", folder.as_str())
            .with("ExportSettingData", Value::embedded(&export));
        let job = sim.run(SYSTEMS, "ExportSystemDefinition", parameters).await;
        assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
        // Such an export stops merging until somebody switches it on again.
        let query = format!(
            "SELECT * FROM Msvm_DiskMergeSettingData WHERE InstanceID LIKE 'Microsoft:{}%'",
            self.id
        );
        let merging = sim.one(&query).await;
        let on = Instance::new("Msvm_DiskMergeSettingData")
            .with("InstanceID", merging.text("InstanceID").unwrap())
            .with("EnabledState", 1_u32);
        let parameters = Properties::new().with("SettingData", Value::embedded(&on));
        let outputs = sim
            .invoke(SYSTEMS, "ModifyDiskMergeSettings", parameters)
            .await;
        assert_eq!(outputs.u32("ReturnValue"), Some(0), "{outputs:?}");
        let file = format!(r"{folder}\a\Virtual Machines\{}.vmcx", self.id);
        let parameters = Properties::new()
            .with("SystemDefinitionFile", file)
            .with("GenerateNewSystemIdentifier", true);
        let made = sim
            .done(
                SYSTEMS,
                "ImportSystemDefinition",
                parameters,
                "Msvm_PlannedComputerSystem",
            )
            .await;
        let planned = Epr::new(V2, "Msvm_PlannedComputerSystem")
            .with("CreationClassName", "Msvm_PlannedComputerSystem")
            .with("Name", made[0].text("Name").unwrap());
        let parameters = Properties::new().with("AffectedSystem", planned);
        let job = sim.run(SYSTEMS, "DestroySystem", parameters).await;
        assert_eq!(job.u16("JobState"), Some(7));
    }

    /// The host is killed while it takes or deletes a checkpoint: either it was done, or it was not.
    async fn kill(&mut self, picked: Option<String>) {
        self.sim.stop().await;
        let host = Host::start(&self.sim);
        let after = Duration::from_millis(self.dice.roll(40));
        let (name, create) = self.create();
        let delete = picked.clone().filter(|_| self.dice.roll(2) == 0);
        let command = delete.clone().map_or(create, |checkpoint| {
            let vm = "a".into();
            Command::CheckpointDelete { vm, checkpoint }
        });
        kill_during(&self.sim, host, command, after).await;
        self.sim.serve().await;
        self.sim.settle("a").await;
        let kept = self.sim.checkpoints("a").await;
        let is_there = |name: &str| kept.iter().any(|checkpoint| checkpoint.name == name);
        if let Some(gone) = delete {
            if !is_there(&gone) {
                self.checkpoints.remove(&gone);
            }
        } else if is_there(&name) {
            self.checkpoints.insert(name, self.model.clone());
        }
    }

    /// Something goes wrong, and nothing has changed.
    async fn accident(&mut self) {
        let sim = &self.sim;
        match self.dice.roll(3) {
            0 => {
                sim.fault(FaultRule::JobFailed, Some("CreateSnapshot"), Some(1))
                    .await;
                let parameters = Properties::new()
                    .with("AffectedSystem", system(&self.id))
                    .with("SnapshotType", 2_u16);
                let job = sim.run(SNAPSHOTS, "CreateSnapshot", parameters).await;
                assert_eq!(job.u16("JobState"), Some(10));
            }
            1 => {
                sim.fault(FaultRule::AccessDenied, Some("CreateSnapshot"), Some(1))
                    .await;
                let service = Epr::new(V2, SNAPSHOTS).with("CreationClassName", SNAPSHOTS);
                let parameters = Properties::new()
                    .with("AffectedSystem", system(&self.id))
                    .with("SnapshotType", 32768_u16);
                let refused = sim.try_invoke(&service, "CreateSnapshot", parameters).await;
                refused.unwrap_err();
            }
            _ => {
                // A merge that is held up for a while, and the guest goes on writing meanwhile.
                sim.fault(FaultRule::MergeNeverEnds, None, Some(2)).await;
                if let Some(name) = self.checkpoints.keys().next().cloned() {
                    self.delete(&name).await;
                    self.checkpoints.remove(&name);
                }
            }
        }
        self.sim.ctl(Command::FaultClear).await;
    }

    /// Compares everything with what it should be.
    async fn check(&self, place: &str) {
        let sim = &self.sim;
        assert!(sim.guest_read("a").await == self.model, "{place}: disk");
        let kept = sim.checkpoints("a").await;
        let names: Vec<&str> = kept.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), self.checkpoints.len(), "{place}: {names:?}");
        // Of several one in turn; they take long to read.
        let turn = index(self.step) % kept.len().max(1);
        for checkpoint in kept.iter().skip(turn).take(1) {
            let file = sim.disks_of(&checkpoint.id).await[0].1.clone();
            let local = sim.local(&file).await;
            let held = read_chain(&local);
            let name = &checkpoint.name;
            assert!(held == self.checkpoints[name], "{place}: {name}");
            check_files(&local, place);
        }
        let leaf = sim.show("a").await.disks[0].path.clone();
        check_files(&sim.local(&leaf).await, place);
    }

    /// Removes what is left; afterwards the host is as it was in the beginning.
    async fn end(mut self, place: &str) {
        for name in std::mem::take(&mut self.checkpoints).into_keys() {
            self.delete(&name).await;
        }
        if let Some(last) = self.last.take() {
            self.forget(&last).await;
        }
        for shadow in std::mem::take(&mut self.shadows) {
            self.end_shadow(shadow).await;
        }
        self.check(place).await;
        let sim = &self.sim;
        for glob in ["*.avhdx", r"*\Snapshots\*.vmcx", r"\\?\*"] {
            let left = sim.files(glob).await;
            let left: Vec<_> = left
                .iter()
                .filter(|file| !file.starts_with(r"C:\Export"))
                .collect();
            assert!(left.is_empty(), "{place}: {left:?}");
        }
        let shown = sim.show("a").await;
        assert_eq!(shown.disks[0].path, r"C:\VMs\a\disk.vhdx", "{place}");
        assert!(shown.reference_points.is_empty(), "{place}: {shown:?}");
    }
}

fn check_files(leaf: &std::path::Path, place: &str) {
    let folder = leaf.parent().unwrap();
    let name = leaf.file_name().unwrap().to_str().unwrap();
    let resolver = vhdx::DirectoryResolver::new(folder);
    let report = vhdx::check_chain(File::open(leaf).unwrap(), name, &resolver).unwrap();
    let worst = report.worst();
    assert!(worst < Some(vhdx::Severity::Warning), "{place}: {report:?}");
}

fn number(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test]
async fn a_machine_that_lives_a_random_life_keeps_its_data() {
    let first = number("SIM_FIRST_SEED", 1);
    for seed in first..first + number("SIM_SEEDS", 1) {
        let mut life = Life::begin(seed).await;
        for step in 0..number("SIM_STEPS", 24) {
            life.step = step;
            println!("seed {seed}, step {step}");
            let what = life.live().await;
            life.check(&format!("seed {seed}, step {step}, {what}"))
                .await;
        }
        life.end(&format!("seed {seed}, at the end")).await;
    }
}
