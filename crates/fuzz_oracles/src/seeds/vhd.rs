//! Sound VHD files, and one spoiled for each rule.

use vhdx::Rule;

use crate::image::Link;
use crate::vhd_image::{VhdBlock, VhdEdit, VhdImage};

const COPY: u8 = 0;
const HEADER: u8 = 1;
const TABLE: u8 = 2;
const FOOTER: u8 = 3;
const FOOTERS: u8 = 4;
const LENGTH: u8 = 5;

fn block(number: u16, bits: u8) -> VhdBlock {
    VhdBlock {
        number,
        bits,
        seed: 3,
        ..VhdBlock::default()
    }
}

/// A dynamic disk of 40 blocks of 4 KiB, three of them there.
fn base() -> VhdImage {
    VhdImage {
        block_shift: 3,
        unit: 1,
        count: 39,
        identity: 1,
        blocks: vec![block(0, 0xFF), block(2, 0x3C), block(39, 0)],
        ..VhdImage::default()
    }
}

fn child() -> VhdImage {
    VhdImage {
        kind: 2,
        identity: 0,
        link: Link {
            linkage: 1,
            ..Link::default()
        },
        blocks: vec![block(1, 0x5A), block(2, 0xF0)],
        ..base()
    }
}

fn fixed() -> VhdImage {
    VhdImage { kind: 1, ..base() }
}

#[rustfmt::skip]
pub(super) fn shapes() -> Vec<(String, Vec<VhdImage>)> {
    let with_path = |path: &[u8], paths: u8, manners: u8| {
        let link = Link { linkage: 1, paths, path: path.to_vec(), ..Link::default() };
        vec![VhdImage { link, manners, ..child() }, base()]
    };
    let cases = vec![
        ("dynamic", vec![base()]),
        ("fixed", vec![fixed()]),
        ("fixed with an old footer", vec![VhdImage { manners: 4, ..fixed() }]),
        ("one sector", vec![VhdImage { count: 0, unit: 0, ..base() }]),
        ("blocks of 2 MiB", vec![VhdImage { block_shift: 12, count: 5, ..base() }]),
        ("blocks of 512", vec![VhdImage { block_shift: 0, ..base() }]),
        ("without its end", vec![VhdImage { manners: 1, ..base() }]),
        ("without its copy", vec![VhdImage { manners: 2, ..base() }]),
        ("blocks in no order", vec![VhdImage { blocks: vec![block(7, 1), block(3, 2), block(5, 3)], ..base() }]),
        ("child", vec![child(), base()]),
        ("child of a fixed disk", vec![child(), fixed()]),
        ("child of a larger disk", vec![VhdImage { count: 9, ..child() }, base()]),
        ("child of a smaller disk", vec![child(), VhdImage { count: 9, ..base() }]),
        ("child in other blocks", vec![VhdImage { block_shift: 9, count: 1, ..child() }, base()]),
        ("three", vec![child(), VhdImage { identity: 1, link: Link { linkage: 2, ..Link::default() }, ..child() }, VhdImage { identity: 2, ..base() }]),
        ("both paths", with_path(&[], 1, 0)),
        ("absolute path", with_path(&[5], 2, 0)),
        ("old paths", with_path(&[5], 1, 8)),
        ("name only", with_path(&[0, 1, 5], 3, 0)),
        ("up and out", with_path(&[0, 0, 1, 0, 0, 1, 5], 0, 0)),
        ("a cycle", vec![VhdImage { identity: 1, link: Link { linkage: 1, ..Link::default() }, ..child() }]),
        ("another parent", vec![child(), VhdImage { identity: 7, ..base() }]),
    ];
    cases.into_iter().map(|(name, images)| (name.to_owned(), images)).collect()
}

#[rustfmt::skip]
pub(super) fn broken() -> Vec<(Rule, &'static str, VhdImage)> {
    let spoil = |image: VhdImage, area: u8, within: u16, bytes: &[u8]| VhdImage {
        edits: vec![VhdEdit { area, within, bytes: bytes.to_vec() }],
        ..image
    };
    vec![
        (Rule::VhdFooterChecksum, "all", VhdImage { wrong_sums: 1, ..base() }),
        (Rule::VhdVersion, "0", spoil(base(), FOOTERS, 13, &[0])),
        (Rule::VhdType, "5", spoil(base(), FOOTERS, 63, &[5])),
        (Rule::VhdSize, "0", spoil(base(), FOOTERS, 48, &[0; 8])),
        (Rule::VhdSize, "part of a sector", spoil(base(), FOOTERS, 55, &[1])),
        (Rule::VhdSize, "all ones", spoil(base(), FOOTERS, 48, &[0xFF; 8])),
        (Rule::VhdFixedLength, "longer", spoil(fixed(), FOOTER, 53, &[0xF0])),
        (Rule::VhdHeaderPlace, "over the copy", spoil(base(), FOOTERS, 16, &[0; 8])),
        (Rule::VhdHeaderPlace, "at the end of numbers", spoil(base(), FOOTERS, 16, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0])),
        (Rule::VhdHeaderSignature, "last byte", spoil(base(), HEADER, 7, b"E")),
        (Rule::VhdHeaderChecksum, "left", VhdImage { wrong_sums: 2, ..base() }),
        (Rule::VhdHeaderVersion, "0", spoil(base(), HEADER, 25, &[0])),
        (Rule::VhdBlockSize, "no power of two", spoil(base(), HEADER, 34, &[0x18])),
        (Rule::VhdBlockSize, "0", spoil(base(), HEADER, 32, &[0; 4])),
        (Rule::VhdTableLength, "39", spoil(base(), HEADER, 31, &[39])),
        (Rule::VhdTableLength, "a huge disk", spoil(base(), FOOTERS, 48, &[0, 0, 1, 0, 0, 0, 0, 0])),
        (Rule::VhdTablePlace, "over the header", spoil(base(), HEADER, 22, &[2, 0])),
        (Rule::VhdTablePlace, "beyond the end", spoil(base(), HEADER, 16, &[0, 0, 0, 1])),
        (Rule::VhdLocator, "beyond the end", spoil(child(), HEADER, 576 + 16, &[0xFF; 4])),
        (Rule::VhdLocator, "an odd length", spoil(child(), HEADER, 576 + 11, &[3])),
        (Rule::VhdLocator, "too long", spoil(child(), HEADER, 576 + 8, &[0xFF; 3])),
        (Rule::VhdBlockPlace, "over the table", spoil(base(), TABLE, 0, &[0, 0, 0, 3])),
        (Rule::VhdBlockPlace, "beyond the end", spoil(base(), TABLE, 0, &[0xFF, 0xFF, 0xFF, 0xFE])),
        (Rule::VhdBlockOverlap, "by a sector", VhdImage { blocks: vec![VhdBlock { place: 20, ..block(3, 1) }, VhdBlock { place: 21, ..block(4, 1) }, block(5, 1), block(6, 1), block(7, 1)], ..base() }),
        (Rule::FileTooShort, "no signature", spoil(VhdImage { manners: 2, ..base() }, FOOTER, 0, b"C")),
        (Rule::VhdFooter, "a copy of a fixed disk", spoil(VhdImage { manners: 1, ..base() }, COPY, 63, &[2])),
        (Rule::FileTooShort, "nothing", spoil(base(), LENGTH, 0, &[])),
    ]
}
