//! The index through its public face.

use std::collections::HashMap;
use std::path::Path;

use chunk_index::{ChunkIndex, IndexError, MAX_CANDIDATES, Opened, Options, Place};
use model::VaultId;
use proptest::prelude::*;
use store::{ChunkId, EntryId, NodeId};

fn chunk(n: u64) -> EntryId {
    let mut id = [0; 32];
    // Spread like a hash, and the same for the same number.
    id[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    id[8..16].copy_from_slice(&n.to_be_bytes());
    EntryId::Chunk(ChunkId(id))
}

fn options(folder: &Path, vault: VaultId) -> Options {
    Options {
        cache_bytes: 8 << 20,
        write_buffer_bytes: 4 << 20,
        ..Options::new(folder.join("index"), vault)
    }
}

fn place(sequence: u64, entry: u32) -> Place {
    Place { sequence, entry }
}

#[test]
fn finds_what_was_added_after_reopening_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), VaultId::random());
    let (index, opened) = ChunkIndex::open(&options).unwrap();
    assert!(matches!(opened, Opened::Rebuilt { .. }));
    assert!(index.add_pack(3, &[chunk(1), chunk(2), chunk(1)]).unwrap());
    assert!(index.add_pack(7, &[chunk(2)]).unwrap());
    assert!(
        !index.add_pack(7, &[chunk(9)]).unwrap(),
        "a pack that is in already"
    );
    drop(index);
    let (index, opened) = ChunkIndex::open(&options).unwrap();
    assert_eq!(opened, Opened::Existing);
    assert_eq!(index.applied_sequence(), 7);
    let found = index.look_up(&[chunk(1), chunk(2), chunk(9)]).unwrap();
    assert_eq!(
        found,
        [
            vec![place(3, 2), place(3, 0)],
            vec![place(7, 0), place(3, 1)],
            vec![]
        ]
    );
}

#[test]
fn ids_that_share_twelve_bytes_are_candidates_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = ChunkIndex::open(&options(dir.path(), VaultId::random())).unwrap();
    let (mut a, mut b) = ([7; 32], [7; 32]);
    (a[31], b[31]) = (1, 2);
    let ids = [EntryId::Chunk(ChunkId(a)), EntryId::Node(NodeId(b))];
    index.add_pack(1, &ids).unwrap();
    let both = vec![place(1, 1), place(1, 0)];
    assert_eq!(index.look_up(&ids).unwrap(), [both.clone(), both]);
}

#[test]
fn a_removed_pack_is_forgotten_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = ChunkIndex::open(&options(dir.path(), VaultId::random())).unwrap();
    index.add_pack(1, &[chunk(1), chunk(2)]).unwrap();
    index.add_pack(2, &[chunk(2), chunk(3)]).unwrap();
    index.remove_pack(1, &[chunk(1), chunk(2)]).unwrap();
    let found = index.look_up(&[chunk(1), chunk(2), chunk(3)]).unwrap();
    assert_eq!(found, [vec![], vec![place(2, 0)], vec![place(2, 1)]]);
    assert_eq!(index.applied_sequence(), 2);
}

#[test]
fn keeps_the_newest_of_very_many_candidates() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = ChunkIndex::open(&options(dir.path(), VaultId::random())).unwrap();
    for sequence in 1..=40 {
        index.add_pack(sequence, &[chunk(1)]).unwrap();
    }
    let found = index.look_up(&[chunk(1)]).unwrap().remove(0);
    assert_eq!(found.len(), MAX_CANDIDATES);
    assert_eq!(found[0], place(40, 0));
}

#[test]
fn a_wiped_index_is_empty_and_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), VaultId::random());
    let (index, _) = ChunkIndex::open(&options).unwrap();
    index.add_pack(5, &[chunk(1)]).unwrap();
    index.wipe().unwrap();
    assert_eq!(index.applied_sequence(), 0);
    assert_eq!(index.look_up(&[chunk(1)]).unwrap(), [vec![]]);
    index.add_pack(1, &[chunk(2)]).unwrap();
    drop(index);
    let (index, opened) = ChunkIndex::open(&options).unwrap();
    assert_eq!((opened, index.applied_sequence()), (Opened::Existing, 1));
    assert_eq!(
        index.look_up(&[chunk(1), chunk(2)]).unwrap(),
        [vec![], vec![place(1, 0)]]
    );
}

#[test]
fn the_index_of_another_vault_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = ChunkIndex::open(&options(dir.path(), VaultId::random())).unwrap();
    index.add_pack(5, &[chunk(1)]).unwrap();
    drop(index);
    let (index, opened) = ChunkIndex::open(&options(dir.path(), VaultId::random())).unwrap();
    assert!(matches!(opened, Opened::Rebuilt { .. }));
    assert_eq!(
        (
            index.applied_sequence(),
            index.look_up(&[chunk(1)]).unwrap()
        ),
        (0, vec![vec![]])
    );
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), VaultId::random());
    let (first, _) = ChunkIndex::open(&options).unwrap();
    first.add_pack(1, &[chunk(1)]).unwrap();
    assert!(matches!(
        ChunkIndex::open(&options),
        Err(IndexError::InUse { .. })
    ));
    assert_eq!(first.look_up(&[chunk(1)]).unwrap(), [vec![place(1, 0)]]);
}

/// Every file of the index, each time one of them damaged in another way: opened or made anew, never a panic, and
/// never an answer that was not put in.
#[test]
fn a_damaged_index_is_made_anew_or_refuses_and_never_panics() {
    for case in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), VaultId::random());
        let (index, _) = ChunkIndex::open(&options).unwrap();
        let ids: Vec<EntryId> = (0..5000).map(chunk).collect();
        index.add_pack(1, &ids).unwrap();
        drop(index);
        let mut files = Vec::new();
        let mut folders = vec![options.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        let file = &files[case % files.len()];
        let mut bytes = std::fs::read(file).unwrap();
        match case / files.len() {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            _ => bytes
                .iter_mut()
                .skip(8)
                .step_by(97)
                .for_each(|byte| *byte ^= 0x55),
        }
        std::fs::write(file, bytes).unwrap();
        let Ok((index, _)) = ChunkIndex::open(&options) else {
            continue;
        };
        if let Ok(found) = index.look_up(&ids) {
            for (n, places) in found.iter().enumerate() {
                assert!(places.is_empty() || places[..] == [place(1, u32::try_from(n).unwrap())]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_a_plain_map(
        steps in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0u64..40, 0..30)), 1..25),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), VaultId::random());
        let (mut index, _) = ChunkIndex::open(&options).unwrap();
        let mut model: HashMap<u64, Vec<Place>> = HashMap::new();
        let mut packs: Vec<(u64, Vec<u64>)> = Vec::new();
        let mut sequence = 0;
        for (add, numbers) in steps {
            let ids: Vec<EntryId> = numbers.iter().map(|&n| chunk(n)).collect();
            if add || packs.is_empty() {
                sequence += 1 + numbers.len() as u64 % 3;
                index.add_pack(sequence, &ids).unwrap();
                for (entry, n) in (0u32..).zip(&numbers) {
                    let places = model.entry(*n).or_default();
                    places.insert(0, place(sequence, entry));
                    places.truncate(MAX_CANDIDATES);
                }
                packs.push((sequence, numbers));
            } else {
                let (gone, numbers) = packs.remove(numbers.len() % packs.len());
                let ids: Vec<EntryId> = numbers.iter().map(|&n| chunk(n)).collect();
                index.remove_pack(gone, &ids).unwrap();
                for places in model.values_mut() {
                    places.retain(|place| place.sequence != gone);
                }
            }
            if sequence % 4 == 0 {
                drop(index);
                index = ChunkIndex::open(&options).unwrap().0;
            }
        }
        prop_assert_eq!(index.applied_sequence(), sequence);
        let ids: Vec<EntryId> = (0..40).map(chunk).collect();
        for (n, found) in (0u64..).zip(index.look_up(&ids).unwrap()) {
            prop_assert_eq!(found, model.get(&n).cloned().unwrap_or_default());
        }
    }
}
