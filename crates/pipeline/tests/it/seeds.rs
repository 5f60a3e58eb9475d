//! Restores that take from seeds: always the right content, and no more over the link than must be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{ByteRange, ImageRef};
use pipeline::{ImageSource, Options, Plan, RestoreFigures, Seed, SeedUse, Seeds, restore_image};
use proptest::prelude::*;
use store::BoxError;
use vhdx::Extent;

use crate::support::{CELL, Model, Vault, Written, assert_same, backup, changed, options, random};

const MIB: u64 = 1 << 20;
const MIB_CELLS: u64 = MIB / CELL as u64;

/// A disk of random cells, which do not compress.
fn disk(mib: u64, seed: u64) -> Model {
    let mut disk = Model::new(mib * MIB);
    disk.write(0, mib * MIB_CELLS, seed);
    for (number, cell) in &mut disk.cells {
        *cell = Arc::new(random(seed ^ ((number + 1) * 0x1_0001), CELL));
    }
    disk
}

/// Writes other bytes into these cells.
fn damage(disk: &Model, cells: impl IntoIterator<Item = u64>) -> Model {
    let mut damaged = disk.clone();
    for cell in cells {
        damaged
            .cells
            .insert(cell, Arc::new(random(cell * 77 + 5_000_001, CELL)));
    }
    damaged
}

/// Cells spread over a disk: `percent` of all, none near another by more than chance.
fn scattered(cells: u64, percent: u64) -> Vec<u64> {
    let step = 100 / percent;
    (0..cells / step)
        .map(|at| at * step + (at * 7919) % step)
        .collect()
}

/// Runs of a MiB: `percent` of all, not on whole MiBs.
fn runs(cells: u64, percent: u64) -> Vec<u64> {
    let count = cells * percent / 100 / MIB_CELLS;
    let step = cells / count;
    (0..count)
        .flat_map(|run| (0..MIB_CELLS).map(move |at| run * step + 37 + at))
        .collect()
}

fn seeds_of(vault: &Vault, sources: Vec<Model>, same_place: Vec<usize>) -> SeedUse {
    let seeds = sources
        .into_iter()
        .enumerate()
        .map(|(number, source)| Seed {
            name: format!("seed {number}"),
            source: Arc::new(source),
        })
        .collect();
    SeedUse {
        seeds: Arc::new(Seeds::new(seeds, vault.cell_key(), u64::MAX)),
        same_place,
    }
}

/// Restores with seeds, compares, returns the figures and the bytes on the link.
#[track_caller]
fn restored(
    vault: &Vault,
    image: &ImageRef,
    disk: &Model,
    seeds: SeedUse,
) -> (RestoreFigures, u64) {
    let before = vault.wire.load(Ordering::Relaxed);
    let options = Options {
        seeds: Some(seeds),
        ..options(2)
    };
    let mut target = Written::default();
    let outcome = restore_image(image, &vault.names(), vault, &mut target, &options).unwrap();
    assert_same(&target.into_model(disk.len), disk);
    let wire = vault.wire.load(Ordering::Relaxed) - before;
    let counted = outcome.figures.bytes_fetched + outcome.figures.cell_hash_bytes;
    assert!(
        counted <= wire && wire <= counted + counted / 8 + 4096,
        "{counted} {wire}"
    );
    (outcome.figures, wire)
}

fn full(disk: &Model) -> (Vault, ImageRef) {
    let vault = Arc::new(Vault::new());
    let image = backup(&vault, disk, &Plan::Full).unwrap().0.image;
    (Arc::into_inner(vault).unwrap(), image)
}

#[track_caller]
fn fetches_at_most(percent: f64, wire: u64, disk: &Model) {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = wire as f64 * 100.0 / disk.cells.len() as f64 / CELL as f64;
    assert!(
        share <= percent,
        "{share:.2} % fetched, {percent} % allowed"
    );
}

#[test]
fn an_equal_seed_leaves_nothing_to_fetch() {
    let disk = disk(70, 3);
    let (vault, image) = full(&disk);
    let seeds = seeds_of(&vault, vec![disk.clone()], vec![0]);
    let (figures, wire) = restored(&vault, &image, &disk, seeds.clone());
    assert_eq!((figures.chunks, figures.cells, wire), (0, 0, 0));
    assert_eq!(figures.bytes_reused, disk.len);
    assert_eq!(
        seeds.seeds.scanned(),
        None,
        "the same content in the same place is not searched for"
    );
}

#[test]
fn damaged_runs_cost_what_was_damaged() {
    let disk = disk(192, 5);
    let (vault, image) = full(&disk);
    let damaged = damage(&disk, runs(192 * MIB_CELLS, 3));
    let seeds = seeds_of(&vault, vec![damaged], vec![0]);
    let (figures, wire) = restored(&vault, &image, &disk, seeds);
    fetches_at_most(4.0, wire, &disk);
    assert!(figures.cells > 0 && figures.chunks > 0);
}

#[test]
fn damaged_scattered_cells_cost_little_more_than_themselves() {
    let disk = disk(128, 7);
    let (vault, image) = full(&disk);
    let damaged = damage(&disk, scattered(128 * MIB_CELLS, 3));
    let seeds = seeds_of(&vault, vec![damaged], vec![0]);
    let (_, wire) = restored(&vault, &image, &disk, seeds);
    fetches_at_most(4.5, wire, &disk);
}

#[test]
fn a_twin_is_found_by_content_whatever_its_offsets() {
    let disk = disk(96, 11);
    let (vault, image) = full(&disk);
    let mut twin = Model::new(disk.len + 3 * CELL as u64);
    for (cell, bytes) in damage(&disk, scattered(96 * MIB_CELLS, 2)).cells {
        twin.cells.insert(cell + 3, bytes);
    }
    for same_place in [vec![], vec![0]] {
        let seeds = seeds_of(&vault, vec![twin.clone()], same_place);
        let (_, wire) = restored(&vault, &image, &disk, seeds.clone());
        fetches_at_most(5.0, wire, &disk);
        assert!(seeds.seeds.scanned().unwrap().chunks > 0);
    }
}

#[test]
fn several_seeds_complete_each_other() {
    let disk = disk(64, 13);
    let (vault, image) = full(&disk);
    let half = 32 * MIB_CELLS;
    let (mut front, mut back) = (disk.clone(), disk.clone());
    front.cells.retain(|cell, _| *cell < half);
    back.cells.retain(|cell, _| *cell >= half);
    let seeds = seeds_of(&vault, vec![front, back], vec![0, 1]);
    let (figures, wire) = restored(&vault, &image, &disk, seeds);
    // Of the chunk in the middle each has a part: the hashes of its cells are needed.
    assert_eq!((figures.chunks, figures.cells), (0, 0));
    assert!(wire <= 72 + 64 * 16, "{wire}");
}

/// A point made of many increments, so that its chunks are joined from runs all over a region.
fn fragmented(increments: u64) -> (Vault, Model, ImageRef) {
    let vault = Arc::new(Vault::new());
    let mut disk = disk(72, 17);
    let mut image = backup(&vault, &disk, &Plan::Full).unwrap().0.image;
    let all = 72 * MIB_CELLS;
    for increment in 1..=increments {
        let cells: Vec<u64> = (0..900)
            .map(|at| (at * 97 * increment + increment * 31) % all)
            .collect();
        let mut ranges = Vec::new();
        for &cell in &cells {
            disk.cells
                .insert(cell, Arc::new(random(increment << 32 | cell, CELL)));
            ranges.push((cell * CELL as u64, CELL as u64));
        }
        ranges.sort_unstable();
        ranges.dedup();
        image = backup(&vault, &disk, &changed(&ranges, disk.len, &image))
            .unwrap()
            .0
            .image;
    }
    (Arc::into_inner(vault).unwrap(), disk, image)
}

#[test]
fn increments_are_found_where_the_image_has_them() {
    let (vault, disk, image) = fragmented(6);
    let seeds = seeds_of(&vault, vec![disk.clone()], vec![0]);
    let (figures, wire) = restored(&vault, &image, &disk, seeds);
    assert_eq!((figures.chunks, figures.cells), (0, 0), "{figures:?}");
    // Of chunks that were overwritten in part only the hashes of their cells are needed.
    fetches_at_most(0.5, wire, &disk);

    let damaged = damage(&disk, scattered(72 * MIB_CELLS, 3));
    let seeds = seeds_of(&vault, vec![damaged], vec![0]);
    let (_, wire) = restored(&vault, &image, &disk, seeds);
    fetches_at_most(5.0, wire, &disk);

    let damaged = damage(&disk, runs(72 * MIB_CELLS, 3));
    let seeds = seeds_of(&vault, vec![damaged], vec![0]);
    let (_, wire) = restored(&vault, &image, &disk, seeds);
    fetches_at_most(4.0, wire, &disk);
}

#[test]
fn a_stranger_costs_little() {
    let disk = disk(160, 19);
    let (vault, image) = full(&disk);
    let plain = {
        let before = vault.wire.load(Ordering::Relaxed);
        crate::support::restore(&vault, &image, &options(2)).unwrap();
        vault.wire.load(Ordering::Relaxed) - before
    };
    let seeds = seeds_of(&vault, vec![self::disk(160, 23)], vec![0]);
    let (figures, wire) = restored(&vault, &image, &disk, seeds);
    assert_eq!(figures.bytes_reused, 0);
    assert!(wire < plain + plain / 200, "{wire} instead of {plain}");
}

/// A seed whose bytes change between any two reads.
struct Restless {
    sound: Model,
    reads: AtomicU64,
    /// Every so many reads are refused, lie in one byte, or are random throughout.
    every: u64,
}

impl ImageSource for Restless {
    fn len(&self) -> u64 {
        self.sound.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BoxError> {
        let n = self.reads.fetch_add(1, Ordering::Relaxed);
        self.sound.read_at(buf, offset)?;
        match n % (3 * self.every) {
            0 => {
                let at = usize::try_from(n * 12_345).unwrap() % buf.len();
                buf[at] ^= 1;
            }
            n if n == self.every => buf.copy_from_slice(&random(n, buf.len())),
            n if n == 2 * self.every && self.every > 3 => return Err("it went away".into()),
            _ => {}
        }
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BoxError> {
        self.sound.extents(offset, len)
    }
}

#[test]
fn a_seed_that_changes_between_reads_never_gives_wrong_bytes() {
    let (vault, disk, image) = fragmented(2);
    for every in [1, 2, 5, 11] {
        for same_place in [vec![0], vec![]] {
            let seed = Restless {
                sound: disk.clone(),
                reads: AtomicU64::new(0),
                every,
            };
            let seeds = vec![Seed {
                name: "restless".to_owned(),
                source: Arc::new(seed),
            }];
            let seeds = SeedUse {
                seeds: Arc::new(Seeds::new(seeds, vault.cell_key(), u64::MAX)),
                same_place,
            };
            restored(&vault, &image, &disk, seeds);
        }
    }
}

#[test]
fn a_seed_that_cannot_be_read_is_left_alone() {
    struct Broken;
    impl ImageSource for Broken {
        fn len(&self) -> u64 {
            64 * MIB
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), BoxError> {
            Err("no".into())
        }
        fn extents(&self, _: u64, _: u64) -> Result<Vec<Extent>, BoxError> {
            Err("neither".into())
        }
    }
    let disk = disk(64, 29);
    let (vault, image) = full(&disk);
    let seeds = vec![Seed {
        name: "broken".to_owned(),
        source: Arc::new(Broken),
    }];
    let seeds = SeedUse {
        seeds: Arc::new(Seeds::new(seeds, vault.cell_key(), u64::MAX)),
        same_place: vec![0],
    };
    restored(&vault, &image, &disk, seeds.clone());
    assert_eq!(seeds.seeds.given_up(), ["broken"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn whatever_the_seed_the_content_is_right(
        shift in 0u64..5, holes in prop::collection::vec((0u64..20_000, 1u64..900), 0..6),
        wrong in prop::collection::vec(0u64..20_000, 0..300), len in 60 * MIB..81 * MIB,
        ranges in prop::option::of((0u64..40 * MIB, 1u64..30 * MIB)), in_place: bool,
    ) {
        let vault = Arc::new(Vault::new());
        let mut disk = Model::new(80 * MIB + 777);
        disk.write(300, 2000, 1);
        disk.write(15_900, 4000, 4);
        let base = backup(&vault, &disk, &Plan::Full).unwrap().0.image;
        let mut list = Vec::new();
        for i in 0..60 {
            disk.write(301 + 31 * i, 1, 900_001 + 2 * i);
            list.push(((301 + 31 * i) * CELL as u64, CELL as u64));
        }
        let image = backup(&vault, &disk, &changed(&list, disk.len, &base)).unwrap().0.image;
        let mut seed = Model::new(len);
        for (cell, bytes) in damage(&disk, wrong).cells {
            seed.cells.insert(cell + shift, bytes);
        }
        for (from, cells) in holes {
            seed.cells.retain(|cell, _| !(from..from + cells).contains(cell));
        }
        seed.cells.retain(|cell, _| (cell + 1) * CELL as u64 <= len);
        let seeds = seeds_of(&vault, vec![seed], if in_place { vec![0] } else { vec![] });
        let ranges = ranges.map(|(offset, len)| vec![ByteRange { offset, len }]);
        let options = Options { seeds: Some(seeds), ranges: ranges.clone(), ..options(2) };
        let mut target = Written::default();
        restore_image(&image, &vault.names(), &*vault, &mut target, &options).unwrap();
        let whole = ByteRange { offset: 0, len: disk.len };
        let range = ranges.map_or(whole, |ranges| ranges[0]);
        let mut bytes = vec![0; usize::try_from(range.len).unwrap()];
        for (offset, part) in &target.parts {
            let at = usize::try_from(offset - range.offset).unwrap();
            bytes[at..at + part.len()].copy_from_slice(part);
        }
        prop_assert!(bytes == disk.bytes(range));
    }
}
