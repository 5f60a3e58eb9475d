//! Plans for people: what a restore would do, told without a job. Changes nothing on the host.

use std::sync::Arc;

use api::agent_v1::{Answer, RestoreWork};
use api::v1::{
    AgreedPlan, NamedRef, PlanAdapter, PlanCheckpoints, PlanCollision, PlanConditions, PlanDisk,
    PlanEstimate, PlanIdentities, PlanIdentity, PlanRefusal, PlanSeed, PlanStep, PlanVolume,
    PlannedRestore,
};
use model::{RestoreScope, host_path};
use plan::restore::{
    Checkpoints, DiskPlan, Estimate, HostFacts, Identities, Preview, RateBasis, Refusal,
    SeedOnHost, SeedState, Step, TreeFilePlan, VmElsewhere, VmIdentity, VolumeNeed, differences,
    plan_checkpoints, plan_identities, preview_restore,
};

use super::facts;
use super::kept::Leftovers;
use crate::job::JobError;
use crate::worker::Shared;

/// Plans a restore with the facts of now; fails where another plan was agreed to.
pub(super) async fn look(
    shared: &Shared,
    work: &RestoreWork,
    left: &Leftovers,
) -> Result<(Preview, HostFacts), JobError> {
    let elsewhere = work.elsewhere.iter().map(|vm| VmElsewhere {
        id: vm.id,
        name: vm.name.clone(),
        host: vm.host.clone(),
        macs: vm.macs.clone(),
    });
    let facts = facts::gather(shared, &work.point, &work.wish, elsewhere.collect(), left).await?;
    let preview = preview_restore(&work.point, &work.wish, &facts);
    if let Some(agreed) = &work.agreed {
        check_agreed(agreed, &preview)?;
    }
    Ok((preview, facts))
}

/// Answers what a restore would do.
pub(crate) async fn answer(shared: &Arc<Shared>, work: &RestoreWork) -> Answer {
    match look(shared, work, &Leftovers::default()).await {
        Ok((preview, facts)) => {
            let effects = preview.plan.as_ref().map(|plan| plan.effects());
            Answer::RestorePlan {
                planned: Box::new(told(work, &preview, &facts)),
                effects: effects.unwrap_or_default(),
            }
        }
        Err(JobError::Failed {
            code,
            message,
            hint,
            retry: _,
        }) => Answer::Failed {
            code: code.to_owned(),
            message,
            hint,
        },
        Err(error @ (JobError::Stopped(_) | JobError::NotReady(_))) => Answer::Failed {
            code: "not-ready".to_owned(),
            message: error.to_string(),
            hint: None,
        },
    }
}

/// Refuses to go on where the plan of now is not the one that was agreed to.
fn check_agreed(agreed: &AgreedPlan, preview: &Preview) -> Result<(), JobError> {
    let mut lines: Vec<String> = preview.refusals.iter().map(ToString::to_string).collect();
    match &preview.plan {
        Some(plan) if plan.fingerprint().as_str() == agreed.fingerprint => {}
        Some(plan) => {
            lines.extend(differences(&agreed.effects, &plan.effects()));
            if lines.is_empty() {
                lines.push("its steps are in another order, or another version made it".to_owned());
            }
        }
        None => {}
    }
    if lines.is_empty() {
        return Ok(());
    }
    let message = format!("the plan no longer holds: {}", lines.join(" | "));
    Err(JobError::failed(api::codes::PLAN_DRIFTED, message)
        .hint("nothing was changed; make a new plan with `reprise restore plan` and look at it"))
}

fn told(work: &RestoreWork, preview: &Preview, facts: &HostFacts) -> PlannedRestore {
    let (point, wish) = (&work.point, &work.wish);
    let plan = preview.plan.as_ref();
    let bytes = plan.map(|plan| plan.bytes).unwrap_or_default();
    let identities = plan_identities(point, wish, facts);
    PlannedRestore {
        vm: NamedRef {
            id: point.vm.id.to_string(),
            name: point.vm.name.clone(),
        },
        host: NamedRef {
            id: facts.id.to_string(),
            name: facts.name.clone(),
        },
        point: point.id.to_string(),
        made: facts.now.to_string(),
        kind: match &wish.scope {
            RestoreScope::Vm => "vm",
            RestoreScope::Disks { .. } => "disks",
        }
        .to_owned(),
        fingerprint: plan.map(|plan| plan.fingerprint().to_string()),
        steps: plan
            .map(|plan| plan.steps.iter().map(step).collect())
            .unwrap_or_default(),
        disks: plan
            .map(|plan| plan.disks.iter().map(|of| disk(of, &plan.tree)).collect())
            .unwrap_or_default(),
        volumes: plan
            .map(|plan| plan.volumes.iter().map(volume).collect())
            .unwrap_or_default(),
        fetch_bytes: bytes.fetch_bytes,
        reuse_bytes: bytes.reuse_bytes,
        hole_bytes: bytes.hole_bytes,
        seeds: facts.seeds.iter().map(seed).collect(),
        checkpoints: checkpoints(&plan_checkpoints(point, wish, facts)),
        identities: identities
            .map(|found| told_identities(&found))
            .unwrap_or_default(),
        estimate: plan.and_then(|plan| plan.estimate.as_ref()).map(estimate),
        warnings: plan.map(|plan| plan.warnings.clone()).unwrap_or_default(),
        refusals: preview.refusals.iter().map(refusal).collect(),
    }
}

fn step(step: &Step) -> PlanStep {
    PlanStep {
        name: step.name().to_owned(),
        text: step.to_string(),
        path: step.path().map(str::to_owned),
        bytes: step.bytes(),
    }
}

fn disk(disk: &DiskPlan, tree: &[TreeFilePlan]) -> PlanDisk {
    let replaced = disk.becomes.replacement();
    let files = disk.chain.iter().map(|file| file.target_path.clone());
    let (fetch_bytes, needed_bytes) = match tree_bytes(disk, tree) {
        Some(bytes) => (bytes, bytes),
        None => (disk.fetch_bytes, disk.needed_bytes),
    };
    PlanDisk {
        id: disk.disk.to_string(),
        source_path: disk.source_path.clone(),
        path: disk.final_path().to_owned(),
        size_bytes: disk.size_bytes,
        fixed: disk.fixed,
        fetch_bytes,
        needed_bytes,
        new_id: disk.new_disk_id,
        files: files.collect(),
        slot: disk.becomes.slot().map(|slot| slot.to_string()),
        parks: replaced
            .map(|replaced| replaced.park.clone())
            .unwrap_or_default(),
    }
}

/// Returns the length of a disk's files from its leaf to the root, where they come back as a tree.
fn tree_bytes(disk: &DiskPlan, tree: &[TreeFilePlan]) -> Option<u64> {
    let leaf = |file: &&TreeFilePlan| host_path::same(&file.target_path, &disk.target_path);
    let mut file = tree.iter().find(leaf)?;
    let mut bytes = file.file_bytes;
    // A parent stands before its children.
    while let Some(parent) = file.parent.and_then(|place| tree.get(place)) {
        bytes = bytes.saturating_add(parent.file_bytes);
        file = parent;
    }
    Some(bytes)
}

fn seed(seed: &SeedOnHost) -> PlanSeed {
    let (held_bytes, problem) = match &seed.state {
        SeedState::Usable { held_bytes, .. } => (*held_bytes, None),
        SeedState::Missing => (0, Some("there is no such file".to_owned())),
        SeedState::Unusable(reason) => (0, Some(reason.clone())),
    };
    PlanSeed {
        path: seed.path.clone(),
        found_as: seed.origin.as_str().to_owned(),
        held_bytes,
        problem,
    }
}

fn volume(need: &VolumeNeed) -> PlanVolume {
    PlanVolume {
        path: need.path.clone(),
        needed_bytes: need.needed_bytes,
        available_bytes: need.available_bytes,
        reserve_bytes: need.reserve_bytes,
    }
}

fn checkpoints(planned: &Checkpoints) -> PlanCheckpoints {
    let conditions = planned.rule.conditions;
    let broken = conditions.broken();
    let rule = match planned.whole_vm {
        true => planned.rule.to_string(),
        false => "a restore of disks alone brings no checkpoints".to_owned(),
    };
    PlanCheckpoints {
        outcome: planned.outcome.as_str().to_owned(),
        rule,
        allowed: planned.rule.outcome.as_str().to_owned(),
        conditions: PlanConditions {
            vss_method: conditions.vss_method,
            nothing_excluded: conditions.nothing_excluded,
            same_host: conditions.same_host,
        },
        decided_by: broken
            .iter()
            .map(|condition| condition.as_str().to_owned())
            .collect(),
        names: planned.names.clone(),
    }
}

fn told_identities(found: &Identities) -> PlanIdentities {
    let collisions = found.collisions.iter().map(|collision| PlanCollision {
        shared: collision.shared.as_str().to_owned(),
        vm: NamedRef {
            id: collision.vm.to_string(),
            name: collision.name.clone(),
        },
        host: collision.host.clone(),
        text: collision.to_string(),
    });
    PlanIdentities {
        before: Some(identity(&found.before)),
        after: Some(identity(&found.after)),
        collisions: collisions.collect(),
    }
}

fn identity(vm: &VmIdentity) -> PlanIdentity {
    let adapters = vm.adapters.iter().map(|adapter| PlanAdapter {
        name: adapter.name.clone(),
        mac: adapter.mac.clone(),
        switch: adapter.switch.clone(),
    });
    PlanIdentity {
        id: vm.id.map(|id| id.to_string()),
        name: vm.name.clone(),
        adapters: adapters.collect(),
    }
}

fn estimate(estimate: &Estimate) -> PlanEstimate {
    PlanEstimate {
        seconds: estimate.seconds,
        bytes: estimate.bytes,
        bytes_per_sec: estimate.rate.bytes_per_sec,
        basis: match estimate.rate.basis {
            RateBasis::Measured => "measured",
            RateBasis::Assumed => "assumed",
        }
        .to_owned(),
    }
}

fn refusal(refusal: &Refusal) -> PlanRefusal {
    PlanRefusal {
        code: refusal.code().to_owned(),
        message: refusal.to_string(),
        hint: refusal.hint().to_owned(),
    }
}
