//! Image trees: where the bytes of an image are.
//!
//! A leaf covers a region of 64 MiB without a gap: runs of cells of chunks, and holes. A delta leaf is a whole leaf with
//! overrides, one level deep. Inner nodes have 1024 children. A subtree that is all zero has no node. Nodes are named by
//! their content and shared while unchanged: an increment costs what changed, and two trees are compared by walking only
//! where they differ. Layout: [`crate::format::node`].
//!
//! Invariants: the shape of a tree follows from the image's length alone ([`TreeShape`]); a node is checked against its id
//! and its place before anything in it is believed.

mod build;
mod edit;
mod leaf;
mod read;
mod shape;
mod walk;

use bytes::Bytes;

use crate::{BoxError, FormatError, NodeId, SessionKeys, TreeError};

pub use build::TreeBuilder;
pub use edit::EditedLeaf;
pub(crate) use leaf::join_overrides;
pub use leaf::{ChunkRef, DeltaLeaf, Leaf, LeafBuilder, Override, Run, RunSource};
pub use read::{BaseLeaf, ChunkSlice, ImageRun, Resolve, Tree};
pub use shape::{TreeRoot, TreeShape};
pub use walk::{ChunkUse, TreeVisitor};

/// A node of an image tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A region, whole.
    Leaf(Leaf),
    /// A region as another leaf with overrides.
    Delta(DeltaLeaf),
    /// Up to 1024 subtrees.
    Inner(Inner),
}

/// A node above leaves or other inner nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// 2 where the children are leaves, then one more each.
    pub level: u8,
    /// The children in order; `None`: all zero.
    pub children: Vec<Option<NodeId>>,
}

/// A node made just now: to be stored, unless its id is stored already.
#[derive(Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Its id.
    pub id: NodeId,
    /// Its bytes.
    pub plain: Vec<u8>,
}

impl NewNode {
    /// Encodes and names a node.
    pub fn new(node: &Node, names: &SessionKeys) -> Result<Self, TreeError> {
        let plain = node
            .encode()
            .map_err(|error: FormatError| TreeError::shape(error.to_string()))?;
        Ok(Self {
            id: names.node_id(&plain),
            plain,
        })
    }
}

impl std::fmt::Debug for NewNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewNode({}, {} bytes)", self.id, self.plain.len())
    }
}

/// Where nodes are read from.
pub trait NodeSource {
    /// Returns the plain bytes of these nodes, in their order. The caller checks them against their ids.
    fn read_nodes(&self, ids: &[NodeId]) -> Result<Vec<Bytes>, BoxError>;
}

/// Where new nodes go.
pub trait NodeSink {
    /// Takes a node. The same one may come more than once.
    fn put_node(&mut self, node: NewNode) -> Result<(), BoxError>;
}

impl NodeSink for Vec<NewNode> {
    fn put_node(&mut self, node: NewNode) -> Result<(), BoxError> {
        self.push(node);
        Ok(())
    }
}
