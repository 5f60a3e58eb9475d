//! Chores of the project: `cargo xtask test`, `cargo xtask check` and `cargo xtask bench`.
//!
//! No chore needs anything but Rust, a C compiler and, for some tests, programs of Debian packages (see [`tools`]).

mod bench;
mod check;
mod fuzz;
mod run;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [ARGUMENT]...      all tests; arguments go to the test runner
cargo xtask check [--no-test]       everything CI looks at: format, lints, tests, documentation, Windows, demo
cargo xtask fuzz [TARGET] [--cpu-minutes N]   the fuzz targets, 10 minutes of processor time each (see fuzz/README.md)
cargo xtask bench vhdx [--gib N] [--runs N] [--dir DIR] [--json] [--write-docs]
                                    figures of crate vhdx against cp and qemu-img; --gib 0: a trial";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", more @ ..] => test::test(more),
        ["check"] => check::check(true),
        ["check", "--no-test"] => check::check(false),
        ["fuzz", more @ ..] => fuzz::fuzz(more),
        ["bench", more @ ..] => bench::bench(more),
        _ => {
            run::say(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
