//! The demo's own programs: server, simulated host and agent, each a process of this executable.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// How long a program may take until it answers.
const START: Duration = Duration::from_secs(60);
/// Between two looks at something that has not happened yet.
const PAUSE: Duration = Duration::from_millis(50);
/// How much of a log is shown when its program failed, in bytes.
const LOG_TAIL: usize = 2000;

/// A program that runs until it is ended; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `reprise` with `args`; what it logs goes to `NAME.log` in `folder`.
    pub(crate) fn start(name: &'static str, folder: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut command = reprise()?;
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share a log file")?)
            .stderr(file);
        apart(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("start the {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its log file.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Fails where the program has ended, with the end of its log.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("look after the {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!(
                "the {} ended ({status}); its log ends with:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Returns the end of its log.
    pub(crate) fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    /// Waits for a file the program writes, whole, when it is ready.
    pub(crate) fn wait_for_file(&mut self, path: &Path) -> anyhow::Result<String> {
        let deadline = Instant::now() + START;
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if !text.trim().is_empty() => return Ok(text),
                Ok(_) | Err(_) => {}
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "the {} is not ready after {} s; its log ends with:\n{}",
                    self.name,
                    START.as_secs(),
                    self.tail()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn end(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets programs go on after this process.
pub(crate) fn keep(programs: impl IntoIterator<Item = Program>) {
    programs.into_iter().for_each(std::mem::forget);
}

/// Runs `reprise ARGS --json` to its end and returns what it printed.
pub(crate) fn call(args: &[&str]) -> anyhow::Result<Value> {
    let mut command = reprise()?;
    command.args(args).arg("--json").stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("run reprise {}", args.join(" ")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`reprise {}` ended with {}: {}",
            args.join(" "),
            output.status,
            text.trim()
        );
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("understand the answer of `reprise {}`", args.join(" ")))
}

fn reprise() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this executable")?);
    // What the user has set for a real server must not reach the demo's own.
    for name in [
        "REPRISE_SERVER",
        "REPRISE_TOKEN",
        "REPRISE_CA",
        "REPRISE_PROFILE",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Ctrl-C on the terminal goes to this process alone, which then ends the others.
#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn apart(_command: &mut Command) {}
