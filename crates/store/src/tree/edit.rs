//! A new tree from an old one and the regions that changed.

use std::collections::BTreeMap;

use super::build::put_inner;
use super::leaf::overlay_overrides;
use super::{BaseLeaf, DeltaLeaf, Node, NodeSink, Override, Tree, TreeRoot, TreeShape};
use crate::{NodeId, TreeError};

/// A delta leaf has at most one override for this many runs of the region, old or new; beyond, the leaf is written whole.
const RUNS_PER_OVERRIDE: usize = 4;

/// What a changed region becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditedLeaf {
    /// A leaf that exists already; `None`: all zero.
    Existing(Option<NodeId>),
    /// A new node.
    New(Node),
}

impl BaseLeaf {
    /// Lays changed runs (sorted, apart, inside the region) over the leaf.
    pub fn edit(&self, changes: &[Override]) -> Result<EditedLeaf, TreeError> {
        let leaf = self.resolved()?.overlay(changes)?;
        if leaf.is_hole() {
            return Ok(EditedLeaf::Existing(None));
        }
        let Some((base, whole)) = &self.whole else {
            return Ok(EditedLeaf::New(Node::Leaf(leaf)));
        };
        if leaf == *whole {
            return Ok(EditedLeaf::Existing(Some(*base)));
        }
        let overrides = overlay_overrides(whole.cells(), &self.overrides, changes)?;
        if overrides == self.overrides {
            return Ok(EditedLeaf::Existing(self.id));
        }
        if overrides.len() * RUNS_PER_OVERRIDE > whole.runs().len().min(leaf.runs().len()) {
            return Ok(EditedLeaf::New(Node::Leaf(leaf)));
        }
        Ok(EditedLeaf::New(Node::Delta(DeltaLeaf {
            base: *base,
            cells: whole.cells(),
            overrides,
        })))
    }
}

impl Tree<'_> {
    /// Returns the root of a tree of the same length in which some regions have other leaves (`None`: all zero), and
    /// hands over the inner nodes that are new. All others are shared.
    pub fn edit(
        &self,
        leaves: &BTreeMap<u64, Option<NodeId>>,
        sink: &mut dyn NodeSink,
    ) -> Result<TreeRoot, TreeError> {
        if leaves
            .keys()
            .next_back()
            .is_some_and(|&last| last >= self.shape().regions())
        {
            return Err(TreeError::shape("a leaf beyond the image"));
        }
        let root = self.edit_node(self.shape().height(), 0, self.root().root, leaves, sink)?;
        Ok(TreeRoot {
            len: self.root().len,
            root,
        })
    }

    fn edit_node(
        &self,
        level: u8,
        index: u64,
        id: Option<NodeId>,
        leaves: &BTreeMap<u64, Option<NodeId>>,
        sink: &mut dyn NodeSink,
    ) -> Result<Option<NodeId>, TreeError> {
        if level == 1 {
            return Ok(leaves.get(&index).copied().unwrap_or(id));
        }
        let span = TreeShape::span(level);
        let first = index.saturating_mul(span);
        let mut changed: Vec<u64> = leaves
            .range(first..first.saturating_add(span))
            .map(|(region, _)| region / TreeShape::span(level - 1))
            .collect();
        changed.dedup();
        if changed.is_empty() {
            return Ok(id);
        }
        let mut children = self.children(level, index, id)?;
        let before = children.clone();
        for child in changed {
            let place =
                usize::try_from(child % u64::from(crate::FAN_OUT)).expect("less than the fan-out");
            let Some(slot) = children.get_mut(place) else {
                return Err(TreeError::shape("a leaf beyond the image"));
            };
            *slot = self.edit_node(level - 1, child, *slot, leaves, sink)?;
        }
        if children == before {
            return Ok(id);
        }
        put_inner(level, children, self.names(), sink)
    }
}
