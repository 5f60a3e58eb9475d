//! Running the executable to its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The executable with the environment of one world.
#[derive(Clone, Debug)]
pub struct Cli {
    exe: PathBuf,
    environment: BTreeMap<String, String>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// What was run, for messages.
    pub words: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// Makes a runner of `exe` (`env!("CARGO_BIN_EXE_reprise")`).
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            environment: BTreeMap::new(),
        }
    }

    /// Sets a variable for every run.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.insert(name.to_owned(), value.into());
    }

    /// Returns the same runner with another variable.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.set(name, value);
        other
    }

    /// Returns a command of the executable that is not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        for name in [
            "REPRISE_SERVER",
            "REPRISE_TOKEN",
            "REPRISE_CA",
            "REPRISE_PROFILE",
        ] {
            command.env_remove(name);
        }
        command.envs(&self.environment).args(arguments);
        command
    }

    /// Runs to the end, whatever it is.
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with_input(arguments, b"")
    }

    /// Runs to the end with something on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Done {
        let words = arguments.join(" ");
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start reprise {words}: {error}"));
        // A program that does not read its input may end before it is written.
        let _ = child.stdin.take().expect("it was piped").write_all(input);
        let output = child
            .wait_with_output()
            .unwrap_or_else(|error| panic!("wait for reprise {words}: {error}"));
        Done {
            words,
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs with `--json`, which must succeed, and returns the one value it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run_json(arguments);
        done.expect(0);
        done.value()
    }

    /// Runs with `--json`, whatever the end.
    pub fn run_json(&self, arguments: &[&str]) -> Done {
        let mut words = arguments.to_vec();
        words.push("--json");
        self.run(&words)
    }
}

impl Done {
    /// Fails unless the exit code is this one. Returns itself.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert!(
            self.code == code,
            "`reprise {}` ended with {} rather than {code}\n{}\n{}",
            self.words,
            self.code,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    /// Returns standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the one JSON value on standard output.
    #[track_caller]
    #[must_use]
    pub fn value(&self) -> Value {
        let mut values = self.values();
        assert!(
            values.len() == 1,
            "`reprise {}` printed {} values, not one: {}",
            self.words,
            values.len(),
            self.text()
        );
        values.remove(0)
    }

    /// Returns the JSON values on standard output, one per line.
    #[track_caller]
    #[must_use]
    pub fn values(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| {
                    panic!(
                        "`reprise {}` printed no JSON: {error}: {line}\n{}",
                        self.words, self.stderr
                    )
                })
            })
            .collect()
    }
}
