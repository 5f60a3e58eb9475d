//! Helpers: outside tools, patterns, disks in memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use vhdx::{BulkWriter, Disk, FileInfo, MemoryFile, Params, ParentLink};

pub(crate) const MIB: u64 = 1 << 20;

/// Returns whether a tool is installed; if not, says that the test is skipped, or fails in CI.
pub(crate) fn have(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .status()
        .is_ok();
    if !found {
        absent(tool);
    }
    found
}

/// Returns how often a random test runs: what `VHDX_ROUNDS` says, for a long campaign, else `usual`.
pub(crate) fn rounds(usual: u32) -> u32 {
    std::env::var("VHDX_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(usual)
}

/// Says that a test is skipped for want of something, or fails in CI.
pub(crate) fn absent(what: &str) {
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{what} is needed in CI"
    );
    println!("skipped: {what} is not here");
}

/// Runs a tool and returns what it printed.
#[track_caller]
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .output()
        .expect("the tool was found before");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{tool} {args:?}: {out}{err}");
    out.into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Bytes that differ everywhere: a function of seed and offset.
pub(crate) fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let word = |number: u64| {
        let mut x = number
            .wrapping_add(seed << 32)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 29;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x ^ x >> 32).to_le_bytes()
    };
    let first = offset / 8;
    let skip = usize::try_from(offset % 8).unwrap();
    let words = (skip + len).div_ceil(8) as u64;
    let bytes: Vec<u8> = (first..first + words).flat_map(word).collect();
    bytes[skip..skip + len].to_vec()
}

/// Makes a disk in memory that holds `pieces`: offsets with their bytes.
pub(crate) fn disk_of(params: &Params, pieces: &[(u64, Vec<u8>)]) -> (Arc<MemoryFile>, FileInfo) {
    let file = Arc::new(MemoryFile::new());
    let mut writer = BulkWriter::create(Arc::clone(&file), params).unwrap();
    for (offset, bytes) in pieces {
        writer.write(*offset, bytes).unwrap();
    }
    let info = writer.finish().unwrap();
    (file, info)
}

pub(crate) fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    disk.read_at(&mut bytes, offset).unwrap();
    bytes
}

/// How a child names a parent that lies beside it.
pub(crate) fn link(parent: &FileInfo, name: &str) -> ParentLink {
    ParentLink {
        data_write_guid: parent.data_write_guid,
        relative_path: Some(format!(r".\{name}")),
        volume_path: None,
        absolute_path: Some(format!(r"C:\disks\{name}")),
    }
}

/// Fails if a check of a file finds an error or, if it was closed cleanly, a warning.
///
/// Between the two header writes of a close the older one still names the log.
#[track_caller]
pub(crate) fn sound(file: &Arc<MemoryFile>, context: &str) {
    let report = vhdx::check(Arc::clone(file)).unwrap_or_else(|err| panic!("{context}: {err}"));
    let unclean = report.info.as_ref().is_some_and(|info| info.unclean);
    let bad = if unclean {
        vhdx::Severity::Error
    } else {
        vhdx::Severity::Warning
    };
    let found = report.totals.iter().map(|(rule, _)| rule);
    let mut found = found.filter(|rule| **rule != vhdx::Rule::HeaderOtherLog);
    assert!(
        found.all(|rule| rule.severity() < bad),
        "{context}: {:?}",
        report.findings
    );
}
