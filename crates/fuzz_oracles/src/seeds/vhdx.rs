//! Sound VHDX files; those spoiled and chains of them are in modules of their own.

mod broken;
mod chains;

use crate::image::{Block, Change, Edit, Entry, Image, Link};
pub(super) use broken::broken;
pub(super) use chains::chains;

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
