//! What a restore would do: the answer to `POST /restores/plan`.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NamedRef, RestoreRequest};

/// Everything a restore would do; nothing has been changed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RestorePlan {
    /// Give it to `POST /restores` to have exactly this done; it is refused once the plan has drifted.
    pub request: RestoreRequest,
    /// What would be done.
    #[serde(flatten)]
    pub planned: PlannedRestore,
}

/// What the agent of the target host plans.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlannedRestore {
    /// The VM of the recovery point.
    pub vm: NamedRef,
    /// The host it is restored to.
    pub host: NamedRef,
    /// The recovery point.
    pub point: String,
    /// When it was planned (RFC 3339).
    pub made: String,
    /// `vm` or `disks`.
    pub kind: String,
    /// Hash of the effects; absent where a refusal leaves open what they would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What changes on the host, in this order.
    pub steps: Vec<PlanStep>,
    /// Disks that are written.
    pub disks: Vec<PlanDisk>,
    /// What each volume must have free.
    pub volumes: Vec<PlanVolume>,
    /// Bytes that come from the store, before compression: at most, where nothing is reused.
    pub fetch_bytes: u64,
    /// Bytes taken from what the host already has: an estimate, from what its seeds hold at most.
    pub reuse_bytes: u64,
    /// Disks of the host whose blocks are used where they are the recovery point's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<PlanSeed>,
    /// Bytes of the disks that hold nothing: neither stored nor sent.
    pub hole_bytes: u64,
    /// What becomes of checkpoints.
    pub checkpoints: PlanCheckpoints,
    /// Who the VM was and will be.
    pub identities: PlanIdentities,
    /// How long it would take, where anything is known of the speed.
    #[serde(default)]
    pub estimate: Option<PlanEstimate>,
    /// What cannot be honoured.
    pub warnings: Vec<String>,
    /// Everything that speaks against it; while there is any, the restore fails.
    pub refusals: Vec<PlanRefusal>,
}

/// A step of a plan.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    /// `void-bases`, `move-aside`, `write-disk`, `write-chain-file`, `merge-chain`, `write-tree-file`, `link-tree`,
    /// `register-vm`, `read-back`, `start-vm`.
    pub name: String,
    /// A sentence for people.
    pub text: String,
    /// File or folder on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes written at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A disk of a plan.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanDisk {
    /// VirtualDiskId in the recovery point.
    pub id: String,
    /// Path in the recovery point.
    pub source_path: String,
    /// Path on the target host.
    pub path: String,
    /// Virtual size.
    pub size_bytes: u64,
    /// Whether the file is of fixed size.
    pub fixed: bool,
    /// Bytes that come for it at most.
    pub fetch_bytes: u64,
    /// Bytes it takes on its volume at most, on the way included.
    pub needed_bytes: u64,
    /// Whether it gets a new VirtualDiskId.
    pub new_id: bool,
    /// Files on the target host that are merged into it, leaf first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Where it hangs in the VM it is attached to, such as `scsi 0:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Files of the disk it takes the place of, which are moved aside and kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parks: Vec<String>,
}

/// A disk of the host whose blocks may be used.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanSeed {
    /// Path on the host.
    pub path: String,
    /// `named`, `own-disk` (of the VM), `kept` (by an earlier restore), `twin` (another VM's, of the same name and size).
    pub found_as: String,
    /// Bytes it holds at most.
    pub held_bytes: u64,
    /// Why it cannot be used, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A volume of a plan.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanVolume {
    /// Mount path.
    pub path: String,
    /// Bytes the restore takes there at its peak.
    pub needed_bytes: u64,
    /// Free bytes.
    pub available_bytes: u64,
    /// Bytes that must stay free.
    pub reserve_bytes: u64,
}

/// What becomes of checkpoints.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanCheckpoints {
    /// What will happen: `none`, `kept` or `consolidated`.
    pub outcome: String,
    /// The rule with the truth of each condition and which of them decided, for people.
    pub rule: String,
    /// What the rule allows: `none`, `kept` or `consolidated`.
    pub allowed: String,
    /// The conditions of the rule.
    pub conditions: PlanConditions,
    /// Conditions that do not hold: `vss-method`, `nothing-excluded`, `same-host`.
    pub decided_by: Vec<String>,
    /// Names of the recovery point's checkpoints.
    pub names: Vec<String>,
}

/// The conditions under which checkpoints come back; all three must hold.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanConditions {
    /// Made with the VSS method.
    pub vss_method: bool,
    /// No disk was excluded.
    pub nothing_excluded: bool,
    /// Restored to the host it was made on.
    pub same_host: bool,
}

/// Who the VM was and will be; empty for disks alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PlanIdentities {
    /// In the recovery point.
    #[serde(default)]
    pub before: Option<PlanIdentity>,
    /// Once restored.
    #[serde(default)]
    pub after: Option<PlanIdentity>,
    /// VMs known by the same id, MAC address or name.
    pub collisions: Vec<PlanCollision>,
}

/// What a VM is known by.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanIdentity {
    /// Id; absent where the host makes one.
    #[serde(default)]
    pub id: Option<String>,
    /// Name.
    pub name: String,
    /// Network adapters.
    pub adapters: Vec<PlanAdapter>,
}

/// A network adapter.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanAdapter {
    /// Name.
    pub name: String,
    /// MAC address; absent where the host makes one.
    #[serde(default)]
    pub mac: Option<String>,
    /// Switch; absent where it is disconnected.
    #[serde(default)]
    pub switch: Option<String>,
}

/// A VM that shares something with the restored one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanCollision {
    /// `id`, `name` or `mac`.
    pub shared: String,
    /// The other VM.
    pub vm: NamedRef,
    /// Name of its host.
    pub host: String,
    /// A sentence for people.
    pub text: String,
}

/// How long a restore would take.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanEstimate {
    /// Seconds.
    pub seconds: u64,
    /// Bytes it was computed from.
    pub bytes: u64,
    /// Bytes a second it was computed from.
    pub bytes_per_sec: u64,
    /// `measured` or `assumed`.
    pub basis: String,
}

/// Why a restore would not be done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanRefusal {
    /// Stable code, such as `not-enough-space`.
    pub code: String,
    /// What is in the way, where.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// A plan that was agreed to: the restore is done only while it comes to the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgreedPlan {
    /// Hash of the effects.
    pub fingerprint: String,
    /// The moment names were made from.
    #[schema(value_type = String)]
    pub named_at: Timestamp,
    /// The effects, a line each: what drifted is told from them.
    pub effects: Vec<String>,
}
