//! The restore of a recovery point, as a plan.
//!
//! [`preview_restore`] tells everything a restore would do and everything that speaks against it; [`plan_restore`] is
//! the same for whoever carries it out: a plan, or the first refusal. Promises that are relied on elsewhere:
//!
//! - no path in a plan has escaped [`model::host_path::check`];
//! - no path in it exists on the host except those listed in [`RestorePlan::park`], which no VM uses, and those of the VM
//!   whose place is taken ([`OverVm::park`]), which nobody else uses; both are kept beside;
//! - a plan without refusals overbooks no volume, and names no disk that was not asked for;
//! - two plans with the same [`Fingerprint`] have the same effects.

mod bytes;
mod checkpoints;
mod disks;
mod effects;
mod facts;
mod identities;
mod names;
mod on_vm;
mod over;
mod refusal;
mod seeds;
mod space;
mod steps;
mod target_vm;
mod vm;

use model::{
    DiskId, DisksTo, HostId, Method, Nic, PointId, RecoveryPoint, RestoreScope, RestoreTarget,
    RestoreWish, VmId,
};

pub use bytes::{Estimate, PlannedBytes, Rate, RateBasis};
pub use checkpoints::{
    CheckpointOutcome, CheckpointRule, Checkpoints, Condition, Conditions, checkpoint_outcome,
    plan_checkpoints,
};
pub use effects::{Fingerprint, differences};
pub use facts::{
    HostFacts, ReservePolicy, StandingDisk, StandingVm, VmElsewhere, VmOnHost, Volume,
};
pub use identities::{Adapter, Collision, Identities, Shared, VmIdentity, plan_identities};
pub use names::wanted_paths;
pub use on_vm::{DiskUse, FoundBy, Replacement, wanted_vm};
pub use over::{OverVm, StayingDisk};
pub use refusal::Refusal;
pub use seeds::{SeedOnHost, SeedOrigin, SeedState};
pub use space::VolumeNeed;
pub use steps::Step;
pub use target_vm::{DiskOnHost, TargetVm};

/// What a restore would do, and everything that speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The plan; `None` where a refusal leaves open what would be written where.
    pub plan: Option<RestorePlan>,
    /// Every reason found not to do it, the gravest first.
    pub refusals: Vec<Refusal>,
}

/// Everything a restore will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    /// The recovery point.
    pub point: PointId,
    /// The host it is restored to.
    pub host: HostId,
    /// Whole VM or disks.
    pub kind: RestoreKind,
    /// Disks to write.
    pub disks: Vec<DiskPlan>,
    /// Where checkpoints come back (S19): every file of the VM's disks and of its checkpoints', parents before children.
    /// Then the files stay as they are, and a disk's target path is that of its leaf.
    pub tree: Vec<TreeFilePlan>,
    /// Files that stand where the restore writes and are moved aside first; no VM uses them.
    pub park: Vec<String>,
    /// What changes on the host, in this order.
    pub steps: Vec<Step>,
    /// What each volume must have free.
    pub volumes: Vec<VolumeNeed>,
    /// What comes over the wire, and what need not.
    pub bytes: PlannedBytes,
    /// Disks of the host that may hold parts of it.
    pub seeds: Vec<SeedOnHost>,
    /// Who the VM was and who it will be; `None` for disks alone.
    pub identities: Option<Identities>,
    /// What becomes of checkpoints.
    pub checkpoints: Checkpoints,
    /// How long it will take; `None` where nothing is known of the speed.
    pub estimate: Option<Estimate>,
    /// What the plan cannot honour, for people.
    pub warnings: Vec<String>,
}

/// Full virtual machine restore or virtual disk restore (S13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreKind {
    /// A VM with its disks.
    Vm(Box<VmPlan>),
    /// Disk files, attached to nothing.
    Disks,
    /// Disks of a VM that is there: new ones, or in place of those it has.
    OnVm(OnVmPlan),
}

/// The VM that gets disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnVmPlan {
    /// Its id.
    pub vm: VmId,
    /// Its display name.
    pub name: String,
    /// Whether disks it has are replaced, rather than new ones attached.
    pub replace: bool,
    /// Whether it runs and is stopped before its disks are changed.
    pub stop: bool,
    /// Whether it is started at the end.
    pub start: bool,
}

/// The VM a full restore registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlan {
    /// How it is registered.
    pub route: Route,
    /// Its id afterwards, where it is known before.
    pub id: Option<VmId>,
    /// Its display name.
    pub name: String,
    /// Folder of its configuration (ConfigurationDataRoot).
    pub config_folder: String,
    /// Adapters with the switch each will have.
    pub nics: Vec<NicPlan>,
    /// Whether MAC addresses are kept.
    pub keep_mac: bool,
    /// Whether it is started at the end.
    pub start: bool,
    /// The VM of its id that is still there, and makes room once the new one is written and rehearsed.
    pub over: Option<OverVm>,
}

/// How a VM is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The host imports the stored configuration files; the only way to keep an id.
    Import {
        /// Whether the id is kept.
        keep_id: bool,
    },
    /// The VM is defined from the stored description, with a new id.
    Define,
}

/// A network adapter and what it will be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicPlan {
    /// The adapter in the point.
    pub nic: Nic,
    /// Name of the switch on the target host; `None`: disconnected.
    pub switch: Option<String>,
}

/// A disk file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The disk of the point.
    pub disk: DiskId,
    /// Path in the point of the leaf the VM used: how the configuration names it.
    pub source_path: String,
    /// Path on the target host of the new file it is written to.
    pub target_path: String,
    /// Whether the file gets a new VirtualDiskId, because it will be a second copy.
    pub new_disk_id: bool,
    /// Its virtual size.
    pub size_bytes: u64,
    /// Whether the file is of fixed size.
    pub fixed: bool,
    /// Bytes that come from the store for it at most.
    pub fetch_bytes: u64,
    /// Bytes it will take at most, on the way included.
    pub needed_bytes: u64,
    /// The files of its chain, leaf first, which are written and then merged into one (VSS method); empty for a disk that
    /// comes flat.
    pub chain: Vec<ChainFilePlan>,
    /// What becomes of it once it is written and read back.
    pub becomes: DiskUse,
}

impl DiskPlan {
    /// Returns the path it has in the end.
    #[must_use]
    pub fn final_path(&self) -> &str {
        let replaced = self.becomes.replacement();
        replaced.map_or(&self.target_path, |replaced| &replaced.path)
    }
}

/// A file of a chain to write, and to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFilePlan {
    /// Path in the point.
    pub source_path: String,
    /// Path on the target host, from its first byte on.
    pub target_path: String,
    /// Its length.
    pub file_bytes: u64,
}

/// A file of a checkpoint tree to write, which stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFilePlan {
    /// Path in the point.
    pub source_path: String,
    /// Path on the target host.
    pub target_path: String,
    /// Its length.
    pub file_bytes: u64,
    /// Place of its parent in the list.
    pub parent: Option<usize>,
}

/// What the parts of the planner have found so far.
#[derive(Debug, Default)]
struct Findings {
    warnings: Vec<String>,
    refusals: Vec<Refusal>,
    /// A refusal leaves open what would be written where.
    open: bool,
}

impl Findings {
    /// Notes a refusal that leaves no doubt about what the restore would do.
    fn refuse(&mut self, refusal: Refusal) {
        if !self.refusals.contains(&refusal) {
            self.refusals.push(refusal);
        }
    }

    /// Notes a refusal without which nothing can be said of a part of the restore.
    fn refuse_open(&mut self, refusal: Refusal) {
        self.refuse(refusal);
        self.open = true;
    }

    /// Returns what was found out, or notes why not.
    fn take<T>(&mut self, result: Result<T, Refusal>) -> Option<T> {
        result.map_err(|refusal| self.refuse_open(refusal)).ok()
    }
}

/// Plans a restore, or refuses it for the first reason found.
pub fn plan_restore(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Result<RestorePlan, Refusal> {
    preview_restore(point, wish, facts).into_plan()
}

impl Preview {
    /// Returns the plan to carry out: one that nothing speaks against.
    pub fn into_plan(self) -> Result<RestorePlan, Refusal> {
        match self.refusals.into_iter().next() {
            Some(refusal) => Err(refusal),
            None => Ok(self.plan.expect("a plan is left out only with a refusal")),
        }
    }
}

/// Tells what a restore would do, with every reason not to do it.
#[must_use]
pub fn preview_restore(point: &RecoveryPoint, wish: &RestoreWish, facts: &HostFacts) -> Preview {
    let mut found = Findings::default();
    if point.method == Method::Vss && point.chains.is_empty() {
        found.refuse_open(Refusal::VssPoint);
    }
    if wish.target == RestoreTarget::Original && point.host.id != facts.id {
        found.refuse_open(Refusal::OtherHost {
            made_on: point.host.name.clone(),
            host: facts.name.clone(),
        });
    }
    let kind = match &wish.scope {
        RestoreScope::Vm => {
            vm::plan(point, wish, facts, &mut found).map(|vm| RestoreKind::Vm(Box::new(vm)))
        }
        RestoreScope::Disks { disks, to } => {
            disks::check_known(point, disks, &mut found);
            match to {
                DisksTo::Files => Some(RestoreKind::Disks),
                DisksTo::Attach { .. } | DisksTo::Replace => {
                    on_vm::plan(wish, facts, disks, &mut found).map(RestoreKind::OnVm)
                }
            }
        }
    };
    let vm = kind.as_ref().and_then(RestoreKind::vm);
    let keep_disk_ids = vm.is_some_and(|vm| vm.route == Route::Import { keep_id: true })
        || kind
            .as_ref()
            .and_then(RestoreKind::on_vm)
            .is_some_and(|vm| vm.replace);
    let tree = names::tree_targets(point, wish, facts);
    let tree = found.take(tree).unwrap_or_default();
    let mut disks = disks::plan(point, wish, facts, keep_disk_ids, &tree, &mut found);
    on_vm::assign(point, wish, facts, &mut disks, &mut found);
    let over = vm.and_then(|vm| vm.over.as_ref());
    let park = disks::check_paths(wish, facts, &disks, &tree, over, &mut found);
    let config_folder = vm.map(|vm| vm.config_folder.as_str());
    for seed in &facts.seeds {
        if seed.state == SeedState::Missing {
            found.refuse(Refusal::SeedMissing {
                path: seed.path.clone(),
                host: facts.name.clone(),
            });
        }
    }
    let volumes = space::needs(facts, &disks, &tree, config_folder, point, &mut found);
    let Findings {
        warnings,
        refusals,
        open,
    } = found;
    let plan = kind.filter(|_| !open).map(|kind| {
        let bytes = bytes::planned(point, &kind, &disks, &tree, &facts.seeds);
        let checkpoints = plan_checkpoints(point, wish, facts);
        RestorePlan {
            point: point.id,
            host: facts.id,
            steps: steps::of(&kind, &disks, &tree, &park),
            identities: plan_identities(point, wish, facts),
            estimate: bytes::estimate(&bytes, facts),
            kind,
            disks,
            tree,
            park,
            volumes,
            bytes,
            seeds: facts.seeds.clone(),
            checkpoints,
            warnings,
        }
    });
    Preview { plan, refusals }
}

impl RestorePlan {
    /// Returns the disks of a VM whose base records no longer hold once the restore begins to write, where it replaces
    /// some.
    #[must_use]
    pub fn voided_disks(&self) -> Option<(VmId, Vec<DiskId>)> {
        let vm = self.kind.on_vm().filter(|vm| vm.replace)?;
        Some((vm.vm, on_vm::void(&self.disks)))
    }
}

impl RestoreKind {
    /// Returns the VM, where it is a full restore.
    #[must_use]
    pub fn vm(&self) -> Option<&VmPlan> {
        match self {
            RestoreKind::Vm(vm) => Some(vm),
            RestoreKind::Disks | RestoreKind::OnVm(_) => None,
        }
    }

    /// Returns the VM that gets disks, where one does.
    #[must_use]
    pub fn on_vm(&self) -> Option<&OnVmPlan> {
        match self {
            RestoreKind::OnVm(vm) => Some(vm),
            RestoreKind::Vm(_) | RestoreKind::Disks => None,
        }
    }
}

#[cfg(test)]
mod on_vm_tests;
#[cfg(test)]
mod preview_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
