//! Recording what a session sends and gets, for people who want to show what their host answers.
//!
//! The file is made new, readable by its owner only, and holds what [`wsman::recording`] lets through. A recording that
//! cannot be written on never ends what is recorded: it stops, and says so at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use wsman::recording::{Exchange, Scrubber, exchange_line, head_line};
use wsman::{MessageError, Request};

use crate::Error;

/// Bytes after which a recording takes no more exchanges.
const MAX_BYTES: u64 = 512 << 20;

/// Writes a recording.
pub struct Recorder {
    state: Mutex<State>,
}

struct State {
    file: File,
    scrubber: Scrubber,
    exchanges: u64,
    bytes: u64,
    /// Why nothing more is written.
    ended: Option<io::Error>,
}

/// What came of a request.
pub(super) enum Outcome<'a> {
    /// An envelope, and whether it is a fault.
    Answer { bytes: &'a [u8], fault: bool },
    /// None.
    Failed(&'a Error),
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Makes the file, which must not exist, and writes its first line.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let head = head_line(env!("CARGO_PKG_VERSION"));
        file.write_all(head.as_bytes())?;
        Ok(Self {
            state: Mutex::new(State {
                file,
                scrubber: Scrubber::new(),
                exchanges: 0,
                bytes: head.len() as u64,
                ended: None,
            }),
        })
    }

    /// Names something that must not be in the recording, wherever it is met.
    pub fn hide(&self, text: &str) {
        self.lock().scrubber.hide(text);
    }

    /// Ends the recording: everything is on disk. Returns how many exchanges it holds.
    pub fn finish(&self) -> io::Result<u64> {
        let mut state = self.lock();
        if let Some(error) = state.ended.take() {
            return Err(error);
        }
        state.file.sync_all()?;
        Ok(state.exchanges)
    }

    pub(super) fn exchange(
        &self,
        request: &Request,
        sent: &str,
        elapsed: Duration,
        outcome: &Outcome<'_>,
    ) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        if let Err(error) = state.exchange(request, sent, elapsed, outcome) {
            tracing::warn!("the recording ends here: {error}");
            state.ended = Some(error);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn exchange(
        &mut self,
        request: &Request,
        sent: &str,
        elapsed: Duration,
        outcome: &Outcome<'_>,
    ) -> io::Result<()> {
        let unreadable = |error: MessageError| io::Error::new(io::ErrorKind::InvalidData, error);
        let scrubbed = self
            .scrubber
            .envelope(sent.as_bytes())
            .map_err(unreadable)?;
        let mut exchange = Exchange::new(self.exchanges + 1, request, scrubbed);
        exchange.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Outcome::Answer { bytes, fault } => match self.scrubber.envelope(bytes) {
                Ok(response) => {
                    exchange.status = Some(if *fault { 500 } else { 200 });
                    exchange.response = Some(response);
                }
                Err(_) => exchange.error = Some("unreadable".to_owned()),
            },
            Outcome::Failed(error) => {
                exchange.status = if let Error::Http { status, .. } = error {
                    Some(*status)
                } else {
                    matches!(error, Error::LogIn { .. }).then_some(401)
                };
                exchange.error = Some(format!("{:?}", error.kind()));
            }
        }
        let line = exchange_line(&exchange);
        self.bytes += line.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has {} MiB, which is the limit", MAX_BYTES >> 20),
            ));
        }
        self.file.write_all(line.as_bytes())?;
        self.exchanges += 1;
        Ok(())
    }
}
