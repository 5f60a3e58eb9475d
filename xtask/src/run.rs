//! Running other programs, and saying so.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Says something to the person who called.
pub(crate) fn say(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Returns a command of the cargo that runs this, in the workspace's folder.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Returns the workspace's folder.
///
/// Cargo says at run time where it is: with a target folder shared by two clones, what was compiled in may be the other's.
pub(crate) fn root() -> PathBuf {
    let mut folder = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    folder.pop();
    folder
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    run_watched(command, |_| {})
}

/// Runs a command to its end; `saw` gets every line it prints, which is also passed on.
pub(crate) fn run_watched(command: &mut Command, mut saw: impl FnMut(&str)) -> anyhow::Result<()> {
    let shown = format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        words(command)
    );
    say(&format!("$ {shown}"));
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command
        .stdout(writer.try_clone().context("share a pipe")?)
        .stderr(writer)
        .stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    // The pipe ends only once this process holds no end to write to.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .context("read what a program prints")?
        > 0
    {
        let text = String::from_utf8_lossy(&line).into_owned();
        say(text.trim_end_matches('\n'));
        saw(&text);
        line.clear();
    }
    let status = child.wait().with_context(|| format!("wait for {shown}"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Returns whether a command can be run and succeeds; what it prints is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn words(command: &Command) -> String {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}
