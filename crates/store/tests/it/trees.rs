//! Image trees against a plain map: one id per cell.

use std::collections::{BTreeMap, HashSet};

use model::ByteRange;
use proptest::prelude::*;
use store::{
    BaseLeaf, ChunkId, ChunkRef, ChunkUse, EditedLeaf, Leaf, LeafBuilder, NewNode, Node, NodeId,
    Override, REGION_BYTES, Run, RunSource, Tree, TreeBuilder, TreeError, TreeRoot, TreeShape,
    TreeVisitor,
};

use crate::support::{Nodes, names};

/// A cell as the plain map knows it: zero, or a cell of a chunk.
type Cell = Option<(u8, u16)>;

fn chunk(n: u8) -> ChunkRef {
    ChunkRef {
        id: names().chunk_id(&[n]),
        cells: 64,
    }
}

fn leaf_of(cells: &[Cell]) -> Leaf {
    let mut builder = LeafBuilder::new();
    for cell in cells {
        builder.push(run_of(*cell));
    }
    builder.finish(u16::try_from(cells.len()).unwrap()).unwrap()
}

fn run_of(cell: Cell) -> Run {
    let source = match cell {
        None => RunSource::Hole,
        Some((n, at)) => RunSource::Chunk {
            chunk: chunk(n),
            at,
        },
    };
    Run { cells: 1, source }
}

fn cells_of(leaf: &Leaf) -> Vec<(Option<ChunkId>, u16)> {
    let mut cells = Vec::new();
    for run in leaf.runs() {
        for i in 0..run.cells {
            cells.push(match run.source {
                RunSource::Hole => (None, 0),
                RunSource::Chunk { chunk, at } => (Some(chunk.id), at + i),
            });
        }
    }
    cells
}

fn plain(cells: &[Cell]) -> Vec<(Option<ChunkId>, u16)> {
    cells
        .iter()
        .map(|cell| cell.map_or((None, 0), |(n, at)| (Some(chunk(n).id), at)))
        .collect()
}

fn runs(cells: usize) -> impl Strategy<Value = Vec<Cell>> {
    let run = (
        1usize..40,
        prop_oneof![Just(None), (0u8..6, 0u16..64).prop_map(Some)],
    );
    prop::collection::vec(run, 1..60).prop_map(move |list| {
        let mut out: Vec<Cell> = Vec::new();
        for (len, start) in list {
            out.extend(
                (0..len).map(|i| start.map(|(n, at)| (n, (at + u16::try_from(i).unwrap()) % 64))),
            );
        }
        out.resize(cells, None);
        out
    })
}

fn changes(cells: u16) -> impl Strategy<Value = Vec<(u16, Vec<Cell>)>> {
    let change = (
        0..cells,
        prop::collection::vec(
            prop_oneof![Just(None), (6u8..9, 0u16..64).prop_map(Some)],
            1..20,
        ),
    );
    prop::collection::vec(change, 1..10).prop_map(move |list| {
        let (mut at, mut out) = (0, Vec::new());
        let mut list = list;
        list.sort_by_key(|change| change.0);
        for (start, mut new) in list {
            new.truncate(usize::from(cells - start));
            if start >= at {
                at = start + u16::try_from(new.len()).unwrap();
                out.push((start, new));
            }
        }
        out
    })
}

fn overrides(changes: &[(u16, Vec<Cell>)]) -> Vec<Override> {
    let mut list = Vec::new();
    for (at, cells) in changes {
        list.extend((*at..).zip(cells).map(|(at, cell)| Override {
            at,
            run: run_of(*cell),
        }));
    }
    list
}

fn apply(cells: &mut [Cell], changes: &[(u16, Vec<Cell>)]) {
    for (at, new) in changes {
        cells[usize::from(*at)..][..new.len()].copy_from_slice(new);
    }
}

/// Edits region 0 of an image of one region; returns its new leaf as read back.
fn edit(nodes: &Nodes, root: TreeRoot, list: &[Override]) -> (TreeRoot, BaseLeaf) {
    let names = names();
    let tree = Tree::new(root, nodes, &names);
    let base = tree.read_leaves(&[0]).unwrap().remove(0);
    let id = match base.edit(list).unwrap() {
        EditedLeaf::Existing(id) => id,
        EditedLeaf::New(node) => {
            let new = NewNode::new(&node, &names).unwrap();
            let id = new.id;
            assert_eq!(Node::decode(&new.plain).unwrap(), node);
            nodes.add(vec![new]);
            Some(id)
        }
    };
    let root = tree.edit(&BTreeMap::from([(0, id)]), &mut &*nodes).unwrap();
    let leaf = Tree::new(root, nodes, &names)
        .read_leaves(&[0])
        .unwrap()
        .remove(0);
    (root, leaf)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn edits_equal_a_rebuild_and_delta_leaves_stay_one_level(
        first in runs(1500), steps in prop::collection::vec(changes(1500), 1..8),
    ) {
        let (nodes, names) = (Nodes::default(), names());
        let mut cells = first;
        let len = cells.len() as u64 * 4096;
        let mut root = TreeRoot { len, root: None };
        let mut all: Vec<(u16, Vec<Cell>)> = vec![(0, cells.clone())];
        for step in &steps {
            let (next, leaf) = edit(&nodes, root, &overrides(&all));
            root = next;
            prop_assert_eq!(cells_of(&leaf.resolved().unwrap()), plain(&cells));
            apply(&mut cells, step);
            all = step.clone();
        }
        let tree = Tree::new(root, &nodes, &names);
        let leaf = leaf_of(&cells);
        let (root, base) = edit(&nodes, root, &overrides(&all));
        prop_assert_eq!(&base.resolved().unwrap(), &leaf);
        // A rebuild says the same, and the comparison of both finds nothing.
        let rebuilt = if leaf.is_hole() { None } else {
            let node = NewNode::new(&Node::Leaf(leaf), &names).unwrap();
            nodes.add(vec![node.clone()]);
            Some(node.id)
        };
        let rebuilt = Tree::new(TreeRoot { len, root: rebuilt }, &nodes, &names);
        let edited = Tree::new(root, &nodes, &names);
        prop_assert_eq!(edited.diff(&rebuilt).unwrap(), vec![]);
        // The step before: never less than what differs, cell by cell.
        let before = cells_of(&tree.read_leaves(&[0]).unwrap().remove(0).resolved().unwrap());
        let ranges = tree.diff(&edited).unwrap();
        for (i, (old, new)) in before.iter().zip(plain(&cells)).enumerate() {
            let at = i as u64 * 4096;
            let named = ranges.iter().any(|range| range.offset <= at && at < range.offset + range.len);
            prop_assert_eq!(named, *old != new, "cell {}", i);
        }
    }

    #[test]
    fn resolved_ranges_have_no_gap_and_say_what_the_map_says(
        cells in runs(900), cut in 0u64..4096, ranges in prop::collection::vec((any::<u64>(), any::<u64>()), 1..10),
    ) {
        let (nodes, names) = (Nodes::default(), names());
        let len = cells.len() as u64 * 4096 - cut;
        let (root, _) = edit(&nodes, TreeRoot { len, root: None }, &overrides(&[(0, cells.clone())]));
        let tree = Tree::new(root, &nodes, &names);
        for (offset, span) in ranges {
            let offset = offset % len;
            let span = span % (len - offset + 1);
            let mut at = offset;
            for run in tree.resolve(ByteRange { offset, len: span }).unwrap() {
                let run = run.unwrap();
                prop_assert_eq!(run.offset, at);
                prop_assert!(run.len > 0);
                for byte in [run.offset, run.offset + run.len / 2, run.offset + run.len - 1] {
                    let expected = cells[usize::try_from(byte / 4096).unwrap()];
                    let found = run.chunk.map(|slice| {
                        let inside = slice.at_bytes as u64 + (byte - run.offset);
                        prop_assert_eq!(inside % 4096, byte % 4096);
                        Ok((slice.chunk.id, u16::try_from(inside / 4096).unwrap()))
                    }).transpose()?;
                    prop_assert_eq!(found, expected.map(|(n, at)| (chunk(n).id, at)));
                }
                at += run.len;
            }
            prop_assert_eq!(at, offset + span);
        }
        let beyond = ByteRange { offset: len, len: 1 };
        prop_assert!(tree.resolve(beyond).is_err());
    }

    #[test]
    fn decoding_gives_back_the_node_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..5) {
        let mut node = b"RNOD\x01".to_vec();
        node.push(kind);
        node.extend_from_slice(&bytes);
        if let Ok(decoded) = Node::decode(&node) {
            prop_assert_eq!(decoded.encode().unwrap(), node);
        }
    }
}

#[test]
fn a_flipped_bit_of_a_node_is_found_by_its_id_and_never_panics() {
    let names = names();
    let cells: Vec<Cell> = (0..300u16)
        .map(|i| (i % 7 > 2).then_some((u8::try_from(i % 5).unwrap(), i % 64)))
        .collect();
    let (nodes, len) = (Nodes::default(), 300 * 4096);
    let (root, _) = edit(
        &nodes,
        TreeRoot { len, root: None },
        &overrides(&[(0, cells)]),
    );
    let id = root.root.unwrap();
    let sound = nodes.nodes.borrow()[&id].to_vec();
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            let _ = Node::decode(&bytes);
            nodes.nodes.borrow_mut().insert(id, bytes.into());
            let error = Tree::new(root, &nodes, &names)
                .read_leaves(&[0])
                .unwrap_err();
            assert!(matches!(error, TreeError::WrongNode { node } if node == id));
        }
    }
    for len in 0..sound.len() {
        assert!(Node::decode(&sound[..len]).is_err());
    }
}

fn leaf_node(n: u64, cells: u16) -> NewNode {
    let id = names().chunk_id(&n.to_le_bytes());
    let runs = [Run::whole(ChunkRef { id, cells: 9 }), Run::hole(cells - 9)];
    NewNode::new(&Node::Leaf(Leaf::from_runs(cells, runs).unwrap()), &names()).unwrap()
}

/// An image of some regions, of which those in the list have a chunk of their own.
fn build(nodes: &Nodes, len: u64, regions: &BTreeMap<u64, u64>) -> TreeRoot {
    let names = names();
    let mut builder = TreeBuilder::new(len, &names);
    for region in 0..TreeShape::new(len).regions() {
        let leaf = regions.get(&region).map(|&n| {
            let node = leaf_node(n, TreeShape::new(len).cells(region));
            nodes.add(vec![node.clone()]);
            node.id
        });
        builder.push(leaf, &mut &*nodes).unwrap();
    }
    builder.finish(&mut &*nodes).unwrap()
}

#[test]
fn shapes_follow_from_the_length() {
    for (len, regions, height) in [
        (0, 0, 1),
        (1, 1, 1),
        (REGION_BYTES, 1, 1),
        (REGION_BYTES + 1, 2, 2),
        (1024 * REGION_BYTES, 1024, 2),
        (1024 * REGION_BYTES + 1, 1025, 3),
        (1 << 46, 1 << 20, 3),
        (u64::MAX, 1 << 38, 5),
    ] {
        let shape = TreeShape::new(len);
        assert_eq!(
            (shape.regions(), shape.height()),
            (regions, height),
            "{len}"
        );
    }
    assert_eq!(TreeShape::new(REGION_BYTES + 4097).cells(1), 2);
}

#[test]
fn trees_of_three_levels_are_built_edited_compared_and_walked() {
    let (nodes, names) = (Nodes::default(), names());
    let len = 2500 * REGION_BYTES + 5000 * 4096;
    let first: BTreeMap<u64, u64> =
        [(0, 1), (5, 2), (1023, 3), (1024, 4), (2047, 5), (2500, 6)].into();
    let old = build(&nodes, len, &first);
    assert_eq!(
        TreeRoot::from_image_ref(&old.to_image_ref(None)).unwrap(),
        old
    );
    let mut second = first.clone();
    second.remove(&5);
    second.extend([(1023, 30), (1500, 31), (2500, 60)]);
    let changed: BTreeMap<u64, Option<NodeId>> = [5, 1023, 1500, 2500]
        .map(|region| {
            let leaf = second.get(&region).map(|&n| {
                let node = leaf_node(n, TreeShape::new(len).cells(region));
                nodes.add(vec![node.clone()]);
                node.id
            });
            (region, leaf)
        })
        .into();
    let mut new_nodes = Vec::new();
    let old_tree = Tree::new(old, &nodes, &names);
    let edited = old_tree.edit(&changed, &mut new_nodes).unwrap();
    assert_eq!(new_nodes.len(), 4, "three inner nodes and the root");
    nodes.add(new_nodes);
    assert_eq!(edited, build(&nodes, len, &second));
    let new_tree = Tree::new(edited, &nodes, &names);

    *nodes.reads.borrow_mut() = 0;
    let ranges = old_tree.diff(&new_tree).unwrap();
    let starts: Vec<u64> = ranges
        .iter()
        .map(|range| range.offset / REGION_BYTES)
        .collect();
    assert_eq!(starts, [5, 1023, 1500, 2500]);
    assert!(ranges.iter().all(|range| range.len == 9 * 4096));
    assert!(*nodes.reads.borrow() < 20, "walked only where they differ");

    let all = visit(&new_tree, None);
    assert_eq!(all.chunks.len(), second.len());
    let fresh = visit(&new_tree, Some(&old_tree));
    assert_eq!(
        fresh.chunks,
        [30u64, 31, 60]
            .map(|n| names.chunk_id(&n.to_le_bytes()))
            .into()
    );
    assert!(fresh.nodes.is_subset(&all.nodes) && fresh.nodes.len() == 4 + 3);

    // All zero again: no node is left.
    let none: BTreeMap<u64, Option<NodeId>> = second.keys().map(|&region| (region, None)).collect();
    assert_eq!(new_tree.edit(&none, &mut Vec::new()).unwrap().root, None);
}

#[test]
fn images_of_different_lengths_are_compared() {
    let (nodes, names) = (Nodes::default(), names());
    let short = build(&nodes, REGION_BYTES, &[(0, 1)].into());
    let long = build(&nodes, 1500 * REGION_BYTES, &[(0, 1), (1200, 2)].into());
    let (short, long) = (
        Tree::new(short, &nodes, &names),
        Tree::new(long, &nodes, &names),
    );
    let expected = ByteRange {
        offset: REGION_BYTES,
        len: 1499 * REGION_BYTES,
    };
    assert_eq!(short.diff(&long).unwrap(), [expected]);
    assert_eq!(long.diff(&short).unwrap(), [expected]);
    let empty = Tree::new(TreeRoot { len: 0, root: None }, &nodes, &names);
    assert_eq!(
        empty.diff(&short).unwrap(),
        [ByteRange {
            offset: 0,
            len: REGION_BYTES
        }]
    );
}

#[test]
fn nodes_in_the_wrong_place_are_refused() {
    let (nodes, names) = (Nodes::default(), names());
    let len = 3 * REGION_BYTES;
    let root = build(&nodes, len, &[(0, 1), (2, 2)].into());
    let leaf = leaf_node(1, 16_384).id;
    for wrong in [
        TreeRoot {
            len: REGION_BYTES,
            root: root.root,
        },
        TreeRoot {
            len: len + 1,
            root: root.root,
        },
        TreeRoot {
            len: 2000 * REGION_BYTES,
            root: root.root,
        },
        TreeRoot {
            len,
            root: Some(leaf),
        },
        TreeRoot {
            len: 4096,
            root: Some(leaf),
        },
        TreeRoot {
            len,
            root: Some(NodeId([0; 32])),
        },
    ] {
        let tree = Tree::new(wrong, &nodes, &names);
        assert!(tree.read_leaves(&[0]).is_err(), "{wrong:?}");
        assert!(
            tree.visit(None, &mut Visited::default()).is_err(),
            "{wrong:?}"
        );
    }
    let mut image = root.to_image_ref(None);
    image.height = 1;
    assert!(TreeRoot::from_image_ref(&image).is_err());
}

#[test]
fn an_unknown_version_of_a_node_is_named() {
    let mut bytes = leaf_node(1, 100).plain;
    bytes[4] = 2;
    assert!(
        Node::decode(&bytes)
            .unwrap_err()
            .to_string()
            .contains("version 2")
    );
}

#[derive(Default)]
struct Visited {
    nodes: HashSet<NodeId>,
    chunks: HashSet<ChunkId>,
}

impl TreeVisitor for Visited {
    fn node(&mut self, id: NodeId) -> bool {
        self.nodes.insert(id)
    }

    fn chunk(&mut self, used: &ChunkUse) {
        self.chunks.insert(used.chunk.id);
    }
}

fn visit(tree: &Tree<'_>, base: Option<&Tree<'_>>) -> Visited {
    let mut visited = Visited::default();
    tree.visit(base, &mut visited).unwrap();
    visited
}
