//! Sound VHDX files, one spoiled for each rule, and chains.

use vhdx::Rule;

use crate::image::{Block, Change, Edit, Entry, Image, Link};

/// Areas of [`Edit`] and [`Change`].
const IDENTIFIER: u8 = 0;
const HEADER: u8 = 1;
const TABLE: u8 = 3;
const METADATA: u8 = 5;
const ITEMS: u8 = 6;
const BAT: u8 = 7;
const LOG: u8 = 8;
const BITMAP_ENTRY: u8 = 9;
/// Where the locator lies, from the start of the items.
const LOCATOR: u16 = 40;

/// A sound file.
fn shape(name: &'static str, image: Image) -> (String, Image) {
    (name.to_owned(), image)
}

fn block(number: u16, state: u8) -> Block {
    Block {
        state,
        ..Image::full_block(number)
    }
}

/// A dynamic disk of 8 MiB less 4096 bytes, with blocks 0, 2 and 7 at 4, 5 and 6 MiB of the file.
fn base() -> Image {
    Image {
        count: 16_375,
        sectors: 2,
        identity: 1,
        blocks: vec![block(0, 6), block(2, 6), block(7, 6)],
        ..Image::default()
    }
}

/// The same, not closed: its log gives block 4 a place behind the others.
fn unclean() -> Image {
    Image {
        log: vec![Entry {
            more: 1,
            changes: vec![Change {
                area: BAT,
                word: 4,
                value: 7 << 20 | 6,
                ..Change::default()
            }],
            ..Entry::default()
        }],
        ..base()
    }
}

/// A child in blocks of 2 MiB, block 1 at 4 MiB partially present; bitmap at 6 MiB.
fn child() -> Image {
    Image {
        kind: 2,
        block_shift: 1,
        identity: 1,
        link: Link {
            linkage: 2,
            ..Link::default()
        },
        blocks: vec![Block {
            bits: 0b0101_1100,
            ..block(1, 7)
        }],
        ..base()
    }
}

#[rustfmt::skip]
pub(super) fn shapes() -> Vec<(String, Image)> {
    let log_of = |changes: Vec<Change>| Entry {
        changes,
        ..Entry::default()
    };
    let zeros = |area, page, word| Change {
        kind: 2,
        area,
        page,
        word,
        ..Change::default()
    };
    let page = |area, page, value| Change {
        kind: 1,
        area,
        page,
        value,
        ..Change::default()
    };
    vec![
        shape("base", base()),
        shape("unclean", unclean()),
        shape("child", child()),
        shape(
            "fixed",
            Image {
                kind: 1,
                blocks: vec![block(1, 6)],
                ..base()
            },
        ),
        shape(
            "4Kn",
            Image {
                sectors: 3,
                unit: 1,
                count: 8,
                ..base()
            },
        ),
        shape(
            "child 4Kn",
            Image {
                sectors: 3,
                unit: 1,
                count: 8,
                ..child()
            },
        ),
        shape(
            "blocks of 256 MiB",
            Image {
                block_shift: 8,
                unit: 3,
                count: 3,
                ..base()
            },
        ),
        shape(
            "child in blocks of 256 MiB",
            Image {
                block_shift: 8,
                unit: 3,
                count: 3,
                ..child()
            },
        ),
        shape(
            "many groups",
            Image {
                unit: 3,
                count: 10,
                blocks: vec![block(0, 6), block(4095, 6), block(4096, 6), block(9_999, 6)],
                ..base()
            },
        ),
        shape(
            "child of many groups",
            Image {
                kind: 2,
                unit: 3,
                count: 10,
                blocks: vec![block(0, 7), block(4095, 7), block(4096, 7), block(9_999, 6)],
                ..child()
            },
        ),
        shape(
            "as large as it gets",
            Image {
                block_shift: 5,
                unit: 4,
                count: 63,
                ..base()
            },
        ),
        shape(
            "metadata last",
            Image {
                layout: 1,
                ..base()
            },
        ),
        shape(
            "log last",
            Image {
                layout: 2,
                ..unclean()
            },
        ),
        shape(
            "all states",
            Image {
                blocks: [0, 1, 2, 3, 6]
                    .iter()
                    .map(|state| block(u16::from(*state), *state))
                    .collect(),
                ..base()
            },
        ),
        shape(
            "all states of a child",
            Image {
                blocks: [0, 1, 2, 3, 6, 7]
                    .iter()
                    .map(|state| block(u16::from(*state), *state))
                    .collect(),
                block_shift: 0,
                ..child()
            },
        ),
        shape(
            "soft anchors",
            Image {
                blocks: vec![
                    Block {
                        place: 9,
                        ..block(1, 1)
                    },
                    Block {
                        place: 12,
                        ..block(3, 3)
                    },
                ],
                ..base()
            },
        ),
        shape("one sector", Image { count: 0, ..base() }),
        shape(
            "log of three",
            Image {
                log: vec![
                    log_of(vec![page(20, 0, 7), zeros(BAT, 0, 1)]),
                    log_of(vec![page(14, 3, 8), page(BAT, 0, 0)]),
                    Entry {
                        tail: 1,
                        more: 2,
                        ..log_of(vec![zeros(BAT, 0, 1), zeros(14, 0, 256), page(15, 1, 9)])
                    },
                ],
                ..base()
            },
        ),
        shape(
            "log that wraps",
            Image {
                log: vec![
                    Entry {
                        page: 254,
                        ..log_of(vec![page(14, 0, 1), page(14, 1, 2), page(14, 2, 3)])
                    },
                    Entry {
                        tail: 1,
                        ..log_of(vec![page(14, 1, 4)])
                    },
                ],
                ..base()
            },
        ),
        shape(
            "old entries before",
            Image {
                log: vec![
                    log_of(vec![page(14, 0, 1)]),
                    log_of(vec![page(14, 1, 2)]),
                    log_of(vec![]),
                ],
                ..base()
            },
        ),
        shape(
            "an entry of another log",
            Image {
                log: vec![
                    Entry {
                        strange: true,
                        ..log_of(vec![zeros(BAT, 0, 1)])
                    },
                    Entry {
                        skip: 9,
                        ..log_of(vec![page(14, 1, 2)])
                    },
                ],
                ..base()
            },
        ),
        shape(
            "log over tables and metadata",
            Image {
                log: vec![log_of(vec![
                    Change {
                        area: TABLE,
                        ..Change::default()
                    },
                    Change {
                        area: METADATA,
                        word: 40,
                        ..Change::default()
                    },
                    Change {
                        area: ITEMS,
                        word: 1,
                        value: 5 << 20,
                        ..Change::default()
                    },
                ])],
                ..base()
            },
        ),
        shape(
            "one bad header and table",
            Image {
                edits: vec![poke(HEADER, 0, b"x"), poke(TABLE, 0, b"x")],
                ..base()
            },
        ),
        shape(
            "longer than its content",
            Image {
                edits: vec![length(100, 17)],
                ..base()
            },
        ),
        shape(
            "last block cut",
            Image {
                edits: vec![length(6, (1 << 20) - 4096)],
                ..base()
            },
        ),
        shape("the last of all numbers", Image { edits: vec![twin(HEADER, 8, &[0xFF; 8])], ..base() }),
        shape("the last of all numbers, unclean", Image { edits: vec![twin(HEADER, 8, &[0xFF; 8])], ..unclean() }),
        shape("zeros again and again", Image {
            log: vec![log_of(vec![zeros(BAT, 0, 1), page(BAT, 0, 0), zeros(BAT, 0, 1), page(17, 0, 3), zeros(16, 0, 512), page(17, 1, 4), zeros(16, 0, 512)])],
            ..base()
        }),
        shape(
            "raw",
            Image {
                raw: true,
                edits: vec![
                    length(4, 0),
                    poke(IDENTIFIER, 0, b"vhdxfile"),
                    twin(HEADER, 0, b"head"),
                ],
                ..Image::default()
            },
        ),
    ]
}

fn poke(area: u8, within: u16, bytes: &[u8]) -> Edit {
    Edit {
        op: 0,
        area,
        within,
        bytes: bytes.to_vec(),
    }
}

fn twin(area: u8, within: u16, bytes: &[u8]) -> Edit {
    Edit {
        op: 1,
        ..poke(area, within, bytes)
    }
}

/// Copies `pieces` times 32 bytes.
fn copy(from: (u8, u16), to: (u8, u16), pieces: u8) -> Edit {
    let [low, high] = from.1.to_le_bytes();
    Edit {
        op: 2,
        ..poke(to.0, to.1, &[from.0, low, high, pieces])
    }
}

fn length(mib: u16, more: u64) -> Edit {
    Edit {
        op: 3,
        ..poke(0, mib, &more.to_le_bytes())
    }
}

/// Where a field of an entry of the metadata table lies.
fn item(number: u16, field: u16) -> u16 {
    32 + number * 32 + field
}

/// For each rule that one file can break, files that break it.
#[rustfmt::skip]
pub(super) fn broken() -> Vec<(Rule, &'static str, Image)> {
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

/// A chain of so many disks, root last.
fn chain(depth: u8) -> Vec<Image> {
    (0..depth)
        .map(|number| {
            let leaf = Image {
                identity: number,
                link: Link {
                    linkage: number + 1,
                    ..Link::default()
                },
                ..child()
            };
            if number + 1 == depth {
                Image {
                    kind: 0,
                    blocks: base().blocks,
                    ..leaf
                }
            } else {
                leaf
            }
        })
        .collect()
}

#[rustfmt::skip]
pub(super) fn chains() -> Vec<(String, Vec<Image>, u8)> {
    let with = |depth: u8, number: usize, change: &dyn Fn(&mut Image)| {
        let mut images = chain(depth);
        change(&mut images[number]);
        images
    };
    let mut chains = vec![
        (
            "another parent",
            with(2, 0, &|image| image.link.linkage = 9),
            1,
        ),
        (
            "second identity",
            with(2, 0, &|image| {
                (image.link.linkage, image.link.linkage2) = (9, 1);
            }),
            1,
        ),
        (
            "cycle of two",
            with(2, 1, &|image| {
                *image = Image {
                    link: Link {
                        linkage: 0,
                        ..Link::default()
                    },
                    identity: 1,
                    ..child()
                }
            }),
            0,
        ),
        (
            "its own parent",
            with(1, 0, &|image| {
                *image = Image {
                    link: Link {
                        linkage: 0,
                        ..Link::default()
                    },
                    identity: 0,
                    ..child()
                }
            }),
            0,
        ),
        ("other sectors", with(2, 1, &|image| image.sectors = 3), 0),
        (
            "a smaller parent",
            with(2, 1, &|image| image.count = 9000),
            0,
        ),
        (
            "a larger parent",
            with(2, 0, &|image| image.count = 9000),
            0,
        ),
        (
            "other blocks",
            with(3, 1, &|image| image.block_shift = 0),
            0,
        ),
        (
            "a broken parent",
            with(3, 1, &|image| image.edits = vec![poke(BAT, 0, &[4])]),
            0,
        ),
        (
            "a broken root",
            with(3, 2, &|image| image.edits = vec![poke(IDENTIFIER, 0, b"x")]),
            2,
        ),
        (
            "an unclean parent",
            with(2, 1, &|image| {
                *image = Image {
                    identity: 1,
                    ..unclean()
                }
            }),
            0,
        ),
        (
            "up and out",
            with(2, 0, &|image| image.link.path = vec![0, 0, 1, 0, 0, 1, 5]),
            0,
        ),
        (
            "up and back",
            with(2, 0, &|image| image.link.path = vec![10, 1, 0, 0, 1, 5]),
            0,
        ),
        (
            "a drive",
            with(2, 0, &|image| image.link.path = vec![10, 3, 1, 5]),
            4,
        ),
        (
            "absolute only",
            with(2, 0, &|image| {
                (image.link.paths, image.link.path) = (3, vec![5]);
            }),
            0,
        ),
        ("nowhere to look", chain(2), 8),
    ]
    .into_iter()
    .map(|(name, images, resolver)| (name.to_owned(), images, resolver))
    .collect::<Vec<_>>();
    chains.extend((1..=5).map(|depth| (format!("{depth} disks"), chain(depth), 0)));
    chains
}
