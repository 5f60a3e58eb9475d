//! Chores of the project: `cargo xtask test` and `cargo xtask check`.
//!
//! No chore needs anything but Rust, a C compiler and, for some tests, programs of Debian packages (see [`tools`]).

mod check;
mod run;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [ARGUMENT]...      all tests; arguments go to the test runner
cargo xtask check [--no-test]       everything CI looks at: format, lints, tests, documentation, Windows, demo";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", more @ ..] => test::test(more),
        ["check"] => check::check(true),
        ["check", "--no-test"] => check::check(false),
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
