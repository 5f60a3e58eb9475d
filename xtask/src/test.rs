//! `cargo xtask test`: every test of the workspace, and how many there were.

use std::process::Command;

use anyhow::ensure;

use crate::run::{cargo, run_watched, say, works};
use crate::tools;

/// Runs all tests; `more` goes to the test runner.
pub(crate) fn test(more: &[&str]) -> anyhow::Result<()> {
    tools::provide()?;
    let mut count = Count::default();
    let nextest = works(&mut cargo(&["nextest", "--version"]));
    let mut command = if nextest {
        cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        say("cargo-nextest is not installed: using cargo test");
        cargo(&[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
        ])
    };
    watched(command.args(more), &mut count)?;
    // Examples in the documentation are tests that nextest does not run.
    watched(
        &mut cargo(&["test", "--workspace", "--doc", "--quiet"]),
        &mut count,
    )?;
    // A failed test has ended this before.
    say(&format!(
        "tests: {} passed, 0 failed, {} skipped",
        count.ran, count.skipped
    ));
    ensure!(count.ran > 0, "no test ran");
    Ok(())
}

fn watched(command: &mut Command, count: &mut Count) -> anyhow::Result<()> {
    run_watched(command, |line| count.saw(line))
}

/// How many tests there were.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    ran: u64,
    skipped: u64,
}

impl Count {
    /// Adds what a line of a test runner says about numbers.
    fn saw(&mut self, line: &str) {
        let summary = line.trim_start().starts_with("Summary [") || line.contains("test result:");
        if !summary {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            // nextest writes `7/9 tests run` where it stopped early.
            let number = pair[0]
                .split('/')
                .next()
                .and_then(|number| number.parse::<u64>().ok());
            let Some(number) = number else {
                continue;
            };
            match pair[1].trim_end_matches([',', ';', ':']) {
                "tests" | "test" => self.ran += number,
                "passed" | "failed" if line.contains("test result:") => self.ran += number,
                "skipped" | "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, ran: u64, skipped: u64) {
        let mut count = Count::default();
        count.saw(line);
        assert_eq!(count, Count { ran, skipped }, "{line}");
    }

    #[test]
    fn both_runners_are_understood() {
        check(
            "     Summary [   0.933s] 26 tests run: 26 passed, 2 skipped",
            26,
            2,
        );
        check(
            "     Summary [   0.133s] 4/26 tests run: 2 passed, 2 failed, 0 skipped",
            4,
            0,
        );
        check(
            "     Summary [   0.1s] 1 test run: 1 passed (1 slow), 0 skipped",
            1,
            0,
        );
        check(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s",
            12,
            1,
        );
        check("test a::summary ... ok", 0, 0);
    }
}
