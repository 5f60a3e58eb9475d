//! Between agents and the server: `/agent/v1`.
//!
//! | route | body → reply |
//! |---|---|
//! | `POST /agent/v1/enroll` (people's port, no certificate) | [`EnrolRequest`] → [`EnrolReply`] |
//! | `POST /agent/v1/certificate` | [`CertificateRequest`] → [`EnrolReply`] |
//! | `POST /agent/v1/poll` (held up to [`PollRequest::wait_secs`]) | [`PollRequest`] → [`PollReply`] |
//! | `POST /agent/v1/questions/{q}/answer` | [`Answer`] → 204 |
//! | `POST /agent/v1/inventory` | [`Inventory`] → 204 |
//! | `POST /agent/v1/jobs/{job}/report` (renews the lease) | [`Report`] → [`ReportReply`] |
//! | `POST /agent/v1/jobs/{job}/finish` | [`Finish`] → 204 |
//! | `POST /agent/v1/jobs/{job}/void-bases` | [`VoidBases`] → 204 |
//! | `POST /agent/v1/jobs/{job}/backup-session` | [`OpenBackup`] → [`BackupSession`] |
//! | `POST /agent/v1/jobs/{job}/restore-session` | [`OpenRestore`] → [`RestoreSession`] |
//! | `POST /agent/v1/sessions/{s}/have` | ids, 32 bytes each → one byte each, 1 where held |
//! | `POST /agent/v1/sessions/{s}/seals` | [`SealsRequest`] → [`SealsReply`] |
//! | `PUT /agent/v1/sessions/{s}/packs/{pack}` | the pack → 204 once durable and checked |
//! | `POST /agent/v1/sessions/{s}/nodes` | ids, 32 bytes each → frames `Node`, `End` |
//! | `POST /agent/v1/sessions/{s}/chunks` | ids, 32 bytes each → frames `Seal`, `Entry`, `End` |
//! | `POST /agent/v1/sessions/{s}/cell-hashes` | [`crate::cells::CellAsk`]s → frames `Cells`, `End` |
//! | `POST /agent/v1/sessions/{s}/cells` | [`crate::cells::CellAsk`]s → frames `Seal`, `Entry`, `End` |
//! | `POST /agent/v1/sessions/{s}/publish` | [`Publish`] → [`Published`], or a problem `chunks-missing` |
//! | `POST /agent/v1/sessions/{s}/bases` | [`Bases`] → 204 |
//! | `POST /agent/v1/sessions/{s}/close` | [`CloseSession`] → 204 |
//! | `POST /agent/v1/settle` | [`SettleRequest`] → [`SettleReply`] |
//! | `POST /agent/v1/settle-bases` | [`SettleBases`] → 204 |
//!
//! Every write for a job carries its fence; an old fence is answered 409 `fenced` and changes nothing. Requests may
//! arrive twice: each has the same effect as once.

use model::{
    AgentId, BaseRecord, ConsistencyWish, DiskId, Fence, FileImage, FullReason, HostId, ImageRef,
    JobId, Method, PointId, QuestionId, RecoveryPoint, RestoreWish, SessionId, Timestamp, VmId,
};
use serde::{Deserialize, Serialize};

use crate::receipt::Evidence;
use crate::v1::{AgreedPlan, PlannedRestore};

/// An agent asks to be enrolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Secret part of the enrolment token.
    pub secret: String,
    /// Certificate signing request, PEM.
    pub csr_pem: String,
    /// The machine's name, for people.
    pub machine: String,
    /// The agent's version.
    pub version: String,
}

/// A new certificate before the old one ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// Certificate signing request, PEM.
    pub csr_pem: String,
}

/// The certificate an agent shows from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The agent's id.
    pub agent: AgentId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The server's CA, PEM.
    pub ca_pem: String,
    /// Port of the agents' API on the host the agent enrolled at.
    pub agent_port: u16,
    /// When the certificate ends.
    pub expires: Timestamp,
}

/// An agent asks for work and says how it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PollRequest {
    /// How long the server may hold the request, in seconds, at most 30.
    pub wait_secs: u32,
    /// Id of this process: a second one with the same identity is noticed.
    pub instance: String,
    /// The agent's version.
    pub version: String,
    /// Whether it can back up and restore now.
    pub readiness: Readiness,
    /// The host, once it was reached.
    pub host: Option<HostIdentity>,
    /// Jobs this process is running.
    pub running: Vec<JobId>,
    /// Most jobs it runs at once.
    pub slots: u32,
    /// Questions it is at.
    #[serde(default)]
    pub answering: Vec<QuestionId>,
}

/// Whether an agent can work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Readiness {
    /// Ready for backup and restore.
    Ready,
    /// Not, and why.
    NotReady {
        /// For people: what is wrong and where.
        reason: String,
    },
}

/// Who the host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// `Win32_ComputerSystemProduct.UUID`.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Operating system version.
    pub os_version: String,
}

/// Work, or nothing this time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PollReply {
    /// A job for this agent.
    pub assignment: Option<Assignment>,
    /// Jobs among [`PollRequest::running`] that must stop (cancelled, lost, unknown).
    pub stop: Vec<JobId>,
    /// Whether the server wants a fresh inventory.
    pub inventory_wanted: bool,
    /// What someone waits to hear. Needs no lease; to answer changes nothing on the host.
    #[serde(default)]
    pub questions: Vec<Question>,
}

/// Something an agent is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Its id, for the answer.
    pub id: QuestionId,
    /// What is asked.
    pub ask: Ask,
}

/// What an agent can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ask {
    /// What would this restore do?
    PlanRestore(Box<RestoreWork>),
}

/// An agent's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Answer {
    /// This.
    RestorePlan {
        /// The plan as people see it.
        planned: Box<PlannedRestore>,
        /// What its fingerprint covers, a line each.
        effects: Vec<String>,
    },
    /// It cannot be told.
    Failed {
        /// Stable code.
        code: String,
        /// What happened, where.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
}

/// A job handed to an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Which.
    pub job: JobId,
    /// Its fence from now on.
    pub fence: Fence,
    /// First, second ... run.
    pub attempt: u32,
    /// Whether a failure of this run ends the job, whatever its cause.
    #[serde(default)]
    pub last_attempt: bool,
    /// Length of the lease in seconds; each report renews it.
    pub lease_secs: u32,
    /// What to do.
    pub work: Work,
}

/// What a job asks of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Make a recovery point.
    Backup(BackupWork),
    /// Bring one back.
    Restore(Box<RestoreWork>),
    /// Put back what a restore keeps beside.
    Undo(ParkedWork),
    /// Delete what a restore keeps beside.
    Release(ParkedWork),
}

/// What is to be done with what a restore keeps beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedWork {
    /// The job that keeps it.
    pub of: JobId,
    /// The VM.
    pub vm: VmId,
    /// Its name when the job was made, for messages.
    pub vm_name: String,
}

/// A backup as asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupWork {
    /// The VM.
    pub vm: VmId,
    /// Its name when the job was made, for messages.
    pub vm_name: String,
    /// Read every disk whole.
    pub full: bool,
    /// Force a method.
    pub method: Option<Method>,
    /// Consistency asked for.
    pub consistency: ConsistencyWish,
    /// Host paths of disks to leave out.
    pub excluded: Vec<String>,
}

/// A restore as asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreWork {
    /// The wish.
    pub wish: RestoreWish,
    /// The recovery point: what the plan is made from, before any data is asked for.
    pub point: Box<RecoveryPoint>,
    /// VMs of other hosts that share an id, a name or a MAC address with it.
    #[serde(default)]
    pub elsewhere: Vec<KnownVm>,
    /// The plan that was agreed to; the restore is done only while it holds.
    #[serde(default)]
    pub agreed: Option<AgreedPlan>,
}

/// A VM of another host, by what a VM is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownVm {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// Name of its host.
    pub host: String,
    /// MAC addresses of its adapters.
    pub macs: Vec<String>,
}

/// What the host has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inventory {
    /// The host.
    pub host: HostIdentity,
    /// Its VMs.
    pub vms: Vec<InventoryVm>,
}

/// A VM in the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryVm {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// Power state text.
    pub state: String,
    /// 1 or 2.
    pub generation: u8,
    /// Configuration version.
    pub version: String,
    /// Its disk files.
    pub disks: Vec<InventoryDisk>,
    /// Number of checkpoints.
    pub checkpoints: u32,
    /// What cannot be backed up.
    pub unsupported: Vec<String>,
    /// MAC addresses of its adapters.
    #[serde(default)]
    pub macs: Vec<String>,
}

/// A disk in the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryDisk {
    /// Path on the host.
    pub path: String,
    /// Controller and slot text.
    pub slot: String,
}

/// What happened since the last report; also a sign of life that renews the lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The job's fence.
    pub fence: Fence,
    /// In order; may be empty. Each has a number, so that a repeated report adds nothing twice.
    pub events: Vec<Event>,
    /// Progress, where it is known.
    pub progress: Option<Progress>,
    /// Figures so far.
    pub figures: Option<Figures>,
}

/// An event of a job's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// 1, 2, 3 ... within the attempt.
    pub number: u64,
    /// When, by the agent's clock.
    pub at: Timestamp,
    /// What.
    pub what: EventKind,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventKind {
    /// A step began.
    StepStarted {
        /// Its name, as in `design`: `space`, `restore` ...
        step: String,
    },
    /// A step ended well.
    StepDone {
        /// Its name.
        step: String,
        /// Its figures, for people.
        detail: String,
    },
    /// A step failed.
    StepFailed {
        /// Its name.
        step: String,
        /// Why.
        detail: String,
    },
    /// A line for the log.
    Note {
        /// Text.
        text: String,
    },
    /// The result will be usable, but this was not honoured.
    Warning {
        /// Text.
        text: String,
    },
}

/// Bytes done of bytes to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done.
    pub bytes_done: u64,
    /// To do in all.
    pub bytes_total: u64,
}

/// What a job moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Read from the host's disks (backup) or from the store (restore).
    pub bytes_read: u64,
    /// Sent over the network, sealed.
    pub bytes_sent: u64,
    /// New in the store (backup) or written on the host (restore).
    pub bytes_stored: u64,
    /// Already there, not sent.
    pub bytes_reused: u64,
}

/// Answer to a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportReply {
    /// Someone asked to cancel: stop at the next safe place, clean up, finish as cancelled.
    pub cancel: bool,
    /// The lease from now on, in seconds.
    pub lease_secs: u32,
}

/// The end of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finish {
    /// The job's fence.
    pub fence: Fence,
    /// How it ended.
    pub outcome: Outcome,
    /// Last figures.
    pub figures: Figures,
    /// What the job keeps beside on the host, where it succeeded and does.
    #[serde(default)]
    pub parked: Option<Parked>,
    /// What was found on the host after a restore: the server writes its receipt from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
}

/// What a restore keeps beside on the host, until it is finished or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The VM.
    pub vm: VmId,
    /// Whether it is a whole VM, or files of disks alone.
    pub whole_vm: bool,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when, by the agent's clock.
    pub since: Timestamp,
}

/// How a job ended on the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// Well; warnings already reported make it `warnings`.
    Succeeded,
    /// Not.
    Failed {
        /// Stable code, such as `not-enough-space`.
        code: String,
        /// What happened, where.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// Whether another run may succeed by itself.
        retry: bool,
    },
    /// The host or a tool it needs is not ready: back to the queue with this reason.
    NotReady {
        /// For people.
        reason: String,
    },
    /// Stopped on request.
    Cancelled,
}

/// Base records that no longer hold, before a disk of the VM is rewritten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VoidBases {
    /// The job's fence.
    pub fence: Fence,
    /// The VM.
    pub vm: VmId,
    /// Its disks; empty for all.
    pub disks: Vec<DiskId>,
}

/// Opens a backup session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenBackup {
    /// The job's fence.
    pub fence: Fence,
    /// The VM.
    pub vm: VmId,
    /// The host.
    pub host: HostId,
    /// Its disks as they are now.
    pub disks: Vec<DiskIdentity>,
    /// InstanceIDs of the reference points of this VM that exist on the host.
    pub reference_points: Vec<String>,
    /// Whether it is a backup of files (VSS method), which may take over unchanged parents of the newest such point.
    #[serde(default)]
    pub files: bool,
}

/// A disk, by what makes it the same disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// VirtualDiskId.
    pub disk: DiskId,
    /// Virtual size in bytes.
    pub size_bytes: u64,
}

/// An open backup session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupSession {
    /// Its id.
    pub session: SessionId,
    /// The point's id, fixed by job, VM and fence.
    pub point: PointId,
    /// Key of chunk ids (32 bytes, hexadecimal).
    pub id_key: String,
    /// Key of the cutter (32 bytes, hexadecimal).
    pub cut_key: String,
    /// For each disk asked about, from where an increment may start, or why not.
    pub bases: Vec<BaseDecision>,
    /// The disk files of the newest point of this VM made of files on this host, where one can be built on.
    #[serde(default)]
    pub known_files: Option<KnownFiles>,
}

/// Disk files of an earlier point, pinned by the session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KnownFiles {
    /// The point; a point that takes one of the files over names it as its parent.
    pub point: PointId,
    /// Its disk files.
    pub files: Vec<FileImage>,
}

/// What the server decided about a disk's base.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BaseDecision {
    /// Read the changes since this base.
    Increment {
        /// The disk.
        disk: DiskId,
        /// The record.
        base: Box<BaseRecord>,
        /// The disk's image in that point.
        image: ImageRef,
        /// Ranges (offset, length) that must be read as well because the base's chunks there are damaged.
        reread: Vec<(u64, u64)>,
    },
    /// Read it whole.
    Full {
        /// The disk.
        disk: DiskId,
        /// Why.
        reason: FullReason,
    },
}

/// Asks for pack keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealsRequest {
    /// How many, at most 64.
    pub count: u32,
}

/// Pack keys, each for one pack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealsReply {
    /// [`crate::frames::PackKeyBytes`], hexadecimal; each may seal one pack.
    pub seals: Vec<String>,
}

/// Asks for the commit of a recovery point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// The job's fence.
    pub fence: Fence,
    /// The point.
    pub point: RecoveryPoint,
}

/// The point is committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Its id.
    pub point: PointId,
    /// Bytes this session added to the store.
    pub stored_bytes: u64,
}

/// Base records after the host's conversion; they replace those of the same disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bases {
    /// The job's fence.
    pub fence: Fence,
    /// The records.
    pub records: Vec<BaseRecord>,
}

/// Opens the write connection of a restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenRestore {
    /// The job's fence.
    pub fence: Fence,
}

/// An open restore session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreSession {
    /// Its id.
    pub session: SessionId,
    /// The recovery point.
    pub point: RecoveryPoint,
    /// Key of chunk ids (32 bytes, hexadecimal).
    pub id_key: String,
    /// What it takes to find content on the host, where the server can send single cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<SeedKeys>,
}

/// Keys with which an agent finds on its host what need not come.
#[derive(Clone, Serialize, Deserialize)]
pub struct SeedKeys {
    /// Key of the cutter (32 bytes, hexadecimal).
    pub cut_key: String,
    /// Key of this session's cell hashes (32 bytes, hexadecimal).
    pub cell_key: String,
}

impl std::fmt::Debug for SeedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeedKeys(..)")
    }
}

/// Closes a session; what it pinned is free.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloseSession {
    /// The job's fence.
    pub fence: Fence,
}

/// The janitor found marks of jobs on the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettleRequest {
    /// One each.
    pub marks: Vec<Mark>,
}

/// A mark of a job on something on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The job.
    pub job: JobId,
    /// The fence under which it was made.
    pub fence: Fence,
    /// The VM.
    pub vm: VmId,
    /// Whether it is about the data of a restore, which outlives an attempt: then the job counts, not the lease.
    #[serde(default)]
    pub restore: bool,
}

/// What to do with what carries a mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettleReply {
    /// In the order of the request.
    pub verdicts: Vec<Verdict>,
}

/// What to do with what carries a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Verdict {
    /// The job still holds its lease under this fence; a restore: it waits for its next attempt or runs. Leave it.
    Alive,
    /// Its point was committed: convert the checkpoint, send the base records by `settle-bases`.
    Committed {
        /// The point.
        point: PointId,
    },
    /// Nothing came of it: destroy it.
    Dead,
    /// The restore has succeeded: what it made belongs to the VM now.
    Done,
}

/// Base records of a committed point whose job is over, from the janitor
/// (`POST /agent/v1/settle-bases`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettleBases {
    /// Whose.
    pub mark: Mark,
    /// The records.
    pub records: Vec<BaseRecord>,
}
