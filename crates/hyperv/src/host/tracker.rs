//! Whether the change tracker's word can be taken for a disk since a base.
//!
//! [U] What an RCT id survives is not written down anywhere. That it does not survive a checkpoint being applied is common
//! knowledge: the leaf it counted is thrown away. Whether it survives a user's checkpoint being made, deleted or merged
//! is left to the host: one that lost the id says so when asked for the changes, and the disk is read whole then. Both
//! decisions are here.

use model::FullReason;

use super::vm::{CheckpointKind, VmFacts};

/// What of a VM must not have changed for the RCT ids of a base to be worth asking about. Taken when no recovery
/// checkpoint of ours is on the VM; kept with the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackerFacts {
    /// InstanceID of the checkpoint last applied.
    pub last_applied: Option<String>,
    /// InstanceIDs of users' checkpoints.
    pub checkpoints: Vec<String>,
    /// Attachment and file of each disk.
    pub leaves: Vec<(String, String)>,
}

impl VmFacts {
    /// Returns what a later backup compares.
    #[must_use]
    pub fn tracker_facts(&self) -> TrackerFacts {
        let users = self
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.kind == CheckpointKind::User);
        TrackerFacts {
            last_applied: self.last_applied.clone(),
            checkpoints: users.map(|checkpoint| checkpoint.id.clone()).collect(),
            leaves: self
                .disks
                .iter()
                .map(|disk| (disk.attachment.clone(), disk.path.clone()))
                .collect(),
        }
    }
}

impl TrackerFacts {
    /// Returns why the tracker is not to be asked about a disk (by its attachment) now, given what held at the base;
    /// `None` where its answer can be taken.
    #[must_use]
    pub fn distrust(&self, base: &Self, attachment: &str) -> Option<FullReason> {
        let lower = |text: &String| text.to_lowercase();
        if self.last_applied.as_ref().map(lower) != base.last_applied.as_ref().map(lower) {
            return Some(FullReason::CheckpointApplied);
        }
        let checkpoints = |facts: &Self| {
            let mut ids: Vec<String> = facts.checkpoints.iter().map(lower).collect();
            ids.sort_unstable();
            ids
        };
        let leaf = |facts: &Self| {
            let same =
                |(found, _): &&(String, String)| found.to_lowercase() == attachment.to_lowercase();
            let found = facts.leaves.iter().find(same);
            found.map(|(_, path)| model::host_path::key(path))
        };
        // With the same checkpoints as before, a disk has the same file; another one means that a checkpoint was
        // applied that had been applied before, or that the disk was moved or exchanged.
        if checkpoints(self) == checkpoints(base) && leaf(self) != leaf(base) {
            return Some(if self.checkpoints.is_empty() {
                FullReason::DiskReplaced
            } else {
                FullReason::CheckpointApplied
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(applied: Option<&str>, checkpoints: &[&str], leaf: &str) -> TrackerFacts {
        TrackerFacts {
            last_applied: applied.map(str::to_owned),
            checkpoints: checkpoints.iter().map(|&id| id.to_owned()).collect(),
            leaves: vec![(r"Microsoft:VM\C\0\0\L".into(), leaf.into())],
        }
    }

    #[track_caller]
    fn check(base: &TrackerFacts, now: &TrackerFacts, wanted: Option<FullReason>) {
        assert_eq!(now.distrust(base, r"microsoft:vm\c\0\0\l"), wanted);
    }

    #[test]
    fn an_applied_checkpoint_voids_ids_and_other_ones_are_left_to_the_host() {
        let flat = facts(None, &[], r"C:\a.vhdx");
        check(&flat, &facts(None, &[], r"c:\A.VHDX"), None);
        // Made since; made and deleted since.
        let above = facts(None, &["A"], r"C:\a_1.avhdx");
        check(&flat, &above, None);
        check(&above, &flat, None);
        check(&above, &facts(None, &["a"], r"C:\a_1.avhdx"), None);
        // Applied, applied again, and applied then deleted.
        let applied = facts(Some("A"), &["A"], r"C:\a_2.avhdx");
        check(&above, &applied, Some(FullReason::CheckpointApplied));
        let again = facts(Some("a"), &["A"], r"C:\a_3.avhdx");
        check(&applied, &again, Some(FullReason::CheckpointApplied));
        check(&applied, &flat, Some(FullReason::CheckpointApplied));
        // Moved by storage migration.
        let moved = facts(None, &[], r"D:\a.vhdx");
        check(&flat, &moved, Some(FullReason::DiskReplaced));
    }
}
