//! `cargo xtask bench`: figures of the libraries against other programs, as their documentation shows them.
//!
//! Every figure is the median of several runs, interleaved with those of its peer, each in a process of its own. Processor
//! time decides, for it hardly depends on what else the machine does; wall time is reported beside it.

mod job;
mod machine;
mod measure;
mod report;
mod restore;
mod vhdx;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What to measure, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// Size of the disks in GiB; 0 for a trial with a few MiB, whose figures mean nothing.
    gib: u64,
    /// Runs of each figure.
    runs: usize,
    /// Where the disks are made.
    dir: PathBuf,
    /// Print the figures as JSON.
    json: bool,
    /// Write the figures to the documentation.
    write_docs: bool,
    /// Folders whose files fill disks of real data.
    files: Vec<PathBuf>,
}

impl Options {
    fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self {
            gib: 8,
            runs: 5,
            dir: std::env::temp_dir(),
            json: false,
            write_docs: false,
            files: Vec::new(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match *word {
                "--gib" => options.gib = value()?.parse().context("--gib")?,
                "--runs" => options.runs = value()?.parse().context("--runs")?,
                "--files" => options.files.push(PathBuf::from(value()?)),
                "--dir" => options.dir = PathBuf::from(value()?),
                "--json" => options.json = true,
                "--write-docs" => options.write_docs = true,
                _ => bail!("{word} is not an option of bench"),
            }
        }
        ensure!(options.runs > 0, "--runs: at least one");
        ensure!(
            options.gib > 0 || !options.write_docs,
            "the figures of a trial (--gib 0) are not worth documenting"
        );
        Ok(options)
    }

    fn is_trial(&self) -> bool {
        self.gib == 0
    }
}

/// Runs the benchmark that `words` name.
pub(crate) fn bench(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["vhdx", options @ ..] => vhdx::bench(&Options::parse(options)?),
        ["restore", options @ ..] => restore::bench(&Options::parse(options)?),
        _ => bail!("there are these benchmarks: vhdx, restore"),
    }
}

/// Runs every benchmark with a few MiB, to see that it works.
pub(crate) fn trial() -> anyhow::Result<()> {
    bench(&["vhdx", "--gib", "0", "--runs", "1"])?;
    bench(&["restore", "--gib", "0", "--runs", "1"])
}
