//! What a client sees without changing anything.

use hyperv_sim::ctl::PowerAction;
use wsman::{
    Enumerate, EnumerationMode, Filter, Header, Item, Operation, Pull, Reply, Selectors, Subcode,
    uri,
};

use crate::support::{CIMV2, Sim, V2};

#[tokio::test]
async fn an_inventory_finds_host_machines_and_disks() {
    let sim = Sim::start().await;
    let one = sim.add_vm("web 'A' 01", 2).await;
    sim.add_vm("old", 1).await;
    sim.power("old", PowerAction::On).await;

    let systems = sim.query("SELECT * FROM Msvm_ComputerSystem").await;
    assert_eq!(systems.len(), 3);
    let vms = sim
        .query("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER")
        .await;
    assert_eq!(vms.len(), 2);
    let running = sim
        .one("SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'OLD' AND EnabledState = 2")
        .await;
    assert_eq!(running.u64s("OperationalStatus").unwrap(), [2]);
    // Every scalar is there, NULL or not; arrays that are NULL are not.
    assert!(running.contains("InstallDate") && running.contains("OtherEnabledState"));
    assert!(!running.contains("Roles"));
    let quoted = sim
        .one(r"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'web \'A\' 01'")
        .await;
    assert_eq!(quoted.text("Name"), Some(one.id.as_str()));

    let vssd = sim
        .one(&format!(
            "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier = '{}'",
            one.id.to_lowercase()
        ))
        .await;
    assert_eq!(
        vssd.text("VirtualSystemSubType"),
        Some("Microsoft:Hyper-V:SubType:2")
    );
    assert_eq!(vssd.texts("BootSourceOrder").len(), 2);
    let disks = sim.disks_of(vssd.text("InstanceID").unwrap()).await;
    assert_eq!(disks[0].1, r"C:\VMs\web 'A' 01\disk.vhdx");

    // Base classes give what derives from them, each under its own name.
    let all = sim
        .query(
            "SELECT * FROM CIM_ResourceAllocationSettingData WHERE InstanceID LIKE 'Microsoft:%'",
        )
        .await;
    let mut classes: Vec<&str> = all.iter().map(|object| object.class.as_str()).collect();
    classes.sort_unstable();
    classes.dedup();
    assert!(
        classes.contains(&"Msvm_StorageAllocationSettingData")
            && classes.contains(&"Msvm_MemorySettingData")
    );
    let templates = sim.query(r"SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE '%\\Default' AND ResourceSubType = 'Microsoft:Hyper-V:Virtual Hard Disk'").await;
    assert_eq!(templates.len(), 1);

    let volume = sim
        .try_query(CIMV2, "SELECT Capacity, FreeSpace FROM Win32_Volume")
        .await
        .unwrap();
    assert!(volume[0].u64("FreeSpace") < volume[0].u64("Capacity"));
    assert!(volume[0].get("Name").is_null() && volume[0].contains("Name"));
    for class in [
        "Win32_OperatingSystem",
        "Win32_ComputerSystem",
        "Win32_ComputerSystemProduct",
        "Win32_Service",
    ] {
        assert_eq!(
            sim.try_query(CIMV2, &format!("SELECT * FROM {class}"))
                .await
                .unwrap()
                .len(),
            1,
            "{class}"
        );
    }
    let settings = sim
        .one("SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData")
        .await;
    assert!(settings.text("DefaultVirtualHardDiskPath").is_some());
    assert_eq!(
        sim.query("SELECT * FROM Msvm_VirtualEthernetSwitch WHERE HealthState = 5")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn null_arrays_can_be_had_as_nil_elements() {
    let sim = Sim::start().await;
    sim.set("nil_arrays", "true").await;
    assert!(sim.query("SELECT * FROM Msvm_ComputerSystem").await[0].contains("Roles"));
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_told_by_the_fault() {
    let sim = Sim::start().await;
    for (namespace, query, subcode) in [
        (
            V2,
            "SELECT * FROM Msvm_Nothing",
            Subcode::DestinationUnreachable,
        ),
        (
            "root/MSCluster",
            "SELECT * FROM MSCluster_Cluster",
            Subcode::DestinationUnreachable,
        ),
        (V2, "SELECT FROM", Subcode::CannotProcessFilter),
        (
            V2,
            "SELECT * FROM Msvm_ComputerSystem WHERE Colour = 1",
            Subcode::CannotProcessFilter,
        ),
        (
            V2,
            "ASSOCIATORS OF {Msvm_ComputerSystem.Name='nobody'}",
            Subcode::InternalError,
        ),
    ] {
        assert_eq!(
            sim.try_query(namespace, query).await.unwrap_err().subcode,
            subcode,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_plain_enumeration_gives_one_item_at_a_time_and_a_new_context_each_time() {
    let sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    sim.add_vm("b", 2).await;
    let header = || Header {
        resource_uri: uri::class_uri(V2, "Msvm_ComputerSystem"),
        ..Header::default()
    };
    let reply = sim
        .operate(header(), Operation::Enumerate(Enumerate::default()))
        .await
        .unwrap();
    let Reply::Enumerate { batch, .. } = reply else {
        panic!("{reply:?}")
    };
    assert!(batch.items.is_empty());
    let pull = |context: &str| {
        Operation::Pull(Pull {
            context: context.into(),
            ..Pull::default()
        })
    };
    let mut context = batch.context.unwrap();
    let mut seen = 0;
    loop {
        // The resource URI of a Pull does not matter.
        let header = Header {
            resource_uri: uri::class_uri(V2, "Msvm_ImageManagementService"),
            ..Header::default()
        };
        let reply = sim.operate(header, pull(&context)).await.unwrap();
        let Reply::Pull(batch) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(batch.items.len(), 1);
        seen += 1;
        let fault = sim
            .operate(header_of_pull(), pull(&context))
            .await
            .unwrap_err();
        assert_eq!(fault.subcode, Subcode::InvalidEnumerationContext);
        match batch.context {
            Some(next) => context = next,
            None => break,
        }
    }
    assert_eq!(seen, 3);

    let reply = sim
        .operate(header(), Operation::Enumerate(Enumerate::default()))
        .await
        .unwrap();
    let Reply::Enumerate { batch, .. } = reply else {
        panic!("{reply:?}")
    };
    let context = batch.context.unwrap();
    sim.operate(
        header(),
        Operation::Release {
            context: context.clone(),
        },
    )
    .await
    .unwrap();
    assert!(sim.operate(header(), pull(&context)).await.is_err());
}

fn header_of_pull() -> Header {
    Header {
        resource_uri: uri::query_uri(V2),
        ..Header::default()
    }
}

#[tokio::test]
async fn references_can_be_enumerated_and_used() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let filter = Filter {
        dialect: uri::DIALECT_WQL.into(),
        text: format!("SELECT * FROM Msvm_ComputerSystem WHERE Name = '{}'", vm.id),
    };
    let enumerate = Enumerate {
        filter: Some(filter),
        mode: EnumerationMode::Epr,
        optimize: true,
        max_elements: Some(5),
    };
    let items = sim.enumerate(V2, enumerate).await.unwrap();
    let [Item::Epr(epr)] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!(epr.get("__cimnamespace"), Some(V2));
    let header = Header {
        resource_uri: epr.resource_uri.clone(),
        selectors: epr.selectors.clone(),
        ..Header::default()
    };
    let reply = sim.operate(header, Operation::Get).await.unwrap();
    let Reply::Object(object) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(object.text("ElementName"), Some("a"));

    for (selectors, subcode) in [
        (
            Selectors::new().with("Name", "nobody"),
            Subcode::InvalidSelectors,
        ),
        (
            Selectors::new().with("Colour", "red"),
            Subcode::InvalidSelectors,
        ),
        (Selectors::new(), Subcode::InvalidSelectors),
        (
            Selectors::new()
                .with("Name", &vm.id)
                .with("__cimnamespace", CIMV2),
            Subcode::InvalidSelectors,
        ),
    ] {
        let header = Header {
            resource_uri: uri::class_uri(V2, "Msvm_ComputerSystem"),
            selectors,
            ..Header::default()
        };
        assert_eq!(
            sim.operate(header, Operation::Get)
                .await
                .unwrap_err()
                .subcode,
            subcode
        );
    }
}

#[tokio::test]
async fn answers_keep_to_the_envelope_asked_for() {
    let sim = Sim::start().await;
    for name in ["a", "b", "c", "d"] {
        sim.add_vm(name, 2).await;
    }
    let header = || Header {
        resource_uri: uri::query_uri(V2),
        max_envelope_bytes: Some(16_000),
        ..Header::default()
    };
    let wql = Enumerate::wql("SELECT * FROM CIM_SettingData", 1000);
    let reply = sim
        .operate(header(), Operation::Enumerate(wql))
        .await
        .unwrap();
    let Reply::Enumerate { batch, .. } = reply else {
        panic!("{reply:?}")
    };
    assert!(!batch.items.is_empty() && !batch.end);
    sim.set("envelope_bytes", "3000").await;
    let wql = Enumerate::wql("SELECT * FROM Msvm_VirtualSystemSettingData", 10);
    let fault = sim
        .operate(header(), Operation::Enumerate(wql))
        .await
        .unwrap_err();
    assert_eq!(fault.subcode, Subcode::EncodingLimit);
}
