//! Restores through the whole system: server, agent and simulated host as real processes, TLS between them, everything read
//! back and compared at the end.
//!
//! The peers restore the same disk image from what they keep of it, or convert it, and read nothing back.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use harness::World;

use super::job::{Folder, Job, remove, settle, shown, text};
use super::measure::{Usage, Watched, file_system, measure, median};
use super::report::{Figure, Target, json, table};
use super::{GIB, MIB, Options, machine};
use crate::run::{cargo, root, run, say, works};

/// What the whole system may hold at most, in KiB.
const AGENT_KIB: u64 = 256 << 10;
const SERVER_KIB: u64 = 512 << 10;
/// A password of a repository that lives for some minutes.
const PASSWORD: &str = "figures";

/// Measures, reports, and says by an error if a target was missed.
pub(crate) fn bench(options: &Options) -> anyhow::Result<()> {
    let trial = options.is_trial();
    let size = if trial { 64 * MIB } else { options.gib * GIB };
    let (kind, free) = file_system(&options.dir)?;
    let needed = size * 3;
    ensure!(
        free >= needed,
        "{} has {} MiB free, the benchmark needs {}: give it another folder (--dir) or a smaller disk (--gib)",
        options.dir.display(),
        free / MIB,
        needed / MIB
    );
    let reprise = build(trial)?;
    let folder = Folder::new(&options.dir, "restore-figures")?;
    let raw = folder.file("disk.raw");
    let data = make_disk(options, &folder, &raw, size)?;
    let mut bench = Bench {
        options,
        world: World::within(text(&reprise)?, &folder.0),
        raw,
        peaks: Vec::new(),
    };
    bench.back_up(&reprise, &folder)?;
    let figures = bench.restores(&folder)?;
    report(&bench, &kind, size, data, &figures)
}

/// Builds the executable; returns its path.
fn build(trial: bool) -> anyhow::Result<PathBuf> {
    // A trial takes what the tests have compiled already.
    let profile = if trial { "dev" } else { "release" };
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--package",
        "reprise",
        "--profile",
        profile,
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder));
    Ok(target
        .join(if trial { "debug" } else { "release" })
        .join("reprise"))
}

/// Makes a raw image with a file system full of real files; returns how many bytes these have.
fn make_disk(options: &Options, folder: &Folder, raw: &Path, size: u64) -> anyhow::Result<u64> {
    let wanted = size / 8 * 3;
    say(&format!(
        "making a disk of {} with {} of files ...",
        shown(size),
        shown(wanted)
    ));
    let files = folder.file("files");
    std::fs::create_dir(&files).context("make a folder")?;
    let sources = match options.files.is_empty() {
        true => vec![PathBuf::from("/usr")],
        false => options.files.clone(),
    };
    let mut taken = 0;
    for source in &sources {
        taken += copy_files(source, &files, wanted - taken)?;
    }
    ensure!(
        taken >= wanted / 10 * 9,
        "only {} MiB of files were found: name more folders with --files",
        taken / MIB
    );
    let image = std::fs::File::create_new(raw).context("make the image")?;
    image.set_len(size).context("make the image")?;
    drop(image);
    let made = ["/usr/sbin/mke2fs", "mke2fs"].iter().any(|program| {
        works(
            Command::new(program)
                .args(["-q", "-F", "-t", "ext4", "-d"])
                .arg(&files)
                .arg(raw),
        )
    });
    ensure!(
        made,
        "mke2fs (Debian package e2fsprogs) could not make the file system"
    );
    remove(&files)?;
    Ok(taken)
}

/// Copies regular files below a folder, by name, until there are enough bytes; returns how many.
fn copy_files(from: &Path, to: &Path, most: u64) -> anyhow::Result<u64> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        entries.push(entry.context("list files")?);
    }
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut taken = 0;
    for entry in entries {
        if taken >= most {
            break;
        }
        let kind = entry.file_type().context("look at a file")?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            std::fs::create_dir_all(&target).context("make a folder")?;
            taken += copy_files(&entry.path(), &target, most - taken)?;
        } else if kind.is_file() {
            // What may not be read, or has just gone, is not needed.
            taken += std::fs::copy(entry.path(), &target).unwrap_or(0);
        }
    }
    Ok(taken)
}

struct Bench<'a> {
    options: &'a Options,
    world: World,
    raw: PathBuf,
    /// Peak of each program over all runs, in KiB.
    peaks: Vec<(String, u64)>,
}

impl Bench<'_> {
    /// Puts the disk into a VM and makes a recovery point of it.
    fn back_up(&self, reprise: &Path, folder: &Folder) -> anyhow::Result<()> {
        let disk = folder.file("disk.vhdx");
        run(Command::new(reprise).args([
            "vhdx",
            "convert",
            "--raw",
            text(&self.raw)?,
            text(&disk)?,
        ]))?;
        self.world.hosts[0].add_vm("figures", &[("C:\\VMs\\figures.vhdx", &disk)]);
        remove(&disk)?;
        self.world.wait_for_vm("figures");
        say("backing up ...");
        self.world.back_up("figures", &[]);
        // What the host still has would not be fetched.
        let host = &self.world.hosts[0];
        host.ctl(&["vm", "remove", "figures"]);
        let left = host.local("C:\\VMs\\figures.vhdx");
        if left.exists() {
            remove(&left)?;
        }
        Ok(())
    }

    /// Restores the VM to a new place and measures all programs that take part, the command line among them.
    fn restore(&mut self, number: usize) -> anyhow::Result<Usage> {
        settle();
        let mut watched = Vec::new();
        for (name, pid) in self.world.processes() {
            watched.push((name, Watched::new(pid)?));
        }
        let (name, to) = (
            format!("restored-{number}"),
            format!("D:\\restored-{number}"),
        );
        let words = [
            "restore", "start", "figures", "--to", "HV01", "--folder", &to, "--name", &name,
            "--wait", "--json",
        ];
        let begun = Instant::now();
        let mut usage = measure(&mut self.world.cli.command(&words))?;
        usage.wall_secs = begun.elapsed().as_secs_f64();
        usage.peak_kib = 0;
        for (name, watched) in watched {
            let (cpu_secs, peak_kib) = watched.used()?;
            usage.cpu_secs += cpu_secs;
            usage.peak_kib += peak_kib;
            match self.peaks.iter_mut().find(|(known, _)| *known == name) {
                Some((_, peak)) => *peak = peak_kib.max(*peak),
                None => self.peaks.push((name, peak_kib)),
            }
        }
        let job: serde_json::Value =
            serde_json::from_str(usage.printed.trim()).context("the job")?;
        let reused = job["figures"]["bytes_reused"].as_u64();
        ensure!(reused == Some(0), "a full restore reused bytes: {job}");
        for step in job["steps"].as_array().into_iter().flatten() {
            say(&format!(
                "  {}: {} to {}",
                step["name"], step["started"], step["ended"]
            ));
        }
        let host = &self.world.hosts[0];
        let restored = host.local(&format!("{to}\\figures.vhdx"));
        if number == 0 && works(Command::new("qemu-img").arg("--version")) {
            run(Command::new("qemu-img")
                .args(["compare", "-f", "raw", "-F", "vhdx"])
                .arg(&self.raw)
                .arg(&restored))
            .context("the restored disk is not what was backed up")?;
        }
        host.ctl(&["vm", "remove", &name]);
        remove(restored.parent().context("a folder")?)?;
        Ok(usage)
    }

    fn restores(&mut self, folder: &Folder) -> anyhow::Result<Vec<Figure>> {
        let (repository, out) = (folder.file("restic"), folder.file("out"));
        let restic = match works(Command::new("restic").arg("version")) {
            true => Some(self.restic(&repository, &out)?),
            false => {
                say("restic is not here: nothing is compared with it");
                None
            }
        };
        let converted = folder.file("converted.vhdx");
        let qemu = works(Command::new("qemu-img").arg("--version")).then(|| {
            let words = [
                "qemu-img",
                "convert",
                "-f",
                "raw",
                "-O",
                "vhdx",
                text(&self.raw)?,
                text(&converted)?,
            ];
            anyhow::Ok(Job::new("qemu-img convert", &words).makes(&converted))
        });
        let qemu = qemu.transpose()?;
        let (mut ours, mut by_restic, mut by_qemu) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.options.runs {
            say(&format!("run {} of {} ...", number + 1, self.options.runs));
            ours.push(self.restore(number)?);
            for (peer, runs) in [(&restic, &mut by_restic), (&qemu, &mut by_qemu)] {
                if let Some(peer) = peer {
                    runs.push(peer.measure()?);
                }
            }
        }
        let what = "full restore of a VM with read-back, through server, agent and TLS";
        let figure = |peer: &Option<Job>, runs: &[Usage], target| Figure {
            what: what.to_owned(),
            ours: median(&ours),
            peer: peer.as_ref().map(|peer| (peer.name.clone(), median(runs))),
            target,
        };
        Ok(vec![
            figure(&restic, &by_restic, Target::WallRatio(1.0)),
            figure(&qemu, &by_qemu, Target::None),
        ])
    }

    /// Keeps the disk in a repository of restic; returns the command that brings it back.
    fn restic(&self, repository: &Path, out: &Path) -> anyhow::Result<Job> {
        let repository = text(repository)?;
        let restic = |words: &[&str]| {
            let mut command = Command::new("restic");
            command
                .args(["--no-cache", "--quiet", "--repo", repository])
                .args(words);
            command.env("RESTIC_PASSWORD", PASSWORD);
            command
        };
        run(&mut restic(&["init"]))?;
        run(&mut restic(&["backup", text(&self.raw)?]))?;
        let command = format!("RESTIC_PASSWORD={PASSWORD}");
        let words = [
            "env",
            &command,
            "restic",
            "--no-cache",
            "--quiet",
            "--repo",
            repository,
            "restore",
            "latest",
            "--target",
            text(out)?,
        ];
        Ok(Job::new("restic restore", &words).makes(out))
    }
}

fn report(
    bench: &Bench<'_>,
    file_system: &str,
    size: u64,
    data: u64,
    figures: &[Figure],
) -> anyhow::Result<()> {
    if bench.options.is_trial() {
        say(&format!(
            "the benchmark works: {} figures taken, of sizes that mean nothing",
            figures.len()
        ));
        return Ok(());
    }
    let mut facts = machine::facts(file_system, &["restic", "qemu-img"]);
    facts.push((
        "Disk".to_owned(),
        format!("{} with {} MiB of files", shown(size), data / MIB),
    ));
    facts.push(("Runs".to_owned(), bench.options.runs.to_string()));
    for (name, kib) in &bench.peaks {
        facts.push((
            format!("Peak memory of {name}"),
            format!("{} MiB", kib / 1024),
        ));
    }
    let mut out = std::io::stdout();
    if bench.options.json {
        writeln!(out, "{}", json(&facts, figures))?;
    } else {
        for (name, fact) in &facts {
            writeln!(out, "- {name}: {fact}")?;
        }
        write!(out, "\n{}", table(figures))?;
    }
    let mut missed: Vec<String> = figures
        .iter()
        .filter(|figure| figure.met() == Some(false))
        .map(|figure| figure.what.clone())
        .collect();
    for (name, most) in [("HV01-agent", AGENT_KIB), ("server", SERVER_KIB)] {
        let peak = bench.peaks.iter().find(|(of, _)| of == name);
        missed.extend(
            peak.filter(|(_, kib)| *kib > most)
                .map(|(of, kib)| format!("memory of {of}: {kib} KiB")),
        );
    }
    ensure!(missed.is_empty(), "target missed: {}", missed.join("; "));
    Ok(())
}
