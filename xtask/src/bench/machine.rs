//! What is to be known of the machine that figures were taken on.

use std::process::Command;

/// Returns what is to be known of the machine.
pub(crate) fn facts(file_system: &str, programs: &[&str]) -> Vec<(String, String)> {
    let field = |file: &str, name: &str| {
        let told = std::fs::read_to_string(file).ok()?;
        let line = told.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut facts = vec![
        (
            "Processor".to_owned(),
            format!(
                "{}, {cores} cores",
                field("/proc/cpuinfo", "model name").unwrap_or_else(unknown)
            ),
        ),
        (
            "Memory".to_owned(),
            field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown),
        ),
        ("File system".to_owned(), file_system.to_owned()),
        ("Kernel".to_owned(), format!("Linux {}", kernel.trim())),
    ];
    facts.extend(programs.iter().filter_map(|program| version(program)));
    facts
}

/// Returns a program and what it says its version is; `None` where it is not here.
pub(crate) fn version(program: &str) -> Option<(String, String)> {
    // Some take it as a word, some as an option.
    let told = ["--version", "version"].iter().find_map(|word| {
        let output = Command::new(program).arg(word).output().ok()?;
        output.status.success().then_some(output.stdout)
    })?;
    let told = String::from_utf8_lossy(&told).into_owned();
    Some((program.to_owned(), told.lines().next()?.trim().to_owned()))
}
