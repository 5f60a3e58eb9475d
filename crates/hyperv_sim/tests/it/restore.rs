//! Flow d1: configuration files copied, imported, pointed at other disks, realised.

use hyperv_sim::ctl::{Command, PowerAction};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{Sim, V2, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";

fn planned(vm: &str) -> Epr {
    Epr::new(V2, "Msvm_PlannedComputerSystem")
        .with("CreationClassName", "Msvm_PlannedComputerSystem")
        .with("Name", vm)
}

/// Copies the configuration files of settings elsewhere on the host; returns the Windows path of the `.vmcx`.
async fn copy_config(sim: &Sim, settings: &Instance, folder: &str) -> String {
    let root = settings.text("ConfigurationDataRoot").unwrap();
    let file = settings.text("ConfigurationFile").unwrap();
    let name = file.rsplit_once('\\').unwrap().1;
    let target = sim.local(folder).await;
    std::fs::create_dir_all(&target).unwrap();
    for (from, to) in [
        (file.to_owned(), name.to_owned()),
        (
            file.replace(".vmcx", ".vmrs"),
            name.replace(".vmcx", ".vmrs"),
        ),
    ] {
        std::fs::copy(sim.local(&format!(r"{root}\{from}")).await, target.join(to)).unwrap();
    }
    format!(r"{folder}\{name}")
}

async fn import(sim: &Sim, file: &str, new_id: bool) -> Result<String, String> {
    let parameters = Properties::new()
        .with("SystemDefinitionFile", file)
        .with("SnapshotFolder", Value::Null)
        .with("GenerateNewSystemIdentifier", new_id);
    let outputs = sim
        .invoke(SYSTEMS, "ImportSystemDefinition", parameters)
        .await;
    if outputs.u32("ReturnValue") != Some(4096) {
        return Err(outputs.u32("ReturnValue").unwrap().to_string());
    }
    let job = sim.follow(&outputs).await;
    if job.u16("JobState") != Some(7) {
        return Err(job.text("ErrorDescription").unwrap().to_owned());
    }
    let made = sim
        .one(&format!(
            "ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID='{}'}} WHERE AssocClass = Msvm_AffectedJobElement \
             ResultClass = Msvm_PlannedComputerSystem",
            job.text("InstanceID").unwrap()
        ))
        .await;
    Ok(made.text("Name").unwrap().to_owned())
}

async fn point_disk(sim: &Sim, vm: &str, file: &str) -> Instance {
    let disk = sim
        .one(&format!("SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:{vm}%'"))
        .await;
    let wish = Instance::new("Msvm_StorageAllocationSettingData")
        .with("InstanceID", disk.text("InstanceID").unwrap())
        .with("HostResource", Value::texts([file]));
    let parameters = Properties::new().with(
        "ResourceSettings",
        Value::Array(vec![Value::embedded(&wish)]),
    );
    sim.run(SYSTEMS, "ModifyResourceSettings", parameters).await
}

async fn realize(sim: &Sim, vm: &str) -> Instance {
    sim.run(
        SYSTEMS,
        "RealizePlannedSystem",
        Properties::new().with("PlannedSystem", planned(vm)),
    )
    .await
}

#[tokio::test]
async fn a_destroyed_machine_comes_back_from_its_backup_with_its_id() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    let content = sim.guest_read("web01").await;
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    let file = copy_config(&sim, &checkpoint, r"C:\Restore\Virtual Machines").await;
    let backup = sim.local(r"C:\Restore\disk.vhdx").await;
    std::fs::copy(sim.local(r"C:\VMs\web01\disk.vhdx").await, &backup).unwrap();
    sim.convert(&checkpoint).await;
    sim.settle("web01").await;

    // It is still there: the id is taken, its own files are in use.
    let clash = import(&sim, &file, false).await.unwrap_err();
    assert!(clash.contains("already"), "{clash}");
    let own = sim
        .files(r"*\Virtual Machines\*.vmcx")
        .await
        .into_iter()
        .find(|file| !file.contains("Restore"))
        .unwrap();
    assert_eq!(import(&sim, &own, true).await.unwrap_err(), "32779");
    sim.ctl(Command::VmRemove { vm: "web01".into() }).await;

    let made = import(&sim, &file, false).await.unwrap();
    assert_eq!(made, vm.id);
    assert!(
        sim.query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER")
            .await
            .is_empty()
    );
    std::fs::remove_file(sim.local(r"C:\VMs\web01\disk.vhdx").await).unwrap();
    let validate = || Properties::new().with("PlannedSystem", planned(&made));
    let job = sim.run(SYSTEMS, "ValidatePlannedSystem", validate()).await;
    assert!(
        job.text("ErrorDescription")
            .unwrap()
            .contains("was not found")
    );
    let target =
        Epr::new(V2, "Msvm_ConcreteJob").with("InstanceID", job.text("InstanceID").unwrap());
    let errors = sim
        .try_invoke(&target, "GetErrorEx", Properties::new())
        .await
        .unwrap();
    assert!(
        Instance::from_cim_xml(errors.texts("Errors")[0])
            .unwrap()
            .text("Message")
            .unwrap()
            .contains("disk.vhdx")
    );
    assert_eq!(realize(&sim, &made).await.u16("JobState"), Some(10));

    assert_eq!(
        point_disk(&sim, &made, r"C:\Restore\disk.vhdx")
            .await
            .u16("JobState"),
        Some(7)
    );
    let wish = Instance::new("Msvm_VirtualSystemSettingData")
        .with("InstanceID", format!("Microsoft:{made}"))
        .with("ElementName", "web01")
        .with("ConfigurationDataRoot", r"C:\Restore");
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&wish));
    assert_eq!(
        sim.invoke(SYSTEMS, "ModifySystemSettings", parameters)
            .await
            .u32("ReturnValue"),
        Some(0)
    );
    assert_eq!(
        sim.run(SYSTEMS, "ValidatePlannedSystem", validate())
            .await
            .u16("JobState"),
        Some(7)
    );
    assert_eq!(realize(&sim, &made).await.u16("JobState"), Some(7));
    let shown = sim.power("web01", PowerAction::On).await;
    assert_eq!(
        (shown.id, shown.disks[0].path.as_str()),
        (vm.id, r"C:\Restore\disk.vhdx")
    );
    assert!(sim.guest_read("web01").await == content);
    assert!(
        sim.query("SELECT * FROM Msvm_PlannedComputerSystem")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_copy_gets_a_new_id_and_a_planned_machine_can_be_thrown_away() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 1).await;
    let vssd = sim
        .one(&format!(
            "SELECT * FROM Msvm_VirtualSystemSettingData WHERE InstanceID = 'Microsoft:{}'",
            vm.id
        ))
        .await;
    let file = copy_config(&sim, &vssd, r"C:\Copy").await;
    let made = import(&sim, &file, true).await.unwrap();
    assert_ne!(made, vm.id);
    // The original's disk is in use.
    let job = realize(&sim, &made).await;
    assert!(
        job.text("ErrorDescription").unwrap().contains("in use"),
        "{job:?}"
    );
    let parameters = Properties::new().with("AffectedSystem", planned(&made));
    assert_eq!(
        sim.run(SYSTEMS, "DestroySystem", parameters)
            .await
            .u16("JobState"),
        Some(7)
    );
    assert!(
        sim.query("SELECT * FROM Msvm_PlannedComputerSystem")
            .await
            .is_empty()
    );
    assert_eq!(sim.files("*.vhdx").await.len(), 1);
    let nonsense = sim.local(r"C:\Copy\nonsense.vmcx").await;
    std::fs::write(nonsense, b"nonsense").unwrap();
    assert!(
        import(&sim, r"C:\Copy\nonsense.vmcx", true)
            .await
            .unwrap_err()
            .contains("damaged")
    );
}

#[tokio::test]
async fn an_exported_definition_brings_its_checkpoints_back() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("before".into()),
    })
    .await;
    sim.guest_write("a", 0, 5, 4096).await;
    sim.power("a", PowerAction::Off).await;
    let content = sim.guest_read("a").await;
    let export = Instance::new("Msvm_VirtualSystemExportSettingData")
        .with("CopyVmStorage", false)
        .with("CopySnapshotConfiguration", 0_u8)
        .with("CreateVmExportSubdirectory", true);
    let parameters = Properties::new()
        .with("ComputerSystem", system(&vm.id))
        .with("ExportDirectory", r"C:\Export")
        .with("ExportSettingData", Value::embedded(&export));
    assert_eq!(
        sim.run(SYSTEMS, "ExportSystemDefinition", parameters)
            .await
            .u16("JobState"),
        Some(7)
    );
    // Renamed away first, so that destroying the machine merges nothing.
    let disks = sim.files(r"C:\VMs\*vhdx").await;
    for disk in &disks {
        let local = sim.local(disk).await;
        std::fs::rename(&local, local.with_extension("parked")).unwrap();
    }
    sim.ctl(Command::VmRemove { vm: "a".into() }).await;
    for disk in &disks {
        let local = sim.local(disk).await;
        std::fs::rename(local.with_extension("parked"), &local).unwrap();
    }
    let made = import(
        &sim,
        &format!(r"C:\Export\a\Virtual Machines\{}.vmcx", vm.id),
        false,
    )
    .await
    .unwrap();
    let missing = sim
        .query(
            "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType LIKE '%Missing'",
        )
        .await;
    assert_eq!(missing.len(), 1);
    assert!(
        realize(&sim, &made)
            .await
            .text("ErrorDescription")
            .unwrap()
            .contains("missing")
    );
    let parameters = Properties::new()
        .with("PlannedSystem", planned(&made))
        .with("SnapshotFolder", r"C:\Export\a\Snapshots");
    assert_eq!(
        sim.run(SYSTEMS, "ImportSnapshotDefinitions", parameters)
            .await
            .u16("JobState"),
        Some(7)
    );
    let job = realize(&sim, &made).await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
    assert!(sim.guest_read("a").await == content);
    assert_eq!(sim.checkpoints("a").await[0].name, "before");
    sim.ctl(Command::CheckpointDelete {
        vm: "a".into(),
        checkpoint: "before".into(),
    })
    .await;
    assert!(sim.guest_read("a").await == content);
    assert_eq!(sim.show("a").await.disks[0].path, r"C:\VMs\a\disk.vhdx");
}

#[tokio::test]
async fn a_copy_beside_its_original_has_checkpoints_of_its_own() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("one".into()),
    })
    .await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("two".into()),
    })
    .await;
    let export = Instance::new("Msvm_VirtualSystemExportSettingData").with("CopyVmStorage", false);
    let parameters = Properties::new()
        .with("ComputerSystem", system(&vm.id))
        .with("ExportDirectory", r"C:\Export")
        .with("ExportSettingData", Value::embedded(&export));
    assert_eq!(
        sim.run(SYSTEMS, "ExportSystemDefinition", parameters)
            .await
            .u16("JobState"),
        Some(7)
    );
    let file = format!(r"C:\Export\a\Virtual Machines\{}.vmcx", vm.id);
    let made = import(&sim, &file, true).await.unwrap();
    let parameters = Properties::new()
        .with("PlannedSystem", planned(&made))
        .with("SnapshotFolder", r"C:\Export\a\Snapshots");
    let job = sim
        .run(SYSTEMS, "ImportSnapshotDefinitions", parameters)
        .await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
    let originals = sim.checkpoints("a").await;
    let copies = sim.checkpoints(&made).await;
    assert_eq!(
        copies.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert!(
        copies
            .iter()
            .all(|copy| originals.iter().all(|original| original.id != copy.id))
    );
    assert_eq!(copies[1].parent.as_deref(), Some(copies[0].id.as_str()));
    assert!(copies[1].current);
    // Throwing the copy's checkpoint away leaves the original's files alone.
    let before = sim.files("*").await;
    let parameters =
        Properties::new().with("AffectedSnapshot", crate::support::settings(&copies[1].id));
    let job = sim
        .run(
            "Msvm_VirtualSystemSnapshotService",
            "DestroySnapshot",
            parameters,
        )
        .await;
    assert_eq!(job.u16("JobState"), Some(7));
    assert_eq!(sim.checkpoints(&made).await.len(), 1);
    assert_eq!(sim.files("*").await, before);
    assert_eq!(sim.checkpoints("a").await.len(), 2);
}

#[tokio::test]
async fn a_configuration_can_be_read_by_its_keys() {
    let sim = Sim::start().await;
    for generation in [1, 2] {
        let name = format!("web0{generation}");
        let vm = sim.add_vm(&name, generation).await;
        let own = format!(r"*\Virtual Machines\{}.*", vm.id);
        let files = sim.files(&own).await;
        let file = |ending| files.iter().find(|file| file.ends_with(ending)).unwrap();
        let bytes = std::fs::read(sim.local(file(".vmcx")).await).unwrap();
        let storage = vmcx::Storage::read(&bytes).unwrap();
        let number = |path| storage.get(path).and_then(vmcx::Value::as_u64);
        let text = |path| storage.get(path).and_then(vmcx::Value::as_str);
        assert_eq!(text("/configuration/properties/name"), Some(name.as_str()));
        assert_eq!(
            text("/configuration/properties/global_id"),
            Some(vm.id.as_str())
        );
        let subtype = number("/configuration/properties/subtype");
        assert_eq!(subtype, Some(u64::from(generation) - 1));
        assert!(number("/configuration/properties/version").unwrap() >= 0x0800);
        let processors = number("/configuration/settings/processors/count");
        assert_eq!(processors, Some(1));
        let memory = number("/configuration/settings/memory/bank/size");
        assert_eq!(memory, Some(1024));
        let disks: Vec<_> = storage
            .values()
            .filter(|(path, _)| path.ends_with("/drive0/pathname"))
            .map(|(_, value)| value.to_string())
            .collect();
        assert_eq!(disks, [format!(r"C:\VMs\{name}\disk.vhdx")]);
        assert!(
            storage
                .values()
                .any(|(path, _)| path.ends_with("_/MacAddress"))
        );

        let state = std::fs::read(sim.local(file(".vmrs")).await).unwrap();
        let state = vmcx::Storage::read(&state).unwrap();
        assert_eq!(
            state.get("/configuration/properties/version"),
            storage.get("/configuration/properties/version")
        );
    }
}
