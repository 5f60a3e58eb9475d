//! A host with 500 VMs and 2,000 disks: how many requests an inventory takes, and when it takes fewer.

use std::collections::HashMap;

use hyperv::{Endpoint, ErrorKind, Host, Inventory, VmSummary};
use hyperv_sim::ctl::{Command, PowerAction};
use model::{PowerState, VmId};
use wsman::{Fault, Instance, Item, Items, Operation, Reply, Request, Response, Subcode, Value};

use crate::peer::{Answer, Peer};
use crate::proxy::Proxy;
use crate::sim::Sim;

const VMS: u32 = 500;
const DISKS: u32 = 4;
/// Requests that an inventory of it may take.
const REQUESTS: usize = 20;
/// Properties a real object has beside those that are looked at, all NULL here.
const FURTHER: usize = 40;
const NS: &str = "root/virtualization/v2";

fn vm_id(n: u32) -> String {
    format!("{n:08X}-0000-4000-8000-000000000000")
}

fn object(class: &str) -> Instance {
    let mut object = Instance::new(class);
    for n in 0..FURTHER {
        object.set(format!("FurtherPropertyOfTheClass{n}"), Value::Null);
    }
    object
}

fn part(class: &str, vm: u32, id: &str, resource_type: u16, subtype: &str) -> Instance {
    object(class)
        .with("InstanceID", format!(r"Microsoft:{}\{id}", vm_id(vm)))
        .with("ResourceType", resource_type)
        .with("ResourceSubType", format!("Microsoft:Hyper-V:{subtype}"))
}

fn path(vm: u32, id: &str) -> String {
    let id = format!(r"Microsoft:{}\\{}", vm_id(vm), id.replace('\\', r"\\"));
    format!(r#"\\HV01\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="{id}""#)
}

fn resources(vm: u32) -> Vec<Instance> {
    let class = "Msvm_ResourceAllocationSettingData";
    let mut all = vec![
        part(class, vm, "C", 6, "Synthetic SCSI Controller"),
        part("Msvm_MemorySettingData", vm, "M", 4, "Memory").with("VirtualQuantity", 1024_u64),
        part("Msvm_ProcessorSettingData", vm, "P", 3, "Processor").with("VirtualQuantity", 2_u64),
        part(
            "Msvm_SyntheticEthernetPortSettingData",
            vm,
            "N",
            10,
            "Synthetic Ethernet Port",
        )
        .with("Address", format!("00155D{vm:06X}")),
        part(
            "Msvm_EthernetPortAllocationSettingData",
            vm,
            r"N\C",
            33,
            "Ethernet Connection",
        )
        .with("Parent", path(vm, "N")),
    ];
    for slot in 0..DISKS {
        all.push(
            part(
                class,
                vm,
                &format!(r"C\0\{slot}\D"),
                17,
                "Synthetic Disk Drive",
            )
            .with("Parent", path(vm, "C"))
            .with("AddressOnParent", slot.to_string()),
        );
        let file = format!(r"C:\ClusterStorage\Volume1\Virtual Machines\vm{vm}\disk{slot}.vhdx");
        all.push(
            part(
                "Msvm_StorageAllocationSettingData",
                vm,
                &format!(r"C\0\{slot}\L"),
                31,
                "Virtual Hard Disk",
            )
            .with("Parent", path(vm, &format!(r"C\0\{slot}\D")))
            .with("HostResource", Value::texts([file])),
        );
    }
    all
}

fn objects(wql: &str) -> Result<Vec<Instance>, Box<Fault>> {
    let all = 0..VMS;
    Ok(if wql.contains("FROM CIM_ResourceAllocationSettingData ") {
        all.flat_map(resources).collect()
    } else if wql.contains("FROM Msvm_ComputerSystem") {
        all.map(|vm| {
            object("Msvm_ComputerSystem")
                .with("Name", vm_id(vm))
                .with("ElementName", format!("vm{vm}"))
                .with("EnabledState", 3_u16)
                .with("TimeOfLastConfigurationChange", "20260102030405.000000+000")
        })
        .collect()
    } else if wql.contains("FROM Msvm_VirtualSystemSettingData") {
        all.map(|vm| {
            object("Msvm_VirtualSystemSettingData")
                .with("InstanceID", format!("Microsoft:{}", vm_id(vm)))
                .with("VirtualSystemIdentifier", vm_id(vm))
                .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
                .with("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2")
                .with("Version", "10.0")
        })
        .collect()
    } else if wql.contains("FROM Msvm_SecuritySettingData") {
        all.map(|vm| part("Msvm_SecuritySettingData", vm, "S", 0, "Security"))
            .collect()
    } else if wql.contains("FROM Win32_ComputerSystemProduct") {
        vec![object("Win32_ComputerSystemProduct").with("UUID", vm_id(7))]
    } else if wql.contains("FROM Win32_ComputerSystem") {
        vec![object("Win32_ComputerSystem").with("Name", "HV01")]
    } else if wql.contains("FROM Win32_OperatingSystem") {
        vec![object("Win32_OperatingSystem").with("BuildNumber", "20348")]
    } else if wql.contains("FROM Msvm_VirtualSystemManagementService") {
        vec![object("Msvm_VirtualSystemManagementService").with("Name", "vmms")]
    } else if wql.contains("FROM MSCluster_") {
        return Err(Fault::new(Subcode::DestinationUnreachable, "no such namespace").into());
    } else {
        Vec::new()
    })
}

/// A host that answers with as many objects as fit into the envelope asked for, and into its own limit.
async fn large_host(limit: u32) -> Peer {
    let mut open: HashMap<String, (Vec<Item>, usize)> = HashMap::new();
    let mut opened = 0;
    Peer::start(move |request: &Request| {
        let (mut left, each, most) = match &request.operation {
            Operation::Enumerate(enumerate) => {
                let wql = enumerate.filter.as_ref().map(|filter| filter.text.as_str());
                let found = match objects(wql.unwrap_or_default()) {
                    Ok(found) => found,
                    Err(fault) => return (*fault).into(),
                };
                let items: Vec<Item> = found.into_iter().rev().map(Item::Object).collect();
                let each = items
                    .iter()
                    .step_by(7)
                    .map(|item| size(request, item))
                    .max();
                (items, each.unwrap_or(1), enumerate.max_elements)
            }
            Operation::Pull(pull) => match open.remove(&pull.context) {
                Some((left, each)) => (left, each, pull.max_elements),
                None => {
                    return Fault::new(Subcode::InvalidEnumerationContext, "gone").into();
                }
            },
            _ => return Answer::Raw(404, Vec::new()),
        };
        opened += 1;
        let context = format!("c{opened}");
        let bytes = request
            .header
            .max_envelope_bytes
            .unwrap_or(limit)
            .min(limit);
        let fit = usize::try_from(bytes).expect("it is small") / each;
        let most = usize::try_from(most.unwrap_or(1))
            .expect("it is small")
            .min(fit);
        assert!(most > 0, "no object fits into {bytes} bytes");
        let mut items = left.split_off(left.len().saturating_sub(most));
        items.reverse();
        let end = left.is_empty();
        if !end {
            open.insert(context.clone(), (left, each));
        }
        let batch = Items {
            items,
            context: (!end).then_some(context),
            end,
        };
        let reply = match &request.operation {
            Operation::Pull(_) => Reply::Pull(batch),
            _ => Reply::Enumerate {
                batch,
                optimized: true,
            },
        };
        reply.into()
    })
    .await
}

/// Bytes of one object in a reply.
fn size(request: &Request, item: &Item) -> usize {
    let reply = Reply::Pull(Items {
        items: vec![item.clone()],
        context: None,
        end: true,
    });
    Response::to(request, "uuid:1", NS, reply).to_xml().len()
}

#[tokio::test]
async fn an_inventory_of_a_host_with_500_vms_takes_at_most_20_requests() {
    let peer = large_host(16 << 20).await;
    let host = Host::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let facts = host.facts().await.unwrap();
    assert_eq!((facts.name.as_str(), facts.os_build), ("HV01", 20348));
    let vms = host.vms().await.unwrap();
    assert_eq!(vms.len(), 500);
    for (n, vm) in (0..VMS).zip(&vms) {
        let disks: Vec<(u32, String)> = vm
            .config
            .disks()
            .map(|(_, drive, path)| (drive.slot, path.to_owned()))
            .collect();
        let wanted: Vec<(u32, String)> = (0..DISKS)
            .map(|slot| {
                let folder = r"C:\ClusterStorage\Volume1\Virtual Machines";
                (slot, format!(r"{folder}\vm{n}\disk{slot}.vhdx"))
            })
            .collect();
        assert_eq!(disks, wanted);
        assert_eq!(vm.config.nics[0].mac, Some(format!("00155D{n:06X}")));
    }
    let requests = peer.seen().len();
    assert!(
        requests <= REQUESTS,
        "{requests} requests, the host's own facts among them"
    );
    // The session has learnt how much the host gives at once.
    host.vms().await.unwrap();
    let again = peer.seen().len() - requests;
    assert!(again < requests, "{requests} requests, then {again}");
    // No disk was asked about.
    assert_eq!(peer.methods(), Vec::<String>::new());
}

#[tokio::test]
async fn a_host_that_gives_small_envelopes_is_read_whole_too() {
    // What Windows gives by default: MaxEnvelopeSizekb 500.
    let peer = large_host(512_000).await;
    let host = Host::new(&Endpoint::new(peer.url.as_str())).unwrap();
    assert_eq!(host.vms().await.unwrap().len(), 500);
    let requests = peer.seen().len();
    assert!(requests <= 80, "{requests} requests");
}

#[tokio::test]
async fn a_look_at_an_unchanged_host_takes_one_request() {
    let peer = large_host(16 << 20).await;
    let host = Host::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let mut inventory = Inventory::new();
    inventory.refresh(&host).await.unwrap();
    let whole = peer.seen().len();
    inventory.refresh(&host).await.unwrap();
    assert_eq!(peer.seen().len() - whole, 1);
    assert_eq!(inventory.vms().count(), 500);
}

#[tokio::test]
async fn a_look_reads_what_changed_and_nothing_else() {
    let sim = Sim::start(false).await;
    let mut ids: Vec<VmId> = Vec::new();
    for n in 0..6 {
        ids.push(sim.add_vm(&format!("vm{n}"), 2, 1).await);
    }
    let proxy = Proxy::start(&sim.url()).await;
    let host = Host::new(&Endpoint::new(proxy.url.as_str())).unwrap();
    let mut inventory = Inventory::new();
    inventory.refresh(&host).await.unwrap();
    let leaf = |inventory: &Inventory, vm: VmId| {
        let found = inventory.vms().find(|found| found.config.id == vm);
        let (_, _, path) = found.unwrap().config.disks().next().unwrap();
        path.to_owned()
    };
    let chain = inventory.disks(&host, ids[0]).await.unwrap()[0].chain.len();
    assert_eq!(chain, 1);
    let before = proxy.requests();
    inventory.disks(&host, ids[0]).await.unwrap();
    inventory.disks(&host, ids[0]).await.unwrap();
    assert_eq!(proxy.requests(), before, "disk facts are kept");

    // A checkpoint gives the disk another leaf; its deletion takes it away again, with a merge in between.
    sim.user_checkpoint(ids[0], "first").await;
    inventory.refresh(&host).await.unwrap();
    assert!(leaf(&inventory, ids[0]).ends_with(".avhdx"));
    assert_eq!(
        inventory.disks(&host, ids[0]).await.unwrap()[0].chain.len(),
        2
    );
    sim.ctl(Command::CheckpointDelete {
        vm: ids[0].to_string(),
        checkpoint: "first".into(),
    })
    .await;
    inventory.refresh(&host).await.unwrap();
    assert_eq!(leaf(&inventory, ids[0]), r"C:\VMs\vm0\disk0.vhdx");
    assert_eq!(
        inventory.disks(&host, ids[0]).await.unwrap()[0].chain.len(),
        1
    );

    // What a VM does is always new, and VMs come and go.
    sim.power(ids[1], PowerAction::On).await;
    sim.ctl(Command::VmRemove {
        vm: ids[2].to_string(),
    })
    .await;
    let new = sim.add_vm("new", 1, 1).await;
    inventory.refresh(&host).await.unwrap();
    let power: HashMap<VmId, PowerState> =
        inventory.vms().map(|vm| (vm.config.id, vm.power)).collect();
    assert_eq!(power.len(), 6);
    assert_eq!(power[&ids[1]], PowerState::Running);
    assert_eq!(power[&new], PowerState::Off);
    assert!(!power.contains_key(&ids[2]));
    let error = inventory.disks(&host, ids[2]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut known: Vec<VmSummary> = inventory.vms().cloned().collect();
    let mut anew = host.vms().await.unwrap();
    for vm in known.iter_mut().chain(&mut anew) {
        vm.uptime_ms = None;
    }
    assert!(known == anew, "{known:#?}");
}

#[tokio::test]
async fn one_vm_takes_the_same_requests_however_many_checkpoints_it_has() {
    let sim = Sim::start(false).await;
    let id = sim.add_vm("web", 1, 1).await;
    let proxy = Proxy::start(&sim.url()).await;
    let host = Host::new(&Endpoint::new(proxy.url.as_str())).unwrap();
    let mut asked = Vec::new();
    for n in 0..3 {
        sim.user_checkpoint(id, &format!("checkpoint {n}")).await;
        let before = proxy.requests();
        let vm = host.vm(id).await.unwrap();
        assert_eq!(vm.checkpoints.len(), n + 1);
        assert!(
            vm.checkpoints
                .iter()
                .all(|checkpoint| checkpoint.disks.len() == 1)
        );
        // Two questions for each file of the chain.
        asked.push(proxy.requests() - before - 2 * vm.disks[0].chain.len());
    }
    asked.remove(0);
    assert_eq!(asked[0], asked[1], "{asked:?}");
}
