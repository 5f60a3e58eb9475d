"""The properties of the classes that clients read, with their types.

From the documentation of the classes; for those that libvirt's driver reads, what it demands: it gives up on an instance
that lacks one of these scalars. A host may give more.
"""

MANAGED = "string InstanceID Caption Description ElementName"
ELEMENT = MANAGED + """
datetime InstallDate
string Name Status
string[] StatusDescriptions
uint16[] OperationalStatus
uint16 HealthState CommunicationStatus DetailedStatus OperatingStatus PrimaryStatus
"""
ENABLED = ELEMENT + """
uint16 EnabledState RequestedState EnabledDefault TransitioningToState
uint16[] AvailableRequestedStates
string OtherEnabledState CreationClassName
datetime TimeOfLastStateChange
"""
SERVICE = ENABLED + """
string SystemCreationClassName SystemName PrimaryOwnerName PrimaryOwnerContact StartMode
boolean Started
"""
RESOURCE = MANAGED + """
uint16 ResourceType ConsumerVisibility MappingBehavior
string OtherResourceType ResourceSubType PoolID AllocationUnits Parent Address AddressOnParent VirtualQuantityUnits
string[] HostResource Connection
uint64 VirtualQuantity Reservation Limit
uint32 Weight
boolean AutomaticAllocation AutomaticDeallocation
"""
SYSTEM = ENABLED + """
string PrimaryOwnerName PrimaryOwnerContact NameFormat
string[] Roles OtherIdentifyingInfo IdentifyingDescriptions OtherDedicatedDescriptions
uint16[] Dedicated PowerManagementCapabilities
uint16 ResetCapability
uint64 OnTimeInMilliseconds
uint32 ProcessID
datetime TimeOfLastConfigurationChange
"""

TEXTS = {
    "Msvm_ComputerSystem": SYSTEM + """
        uint16 NumberOfNumaNodes ReplicationState ReplicationHealth ReplicationMode
        uint16 FailedOverReplicationType LastReplicationType EnhancedSessionModeState
        datetime LastApplicationConsistentReplicationTime LastReplicationTime LastSuccessfulBackupTime
    """,
    "Msvm_PlannedComputerSystem": SYSTEM,
    "Msvm_VirtualSystemManagementService": SERVICE,
    "Msvm_VirtualSystemSnapshotService": SERVICE,
    "Msvm_VirtualSystemReferencePointService": SERVICE,
    "Msvm_ImageManagementService": SERVICE,
    "Msvm_ConcreteJob": ELEMENT + """
        string JobStatus Notify Owner ErrorDescription ErrorSummaryDescription OtherRecoveryAction
        datetime TimeSubmitted ScheduledStartTime StartTime ElapsedTime RunStartInterval UntilTime
        datetime TimeOfLastStateChange TimeBeforeRemoval
        uint32 JobRunTimes Priority
        uint8 RunMonth
        sint8 RunDay RunDayOfWeek
        uint16 LocalOrUtcTime PercentComplete ErrorCode RecoveryAction JobState JobType
        boolean DeleteOnCompletion Cancellable
    """,
    "Msvm_VirtualSystemSettingData": MANAGED + """
        string VirtualSystemIdentifier VirtualSystemType VirtualSystemSubType Version ConfigurationID
        string ConfigurationDataRoot ConfigurationFile SnapshotDataRoot SuspendDataRoot SwapFileDataRoot LogDataRoot
        string RecoveryFile AdditionalRecoveryInformation Parent
        string BIOSGUID BIOSSerialNumber BaseBoardSerialNumber ChassisSerialNumber ChassisAssetTag
        string SecureBootTemplateId GuestStateFile GuestStateDataRoot
        string[] Notes BootSourceOrder
        datetime CreationTime AutomaticStartupActionDelay
        uint16 AutomaticStartupAction AutomaticStartupActionSequenceNumber AutomaticShutdownAction
        uint16 AutomaticRecoveryAction DebugPortEnabled NetworkBootPreferredProtocol UserSnapshotType
        uint16[] BootOrder
        uint32 DebugChannelId DebugPort
        uint64 LowMmioGapSize
        boolean BIOSNumLock IsSaved AllowFullSCSICommandSet IncrementalBackupEnabled VirtualNumaEnabled
        boolean AllowReducedFcRedundancy PauseAfterBootFailure SecureBootEnabled
        boolean IsAutomaticSnapshot AutomaticSnapshotsEnabled
    """,
    "Msvm_ResourceAllocationSettingData": RESOURCE,
    "Msvm_StorageAllocationSettingData": RESOURCE + """
        boolean IgnoreFlushes PersistentReservationsSupported
        uint16 CachingMode
        uint64 IOPSLimit IOPSReservation
        string StorageQoSPolicyID SnapshotId
    """,
    "Msvm_SyntheticEthernetPortSettingData": RESOURCE + "boolean StaticMacAddress",
    "Msvm_EmulatedEthernetPortSettingData": RESOURCE + "boolean StaticMacAddress",
    "Msvm_EthernetPortAllocationSettingData": RESOURCE + "uint16 EnabledState",
    "Msvm_MemorySettingData": RESOURCE + """
        boolean DynamicMemoryEnabled IsVirtualized SwapFilesInUse
        uint32 TargetMemoryBuffer
        uint64 MaxMemoryBlocksPerNumaNode
    """,
    "Msvm_ProcessorSettingData": RESOURCE + """
        boolean LimitCPUID LimitProcessorFeatures
        uint64 MaxProcessorsPerNumaNode MaxNumaNodesPerSocket
    """,
    "Msvm_VirtualSystemReferencePoint": """
        string InstanceID VirtualSystemIdentifier
        uint16 ReferencePointType ConsistencyLevel
        boolean HasAssociatedData
        string[] VirtualDiskIdentifiers ResilientChangeTrackingIdentifiers
    """,
    "Msvm_VirtualSystemManagementServiceSettingData": """
        string InstanceID ElementName DefaultVirtualHardDiskPath DefaultExternalDataRoot
    """,
    "Msvm_VirtualEthernetSwitch": """
        string Name ElementName CreationClassName
        uint16 HealthState EnabledState
    """,
    "Msvm_SecuritySettingData": """
        string InstanceID ElementName
        boolean TpmEnabled ShieldingRequested EncryptStateAndVmMigrationTraffic
    """,
    "Msvm_ShutdownComponent": """
        string CreationClassName DeviceID SystemCreationClassName SystemName
        uint16[] OperationalStatus
    """,
    "Win32_OperatingSystem": """
        string Version BuildNumber Caption CSName
        uint32 OperatingSystemSKU ProductType
        uint64 FreePhysicalMemory TotalVisibleMemorySize
        datetime LastBootUpTime
    """,
    "Win32_ComputerSystem": """
        string Name DNSHostName Domain
        boolean PartOfDomain
        uint32 NumberOfLogicalProcessors
    """,
    "Win32_ComputerSystemProduct": "string UUID Name Vendor Version",
    "Win32_Volume": """
        string DeviceID Name DriveLetter FileSystem Label
        uint64 Capacity FreeSpace BlockSize
        uint32 DriveType
    """,
    "Win32_LogicalDisk": """
        string DeviceID
        uint64 Size FreeSpace
    """,
    "Win32_ShadowCopy": """
        string ID DeviceObject VolumeName
        datetime InstallDate
        uint32 State
    """,
    "Win32_Service": "string Name State",
}

TYPES = {"boolean", "string", "datetime"} | {f"{s}int{n}" for s in "us" for n in (8, 16, 32, 64)}


def _read(text):
    properties = {}
    kind, is_array = None, False
    for word in text.split():
        bare = word.removesuffix("[]")
        if bare in TYPES:
            kind, is_array = bare, word.endswith("[]")
        else:
            properties[word] = (kind, is_array)
    return properties


# Class name -> property name -> (type, whether it is an array).
CLASSES = {name: _read(text) for name, text in TEXTS.items()}

# The parameters that come out of methods; the class is named where two classes have different ones.
REF, SCALAR, ARRAY, ITEMS = "ref", "scalar", "array", "embedded objects"
OUT = {
    "CreateSnapshot": {"Job": REF, "ResultingSnapshot": REF},
    "ApplySnapshot": {"Job": REF},
    "DestroySnapshot": {"Job": REF},
    "DestroySnapshotTree": {"Job": REF},
    "ConvertToReferencePoint": {"Job": REF, "ResultingReferencePoint": REF},
    "DestroyReferencePoint": {"Job": REF},
    "GetVirtualDiskChanges": {
        "ProcessedByteLength": SCALAR,
        "ChangedByteOffsets": ARRAY,
        "ChangedByteLengths": ARRAY,
        "Job": REF,
    },
    "GetVirtualHardDiskSettingData": {"SettingData": SCALAR, "Job": REF},
    "GetVirtualHardDiskState": {"State": SCALAR, "Job": REF},
    "DefineSystem": {"ResultingSystem": REF, "Job": REF},
    "DefinePlannedSystem": {"ResultingSystem": REF, "Job": REF},
    "DestroySystem": {"Job": REF},
    "ModifySystemSettings": {"Job": REF},
    "AddResourceSettings": {"Job": REF, "ResultingResourceSettings": ARRAY},
    "ModifyResourceSettings": {"Job": REF, "ResultingResourceSettings": ARRAY},
    "RemoveResourceSettings": {"Job": REF},
    "ExportSystemDefinition": {"Job": REF},
    "ImportSystemDefinition": {"ImportedSystem": REF, "Job": REF},
    "ValidatePlannedSystem": {"Job": REF},
    "RealizePlannedSystem": {"ResultingSystem": REF, "Job": REF},
    "RequestStateChange": {"Job": REF},
    "Msvm_ConcreteJob.RequestStateChange": {},
    "InitiateShutdown": {},
    "GetSummaryInformation": {"SummaryInformation": ITEMS},
    "GetErrorEx": {"Errors": ARRAY},
    "Create": {"ShadowID": SCALAR},
}
