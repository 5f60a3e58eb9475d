//! Inputs to start from: sound files and messages of every shape, and one spoiled file for each rule of the formats.

mod messages;
mod vhd;
mod vhdx;
mod vmcx;

use crate::Seed;
use crate::image::Image;
use crate::look::Spot;
use crate::vhd_image::VhdLinks;
use crate::vhdx_chain::Links;
use crate::vhdx_log_replay::LogReplay;
use crate::vhdx_open_read::OpenRead;
use crate::vhdx_write::{Step, Work};
use crate::wire::Input;
pub(crate) use messages::{
    cim_xml, wmi_path, wmi_time, wsman_request, wsman_response, wsman_sealed,
};
use vhdx::{broken, chains, shapes};

/// Every image above.
fn images() -> Vec<(String, Image)> {
    let broken = broken();
    let broken = broken
        .into_iter()
        .map(|(rule, case, image)| (format!("{}: {case}", rule.code()), image));
    shapes().into_iter().chain(broken).collect()
}

fn spots() -> Vec<Spot> {
    vec![
        Spot {
            block: 1,
            within: 0,
            len: 9000,
            cut: 9,
        },
        Spot {
            block: 7,
            within: 65,
            len: 5000,
            cut: 77,
        },
    ]
}

fn seeds<T: Input>(inputs: impl Iterator<Item = (String, T)>) -> Vec<Seed> {
    let seed = |(name, input): (String, T)| Seed {
        name,
        bytes: input.encode(),
    };
    inputs.map(seed).collect()
}

pub(crate) fn vhdx_open_read() -> Vec<Seed> {
    seeds(images().into_iter().map(|(name, image)| {
        let spots = spots();
        (name, OpenRead { image, spots })
    }))
}

pub(crate) fn vhdx_log_replay() -> Vec<Seed> {
    let with_log = images()
        .into_iter()
        .filter(|(_, image)| !image.log.is_empty() || image.raw);
    seeds(with_log.map(|(name, image)| {
        let (spots, deaths) = (spots(), vec![1, 4, 7]);
        (
            name,
            LogReplay {
                image,
                spots,
                deaths,
            },
        )
    }))
}

pub(crate) fn vhdx_chain() -> Vec<Seed> {
    seeds(chains().into_iter().map(|(name, images, resolver)| {
        let spots = spots();
        (
            name,
            Links {
                images,
                spots,
                resolver,
            },
        )
    }))
}

pub(crate) fn vhdx_write() -> Vec<Seed> {
    let alone = images()
        .into_iter()
        .map(|(name, image)| (name, vec![image]));
    let chains = chains()
        .into_iter()
        .map(|(name, images, _)| (name, images))
        .filter(|(_, images)| images.len() < 4);
    let steps: Vec<Step> = [
        (0, 1, 3, 2000),
        (1, 0, 64, 5000),
        (5, 0, 0, 0),
        (2, 1, 0, 1),
        (0, 1, 0, 512),
        (4, 0, 0, 0),
        (0, 3, 9, 16_000),
        (3, 0, 0, 0),
        (7, 0, 0, 0),
        (6, 0, 0, 0),
        (2, 0, 0, 1),
    ]
    .into_iter()
    .map(|(op, block, within, len)| Step {
        op,
        spot: Spot {
            block,
            within,
            len,
            cut: op,
        },
    })
    .collect();
    seeds(alone.chain(chains).map(|(name, images)| {
        let steps = steps.clone();
        (name, Work { images, steps })
    }))
}

pub(crate) fn vhd_open_read() -> Vec<Seed> {
    let broken = vhd::broken().into_iter();
    let broken =
        broken.map(|(rule, case, image)| (format!("{}: {case}", rule.code()), vec![image]));
    seeds(
        vhd::shapes()
            .into_iter()
            .chain(broken)
            .map(|(name, images)| {
                let spots = spots();
                let resolver = 0;
                (
                    name,
                    VhdLinks {
                        images,
                        spots,
                        resolver,
                    },
                )
            }),
    )
}

pub(crate) fn vmcx_read() -> Vec<Seed> {
    let images = vmcx::images().into_iter();
    seeds(images.map(|(_, name, image)| (name.to_owned(), image)))
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use ::vhdx::{DiskFile, Rule, Severity, Vhdx};

    use super::{broken, chains, images, shapes, vhd, vmcx};
    use crate::Seed;
    use crate::image::Image;
    use crate::vhdx_chain::Links;
    use crate::vhdx_open_read::OpenRead;
    use crate::wire::Input;

    #[track_caller]
    fn check<T: Input + Debug + PartialEq>(seeds: Vec<Seed>) {
        for seed in seeds {
            let input = T::decode(&seed.bytes);
            assert_eq!(T::decode(&input.encode()), input, "{}", seed.name);
        }
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        check::<OpenRead>(super::vhdx_open_read());
        check::<Links>(super::vhdx_chain());
        for (name, image) in images() {
            assert_eq!(Image::decode(&image.encode()), image, "{name}");
        }
    }

    #[test]
    fn sound_files_are_accepted() {
        for (name, image) in shapes() {
            if !image.raw {
                let opened = Vhdx::open(image.build());
                assert!(opened.is_ok(), "{name}: {opened:?}");
            }
        }
    }

    #[test]
    fn broken_files_are_refused_by_the_name_of_the_rule() {
        for (rule, case, image) in broken() {
            let refusal = Vhdx::open(image.build()).err();
            let found = refusal.as_ref().and_then(::vhdx::Error::rule);
            assert_eq!(found, Some(rule), "{case}: {refusal:?}");
        }
    }

    #[test]
    fn vhd_files_are_accepted_or_refused_by_the_name_of_the_rule() {
        for (name, images) in vhd::shapes() {
            for image in images {
                let opened = DiskFile::open(image.build());
                assert!(opened.is_ok(), "{name}: {opened:?}");
            }
        }
        for (rule, case, image) in vhd::broken() {
            let refusal = DiskFile::open(image.build()).err();
            let found = refusal.as_ref().and_then(::vhdx::Error::rule);
            assert_eq!(found, Some(rule), "{case}: {refusal:?}");
        }
    }

    #[test]
    fn storages_are_accepted_or_refused_by_the_name_of_the_rule() {
        for (rule, case, image) in vmcx::images() {
            let refusal = ::vmcx::Storage::read(&image.build()).err();
            let found = refusal.as_ref().and_then(::vmcx::Error::rule);
            let spoiled = rule.is_none() && !image.edits.is_empty();
            assert!(spoiled || found == rule, "{case}: {refusal:?}");
        }
    }

    #[test]
    fn every_rule_that_makes_a_vhdx_file_refused_has_a_seed() {
        // Of chains; and one that takes a log of 8 MiB.
        const ELSEWHERE: [Rule; 6] = [
            Rule::ParentMissing,
            Rule::ParentIdentity,
            Rule::ParentSectorSize,
            Rule::ChainCycle,
            Rule::ChainDepth,
            Rule::LogZeroRanges,
        ];
        let broken = broken();
        for rule in Rule::ALL {
            let here = rule.severity() == Severity::Error
                && !ELSEWHERE.contains(rule)
                && !rule.code().starts_with("vhd-");
            let has = broken.iter().any(|(broken, ..)| broken == rule);
            assert!(has || !here, "{} has no seed", rule.code());
        }
        assert!(chains().len() > 10);
    }
}
