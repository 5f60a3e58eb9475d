//! Packs: what goes in comes out, and nothing else ever does.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use store::{
    ChunkId, Decoder, EntryId, LiveCells, PACK_TARGET_BYTES, PackError, PackFooter, PackId,
    PackKey, PackReader, PackSeal, PackTail, PackWriter, Salt, SealedEntry, SealedPack, VaultKeys,
};

use crate::support::{keys, material, names, random};

fn small_pack() -> SealedPack {
    let mut writer = PackWriter::new(keys().seal_with(Salt([5; 16])).unwrap());
    for plain in [b"reprise ".repeat(512), random(1, 300)] {
        writer.add(names().chunk_id(&plain), &plain).unwrap();
    }
    let node = b"a node".repeat(20);
    writer.add(names().node_id(&node), &node).unwrap();
    writer.finish()
}

fn named(bytes: Vec<u8>) -> (PackId, Bytes) {
    (PackId(*blake3::hash(&bytes).as_bytes()), bytes.into())
}

/// Reads all of a pack; `None` where any of it is refused.
fn read_all(id: &PackId, bytes: Bytes) -> Option<Vec<Vec<u8>>> {
    let reader = PackReader::open(id, bytes, &keys()).ok()?;
    let mut all = Vec::new();
    reader
        .check_entries(&names(), |_, opened| {
            all.push(opened.plain.clone());
            Ok(())
        })
        .ok()?;
    Some(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_goes_in_comes_out(
        sizes in prop::collection::vec((0usize..5, 1usize..65, any::<u64>()), 0..20), salt in any::<[u8; 16]>(),
    ) {
        let mut writer = PackWriter::new(keys().seal_with(Salt(salt)).unwrap());
        let plains: Vec<Vec<u8>> = sizes.iter().map(|&(kind, cells, seed)| match kind {
            0 => vec![7; cells * 4096],
            1 => random(seed, cells * 4096).iter().map(|byte| byte % 20).collect(),
            _ => random(seed, cells * 4096),
        }).collect();
        for plain in &plains {
            writer.add(names().chunk_id(plain), plain).unwrap();
        }
        let expected_len = writer.sealed_len();
        let pack = writer.finish();
        prop_assert_eq!(pack.bytes.len(), expected_len);
        prop_assert_eq!(read_all(&pack.id, pack.bytes.clone()), Some(plains.clone()));

        // By the tail only, then entry by entry over a wire.
        let len = pack.bytes.len() as u64;
        let tail = PackTail::parse(&pack.bytes[pack.bytes.len().saturating_sub(100)..], len).unwrap();
        let at = |n: u64| usize::try_from(n).unwrap();
        let sealed_footer = &pack.bytes[at(tail.footer.start)..at(tail.footer.end)];
        let footer = PackFooter::open(&tail, sealed_footer, &keys()).unwrap();
        prop_assert_eq!(&footer.entries, &pack.entries);
        let mut wire = Vec::new();
        for info in &footer.entries {
            let sealed = pack.bytes.slice(at(info.offset)..at(info.end()));
            footer.entry(info.number, sealed).unwrap().unwrap().encode_to(&mut wire);
        }
        let mut buffer = BytesMut::new();
        let mut came = Vec::new();
        for part in wire.chunks(1000) {
            buffer.extend_from_slice(part);
            while let Some(entry) = SealedEntry::decode_from(&mut buffer).unwrap() {
                came.push(entry.open(&keys(), &names(), &mut Decoder::new()).unwrap().plain);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(came, plains);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (id, bytes) = named(bytes);
        prop_assert!(PackReader::open(&id, bytes.clone(), &keys()).is_err());
        let _ = PackTail::parse(&bytes, 40_000_000);
        let _ = SealedEntry::decode_from(&mut BytesMut::from(&bytes[..]));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_with_and_without_the_name() {
    let pack = small_pack();
    let sound = read_all(&pack.id, pack.bytes.clone()).unwrap();
    assert_eq!(sound.len(), 3);
    for at in 0..pack.bytes.len() {
        for bit in [0, 3, 7] {
            let mut bytes = pack.bytes.to_vec();
            bytes[at] ^= 1 << bit;
            let (forged_name, bytes) = named(bytes);
            assert!(matches!(
                PackReader::open(&pack.id, bytes.clone(), &keys()),
                Err(PackError::WrongHash { .. })
            ));
            assert_eq!(read_all(&forged_name, bytes), None, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn a_pack_cut_short_or_lengthened_is_refused() {
    let pack = small_pack();
    for len in 0..pack.bytes.len() {
        let (id, bytes) = named(pack.bytes[..len].to_vec());
        assert!(read_all(&id, bytes).is_none(), "{len}");
    }
    for extra in [&[0][..], &[0; 100]] {
        let (id, bytes) = named([&pack.bytes, extra].concat());
        assert!(read_all(&id, bytes).is_none());
        let (id, bytes) = named([extra, &pack.bytes].concat());
        assert!(read_all(&id, bytes).is_none());
    }
}

#[test]
fn entries_cannot_be_swapped_between_places_or_packs() {
    let same = b"the same length".repeat(100);
    let other = b"THE SAME LENGTH".repeat(100);
    let write = |salt: u8| {
        let mut writer = PackWriter::new(keys().seal_with(Salt([salt; 16])).unwrap());
        writer.add(names().chunk_id(&same), &same).unwrap();
        writer.add(names().chunk_id(&other), &other).unwrap();
        writer.finish()
    };
    let (one, two) = (write(1), write(2));
    let reader =
        |pack: &SealedPack| PackReader::open(&pack.id, pack.bytes.clone(), &keys()).unwrap();
    let sealed = |pack: &SealedPack, n: usize| {
        let info = pack.entries[n];
        let at = |n: u64| usize::try_from(n).unwrap();
        pack.bytes.slice(at(info.offset)..at(info.end()))
    };
    for (info_of, bytes_of) in [
        ((&one, 0), (&one, 1)),
        ((&one, 1), (&one, 0)),
        ((&one, 0), (&two, 0)),
    ] {
        let footer = reader(info_of.0).footer().clone();
        let number = u32::try_from(info_of.1).unwrap();
        if let Ok(entry) = footer
            .entry(number, sealed(bytes_of.0, bytes_of.1))
            .unwrap()
        {
            assert!(entry.open(&keys(), &names(), &mut Decoder::new()).is_err());
        }
    }
}

#[test]
fn an_entry_that_lies_about_its_content_is_found() {
    let mut writer = PackWriter::new(keys().new_seal().unwrap());
    writer
        .add(ChunkId([9; 32]), b"something else entirely")
        .unwrap();
    let pack = writer.finish();
    let reader = PackReader::open(&pack.id, pack.bytes, &keys()).unwrap();
    let error = reader
        .read(0, &names(), &mut Decoder::new())
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, PackError::WrongContent { number: 0, id: EntryId::Chunk(ChunkId(id)) } if id == [9; 32])
    );
    // The same bytes under the other kind have another name.
    let mut writer = PackWriter::new(keys().new_seal().unwrap());
    writer
        .add(store::NodeId(names().chunk_id(b"bytes").0), b"bytes")
        .unwrap();
    let pack = writer.finish();
    assert!(read_all(&pack.id, pack.bytes).is_none());
}

#[test]
fn a_pack_opens_with_its_own_key_only() {
    let pack = small_pack();
    let open = |keys: &dyn store::PackKeys| PackReader::open(&pack.id, pack.bytes.clone(), keys);
    let stranger = VaultKeys::generate(material().vault).unwrap();
    assert!(matches!(open(&stranger), Err(PackError::Format(_))));
    let (generation, salt, key) = keys().seal_with(Salt([5; 16])).unwrap().into_parts();
    assert!(open(&PackKey::from_parts(generation, salt, *key)).is_ok());
    assert!(open(&PackKey::from_parts(generation, Salt([6; 16]), *key)).is_err());
    assert!(open(&PackKey::from_parts(2, salt, *key)).is_err());
}

#[test]
fn a_seal_that_was_handed_over_writes_the_same_pack() {
    let direct = small_pack();
    let (generation, salt, key) = keys().seal_with(Salt([5; 16])).unwrap().into_parts();
    let mut writer = PackWriter::new(PackSeal::from_parts(generation, salt, *key));
    for plain in [b"reprise ".repeat(512), random(1, 300)] {
        writer.add(names().chunk_id(&plain), &plain).unwrap();
    }
    let node = b"a node".repeat(20);
    writer.add(names().node_id(&node), &node).unwrap();
    assert_eq!(writer.finish().bytes, direct.bytes);
}

#[test]
fn packs_end_at_32_mib_and_take_no_more() {
    let mut writer = PackWriter::new(keys().new_seal().unwrap());
    let chunk = random(4, 256 * 1024);
    while !writer.is_full() {
        writer.add(names().chunk_id(&chunk), &chunk).unwrap();
    }
    assert!((PACK_TARGET_BYTES..PACK_TARGET_BYTES + 300_000).contains(&writer.sealed_len()));
    while writer.add(names().chunk_id(&chunk), &chunk).is_ok() {
        assert!(writer.sealed_len() < PACK_TARGET_BYTES + 1_000_000);
    }
    assert!(
        writer
            .add(names().chunk_id(&chunk), &random(4, 256 * 1024 + 1))
            .is_err()
    );
}

#[test]
fn a_partial_chunk_has_only_its_live_cells() {
    let whole = random(11, 9 * 4096);
    let id = names().chunk_id(&whole);
    let live = LiveCells::new(0b1_0000_0110.try_into().unwrap());
    let mut writer = PackWriter::new(keys().new_seal().unwrap());
    writer.add_partial(id, &whole, live).unwrap();
    assert!(
        writer
            .add_partial(id, &whole, LiveCells::new((1 << 9).try_into().unwrap()))
            .is_err()
    );
    let pack = writer.finish();
    assert_eq!(pack.entries[0].plain_len, 3 * 4096);
    let reader = PackReader::open(&pack.id, pack.bytes, &keys()).unwrap();
    let opened = reader
        .sealed(0)
        .unwrap()
        .open(&keys(), &names(), &mut Decoder::new())
        .unwrap();
    assert_eq!(opened.live, Some(live));
    assert!(
        live.has(1, 2) && live.has(8, 1) && !live.has(0, 1) && !live.has(2, 2) && !live.has(63, 2)
    );
    for cell in [1, 2, 8] {
        assert_eq!(
            opened.plain[cell * 4096..][..4096],
            whole[cell * 4096..][..4096]
        );
    }
}
