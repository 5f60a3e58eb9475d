//! Reading trees: leaves of regions, runs of ranges.

use std::collections::VecDeque;

use model::ByteRange;

use super::{
    ChunkRef, Inner, Leaf, Node, NodeSource, Override, Run, RunSource, TreeRoot, TreeShape,
};
use crate::{CELL_BYTES, FAN_OUT, NodeId, REGION_BYTES, SessionKeys, TreeError};

/// How many leaves are read ahead together when ranges are resolved.
const LEAVES_AHEAD: usize = 16;
/// For how many regions the ids of leaves are looked up together.
const IDS_AHEAD: u64 = 1024;

/// A tree that can be read.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    root: TreeRoot,
    source: &'a dyn NodeSource,
    names: &'a SessionKeys,
}

/// A region's leaf as it was read: what an edit starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLeaf {
    pub(super) cells: u16,
    pub(super) id: Option<NodeId>,
    pub(super) whole: Option<(NodeId, Leaf)>,
    pub(super) overrides: Vec<Override>,
}

impl BaseLeaf {
    /// Returns the leaf of a region that is all zero.
    #[must_use]
    pub fn zero(cells: u16) -> Self {
        Self {
            cells,
            id: None,
            whole: None,
            overrides: Vec::new(),
        }
    }

    /// Returns the id of its node; `None`: all zero.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.id
    }

    /// Returns what the region is made of.
    pub fn resolved(&self) -> Result<Leaf, TreeError> {
        match &self.whole {
            None => Ok(Leaf::hole(self.cells)),
            Some((_, leaf)) if self.overrides.is_empty() => Ok(leaf.clone()),
            Some((_, leaf)) => leaf.overlay(&self.overrides),
        }
    }
}

/// Bytes inside a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSlice {
    /// The chunk.
    pub chunk: ChunkRef,
    /// The first byte inside it.
    pub at_bytes: usize,
}

/// Bytes of an image that are one behind the other in one chunk, or are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRun {
    /// First byte in the image.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Where they are; `None`: a hole, all zero.
    pub chunk: Option<ChunkSlice>,
}

impl<'a> Tree<'a> {
    /// Takes a root and where its nodes are read from.
    #[must_use]
    pub fn new(root: TreeRoot, source: &'a dyn NodeSource, names: &'a SessionKeys) -> Self {
        Self {
            root,
            source,
            names,
        }
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> TreeRoot {
        self.root
    }

    /// Returns the shape.
    #[must_use]
    pub fn shape(&self) -> TreeShape {
        self.root.shape()
    }

    pub(super) fn names(&self) -> &'a SessionKeys {
        self.names
    }

    /// Reads the leaves of these regions (ascending), all of them together.
    pub fn read_leaves(&self, regions: &[u64]) -> Result<Vec<BaseLeaf>, TreeError> {
        self.leaves_of(&self.leaf_ids(regions)?)
    }

    /// Reads leaves whose regions (ascending) and ids are known.
    pub(super) fn leaves_of(
        &self,
        leaves: &[(u64, Option<NodeId>)],
    ) -> Result<Vec<BaseLeaf>, TreeError> {
        let wanted: Vec<(NodeId, u64)> = leaves
            .iter()
            .filter_map(|&(region, id)| id.map(|id| (id, region)))
            .collect();
        let nodes = self.read_nodes(&wanted, 1)?;
        let mut bases = Vec::new();
        for ((_, region), node) in wanted.iter().zip(&nodes) {
            if let Node::Delta(delta) = node {
                bases.push((delta.base, *region));
            }
        }
        let mut base_leaves = self.read_nodes(&bases, 1)?.into_iter();
        let mut nodes = nodes.into_iter();
        let mut found = Vec::with_capacity(leaves.len());
        for &(region, id) in leaves {
            let cells = self.shape().cells(region);
            let Some(id) = id else {
                found.push(BaseLeaf::zero(cells));
                continue;
            };
            let (whole, overrides) = match nodes.next() {
                Some(Node::Leaf(leaf)) => ((id, leaf), Vec::new()),
                Some(Node::Delta(delta)) => match base_leaves.next() {
                    Some(Node::Leaf(leaf)) => ((delta.base, leaf), delta.overrides),
                    Some(Node::Delta(_) | Node::Inner(_)) | None => {
                        return Err(self.misplaced(
                            delta.base,
                            1,
                            region,
                            "a delta leaf must lie over a whole leaf",
                        ));
                    }
                },
                Some(Node::Inner(_)) | None => {
                    return Err(self.misplaced(id, 1, region, "not a leaf"));
                }
            };
            found.push(BaseLeaf {
                cells,
                id: Some(id),
                whole: Some(whole),
                overrides,
            });
        }
        Ok(found)
    }

    /// Returns what a range of the image is made of: runs in order without a gap, read a few leaves ahead.
    pub fn resolve(&self, range: ByteRange) -> Result<Resolve<'a>, TreeError> {
        let beyond = || TreeError::BeyondImage {
            offset: range.offset,
            len: range.len,
            image_bytes: self.root.len,
        };
        let end = range
            .end()
            .filter(|&end| end <= self.root.len)
            .ok_or_else(beyond)?;
        Ok(Resolve {
            tree: *self,
            at: range.offset,
            end,
            ready: VecDeque::new(),
            leaves: VecDeque::new(),
            next_region: range.offset / REGION_BYTES,
        })
    }

    /// Returns the ids of the leaves of these regions (ascending).
    fn leaf_ids(&self, regions: &[u64]) -> Result<Vec<(u64, Option<NodeId>)>, TreeError> {
        if regions
            .iter()
            .any(|&region| region >= self.shape().regions())
            || !regions.is_sorted()
        {
            return Err(TreeError::shape("regions beyond the image or not in order"));
        }
        let mut level = self.shape().height();
        // Subtrees on the way down: number of the subtree in its level, and its node.
        let mut subtrees: Vec<(u64, Option<NodeId>)> = vec![(0, self.root.root)];
        while level > 1 {
            let below = TreeShape::span(level - 1);
            let wanted: Vec<(NodeId, u64)> = subtrees
                .iter()
                .filter_map(|&(i, id)| id.map(|id| (id, i)))
                .collect();
            let mut nodes = self.read_nodes(&wanted, level)?.into_iter();
            let mut next = Vec::new();
            for (index, id) in subtrees {
                let children = match id {
                    Some(_) => nodes.next().and_then(|node| match node {
                        Node::Inner(inner) => Some(inner.children),
                        Node::Leaf(_) | Node::Delta(_) => None,
                    }),
                    None => None,
                };
                let first =
                    regions.partition_point(|region| region / below / u64::from(FAN_OUT) < index);
                let mut last = None;
                for region in regions[first..]
                    .iter()
                    .take_while(|&region| region / below / u64::from(FAN_OUT) == index)
                {
                    let child = region / below;
                    if last.replace(child) != Some(child) {
                        let place = usize::try_from(child % u64::from(FAN_OUT))
                            .expect("less than the fan-out");
                        next.push((
                            child,
                            children
                                .as_ref()
                                .and_then(|children| children.get(place).copied().flatten()),
                        ));
                    }
                }
            }
            subtrees = next;
            level -= 1;
        }
        let mut ids = Vec::with_capacity(regions.len());
        let mut subtrees = subtrees.into_iter().peekable();
        for &region in regions {
            while subtrees.peek().is_some_and(|&(index, _)| index < region) {
                subtrees.next();
            }
            ids.push((region, subtrees.peek().and_then(|&(_, id)| id)));
        }
        Ok(ids)
    }

    /// Returns the children of an inner node; all absent where it is.
    pub(super) fn children(
        &self,
        level: u8,
        index: u64,
        id: Option<NodeId>,
    ) -> Result<Vec<Option<NodeId>>, TreeError> {
        let Some(id) = id else {
            return Ok(vec![None; self.shape().children(level, index)]);
        };
        match self.read_nodes(&[(id, index)], level)?.pop() {
            Some(Node::Inner(Inner { children, .. })) => Ok(children),
            Some(Node::Leaf(_) | Node::Delta(_)) | None => {
                Err(self.misplaced(id, level, index, "not an inner node"))
            }
        }
    }

    /// Reads nodes of one level, each with its number in that level, and checks them against id and place.
    pub(super) fn read_nodes(
        &self,
        wanted: &[(NodeId, u64)],
        level: u8,
    ) -> Result<Vec<Node>, TreeError> {
        let Some(&(first, _)) = wanted.first() else {
            return Ok(Vec::new());
        };
        let ids: Vec<NodeId> = wanted.iter().map(|&(id, _)| id).collect();
        let failed = |source| TreeError::Source {
            first,
            count: ids.len(),
            source,
        };
        let found = self.source.read_nodes(&ids).map_err(failed)?;
        if found.len() != ids.len() {
            return Err(failed(
                format!("{} nodes came for {}", found.len(), ids.len()).into(),
            ));
        }
        let mut nodes = Vec::with_capacity(found.len());
        for (&(id, index), bytes) in wanted.iter().zip(found) {
            if bytes.len() > crate::NODE_MAX_BYTES || self.names.node_id(&bytes) != id {
                return Err(TreeError::WrongNode { node: id });
            }
            let node =
                Node::decode(&bytes).map_err(|source| TreeError::Format { node: id, source })?;
            self.check_place(id, &node, level, index)?;
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn check_place(&self, id: NodeId, node: &Node, level: u8, index: u64) -> Result<(), TreeError> {
        let (found_level, found, expected) = match node {
            Node::Leaf(leaf) => (
                1,
                usize::from(leaf.cells()),
                usize::from(self.shape().cells(index)),
            ),
            Node::Delta(delta) => (
                1,
                usize::from(delta.cells),
                usize::from(self.shape().cells(index)),
            ),
            Node::Inner(inner) => (
                inner.level,
                inner.children.len(),
                self.shape().children(inner.level.max(2), index),
            ),
        };
        if found_level != level {
            return Err(self.misplaced(
                id,
                level,
                index,
                &format!("level {found_level} where {level} belongs"),
            ));
        }
        if found != expected {
            return Err(self.misplaced(
                id,
                level,
                index,
                &format!("{found} parts where {expected} belong"),
            ));
        }
        Ok(())
    }

    fn misplaced(&self, node: NodeId, level: u8, index: u64, why: &str) -> TreeError {
        let offset = index
            .saturating_mul(TreeShape::span(level))
            .saturating_mul(REGION_BYTES);
        TreeError::Misplaced {
            node,
            offset,
            why: why.to_owned(),
        }
    }
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({:?})", self.root)
    }
}

/// The runs of a range of an image, in order without a gap. Ends after the first error.
#[derive(Debug)]
pub struct Resolve<'a> {
    tree: Tree<'a>,
    at: u64,
    end: u64,
    ready: VecDeque<(u64, Run)>,
    /// Regions not read yet, with the ids of their leaves.
    leaves: VecDeque<(u64, Option<NodeId>)>,
    /// The first region whose leaf's id is not known yet.
    next_region: u64,
}

impl Resolve<'_> {
    fn read_ahead(&mut self) -> Result<(), TreeError> {
        if self.leaves.is_empty() {
            let last = self
                .end
                .div_ceil(REGION_BYTES)
                .min(self.next_region.saturating_add(IDS_AHEAD));
            let regions: Vec<u64> = (self.next_region..last).collect();
            self.leaves = self.tree.leaf_ids(&regions)?.into();
            self.next_region = last;
        }
        let some: Vec<_> = self
            .leaves
            .drain(..self.leaves.len().min(LEAVES_AHEAD))
            .collect();
        for ((region, _), leaf) in some.iter().zip(self.tree.leaves_of(&some)?) {
            let mut offset = region * REGION_BYTES;
            for run in leaf.resolved()?.runs() {
                self.ready.push_back((offset, *run));
                offset += u64::from(run.cells) * CELL_BYTES as u64;
            }
        }
        Ok(())
    }
}

impl Iterator for Resolve<'_> {
    type Item = Result<ImageRun, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            let Some((offset, run)) = self.ready.pop_front() else {
                if let Err(error) = self.read_ahead() {
                    self.at = self.end;
                    return Some(Err(error));
                }
                continue;
            };
            let run_end = (offset + u64::from(run.cells) * CELL_BYTES as u64).min(self.end);
            if run_end <= self.at {
                continue;
            }
            let skipped = self.at - offset;
            let chunk = match run.source {
                RunSource::Hole => None,
                RunSource::Chunk { chunk, at } => Some(ChunkSlice {
                    chunk,
                    at_bytes: usize::from(at) * CELL_BYTES
                        + usize::try_from(skipped).expect("inside a run"),
                }),
            };
            let item = ImageRun {
                offset: self.at,
                len: run_end - self.at,
                chunk,
            };
            self.at = run_end;
            return Some(Ok(item));
        }
        None
    }
}
