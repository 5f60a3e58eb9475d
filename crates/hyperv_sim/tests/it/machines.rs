//! Machines defined, changed, switched and destroyed; user checkpoints.

use hyperv_sim::ctl::{Command, DiskSelector, GuestContent, PowerAction, Reply};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{DISK, MIB, Sim, V2, read_chain, settings, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const IMAGES: &str = "Msvm_ImageManagementService";

fn rasd(resource_type: u16, sub: &str) -> Instance {
    Instance::new("Msvm_ResourceAllocationSettingData")
        .with("ResourceType", resource_type)
        .with("ResourceSubType", format!("Microsoft:Hyper-V:{sub}"))
}

fn path(epr: &Epr) -> String {
    format!(
        r#"\\hv01\ROOT\virtualization\v2:{}.InstanceID="{}""#,
        epr.class(),
        epr.get("InstanceID").unwrap().replace('\\', r"\\")
    )
}

async fn define(sim: &Sim, name: &str) -> String {
    let wish = Instance::new("Msvm_VirtualSystemSettingData")
        .with("ElementName", name)
        .with("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2");
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&wish));
    let made = sim
        .done(SYSTEMS, "DefineSystem", parameters, "Msvm_ComputerSystem")
        .await;
    made[0].text("Name").unwrap().to_owned()
}

async fn add(sim: &Sim, vm: &str, wish: &Instance) -> Epr {
    let parameters = Properties::new()
        .with(
            "AffectedConfiguration",
            settings(&format!("Microsoft:{vm}")),
        )
        .with(
            "ResourceSettings",
            Value::Array(vec![Value::embedded(wish)]),
        );
    let outputs = sim.invoke(SYSTEMS, "AddResourceSettings", parameters).await;
    match outputs.u32("ReturnValue") {
        Some(0) => outputs.items("ResultingResourceSettings")[0]
            .as_epr()
            .unwrap()
            .clone(),
        Some(4096) => {
            let job = sim.follow(&outputs).await;
            assert_eq!(
                job.u16("JobState"),
                Some(7),
                "{:?}",
                job.text("ErrorDescription")
            );
            let found = sim
                .query(&format!(
                    "ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID='{}'}} WHERE AssocClass = Msvm_AffectedJobElement",
                    job.text("InstanceID").unwrap()
                ))
                .await;
            Epr::new(V2, &found[0].class).with("InstanceID", found[0].text("InstanceID").unwrap())
        }
        other => panic!("{other:?}"),
    }
}

async fn create_disk(sim: &Sim, file: &str) {
    let wish = Instance::new("Msvm_VirtualHardDiskSettingData")
        .with("Path", file)
        .with("Type", 3_u16)
        .with("Format", 3_u16)
        .with("MaxInternalSize", DISK);
    let parameters = Properties::new().with("VirtualDiskSettingData", Value::embedded(&wish));
    let job = sim.run(IMAGES, "CreateVirtualHardDisk", parameters).await;
    assert_eq!(
        job.u16("JobState"),
        Some(7),
        "{:?}",
        job.text("ErrorDescription")
    );
}

#[tokio::test]
async fn a_machine_is_defined_piece_by_piece_and_runs() {
    let sim = Sim::start().await;
    let vm = define(&sim, "new one").await;
    let folder = sim.local(r"C:\VMs\new one").await;
    std::fs::create_dir_all(&folder).unwrap();
    let file = r"C:\VMs\new one\disk.vhdx";
    create_disk(&sim, file).await;
    let data = sim
        .invoke(
            IMAGES,
            "GetVirtualHardDiskSettingData",
            Properties::new().with("Path", file),
        )
        .await
        .instance("SettingData")
        .unwrap();
    assert_eq!(data.u64("MaxInternalSize"), Some(DISK));
    assert_eq!(data.u16("Type"), Some(3));

    let controller = add(&sim, &vm, &rasd(6, "Synthetic SCSI Controller")).await;
    let drive = rasd(17, "Synthetic Disk Drive")
        .with("Parent", path(&controller))
        .with("AddressOnParent", "5");
    let drive = add(&sim, &vm, &drive).await;
    // libvirt asks for the file with the class of a plain resource.
    let disk = rasd(31, "Virtual Hard Disk")
        .with("Parent", path(&drive))
        .with("HostResource", Value::texts([file]));
    let disk_epr = add(&sim, &vm, &disk).await;
    assert_eq!(disk_epr.class(), "Msvm_StorageAllocationSettingData");
    let shown = sim.show("new one").await;
    assert_eq!(
        (shown.disks[0].path.as_str(), shown.disks[0].slot.as_str()),
        (file, "scsi 0:5")
    );

    // The slot is taken, the drive is full, the file is missing or in use elsewhere.
    let again = rasd(17, "Synthetic Disk Drive")
        .with("Parent", path(&controller))
        .with("AddressOnParent", "5");
    let refused = |wish: &Instance| {
        Properties::new()
            .with(
                "AffectedConfiguration",
                settings(&format!("Microsoft:{vm}")),
            )
            .with(
                "ResourceSettings",
                Value::Array(vec![Value::embedded(wish)]),
            )
    };
    for wish in [&again, &disk] {
        let outputs = sim
            .invoke(SYSTEMS, "AddResourceSettings", refused(wish))
            .await;
        assert_eq!(outputs.u32("ReturnValue"), Some(32773), "{wish:?}");
    }
    sim.add_vm("other", 2).await;
    let second = rasd(17, "Synthetic Disk Drive").with("Parent", path(&controller));
    let second = add(&sim, &vm, &second).await;
    for (file, why) in [
        (r"C:\VMs\nothing.vhdx", "not found"),
        (r"C:\VMs\other\disk.vhdx", "in use"),
    ] {
        let wish = rasd(31, "Virtual Hard Disk")
            .with("Parent", path(&second))
            .with("HostResource", Value::texts([file]));
        let job = sim
            .run(SYSTEMS, "AddResourceSettings", refused(&wish))
            .await;
        assert_eq!(job.u16("JobState"), Some(10));
        assert!(
            job.text("ErrorDescription").unwrap().contains(why),
            "{job:?}"
        );
    }

    sim.power("new one", PowerAction::On).await;
    sim.guest_write("new one", MIB, 1, MIB).await;
    // A running machine takes and gives back disks on SCSI.
    create_disk(&sim, r"C:\VMs\new one\second.vhdx").await;
    let hot = rasd(31, "Virtual Hard Disk")
        .with("Parent", path(&second))
        .with(
            "HostResource",
            Value::texts([r"C:\VMs\new one\second.vhdx"]),
        );
    let hot = add(&sim, &vm, &hot).await;
    let content = GuestContent::Pattern {
        seed: 5,
        length: 4096,
    };
    let write = Command::GuestWrite {
        vm: vm.clone(),
        disk: DiskSelector::Index(1),
        offset: 0,
        content,
    };
    sim.ctl(write.clone()).await;
    let remove = Properties::new().with("ResourceSettings", Value::Array(vec![Value::Epr(hot)]));
    assert_eq!(
        sim.invoke(SYSTEMS, "RemoveResourceSettings", remove)
            .await
            .u32("ReturnValue"),
        Some(0)
    );
    assert!(sim.try_ctl(write).await.is_err());
    // But not the drive with the first disk in it.
    let remove = Properties::new().with("ResourceSettings", Value::Array(vec![Value::Epr(drive)]));
    assert_eq!(
        sim.invoke(SYSTEMS, "RemoveResourceSettings", remove)
            .await
            .u32("ReturnValue"),
        Some(32775)
    );
}

#[tokio::test]
async fn machines_are_switched_and_refuse_what_makes_no_sense() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let state = async |wanted: u16| {
        let parameters = Properties::new().with("RequestedState", wanted);
        let outputs = sim
            .try_invoke(&system(&vm.id), "RequestStateChange", parameters)
            .await
            .unwrap();
        if outputs.contains("Job") && !outputs.get("Job").is_null() {
            assert_eq!(sim.follow(&outputs).await.u16("JobState"), Some(7));
        }
        outputs.u32("ReturnValue").unwrap()
    };
    for (wanted, code, shown) in [
        (3, 32775, "off"),
        (6, 32775, "off"),
        (2, 4096, "running"),
        (2, 32775, "running"),
        (9, 4096, "paused"),
        (2, 4096, "running"),
        (6, 4096, "saved"),
        (2, 4096, "running"),
        (99, 32773, "running"),
        (3, 4096, "off"),
    ] {
        assert_eq!(state(wanted).await, code, "to {wanted}");
        assert_eq!(sim.show("a").await.state, shown);
    }
    assert!(
        sim.query("SELECT * FROM Msvm_ShutdownComponent")
            .await
            .is_empty()
    );
    sim.power("a", PowerAction::On).await;
    let shutdown = Epr::new(V2, "Msvm_ShutdownComponent").with("SystemName", &vm.id);
    let parameters = Properties::new().with("Force", true).with("Reason", "test");
    let outputs = sim
        .try_invoke(&shutdown, "InitiateShutdown", parameters)
        .await
        .unwrap();
    assert_eq!(outputs.u32("ReturnValue"), Some(0));
    while sim.show("a").await.state != "off" {}

    sim.power("a", PowerAction::On).await;
    let destroy = || Properties::new().with("AffectedSystem", system(&vm.id));
    assert_eq!(
        sim.invoke(SYSTEMS, "DestroySystem", destroy())
            .await
            .u32("ReturnValue"),
        Some(32775)
    );
    sim.power("a", PowerAction::Off).await;
    assert_eq!(sim.files("*.vmcx").await.len(), 1);
    assert_eq!(
        sim.run(SYSTEMS, "DestroySystem", destroy())
            .await
            .u16("JobState"),
        Some(7)
    );
    assert!(
        sim.query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER")
            .await
            .is_empty()
    );
    // Its configuration is gone, its disks are not.
    assert!(sim.files("*.vmcx").await.is_empty());
    assert_eq!(sim.files("*.vhdx").await, [r"C:\VMs\a\disk.vhdx"]);
}

#[tokio::test]
async fn user_checkpoints_keep_and_give_back_what_the_disk_held() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let mut states = Vec::new();
    for (at, name) in ["one", "two", "three"].into_iter().enumerate() {
        sim.guest_write("a", u64::try_from(at).unwrap() * 5 * MIB, 7, 3 * MIB)
            .await;
        states.push(sim.guest_read("a").await);
        let Reply::Checkpoint(made) = sim
            .ctl(Command::CheckpointCreate {
                vm: "a".into(),
                name: Some(name.into()),
            })
            .await
        else {
            panic!()
        };
        assert!(made.current);
    }
    sim.guest_write("a", 40 * MIB, 8, MIB).await;
    assert_eq!(sim.show("a").await.disks[0].parents.len(), 3);
    assert_eq!(sim.query("ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='NAME'} WHERE AssocClass = Msvm_MostCurrentSnapshotInBranch".replace("NAME", &vm.id).as_str()).await[0].text("ElementName"), Some("three"));

    // The one in the middle goes; its successor's file goes down into its own.
    let now = sim.guest_read("a").await;
    sim.ctl(Command::CheckpointDelete {
        vm: "a".into(),
        checkpoint: "two".into(),
    })
    .await;
    assert!(sim.guest_read("a").await == now);
    let checkpoints = sim.checkpoints("a").await;
    assert_eq!(
        checkpoints
            .iter()
            .map(|c| c.name.as_str())
            .collect::<Vec<_>>(),
        ["one", "three"]
    );
    assert_eq!(
        checkpoints[1].parent.as_deref(),
        Some(checkpoints[0].id.as_str())
    );
    assert_eq!(sim.show("a").await.disks[0].parents.len(), 2);
    let three = sim.disks_of(&checkpoints[1].id).await[0].1.clone();
    assert!(read_chain(&sim.local(&three).await) == states[2]);

    sim.power("a", PowerAction::Off).await;
    sim.ctl(Command::CheckpointApply {
        vm: "a".into(),
        checkpoint: "one".into(),
    })
    .await;
    assert!(sim.guest_read("a").await == states[0]);
    sim.power("a", PowerAction::On).await;
    sim.guest_write("a", 50 * MIB, 9, MIB).await;
    let here = sim.guest_read("a").await;
    sim.ctl(Command::CheckpointDelete {
        vm: "a".into(),
        checkpoint: "three".into(),
    })
    .await;
    assert!(sim.guest_read("a").await == here);
    sim.ctl(Command::CheckpointDelete {
        vm: "a".into(),
        checkpoint: "one".into(),
    })
    .await;
    assert!(sim.guest_read("a").await == here);
    assert!(
        sim.files("*.avhdx").await.is_empty(),
        "{:?}",
        sim.files("*.avhdx").await
    );
    let shown = sim.show("a").await;
    assert_eq!(
        (shown.disks[0].path.as_str(), shown.disks[0].parents.len()),
        (r"C:\VMs\a\disk.vhdx", 0)
    );
}

#[tokio::test]
async fn settings_change_and_what_is_the_hosts_own_does_not() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let id = format!("Microsoft:{}", vm.id);
    let wish = Instance::new("Msvm_VirtualSystemSettingData")
        .with("InstanceID", id.to_lowercase())
        .with("ElementName", "renamed & 'quoted' <ü>")
        .with("VirtualSystemIdentifier", "stolen")
        .with("AutomaticStartupAction", 4_u16)
        .with("Notes", Value::texts(["one", "two"]));
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&wish));
    assert_eq!(
        sim.invoke(SYSTEMS, "ModifySystemSettings", parameters)
            .await
            .u32("ReturnValue"),
        Some(0)
    );
    let vssd = sim
        .one(&format!(
            "SELECT * FROM Msvm_VirtualSystemSettingData WHERE InstanceID = '{id}'"
        ))
        .await;
    assert_eq!(vssd.text("ElementName"), Some("renamed & 'quoted' <ü>"));
    assert_eq!(vssd.text("VirtualSystemIdentifier"), Some(vm.id.as_str()));
    assert_eq!(vssd.texts("Notes"), ["one", "two"]);
    let wrong = Instance::new("Msvm_VirtualSystemSettingData")
        .with("InstanceID", id)
        .with("NoSuchThing", "x");
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&wrong));
    assert_eq!(
        sim.invoke(SYSTEMS, "ModifySystemSettings", parameters)
            .await
            .u32("ReturnValue"),
        Some(32773)
    );

    let memory = sim
        .one(&format!(
            "SELECT * FROM Msvm_MemorySettingData WHERE InstanceID LIKE 'Microsoft:{}%'",
            vm.id
        ))
        .await;
    let wish = Instance::new("Msvm_MemorySettingData")
        .with("InstanceID", memory.text("InstanceID").unwrap())
        .with("VirtualQuantity", 4096_u64);
    let parameters = Properties::new().with(
        "ResourceSettings",
        Value::Array(vec![Value::embedded(&wish)]),
    );
    assert_eq!(
        sim.invoke(SYSTEMS, "ModifyResourceSettings", parameters)
            .await
            .u32("ReturnValue"),
        Some(0)
    );
    let memory = sim
        .one(&format!(
            "SELECT * FROM Msvm_MemorySettingData WHERE InstanceID LIKE 'Microsoft:{}%'",
            vm.id
        ))
        .await;
    assert_eq!(
        (memory.u64("VirtualQuantity"), memory.u64("Weight")),
        (Some(4096), Some(5000))
    );
}
