//! Walking trees: what two differ in, and all that one refers to.

use std::collections::HashSet;

use model::ByteRange;

use super::{ChunkRef, Leaf, Node, RunSource, Tree, TreeShape};
use crate::{CELL_BYTES, ChunkId, NodeId, REGION_BYTES, TreeError};

/// How many leaves are read together.
const LEAVES_TOGETHER: usize = 32;

/// Cells of a chunk that a leaf refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkUse {
    /// The region.
    pub region: u64,
    /// The chunk.
    pub chunk: ChunkRef,
    /// First cell inside the chunk.
    pub at: u16,
    /// Number of cells.
    pub cells: u16,
}

/// Is told all that a tree refers to.
pub trait TreeVisitor {
    /// A node. The answer says whether it is to be read and what it refers to visited as well; a visitor that has met it
    /// before says no.
    fn node(&mut self, id: NodeId) -> bool;

    /// Cells of a chunk, from a leaf that was entered. The same chunk may come again.
    fn chunk(&mut self, used: &ChunkUse);
}

impl Tree<'_> {
    /// Visits every node of the tree and every chunk its leaves refer to (a delta leaf and the leaf beneath it are two
    /// nodes; the latter counts whole). With `base`, what that tree has in the same place is left out: its nodes, and of
    /// a leaf the chunks that its leaf there has, too.
    ///
    /// All nodes are checked against ids and places: a visit without error is a closed tree but for its chunks.
    pub fn visit(
        &self,
        base: Option<&Tree<'_>>,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<(), TreeError> {
        let base = base.filter(|base| base.shape() == self.shape());
        let known = base.and_then(|base| base.root().root);
        let top = self.shape().height();
        let Some(root) = self.root().root.filter(|_| self.root().root != known) else {
            return Ok(());
        };
        match top {
            1 => self.visit_leaves(&[(0, root, known)], base, visitor),
            _ => self.visit_inner(top, 0, root, known, base, visitor),
        }
    }

    fn visit_inner(
        &self,
        level: u8,
        index: u64,
        id: NodeId,
        known: Option<NodeId>,
        base: Option<&Tree<'_>>,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<(), TreeError> {
        if !visitor.node(id) {
            return Ok(());
        }
        let children = self.children(level, index, Some(id))?;
        let known = match base {
            Some(base) => base.children(level, index, known)?,
            None => vec![None; children.len()],
        };
        let first = index * u64::from(crate::FAN_OUT);
        let different: Vec<(u64, NodeId, Option<NodeId>)> = (first..)
            .zip(children.iter().zip(known))
            .filter_map(|(index, (child, known))| {
                child
                    .filter(|_| *child != known)
                    .map(|child| (index, child, known))
            })
            .collect();
        if level == 2 {
            return different
                .chunks(LEAVES_TOGETHER)
                .try_for_each(|some| self.visit_leaves(some, base, visitor));
        }
        different.into_iter().try_for_each(|(index, child, known)| {
            self.visit_inner(level - 1, index, child, known, base, visitor)
        })
    }

    fn visit_leaves(
        &self,
        leaves: &[(u64, NodeId, Option<NodeId>)],
        base: Option<&Tree<'_>>,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<(), TreeError> {
        let entered: Vec<(NodeId, u64)> = leaves
            .iter()
            .filter(|(_, id, _)| visitor.node(*id))
            .map(|&(region, id, _)| (id, region))
            .collect();
        let regions: Vec<u64> = entered.iter().map(|&(_, region)| region).collect();
        let known: Vec<Known> = match base {
            Some(base) => base
                .read_leaves(&regions)?
                .iter()
                .map(Known::of)
                .collect::<Result<_, _>>()?,
            None => regions.iter().map(|_| Known::default()).collect(),
        };
        let nodes = self.read_nodes(&entered, 1)?;
        let mut beneath = Vec::new();
        for ((node, &region), known) in nodes.iter().zip(&regions).zip(&known) {
            match node {
                Node::Leaf(leaf) => known.report(region, leaf.runs().iter(), visitor),
                Node::Delta(delta) => {
                    known.report(
                        region,
                        delta.overrides.iter().map(|change| &change.run),
                        visitor,
                    );
                    if known.whole != Some(delta.base) && visitor.node(delta.base) {
                        beneath.push((delta.base, region, known));
                    }
                }
                Node::Inner(_) => return Err(TreeError::shape("an inner node among leaves")),
            }
        }
        let wanted: Vec<(NodeId, u64)> = beneath
            .iter()
            .map(|&(id, region, _)| (id, region))
            .collect();
        for (node, (id, region, known)) in self.read_nodes(&wanted, 1)?.iter().zip(beneath) {
            let Node::Leaf(leaf) = node else {
                let why = "a delta leaf must lie over a whole leaf".to_owned();
                return Err(TreeError::Misplaced {
                    node: id,
                    offset: region * REGION_BYTES,
                    why,
                });
            };
            known.report(region, leaf.runs().iter(), visitor);
        }
        Ok(())
    }

    /// Returns the ranges in which two images may differ, sorted, apart, in whole cells (the last may end with the longer
    /// image). Nothing that differs is left out; bytes that are equal but lie in other chunks may be reported.
    pub fn diff(&self, other: &Tree<'_>) -> Result<Vec<ByteRange>, TreeError> {
        let mut ranges = Ranges {
            ranges: Vec::new(),
            len: self.root().len.max(other.root().len),
        };
        let level = self.shape().height().max(other.shape().height());
        self.diff_node(
            other,
            level,
            0,
            [self.lift(level), other.lift(level)],
            &mut ranges,
        )?;
        // Where both are zero, but one is shorter: bytes only one of them has.
        let (shorter, longer) = (self.root().len.min(other.root().len), ranges.len);
        ranges.push(shorter - shorter % CELL_BYTES as u64, longer);
        ranges.ranges.sort_unstable();
        Ok(ranges.joined())
    }

    fn diff_node(
        &self,
        other: &Tree<'_>,
        level: u8,
        index: u64,
        ids: [Subtree; 2],
        ranges: &mut Ranges,
    ) -> Result<(), TreeError> {
        if ids[0] == ids[1] {
            return Ok(());
        }
        if level == 1 {
            let leaf =
                |tree: &Tree<'_>, subtree: Subtree| match (subtree, tree.shape().regions() > index)
                {
                    (Subtree::Node(id), true) => {
                        tree.leaves_of(&[(index, Some(id))])?.remove(0).resolved()
                    }
                    (Subtree::Node(_) | Subtree::Below(..) | Subtree::Zero, _) => {
                        Ok(Leaf::hole(crate::REGION_CELLS))
                    }
                };
            diff_leaves(index, &leaf(self, ids[0])?, &leaf(other, ids[1])?, ranges);
            return Ok(());
        }
        let children = [
            self.subtrees(level, index, ids[0])?,
            other.subtrees(level, index, ids[1])?,
        ];
        for (place, child) in
            (0..children[0].len().max(children[1].len())).zip(index * u64::from(crate::FAN_OUT)..)
        {
            let ids = [0, 1]
                .map(|side: usize| children[side].get(place).copied().unwrap_or(Subtree::Zero));
            self.diff_node(other, level - 1, child, ids, ranges)?;
        }
        Ok(())
    }

    /// Returns the root as a subtree of a tree that may be higher.
    fn lift(&self, level: u8) -> Subtree {
        match self.root().root {
            None => Subtree::Zero,
            Some(root) if self.shape().height() == level => Subtree::Node(root),
            Some(root) => Subtree::Below(root, level - self.shape().height()),
        }
    }

    fn subtrees(&self, level: u8, index: u64, subtree: Subtree) -> Result<Vec<Subtree>, TreeError> {
        match subtree {
            Subtree::Zero => Ok(Vec::new()),
            Subtree::Below(id, 1) => Ok(vec![Subtree::Node(id)]),
            Subtree::Below(id, levels) => Ok(vec![Subtree::Below(id, levels - 1)]),
            Subtree::Node(id) => Ok(self
                .children(level, index, Some(id))?
                .into_iter()
                .map(|child| child.map_or(Subtree::Zero, Subtree::Node))
                .collect()),
        }
    }
}

/// A part of a tree when trees of different heights are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subtree {
    Zero,
    Node(NodeId),
    /// A root that lies this many levels further down, always as the first child.
    Below(NodeId, u8),
}

/// What a base tree has in a region.
#[derive(Default)]
struct Known {
    whole: Option<NodeId>,
    chunks: HashSet<ChunkId>,
}

impl Known {
    fn of(leaf: &super::BaseLeaf) -> Result<Self, TreeError> {
        let whole = leaf.whole.as_ref().map(|(id, _)| *id);
        let mut chunks = HashSet::new();
        let beneath = leaf.whole.iter().flat_map(|(_, leaf)| leaf.runs());
        for run in beneath.chain(leaf.overrides.iter().map(|change| &change.run)) {
            if let RunSource::Chunk { chunk, .. } = run.source {
                chunks.insert(chunk.id);
            }
        }
        Ok(Self { whole, chunks })
    }

    fn report<'a>(
        &self,
        region: u64,
        runs: impl Iterator<Item = &'a super::Run>,
        visitor: &mut dyn TreeVisitor,
    ) {
        for run in runs {
            match run.source {
                RunSource::Chunk { chunk, at } if !self.chunks.contains(&chunk.id) => {
                    visitor.chunk(&ChunkUse {
                        region,
                        chunk,
                        at,
                        cells: run.cells,
                    });
                }
                RunSource::Chunk { .. } | RunSource::Hole => {}
            }
        }
    }
}

struct Ranges {
    ranges: Vec<ByteRange>,
    len: u64,
}

impl Ranges {
    fn push(&mut self, start: u64, end: u64) {
        let end = end.min(self.len);
        if start >= end {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.offset + last.len == start => last.len += end - start,
            Some(_) | None => self.ranges.push(ByteRange {
                offset: start,
                len: end - start,
            }),
        }
    }

    fn joined(self) -> Vec<ByteRange> {
        let mut joined = Ranges {
            ranges: Vec::new(),
            len: self.len,
        };
        for range in self.ranges {
            let start = joined
                .ranges
                .last()
                .map_or(0, |last| last.offset + last.len)
                .max(range.offset);
            joined.push(start, range.offset + range.len);
        }
        joined.ranges
    }
}

fn diff_leaves(region: u64, one: &Leaf, other: &Leaf, ranges: &mut Ranges) {
    let start = region * TreeShape::span(1) * REGION_BYTES;
    let (mut left, mut right) = (one.runs().iter().copied(), other.runs().iter().copied());
    let (mut a, mut b) = (left.next(), right.next());
    let mut at = 0u64;
    while let (Some(one), Some(other)) = (&mut a, &mut b) {
        let cells = one.cells.min(other.cells);
        let same = match (one.source, other.source) {
            (RunSource::Hole, RunSource::Hole) => true,
            (RunSource::Chunk { chunk: x, at: i }, RunSource::Chunk { chunk: y, at: j }) => {
                x.id == y.id && i == j
            }
            (RunSource::Hole, RunSource::Chunk { .. })
            | (RunSource::Chunk { .. }, RunSource::Hole) => false,
        };
        let end = at + u64::from(cells);
        if !same {
            ranges.push(
                start + at * CELL_BYTES as u64,
                start + end * CELL_BYTES as u64,
            );
        }
        at = end;
        for (run, rest) in [(&mut a, &mut left), (&mut b, &mut right)] {
            *run = match *run {
                Some(run) if run.cells > cells => Some(run.without_front(cells)),
                Some(_) | None => rest.next(),
            };
        }
    }
    // A region that only one image reaches into, or one further than the other.
    for (run, rest) in [(a, left), (b, right)] {
        let mut at = at;
        for run in run.into_iter().chain(rest) {
            let end = at + u64::from(run.cells);
            if !matches!(run.source, RunSource::Hole) {
                ranges.push(
                    start + at * CELL_BYTES as u64,
                    start + end * CELL_BYTES as u64,
                );
            }
            at = end;
        }
    }
}
