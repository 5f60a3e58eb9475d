use model::{
    Consistency, ControllerKind, DiskFolder, DiskImage, DisksTo, Fence, FileImage, GIB, Generation,
    HostId, ImageRef, JobId, MIB, Memory, NetworkMap, OverExisting, PointKind, PowerAfter,
    PowerState, SourceHost, SwitchRef, Timestamp, VmConfig, host_path,
};

use super::*;

const VM: &str = "11111111-1111-4111-8111-111111111111";
const HOST: &str = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA";
const OTHER: &str = "BBBBBBBB-BBBB-4BBB-8BBB-BBBBBBBBBBBB";
const DISK: &str = "22222222-2222-4222-8222-222222222222";
const DISK2: &str = "33333333-3333-4333-8333-333333333333";

pub(super) fn disk(id: &str, path: &str, base: &str) -> DiskImage {
    DiskImage {
        id: id.parse().unwrap(),
        path: path.into(),
        base_path: base.into(),
        attachment: "Microsoft:x".into(),
        size_bytes: 10 * GIB,
        block_bytes: 32 << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        fixed: false,
        allocated_bytes: GIB,
        image: ImageRef {
            len: 10 * GIB,
            root: None,
            height: 0,
            digest: None,
        },
        full_reason: None,
        changed_bytes: 0,
    }
}

pub(super) fn point() -> RecoveryPoint {
    let switch = SwitchRef {
        id: "S1".into(),
        name: "LAN".into(),
    };
    let nic = Nic {
        name: "nic".into(),
        mac: None,
        static_mac: false,
        legacy: false,
        switch: Some(switch),
        vlan: None,
    };
    let controller = model::Controller {
        kind: ControllerKind::Scsi,
        number: 0,
        drives: vec![],
    };
    RecoveryPoint {
        id: PointId::random(),
        job: JobId::random(),
        fence: Fence(1),
        vm: VmConfig {
            id: VM.parse().unwrap(),
            name: "web01".into(),
            generation: Generation::Gen2,
            version: "10.0".into(),
            notes: vec![],
            config_root: Some("C:\\VMs\\web01".into()),
            snapshot_root: None,
            processors: 1,
            memory: Memory {
                startup_mib: 512,
                dynamic: false,
                minimum_mib: 512,
                maximum_mib: 512,
            },
            secure_boot: None,
            secure_boot_template: None,
            automatic_start: None,
            automatic_stop: None,
            boot_order: vec![],
            boot_entries: vec![],
            controllers: vec![controller],
            nics: vec![nic],
        },
        host: SourceHost {
            id: HOST.parse().unwrap(),
            name: "HV01".into(),
            os_version: "10.0.20348".into(),
        },
        power: PowerState::Running,
        created: Timestamp::from_millis(0),
        method: Method::Rct,
        kind: PointKind::Full,
        consistency: Consistency::Crash,
        consistency_note: None,
        parent: None,
        disks: vec![
            disk(
                DISK,
                "C:\\VMs\\web01\\os_AB.avhdx",
                "C:\\VMs\\web01\\os.vhdx",
            ),
            disk(DISK2, "D:\\data\\os.vhdx", "D:\\data\\os.vhdx"),
        ],
        files: vec![FileImage {
            path: "C:\\VMs\\web01\\Snapshots\\X.vmcx".into(),
            role: "config".into(),
            image: ImageRef {
                len: 4096,
                root: None,
                height: 0,
                digest: None,
            },
            checkpoint: None,
            disk: None,
        }],
        chains: Vec::new(),
        excluded: vec![],
        unsupported: vec![],
        checkpoints: vec![],
        stored_bytes: 0,
    }
}

pub(super) fn host() -> HostFacts {
    let volume = |path: &str| Volume {
        path: path.into(),
        capacity_bytes: 100 * GIB,
        free_bytes: 50 * GIB,
    };
    HostFacts {
        id: HOST.parse().unwrap(),
        name: "HV01".into(),
        now: "2026-11-23T10:20:30Z".parse().unwrap(),
        default_disk_folder: "C:\\Disks".into(),
        default_config_folder: "C:\\Config".into(),
        volumes: vec![volume("C:\\"), volume("D:\\")],
        switches: vec![SwitchRef {
            id: "S1".into(),
            name: "LAN".into(),
        }],
        vms: vec![],
        standing: None,
        target_vm: None,
        elsewhere: vec![],
        existing: vec![],
        seeds: vec![],
        reserve: ReservePolicy::default(),
        rate: None,
    }
}

pub(super) fn wish(target: RestoreTarget) -> RestoreWish {
    RestoreWish {
        point: PointId::random(),
        vm: VM.parse().unwrap(),
        scope: RestoreScope::Vm,
        target,
        folder: None,
        disk_folders: vec![],
        name: None,
        networks: vec![],
        id: None,
        mac: None,
        power: PowerAfter::Off,
        over: OverExisting::default(),
        seeds: Vec::new(),
        skip_damaged: false,
        named_at: None,
    }
}

pub(super) fn alternate(host: &str) -> RestoreTarget {
    RestoreTarget::Alternate {
        host: host.parse::<HostId>().unwrap(),
    }
}

fn vm_of(plan: &RestorePlan) -> &VmPlan {
    match &plan.kind {
        RestoreKind::Vm(vm) => vm,
        RestoreKind::Disks | RestoreKind::OnVm(_) => panic!("a VM was asked for"),
    }
}

fn paths(plan: &RestorePlan) -> Vec<&str> {
    plan.disks
        .iter()
        .map(|disk| disk.target_path.as_str())
        .collect()
}

#[test]
fn s05_the_original_location_keeps_id_paths_and_networks() {
    let plan = plan_restore(&point(), &wish(RestoreTarget::Original), &host()).unwrap();
    let vm = vm_of(&plan);
    assert_eq!(vm.route, Route::Import { keep_id: true });
    assert_eq!(
        (vm.name.as_str(), vm.config_folder.as_str()),
        ("web01", "C:\\VMs\\web01")
    );
    assert!(vm.keep_mac && !vm.start);
    assert_eq!(vm.nics[0].switch.as_deref(), Some("LAN"));
    assert_eq!(
        paths(&plan),
        ["C:\\VMs\\web01\\os.vhdx", "D:\\data\\os.vhdx"],
        "flat disks take the base's name"
    );
    assert!(plan.disks.iter().all(|disk| !disk.new_disk_id));
}

#[test]
fn s06_an_alternate_location_is_new_in_every_respect() {
    let plan = plan_restore(&point(), &wish(alternate(HOST)), &host()).unwrap();
    let vm = vm_of(&plan);
    assert_eq!(vm.route, Route::Import { keep_id: false });
    assert_eq!(vm.name, "web01-restored-20261123-1020");
    assert_eq!(vm.nics[0].switch, None);
    assert!(!vm.keep_mac);
    let folder = "C:\\Disks\\web01-restored-20261123-1020";
    assert_eq!(
        paths(&plan),
        [format!("{folder}\\os.vhdx"), format!("{folder}\\os-2.vhdx")]
    );
    assert!(plan.disks.iter().all(|disk| disk.new_disk_id));
}

#[test]
fn s06_another_host_defines_the_vm() {
    let mut facts = host();
    facts.id = OTHER.parse().unwrap();
    let mut asked = wish(alternate(OTHER));
    asked.networks = vec![NetworkMap {
        from: "lan".into(),
        to: "LAN".into(),
    }];
    asked.folder = Some("d:/restored".into());
    asked.disk_folders = vec![DiskFolder {
        disk: DISK2.parse().unwrap(),
        folder: "C:\\two".into(),
    }];
    let plan = plan_restore(&point(), &asked, &facts).unwrap();
    assert_eq!(vm_of(&plan).route, Route::Define);
    assert_eq!(vm_of(&plan).nics[0].switch.as_deref(), Some("LAN"));
    assert_eq!(paths(&plan), ["D:\\restored\\os.vhdx", "C:\\two\\os.vhdx"]);
    let refusal = plan_restore(&point(), &wish(RestoreTarget::Original), &facts).unwrap_err();
    assert_eq!(refusal.code(), "other-host");
}

#[test]
fn what_exists_is_never_overwritten() {
    let on_host = |files: &[&str]| VmOnHost {
        id: VM.parse().unwrap(),
        name: "web01".into(),
        files: files.iter().map(|&file| file.to_owned()).collect(),
        macs: vec![],
    };
    let mut facts = host();
    facts.vms = vec![on_host(&[])];
    let code = |wish: &RestoreWish, facts: &HostFacts| {
        plan_restore(&point(), wish, facts).unwrap_err().code()
    };
    assert_eq!(code(&wish(RestoreTarget::Original), &facts), "vm-exists");
    let mut named = wish(alternate(HOST));
    named.name = Some("WEB01".into());
    assert_eq!(code(&named, &facts), "name-taken");

    let mut other = on_host(&["d:\\DATA\\os.vhdx"]);
    other.id = VmId::random();
    other.name = "db".into();
    facts.vms = vec![other];
    facts.existing = vec!["D:\\data\\os.vhdx".into()];
    assert_eq!(code(&wish(RestoreTarget::Original), &facts), "path-taken");
    facts.vms.clear();
    let plan = plan_restore(&point(), &wish(RestoreTarget::Original), &facts).unwrap();
    assert_eq!(
        plan.park,
        ["D:\\data\\os.vhdx"],
        "what nobody uses is moved aside at the original location"
    );
    let mut elsewhere = wish(alternate(HOST));
    elsewhere.folder = Some("D:\\data".into());
    assert_eq!(code(&elsewhere, &facts), "path-taken");
}

#[test]
fn s12_too_little_room_is_refused_with_figures_per_volume() {
    let mut facts = host();
    facts.volumes[1].free_bytes = 5 * GIB;
    let refusal = plan_restore(&point(), &wish(RestoreTarget::Original), &facts).unwrap_err();
    let Refusal::NotEnoughSpace { short } = &refusal else {
        panic!("{refusal}")
    };
    assert_eq!(short.len(), 1);
    assert_eq!(short[0].path, "D:\\");
    assert_eq!(short[0].needed_bytes, GIB + 5 * MIB);
    assert_eq!(short[0].available_bytes, 5 * GIB);
    assert_eq!(short[0].reserve_bytes, 5 * GIB);
    assert!(
        refusal.to_string().contains(&(GIB + 5 * MIB).to_string()),
        "{refusal}"
    );
    facts.volumes[1].free_bytes = 6 * GIB + 5 * MIB;
    assert!(plan_restore(&point(), &wish(RestoreTarget::Original), &facts).is_ok());
}

#[test]
fn s12_a_fixed_disk_needs_its_full_size() {
    let mut point = point();
    point.disks[0].fixed = true;
    let plan = plan_restore(&point, &wish(RestoreTarget::Original), &host()).unwrap();
    assert_eq!(plan.volumes[0].needed_bytes, 10 * GIB + 5 * MIB + 16 * MIB);
}

#[test]
fn s13_disks_are_told_from_a_vm() {
    let mut asked = wish(alternate(HOST));
    asked.scope = RestoreScope::Disks {
        disks: vec![DISK2.parse().unwrap()],
        to: DisksTo::Files,
    };
    asked.folder = Some("C:\\out".into());
    let plan = plan_restore(&point(), &asked, &host()).unwrap();
    assert_eq!(plan.kind, RestoreKind::Disks);
    assert_eq!(paths(&plan), ["C:\\out\\os.vhdx"]);
    asked.scope = RestoreScope::Disks {
        disks: vec![DiskId::random()],
        to: DisksTo::Files,
    };
    assert_eq!(
        plan_restore(&point(), &asked, &host()).unwrap_err().code(),
        "no-such-disk"
    );
}

#[test]
fn hostile_paths_in_a_point_or_wish_are_refused() {
    let mut evil = point();
    evil.disks[0].base_path = "C:\\VMs\\..\\..\\Windows\\x.vhdx".into();
    assert_eq!(
        plan_restore(&evil, &wish(RestoreTarget::Original), &host())
            .unwrap_err()
            .code(),
        "bad-path"
    );
    let mut asked = wish(alternate(HOST));
    asked.folder = Some("\\\\server\\share".into());
    assert_eq!(
        plan_restore(&point(), &asked, &host()).unwrap_err().code(),
        "bad-path"
    );
    asked.folder = Some("Q:\\x".into());
    assert_eq!(
        plan_restore(&point(), &asked, &host()).unwrap_err().code(),
        "no-volume"
    );
}

#[test]
fn switches_must_exist_on_both_sides() {
    for (from, to) in [("LAN", "nowhere"), ("nowhere", "LAN")] {
        let mut asked = wish(alternate(HOST));
        asked.networks = vec![NetworkMap {
            from: from.into(),
            to: to.into(),
        }];
        assert_eq!(
            plan_restore(&point(), &asked, &host()).unwrap_err().code(),
            "no-such-switch"
        );
    }
    let mut facts = host();
    facts.switches.clear();
    let plan = plan_restore(&point(), &wish(RestoreTarget::Original), &facts).unwrap();
    assert_eq!(vm_of(&plan).nics[0].switch, None);
    assert_eq!(plan.warnings.len(), 1, "a lost network is said");
}

#[test]
fn power_afterwards_is_off_unless_asked() {
    for (power, start) in [
        (PowerAfter::Off, false),
        (PowerAfter::AsBefore, true),
        (PowerAfter::On, true),
    ] {
        let mut asked = wish(RestoreTarget::Original);
        asked.power = power;
        assert_eq!(
            vm_of(&plan_restore(&point(), &asked, &host()).unwrap()).start,
            start
        );
    }
}

/// A point of the VSS method: a chain of three files and a disk of one, in folders of their own.
pub(super) fn point_of_files() -> RecoveryPoint {
    let file = |path: &str, len: u64| FileImage {
        path: path.into(),
        role: FileImage::DISK.into(),
        image: ImageRef {
            len,
            root: None,
            height: 0,
            digest: None,
        },
        checkpoint: None,
        disk: None,
    };
    let chain = |id: &str, files: &[&str]| model::DiskChain {
        id: id.parse().unwrap(),
        path: files[0].into(),
        base_path: files[files.len() - 1].into(),
        attachment: "Microsoft:x".into(),
        size_bytes: 10 * GIB,
        block_bytes: 2 << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        fixed: false,
        allocated_bytes: 3 * GIB,
        files: files.iter().map(|&path| path.to_owned()).collect(),
        changed_bytes: 0,
    };
    let mut point = point();
    point.method = Method::Vss;
    point.disks.clear();
    point.files.extend([
        file("C:\\VMs\\web01\\os_2.avhdx", GIB),
        file("C:\\VMs\\web01\\os_1.avhdx", GIB / 2),
        file("C:\\Gold\\os.vhdx", 2 * GIB),
        file("D:\\data\\old.vhd", 4 * GIB),
    ]);
    point.chains = vec![
        chain(
            DISK,
            &[
                "C:\\VMs\\web01\\os_2.avhdx",
                "C:\\VMs\\web01\\os_1.avhdx",
                "C:\\Gold\\os.vhdx",
            ],
        ),
        chain(DISK2, &["D:\\data\\old.vhd"]),
    ];
    point
}

#[test]
fn s20_s21_chains_are_written_under_their_own_names_and_end_as_one_file() {
    let mut wish = wish(alternate(HOST));
    wish.folder = Some("D:\\back".into());
    let plan = plan_restore(&point_of_files(), &wish, &host()).unwrap();
    let files = |disk: &DiskPlan| -> Vec<String> {
        disk.chain
            .iter()
            .map(|file| file.target_path.clone())
            .collect()
    };
    assert_eq!(paths(&plan), ["D:\\back\\os.vhdx", "D:\\back\\old.vhdx"]);
    assert_eq!(
        files(&plan.disks[0]),
        [
            "D:\\back\\os_2.avhdx",
            "D:\\back\\os_1.avhdx",
            "D:\\back\\os.vhdx"
        ]
    );
    // A VHD cannot take part in a VHDX: it is copied.
    assert_eq!(files(&plan.disks[1]), ["D:\\back\\old.vhd"]);
    let volume = &plan.volumes[0];
    // The chain, what its root takes in, the VHD and its copy.
    let least = GIB + GIB / 2 + 2 * GIB + GIB + GIB / 2 + 4 * GIB + 3 * GIB;
    assert!(
        (least..least + GIB / 4).contains(&volume.needed_bytes),
        "{volume}"
    );
    let mut all = wanted_paths(&point_of_files(), &wish, &host());
    all.sort();
    assert_eq!(all.len(), 5, "{all:?}");
}

#[test]
fn s20_what_stands_where_a_file_of_a_chain_is_written_is_in_the_way() {
    let mut facts = host();
    let mut wish = wish(alternate(HOST));
    wish.folder = Some("D:\\back".into());
    facts.existing = vec!["D:\\back\\os_1.avhdx".into()];
    let refusal = plan_restore(&point_of_files(), &wish, &facts).unwrap_err();
    assert_eq!(refusal.code(), "path-taken");
    let original = RestoreWish {
        folder: None,
        target: RestoreTarget::Original,
        ..wish.clone()
    };
    // A root elsewhere comes to where it was, its children beside it.
    let plan = plan_restore(&point_of_files(), &original, &host()).unwrap();
    assert_eq!(plan.disks[0].target_path, "C:\\Gold\\os.vhdx");
    facts.existing = vec!["C:\\Gold\\os_1.avhdx".into()];
    let plan = plan_restore(&point_of_files(), &original, &facts).unwrap();
    assert_eq!(plan.park, ["C:\\Gold\\os_1.avhdx"]);
}

#[test]
fn s19_merging_checkpoints_that_could_have_stayed_is_said() {
    let mut point = point_of_files();
    let warned = |point: &RecoveryPoint, facts: &HostFacts| {
        let wish = wish(RestoreTarget::Alternate { host: facts.id });
        let plan = plan_restore(point, &wish, facts).unwrap();
        plan.warnings
            .iter()
            .any(|text| text.contains("checkpoints"))
    };
    assert!(!warned(&point, &host()));
    point.checkpoints = vec![model::CheckpointInfo {
        id: "Microsoft:9".into(),
        name: "one".into(),
        parent: None,
        created: None,
    }];
    assert!(warned(&point, &host()));
    let mut other = host();
    other.id = OTHER.parse().unwrap();
    assert!(!warned(&point, &other));
    point.excluded = vec![model::Excluded {
        path: "C:\\x.vhdx".into(),
        slot: "scsi 0:5".into(),
    }];
    assert!(!warned(&point, &host()));
}

/// [`point_of_files`] of a VM with a checkpoint, whose definition is there.
pub(super) fn point_with_checkpoint() -> RecoveryPoint {
    let mut point = point_of_files();
    point.checkpoints = vec![model::CheckpointInfo {
        id: "Microsoft:9".into(),
        name: "one".into(),
        parent: None,
        created: None,
    }];
    let own = point.files.iter().find(|file| file.is_own_config());
    let mut config = own.unwrap().clone();
    config.path = "C:\\VMs\\web01\\Snapshots\\9.vmcx".into();
    config.checkpoint = Some("Microsoft:9".into());
    point.files.push(config);
    for file in &mut point.files {
        file.path = file.path.replace("old.vhd", "old.vhdx");
    }
    let old = &mut point.chains[1];
    for path in [&mut old.path, &mut old.base_path, &mut old.files[0]] {
        *path = path.replace("old.vhd", "old.vhdx");
    }
    // The other branch of the checkpoint.
    let mut branch = point.file("C:\\VMs\\web01\\os_2.avhdx").unwrap().clone();
    branch.path = "C:\\VMs\\web01\\os_3.avhdx".into();
    point.files.insert(0, branch);
    for file in point.files.iter_mut().filter(|file| file.is_disk()) {
        let parent = match host_path::file_name(&file.path) {
            "os_2.avhdx" | "os_3.avhdx" => Some("C:\\VMs\\web01\\os_1.avhdx".to_owned()),
            "os_1.avhdx" => Some("C:\\Gold\\os.vhdx".to_owned()),
            _ => None,
        };
        file.disk = Some(model::DiskFileFacts {
            parent,
            data_write_guid: String::new(),
            modified: None,
        });
    }
    point
}

#[test]
fn s19_checkpoints_come_back_if_and_only_if_all_three_conditions_hold() {
    for (vss, whole, same_host) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let mut point = if vss {
            point_with_checkpoint()
        } else {
            point()
        };
        if !vss {
            point.checkpoints = point_with_checkpoint().checkpoints;
        }
        if !whole {
            point.excluded = vec![model::Excluded {
                path: "C:\\x.vhdx".into(),
                slot: "scsi 0:5".into(),
            }];
        }
        let mut facts = host();
        if !same_host {
            facts.id = OTHER.parse().unwrap();
        }
        let wish = wish(RestoreTarget::Alternate { host: facts.id });
        let plan = plan_restore(&point, &wish, &facts).unwrap();
        let case = format!("{vss} {whole} {same_host}");
        assert_eq!(!plan.tree.is_empty(), vss && whole && same_host, "{case}");
        assert!(!plan.disks.is_empty(), "{case}");
        let merges = plan.steps.iter().any(|step| step.name() == "merge-chain");
        let links = plan.steps.iter().any(|step| step.name() == "link-tree");
        let kept = !plan.tree.is_empty();
        assert_eq!((merges, links), (vss && !kept, kept), "{case}");
        if !kept {
            continue;
        }
        let files = point.files.iter().filter(|file| file.is_disk());
        assert_eq!(plan.tree.len(), files.count());
        for (place, file) in plan.tree.iter().enumerate() {
            let stored = point.file(&file.source_path).unwrap();
            let parent = stored.disk.as_ref().unwrap().parent.as_deref();
            assert_eq!(
                file.parent.map(|at| plan.tree[at].source_path.as_str()),
                parent
            );
            assert!(file.parent.is_none_or(|parent| parent < place));
        }
        assert!(plan.disks.iter().all(|disk| disk.chain.is_empty()));
        let leaf = plan
            .tree
            .iter()
            .find(|file| file.source_path == plan.disks[0].source_path);
        assert_eq!(leaf.unwrap().target_path, plan.disks[0].target_path);
        let needed: u64 = plan.volumes.iter().map(|volume| volume.needed_bytes).sum();
        let files: u64 = plan.tree.iter().map(|file| file.file_bytes).sum();
        assert!(needed >= files && needed < files + GIB);
    }
}

#[test]
fn s19_files_of_a_tree_come_back_where_they_were() {
    let point = point_with_checkpoint();
    let plan = plan_restore(&point, &wish(RestoreTarget::Original), &host()).unwrap();
    assert!(!plan.tree.is_empty());
    for file in &plan.tree {
        assert_eq!(file.target_path, file.source_path);
    }
    // Elsewhere they lie beside their disk, branches as well.
    let mut elsewhere = wish(alternate(HOST));
    elsewhere.folder = Some("D:\\back".into());
    let plan = plan_restore(&point, &elsewhere, &host()).unwrap();
    for file in &plan.tree {
        let name = host_path::file_name(&file.source_path);
        assert_eq!(file.target_path, format!("D:\\back\\{name}"));
    }
    // Nothing here can give a VHD another parent.
    let mut old = point_with_checkpoint();
    for file in &mut old.files {
        file.path = file.path.replace("old.vhdx", "old.vhd");
    }
    let chain = &mut old.chains[1];
    for path in [&mut chain.path, &mut chain.base_path, &mut chain.files[0]] {
        *path = path.replace("old.vhdx", "old.vhd");
    }
    let plan = plan_restore(&old, &elsewhere, &host()).unwrap();
    assert!(plan.tree.is_empty());
    assert!(plan.warnings.iter().any(|text| text.contains("VHD format")));
    let plan = plan_restore(&old, &wish(RestoreTarget::Original), &host()).unwrap();
    assert!(!plan.tree.is_empty());
    // A file whose parent is not in the point cannot be put anywhere.
    let mut torn = point_with_checkpoint();
    torn.files.retain(|file| {
        file.disk.is_none()
            || file
                .disk
                .as_ref()
                .is_some_and(|facts| facts.parent.is_some())
    });
    let refusal = plan_restore(&torn, &wish(RestoreTarget::Original), &host()).unwrap_err();
    assert_eq!(refusal.code(), "incomplete-chain");
}

#[test]
fn a_chain_that_lacks_a_file_is_refused() {
    let mut point = point_of_files();
    point
        .files
        .retain(|file| !file.path.ends_with("os_1.avhdx"));
    let refusal = plan_restore(&point, &wish(alternate(HOST)), &host()).unwrap_err();
    assert_eq!(refusal.code(), "incomplete-chain");
    point.chains.clear();
    let refusal = plan_restore(&point, &wish(alternate(HOST)), &host()).unwrap_err();
    assert_eq!(refusal.code(), "method-not-supported");
}
