//! Layout of a tree node, version 1. Nodes are entries of packs and named by the keyed hash of these bytes.
//!
//! ```text
//! opening    magic "RNOD" [4], version u8, kind u8 (1 leaf, 2 delta leaf, 3 inner), cells of the region u16 (inner: level)
//! leaf       number of chunks u16, number of runs u16; chunks; runs
//! delta      base leaf's id [32], number of chunks u16, number of overrides u16; chunks; overrides
//! inner      number of children u16; a bit per child, lowest first, set where the child is not all zero; ids of those [32]
//! chunk      id [32], its length in cells u8
//! run        cells u16, place of its chunk in the list u16 (0xFFFF: hole), first cell inside the chunk u8
//! override   first cell in the region u16, then a run
//! ```
//!
//! There is one way to write a node: runs that continue one another are joined, chunks are listed in the order of their
//! first use, spare bits are zero, a node that is all zero is not written at all. Anything else is refused.

use std::collections::HashMap;

use super::Cursor;
use crate::tree::{
    ChunkRef, DeltaLeaf, Inner, Leaf, Node, Override, Run, RunSource, join_overrides,
};
use crate::{CHUNK_MAX_CELLS, ChunkId, FAN_OUT, FormatError, NodeId, REGION_CELLS};

const WHAT: &str = "tree node";

/// Magic bytes of a node.
pub const MAGIC: [u8; 4] = *b"RNOD";
/// The highest level a tree can have: 1024^5 regions are more than any disk.
pub const MAX_LEVEL: u8 = 6;
const VERSION: u8 = 1;
const LEAF: u8 = 1;
const DELTA: u8 = 2;
const INNER: u8 = 3;
const HOLE: u16 = 0xFFFF;

impl Node {
    /// Returns the node's bytes, or what keeps it from being a node.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        match self {
            Node::Leaf(leaf) => encode_leaf(leaf),
            Node::Delta(delta) => encode_delta(delta),
            Node::Inner(inner) => encode_inner(inner),
        }
    }

    /// Reads a node's bytes. Everything about the node itself is checked; its place in a tree is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        if cursor.take(4)? != MAGIC {
            return Err(FormatError::WrongMagic { what: WHAT });
        }
        let (version, kind, number) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
        if version != VERSION {
            return Err(FormatError::UnknownVersion {
                what: WHAT,
                version: version.into(),
            });
        }
        let node = match kind {
            LEAF => Node::Leaf(decode_leaf(&mut cursor, number)?),
            DELTA => Node::Delta(decode_delta(&mut cursor, number)?),
            INNER => Node::Inner(decode_inner(&mut cursor, number)?),
            other => return Err(cursor.invalid(format!("unknown kind {other}"))),
        };
        cursor.end()?;
        if node.encode()? != bytes {
            return Err(FormatError::invalid(
                WHAT,
                "it is not written in the one way it can be",
            ));
        }
        Ok(node)
    }
}

fn opening(kind: u8, number: u16) -> Vec<u8> {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

fn encode_leaf(leaf: &Leaf) -> Result<Vec<u8>, FormatError> {
    if leaf.is_hole() {
        return Err(FormatError::invalid(WHAT, "a leaf that is all zero"));
    }
    let table = ChunkTable::new(leaf.runs().iter())?;
    let mut bytes = opening(LEAF, leaf.cells());
    table.encode(&mut bytes, leaf.runs().len());
    for run in leaf.runs() {
        table.encode_run(&mut bytes, run);
    }
    Ok(bytes)
}

fn encode_delta(delta: &DeltaLeaf) -> Result<Vec<u8>, FormatError> {
    if delta.overrides.is_empty() {
        return Err(FormatError::invalid(WHAT, "a delta leaf without overrides"));
    }
    let table = ChunkTable::new(delta.overrides.iter().map(|change| &change.run))?;
    let mut bytes = opening(DELTA, delta.cells);
    bytes.extend_from_slice(&delta.base.0);
    table.encode(&mut bytes, delta.overrides.len());
    for change in &delta.overrides {
        bytes.extend_from_slice(&change.at.to_le_bytes());
        table.encode_run(&mut bytes, &change.run);
    }
    Ok(bytes)
}

fn encode_inner(inner: &Inner) -> Result<Vec<u8>, FormatError> {
    let count = u16::try_from(inner.children.len())
        .ok()
        .filter(|&n| (1..=FAN_OUT).contains(&n));
    let Some(count) = count.filter(|_| inner.children.iter().any(Option::is_some)) else {
        return Err(FormatError::invalid(
            WHAT,
            format!("an inner node of {} children", inner.children.len()),
        ));
    };
    if !(2..=MAX_LEVEL).contains(&inner.level) {
        return Err(FormatError::invalid(
            WHAT,
            format!("an inner node of level {}", inner.level),
        ));
    }
    let mut bytes = opening(INNER, inner.level.into());
    bytes.extend_from_slice(&count.to_le_bytes());
    for eight in inner.children.chunks(8) {
        bytes.push(
            eight
                .iter()
                .enumerate()
                .fold(0, |bits, (i, child)| bits | u8::from(child.is_some()) << i),
        );
    }
    for child in inner.children.iter().flatten() {
        bytes.extend_from_slice(&child.0);
    }
    Ok(bytes)
}

fn decode_leaf(cursor: &mut Cursor<'_>, cells: u16) -> Result<Leaf, FormatError> {
    check_cells(cursor, cells)?;
    let (chunks, count) = decode_table(cursor)?;
    let mut runs = Vec::with_capacity(count.into());
    for _ in 0..count {
        runs.push(decode_run(cursor, &chunks)?);
    }
    Leaf::from_runs(cells, runs).map_err(|error| cursor.invalid(error.to_string()))
}

fn decode_delta(cursor: &mut Cursor<'_>, cells: u16) -> Result<DeltaLeaf, FormatError> {
    check_cells(cursor, cells)?;
    let base = NodeId(cursor.array()?);
    let (chunks, count) = decode_table(cursor)?;
    let mut overrides = Vec::with_capacity(count.into());
    for _ in 0..count {
        let at = cursor.u16()?;
        overrides.push(Override {
            at,
            run: decode_run(cursor, &chunks)?,
        });
    }
    let overrides =
        join_overrides(cells, overrides).map_err(|error| cursor.invalid(error.to_string()))?;
    Ok(DeltaLeaf {
        base,
        cells,
        overrides,
    })
}

fn decode_inner(cursor: &mut Cursor<'_>, level: u16) -> Result<Inner, FormatError> {
    let level = u8::try_from(level).map_err(|_| cursor.invalid(format!("level {level}")))?;
    let count = cursor.u16()?;
    if count > FAN_OUT {
        return Err(cursor.invalid(format!("{count} children")));
    }
    let bits = cursor.take(usize::from(count).div_ceil(8))?.to_vec();
    let mut children = Vec::with_capacity(count.into());
    for i in 0..usize::from(count) {
        let present = bits[i / 8] >> (i % 8) & 1 == 1;
        children.push(if present {
            Some(NodeId(cursor.array()?))
        } else {
            None
        });
    }
    Ok(Inner { level, children })
}

fn check_cells(cursor: &Cursor<'_>, cells: u16) -> Result<(), FormatError> {
    match cells {
        1..=REGION_CELLS => Ok(()),
        other => Err(cursor.invalid(format!("a region of {other} cells"))),
    }
}

fn decode_table(cursor: &mut Cursor<'_>) -> Result<(Vec<ChunkRef>, u16), FormatError> {
    let (chunks, count) = (cursor.u16()?, cursor.u16()?);
    if chunks > REGION_CELLS || count > REGION_CELLS {
        return Err(cursor.invalid(format!("{chunks} chunks and {count} runs")));
    }
    let mut table = Vec::with_capacity(chunks.into());
    for _ in 0..chunks {
        let (id, cells) = (ChunkId(cursor.array()?), u16::from(cursor.u8()?));
        if !(1..=CHUNK_MAX_CELLS).contains(&cells) {
            return Err(cursor.invalid(format!("a chunk of {cells} cells")));
        }
        table.push(ChunkRef { id, cells });
    }
    Ok((table, count))
}

fn decode_run(cursor: &mut Cursor<'_>, chunks: &[ChunkRef]) -> Result<Run, FormatError> {
    let (cells, place, at) = (cursor.u16()?, cursor.u16()?, u16::from(cursor.u8()?));
    let source = match place {
        HOLE => RunSource::Hole,
        _ => {
            let chunk = chunks
                .get(usize::from(place))
                .ok_or_else(|| cursor.invalid("a run of a chunk not listed"))?;
            RunSource::Chunk { chunk: *chunk, at }
        }
    };
    Ok(Run { cells, source })
}

/// The chunks of a leaf in the order of their first use.
struct ChunkTable {
    chunks: Vec<ChunkRef>,
    places: HashMap<ChunkId, u16>,
}

impl ChunkTable {
    fn new<'a>(runs: impl Iterator<Item = &'a Run>) -> Result<Self, FormatError> {
        let mut table = Self {
            chunks: Vec::new(),
            places: HashMap::new(),
        };
        for run in runs {
            let RunSource::Chunk { chunk, .. } = run.source else {
                continue;
            };
            let next = u16::try_from(table.chunks.len())
                .ok()
                .filter(|&place| place < REGION_CELLS)
                .ok_or_else(|| FormatError::invalid(WHAT, "more chunks than cells"))?;
            let place = *table.places.entry(chunk.id).or_insert(next);
            if place == next {
                table.chunks.push(chunk);
            } else if table.chunks[usize::from(place)].cells != chunk.cells {
                return Err(FormatError::invalid(
                    WHAT,
                    format!("chunk {} with two lengths", chunk.id),
                ));
            }
        }
        Ok(table)
    }

    fn encode(&self, bytes: &mut Vec<u8>, runs: usize) {
        let len16 =
            |len: usize| u16::try_from(len).expect("a region has at most 16,384 runs and chunks");
        bytes.extend_from_slice(&len16(self.chunks.len()).to_le_bytes());
        bytes.extend_from_slice(&len16(runs).to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.id.0);
            bytes.push(u8::try_from(chunk.cells).expect("a chunk has at most 64 cells"));
        }
    }

    fn encode_run(&self, bytes: &mut Vec<u8>, run: &Run) {
        let (place, at) = match run.source {
            RunSource::Hole => (HOLE, 0),
            RunSource::Chunk { chunk, at } => (self.places[&chunk.id], at),
        };
        bytes.extend_from_slice(&run.cells.to_le_bytes());
        bytes.extend_from_slice(&place.to_le_bytes());
        bytes.push(u8::try_from(at).expect("a chunk has at most 64 cells"));
    }
}
