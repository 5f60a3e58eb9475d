//! Shadow copies: against the simulated host, and against a peer for what hosts seldom answer.

use std::time::Duration;

use hyperv::{Endpoint, Error, ErrorKind, Host, Limits, ShadowRefusal, ShadowView, VolumeFacts};
use hyperv_sim::ctl::{Command, DiskAdd, FaultRule, PowerAction, Reply as CtlReply, VmAdd};
use model::MIB;
use wsman::{Instance, Item, Items, Operation, Properties, Reply, Value};

use crate::peer::{Answer, Peer};
use crate::sim::Sim;

async fn volume(host: &Host) -> VolumeFacts {
    let mut volumes = host.volumes().await.expect("the host answers");
    volumes.remove(0)
}

#[tokio::test]
async fn a_shadow_copy_is_made_read_found_and_deleted() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web01", 2, 2).await;
    sim.power(vm, PowerAction::On).await;
    sim.user_checkpoint(vm, "one").await;
    sim.guest_write(vm, 0, 5 * MIB, 3, MIB).await;
    let before = sim.guest_read(vm, 0, 0, 16 * MIB).await;
    let volume = volume(&sim.host).await;
    let shadow = sim.host.create_shadow(&volume, &[]).await.unwrap();
    assert_eq!(shadow.volume, volume.device_id);
    assert!(
        shadow
            .device
            .starts_with(r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy")
    );
    assert!(shadow.created.is_some());
    assert_eq!(
        sim.host.shadows().await.unwrap(),
        std::slice::from_ref(&shadow)
    );
    assert_eq!(
        sim.host.shadow(&shadow.id).await.unwrap(),
        Some(shadow.clone())
    );

    // Later writes are not in it; what was there is read through the chain, which needs its log replayed.
    sim.guest_write(vm, 0, 5 * MIB, 4, MIB).await;
    let facts = sim.host.vm(vm).await.unwrap();
    let all = sim.host.files_of(&facts).await.unwrap();
    assert_eq!((all.configs.len(), all.branches.len()), (2, 2));
    assert_eq!(all.disks[0].chain.len(), 2);
    let mut view = ShadowView::new(sim.files_with_shadows());
    view.add(&volume, &shadow).unwrap();
    let disk = view.open_chain(&all.disks[0].path).unwrap().into_disk();
    let mut content = vec![0; before.len()];
    disk.read_at(&mut content, 0).unwrap();
    assert!(content == before, "the shadow copy holds the moment before");
    for place in &all.configs {
        let files = view.config_files(place).unwrap();
        assert!(files.iter().any(|file| file.role == "config"), "{place:?}");
        assert!(files.iter().all(|file| file.path.starts_with(r"C:\")));
    }

    sim.host.delete_shadow(&shadow.id).await.unwrap();
    sim.host.delete_shadow(&shadow.id).await.unwrap();
    assert_eq!(sim.host.shadow(&shadow.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_disk_on_a_mounted_volume_is_on_that_volumes_shadow_copy() {
    let sim = Sim::start(false).await;
    sim.set_capacity(r"C:\Mount\Data", 5 << 30).await;
    let file = sim.disk_file("far.vhdx");
    let add = Command::VmAdd(VmAdd {
        name: "far".into(),
        generation: 2,
        version: None,
        disks: vec![DiskAdd {
            path: r"C:\Mount\Data\far.vhdx".into(),
            file,
        }],
        nics: Vec::new(),
    });
    let CtlReply::Vm(added) = sim.ctl(add).await else {
        panic!("no VM")
    };
    let facts = sim.host.facts().await.unwrap();
    let vm = sim.host.vm(added.id.parse().unwrap()).await.unwrap();
    let all = sim.host.files_of(&vm).await.unwrap();
    let path = all.disks[0].path.as_str();
    let config = all.configs[0].places[0].root.as_str();
    let volumes = facts.volumes_of([path, config]).unwrap();
    let mounts: Vec<String> = volumes
        .iter()
        .map(|volume| volume.path.to_lowercase())
        .collect();
    assert_eq!(mounts, [r"c:\", r"c:\mount\data\"]);
    let mut view = ShadowView::new(sim.files_with_shadows());
    for volume in &volumes {
        let shadow = sim.host.create_shadow(volume, &[]).await.unwrap();
        view.add(volume, &shadow).unwrap();
    }
    let disk = view.open_chain(path).unwrap().into_disk();
    assert_eq!(disk.size(), crate::sim::DISK_BYTES);
    let error = facts.volumes_of([r"\\server\share\a.vhdx"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn every_return_code_is_told_apart() {
    let sim = Sim::start(false).await;
    let host = sim.host.clone().with_limits(Limits {
        settle: Duration::from_millis(200),
        first_poll: Duration::from_millis(10),
        last_poll: Duration::from_millis(50),
        ..Limits::default()
    });
    let volume = volume(&host).await;
    for (code, refusal, kind) in [
        (1, ShadowRefusal::AccessDenied, ErrorKind::AccessDenied),
        (2, ShadowRefusal::InvalidArgument, ErrorKind::Refused),
        (3, ShadowRefusal::VolumeNotFound, ErrorKind::NotFound),
        (4, ShadowRefusal::VolumeNotSupported, ErrorKind::Unsupported),
        (
            5,
            ShadowRefusal::ContextNotSupported,
            ErrorKind::Unsupported,
        ),
        (6, ShadowRefusal::NoStorage, ErrorKind::Refused),
        (7, ShadowRefusal::VolumeInUse, ErrorKind::InUse),
        (8, ShadowRefusal::TooMany, ErrorKind::Refused),
        (9, ShadowRefusal::AnotherInProgress, ErrorKind::InUse),
        (10, ShadowRefusal::ProviderVetoed, ErrorKind::Failed),
        (
            11,
            ShadowRefusal::ProviderNotRegistered,
            ErrorKind::Unsupported,
        ),
        (12, ShadowRefusal::ProviderFailed, ErrorKind::Failed),
        (13, ShadowRefusal::Unknown, ErrorKind::Failed),
        (77, ShadowRefusal::Other(77), ErrorKind::Failed),
    ] {
        sim.set("shadow_code", &code.to_string()).await;
        let error = host.create_shadow(&volume, &[]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            matches!(error, Error::Shadow { refusal: found, .. } if found == refusal),
            "{error}"
        );
    }
    assert!(host.shadows().await.unwrap().is_empty());
}

#[tokio::test]
async fn another_shadow_copy_under_way_is_waited_for() {
    let sim = Sim::start(false).await;
    let volume = volume(&sim.host).await;
    sim.set("shadow_millis", "300").await;
    let (one, two) = tokio::join!(
        sim.host.create_shadow(&volume, &[]),
        sim.host.create_shadow(&volume, &[])
    );
    assert_ne!(one.unwrap().id, two.unwrap().id);
}

#[tokio::test]
async fn a_lost_answer_is_found_by_what_is_new_on_the_volume() {
    let sim = Sim::start(false).await;
    let volume = volume(&sim.host).await;
    let old = sim.host.create_shadow(&volume, &[]).await.unwrap();
    sim.fault(FaultRule::ConnectionLostAfter, "Win32_ShadowCopy.Create")
        .await;
    let before = [old.id.clone()];
    let made = sim.host.create_shadow(&volume, &before).await.unwrap();
    assert_ne!(made.id, old.id);

    // Two are new, and nothing tells which is ours: both stay.
    sim.fault(FaultRule::ConnectionLostAfter, "Win32_ShadowCopy.Create")
        .await;
    let error = sim.host.create_shadow(&volume, &before).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&made.id), "{error}");
    assert_eq!(sim.host.shadows().await.unwrap().len(), 3);
}

#[tokio::test]
async fn create_goes_to_the_class_and_delete_to_the_object() {
    let volume = VolumeFacts {
        path: r"C:\mnt\data\".into(),
        device_id: r"\\?\Volume{1}\".into(),
        label: String::new(),
        file_system: "NTFS".into(),
        capacity_bytes: 0,
        free_bytes: 0,
        block_bytes: 4096,
        cluster_shared: false,
    };
    let peer = Peer::start(|request| match &request.operation {
        Operation::Invoke { .. } => Answer::from(Reply::Invoke {
            method: "Create".into(),
            outputs: Properties::new()
                .with("ShadowID", "{AB}")
                .with("ReturnValue", 0_u32),
        }),
        Operation::Enumerate(_) => Answer::from(Reply::Enumerate {
            batch: Items {
                context: None,
                items: vec![Item::Object(
                    Instance::new("Win32_ShadowCopy")
                        .with("ID", "{AB}")
                        .with(
                            "DeviceObject",
                            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7",
                        )
                        .with("VolumeName", r"\\?\Volume{1}\"),
                )],
                end: true,
            },
            optimized: true,
        }),
        _ => Answer::from(Reply::Empty),
    })
    .await;
    let host = Host::new(&Endpoint::new(peer.url.clone())).unwrap();
    let shadow = host.create_shadow(&volume, &[]).await.unwrap();
    host.delete_shadow(&shadow.id).await.unwrap();
    let seen = peer.seen();
    let create = &seen[0];
    assert!(
        create
            .header
            .resource_uri
            .ends_with("/root/cimv2/Win32_ShadowCopy")
    );
    assert!(create.header.selectors.is_empty());
    let Operation::Invoke { method, parameters } = &create.operation else {
        panic!("{create:?}")
    };
    assert_eq!(method, "Create");
    assert_eq!(parameters.get("Volume"), &Value::text(r"C:\mnt\data\"));
    assert_eq!(parameters.get("Context"), &Value::text("ClientAccessible"));
    let delete = seen.last().unwrap();
    assert!(matches!(delete.operation, Operation::Delete));
    assert_eq!(delete.header.selectors.get("ID"), Some("{AB}"));
}
