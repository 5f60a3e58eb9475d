//! What a program uses: processor time, wall time, memory.
//!
//! Linux only. A program that ended and was not yet waited for still has its `/proc/PID/stat`, with the processor time of
//! all its threads in ticks of 10 ms. Its memory is gone by then, so the peak is looked at while it runs; a program of ours
//! tells its own peak at its end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// `USER_HZ`: the same on every Linux that Rust runs on.
const TICKS_PER_SEC: f64 = 100.0;

/// How often the memory of a program is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What one run of a program used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time, of user and system, in seconds.
    pub(crate) cpu_secs: f64,
    /// From start to end, in seconds.
    pub(crate) wall_secs: f64,
    /// Most memory it held, in KiB.
    pub(crate) peak_kib: u64,
    /// What it printed.
    pub(crate) printed: String,
}

impl Usage {
    /// Returns the number printed as `key=number`, if there is one.
    pub(crate) fn printed_number(&self, key: &str) -> Option<f64> {
        let mut words = self.printed.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }
}

/// Returns the middle one of each figure.
pub(crate) fn median(runs: &[Usage]) -> Usage {
    let middle = |figure: &dyn Fn(&Usage) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Usage {
        cpu_secs: middle(&|run| run.cpu_secs),
        wall_secs: middle(&|run| run.wall_secs),
        peak_kib: runs.iter().map(|run| run.peak_kib).max().unwrap_or(0),
        printed: runs
            .first()
            .map(|run| run.printed.clone())
            .unwrap_or_default(),
    }
}

/// Runs a program to its end and tells what it used.
pub(crate) fn measure(command: &mut Command) -> anyhow::Result<Usage> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let pid = child.id();
    let ended = AtomicBool::new(false);
    let (wall_secs, stat, seen_kib) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| peak_until(pid, &ended));
        let waited = wait_without_reaping(pid);
        let wall_secs = begun.elapsed().as_secs_f64();
        ended.store(true, Ordering::Release);
        let stat = waited.and_then(|()| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc/PID/stat")
        });
        let seen_kib = watcher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (wall_secs, stat, seen_kib)
    });
    // What these programs print fits a pipe, so that none of them waited for a reader.
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {shown}"))?;
    ensure!(
        output.status.success(),
        "`{command:?}` ended with {}",
        output.status
    );
    let mut usage = Usage {
        cpu_secs: cpu_secs(&stat?)?,
        wall_secs,
        peak_kib: seen_kib,
        printed: String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    if let Some(line) = usage
        .printed
        .split_whitespace()
        .find_map(|word| word.strip_prefix("peak_kib="))
    {
        usage.peak_kib = usage.peak_kib.max(line.parse().context("peak_kib")?);
    }
    Ok(usage)
}

#[cfg(target_os = "linux")]
fn wait_without_reaping(pid: u32) -> anyhow::Result<()> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the id of a process")?;
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .context("wait for a process")?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn wait_without_reaping(_: u32) -> anyhow::Result<()> {
    anyhow::bail!("benchmarks run on Linux only")
}

/// Looks at the memory of a process until it has ended; returns the peak in KiB.
fn peak_until(pid: u32, ended: &AtomicBool) -> u64 {
    let status = format!("/proc/{pid}/status");
    let mut peak = 0;
    while !ended.load(Ordering::Acquire) {
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = kib.map_or(peak, |kib: u64| kib.max(peak));
        std::thread::sleep(LOOK);
    }
    peak
}

/// Returns the processor time that a line of `/proc/PID/stat` tells, in seconds.
fn cpu_secs(stat: &str) -> anyhow::Result<f64> {
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th word behind it.
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let mut ticks = 0.0;
    for word in rest.split_whitespace().skip(11).take(2) {
        ticks += word.parse::<f64>().context("a time in /proc/PID/stat")?;
    }
    Ok(ticks / TICKS_PER_SEC)
}

/// What a program that goes on running uses while something is done.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pid: u32,
    cpu_before: f64,
}

impl Watched {
    /// Begins to look at a program; its peak of memory is counted anew.
    pub(crate) fn new(pid: u32) -> anyhow::Result<Self> {
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
            .with_context(|| format!("reset the peak of process {pid}"))?;
        Ok(Self {
            pid,
            cpu_before: Self::cpu(pid)?,
        })
    }

    fn cpu(pid: u32) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        cpu_secs(&stat.with_context(|| format!("look at process {pid}"))?)
    }

    /// Returns the processor time since, in seconds, and the peak of memory, in KiB.
    pub(crate) fn used(&self) -> anyhow::Result<(f64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.with_context(|| format!("look at process {}", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok((Self::cpu(self.pid)? - self.cpu_before, kib.unwrap_or(0)))
    }
}

/// Returns the type of the file system that holds `path`, and its free bytes.
pub(crate) fn file_system(path: &Path) -> anyhow::Result<(String, u64)> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let path = path
        .canonicalize()
        .with_context(|| format!("look for {}", path.display()))?;
    let mut found = ("unknown", 0);
    for line in mounts.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(at), Some(kind)) = (words.next(), words.next())
            && path.starts_with(at)
            && at.len() >= found.1
        {
            found = (kind, at.len());
        }
    }
    Ok((found.0.to_owned(), free_bytes(&path)?))
}

#[cfg(target_os = "linux")]
fn free_bytes(path: &Path) -> anyhow::Result<u64> {
    let told = rustix::fs::statvfs(path).context("ask for free space")?;
    Ok(told.f_bavail * told.f_frsize)
}

#[cfg(not(target_os = "linux"))]
fn free_bytes(_: &Path) -> anyhow::Result<u64> {
    anyhow::bail!("benchmarks run on Linux only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_name_with_brackets() {
        let line = "7 (a) b) (c) S 1 7 7 0 -1 4194560 500 0 0 0 150 25 9 9 20 0 1 0 1 1 1";
        assert!((cpu_secs(line).unwrap() - 1.75).abs() < 1e-9);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_is_measured() {
        let usage = measure(Command::new("sh").args(["-c", "echo bytes=5 peak_kib=3000000"]));
        let usage = usage.unwrap();
        assert_eq!(usage.printed_number("bytes"), Some(5.0));
        assert_eq!(usage.peak_kib, 3_000_000);
        assert!(usage.wall_secs > 0.0);
    }
}
