//! The figures of crate `vhdx`. Our side is its example `figures`, a job per process.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::job::{Folder, Job, remove, shown, text};
use super::measure::{Usage, file_system, measure, median};
use super::report::{Figure, Target, json, table};
use super::{GIB, MIB, Options, machine};
use crate::run::{cargo, root, run, say, works};

const DOCS: &str = "docs/vhdx-figures.md";
const TIB: u64 = 1 << 40;
/// Block size of the disks, as Windows makes them.
const BLOCK: u64 = 32 * MIB;
/// Bytes of a random read.
const READ: u64 = 64 << 10;
/// QEMU takes no step this long.
const STEP_END: u64 = 1 << 31;
/// Memory that the longest table takes in a file system in memory, with room to spare.
const TABLE_BYTES: u64 = 600 * MIB;

/// Everything the cases share.
struct Bench<'a> {
    options: &'a Options,
    /// The built example.
    figures: String,
    /// Whether `qemu-img` is there to compare with.
    qemu: bool,
    done: Vec<Figure>,
}

/// Measures, reports, and says by an error if a target was missed.
pub(crate) fn bench(options: &Options) -> anyhow::Result<()> {
    let mut bench = Bench {
        options,
        figures: build(options.is_trial())?,
        qemu: works(Command::new("qemu-img").arg("--version")),
        done: Vec::new(),
    };
    if !bench.qemu {
        say("qemu-img is not here: nothing is compared with it");
    }
    let (kind, free) = file_system(&options.dir)?;
    let needed = bench.disk_bytes() * 7 / 2;
    ensure!(
        free >= needed,
        "{} has {} MiB free, the benchmark needs {}: give it another folder (--dir) or smaller disks (--gib)",
        options.dir.display(),
        free / MIB,
        needed / MIB
    );
    let folder = Folder::new(&options.dir, "vhdx-figures")?;
    bench.whole_disks(&folder)?;
    bench.merges(&folder)?;
    let tables = bench.open_large(&folder)?;
    drop(folder);
    report(&bench, &kind, &tables)
}

/// Builds the example, and nothing else; returns its path.
fn build(trial: bool) -> anyhow::Result<String> {
    // A trial takes what the tests have compiled already.
    let profile = if trial { "dev" } else { "release" };
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--package",
        "vhdx",
        "--example",
        "figures",
        "--profile",
        profile,
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder));
    let built = target
        .join(if trial { "debug" } else { "release" })
        .join("examples")
        .join("figures");
    Ok(text(&built)?.to_owned())
}

impl Bench<'_> {
    /// Returns the size of the disks that are full of data.
    fn disk_bytes(&self) -> u64 {
        if self.options.is_trial() {
            64 * MIB
        } else {
            self.options.gib * GIB
        }
    }

    fn ours(&self, arguments: &[&str]) -> Job {
        let mut words = vec![self.figures.as_str()];
        words.extend(arguments);
        Job::new("vhdx", &words)
    }

    fn make(&self, arguments: &[&str]) -> anyhow::Result<Usage> {
        measure(Command::new(&self.figures).args(arguments))
    }

    /// Measures both sides, run by run in turn.
    fn compare(
        &mut self,
        what: &str,
        ours: &Job,
        peer: Option<&Job>,
        target: Target,
    ) -> anyhow::Result<()> {
        say(&format!("{what} ..."));
        let (mut our_runs, mut peer_runs) = (Vec::new(), Vec::new());
        for _ in 0..self.options.runs {
            our_runs.push(ours.measure()?);
            if let Some(peer) = peer {
                peer_runs.push(peer.measure()?);
            }
        }
        self.done.push(Figure {
            what: what.to_owned(),
            ours: median(&our_runs),
            peer: peer.map(|peer| (peer.name.clone(), median(&peer_runs))),
            target,
        });
        Ok(())
    }

    /// Reads, writes and converts of a disk full of data.
    fn whole_disks(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let bytes = self.disk_bytes();
        let size = shown(bytes);
        let (raw, disk, out) = (
            folder.file("raw"),
            folder.file("disk.vhdx"),
            folder.file("out"),
        );
        let (raw_name, disk_name, out_name) = (text(&raw)?, text(&disk)?, text(&out)?);
        say(&format!("making a disk of {size} full of data ..."));
        self.make(&["raw", raw_name, &bytes.to_string()])?;
        self.make(&["write", raw_name, disk_name, &BLOCK.to_string()])?;
        if self.options.is_trial() {
            self.make(&["export", disk_name, out_name])?;
            ensure!(
                std::fs::read(&out)? == std::fs::read(&raw)?,
                "a disk written and exported is not what it was"
            );
            remove(&out)?;
        }
        let copy = Job::new("cp", &["cp", "--reflink=never", raw_name, out_name]).makes(&out);
        let qemu = |arguments: &[&str]| {
            let mut words = vec!["qemu-img"];
            words.extend(arguments);
            Job::new("qemu-img", &words).makes(&out)
        };

        let read = self.ours(&["read", disk_name]);
        self.compare(
            &format!("read a dynamic disk of {size} from end to end, to nowhere"),
            &read,
            Some(&copy),
            Target::CpuRatio(1.5),
        )?;
        let export = self.ours(&["export", disk_name, out_name]).makes(&out);
        self.compare(
            &format!("read a dynamic disk of {size} into a raw image"),
            &export,
            Some(&copy),
            Target::CpuRatio(1.5),
        )?;
        let write = self
            .ours(&["write", raw_name, out_name, &BLOCK.to_string()])
            .makes(&out);
        self.compare(
            &format!("lay out a dynamic disk of {size} (bulk write)"),
            &write,
            Some(&copy),
            Target::CpuRatio(1.5),
        )?;
        if self.qemu {
            let theirs = qemu(&["convert", "-f", "vhdx", "-O", "raw", disk_name, out_name]);
            self.compare(
                &format!("read a dynamic disk of {size} into a raw image"),
                &export,
                Some(&theirs),
                Target::None,
            )?;
        }
        remove(&raw)?;
        self.random_reads(disk_name)?;
        let converted = folder.file("converted.vhdx");
        let convert = |bench: &Self, leaf| {
            let arguments = ["convert", text(&folder.0)?, leaf, text(&converted)?];
            anyhow::Ok(bench.ours(&arguments).makes(&converted))
        };
        if self.qemu {
            let ours = convert(self, "disk.vhdx")?;
            let options = format!("subformat=dynamic,block_size={BLOCK}");
            let theirs = [
                "qemu-img",
                "convert",
                "-f",
                "vhdx",
                "-O",
                "vhdx",
                "-o",
                &options,
                disk_name,
                text(&converted)?,
            ];
            let theirs = Job::new("qemu-img", &theirs).makes(&converted);
            let what = format!("convert a dynamic disk of {size} into another");
            self.compare(&what, &ours, Some(&theirs), Target::CpuRatio(1.0))?;
        }
        // Every other MiB of the disk is in the child.
        let child = folder.file("child.vhdx");
        let mib = MIB.to_string();
        self.make(&["child", disk_name, text(&child)?, &mib, &mib])?;
        let ours = convert(self, "child.vhdx")?;
        let copy = ["cp", "--reflink=never", disk_name, text(&converted)?];
        let copy = Job::new("cp", &copy).makes(&converted);
        let what = format!("convert a chain of two, {size}, into one disk");
        self.compare(&what, &ours, Some(&copy), Target::None)?;
        remove(&child)?;
        remove(&disk)
    }

    /// Reads at places all over a disk that lies in the system's cache.
    fn random_reads(&mut self, disk: &str) -> anyhow::Result<()> {
        let bytes = self.disk_bytes();
        let count = if self.options.is_trial() {
            500
        } else {
            200_000
        };
        // `qemu-img bench` goes on by a step and wraps around: a step of odd length, some 0.618 of the disk, meets all
        // places in an order that looks like chance. Ours goes the same way.
        // A half or a quarter of the step scatters as well.
        let mut step = bytes / READ * 618 / 1000;
        while step * READ >= STEP_END {
            step /= 2;
        }
        let step = (step | 1) * READ;
        let [count, size, step] = [count, READ, step].map(|number| number.to_string());
        // The disk into the cache.
        self.make(&["read", disk])?;
        for depth in ["1", "32"] {
            let ours = self.ours(&["random", disk, &count, &size, &step, depth]);
            let peer = self.qemu.then(|| {
                Job::new(
                    "qemu-img bench",
                    &[
                        "qemu-img",
                        "bench",
                        "-f",
                        "vhdx",
                        "-t",
                        "writeback",
                        "-c",
                        &count,
                        "-d",
                        depth,
                        "-s",
                        &size,
                        "-S",
                        &step,
                        disk,
                    ],
                )
            });
            self.compare(
                &format!("{count} random reads of 64 KiB, {depth} at a time, disk in the cache"),
                &ours,
                peer.as_ref(),
                Target::CpuRatio(1.0),
            )?;
        }
        Ok(())
    }

    /// Merges of children with half the bytes of the large disks.
    fn merges(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let half = self.disk_bytes() / 2;
        let (parent, fresh, child, out) = (
            folder.file("parent.vhdx"),
            folder.file("fresh.vhdx"),
            folder.file("child.vhdx"),
            folder.file("out"),
        );
        let copy = Job::new(
            "cp of the child",
            &["cp", "--reflink=never", text(&child)?, text(&out)?],
        )
        .makes(&out);
        // The child accepts the parent before and after a merge, so one child serves all runs.
        let merge = self
            .ours(&["merge", text(&child)?, text(&parent)?])
            .makes(&parent)
            .on_fresh(&fresh, &parent);
        let cases = [
            ("whole blocks", half, half, 0, Target::CpuRatio(2.0)),
            (
                "partial blocks, every other 64 KiB",
                half,
                64 << 10,
                64 << 10,
                Target::CpuRatio(2.0),
            ),
            // As scattered as it gets; nobody asked for it.
            (
                "partial blocks, every other 4 KiB",
                half / 8,
                4 << 10,
                4 << 10,
                Target::None,
            ),
        ];
        for (name, bytes, run, gap, target) in cases {
            let size = if gap == 0 { bytes } else { 2 * bytes };
            let [size, run, gap] = [size, run, gap].map(|number| number.to_string());
            self.make(&["empty", text(&fresh)?, &size])?;
            self.make(&["child", text(&fresh)?, text(&child)?, &run, &gap])?;
            let what = format!("merge {} of {name}", shown(bytes));
            self.compare(&what, &merge, Some(&copy), target)?;
            remove(&child)?;
            remove(&fresh)?;
        }
        Ok(())
    }

    /// Opens the largest disks there are, with a place for every block. Returns what the sizes were.
    fn open_large(&mut self, folder: &Folder) -> anyhow::Result<String> {
        // A file this long, holes but for its table, does not fit ext4 (16 TiB). It fits a file system in memory.
        let memory = Path::new("/dev/shm");
        let in_memory = memory.is_dir()
            && file_system(memory).is_ok_and(|(kind, free)| kind == "tmpfs" && free >= TABLE_BYTES);
        let elsewhere = in_memory
            .then(|| Folder::new(memory, "vhdx-figures"))
            .transpose()?;
        let within = elsewhere.as_ref().unwrap_or(folder);
        let disk = within.file("large.vhdx");
        let blocks: &[u64] = if self.options.is_trial() {
            &[256]
        } else {
            &[1, 32, 256]
        };
        let mut sizes = Vec::new();
        for block in blocks {
            let block_bytes = (block * MIB).to_string();
            let made = self.make(&[
                "full-table",
                text(&disk)?,
                &(64 * TIB).to_string(),
                &block_bytes,
            ])?;
            let bytes = made.printed_number("bytes").context("the size made")?;
            let tib = format!("{:.0} TiB", bytes / f64::from(1 << 20) / f64::from(1 << 20));
            let open = self.ours(&["open", text(&disk)?]);
            self.compare(
                &format!("open a disk of {tib} in blocks of {block} MiB, table full"),
                &open,
                None,
                Target::Limits {
                    secs: 1.0,
                    peak_kib: 64 << 10,
                },
            )?;
            remove(&disk)?;
            sizes.push(tib);
        }
        let place = if in_memory {
            "in a file system in memory (tmpfs), for ext4 has no files longer than 16 TiB"
        } else {
            "in the folder of the other disks, for there is no file system in memory with room"
        };
        Ok(format!("{place}; the sizes were {}", sizes.join(", ")))
    }
}

fn report(bench: &Bench<'_>, file_system: &str, tables: &str) -> anyhow::Result<()> {
    let options = bench.options;
    if options.is_trial() {
        say(&format!(
            "the benchmark works: {} figures taken, of sizes that mean nothing",
            bench.done.len()
        ));
        return Ok(());
    }
    let mut facts = machine::facts(file_system, &["cp"]);
    if bench.qemu {
        facts.extend(machine::version("qemu-img"));
    }
    let mut out = std::io::stdout();
    if options.json {
        writeln!(out, "{}", json(&facts, &bench.done))?;
    } else {
        write!(out, "{}", table(&bench.done))?;
    }
    if options.write_docs {
        let path = root().join(DOCS);
        std::fs::write(&path, document(bench, &facts, tables))
            .with_context(|| format!("write {}", path.display()))?;
        say(&format!("wrote {DOCS}"));
    }
    let missed = bench
        .done
        .iter()
        .filter(|figure| figure.met() == Some(false));
    let missed: Vec<&str> = missed.map(|figure| figure.what.as_str()).collect();
    ensure!(missed.is_empty(), "target missed: {}", missed.join("; "));
    Ok(())
}

fn document(bench: &Bench<'_>, facts: &[(String, String)], tables: &str) -> String {
    let Options { gib, runs, .. } = bench.options;
    let facts: String = facts
        .iter()
        .map(|(name, fact)| format!("- {name}: {fact}\n"))
        .collect();
    format!(
        "\
# How fast the VHDX library is

Made by this command, which takes some minutes, {needed} GiB of free disk and nothing else to do for the machine:

```text
cargo xtask bench vhdx --gib {gib} --runs {runs} --write-docs
```

Every figure is the median of {runs} runs, each a process of its own, in turn with those of its peer; memory is the highest of
them. Processor time (user and system) decides, wall time is shown. All data is noise; disks are dynamic, in blocks of
32 MiB, children in blocks of 2 MiB. The library's side is its example `figures`, on one thread where nothing else is said.

- Peers: `cp --reflink=never` of a raw image with the same bytes, and `qemu-img`.
- `cp` does not wait until the disk has its bytes; bulk write and merge do, and their wall time shows it.
- Conversion looks for zeros in what it reads, as `qemu-img convert` does. QEMU reads no chains; in ours every other MiB is in
  the child.
- Random reads: `qemu-img bench -t writeback` with a step of 0.618 of the disk (halved until it is below 2 GiB), ours at the same places in the same order. The
  disk lies in the system's cache on both sides, so that programs are compared and not the drive. 32 at a time: QEMU has
  so many requests under way, ours so many threads.
- Merges go into an empty parent, which grows. `cp` copies the child's file: the same bytes with the same holes between.
- Large disks lie {tables}. Wall time is that of the whole process: start, open, read of the last sector.

{facts}
{table}",
        needed = gib * 7 / 2,
        table = table(&bench.done),
    )
}
