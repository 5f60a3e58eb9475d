//! The host, all VMs, one VM.

use std::sync::Arc;

use hyperv::{CheckpointKind, DiskFileKind, DiskFormat, ErrorKind, Readiness, Slot};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{BootEntry, ControllerKind, Generation, PowerState, VmId};

use super::Bed;
use crate::sim::DISK_BYTES;

pub(super) async fn of_the_host_are_told(bed: Arc<Bed>) {
    bed.vm(1).await;
    let facts = bed.host().facts().await.unwrap();
    assert_eq!((facts.id, facts.name.as_str()), (bed.sim.id, "HV01"));
    assert!(
        facts.os_version.starts_with("10.0.") && facts.change_tracking,
        "{facts:?}"
    );
    assert_eq!(facts.readiness, Readiness::Ready);
    assert_eq!(bed.host().readiness().await.unwrap(), Readiness::Ready);
    assert!(!facts.clustered);
    assert!(facts.default_disk_folder.starts_with("C:\\"), "{facts:?}");
    let volume = facts.volume_of(r"c:\VMs\x.vhdx").unwrap();
    assert!(
        volume.path.eq_ignore_ascii_case("C:\\") && volume.free_bytes > 0,
        "{volume:?}"
    );
    assert!(volume.free_bytes <= volume.capacity_bytes);
    assert_eq!(facts.volume_of(r"\\server\share\x"), None);
    let alone = bed.host().volumes().await.unwrap();
    assert!(
        alone
            .iter()
            .any(|found| found.device_id == volume.device_id)
    );
    let switches = bed.host().switches().await.unwrap();
    let names: Vec<&str> = switches.iter().map(|switch| switch.name.as_str()).collect();
    assert_eq!(names, ["LAN"]);
    assert_eq!(facts.switches, switches);
}

pub(super) async fn of_every_vm_are_told_at_once(bed: Arc<Bed>) {
    let name = format!("{} 'quoted' \\ ü", bed.name());
    let web = bed.sim.add_vm(&name, 2, 2).await;
    let old_name = bed.name();
    let old = bed.sim.add_vm(&old_name, 1, 1).await;
    bed.sim.power(web, PowerAction::On).await;
    bed.sim.user_checkpoint(web, "before update").await;
    let vms = bed.host().vms().await.unwrap();
    let find = |id| {
        let mut found = vms.iter().filter(|vm| vm.config.id == id);
        let only = found.next().expect("the VM is in the inventory");
        assert!(found.next().is_none(), "the VM is there twice");
        only
    };

    let vm = find(web);
    assert_eq!(vm.config.name, name);
    assert_eq!(
        (vm.config.generation, vm.power, vm.checkpoints),
        (Generation::Gen2, PowerState::Running, 1)
    );
    assert_eq!((vm.activity, vm.unsupported.len()), (None, 0));
    assert!(vm.changed.is_some() && vm.config.memory.startup_mib > 0 && vm.config.processors > 0);
    let disks: Vec<_> = vm.config.disks().collect();
    assert_eq!(disks.len(), 2);
    for (controller, _, path) in disks {
        assert_eq!(controller.kind, ControllerKind::Scsi);
        assert!(path.ends_with(".avhdx"), "{path}");
    }
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
    assert_eq!(path, format!(r"C:\VMs\{old_name}\disk0.vhdx"));
    assert_eq!(vm.config.boot_order.len(), 4);
}

pub(super) async fn of_one_vm_are_told_whole(bed: Arc<Bed>) {
    let name = bed.name();
    let id = bed.sim.add_vm(&name, 2, 1).await;
    let root_path = format!(r"C:\VMs\{name}\disk0.vhdx");
    bed.sim.user_checkpoint(id, "first").await;
    bed.sim.user_checkpoint(id, "second").await;
    let vm = bed.host().vm(id).await.unwrap();
    let [first, second] = vm.checkpoints.as_slice() else {
        panic!("{:?}", vm.checkpoints)
    };
    assert_eq!(
        (first.name.as_str(), first.kind, first.current),
        ("first", CheckpointKind::User, false)
    );
    assert_eq!(
        (second.name.as_str(), second.kind, second.current),
        ("second", CheckpointKind::User, true)
    );
    assert_eq!(
        (&first.parent, second.parent.as_ref()),
        (&None, Some(&first.id))
    );
    assert_eq!(first.disks[0].path, root_path);
    assert_eq!(vm.last_applied, None);

    let [disk] = vm.disks.as_slice() else {
        panic!("{:?}", vm.disks)
    };
    assert_eq!((disk.problem.as_deref(), disk.chain.len()), (None, 3));
    let slot = Slot {
        kind: ControllerKind::Scsi,
        controller: 0,
        slot: 0,
    };
    assert_eq!(disk.slot, slot);
    let root = disk.root().unwrap();
    assert_eq!(
        (root.path.as_str(), root.kind),
        (root_path.as_str(), DiskFileKind::Dynamic)
    );
    let leaf = disk.leaf().unwrap();
    assert_eq!(
        (leaf.kind, leaf.format, leaf.size_bytes),
        (DiskFileKind::Differencing, DiskFormat::Vhdx, DISK_BYTES)
    );
    assert!(leaf.file_bytes.is_some_and(|bytes| bytes > 0));
    for file in &disk.chain {
        assert!(file.disk_id.is_some() && file.disk_id == root.disk_id);
    }
    let boot = BootEntry::Drive {
        controller: 0,
        slot: 0,
    };
    assert!(vm.summary.config.boot_entries.contains(&boot));
    assert!(vm.folders.config.starts_with("C:\\"));
    let (_, drive, _) = vm.summary.config.disks().next().unwrap();
    assert_eq!(drive.attachment, disk.attachment);
    // The same chain, asked for by its leaf.
    assert_eq!(bed.host().disk_chain(&leaf.path).await.unwrap(), disk.chain);
    assert_eq!(bed.host().disk_file(&root_path).await.unwrap(), *root);
}

pub(super) async fn of_a_damaged_disk_do_not_hide_the_rest(bed: Arc<Bed>) {
    let name = bed.name();
    let id = bed.sim.add_vm(&name, 2, 2).await;
    bed.files()
        .delete(&format!(r"C:\VMs\{name}\disk0.vhdx"))
        .unwrap();
    let vm = bed.host().vm(id).await.unwrap();
    let problem = vm.disks[0].problem.as_deref().unwrap_or_default();
    assert!(problem.contains("disk0.vhdx"), "{:?}", vm.disks[0]);
    assert_eq!(vm.disks[1].chain.len(), 1);
}

pub(super) async fn of_what_is_not_there_are_not_found(bed: Arc<Bed>) {
    let nobody = VmId::random();
    let host = bed.host();
    let kinds = [
        host.vm(nobody).await.unwrap_err().kind(),
        host.power(nobody).await.unwrap_err().kind(),
        host.check_vm(nobody).await.unwrap_err().kind(),
        host.start(nobody).await.unwrap_err().kind(),
        host.planned_config(nobody).await.unwrap_err().kind(),
        host.disk_file(r"C:\nothing.vhdx").await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 6]);
    assert!(!host.vm_exists(nobody).await.unwrap());
    assert!(host.checkpoints(nobody).await.unwrap().is_empty());
    assert!(host.reference_points(nobody).await.unwrap().is_empty());
}

pub(super) async fn come_in_as_many_pieces_as_it_takes(bed: Arc<Bed>) {
    for _ in 0..8 {
        bed.vm(1).await;
    }
    // Not everything: one that runs has run longer at each look.
    let configs = async || {
        let vms = bed.host().vms().await.unwrap();
        let configs = vms.into_iter().map(|vm| vm.config);
        configs.collect::<Vec<_>>()
    };
    let all = configs().await;
    bed.set("envelope_bytes", "40000").await;
    assert!(configs().await == all);
    // Whatever goes wrong half-way, each VM comes once.
    for (rule, on) in [
        (FaultRule::StaleContext, "pull"),
        (FaultRule::ConnectionLostAfter, "pull"),
        (FaultRule::EnvelopeLimit, "enumerate"),
        (FaultRule::TimedOut, "enumerate"),
    ] {
        bed.fault(rule, on).await;
        assert!(configs().await == all, "{rule}");
    }
}
