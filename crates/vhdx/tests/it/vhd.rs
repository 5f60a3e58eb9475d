//! VHD files: every rule broken on purpose, chains, what is tolerated, random damage.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::power::Chance;
use crate::support::{MIB, disk_of, read, rounds};
use crate::vhd_file::{HEADER, Parent, SECTOR, Spec, TABLE, in_memory, put, seal, utf16le};
use vhdx::{
    Chain, Disk, DiskFile, DiskKind, DiskWriter, Durability, Error, ExtentKind, Format, Kind,
    MemoryFile, Params, ParentLocator, ParentResolver, Place, ReadAt, Rule, Vhd, Vhdx, inspect,
};

const BLOCK: u32 = 64 << 10;
const SIZE: u64 = 10 * (64 << 10) - 1024;

fn sector(seed: u8) -> [u8; SECTOR] {
    let mut bytes = [seed; SECTOR];
    bytes[0] = !seed;
    bytes
}

/// Sectors at borders: of bytes of the bitmap, of blocks, of the disk.
fn some_sectors(seed: u8) -> Vec<(u64, [u8; SECTOR])> {
    let last = SIZE / 512 - 1;
    let wanted = [0, 1, 7, 8, 63, 64, 65, 127, 128, 129, 300, 301, last];
    wanted
        .into_iter()
        .zip(seed..)
        .map(|(at, seed)| (at, sector(seed)))
        .collect()
}

fn spec() -> Spec {
    Spec {
        sectors: some_sectors(1),
        ..Spec::new(SIZE, BLOCK)
    }
}

fn child() -> Vec<u8> {
    Spec {
        parent: Some(Parent::windows(Uuid::new_v4(), "base.vhd")),
        ..spec()
    }
    .sparse()
}

fn dynamic() -> Vec<u8> {
    spec().sparse()
}

fn fixed() -> Vec<u8> {
    spec().fixed()
}

/// Reads all of a disk, whole and in odd pieces, and checks that extents and runs say the same.
fn read_all(disk: &Disk, files: &[&[u8]]) -> Vec<u8> {
    let len = usize::try_from(disk.size()).unwrap();
    let whole = read(disk, 0, len);
    for (offset, piece) in whole.chunks(7000).enumerate() {
        assert_eq!(read(disk, offset as u64 * 7000, piece.len()), piece);
    }
    let mut at = 0;
    for extent in disk.extents(0, u64::MAX).map(Result::unwrap) {
        assert_eq!(extent.offset, at);
        at += extent.len;
        let range = usize::try_from(extent.offset).unwrap()..usize::try_from(at).unwrap();
        if extent.kind == ExtentKind::Zero {
            assert!(whole[range].iter().all(|byte| *byte == 0));
        }
    }
    assert_eq!(at, disk.size());
    let mut by_runs = Vec::new();
    for run in disk.runs(0, u64::MAX).map(Result::unwrap) {
        assert_eq!(run.offset, by_runs.len() as u64);
        let len = usize::try_from(run.len).unwrap();
        match run.place {
            Place::File { number, offset } => {
                let offset = usize::try_from(offset).unwrap();
                by_runs.extend(&files[number][offset..offset + len]);
            }
            Place::Zero => by_runs.resize(by_runs.len() + len, 0),
            Place::Log { .. } => panic!("a VHD has no log"),
        }
    }
    assert!(by_runs == whole, "runs say otherwise");
    whole
}

fn open(bytes: &[u8]) -> Disk {
    Disk::open(in_memory(bytes)).unwrap()
}

#[test]
fn reads_fixed_and_dynamic_disks() {
    let spec = spec();
    let expected = spec.over(Vec::new());
    for (kind, bytes) in [
        (DiskKind::Fixed, spec.fixed()),
        (DiskKind::Dynamic, spec.sparse()),
    ] {
        let disk = open(&bytes);
        let info = disk.info();
        assert_eq!(
            (info.format, info.kind, info.size, info.disk_id),
            (Format::Vhd, kind, SIZE, spec.id)
        );
        assert_eq!(
            info.block_bytes,
            if kind == DiskKind::Fixed { 0 } else { BLOCK }
        );
        assert_eq!(*info, inspect(in_memory(&bytes)).unwrap());
        assert!(read_all(&disk, &[&bytes]) == expected, "{kind:?}");
    }
    let zeros: u64 = open(&spec.sparse())
        .extents(0, SIZE)
        .map(Result::unwrap)
        .filter(|extent| extent.kind == ExtentKind::Zero)
        .map(|extent| extent.len)
        .sum();
    assert_eq!(zeros, SIZE - 13 * 512);
}

/// Files by name.
struct Shelf(Vec<(String, Arc<MemoryFile>)>);

impl ParentResolver for Shelf {
    fn locate(&self, _child: &str, locator: &ParentLocator) -> Vec<String> {
        let relative = locator.relative_path.as_deref().unwrap_or("none");
        vec![relative.trim_start_matches(r".\").to_owned()]
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        let found = self.0.iter().find(|(name, _)| name == location);
        Ok(Arc::clone(&found.ok_or(io::ErrorKind::NotFound)?.1) as Arc<dyn ReadAt>)
    }
}

#[test]
fn random_chains_read_as_the_model_does() {
    let mut chance = Chance(5);
    for round in 0..rounds(60) {
        let mut expected = Vec::new();
        let mut shelf = Shelf(Vec::new());
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut parent: Option<Spec> = None;
        for level in 0..=chance.next(3) {
            // Blocks of a child may be of another size, and a child may be larger.
            let block = 512_u32 << chance.next(9);
            let below = parent.as_ref().map_or(0, |parent| parent.size);
            let size = below.max((1 + chance.next(300)) * 512);
            let mut spec = Spec::new(size, block);
            for _ in 0..chance.next(40) {
                let at = chance.next(size / 512);
                let seed = u8::try_from(chance.next(255)).unwrap();
                (0..chance.next(20).min(size / 512 - at))
                    .for_each(|more| spec.sectors.push((at + more, sector(seed))));
            }
            spec.parent = parent
                .as_ref()
                .map(|parent| Parent::windows(parent.id, &format!("{}.vhd", level - 1)));
            expected = spec.over(expected);
            let bytes = if level == 0 && chance.next(2) == 0 {
                spec.fixed()
            } else {
                spec.sparse()
            };
            shelf.0.push((format!("{level}.vhd"), in_memory(&bytes)));
            files.insert(0, bytes);
            parent = Some(spec);
        }
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let disk = Chain::open(in_memory(files[0]), "leaf", &shelf)
            .unwrap()
            .into_disk();
        assert!(read_all(&disk, &files) == expected, "round {round}");
    }
}

#[test]
fn a_child_needs_the_parent_it_was_made_from() {
    let base = spec();
    let child = Spec {
        parent: Some(Parent::windows(base.id, "base.vhd")),
        ..Spec::new(SIZE, BLOCK)
    };
    let err = Disk::open(in_memory(&child.sparse())).unwrap_err();
    assert_eq!(err.kind(), Kind::Refused);

    let shelf = |bytes: Vec<u8>| Shelf(vec![("base.vhd".into(), in_memory(&bytes))]);
    let chain = |shelf| Chain::open(in_memory(&child.sparse()), "leaf", &shelf);
    let disk = chain(shelf(base.fixed())).unwrap().into_disk();
    assert!(read(&disk, 0, usize::try_from(SIZE).unwrap()) == base.over(Vec::new()));

    let err = chain(shelf(spec().sparse())).unwrap_err();
    assert_eq!(err.rule(), Some(Rule::ParentIdentity));
    let err = chain(Shelf(Vec::new())).unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}

#[test]
fn a_chain_is_of_one_format() {
    let (file, info) = disk_of(&Params::dynamic(8 * MIB), &[]);
    let child = Spec {
        parent: Some(Parent::windows(info.data_write_guid, "base.vhdx")),
        ..Spec::new(8 * MIB, BLOCK)
    };
    let layers: Vec<DiskFile> = vec![
        Vhd::open(in_memory(&child.sparse())).unwrap().into(),
        Vhdx::open(file).unwrap().into(),
    ];
    let err = Chain::from_layers(layers).unwrap_err();
    assert_eq!(err.rule(), Some(Rule::VhdChainFormat));
}

#[test]
fn refuses_a_chain_that_leads_back_to_itself() {
    let id = Uuid::new_v4();
    let bytes = Spec {
        id,
        parent: Some(Parent::windows(id, "self.vhd")),
        ..spec()
    }
    .sparse();
    let shelf = Shelf(vec![("self.vhd".into(), in_memory(&bytes))]);
    let err = Chain::open(in_memory(&bytes), "self.vhd", &shelf).unwrap_err();
    assert_eq!(err.rule(), Some(Rule::ChainCycle));
}

#[test]
fn reads_every_way_to_name_a_parent() {
    type Locators = Vec<([u8; 4], Vec<u8>, bool)>;
    #[track_caller]
    fn check(name: &str, locators: Locators, relative: Option<&str>, absolute: Option<&str>) {
        let bytes = Spec {
            parent: Some(Parent {
                id: Uuid::nil(),
                name: name.into(),
                locators,
            }),
            ..spec()
        }
        .sparse();
        let locator = inspect(in_memory(&bytes)).unwrap().parent.unwrap();
        assert_eq!(
            (
                locator.relative_path.as_deref(),
                locator.absolute_path.as_deref()
            ),
            (relative, absolute)
        );
    }
    let wide = |code: &[u8; 4], text: &str| (*code, utf16le(text), false);
    let old = |code: &[u8; 4], text: &str| (*code, text.as_bytes().to_vec(), true);
    check("base.vhd", vec![], Some("base.vhd"), None);
    check(
        r"D:\a\base.vhd",
        vec![],
        Some("base.vhd"),
        Some(r"D:\a\base.vhd"),
    );
    check(
        "x",
        vec![
            wide(b"W2ru", r".\Größe.vhd"),
            wide(b"W2ku", r"C:\Größe.vhd"),
        ],
        Some(r".\Größe.vhd"),
        Some(r"C:\Größe.vhd"),
    );
    check("x", vec![wide(b"W2ru", "a.vhd\0\0")], Some("a.vhd"), None);
    check(
        "x",
        vec![old(b"Wi2k", r"C:\a.vhd")],
        None,
        Some(r"C:\a.vhd"),
    );
    check(
        "x",
        vec![old(b"Wi2r", "old.vhd\0junk"), wide(b"W2ru", "new.vhd")],
        Some("new.vhd"),
        None,
    );
    check("x.vhd", vec![old(b"MacX", "file://x")], Some("x.vhd"), None);
}

/// What a broken footer or header is tolerated for.
#[test]
fn tolerates_what_leaves_no_doubt() {
    let expected = spec().over(Vec::new());
    let same = |bytes: &[u8], what: &str| {
        let disk = open(bytes);
        assert!(read_all(&disk, &[bytes]) == expected, "{what}");
    };
    let mut bytes = fixed();
    bytes.pop();
    same(&bytes, "a footer of 511 bytes");

    let mut bytes = dynamic();
    bytes[3] ^= 1;
    same(&bytes, "no copy at the start");
    let mut bytes = dynamic();
    let end = bytes.len();
    bytes[end - 512 + 20] ^= 1;
    same(&bytes, "a damaged footer at the end");
    let mut bytes = dynamic();
    bytes.truncate(end - 512);
    same(&bytes, "no footer at the end");
    bytes.extend([0; 4096]);
    same(&bytes, "something behind the end");

    let mut bytes = fixed();
    bytes.splice(bytes.len() - 512..bytes.len() - 512, [7; 1024]);
    same(&bytes, "space before the footer of a fixed disk");

    // More entries than blocks: those beyond mean nothing.
    let mut bytes = dynamic();
    put(&mut bytes, HEADER + 28, &1000_u32.to_be_bytes());
    seal(&mut bytes[HEADER..HEADER + 1024], 36);
    same(&bytes, "a longer table");
}

#[test]
fn the_size_is_the_current_size_whoever_made_the_file() {
    for creator in [b"vpc ", b"win ", b"qemu"] {
        let mut bytes = dynamic();
        footers(&mut bytes, |footer| {
            put(footer, 28, creator);
            // Cylinders, heads and sectors of some smaller disk.
            put(footer, 56, &[0, 3, 4, 17]);
        });
        assert_eq!(open(&bytes).size(), SIZE);
    }
}

/// A guest writes the first sector of a fixed VHD, and the last one of a block that ends a VHDX.
#[test]
fn a_guest_cannot_make_its_disk_look_like_the_other_format() {
    let mut bytes = fixed();
    bytes[..8].copy_from_slice(b"vhdxfile");
    assert_eq!(open(&bytes).info().format, Format::Vhd);
    // Nor like another VHD.
    let mut bytes = fixed();
    let other = dynamic();
    bytes[..4096].copy_from_slice(&other[..4096]);
    let disk = open(&bytes);
    assert_eq!(disk.info().kind, DiskKind::Fixed);
    assert_eq!(read(&disk, 0, 4096), other[..4096]);

    let footer = &fixed()[usize::try_from(SIZE).unwrap()..];
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(4 * MIB)
    };
    let (file, info) = disk_of(&params, &[(MIB - 512, footer.to_vec())]);
    assert_eq!(info.file_bytes % MIB, 0);
    let mut last = [0; 512];
    file.read_exact_at(&mut last, info.file_bytes - 512)
        .unwrap();
    assert_eq!(last, footer, "the block ends the file");
    assert_eq!(inspect(file).unwrap().format, Format::Vhdx);
}

#[test]
fn a_vhd_is_not_changed_in_place() {
    for bytes in [fixed(), dynamic(), vec![0; 2 << 20]] {
        let err = DiskWriter::open(in_memory(&bytes), Vec::new(), Durability::PowerLoss);
        let err = err.unwrap_err();
        if bytes[bytes.len() - 512] == 0 {
            assert_eq!(err.rule(), Some(Rule::FileSignature));
        } else {
            assert!(matches!(err, Error::VhdUnchangeable), "{err}");
            assert_eq!(err.kind(), Kind::Refused);
        }
    }
}

/// Edits the footer and its copy, where there is one.
fn footers(bytes: &mut [u8], edit: impl Fn(&mut [u8])) {
    let end = bytes.len();
    let mut places = vec![end - 512];
    if &bytes[..8] == b"conectix" {
        places.push(0);
    }
    for at in places {
        edit(&mut bytes[at..at + 512]);
        seal(&mut bytes[at..at + 512], 64);
    }
}

fn header(bytes: &mut [u8], at: usize, value: &[u8]) {
    put(bytes, HEADER + at, value);
    seal(&mut bytes[HEADER..HEADER + 1024], 36);
}

fn header32(bytes: &mut [u8], at: usize, value: u32) {
    header(bytes, at, &value.to_be_bytes());
}

fn header64(bytes: &mut [u8], at: usize, value: u64) {
    header(bytes, at, &value.to_be_bytes());
}

fn footer32(bytes: &mut [u8], at: usize, value: u32) {
    footers(bytes, |footer| put(footer, at, &value.to_be_bytes()));
}

fn footer64(bytes: &mut [u8], at: usize, value: u64) {
    footers(bytes, |footer| put(footer, at, &value.to_be_bytes()));
}

fn entry(bytes: &mut [u8], block: usize, sector: u32) {
    put(bytes, TABLE + block * 4, &sector.to_be_bytes());
}

fn entry_of(bytes: &[u8], block: usize) -> u32 {
    let at = TABLE + block * 4;
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) type Case = (Rule, &'static str, fn() -> Vec<u8>, fn(&mut Vec<u8>));

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    (Rule::VhdFooter, "no signature", fixed, |b| { let at = b.len() - 512; b[at] = b'C'; }),
    (Rule::VhdFooter, "empty", fixed, Vec::clear),
    (Rule::VhdFooter, "shorter than a footer", fixed, |b| b.truncate(510)),
    (Rule::VhdFooter, "a copy that says fixed", dynamic, |b| { footer32(b, 60, 2); b.truncate(4096); }),
    (Rule::VhdFooterChecksum, "fixed", fixed, |b| { let at = b.len() - 512; b[at + 100] = 1; }),
    (Rule::VhdFooterChecksum, "both", dynamic, |b| { let at = b.len() - 512; b[at + 64] ^= 1; b[64] ^= 1; }),
    (Rule::VhdVersion, "2.0", dynamic, |b| footer32(b, 12, 0x0002_0000)),
    (Rule::VhdType, "none", dynamic, |b| footer32(b, 60, 0)),
    (Rule::VhdType, "reserved", fixed, |b| footer32(b, 60, 5)),
    (Rule::VhdSize, "zero", dynamic, |b| footer64(b, 48, 0)),
    (Rule::VhdSize, "odd", fixed, |b| footer64(b, 48, SIZE - 1)),
    (Rule::VhdSize, "over 2040 GiB", dynamic, |b| footer64(b, 48, (2040 << 30) + 512)),
    (Rule::VhdFixedLength, "a sector missing", fixed, |b| { b.drain(..512); }),
    (Rule::VhdFixedLength, "a footer alone", fixed, |b| { footer64(b, 48, 512); b.drain(..b.len() - 512); }),
    (Rule::VhdHeaderPlace, "all ones", dynamic, |b| footer64(b, 16, u64::MAX)),
    (Rule::VhdHeaderPlace, "over the copy", dynamic, |b| footer64(b, 16, 0)),
    (Rule::VhdHeaderPlace, "unaligned", dynamic, |b| footer64(b, 16, 513)),
    (Rule::VhdHeaderPlace, "over the footer", dynamic, |b| { let at = b.len() as u64 - 1024; footer64(b, 16, at); }),
    (Rule::VhdHeaderSignature, "first byte", dynamic, |b| b[HEADER] = b'C'),
    (Rule::VhdHeaderChecksum, "reserved byte", dynamic, |b| b[HEADER + 900] = 1),
    (Rule::VhdHeaderVersion, "0.1", dynamic, |b| header32(b, 24, 1)),
    (Rule::VhdBlockSize, "zero", dynamic, |b| header32(b, 32, 0)),
    (Rule::VhdBlockSize, "no power of two", dynamic, |b| header32(b, 32, 3 << 10)),
    (Rule::VhdBlockSize, "below a sector", dynamic, |b| header32(b, 32, 256)),
    (Rule::VhdTableLength, "one short", dynamic, |b| header32(b, 28, 9)),
    (Rule::VhdTableLength, "too many blocks", dynamic, |b| {
        footer64(b, 48, 512 << 24);
        header32(b, 32, 512);
        header32(b, 28, u32::MAX);
    }),
    (Rule::VhdTablePlace, "unaligned", dynamic, |b| header64(b, 16, 1540)),
    (Rule::VhdTablePlace, "over the header", dynamic, |b| header64(b, 16, 1024)),
    (Rule::VhdTablePlace, "over the copy", dynamic, |b| header64(b, 16, 0)),
    (Rule::VhdTablePlace, "far out", dynamic, |b| header64(b, 16, u64::MAX - 511)),
    (Rule::VhdTablePlace, "cut", dynamic, |b| { let at = b.len() as u64 - 512; header64(b, 16, at); }),
    (Rule::VhdLocator, "odd", child, |b| header32(b, 576 + 8, 7)),
    (Rule::VhdLocator, "long", child, |b| header32(b, 576 + 8, 65_538)),
    (Rule::VhdLocator, "far out", child, |b| header64(b, 576 + 16, u64::MAX)),
    (Rule::VhdLocator, "beyond the end", child, |b| header64(b, 600 + 16, 1 << 40)),
    (Rule::VhdLocatorPath, "nothing", child, |b| { header(b, 64, &[0; 512]); header(b, 576, &[0; 48]); }),
    (Rule::VhdBlockPlace, "over the copy", dynamic, |b| entry(b, 9, 0)),
    (Rule::VhdBlockPlace, "over the header", dynamic, |b| entry(b, 3, 2)),
    (Rule::VhdBlockPlace, "over the table", dynamic, |b| entry(b, 3, 3)),
    (Rule::VhdBlockPlace, "beyond the end", dynamic, |b| entry(b, 3, u32::MAX - 1)),
    (Rule::VhdBlockPlace, "over the footer", dynamic, |b| { let last = entry_of(b, 9); entry(b, 9, last + 3); }),
    (Rule::VhdBlockOverlap, "twice", dynamic, |b| { let first = entry_of(b, 0); entry(b, 4, first); }),
    (Rule::VhdBlockOverlap, "by a sector", dynamic, |b| { let second = entry_of(b, 1); entry(b, 1, second - 1); }),
];

#[test]
fn refuses_each_broken_rule_of_vhd_by_its_name() {
    for (rule, case, make, spoil) in CASES {
        let mut bytes = make();
        spoil(&mut bytes);
        let Err(err) = Vhd::open(in_memory(&bytes)) else {
            panic!("{}, {case}: was accepted", rule.code());
        };
        assert_eq!(err.rule(), Some(*rule), "{}, {case}: {err}", rule.code());
    }
}

#[test]
fn every_rule_of_vhd_has_a_case() {
    for rule in Rule::ALL
        .iter()
        .filter(|rule| rule.section().starts_with("VHD"))
    {
        let tested = *rule == Rule::VhdChainFormat || CASES.iter().any(|(other, ..)| other == rule);
        assert!(tested, "{} has no case", rule.code());
        assert!(rule.code().starts_with("vhd-"));
    }
}

/// Flips bytes of footer, header, table and bitmaps, keeping checksums right half of the time.
#[test]
fn random_damage_to_a_vhd_is_refused_or_read() {
    let mut chance = Chance(23 + u64::from(rounds(0)));
    let makes = [fixed, dynamic, child];
    let (mut opened, mut refused) = (0, 0);
    for round in 0..usize::try_from(rounds(4000)).unwrap() {
        let mut bytes = makes[round % makes.len()]();
        let end = bytes.len();
        let areas = [
            (0, 88),
            (HEADER, 64),
            (HEADER + 576, 48),
            (TABLE, 40),
            (TABLE + 512, 4096),
            (end - 512, 88),
        ];
        for _ in 0..=chance.next(3) {
            let (start, len) = areas[usize::try_from(chance.next(areas.len() as u64)).unwrap()];
            let at = start + usize::try_from(chance.next(len)).unwrap();
            bytes[at] = u8::try_from(chance.next(256)).unwrap();
        }
        if chance.next(2) == 0 {
            footers(&mut bytes, |_| ());
        }
        if chance.next(2) == 0 {
            seal(&mut bytes[HEADER..HEADER + 1024], 36);
        }
        let Ok(file) = DiskFile::open(in_memory(&bytes)) else {
            refused += 1;
            continue;
        };
        opened += 1;
        let has_parent = file.info().parent.is_some();
        let Ok(chain) = Chain::from_layers(vec![file]) else {
            assert!(has_parent);
            continue;
        };
        let disk = chain.into_disk();
        let seen = disk.size().min(MIB);
        let sum: u64 = disk
            .extents(0, seen)
            .map(|extent| extent.unwrap().len)
            .sum();
        assert_eq!(sum, seen);
        read(&disk, 0, usize::try_from(seen).unwrap());
        for run in disk.runs(0, seen).map(Result::unwrap) {
            if let Place::File { offset, .. } = run.place {
                assert!(offset + run.len <= end as u64);
            }
        }
    }
    assert!(
        opened > 100 && refused > 100,
        "{opened} opened, {refused} refused"
    );
}
