//! Users' checkpoints, the merges that follow their deletion, and files that were left behind.

use hyperv::{CheckpointKind, ErrorKind, Limits, MergeProgress};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{ConsistencyWish, MIB, VmId};

use crate::sim::{Sim, mark, pattern};

async fn names(sim: &Sim, vm: VmId) -> Vec<(String, bool)> {
    let vm = sim.host.vm(vm).await.expect("the VM can be read");
    vm.checkpoints
        .into_iter()
        .map(|checkpoint| (checkpoint.name, checkpoint.current))
        .collect()
}

async fn avhdx(sim: &Sim) -> usize {
    let files = sim.all_files().await;
    files.iter().filter(|path| path.ends_with(".avhdx")).count()
}

/// A running VM with the checkpoints `a` and, above it, `b`; each has written its own MiB.
async fn with_two(sim: &Sim) -> (VmId, String, String) {
    let vm = sim.add_vm("web", 2, 1).await;
    sim.power(vm, PowerAction::On).await;
    let mut ids = Vec::new();
    for (n, name) in [(1, "a"), (2, "b")] {
        sim.guest_write(vm, 0, n * 8 * MIB, n, MIB).await;
        let id = sim.host.create_checkpoint(vm, name).await;
        ids.push(id.expect("it can be taken"));
    }
    sim.guest_write(vm, 0, 24 * MIB, 3, MIB).await;
    let b = ids.pop().expect("there are two");
    let a = ids.pop().expect("there are two");
    (vm, a, b)
}

async fn check_content(sim: &Sim, vm: VmId, written: &[u64]) {
    for n in 1..=3 {
        let found = sim.guest_read(vm, 0, n * 8 * MIB, MIB).await;
        if written.contains(&n) {
            assert_eq!(found, pattern(n, 1 << 20), "what was written at {n}");
        } else {
            assert!(found.iter().all(|byte| *byte == 0), "nothing at {n}");
        }
    }
}

#[tokio::test]
async fn a_checkpoint_is_taken_renamed_and_found_after_a_lost_answer() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        let vm = sim.add_vm("web", 2, 1).await;
        let first = sim.host.create_checkpoint(vm, "first 'ü' & <co>").await;
        let first = first.unwrap();
        sim.fault(FaultRule::ConnectionLostAfter, "CreateSnapshot")
            .await;
        let second = sim.host.create_checkpoint(vm, "second").await.unwrap();
        let all = sim.host.checkpoints(vm).await.unwrap();
        let ids: Vec<&str> = all
            .iter()
            .map(|checkpoint| checkpoint.id.as_str())
            .collect();
        assert_eq!(ids, [first.as_str(), second.as_str()]);
        assert!(all.iter().all(|c| c.kind == CheckpointKind::User));
        sim.fault(FaultRule::ConnectionLostAfter, "ModifySystemSettings")
            .await;
        sim.host
            .rename_checkpoint(&second, "renamed")
            .await
            .unwrap();
        assert_eq!(
            names(&sim, vm).await,
            [
                ("first 'ü' & <co>".to_owned(), false),
                ("renamed".to_owned(), true)
            ]
        );
    }
}

#[tokio::test]
async fn what_no_user_made_is_not_renamed_applied_or_deleted() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let taken = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::Crash, mark(1))
        .await
        .unwrap();
    let host = &sim.host;
    let errors = [
        host.rename_checkpoint(&taken.id, "mine").await.unwrap_err(),
        host.apply_checkpoint(vm, &taken.id).await.unwrap_err(),
        host.delete_checkpoint(vm, &taken.id, false)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    let nobody = format!("Microsoft:{}", VmId::random());
    let error = host.apply_checkpoint(vm, &nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // What is gone is deleted.
    assert_eq!(
        host.delete_checkpoint(vm, &nobody, false).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn applying_puts_the_vm_back_and_needs_it_off() {
    for lost in [false, true] {
        let sim = Sim::start(false).await;
        let (vm, a, _) = with_two(&sim).await;
        let error = sim.host.apply_checkpoint(vm, &a).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        sim.host.turn_off(vm).await.unwrap();
        let before = sim.host.vm(vm).await.unwrap();
        assert_eq!(before.last_applied, None);
        if lost {
            sim.fault(FaultRule::ConnectionLostAfter, "ApplySnapshot")
                .await;
        }
        sim.host.apply_checkpoint(vm, &a).await.unwrap();
        check_content(&sim, vm, &[1]).await;
        let after = sim.host.vm(vm).await.unwrap();
        assert_eq!(after.last_applied, Some(a.to_lowercase()));
        assert_ne!(after.disks[0].path, before.disks[0].path);
        assert_eq!(
            names(&sim, vm).await,
            [("a".to_owned(), true), ("b".to_owned(), false)]
        );
        // Again: the VM runs on it already, and is put back all the same.
        sim.power(vm, PowerAction::On).await;
        sim.guest_write(vm, 0, 24 * MIB, 3, MIB).await;
        sim.host.turn_off(vm).await.unwrap();
        sim.host.apply_checkpoint(vm, &a).await.unwrap();
        check_content(&sim, vm, &[1]).await;
    }
}

#[tokio::test]
async fn deleting_one_merges_the_file_above_it_and_tells_file_by_file() {
    let sim = Sim::start(false).await;
    let (vm, a, b) = with_two(&sim).await;
    assert_eq!(avhdx(&sim).await, 2);
    let merges = sim.host.delete_checkpoint(vm, &a, false).await.unwrap();
    let [merge] = merges.as_slice() else {
        panic!("{merges:?}")
    };
    assert_eq!(merge.into, r"C:\VMs\web\disk0.vhdx");
    assert!(
        merge.from.ends_with(".avhdx") && merge.bytes > 0,
        "{merge:?}"
    );
    let mut seen = Vec::new();
    let note = |progress: &MergeProgress<'_>| seen.push((progress.done, progress.left.len()));
    sim.host.wait_merged_with(vm, &merges, note).await.unwrap();
    assert_eq!(seen.last(), Some(&(1, 0)));
    assert!(seen.contains(&(0, 1)), "{seen:?}");
    assert!(!sim.all_files().await.contains(&merge.from));
    assert_eq!(avhdx(&sim).await, 1);
    check_content(&sim, vm, &[1, 2, 3]).await;
    assert_eq!(names(&sim, vm).await, [("b".to_owned(), true)]);

    sim.fault(FaultRule::ConnectionLostAfter, "DestroySnapshot")
        .await;
    let merges = sim.host.delete_checkpoint(vm, &b, false).await.unwrap();
    sim.host
        .wait_merged_with(vm, &merges, |_| {})
        .await
        .unwrap();
    assert_eq!(avhdx(&sim).await, 0);
    check_content(&sim, vm, &[1, 2, 3]).await;
}

#[tokio::test]
async fn deleting_a_tree_keeps_what_the_vm_runs_on() {
    for lost in [false, true] {
        let sim = Sim::start(false).await;
        let (vm, a, _) = with_two(&sim).await;
        if lost {
            sim.fault(FaultRule::ConnectionLostAfter, "DestroySnapshotTree")
                .await;
        }
        let merges = sim.host.delete_checkpoint(vm, &a, true).await.unwrap();
        assert_eq!(merges.len(), 2, "{merges:?}");
        sim.host
            .wait_merged_with(vm, &merges, |_| {})
            .await
            .unwrap();
        assert_eq!(names(&sim, vm).await, []);
        assert_eq!(avhdx(&sim).await, 0);
        check_content(&sim, vm, &[1, 2, 3]).await;
    }
}

#[tokio::test]
async fn a_checkpoint_with_two_branches_stays_as_a_file() {
    let sim = Sim::start(false).await;
    let (vm, a, b) = with_two(&sim).await;
    sim.host.turn_off(vm).await.unwrap();
    sim.host.apply_checkpoint(vm, &a).await.unwrap();
    // Now `b` and the VM both stand on `a`: nothing can be merged into it.
    assert_eq!(sim.host.delete_checkpoint(vm, &a, false).await.unwrap(), []);
    sim.host.wait_merged(vm).await.unwrap();
    check_content(&sim, vm, &[1]).await;
    sim.host.apply_checkpoint(vm, &b).await.unwrap();
    check_content(&sim, vm, &[1, 2]).await;
}

#[tokio::test]
async fn a_merge_without_room_is_refused_before_anything_is_deleted() {
    let sim = Sim::start(false).await;
    let (vm, a, _) = with_two(&sim).await;
    let volume = sim.host.facts().await.unwrap().volumes.remove(0);
    let used = volume.capacity_bytes - volume.free_bytes;
    sim.set_capacity("C", used + MIB).await;
    let error = sim.host.delete_checkpoint(vm, &a, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("C:\\"), "{error}");
    assert_eq!(names(&sim, vm).await.len(), 2);
    sim.set_capacity("C", volume.capacity_bytes).await;
    sim.host.delete_checkpoint(vm, &a, false).await.unwrap();
}

#[tokio::test]
async fn a_merge_that_does_not_end_is_told_with_its_files() {
    let sim = Sim::start(false).await;
    let (vm, a, _) = with_two(&sim).await;
    sim.fault_always(FaultRule::MergeNeverEnds).await;
    let merges = sim.host.delete_checkpoint(vm, &a, false).await.unwrap();
    let impatient = sim.host.clone().with_limits(Limits {
        merge: std::time::Duration::from_millis(200),
        first_poll: std::time::Duration::from_millis(5),
        ..Limits::default()
    });
    let error = impatient.wait_merged_with(vm, &merges, |_| {}).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("1 of 1 files"), "{error}");
}
