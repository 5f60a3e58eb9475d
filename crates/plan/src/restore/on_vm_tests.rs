//! What holds for disks that a VM gets, whatever it has and whatever is asked for.

use model::{
    Controller, ControllerKind, DisksTo, Drive, Media, PowerAfter, PowerState, RestoreScope,
    RestoreTarget, Slot, host_path,
};
use proptest::prelude::*;

use super::tests::{host, point, wish};
use super::*;

const DISK: &str = "22222222-2222-4222-8222-222222222222";
const DISK2: &str = "33333333-3333-4333-8333-333333333333";
const PATHS: [&str; 4] = [
    "C:\\VMs\\web01\\os.vhdx",
    "D:\\data\\os.vhdx",
    "C:\\VMs\\web01\\other.vhdx",
    "D:\\data\\more.vhdx",
];

fn scsi(slot: u32) -> Slot {
    Slot {
        kind: ControllerKind::Scsi,
        controller: 0,
        slot,
    }
}

/// A VM that is off, with these disks in the slots of its SCSI controller; each has the path of its place.
fn target(ids: &[Option<DiskId>]) -> TargetVm {
    let mut config = point().vm;
    let places = || ids.iter().zip(PATHS).zip(0..);
    let drives = places().map(|((_, path), slot)| Drive {
        slot,
        attachment: String::new(),
        media: Media::Disk { path: path.into() },
    });
    config.controllers = vec![Controller {
        kind: ControllerKind::Scsi,
        number: 0,
        drives: drives.collect(),
    }];
    let disks = places().map(|((id, path), slot)| DiskOnHost {
        slot: scsi(slot),
        path: path.into(),
        files: vec![path.into()],
        ids: id.iter().copied().collect(),
        whole: true,
        trackers: vec![format!("{path}.rct")],
        shared_with: Vec::new(),
    });
    TargetVm {
        disks: disks.collect(),
        config,
        power: PowerState::Off,
        busy: None,
        checkpoints: 0,
    }
}

fn asked(disks: &[&str], to: DisksTo) -> RestoreWish {
    RestoreWish {
        scope: RestoreScope::Disks {
            disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
            to,
        },
        ..wish(RestoreTarget::Original)
    }
}

fn ids(texts: &[&str]) -> Vec<Option<DiskId>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[track_caller]
fn refused(vm: TargetVm, wish: &RestoreWish, code: &str) {
    let facts = HostFacts {
        target_vm: Some(vm),
        ..host()
    };
    let refusal = plan_restore(&point(), wish, &facts).unwrap_err();
    assert_eq!(refusal.code(), code, "{refusal}");
    assert!(!refusal.hint().is_empty());
}

#[test]
fn s04_what_a_vm_cannot_take_is_refused() {
    let own = || target(&ids(&[DISK, DISK2]));
    let attach = asked(&[DISK], DisksTo::Attach { vm: own().id() });
    let replace = asked(&[DISK], DisksTo::Replace);
    for wish in [&attach, &replace] {
        let refusal = plan_restore(&point(), wish, &host()).unwrap_err();
        assert_eq!(refusal.code(), "no-such-vm");
        let busy = Some("merging disks".to_owned());
        refused(TargetVm { busy, ..own() }, wish, "vm-busy");
        for power in [PowerState::Saved, PowerState::Paused, PowerState::Changing] {
            refused(TargetVm { power, ..own() }, wish, "vm-held");
        }
    }
    let checkpoints = 1;
    refused(
        TargetVm {
            checkpoints,
            ..own()
        },
        &replace,
        "vm-has-checkpoints",
    );
    let power = PowerState::Running;
    refused(TargetVm { power, ..own() }, &replace, "vm-runs");
    let mut shared = own();
    shared.disks[0].shared_with = vec!["clone".into()];
    refused(shared, &replace, "disk-shared");
    // What hangs where the disk was is another disk of the point.
    refused(target(&ids(&[DISK2])), &replace, "disk-not-on-vm");

    // A first generation VM: four disks on IDE while it is off, none while it runs.
    let mut old = own();
    let ide = |number| Controller {
        kind: ControllerKind::Ide,
        number,
        drives: Vec::new(),
    };
    old.config.controllers = vec![ide(0), ide(1)];
    assert_eq!(old.free_slots().len(), 4);
    refused(TargetVm { power, ..old }, &attach, "no-free-slot");
}

#[test]
fn s04_a_running_vm_is_stopped_only_where_its_power_was_spoken_of() {
    let facts = HostFacts {
        target_vm: Some(TargetVm {
            power: PowerState::Running,
            ..target(&ids(&[DISK, DISK2]))
        }),
        ..host()
    };
    for (power, start) in [(PowerAfter::AsBefore, true), (PowerAfter::On, true)] {
        let wish = RestoreWish {
            power,
            ..asked(&[DISK], DisksTo::Replace)
        };
        let plan = plan_restore(&point(), &wish, &facts).unwrap();
        let vm = plan.kind.on_vm().unwrap();
        assert!(vm.stop && vm.start == start);
        assert_eq!(plan.disks[0].final_path(), PATHS[0]);
        assert!(!plan.disks[0].new_disk_id);
    }
}

fn any_id() -> impl Strategy<Value = Option<DiskId>> {
    prop_oneof![
        Just(None),
        Just(DISK.parse().ok()),
        Just(DISK2.parse().ok()),
        Just("44444444-4444-4444-8444-444444444444".parse().ok()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn s04_no_disk_is_touched_that_was_not_named(
        ids in proptest::collection::vec(any_id(), 0..4),
        picked in 1..4_u8,
        replace: bool,
        checkpoints in 0..2_usize,
        running: bool,
        busy in proptest::bool::weighted(0.1),
        power in prop_oneof![Just(PowerAfter::Off), Just(PowerAfter::AsBefore), Just(PowerAfter::On)],
    ) {
        let vm = TargetVm {
            checkpoints,
            power: if running { PowerState::Running } else { PowerState::Off },
            busy: busy.then(|| "merging disks".to_owned()),
            ..target(&ids)
        };
        let named: Vec<&str> = [DISK, DISK2].into_iter().zip([1, 2])
            .filter(|(_, bit)| picked & bit != 0).map(|(disk, _)| disk).collect();
        let to = match replace {
            true => DisksTo::Replace,
            false => DisksTo::Attach { vm: vm.id() },
        };
        let wish = RestoreWish { power, ..asked(&named, to) };
        let facts = HostFacts { target_vm: Some(vm.clone()), ..host() };
        let point = point();
        let Ok(plan) = plan_restore(&point, &wish, &facts) else { return Ok(()) };
        prop_assert!(!busy);
        let on_vm = plan.kind.on_vm().unwrap();
        prop_assert_eq!(on_vm.stop, replace && running);
        prop_assert_eq!(plan.voided_disks().is_some(), replace);
        let mut slots = Vec::new();
        for disk in &plan.disks {
            prop_assert!(named.iter().any(|text| text.parse().ok() == Some(disk.disk)));
            prop_assert_eq!(disk.new_disk_id, !replace);
            let slot = disk.becomes.slot().unwrap();
            prop_assert!(!slots.contains(&slot), "one slot, one disk");
            slots.push(slot);
            let there = vm.disks.iter().find(|there| there.slot == slot);
            let Some(replaced) = disk.becomes.replacement() else {
                prop_assert!(there.is_none(), "a slot that is attached to is free");
                continue;
            };
            let there = there.unwrap();
            prop_assert!(checkpoints == 0 && (!running || power != PowerAfter::Off));
            let other = |id: &DiskId| point.disk_sources().any(|of| of.id == *id && *id != disk.disk);
            prop_assert!(!there.ids.iter().any(other), "another disk of the VM makes room: {replaced:?}");
            let own = |file: &String| there.files.iter().chain(&there.trackers).any(|of| host_path::same(of, file));
            prop_assert!(replaced.park.iter().all(own));
            prop_assert!(host_path::same(&replaced.was, &there.path));
        }
    }
}
