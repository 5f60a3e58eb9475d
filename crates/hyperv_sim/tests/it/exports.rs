//! Exports with disks, brought back beside their original; and what an export without them does to merging.

use hyperv_sim::ctl::{Command, PowerAction};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{MIB, Sim, V2, settings, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";

fn planned(vm: &str) -> Epr {
    Epr::new(V2, "Msvm_PlannedComputerSystem")
        .with("CreationClassName", "Msvm_PlannedComputerSystem")
        .with("Name", vm)
}

#[track_caller]
fn is_done(job: &Instance) {
    assert_eq!(
        job.u16("JobState"),
        Some(7),
        "{:?}",
        job.text("ErrorDescription")
    );
}

async fn export(sim: &Sim, vm: &str, folder: &str, settings: Instance) {
    let parameters = Properties::new()
        .with("ComputerSystem", system(vm))
        .with("ExportDirectory", folder)
        .with("ExportSettingData", Value::embedded(&settings));
    is_done(&sim.run(SYSTEMS, "ExportSystemDefinition", parameters).await);
}

fn wish(which: u8) -> Instance {
    Instance::new("Msvm_VirtualSystemExportSettingData")
        .with("CopySnapshotConfiguration", which)
        .with("CopyVmStorage", true)
        .with("CopyVmRuntimeInformation", false)
        .with("CreateVmExportSubdirectory", false)
}

/// Imports the VM below a folder under a new id and realises it; returns the id.
async fn bring_back(sim: &Sim, vm: &str, folder: &str, checkpoints: bool) -> String {
    let file = format!(r"{folder}\Virtual Machines\{vm}.vmcx");
    let snapshots = if checkpoints {
        Value::text(format!(r"{folder}\Snapshots"))
    } else {
        Value::Null
    };
    let parameters = Properties::new()
        .with("SystemDefinitionFile", file)
        .with("SnapshotFolder", snapshots)
        .with("GenerateNewSystemIdentifier", true);
    let made = sim
        .done(
            SYSTEMS,
            "ImportSystemDefinition",
            parameters,
            "Msvm_PlannedComputerSystem",
        )
        .await
        .remove(0);
    let id = made.text("Name").unwrap().to_owned();
    let parameters = Properties::new().with("PlannedSystem", planned(&id));
    is_done(&sim.run(SYSTEMS, "RealizePlannedSystem", parameters).await);
    id
}

async fn host_with_checkpoint(sim: &Sim) -> String {
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("before".into()),
    })
    .await;
    sim.guest_write("a", 12 * MIB, 5, 2 * MIB).await;
    vm.id
}

#[tokio::test]
async fn a_running_machine_is_exported_whole_with_its_checkpoints() {
    let sim = Sim::start().await;
    let vm = host_with_checkpoint(&sim).await;
    let content = sim.guest_read("a").await;
    export(&sim, &vm, r"C:\Export", wish(0)).await;
    assert_eq!(sim.show("a").await.state, "running");
    assert_eq!(
        sim.files(r"C:\Export\Virtual Hard Disks\*vhdx").await.len(),
        2
    );
    assert!(sim.files(r"C:\Export\*.vmrs").await.is_empty());
    let copy = bring_back(&sim, &vm, r"C:\Export", true).await;
    assert!(sim.guest_read(&copy).await == content);
    let shown = sim.show(&copy).await;
    assert!(shown.disks[0].path.starts_with(r"C:\Export\"), "{shown:?}");
    assert!(
        shown.disks[0].parents[0].starts_with(r"C:\Export\"),
        "{shown:?}"
    );
    // It is another VM with files of its own: what becomes of the original is not its business.
    sim.guest_write(&vm, 0, 77, MIB).await;
    assert!(sim.guest_read(&copy).await == content);
    let checkpoint = sim.checkpoints(&copy).await.remove(0);
    assert_eq!(checkpoint.name, "before");
    sim.ctl(Command::CheckpointDelete {
        vm: copy.clone(),
        checkpoint: checkpoint.id,
    })
    .await;
    assert!(sim.guest_read(&copy).await == content);
}

#[tokio::test]
async fn without_checkpoints_each_disk_becomes_one_file() {
    let sim = Sim::start().await;
    let vm = host_with_checkpoint(&sim).await;
    let content = sim.guest_read("a").await;
    export(&sim, &vm, r"C:\Flat", wish(1)).await;
    assert_eq!(
        sim.files(r"C:\Flat\*vhdx").await,
        [r"C:\Flat\Virtual Hard Disks\disk.vhdx"]
    );
    let copy = bring_back(&sim, &vm, r"C:\Flat", false).await;
    assert!(sim.guest_read(&copy).await == content);
    assert_eq!(sim.show(&copy).await.checkpoints, 0);

    // For a backup, a checkpoint takes the VM's place: its disks as they were then.
    let checkpoint = sim.recovery_checkpoint(&vm, 2).await;
    sim.guest_write(&vm, 30 * MIB, 6, MIB).await;
    let id = checkpoint.text("InstanceID").unwrap();
    let path = format!(
        "\\\\HV01\\root\\virtualization\\v2:Msvm_VirtualSystemSettingData.InstanceID=\"{id}\""
    );
    let backup = wish(3)
        .with("SnapshotVirtualSystem", path)
        .with("BackupIntent", 0_u8);
    export(&sim, &vm, r"C:\Backup", backup).await;
    let copy = bring_back(&sim, &vm, r"C:\Backup", false).await;
    assert!(sim.guest_read(&copy).await == content);
    assert!(sim.guest_read(&vm).await != content);
}

#[tokio::test]
async fn an_export_without_disks_switches_merging_off_until_it_is_switched_on() {
    let sim = Sim::start().await;
    let vm = host_with_checkpoint(&sim).await;
    let switch = async || {
        let query = format!(
            "SELECT * FROM Msvm_DiskMergeSettingData WHERE InstanceID LIKE 'Microsoft:{vm}%'"
        );
        sim.one(&query).await
    };
    assert_eq!(switch().await.u32("EnabledState"), Some(1));
    export(
        &sim,
        &vm,
        r"C:\Export",
        wish(1).with("CopyVmStorage", false),
    )
    .await;
    let off = switch().await;
    assert_eq!(off.u32("EnabledState"), Some(0));
    let checkpoint = sim.checkpoints("a").await.remove(0).id;
    let parameters = Properties::new().with("AffectedSnapshot", settings(&checkpoint));
    is_done(&sim.run(SNAPSHOTS, "DestroySnapshot", parameters).await);
    assert!(sim.show("a").await.busy.is_empty());
    assert_eq!(sim.files(r"C:\VMs\*.avhdx").await.len(), 1);
    let on = Instance::new("Msvm_DiskMergeSettingData")
        .with("InstanceID", off.text("InstanceID").unwrap())
        .with("EnabledState", 1_u32);
    let parameters = Properties::new().with("SettingData", Value::embedded(&on));
    let outputs = sim
        .invoke(SYSTEMS, "ModifyDiskMergeSettings", parameters)
        .await;
    assert_eq!(outputs.u32("ReturnValue"), Some(0));
    sim.settle("a").await;
    assert!(sim.files(r"C:\VMs\*.avhdx").await.is_empty());

    // Not every host does that: it can be had the other way.
    sim.set("export_locks_chain", "false").await;
    export(&sim, &vm, r"C:\Again", wish(1).with("CopyVmStorage", false)).await;
    assert_eq!(switch().await.u32("EnabledState"), Some(1));
}

#[tokio::test]
async fn an_export_ended_while_it_copies_leaves_nothing_behind() {
    let sim = Sim::start().await;
    let vm = host_with_checkpoint(&sim).await;
    sim.set("merge_bytes_per_second", "4MiB").await;
    for which in [0, 1] {
        let parameters = Properties::new()
            .with("ComputerSystem", system(&vm))
            .with("ExportDirectory", r"C:\Export")
            .with("ExportSettingData", Value::embedded(&wish(which)));
        let outputs = sim
            .invoke(SYSTEMS, "ExportSystemDefinition", parameters)
            .await;
        let job = outputs.epr("Job").unwrap().clone();
        while sim.files(r"C:\Export\*vhdx").await.is_empty() {}
        let end = Properties::new()
            .with("RequestedState", 4_u16)
            .with("TimeoutPeriod", Value::Null);
        let ended = sim
            .try_invoke(&job, "RequestStateChange", end)
            .await
            .unwrap();
        assert_eq!(ended.u32("ReturnValue"), Some(0));
        assert_eq!(sim.follow(&outputs).await.u16("JobState"), Some(8));
        assert!(sim.files(r"C:\Export\*").await.is_empty());
    }
    assert_eq!(sim.show("a").await.state, "running");
}
