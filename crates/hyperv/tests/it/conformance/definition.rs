//! Restore by definition: a VM is made from what is known of it.

use std::sync::Arc;

use hyperv::Folders;
use model::{BootEntry, ControllerKind, Drive, Generation, Media, Memory, PowerState, VmConfig};

use super::Bed;

pub(super) async fn of_the_first_generation_comes_back(bed: Arc<Bed>) {
    comes_back(&bed, 1).await;
}

pub(super) async fn of_the_second_generation_comes_back(bed: Arc<Bed>) {
    comes_back(&bed, 2).await;
}

async fn comes_back(bed: &Bed, generation: u8) {
    let name = bed.name();
    let original = bed.sim.add_vm(&name, generation, 2).await;
    let mut config = bed.host().vm(original).await.unwrap().summary.config;
    let drives = config
        .controllers
        .iter_mut()
        .flat_map(|controller| &mut controller.drives);
    for (n, drive) in drives.enumerate() {
        if let Media::Disk { path } = &mut drive.media {
            let copied = format!(r"C:\New\{name}\disk{n}.vhdx");
            bed.copy(path, &copied);
            *path = copied;
        }
    }
    change(&mut config);
    let folders = Folders {
        config: format!(r"C:\New\{name}"),
        ..Folders::default()
    };
    let id = bed.host().define_vm(&config, &folders).await.unwrap();
    assert_ne!(id, original);

    let facts = bed.host().vm(id).await.unwrap();
    assert!(
        facts.folders.config.starts_with(r"C:\New"),
        "{:?}",
        facts.folders
    );
    let made = facts.summary.config;
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
    assert_eq!(booted_drives(&made), booted_drives(&config));
    bed.host().start(id).await.unwrap();
    assert_eq!(bed.host().power(id).await.unwrap().0, PowerState::Running);
}

/// Gives a configuration what differs from a new VM's.
fn change(config: &mut VmConfig) {
    config.name = "copy \"of\" web & more".into();
    config.notes = vec!["first line".into(), "second & last".into()];
    config.processors = 3;
    config.memory = Memory {
        startup_mib: 512,
        dynamic: true,
        minimum_mib: 256,
        maximum_mib: 2048,
    };
    config.automatic_start = Some(2);
    if config.generation == Generation::Gen1 {
        config.boot_order = vec![2, 1, 3, 0];
        return;
    }
    config.secure_boot = Some(false);
    config.boot_entries.reverse();
    let scsi = config
        .controllers
        .iter_mut()
        .find(|controller| controller.kind == ControllerKind::Scsi)
        .expect("a VM of the second generation boots from SCSI");
    scsi.drives.push(Drive {
        slot: 5,
        attachment: String::new(),
        media: Media::Empty,
    });
}

fn disks(config: &VmConfig) -> Vec<(ControllerKind, u32, u32, String)> {
    config
        .disks()
        .map(|(controller, drive, path)| {
            (
                controller.kind,
                controller.number,
                drive.slot,
                path.to_owned(),
            )
        })
        .collect()
}

/// The disks it boots from, in order.
fn booted_drives(config: &VmConfig) -> Vec<&BootEntry> {
    let is_disk = |entry: &&BootEntry| matches!(entry, BootEntry::Drive { slot, .. } if *slot < 5);
    config.boot_entries.iter().filter(is_disk).collect()
}

pub(super) async fn that_fails_leaves_no_vm(bed: Arc<Bed>) {
    let original = bed.vm(1).await;
    let mut config = bed.host().vm(original).await.unwrap().summary.config;
    super::import::set_disk(&mut config, r"C:\missing.vhdx");
    let before = bed.host().vms().await.unwrap().len();
    let error = bed
        .host()
        .define_vm(&config, &Folders::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("missing.vhdx"), "{error}");
    assert_eq!(bed.host().vms().await.unwrap().len(), before);
}
