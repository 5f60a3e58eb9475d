//! For each rule that one file can break, files that break it.

use vhdx::Rule;

use super::{
    BAT, BITMAP_ENTRY, HEADER, IDENTIFIER, ITEMS, LOCATOR, LOG, METADATA, TABLE, base, child, copy,
    length, poke, twin, unclean,
};
use crate::image::{Edit, Image, Link};

/// Where a field of an entry of the metadata table lies.
fn item(number: u16, field: u16) -> u16 {
    32 + number * 32 + field
}

/// For each rule that one file can break, files that break it.
#[rustfmt::skip]
pub(in crate::seeds) fn broken() -> Vec<(Rule, &'static str, Image)> {
    let word = |value: u64| value.to_le_bytes();
    let half = |value: u32| value.to_le_bytes();
    let spoil = |image: Image, edits: Vec<Edit>| Image { edits, ..image };
    let unsummed = |image: Image| Image { wrong_sums: 7, ..image };
    let third = |required: u8| vec![
        twin(TABLE, 8, &[3]), twin(TABLE, 80, &[0xAB; 16]), twin(TABLE, 96, &word(5 << 20)), twin(TABLE, 104, &half(1 << 20)), twin(TABLE, 108, &[required]),
    ];
    vec![
        (Rule::FileTooShort, "cut", spoil(base(), vec![length(0, (1 << 20) - 1)])),
        (Rule::FileTooShort, "empty", spoil(base(), vec![length(0, 0)])),
        (Rule::FileSignature, "first byte", spoil(base(), vec![poke(IDENTIFIER, 0, b"V")])),
        (Rule::HeaderNoneValid, "sums", unsummed(base())),
        (Rule::HeaderNoneValid, "signatures", spoil(base(), vec![twin(HEADER, 0, b"H")])),
        (Rule::HeaderTie, "same number", spoil(base(), vec![twin(HEADER, 8, &[9]), poke(HEADER, 16, &[1])])),
        (Rule::HeaderVersion, "2", spoil(base(), vec![twin(HEADER, 66, &[2])])),
        (Rule::LogVersion, "1", spoil(unclean(), vec![twin(HEADER, 64, &[1])])),
        (Rule::LogPlace, "unaligned", spoil(base(), vec![twin(HEADER, 73, &[1])])),
        (Rule::LogPlace, "in the header area", spoil(base(), vec![twin(HEADER, 72, &[0; 8])])),
        (Rule::LogPlace, "beyond the end", spoil(base(), vec![twin(HEADER, 72, &word(1 << 40))])),
        (Rule::LogPlace, "at the end of numbers", spoil(base(), vec![twin(HEADER, 72, &word(u64::MAX << 20))])),
        (Rule::LogPlace, "in use without length", spoil(unclean(), vec![twin(HEADER, 68, &[0; 4])])),
        (Rule::LogTooLong, "257 MiB", spoil(unclean(), vec![length(300, 0), twin(HEADER, 68, &half(257 << 20))])),
        (Rule::LogFileTooLong, "by its end", spoil(unclean(), vec![poke(LOG, 56, &word(257 << 40))])),
        (Rule::LogNoSequence, "target beyond all files", spoil(unclean(), vec![poke(LOG, 64 + 16, &word(257 << 40))])),
        (Rule::LogNoSequence, "another id", spoil(unclean(), vec![twin(HEADER, 48, &[0x77])])),
        (Rule::LogNoSequence, "torn", Image { wrong_sums: 4, edits: vec![poke(LOG, 5000, &[0xFF; 8])], ..unclean() }),
        (Rule::LogNoSequence, "tail of nothing", spoil(unclean(), vec![poke(LOG, 13, &[0x20])])),
        (Rule::LogNoSequence, "another number in a descriptor", spoil(unclean(), vec![poke(LOG, 64 + 24, &[9])])),
        (Rule::LogNoSequence, "target in the headers", spoil(unclean(), vec![poke(LOG, 64 + 16, &word(64 << 10))])),
        (Rule::LogNoSequence, "target in the log", spoil(unclean(), vec![poke(LOG, 64 + 16, &word(1 << 20))])),
        (Rule::LogNoSequence, "target beyond numbers", spoil(unclean(), vec![poke(LOG, 64 + 16, &word(!4095))])),
        (Rule::LogNoSequence, "too many descriptors", spoil(unclean(), vec![poke(LOG, 24, &[0xFF; 4])])),
        (Rule::LogFileTruncated, "by 1 MiB", spoil(unclean(), vec![length(6, 0)])),
        (Rule::RegionNoneValid, "signatures", spoil(base(), vec![twin(TABLE, 0, b"R")])),
        (Rule::RegionCount, "2048", spoil(base(), vec![twin(TABLE, 8, &half(2048))])),
        (Rule::RegionDuplicate, "twice", spoil(base(), vec![copy((TABLE, 16), (TABLE, 48), 1), copy((TABLE, 16), (TABLE + 1, 48), 1)])),
        (Rule::RegionPlace, "unaligned", spoil(base(), vec![twin(TABLE, 33, &[1])])),
        (Rule::RegionPlace, "empty", spoil(base(), vec![twin(TABLE, 40, &[0; 4])])),
        (Rule::RegionPlace, "at the end of numbers", spoil(base(), vec![twin(TABLE, 32, &word(u64::MAX << 20))])),
        (Rule::RegionOverlap, "each other", spoil(base(), vec![twin(TABLE, 32, &word(2 << 20))])),
        (Rule::RegionOverlap, "the log", spoil(base(), vec![twin(TABLE, 32, &word(1 << 20))])),
        (Rule::RegionUnknown, "required", spoil(base(), third(1))),
        (Rule::RegionMissing, "no BAT", spoil(base(), vec![twin(TABLE, 16, &[1]), twin(TABLE, 44, &[0])])),
        (Rule::RegionMissing, "nothing", spoil(base(), vec![twin(TABLE, 8, &[0])])),
        (Rule::MetadataSignature, "first byte", spoil(base(), vec![poke(METADATA, 0, b"M")])),
        (Rule::MetadataCount, "2048", spoil(base(), vec![poke(METADATA, 10, &2048_u16.to_le_bytes())])),
        (Rule::MetadataEntry, "in the table", spoil(base(), vec![poke(METADATA, item(1, 16), &half(1024))])),
        (Rule::MetadataEntry, "over 1 MiB", spoil(base(), vec![poke(METADATA, item(1, 20), &half(u32::MAX))])),
        (Rule::MetadataEntry, "user and required", spoil(base(), vec![poke(METADATA, item(1, 24), &[5])])),
        (Rule::MetadataOverlap, "two items", spoil(base(), vec![poke(METADATA, item(1, 16), &half(64 << 10))])),
        (Rule::MetadataDuplicate, "two sizes", spoil(base(), vec![poke(METADATA, 10, &[6]), copy((METADATA, item(1, 0)), (METADATA, item(5, 0)), 1), poke(METADATA, item(5, 16), &half(0x1_0100))])),
        (Rule::MetadataUnknown, "required", spoil(base(), vec![poke(METADATA, item(3, 0), b"x")])),
        (Rule::MetadataMissing, "no size", spoil(base(), vec![poke(METADATA, item(1, 0), b"x"), poke(METADATA, item(1, 24), &[0])])),
        (Rule::MetadataLength, "size of 4 bytes", spoil(base(), vec![poke(METADATA, item(1, 20), &[4])])),
        (Rule::Incomplete, "marked", spoil(base(), vec![
            poke(METADATA, 10, &[6]),
            poke(METADATA, item(5, 0), &[0xF0, 0x85, 0xCC, 0x71, 0x69, 0x1B, 0x28, 0x4E, 0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3]),
            poke(METADATA, item(5, 24), &[4]),
        ])),
        (Rule::BlockSize, "3 MiB", spoil(base(), vec![poke(ITEMS, 0, &half(3 << 20))])),
        (Rule::BlockSize, "0", spoil(base(), vec![poke(ITEMS, 0, &half(0))])),
        (Rule::DiskSize, "0", spoil(base(), vec![poke(ITEMS, 8, &word(0))])),
        (Rule::DiskSize, "over 64 TiB", spoil(base(), vec![poke(ITEMS, 8, &word((64 << 40) + 512))])),
        (Rule::DiskSize, "part of a sector", spoil(base(), vec![poke(ITEMS, 8, &word((1 << 20) + 1))])),
        (Rule::SectorSize, "logical", spoil(base(), vec![poke(ITEMS, 16, &half(1024))])),
        (Rule::LocatorMissing, "parent without locator", spoil(base(), vec![poke(ITEMS, 4, &[2])])),
        (Rule::LocatorFormat, "count", spoil(child(), vec![poke(ITEMS, LOCATOR + 18, &[0xFF; 2])])),
        (Rule::LocatorFormat, "key beyond", spoil(child(), vec![poke(ITEMS, LOCATOR + 20, &half(u32::MAX))])),
        (Rule::LocatorFormat, "odd length", spoil(child(), vec![poke(ITEMS, LOCATOR + 28, &[3])])),
        (Rule::LocatorType, "unknown", spoil(child(), vec![poke(ITEMS, LOCATOR, b"x")])),
        (Rule::LocatorLinkage, "no linkage", spoil(child(), vec![poke(ITEMS, LOCATOR + 44, b"P")])),
        (Rule::LocatorLinkage, "no identity", spoil(child(), vec![poke(ITEMS, LOCATOR + 44 + 28, b"x")])),
        (Rule::LocatorPath, "no path", Image { link: Link { linkage: 2, paths: 2, ..Link::default() }, ..child() }),
        (Rule::BatTooShort, "64 TiB", spoil(base(), vec![poke(ITEMS, 8, &word(64 << 40))])),
        (Rule::BlockState, "4", spoil(base(), vec![poke(BAT, 0, &[4])])),
        (Rule::BlockState, "5", spoil(base(), vec![poke(BAT, 8, &[5])])),
        (Rule::BlockPartial, "without a parent", spoil(base(), vec![poke(BAT, 0, &[7])])),
        (Rule::BlockPartial, "without a bitmap", spoil(child(), vec![poke(BITMAP_ENTRY, 0, &word(0))])),
        (Rule::BitmapState, "reserved", spoil(child(), vec![poke(BITMAP_ENTRY, 0, &[1])])),
        (Rule::BitmapState, "without a parent", spoil(Image { unit: 3, count: 10, ..base() }, vec![poke(BITMAP_ENTRY, 0, &word(9 << 20 | 6))])),
        (Rule::BlockPlace, "in the header area", spoil(base(), vec![poke(BAT, 0, &word(6))])),
        (Rule::BlockPlace, "beyond the end", spoil(base(), vec![poke(BAT, 0, &word(1 << 40 | 6))])),
        (Rule::BlockPlace, "at the end of numbers", spoil(base(), vec![poke(BAT, 0, &word(u64::MAX << 20 | 6))])),
        (Rule::BlockPlace, "bitmap beyond the end", spoil(child(), vec![poke(BITMAP_ENTRY, 0, &word(1 << 40 | 6))])),
        (Rule::BlockOverlap, "another block", spoil(base(), vec![poke(BAT, 0, &word(5 << 20 | 6))])),
        (Rule::BlockOverlap, "the BAT", spoil(base(), vec![poke(BAT, 0, &word(3 << 20 | 6))])),
        (Rule::BlockOverlap, "the log", spoil(base(), vec![poke(BAT, 0, &word(1 << 20 | 6))])),
        (Rule::BlockOverlap, "space a trimmed block keeps", spoil(base(), vec![poke(BAT, 0, &word(5 << 20 | 3))])),
        (Rule::BlockOverlap, "its bitmap", spoil(child(), vec![poke(BITMAP_ENTRY, 0, &word(4 << 20 | 6))])),
    ]
}
