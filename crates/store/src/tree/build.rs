//! Building a tree from the bottom up.

use super::{Inner, NewNode, Node, NodeSink, TreeRoot, TreeShape};
use crate::{FAN_OUT, NodeId, SessionKeys, TreeError};

/// Takes the ids of all leaves in order and makes the nodes above them; holds at most 1024 ids a level.
#[derive(Debug)]
pub struct TreeBuilder<'a> {
    shape: TreeShape,
    names: &'a SessionKeys,
    pushed: u64,
    /// Children that wait for their parent: leaves first.
    levels: Vec<Vec<Option<NodeId>>>,
}

impl<'a> TreeBuilder<'a> {
    /// Starts the tree of an image of `len` bytes.
    #[must_use]
    pub fn new(len: u64, names: &'a SessionKeys) -> Self {
        let shape = TreeShape::new(len);
        Self {
            shape,
            names,
            pushed: 0,
            levels: vec![Vec::new(); shape.height().into()],
        }
    }

    /// Adds the leaf of the next region; `None` where the region is all zero.
    pub fn push(&mut self, leaf: Option<NodeId>, sink: &mut dyn NodeSink) -> Result<(), TreeError> {
        if self.pushed == self.shape.regions() {
            return Err(TreeError::shape("more leaves than the image has regions"));
        }
        self.pushed += 1;
        self.levels[0].push(leaf);
        let mut level = 0;
        while level + 1 < self.levels.len() && self.levels[level].len() == usize::from(FAN_OUT) {
            self.close(level, sink)?;
            level += 1;
        }
        Ok(())
    }

    /// Makes the last nodes and returns the root.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<TreeRoot, TreeError> {
        if self.pushed != self.shape.regions() {
            return Err(TreeError::shape(format!(
                "{} leaves for {} regions",
                self.pushed,
                self.shape.regions()
            )));
        }
        for level in 0..self.levels.len() - 1 {
            if !self.levels[level].is_empty() {
                self.close(level, sink)?;
            }
        }
        let root = self
            .levels
            .pop()
            .and_then(|top| top.first().copied().flatten());
        Ok(TreeRoot {
            len: self.shape.len(),
            root,
        })
    }

    fn close(&mut self, level: usize, sink: &mut dyn NodeSink) -> Result<(), TreeError> {
        let children = std::mem::take(&mut self.levels[level]);
        let above = u8::try_from(level + 2).expect("a tree has at most six levels");
        let id = put_inner(above, children, self.names, sink)?;
        self.levels[level + 1].push(id);
        Ok(())
    }
}

/// Stores an inner node, unless all below it is zero.
pub(super) fn put_inner(
    level: u8,
    children: Vec<Option<NodeId>>,
    names: &SessionKeys,
    sink: &mut dyn NodeSink,
) -> Result<Option<NodeId>, TreeError> {
    if children.iter().all(Option::is_none) {
        return Ok(None);
    }
    let node = NewNode::new(&Node::Inner(Inner { level, children }), names)?;
    let id = node.id;
    sink.put_node(node).map_err(TreeError::Sink)?;
    Ok(Some(id))
}
