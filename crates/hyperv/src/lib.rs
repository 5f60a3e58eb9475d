//! What we ask of a Hyper-V host, over WS-Management and its files.
//!
//! [`Host`] is the driver: facts, inventory, the steps of a backup by resilient change tracking, of a restore by import
//! or by definition, disks, power. It speaks through a [`CimSession`]. File bytes do not travel over WS-Management:
//! [`HostFiles`] reads and writes them under the local paths a [`PathMap`] gives.
//!
//! Invariants: every step can be repeated; what is destroyed or removed carries our [`Mark`] or was named by the
//! caller; a result that is not certain is looked for on the host before it is reported; no lock is held over an await.
//! Not here: which step comes when (`agent`), what is worth doing (`plan`), the bytes of disks (`vhdx`, `pipeline`).
//!
//! What public documentation does not confirm is marked `[U]` and sits in one function each.

mod cim;
mod error;
mod files;
mod host;

pub use cim::{
    Authentication, CimSession, ConnectionError, Credentials, Endpoint, Identity, Recorder, Trust,
};
pub use error::{Error, ErrorKind};
pub use files::{
    CacheBypass, ChainError, Entry, FileError, FileErrorKind, HostFile, HostFiles,
    HostPathResolver, MapError, PathMap, ShadowView, UncachedFile,
};
pub use host::unsupported;
pub use host::{
    Activity, Changes, Checkpoint, CheckpointChain, CheckpointDisk, CheckpointFiles,
    CheckpointKind, ConfigFile, ConfigPlace, ConfigVersion, DiskFile, DiskFileKind, DiskFormat,
    ExportCheckpoints, Folders, Host, HostFacts, Inventory, Limits, Mark, Merge, MergeProgress,
    NotOurs, Orphan, ParseSlotError, PlannedVm, RctId, Readiness, ReferencePoint, Replication,
    ReplicationRole, Security, Shadow, ShadowRefusal, Slot, TakenCheckpoint, TrackerFacts, VmDisk,
    VmFacts, VmFiles, VmSummary, VolumeFacts, new_of_volume,
};
