//! What VMs and hosts may have that a backup must recognise, and habits in which hosts differ.

use hyperv::{CheckpointKind, Endpoint, Host, unsupported};
use hyperv_sim::ctl::{Command, FeatureAdd, PowerAction, VmFeature};
use model::{Consistency, ConsistencyWish, PowerState, VmId};

use crate::proxy::Proxy;
use crate::sim::{Sim, mark};

fn feature(vm: &str, feature: VmFeature) -> FeatureAdd {
    FeatureAdd {
        vm: vm.into(),
        feature,
        path: None,
        name: None,
        number: None,
    }
}

async fn give(sim: &Sim, add: FeatureAdd) {
    sim.ctl(Command::VmFeature(add)).await;
}

async fn codes(sim: &Sim, vm: VmId) -> Vec<String> {
    let all = sim.host.vms().await.expect("VMs can be listed");
    let found = all.into_iter().find(|found| found.config.id == vm);
    let found = found.expect("it is listed");
    let one = sim.host.vm_summary(vm).await.expect("it can be read");
    assert_eq!(found.unsupported, one.unsupported, "alone and among all");
    found
        .unsupported
        .into_iter()
        .map(|item| item.code)
        .collect()
}

#[tokio::test]
async fn what_cannot_be_kept_is_named_by_a_code() {
    for (given, path, generation, code) in [
        (VmFeature::PassThrough, None, 2, unsupported::PASS_THROUGH),
        (
            VmFeature::SharedVhdx,
            Some(r"C:\shared.vhdx"),
            2,
            unsupported::SHARED_DISK,
        ),
        (
            VmFeature::VhdSet,
            Some(r"C:\set.vhds"),
            2,
            unsupported::VHD_SET,
        ),
        (VmFeature::FibreChannel, None, 2, unsupported::FIBRE_CHANNEL),
        (VmFeature::Tpm, None, 2, unsupported::VTPM),
        (
            VmFeature::Floppy,
            Some(r"C:\boot.vfd"),
            1,
            unsupported::FLOPPY,
        ),
        (VmFeature::ReplicaPrimary, None, 2, unsupported::REPLICATED),
        (VmFeature::Replica, None, 2, unsupported::REPLICA),
    ] {
        let sim = Sim::start(false).await;
        let vm = sim.add_vm("web", generation, 1).await;
        assert_eq!(codes(&sim, vm).await, [""; 0]);
        let path = path.map(str::to_owned);
        give(
            &sim,
            FeatureAdd {
                path,
                ..feature("web", given)
            },
        )
        .await;
        assert_eq!(codes(&sim, vm).await, [code], "{given}");
        let config = sim.host.vm_summary(vm).await.unwrap().config;
        assert!(
            config
                .disks()
                .any(|(_, _, path)| path == r"C:\VMs\web\disk0.vhdx")
        );
    }
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    give(&sim, feature("web", VmFeature::Shielded)).await;
    assert_eq!(
        codes(&sim, vm).await,
        [unsupported::VTPM, unsupported::SHIELDED]
    );
    let security = sim.host.vm_summary(vm).await.unwrap().security;
    assert!(security.tpm && security.shielded);
}

#[tokio::test]
async fn adapters_are_read_with_vlan_and_connection() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    give(
        &sim,
        FeatureAdd {
            number: Some(42),
            ..feature("web", VmFeature::Vlan)
        },
    )
    .await;
    give(&sim, feature("web", VmFeature::UnconnectedNic)).await;
    give(&sim, feature("web", VmFeature::Dvd)).await;
    let all = sim.host.vms().await.unwrap();
    let one = sim.host.vm(vm).await.unwrap().summary;
    for summary in [&all[0], &one] {
        let nics: Vec<_> = summary
            .config
            .nics
            .iter()
            .map(|nic| {
                (
                    nic.vlan,
                    nic.switch.as_ref().map(|switch| switch.name.as_str()),
                )
            })
            .collect();
        assert_eq!(nics, [(Some(42), Some("LAN")), (None, None)]);
        assert_eq!(summary.unsupported, []);
    }
}

#[tokio::test]
async fn leftovers_of_others_are_seen_and_not_ours() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let name = Some("Other Backup".to_owned());
    give(
        &sim,
        FeatureAdd {
            name,
            ..feature("web", VmFeature::BackupCheckpoint)
        },
    )
    .await;
    give(&sim, feature("web", VmFeature::PlannedCopy)).await;
    let all = sim.host.checkpoints(vm).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].kind, all[0].mark()),
        (CheckpointKind::Recovery, None)
    );
    assert_eq!(sim.host.marked_checkpoints(vm).await.unwrap(), []);
    assert_eq!(sim.host.planned_vms().await.unwrap().len(), 1);
    // It is no VM.
    assert_eq!(sim.host.vms().await.unwrap().len(), 1);
    let ours = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::Crash, mark(7))
        .await;
    let ours = ours.unwrap();
    assert_eq!(ours.consistency, Consistency::Offline);
    sim.host.destroy_checkpoint(vm, &ours.id).await.unwrap();
    sim.host.wait_merged(vm).await.unwrap();
    assert_eq!(sim.host.checkpoints(vm).await.unwrap(), all);
}

#[tokio::test]
async fn a_node_of_a_cluster_shows_its_volumes_and_which_vms_the_cluster_moves() {
    let sim = Sim::start(false).await;
    let moved = sim.add_vm("moved", 2, 1).await;
    let fixed = sim.add_vm("fixed", 2, 1).await;
    let facts = sim.host.facts().await.unwrap();
    assert!(!facts.clustered && facts.volumes.iter().all(|volume| !volume.cluster_shared));
    sim.ctl(Command::ClusterMake {
        name: "CL01".into(),
        others: vec!["HV02".into()],
    })
    .await;
    sim.set_capacity(r"C:\ClusterStorage\Volume1", 10 << 30)
        .await;
    sim.set_capacity(r"C:\Mount\Data", 5 << 30).await;
    give(&sim, feature("moved", VmFeature::Clustered)).await;
    // One who has just seen that there is no cluster does not ask again at once; a new one does.
    let host = Host::new(&Endpoint::new(sim.url())).unwrap();
    let facts = host.facts().await.unwrap();
    assert!(facts.clustered);
    let volume = facts
        .volume_of(r"c:\clusterstorage\volume1\web\disk.vhdx")
        .unwrap();
    assert!(volume.cluster_shared, "{volume:?}");
    assert!(
        volume.free_bytes > 0 && volume.free_bytes <= 10 << 30,
        "{volume:?}"
    );
    let mounted = facts.volume_of(r"C:\mount\data\disk.vhdx").unwrap();
    assert!(
        !mounted.cluster_shared && mounted.capacity_bytes <= 5 << 30,
        "{mounted:?}"
    );
    let vms = host.vms().await.unwrap();
    let codes = |id: VmId| -> Vec<&str> {
        let vm = vms.iter().find(|vm| vm.config.id == id).unwrap();
        vm.unsupported
            .iter()
            .map(|item| item.code.as_str())
            .collect()
    };
    assert_eq!(codes(moved), [unsupported::CLUSTERED]);
    assert_eq!(codes(fixed), [""; 0]);
}

#[tokio::test]
async fn habits_of_hosts_change_nothing() {
    for (key, value) in [
        ("nil_arrays", "true"),
        ("enabled_states", "v1"),
        ("language", "german"),
        ("capital_paths", "true"),
        ("datetime_offset", "120"),
    ] {
        let sim = Sim::start(false).await;
        let vm = sim.add_vm("web", 1, 2).await;
        sim.power(vm, PowerAction::On).await;
        let host = &sim.host;
        let first = host.create_checkpoint(vm, "first").await.unwrap();
        let plain = host.vm(vm).await.unwrap();
        sim.set(key, value).await;
        let mut other = host.vm(vm).await.unwrap();
        other.summary.uptime_ms = plain.summary.uptime_ms;
        assert!(other == plain, "{key}: {other:#?} and not {plain:#?}");
        assert_eq!(host.vms().await.unwrap().len(), 1, "{key}");

        let taken = host
            .take_checkpoint(vm, ConsistencyWish::PreferApplication, mark(1))
            .await;
        let taken = taken.unwrap();
        assert_eq!(taken.consistency, Consistency::Application, "{key}");
        let frozen = host.frozen_disks(vm, &taken.id).await.unwrap();
        let point = host
            .convert_to_reference_point(vm, &taken.id, &[])
            .await
            .unwrap();
        for disk in &frozen {
            assert!(point.rct_id(&disk.attachment).is_some(), "{key}: {point:?}");
        }
        host.wait_merged(vm).await.unwrap();
        host.save(vm).await.unwrap();
        assert_eq!(host.power(vm).await.unwrap().0, PowerState::Saved, "{key}");
        host.apply_checkpoint(vm, &first).await.unwrap();
        let merges = host.delete_checkpoint(vm, &first, false).await.unwrap();
        assert_eq!(merges.len(), 2, "{key}");
        host.wait_merged_with(vm, &merges, |_| {}).await.unwrap();
        host.turn_off(vm).await.unwrap();
        host.destroy_vm(vm).await.unwrap();
    }
}

#[tokio::test]
async fn many_vms_of_a_host_take_few_requests() {
    let sim = Sim::start(false).await;
    sim.ctl(Command::VmPopulate {
        prefix: "vm".into(),
        count: 60,
        disks: 4,
    })
    .await;
    let proxy = Proxy::start(&sim.url()).await;
    let host = Host::new(&Endpoint::new(proxy.url.as_str())).unwrap();
    host.facts().await.unwrap();
    let vms = host.vms().await.unwrap();
    assert_eq!(vms.len(), 60);
    assert!(vms.iter().all(|vm| vm.config.disks().count() == 4));
    assert!(proxy.requests() <= 20, "{} requests", proxy.requests());
}
