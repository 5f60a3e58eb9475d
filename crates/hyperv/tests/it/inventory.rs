//! Facts of the host, all VMs, one VM.

use hyperv::{
    CheckpointKind, CimSession, Credentials, DiskFileKind, DiskFormat, Endpoint, ErrorKind, Host,
    Readiness, Slot,
};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{BootEntry, ControllerKind, Generation, PowerState, VmId};

use crate::sim::{DISK_BYTES, Sim};

#[tokio::test]
async fn facts_say_what_the_host_is() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        sim.add_vm("web", 2, 1).await;
        let facts = sim.host.facts().await.unwrap();
        assert_eq!((facts.id, facts.name.as_str()), (sim.id, "HV01"));
        assert!(
            facts.os_version.starts_with("10.0.") && facts.change_tracking,
            "{facts:?}"
        );
        assert_eq!(facts.readiness, Readiness::Ready);
        assert!(!facts.clustered);
        assert!(facts.default_disk_folder.starts_with("C:\\"), "{facts:?}");
        let volume = facts.volume_of(r"c:\VMs\x.vhdx").unwrap();
        assert!(
            volume.path.eq_ignore_ascii_case("C:\\") && volume.free_bytes > 0,
            "{volume:?}"
        );
        assert!(volume.free_bytes <= volume.capacity_bytes);
        assert_eq!(facts.volume_of(r"\\server\share\x"), None);
        assert_eq!(
            facts
                .switches
                .iter()
                .map(|switch| switch.name.as_str())
                .collect::<Vec<_>>(),
            ["LAN"]
        );
    }
}

#[tokio::test]
async fn the_inventory_shows_every_vm_with_its_configuration() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        let web = sim.add_vm("web 'quoted' \\ ü", 2, 2).await;
        let old = sim.add_vm("old", 1, 1).await;
        sim.power(web, PowerAction::On).await;
        sim.user_checkpoint(web, "before update").await;
        let vms = sim.host.vms().await.unwrap();
        assert_eq!(vms.len(), 2);
        let find = |id| vms.iter().find(|vm| vm.config.id == id).unwrap();

        let vm = find(web);
        assert_eq!(vm.config.name, "web 'quoted' \\ ü");
        assert_eq!(
            (vm.config.generation, vm.power, vm.checkpoints),
            (Generation::Gen2, PowerState::Running, 1)
        );
        assert_eq!((vm.activity, vm.unsupported.len()), (None, 0));
        assert!(
            vm.changed.is_some() && vm.config.memory.startup_mib > 0 && vm.config.processors > 0
        );
        let disks: Vec<_> = vm
            .config
            .disks()
            .map(|(controller, drive, path)| (controller.kind, drive.slot, path))
            .collect();
        assert_eq!(disks.len(), 2);
        assert!(
            disks
                .iter()
                .all(|(kind, _, path)| *kind == ControllerKind::Scsi && path.ends_with(".avhdx")),
            "{disks:?}"
        );
        assert!(vm.config.nics[0].mac.is_some());
        assert_eq!(vm.config.nics[0].switch.as_ref().unwrap().name, "LAN");

        let vm = find(old);
        assert_eq!(
            (vm.config.generation, vm.power, vm.checkpoints),
            (Generation::Gen1, PowerState::Off, 0)
        );
        let (controller, drive, path) = vm.config.disks().next().unwrap();
        assert_eq!(
            (controller.kind, controller.number, drive.slot),
            (ControllerKind::Ide, 0, 0)
        );
        assert_eq!(path, r"C:\VMs\old\disk0.vhdx");
        assert_eq!(vm.config.boot_order.len(), 4);
    }
}

#[tokio::test]
async fn one_vm_is_shown_whole() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        let id = sim.add_vm("web", 2, 1).await;
        sim.user_checkpoint(id, "first").await;
        sim.user_checkpoint(id, "second").await;
        let vm = sim.host.vm(id).await.unwrap();
        let names: Vec<_> = vm
            .checkpoints
            .iter()
            .map(|c| (c.name.as_str(), c.kind, c.current))
            .collect();
        assert_eq!(
            names,
            [
                ("first", CheckpointKind::User, false),
                ("second", CheckpointKind::User, true)
            ]
        );
        assert_eq!(vm.checkpoints[0].parent, None);
        assert_eq!(
            vm.checkpoints[1].parent.as_ref(),
            Some(&vm.checkpoints[0].id)
        );
        assert_eq!(vm.checkpoints[0].disks[0].path, r"C:\VMs\web\disk0.vhdx");
        assert_eq!(vm.last_applied, None);

        let [disk] = vm.disks.as_slice() else {
            panic!("{:?}", vm.disks)
        };
        assert_eq!((disk.problem.as_deref(), disk.chain.len()), (None, 3));
        assert_eq!(
            disk.slot,
            Slot {
                kind: ControllerKind::Scsi,
                controller: 0,
                slot: 0
            }
        );
        let root = disk.root().unwrap();
        assert_eq!(
            (root.path.as_str(), root.kind),
            (r"C:\VMs\web\disk0.vhdx", DiskFileKind::Dynamic)
        );
        let leaf = disk.leaf().unwrap();
        assert_eq!(
            (leaf.kind, leaf.format, leaf.size_bytes),
            (DiskFileKind::Differencing, DiskFormat::Vhdx, DISK_BYTES)
        );
        assert!(leaf.file_bytes.is_some_and(|bytes| bytes > 0));
        assert!(
            disk.chain
                .iter()
                .all(|file| file.disk_id.is_some() && file.disk_id == root.disk_id)
        );
        assert!(vm.summary.config.boot_entries.contains(&BootEntry::Drive {
            controller: 0,
            slot: 0
        }));
        assert!(vm.folders.config.starts_with("C:\\"));
        assert_eq!(
            vm.summary.config.disks().next().unwrap().1.attachment,
            disk.attachment
        );
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_reported_and_does_not_stop_the_rest() {
    let sim = Sim::start(false).await;
    let id = sim.add_vm("web", 2, 2).await;
    sim.files.delete(r"C:\VMs\web\disk0.vhdx").unwrap();
    let vm = sim.host.vm(id).await.unwrap();
    assert!(
        vm.disks[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("disk0.vhdx")),
        "{:?}",
        vm.disks[0]
    );
    assert_eq!(vm.disks[1].chain.len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let sim = Sim::start(false).await;
    let nobody = VmId::random();
    assert_eq!(
        sim.host.vm(nobody).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        sim.host.power(nobody).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(!sim.host.vm_exists(nobody).await.unwrap());
    assert_eq!(
        sim.host
            .disk_file(r"C:\nothing.vhdx")
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn expired_contexts_and_small_envelopes_do_not_lose_a_vm() {
    let sim = Sim::start(false).await;
    for n in 0..12 {
        sim.add_vm(&format!("vm{n}"), 2, 1).await;
    }
    sim.set("envelope_bytes", "60000").await;
    sim.fault(FaultRule::StaleContext, "pull").await;
    assert_eq!(sim.host.vms().await.unwrap().len(), 12);
    sim.fault(FaultRule::EnvelopeLimit, "enumerate").await;
    assert_eq!(sim.host.vms().await.unwrap().len(), 12);
}

#[tokio::test]
async fn faults_of_the_account_are_told() {
    let sim = Sim::start(false).await;
    sim.fault(FaultRule::AccessDenied, "enumerate").await;
    assert_eq!(
        sim.host.facts().await.unwrap_err().kind(),
        ErrorKind::AccessDenied
    );
    sim.fault(FaultRule::Unauthorized, "").await;
    assert_eq!(
        sim.host.facts().await.unwrap_err().kind(),
        ErrorKind::AccessDenied
    );
    let identity = CimSession::new(&Endpoint::new(sim.url()))
        .unwrap()
        .identify()
        .await
        .unwrap();
    assert_eq!(identity.vendor, "Microsoft Corporation");
    // Credentials where none are asked for: it may not be the host that is meant, so nothing is asked of it.
    let credentials = Credentials {
        user: "backup".into(),
        password: "secret".to_owned().into(),
    };
    let endpoint = Endpoint {
        credentials: Some(credentials),
        ..Endpoint::new(sim.url())
    };
    let error = CimSession::new(&endpoint)
        .unwrap()
        .identify()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn the_log_in_decides() {
    let sim = Sim::start_with(false, Some(("HV01\\backup", "s3cret: with colon ü"))).await;
    let with = |user: &str, password: &str| {
        let credentials = Credentials {
            user: user.into(),
            password: password.to_owned().into(),
        };
        let endpoint = Endpoint {
            credentials: Some(credentials),
            ..Endpoint::new(sim.url())
        };
        Host::new(&endpoint).expect("the address is good")
    };
    with("HV01\\backup", "s3cret: with colon ü")
        .facts()
        .await
        .unwrap();
    for host in [
        sim.host.clone(),
        with("HV01\\backup", "wrong"),
        with("nobody", "s3cret: with colon ü"),
    ] {
        let error = host.facts().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
