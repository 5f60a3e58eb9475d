//! Disks of every geometry, made in every way, read by every other implementation that can read them.
//!
//! A case is a point in a space of seven axes. A short run takes as few cases as cover every pair of values of two axes (and
//! so every value), a long one (`VHDX_ROUNDS`) many more or all. Which judges can read a case is in [`judges_of`]; the
//! table of it is `docs/vhdx-judges.md`. Every case is also compared with a plain model of its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::judges_made::make;
use crate::judges_model::partitions;
use crate::judges_tools::{
    can_mount, is_large, libvhdi_agrees, qemu_agrees, seven_zip_agrees, seven_zip_agrees_on_parts,
};
use crate::support::{MIB, have, rounds};
use vhdx::{Chain, DirectoryResolver, Durability, Rule, Severity, check, replay_log};

/// What a disk is, in the end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Shape {
    Fixed,
    Dynamic,
    /// A child of a dynamic disk.
    Child,
    /// A child of a child of a dynamic disk.
    Grandchild,
}

/// How its content came about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Made {
    /// Laid out from front to back.
    Bulk,
    /// Changed in place, closed.
    InPlace,
    /// Changed in place, not closed: the log is in use.
    Unclean,
    /// By a child merged into it.
    Merged,
    /// By conversion from a chain.
    Converted,
    /// Changed in place, after it grew to twice the size.
    Grown,
    /// Changed in place, then cut off: it had two blocks more.
    Shrunk,
    /// Changed in place, then compacted.
    Compacted,
}

/// How large it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Size {
    /// Four blocks.
    Blocks,
    /// One sector more than three blocks.
    SectorOver,
    /// One sector less than three blocks.
    SectorUnder,
    /// Two blocks and a few sectors: with sectors of 512 bytes no multiple of 4096.
    Odd,
    /// A little more than a group of blocks with one sector bitmap, 4 GiB or 32 GiB.
    OverGroup,
    /// Over 2 TiB, where numbers of sectors need more than 32 bits.
    Over2TiB,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) made: Made,
    pub(crate) size: Size,
    pub(crate) block_mib: u64,
    pub(crate) logical: u32,
    pub(crate) physical: u32,
    /// Whole blocks are zeroed and trimmed, so that the block table says so.
    pub(crate) zeros: bool,
}

const SHAPES: [Shape; 4] = [
    Shape::Fixed,
    Shape::Dynamic,
    Shape::Child,
    Shape::Grandchild,
];
const WAYS: [Made; 8] = [
    Made::Bulk,
    Made::InPlace,
    Made::Unclean,
    Made::Merged,
    Made::Converted,
    Made::Grown,
    Made::Shrunk,
    Made::Compacted,
];
const SIZES: [Size; 6] = [
    Size::Blocks,
    Size::SectorOver,
    Size::SectorUnder,
    Size::Odd,
    Size::OverGroup,
    Size::Over2TiB,
];
pub(crate) const BLOCKS_MIB: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

impl Size {
    /// Returns the size in bytes.
    pub(crate) fn bytes(self, block: u64, sector: u64) -> u64 {
        match self {
            Self::Blocks => 4 * block,
            Self::SectorOver => 3 * block + sector,
            Self::SectorUnder => 3 * block - sector,
            Self::Odd => 2 * block + 11 * sector,
            Self::OverGroup => (sector << 23) + (64 << 10),
            Self::Over2TiB => (2 << 40) + block + (64 << 10),
        }
    }
}

impl Case {
    pub(crate) fn block(&self) -> u64 {
        self.block_mib * MIB
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.size.bytes(self.block(), u64::from(self.logical))
    }

    pub(crate) fn has_parent(&self) -> bool {
        match self.shape {
            Shape::Fixed | Shape::Dynamic => false,
            Shape::Child | Shape::Grandchild => true,
        }
    }

    /// Returns whether there is such a thing.
    fn is_possible(&self) -> bool {
        let whole_file = self.made == Made::Bulk || self.made == Made::Converted;
        // A fixed disk keeps its blocks, and what is written in one go has no zeros to tell of.
        let zeros = !self.zeros || (self.shape != Shape::Fixed && !whole_file);
        // In place a fixed disk changes no metadata, so no log is begun.
        let log = !(self.shape == Shape::Fixed && self.made == Made::Unclean);
        zeros && log && !(self.has_parent() && whole_file)
    }

    /// Returns the values of the axes as numbers.
    fn values(&self) -> [u64; 7] {
        [
            self.shape as u64,
            self.made as u64,
            self.size as u64,
            self.block_mib,
            u64::from(self.logical),
            u64::from(self.physical),
            u64::from(self.zeros),
        ]
    }

    /// Returns every pair of values that this case has, and its shape, way and zeros together.
    fn pairs(&self) -> Vec<(usize, u64, usize, u64)> {
        let values = self.values();
        let mut pairs = vec![(usize::MAX, values[0] * 64 + values[1], 0, values[6])];
        for first in 0..values.len() {
            for second in first + 1..values.len() {
                pairs.push((first, values[first], second, values[second]));
            }
        }
        pairs
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:?} of {:?} ({} bytes), blocks of {} MiB, sectors {}/{}{}",
            self.made,
            self.shape,
            self.size,
            self.bytes(),
            self.block_mib,
            self.logical,
            self.physical,
            if self.zeros { ", zeros told" } else { "" }
        )
    }
}

/// A program that is not ours.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Judge {
    Qemu,
    SevenZip,
    /// 7-Zip, asked for a few partitions of a large disk.
    SevenZipParts,
    Libvhdi,
}

/// Returns who can read a case: QEMU first, which alone replays logs. The others get an unclean file after our own replay.
pub(crate) fn judges_of(case: &Case) -> Vec<Judge> {
    let mut judges = Vec::new();
    // QEMU refuses differencing disks, and knows no other logical sectors than of 512 bytes.
    if !case.has_parent() && case.logical == 512 {
        judges.push(Judge::Qemu);
    }
    // 7-Zip wants a sector bitmap to end with a whole byte, so the size must be a multiple of eight sectors.
    if case.bytes().is_multiple_of(8 * u64::from(case.logical)) {
        judges.push(if is_large(case.bytes()) {
            Judge::SevenZipParts
        } else {
            Judge::SevenZip
        });
    }
    // In a child libvhdi reads blocks that are zeros from the parent. Behind the first group of blocks it
    // goes wrong in fixed disks (in those of QEMU, too) and in sector bitmaps. It refuses to read behind the end of a parent.
    let misread_child = case.has_parent() && (case.zeros || case.made == Made::Grown);
    let one_group = case.bytes() <= u64::from(case.logical) << 23;
    if !misread_child && (one_group || case.shape == Shape::Dynamic) {
        judges.push(Judge::Libvhdi);
    }
    judges
}

/// Returns every case there is, in a fixed order.
pub(crate) fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for made in WAYS {
            for size in SIZES {
                for block_mib in BLOCKS_MIB {
                    for (logical, physical) in [(512, 4096), (512, 512), (4096, 4096), (4096, 512)]
                    {
                        for zeros in [false, true] {
                            cases.push(Case {
                                shape,
                                made,
                                size,
                                block_mib,
                                logical,
                                physical,
                                zeros,
                            });
                        }
                    }
                }
            }
        }
    }
    cases.retain(Case::is_possible);
    cases
}

/// Returns cases that cover every pair of values: again and again the one that covers most of what is left.
fn pairwise(all: &[Case]) -> Vec<Case> {
    let mut left: BTreeSet<_> = all.iter().flat_map(Case::pairs).collect();
    let mut chosen: Vec<Case> = Vec::new();
    while !left.is_empty() {
        let gain = |case: &Case| {
            case.pairs()
                .iter()
                .filter(|pair| left.contains(pair))
                .count()
        };
        let used = |case: &Case| {
            chosen
                .iter()
                .filter(|other| other.shape == case.shape)
                .count()
        };
        // The first of the best, of the shape that was taken least.
        let best = all
            .iter()
            .enumerate()
            .max_by_key(|(number, case)| (gain(case), std::cmp::Reverse((used(case), *number))));
        let (_, best) = best.expect("there are cases");
        for pair in best.pairs() {
            left.remove(&pair);
        }
        chosen.push(*best);
    }
    chosen
}

/// Returns the cases of a run: the pairwise ones, and for each round of a long one forty more, spread over all.
fn cases_of_run() -> Vec<Case> {
    let all = all_cases();
    let mut cases = pairwise(&all);
    let more = usize::try_from(rounds(0)).unwrap() * 40;
    let step = all.len().checked_div(more);
    if let Some(step) = step {
        cases.extend(all.iter().step_by(step.max(1)));
        cases.sort_unstable();
        cases.dedup();
    }
    cases
}

/// Which judges are installed.
struct Court {
    qemu: bool,
    seven_zip: bool,
    libvhdi: bool,
}

impl Court {
    fn assemble() -> Self {
        Self {
            qemu: have("qemu-img") && have("qemu-io"),
            seven_zip: have("7zz"),
            libvhdi: have("vhdiinfo") && have("vhdimount") && can_mount(),
        }
    }

    fn judge(&self, case: &Case) {
        let folder = tempfile::tempdir().unwrap();
        let (name, model) = make(case, folder.path());
        let (file, what) = (folder.path().join(&name), case.to_string());
        let opened = std::fs::File::open(&file).unwrap();
        let chain = Chain::open(opened, &name, &DirectoryResolver::new(folder.path()));
        let disk = chain.unwrap().into_disk();
        let info = disk.info();
        assert_eq!(info.unclean, case.made == Made::Unclean, "{what}");
        assert_eq!(
            (
                u64::from(info.block_bytes),
                info.logical_sector_bytes,
                info.physical_sector_bytes
            ),
            (case.block(), case.logical, case.physical),
            "{what}"
        );
        model.check_disk(&disk, &what);
        check_finds_nothing(&file, &ODD_SECTORS, &what);
        for judge in judges_of(case) {
            if case.made == Made::Unclean && judge != Judge::Qemu {
                let leaf = std::fs::File::options().read(true).write(true).open(&file);
                replay_log(leaf.unwrap(), Durability::ProcessKill).unwrap();
                check_finds_nothing(&file, &ODD_SECTORS, &what);
            }
            match judge {
                Judge::Qemu if self.qemu => {
                    qemu_agrees(&file, case.made == Made::Unclean, &model, &what);
                }
                Judge::SevenZip if self.seven_zip => seven_zip_agrees(&file, &model, &what),
                Judge::SevenZipParts if self.seven_zip => {
                    let block = case.block();
                    let parts = partitions(case.bytes(), block, u64::from(case.logical));
                    seven_zip_agrees_on_parts(&file, &model, &parts, &what);
                }
                Judge::Libvhdi if self.libvhdi => libvhdi_agrees(&file, &model, &what),
                Judge::Qemu | Judge::SevenZip | Judge::SevenZipParts | Judge::Libvhdi => {}
            }
        }
    }

    /// Judges the cases of one shape; tells of all that failed.
    fn judge_all(shape: Shape) {
        let court = Self::assemble();
        let mut failed = Vec::new();
        let mut number = 0;
        for case in cases_of_run().iter().filter(|case| case.shape == shape) {
            number += 1;
            let begun = std::time::Instant::now();
            let judged =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| court.judge(case)));
            let took = begun.elapsed();
            if took.as_millis() > 700 {
                println!("{:.1} s for {case}", took.as_secs_f64());
            }
            if judged.is_err() {
                failed.push(case.to_string());
            }
        }
        println!("{number} cases of {shape:?}");
        assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    }
}

/// Physical sectors smaller than logical ones: worth a warning, and one value of the axes.
const ODD_SECTORS: [Rule; 1] = [Rule::SectorSizeOrder];

/// Checks that nothing is wrong with a file, by our own word.
#[track_caller]
pub(crate) fn check_finds_nothing(file: &Path, tolerated: &[Rule], what: &str) {
    let report = check(std::fs::File::open(file).unwrap()).unwrap();
    let mut findings = report.findings.iter();
    let bad = findings
        .find(|finding| finding.severity != Severity::Note && !tolerated.contains(&finding.rule));
    assert!(bad.is_none(), "{what}: {bad:?}");
}

#[test]
fn others_read_our_fixed_disks() {
    Court::judge_all(Shape::Fixed);
}

#[test]
fn others_read_our_dynamic_disks() {
    Court::judge_all(Shape::Dynamic);
}

#[test]
fn others_read_our_differencing_disks() {
    Court::judge_all(Shape::Child);
}

#[test]
fn others_read_our_chains() {
    Court::judge_all(Shape::Grandchild);
}

#[test]
fn a_short_run_covers_every_pair() {
    let all = all_cases();
    let chosen = pairwise(&all);
    let covered: BTreeSet<_> = chosen.iter().flat_map(Case::pairs).collect();
    assert!(
        all.iter()
            .flat_map(Case::pairs)
            .all(|pair| covered.contains(&pair))
    );
    let mut by_shape = BTreeMap::new();
    for case in &chosen {
        *by_shape.entry(case.shape).or_insert(0) += 1;
    }
    println!("{} of {} cases: {by_shape:?}", chosen.len(), all.len());
}
