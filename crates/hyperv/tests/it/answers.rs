//! What hosts may answer where the documentation leaves it open: values of states, texts of localised hosts, change lists
//! that make no sense, backup types, batches.

use std::sync::{Arc, Mutex};

use hyperv::{Activity, Changes, CimSession, Endpoint, ErrorKind, Host, Limits, ReplicationRole};
use model::{ConsistencyWish, FullReason, PowerState, VmId};
use wsman::{Fault, Instance, Item, Items, Operation, Properties, Reply, Request, Subcode, Value};

use crate::peer::{Answer, Peer};
use crate::sim::mark;

const NS: &str = "root/virtualization/v2";

fn list(objects: Vec<Instance>) -> Answer {
    let batch = Items {
        items: objects.into_iter().map(Item::Object).collect(),
        context: None,
        end: true,
    };
    Reply::Enumerate {
        batch,
        optimized: true,
    }
    .into()
}

fn wql(request: &Request) -> &str {
    match &request.operation {
        Operation::Enumerate(enumerate) => enumerate
            .filter
            .as_ref()
            .map_or("", |filter| filter.text.as_str()),
        _ => "",
    }
}

fn host(peer: &Peer) -> Host {
    let limits = Limits {
        settle: std::time::Duration::from_millis(300),
        first_poll: std::time::Duration::from_millis(1),
        last_poll: std::time::Duration::from_millis(4),
        ..Limits::default()
    };
    Host::new(&Endpoint::new(peer.url.as_str()))
        .expect("the address is good")
        .with_limits(limits)
}

/// A host whose inventory is made of these objects; it knows no other class.
async fn host_of(objects: Vec<Instance>) -> (Peer, Host) {
    let peer = Peer::start(move |request: &Request| {
        let wql = wql(request);
        if wql.contains("Msvm_VirtualSystemManagementService") {
            return list(vec![Instance::new("Msvm_VirtualSystemManagementService")]);
        }
        let found: Vec<Instance> = objects
            .iter()
            .filter(|object| wql.ends_with(&format!("FROM {}", object.class)))
            .cloned()
            .collect();
        if found.is_empty() {
            return Fault::new(Subcode::DestinationUnreachable, "no such class").into();
        }
        list(found)
    })
    .await;
    let host = host(&peer);
    (peer, host)
}

fn settings(vm: VmId) -> Instance {
    Instance::new("Msvm_VirtualSystemSettingData")
        .with("InstanceID", format!("Microsoft:{vm}"))
        // Hosts vary the case of ids between properties.
        .with("VirtualSystemIdentifier", vm.to_string().to_lowercase())
        .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
        .with("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2")
        .with("Version", "10.0")
}

#[tokio::test]
async fn vms_are_told_by_their_names_and_states_by_either_set_of_numbers() {
    let states: [(u16, PowerState); 14] = [
        (2, PowerState::Running),
        (3, PowerState::Off),
        (4, PowerState::Changing),
        (6, PowerState::Saved),
        (9, PowerState::Paused),
        (10, PowerState::Changing),
        (32768, PowerState::Paused),
        (32769, PowerState::Saved),
        (32770, PowerState::Changing),
        (32773, PowerState::Changing),
        (32774, PowerState::Changing),
        (32776, PowerState::Changing),
        (32777, PowerState::Changing),
        (77, PowerState::Unknown),
    ];
    // A localised host: no caption is English, and one VM is called as the host itself is.
    let mut objects = vec![
        Instance::new("Msvm_ComputerSystem")
            .with("Name", "HV01")
            .with("ElementName", "HV01")
            .with("Caption", "Hostcomputersystem")
            .with("EnabledState", 2_u16),
        Instance::new("Msvm_VirtualEthernetSwitch")
            .with("Name", "S")
            .with("ElementName", "LAN"),
    ];
    let mut wanted = Vec::new();
    for (n, (number, state)) in states.into_iter().enumerate() {
        let vm = VmId::random();
        wanted.push((vm, state));
        objects.push(
            Instance::new("Msvm_ComputerSystem")
                .with("Name", vm.to_string().to_lowercase())
                .with("ElementName", "HV01")
                .with("Caption", "Virtueller Computer")
                .with("EnabledState", number)
                .with(
                    "ReplicationMode",
                    u16::try_from(n % 5).expect("it is small"),
                ),
        );
        objects.push(settings(vm));
    }
    let (_peer, host) = host_of(objects).await;
    let vms = host.vms().await.unwrap();
    let found: Vec<(VmId, PowerState)> = vms.iter().map(|vm| (vm.config.id, vm.power)).collect();
    assert_eq!(found, wanted);
    assert!(vms[0].version() > hyperv::ConfigVersion::TRACKED);
    let codes = |n: usize| -> Vec<&str> {
        let all = vms[n].unsupported.iter();
        all.map(|item| item.code.as_str()).collect()
    };
    assert_eq!(vms[0].replication.role, ReplicationRole::None);
    assert_eq!(codes(0), [""; 0]);
    assert_eq!(codes(1), ["replicated"]);
    assert_eq!(codes(2), ["replica"]);
    assert_eq!(codes(3), ["saved-state", "replica"]);
}

#[tokio::test]
async fn what_the_host_does_with_a_vm_is_read_from_the_second_status() {
    for (status, wanted, words) in [
        (32768, Activity::CreatingCheckpoint, "getting a checkpoint"),
        (32769, Activity::ApplyingCheckpoint, "applying"),
        (32770, Activity::DeletingCheckpoint, "deleting"),
        (32771, Activity::WaitingToStart, "waiting to start"),
        (32772, Activity::MergingDisks, "merging"),
        (32773, Activity::Exporting, "exported"),
        (32774, Activity::Migrating, "migrated"),
        (40000, Activity::Other(40000), "40000"),
    ] {
        let peer = Peer::start(move |_: &Request| {
            let status = Value::Array(vec![Value::U16(2), Value::U16(status)]);
            Reply::Object(
                Instance::new("Msvm_ComputerSystem")
                    .with("EnabledState", 2_u16)
                    .with("OperationalStatus", status),
            )
            .into()
        })
        .await;
        let host = host(&peer);
        let vm = VmId::random();
        assert_eq!(host.power(vm).await.unwrap().1, Some(wanted));
        // Before a checkpoint it is waited for, with a limit.
        let error = host
            .take_checkpoint(vm, ConsistencyWish::Crash, mark(1))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(peer.methods(), [""; 0]);
    }
}

#[tokio::test]
async fn a_change_list_that_makes_no_sense_means_a_full_read() {
    const DISK: u64 = 64 << 20;
    let numbers = |numbers: &[u64]| Value::Array(numbers.iter().map(|&n| Value::U64(n)).collect());
    let cases: Vec<(&str, u64, Value, Value)> = vec![
        ("nothing processed", 0, numbers(&[]), numbers(&[])),
        ("more than asked", DISK + 1, numbers(&[]), numbers(&[])),
        (
            "lengths missing",
            DISK,
            numbers(&[0, 4096]),
            numbers(&[512]),
        ),
        ("no numbers", DISK, Value::texts(["x"]), numbers(&[512])),
        (
            "beyond the disk",
            DISK,
            numbers(&[DISK - 512]),
            numbers(&[4096]),
        ),
        (
            "an overflow",
            DISK,
            numbers(&[u64::MAX]),
            numbers(&[u64::MAX]),
        ),
    ];
    for (what, processed, offsets, lengths) in cases {
        let peer = Peer::start(move |request: &Request| match &request.operation {
            Operation::Invoke { method, .. } => Reply::Invoke {
                method: method.clone(),
                outputs: Properties::new()
                    .with("ProcessedByteLength", processed)
                    .with("ChangedByteOffsets", offsets.clone())
                    .with("ChangedByteLengths", lengths.clone())
                    .with("ReturnValue", 0_u32),
            }
            .into(),
            _ => list(vec![Instance::new("Msvm_ImageManagementService")]),
        })
        .await;
        let answer = host(&peer).changed_ranges(r"C:\a.vhdx", "id", DISK).await;
        let unknown = matches!(
            answer,
            Ok(Changes::Unknown {
                reason: FullReason::TrackerFailed,
                ..
            })
        );
        assert!(unknown, "{what}: {answer:?}");
        assert_eq!(peer.methods().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn ranges_in_any_order_are_put_in_order_and_partial_answers_are_gone_on_from() {
    const DISK: u64 = 64 << 20;
    let peer = Peer::start(move |request: &Request| match &request.operation {
        Operation::Invoke { method, parameters } => {
            let offset = parameters.u64("ByteOffset").expect("it is given");
            let len = parameters.u64("ByteLength").expect("it is given");
            assert!(offset + len <= DISK, "{offset}+{len} is beyond the disk");
            // 10 MiB at a time, told backwards and twice.
            let processed = len.min(10 << 20);
            let numbers = |numbers: [u64; 3]| Value::Array(numbers.map(Value::U64).to_vec());
            let outputs = Properties::new()
                .with("ProcessedByteLength", processed)
                .with(
                    "ChangedByteOffsets",
                    numbers([offset + 65536, offset, offset]),
                )
                .with("ChangedByteLengths", numbers([512, 4096, 4608]))
                .with("ReturnValue", 0_u32);
            Reply::Invoke {
                method: method.clone(),
                outputs,
            }
            .into()
        }
        _ => list(vec![Instance::new("Msvm_ImageManagementService")]),
    })
    .await;
    let answer = host(&peer).changed_ranges(r"C:\a.vhdx", "id", DISK).await;
    let Ok(Changes::Ranges(ranges)) = answer else {
        panic!("{answer:?}")
    };
    let wanted: Vec<(u64, u64)> = (0..7)
        .map(|n| n * (10 << 20))
        // Whole cells of 4 KiB.
        .flat_map(|at| [(at, 8192), (at + 65536, 4096)])
        .collect();
    let found: Vec<(u64, u64)> = ranges
        .as_slice()
        .iter()
        .map(|r| (r.offset, r.len))
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(peer.methods().len(), 7);
}

#[tokio::test]
async fn only_hosts_that_know_the_backup_type_are_told_it() {
    for (build, level, told) in [
        ("14393", ConsistencyWish::RequireApplication, None),
        ("15063", ConsistencyWish::RequireApplication, Some(1)),
        ("20348", ConsistencyWish::PreferApplication, Some(1)),
        ("20348", ConsistencyWish::Crash, None),
    ] {
        let asked = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&asked);
        let peer = Peer::start(move |request: &Request| match &request.operation {
            Operation::Get => {
                Reply::Object(Instance::new("Msvm_ComputerSystem").with("EnabledState", 2_u16))
                    .into()
            }
            Operation::Invoke { method, parameters } => {
                *seen.lock().expect("no script panics") = parameters.instance("SnapshotSettings");
                let outputs = Properties::new().with("ReturnValue", 32770_u32);
                Reply::Invoke {
                    method: method.clone(),
                    outputs,
                }
                .into()
            }
            _ if wql(request).contains("Win32_OperatingSystem") => list(vec![
                Instance::new("Win32_OperatingSystem").with("BuildNumber", build),
            ]),
            _ if wql(request).contains("Msvm_VirtualSystemSnapshotService") => {
                list(vec![Instance::new("Msvm_VirtualSystemSnapshotService")])
            }
            _ => list(Vec::new()),
        })
        .await;
        let error = host(&peer)
            .take_checkpoint(VmId::random(), level, mark(1))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(32770), "{error}");
        let requests = peer.seen();
        let first = requests
            .iter()
            .find_map(|request| match &request.operation {
                Operation::Invoke { parameters, .. } => parameters.instance("SnapshotSettings"),
                _ => None,
            });
        let first = first.expect("a checkpoint was asked for");
        assert_eq!(first.u16("GuestBackupType"), told, "{build}");
        assert_eq!(first.contains("GuestBackupType"), told.is_some(), "{build}");
        let level = if level == ConsistencyWish::Crash {
            2
        } else {
            1
        };
        assert_eq!(first.u16("ConsistencyLevel"), Some(level));
        // Where the wish allows it, the second try is without the guest's help.
        let last = asked.lock().unwrap().clone().unwrap();
        assert!(!last.contains("GuestBackupType") || last == first);
    }
}

fn object(n: usize) -> Item {
    Item::Object(Instance::new("C").with("N", n.to_string()))
}

#[tokio::test]
async fn batches_grow_while_an_enumeration_goes_on_and_come_back_where_the_service_refuses() {
    for refused_over in [u32::MAX, 200_000] {
        let peer = Peer::start(move |request: &Request| {
            let asked = request.header.max_envelope_bytes.unwrap_or_default();
            if asked > refused_over {
                return Fault::encoding_limit("more than this service allows").into();
            }
            let (from, pull) = match &request.operation {
                Operation::Pull(pull) => (pull.context.parse().expect("it is a number"), true),
                _ => (0, false),
            };
            let till = from + if asked > 1_000_000 { 40 } else { 5 };
            let end = till >= 60;
            let batch = Items {
                items: (from..till.min(60)).map(object).collect(),
                context: (!end).then(|| till.to_string()),
                end,
            };
            match pull {
                true => Reply::Pull(batch).into(),
                false => Reply::Enumerate {
                    batch,
                    optimized: true,
                }
                .into(),
            }
        })
        .await;
        let session = CimSession::new(&Endpoint::new(peer.url.as_str())).unwrap();
        for _ in 0..2 {
            let mut calls = 0;
            let found = session
                .query_map(NS, "SELECT * FROM C", |object| {
                    calls += 1;
                    object.u64("N")
                })
                .await
                .unwrap();
            let wanted: Vec<u64> = (0..60).collect();
            assert_eq!(found, wanted, "each object once, whatever was asked again");
            assert!(calls >= 60);
        }
        let asked: Vec<u32> = peer
            .seen()
            .iter()
            .filter_map(|request| request.header.max_envelope_bytes)
            .collect();
        if refused_over == u32::MAX {
            assert_eq!(asked[..2], [153_600, 8 << 20]);
            assert!(asked.len() < 9, "{asked:?}");
            assert!(asked.iter().all(|bytes| *bytes <= 8 << 20), "{asked:?}");
        } else {
            let refusals = asked.iter().filter(|bytes| **bytes > refused_over).count();
            assert_eq!(refusals, 1, "it is asked for once: {asked:?}");
        }
    }
}
