//! Settings beyond disks: VLANs, boot sources, virtual TPMs, versions, and what is told in one answer.

use hyperv_sim::ctl::{Command, PowerAction, VmAdd};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{Sim, V2, settings, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const SECURITY: &str = "Msvm_SecurityService";
const VLAN: &str = "Msvm_EthernetSwitchPortVlanSettingData";
const VSSD: &str = "Msvm_VirtualSystemSettingData";

fn list(name: &str, instance: &Instance) -> Properties {
    Properties::new().with(name, Value::Array(vec![Value::embedded(instance)]))
}

fn references(name: &str, class: &str, id: &str) -> Properties {
    let epr = Epr::new(V2, class).with("InstanceID", id);
    Properties::new().with(name, Value::Array(vec![epr.into()]))
}

async fn ok(sim: &Sim, service: &str, method: &str, parameters: Properties) -> Properties {
    let outputs = sim.invoke(service, method, parameters).await;
    assert_eq!(outputs.u32("ReturnValue"), Some(0), "{method}");
    outputs
}

#[tokio::test]
async fn a_connection_gets_a_vlan_changes_it_and_loses_it() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let of_vm = |class: &str| {
        format!(
            "SELECT * FROM {class} WHERE InstanceID LIKE 'Microsoft:{}%'",
            vm.id
        )
    };
    let class = "Msvm_EthernetPortAllocationSettingData";
    let connection = sim
        .one(&of_vm(class))
        .await
        .text("InstanceID")
        .unwrap()
        .to_owned();
    let affected = Epr::new(V2, class).with("InstanceID", connection.as_str());
    let wish = Instance::new(VLAN)
        .with("AccessVlanId", 17_u16)
        .with("OperationMode", 1_u32);
    let parameters = list("FeatureSettings", &wish).with("AffectedConfiguration", affected);
    let outputs = ok(&sim, SYSTEMS, "AddFeatureSettings", parameters).await;
    let made = outputs.items("ResultingFeatureSettings")[0]
        .as_epr()
        .unwrap();
    let id = made.get("InstanceID").unwrap().to_owned();
    assert!(id.starts_with(&connection));
    let wish = Instance::new(VLAN)
        .with("InstanceID", id.as_str())
        .with("AccessVlanId", 18_u16);
    ok(
        &sim,
        SYSTEMS,
        "ModifyFeatureSettings",
        list("FeatureSettings", &wish),
    )
    .await;
    let vlan = sim.one(&of_vm(VLAN)).await;
    assert_eq!(
        (vlan.u16("AccessVlanId"), vlan.u32("OperationMode")),
        (Some(18), Some(1))
    );
    ok(
        &sim,
        SYSTEMS,
        "RemoveFeatureSettings",
        references("FeatureSettings", VLAN, &id),
    )
    .await;
    assert!(sim.query(&of_vm(VLAN)).await.is_empty());
}

#[tokio::test]
async fn the_boot_order_is_the_same_sources_in_another_order() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let id = format!("Microsoft:{}", vm.id);
    let vssd = format!("SELECT * FROM {VSSD} WHERE InstanceID = '{id}'");
    let order = async || {
        let vssd = sim.one(&vssd).await;
        let order = vssd.texts("BootSourceOrder");
        order.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let wish = Instance::new("Msvm_BootSourceSettingData")
        .with("BootSourceType", 3_u32)
        .with("FirmwareDevicePath", r"\EFI\Boot\bootx64.efi");
    let parameters = list("BootSourceSettings", &wish).with("AffectedConfiguration", settings(&id));
    let outputs = ok(&sim, SYSTEMS, "AddBootSourceSettings", parameters).await;
    let made = outputs.items("ResultingBootSourceSettings")[0]
        .as_epr()
        .unwrap();
    let added = made.get("InstanceID").unwrap().to_owned();
    let before = order().await;
    assert_eq!(before.len(), 3, "disk, network and the file: {before:?}");
    let modify = async |order: Vec<String>| {
        let wish = Instance::new(VSSD)
            .with("InstanceID", id.as_str())
            .with("BootSourceOrder", Value::texts(order));
        let parameters = Properties::new().with("SystemSettings", Value::embedded(&wish));
        sim.invoke(SYSTEMS, "ModifySystemSettings", parameters)
            .await
            .u32("ReturnValue")
    };
    let mut turned = before.clone();
    turned.reverse();
    assert_eq!(modify(turned.clone()).await, Some(0));
    assert_eq!(order().await, turned);
    assert_eq!(modify(turned[1..].to_vec()).await, Some(32773));
    let gone = references("BootSourceSettings", "Msvm_BootSourceSettingData", &added);
    ok(&sim, SYSTEMS, "RemoveBootSourceSettings", gone).await;
    assert_eq!(order().await.len(), 2);
}

#[tokio::test]
async fn a_virtual_tpm_needs_a_key_protector() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let id = format!(r"Microsoft:{}\Security", vm.id);
    let security = |tpm: bool| {
        let wish = Instance::new("Msvm_SecuritySettingData")
            .with("InstanceID", id.as_str())
            .with("TpmEnabled", tpm);
        Properties::new().with("SecuritySettingData", Value::embedded(&wish))
    };
    let key: Vec<Value> = [1_u8, 0, 255].map(Value::U8).to_vec();
    let set = security(false).with("KeyProtector", Value::Array(key));
    ok(&sim, SECURITY, "SetKeyProtector", set).await;
    let got = ok(&sim, SECURITY, "GetKeyProtector", security(false)).await;
    assert_eq!(got.u64s("KeyProtector"), Some(vec![1, 0, 255]));
    for tpm in [true, false] {
        ok(&sim, SECURITY, "ModifySecuritySettings", security(tpm)).await;
        let query = format!(
            "SELECT * FROM Msvm_SecuritySettingData WHERE InstanceID LIKE 'Microsoft:{}%'",
            vm.id
        );
        assert_eq!(sim.one(&query).await.bool("TpmEnabled"), Some(tpm));
    }
}

#[tokio::test]
async fn an_old_machine_is_upgraded_and_what_it_is_can_be_read_from_its_file() {
    let sim = Sim::start().await;
    let add = VmAdd {
        name: "old".into(),
        generation: 1,
        version: Some("5.0".into()),
        disks: Vec::new(),
        nics: Vec::new(),
    };
    sim.ctl(Command::VmAdd(add)).await;
    let vm = sim.show("old").await;
    let id = format!("Microsoft:{}", vm.id);
    let about = async || {
        let one = Value::Array(vec![settings(&id).into()]);
        let asked = Properties::new().with("SettingData", one);
        let outputs = ok(&sim, SYSTEMS, "GetSummaryInformation", asked).await;
        outputs.items("SummaryInformation")[0]
            .to_instance()
            .unwrap()
    };
    assert_eq!(about().await.text("Version"), Some("5.0"));
    let upgrade = Properties::new().with("ComputerSystem", system(&vm.id));
    let job = sim.run(SYSTEMS, "UpgradeSystemVersion", upgrade).await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
    assert_eq!(about().await.text("Version"), Some("10.0"));
    let size = Properties::new().with("Vssd", settings(&id));
    assert!(
        ok(&sim, SYSTEMS, "GetSizeOfSystemFiles", size)
            .await
            .u64("Size")
            > Some(1000)
    );
    let file = sim
        .files(&format!(r"*\Virtual Machines\{}.vmcx", vm.id))
        .await
        .remove(0);
    let files = Properties::new().with("DefinitionFiles", Value::texts([file]));
    let outputs = ok(&sim, SYSTEMS, "GetDefinitionFileSummaryInformation", files).await;
    let found = outputs.items("SummaryInformation")[0]
        .to_instance()
        .unwrap();
    assert_eq!(
        (found.text("ElementName"), found.text("Name")),
        (Some("old"), Some(vm.id.as_str()))
    );
}

#[tokio::test]
async fn a_standard_checkpoint_holds_the_memory_until_it_is_cleared() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let wish = Instance::new(VSSD)
        .with("InstanceID", format!("Microsoft:{}", vm.id))
        .with("UserSnapshotType", 5_u16);
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&wish));
    ok(&sim, SYSTEMS, "ModifySystemSettings", parameters).await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: None,
    })
    .await;
    let id = sim.checkpoints("a").await.remove(0).id;
    for state in ["saved", "off"] {
        sim.power("a", PowerAction::Off).await;
        let apply = Properties::new().with("Snapshot", settings(&id));
        assert_eq!(
            sim.run(SNAPSHOTS, "ApplySnapshot", apply)
                .await
                .u16("JobState"),
            Some(7)
        );
        sim.settle("a").await;
        assert_eq!(sim.show("a").await.state, state);
        if state == "saved" {
            let clear = Properties::new().with("SnapshotSettingData", settings(&id));
            let job = sim.run(SNAPSHOTS, "ClearSnapshotState", clear).await;
            assert_eq!(
                (job.u16("JobState"), job.u16("JobType")),
                (Some(7), Some(73))
            );
        }
    }
}
