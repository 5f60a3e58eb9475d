//! One image: regions shared out over the threads, their leaves put together to a tree.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::{ByteRange, ChangedRanges, ImageRef};
use store::{
    BaseLeaf, CELL_BYTES, DigestBuilder, EditedLeaf, Leaf, MibHash, NewNode, Node, NodeId,
    Override, REGION_BYTES, Tree, TreeBuilder, TreeRoot, TreeShape,
};
use vhdx::ExtentKind;

use super::packer::{NodePacks, lock};
use super::worker::{Counters, PIECE_BYTES, Worker, hash_of, zero_hashes};
use super::{BackupSession, ImageFigures, ImageOutcome};
use crate::link::LinkNodes;
use crate::options::Meter;
use crate::{BackupError, ImageSource};

/// Changed regions that one thread handles together at most.
const REGIONS_TOGETHER: usize = 16;
/// A region of more runs than this is cut anew where at least half of it has changed, so that reading the other half is
/// worth it: nothing stays fragmented for good, and an increment never reads more than twice what changed.
const FRAGMENTED_RUNS: usize = 2048;

pub(super) fn full(
    session: &BackupSession,
    source: &dyn ImageSource,
) -> Result<ImageOutcome, BackupError> {
    let shape = TreeShape::new(source.len());
    let leaves = Mutex::new(BTreeMap::new());
    let digest = Mutex::new(InOrder::default());
    let run = ImageRun::new(session, source, source.len());
    run.for_each(shape.regions(), |worker, region| {
        let offset = region * REGION_BYTES;
        let len = REGION_BYTES.min(shape.len() - offset);
        let (leaf, hashes) =
            run.full_region(worker, ByteRange { offset, len }, shape.cells(region))?;
        lock(&digest).add(region, hashes);
        if let Some(leaf) = leaf {
            lock(&leaves).insert(region, leaf);
        }
        Ok(())
    })?;
    let mut sink = NodePacks {
        packer: &session.packer,
        count: 0,
    };
    let mut builder = TreeBuilder::new(shape.len(), &session.names);
    let leaves = lock(&leaves);
    for region in 0..shape.regions() {
        builder
            .push(leaves.get(&region).copied(), &mut sink)
            .map_err(BackupError::Tree)?;
    }
    let root = builder.finish(&mut sink).map_err(BackupError::Tree)?;
    let digest = digest
        .into_inner()
        .unwrap_or_default()
        .builder
        .finish(shape.len());
    Ok(ImageOutcome {
        image: root.to_image_ref(digest),
        figures: run.figures(sink.count),
    })
}

pub(super) fn changed(
    session: &BackupSession,
    source: &dyn ImageSource,
    ranges: &ChangedRanges,
    base: &ImageRef,
) -> Result<ImageOutcome, BackupError> {
    let root = TreeRoot::from_image_ref(base).map_err(BackupError::Tree)?;
    let beyond = ranges
        .as_slice()
        .last()
        .is_some_and(|last| last.offset + last.len > source.len());
    if root.len != source.len() || beyond {
        return Err(BackupError::BaseDoesNotFit {
            base_bytes: root.len,
            source_bytes: source.len(),
        });
    }
    let nodes = LinkNodes(|ids: &[NodeId]| session.packer.link().read_nodes(ids));
    let groups = group(ranges);
    let leaves = Mutex::new(BTreeMap::new());
    let run = ImageRun::new(session, source, ranges.bytes());
    run.for_each(groups.len() as u64, |worker, number| {
        let group = &groups[usize::try_from(number).expect("a place in the list")];
        let tree = Tree::new(root, &nodes, &session.names);
        let edited = run.changed_group(worker, group, &tree)?;
        lock(&leaves).extend(edited);
        Ok(())
    })?;
    let mut sink = NodePacks {
        packer: &session.packer,
        count: 0,
    };
    let tree = Tree::new(root, &nodes, &session.names);
    let edited = tree
        .edit(&lock(&leaves), &mut sink)
        .map_err(BackupError::Tree)?;
    // Nothing differs: what is known of the base holds on.
    let digest = if edited == root {
        base.digest.clone()
    } else {
        None
    };
    Ok(ImageOutcome {
        image: ImageRef {
            digest,
            ..edited.to_image_ref(None)
        },
        figures: run.figures(sink.count),
    })
}

/// What the threads of one image share.
struct ImageRun<'a> {
    session: &'a BackupSession,
    source: &'a dyn ImageSource,
    counters: Counters,
    meter: Meter<'a>,
}

impl<'a> ImageRun<'a> {
    fn new(session: &'a BackupSession, source: &'a dyn ImageSource, total: u64) -> Self {
        Self {
            session,
            source,
            counters: Counters::default(),
            meter: Meter::new(&session.options, total),
        }
    }

    /// Does `work` for each number below `count`, ascending, over all threads; ends with the first failure.
    fn for_each(
        &self,
        count: u64,
        work: impl Fn(&mut Worker<'_>, u64) -> Result<(), BackupError> + Sync,
    ) -> Result<(), BackupError> {
        let (next, stop, failure) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(None));
        let session = self.session;
        let threads = u64::try_from(session.options.workers())
            .unwrap_or(u64::MAX)
            .min(count);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut worker = Worker::new(self.source, session, &self.counters);
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let outcome = match session.options.cancel.is_cancelled() {
                            true => Err(BackupError::Cancelled),
                            false => session
                                .packer
                                .check()
                                .and_then(|()| work(&mut worker, number)),
                        };
                        if let Err(error) = outcome {
                            stop.store(true, Ordering::Relaxed);
                            lock(&failure).get_or_insert(error);
                        }
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn full_region(
        &self,
        worker: &mut Worker<'_>,
        range: ByteRange,
        cells: u16,
    ) -> Result<(Option<NodeId>, Vec<Option<MibHash>>), BackupError> {
        let extents = self
            .source
            .extents(range.offset, range.len)
            .map_err(|source| BackupError::Read {
                offset: range.offset,
                source,
            })?;
        if extents.iter().all(|extent| extent.kind == ExtentKind::Zero) {
            self.meter.add(range.len);
            return Ok((None, zero_hashes(range.len).collect()));
        }
        let mut hashes = Vec::with_capacity(64);
        worker.read_range(range, false, Some(&mut hashes), |bytes| {
            self.meter.add(bytes);
        })?;
        let runs = worker.take_runs()?.into_iter().map(|(_, _, run)| run);
        let leaf = Leaf::from_runs(cells, runs).map_err(BackupError::Tree)?;
        let id = if leaf.is_hole() {
            None
        } else {
            Some(self.put_node(&Node::Leaf(leaf))?)
        };
        Ok((id, hashes))
    }

    fn changed_group(
        &self,
        worker: &mut Worker<'_>,
        group: &[(u64, Vec<ByteRange>)],
        tree: &Tree<'_>,
    ) -> Result<Vec<(u64, Option<NodeId>)>, BackupError> {
        let regions: Vec<u64> = group.iter().map(|(region, _)| *region).collect();
        let bases = tree.read_leaves(&regions).map_err(BackupError::Tree)?;
        for ((region, ranges), base) in group.iter().zip(&bases) {
            let offset = region * REGION_BYTES;
            let len = REGION_BYTES.min(self.source.len() - offset);
            if bytes_of(ranges) >= len / 2 && is_fragmented(base)? {
                worker.read_range(ByteRange { offset, len }, false, None, |_| ())?;
                self.meter.add(bytes_of(ranges));
            } else {
                for range in ranges {
                    worker.read_range(*range, true, None, |bytes| {
                        self.meter.add(bytes);
                    })?;
                }
            }
            worker.end_region();
        }
        let mut changes: BTreeMap<u64, Vec<Override>> = BTreeMap::new();
        for (region, at, run) in worker.take_runs()? {
            changes
                .entry(region)
                .or_default()
                .push(Override { at, run });
        }
        let mut edited = Vec::with_capacity(group.len());
        for (region, base) in regions.into_iter().zip(&bases) {
            let changes = changes.get(&region).map_or(&[][..], Vec::as_slice);
            let leaf = match base.edit(changes).map_err(BackupError::Tree)? {
                EditedLeaf::Existing(id) => id,
                EditedLeaf::New(node) => Some(self.put_node(&node)?),
            };
            if leaf != base.id() {
                edited.push((region, leaf));
            }
        }
        Ok(edited)
    }

    fn put_node(&self, node: &Node) -> Result<NodeId, BackupError> {
        let node = NewNode::new(node, &self.session.names).map_err(BackupError::Tree)?;
        let new = self.session.packer.add_node(&node)?;
        self.counters
            .nodes
            .fetch_add(u64::from(new), Ordering::Relaxed);
        Ok(node.id)
    }

    fn figures(&self, inner_nodes: u64) -> ImageFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ImageFigures {
            bytes_read: get(&self.counters.read),
            bytes_new: get(&self.counters.new),
            bytes_reused: get(&self.counters.reused),
            bytes_stored: get(&self.counters.stored),
            chunks: get(&self.counters.chunks),
            chunks_new: get(&self.counters.chunks_new),
            nodes: get(&self.counters.nodes) + inner_nodes,
        }
    }
}

fn is_fragmented(base: &BaseLeaf) -> Result<bool, BackupError> {
    Ok(base.resolved().map_err(BackupError::Tree)?.runs().len() > FRAGMENTED_RUNS)
}

fn bytes_of(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| range.len).sum()
}

/// Splits changed ranges at the borders of regions and puts regions together until they are worth a look-up.
fn group(ranges: &ChangedRanges) -> Vec<Vec<(u64, Vec<ByteRange>)>> {
    let mut regions: Vec<(u64, Vec<ByteRange>)> = Vec::new();
    for range in ranges.as_slice() {
        debug_assert_eq!(
            range.offset % CELL_BYTES as u64,
            0,
            "changed ranges are widened to cells"
        );
        let (mut at, end) = (range.offset, range.offset + range.len);
        while at < end {
            let region = at / REGION_BYTES;
            let part_end = end.min((region + 1).saturating_mul(REGION_BYTES));
            let part = ByteRange {
                offset: at,
                len: part_end - at,
            };
            match regions.last_mut() {
                Some((last, parts)) if *last == region => parts.push(part),
                Some(_) | None => regions.push((region, vec![part])),
            }
            at = part_end;
        }
    }
    let mut groups: Vec<Vec<(u64, Vec<ByteRange>)>> = Vec::new();
    let mut bytes = u64::MAX;
    for (region, parts) in regions {
        let more = bytes_of(&parts);
        match groups.last_mut() {
            Some(group)
                if bytes.saturating_add(more) <= PIECE_BYTES && group.len() < REGIONS_TOGETHER =>
            {
                bytes += more;
                group.push((region, parts));
            }
            Some(_) | None => {
                bytes = more;
                groups.push(vec![(region, parts)]);
            }
        }
    }
    groups
}

/// Takes the hashes of regions as they come and adds them in their order.
#[derive(Default)]
struct InOrder {
    next: u64,
    waiting: BTreeMap<u64, Vec<Option<MibHash>>>,
    builder: DigestBuilder,
}

impl InOrder {
    fn add(&mut self, region: u64, hashes: Vec<Option<MibHash>>) {
        self.waiting.insert(region, hashes);
        while let Some(hashes) = self.waiting.remove(&self.next) {
            self.next += 1;
            if hashes.iter().all(Option::is_none) {
                self.builder.push_zeros(hashes.len() as u64);
            } else {
                hashes
                    .into_iter()
                    .for_each(|hash| self.builder.push(hash_of(hash)));
            }
        }
    }
}
