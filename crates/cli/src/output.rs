//! The only place that prints.
//!
//! Data goes to standard output: text for people, or with `--json` one JSON value per line. Everything else goes to
//! standard error. Text from outside (VM names, paths) is shown without control characters, so that it cannot drive a
//! terminal.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::view::View;

/// Where a command's results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// Makes the output of one run.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Returns whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Returns whether a person watches standard error, so that a progress bar makes sense.
    pub(crate) fn shows_progress(self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Returns whether a person can be asked something.
    pub(crate) fn can_ask(self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Prints a result: as JSON, or as the view of it for people.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        view: impl FnOnce(&T) -> View,
    ) -> Result<(), Failure> {
        if self.json {
            return self.json_line(value);
        }
        let text = view(value).render(io::stdout().is_terminal());
        self.data(text.as_bytes())
    }

    /// Prints one JSON value on a line of its own.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value)
            .map_err(|error| Failure::new("failed", format!("cannot write JSON: {error}")))?;
        line.push(b'\n');
        self.data(&line)
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn data(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| stdout_failed(&error))
    }

    /// Returns standard output as a writer, for data that is produced piece by piece.
    pub(crate) fn writer(self) -> impl Write {
        io::BufWriter::with_capacity(1 << 20, io::stdout())
    }

    /// Tells a person something that is not the result. Not with `--quiet`.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// Asks a person to type `word`; anything else is a no.
    pub(crate) fn ask(self, question: &str, word: &str) -> bool {
        self.stderr(&format!("{question} Type {word} to go on:"));
        let mut line = String::new();
        io::stdin().read_line(&mut line).is_ok() && line.trim() == word
    }

    /// Says why the command failed and what to do about it.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            let error = serde_json::json!({
                "error": {
                    "code": failure.code,
                    "message": failure.message,
                    "hint": failure.hint,
                    "exit": failure.exit.number(),
                }
            });
            self.stderr(&error.to_string());
            return;
        }
        self.stderr(&format!("error: {}", clean(&failure.message)));
        if let Some(hint) = &failure.hint {
            self.stderr(&format!("  hint: {}", clean(hint)));
        }
    }

    fn stderr(self, text: &str) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// Turns a failed write to standard output into a failure; a closed pipe is the reader's choice and needs no words.
pub(crate) fn stdout_failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new("closed-pipe", "the reader of the output went away");
    }
    Failure::new(
        "failed",
        format!("cannot write to standard output: {error}"),
    )
}

/// Replaces control characters, line breaks included.
pub(crate) fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if hidden(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(
            clean("web\u{1b}[2J01\r\n"),
            "web\u{fffd}[2J01\u{fffd}\u{fffd}"
        );
        assert_eq!(clean("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(clean("Zürich 01"), "Zürich 01");
    }
}
