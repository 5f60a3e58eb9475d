//! What holds for every plan, whatever is asked for and whatever the host has.

use model::{
    DiskImage, DisksTo, Excluded, GIB, KeepOrNew, PowerState, RestoreScope, RestoreTarget, VmId,
    host_path,
};
use proptest::prelude::*;

use super::tests::{alternate, disk, host, point, point_of_files, point_with_checkpoint, wish};
use super::*;

const HOST: &str = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA";
const OTHER: &str = "BBBBBBBB-BBBB-4BBB-8BBB-BBBBBBBBBBBB";
/// Few names in few folders, so that they meet.
const FOLDERS: [&str; 4] = ["C:\\VMs\\web01", "C:\\Disks", "D:\\data", "D:\\out"];
const FILES: [&str; 5] = ["os.vhdx", "os-2.vhdx", "OS_1.avhdx", "data.vhdx", "old.vhd"];

fn any_path() -> impl Strategy<Value = String> {
    (0..FOLDERS.len(), 0..FILES.len())
        .prop_map(|(folder, file)| host_path::join(FOLDERS[folder], FILES[file]))
}

fn any_folder() -> impl Strategy<Value = Option<String>> {
    proptest::option::of((0..FOLDERS.len()).prop_map(|at| FOLDERS[at].to_owned()))
}

fn any_choice() -> impl Strategy<Value = Option<KeepOrNew>> {
    prop_oneof![
        Just(None),
        Just(Some(KeepOrNew::Keep)),
        Just(Some(KeepOrNew::New))
    ]
}

prop_compose! {
    fn any_disk()(base in any_path(), gib in 1..40_u64, used in 0..40_u64, fixed: bool) -> DiskImage {
        let mut made = disk(&DiskId::random().to_string(), &base, &base);
        made.size_bytes = gib * GIB;
        made.allocated_bytes = used.min(gib) * GIB;
        made.fixed = fixed;
        made
    }
}

prop_compose! {
    fn any_point()(
        form in 0..3,
        disks in proptest::collection::vec(any_disk(), 1..4),
        mac in proptest::option::of(Just("00155D000001".to_owned())),
        configured in proptest::bool::weighted(0.9),
        excluded in proptest::option::of((any_path(), 0..3)),
    ) -> RecoveryPoint {
        let mut made = match form {
            0 => RecoveryPoint { disks, ..point() },
            1 => point_of_files(),
            _ => point_with_checkpoint(),
        };
        made.vm.nics[0].mac = mac;
        let left_out = excluded.map(|(path, slot)| Excluded { path, slot: format!("scsi 0:{slot}") });
        made.excluded = left_out.into_iter().collect();
        if !configured {
            made.files.retain(model::FileImage::is_disk);
        }
        made
    }
}

fn any_power() -> impl Strategy<Value = PowerState> {
    prop_oneof![
        Just(PowerState::Off),
        Just(PowerState::Running),
        Just(PowerState::Saved)
    ]
}

prop_compose! {
    /// Disks of a VM that is still there, and files of its checkpoints.
    fn any_standing()(
        chains in proptest::collection::vec(proptest::collection::vec(any_path(), 1..3), 0..3),
        branches in proptest::collection::vec((any_path(), proptest::option::of(0..2_usize)), 0..2),
        known in proptest::collection::vec(any::<bool>(), 3),
        power in any_power(),
        clustered in proptest::bool::weighted(0.1),
    ) -> StandingVm {
        let disks = chains.into_iter().zip(known).zip(0..).map(|((files, known), slot)| StandingDisk {
            slot: format!("scsi 0:{slot}"),
            id: known.then(|| point().disks[0].id),
            files,
            problem: None,
        });
        StandingVm {
            id: point().vm.id,
            name: "web01".into(),
            power,
            config_folder: Some("C:\\VMs\\web01".into()),
            disks: disks.collect(),
            branches,
            checkpoints: vec![],
            clustered,
        }
    }
}

prop_compose! {
    fn any_host()(
        other in proptest::bool::weighted(0.3),
        free in proptest::collection::vec(0..100_u64, 2),
        existing in proptest::collection::vec(any_path(), 0..3),
        used in proptest::collection::vec(any_path(), 0..2),
        standing in proptest::option::weighted(0.4, any_standing()),
        name in prop_oneof![Just("web01"), Just("db"), Just("copy")],
    ) -> HostFacts {
        let mut facts = host();
        if other {
            facts.id = OTHER.parse().unwrap();
        }
        for (volume, free) in facts.volumes.iter_mut().zip(free) {
            volume.free_bytes = free * GIB;
        }
        facts.vms = vec![VmOnHost { id: VmId::random(), name: name.into(), files: used.clone(), macs: vec![] }];
        facts.existing = existing.into_iter().chain(used).collect();
        if let Some(standing) = standing {
            let files: Vec<String> = standing.disks.iter().flat_map(|disk| disk.files.clone()).collect();
            facts.existing.extend(files.iter().cloned());
            facts.existing.extend(standing.branches.iter().map(|(path, _)| path.clone()));
            let macs = vec!["00155D000001".to_owned()];
            facts.vms.push(VmOnHost { id: standing.id, name: standing.name.clone(), files, macs });
            facts.standing = Some(standing);
        }
        facts
    }
}

prop_compose! {
    /// A point, and a wish for it: the whole VM, or some of its disks.
    fn any_request()(
        point in any_point(),
        target in prop_oneof![Just(RestoreTarget::Original), Just(alternate(HOST)), Just(alternate(OTHER))],
        folder in any_folder(),
        id in any_choice(),
        mac in any_choice(),
        picked in proptest::option::of(proptest::collection::vec(any::<bool>(), 4)),
        name in proptest::option::of(Just("copy".to_owned())),
    ) -> (RecoveryPoint, RestoreWish) {
        let scope = match picked {
            None => RestoreScope::Vm,
            Some(picked) => {
                let disks = point.disk_sources().zip(picked).filter(|(_, picked)| *picked);
                RestoreScope::Disks { disks: disks.map(|(disk, _)| disk.id).collect(), to: DisksTo::Files }
            }
        };
        let asked = RestoreWish { point: point.id, scope, folder, id, mac, name, ..wish(target) };
        (point, asked)
    }
}

/// Every file a plan writes.
fn written(plan: &RestorePlan) -> Vec<&str> {
    let mut paths: Vec<&str> = Vec::new();
    if !plan.tree.is_empty() {
        return plan
            .tree
            .iter()
            .map(|file| file.target_path.as_str())
            .collect();
    }
    for disk in &plan.disks {
        let chain = disk.chain.iter().map(|file| file.target_path.as_str());
        paths.extend(chain.filter(|path| !host_path::same(path, &disk.target_path)));
        paths.push(&disk.target_path);
    }
    paths
}

fn is_in(paths: &[String], path: &str) -> bool {
    paths.iter().any(|other| host_path::same(other, path))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_plan_overbooks_touches_or_reuses_what_it_must_not(
        (point, wish) in any_request(),
        mut facts in any_host(),
        stands in proptest::collection::vec(proptest::bool::weighted(0.2), 7),
        in_use in proptest::bool::weighted(0.1),
    ) {
        // Something stands where the restore would write, used by a VM or by nobody.
        let wanted = wanted_paths(&point, &wish, &facts);
        let there = wanted.into_iter().zip(stands).filter(|(_, stands)| *stands);
        let there: Vec<String> = there.map(|(path, _)| path).collect();
        if in_use {
            facts.vms[0].files.extend(there.iter().cloned());
        }
        facts.existing.extend(there);
        let preview = preview_restore(&point, &wish, &facts);
        let code = preview.refusals.first().map(Refusal::code);
        let planned = preview.clone().into_plan();
        prop_assert_eq!(planned.as_ref().err().map(Refusal::code), code);
        let Ok(plan) = planned else { return Ok(()) };

        // No volume is overbooked, by a sum of its own.
        for volume in &facts.volumes {
            let on = |path: &str| host_path::is_below(path, &volume.path);
            let disks = plan.disks.iter().filter(|disk| on(&disk.target_path));
            let disks: u64 = disks.map(|disk| disk.needed_bytes).sum();
            let files = plan.tree.iter().filter(|file| on(&file.target_path));
            let files: u64 = files.map(|file| file.file_bytes).sum();
            let needed = if plan.tree.is_empty() { disks } else { files };
            let reserve = facts.reserve.bytes(volume.capacity_bytes);
            prop_assert!(needed == 0 || needed + reserve <= volume.free_bytes);
        }
        for disk in &plan.disks {
            prop_assert!(disk.needed_bytes >= disk.fetch_bytes, "{disk:?}");
            let full = disk.fixed && disk.chain.is_empty();
            prop_assert!(!full || disk.needed_bytes > disk.size_bytes, "{disk:?}");
        }

        // Checkpoints are kept by a whole VM of which every file stays.
        let kept = plan.checkpoints.outcome == CheckpointOutcome::Kept;
        prop_assert_eq!(kept, !plan.tree.is_empty());
        for disk in plan.disks.iter().filter(|_| kept) {
            prop_assert!(disk.chain.is_empty() && written(&plan).contains(&disk.target_path.as_str()));
        }

        // Only disks that were asked for.
        let named: Vec<DiskId> = match &wish.scope {
            RestoreScope::Vm => point.disk_sources().map(|disk| disk.id).collect(),
            RestoreScope::Disks { disks, .. } => disks.clone(),
        };
        let touched: Vec<DiskId> = plan.disks.iter().map(|disk| disk.disk).collect();
        prop_assert_eq!(&touched, &named);

        // Every path is new, or what stands there is moved aside; nobody uses it, and no two are the same.
        let over = plan.kind.vm().and_then(|vm| vm.over.as_ref());
        let paths = written(&plan);
        for (at, path) in paths.iter().enumerate() {
            let checked = host_path::check(path);
            prop_assert_eq!(checked.as_deref(), Ok(*path));
            let parked = over.is_some_and(|over| over.parks(path));
            let free = !is_in(&facts.existing, path) || is_in(&plan.park, path) || parked;
            prop_assert!(free, "{path}");
            let mut users = facts.vms.iter().filter(|vm| is_in(&vm.files, path));
            prop_assert!(users.all(|vm| parked && vm.id == point.vm.id), "{path}");
            prop_assert!(!paths[..at].iter().any(|other| host_path::same(other, path)));
        }
        for path in &plan.park {
            prop_assert!(is_in(&facts.existing, path));
            prop_assert!(!facts.vms.iter().any(|vm| is_in(&vm.files, path)));
        }
        for step in &plan.steps {
            let Some(path) = step.path() else { continue };
            let config = plan.kind.vm().is_some_and(|vm| vm.config_folder == path);
            let of_old = over.is_some_and(|over| {
                over.parks(path) || over.config_folder == path || over.stay.iter().any(|disk| disk.path == path)
            });
            prop_assert!(config || of_old || paths.contains(&path), "{step}");
        }

        // Of the VM that makes room everything is kept beside but what others read through and what the point does not
        // hold, which stays.
        if let (Some(over), Some(standing)) = (over, &facts.standing) {
            let chains = standing.disks.iter().flat_map(|disk| &disk.files);
            let all: Vec<&String> = chains.chain(standing.branches.iter().map(|(path, _)| path)).collect();
            let used_by_others = |path: &str| {
                facts.vms.iter().any(|vm| vm.id != over.id && is_in(&vm.files, path))
            };
            let stays = |path: &str| over.stay.iter().any(|disk| is_in(&disk.files, path));
            for path in &over.park {
                prop_assert!(all.contains(&path) && !used_by_others(path), "{path}");
            }
            for path in all {
                prop_assert!(over.parks(path) || used_by_others(path) || stays(path), "{path}");
            }
            for path in over.stay.iter().flat_map(|disk| &disk.files) {
                prop_assert!(!paths.iter().any(|written| host_path::same(written, path)), "{path}");
                prop_assert!(!over.parks(path), "{path}");
            }
            prop_assert!(standing.power != PowerState::Saved && !standing.clustered);
            prop_assert!(wish.target == RestoreTarget::Original);
        }

        // Ids and MAC addresses as their policies say.
        let original = wish.target == RestoreTarget::Original;
        let kept = |choice: Option<KeepOrNew>| choice.map_or(original, |choice| choice == KeepOrNew::Keep);
        match (plan.kind.vm(), &plan.identities) {
            (Some(vm), Some(identities)) => {
                prop_assert_eq!(vm.id, kept(wish.id).then_some(point.vm.id));
                prop_assert_eq!(identities.after.id, vm.id);
                prop_assert_eq!(vm.route == Route::Import { keep_id: true }, kept(wish.id));
                prop_assert_eq!(vm.keep_mac, kept(wish.mac));
                let mac = &point.vm.nics[0].mac;
                prop_assert_eq!(&identities.after.adapters[0].mac, &mac.clone().filter(|_| kept(wish.mac)));
                let mut there = facts.vms.iter().filter(|other| other.id == point.vm.id);
                prop_assert_eq!(vm.over.is_some(), kept(wish.id) && there.next().is_some());
                let makes_room = |other: &VmOnHost| vm.over.as_ref().is_some_and(|over| over.id == other.id);
                let mut others = facts.vms.iter().filter(|other| !makes_room(other));
                prop_assert!(others.all(|other| !other.name.eq_ignore_ascii_case(&vm.name)));
                prop_assert!(vm.over.is_none() || identities.collisions.is_empty());
                prop_assert!(plan.disks.iter().all(|disk| disk.new_disk_id != kept(wish.id)));
            }
            (None, None) => prop_assert!(plan.disks.iter().all(|disk| disk.new_disk_id)),
            (Some(_), None) | (None, Some(_)) => prop_assert!(false, "a VM without identity"),
        }

        // The same again is the same, wherever the clock is.
        let later = HostFacts { now: facts.now.plus_secs(7200), ..facts.clone() };
        let pinned = RestoreWish { named_at: Some(facts.now), ..wish.clone() };
        let again = plan_restore(&point, &pinned, &later);
        prop_assert_eq!(again.map(|again| again.fingerprint()), Ok(plan.fingerprint()));
    }
}
