//! The host itself: identity, abilities, volumes, switches, readiness.

use model::{HostId, SwitchRef, host_path};
use wsman::{FaultClass, Instance, uri};

use super::{Host, objects};
use crate::Error;

/// First build whose resilient change tracking can be used (Windows Server 2016).
const FIRST_RCT_BUILD: u32 = 14393;

/// Whether the host can work for us now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It cannot yet.
    NotReady {
        /// Why, for people.
        reason: String,
    },
}

/// A volume of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Where it is mounted: `C:\` or a folder.
    pub path: String,
    /// `\\?\Volume{GUID}\`.
    pub device_id: String,
    /// Label.
    pub label: String,
    /// Such as `NTFS` or `ReFS`.
    pub file_system: String,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Cluster size in bytes.
    pub block_bytes: u64,
}

/// What a host is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Identity: the machine's UUID.
    pub id: HostId,
    /// Computer name.
    pub name: String,
    /// Such as `10.0.20348`.
    pub os_version: String,
    /// Such as 20348.
    pub os_build: u32,
    /// Such as `Microsoft Windows Server 2022 Standard`.
    pub os_name: String,
    /// Whether the host can track changes (build 14393 and later). A VM also needs configuration version 6.2 or later.
    pub change_tracking: bool,
    /// Logical processors.
    pub processors: u64,
    /// Physical memory in bytes.
    pub memory_bytes: u64,
    /// Free physical memory in bytes.
    pub memory_free_bytes: u64,
    /// Folder for disks that have no other.
    pub default_disk_folder: String,
    /// Folder for configurations that have no other.
    pub default_config_folder: String,
    /// Fixed volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Virtual switches.
    pub switches: Vec<SwitchRef>,
    /// Whether it is a node of a failover cluster.
    pub clustered: bool,
    /// Whether it can work for us now.
    pub readiness: Readiness,
}

impl HostFacts {
    /// Returns the volume a path lies on: the longest mount path that is a prefix, mount points and cluster volumes
    /// included; `None` for shares and unknown drives.
    #[must_use]
    pub fn volume_of(&self, path: &str) -> Option<&VolumeFacts> {
        self.volumes
            .iter()
            .filter(|volume| host_path::is_below(path, &volume.path))
            .max_by_key(|volume| host_path::key(&volume.path).len())
    }
}

impl Host {
    /// Returns what the host is and can do. Fails where the log-in, the rights or Hyper-V are missing.
    pub async fn facts(&self) -> Result<HostFacts, Error> {
        let system = self
            .one(uri::NS_CIMV2, "SELECT * FROM Win32_OperatingSystem")
            .await?;
        let product = self
            .one(uri::NS_CIMV2, "SELECT * FROM Win32_ComputerSystemProduct")
            .await?;
        let machine = self
            .one(uri::NS_CIMV2, "SELECT * FROM Win32_ComputerSystem")
            .await?;
        let readiness = self.readiness().await?;
        // Asking for the service is the check of rights: without them it is missing.
        self.service(objects::MANAGEMENT).await?;
        let defaults = self
            .query("SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData")
            .await?;
        let default = |name: &str| {
            defaults
                .first()
                .and_then(|d| d.text(name))
                .unwrap_or_default()
                .to_owned()
        };

        let uuid = product.text("UUID").unwrap_or_default();
        let id = uuid.parse().map_err(|_| Error::Nonsense {
            doing: "query for Win32_ComputerSystemProduct".into(),
            what: format!("{uuid:?} is no UUID"),
        })?;
        let os_build = system
            .text("BuildNumber")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let name = machine
            .text("DNSHostName")
            .or_else(|| machine.text("Name"))
            .unwrap_or_default();
        let kib = |name: &str| system.u64(name).unwrap_or(0).saturating_mul(1024);
        Ok(HostFacts {
            id,
            name: name.to_owned(),
            os_version: system.text("Version").unwrap_or_default().to_owned(),
            os_build,
            os_name: system.text("Caption").unwrap_or_default().trim().to_owned(),
            change_tracking: os_build >= FIRST_RCT_BUILD,
            processors: machine.u64("NumberOfLogicalProcessors").unwrap_or(0),
            memory_bytes: kib("TotalVisibleMemorySize"),
            memory_free_bytes: kib("FreePhysicalMemory"),
            default_disk_folder: default("DefaultVirtualHardDiskPath"),
            default_config_folder: default("DefaultExternalDataRoot"),
            volumes: self.volumes().await?,
            switches: self.switches().await?,
            clustered: self.clustered().await?,
            readiness,
        })
    }

    /// Returns whether Hyper-V's management service runs, with one request.
    pub async fn readiness(&self) -> Result<Readiness, Error> {
        let services = self
            .session
            .query(
                uri::NS_CIMV2,
                "SELECT * FROM Win32_Service WHERE Name = 'vmms'",
            )
            .await?;
        let reason = match services.first() {
            None => "Hyper-V is not installed on the host (there is no service vmms)".to_owned(),
            Some(service) => match service.text("State") {
                Some(state) if state.eq_ignore_ascii_case("Running") => {
                    return Ok(Readiness::Ready);
                }
                state => format!(
                    "Hyper-V's management service (vmms) is {}",
                    state.unwrap_or("in an unknown state")
                ),
            },
        };
        Ok(Readiness::NotReady { reason })
    }

    /// Returns the fixed volumes with their free space.
    pub async fn volumes(&self) -> Result<Vec<VolumeFacts>, Error> {
        let volumes = self
            .session
            .query(
                uri::NS_CIMV2,
                "SELECT * FROM Win32_Volume WHERE DriveType = 3",
            )
            .await?;
        Ok(volumes.iter().filter_map(volume).collect())
    }

    /// Returns the virtual switches.
    pub async fn switches(&self) -> Result<Vec<SwitchRef>, Error> {
        let switches = self
            .query(&format!("SELECT * FROM {}", objects::SWITCH))
            .await?;
        Ok(switches
            .iter()
            .filter_map(|switch| {
                let id = switch.text("Name")?.to_owned();
                Some(SwitchRef {
                    id,
                    name: switch.text("ElementName").unwrap_or_default().to_owned(),
                })
            })
            .collect())
    }

    async fn clustered(&self) -> Result<bool, Error> {
        match self
            .session
            .query(uri::NS_CLUSTER, "SELECT * FROM MSCluster_Cluster")
            .await
        {
            Ok(clusters) => Ok(!clusters.is_empty()),
            // The namespace exists on cluster nodes only.
            Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => Ok(false),
            Err(error) if error.fault_class() == Some(FaultClass::AccessDenied) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn one(&self, namespace: &str, wql: &str) -> Result<Instance, Error> {
        let found = self.session.query(namespace, wql).await?;
        found.into_iter().next().ok_or_else(|| Error::Nonsense {
            doing: format!("query {wql:?} in {namespace}"),
            what: "it is empty".into(),
        })
    }
}

fn volume(volume: &Instance) -> Option<VolumeFacts> {
    let text = |name: &str| volume.text(name).unwrap_or_default().to_owned();
    let path = match text("Name") {
        name if name.is_empty() || name.starts_with(r"\\?\") => text("DriveLetter"),
        name => name,
    };
    // A volume without a mount path holds nothing a path can name.
    (!path.is_empty()).then(|| VolumeFacts {
        path,
        device_id: text("DeviceID"),
        label: text("Label"),
        file_system: text("FileSystem"),
        capacity_bytes: volume.u64("Capacity").unwrap_or(0),
        free_bytes: volume.u64("FreeSpace").unwrap_or(0),
        block_bytes: volume.u64("BlockSize").unwrap_or(0),
    })
}
