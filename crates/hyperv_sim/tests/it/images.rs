//! The image service: disks given another size or form, and mounted.

use hyperv_sim::ctl::{Command, PowerAction};
use wsman::{Epr, Instance, Properties, Value};

use crate::support::{DISK, MIB, Sim, read_chain};

const IMAGES: &str = "Msvm_ImageManagementService";
const PATH: &str = r"C:\VMs\a\disk.vhdx";

async fn look(sim: &Sim, path: &str) -> Instance {
    let outputs = sim
        .invoke(
            IMAGES,
            "GetVirtualHardDiskSettingData",
            Properties::new().with("Path", path),
        )
        .await;
    assert_eq!(outputs.u32("ReturnValue"), Some(0));
    Instance::from_cim_xml(outputs.text("SettingData").unwrap()).unwrap()
}

#[track_caller]
fn is_done(job: &Instance) {
    assert_eq!(
        job.u16("JobState"),
        Some(7),
        "{:?}",
        job.text("ErrorDescription")
    );
}

async fn resize(sim: &Sim, size: u64) {
    let parameters = Properties::new()
        .with("Path", PATH)
        .with("MaxInternalSize", size);
    is_done(&sim.run(IMAGES, "ResizeVirtualHardDisk", parameters).await);
    assert_eq!(look(sim, PATH).await.u64("MaxInternalSize"), Some(size));
}

#[tokio::test]
async fn a_disk_grows_while_its_machine_is_off_and_while_it_runs() {
    let sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    let content = sim.guest_read("a").await;
    resize(&sim, DISK + 32 * MIB).await;
    sim.power("a", PowerAction::On).await;
    resize(&sim, DISK + 64 * MIB).await;
    sim.guest_write("a", DISK + 60 * MIB, 5, MIB).await;
    assert!(sim.guest_read("a").await == content);
    assert_eq!(sim.show("a").await.disks[0].size_bytes, DISK + 64 * MIB);
    sim.power("a", PowerAction::Off).await;
    // What the guest wrote there is not thrown away.
    let parameters = Properties::new()
        .with("Path", PATH)
        .with("MaxInternalSize", DISK);
    let job = sim.run(IMAGES, "ResizeVirtualHardDisk", parameters).await;
    assert_eq!(job.u16("JobState"), Some(10));
    resize(&sim, DISK + 62 * MIB).await;
}

#[tokio::test]
async fn a_chain_is_converted_into_one_file_of_any_form() {
    let sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    sim.power("a", PowerAction::On).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "a".into(),
        name: None,
    })
    .await;
    sim.guest_write("a", 20 * MIB, 9, 3 * MIB).await;
    sim.power("a", PowerAction::Off).await;
    let content = sim.guest_read("a").await;
    let leaf = sim.show("a").await.disks[0].path.clone();
    for (kind, name) in [(2_u16, "fixed"), (3, "dynamic")] {
        let path = format!(r"C:\VMs\a\{name}.vhdx");
        let wish = Instance::new("Msvm_VirtualHardDiskSettingData")
            .with("Path", path.as_str())
            .with("Type", kind)
            .with("Format", 3_u16);
        let parameters = Properties::new()
            .with("SourcePath", leaf.as_str())
            .with("VirtualDiskSettingData", Value::embedded(&wish));
        is_done(&sim.run(IMAGES, "ConvertVirtualHardDisk", parameters).await);
        let made = look(&sim, &path).await;
        assert_eq!(
            (made.u16("Type"), made.text("ParentPath").unwrap_or("")),
            (Some(kind), "")
        );
        let local = sim.local(&path).await;
        assert!(read_chain(&local) == content, "{name}");
        let compact = Properties::new()
            .with("Path", path.as_str())
            .with("Mode", 0_u16);
        let before = std::fs::metadata(&local).unwrap().len();
        is_done(&sim.run(IMAGES, "CompactVirtualHardDisk", compact).await);
        assert!(std::fs::metadata(&local).unwrap().len() <= before);
        assert!(read_chain(&local) == content, "{name}");
    }
}

#[tokio::test]
async fn a_mounted_file_is_the_hosts_until_it_is_detached() {
    let sim = Sim::start().await;
    sim.add_vm("a", 2).await;
    let attach = Properties::new()
        .with("Path", PATH)
        .with("AssignDriveLetter", false)
        .with("ReadOnly", false);
    is_done(
        &sim.run(IMAGES, "AttachVirtualHardDisk", attach.clone())
            .await,
    );
    assert_eq!(
        sim.run(IMAGES, "AttachVirtualHardDisk", attach)
            .await
            .u16("ErrorCode"),
        Some(32774)
    );
    let find = Properties::new()
        .with("SelectionCriterion", PATH.to_lowercase())
        .with("CriterionType", 0_u16);
    let found = sim
        .invoke(IMAGES, "FindMountedStorageImageInstance", find)
        .await;
    assert_eq!(found.u32("ReturnValue"), Some(0));
    let image: Epr = found.epr("Image").unwrap().clone();
    assert_eq!(
        sim.query("SELECT * FROM Msvm_MountedStorageImage")
            .await
            .len(),
        1
    );
    let start = Command::Power {
        vm: "a".into(),
        action: PowerAction::On,
    };
    assert!(sim.try_ctl(start).await.is_err());
    let outputs = sim
        .try_invoke(&image, "DetachVirtualHardDisk", Properties::new())
        .await
        .unwrap();
    assert_eq!(outputs.u32("ReturnValue"), Some(0));
    sim.power("a", PowerAction::On).await;
    assert!(
        sim.query("SELECT * FROM Msvm_MountedStorageImage")
            .await
            .is_empty()
    );
}
