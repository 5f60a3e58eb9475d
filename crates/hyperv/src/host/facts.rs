//! The host itself: identity, abilities, volumes, switches, readiness.

use model::{HostId, SwitchRef, host_path};
use wsman::{Instance, ObjectPath, uri};

use super::{Host, objects};
use crate::{Error, ErrorKind};

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
    /// Size of an allocation unit in bytes; 0 where the host does not say.
    pub block_bytes: u64,
    /// Whether it is a cluster shared volume, which every node of the cluster mounts.
    pub cluster_shared: bool,
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
        volume_of(&self.volumes, path)
    }
}

pub(super) fn volume_of<'v>(volumes: &'v [VolumeFacts], path: &str) -> Option<&'v VolumeFacts> {
    volumes
        .iter()
        .filter(|volume| host_path::is_below(path, &volume.path))
        .max_by_key(|volume| host_path::key(&volume.path).len())
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

        let clustered = self.is_clustered().await?;
        let uuid = product.text("UUID").unwrap_or_default();
        let id = uuid.parse().map_err(|_| Error::Nonsense {
            doing: "query for Win32_ComputerSystemProduct".into(),
            what: format!("{uuid:?} is no UUID"),
        })?;
        let os_build = build_of(&system);
        self.known().build = Some(os_build);
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
            clustered,
            readiness,
        })
    }

    /// Returns the build of the operating system; asked for once.
    pub(super) async fn os_build(&self) -> Result<u32, Error> {
        if let Some(build) = self.known().build {
            return Ok(build);
        }
        let system = self
            .one(uri::NS_CIMV2, "SELECT * FROM Win32_OperatingSystem")
            .await?;
        let build = build_of(&system);
        self.known().build = Some(build);
        Ok(build)
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

    /// Returns the fixed volumes with their free space, one entry for each path they are mounted at: drives, folders,
    /// cluster shared volumes.
    pub async fn volumes(&self) -> Result<Vec<VolumeFacts>, Error> {
        let found = self
            .session
            .query(
                uri::NS_CIMV2,
                "SELECT * FROM Win32_Volume WHERE DriveType = 3",
            )
            .await?;
        let mounts = match self
            .session
            .query(uri::NS_CIMV2, "SELECT * FROM Win32_MountPoint")
            .await
        {
            Ok(mounts) => mounts,
            // A volume's own name is known without; only its further mount points would be missed.
            Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut volumes = mounted(&found, &mounts);
        if self.is_clustered().await? {
            for shared in self.cluster_volumes().await? {
                let known = volumes
                    .iter_mut()
                    .find(|volume| host_path::same(&volume.path, &shared.path));
                match known {
                    Some(volume) => volume.cluster_shared = true,
                    None => volumes.push(shared),
                }
            }
        }
        Ok(volumes)
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

    async fn one(&self, namespace: &str, wql: &str) -> Result<Instance, Error> {
        let found = self.session.query(namespace, wql).await?;
        found.into_iter().next().ok_or_else(|| Error::Nonsense {
            doing: format!("query {wql:?} in {namespace}"),
            what: "it is empty".into(),
        })
    }
}

fn build_of(system: &Instance) -> u32 {
    let number = system.text("BuildNumber");
    number
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Volumes by mount path: each by its own name, then by the mount points that lead to it.
fn mounted(found: &[Instance], mounts: &[Instance]) -> Vec<VolumeFacts> {
    let mut volumes: Vec<VolumeFacts> = Vec::new();
    let text = |volume: &Instance, name: &str| volume.text(name).unwrap_or_default().to_owned();
    for volume in found {
        let device_id = text(volume, "DeviceID");
        let own = match text(volume, "Name") {
            name if name.is_empty() || name.starts_with(r"\\?\") => text(volume, "DriveLetter"),
            name => name,
        };
        let further = mounts
            .iter()
            .filter(|mount| {
                end(mount, "Volume", "DeviceID").is_some_and(|id| same_device(&id, &device_id))
            })
            .filter_map(|mount| end(mount, "Directory", "Name"));
        for path in [own].into_iter().chain(further) {
            // A volume without a mount path holds nothing a path can name.
            if path.is_empty()
                || volumes
                    .iter()
                    .any(|known| host_path::same(&known.path, &path))
            {
                continue;
            }
            volumes.push(VolumeFacts {
                path,
                device_id: device_id.clone(),
                label: text(volume, "Label"),
                file_system: text(volume, "FileSystem"),
                capacity_bytes: volume.u64("Capacity").unwrap_or(0),
                free_bytes: volume.u64("FreeSpace").unwrap_or(0),
                block_bytes: volume.u64("BlockSize").unwrap_or(0),
                cluster_shared: false,
            });
        }
    }
    volumes
}

/// The key of the object at one end of an association, whether it is written as a reference or as a path.
fn end(link: &Instance, name: &str, key: &str) -> Option<String> {
    if let Some(epr) = link.epr(name) {
        return epr.get(key).map(str::to_owned);
    }
    let path: ObjectPath = link.text(name)?.parse().ok()?;
    path.get(key).map(str::to_owned)
}

fn same_device(a: &str, b: &str) -> bool {
    !a.is_empty() && a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use wsman::Epr;

    use super::*;

    #[test]
    fn a_volume_is_found_by_every_path_it_is_mounted_at() {
        let device = |n: u8| format!(r"\\?\Volume{{00000000-0000-0000-0000-00000000000{n}}}\");
        let volume = |n: u8, name: &str| {
            Instance::new("Win32_Volume")
                .with("DeviceID", device(n))
                .with("Name", name)
                .with("FreeSpace", u64::from(n))
        };
        let mount = |n: u8, folder: &str| {
            let directory =
                Epr::new(uri::NS_CIMV2, "Win32_Directory").with("Name", folder.to_owned());
            let volume =
                Epr::new(uri::NS_CIMV2, "Win32_Volume").with("DeviceID", device(n).to_lowercase());
            Instance::new("Win32_MountPoint")
                .with("Directory", directory)
                .with("Volume", volume)
        };
        let found = [
            volume(1, r"D:\"),
            volume(2, r"D:\mnt\a\"),
            volume(3, &device(3)),
        ];
        let mounts = [
            mount(1, "D:"),
            mount(2, r"D:\mnt\a"),
            mount(2, r"E:\b"),
            mount(3, r"d:\MNT"),
        ];
        let volumes = mounted(&found, &mounts);
        let mut paths: Vec<(&str, u64)> = volumes
            .iter()
            .map(|volume| (volume.path.as_str(), volume.free_bytes))
            .collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [(r"D:\", 1), (r"D:\mnt\a\", 2), (r"E:\b", 2), (r"d:\MNT", 3)]
        );
        let free = |path: &str| volume_of(&volumes, path).map(|volume| volume.free_bytes);
        // The longest path wins; the names of folders are compared whole and without case.
        assert_eq!(free(r"D:\MNT\A\x.vhdx"), Some(2));
        assert_eq!(free(r"D:\mnt\ab\x.vhdx"), Some(3));
        assert_eq!(free(r"D:\other\x.vhdx"), Some(1));
        assert_eq!(free(r"\\server\share\x.vhdx"), None);
        assert_eq!(free(r"F:\x.vhdx"), None);
    }
}
