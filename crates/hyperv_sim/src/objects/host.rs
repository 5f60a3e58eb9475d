//! The host itself: computer, operating system, volumes, services, switches.

use std::sync::LazyLock;

use crate::cim::{Object, Value, cimv2, v2};
use crate::clock::{dmtf, now};
use crate::engine::{Engine, State};
use crate::state::{Language, Shadow, Switch, Volume, guid};
use crate::volume::free_bytes;
use crate::winpath::WinPath;

static STARTED: LazyLock<String> = LazyLock::new(|| dmtf(now()));

const MIB_TOTAL: u64 = 65_536;

/// Returns the folder new VMs keep their configuration in.
pub(crate) fn default_data_root(engine: &Engine) -> String {
    engine.read(data_root)
}

fn data_root(state: &State) -> String {
    format!(
        r"{}:\ProgramData\Microsoft\Windows\Hyper-V",
        first_letter(state)
    )
}

fn first_letter(state: &State) -> char {
    let letters = state.host.volumes.iter().map(|volume| volume.letter);
    letters
        .clone()
        .find(|&letter| letter == 'C')
        .or_else(|| letters.clone().min())
        .unwrap_or('C')
}

/// Returns the volumes with the bytes left on each.
pub(super) fn volumes(engine: &Engine) -> Vec<(Volume, u64)> {
    let volumes = engine.read(|state| state.host.volumes.clone());
    volumes
        .into_iter()
        .map(|volume| (volume.clone(), free_bytes(engine, &volume)))
        .collect()
}

pub(super) fn computer_system(state: &State) -> Object {
    Object::new(v2("Msvm_ComputerSystem"))
        .with("InstanceID", format!("Microsoft:{}", state.host.name))
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", state.host.name.as_str())
        .with("ElementName", state.host.name.as_str())
        .with(
            "Caption",
            match state.host.knobs.language {
                Language::English => "Hosting Computer System",
                Language::German => "Hostcomputersystem",
            },
        )
        .with("Description", "Microsoft Hosting Computer System")
        .with("EnabledState", 2_u64)
        .with("RequestedState", 12_u64)
        .with("EnabledDefault", 2_u64)
        .with("HealthState", 5_u64)
        .with("OperationalStatus", Value::numbers([2]))
        .with("Status", "OK")
        .with("NameFormat", "Other")
        .with("InstallDate", dmtf(state.host.created))
        .with("TimeOfLastConfigurationChange", dmtf(state.host.created))
        .with("TimeOfLastStateChange", STARTED.as_str())
}

pub(super) fn service(state: &State, class: &'static str) -> Object {
    let name = match class {
        "Msvm_VirtualSystemManagementService" => "vmms",
        "Msvm_VirtualSystemSnapshotService" => "vmsnapshot",
        "Msvm_VirtualSystemReferencePointService" => "vmrefpoint",
        "Msvm_ImageManagementService" => "vhdsvc",
        _ => "vmsecurity",
    };
    Object::new(v2(class))
        .with("CreationClassName", class)
        .with("Name", name)
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", state.host.name.as_str())
        .with("ElementName", "Hyper-V")
        .with("Caption", "Hyper-V")
        .with("EnabledState", 5_u64)
        .with("RequestedState", 12_u64)
        .with("HealthState", 5_u64)
        .with("OperationalStatus", Value::numbers([2]))
        .with("Status", "OK")
        .with("Started", true)
}

pub(super) fn service_settings(state: &State) -> Object {
    let root = data_root(state);
    let drive = first_letter(state);
    Object::new(v2("Msvm_VirtualSystemManagementServiceSettingData"))
        .with("InstanceID", format!("Microsoft:{}", state.host.name))
        .with("ElementName", "Hyper-V Service Settings")
        .with("DefaultExternalDataRoot", root)
        .with(
            "DefaultVirtualHardDiskPath",
            format!(r"{drive}:\Users\Public\Documents\Hyper-V\Virtual hard disks"),
        )
        .with("MinimumMacAddress", "00155D000000")
        .with("MaximumMacAddress", "00155DFFFFFF")
        .with("NumaSpanningEnabled", true)
        .with("EnhancedSessionModeEnabled", false)
}

pub(super) fn switch(switch: &Switch) -> Object {
    Object::new(v2("Msvm_VirtualEthernetSwitch"))
        .with("CreationClassName", "Msvm_VirtualEthernetSwitch")
        .with("Name", guid(switch.id))
        .with("ElementName", switch.name.as_str())
        .with("Caption", "Virtual Switch")
        .with("Description", "Microsoft Virtual Switch")
        .with("EnabledState", 5_u64)
        .with("RequestedState", 12_u64)
        .with("HealthState", 5_u64)
        .with("OperationalStatus", Value::numbers([2]))
}

pub(super) fn of_class(
    state: &State,
    class: &'static str,
    volumes: &[(Volume, u64)],
    objects: &mut Vec<Object>,
) {
    let host = &state.host;
    match class {
        "Win32_OperatingSystem" => objects.push(operating_system(state)),
        "Win32_ComputerSystem" => objects.push(
            Object::new(cimv2(class))
                .with("Name", host.name.as_str())
                .with("DNSHostName", host.name.as_str())
                .with("Caption", host.name.as_str())
                .with("CreationClassName", class)
                .with("Domain", "WORKGROUP")
                .with("Workgroup", "WORKGROUP")
                .with("PartOfDomain", false)
                .with("DomainRole", 2_u64)
                .with("Manufacturer", "Reprise")
                .with("Model", "Simulated Host")
                .with("NumberOfLogicalProcessors", 8_u64)
                .with("NumberOfProcessors", 1_u64)
                .with("SystemType", "x64-based PC")
                .with("Status", "OK")
                .with("TotalPhysicalMemory", MIB_TOTAL << 20),
        ),
        "Win32_ComputerSystemProduct" => objects.push(
            Object::new(cimv2(class))
                .with("Name", "Simulated Host")
                .with("IdentifyingNumber", guid(host.id))
                .with("Version", "1")
                .with("Vendor", "Reprise")
                .with("Caption", "Computer System Product")
                .with("UUID", guid(host.id)),
        ),
        "Win32_Processor" => objects.push(
            Object::new(cimv2(class))
                .with("DeviceID", "CPU0")
                .with("Name", "Simulated Processor")
                .with("Manufacturer", "Reprise")
                .with("NumberOfCores", 4_u64)
                .with("NumberOfLogicalProcessors", 8_u64)
                .with("MaxClockSpeed", 3000_u64)
                .with("AddressWidth", 64_u64)
                .with("Architecture", 9_u64)
                .with("SystemName", host.name.as_str()),
        ),
        "Win32_Service" => objects.push(
            Object::new(cimv2(class))
                .with("Name", "vmms")
                .with("DisplayName", "Hyper-V Virtual Machine Management")
                .with("State", "Running")
                .with("Started", true)
                .with("StartMode", "Auto")
                .with("Status", "OK")
                .with("SystemName", host.name.as_str()),
        ),
        "Win32_Volume" => objects.extend(
            volumes
                .iter()
                .map(|(volume, free)| win32_volume(state, volume, *free)),
        ),
        "Win32_LogicalDisk" => {
            let lettered = volumes
                .iter()
                .filter(|(volume, _)| volume.folder.is_empty());
            objects.extend(lettered.map(|(volume, free)| {
                Object::new(cimv2(class))
                    .with("DeviceID", format!("{}:", volume.letter))
                    .with("Name", format!("{}:", volume.letter))
                    .with("DriveType", 3_u64)
                    .with("FileSystem", "NTFS")
                    .with("Size", volume.capacity_bytes)
                    .with("FreeSpace", *free)
                    .with("SystemName", host.name.as_str())
            }));
        }
        "Win32_ShadowCopy" => {
            objects.extend(host.shadows.iter().map(|shadow| shadow_copy(state, shadow)));
        }
        "Win32_MountPoint" => {
            // Those with a drive letter are mounted at its root.
            objects.extend(volumes.iter().map(|(volume, free)| {
                let folder =
                    Object::new(cimv2("Win32_Directory")).with("Name", volume.root().to_string());
                let path = |object: Object| object.path(&host.name).to_string();
                Object::new(cimv2(class))
                    .with("Directory", path(folder))
                    .with("Volume", path(win32_volume(state, volume, *free)))
            }));
        }
        _ => {}
    }
}

fn operating_system(state: &State) -> Object {
    let host = &state.host;
    Object::new(cimv2("Win32_OperatingSystem"))
        .with(
            "Name",
            r"Microsoft Windows Server 2022 Datacenter|C:\Windows|\Device\Harddisk0\Partition4",
        )
        .with("Caption", "Microsoft Windows Server 2022 Datacenter")
        .with("CreationClassName", "Win32_OperatingSystem")
        .with("CSName", host.name.as_str())
        .with("Version", format!("10.0.{}", host.build))
        .with("BuildNumber", host.build.to_string())
        .with("OperatingSystemSKU", 8_u64)
        .with("ProductType", 3_u64)
        .with("OSArchitecture", "64-bit")
        .with("OSLanguage", 1033_u64)
        .with("Status", "OK")
        .with("SystemDrive", "C:")
        .with("WindowsDirectory", r"C:\Windows")
        .with("InstallDate", dmtf(host.created))
        .with("LastBootUpTime", STARTED.as_str())
        .with("LocalDateTime", dmtf(now()))
        .with("CurrentTimeZone", Value::Signed(0))
        .with("FreePhysicalMemory", (MIB_TOTAL / 2) << 10)
        .with("TotalVisibleMemorySize", MIB_TOTAL << 10)
}

fn win32_volume(state: &State, volume: &Volume, free: u64) -> Object {
    let object = Object::new(cimv2("Win32_Volume"))
        .with("DeviceID", volume.device_id())
        .with("Name", volume.name())
        .with("Caption", volume.name())
        .with("DriveType", 3_u64)
        .with("FileSystem", "NTFS")
        .with("Capacity", volume.capacity_bytes)
        .with("FreeSpace", free)
        .with("BlockSize", 4096_u64)
        .with("Label", "")
        .with("Automount", true)
        .with("SystemName", state.host.name.as_str());
    if volume.folder.is_empty() {
        object.with("DriveLetter", format!("{}:", volume.letter))
    } else {
        object
    }
}

fn shadow_copy(state: &State, shadow: &Shadow) -> Object {
    /// The provider that is part of Windows.
    const PROVIDER: &str = "{B5946137-7B9F-4925-AF80-51ABD60B20D5}";
    const CREATED: u64 = 12;
    let volume = state.host.volumes.iter().find(|v| v.id == shadow.volume);
    let host = state.host.name.as_str();
    Object::new(cimv2("Win32_ShadowCopy"))
        .with("ID", format!("{{{}}}", guid(shadow.id)))
        .with("SetID", format!("{{{}}}", guid(shadow.set)))
        .with("ProviderID", PROVIDER)
        .with(
            "DeviceObject",
            WinPath::shadow(shadow.number)
                .to_string()
                .trim_end_matches('\\'),
        )
        .with(
            "VolumeName",
            volume.map(Volume::device_id).unwrap_or_default(),
        )
        .with("InstallDate", dmtf(shadow.created))
        .with("State", CREATED)
        .with("Count", 1_u64)
        .with("OriginatingMachine", host)
        .with("ServiceMachine", host)
        .with("ClientAccessible", true)
        .with("Persistent", true)
        .with("NoAutoRelease", true)
        .with("NoWriters", true)
        .with("Differential", true)
        .with("Plex", false)
        .with("HardwareAssisted", false)
        .with("Imported", false)
        .with("NotSurfaced", false)
        .with("Transportable", false)
        .with("ExposedLocally", false)
        .with("ExposedRemotely", false)
}
