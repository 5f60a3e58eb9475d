//! Restore by import: a configuration file becomes a planned VM, which is changed, validated and realised.

use std::sync::Arc;

use hyperv::{ErrorKind, ExportCheckpoints, Folders, PlannedVm};
use hyperv_sim::ctl::FaultRule;
use model::{ConsistencyWish, Media, PowerState, VmConfig, VmId, host_path};

use super::Bed;
use crate::sim::mark;

/// A VM that was backed up: a copy of its configuration file and of its disk lie elsewhere.
struct BackedUp {
    vm: VmId,
    config: VmConfig,
    /// Folder of the copies.
    folder: String,
    file: String,
    disk: String,
}

impl BackedUp {
    async fn new(bed: &Bed) -> Self {
        let vm = bed.vm(1).await;
        let taken = bed
            .host()
            .take_checkpoint(vm, ConsistencyWish::Crash, mark(1))
            .await
            .unwrap();
        let (config, files) = bed.host().checkpoint_config(vm, &taken.id).await.unwrap();
        let files = files.list(bed.files()).unwrap();
        let source = files.iter().find(|file| file.role == "config").unwrap();
        let folder = format!(r"C:\Restore\{}", config.name);
        let name = host_path::file_name(&source.path);
        let file = format!(r"{folder}\Virtual Machines\{name}");
        bed.copy(&source.path, &file);
        let disk = format!(r"{folder}\disk0.vhdx");
        bed.copy(config.disks().next().unwrap().2, &disk);
        bed.host().destroy_checkpoint(vm, &taken.id).await.unwrap();
        bed.host().wait_merged(vm).await.unwrap();
        Self {
            vm,
            config,
            folder,
            file,
            disk,
        }
    }

    fn folders(&self) -> Folders {
        Folders {
            config: self.folder.clone(),
            ..Folders::default()
        }
    }

    /// Removes the VM itself, as a lost one is.
    async fn lose(&self, bed: &Bed) {
        for _ in 0..2 {
            bed.host().destroy_vm(self.vm).await.unwrap();
        }
        assert!(!bed.host().vm_exists(self.vm).await.unwrap());
    }
}

pub(super) fn set_disk(config: &mut VmConfig, to: &str) {
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

async fn is_planned(bed: &Bed, id: VmId) -> bool {
    let all = bed.host().planned_vms().await.unwrap();
    all.iter().any(|planned| planned.id == id)
}

pub(super) async fn brings_back_a_vm_with_its_id(bed: Arc<Bed>) {
    let mut was = BackedUp::new(&bed).await;
    was.lose(&bed).await;
    let vm = was.vm;
    let planned = bed
        .host()
        .import_definition(&was.file, None, false)
        .await
        .unwrap();
    assert_eq!(planned.id, vm);
    assert!(is_planned(&bed, vm).await && bed.host().vm_exists(vm).await.unwrap());
    bed.host().drop_planned_checkpoints(vm).await.unwrap();

    was.config.name.push_str(" restored");
    was.config.nics[0].switch = None;
    was.config.nics[0].mac = None;
    set_disk(&mut was.config, &was.disk);
    // Each step twice, as by an agent that did not see the first one's end.
    for _ in 0..2 {
        bed.host()
            .change_planned(vm, &was.config, &was.folders())
            .await
            .unwrap();
    }
    bed.host().validate_planned(vm).await.unwrap();
    for _ in 0..2 {
        assert_eq!(bed.host().realize_planned(vm).await.unwrap(), vm);
    }
    let facts = bed.host().vm(vm).await.unwrap();
    assert_eq!(facts.summary.config.name, was.config.name);
    assert_eq!(facts.summary.config.nics[0].switch, None);
    assert_eq!(facts.summary.config.processors, was.config.processors);
    assert_eq!(facts.disks[0].path, was.disk);
    assert!(facts.checkpoints.is_empty(), "{:?}", facts.checkpoints);
    assert!(!is_planned(&bed, vm).await);
    bed.host().start(vm).await.unwrap();
    assert_eq!(bed.host().power(vm).await.unwrap().0, PowerState::Running);
}

pub(super) async fn brings_back_a_copy_with_a_new_id(bed: Arc<Bed>) {
    let was = BackedUp::new(&bed).await;
    let import = |new_id| bed.host().import_definition(&was.file, None, new_id);
    // A host has one VM per id.
    let error = import(false).await.unwrap_err();
    assert!(!is_planned(&bed, was.vm).await, "{error}");

    bed.fault(FaultRule::ConnectionLostAfter, "ImportSystemDefinition")
        .await;
    let PlannedVm { id, .. } = import(true).await.unwrap();
    assert_ne!(id, was.vm);
    let mut config = was.config.clone();
    config.id = id;
    set_disk(&mut config, &was.disk);
    let mac = config.nics[0].mac.take();
    bed.host()
        .change_planned(id, &config, &was.folders())
        .await
        .unwrap();
    bed.fault(FaultRule::ConnectionLostAfter, "RealizePlannedSystem")
        .await;
    assert_eq!(bed.host().realize_planned(id).await.unwrap(), id);
    let copy = bed.host().vm(id).await.unwrap().summary.config;
    assert_eq!(copy.nics[0].switch.as_ref().unwrap().name, "LAN");
    assert_ne!(copy.nics[0].mac, mac);
    assert!(bed.host().vm_exists(was.vm).await.unwrap());
}

pub(super) async fn names_what_is_missing(bed: Arc<Bed>) {
    let mut was = BackedUp::new(&bed).await;
    let import = async |file: &str| bed.host().import_definition(file, None, true).await;
    let error = import(&format!(r"{}\none.vmcx", was.folder))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Refused | ErrorKind::Failed | ErrorKind::NotFound
        ),
        "{error}"
    );
    assert!(error.to_string().contains("none.vmcx"), "{error}");
    let planned = import(&was.file).await.unwrap();
    set_disk(&mut was.config, r"C:\Restore\missing.vhdx");
    let change = bed
        .host()
        .change_planned(planned.id, &was.config, &was.folders())
        .await;
    change.unwrap();
    let error = bed.host().validate_planned(planned.id).await.unwrap_err();
    assert!(error.to_string().contains("missing.vhdx"), "{error}");
    bed.host().destroy_planned(planned.id).await.unwrap();
}

pub(super) async fn that_is_given_up_leaves_the_disks(bed: Arc<Bed>) {
    let was = BackedUp::new(&bed).await;
    let planned = bed
        .host()
        .import_definition(&was.file, None, true)
        .await
        .unwrap();
    let config = bed.host().planned_config(planned.id).await.unwrap();
    assert_eq!(config.disks().count(), 1);
    bed.fault(FaultRule::ConnectionLostAfter, "DestroySystem")
        .await;
    for _ in 0..2 {
        bed.host().destroy_planned(planned.id).await.unwrap();
    }
    assert!(!is_planned(&bed, planned.id).await);
    assert!(bed.files().stat(&was.disk).unwrap().is_some());
    assert!(bed.files().stat(&was.file).unwrap().is_some());
}

pub(super) async fn of_an_export_keeps_the_host_merging(bed: Arc<Bed>) {
    let vm = bed.running_vm().await;
    let name = bed.host().vm(vm).await.unwrap().summary.config.name;
    bed.host()
        .export_definition(vm, r"C:\Exports", ExportCheckpoints::None)
        .await
        .unwrap();
    // An export without disks is how merging gets switched off.
    assert!(bed.host().merges_disks(vm).await.unwrap());
    assert!(!bed.host().switch_merging_on(vm).await.unwrap());
    let all = bed.sim.all_files().await;
    let below = format!(r"C:\Exports\{name}\").to_lowercase();
    let file = all
        .iter()
        .find(|path| path.to_lowercase().starts_with(&below) && path.ends_with(".vmcx"))
        .unwrap_or_else(|| panic!("no configuration below {below}: {all:?}"));
    let planned = bed
        .host()
        .import_definition(file, None, true)
        .await
        .unwrap();
    assert_eq!(planned.name, name);
    bed.host().destroy_planned(planned.id).await.unwrap();
}
