//! Every row of the table of refusals, brought about over HTTP: the code, and whether it comes at once or with a job.

use std::collections::BTreeSet;

use hyperv_sim::ctl::{Command, FaultRule, PowerAction, VmInfo};
use hyperv_sim::{Refusal, When};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{DISK, MIB, Sim, V2, changes, settings, system};

const SYSTEMS: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const POINTS: &str = "Msvm_VirtualSystemReferencePointService";
const IMAGES: &str = "Msvm_ImageManagementService";
const SECURITY: &str = "Msvm_SecurityService";
const RASD: &str = "Msvm_ResourceAllocationSettingData";
const VSSD: &str = "Msvm_VirtualSystemSettingData";

/// A host, and the rows it has been seen to keep.
struct Court {
    sim: Sim,
    seen: Vec<Refusal>,
}

fn service(class: &str) -> Epr {
    Epr::new(V2, class).with("CreationClassName", class)
}

fn planned(vm: &str) -> Epr {
    Epr::new(V2, "Msvm_PlannedComputerSystem")
        .with("CreationClassName", "Msvm_PlannedComputerSystem")
        .with("Name", vm)
}

fn embedded(name: &str, instance: &Instance) -> Properties {
    Properties::new().with(name, Value::embedded(instance))
}

fn list(name: &str, instance: &Instance) -> Properties {
    Properties::new().with(name, Value::Array(vec![Value::embedded(instance)]))
}

fn references(name: &str, id: &str) -> Properties {
    let epr = Epr::new(V2, RASD).with("InstanceID", id);
    Properties::new().with(name, Value::Array(vec![epr.into()]))
}

fn state(number: u16) -> Properties {
    Properties::new()
        .with("RequestedState", number)
        .with("TimeoutPeriod", Value::Null)
}

fn path_of(class: &str, id: &str) -> String {
    format!(
        "\\\\HV01\\root\\virtualization\\v2:{class}.InstanceID=\"{}\"",
        id.replace('\\', r"\\")
    )
}

impl Court {
    async fn new() -> Self {
        let sim = Sim::start().await;
        for (key, value) in [("job_millis", "0"), ("merge_millis", "0")] {
            sim.set(key, value).await;
        }
        Self {
            sim,
            seen: Vec::new(),
        }
    }

    /// Calls a method that must be refused as the row says.
    #[track_caller]
    fn refused<'a>(
        &'a mut self,
        row: Refusal,
        target: &'a Epr,
        method: &'a str,
        parameters: Properties,
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let outputs = self.sim.try_invoke(target, method, parameters).await;
            let outputs = outputs.unwrap_or_else(|fault| panic!("{row:?} at {place}: {fault}"));
            let code = outputs.u32("ReturnValue");
            match row.when() {
                When::AtOnce => {
                    assert_eq!(code, Some(row.code()), "{row:?} at {place}: {method}");
                    assert!(outputs.epr("Job").is_none(), "{row:?} at {place}");
                }
                When::Job => {
                    assert_eq!(code, Some(4096), "{row:?} at {place}: {method}");
                    let job = self.sim.follow(&outputs).await;
                    let found = (job.u16("JobState"), job.u32("ErrorCode"));
                    assert_eq!(
                        found,
                        (Some(10), Some(row.code())),
                        "{row:?} at {place}: {job:?}"
                    );
                    let target = Epr::new(V2, "Msvm_ConcreteJob")
                        .with("InstanceID", job.text("InstanceID").unwrap());
                    let errors = self
                        .sim
                        .try_invoke(&target, "GetErrorEx", Properties::new());
                    let errors = errors.await.unwrap();
                    let error = Instance::from_cim_xml(errors.texts("Errors")[0]).unwrap();
                    assert_eq!(error.text("Message"), job.text("ErrorDescription"));
                    assert_eq!(
                        error.text("MessageID"),
                        Some(row.code().to_string().as_str())
                    );
                }
            }
            self.seen.push(row);
        }
    }

    async fn vm(&self, name: &str, generation: u8) -> VmInfo {
        self.sim.add_vm(name, generation).await
    }

    async fn checkpoint(&self, vm: &str) -> String {
        self.sim
            .ctl(Command::CheckpointCreate {
                vm: vm.into(),
                name: None,
            })
            .await;
        self.sim.checkpoints(vm).await.pop().unwrap().id
    }

    /// Returns the InstanceIDs of a VM's resources of a type, in the order of the settings.
    async fn resources(&self, vm: &VmInfo, class: &str, kind: u16) -> Vec<String> {
        let found = self
            .sim
            .query(&format!(
                "SELECT * FROM {class} WHERE InstanceID LIKE 'Microsoft:{}%' AND ResourceType = {kind}",
                vm.id
            ))
            .await;
        let id = |bag: &Instance| bag.text("InstanceID").unwrap().to_owned();
        found.iter().map(id).collect()
    }

    async fn resource(&self, vm: &VmInfo, class: &str, kind: u16) -> String {
        self.resources(vm, class, kind).await.remove(0)
    }

    fn add(vm: &VmInfo, wish: &Instance) -> Properties {
        list("ResourceSettings", wish).with(
            "AffectedConfiguration",
            settings(&format!("Microsoft:{}", vm.id)),
        )
    }

    async fn add_ok(&self, vm: &VmInfo, wish: &Instance) -> Properties {
        let outputs = self
            .sim
            .invoke(SYSTEMS, "AddResourceSettings", Self::add(vm, wish))
            .await;
        match outputs.u32("ReturnValue") {
            Some(0) => {}
            Some(4096) => {
                let job = self.sim.follow(&outputs).await;
                assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
            }
            other => panic!("{other:?} {wish:?}"),
        }
        outputs
    }

    async fn modify_ok(&self, wish: &Instance) {
        let outputs = self
            .sim
            .invoke(
                SYSTEMS,
                "ModifyResourceSettings",
                list("ResourceSettings", wish),
            )
            .await;
        assert_eq!(outputs.u32("ReturnValue"), Some(0), "{wish:?}");
    }

    async fn quantity(&self, vm: &VmInfo, class: &str, kind: u16, number: u64) {
        let id = self.resource(vm, class, kind).await;
        let wish = Instance::new(class)
            .with("InstanceID", id)
            .with("VirtualQuantity", number);
        self.modify_ok(&wish).await;
    }

    /// Connects a VM's network adapter to a switch that is not there, or to the one it has.
    async fn unplug(&self, vm: &VmInfo) -> Instance {
        let class = "Msvm_EthernetPortAllocationSettingData";
        let id = self.resource(vm, class, 33).await;
        let old = self
            .sim
            .one(&format!(
                "SELECT * FROM {class} WHERE InstanceID = '{}'",
                id.replace('\\', r"\\")
            ))
            .await;
        let switch = "\\\\HV01\\root\\virtualization\\v2:Msvm_VirtualEthernetSwitch.CreationClassName=\
                      \"Msvm_VirtualEthernetSwitch\",Name=\"00000000-0000-0000-0000-000000000001\"";
        let wish = Instance::new(class)
            .with("InstanceID", id.as_str())
            .with("HostResource", Value::texts([switch]));
        self.modify_ok(&wish).await;
        Instance::new(class)
            .with("InstanceID", id)
            .with("HostResource", Value::texts(old.texts("HostResource")))
    }

    async fn park(&self, path: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let local = self.sim.local(path).await;
        let parked = local.with_extension("parked");
        std::fs::rename(&local, &parked).unwrap();
        (parked, local)
    }
}

fn unpark((parked, local): (std::path::PathBuf, std::path::PathBuf)) {
    std::fs::rename(parked, local).unwrap();
}

async fn power(court: &mut Court) {
    let vm = court.vm("power", 2).await;
    let target = system(&vm.id);
    let change = "RequestStateChange";
    court
        .refused(Refusal::WrongPower, &target, change, state(3))
        .await;
    court
        .refused(Refusal::UnknownPower, &target, change, state(77))
        .await;

    court
        .quantity(&vm, "Msvm_MemorySettingData", 4, 1 << 20)
        .await;
    court
        .refused(Refusal::StartMemory, &target, change, state(2))
        .await;
    court.quantity(&vm, "Msvm_MemorySettingData", 4, 1024).await;
    court
        .quantity(&vm, "Msvm_ProcessorSettingData", 3, 64)
        .await;
    court
        .refused(Refusal::StartProcessors, &target, change, state(2))
        .await;
    court.quantity(&vm, "Msvm_ProcessorSettingData", 3, 2).await;
    let plugged = court.unplug(&vm).await;
    court
        .refused(Refusal::StartMissingSwitch, &target, change, state(2))
        .await;
    court.modify_ok(&plugged).await;
    let parked = court.park(r"C:\VMs\power\disk.vhdx").await;
    court
        .refused(Refusal::StartMissingFile, &target, change, state(2))
        .await;
    unpark(parked);
    let checkpoint = court.checkpoint("power").await;
    let parked = court.park(r"C:\VMs\power\disk.vhdx").await;
    court
        .refused(Refusal::StartMissingParent, &target, change, state(2))
        .await;
    unpark(parked);
    court.sim.power("power", PowerAction::On).await;

    let destroy = || Properties::new().with("AffectedSystem", system(&vm.id));
    court
        .refused(
            Refusal::DestroyRunning,
            &service(SYSTEMS),
            "DestroySystem",
            destroy(),
        )
        .await;
    let nobody = system("00000000-0000-0000-0000-000000000002");
    let nobody = Properties::new().with("AffectedSystem", nobody);
    court
        .refused(
            Refusal::NoSuchSystem,
            &service(SYSTEMS),
            "DestroySystem",
            nobody,
        )
        .await;
    let apply = Properties::new().with("Snapshot", settings(&checkpoint));
    court
        .refused(
            Refusal::ApplyRunning,
            &service(SNAPSHOTS),
            "ApplySnapshot",
            apply,
        )
        .await;

    // While a job has the VM, and when it has ended.
    court.sim.set("job_millis", "1500").await;
    let started = court
        .sim
        .try_invoke(&target, change, state(9))
        .await
        .unwrap();
    let create = || {
        Properties::new()
            .with("AffectedSystem", system(&vm.id))
            .with("SnapshotSettings", "")
            .with("SnapshotType", 32768_u16)
    };
    court
        .refused(
            Refusal::BusyWithJob,
            &service(SNAPSHOTS),
            "CreateSnapshot",
            create(),
        )
        .await;
    let job = Epr::new(V2, "Msvm_ConcreteJob").with(
        "InstanceID",
        started.epr("Job").unwrap().get("InstanceID").unwrap(),
    );
    court
        .refused(Refusal::CancelNotPossible, &job, change, state(4))
        .await;
    court
        .refused(Refusal::CancelUnknown, &job, change, state(7))
        .await;
    court.sim.set("job_millis", "0").await;
    assert_eq!(court.sim.follow(&started).await.u16("JobState"), Some(7));
    court.sim.power("power", PowerAction::Off).await;
}

async fn checkpoints(court: &mut Court) {
    let vm = court.vm("points", 2).await;
    court.sim.power("points", PowerAction::On).await;
    let snapshots = service(SNAPSHOTS);
    let create = |kind: u16| {
        Properties::new()
            .with("AffectedSystem", system(&vm.id))
            .with("SnapshotSettings", "")
            .with("SnapshotType", kind)
    };
    court
        .refused(
            Refusal::SnapshotType,
            &snapshots,
            "CreateSnapshot",
            create(7),
        )
        .await;
    let recovery = court.sim.recovery_checkpoint(&vm.id, 2).await;
    let recovery = recovery.text("InstanceID").unwrap().to_owned();
    let user = court.checkpoint("points").await;
    let one = |name: &str, id: &str| Properties::new().with(name, settings(id));
    let convert = one("AffectedSnapshot", &user);
    court
        .refused(
            Refusal::ConvertUser,
            &snapshots,
            "ConvertToReferencePoint",
            convert,
        )
        .await;
    let clear = one("SnapshotSettingData", &user);
    court
        .refused(
            Refusal::ClearNothing,
            &snapshots,
            "ClearSnapshotState",
            clear,
        )
        .await;
    let nothing = one(
        "AffectedSnapshot",
        "Microsoft:00000000-0000-0000-0000-000000000003",
    );
    court
        .refused(
            Refusal::NoSuchCheckpoint,
            &snapshots,
            "DestroySnapshot",
            nothing,
        )
        .await;
    let add = Instance::new(RASD).with("ResourceType", 6_u16);
    let add = list("ResourceSettings", &add).with("AffectedConfiguration", settings(&user));
    court
        .refused(
            Refusal::CheckpointFixed,
            &service(SYSTEMS),
            "AddResourceSettings",
            add,
        )
        .await;
    let point = Properties::new().with("AffectedSystem", system(&vm.id));
    court
        .refused(
            Refusal::CreateReferencePoint,
            &service(POINTS),
            "CreateReferencePoint",
            point,
        )
        .await;

    court.sim.power("points", PowerAction::Off).await;
    let apply = one("Snapshot", &recovery);
    court
        .refused(Refusal::ApplyRecovery, &snapshots, "ApplySnapshot", apply)
        .await;
    court.sim.fault(FaultRule::MergeNeverEnds, None, None).await;
    court
        .sim
        .run(
            SNAPSHOTS,
            "DestroySnapshot",
            one("AffectedSnapshot", &recovery),
        )
        .await;
    court
        .refused(
            Refusal::BusyMerging,
            &snapshots,
            "CreateSnapshot",
            create(2),
        )
        .await;
    court.sim.ctl(Command::FaultClear).await;
    court.sim.settle("points").await;

    court
        .sim
        .fault(FaultRule::DiskFull, Some("CreateSnapshot"), Some(1))
        .await;
    court
        .refused(
            Refusal::SnapshotNoRoom,
            &snapshots,
            "CreateSnapshot",
            create(2),
        )
        .await;
    let change = |name: &str, value: Value| {
        let mut wish = Instance::new(VSSD).with("InstanceID", format!("Microsoft:{}", vm.id));
        wish.set(name, value);
        embedded("SystemSettings", &wish)
    };
    let disabled = change("UserSnapshotType", 2_u16.into());
    let changed = court
        .sim
        .invoke(SYSTEMS, "ModifySystemSettings", disabled)
        .await;
    assert_eq!(changed.u32("ReturnValue"), Some(0));
    court
        .refused(
            Refusal::SnapshotsDisabled,
            &snapshots,
            "CreateSnapshot",
            create(2),
        )
        .await;

    let shared = court.vm("shared", 2).await;
    let disk = court
        .resource(&shared, "Msvm_StorageAllocationSettingData", 31)
        .await;
    let wish = Instance::new("Msvm_StorageAllocationSettingData")
        .with("InstanceID", disk)
        .with("PersistentReservationsSupported", true);
    court
        .sim
        .run(
            SYSTEMS,
            "ModifyResourceSettings",
            list("ResourceSettings", &wish),
        )
        .await;
    let create = Properties::new()
        .with("AffectedSystem", system(&shared.id))
        .with("SnapshotSettings", "")
        .with("SnapshotType", 32768_u16);
    court
        .refused(Refusal::SnapshotUnfit, &snapshots, "CreateSnapshot", create)
        .await;
}

async fn systems(court: &mut Court) {
    let vm = court.vm("old", 1).await;
    let id = format!("Microsoft:{}", vm.id);
    let systems = service(SYSTEMS);
    let modify = "ModifySystemSettings";
    let change = |name: &str, value: Value| {
        let mut wish = Instance::new(VSSD).with("InstanceID", id.as_str());
        wish.set(name, value);
        embedded("SystemSettings", &wish)
    };
    let wrong = embedded("SystemSettings", &Instance::new("Msvm_MemorySettingData"));
    court
        .refused(Refusal::WrongClass, &systems, "DefineSystem", wrong)
        .await;
    court
        .refused(
            Refusal::UnknownProperty,
            &systems,
            modify,
            change("NoSuchThing", "x".into()),
        )
        .await;
    let text = change("AutomaticStartupAction", "tomorrow".into());
    court
        .refused(Refusal::WrongValue, &systems, modify, text)
        .await;
    let moved = change("ConfigurationDataRoot", r"C:\Elsewhere".into());
    court
        .refused(Refusal::MoveConfiguration, &systems, modify, moved)
        .await;
    let order = |order: [u16; 4]| change("BootOrder", Value::Array(order.map(Value::U16).to_vec()));
    court
        .refused(Refusal::BadBootOrder, &systems, modify, order([1, 1, 2, 3]))
        .await;
    court.sim.power("old", PowerAction::On).await;
    court
        .refused(
            Refusal::BootOrderRunning,
            &systems,
            modify,
            order([3, 2, 1, 0]),
        )
        .await;
    let upgrade = || Properties::new().with("ComputerSystem", system(&vm.id));
    court
        .refused(
            Refusal::UpgradeRunning,
            &systems,
            "UpgradeSystemVersion",
            upgrade(),
        )
        .await;
    court.sim.power("old", PowerAction::Off).await;
    court
        .refused(
            Refusal::UpgradeNothing,
            &systems,
            "UpgradeSystemVersion",
            upgrade(),
        )
        .await;

    let protect = |tpm: bool, id: &str| {
        let wish = Instance::new("Msvm_SecuritySettingData")
            .with("InstanceID", format!(r"{id}\Security"))
            .with("TpmEnabled", tpm);
        embedded("SecuritySettingData", &wish)
    };
    let security = service(SECURITY);
    court
        .refused(
            Refusal::SecurityGeneration,
            &security,
            "ModifySecuritySettings",
            protect(true, &id),
        )
        .await;
    let new = court.vm("new", 2).await;
    let id = format!("Microsoft:{}", new.id);
    court
        .refused(
            Refusal::TpmWithoutKey,
            &security,
            "ModifySecuritySettings",
            protect(true, &id),
        )
        .await;
    court.sim.power("new", PowerAction::On).await;
    court
        .refused(
            Refusal::SecurityRunning,
            &security,
            "ModifySecuritySettings",
            protect(false, &id),
        )
        .await;
    let quantity = Instance::new("Msvm_ProcessorSettingData")
        .with(
            "InstanceID",
            court.resource(&new, "Msvm_ProcessorSettingData", 3).await,
        )
        .with("VirtualQuantity", 4_u64);
    let quantity = list("ResourceSettings", &quantity);
    court
        .refused(
            Refusal::HotProcessor,
            &systems,
            "ModifyResourceSettings",
            quantity,
        )
        .await;
    court.sim.power("new", PowerAction::Off).await;

    let source = court
        .sim
        .query(&format!(
            "SELECT * FROM Msvm_BootSourceSettingData WHERE InstanceID LIKE '{id}%'"
        ))
        .await;
    let source = references("BootSourceSettings", source[0].text("InstanceID").unwrap());
    court
        .refused(
            Refusal::BootSourceFixed,
            &systems,
            "RemoveBootSourceSettings",
            source,
        )
        .await;
    let connection = court
        .resource(&new, "Msvm_EthernetPortAllocationSettingData", 33)
        .await;
    let vlan = |number: u16| {
        let wish = Instance::new("Msvm_EthernetSwitchPortVlanSettingData")
            .with("AccessVlanId", number)
            .with("OperationMode", 1_u32);
        let affected = Epr::new(V2, "Msvm_EthernetPortAllocationSettingData")
            .with("InstanceID", connection.as_str());
        list("FeatureSettings", &wish).with("AffectedConfiguration", affected)
    };
    court
        .refused(Refusal::BadVlan, &systems, "AddFeatureSettings", vlan(4095))
        .await;
    let added = court
        .sim
        .invoke(SYSTEMS, "AddFeatureSettings", vlan(7))
        .await;
    assert_eq!(added.u32("ReturnValue"), Some(0));
    court
        .refused(
            Refusal::FeatureThere,
            &systems,
            "AddFeatureSettings",
            vlan(8),
        )
        .await;
}

async fn resources(court: &mut Court) {
    let vm = court.vm("gen1", 1).await;
    let systems = service(SYSTEMS);
    let add = "AddResourceSettings";
    let drive = |controller: &str, slot: Option<&str>| {
        let mut wish = Instance::new(RASD)
            .with("ResourceType", 17_u16)
            .with("Parent", path_of(RASD, controller));
        if let Some(slot) = slot {
            wish.set("AddressOnParent", slot);
        }
        wish
    };
    let file = |drive: &str, path: &str| {
        Instance::new("Msvm_StorageAllocationSettingData")
            .with("ResourceType", 31_u16)
            .with("Parent", path_of(RASD, drive))
            .with("HostResource", Value::texts([path]))
    };
    let ide = court.resources(&vm, RASD, 5).await;
    let wish = drive("Microsoft:nothing", None);
    court
        .refused(Refusal::NoParent, &systems, add, Court::add(&vm, &wish))
        .await;
    let wish = drive(&ide[0], Some("2"));
    court
        .refused(Refusal::NoSuchSlot, &systems, add, Court::add(&vm, &wish))
        .await;
    let wish = drive(&ide[0], Some("0"));
    court
        .refused(Refusal::SlotTaken, &systems, add, Court::add(&vm, &wish))
        .await;
    court.add_ok(&vm, &drive(&ide[0], None)).await;
    let wish = drive(&ide[0], None);
    court
        .refused(
            Refusal::ControllerFull,
            &systems,
            add,
            Court::add(&vm, &wish),
        )
        .await;
    let controller = Instance::new(RASD).with("ResourceType", 6_u16);
    for _ in 0..4 {
        court.add_ok(&vm, &controller).await;
    }
    court
        .refused(
            Refusal::TooManyControllers,
            &systems,
            add,
            Court::add(&vm, &controller),
        )
        .await;
    let nic = Instance::new("Msvm_SyntheticEthernetPortSettingData").with("ResourceType", 10_u16);
    for _ in 0..7 {
        court.add_ok(&vm, &nic).await;
    }
    court
        .refused(
            Refusal::TooManyAdapters,
            &systems,
            add,
            Court::add(&vm, &nic),
        )
        .await;

    // Files.
    let drives = court.resources(&vm, RASD, 17).await;
    let wish = file(&drives[0], r"C:\VMs\gen1\disk.vhdx");
    court
        .refused(Refusal::DriveFilled, &systems, add, Court::add(&vm, &wish))
        .await;
    let wish = file(&drives[1], r"C:\VMs\nothing.vhdx");
    court
        .refused(
            Refusal::AddMissingFile,
            &systems,
            add,
            Court::add(&vm, &wish),
        )
        .await;
    let wish = file(&drives[1], r"C:\VMs\gen1\disk.vhdx");
    court
        .refused(Refusal::AddFileTwice, &systems, add, Court::add(&vm, &wish))
        .await;
    let other = court.vm("other", 2).await;
    let wish = file(&drives[1], r"C:\VMs\other\disk.vhdx");
    court
        .refused(Refusal::AddFileInUse, &systems, add, Court::add(&vm, &wish))
        .await;
    let child = Instance::new("Msvm_VirtualHardDiskSettingData")
        .with("Path", r"C:\VMs\child.vhdx")
        .with("ParentPath", r"C:\VMs\parent.vhdx")
        .with("Type", 4_u16);
    let parent = court.sim.disk_file("parent", 9);
    std::fs::copy(parent, court.sim.local(r"C:\VMs\parent.vhdx").await).unwrap();
    let made = court
        .sim
        .run(
            IMAGES,
            "CreateVirtualHardDisk",
            embedded("VirtualDiskSettingData", &child),
        )
        .await;
    assert_eq!(made.u16("JobState"), Some(7), "{made:?}");
    let parked = court.park(r"C:\VMs\parent.vhdx").await;
    let wish = file(&drives[1], r"C:\VMs\child.vhdx");
    court
        .refused(
            Refusal::AddMissingParent,
            &systems,
            add,
            Court::add(&vm, &wish),
        )
        .await;
    unpark(parked);

    // Removing.
    let remove = "RemoveResourceSettings";
    let ids = |id: &str| references("ResourceSettings", id);
    court
        .refused(Refusal::RemoveFixed, &systems, remove, ids(&ide[0]))
        .await;
    court
        .refused(Refusal::RemoveHolding, &systems, remove, ids(&drives[0]))
        .await;
    let nothing = Instance::new("Msvm_MemorySettingData")
        .with(
            "InstanceID",
            "Microsoft:00000000-0000-0000-0000-000000000004\\x",
        )
        .with("VirtualQuantity", 1_u64);
    let nothing = list("ResourceSettings", &nothing);
    court
        .refused(
            Refusal::NoSuchResource,
            &systems,
            "ModifyResourceSettings",
            nothing,
        )
        .await;

    // Hot.
    court.sim.power("gen1", PowerAction::On).await;
    let wish = drive(&ide[1], None);
    court
        .refused(Refusal::HotIde, &systems, add, Court::add(&vm, &wish))
        .await;
    let controllers = court.resources(&vm, RASD, 6).await;
    court
        .refused(
            Refusal::HotController,
            &systems,
            remove,
            ids(&controllers[0]),
        )
        .await;
    let nics = court
        .resources(&vm, "Msvm_SyntheticEthernetPortSettingData", 10)
        .await;
    court.sim.power("gen1", PowerAction::Off).await;
    let gone = court.sim.invoke(SYSTEMS, remove, ids(&nics[7])).await;
    assert_eq!(gone.u32("ReturnValue"), Some(0));
    court.sim.power("gen1", PowerAction::On).await;
    court
        .refused(Refusal::HotAdapter, &systems, add, Court::add(&vm, &nic))
        .await;
    court.sim.power("gen1", PowerAction::Off).await;
    assert_eq!(court.sim.show("other").await.id, other.id);
}

fn import(file: &str, new_id: bool) -> Properties {
    Properties::new()
        .with("SystemDefinitionFile", file)
        .with("SnapshotFolder", Value::Null)
        .with("GenerateNewSystemIdentifier", new_id)
}

fn export(vm: &str, folder: &str, settings: &Instance) -> Properties {
    embedded("ExportSettingData", settings)
        .with("ComputerSystem", system(vm))
        .with("ExportDirectory", folder)
}

async fn exports(court: &mut Court) {
    let vm = court.vm("source", 2).await;
    court.checkpoint("source").await;
    let systems = service(SYSTEMS);
    let config =
        || Instance::new("Msvm_VirtualSystemExportSettingData").with("CopyVmStorage", false);
    let nothing = config().with("CopySnapshotConfiguration", 3_u8);
    let nothing = export(&vm.id, r"C:\Export", &nothing);
    court
        .refused(
            Refusal::ExportNoCheckpoint,
            &systems,
            "ExportSystemDefinition",
            nothing,
        )
        .await;
    let plain = || export(&vm.id, r"C:\Export", &config());
    let job = court
        .sim
        .run(SYSTEMS, "ExportSystemDefinition", plain())
        .await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
    court
        .refused(
            Refusal::ExportThere,
            &systems,
            "ExportSystemDefinition",
            plain(),
        )
        .await;

    let own = court.sim.files(r"*\Virtual Machines\*.vmcx").await;
    let own = own
        .into_iter()
        .find(|file| file.contains(&vm.id) && !file.contains("Export"));
    let method = "ImportSystemDefinition";
    court
        .refused(
            Refusal::ImportInUse,
            &systems,
            method,
            import(&own.unwrap(), true),
        )
        .await;
    court
        .refused(
            Refusal::ImportMissing,
            &systems,
            method,
            import(r"C:\none.vmcx", true),
        )
        .await;
    std::fs::write(court.sim.local(r"C:\bad.vmcx").await, b"nonsense").unwrap();
    court
        .refused(
            Refusal::ImportUnreadable,
            &systems,
            method,
            import(r"C:\bad.vmcx", true),
        )
        .await;
    let file = format!(r"C:\Export\source\Virtual Machines\{}.vmcx", vm.id);
    court
        .refused(Refusal::ImportClash, &systems, method, import(&file, false))
        .await;
    let real = Properties::new().with("PlannedSystem", system(&vm.id));
    court
        .refused(Refusal::NotPlanned, &systems, "RealizePlannedSystem", real)
        .await;

    let made = court
        .sim
        .done(
            SYSTEMS,
            method,
            import(&file, true),
            "Msvm_PlannedComputerSystem",
        )
        .await
        .remove(0);
    let made = VmInfo {
        id: made.text("Name").unwrap().to_owned(),
        ..court.sim.show("source").await
    };
    let it = || Properties::new().with("PlannedSystem", planned(&made.id));
    let validate = "ValidatePlannedSystem";
    let create = Properties::new()
        .with("AffectedSystem", planned(&made.id))
        .with("SnapshotSettings", "")
        .with("SnapshotType", 2_u16);
    court
        .refused(
            Refusal::SnapshotPlanned,
            &service(SNAPSHOTS),
            "CreateSnapshot",
            create,
        )
        .await;
    court
        .refused(
            Refusal::RealizeCheckpoint,
            &systems,
            "RealizePlannedSystem",
            it(),
        )
        .await;
    let missing = court
        .sim
        .one(&format!(
            "SELECT * FROM {VSSD} WHERE VirtualSystemType LIKE '%Missing' AND VirtualSystemIdentifier = '{}'",
            made.id
        ))
        .await;
    let missing = Properties::new().with(
        "AffectedSnapshot",
        settings(missing.text("InstanceID").unwrap()),
    );
    assert_eq!(
        court
            .sim
            .run(SNAPSHOTS, "DestroySnapshot", missing)
            .await
            .u16("JobState"),
        Some(7)
    );
    court
        .refused(
            Refusal::RealizeInUse,
            &systems,
            "RealizePlannedSystem",
            it(),
        )
        .await;
    let disk = court
        .resource(&made, "Msvm_StorageAllocationSettingData", 31)
        .await;
    let point = |path: &str| {
        let wish = Instance::new("Msvm_StorageAllocationSettingData")
            .with("InstanceID", disk.as_str())
            .with("HostResource", Value::texts([path]));
        list("ResourceSettings", &wish)
    };
    court
        .sim
        .run(SYSTEMS, "ModifyResourceSettings", point(r"C:\gone.vhdx"))
        .await;
    court
        .refused(Refusal::RealizeFile, &systems, validate, it())
        .await;
    let copy = court.sim.disk_file("copy", 3);
    std::fs::copy(copy, court.sim.local(r"C:\copy.vhdx").await).unwrap();
    court
        .sim
        .run(SYSTEMS, "ModifyResourceSettings", point(r"C:\copy.vhdx"))
        .await;
    let plugged = court.unplug(&made).await;
    court
        .refused(Refusal::RealizeSwitch, &systems, validate, it())
        .await;
    court.modify_ok(&plugged).await;
    court
        .quantity(&made, "Msvm_MemorySettingData", 4, 1 << 20)
        .await;
    court
        .refused(Refusal::RealizeMemory, &systems, validate, it())
        .await;
    court
        .quantity(&made, "Msvm_MemorySettingData", 4, 512)
        .await;
    court
        .quantity(&made, "Msvm_ProcessorSettingData", 3, 9)
        .await;
    court
        .refused(Refusal::RealizeProcessors, &systems, validate, it())
        .await;
    court
        .quantity(&made, "Msvm_ProcessorSettingData", 3, 1)
        .await;
    let job = court.sim.run(SYSTEMS, "RealizePlannedSystem", it()).await;
    assert_eq!(job.u16("JobState"), Some(7), "{job:?}");
}

async fn images(court: &mut Court) {
    let vm = court.vm("image", 2).await;
    let images = service(IMAGES);
    let path = |path: &str| Properties::new().with("Path", path);
    let look = "GetVirtualHardDiskSettingData";
    court
        .refused(Refusal::ImageMissing, &images, look, path(r"C:\none.vhdx"))
        .await;
    court
        .refused(
            Refusal::ImageBadPath,
            &images,
            look,
            path(r"C:\..\none.vhdx"),
        )
        .await;
    let find = Properties::new()
        .with("SelectionCriterion", r"C:\VMs\image\disk.vhdx")
        .with("CriterionType", 0_u16);
    court
        .refused(
            Refusal::NotMounted,
            &images,
            "FindMountedStorageImageInstance",
            find,
        )
        .await;
    let create = |path: &str, format: u16| {
        let wish = Instance::new("Msvm_VirtualHardDiskSettingData")
            .with("Path", path)
            .with("Type", 3_u16)
            .with("Format", format)
            .with("MaxInternalSize", 8 * MIB);
        embedded("VirtualDiskSettingData", &wish)
    };
    let method = "CreateVirtualHardDisk";
    court
        .refused(
            Refusal::CreateFormat,
            &images,
            method,
            create(r"C:\new.vhd", 2),
        )
        .await;
    let there = create(r"C:\VMs\image\disk.vhdx", 3);
    court
        .refused(Refusal::CreateThere, &images, method, there)
        .await;
    let resize = path(r"C:\VMs\image\disk.vhdx").with("MaxInternalSize", MIB);
    court
        .refused(
            Refusal::ResizeTooSmall,
            &images,
            "ResizeVirtualHardDisk",
            resize,
        )
        .await;

    // A chain that belongs to nobody, and one that a VM has.
    let base = court.sim.disk_file("base", 5);
    for name in ["base", "stranger"] {
        let local = court.sim.local(&format!(r"C:\chain\{name}.vhdx")).await;
        std::fs::create_dir_all(local.parent().unwrap()).unwrap();
        std::fs::copy(&base, &local).unwrap();
    }
    let stranger = court
        .sim
        .run(IMAGES, method, create(r"C:\chain\other.vhdx", 3))
        .await;
    assert_eq!(stranger.u16("JobState"), Some(7));
    let child = Instance::new("Msvm_VirtualHardDiskSettingData")
        .with("Path", r"C:\chain\child.avhdx")
        .with("ParentPath", r"C:\chain\base.vhdx")
        .with("Type", 4_u16);
    let made = court
        .sim
        .run(IMAGES, method, embedded("VirtualDiskSettingData", &child))
        .await;
    assert_eq!(made.u16("JobState"), Some(7), "{made:?}");
    let merge = |from: &str, to: &str| {
        Properties::new()
            .with("SourcePath", from)
            .with("DestinationPath", to)
    };
    let method = "MergeVirtualHardDisk";
    let other = merge(r"C:\chain\child.avhdx", r"C:\chain\other.vhdx");
    court
        .refused(Refusal::MergeStranger, &images, method, other)
        .await;
    let parent = Properties::new()
        .with("ChildPath", r"C:\chain\child.avhdx")
        .with("ParentPath", r"C:\chain\other.vhdx")
        .with("IgnoreIDMismatch", false);
    court
        .refused(
            Refusal::ParentStranger,
            &images,
            "SetParentVirtualHardDisk",
            parent,
        )
        .await;
    let local = court.sim.local(r"C:\chain\child.avhdx").await;
    let held = std::fs::File::open(local).unwrap();
    held.lock_shared().unwrap();
    let own = || merge(r"C:\chain\child.avhdx", r"C:\chain\base.vhdx");
    court
        .refused(Refusal::ImageHeld, &images, method, own())
        .await;
    drop(held);
    court.checkpoint("image").await;
    let leaf = court.sim.show("image").await.disks[0].path.clone();
    let attached = merge(&leaf, r"C:\VMs\image\disk.vhdx");
    court
        .refused(Refusal::ImageAttached, &images, method, attached)
        .await;

    let window = changes(&leaf, "rctX:1", DISK - 512, 1024);
    court
        .refused(
            Refusal::ChangesBeyond,
            &images,
            "GetVirtualDiskChanges",
            window,
        )
        .await;
    court
        .sim
        .fault(FaultRule::RctIdUnknown, None, Some(1))
        .await;
    let unknown = changes(&leaf, "rctX:1", 0, 512);
    court
        .refused(
            Refusal::ChangesUnknown,
            &images,
            "GetVirtualDiskChanges",
            unknown,
        )
        .await;
    assert_eq!(court.sim.show("image").await.id, vm.id);
}

#[tokio::test]
async fn every_row_of_the_table_is_kept() {
    let mut court = Court::new().await;
    power(&mut court).await;
    checkpoints(&mut court).await;
    systems(&mut court).await;
    resources(&mut court).await;
    exports(&mut court).await;
    images(&mut court).await;
    let name = |row: &Refusal| format!("{row:?}");
    let seen: BTreeSet<String> = court.seen.iter().map(name).collect();
    let all: BTreeSet<String> = Refusal::ALL.iter().map(name).collect();
    let left: Vec<_> = all.difference(&seen).collect();
    assert!(left.is_empty(), "not brought about: {left:?}");
}
