//! Every changing step, with its answer lost in every way there is: the effect is looked for, and nothing is done twice.

use hyperv::{ExportCheckpoints, Folders, Slot};
use hyperv_sim::ctl::{Command, FaultRule, PowerAction};
use model::{Consistency, ConsistencyWish, Media, PowerState, VmConfig, VmId};

use crate::sim::{Sim, mark};

/// Ways not to learn what became of a method.
const LOST: [FaultRule; 3] = [
    FaultRule::ConnectionLostAfter,
    FaultRule::TimedOut,
    FaultRule::JobVanishes,
];
/// Ways to learn it by another way than usual.
const ODD: [FaultRule; 3] = [
    FaultRule::AssociationMissing,
    FaultRule::JobWarnings,
    FaultRule::JobSuspended,
];

/// A host on which each step has the same fault.
struct Faulty {
    sim: Sim,
    rule: FaultRule,
}

impl Faulty {
    async fn start(rule: FaultRule) -> Self {
        let sim = Sim::start(false).await;
        sim.set("suspend_millis", "30").await;
        Self { sim, rule }
    }

    /// Lets the fault strike the next call of a method, and no other.
    async fn on(&self, method: &str) {
        self.sim.ctl(Command::FaultClear).await;
        self.sim.fault(self.rule, method).await;
    }
}

async fn checkpoint_names(sim: &Sim, vm: VmId) -> Vec<String> {
    let all = sim.host.checkpoints(vm).await.expect("they can be listed");
    all.into_iter().map(|checkpoint| checkpoint.name).collect()
}

#[tokio::test]
async fn steps_of_a_backup() {
    for rule in LOST.into_iter().chain(ODD) {
        let faulty = Faulty::start(rule).await;
        let (sim, host) = (&faulty.sim, &faulty.sim.host);
        let vm = sim.add_vm("web", 2, 2).await;
        sim.power(vm, PowerAction::On).await;
        let mark = mark(1);

        faulty.on("CreateSnapshot").await;
        let wish = ConsistencyWish::RequireApplication;
        let taken = host.take_checkpoint(vm, wish, mark).await.unwrap();
        assert_eq!(taken.consistency, Consistency::Application, "{rule}");
        assert_eq!(
            checkpoint_names(sim, vm).await,
            [mark.to_string()],
            "{rule}"
        );
        assert_eq!(
            taken.warning.is_some(),
            rule == FaultRule::JobWarnings,
            "{rule}"
        );
        faulty.on("ConvertToReferencePoint").await;
        let point = host
            .convert_to_reference_point(vm, &taken.id, &[])
            .await
            .unwrap();
        assert_eq!(point.disks.as_ref().map(Vec::len), Some(2), "{rule}");
        host.wait_merged(vm).await.unwrap();
        faulty.on("DestroyReferencePoint").await;
        host.destroy_reference_point(vm, &point.id).await.unwrap();
        assert_eq!(host.reference_points(vm).await.unwrap(), [], "{rule}");

        let taken = host.take_checkpoint(vm, wish, mark).await.unwrap();
        faulty.on("DestroySnapshot").await;
        host.destroy_checkpoint(vm, &taken.id).await.unwrap();
        host.wait_merged(vm).await.unwrap();
        assert_eq!(checkpoint_names(sim, vm).await, [""; 0], "{rule}");
    }
}

#[tokio::test]
async fn steps_with_users_checkpoints() {
    for rule in LOST.into_iter().chain(ODD) {
        let faulty = Faulty::start(rule).await;
        let (sim, host) = (&faulty.sim, &faulty.sim.host);
        let vm = sim.add_vm("web", 2, 1).await;
        faulty.on("CreateSnapshot").await;
        let a = host.create_checkpoint(vm, "a").await.unwrap();
        let b = host.create_checkpoint(vm, "b").await.unwrap();
        faulty.on("ModifySystemSettings").await;
        host.rename_checkpoint(&b, "c").await.unwrap();
        assert_eq!(checkpoint_names(sim, vm).await, ["a", "c"], "{rule}");
        faulty.on("ApplySnapshot").await;
        host.apply_checkpoint(vm, &a).await.unwrap();
        let facts = host.vm(vm).await.unwrap();
        assert_eq!(facts.last_applied, Some(a.to_lowercase()), "{rule}");
        faulty.on("DestroySnapshot").await;
        let merges = host.delete_checkpoint(vm, &b, false).await.unwrap();
        host.wait_merged_with(vm, &merges, |_| {}).await.unwrap();
        assert_eq!(checkpoint_names(sim, vm).await, ["a"], "{rule}");
        faulty.on("DestroySnapshotTree").await;
        let merges = host.delete_checkpoint(vm, &a, true).await.unwrap();
        host.wait_merged_with(vm, &merges, |_| {}).await.unwrap();
        assert_eq!(checkpoint_names(sim, vm).await, [""; 0], "{rule}");
        let left = sim.all_files().await;
        assert!(
            !left.iter().any(|path| path.ends_with(".avhdx")),
            "{rule}: {left:?}"
        );
    }
}

#[tokio::test]
async fn steps_with_disks_and_power() {
    for rule in LOST.into_iter().chain(ODD) {
        let faulty = Faulty::start(rule).await;
        let (sim, host) = (&faulty.sim, &faulty.sim.host);
        let vm = sim.add_vm("web", 2, 1).await;
        let local = |path: &str| sim.files.local_path(path).unwrap();
        for name in ["a", "b"] {
            let copy = local(&format!(r"C:\{name}.vhdx"));
            std::fs::copy(local(r"C:\VMs\web\disk0.vhdx"), copy).unwrap();
        }
        for method in ["start", "save", "start", "turn off"] {
            faulty.on("RequestStateChange").await;
            let (result, wanted) = match method {
                "start" => (host.start(vm).await, PowerState::Running),
                "save" => (host.save(vm).await, PowerState::Saved),
                _ => (host.turn_off(vm).await, PowerState::Off),
            };
            result.unwrap_or_else(|error| panic!("{rule} at {method}: {error}"));
            assert_eq!(host.power(vm).await.unwrap().0, wanted, "{rule}");
        }
        let paths = async || -> Vec<(u32, String)> {
            let config = host.vm_summary(vm).await.unwrap().config;
            let disks = config.disks();
            disks
                .map(|(_, drive, path)| (drive.slot, path.to_owned()))
                .collect()
        };
        faulty.on("AddResourceSettings").await;
        let slot: Slot = host.attach_disk(vm, r"C:\a.vhdx", None).await.unwrap();
        assert_eq!(paths().await[1..], [(1, r"C:\a.vhdx".to_owned())], "{rule}");
        faulty.on("ModifyResourceSettings").await;
        host.replace_disk(vm, slot, r"C:\b.vhdx").await.unwrap();
        assert_eq!(paths().await[1..], [(1, r"C:\b.vhdx".to_owned())], "{rule}");
        faulty.on("RemoveResourceSettings").await;
        host.detach_disk(vm, slot).await.unwrap();
        assert_eq!(paths().await.len(), 1, "{rule}");
        faulty.on("DestroySystem").await;
        host.destroy_vm(vm).await.unwrap();
        assert!(!host.vm_exists(vm).await.unwrap(), "{rule}");
    }
}

fn with_disk(mut config: VmConfig, to: &str) -> VmConfig {
    let drives = config.controllers.iter_mut().flat_map(|c| &mut c.drives);
    for drive in drives {
        if let Media::Disk { path } = &mut drive.media {
            to.clone_into(path);
        }
    }
    config
}

#[tokio::test]
async fn steps_of_a_restore() {
    for rule in LOST.into_iter().chain(ODD) {
        let faulty = Faulty::start(rule).await;
        let (sim, host) = (&faulty.sim, &faulty.sim.host);
        let vm = sim.add_vm("web", 2, 1).await;
        let config = host.vm(vm).await.unwrap().summary.config;
        let local = |path: &str| sim.files.local_path(path).unwrap();
        for name in ["a", "b"] {
            let copy = local(&format!(r"C:\{name}.vhdx"));
            std::fs::copy(local(r"C:\VMs\web\disk0.vhdx"), copy).unwrap();
        }
        host.export_definition(vm, r"C:\Export", ExportCheckpoints::None)
            .await
            .unwrap();
        let file = format!(r"C:\Export\web\Virtual Machines\{vm}.vmcx");

        faulty.on("ImportSystemDefinition").await;
        let planned = host.import_definition(&file, None, true).await.unwrap();
        assert_eq!(host.planned_vms().await.unwrap().len(), 1, "{rule}");
        let mut wanted = with_disk(config.clone(), r"C:\a.vhdx");
        wanted.name = "imported".into();
        faulty.on("ModifyResourceSettings").await;
        let folders = Folders::default();
        host.change_planned(planned.id, &wanted, &folders)
            .await
            .unwrap();
        faulty.on("ValidatePlannedSystem").await;
        host.validate_planned(planned.id).await.unwrap();
        faulty.on("RealizePlannedSystem").await;
        let made = host.realize_planned(planned.id).await.unwrap();
        assert_eq!(host.planned_vms().await.unwrap(), [], "{rule}");
        let imported = host.vm_summary(made).await.unwrap().config;
        assert_eq!(imported.name, "imported", "{rule}");
        assert_eq!(imported.disks().next().unwrap().2, r"C:\a.vhdx", "{rule}");

        for method in ["DefineSystem", "AddResourceSettings"] {
            faulty.on(method).await;
            let mut wanted = with_disk(config.clone(), r"C:\b.vhdx");
            wanted.name = format!("defined by {method}");
            wanted.nics[0].vlan = Some(42);
            let made = host.define_vm(&wanted, &folders).await.unwrap();
            let defined = host.vm_summary(made).await.unwrap().config;
            assert_eq!(defined.disks().count(), 1, "{rule}");
            assert_eq!(defined.nics.len(), 1, "{rule}");
            assert_eq!(defined.nics[0].switch, wanted.nics[0].switch, "{rule}");
            assert_eq!(defined.nics[0].vlan, Some(42), "{rule}");
            host.destroy_vm(made).await.unwrap();
        }
        assert_eq!(host.vms().await.unwrap().len(), 2, "{rule}");
    }
}

#[tokio::test]
async fn an_export_whose_answer_was_lost_leaves_merging_on() {
    for rule in LOST {
        let faulty = Faulty::start(rule).await;
        let (sim, host) = (&faulty.sim, &faulty.sim.host);
        let vm = sim.add_vm("web", 2, 1).await;
        faulty.on("ExportSystemDefinition").await;
        let error = host
            .export_definition(vm, r"C:\Export", ExportCheckpoints::None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), hyperv::ErrorKind::ResultUnknown, "{rule}");
        assert!(host.merges_disks(vm).await.unwrap(), "{rule}");
    }
}
