//! Programs that only tests need: judges of our formats by other authors, and makers of real file systems.
//!
//! Installed from Debian packages where that is possible; a test that misses its program skips and says so, or fails
//! where `CI=true`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::run::{run, say, works};

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

/// Returns whether nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Installs what is missing where it may; elsewhere says what is missing.
pub(crate) fn provide() -> anyhow::Result<()> {
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
    TOOLS
        .into_iter()
        .filter(|(tool, _)| find(tool).is_none())
        .collect()
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
