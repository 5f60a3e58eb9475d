//! What nobody could confirm on a real host: the driver works whichever way it is.
//!
//! The simulated host has a setting for each such point. Every value of every setting goes through the same flow: two
//! backups with writes between them, a shadow copy, an export, a restore; each content is compared with what the guest
//! saw. A setting that is neither an open point nor only a time or a limit is missed by the first test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use hyperv::{Changes, ExportCheckpoints, Folders, Host, ShadowView};
use hyperv_sim::ctl::{Command, PowerAction, Reply};
use model::{ByteRange, ConsistencyWish, MIB, Media, PowerState, VmConfig, VmId, host_path};
use vhdx::{BulkWriter, Params, ReadAt, WriteAt};

use crate::sim::{DISK_BYTES, Sim, mark};

/// How much of the disk is compared: all that is written, but its end.
const LOOK_BYTES: u64 = 36 * MIB;

const WISH: ConsistencyWish = ConsistencyWish::PreferApplication;

/// Settings that say how long things take or how much there may be, not how a host behaves.
const TIMES_AND_LIMITS: &[&str] = &[
    "job_millis",
    "merge_millis",
    "merge_bytes_per_second",
    "slow_millis",
    "suspend_millis",
    "job_kept_millis",
    "enumeration_idle_millis",
    "shadow_millis",
    "shadow_limit",
    "shadow_code",
];

macro_rules! open_points {
    ($($key:ident = $($value:literal)*;)*) => {
        const OPEN_POINTS: &[&str] = &[$(stringify!($key)),*];

        $(#[tokio::test]
        async fn $key() {
            for value in [$($value),*] {
                let sim = Sim::start(false).await;
                sim.set(stringify!($key), value).await;
                backup_and_restore(&sim).await;
            }
        })*
    };
}

open_points! {
    nil_arrays = "false" "true";
    partial_changes = "0" "1MiB";
    coarse_bytes = "512" "2MiB";
    rct_survives_checkpoints = "false" "true";
    enabled_states = "v1" "v2";
    datetime_offset = "0" "120";
    capital_paths = "false" "true";
    language = "english" "german";
    recovery_import_id = "vm" "checkpoint";
    envelope_bytes = "24000" "512000";
    export_locks_chain = "false" "true";
    shadow_torn = "false" "true";
    shadow_gmt = "false" "true";
}

#[tokio::test]
async fn every_setting_is_tried_or_is_no_open_point() {
    let sim = Sim::start(false).await;
    let Reply::Faults(faults) = sim.ctl(Command::FaultList).await else {
        panic!("no settings")
    };
    let there: BTreeSet<&str> = faults.settings.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = OPEN_POINTS
        .iter()
        .chain(TIMES_AND_LIMITS)
        .copied()
        .collect();
    assert_eq!(there, known);
}

async fn backup_and_restore(sim: &Sim) {
    let host = &sim.host;
    let vm = sim.add_vm("web", 2, 1).await;
    sim.power(vm, PowerAction::On).await;
    write(sim, vm, 10).await;

    // The first backup is full.
    let first = host.take_checkpoint(vm, WISH, mark(1)).await.unwrap();
    let disk = host.frozen_disks(vm, &first.id).await.unwrap().remove(0);
    let mut image = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    read(sim, &disk.path, 0, &mut image);
    let (config, file) = keep_config(sim, vm, &first.id).await;
    let point = host
        .convert_to_reference_point(vm, &first.id, &[])
        .await
        .unwrap();
    host.wait_merged(vm).await.unwrap();

    // The second one reads what changed, and all where the host cannot tell. A user's checkpoint came and went.
    write(sim, vm, 20).await;
    sim.user_checkpoint(vm, "for an hour").await;
    write(sim, vm, 25).await;
    let (vm_name, checkpoint) = (vm.to_string(), "for an hour".to_owned());
    sim.ctl(Command::CheckpointDelete {
        vm: vm_name,
        checkpoint,
    })
    .await;
    let moment = guest(sim, vm).await;
    let second = host.take_checkpoint(vm, WISH, mark(2)).await.unwrap();
    write(sim, vm, 30).await;
    let disk = host.frozen_disks(vm, &second.id).await.unwrap().remove(0);
    let rct_id = point.rct_id(&disk.attachment).unwrap();
    let changes = host.changed_ranges(&disk.path, rct_id, DISK_BYTES).await;
    let whole = ByteRange {
        offset: 0,
        len: DISK_BYTES,
    };
    let ranges = match changes.unwrap() {
        Changes::Ranges(ranges) => ranges.as_slice().to_vec(),
        Changes::Unknown { .. } => vec![whole],
    };
    for range in ranges {
        let start = usize::try_from(range.offset).unwrap();
        let end = start + usize::try_from(range.len).unwrap();
        read(sim, &disk.path, range.offset, &mut image[start..end]);
    }
    assert_same(&image, &moment, "incremental");

    // An export of the checkpoint's definition does not stop the clean-up.
    host.export_definition(vm, r"C:\Export", ExportCheckpoints::One(&second.id))
        .await
        .unwrap();
    shadow_holds_what_the_guest_sees(sim, vm).await;
    let now = guest(sim, vm).await;
    host.destroy_checkpoint(vm, &second.id).await.unwrap();
    host.wait_merged(vm).await.unwrap();
    assert_same(&guest(sim, vm).await, &now, "after the clean-up");
    let facts = host.vm(vm).await.unwrap();
    assert!(facts.checkpoints.is_empty(), "{:?}", facts.checkpoints);
    assert_eq!(facts.disks[0].chain.len(), 1, "{:?}", facts.disks[0].chain);

    // The VM is saved and goes on, then is lost and comes back.
    for state in [PowerState::Saved, PowerState::Running] {
        if state == PowerState::Saved {
            host.save(vm).await.unwrap();
        } else {
            host.start(vm).await.unwrap();
        }
        assert_eq!(host.power(vm).await.unwrap().0, state);
    }
    host.turn_off(vm).await.unwrap();
    host.destroy_vm(vm).await.unwrap();
    let restored = restore(sim, host, config, &file, &image).await;
    host.start(restored).await.unwrap();
    let whole = sim.guest_read(restored, 0, 0, DISK_BYTES).await;
    assert!(whole == image, "restored");
}

/// Lets the guest write here and there; another seed writes other bytes, partly at other places.
async fn write(sim: &Sim, vm: VmId, seed: u64) {
    for (n, (offset, len)) in [
        (2 * MIB, MIB),
        (seed * MIB + 4096, 8192),
        (seed * MIB + 3 * MIB, 512),
        (DISK_BYTES - 4096, 4096),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = seed + u64::try_from(n).unwrap();
        sim.guest_write(vm, 0, offset, seed, len).await;
    }
}

async fn guest(sim: &Sim, vm: VmId) -> Vec<u8> {
    sim.guest_read(vm, 0, 0, LOOK_BYTES).await
}

#[track_caller]
fn assert_same(found: &[u8], wanted: &[u8], what: &str) {
    let look = usize::try_from(LOOK_BYTES).unwrap();
    assert!(found[..look] == wanted[..look], "{what}");
}

fn read(sim: &Sim, path: &str, offset: u64, into: &mut [u8]) {
    let chain = sim.files.open_chain(path).expect("the chain is whole");
    let disk = chain.into_disk();
    disk.read_at(into, offset).expect("the disk can be read");
}

/// Copies the configuration file of a checkpoint to where a restore finds it.
async fn keep_config(sim: &Sim, vm: VmId, checkpoint: &str) -> (VmConfig, String) {
    let (config, files) = sim.host.checkpoint_config(vm, checkpoint).await.unwrap();
    let files = files.list(&sim.files).unwrap();
    let source = files.iter().find(|file| file.role == "config").unwrap();
    let name = host_path::file_name(&source.path);
    let kept = format!(r"C:\Restore\Virtual Machines\{name}");
    let file = sim.files.open_read(&source.path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let folder = host_path::parent(&kept).unwrap();
    sim.files.create_folders(folder).unwrap();
    let copy = sim.files.create_new(&kept).unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    copy.sync().unwrap();
    (config, kept)
}

async fn shadow_holds_what_the_guest_sees(sim: &Sim, vm: VmId) {
    let volume = sim.host.volumes().await.unwrap().remove(0);
    let shadow = sim.host.create_shadow(&volume, &[]).await.unwrap();
    let moment = guest(sim, vm).await;
    sim.guest_write(vm, 0, 34 * MIB, 99, MIB).await;
    let facts = sim.host.vm(vm).await.unwrap();
    let mut view = ShadowView::new(sim.files_with_shadows());
    view.add(&volume, &shadow).unwrap();
    let chain = view.open_chain(&facts.disks[0].path).unwrap();
    let mut found = vec![0; moment.len()];
    chain.into_disk().read_at(&mut found, 0).unwrap();
    assert_same(&found, &moment, "shadow copy");
    sim.host.delete_shadow(&shadow.id).await.unwrap();
}

/// Imports the configuration with the image as its disk.
async fn restore(sim: &Sim, host: &Host, mut config: VmConfig, file: &str, image: &[u8]) -> VmId {
    let path = r"C:\Restore\disk0.vhdx";
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(DISK_BYTES)
    };
    let target = sim.files.create_new(path).unwrap();
    let mut disk = BulkWriter::create(target, &params).unwrap();
    disk.write(0, image).unwrap();
    disk.finish().unwrap();
    for drive in config
        .controllers
        .iter_mut()
        .flat_map(|controller| &mut controller.drives)
    {
        if let Media::Disk { path: old } = &mut drive.media {
            path.clone_into(old);
        }
    }
    let planned = host.import_definition(file, None, false).await.unwrap();
    let id = planned.id;
    host.drop_planned_checkpoints(id).await.unwrap();
    let folders = Folders {
        config: r"C:\Restore".into(),
        ..Folders::default()
    };
    host.change_planned(id, &config, &folders).await.unwrap();
    host.validate_planned(id).await.unwrap();
    host.realize_planned(id).await.unwrap()
}
