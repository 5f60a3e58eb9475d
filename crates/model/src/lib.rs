//! The words of Reprise: ids, units, virtual machines, disks, recovery points.
//!
//! Values only: no clock, no file, no socket. Every other crate may use these types; this one uses none of ours.
//! What is serialised here is part of a format (the recovery point object, the API) and is only ever extended.

pub mod host_path;
mod ids;
mod point;
mod restore;
mod slot;
mod time;
mod units;
mod vm;

pub use ids::{
    AgentId, DiskId, Fence, HostId, JobId, ParseIdError, PointId, QuestionId, SessionId, UserId,
    VaultId, VmId,
};
pub use point::{
    BaseRecord, CheckpointInfo, Consistency, ConsistencyWish, DiskChain, DiskFileFacts, DiskImage,
    DiskSource, Excluded, FileImage, FullReason, ImageRef, Method, PointKind, RecoveryPoint,
    SourceHost, Unsupported,
};
pub use restore::{
    DiskFolder, DisksTo, KeepOrNew, NetworkMap, OverExisting, PowerAfter, RestoreScope,
    RestoreTarget, RestoreWish,
};
pub use slot::{ParseSlotError, Slot};
pub use time::{ParseTimestampError, Timestamp};
pub use units::{
    ByteRange, CELL, ChangedRanges, GIB, HumanBytes, KIB, MIB, ParseSizeError, RangeBeyondDisk,
    TIB, parse_size,
};
pub use vm::{
    BootEntry, Controller, ControllerKind, Drive, Generation, Media, Memory, Nic, PowerState,
    SwitchRef, VmConfig,
};
