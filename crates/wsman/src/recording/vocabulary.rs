//! What is known to be harmless: the lists that decide what passes.

use std::collections::HashSet;
use std::sync::LazyLock;

static NUMBERS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("numbers.txt").split_whitespace().collect());
static WORDS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("words.txt").split_whitespace().collect());

/// Properties that hold numbers and times which say nothing about anybody.
pub(super) fn is_number(property: &str) -> bool {
    NUMBERS.contains(property)
}

/// Whether a word of a message is plain English or a term of Windows.
pub(super) fn is_plain_word(word: &str) -> bool {
    WORDS.contains(word.to_ascii_lowercase().as_str())
}

/// Properties that hold a word of Microsoft's, never one of an administrator's.
pub(super) fn is_enumerated(property: &str) -> bool {
    matches!(
        property,
        "CreationClassName"
            | "SystemCreationClassName"
            | "CSCreationClassName"
            | "ResourceSubType"
            | "OtherResourceType"
            | "VirtualSystemType"
            | "VirtualSystemSubType"
            | "AllocationUnits"
            | "VirtualQuantityUnits"
            | "IOPSAllocationUnits"
            | "Version"
            | "BuildNumber"
            | "BuildType"
            | "OSArchitecture"
            | "SystemType"
            | "FileSystem"
            | "Status"
            | "StartMode"
            | "State"
            | "ServiceType"
            | "NameFormat"
            | "ErrorSource"
            | "Context"
            | "BootSourceDescription"
            | "CSDVersion"
            | "PlusVersionNumber"
            | "MUILanguages"
            | "__cimnamespace"
            | "ConsistencyType"
            | "OperationName"
    )
}

/// Properties whose text is written by the system for people.
pub(super) fn is_message(property: &str) -> bool {
    matches!(
        property,
        "ErrorDescription"
            | "ErrorSummaryDescription"
            | "JobStatus"
            | "Description"
            | "StatusDescriptions"
            | "Message"
            | "ProbableCauseDescription"
            | "RecommendedActions"
            | "CIMStatusCodeDescription"
            | "Caption"
            | "OSName"
    )
}

/// Properties that hold what guests and hosts tell each other, or keys: nothing of them is kept.
pub(super) fn is_dropped(property: &str) -> bool {
    matches!(
        property,
        "GuestExchangeItems"
            | "GuestIntrinsicExchangeItems"
            | "HostExchangeItems"
            | "HostOnlyItems"
            | "KeyProtector"
            | "DataItems"
            | "Data"
            | "ThumbnailImage"
            | "AdditionalRecoveryInformation"
            | "Password"
            | "SecurityPolicy"
    )
}

/// Properties that hold a MAC address.
pub(super) fn is_mac(property: &str) -> bool {
    matches!(
        property,
        "Address"
            | "PermanentAddress"
            | "NetworkAddresses"
            | "MinimumMacAddress"
            | "MaximumMacAddress"
            | "MACAddress"
    )
}

/// Values that hosts give by themselves.
pub(super) fn is_known_value(text: &str) -> bool {
    const VALUES: [&str; 38] = [
        "Virtual Machine",
        "Hosting Computer System",
        "Hard Drive",
        "Hard Disk Image",
        "Virtual Hard Disk",
        "DVD Drive",
        "ISO Disk Image",
        "SCSI Controller",
        "IDE Controller 0",
        "IDE Controller 1",
        "IDE Controller",
        "Network Adapter",
        "Legacy Network Adapter",
        "Dynamic Ethernet Switch Port",
        "Ethernet Switch Port Settings",
        "Memory",
        "Processor",
        "Key-Value Pair Exchange",
        "Backup (volume snapshot)",
        "Backup (volume checkpoint)",
        "Shutdown",
        "Heartbeat",
        "Time Synchronization",
        "Guest Service Interface",
        "Snapshot",
        "Checkpoint",
        "vmms",
        "winmgmt",
        "nvspwmi",
        "Default",
        "None",
        "OK",
        "Mouse",
        "Keyboard",
        "Display Controller",
        "Virtual Machine Settings",
        "COM 1",
        "COM 2",
    ];
    VALUES.iter().any(|value| value.eq_ignore_ascii_case(text))
}

/// Parts of identifiers that are the same on every host.
pub(super) fn is_known_token(token: &str) -> bool {
    const TOKENS: [&str; 34] = [
        "Microsoft",
        "Definition",
        "Default",
        "Minimum",
        "Maximum",
        "Increment",
        "Hyper",
        "V",
        "System",
        "Realized",
        "Planned",
        "Snapshot",
        "Recovery",
        "Missing",
        "Synthetic",
        "Disk",
        "Drive",
        "Virtual",
        "Hard",
        "Controller",
        "D",
        "L",
        "C",
        "uuid",
        "SubType",
        "Volume",
        "VBDOptions",
        "Root",
        "root",
        "Windows",
        "Server",
        "SettingData",
        "Msvm",
        "GLOBALROOT",
    ];
    TOKENS.contains(&token)
}

/// Folders and devices that are the same on every host.
pub(super) fn is_known_folder(component: &str) -> bool {
    const FOLDERS: [&str; 38] = [
        "Windows",
        "System32",
        "SysWOW64",
        "wbem",
        "Users",
        "Public",
        "Documents",
        "Public Documents",
        "Hyper-V",
        "Virtual Hard Disks",
        "Virtual Machines",
        "Virtual Machine",
        "Snapshots",
        "Checkpoints",
        "ProgramData",
        "Program Files",
        "Program Files (x86)",
        "Microsoft",
        "ClusterStorage",
        "GLOBALROOT",
        "Device",
        "?",
        ".",
        "..",
        "C$",
        "D$",
        "E$",
        "Planned Virtual Machines",
        "Virtual Machines Cache",
        "Resource Types",
        "System Volume Information",
        "Temp",
        "inetpub",
        "export",
        "root",
        "cimv2",
        "virtualization",
        "v2",
    ];
    let numbered = |start: &str| {
        component
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start))
            && component[start.len()..]
                .bytes()
                .all(|byte| byte.is_ascii_digit())
    };
    FOLDERS
        .iter()
        .any(|folder| folder.eq_ignore_ascii_case(component))
        || [
            "HarddiskVolumeShadowCopy",
            "HarddiskVolume",
            "PhysicalDrive",
        ]
        .into_iter()
        .any(numbered)
}

/// Extensions that say what a file is for Hyper-V.
pub(super) fn is_known_extension(extension: &str) -> bool {
    const EXTENSIONS: [&str; 22] = [
        "vhd", "vhdx", "avhd", "avhdx", "vhds", "vhdpmem", "vmcx", "vmrs", "vmgs", "vsv", "bin",
        "xml", "iso", "vfd", "mrt", "rct", "tmp", "dll", "exe", "sys", "efi", "slp",
    ];
    EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

/// Class names: those of the vendors whose schema it is.
pub(super) fn is_class(word: &str) -> bool {
    let starts = ["Msvm_", "CIM_", "Win32_", "MSFT_", "MSCluster_", "__"];
    starts.iter().any(|start| word.starts_with(start))
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What the URIs of protocols begin with.
pub(super) fn is_protocol_uri(uri: &str) -> bool {
    let starts = [
        "http://schemas.xmlsoap.org/",
        "http://schemas.dmtf.org/",
        "http://schemas.microsoft.com/wbem/",
        "http://www.w3.org/",
    ];
    starts.iter().any(|start| uri.starts_with(start))
        && uri
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":/._-*?=#".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_what_they_should() {
        assert!(is_number("ReturnValue") && is_number("MaxInternalSize") && is_number("JobState"));
        for private in [
            "SerialNumber",
            "ElementName",
            "KeyProtector",
            "OEMLogoBitmap",
            "BIOSSerialNumber",
        ] {
            assert!(!is_number(private) && !is_enumerated(private), "{private}");
        }
        assert!(is_plain_word("The") && is_plain_word("failed") && !is_plain_word("contoso"));
        assert!(
            is_known_folder("harddiskvolumeshadowcopy12") && !is_known_folder("HarddiskVolumeX")
        );
        assert!(
            is_class("Msvm_ConcreteJob") && !is_class("Contoso_Thing") && !is_class("Win32_a b")
        );
    }
}
