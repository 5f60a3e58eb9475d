//! `cargo xtask check`: everything a change must pass.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::run::{cargo, run, say, works};
use crate::{bench, test};

const WINDOWS: &str = "x86_64-pc-windows-gnu";
/// Longest the demo may take, the build of the executable included, in seconds.
const DEMO_LIMIT_SECS: u64 = 600;

/// Runs all checks, cheapest first; with `tests` or without.
pub(crate) fn check(tests: bool) -> anyhow::Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    if tests {
        test::test(&[])?;
    }
    run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    windows()?;
    if cfg!(target_os = "linux") {
        bench::trial()?;
    }
    demo()?;
    say("all checks passed");
    Ok(())
}

/// Checks that the code is portable, where the target and a C compiler for it are there.
fn windows() -> anyhow::Result<()> {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", WINDOWS])
        .output()
        .context("ask rustc for its targets")?;
    let folder = String::from_utf8_lossy(&libraries.stdout).trim().to_owned();
    if !libraries.status.success() || !Path::new(&folder).is_dir() {
        say(&format!(
            "the target {WINDOWS} is not installed: not checked"
        ));
        return Ok(());
    }
    if !works(Command::new("x86_64-w64-mingw32-gcc").arg("--version")) {
        say(&format!(
            "there is no C compiler for {WINDOWS} (Debian package gcc-mingw-w64-x86-64-posix): not checked"
        ));
        return Ok(());
    }
    run(&mut cargo(&["check", "-p", "reprise", "--target", WINDOWS]))
}

/// Runs the demo: the whole product, judged by its own comparison.
fn demo() -> anyhow::Result<()> {
    let begun = Instant::now();
    run(&mut cargo(&["run", "-p", "reprise", "--", "demo"]))?;
    let took = begun.elapsed().as_secs();
    ensure!(
        took < DEMO_LIMIT_SECS,
        "the demo took {took} s, more than {DEMO_LIMIT_SECS} s"
    );
    Ok(())
}
