//! Programs that only some tests need.

use std::path::PathBuf;

/// Returns whether no test may be skipped.
#[must_use]
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Finds the Python with the packages that clients by other authors need: in the folder `test-python` of the target
/// folder, where `cargo xtask test` makes it. `None`, with a message, where the test has to be skipped for want of it.
/// Fails where `CI=true`.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap_or_default();
    let found = test
        .ancestors()
        .map(|folder| folder.join("test-python/bin/python3"))
        .find(|file| file.is_file());
    if found.is_none() {
        missing("the Python of the tests");
    }
    found
}

/// Finds a program; `None`, with a message, where the test has to be skipped for want of it. Fails where `CI=true`.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        missing(name);
    }
    found
}

fn missing(name: &str) {
    assert!(!is_ci(), "{name} is missing, and CI=true");
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("skipped: {name} is missing (`cargo xtask test` installs it where it may)\n")
            .as_bytes(),
    );
}
