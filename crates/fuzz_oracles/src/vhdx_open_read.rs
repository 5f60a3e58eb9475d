//! Opening one file and reading it.
//!
//! Refused, or: `inspect` says the same, every way to read gives the same bytes, and the file was not touched. A check finds
//! errors, the reason of the refusal among them, exactly in files that are refused.

use vhdx::{Chain, DiskFile, Severity, Vhdx, check, inspect};

use crate::image::{Image, forge_identity};
use crate::look::{self, Spot};
use crate::plain::Plain;
use crate::sparse::SparseFile;
use crate::wire::{Input, Wire};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct OpenRead {
    pub(crate) image: Image,
    pub(crate) spots: Vec<Spot>,
}

impl Input for OpenRead {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.list(&mut self.spots, 7, |wire, spot| spot.wire(wire));
        self.image.wire(wire);
    }
}

pub(crate) fn run(input: &[u8]) -> u64 {
    let input = OpenRead::decode(input);
    let file = input.image.build();
    let before = file.copy();
    look(&file, &input.spots);
    compare_check(&file);
    assert_eq!(
        file.difference(&before, 0),
        None,
        "reading changed the file"
    );
    assert_eq!(file.writes(), 0, "reading wrote to the file");
    file.size()
}

fn look(file: &SparseFile, spots: &[Spot]) {
    let inspected = inspect(file.clone());
    let layer = match DiskFile::open(file.clone()) {
        Ok(DiskFile::Vhdx(layer)) => *layer,
        Ok(DiskFile::Vhd(_)) => return,
        Err(refusal) => {
            // The block table is all that `inspect` leaves out.
            if let Err(other) = inspected {
                assert_eq!(other.rule(), refusal.rule(), "{other} but {refusal}");
            }
            return;
        }
    };
    let info = inspected.expect("an accepted file can be inspected");
    assert_eq!(&info, layer.info());
    let mut layers = vec![layer];
    let mut plain = vec![Plain::vhdx(file)];
    if let Some(locator) = &info.parent {
        let parent = Image {
            count: 2,
            unit: 1,
            sectors: u8::from(info.logical_sector_bytes == 4096),
            blocks: (0..3).map(Image::full_block).collect(),
            ..Image::default()
        }
        .build();
        forge_identity(&parent, locator.linkage);
        plain.push(Plain::vhdx(&parent));
        layers.push(Vhdx::open(parent).expect("a sound parent"));
        if info.data_write_guid == locator.linkage {
            let cycle = Chain::from_layers(layers);
            assert!(cycle.is_err(), "a disk that is its own parent");
            return;
        }
    }
    let disk = Chain::from_layers(layers)
        .expect("the chain fits")
        .into_disk();
    look::compare(&disk, &plain, spots);
}

fn compare_check(file: &SparseFile) {
    let opened = Vhdx::open(file.clone());
    match (opened, check(file.clone())) {
        (Ok(layer), Ok(report)) => {
            let errors = report.count_of(Severity::Error);
            assert_eq!(errors, 0, "an accepted file: {:?}", report.findings);
            assert_eq!(report.info.as_ref(), Some(layer.info()));
        }
        (Err(refusal), Ok(report)) => {
            let rule = refusal.rule().expect("a file in memory can be read");
            assert!(
                report.count(rule) > 0,
                "{refusal}, but {:?}",
                report.findings
            );
            assert!(
                report.worst() == Some(Severity::Error),
                "{refusal} is no error"
            );
        }
        (Err(refusal), Err(reason)) => {
            assert_eq!(refusal.rule(), reason.rule(), "{refusal}, {reason}");
        }
        (Ok(_), Err(reason)) => panic!("an accepted file cannot be checked: {reason}"),
    }
}
