//! `docs/vhdx-judges.md`: who can judge what, from [`judges_of`]. `UPDATE_DOCS=1` writes it, a plain run compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::judges_matrix::{Case, Judge, Made, Shape, Size, all_cases, judges_of};

const HEAD: &str = "\
# Who judges the VHDX library

Every kind of disk the library makes is read by other implementations in the tests `judges_*` of crate `vhdx`, each compared
with a plain model of the bytes; the library reads it, too. The table says which of them can read what. It is made from the
function `judges_of` of those tests by `UPDATE_DOCS=1 cargo nextest run -p vhdx judges_docs`.

- **Q**: QEMU (`qemu-img check`, `compare`, `qemu-io`). It refuses differencing disks and knows no logical sectors of 4096 bytes.
  It replays a log: an unclean file is judged by a copy that `qemu-img check -r all` repaired. The others get an unclean file
  after the library's own replay.
- **Z**: 7-Zip (`7zz x`). The size must be a multiple of eight logical sectors. Of disks over 256 MiB it is
  asked for some partitions: at the first border of blocks, at the border of bitmap groups, at the end.
- **L**: libvhdi (`vhdiinfo`, `vhdimount`). In a child it reads blocks that are zeros from the parent, and
  nothing behind the end of the parent; behind the first bitmap group it misreads fixed disks (those of QEMU, too) and children.

All cells hold for every block size from 1 to 256 MiB and for physical sectors of 512 and 4096 bytes. Parents in chains have
another block size than their children. \"Zeros told\": whole blocks were zeroed and trimmed, so that the block table says so.

The other way round the library reads what QEMU writes (tests `judges_qemu`), and other programs' files of any origin among the
samples.

";

const COLUMNS: [(Size, &str); 6] = [
    (Size::Blocks, "whole blocks"),
    (Size::SectorOver, "a sector over"),
    (Size::SectorUnder, "a sector under"),
    (Size::Odd, "odd"),
    (Size::OverGroup, "over a group"),
    (Size::Over2TiB, "over 2 TiB"),
];

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Fixed => "fixed",
        Shape::Dynamic => "dynamic",
        Shape::Child => "differencing",
        Shape::Grandchild => "differencing, two levels",
    }
}

fn way_name(made: Made) -> &'static str {
    match made {
        Made::Bulk => "laid out",
        Made::InPlace => "changed in place",
        Made::Unclean => "changed in place, not closed",
        Made::Merged => "merged into",
        Made::Converted => "converted",
        Made::Grown => "grown",
        Made::Shrunk => "shrunk",
        Made::Compacted => "compacted",
    }
}

fn letters(case: &Case) -> String {
    let letters = judges_of(case).into_iter().map(|judge| match judge {
        Judge::Qemu => 'Q',
        Judge::SevenZip | Judge::SevenZipParts => 'Z',
        Judge::Libvhdi => 'L',
    });
    letters.collect()
}

type Cells = Vec<String>;

/// Returns the lines of the table: shape, zeros told, and cells, with the ways that have the same ones.
fn lines() -> BTreeMap<(Shape, bool, Cells), Vec<Made>> {
    let mut cells: BTreeMap<_, BTreeMap<(u32, Size), String>> = BTreeMap::new();
    for case in all_cases() {
        let line = cells
            .entry((case.shape, case.zeros, case.made))
            .or_default();
        let cell = line
            .entry((case.logical, case.size))
            .or_insert_with(|| letters(&case));
        assert_eq!(*cell, letters(&case), "{case}: other judges than its cell");
    }
    let mut lines: BTreeMap<_, Vec<Made>> = BTreeMap::new();
    for ((shape, zeros, made), cells) in cells {
        let cells = cells.into_values().collect();
        lines.entry((shape, zeros, cells)).or_default().push(made);
    }
    lines
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    let columns: Vec<String> = [512, 4096]
        .iter()
        .flat_map(|sector| COLUMNS.map(|(_, name)| format!("{sector}: {name}")))
        .collect();
    let _ = writeln!(text, "| Disk | Made | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(columns.len()));
    let mut few: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for ((shape, zeros, cells), ways) in lines() {
        let told = if zeros { ", zeros told" } else { "" };
        let shape = format!("{}{told}", shape_name(shape));
        let ways = ways.into_iter().map(way_name).collect::<Vec<_>>();
        let ways = ways.join("; ");
        let shown = cells
            .iter()
            .map(|cell| if cell.is_empty() { "–" } else { cell });
        let shown: Vec<&str> = shown.collect();
        let _ = writeln!(text, "| {shape} | {ways} | {} |", shown.join(" | "));
        for (judges, list) in few.iter_mut().enumerate() {
            let named = cells.iter().zip(&columns);
            let named = named.filter(|(cell, _)| cell.len() == judges);
            let named: Vec<&str> = named.map(|(_, column)| column.as_str()).collect();
            if !named.is_empty() {
                list.push(format!("- {shape} ({ways}): {}", named.join(", ")));
            }
        }
    }
    let [none, one] = few.map(|list| list.join("\n"));
    let _ = write!(
        text,
        "
## Cells with one judge

{one}

## Cells with none

These are compared with the plain model of the bytes alone, as every cell is, and by `check`, which must find nothing.

{none}
"
    );
    text
}

#[test]
fn the_table_of_judges_is_that_of_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vhdx-judges.md");
    let made = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/vhdx-judges.md is old: run this test with UPDATE_DOCS=1"
    );
}
