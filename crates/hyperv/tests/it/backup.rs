//! The steps of a backup by change tracking.

use hyperv::{Changes, CheckpointKind, ErrorKind, FileErrorKind};
use hyperv_sim::ctl::{Command, FaultRule, PowerAction};
use model::{Consistency, ConsistencyWish, FullReason, MIB, VmId};

use crate::sim::{DISK_BYTES, Sim, mark, pattern};

const WISH: ConsistencyWish = ConsistencyWish::PreferApplication;

/// Reads a frozen disk through the path map.
fn read(sim: &Sim, path: &str, offset: u64, len: usize) -> Vec<u8> {
    let disk = sim
        .files
        .open_chain(path)
        .expect("the chain is whole")
        .into_disk();
    let mut bytes = vec![0; len];
    disk.read_at(&mut bytes, offset)
        .expect("the disk can be read");
    bytes
}

async fn running_vm(sim: &Sim) -> VmId {
    let vm = sim.add_vm("web", 2, 1).await;
    sim.power(vm, PowerAction::On).await;
    vm
}

/// A whole backup without reading; returns the reference point.
async fn back_up(sim: &Sim, vm: VmId) -> hyperv::ReferencePoint {
    let taken = sim
        .host
        .take_checkpoint(vm, WISH, mark(1))
        .await
        .expect("the VM can be checkpointed");
    let known: Vec<String> = points(sim, vm).await;
    sim.host
        .convert_to_reference_point(vm, &taken.id, &known)
        .await
        .expect("it can be converted")
}

async fn points(sim: &Sim, vm: VmId) -> Vec<String> {
    let points = sim
        .host
        .reference_points(vm)
        .await
        .expect("points can be listed");
    points.into_iter().map(|point| point.id).collect()
}

#[tokio::test]
async fn a_backup_reads_the_moment_of_the_checkpoint_and_leaves_only_a_reference_point() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        let vm = running_vm(&sim).await;
        sim.guest_write(vm, 0, 8 * MIB, 7, MIB).await;
        let mark = mark(3);
        let taken = sim.host.take_checkpoint(vm, WISH, mark).await.unwrap();
        assert_eq!(
            (taken.consistency, taken.note),
            (Consistency::Application, None)
        );
        let marked = sim.host.marked_checkpoints(vm).await.unwrap();
        assert_eq!(
            (marked.len(), marked[0].0, &marked[0].1.id),
            (1, mark, &taken.id)
        );

        // The guest goes on; the frozen disk stays.
        sim.guest_write(vm, 0, 8 * MIB, 8, MIB).await;
        let disks = sim.host.frozen_disks(vm, &taken.id).await.unwrap();
        let [disk] = disks.as_slice() else {
            panic!("{disks:?}")
        };
        assert_eq!(disk.problem, None);
        assert_eq!(
            read(&sim, &disk.path, 8 * MIB, 1 << 20),
            pattern(7, 1 << 20)
        );
        // The leaf is the VM's alone.
        let facts = sim.host.vm(vm).await.unwrap();
        assert_eq!(facts.disks[0].attachment, disk.attachment);
        assert_eq!(
            sim.files
                .open_read(&facts.disks[0].path)
                .unwrap_err()
                .kind(),
            FileErrorKind::InUse
        );
        assert_eq!(
            sim.files.open_write(&disk.path).unwrap_err().kind(),
            FileErrorKind::InUse
        );

        let (config, files) = sim.host.checkpoint_config(vm, &taken.id).await.unwrap();
        assert_eq!((config.id, config.name.as_str()), (vm, "web"));
        assert_eq!(config.disks().next().unwrap().2, disk.path);
        let files = files.list(&sim.files).unwrap();
        assert!(files.iter().any(|file| file.role == "config"), "{files:?}");

        let point = sim
            .host
            .convert_to_reference_point(vm, &taken.id, &[])
            .await
            .unwrap();
        assert!(point.rct_id(&disk.attachment).is_some(), "{point:?}");
        sim.host.wait_merged(vm).await.unwrap();
        let facts = sim.host.vm(vm).await.unwrap();
        assert!(facts.checkpoints.is_empty());
        assert_eq!(facts.reference_points, std::slice::from_ref(&point));
        assert_eq!(facts.disks[0].chain.len(), 1);
        assert_eq!(
            sim.guest_read(vm, 0, 8 * MIB, MIB).await,
            pattern(8, 1 << 20)
        );
        assert!(
            !sim.all_files()
                .await
                .iter()
                .any(|path| path.ends_with(".avhdx"))
        );

        sim.host
            .destroy_reference_point(vm, &point.id)
            .await
            .unwrap();
        sim.host
            .destroy_reference_point(vm, &point.id)
            .await
            .unwrap();
        assert!(points(&sim, vm).await.is_empty());
    }
}

#[tokio::test]
async fn changed_ranges_cover_what_changed_since_the_last_backup_whatever_the_hosts_manners() {
    for (partial, coarse) in [("0", "512"), ("3MiB", "512"), ("1MiB", "2MiB")] {
        let sim = Sim::start(false).await;
        let vm = running_vm(&sim).await;
        let point = back_up(&sim, vm).await;
        sim.host.wait_merged(vm).await.unwrap();
        sim.set("partial_changes", partial).await;
        sim.set("coarse_bytes", coarse).await;
        sim.guest_write(vm, 0, 10 * MIB + 4096, 5, 8192).await;
        sim.guest_write(vm, 0, 40 * MIB, 6, 512).await;

        let taken = sim.host.take_checkpoint(vm, WISH, mark(2)).await.unwrap();
        let disk = sim
            .host
            .frozen_disks(vm, &taken.id)
            .await
            .unwrap()
            .remove(0);
        let rct_id = point.rct_id(&disk.attachment).unwrap();
        let changes = sim
            .host
            .changed_ranges(&disk.path, rct_id, DISK_BYTES)
            .await
            .unwrap();
        let Changes::Ranges(ranges) = changes else {
            panic!("{changes:?}")
        };
        for (offset, len) in [(10 * MIB + 4096, 8192), (40 * MIB, 512)] {
            let covered = ranges
                .as_slice()
                .iter()
                .any(|r| r.offset <= offset && offset + len <= r.offset + r.len);
            assert!(covered, "{offset}+{len} is not in {ranges:?}");
        }
        assert!(
            ranges.bytes() < 16 * MIB,
            "{} bytes with {partial} and {coarse}",
            ranges.bytes()
        );

        // An id the host does not know means a full read of this disk, not a failure.
        for unknown in ["rctX:nonsense", "x"] {
            let changes = sim
                .host
                .changed_ranges(&disk.path, unknown, DISK_BYTES)
                .await
                .unwrap();
            assert!(
                matches!(
                    changes,
                    Changes::Unknown {
                        reason: FullReason::RctIdLost,
                        ..
                    }
                ),
                "{changes:?}"
            );
        }
        let gone = sim
            .host
            .changed_ranges(r"C:\gone.vhdx", rct_id, DISK_BYTES)
            .await
            .unwrap();
        assert!(
            matches!(
                gone,
                Changes::Unknown {
                    reason: FullReason::TrackerFailed,
                    ..
                }
            ),
            "{gone:?}"
        );
        // A host that cannot be reached does not.
        sim.fault(FaultRule::AccessDenied, "GetVirtualDiskChanges")
            .await;
        let error = sim
            .host
            .changed_ranges(&disk.path, rct_id, DISK_BYTES)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied);
        sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_are_asked_for_in_smaller_windows() {
    let sim = Sim::start(false).await;
    let vm = running_vm(&sim).await;
    let point = back_up(&sim, vm).await;
    sim.fault(FaultRule::EnvelopeLimit, "GetVirtualDiskChanges")
        .await;
    let taken = sim.host.take_checkpoint(vm, WISH, mark(2)).await.unwrap();
    let disk = sim
        .host
        .frozen_disks(vm, &taken.id)
        .await
        .unwrap()
        .remove(0);
    let rct_id = point.rct_id(&disk.attachment).unwrap();
    let changes = sim
        .host
        .changed_ranges(&disk.path, rct_id, DISK_BYTES)
        .await
        .unwrap();
    assert!(matches!(changes, Changes::Ranges(_)), "{changes:?}");
}

#[tokio::test]
async fn a_guest_that_cannot_prepare_gives_a_crash_consistent_checkpoint_that_says_so() {
    let sim = Sim::start(false).await;
    let vm = running_vm(&sim).await;
    sim.fault(FaultRule::AppConsistencyFailed, "").await;
    let taken = sim.host.take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    assert_eq!(taken.consistency, Consistency::Crash);
    assert!(
        taken
            .note
            .is_some_and(|note| note.contains("CreateSnapshot"))
    );
    assert_eq!(sim.host.checkpoints(vm).await.unwrap().len(), 1);
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    sim.host.wait_merged(vm).await.unwrap();

    sim.fault(FaultRule::AppConsistencyFailed, "").await;
    let error = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::RequireApplication, mark(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(sim.host.checkpoints(vm).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_vm_that_does_not_run_is_backed_up_as_it_lies() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let taken = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::RequireApplication, mark(1))
        .await
        .unwrap();
    assert_eq!(taken.consistency, Consistency::Offline);
    let disk = sim
        .host
        .frozen_disks(vm, &taken.id)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(read(&sim, &disk.path, 0, 4096), pattern(1, 4096));
}

#[tokio::test]
async fn a_step_whose_answer_was_lost_is_found_to_have_happened() {
    let sim = Sim::start(false).await;
    let vm = running_vm(&sim).await;
    sim.fault(FaultRule::ConnectionLostAfter, "CreateSnapshot")
        .await;
    let taken = sim.host.take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    assert_eq!(sim.host.checkpoints(vm).await.unwrap().len(), 1);

    sim.fault(FaultRule::ConnectionLostAfter, "ConvertToReferencePoint")
        .await;
    let point = sim
        .host
        .convert_to_reference_point(vm, &taken.id, &[])
        .await
        .unwrap();
    assert_eq!(points(&sim, vm).await, std::slice::from_ref(&point.id));
    // A second attempt, by an agent that did not see the first one's end, finds the same.
    let again = sim
        .host
        .convert_to_reference_point(vm, &taken.id, &[])
        .await
        .unwrap();
    assert_eq!(again, point);

    sim.fault(FaultRule::ConnectionLostAfter, "DestroyReferencePoint")
        .await;
    sim.host
        .destroy_reference_point(vm, &point.id)
        .await
        .unwrap();

    sim.host.wait_merged(vm).await.unwrap();
    let taken = sim.host.take_checkpoint(vm, WISH, mark(2)).await.unwrap();
    sim.fault(FaultRule::ConnectionLostAfter, "DestroySnapshot")
        .await;
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    assert!(sim.host.checkpoints(vm).await.unwrap().is_empty());
}

#[tokio::test]
async fn user_checkpoints_stay_and_the_chain_is_read_through() {
    let sim = Sim::start(false).await;
    let vm = running_vm(&sim).await;
    sim.guest_write(vm, 0, 20 * MIB, 2, MIB).await;
    sim.user_checkpoint(vm, "mine").await;
    sim.guest_write(vm, 0, 21 * MIB, 3, MIB).await;
    let taken = sim.host.take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    let disk = sim
        .host
        .frozen_disks(vm, &taken.id)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(disk.chain.len(), 2);
    assert_eq!(
        read(&sim, &disk.path, 20 * MIB, 1 << 20),
        pattern(2, 1 << 20)
    );
    assert_eq!(
        read(&sim, &disk.path, 21 * MIB, 1 << 20),
        pattern(3, 1 << 20)
    );
    let marked = sim.host.marked_checkpoints(vm).await.unwrap();
    assert_eq!(marked.len(), 1);
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    sim.host.wait_merged(vm).await.unwrap();
    let left = sim.host.checkpoints(vm).await.unwrap();
    assert_eq!(
        left.iter()
            .map(|c| (c.name.as_str(), c.kind))
            .collect::<Vec<_>>(),
        [("mine", CheckpointKind::User)]
    );
}

#[tokio::test]
async fn a_merge_that_does_not_end_is_not_waited_for_forever() {
    let sim = Sim::start(false).await;
    let vm = running_vm(&sim).await;
    let taken = sim.host.take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    sim.ctl(Command::FaultAdd(hyperv_sim::ctl::FaultSpec {
        rule: FaultRule::MergeNeverEnds,
        on: None,
        times: None,
        vm: None,
    }))
    .await;
    sim.host.destroy_checkpoint(vm, &taken.id).await.unwrap();
    let impatient = sim.host.clone().with_limits(hyperv::Limits {
        merge: std::time::Duration::from_millis(200),
        first_poll: std::time::Duration::from_millis(5),
        ..hyperv::Limits::default()
    });
    let error = impatient.wait_merged(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("merging"), "{error}");
    sim.ctl(Command::FaultClear).await;
    sim.host.wait_merged(vm).await.unwrap();
}

/// What happens to a VM between two backups, and whether the tracker may be asked afterwards.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    CheckpointMade,
    CheckpointMadeAndDeleted,
    CheckpointApplied,
    CheckpointAppliedAgain,
}

#[tokio::test]
async fn what_users_do_with_checkpoints_between_two_backups_never_loses_a_change() {
    let all = [
        Between::Nothing,
        Between::CheckpointMade,
        Between::CheckpointMadeAndDeleted,
        Between::CheckpointApplied,
        Between::CheckpointAppliedAgain,
    ];
    // Whether ids survive users' checkpoints is not known of real hosts: both must do.
    let cases = [true, false].map(|survives| all.map(|between| (between, survives)));
    for (between, survives) in cases.concat() {
        let sim = Sim::start(false).await;
        sim.set("rct_survives_checkpoints", &survives.to_string())
            .await;
        let vm = running_vm(&sim).await;
        let host = &sim.host;
        let first = host.create_checkpoint(vm, "before").await.unwrap();
        sim.guest_write(vm, 0, 8 * MIB, 1, MIB).await;
        let apply = async || {
            host.turn_off(vm).await.unwrap();
            host.apply_checkpoint(vm, &first).await.unwrap();
            host.start(vm).await.unwrap();
        };
        if matches!(between, Between::CheckpointAppliedAgain) {
            apply().await;
        }
        let base = host.vm(vm).await.unwrap().tracker_facts();
        let point = back_up(&sim, vm).await;
        host.wait_merged(vm).await.unwrap();
        sim.guest_write(vm, 0, 16 * MIB, 2, MIB).await;
        match between {
            Between::Nothing => {}
            Between::CheckpointMade => {
                host.create_checkpoint(vm, "since").await.unwrap();
            }
            Between::CheckpointMadeAndDeleted => {
                let id = host.create_checkpoint(vm, "since").await.unwrap();
                sim.guest_write(vm, 0, 24 * MIB, 3, MIB).await;
                let merges = host.delete_checkpoint(vm, &id, false).await.unwrap();
                host.wait_merged_with(vm, &merges, |_| {}).await.unwrap();
            }
            Between::CheckpointApplied | Between::CheckpointAppliedAgain => apply().await,
        }
        sim.guest_write(vm, 0, 32 * MIB, 4, MIB).await;
        let now = host.vm(vm).await.unwrap().tracker_facts();
        let taken = host.take_checkpoint(vm, WISH, mark(2)).await.unwrap();
        let disk = host.frozen_disks(vm, &taken.id).await.unwrap().remove(0);
        let distrust = now.distrust(&base, &disk.attachment);
        let applied = matches!(
            between,
            Between::CheckpointApplied | Between::CheckpointAppliedAgain
        );
        assert_eq!(
            distrust,
            applied.then_some(FullReason::CheckpointApplied),
            "{between:?}"
        );
        if applied {
            continue;
        }
        let rct_id = point.rct_id(&disk.attachment).unwrap();
        let answer = host.changed_ranges(&disk.path, rct_id, DISK_BYTES).await;
        match answer.unwrap() {
            // The host has kept the id: then it knows of every change.
            Changes::Ranges(ranges) => {
                let mut changed = vec![16, 32];
                if matches!(between, Between::CheckpointMadeAndDeleted) {
                    changed.push(24);
                }
                for mib in changed {
                    let covered = ranges.as_slice().iter().any(|range| {
                        range.offset <= mib * MIB && (mib + 1) * MIB <= range.offset + range.len
                    });
                    assert!(covered, "{between:?}: {mib} MiB is not in {ranges:?}");
                }
            }
            // It has not, and says so: a full of this disk.
            Changes::Unknown { reason, .. } => {
                assert_eq!(reason, FullReason::RctIdLost);
                assert!(
                    !survives && !matches!(between, Between::Nothing),
                    "{between:?}"
                );
            }
        }
    }
}
