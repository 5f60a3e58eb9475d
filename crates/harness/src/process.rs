//! Programs that run until they are ended, or killed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Cli;

/// How long a program may take until it answers, or until it ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the executable; its log is appended to `NAME.log` in `folder`.
    pub fn start(cli: &Cli, name: &str, folder: &Path, arguments: &[&str]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let output = file.try_clone().expect("a file can be shared");
        let child = cli
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("start the {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Kills it as `kill -9` does and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to end and waits for that.
    pub fn terminate(mut self) {
        self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(
                Instant::now() < deadline,
                "the {} does not end; its log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Freezes it, as a machine on standby.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.id().to_string()])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cannot send {name} to the {}",
            self.name
        );
    }

    /// Waits for a file that the program writes whole when it is ready.
    #[track_caller]
    pub fn wait_for_file(&mut self, path: &Path) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(path)
                && !text.trim().is_empty()
            {
                return text;
            }
            assert!(
                self.is_running(),
                "the {} has ended; its log:\n{}",
                self.name,
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "the {} is not ready; its log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Returns its log.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns whether a process still runs: one that has ended and was not waited for does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Returns the content of a log.
pub(crate) fn read(log: &Path) -> String {
    File::open(log)
        .and_then(std::io::read_to_string)
        .unwrap_or_else(|error| format!("(cannot read {}: {error})", log.display()))
}
