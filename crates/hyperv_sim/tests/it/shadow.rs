//! Shadow copies: frozen views of a volume.

use hyperv_sim::ctl::{Command, CtlErrorKind, PowerAction};
use wsman::{Epr, Header, Instance, Operation, Properties, Reply, Subcode};

use crate::support::{CIMV2, MIB, Sim, V2, read_chain};

const CLASS: &str = "Win32_ShadowCopy";

impl Sim {
    /// Makes a shadow copy; returns the return code and the copy where there is one.
    async fn shadow(&self, volume: &str, context: Option<&str>) -> (u32, Option<Instance>) {
        let mut parameters = Properties::new().with("Volume", volume);
        if let Some(context) = context {
            parameters.set("Context", context);
        }
        let outputs = self
            .try_invoke(&Epr::new(CIMV2, CLASS), "Create", parameters)
            .await
            .unwrap();
        let code = outputs.u32("ReturnValue").unwrap();
        let Some(id) = outputs.text("ShadowID") else {
            assert_ne!(code, 0);
            return (code, None);
        };
        let query = format!("SELECT * FROM {CLASS} WHERE ID = '{id}'");
        let mut found = self.try_query(CIMV2, &query).await.unwrap();
        (code, found.pop())
    }

    async fn delete_shadow(&self, id: &str) -> Result<Reply, Box<wsman::Fault>> {
        let target = Epr::new(CIMV2, CLASS).with("ID", id);
        let header = Header {
            resource_uri: target.resource_uri.clone(),
            selectors: target.selectors,
            ..Header::default()
        };
        self.operate(header, Operation::Delete).await
    }
}

fn on_shadow(shadow: &Instance, path: &str) -> String {
    let device = shadow.text("DeviceObject").unwrap();
    format!(r"{device}\{path}")
}

#[tokio::test]
async fn a_shadow_copy_keeps_what_every_file_held() {
    let mut sim = Sim::start().await;
    let vm = sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    sim.guest_write("web01", 10 * MIB, 1, 4096).await;
    sim.ctl(Command::CheckpointCreate {
        vm: "web01".into(),
        name: Some("before".into()),
    })
    .await;
    sim.guest_write("web01", 30 * MIB, 2, 4096).await;
    let then = sim.guest_read("web01").await;
    let leaf = sim.show("web01").await.disks[0].path.clone();

    let (code, shadow) = sim.shadow(r"C:\", Some("ClientAccessible")).await;
    let shadow = shadow.unwrap();
    assert_eq!(code, 0);
    let volume = sim.try_query(CIMV2, "SELECT * FROM Win32_Volume").await;
    assert_eq!(
        shadow.text("VolumeName"),
        volume.unwrap()[0].text("DeviceID")
    );
    assert_eq!(
        shadow.text("DeviceObject"),
        Some(r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1")
    );
    assert_eq!(shadow.u32("State"), Some(12));
    assert_eq!(shadow.bool("Persistent"), Some(true));
    assert!(shadow.iter().any(|(name, _)| name == "InstallDate"));

    // The guest writes on, the checkpoint is merged, files go: the copy stays.
    sim.guest_write("web01", 40 * MIB, 3, MIB).await;
    sim.ctl(Command::CheckpointDelete {
        vm: "web01".into(),
        checkpoint: "before".into(),
    })
    .await;
    sim.stop().await;
    sim.serve().await;
    assert!(sim.files(r"C:\*.avhdx").await.is_empty());
    let frozen = on_shadow(&shadow, &leaf[3..]);
    let local = sim.local(&frozen).await;
    assert!(local.ends_with(format!(
        "shadows/HarddiskVolumeShadowCopy1/{}",
        leaf[3..].replace('\\', "/")
    )));
    assert!(read_chain(&local) == then, "the copy changed");
    assert_ne!(sim.guest_read("web01").await, then);
    let listed = sim.files(r"\\?\GLOBALROOT\*.vmcx").await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    // The image service reads it too, and nobody writes to it.
    let parameters = Properties::new().with("Path", frozen.as_str());
    let outputs = sim
        .invoke(
            "Msvm_ImageManagementService",
            "GetVirtualHardDiskSettingData",
            parameters,
        )
        .await;
    assert_eq!(outputs.u32("ReturnValue"), Some(0));
    assert!(std::fs::metadata(&local).unwrap().permissions().readonly());

    let id = shadow.text("ID").unwrap();
    sim.delete_shadow(&id.to_lowercase()).await.unwrap();
    assert!(!local.exists());
    assert!(sim.files(r"\\?\*").await.is_empty());
    let err = sim.try_ctl(Command::Path { path: frozen }).await;
    assert_eq!(err.unwrap_err().kind, CtlErrorKind::NotFound);
    let fault = sim.delete_shadow(id).await.unwrap_err();
    assert_eq!(fault.subcode, Subcode::InvalidSelectors);
    // Numbers are never given twice.
    let (_, second) = sim.shadow(r"c:\", None).await;
    assert!(
        second
            .unwrap()
            .text("DeviceObject")
            .unwrap()
            .ends_with("Copy2")
    );
    assert_eq!(sim.show("web01").await.id, vm.id);
}

#[tokio::test]
async fn a_disk_in_use_is_as_after_a_power_cut() {
    let sim = Sim::start().await;
    sim.add_vm("web01", 2).await;
    sim.power("web01", PowerAction::On).await;
    for (torn, offset) in [("true", 20 * MIB), ("false", 30 * MIB)] {
        sim.set("shadow_torn", torn).await;
        sim.guest_write("web01", offset, 1, MIB).await;
        let then = sim.guest_read("web01").await;
        let (_, shadow) = sim.shadow(r"C:\", None).await;
        let path = on_shadow(&shadow.unwrap(), r"VMs\web01\disk.vhdx");
        let copy = sim.local(&path).await;
        let report = vhdx::check(std::fs::File::open(&copy).unwrap()).unwrap();
        assert!(report.figures.log_entries > 0, "the log is not in use");
        assert!(read_chain(&copy) == then, "torn {torn}");
        let live = std::fs::read(sim.local(r"C:\VMs\web01\disk.vhdx").await).unwrap();
        let same = live == std::fs::read(&copy).unwrap();
        assert_eq!(same, torn == "false");
    }
}

#[tokio::test]
async fn refuses_with_the_documented_codes() {
    let sim = Sim::start().await;
    sim.add_vm("web01", 2).await;
    for (volume, context, expected) in [
        (r"C:\", Some("ClientAccessibleWriters"), 5),
        (r"X:\", None, 3),
        (r"C:\VMs\", None, 3),
        ("C:", None, 2),
    ] {
        assert_eq!(sim.shadow(volume, context).await.0, expected, "{volume}");
    }
    sim.set("shadow_code", "12").await;
    assert_eq!(sim.shadow(r"C:\", None).await.0, 12);
    sim.set("shadow_code", "0").await;
    sim.set("shadow_limit", "1").await;
    let (_, shadow) = sim.shadow(r"C:\", None).await;
    let shadow = shadow.unwrap();
    assert_eq!(sim.shadow(r"C:\", None).await.0, 8);
    let capacity = |bytes| Command::VolumeSet {
        volume: "C".into(),
        capacity_bytes: bytes,
    };
    sim.set("shadow_limit", "64").await;
    sim.ctl(capacity(300 * MIB)).await;
    assert_eq!(sim.shadow(r"C:\", None).await.0, 6);
    sim.ctl(capacity(1 << 40)).await;
    // By its own name, while another is being made.
    let by_name = shadow.text("VolumeName").unwrap();
    sim.set("shadow_millis", "2000").await;
    let (one, two) = tokio::join!(sim.shadow(by_name, None), sim.shadow(by_name, None));
    let mut codes = [one.0, two.0];
    codes.sort_unstable();
    assert_eq!(codes, [0, 9]);
}

#[tokio::test]
async fn what_changed_since_takes_room_on_the_volume() {
    let sim = Sim::start().await;
    let free = async || {
        let volume = sim.try_query(CIMV2, "SELECT * FROM Win32_Volume").await;
        volume.unwrap()[0].u64("FreeSpace").unwrap()
    };
    let file = sim.local(r"C:\data.bin").await;
    std::fs::write(&file, vec![1; 1 << 20]).unwrap();
    let before = free().await;
    sim.set("shadow_gmt", "true").await;
    let (_, shadow) = sim.shadow(r"C:\", None).await;
    assert_eq!(free().await, before);
    let links = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let link = links
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("@GMT-"))
        .unwrap();
    assert_eq!(
        std::fs::read(link.path().join("data.bin")).unwrap(),
        [1; 1 << 20]
    );
    std::fs::remove_file(&file).unwrap();
    assert!(free().await <= before, "the copy's bytes are free");
    sim.delete_shadow(shadow.unwrap().text("ID").unwrap())
        .await
        .unwrap();
    assert!(free().await >= before + (1 << 20));
    assert!(link.path().symlink_metadata().is_err());
}

#[tokio::test]
async fn a_folder_of_another_volume_is_not_in_the_copy() {
    let sim = Sim::start().await;
    sim.ctl(Command::VolumeSet {
        volume: r"C:\Mount\Data".into(),
        capacity_bytes: 1 << 30,
    })
    .await;
    let file = sim.local(r"C:\mount\data\VMs\a.bin").await;
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"on the mounted volume").unwrap();
    let (_, outer) = sim.shadow(r"C:\", None).await;
    let (_, inner) = sim.shadow(r"C:\Mount\Data\", None).await;
    let local = sim
        .local(&on_shadow(&outer.unwrap(), r"Mount\Data\VMs\a.bin"))
        .await;
    assert!(!local.exists());
    let local = sim.local(&on_shadow(&inner.unwrap(), r"VMs\a.bin")).await;
    assert_eq!(std::fs::read(local).unwrap(), b"on the mounted volume");
    assert_eq!(sim.files(r"C:\*.bin").await, [r"C:\Mount\Data\VMs\a.bin"]);
    let systems = sim.query("SELECT * FROM Msvm_ComputerSystem").await;
    assert_eq!(systems.len(), 1, "{V2} answers");
}
