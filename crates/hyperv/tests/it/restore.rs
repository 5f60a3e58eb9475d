//! The steps of a restore: import, definition, disks; and power.

use hyperv::{ErrorKind, Folders, PlannedVm, Slot};
use hyperv_sim::ctl::{FaultRule, PowerAction};
use model::{
    BootEntry, ConsistencyWish, ControllerKind, Drive, Media, Memory, PowerState, VmConfig, VmId,
    host_path,
};
use vhdx::{ReadAt, WriteAt};

use crate::sim::{Sim, mark};

/// Copies a file of the host.
fn copy(sim: &Sim, from: &str, to: &str) {
    let source = sim.files.open_read(from).expect("it can be read");
    let mut bytes =
        vec![0; usize::try_from(source.len().expect("it has a length")).expect("it is small")];
    source.read_exact_at(&mut bytes, 0).expect("it can be read");
    sim.files
        .create_folders(host_path::parent(to).expect("it has a folder"))
        .expect("folders can be made");
    let target = sim.files.create_new(to).expect("the name is new");
    target.write_all_at(&bytes, 0).expect("there is room");
    target.sync().expect("it can be written out");
}

/// A VM that was backed up: its configuration and a copy of its configuration file and disk elsewhere.
async fn backed_up(sim: &Sim) -> (VmId, VmConfig, String, String) {
    let vm = sim.add_vm("web", 2, 1).await;
    let taken = sim
        .host
        .take_checkpoint(vm, ConsistencyWish::Crash, mark(1))
        .await
        .expect("it can be checkpointed");
    let (config, files) = sim
        .host
        .checkpoint_config(vm, &taken.id)
        .await
        .expect("it has a configuration");
    let files = files.list(&sim.files).expect("its files can be listed");
    let file = files
        .iter()
        .find(|file| file.role == "config")
        .expect("there is a configuration file");
    let saved = format!(
        r"C:\Restore\Virtual Machines\{}",
        host_path::file_name(&file.path)
    );
    copy(sim, &file.path, &saved);
    copy(
        sim,
        config.disks().next().expect("it has a disk").2,
        r"C:\Restore\disk0.vhdx",
    );
    sim.host
        .destroy_checkpoint(vm, &taken.id)
        .await
        .expect("it can be destroyed");
    sim.host.wait_merged(vm).await.expect("it is merged");
    (vm, config, saved, r"C:\Restore\disk0.vhdx".into())
}

fn set_disk(config: &mut VmConfig, to: &str) {
    for drive in config
        .controllers
        .iter_mut()
        .flat_map(|controller| &mut controller.drives)
    {
        if let Media::Disk { path } = &mut drive.media {
            to.clone_into(path);
        }
    }
}

#[tokio::test]
async fn an_import_brings_back_the_vm_with_its_id() {
    for nil_arrays in [false, true] {
        let sim = Sim::start(nil_arrays).await;
        let (vm, mut config, file, disk) = backed_up(&sim).await;
        sim.host.destroy_vm(vm).await.unwrap();
        sim.host.destroy_vm(vm).await.unwrap();
        assert!(!sim.host.vm_exists(vm).await.unwrap());

        let planned = sim
            .host
            .import_definition(&file, None, false)
            .await
            .unwrap();
        assert_eq!(planned.id, vm);
        assert!(sim.host.vm_exists(vm).await.unwrap());
        assert_eq!(sim.host.planned_vms().await.unwrap().len(), 1);
        sim.host.drop_planned_checkpoints(vm).await.unwrap();

        // What is missing is named by validation.
        config.name = "web restored".into();
        config.nics[0].switch = None;
        config.nics[0].mac = None;
        set_disk(&mut config, r"C:\Restore\missing.vhdx");
        let folders = Folders {
            config: r"C:\Restore".into(),
            ..Folders::default()
        };
        sim.host
            .change_planned(vm, &config, &folders)
            .await
            .unwrap();
        let error = sim.host.validate_planned(vm).await.unwrap_err();
        assert!(error.to_string().contains("missing.vhdx"), "{error}");

        set_disk(&mut config, &disk);
        sim.host
            .change_planned(vm, &config, &folders)
            .await
            .unwrap();
        // Twice does no harm.
        sim.host
            .change_planned(vm, &config, &folders)
            .await
            .unwrap();
        sim.host.validate_planned(vm).await.unwrap();
        assert_eq!(sim.host.realize_planned(vm).await.unwrap(), vm);
        // Again, as an agent does that did not see the end.
        assert_eq!(sim.host.realize_planned(vm).await.unwrap(), vm);

        let facts = sim.host.vm(vm).await.unwrap();
        assert_eq!(facts.summary.config.name, "web restored");
        assert_eq!(facts.summary.config.nics[0].switch, None);
        assert_eq!(facts.disks[0].path, disk);
        assert_eq!(facts.summary.config.processors, config.processors);
        assert!(facts.checkpoints.is_empty(), "{:?}", facts.checkpoints);
        assert!(sim.host.planned_vms().await.unwrap().is_empty());
        sim.host.start(vm).await.unwrap();
    }
}

#[tokio::test]
async fn an_import_with_a_new_id_stands_beside_the_old_vm() {
    let sim = Sim::start(false).await;
    let (vm, mut config, file, disk) = backed_up(&sim).await;
    // A host has one VM per id.
    let error = sim
        .host
        .import_definition(&file, None, false)
        .await
        .unwrap_err();
    assert!(sim.host.planned_vms().await.unwrap().is_empty(), "{error}");

    sim.fault(FaultRule::ConnectionLostAfter, "ImportSystemDefinition")
        .await;
    let PlannedVm { id, .. } = sim.host.import_definition(&file, None, true).await.unwrap();
    assert_ne!(id, vm);
    config.id = id;
    set_disk(&mut config, &disk);
    let mac = config.nics[0].mac.take();
    sim.host
        .change_planned(id, &config, &Folders::default())
        .await
        .unwrap();
    sim.fault(FaultRule::ConnectionLostAfter, "RealizePlannedSystem")
        .await;
    sim.host.realize_planned(id).await.unwrap();
    let facts = sim.host.vm(id).await.unwrap();
    assert_eq!(
        facts.summary.config.nics[0].switch.as_ref().unwrap().name,
        "LAN"
    );
    assert_ne!(facts.summary.config.nics[0].mac, mac);
    assert_eq!(sim.host.vms().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_planned_vm_that_is_given_up_leaves_its_disks() {
    let sim = Sim::start(false).await;
    let (_, _, file, disk) = backed_up(&sim).await;
    let planned = sim.host.import_definition(&file, None, true).await.unwrap();
    let config = sim.host.planned_config(planned.id).await.unwrap();
    assert_eq!(config.disks().count(), 1);
    sim.fault(FaultRule::ConnectionLostAfter, "DestroySystem")
        .await;
    sim.host.destroy_planned(planned.id).await.unwrap();
    sim.host.destroy_planned(planned.id).await.unwrap();
    assert!(sim.host.planned_vms().await.unwrap().is_empty());
    assert!(sim.files.stat(&disk).unwrap().is_some());
    // A file that is none.
    let error = sim
        .host
        .import_definition(r"C:\Restore\none.vmcx", None, true)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Refused | ErrorKind::Failed | ErrorKind::NotFound
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_vm_is_defined_from_its_configuration() {
    for (generation, nil_arrays) in [(1, false), (2, false), (2, true)] {
        let sim = Sim::start(nil_arrays).await;
        let original = sim.add_vm("web", generation, 2).await;
        let facts = sim.host.vm(original).await.unwrap();
        let mut config = facts.summary.config.clone();
        for (n, drive) in config
            .controllers
            .iter_mut()
            .flat_map(|controller| &mut controller.drives)
            .enumerate()
        {
            if let Media::Disk { path } = &mut drive.media {
                let copied = format!(r"C:\New\disk{n}.vhdx");
                copy(&sim, path, &copied);
                *path = copied;
            }
        }
        config.name = "copy \"of\" web".into();
        config.notes = vec!["first line".into(), "second & last".into()];
        config.processors = 3;
        config.memory = Memory {
            startup_mib: 512,
            dynamic: true,
            minimum_mib: 256,
            maximum_mib: 2048,
        };
        config.automatic_start = Some(2);
        if generation == 2 {
            config.secure_boot = Some(false);
            config.boot_entries.reverse();
            let scsi = config
                .controllers
                .iter_mut()
                .find(|c| c.kind == ControllerKind::Scsi)
                .unwrap();
            scsi.drives.push(Drive {
                slot: 5,
                attachment: String::new(),
                media: Media::Empty,
            });
        } else {
            config.boot_order = vec![2, 1, 3, 0];
        }
        let folders = Folders {
            config: r"C:\New".into(),
            ..Folders::default()
        };
        let id = sim.host.define_vm(&config, &folders).await.unwrap();
        assert_ne!(id, original);

        let made = sim.host.vm(id).await.unwrap().summary.config;
        let disks = |config: &VmConfig| -> Vec<(ControllerKind, u32, u32, String)> {
            config
                .disks()
                .map(|(c, d, path)| (c.kind, c.number, d.slot, path.to_owned()))
                .collect()
        };
        assert_eq!(disks(&made), disks(&config));
        assert_eq!(
            (&made.name, &made.notes, made.processors),
            (&config.name, &config.notes, 3)
        );
        assert_eq!(
            (made.memory, made.generation),
            (config.memory, config.generation)
        );
        assert_eq!(
            (made.automatic_start, made.secure_boot),
            (Some(2), config.secure_boot)
        );
        assert_eq!(made.nics[0].switch, config.nics[0].switch);
        assert_eq!(made.boot_order, config.boot_order);
        let drives = |config: &VmConfig| -> Vec<BootEntry> {
            let is_wished = |entry: &&BootEntry| {
                config.boot_entries.contains(entry)
                    && matches!(entry, BootEntry::Drive { slot, .. } if *slot < 5)
            };
            config
                .boot_entries
                .iter()
                .filter(is_wished)
                .cloned()
                .collect()
        };
        assert_eq!(drives(&made), drives(&config));
        sim.host.start(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_definition_that_fails_leaves_no_vm() {
    let sim = Sim::start(false).await;
    let original = sim.add_vm("web", 2, 1).await;
    let mut config = sim.host.vm(original).await.unwrap().summary.config;
    set_disk(&mut config, r"C:\missing.vhdx");
    let error = sim
        .host
        .define_vm(&config, &Folders::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("missing.vhdx"), "{error}");
    assert_eq!(sim.host.vms().await.unwrap().len(), 1);
}

#[tokio::test]
async fn disks_are_attached_replaced_and_detached() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    for name in ["a", "b"] {
        copy(&sim, r"C:\VMs\web\disk0.vhdx", &format!(r"C:\{name}.vhdx"));
    }
    sim.power(vm, PowerAction::On).await;
    let slot = sim.host.attach_disk(vm, r"C:\a.vhdx", None).await.unwrap();
    assert_eq!(
        slot,
        Slot {
            kind: ControllerKind::Scsi,
            controller: 0,
            slot: 1
        }
    );
    assert_eq!(
        sim.host.attach_disk(vm, r"C:\a.vhdx", None).await.unwrap(),
        slot
    );
    let error = sim
        .host
        .attach_disk(vm, r"C:\b.vhdx", Some(slot))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    sim.host.detach_disk(vm, slot).await.unwrap();
    // The answers of both calls, for the drive and for the file, are lost.
    for _ in 0..2 {
        sim.fault(FaultRule::ConnectionLostAfter, "AddResourceSettings")
            .await;
    }
    let again = sim.host.attach_disk(vm, r"C:\a.vhdx", None).await.unwrap();
    assert_eq!(again, slot);
    sim.fault(FaultRule::ConnectionLostAfter, "ModifyResourceSettings")
        .await;
    sim.host.replace_disk(vm, slot, r"C:\b.vhdx").await.unwrap();
    sim.host.replace_disk(vm, slot, r"C:\a.vhdx").await.unwrap();
    let count = async || {
        sim.host
            .vm(vm)
            .await
            .unwrap()
            .summary
            .config
            .controllers
            .iter()
            .map(|c| c.drives.len())
            .sum::<usize>()
    };
    let error = sim
        .host
        .attach_disk(vm, r"C:\missing.vhdx", None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("missing.vhdx"), "{error}");
    assert_eq!(
        count().await,
        2,
        "the drive of the failed disk is gone again"
    );

    sim.host.replace_disk(vm, slot, r"C:\b.vhdx").await.unwrap();
    assert_eq!(sim.host.vm(vm).await.unwrap().disks[1].path, r"C:\b.vhdx");
    let nowhere = Slot { slot: 9, ..slot };
    assert_eq!(
        sim.host
            .replace_disk(vm, nowhere, r"C:\a.vhdx")
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    sim.host.detach_disk(vm, slot).await.unwrap();
    sim.host.detach_disk(vm, slot).await.unwrap();
    assert_eq!(count().await, 1);
    assert!(sim.files.stat(r"C:\b.vhdx").unwrap().is_some());

    sim.user_checkpoint(vm, "mine").await;
    let first = Slot { slot: 0, ..slot };
    let error = sim
        .host
        .replace_disk(vm, first, r"C:\a.vhdx")
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Refused && error.to_string().contains("checkpoints"),
        "{error}"
    );
}

#[tokio::test]
async fn power_goes_where_it_is_asked_to() {
    let sim = Sim::start(false).await;
    let vm = sim.add_vm("web", 2, 1).await;
    let power = async || sim.host.power(vm).await.unwrap().0;
    for _ in 0..2 {
        sim.host.start(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Running);
    }
    let error = sim.host.destroy_vm(vm).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    for _ in 0..2 {
        sim.host.save(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Saved);
    }
    assert!(
        sim.host.vms().await.unwrap()[0]
            .unsupported
            .iter()
            .any(|u| u.code == "saved-state")
    );
    sim.host.start(vm).await.unwrap();
    for _ in 0..2 {
        sim.host.shut_down(vm).await.unwrap();
        assert_eq!(power().await, PowerState::Off);
    }
    sim.fault(FaultRule::ConnectionLostAfter, "RequestStateChange")
        .await;
    sim.host.start(vm).await.unwrap();
    sim.host.turn_off(vm).await.unwrap();
    assert_eq!(power().await, PowerState::Off);
    sim.host.destroy_vm(vm).await.unwrap();
    assert_eq!(
        sim.host.start(vm).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(sim.files.stat(r"C:\VMs\web\disk0.vhdx").unwrap().is_some());
}

/// The agent runs these on tasks of a multi-threaded runtime.
#[tokio::test]
async fn steps_can_run_on_any_thread() {
    fn check<T: Send>(_: T) {}
    let sim = Sim::start(false).await;
    let (host, vm) = (&sim.host, VmId::random());
    let config = sim.add_vm("web", 2, 1).await;
    let config = host.vm(config).await.unwrap().summary.config;
    let folders = Folders::default();
    check(host.facts());
    check(host.vms());
    check(host.vm(vm));
    check(host.take_checkpoint(vm, ConsistencyWish::Crash, mark(1)));
    check(host.convert_to_reference_point(vm, "", &[]));
    check(host.destroy_checkpoint(vm, ""));
    check(host.destroy_reference_point(vm, ""));
    check(host.changed_ranges("", "", 1));
    check(host.import_definition("", None, true));
    check(host.change_planned(vm, &config, &folders));
    check(host.realize_planned(vm));
    check(host.define_vm(&config, &folders));
    check(host.destroy_vm(vm));
    check(host.start(vm));
    check(host.attach_disk(vm, "", None));
}
