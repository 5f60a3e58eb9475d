//! Golden files: what an earlier build wrote, every later one reads. Never written anew; a new version adds files.

#![expect(clippy::disallowed_methods, reason = "golden files are files")]

use std::fs;
use std::path::PathBuf;

use store::format::keys::KeysObject;
use store::format::vault::VaultDescription;
use store::{
    ChunkRef, DeltaLeaf, Inner, Leaf, MasterKey, NewNode, Node, NodeId, Override, PackId,
    PackReader, PackWriter, PointObject, Run, RunSource, Salt, open_point, seal_point,
};

use crate::support::{keys, material, names, point, point_of_files, random};

fn chunk(n: u8, cells: u16) -> ChunkRef {
    ChunkRef {
        id: names().chunk_id(&[n]),
        cells,
    }
}

fn nodes() -> Vec<Node> {
    let runs = [
        Run::whole(chunk(1, 16)),
        Run::hole(1000),
        Run {
            cells: 3,
            source: RunSource::Chunk {
                chunk: chunk(2, 64),
                at: 61,
            },
        },
        Run {
            cells: 1,
            source: RunSource::Chunk {
                chunk: chunk(1, 16),
                at: 5,
            },
        },
        Run::hole(15_364),
    ];
    let leaf = Node::Leaf(Leaf::from_runs(16_384, runs).unwrap());
    let base = NewNode::new(&leaf, &names()).unwrap().id;
    let overrides = vec![
        Override {
            at: 0,
            run: Run::hole(2),
        },
        Override {
            at: 16_380,
            run: Run {
                cells: 4,
                source: RunSource::Chunk {
                    chunk: chunk(3, 9),
                    at: 2,
                },
            },
        },
    ];
    let delta = Node::Delta(DeltaLeaf {
        base,
        cells: 16_384,
        overrides,
    });
    let mut children: Vec<Option<NodeId>> = vec![None; 1024];
    children[7] = Some(base);
    children[1023] = Some(NodeId([4; 32]));
    vec![leaf, delta, Node::Inner(Inner { level: 2, children })]
}

fn pack() -> (PackId, Vec<u8>) {
    let mut writer = PackWriter::new(keys().seal_with(Salt([5; 16])).unwrap());
    for plain in [b"reprise ".repeat(1024), random(1, 8192)] {
        writer.add(names().chunk_id(&plain), &plain).unwrap();
    }
    for node in nodes() {
        let node = NewNode::new(&node, &names()).unwrap();
        writer.add(node.id, &node.plain).unwrap();
    }
    let whole = random(2, 3 * 4096);
    writer
        .add_partial(
            names().chunk_id(&whole),
            &whole,
            store::LiveCells::new(0b101.try_into().unwrap()),
        )
        .unwrap();
    let pack = writer.finish();
    (pack.id, pack.bytes.to_vec())
}

fn keys_object() -> KeysObject {
    let mut object = KeysObject::new(&material());
    object
        .wrap_with_master(&material(), &MasterKey::new([9; 32]), Salt([1; 16]))
        .unwrap();
    object
}

fn description() -> VaultDescription {
    VaultDescription {
        vault: material().vault,
        created: "2026-01-02T03:04:05.678Z".parse().unwrap(),
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `WRITE_GOLDEN=1` writes those that are missing; once per format version.
#[test]
fn no_golden_file_is_missing() {
    let mut files = vec![
        ("pack-v1.bin".to_owned(), pack().1),
        ("keys-v1.bin".to_owned(), keys_object().encode().unwrap()),
        (
            "point-v1.bin".to_owned(),
            seal_point(&point(), &keys(), Salt([6; 16])).unwrap(),
        ),
        (
            "point-v1-files.bin".to_owned(),
            seal_point(&point_of_files(), &keys(), Salt([7; 16])).unwrap(),
        ),
        ("vault-v1.json".to_owned(), description().encode()),
    ];
    for (kind, node) in ["leaf", "delta", "inner"].iter().zip(nodes()) {
        files.push((format!("node-{kind}-v1.bin"), node.encode().unwrap()));
    }
    for (name, bytes) in files {
        if !path(&name).exists() && std::env::var_os("WRITE_GOLDEN").is_some() {
            fs::write(path(&name), bytes).unwrap();
        }
        assert!(path(&name).exists(), "{name} is missing");
    }
}

#[test]
fn pack_version_1_is_read() {
    let bytes = golden("pack-v1.bin");
    let id = PackId(*blake3::hash(&bytes).as_bytes());
    let reader = PackReader::open(&id, bytes.into(), &keys()).unwrap();
    let mut plains = Vec::new();
    reader
        .check_entries(&names(), |_, opened| {
            plains.push(opened.plain.clone());
            Ok(())
        })
        .unwrap();
    assert_eq!(plains[..2], [b"reprise ".repeat(1024), random(1, 8192)]);
    for (plain, node) in plains[2..5].iter().zip(nodes()) {
        assert_eq!(Node::decode(plain).unwrap(), node);
    }
    assert_eq!(plains[5][..4096], random(2, 3 * 4096)[..4096]);
}

#[test]
fn nodes_of_version_1_are_read_and_still_written_so() {
    for (kind, node) in ["leaf", "delta", "inner"].iter().zip(nodes()) {
        let bytes = golden(&format!("node-{kind}-v1.bin"));
        assert_eq!(Node::decode(&bytes).unwrap(), node);
        // Ids are made of these bytes: another way to write them would break sharing with every older point.
        assert_eq!(node.encode().unwrap(), bytes);
    }
}

#[test]
fn keys_point_and_description_of_version_1_are_read() {
    let object = KeysObject::decode(&golden("keys-v1.bin")).unwrap();
    assert_eq!(
        object.unwrap_with_master(&MasterKey::new([9; 32])).unwrap(),
        material()
    );
    let point = point();
    assert_eq!(
        open_point(point.id, &golden("point-v1.bin"), &keys()).unwrap(),
        PointObject::Point(point)
    );
    let files = point_of_files();
    assert_eq!(
        open_point(files.id, &golden("point-v1-files.bin"), &keys()).unwrap(),
        PointObject::Point(files)
    );
    assert_eq!(
        VaultDescription::decode(&golden("vault-v1.json")).unwrap(),
        description()
    );
}

#[test]
fn names_and_cuts_of_version_1_stay() {
    let bytes = random(42, 400 * 4096);
    let cutter = names().cutter();
    let (mut at, mut cuts) = (0, Vec::new());
    while let Some(cut) = cutter.next(&bytes[at..], true) {
        let (store::RegionCut::Chunk { cells } | store::RegionCut::Hole { cells }) = cut;
        cuts.push(cells);
        at += usize::from(cells) * 4096;
    }
    let sum = blake3::hash(
        &cuts
            .iter()
            .flat_map(|cells| cells.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
    .to_hex();
    let found = format!("{} {} {sum}", names().chunk_id(b"x"), names().node_id(b"x"));
    assert_eq!(
        found,
        String::from_utf8(golden("names-v1.txt")).unwrap().trim()
    );
}
