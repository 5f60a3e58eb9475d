//! For people and scripts: `/api/v1`. JSON names here are a promise: added to, never renamed.
//!
//! | route | role | body → reply |
//! |---|---|---|
//! | `GET /api/v1/health` | none | → [`Health`] |
//! | `POST /api/v1/login` | none | [`LoginRequest`] → [`LoginReply`] |
//! | `POST /api/v1/logout` | any | → 204 (ends the token used) |
//! | `GET /api/v1/status` | viewer | → [`Status`] |
//! | `GET /api/v1/hosts`, `/hosts/{host}` | viewer | → [`Page`]`<`[`Host`]`>`, [`Host`] |
//! | `POST /api/v1/hosts/token` | administrator | → [`HostToken`] |
//! | `POST /api/v1/hosts/{host}/revoke` | administrator | → 204 |
//! | `GET /api/v1/vms`, `/vms/{vm}` | viewer | → `Page<`[`Vm`]`>`, [`Vm`] |
//! | `PUT /api/v1/vms/{vm}/protection` | administrator | [`ProtectRequest`] → [`Vm`] |
//! | `DELETE /api/v1/vms/{vm}/protection` | administrator | → 204 |
//! | `GET/POST /api/v1/policies`, `GET/PUT/DELETE /policies/{policy}` | viewer / administrator | [`PolicySpec`] → [`Policy`] |
//! | `POST /api/v1/backups` | operator | [`BackupRequest`] → [`Jobs`] |
//! | `GET /api/v1/points?vm=`, `/points/{point}` | viewer | → `Page<`[`Point`]`>`, [`Point`] |
//! | `POST /api/v1/points/{point}/verify` | operator | → [`Job`] |
//! | `DELETE /api/v1/points/{point}` | administrator | → 204 |
//! | `POST /api/v1/restores` | administrator | [`RestoreRequest`] → [`Jobs`] |
//! | `POST /api/v1/restores/plan` (nothing is done) | administrator | [`RestoreRequest`] → [`RestorePlan`] |
//! | `POST /api/v1/restores/{job}/undo`, `/restores/{job}/finish` | administrator | → [`Jobs`] |
//! | `GET /api/v1/jobs?state=&vm=&kind=&limit=&cursor=`, `/jobs/{job}` | viewer | → `Page<`[`Job`]`>`, [`Job`] |
//! | `GET /api/v1/jobs/{job}/wait?change=N&secs=S` | viewer | → [`Job`] once it differs from change N, or after S ≤ 30 seconds |
//! | `GET /api/v1/jobs/{job}/log` | viewer | → `Page<`[`LogLine`]`>` |
//! | `GET /api/v1/jobs/{job}/receipt` | viewer | → [`ReceiptFile`](crate::receipt::ReceiptFile) of a restore that ended well |
//! | `POST /api/v1/jobs/{job}/cancel` | operator (backups), administrator (restores) | → [`Job`] |
//! | `GET/POST /api/v1/users`, `DELETE /users/{user}` | administrator | [`UserSpec`] → [`User`] |
//! | `GET/POST /api/v1/tokens`, `DELETE /tokens/{token}` | administrator | [`TokenSpec`] → [`NewToken`] |
//! | `GET /api/v1/audit` | administrator | → `Page<`[`AuditEntry`]`>` |
//! | `GET /api/v1/openapi.json` | none | → the OpenAPI document |
//!
//! `{vm}`, `{host}` and `{policy}` are an id, or a name where it is unique (else 409 `ambiguous` lists the ids).
//! `{point}` is an id; `latest` needs `?vm=`. Requests that start work take an `Idempotency-Key` header.

mod plan;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use plan::{
    AgreedPlan, PlanAdapter, PlanCheckpoints, PlanCollision, PlanConditions, PlanDisk,
    PlanEstimate, PlanIdentities, PlanIdentity, PlanRefusal, PlanSeed, PlanStep, PlanVolume,
    PlannedRestore, RestorePlan,
};

/// A part of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next part; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The server answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the server.
    pub version: String,
}

/// Name and password.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// A token to use as `Authorization: Bearer`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginReply {
    /// The token; shown once.
    pub token: String,
    /// Role it carries.
    pub role: Role,
    /// When it ends (RFC 3339).
    pub expires: String,
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Read, start and cancel backups, verify.
    Operator,
    /// Everything.
    Administrator,
}

/// State of the installation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the server.
    pub version: String,
    /// The vault's id.
    pub vault: String,
    /// The server's time (RFC 3339).
    pub time: String,
    /// Who asks.
    pub user: String,
    /// Their role.
    pub role: Role,
    /// Enrolled hosts.
    pub hosts: u64,
    /// Hosts whose agent is ready.
    pub hosts_ready: u64,
    /// VMs known.
    pub vms: u64,
    /// VMs under a policy.
    pub vms_protected: u64,
    /// Recovery points.
    pub points: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Jobs waiting.
    pub jobs_queued: u64,
    /// Jobs running.
    pub jobs_running: u64,
}

/// Something by id and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedRef {
    /// Id.
    pub id: String,
    /// Name, untrusted text.
    pub name: String,
}

/// A Hyper-V host with its agent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Host id; empty until the agent has reached its host.
    pub id: String,
    /// Name.
    pub name: String,
    /// The agent's id.
    pub agent: String,
    /// `ready`, `not-ready`, `offline`, `revoked`.
    pub state: String,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Operating system version.
    pub os_version: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Last sign of life (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// When its certificate ends (RFC 3339).
    pub certificate_expires: String,
}

/// A single-use enrolment token.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct HostToken {
    /// `rpe1....`; give it to `reprise agent enroll --token`.
    pub token: String,
    /// When it ends (RFC 3339).
    pub expires: String,
}

/// A VM.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Hyper-V's id.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Its host.
    pub host: NamedRef,
    /// Power state at the last inventory; `gone` where the host no longer has it.
    pub state: String,
    /// 1 or 2.
    pub generation: u8,
    /// Configuration version.
    pub version: String,
    /// Disk files.
    pub disks: Vec<VmDisk>,
    /// Number of checkpoints.
    pub checkpoints: u32,
    /// What cannot be backed up.
    pub unsupported: Vec<String>,
    /// Its protection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// Newest recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_point: Option<String>,
    /// When that was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_point_created: Option<String>,
}

/// A disk file of a VM.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VmDisk {
    /// Path on the host.
    pub path: String,
    /// Controller and slot.
    pub slot: String,
    /// Left out of backups.
    pub excluded: bool,
}

/// How a VM is protected.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Protection {
    /// The policy.
    pub policy: NamedRef,
    /// Next scheduled backup (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Host paths of disks left out.
    pub excluded: Vec<String>,
}

/// Put a VM under a policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectRequest {
    /// Policy by id or name; the default policy where absent.
    #[serde(default)]
    pub policy: Option<String>,
    /// Host paths of disks to leave out; absent leaves the list as it is.
    #[serde(default)]
    pub excluded: Option<Vec<String>>,
}

/// A policy as set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Unique name.
    pub name: String,
    /// Time between backups in seconds; absent: only on request.
    #[serde(default)]
    pub interval_secs: Option<u64>,
    /// `rct` or `vss`; absent: by what host and VM can.
    #[serde(default)]
    pub method: Option<String>,
    /// `prefer-application` (default), `require-application`, `crash`.
    #[serde(default)]
    pub consistency: Option<String>,
    /// How many of the newest points to keep at least; absent: all.
    #[serde(default)]
    pub keep_last: Option<u32>,
}

/// A policy.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// Id.
    pub id: String,
    /// What it says.
    #[serde(flatten)]
    pub spec: PolicySpec,
    /// VMs under it.
    pub vms: u64,
}

/// Start backups.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// VMs by id or unique name.
    pub vms: Vec<String>,
    /// Read every disk whole.
    #[serde(default)]
    pub full: bool,
    /// `rct` or `vss`.
    #[serde(default)]
    pub method: Option<String>,
}

/// Jobs that were made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Jobs {
    /// In the order of the request.
    pub jobs: Vec<Job>,
}

/// A recovery point.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// Id.
    pub id: String,
    /// The VM, named as at the time.
    pub vm: NamedRef,
    /// The host it was made on.
    pub host: NamedRef,
    /// Moment of the point (RFC 3339).
    pub created: String,
    /// `rct` or `vss`.
    pub method: String,
    /// `full` or `incremental`.
    pub kind: String,
    /// Why it is a full, disk by disk; absent for an increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `application`, `crash`, `offline`.
    pub consistency: String,
    /// How that consistency came about, where it needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_note: Option<String>,
    /// Sum of the virtual sizes.
    pub size_bytes: u64,
    /// Bytes read as changed.
    pub changed_bytes: u64,
    /// Bytes it added to the store.
    pub stored_bytes: u64,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// Paths of disks left out.
    pub excluded: Vec<String>,
    /// What could not be kept.
    pub unsupported: Vec<String>,
    /// Checkpoints the VM had.
    pub checkpoints: Vec<NamedRef>,
    /// Locked until (RFC 3339).
    #[serde(default)]
    pub locked_until: Option<String>,
    /// Last verified well (RFC 3339).
    #[serde(default)]
    pub verified: Option<String>,
    /// `live`, `damaged`, `deleting`.
    pub state: String,
    /// The job that made it.
    pub job: String,
}

/// A disk of a recovery point.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PointDisk {
    /// VirtualDiskId.
    pub id: String,
    /// Path on the host.
    pub path: String,
    /// Virtual size.
    pub size_bytes: u64,
    /// Bytes read as changed.
    pub changed_bytes: u64,
    /// Why it was read whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The files of its chain, leaf first, where the point holds files (VSS method).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// Start a restore.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The VM by id or unique name (also of one that no longer exists).
    pub vm: String,
    /// Recovery point id or `latest` (default).
    #[serde(default)]
    pub point: Option<String>,
    /// Disks by VirtualDiskId, path or file name; empty: the whole VM.
    #[serde(default)]
    pub disks: Vec<String>,
    /// `original` (default) or a host by id or name.
    #[serde(default)]
    pub to: Option<String>,
    /// Folder on the target host.
    #[serde(default)]
    pub folder: Option<String>,
    /// Folders of single disks, by disk.
    #[serde(default)]
    pub disk_folders: BTreeMap<String, String>,
    /// New name.
    #[serde(default)]
    pub name: Option<String>,
    /// Switches: name at backup time → name on the target.
    #[serde(default)]
    pub networks: BTreeMap<String, String>,
    /// `keep` or `new`.
    #[serde(default)]
    pub id: Option<String>,
    /// `keep` or `new`.
    #[serde(default)]
    pub mac: Option<String>,
    /// `off` (default), `as-before`, `on`.
    #[serde(default)]
    pub power: Option<String>,
    /// A VM of the target host, by id or unique name, that gets the chosen disks as new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// The chosen disks take the place of those the VM has now, which are kept beside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_disk: bool,
    /// Write over the files of the VM or disk that is there, rather than beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
    /// Disk files on the target host that may hold blocks of the recovery point, so that these need not be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<String>,
    /// Write zeros where the recovery point is damaged, rather than nothing at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_damaged: bool,
    /// The plan that was agreed to; anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<AgreedPlan>,
}

/// Write over files that are there. While it runs, neither the old nor the new is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// Says that this is meant.
    pub confirmed: bool,
    /// Keep what is written over until the restore has come to its end, so that a failure can be taken back.
    #[serde(default = "yes")]
    pub journal: bool,
}

fn yes() -> bool {
    true
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Id.
    pub id: String,
    /// `backup`, `restore`, `restore-undo`, `restore-finish`, `verify`.
    pub kind: String,
    /// `queued`, `running`, `succeeded`, `warnings`, `failed`, `cancelled`, `expired`, `skipped`.
    pub state: String,
    /// Why it waits: `agent-offline`, `agent-not-ready`, `host-busy`, `vm-busy`, `window`.
    #[serde(default)]
    pub cause: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub cause_detail: Option<String>,
    /// The VM.
    pub vm: Option<NamedRef>,
    /// The host whose agent does it.
    pub host: Option<NamedRef>,
    /// The recovery point made or used.
    pub point: Option<String>,
    /// How often it was handed out.
    pub attempt: u32,
    /// When it was asked for (RFC 3339).
    pub created: String,
    /// When it first ran.
    pub started: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// When it expires while queued.
    pub expires: Option<String>,
    /// Who asked.
    pub requested_by: String,
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// Progress of the running step.
    pub progress: JobProgress,
    /// What it moved.
    pub figures: JobFigures,
    /// What was not honoured.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// What a restore keeps beside on the host, or kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Parked>,
    /// Grows with every change; for `wait`.
    pub change: u64,
}

/// What a restore keeps beside on the host until it is finished or undone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Parked {
    /// `parked`, `undone`, `finished`.
    pub state: String,
    /// Whether it is a whole VM, or files of disks alone.
    pub whole_vm: bool,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when (RFC 3339).
    pub since: String,
    /// When it is deleted by itself, if the restored VM was seen running by then.
    pub until: String,
    /// When the restored VM was first seen running.
    pub ran: Option<String>,
    /// The job that undoes or finishes it, the last one asked for.
    pub by_job: Option<String>,
    /// When it was put back or deleted.
    pub ended: Option<String>,
}

/// A step of a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Name.
    pub name: String,
    /// `running`, `done`, `failed`.
    pub state: String,
    /// When (RFC 3339).
    pub started: String,
    /// When.
    #[serde(default)]
    pub ended: Option<String>,
    /// Its figures.
    #[serde(default)]
    pub detail: Option<String>,
}

/// Bytes done of bytes to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Done.
    pub bytes_done: u64,
    /// In all.
    pub bytes_total: u64,
}

/// What a job moved, in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobFigures {
    /// Read from disks (backup) or from the store (restore).
    pub bytes_read: u64,
    /// Sent over the network.
    pub bytes_sent: u64,
    /// New in the store (backup), written on the host (restore).
    pub bytes_stored: u64,
    /// Already there.
    pub bytes_reused: u64,
}

/// Why a job failed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobError {
    /// Stable code.
    pub code: String,
    /// What happened, where.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: Option<String>,
}

/// A line of a job's log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When (RFC 3339).
    pub at: String,
    /// `info`, `warning`, `error`.
    pub level: String,
    /// Text.
    pub text: String,
}

/// A new user.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Unique name.
    pub name: String,
    /// Password, 12 characters at least.
    pub password: String,
    /// Role.
    pub role: Role,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// When made (RFC 3339).
    pub created: String,
}

/// A new API token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// What it is for.
    pub name: String,
    /// Role; not above the maker's.
    pub role: Role,
    /// Life in days; absent: a year.
    #[serde(default)]
    pub days: Option<u32>,
}

/// An API token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Role.
    pub role: Role,
    /// When it ends (RFC 3339).
    pub expires: String,
}

/// A token just made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token's record.
    #[serde(flatten)]
    pub token: Token,
    /// The secret; shown once.
    pub secret: String,
}

/// An entry of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// 1, 2, 3 ...
    pub sequence: u64,
    /// When (RFC 3339).
    pub at: String,
    /// Who.
    pub actor: String,
    /// What, such as `restore.start`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Details.
    pub detail: serde_json::Value,
    /// BLAKE3 over the entry before and this one.
    pub hash: String,
}
