//! Programs that only tests need: judges of our formats and of the simulated host by other authors, and makers of real
//! file systems.
//!
//! Programs are installed from Debian packages where that is possible, Python packages by pip into a folder of their own,
//! each version with its hash. A test that misses its program skips and says so, or fails where `CI=true`.
//!
//! What is there already is used as it is: no network is asked then.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{root, run, say, works};

/// A program and the Debian package it is in.
const TOOLS: [(&str, &str); 9] = [
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("mke2fs", "e2fsprogs"),
    ("ntfscp", "ntfs-3g"),
    ("mkntfs", "ntfs-3g"),
    ("7zz", "7zip"),
    ("vhdiinfo", "libvhdi-utils"),
    ("vhdimount", "libvhdi-utils"),
    ("strace", "strace"),
];

/// What the Python clients of the simulated host need, with versions and hashes.
const PYTHON_PACKAGES: &str = "crates/hyperv_sim/tests/clients/requirements.txt";
/// What tells that Python can make an environment with pip in it.
const PYTHON_CHECK: &str = "import ensurepip, venv";

/// Returns whether nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Installs what is missing where it may; elsewhere says what is missing.
pub(crate) fn provide() -> anyhow::Result<()> {
    programs()?;
    if let Err(error) = python() {
        say(&format!(
            "Python of the tests: {error:#}: tests that need it are skipped"
        ));
        if is_ci() {
            bail!("CI=true: nothing may be skipped");
        }
    }
    Ok(())
}

/// Makes the Python environment of the tests beside the build, where it is not there as it should be.
///
/// Tests look for it upwards from their own executable (see `harness::python`).
fn python() -> anyhow::Result<()> {
    let exe = std::env::current_exe().context("find the running program")?;
    // TARGET/debug/xtask
    let target = exe.ancestors().nth(2).context("find the target folder")?;
    let folder = target.join("test-python");
    let python = folder.join("bin/python3");
    let wanted = root().join(PYTHON_PACKAGES);
    let wanted_text =
        std::fs::read(&wanted).with_context(|| format!("read {}", wanted.display()))?;
    // Written last: what it says is installed.
    let stamp = folder.join("requirements.txt");
    let is_there = std::fs::read(&stamp).is_ok_and(|found| found == wanted_text);
    if is_there && works(Command::new(&python).args(["-c", "import pypsrp.wsman"])) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(pip(&python)
        .args([
            "--quiet",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-r",
        ])
        .arg(&wanted))?;
    std::fs::write(&stamp, &wanted_text).with_context(|| format!("write {}", stamp.display()))
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    command
}

/// Installs programs from Debian packages.
fn programs() -> anyhow::Result<()> {
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    if works(Command::new("apt-get").arg("--version")) && is_root() {
        let mut packages: Vec<&str> = wanted.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        let apt = || {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        // Old lists still install; a list that cannot be fetched is no reason to stop.
        if let Err(error) = run(apt().args(["update", "-q"])) {
            say(&format!("{error:#}"));
        }
        if let Err(error) = run(apt()
            .args(["install", "-q", "-y", "--no-install-recommends"])
            .args(&packages))
        {
            say(&format!("{error:#}"));
        }
    }
    let wanted = missing();
    for (tool, package) in &wanted {
        say(&format!(
            "{tool} is missing (Debian package {package}): tests that need it are skipped"
        ));
    }
    if is_ci() && !wanted.is_empty() {
        bail!("CI=true: nothing may be skipped");
    }
    Ok(())
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let mut wanted: Vec<_> = TOOLS
        .into_iter()
        .filter(|(tool, _)| find(tool).is_none())
        .collect();
    if !works(Command::new("python3").args(["-c", PYTHON_CHECK])) {
        wanted.push(("python3 with venv", "python3-venv"));
    }
    wanted
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Makers of file systems are often where only root looks.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(tool))
        .find(|file| file.is_file())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
