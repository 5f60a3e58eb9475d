//! What a preview tells beside the plan: the checkpoint rule, identities, every refusal, what counts as drift.

use model::{CheckpointInfo, DisksTo, Excluded, GIB, KeepOrNew, MIB, PowerAfter, RestoreTarget};

use super::tests::{alternate, host, point, point_of_files, point_with_checkpoint, wish};
use super::*;

const HOST: &str = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA";
const OTHER: &str = "BBBBBBBB-BBBB-4BBB-8BBB-BBBBBBBBBBBB";

fn with_checkpoint(mut point: RecoveryPoint) -> RecoveryPoint {
    point.checkpoints = vec![CheckpointInfo {
        id: "Microsoft:9".into(),
        name: "before update".into(),
        parent: None,
        created: None,
    }];
    point
}

fn plan(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> RestorePlan {
    plan_restore(point, wish, facts).unwrap()
}

/// VSS method, nothing excluded, same host.
#[track_caller]
fn check_rule(vss: bool, whole: bool, same: bool, outcome: CheckpointOutcome, decided: &str) {
    let mut point = match vss {
        true => point_with_checkpoint(),
        false => with_checkpoint(point()),
    };
    if !whole {
        point.excluded = vec![Excluded {
            path: "C:\\x.vhdx".into(),
            slot: "scsi 0:5".into(),
        }];
    }
    let mut facts = host();
    if !same {
        facts.id = OTHER.parse().unwrap();
    }
    let rule = checkpoint_outcome(&point, &facts);
    assert_eq!(rule.outcome, outcome, "{rule}");
    let conditions = Conditions {
        vss_method: vss,
        nothing_excluded: whole,
        same_host: same,
    };
    assert_eq!(rule.conditions, conditions);
    assert!(rule.to_string().ends_with(decided), "{rule}");
    // Whatever the rule says, a plan says what will happen.
    let planned = plan(&point, &wish(alternate(&facts.id.to_string())), &facts);
    assert_eq!(planned.checkpoints.rule, rule);
    assert_eq!(planned.checkpoints.outcome, outcome);
    assert_eq!(!planned.tree.is_empty(), outcome == CheckpointOutcome::Kept);
    point.checkpoints.clear();
    let rule = checkpoint_outcome(&point, &facts);
    assert_eq!(rule.outcome, CheckpointOutcome::None);
}

#[test]
fn s19_checkpoints_come_back_in_one_case_of_eight() {
    use CheckpointOutcome::{Consolidated, Kept};
    check_rule(true, true, true, Kept, "all three hold");
    for (vss, whole, same, decided) in [
        (true, true, false, "by: same-host"),
        (true, false, true, "by: nothing-excluded"),
        (true, false, false, "by: nothing-excluded, same-host"),
        (false, true, true, "by: vss-method"),
        (false, true, false, "by: vss-method, same-host"),
        (false, false, true, "by: vss-method, nothing-excluded"),
        (false, false, false, "nothing-excluded, same-host"),
    ] {
        check_rule(vss, whole, same, Consolidated, decided);
    }
}

#[test]
fn s19_disks_alone_bring_no_checkpoints() {
    let point = point_with_checkpoint();
    let mut asked = wish(alternate(HOST));
    asked.scope = RestoreScope::Disks {
        disks: vec![point.chains[0].id],
        to: DisksTo::Files,
    };
    let checkpoints = plan(&point, &asked, &host()).checkpoints;
    assert_eq!(checkpoints.outcome, CheckpointOutcome::Consolidated);
    assert!(!checkpoints.whole_vm);
    assert_eq!(checkpoints.names, ["one"]);
}

/// The VM of the point, which runs on its disks; an excluded one hangs at scsi 0:5.
pub(super) fn standing_vm() -> StandingVm {
    let disk = |slot: &str, files: &[&str]| StandingDisk {
        slot: slot.into(),
        id: None,
        files: files.iter().map(|&file| file.to_owned()).collect(),
        problem: None,
    };
    let root = "C:\\VMs\\web01\\os.vhdx";
    StandingVm {
        id: point().vm.id,
        name: "Web01".into(),
        power: model::PowerState::Running,
        config_folder: Some("C:\\VMs\\web01".into()),
        disks: vec![
            disk("scsi 0:0", &["C:\\VMs\\web01\\os_9.avhdx", root]),
            disk("scsi 0:1", &["D:\\data\\os.vhdx"]),
            disk("scsi 0:5", &["D:\\scratch.vhdx"]),
        ],
        branches: vec![("C:\\VMs\\web01\\os_8.avhdx".into(), Some(0))],
        checkpoints: vec!["one".into()],
        clustered: false,
    }
}

/// A host on which the point's VM is still there, beside another.
fn host_with_vm() -> HostFacts {
    let mut facts = host();
    let standing = standing_vm();
    let leaves = standing.disks.iter().map(|disk| disk.files[0].clone());
    facts.vms = vec![VmOnHost {
        id: standing.id,
        name: standing.name.clone(),
        files: leaves.collect(),
        macs: vec!["00155D000001".into()],
    }];
    facts.existing = standing
        .disks
        .iter()
        .flat_map(|disk| disk.files.clone())
        .collect();
    facts.standing = Some(standing);
    facts
}

fn point_with_excluded() -> RecoveryPoint {
    let mut point = point();
    point.vm.nics[0].mac = Some("00155D000001".into());
    point.excluded = vec![Excluded {
        path: "D:\\scratch_A.avhdx".into(),
        slot: "scsi 0:5".into(),
    }];
    point
}

#[test]
fn a_vm_that_is_still_there_makes_room_once_the_new_one_is_rehearsed() {
    let (point, facts) = (point_with_excluded(), host_with_vm());
    let made = plan(&point, &wish(RestoreTarget::Original), &facts);
    check_steps(
        &made,
        "void-bases; write-disk C:\\VMs\\web01\\os.vhdx; write-disk D:\\data\\os.vhdx; rehearse-vm; stop-vm; \
         export-vm C:\\VMs\\web01; park-file C:\\VMs\\web01\\os_9.avhdx; park-file C:\\VMs\\web01\\os.vhdx; \
         park-file D:\\data\\os.vhdx; park-file C:\\VMs\\web01\\os_8.avhdx; destroy-vm; keep-disk D:\\scratch.vhdx; \
         register-vm C:\\VMs\\web01; read-back",
    );
    assert_eq!(made.identities.as_ref().unwrap().collisions, []);
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    let over = made.kind.vm().unwrap().over.clone().unwrap();
    assert_eq!(
        over.stay[0].excluded.as_deref(),
        Some("D:\\scratch_A.avhdx")
    );
    assert_eq!(made.disks[0].target_path, "C:\\VMs\\web01\\os.vhdx");
    // A running VM and one that is off are not the same effects.
    let mut off = facts.clone();
    off.standing.as_mut().unwrap().power = model::PowerState::Off;
    let stopped = plan(&point, &wish(RestoreTarget::Original), &off);
    let lost = differences(&made.effects(), &stopped.effects());
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].contains("Stop VM"), "{lost:?}");
}

#[test]
fn what_the_point_does_not_hold_or_others_use_is_not_moved() {
    let (mut point, mut facts) = (point_with_excluded(), host_with_vm());
    point.excluded.clear();
    let gold = "C:\\Gold\\base.vhdx".to_owned();
    let standing = facts.standing.as_mut().unwrap();
    standing.disks[1].files.push(gold.clone());
    facts.vms.push(VmOnHost {
        id: VmId::random(),
        name: "db".into(),
        files: vec!["C:\\db.vhdx".into(), gold.clone()],
        macs: vec![],
    });
    let made = plan(&point, &wish(RestoreTarget::Original), &facts);
    let over = made.kind.vm().unwrap().over.clone().unwrap();
    assert!(!over.parks(&gold) && !over.parks("D:\\scratch.vhdx"));
    assert_eq!(over.stay[0].excluded, None);
    assert_eq!(made.warnings.len(), 2, "{:?}", made.warnings);
    // A restored disk would come where it lies.
    facts.standing.as_mut().unwrap().disks[2].files = vec!["D:\\data\\os.vhdx".into()];
    facts.standing.as_mut().unwrap().disks.remove(1);
    point.disks.remove(1);
    let mut asked = wish(RestoreTarget::Original);
    asked.disk_folders = vec![model::DiskFolder {
        disk: point.disks[0].id,
        folder: "D:\\data".into(),
    }];
    let refusal = plan_restore(&point, &asked, &facts).unwrap_err();
    assert_eq!(refusal.code(), "path-taken");
}

#[test]
fn a_vm_that_cannot_make_room_is_refused() {
    let asked = wish(RestoreTarget::Original);
    let code = |facts: &HostFacts, asked: &RestoreWish| {
        plan_restore(&point(), asked, facts).unwrap_err().code()
    };
    let mut saved = host_with_vm();
    saved.standing.as_mut().unwrap().power = model::PowerState::Saved;
    assert_eq!(code(&saved, &asked), "vm-saved");
    let mut clustered = host_with_vm();
    clustered.standing.as_mut().unwrap().clustered = true;
    assert_eq!(code(&clustered, &asked), "vm-clustered");
    // Beside the original, its id cannot be kept.
    let mut beside = wish(alternate(HOST));
    beside.id = Some(KeepOrNew::Keep);
    beside.folder = Some("D:\\out".into());
    assert_eq!(code(&host_with_vm(), &beside), "vm-exists");
    let mut in_the_way = host_with_vm();
    in_the_way.vms.push(VmOnHost {
        id: VmId::random(),
        name: "WEB01".into(),
        files: vec![],
        macs: vec![],
    });
    assert_eq!(code(&in_the_way, &asked), "name-taken");
}

#[track_caller]
fn check_steps(plan: &RestorePlan, expected: &str) {
    let steps: Vec<String> = plan
        .steps
        .iter()
        .map(|step| match step.path() {
            Some(path) => format!("{} {path}", step.name()),
            None => step.name().to_owned(),
        })
        .collect();
    assert_eq!(steps.join("; "), expected);
}

#[test]
fn steps_are_told_in_the_order_in_which_they_are_done() {
    let mut facts = host();
    facts.existing = vec!["D:\\data\\os.vhdx".into()];
    let mut asked = wish(RestoreTarget::Original);
    asked.power = PowerAfter::On;
    check_steps(
        &plan(&point(), &asked, &facts),
        "void-bases; write-disk C:\\VMs\\web01\\os.vhdx; write-disk D:\\data\\os.vhdx; move-aside D:\\data\\os.vhdx; \
         register-vm C:\\VMs\\web01; read-back; start-vm",
    );
    // Files of a chain have their names from the first byte on: what stands there goes first.
    facts.existing = vec!["C:\\Gold\\os_1.avhdx".into()];
    let chains = plan(&point_of_files(), &wish(RestoreTarget::Original), &facts);
    check_steps(
        &chains,
        "void-bases; move-aside C:\\Gold\\os_1.avhdx; write-chain-file C:\\Gold\\os_2.avhdx; \
         write-chain-file C:\\Gold\\os_1.avhdx; write-chain-file C:\\Gold\\os.vhdx; write-chain-file D:\\data\\old.vhd; \
         merge-chain C:\\Gold\\os.vhdx; merge-chain D:\\data\\old.vhdx; register-vm C:\\VMs\\web01; read-back",
    );
    for step in plan(&point(), &asked, &host()).steps {
        let sentence = step.to_string();
        assert!(sentence.ends_with('.') && sentence.starts_with(char::is_uppercase));
    }
}

#[test]
fn bytes_are_told_from_holes_and_a_time_only_with_its_basis() {
    let mut facts = host();
    let told = plan(&point(), &wish(RestoreTarget::Original), &facts);
    // Two disks of 10 GiB with 1 GiB each, and the configuration file that is imported.
    assert_eq!(told.bytes.fetch_bytes, 2 * GIB + 4096);
    assert_eq!(told.bytes.hole_bytes, 18 * GIB);
    assert_eq!(told.bytes.reuse_bytes, 0);
    assert_eq!(told.estimate, None);
    let rate = Rate {
        bytes_per_sec: 100 * MIB,
        basis: RateBasis::Measured,
    };
    facts.rate = Some(rate);
    let estimate = plan(&point(), &wish(RestoreTarget::Original), &facts)
        .estimate
        .unwrap();
    assert_eq!((estimate.seconds, estimate.rate), (21, rate));
    let mut defined = host();
    defined.id = OTHER.parse().unwrap();
    let told = plan(&point(), &wish(alternate(OTHER)), &defined);
    assert_eq!(told.bytes.fetch_bytes, 2 * GIB, "no configuration is sent");
}

#[test]
fn what_seeds_give_is_estimated_and_is_no_effect() {
    let (point, asked) = (point(), wish(RestoreTarget::Original));
    let without = plan(&point, &asked, &host());
    let (first, other) = (point.disks[0].id, DiskId::random());
    let seed = |origin: SeedOrigin, disk: DiskId, size_bytes: u64, held_bytes: u64| SeedOnHost {
        path: r"D:\seed.vhdx".to_owned(),
        origin,
        state: SeedState::Usable {
            disk,
            size_bytes,
            held_bytes,
        },
    };
    let unusable = SeedOnHost {
        path: r"D:\broken.vhdx".to_owned(),
        origin: SeedOrigin::Named,
        state: SeedState::Unusable("it is damaged".to_owned()),
    };
    let (own, named) = (SeedOrigin::OwnDisk, SeedOrigin::Named);
    // Two disks of 10 GiB, of each of which 1 GiB comes.
    let cases = [
        (vec![], 0),
        (vec![unusable], 0),
        // It is like the first disk alone, then by its size like both.
        (vec![seed(own, first, GIB, 300 * MIB)], 300 * MIB),
        (vec![seed(own, other, 10 * GIB, 300 * MIB)], 600 * MIB),
        (vec![seed(own, first, GIB, 5 * GIB)], GIB),
        // Of several the fullest counts, not their sum.
        (
            vec![
                seed(own, first, GIB, 300 * MIB),
                seed(named, first, GIB, 500 * MIB),
            ],
            500 * MIB,
        ),
        // A stranger counts where a person named it.
        (vec![seed(own, other, GIB, 300 * MIB)], 0),
        (vec![seed(named, other, GIB, 300 * MIB)], 300 * MIB),
        (vec![seed(named, other, GIB, 9 * GIB)], 2 * GIB),
    ];
    for (seeds, reused) in cases {
        let mut facts = host();
        facts.seeds = seeds.clone();
        let told = plan(&point, &asked, &facts);
        assert_eq!(told.bytes.reuse_bytes, reused, "{seeds:?}");
        assert_eq!(told.bytes.moved(), without.bytes.fetch_bytes, "{seeds:?}");
        assert_eq!(told.fingerprint(), without.fingerprint(), "{seeds:?}");
    }
}

#[test]
fn a_named_seed_that_is_not_there_is_refused_by_name() {
    let mut facts = host();
    facts.seeds = vec![SeedOnHost {
        path: r"D:\no.vhdx".to_owned(),
        origin: SeedOrigin::Named,
        state: SeedState::Missing,
    }];
    let told = preview_restore(&point(), &wish(RestoreTarget::Original), &facts);
    assert!(told.plan.is_some(), "what it would do is told all the same");
    let [refusal] = &told.refusals[..] else {
        panic!("{:?}", told.refusals)
    };
    assert_eq!(refusal.code(), "no-such-seed");
    assert!(refusal.to_string().contains(r"D:\no.vhdx"), "{refusal}");
}

#[test]
fn who_else_has_the_id_the_name_or_the_mac_is_told() {
    let mut point = point();
    point.vm.nics[0].mac = Some("00155D010203".into());
    let mut facts = host();
    facts.elsewhere = vec![VmElsewhere {
        id: point.vm.id,
        name: "WEB01".into(),
        host: "HV02".into(),
        macs: vec!["00-15-5d-01-02-03".into()],
    }];
    let shared = |wish: &RestoreWish, facts: &HostFacts| -> Vec<String> {
        let identities = plan(&point, wish, facts).identities.unwrap();
        let found = identities.collisions.iter();
        found
            .map(|collision| format!("{} {}", collision.shared.as_str(), collision.host))
            .collect()
    };
    let original = wish(RestoreTarget::Original);
    assert_eq!(
        shared(&original, &facts),
        ["id HV02", "name HV02", "mac HV02"]
    );
    let copy = wish(alternate(HOST));
    assert!(
        shared(&copy, &facts).is_empty(),
        "a copy is new in every respect"
    );
    facts.vms = vec![VmOnHost {
        id: point.vm.id,
        name: "web01".into(),
        files: vec![],
        macs: vec!["00155D010203".into()],
    }];
    let mut same_mac = copy.clone();
    same_mac.mac = Some(KeepOrNew::Keep);
    assert_eq!(shared(&same_mac, &facts), ["mac HV02", "mac HV01"]);
    let identities = plan(&point, &same_mac, &facts).identities.unwrap();
    assert_eq!(identities.before.id, Some(point.vm.id));
    assert_eq!(identities.after.id, None);
    assert_eq!(identities.after.name, "web01-restored-20261123-1020");
    let text: Vec<String> = [identities.before, identities.after]
        .iter()
        .map(|identity| identity.adapters[0].to_string())
        .collect();
    assert_eq!(
        text,
        [
            "adapter \"nic\": MAC address 00155D010203, connected to \"LAN\"",
            "adapter \"nic\": MAC address 00155D010203, disconnected"
        ]
    );
}

#[test]
fn every_refusal_is_told_and_the_first_one_fails_the_restore() {
    let mut facts = host();
    facts.volumes[1].free_bytes = 5 * GIB;
    facts.vms = vec![VmOnHost {
        id: point().vm.id,
        name: "web01".into(),
        files: vec!["C:\\VMs\\web01\\os.vhdx".into()],
        macs: vec![],
    }];
    let codes = |point: &RecoveryPoint, wish: &RestoreWish| -> Vec<&'static str> {
        let preview = preview_restore(point, wish, &facts);
        let first = preview.refusals.first().map(Refusal::code);
        let codes = preview.refusals.iter().map(Refusal::code).collect();
        let refused = preview.into_plan().err();
        assert_eq!(refused.as_ref().map(Refusal::code), first);
        codes
    };
    let mut asked = wish(RestoreTarget::Original);
    asked.networks = vec![model::NetworkMap {
        from: "LAN".into(),
        to: "nowhere".into(),
    }];
    assert_eq!(
        codes(&point(), &asked),
        [
            "vm-exists",
            "name-taken",
            "no-such-switch",
            "path-taken",
            "not-enough-space"
        ]
    );
    let preview = preview_restore(&point(), &asked, &facts);
    assert!(
        preview.plan.is_some(),
        "what it would do is told all the same"
    );
    asked.folder = Some("\\\\server\\share".into());
    assert_eq!(
        codes(&point(), &asked),
        ["vm-exists", "name-taken", "no-such-switch", "bad-path"],
        "one bad folder is one refusal"
    );
    assert_eq!(preview_restore(&point(), &asked, &facts).plan, None);
}

#[test]
fn a_plan_drifts_with_its_effects_and_with_nothing_else() {
    let mut asked = wish(alternate(HOST));
    asked.named_at = Some(host().now);
    let agreed = plan(&point_of(&asked), &asked, &host());
    let drift = |asked: &RestoreWish, facts: &HostFacts| {
        let now = plan(&point_of(asked), asked, facts);
        let lines = differences(&agreed.effects(), &now.effects());
        assert_eq!(lines.is_empty(), agreed.fingerprint() == now.fingerprint());
        lines
    };
    let mut later = host();
    later.now = later.now.plus_secs(3600);
    later.volumes[0].free_bytes -= GIB;
    later.rate = Some(Rate {
        bytes_per_sec: 1,
        basis: RateBasis::Assumed,
    });
    assert!(
        drift(&asked, &later).is_empty(),
        "names were made when it was planned"
    );
    let mut moved = host();
    moved.default_disk_folder = "D:\\Disks".into();
    let lines = drift(&asked, &moved);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("planned: Write disk") && lines[0].contains("C:\\Disks"));
    assert!(lines[2].starts_with("now: Write disk") && lines[2].contains("D:\\Disks"));
    let mut on = asked.clone();
    on.power = PowerAfter::On;
    assert_eq!(drift(&on, &host()).len(), 1);
}

/// The same point each time.
fn point_of(wish: &RestoreWish) -> RecoveryPoint {
    RecoveryPoint {
        id: wish.point,
        ..point()
    }
}
