//! `cargo xtask fuzz`: the fuzz targets of the folder `fuzz`, for so many minutes of processor time each.
//!
//! Installs nothing: says what is missing. A finding ends it with an error; its input lies in `fuzz/artifacts`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::run::{cargo, root, run, say, works};

const NIGHTLY: &str = "+nightly";
const DEFAULT_MINUTES: u64 = 10;

/// What an input may take: 512 MiB in all, 256 MiB at once, 5 s.
const LIMITS: [&str; 4] = [
    "-rss_limit_mb=512",
    "-malloc_limit_mb=256",
    "-timeout=5",
    "-max_len=2048",
];

/// Fuzzes one target, or each in turn.
pub(crate) fn fuzz(arguments: &[&str]) -> anyhow::Result<()> {
    let (wanted, minutes) = parse(arguments)?;
    ensure!(
        works(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])),
        "fuzzing needs a nightly compiler: rustup toolchain install nightly"
    );
    ensure!(
        works(Command::new("cargo").args([NIGHTLY, "fuzz", "--version"])),
        "fuzzing needs cargo-fuzz, and it a C++ compiler: cargo install cargo-fuzz"
    );
    let folder = root().join("fuzz");
    let corpus = folder.join("corpus");
    let mut seed = cargo(&["run", "--quiet", "-p", "fuzz_oracles", "--", "seed"]);
    run(seed.arg(&corpus))?;
    let built = target_folder();
    // No sanitizer: the code under test has no unsafe code. Assertions and overflow checks are on.
    let build = ["fuzz", "build", "-s", "none", "-a", "--fuzz-dir"];
    let mut build = cargo_of_rustup(&build);
    run(build.arg(&folder).arg("--target-dir").arg(&built))?;
    let programs = built.join(host()?).join("release");
    for target in targets()? {
        if wanted.is_none_or(|wanted| wanted == target) {
            let artifacts = folder.join("artifacts").join(&target);
            std::fs::create_dir_all(&artifacts).context("make a folder for findings")?;
            let command = || {
                let mut command = Command::new(programs.join(&target));
                command
                    .args(LIMITS)
                    .arg(format!("-artifact_prefix={}/", artifacts.display()))
                    .arg(corpus.join(&target));
                command
            };
            fuzz_for(&target, command, Duration::from_secs(minutes * 60))?;
        }
    }
    Ok(())
}

fn parse<'a>(arguments: &[&'a str]) -> anyhow::Result<(Option<&'a str>, u64)> {
    let (wanted, rest) = match arguments {
        [target, rest @ ..] if !target.starts_with('-') => (Some(*target), rest),
        rest => (None, rest),
    };
    let minutes = match rest {
        [] => DEFAULT_MINUTES,
        ["--cpu-minutes", minutes] => minutes.parse().context("--cpu-minutes takes a number")?,
        other => bail!("not understood: {}", other.join(" ")),
    };
    if let Some(wanted) = wanted {
        let targets = targets()?;
        let known = targets.iter().any(|target| target == wanted);
        ensure!(
            known,
            "there is no target {wanted}, but {}",
            targets.join(", ")
        );
    }
    Ok((wanted, minutes))
}

/// Returns the names of the targets, in order.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("fuzz").join("fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).context("look for fuzz targets")? {
        let path = entry.context("look for fuzz targets")?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// Returns the `cargo` that takes the name of a toolchain, with that of nightly.
fn cargo_of_rustup(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg(NIGHTLY).args(arguments).current_dir(root());
    // Set by the cargo that runs this, for its own toolchain.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn target_folder() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    folder.unwrap_or_else(|| root().join("target")).join("fuzz")
}

fn host() -> anyhow::Result<String> {
    let about = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("ask rustc for its host")?;
    let about = String::from_utf8_lossy(&about.stdout).into_owned();
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names its host")?.to_owned())
}

/// Runs a target until it has had this much processor time, where the system tells; else for this long.
fn fuzz_for(target: &str, command: impl Fn() -> Command, wanted: Duration) -> anyhow::Result<()> {
    let mut had = Duration::ZERO;
    while had < wanted {
        let (begun, before) = (Instant::now(), children_cpu());
        let secs = (wanted - had).as_secs().max(1);
        let status = command().arg(format!("-max_total_time={secs}")).status();
        let status = status.with_context(|| format!("start {target}"))?;
        ensure!(
            status.success(),
            "{target} found something: see fuzz/artifacts/{target}"
        );
        had += match (before, children_cpu()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => begun.elapsed(),
        };
    }
    say(&format!(
        "{target}: {} s of processor time, nothing found",
        had.as_secs()
    ));
    Ok(())
}

/// Returns the processor time of this process's children that have ended, as Linux tells it.
fn children_cpu() -> Option<Duration> {
    const TICKS_PER_SEC: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold anything; `cutime` and `cstime` are fields 16 and 17.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>().ok()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SEC)))
}
