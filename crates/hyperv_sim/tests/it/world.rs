//! What a host may be and have: volumes, clusters, odd machines, other habits.

use hyperv_sim::ctl::{Command, CtlErrorKind, FeatureAdd, PowerAction, Reply, VmFeature};
use wsman::{Enumerate, Item, Operation, Properties, Request, Subcode};

use crate::support::{CIMV2, MIB, Sim, V2};

const MSCLUSTER: &str = "root/MSCluster";

fn feature(vm: &str, feature: VmFeature) -> FeatureAdd {
    FeatureAdd {
        vm: vm.into(),
        feature,
        path: None,
        name: None,
        number: None,
    }
}

impl Sim {
    async fn give(&self, add: FeatureAdd) {
        self.ctl(Command::VmFeature(add)).await;
    }

    async fn add_volume(&self, volume: &str, capacity_bytes: u64) {
        self.ctl(Command::VolumeSet {
            volume: volume.into(),
            capacity_bytes,
        })
        .await;
    }

    /// Sends a request and returns the reply as it is written.
    async fn raw(&self, resource: &str, enumerate: Enumerate) -> String {
        let header = wsman::Header {
            to: self.url(),
            resource_uri: resource.into(),
            message_id: "uuid:1".into(),
            ..wsman::Header::default()
        };
        let request = Request {
            header,
            operation: Operation::Enumerate(enumerate),
        };
        let sent = crate::support::client().post(self.url());
        let sent = sent.header("Content-Type", "application/soap+xml;charset=UTF-8");
        let reply = sent.body(request.to_xml()).send().await.unwrap();
        reply.text().await.unwrap()
    }
}

#[tokio::test]
async fn a_volume_at_a_folder_has_room_of_its_own() {
    let sim = Sim::start().await;
    sim.add_volume(r"C:\Mount\Data", 1 << 30).await;
    let free = async || {
        let volumes = sim
            .try_query(CIMV2, "SELECT * FROM Win32_Volume WHERE DriveType = 3")
            .await;
        let volumes = volumes.unwrap();
        let one = |name: &str| {
            let found = volumes.iter().find(|v| v.text("Name") == Some(name));
            found.unwrap().u64("FreeSpace").unwrap()
        };
        (one(r"C:\"), one(r"C:\Mount\Data\"))
    };
    let before = free().await;
    let file = sim.local(r"C:\Mount\Data\big.bin").await;
    std::fs::write(&file, vec![1; 5 << 20]).unwrap();
    let after = free().await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1 - 5 * MIB);
    let points = sim.try_query(CIMV2, "SELECT * FROM Win32_MountPoint").await;
    let points = points.unwrap();
    let folders: Vec<_> = points
        .iter()
        .map(|point| point.epr("Directory").unwrap().get("Name").unwrap())
        .collect();
    assert_eq!(folders, [r"C:\", r"C:\Mount\Data"]);
    let disks = sim
        .try_query(CIMV2, "SELECT * FROM Win32_LogicalDisk")
        .await;
    assert_eq!(disks.unwrap().len(), 1);
    let query = r"SELECT * FROM CIM_DataFile WHERE Name = 'c:\\Mount\\data\\BIG.bin'";
    let files = sim.try_query(CIMV2, query).await.unwrap();
    assert_eq!(files[0].u64("FileSize"), Some(5 * MIB));
    let query = r"SELECT * FROM Win32_Directory WHERE Name = 'C:\\Mount'";
    assert_eq!(sim.try_query(CIMV2, query).await.unwrap().len(), 1);
    // A disk there fills the mounted volume, and that alone.
    sim.add_volume(r"C:\Mount\Data", 1 << 20).await;
    let refused = sim
        .try_ctl(Command::VmFeature(FeatureAdd {
            path: Some(r"X:\a.vhdx".into()),
            ..feature("nobody", VmFeature::SharedVhdx)
        }))
        .await;
    assert_eq!(refused.unwrap_err().kind, CtlErrorKind::NotFound);
}

#[tokio::test]
async fn a_node_of_a_cluster_shows_it_and_others_have_no_such_namespace() {
    let sim = Sim::start().await;
    let all = "SELECT * FROM MSCluster_Cluster";
    let fault = sim.try_query(MSCLUSTER, all).await.unwrap_err();
    assert_eq!(fault.subcode, Subcode::DestinationUnreachable);
    assert_eq!(fault.class(), wsman::FaultClass::UnknownClass);
    let vm = sim.add_vm("web01", 2).await;
    let early = sim
        .try_ctl(Command::VmFeature(feature("web01", VmFeature::Clustered)))
        .await;
    assert_eq!(early.unwrap_err().kind, CtlErrorKind::Conflict);

    sim.ctl(Command::ClusterMake {
        name: "CL01".into(),
        others: vec!["HV02".into()],
    })
    .await;
    sim.add_volume(r"C:\ClusterStorage\Volume1", 10 << 30).await;
    sim.give(feature("web01", VmFeature::Clustered)).await;
    let cluster = sim.try_query("ROOT\\mscluster", all).await.unwrap();
    assert_eq!(cluster[0].text("Name"), Some("CL01"));
    let nodes = sim.try_query(MSCLUSTER, "SELECT * FROM MSCluster_Node WHERE State = 0");
    assert_eq!(nodes.await.unwrap()[0].text("Name"), Some("HV01"));
    let query = "SELECT * FROM MSCluster_Resource WHERE Type = 'Virtual Machine'";
    let resources = sim.try_query(MSCLUSTER, query).await.unwrap();
    let private = resources[0].get("PrivateProperties");
    assert!(
        private
            .as_instance()
            .unwrap()
            .text("VmID")
            .unwrap()
            .eq_ignore_ascii_case(&vm.id)
    );
    let query = "SELECT * FROM MSCluster_ResourceGroup WHERE GroupType = 111";
    let groups = sim.try_query(MSCLUSTER, query).await.unwrap();
    assert_eq!(groups[0].text("OwnerNode"), Some("HV01"));
    let shared = sim
        .try_query(MSCLUSTER, "SELECT * FROM MSCluster_ClusterSharedVolume")
        .await
        .unwrap();
    assert_eq!(shared[0].text("Name"), Some(r"C:\ClusterStorage\Volume1"));
    let query = r"ASSOCIATORS OF {MSCluster_ClusterSharedVolume.Name='C:\\ClusterStorage\\Volume1'} WHERE
         AssocClass = MSCluster_ClusterSharedVolumeToPartition ResultClass = MSCluster_DiskPartition";
    let partition = sim.try_query(MSCLUSTER, query).await.unwrap();
    assert_eq!(partition[0].u32("TotalSize"), Some(10 << 10));
    let query = "ASSOCIATORS OF {MSCluster_ResourceGroup.Name='web01'} WHERE ResultClass = MSCluster_Resource";
    assert_eq!(sim.try_query(MSCLUSTER, query).await.unwrap().len(), 2);
}

#[tokio::test]
async fn every_feature_can_be_had_and_seen() {
    let sim = Sim::start().await;
    sim.ctl(Command::ClusterMake {
        name: "CL01".into(),
        others: Vec::new(),
    })
    .await;
    let one = sim.add_vm("gen1", 1).await;
    let two = sim.add_vm("gen2", 2).await;
    let planned = VmFeature::PlannedCopy;
    for &which in VmFeature::ALL.iter().filter(|which| **which != planned) {
        let legacy = matches!(which, VmFeature::LegacyNic | VmFeature::Floppy);
        // A disk that others may write to cannot be frozen: the checkpoint is another VM's.
        let first = legacy || which == VmFeature::BackupCheckpoint;
        let vm = if first { "gen1" } else { "gen2" };
        sim.give(FeatureAdd {
            path: (which == VmFeature::Dvd).then(|| r"C:\iso\setup.iso".into()),
            name: if which == VmFeature::BackupCheckpoint {
                Some("Foreign".into())
            } else {
                (which == VmFeature::LegacyNic).then(|| "LAN".into())
            },
            number: (which == VmFeature::Vlan).then_some(12),
            ..feature(vm, which)
        })
        .await;
        if legacy {
            let wrong = sim
                .try_ctl(Command::VmFeature(feature("gen2", which)))
                .await;
            assert_eq!(wrong.unwrap_err().kind, CtlErrorKind::Usage);
        }
    }
    let query = |class: &str, condition: &str| {
        let query = format!("SELECT * FROM {class} WHERE {condition}");
        let sim = &sim;
        async move { sim.query(&query).await }
    };
    let id = &two.id;
    let storage = query(
        "Msvm_StorageAllocationSettingData",
        &format!("InstanceID LIKE 'Microsoft:{id}%' AND PersistentReservationsSupported = TRUE"),
    )
    .await;
    let mut shared: Vec<_> = storage
        .iter()
        .map(|s| s.texts("HostResource")[0].to_owned())
        .collect();
    shared.sort();
    assert_eq!(
        shared,
        [r"C:\VMs\gen2\shared-vhdx.vhdx", r"C:\VMs\gen2\vhd-set.vhds"]
    );
    let outputs = sim
        .invoke(
            "Msvm_ImageManagementService",
            "GetVirtualHardDiskSettingData",
            Properties::new().with("Path", shared[1].as_str()),
        )
        .await;
    let data = outputs.get("SettingData").to_instance().unwrap();
    assert_eq!(data.u16("Format"), Some(4));
    let subtype = "ResourceSubType = 'Microsoft:Hyper-V:Physical Disk Drive' AND NOT InstanceID LIKE '%Definition%'";
    let drives = query("Msvm_ResourceAllocationSettingData", subtype).await;
    let disk = drives[0].texts("HostResource")[0].to_owned();
    assert_eq!(
        sim.query(&format!("ASSOCIATORS OF {{{disk}}}")).await.len(),
        0
    );
    assert_eq!(query("Msvm_DiskDrive", "DriveNumber = 1").await.len(), 1);
    let security = query(
        "Msvm_SecuritySettingData",
        &format!("InstanceID LIKE 'Microsoft:{id}%'"),
    )
    .await;
    assert_eq!(security[0].bool("TpmEnabled"), Some(true));
    assert_eq!(security[0].bool("ShieldingRequested"), Some(true));
    assert_eq!(
        query("Msvm_SyntheticFcPortSettingData", "ResourceType = 7")
            .await
            .len(),
        2
    );
    let legacy = query(
        "Msvm_EmulatedEthernetPortSettingData",
        &format!("InstanceID LIKE 'Microsoft:{}%'", one.id),
    )
    .await;
    assert_eq!(legacy.len(), 1);
    let off = query("Msvm_EthernetPortAllocationSettingData", "EnabledState = 3").await;
    assert_eq!(off.len(), 1);
    assert!(off[0].texts("HostResource").is_empty());
    let vlan = query(
        "Msvm_EthernetSwitchPortVlanSettingData",
        "AccessVlanId = 12",
    )
    .await;
    let port = vlan[0]
        .text("InstanceID")
        .unwrap()
        .rsplit_once('\\')
        .unwrap()
        .0
        .to_owned();
    let of_port = format!(
        "ASSOCIATORS OF {{Msvm_EthernetPortAllocationSettingData.InstanceID='{}'}} WHERE AssocClass = \
         Msvm_EthernetPortSettingDataComponent",
        port.replace('\\', r"\\")
    );
    assert_eq!(sim.query(&of_port).await.len(), 1);
    sim.give(feature("gen1", planned)).await;
    let system = &query("Msvm_ComputerSystem", &format!("Name = '{id}'")).await[0];
    assert_eq!(system.u16("ReplicationMode"), Some(2));
    assert_eq!(system.u16("ReplicationState"), Some(3));
    assert_eq!(
        sim.query("SELECT * FROM Msvm_PlannedComputerSystem")
            .await
            .len(),
        1
    );
    assert_eq!(sim.checkpoints("gen1").await[0].kind, "recovery");
    let outputs = sim
        .invoke(
            "Msvm_VirtualSystemSnapshotService",
            "CreateSnapshot",
            Properties::new()
                .with("AffectedSystem", crate::support::system(id))
                .with("SnapshotType", 32768_u16),
        )
        .await;
    assert_ne!(outputs.u32("ReturnValue"), Some(4096));
    sim.power("gen1", PowerAction::On).await;
    sim.power("gen2", PowerAction::On).await;
}

#[tokio::test]
async fn hosts_of_other_habits_can_be_had() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    sim.power("web01", PowerAction::Save).await;
    let system = format!("SELECT * FROM Msvm_ComputerSystem WHERE Name = '{}'", vm.id);
    let resource = wsman::uri::query_uri(V2);
    let utc = sim.raw(&resource, Enumerate::wql(&system, 20)).await;
    assert!(utc.contains("Z</cim:Datetime>"), "{utc}");
    assert!(utc.contains("<p:Caption>Virtual Machine<"));
    assert_eq!(sim.one(&system).await.u16("EnabledState"), Some(6));
    for (key, value) in [
        ("datetime_offset", "120"),
        ("enabled_states", "v1"),
        ("language", "german"),
        ("capital_paths", "true"),
    ] {
        sim.set(key, value).await;
    }
    let local = sim.raw(&resource, Enumerate::wql(&system, 20)).await;
    assert!(local.contains("+02:00</cim:Datetime>"), "{local}");
    assert!(local.contains("<p:Caption>Virtueller Computer<"));
    assert_eq!(sim.one(&system).await.u16("EnabledState"), Some(32769));
    let query = "SELECT * FROM Msvm_StorageAllocationSettingData WHERE ResourceType = 31 AND Parent IS NOT NULL";
    let parent = sim.one(query).await.text("Parent").unwrap().to_owned();
    assert!(
        parent.starts_with(r"\\HV01\Root\Virtualization\V2:"),
        "{parent}"
    );
    // What comes back in that spelling is understood.
    assert_eq!(
        sim.query(&format!("ASSOCIATORS OF {{{parent}}}"))
            .await
            .len(),
        2
    );
    let err = sim
        .try_ctl(Command::FaultSet {
            key: "language".into(),
            value: "latin".into(),
        })
        .await;
    assert_eq!(err.unwrap_err().kind, CtlErrorKind::Usage);
}

#[tokio::test]
async fn an_rct_id_survives_a_user_checkpoint_or_not() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    let backup = async || {
        let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
        let point = sim.convert(&checkpoint).await;
        sim.settle("web01").await;
        point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned()
    };
    for (survives, known) in [("true", true), ("false", false)] {
        sim.set("rct_survives_checkpoints", survives).await;
        let id = backup().await;
        let user = |verb: fn(String, String) -> Command| verb("web01".into(), "user".into());
        sim.ctl(user(|vm, name| Command::CheckpointCreate {
            vm,
            name: Some(name),
        }))
        .await;
        sim.ctl(user(|vm, checkpoint| Command::CheckpointDelete {
            vm,
            checkpoint,
        }))
        .await;
        let path = sim.show("web01").await.disks[0].path.clone();
        assert_eq!(
            sim.try_changes(&path, &id).await.is_some(),
            known,
            "{survives}"
        );
    }
}

#[tokio::test]
async fn a_full_host_is_made_quickly_and_listed_piece_by_piece() {
    let sim = Sim::start().await;
    let (vms, disks) = (500, 4);
    let begun = std::time::Instant::now();
    sim.ctl(Command::VmPopulate {
        prefix: "vm".into(),
        count: vms,
        disks,
    })
    .await;
    let made = begun.elapsed();
    let all = async |query: &str| {
        let items = sim.enumerate(V2, Enumerate::wql(query, 200)).await.unwrap();
        items.len()
    };
    let begun = std::time::Instant::now();
    let count = all("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER").await;
    assert_eq!(count, 500);
    let query = "SELECT * FROM Msvm_StorageAllocationSettingData WHERE Parent IS NOT NULL";
    assert_eq!(all(query).await, 2_000);
    let listed = begun.elapsed();
    let begun = std::time::Instant::now();
    let Reply::Vms(list) = sim.ctl(Command::VmList).await else {
        panic!("no list")
    };
    let last = list.last().unwrap();
    for _ in 0..3 {
        let object = sim.disks_of(&format!("Microsoft:{}", last.id)).await;
        assert_eq!(object.len(), 4);
    }
    println!(
        "made in {made:?}, listed in {listed:?}, 3 look-ups in {:?}",
        begun.elapsed()
    );
    let again = sim
        .try_ctl(Command::VmPopulate {
            prefix: "vm".into(),
            count: 1,
            disks: 1,
        })
        .await;
    assert_eq!(again.unwrap_err().kind, CtlErrorKind::Conflict);
    let epr = Enumerate {
        mode: wsman::EnumerationMode::Epr,
        ..Enumerate::wql("SELECT * FROM Msvm_ComputerSystem", 10)
    };
    let items = sim.enumerate(V2, epr).await.unwrap();
    assert!(items.iter().all(|item| matches!(item, Item::Epr(_))));
}

#[tokio::test]
async fn a_listing_goes_on_while_the_host_changes() {
    let sim = Sim::start().await;
    sim.ctl(Command::VmPopulate {
        prefix: "vm".into(),
        count: 4,
        disks: 1,
    })
    .await;
    // A base class shows every object of the classes below it, once.
    let resources = sim
        .query("SELECT * FROM CIM_ResourceAllocationSettingData")
        .await;
    let mut ids: Vec<_> = resources.iter().map(|r| r.text("InstanceID")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), resources.len());
    let header = || wsman::Header {
        resource_uri: wsman::uri::query_uri(V2),
        ..wsman::Header::default()
    };
    let enumerate = Enumerate {
        optimize: false,
        ..Enumerate::wql(
            "SELECT ElementName FROM Msvm_ComputerSystem WHERE Name != __SERVER",
            1,
        )
    };
    let pull = async |context: &str, most: Option<u32>| {
        let pull = wsman::Pull {
            context: context.into(),
            max_elements: most,
            ..wsman::Pull::default()
        };
        match sim.operate(header(), Operation::Pull(pull)).await {
            Ok(wsman::Reply::Pull(items)) => Ok(items),
            Ok(other) => panic!("{other:?}"),
            Err(fault) => Err(fault),
        }
    };
    let begin = async || {
        let begun = Operation::Enumerate(enumerate.clone());
        let wsman::Reply::Enumerate { batch, .. } = sim.operate(header(), begun).await.unwrap()
        else {
            panic!("no enumeration")
        };
        assert!(batch.items.is_empty(), "nobody asked for a first batch");
        batch.context.unwrap()
    };
    let first = begin().await;
    // One at a time where nobody says how many.
    let batch = pull(&first, None).await.unwrap();
    assert_eq!(batch.items.len(), 1);
    let Item::Object(seen) = &batch.items[0] else {
        panic!("no object")
    };
    for number in 1..=4 {
        let name = format!("vm{number:04}");
        if seen.text("ElementName") != Some(&name) {
            sim.ctl(Command::VmRemove { vm: name }).await;
        }
    }
    let rest = pull(batch.context.as_deref().unwrap(), Some(10))
        .await
        .unwrap();
    assert_eq!(rest.items.len(), 1, "only the next one was made already");
    assert!(rest.end && rest.context.is_none());
    let stale = pull(&first, None).await.unwrap_err();
    assert_eq!(stale.subcode, Subcode::InvalidEnumerationContext);
    // Nobody asked for too long.
    let second = begin().await;
    sim.set("enumeration_idle_millis", "0").await;
    let idle = pull(&second, None).await.unwrap_err();
    assert_eq!(idle.subcode, Subcode::InvalidEnumerationContext);
    let query = "SELECT Colour FROM Msvm_ComputerSystem";
    let fault = sim.try_query(V2, query).await.unwrap_err();
    assert_eq!(fault.subcode, Subcode::CannotProcessFilter);
}
