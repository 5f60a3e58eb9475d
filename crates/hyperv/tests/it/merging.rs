//! Merging that was switched off, definitions exported, and files that nobody merges.

use std::sync::{Arc, Mutex};

use hyperv::{Endpoint, ErrorKind, ExportCheckpoints, Host, Limits};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{DiskId, MIB, VmId};
use wsman::{Epr, Fault, Instance, Item, Items, Operation, Properties, Reply, Request, Subcode};

use crate::peer::Peer;
use crate::sim::{Sim, pattern};

const NS: &str = "root/virtualization/v2";

/// What the host is asked for and how it behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// An export without disks switches merging off.
    StopsMerging,
    /// It does, and the export then fails.
    StopsMergingAndFails,
    /// It does, and switching on has no effect.
    StaysOff,
    /// The host has no such class.
    Old,
}

struct Exporting {
    peer: Peer,
    host: Host,
    merging: Arc<Mutex<bool>>,
    vm: VmId,
}

async fn exporting(manner: Manner) -> Exporting {
    let vm = VmId::random();
    let merging = Arc::new(Mutex::new(true));
    let state = Arc::clone(&merging);
    let peer = Peer::start(move |request: &Request| {
        let done = |method: &str, code: u32| -> Reply {
            Reply::Invoke {
                method: method.to_owned(),
                outputs: Properties::new().with("ReturnValue", code),
            }
        };
        let list = |objects: Vec<Instance>| {
            let batch = Items {
                items: objects.into_iter().map(Item::Object).collect(),
                context: None,
                end: true,
            };
            Reply::Enumerate {
                batch,
                optimized: true,
            }
        };
        let mut on = state.lock().expect("no script panics");
        match &request.operation {
            Operation::Get => {
                Reply::Object(Instance::new("Msvm_ComputerSystem").with("EnabledState", 3_u16))
                    .into()
            }
            Operation::Invoke { method, parameters } if method == "ExportSystemDefinition" => {
                let settings = parameters
                    .instance("ExportSettingData")
                    .expect("it has settings");
                assert_eq!(settings.bool("CopyVmStorage"), Some(false));
                assert_eq!(parameters.text("ExportDirectory"), Some(r"C:\P\old"));
                *on = false;
                let fails = manner == Manner::StopsMergingAndFails;
                done(method, if fails { 32768 } else { 0 }).into()
            }
            Operation::Invoke { method, parameters } if method == "ModifyDiskMergeSettings" => {
                let settings = parameters.instance("SettingData").expect("it has settings");
                assert_eq!(settings.class, "Msvm_DiskMergeSettingData");
                assert_eq!(settings.u32("EnabledState"), Some(1));
                *on = *on || manner != Manner::StaysOff;
                done(method, 0).into()
            }
            Operation::Enumerate(enumerate) => {
                let wql = enumerate.filter.as_ref().map_or("", |f| f.text.as_str());
                if wql.contains("Msvm_DiskMergeSettingData") {
                    assert!(wql.contains(&vm.to_string()), "{wql}");
                    if manner == Manner::Old {
                        return Fault::new(Subcode::DestinationUnreachable, "no such class").into();
                    }
                    let id = format!(r"Microsoft:{vm}\DeviceSpecificData");
                    return list(vec![
                        Instance::new("Msvm_DiskMergeSettingData")
                            .with("InstanceID", id)
                            .with("EnabledState", u32::from(*on)),
                    ])
                    .into();
                }
                list(vec![
                    Instance::new("Msvm_VirtualSystemManagementService")
                        .with("Name", "vmms")
                        .with("SystemName", "HV01"),
                ])
                .into()
            }
            _ => Fault::not_found("nothing else is here").into(),
        }
    })
    .await;
    let limits = Limits {
        settle: std::time::Duration::from_millis(300),
        first_poll: std::time::Duration::from_millis(1),
        last_poll: std::time::Duration::from_millis(4),
        ..Limits::default()
    };
    let host = Host::new(&Endpoint::new(peer.url.as_str()))
        .expect("the address is good")
        .with_limits(limits);
    Exporting {
        peer,
        host,
        merging,
        vm,
    }
}

#[tokio::test]
async fn an_export_leaves_merging_switched_on() {
    for manner in [
        Manner::StopsMerging,
        Manner::StopsMergingAndFails,
        Manner::StaysOff,
        Manner::Old,
    ] {
        let Exporting {
            peer,
            host,
            merging,
            vm,
        } = exporting(manner).await;
        let result = host
            .export_definition(vm, r"C:\P\old", ExportCheckpoints::All)
            .await;
        let on = *merging.lock().unwrap();
        let methods = peer.methods();
        match manner {
            Manner::StopsMerging => {
                result.unwrap();
                assert!(on);
                assert!(host.merges_disks(vm).await.unwrap());
                assert!(!host.switch_merging_on(vm).await.unwrap(), "it was on");
            }
            // The export's own failure is what is told, and merging is on all the same.
            Manner::StopsMergingAndFails => {
                assert_eq!(result.unwrap_err().code(), Some(32768));
                assert!(on);
            }
            Manner::StaysOff => {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused);
                assert!(error.to_string().contains("merging"), "{error}");
            }
            Manner::Old => {
                result.unwrap();
                assert_eq!(methods, ["ExportSystemDefinition"]);
                assert!(host.merges_disks(vm).await.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn one_checkpoint_is_exported_by_its_path() {
    let checkpoint = format!("Microsoft:{}", VmId::random());
    let Exporting { peer, host, vm, .. } = exporting(Manner::StopsMerging).await;
    host.export_definition(vm, r"C:\P\old", ExportCheckpoints::One(&checkpoint))
        .await
        .unwrap();
    let call = peer
        .seen()
        .into_iter()
        .find_map(|request| match request.operation {
            Operation::Invoke { parameters, .. } => parameters.instance("ExportSettingData"),
            _ => None,
        });
    let settings = call.unwrap();
    assert_eq!(settings.u16("CopySnapshotConfiguration"), Some(2));
    let path: wsman::ObjectPath = settings
        .text("SnapshotVirtualSystem")
        .unwrap()
        .parse()
        .unwrap();
    let wanted = Epr::new(NS, "Msvm_VirtualSystemSettingData").with("InstanceID", &checkpoint);
    assert!(path.same_object(&wanted.to_path()), "{path}");
}

/// Makes a differencing disk on the host.
async fn make_child(sim: &Sim, path: &str, parent: &str) {
    let service = "SELECT * FROM Msvm_ImageManagementService";
    let service = sim
        .host
        .session()
        .query_eprs(NS, service)
        .await
        .expect("services can be listed")
        .remove(0);
    let settings = Instance::new("Msvm_VirtualHardDiskSettingData")
        .with("Path", path)
        .with("ParentPath", parent)
        .with("Type", 4_u16)
        .with("Format", 3_u16);
    let parameters =
        Properties::new().with("VirtualDiskSettingData", wsman::Value::embedded(&settings));
    let outputs = sim
        .host
        .session()
        .invoke(&service, "CreateVirtualHardDisk", parameters)
        .await
        .expect("disks can be made");
    assert!(matches!(outputs.u32("ReturnValue"), Some(0 | 4096)));
    let made = async || sim.host.disk_file(path).await.is_ok();
    while !made().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_left_behind_is_merged_by_hand_and_what_stands_on_it_is_kept() {
    for lost in [
        None,
        Some("MergeVirtualHardDisk"),
        Some("SetParentVirtualHardDisk"),
    ] {
        let sim = Sim::start(false).await;
        let vm = sim.add_vm("web", 2, 1).await;
        let base = r"C:\VMs\web\base.vhdx";
        let (left, leaf) = (r"C:\VMs\web\left.avhdx", r"C:\VMs\web\leaf.avhdx");
        let file = sim.disk_file("base.vhdx");
        std::fs::copy(file, sim.files.local_path(base).unwrap()).unwrap();
        // What a checkpoint leaves that was deleted while merging was off: a leaf on a file nobody names.
        make_child(&sim, left, base).await;
        let slot = sim.host.attach_disk(vm, left, None).await.unwrap();
        let error = sim.host.merge_orphan(left, &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "it is in use: {error}");
        sim.power(vm, PowerAction::On).await;
        sim.guest_write(vm, 1, 8 * MIB, 1, MIB).await;
        sim.host.turn_off(vm).await.unwrap();
        sim.host.detach_disk(vm, slot).await.unwrap();
        make_child(&sim, leaf, left).await;
        sim.host.attach_disk(vm, leaf, None).await.unwrap();
        sim.power(vm, PowerAction::On).await;
        sim.guest_write(vm, 1, 16 * MIB, 2, MIB).await;

        let candidates = [left.to_owned(), leaf.to_owned()];
        let orphans = sim.host.orphans(&candidates).await.unwrap();
        let [orphan] = orphans.as_slice() else {
            panic!("{orphans:?}")
        };
        assert_eq!(orphan.file.path, left);
        assert_eq!(orphan.children, [leaf]);
        assert_eq!(orphan.vms, [vm]);
        let refused = async |path: &str, why: &str| {
            let error = sim.host.merge_orphan(path, &candidates).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.to_string().contains(why), "{error}");
        };
        refused(left, "turn the VM off").await;
        refused(leaf, "uses it").await;
        refused(base, "no differencing disk").await;
        sim.host.turn_off(vm).await.unwrap();
        let other = r"C:\VMs\web\other.avhdx";
        make_child(&sim, other, base).await;
        let with_other = [candidates.as_slice(), &[other.to_owned()]].concat();
        let error = sim.host.merge_orphan(left, &with_other).await.unwrap_err();
        assert!(error.to_string().contains("would break"), "{error}");
        sim.files.delete(other).unwrap();

        if let Some(method) = lost {
            sim.fault(FaultRule::ConnectionLostAfter, method).await;
        }
        sim.host.merge_orphan(left, &candidates).await.unwrap();
        assert_eq!(sim.files.stat(left).unwrap(), None);
        let chain = sim.host.disk_chain(leaf).await.unwrap();
        let paths: Vec<&str> = chain.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [leaf, base]);
        for n in [1, 2] {
            let found = sim.guest_read(vm, 1, n * 8 * MIB, MIB).await;
            assert_eq!(found, pattern(n, 1 << 20), "what was written at {n}");
        }
        sim.host.start(vm).await.unwrap();
        assert_eq!(sim.host.orphans(&candidates).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_copy_of_a_disk_gets_an_identity_of_its_own() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let disk = r"C:\VMs\web\disk0.vhdx";
    let error = sim
        .host
        .set_disk_id(disk, DiskId::random())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let copy = r"C:\copy.vhdx";
    let local = |path: &str| sim.files.local_path(path).unwrap();
    std::fs::copy(local(disk), local(copy)).unwrap();
    let original = sim.host.disk_file(disk).await.unwrap().disk_id;
    assert_eq!(sim.host.disk_file(copy).await.unwrap().disk_id, original);
    for lost in [false, true] {
        if lost {
            sim.fault(
                FaultRule::ConnectionLostAfter,
                "SetVirtualHardDiskSettingData",
            )
            .await;
        }
        let id = DiskId::random();
        sim.host.set_disk_id(copy, id).await.unwrap();
        assert_eq!(sim.host.disk_file(copy).await.unwrap().disk_id, Some(id));
    }
    assert_eq!(sim.host.disk_file(disk).await.unwrap().disk_id, original);
    sim.host.attach_disk(vm, copy, None).await.unwrap();
}

/// Exports as other programs do: without switching merging on again.
async fn export_carelessly(sim: &Sim, vm: VmId) {
    let service = "SELECT * FROM Msvm_VirtualSystemManagementService";
    let service = sim
        .host
        .session()
        .query_eprs(NS, service)
        .await
        .expect("services can be listed")
        .remove(0);
    let settings = Instance::new("Msvm_VirtualSystemExportSettingData")
        .with("CopyVmStorage", false)
        .with("CopySnapshotConfiguration", 1_u8);
    let system = Epr::new(NS, "Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", vm.to_string());
    let parameters = Properties::new()
        .with("ComputerSystem", system)
        .with("ExportDirectory", r"C:\Export")
        .with("ExportSettingData", wsman::Value::embedded(&settings));
    sim.host
        .session()
        .invoke(&service, "ExportSystemDefinition", parameters)
        .await
        .expect("it can be exported");
    while sim.host.merges_disks(vm).await.expect("the host tells") {
        tokio::task::yield_now().await;
    }
    sim.host.wait_settled(vm).await.expect("the export ends");
}

/// Renames a recovery checkpoint, which the driver does only to its own.
async fn rename(sim: &Sim, checkpoint: &str, name: &str) {
    let service = "SELECT * FROM Msvm_VirtualSystemManagementService";
    let session = sim.host.session();
    let services = session.query_eprs(NS, service).await;
    let service = services.expect("services can be listed").remove(0);
    let settings = Instance::new("Msvm_VirtualSystemSettingData")
        .with("InstanceID", checkpoint)
        .with("ElementName", name);
    let parameters = Properties::new().with("SystemSettings", wsman::Value::embedded(&settings));
    session
        .invoke(&service, "ModifySystemSettings", parameters)
        .await
        .expect("it can be renamed");
}

#[tokio::test]
async fn a_backup_after_a_careless_export_leaves_no_file_behind() {
    for ends_well in [false, true] {
        let sim = Sim::start(false).await;
        let vm = sim.add_vm("web", 2, 1).await;
        sim.power(vm, PowerAction::On).await;
        let host = &sim.host;
        let wish = model::ConsistencyWish::Crash;
        let taken = host
            .take_checkpoint(vm, wish, crate::sim::mark(1))
            .await
            .unwrap();
        export_carelessly(&sim, vm).await;
        if ends_well {
            host.convert_to_reference_point(vm, &taken.id, &[])
                .await
                .unwrap();
        } else {
            host.destroy_checkpoint(vm, &taken.id).await.unwrap();
        }
        host.wait_merged(vm).await.unwrap();
        assert!(host.merges_disks(vm).await.unwrap());
        let files = sim.all_files().await;
        assert!(
            !files.iter().any(|path| path.ends_with(".avhdx")),
            "{files:?}"
        );
    }
}

#[tokio::test]
async fn merging_that_another_backup_switched_off_is_left_alone_and_told() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let host = &sim.host;
    let mine = host.create_checkpoint(vm, "mine").await.unwrap();
    let wish = model::ConsistencyWish::Crash;
    let other = host
        .take_checkpoint(vm, wish, crate::sim::mark(1))
        .await
        .unwrap();
    rename(&sim, &other.id, "another product").await;
    export_carelessly(&sim, vm).await;
    let merges = host.delete_checkpoint(vm, &mine, false).await.unwrap();
    assert!(!host.merges_disks(vm).await.unwrap());
    if merges.is_empty() {
        panic!("a file is to be merged");
    }
    let error = host
        .wait_merged_with(vm, &merges, |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("switched off"), "{error}");
}
