//! Every rule of the format broken on purpose, one at a time; and what must be tolerated.

use std::sync::Arc;

use uuid::{Uuid, uuid};

use crate::support::{MIB, disk_of, link, pattern};
use vhdx::{
    DiskWriter, Durability, MemoryFile, Params, ReadAt, Rule, Severity, Vhdx, WriteAt,
    create_differencing,
};

pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(crate) const TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(crate) const LOG: u64 = MIB;
pub(crate) const METADATA: u64 = 2 * MIB;
pub(crate) const BAT: u64 = 3 * MIB;
pub(crate) const BAT_GUID: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
// Items in the order the writer lists them: file parameters, size, logical, physical, id, locator.
pub(crate) const ITEMS: u64 = METADATA + (64 << 10);

/// Gives a file another `DataWriteGuid`, in both headers.
pub(crate) fn forge_identity(file: &MemoryFile, identity: Uuid) {
    headers(file, |header| put(header, 32, &identity.to_bytes_le()));
}

/// Edits a structure that carries a checksum at its offset 4, and corrects the checksum.
pub(crate) fn edit_summed(file: &MemoryFile, at: u64, len: usize, edit: impl FnOnce(&mut [u8])) {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    edit(&mut bytes);
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&bytes, at).unwrap();
}

pub(crate) fn headers(file: &MemoryFile, edit: impl Fn(&mut [u8])) {
    for at in HEADERS {
        edit_summed(file, at, 4096, &edit);
    }
}

pub(crate) fn tables(file: &MemoryFile, edit: impl Fn(&mut [u8])) {
    for at in TABLES {
        edit_summed(file, at, 64 << 10, &edit);
    }
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn poke(file: &MemoryFile, at: u64, value: &[u8]) {
    file.write_all_at(value, at).unwrap();
}

/// Where a field of the n-th entry of the metadata table lies.
pub(crate) fn entry(number: u64, field: u64) -> u64 {
    METADATA + 32 + number * 32 + field
}

pub(crate) fn poke32(file: &MemoryFile, at: u64, value: u32) {
    poke(file, at, &value.to_le_bytes());
}

pub(crate) fn poke64(file: &MemoryFile, at: u64, value: u64) {
    poke(file, at, &value.to_le_bytes());
}

fn params() -> Params {
    Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(8 * MIB - 4096)
    }
}

/// A dynamic disk with blocks 0, 2 and 7, at 4, 5 and 6 MiB of the file.
pub(crate) fn base() -> Arc<MemoryFile> {
    disk_of(
        &params(),
        &[
            (0, pattern(1, 0, 512)),
            (2 * MIB, pattern(2, 0, 512)),
            (7 * MIB, pattern(3, 0, 512)),
        ],
    )
    .0
}

pub(crate) fn unclean() -> Arc<MemoryFile> {
    let file = base();
    let writer = DiskWriter::open(Arc::clone(&file), Vec::new(), Durability::ProcessKill).unwrap();
    writer.write_at(&[5; 512], 4 * MIB).unwrap();
    writer.flush().unwrap();
    file
}

/// A child in blocks of 2 MiB whose block 1 is partially present, at 4 MiB; bitmap at 6 MiB.
pub(crate) fn child() -> Arc<MemoryFile> {
    let (parent, info) = disk_of(&params(), &[]);
    let file = Arc::new(MemoryFile::new());
    create_differencing(
        Arc::clone(&file),
        &Params::child_of(&info, link(&info, "parent.vhdx")),
    )
    .unwrap();
    let parents = vec![Vhdx::open(parent).unwrap()];
    let writer = DiskWriter::open(Arc::clone(&file), parents, Durability::ProcessKill).unwrap();
    writer.write_at(&[5; 512], 2 * MIB).unwrap();
    writer.close().unwrap();
    file
}

/// A disk whose table has entries of bitmap blocks.
pub(crate) fn large() -> Arc<MemoryFile> {
    disk_of(
        &Params {
            size: 5 << 30,
            ..params()
        },
        &[],
    )
    .0
}

pub(crate) type Make = fn() -> Arc<MemoryFile>;
pub(crate) type Break = fn(&MemoryFile);

#[rustfmt::skip]
pub(crate) const CASES: &[(Rule, &str, Make, Break)] = &[
    (Rule::FileTooShort, "cut", base, |f| WriteAt::set_len(f, MIB - 1).unwrap()),
    (Rule::FileTooShort, "empty", base, |f| WriteAt::set_len(f, 0).unwrap()),
    (Rule::FileSignature, "first byte", base, |f| poke(f, 0, b"V")),
    (Rule::HeaderNoneValid, "both flipped", base, |f| HEADERS.iter().for_each(|at| poke(f, at + 100, b"x"))),
    (Rule::HeaderNoneValid, "both empty", base, |f| HEADERS.iter().for_each(|at| poke(f, *at, &[0; 4096]))),
    (Rule::HeaderTie, "same number", base, |f| {
        edit_summed(f, HEADERS[0], 4096, |h| put(h, 8, &[9, 0, 0, 0, 0, 0, 0, 0]));
        edit_summed(f, HEADERS[1], 4096, |h| put(h, 8, &[9, 0, 0, 0, 0, 0, 0, 0, 1]));
    }),
    (Rule::HeaderVersion, "2", base, |f| headers(f, |h| h[66] = 2)),
    (Rule::HeaderVersion, "0", base, |f| headers(f, |h| h[66] = 0)),
    (Rule::LogVersion, "1", unclean, |f| headers(f, |h| h[64] = 1)),
    (Rule::LogPlace, "unaligned", base, |f| headers(f, |h| h[73] = 1)),
    (Rule::LogPlace, "in the header area", base, |f| headers(f, |h| put(h, 72, &[0; 8]))),
    (Rule::LogPlace, "beyond the end", base, |f| headers(f, |h| put(h, 72, &(1_u64 << 40).to_le_bytes()))),
    (Rule::LogPlace, "at the end of numbers", base, |f| headers(f, |h| put(h, 72, &(u64::MAX << 20).to_le_bytes()))),
    (Rule::LogPlace, "odd length", base, |f| headers(f, |h| put(h, 68, &4096_u32.to_le_bytes()))),
    (Rule::LogPlace, "in use without length", unclean, |f| headers(f, |h| put(h, 68, &[0; 4]))),
    (Rule::LogTooLong, "257 MiB", unclean, |f| {
        WriteAt::set_len(f, 300 * MIB).unwrap();
        headers(f, |h| put(h, 68, &(257_u32 << 20).to_le_bytes()));
    }),
    (Rule::LogFileTooLong, "over 256 TiB", unclean, |f| edit_summed(f, LOG, 8192, |e| put(e, 56, &((1_u64 << 48) + MIB).to_le_bytes()))),
    (Rule::LogZeroRanges, "262,145", unclean, |f| zeros_in_log(f, (1 << 18) + 1)),
    (Rule::LogNoSequence, "another id", unclean, |f| headers(f, |h| h[48] ^= 1)),
    (Rule::LogNoSequence, "torn", unclean, |f| poke(f, LOG + 5000, &[0xFF; 8])),
    (Rule::LogNoSequence, "tail of nothing", unclean, |f| edit_summed(f, LOG, 8192, |e| e[13] = 0x20)),
    (Rule::LogNoSequence, "another number in a descriptor", unclean, |f| edit_summed(f, LOG, 8192, |e| e[64 + 24] ^= 1)),
    (Rule::LogNoSequence, "target in the headers", unclean, |f| edit_summed(f, LOG, 8192, |e| put(e, 64 + 16, &(64_u64 << 10).to_le_bytes()))),
    (Rule::LogNoSequence, "target in the log", unclean, |f| edit_summed(f, LOG, 8192, |e| put(e, 64 + 16, &LOG.to_le_bytes()))),
    (Rule::LogNoSequence, "target beyond numbers", unclean, |f| edit_summed(f, LOG, 8192, |e| put(e, 64 + 16, &(!4095_u64).to_le_bytes()))),
    (Rule::LogNoSequence, "too many descriptors", unclean, |f| edit_summed(f, LOG, 8192, |e| put(e, 24, &[0xFF; 4]))),
    (Rule::LogFileTruncated, "by 1 MiB", unclean, |f| { let len = ReadAt::len(f).unwrap(); WriteAt::set_len(f, len - MIB).unwrap(); }),
    (Rule::RegionNoneValid, "both flipped", base, |f| TABLES.iter().for_each(|at| poke(f, at + 100, b"x"))),
    (Rule::RegionCount, "2048", base, |f| tables(f, |t| put(t, 8, &2048_u32.to_le_bytes()))),
    (Rule::RegionDuplicate, "BAT twice", base, |f| tables(f, |t| put(t, 48, &BAT_GUID.to_bytes_le()))),
    (Rule::RegionPlace, "unaligned", base, |f| tables(f, |t| t[33] = 1)),
    (Rule::RegionPlace, "in the header area", base, |f| tables(f, |t| put(t, 32, &[0; 8]))),
    (Rule::RegionPlace, "empty", base, |f| tables(f, |t| put(t, 40, &[0; 4]))),
    (Rule::RegionPlace, "beyond the end", base, |f| tables(f, |t| put(t, 32, &(1_u64 << 40).to_le_bytes()))),
    (Rule::RegionPlace, "at the end of numbers", base, |f| tables(f, |t| put(t, 32, &(u64::MAX << 20).to_le_bytes()))),
    (Rule::RegionOverlap, "each other", base, |f| tables(f, |t| put(t, 32, &METADATA.to_le_bytes()))),
    (Rule::RegionOverlap, "the log", base, |f| tables(f, |t| put(t, 32, &LOG.to_le_bytes()))),
    (Rule::RegionUnknown, "required", base, |f| tables(f, |t| third_region(t, 1))),
    (Rule::RegionMissing, "no BAT", base, |f| tables(f, |t| { t[16] ^= 1; t[44] = 0; })),
    (Rule::RegionMissing, "nothing", base, |f| tables(f, |t| t[8] = 0)),
    (Rule::MetadataSignature, "first byte", base, |f| poke(f, METADATA, b"M")),
    (Rule::MetadataCount, "2048", base, |f| poke(f, METADATA + 10, &2048_u16.to_le_bytes())),
    (Rule::MetadataEntry, "in the table", base, |f| poke32(f, entry(1, 16), 1024)),
    (Rule::MetadataEntry, "beyond the region", base, |f| poke32(f, entry(1, 16), (1 << 20) - 4)),
    (Rule::MetadataEntry, "over 1 MiB", base, |f| poke32(f, entry(1, 20), u32::MAX)),
    (Rule::MetadataEntry, "user and required", base, |f| poke32(f, entry(1, 24), 5)),
    (Rule::MetadataEntry, "no id", base, |f| poke(f, entry(1, 0), &[0; 16])),
    (Rule::MetadataEntry, "empty with a place", base, |f| poke32(f, entry(1, 20), 0)),
    (Rule::MetadataOverlap, "two items", base, |f| poke32(f, entry(1, 16), 64 << 10)),
    (Rule::MetadataDuplicate, "two sizes", base, |f| { poke32(f, METADATA + 10, 6); copy(f, entry(1, 0), entry(5, 0), 16); poke32(f, entry(5, 24), 4); }),
    (Rule::MetadataUnknown, "required", base, |f| poke(f, entry(3, 0), b"x")),
    (Rule::MetadataMissing, "no size", base, |f| { poke(f, entry(1, 0), b"x"); poke32(f, entry(1, 24), 0); }),
    (Rule::MetadataLength, "size of 4 bytes", base, |f| poke32(f, entry(1, 20), 4)),
    (Rule::Incomplete, "marked", base, |f| {
        poke32(f, METADATA + 10, 6);
        poke(f, entry(5, 0), &uuid!("71CC85F0-1B69-4E28-9558-C3BF83AE75D3").to_bytes_le());
        poke32(f, entry(5, 24), 4);
    }),
    (Rule::BlockSize, "512 KiB", base, |f| poke32(f, ITEMS, 512 << 10)),
    (Rule::BlockSize, "3 MiB", base, |f| poke32(f, ITEMS, 3 << 20)),
    (Rule::BlockSize, "512 MiB", base, |f| poke32(f, ITEMS, 512 << 20)),
    (Rule::BlockSize, "0", base, |f| poke32(f, ITEMS, 0)),
    (Rule::DiskSize, "0", base, |f| poke64(f, ITEMS + 8, 0)),
    (Rule::DiskSize, "over 64 TiB", base, |f| poke64(f, ITEMS + 8, (64 << 40) + 512)),
    (Rule::DiskSize, "part of a sector", base, |f| poke64(f, ITEMS + 8, MIB + 1)),
    (Rule::SectorSize, "logical", base, |f| poke32(f, ITEMS + 16, 1024)),
    (Rule::SectorSize, "physical", base, |f| poke32(f, ITEMS + 20, 0)),
    (Rule::LocatorMissing, "parent without locator", base, |f| poke32(f, ITEMS + 4, 2)),
    (Rule::LocatorFormat, "count", child, |f| poke(f, ITEMS + 40 + 18, &[0xFF; 2])),
    (Rule::LocatorFormat, "key beyond", child, |f| poke32(f, ITEMS + 40 + 20, u32::MAX)),
    (Rule::LocatorFormat, "odd length", child, |f| poke(f, ITEMS + 40 + 20 + 8, &[3])),
    (Rule::LocatorFormat, "key twice", child, |f| copy(f, ITEMS + 40 + 20, ITEMS + 40 + 32, 12)),
    (Rule::LocatorType, "unknown", child, |f| poke(f, ITEMS + 40, b"x")),
    (Rule::LocatorLinkage, "no linkage", child, |f| poke(f, ITEMS + 40 + 56, b"P")),
    (Rule::LocatorLinkage, "no identity", child, |f| poke(f, ITEMS + 40 + 56 + 28, b"x")),
    (Rule::LocatorPath, "no path", child, |f| poke(f, ITEMS + 40 + 18, &[1])),
    (Rule::BatTooShort, "64 TiB", base, |f| poke64(f, ITEMS + 8, 64 << 40)),
    (Rule::BlockState, "4", base, |f| poke(f, BAT, &[4])),
    (Rule::BlockState, "5", base, |f| poke(f, BAT + 8, &[5])),
    (Rule::BlockPartial, "without a parent", base, |f| poke(f, BAT, &[7])),
    (Rule::BlockPartial, "without a bitmap", child, |f| poke64(f, BAT + 2048 * 8, 0)),
    (Rule::BitmapState, "reserved", child, |f| poke(f, BAT + 2048 * 8, &[1])),
    (Rule::BitmapState, "without a parent", large, |f| poke64(f, BAT + 4096 * 8, (4 << 20) | 6)),
    (Rule::BlockPlace, "in the header area", base, |f| poke64(f, BAT, 6)),
    (Rule::BlockPlace, "beyond the end", base, |f| poke64(f, BAT, (1 << 40) | 6)),
    (Rule::BlockPlace, "at the end of numbers", base, |f| poke64(f, BAT, (u64::MAX << 20) | 6)),
    (Rule::BlockPlace, "bitmap beyond the end", child, |f| poke64(f, BAT + 2048 * 8, (1 << 40) | 6)),
    (Rule::BlockOverlap, "another block", base, |f| poke64(f, BAT, (5 << 20) | 6)),
    (Rule::BlockOverlap, "the BAT", base, |f| poke64(f, BAT, BAT | 6)),
    (Rule::BlockOverlap, "the log", base, |f| poke64(f, BAT, LOG | 6)),
    (Rule::BlockOverlap, "space a trimmed block keeps", base, |f| poke64(f, BAT, (5 << 20) | 3)),
    (Rule::BlockOverlap, "its bitmap", child, |f| poke64(f, BAT + 2048 * 8, (4 << 20) | 6)),
];

/// Gives a file in use a log of 16 MiB with one entry, of nothing but zero descriptors.
pub(crate) fn zeros_in_log(file: &MemoryFile, count: usize) {
    let log = 16 * MIB;
    WriteAt::set_len(file, 32 * MIB).unwrap();
    let mut id = [0; 16];
    file.read_exact_at(&mut id, HEADERS[0] + 48).unwrap();
    headers(file, |header| {
        put(header, 68, &(16_u32 << 20).to_le_bytes());
        put(header, 72, &log.to_le_bytes());
    });
    let len = (64 + count * 32).next_multiple_of(4096);
    let mut entry = vec![0; len];
    put(&mut entry, 0, b"loge");
    put(&mut entry, 8, &u32::try_from(len).unwrap().to_le_bytes());
    put(&mut entry, 16, &1_u64.to_le_bytes());
    put(&mut entry, 24, &u32::try_from(count).unwrap().to_le_bytes());
    put(&mut entry, 32, &id);
    for number in 0..count {
        let at = 64 + number * 32;
        put(&mut entry, at, b"zero");
        // Nothing is zeroed, behind the end of the log.
        put(&mut entry, at + 16, &(32 * MIB).to_le_bytes());
        put(&mut entry, at + 24, &1_u64.to_le_bytes());
    }
    poke(file, log, &entry);
    edit_summed(file, log, len, |_| ());
}

/// Rules about more than one file: see `chains`.
const OF_CHAINS: [Rule; 5] = [
    Rule::ParentMissing,
    Rule::ParentIdentity,
    Rule::ParentSectorSize,
    Rule::ChainCycle,
    Rule::ChainDepth,
];

pub(crate) fn copy(file: &MemoryFile, from: u64, to: u64, len: usize) {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, from).unwrap();
    poke(file, to, &bytes);
}

/// Adds a region nobody knows.
pub(crate) fn third_region(table: &mut [u8], flags: u8) {
    table[8] = 3;
    put(table, 80, &[0xAB; 16]);
    put(table, 96, &(5 * MIB).to_le_bytes());
    put(table, 104, &(1_u32 << 20).to_le_bytes());
    table[108] = flags;
}

#[test]
fn refuses_each_broken_rule_by_its_name() {
    for (rule, case, make, spoil) in CASES {
        let file = make();
        spoil(&file);
        let Err(err) = Vhdx::open(Arc::clone(&file)) else {
            panic!("{}, {case}: was accepted", rule.code());
        };
        assert_eq!(err.rule(), Some(*rule), "{}, {case}: {err}", rule.code());
        let err = DiskWriter::open(file, Vec::new(), Durability::PowerLoss).unwrap_err();
        assert_eq!(
            err.rule(),
            Some(*rule),
            "{}, {case}: in place: {err}",
            rule.code()
        );
    }
}

#[test]
fn every_rule_has_a_case_and_a_code_of_its_own() {
    for (number, rule) in Rule::ALL.iter().enumerate() {
        // Those of the first generation: see `vhd`.
        let tested = rule.severity() < Severity::Error
            || OF_CHAINS.contains(rule)
            || rule.code().starts_with("vhd-")
            || CASES.iter().any(|(other, ..)| other == rule);
        assert!(tested, "{} has no case", rule.code());
        assert!(
            Rule::ALL[..number]
                .iter()
                .all(|other| other.code() != rule.code()),
            "{}",
            rule.code()
        );
    }
}

#[test]
fn an_unfinished_file_is_refused() {
    let file = Arc::new(MemoryFile::new());
    let mut writer = vhdx::BulkWriter::create(Arc::clone(&file), &params()).unwrap();
    writer.write(0, &[1; 4096]).unwrap();
    drop(writer);
    assert!(Vhdx::open(file).is_err());
}
