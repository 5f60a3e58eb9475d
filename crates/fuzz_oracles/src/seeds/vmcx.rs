//! Sound HyperVStorage files, and one spoiled for most rules.

use vmcx::Rule;

use crate::vmcx_image::{VmcxEdit, VmcxImage, VmcxKey};

fn key(kind: u8, parent: u8, name: &str, value: &[u8]) -> VmcxKey {
    VmcxKey {
        kind,
        parent,
        order: 1,
        name: name.as_bytes().to_vec(),
        value: value.to_vec(),
        ..VmcxKey::default()
    }
}

fn base() -> VmcxImage {
    VmcxImage {
        tables: 1,
        keys: vec![
            key(6, 0, "configuration", &[]),
            key(6, 1, "properties", &[]),
            key(3, 1, "name", b"w\0e\0b\0\0\0"),
            VmcxKey {
                table: 1,
                flags: 2,
                ..key(1, 2, "version", &[9])
            },
            VmcxKey {
                table: 1,
                slack: 5,
                ..key(0, 3, "count", &[0xFF; 8])
            },
            key(2, 4, "ratio", &[0, 0, 0, 0, 0, 0, 0xF8, 0x7F]),
            key(4, 5, "bytes", &[1, 2, 3]),
            key(5, 6, "on", &[1]),
            VmcxKey {
                large: 40,
                ..key(4, 7, "large", &[])
            },
            VmcxKey {
                large: 33,
                ..key(3, 8, "text", &[])
            },
        ],
        ..VmcxImage::default()
    }
}

#[rustfmt::skip]
pub(super) fn images() -> Vec<(Option<Rule>, &'static str, VmcxImage)> {
    let spoil = |page: u8, within: u16, bytes: &[u8]| VmcxImage {
        edits: vec![VmcxEdit { page, within, bytes: bytes.to_vec() }],
        ..base()
    };
    let wrong = |bit: u8| VmcxImage { wrong_sums: 1 << bit, ..base() };
    // Keys begin at 10 in page 4; the third, a text, at 96.
    let name = 10 + 47 + 44;
    vec![
        (None, "empty", VmcxImage::default()),
        (None, "base", base()),
        (None, "second header", VmcxImage { second: true, ..base() }),
        (None, "an older copy", VmcxImage { tables: 0x21, ..base() }),
        (None, "four tables", VmcxImage { tables: 3, ..base() }),
        (None, "two of one name", VmcxImage { keys: vec![key(0, 0, "a", &[1]), key(0, 0, "a", &[2])], ..base() }),
        (Some(Rule::HeaderNoneValid), "sums", wrong(0)),
        (Some(Rule::HeaderTie), "same number", spoil(0, 8, &[0])),
        (Some(Rule::HeaderVersion), "1.1", spoil(0, 10, &[1, 1])),
        (Some(Rule::HeaderAlignment), "0", spoil(0, 23, &[0])),
        (Some(Rule::LogPlace), "beyond the end", spoil(0, 26, &[0, 0, 0, 0xFF])),
        (Some(Rule::LogHeader), "sum", wrong(1)),
        (Some(Rule::LogPending), "3", spoil(3, 8, &[3])),
        (Some(Rule::TableSignature), "0", spoil(2, 0, &[0])),
        (Some(Rule::TablePlace), "a long one", spoil(2, 4, &[0, 0, 1])),
        (Some(Rule::TableEntry), "sums", wrong(2)),
        (Some(Rule::ObjectType), "8", spoil(2, 8, &[8])),
        (Some(Rule::ObjectPlace), "over the headers", spoil(2, 8 + 5, &[0, 0])),
        (Some(Rule::ObjectOverlap), "the log", spoil(2, 8 + 5, &[0, 0x30])),
        (Some(Rule::KeysHeader), "sums", wrong(3)),
        (Some(Rule::KeysTwice), "index 1", spoil(5, 2, &[1])),
        (Some(Rule::EntrySize), "0", spoil(4, 12, &[0])),
        (Some(Rule::EntryChecksum), "all", wrong(4)),
        (Some(Rule::EntryType), "2", spoil(4, 10, &[2])),
        (Some(Rule::EntryName), "not UTF-8", spoil(4, 31, &[0xFF])),
        (Some(Rule::EntryParent), "of nothing", spoil(4, 16, &[1, 0, 5])),
        (Some(Rule::EntryLoop), "of itself", spoil(4, 16, &[1, 0, 10])),
        (None, "another text", spoil(4, name, &[6])),
        (None, "cut", VmcxImage { edits: vec![VmcxEdit { page: 5, within: 7, bytes: Vec::new() }], ..base() }),
        (None, "a further object table", spoil(2, 8 + 18, &[1])),
    ]
}
