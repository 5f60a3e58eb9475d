//! What this host refuses, as one table: the method, whether it says so at once or through a job that fails, the
//! code, and the situation.
//!
//! Written from the documented return codes, not from what a driver happens to handle. A wrong state is refused at once;
//! what is wrong with files is found by the job. A test brings about every row over HTTP.

use crate::failure::code;

/// How a client learns that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// By the method's return code.
    AtOnce,
    /// By the error code of the job that the method started.
    Job,
}

macro_rules! refusals {
    ($($name:ident = $method:literal $when:ident $code:ident: $situation:literal;)*) => {
        /// A situation in which the host refuses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $(#[doc = concat!("`", $method, "`: ", $situation, ".")] $name,)*
        }

        impl Refusal {
            /// Every row of the table.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// Returns the method, or the methods, that are refused.
            #[must_use]
            pub fn method(self) -> &'static str {
                match self {
                    $(Refusal::$name => $method,)*
                }
            }

            /// Returns how a client learns of it.
            #[must_use]
            pub fn when(self) -> When {
                match self {
                    $(Refusal::$name => When::$when,)*
                }
            }

            /// Returns the documented code.
            #[must_use]
            pub fn code(self) -> u32 {
                match self {
                    $(Refusal::$name => code::$code,)*
                }
            }

            /// Returns what is wrong.
            #[must_use]
            pub fn situation(self) -> &'static str {
                match self {
                    $(Refusal::$name => $situation,)*
                }
            }
        }
    };
}

refusals! {
    // Jobs and merges.
    BusyWithJob = "every method that starts a job" AtOnce INVALID_STATE: "another job has the virtual machine";
    BusyMerging = "CreateSnapshot" AtOnce INVALID_STATE: "the virtual machine's disks are being merged";
    CancelNotPossible = "Msvm_ConcreteJob.RequestStateChange" AtOnce INVALID_STATE: "the job is not cancellable, or has ended";
    CancelUnknown = "Msvm_ConcreteJob.RequestStateChange" AtOnce INVALID_PARAMETER: "the state asked for is neither 4 nor 5";

    // Power.
    WrongPower = "RequestStateChange" AtOnce INVALID_STATE: "the virtual machine is in that state, or cannot get there";
    UnknownPower = "RequestStateChange" AtOnce INVALID_PARAMETER: "there is no such state";
    StartMissingFile = "RequestStateChange" Job FAILED: "a disk file is missing";
    StartMissingParent = "RequestStateChange" Job FAILED: "the parent of a disk file is missing";
    StartMissingSwitch = "RequestStateChange" Job FAILED: "a virtual switch is missing";
    StartMemory = "RequestStateChange" Job OUT_OF_MEMORY: "the host has less memory";
    StartProcessors = "RequestStateChange" Job FAILED: "the host has fewer processors";

    // Systems.
    DestroyRunning = "DestroySystem" AtOnce INVALID_STATE: "the virtual machine runs or is paused";
    NoSuchSystem = "DestroySystem" AtOnce INVALID_PARAMETER: "there is no such virtual machine";
    WrongClass = "DefineSystem, AddResourceSettings" AtOnce WRONG_TYPE: "an embedded object has a class that does not belong there";
    UnknownProperty = "ModifySystemSettings" AtOnce INVALID_PARAMETER: "an embedded object has a property its class does not have";
    WrongValue = "ModifySystemSettings" AtOnce INVALID_PARAMETER: "a property has a value its type does not allow";
    MoveConfiguration = "ModifySystemSettings" AtOnce INVALID_STATE: "the configuration folder of a realised virtual machine would change";
    BadBootOrder = "ModifySystemSettings" AtOnce INVALID_PARAMETER: "the boot order is not the same devices in another order";
    BootOrderRunning = "ModifySystemSettings" AtOnce INVALID_STATE: "the boot order would change while the virtual machine runs";
    UpgradeRunning = "UpgradeSystemVersion" AtOnce INVALID_STATE: "the virtual machine runs";
    UpgradeNothing = "UpgradeSystemVersion" AtOnce INVALID_STATE: "the virtual machine has the host's version already";

    // Resources.
    CheckpointFixed = "AddResourceSettings, ModifyResourceSettings, RemoveResourceSettings" AtOnce INVALID_STATE: "the resources are a checkpoint's";
    HotIde = "AddResourceSettings, RemoveResourceSettings" AtOnce INVALID_STATE: "an IDE drive would change while the virtual machine runs";
    HotController = "AddResourceSettings, RemoveResourceSettings" AtOnce INVALID_STATE: "a SCSI controller would change while the virtual machine runs";
    HotAdapter = "AddResourceSettings" AtOnce INVALID_STATE: "a network adapter of a first generation virtual machine would change while it runs";
    HotProcessor = "ModifyResourceSettings" AtOnce INVALID_STATE: "the number of processors would change while the virtual machine runs";
    NoParent = "AddResourceSettings" AtOnce INVALID_PARAMETER: "Parent names nothing the resource could hang on";
    NoSuchSlot = "AddResourceSettings" AtOnce INVALID_PARAMETER: "the controller has no such slot";
    SlotTaken = "AddResourceSettings" AtOnce INVALID_PARAMETER: "the slot is taken";
    ControllerFull = "AddResourceSettings" AtOnce INVALID_PARAMETER: "the controller is full";
    TooManyControllers = "AddResourceSettings" AtOnce INVALID_PARAMETER: "there are four SCSI controllers already";
    TooManyAdapters = "AddResourceSettings" AtOnce INVALID_PARAMETER: "there are eight network adapters already";
    DriveFilled = "AddResourceSettings" AtOnce INVALID_PARAMETER: "the drive holds something already";
    AddMissingFile = "AddResourceSettings" Job FAILED: "the file is missing";
    AddMissingParent = "AddResourceSettings" Job FAILED: "the parent of the file is missing";
    AddFileInUse = "AddResourceSettings" Job FAILED: "the file belongs to another virtual machine";
    AddFileTwice = "AddResourceSettings" Job FAILED: "the file is attached to this virtual machine already";
    NoSuchResource = "ModifyResourceSettings" AtOnce INVALID_PARAMETER: "there is no such resource";
    FeatureThere = "AddFeatureSettings" AtOnce INVALID_PARAMETER: "the connection has such a feature already";
    BadVlan = "AddFeatureSettings" AtOnce INVALID_PARAMETER: "there is no such VLAN";
    BootSourceFixed = "RemoveBootSourceSettings" AtOnce INVALID_PARAMETER: "the boot source belongs to a device";
    RemoveFixed = "RemoveResourceSettings" AtOnce INVALID_PARAMETER: "every virtual machine has this resource";
    RemoveHolding = "RemoveResourceSettings" AtOnce INVALID_STATE: "the drive still holds something";

    // Checkpoints and reference points.
    SnapshotPlanned = "CreateSnapshot" AtOnce INVALID_STATE: "the virtual machine is planned";
    SnapshotsDisabled = "CreateSnapshot" AtOnce INVALID_STATE: "checkpoints are disabled";
    SnapshotType = "CreateSnapshot" AtOnce INVALID_PARAMETER: "there is no such type of checkpoint";
    SnapshotUnfit = "CreateSnapshot" AtOnce NOT_SUPPORTED: "a disk is shared or passed through";
    SnapshotNoRoom = "CreateSnapshot" Job FAILED: "the volume has no room for the new files";
    ApplyRunning = "ApplySnapshot" AtOnce INVALID_STATE: "the virtual machine runs or is paused";
    ApplyRecovery = "ApplySnapshot" AtOnce INVALID_STATE: "the checkpoint is a backup's";
    NoSuchCheckpoint = "DestroySnapshot" AtOnce INVALID_PARAMETER: "there is no such checkpoint";
    ConvertUser = "ConvertToReferencePoint" AtOnce INVALID_STATE: "the checkpoint is a user's";
    ClearNothing = "ClearSnapshotState" AtOnce INVALID_STATE: "the checkpoint holds no saved state";
    CreateReferencePoint = "CreateReferencePoint" AtOnce NOT_SUPPORTED: "this host makes reference points of checkpoints only";

    // Export and import.
    ExportNoCheckpoint = "ExportSystemDefinition" AtOnce INVALID_PARAMETER: "CopySnapshotConfiguration names no checkpoint of the virtual machine";
    ExportThere = "ExportSystemDefinition" Job FAILED: "the folder holds such files already";
    ImportInUse = "ImportSystemDefinition" AtOnce FILE: "the file belongs to a virtual machine of this host";
    ImportMissing = "ImportSystemDefinition" Job FAILED: "the file is missing";
    ImportUnreadable = "ImportSystemDefinition" Job FAILED: "the file is no configuration";
    ImportClash = "ImportSystemDefinition" Job FAILED: "a virtual machine with this id is registered or planned";
    NotPlanned = "ValidatePlannedSystem, RealizePlannedSystem, ImportSnapshotDefinitions" AtOnce INVALID_PARAMETER: "the virtual machine is realised";
    RealizeCheckpoint = "ValidatePlannedSystem, RealizePlannedSystem" Job FAILED: "a checkpoint's configuration is missing";
    RealizeFile = "ValidatePlannedSystem, RealizePlannedSystem" Job FAILED: "a disk file is missing";
    RealizeInUse = "ValidatePlannedSystem, RealizePlannedSystem" Job FAILED: "a disk file belongs to another virtual machine";
    RealizeSwitch = "ValidatePlannedSystem, RealizePlannedSystem" Job FAILED: "a virtual switch is missing";
    RealizeMemory = "ValidatePlannedSystem, RealizePlannedSystem" Job OUT_OF_MEMORY: "the host has less memory";
    RealizeProcessors = "ValidatePlannedSystem, RealizePlannedSystem" Job FAILED: "the host has fewer processors";

    // Disk files.
    ImageMissing = "every method of the image service with a path" AtOnce FILE: "the file is missing";
    ImageBadPath = "every method of the image service with a path" AtOnce INVALID_PARAMETER: "the path is no path of this host";
    ImageAttached = "MergeVirtualHardDisk, CompactVirtualHardDisk, SetVirtualHardDiskSettingData" Job IN_USE: "a virtual machine has the file";
    ImageHeld = "MergeVirtualHardDisk" Job IN_USE: "another program has the file open";
    MergeStranger = "MergeVirtualHardDisk" Job FAILED: "the destination is no ancestor of the source";
    ParentStranger = "SetParentVirtualHardDisk" Job FAILED: "the parent is not the disk the child was made from";
    CreateThere = "CreateVirtualHardDisk, ConvertVirtualHardDisk" Job FAILED: "the file exists already";
    CreateFormat = "CreateVirtualHardDisk, ConvertVirtualHardDisk" AtOnce NOT_SUPPORTED: "the format is not VHDX";
    ResizeTooSmall = "ResizeVirtualHardDisk" Job FAILED: "there is content beyond the new end";
    ChangesBeyond = "GetVirtualDiskChanges" AtOnce INVALID_PARAMETER: "the window leads beyond the disk's end";
    ChangesUnknown = "GetVirtualDiskChanges" AtOnce INVALID_PARAMETER: "the change tracking id is unknown";
    NotMounted = "FindMountedStorageImageInstance" AtOnce FILE: "the file is not mounted";

    // Security.
    TpmWithoutKey = "ModifySecuritySettings" AtOnce INVALID_STATE: "the virtual machine has no key protector";
    SecurityRunning = "ModifySecuritySettings, SetKeyProtector" AtOnce INVALID_STATE: "the virtual machine is not off";
    SecurityGeneration = "ModifySecuritySettings" AtOnce NOT_SUPPORTED: "a first generation virtual machine has no virtual TPM";
}
