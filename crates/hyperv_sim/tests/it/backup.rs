//! Flow b: checkpoint, read, changes, reference point, merge.

use std::fs::File;

use hyperv_sim::ctl::{Command, PowerAction};
use wsman::Properties;

use crate::support::{DISK, MIB, Sim, changes, read_chain, settings, system};

#[tokio::test]
async fn an_incremental_backup_reads_exactly_what_changed() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    sim.guest_write("web01", 10 * MIB, 1, 4096).await;

    let first = sim.recovery_checkpoint(&vm.id, 1).await;
    assert_eq!(
        first.text("VirtualSystemType"),
        Some("Microsoft:Hyper-V:Snapshot:Recovery")
    );
    let disks = sim.disks_of(first.text("InstanceID").unwrap()).await;
    assert_eq!(disks[0].1, r"C:\VMs\web01\disk.vhdx");
    let frozen = sim.local(&disks[0].1).await;
    let before = sim.guest_read("web01").await;

    // Written while the backup reads: belongs to the next increment.
    sim.guest_write("web01", 20 * MIB, 2, 8192).await;
    assert_eq!(read_chain(&frozen), before);
    let leaf = sim.show("web01").await.disks[0].path.clone();
    assert!(leaf.ends_with(".avhdx"), "{leaf}");
    // The frozen file may be read by anybody, the leaf by nobody.
    File::open(&frozen).unwrap().try_lock_shared().unwrap();
    assert!(
        File::open(sim.local(&leaf).await)
            .unwrap()
            .try_lock_shared()
            .is_err()
    );

    let point = sim.convert(&first).await;
    let ids = point.texts("ResilientChangeTrackingIdentifiers");
    let active = sim.disks_of(&format!("Microsoft:{}", vm.id)).await;
    assert_eq!(
        point.texts("VirtualDiskIdentifiers"),
        [active[0].0.as_str()]
    );
    assert_eq!(point.u16("ReferencePointType"), Some(2));
    assert_eq!(point.u16("ConsistencyLevel"), Some(1));
    // The merge is seen, and then it is over.
    let status = sim
        .one(&format!(
            "SELECT * FROM Msvm_ComputerSystem WHERE Name = '{}'",
            vm.id
        ))
        .await;
    assert_eq!(status.u64s("OperationalStatus").unwrap(), [2, 32772]);
    sim.settle("web01").await;
    assert_eq!(
        sim.show("web01").await.disks[0].path,
        r"C:\VMs\web01\disk.vhdx"
    );
    assert!(sim.files("*.avhdx").await.is_empty());
    assert!(
        sim.query(
            "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType LIKE '%Snapshot%'"
        )
        .await
        .is_empty()
    );

    sim.guest_write("web01", 30 * MIB, 3, 512).await;
    let second = sim.recovery_checkpoint(&vm.id, 2).await;
    sim.guest_write("web01", 40 * MIB, 4, 4096).await;
    let file = sim.disks_of(second.text("InstanceID").unwrap()).await[0]
        .1
        .clone();
    for partial in ["0", "1MiB"] {
        sim.set("partial_changes", partial).await;
        let found = sim.changes(&file, ids[0]).await;
        assert_eq!(found, [(20 * MIB, 8192), (30 * MIB, 512)], "{partial}");
    }
    sim.set("coarse_bytes", "64KiB").await;
    assert_eq!(
        sim.changes(&file, ids[0]).await,
        [(20 * MIB, 65536), (30 * MIB, 65536)]
    );
    sim.set("coarse_bytes", "512").await;

    // The increment laid over the first backup is the second one.
    let now = read_chain(&sim.local(&file).await);
    let mut rebuilt = before;
    for (offset, length) in sim.changes(&file, ids[0]).await {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        rebuilt[range.clone()].copy_from_slice(&now[range]);
    }
    assert!(rebuilt == now);

    let next = sim.convert(&second).await;
    sim.settle("web01").await;
    let path = r"C:\VMs\web01\disk.vhdx";
    let found = sim
        .changes(path, next.texts("ResilientChangeTrackingIdentifiers")[0])
        .await;
    assert_eq!(found, [(40 * MIB, 4096)]);
    assert_eq!(
        sim.query("SELECT * FROM Msvm_VirtualSystemReferencePoint")
            .await
            .len(),
        2
    );

    // Only the older one is thrown away; the newer one still works.
    let old = wsman::Epr::new(crate::support::V2, "Msvm_VirtualSystemReferencePoint")
        .with("InstanceID", point.text("InstanceID").unwrap())
        .with("VirtualSystemIdentifier", &vm.id);
    let parameters = Properties::new().with("AffectedReferencePoint", old);
    sim.done(
        "Msvm_VirtualSystemReferencePointService",
        "DestroyReferencePoint",
        parameters,
        "Msvm_ComputerSystem",
    )
    .await;
    let gone = sim
        .invoke(
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            changes(path, ids[0], 0, DISK),
        )
        .await;
    assert_eq!(gone.u32("ReturnValue"), Some(32773));
    assert_eq!(
        sim.changes(path, next.texts("ResilientChangeTrackingIdentifiers")[0])
            .await,
        [(40 * MIB, 4096)]
    );
}

#[tokio::test]
async fn a_machine_that_is_off_is_backed_up_and_tracked_too() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 1).await;
    let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
    let point = sim.convert(&checkpoint).await;
    sim.settle("a").await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(Command::GuestWorkload {
        vm: "a".into(),
        seed: 9,
        bytes: 3 * MIB,
    })
    .await;
    sim.power("a", PowerAction::Off).await;
    let again = sim.recovery_checkpoint(&vm.id, 2).await;
    let file = sim.disks_of(again.text("InstanceID").unwrap()).await[0]
        .1
        .clone();
    let found = sim
        .changes(&file, point.texts("ResilientChangeTrackingIdentifiers")[0])
        .await;
    let changed: u64 = found.iter().map(|(_, length)| length).sum();
    assert!(changed > MIB && changed <= 3 * MIB, "{changed}");
}

#[tokio::test]
async fn ids_are_unknown_once_they_cannot_be_relied_on() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    let ask = async |id: &str| {
        let path = sim.show("a").await.disks[0].path.clone();
        let outputs = sim
            .invoke(
                "Msvm_ImageManagementService",
                "GetVirtualDiskChanges",
                changes(&path, id, 0, DISK),
            )
            .await;
        outputs.u32("ReturnValue").unwrap()
    };
    let fresh = async || {
        let checkpoint = sim.recovery_checkpoint(&vm.id, 2).await;
        let point = sim.convert(&checkpoint).await;
        sim.settle("a").await;
        let id = point.texts("ResilientChangeTrackingIdentifiers")[0].to_owned();
        assert_eq!(ask(&id).await, 0);
        id
    };
    // A checkpoint was applied.
    let id = fresh().await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: Some("x".into()),
    })
    .await;
    assert_eq!(ask(&id).await, 0, "a checkpoint alone does no harm");
    sim.ctl(Command::CheckpointApply {
        vm: "a".into(),
        checkpoint: "x".into(),
    })
    .await;
    assert_eq!(ask(&id).await, 32773);
    sim.ctl(Command::CheckpointDelete {
        vm: "a".into(),
        checkpoint: "x".into(),
    })
    .await;
    // The files beside the disk are gone.
    let id = fresh().await;
    std::fs::remove_file(sim.local(r"C:\VMs\a\disk.vhdx.mrt").await).unwrap();
    assert_eq!(ask(&id).await, 32773);
    // The disk was written to from outside.
    let id = fresh().await;
    let local = sim.local(r"C:\VMs\a\disk.vhdx").await;
    let file = File::options().read(true).write(true).open(local).unwrap();
    let writer = vhdx::DiskWriter::open(file, Vec::new(), vhdx::Durability::ProcessKill).unwrap();
    writer.write_at(&[1; 512], 0).unwrap();
    writer.close().unwrap();
    assert_eq!(ask(&id).await, 32773);
    // Nonsense, and ranges beyond the disk.
    assert_eq!(ask("rctX:nonsense").await, 32773);
}

#[tokio::test]
async fn what_is_not_possible_now_is_refused_with_its_code() {
    let sim = Sim::start().await;
    let vm = sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    let service = "Msvm_VirtualSystemSnapshotService";
    let create = |kind: u16| {
        Properties::new()
            .with("AffectedSystem", system(&vm.id))
            .with("SnapshotType", kind)
    };
    let code = async |method: &str, parameters: Properties| {
        sim.invoke(service, method, parameters)
            .await
            .u32("ReturnValue")
            .unwrap()
    };
    assert_eq!(code("CreateSnapshot", create(3)).await, 32773);
    let nobody = Properties::new()
        .with("AffectedSystem", system("nobody"))
        .with("SnapshotType", 2_u16);
    assert_eq!(code("CreateSnapshot", nobody).await, 32773);
    sim.set("job_millis", "400").await;
    let first = sim.invoke(service, "CreateSnapshot", create(2)).await;
    let status = sim
        .one(&format!(
            "SELECT * FROM Msvm_ComputerSystem WHERE Name = '{}'",
            vm.id
        ))
        .await;
    assert_eq!(status.u64s("OperationalStatus").unwrap(), [2, 32768]);
    assert_eq!(code("CreateSnapshot", create(2)).await, 32775);
    sim.follow(&first).await;
    sim.set("job_millis", "30").await;
    let user = sim.checkpoints("a").await.remove(0);
    let user = || {
        Properties::new()
            .with("Snapshot", settings(&user.id))
            .with("AffectedSnapshot", settings(&user.id))
    };
    assert_eq!(code("ApplySnapshot", user()).await, 32775, "it runs");
    assert_eq!(
        code("ConvertToReferencePoint", user()).await,
        32775,
        "a user's"
    );
    let unknown = sim
        .try_invoke(
            &wsman::Epr::new(crate::support::V2, service),
            "Explode",
            Properties::new(),
        )
        .await;
    assert_eq!(
        unknown.unwrap_err().subcode,
        wsman::Subcode::ActionNotSupported
    );
}
