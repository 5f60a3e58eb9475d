//! What becomes of the checkpoints a VM had when its recovery point was made (S19, S20).
//!
//! They come back if and only if the point was made with the VSS method, without any disk exclusion, and is restored to
//! the host it was made on. [`checkpoint_outcome`] is that rule; [`plan_checkpoints`] is what will happen.

use std::fmt;

use model::{FileImage, Method, RecoveryPoint, RestoreScope, RestoreWish};

use super::HostFacts;
use super::names::{extension, in_place};

/// What becomes of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// The recovery point has none.
    None,
    /// They are on the restored VM again.
    Kept,
    /// Their disks are merged; the VM has none.
    Consolidated,
}

/// A condition of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The point was made with the VSS method.
    VssMethod,
    /// No disk was excluded from it.
    NothingExcluded,
    /// It is restored to the host it was made on.
    SameHost,
}

/// The three conditions, and which hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// The point was made with the VSS method.
    pub vss_method: bool,
    /// No disk was excluded from it.
    pub nothing_excluded: bool,
    /// It is restored to the host it was made on.
    pub same_host: bool,
}

/// What the rule says of a point on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRule {
    /// Its outcome.
    pub outcome: CheckpointOutcome,
    /// What it looked at.
    pub conditions: Conditions,
}

/// What becomes of the checkpoints in a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// What will happen.
    pub outcome: CheckpointOutcome,
    /// What the rule says.
    pub rule: CheckpointRule,
    /// Whether the VM comes back; disks alone have no checkpoints.
    pub whole_vm: bool,
    /// Names of the point's checkpoints.
    pub names: Vec<String>,
}

/// Applies the rule: which checkpoints may come back, and why.
#[must_use]
pub fn checkpoint_outcome(point: &RecoveryPoint, facts: &HostFacts) -> CheckpointRule {
    let conditions = Conditions {
        vss_method: point.method == Method::Vss,
        nothing_excluded: point.excluded.is_empty(),
        same_host: point.host.id == facts.id,
    };
    let outcome = if point.checkpoints.is_empty() {
        CheckpointOutcome::None
    } else if conditions.broken().is_empty() {
        CheckpointOutcome::Kept
    } else {
        CheckpointOutcome::Consolidated
    };
    CheckpointRule {
        outcome,
        conditions,
    }
}

/// Tells what will become of the checkpoints in this restore.
#[must_use]
pub fn plan_checkpoints(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Checkpoints {
    let rule = checkpoint_outcome(point, facts);
    let whole_vm = match &wish.scope {
        RestoreScope::Vm => true,
        RestoreScope::Disks { .. } => false,
    };
    let comes_back = whole_vm && obstacle(point, wish).is_none();
    let outcome = if rule.outcome == CheckpointOutcome::Kept && !comes_back {
        CheckpointOutcome::Consolidated
    } else {
        rule.outcome
    };
    let names = point.checkpoints.iter();
    Checkpoints {
        outcome,
        rule,
        whole_vm,
        names: names.map(|checkpoint| checkpoint.name.clone()).collect(),
    }
}

/// Whether checkpoints come back.
pub(super) fn come_back(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> bool {
    plan_checkpoints(point, wish, facts).outcome == CheckpointOutcome::Kept
}

/// Returns what is to be said where the rule allows checkpoints to come back and they do not.
pub(super) fn warning(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Option<String> {
    if checkpoint_outcome(point, facts).outcome != CheckpointOutcome::Kept {
        return None;
    }
    let count = point.checkpoints.len();
    obstacle(point, wish)
        .map(|why| format!("{count} checkpoints are merged into their disks: {why}"))
}

/// Returns what keeps checkpoints from coming back that the rule does not know of.
fn obstacle(point: &RecoveryPoint, wish: &RestoreWish) -> Option<&'static str> {
    let defined = |of: Option<&str>| {
        let files = &mut point.files.iter();
        files.any(|file| file.role == FileImage::CONFIG && file.checkpoint.as_deref() == of)
    };
    let mut owners = point
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.id.as_str());
    if !defined(None) || !owners.all(|id| defined(Some(id))) {
        return Some("the recovery point does not hold the definition of each");
    }
    let mut disk_files = point.files.iter().filter(|file| file.is_disk());
    if !in_place(wish) && disk_files.any(|file| !extension(&file.path).ends_with("vhdx")) {
        return Some("files of the VHD format can only come back where they were");
    }
    None
}

impl Conditions {
    /// Returns the conditions that do not hold: those that decided against keeping checkpoints.
    #[must_use]
    pub fn broken(&self) -> Vec<Condition> {
        let all = [
            (self.vss_method, Condition::VssMethod),
            (self.nothing_excluded, Condition::NothingExcluded),
            (self.same_host, Condition::SameHost),
        ];
        all.into_iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, condition)| condition)
            .collect()
    }
}

impl Condition {
    /// Returns its stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::VssMethod => "vss-method",
            Condition::NothingExcluded => "nothing-excluded",
            Condition::SameHost => "same-host",
        }
    }
}

impl CheckpointOutcome {
    /// Returns its stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CheckpointOutcome::None => "none",
            CheckpointOutcome::Kept => "kept",
            CheckpointOutcome::Consolidated => "consolidated",
        }
    }
}

impl fmt::Display for CheckpointRule {
    /// Says the rule with the truth of each condition, and which of them decided.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |holds: bool| if holds { "yes" } else { "no" };
        write!(
            f,
            "checkpoints come back only from a VSS recovery point ({}), with no disk excluded ({}), on the same host ({})",
            yes(self.conditions.vss_method),
            yes(self.conditions.nothing_excluded),
            yes(self.conditions.same_host)
        )?;
        let decided = match self.outcome {
            CheckpointOutcome::None => "; this one has none".to_owned(),
            CheckpointOutcome::Kept => "; all three hold".to_owned(),
            CheckpointOutcome::Consolidated => {
                let broken = self.conditions.broken();
                let names: Vec<&str> = broken.iter().map(|broken| broken.as_str()).collect();
                format!("; decided by: {}", names.join(", "))
            }
        };
        f.write_str(&decided)
    }
}
