//! The host told to misbehave, and bad input.

use std::io::{Read, Write};

use hyperv_sim::ctl::{
    Command, CtlErrorKind, DiskAdd, DiskSelector, FaultRule, GuestContent, PowerAction, VmAdd,
};
use hyperv_sim::{Credentials, RunOptions};
use wsman::{Header, Operation, Properties, Reply, Request, Subcode, uri};

use crate::support::{DISK, MIB, Sim, V2, changes, client, settings, system};

#[tokio::test]
async fn rules_strike_as_often_as_they_say() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let service = "Msvm_VirtualSystemSnapshotService";
    let create = |level: u8| {
        let wish = wsman::Instance::new("Msvm_VirtualSystemSnapshotSettingData")
            .with("ConsistencyLevel", level);
        Properties::new()
            .with("AffectedSystem", system(&vm.id))
            .with("SnapshotSettings", wsman::Value::embedded(&wish))
            .with("SnapshotType", 32768_u16)
    };
    sim.fault(FaultRule::AccessDenied, Some("enumerate"), Some(1))
        .await;
    let query = "SELECT * FROM Msvm_ComputerSystem";
    assert_eq!(
        sim.try_query(V2, query).await.unwrap_err().subcode,
        Subcode::AccessDenied
    );
    assert!(sim.try_query(V2, query).await.is_ok());

    sim.fault(FaultRule::JobFailed, Some("CreateSnapshot"), Some(1))
        .await;
    let job = sim.run(service, "CreateSnapshot", create(2)).await;
    assert_eq!(
        (job.u16("JobState"), job.u16("ErrorCode")),
        (Some(10), Some(32768))
    );
    sim.fault(FaultRule::AppConsistencyFailed, None, None).await;
    assert_eq!(
        sim.run(service, "CreateSnapshot", create(1))
            .await
            .u16("JobState"),
        Some(10)
    );
    assert_eq!(
        sim.run(service, "CreateSnapshot", create(2))
            .await
            .u16("JobState"),
        Some(7)
    );
    sim.ctl(Command::FaultClear).await;

    // The method runs although nobody hears its answer.
    let checkpoint = sim.checkpoints("a").await.remove(0);
    sim.fault(
        FaultRule::ConnectionLostAfter,
        Some("ConvertToReferencePoint"),
        Some(1),
    )
    .await;
    let header = Header {
        to: sim.url(),
        message_id: "uuid:2".into(),
        resource_uri: uri::class_uri(V2, service),
        ..Header::default()
    };
    let parameters = Properties::new().with("AffectedSnapshot", settings(&checkpoint.id));
    let operation = Operation::Invoke {
        method: "ConvertToReferencePoint".into(),
        parameters,
    };
    assert!(sim.send(&Request { header, operation }).await.is_err());
    while sim.show("a").await.reference_points.is_empty() {}
    sim.settle("a").await;

    let point = sim
        .one("SELECT * FROM Msvm_VirtualSystemReferencePoint")
        .await;
    let id = point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned();
    sim.fault(FaultRule::RctIdUnknown, None, Some(1)).await;
    let ask = || {
        sim.invoke(
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            changes(r"C:\VMs\a\disk.vhdx", &id, 0, DISK),
        )
    };
    assert_eq!(ask().await.u32("ReturnValue"), Some(32773));
    assert_eq!(ask().await.u32("ReturnValue"), Some(0));
    let beyond = changes(r"C:\VMs\a\disk.vhdx", &id, DISK - 512, 1024);
    let beyond = sim
        .invoke(
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            beyond,
        )
        .await;
    assert_eq!(beyond.u32("ReturnValue"), Some(32773));
    let missing = changes(r"C:\VMs\nothing.vhdx", &id, 0, 512);
    let missing = sim
        .invoke(
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            missing,
        )
        .await;
    assert_eq!(missing.u32("ReturnValue"), Some(32779));

    // A merge is held for as long as the rule stands.
    sim.fault(FaultRule::MergeNeverEnds, None, None).await;
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    sim.convert(&checkpoint).await;
    assert_eq!(sim.show("a").await.busy, ["merging"]);
    let refused = sim.invoke(service, "CreateSnapshot", create(2)).await;
    assert_eq!(refused.u32("ReturnValue"), Some(32775));
    sim.ctl(Command::FaultClear).await;
    sim.settle("a").await;
    assert_eq!(sim.show("a").await.disks[0].parents.len(), 0);
}

#[tokio::test]
async fn a_full_volume_pauses_the_machine_and_room_lets_it_go_on() {
    let sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let free = async |capacity: u64| {
        let command = Command::VolumeSet {
            volume: "c:".into(),
            capacity_bytes: capacity,
        };
        let hyperv_sim::ctl::Reply::Volume(volume) = sim.ctl(command).await else {
            panic!()
        };
        volume.free_bytes
    };
    let used = (1 << 40) - free(1 << 40).await;
    assert!(used > 4 * MIB && used < 16 * MIB, "{used}");
    // A file dropped on the volume takes room.
    std::fs::write(sim.local(r"C:\dropped.bin").await, vec![1; 1 << 20]).unwrap();
    assert_eq!(free(1 << 40).await, (1 << 40) - used - MIB);
    free(used + 5 * MIB).await;
    let write = || Command::GuestWrite {
        vm: "a".into(),
        disk: DiskSelector::Index(0),
        offset: 8 * MIB,
        content: GuestContent::Pattern {
            seed: 1,
            length: 20 * MIB,
        },
    };
    let full = sim.try_ctl(write()).await.unwrap_err();
    assert!(full.message.contains("is full"), "{full}");
    assert_eq!(sim.show("a").await.state, "paused");
    free(1 << 40).await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(write()).await;
}

#[tokio::test]
async fn a_host_with_a_password_asks_for_it() {
    let mut sim = Sim::start().await;
    sim.stop().await;
    let port_file = sim.dir.path().join("port");
    let options = RunOptions {
        credentials: Some(Credentials {
            user: "admin".into(),
            password: "päss:word".into(),
        }),
        port_file: Some(port_file.clone()),
        ..RunOptions::new(sim.dir.path(), "127.0.0.1:0".parse().unwrap())
    };
    sim.running = Some(hyperv_sim::start(options).await.unwrap());
    let port = std::fs::read_to_string(port_file).unwrap();
    assert_eq!(
        port.trim(),
        sim.running.as_ref().unwrap().address().port().to_string()
    );
    let http = client();
    let body = Request {
        header: Header::default(),
        operation: Operation::Identify,
    }
    .to_xml();
    let post = || http.post(sim.url()).body(body.clone());
    let refused = post().send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let offered: Vec<_> = refused
        .headers()
        .get_all("www-authenticate")
        .iter()
        .collect();
    assert_eq!(offered, ["Negotiate", "Basic realm=\"WSMAN\""]);
    assert_eq!(
        post()
            .basic_auth("admin", Some("wrong"))
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    let version = async |reply: reqwest::Response| {
        let response = wsman::Response::parse(&reply.bytes().await.unwrap()).unwrap();
        let Reply::Identify { version, .. } = response.reply else {
            panic!("{response:?}")
        };
        version
    };
    let known = post()
        .basic_auth("admin", Some("päss:word"))
        .send()
        .await
        .unwrap();
    assert_eq!(version(known).await, "OS: 10.0.20348 SP: 0.0 Stack: 3.0");
    let anonymous = post()
        .header("WSMANIDENTIFY", "unauthenticated")
        .send()
        .await
        .unwrap();
    assert_eq!(version(anonymous).await, "OS: 0.0.0 SP: 0.0 Stack: 3.0");
}

#[tokio::test]
async fn bad_input_is_answered_with_what_is_wrong() {
    let sim = Sim::start().await;
    let http = client();
    for body in [
        b"".to_vec(),
        b"<x/>".to_vec(),
        b"<a".repeat(1000),
        vec![0xff; 100],
    ] {
        assert_eq!(
            http.post(sim.url())
                .body(body)
                .send()
                .await
                .unwrap()
                .status(),
            400
        );
    }
    let large = http.post(sim.url()).body(vec![b' '; 2 << 20]).send().await;
    assert!(large.is_err() || large.is_ok_and(|reply| reply.status() == 400));

    let kind = async |command: Command| sim.try_ctl(command).await.unwrap_err().kind;
    assert_eq!(
        kind(Command::VmShow {
            vm: "nobody".into()
        })
        .await,
        CtlErrorKind::NotFound
    );
    assert_eq!(
        kind(Command::Path {
            path: r"C:\..\x".into()
        })
        .await,
        CtlErrorKind::Usage
    );
    assert_eq!(
        kind(Command::Path {
            path: r"Q:\x".into()
        })
        .await,
        CtlErrorKind::NotFound
    );
    assert_eq!(
        kind(Command::FaultSet {
            key: "nothing".into(),
            value: "1".into()
        })
        .await,
        CtlErrorKind::Usage
    );
    let not_a_disk = sim.dir.path().join("raw.img");
    std::fs::write(&not_a_disk, vec![0; 1 << 20]).unwrap();
    let add = VmAdd {
        name: "x".into(),
        generation: 2,
        version: None,
        disks: vec![DiskAdd {
            path: r"C:\x.vhdx".into(),
            file: not_a_disk,
        }],
        nics: Vec::new(),
    };
    assert_eq!(kind(Command::VmAdd(add)).await, CtlErrorKind::Usage);
    assert!(sim.files("*").await.is_empty());
    sim.add_vm("off", 2).await;
    let write = |offset: u64| Command::GuestWrite {
        vm: "off".into(),
        disk: DiskSelector::Path(r"c:\vms\OFF\disk.vhdx".into()),
        offset,
        content: GuestContent::Pattern {
            seed: 1,
            length: 512,
        },
    };
    assert_eq!(kind(write(0)).await, CtlErrorKind::Conflict);
    sim.power("off", PowerAction::On).await;
    assert_eq!(kind(write(DISK)).await, CtlErrorKind::Usage);
    sim.ctl(write(0)).await;
}

#[tokio::test]
async fn many_clients_may_wait_at_once() {
    let sim = Sim::start().await;
    let address = sim.running.as_ref().unwrap().address();
    // The runtime of this test has one thread: nobody takes a connection before all have been made.
    let mut waiting: Vec<std::net::TcpStream> = (0..200)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let body = Request {
        header: Header::default(),
        operation: Operation::Identify,
    }
    .to_xml();
    let answered = tokio::task::spawn_blocking(move || {
        for stream in &mut waiting {
            let head = format!(
                "POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .unwrap();
        }
        let is_answered = |stream: &mut std::net::TcpStream| {
            let mut start = [0; 12];
            stream.read_exact(&mut start).is_ok() && &start == b"HTTP/1.1 200"
        };
        waiting
            .iter_mut()
            .map(is_answered)
            .filter(|answered| *answered)
            .count()
    });
    assert_eq!(answered.await.unwrap(), 200);
}

#[tokio::test]
async fn a_vhd_is_no_disk_of_this_host() {
    let sim = Sim::start().await;
    let file = sim.dir.path().join("old.vhd");
    let mut footer = [0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[13] = 1;
    footer[48..56].copy_from_slice(&MIB.to_be_bytes());
    footer[63] = 2;
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    let mut bytes = vec![0; usize::try_from(MIB).unwrap()];
    bytes.extend(footer);
    std::fs::write(&file, &bytes).unwrap();
    let add = VmAdd {
        name: "old".into(),
        generation: 1,
        version: None,
        disks: vec![DiskAdd {
            path: r"C:\VMs\old\disk.vhd".into(),
            file,
        }],
        nics: vec![],
    };
    let refused = sim.try_ctl(Command::VmAdd(add)).await.unwrap_err();
    assert!(refused.message.contains("is a VHD file"), "{refused}");
    assert!(
        refused.message.contains("reprise vhdx convert"),
        "{refused}"
    );

    // Nor is one that lies on its volumes already.
    let vm = sim.add_vm("a", 1).await;
    let disk = sim.local(r"C:\VMs\a\disk.vhdx").await;
    std::fs::write(&disk, &bytes).unwrap();
    let on = Command::Power {
        vm: vm.id,
        action: PowerAction::On,
    };
    let refused = sim.try_ctl(on).await.unwrap_err();
    assert!(refused.message.contains("first generation"), "{refused}");
}
