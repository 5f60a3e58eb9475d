//! Chains, sound and not.

use super::{BAT, IDENTIFIER, base, child, poke, unclean};
use crate::image::{Image, Link};

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
pub(in crate::seeds) fn chains() -> Vec<(String, Vec<Image>, u8)> {
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
