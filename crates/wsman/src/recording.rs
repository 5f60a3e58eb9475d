//! Recordings: the envelopes between an agent and a host, so that somebody else can see what a real host answers.
//!
//! JSON lines. The first is a [`Head`] with format and version; each other one an [`Exchange`] with request and response
//! as XML. A recording is made by a [`Scrubber`], which lets nothing through that it does not know to be harmless: names,
//! identifiers, addresses, paths and free text are replaced, the same by the same within one recording.
//!
//! Invariant: whatever a host writes, a text of it is in the recording only if it is one of a list made for this purpose
//! (module `vocabulary`), a number of a property known to hold numbers, a time or a boolean.
//! Not here: log-ins and HTTP headers; they are never part of a recording.

mod mapping;
mod scrub;
mod values;
mod vocabulary;

use serde::{Deserialize, Serialize};

pub use scrub::Scrubber;

use crate::{Operation, Request, uri};

/// What the first line says the file is.
pub const FORMAT: &str = "reprise-wsman-recording";
/// The version this crate writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Bytes of one line: two envelopes and what escapes add.
const LINE_BYTES: usize = 96 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program that wrote it.
    pub product_version: String,
}

/// A request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Counts from 1.
    pub sequence: u64,
    /// Such as `Enumerate` or `Invoke`.
    pub operation: String,
    /// The class; `*` for a query.
    pub class: String,
    /// The method of an `Invoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Milliseconds until the answer was there.
    pub elapsed_ms: u64,
    /// HTTP status, where there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there is no response, in a word of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The request's envelope, scrubbed.
    pub request: String,
    /// The response's envelope, scrubbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

impl Exchange {
    /// Returns an exchange of a request before it is answered.
    #[must_use]
    pub fn new(sequence: u64, request: &Request, scrubbed: String) -> Self {
        let class =
            uri::split_class_uri(&request.header.resource_uri).map_or("", |(_, class)| class);
        let (operation, method) = match &request.operation {
            Operation::Identify => ("Identify", None),
            Operation::Enumerate(_) => ("Enumerate", None),
            Operation::Pull(_) => ("Pull", None),
            Operation::Release { .. } => ("Release", None),
            Operation::Get => ("Get", None),
            Operation::Put(_) => ("Put", None),
            Operation::Delete => ("Delete", None),
            Operation::Invoke { method, .. } => ("Invoke", Some(method.clone())),
        };
        Self {
            sequence,
            operation: operation.to_owned(),
            class: class.to_owned(),
            method,
            elapsed_ms: 0,
            status: None,
            error: None,
            request: scrubbed,
            response: None,
        }
    }
}

/// A recording that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The first line.
    pub head: Head,
    /// The others.
    pub exchanges: Vec<Exchange>,
}

/// A file that is no recording, or none of this version.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The first line says something else.
    #[error("this is no recording: its first line does not say {FORMAT:?}")]
    Format,
    /// Made by another version of this program.
    #[error(
        "recordings of version {found} are not known, only those of version {VERSION}; use the program that wrote it"
    )]
    Version {
        /// The version.
        found: u32,
    },
    /// A line is longer than any this program writes.
    #[error("line {line} is too long")]
    TooLong {
        /// Counts from 1.
        line: usize,
    },
    /// A line cannot be read.
    #[error("line {line} cannot be read")]
    Line {
        /// Counts from 1.
        line: usize,
        /// Cause.
        source: serde_json::Error,
    },
}

/// Returns the first line of a recording, with its end.
#[must_use]
pub fn head_line(product_version: &str) -> String {
    line(&Head {
        format: FORMAT.to_owned(),
        version: VERSION,
        product_version: product_version.to_owned(),
    })
}

/// Returns the line of an exchange, with its end.
#[must_use]
pub fn exchange_line(exchange: &Exchange) -> String {
    line(exchange)
}

fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("texts and numbers are JSON");
    text.push('\n');
    text
}

impl Recording {
    /// Reads a recording. A last line without an end, of a program that was stopped, is left out.
    pub fn parse(text: &str) -> Result<Self, RecordingError> {
        let mut lines = text.split_inclusive('\n').enumerate();
        let head = lines.next().map_or("", |(_, first)| first);
        let head: Head = serde_json::from_str(head).map_err(|_| RecordingError::Format)?;
        if head.format != FORMAT {
            return Err(RecordingError::Format);
        }
        if head.version != VERSION {
            return Err(RecordingError::Version {
                found: head.version,
            });
        }
        let mut exchanges = Vec::new();
        for (number, text) in lines {
            let line = number + 1;
            if text.len() > LINE_BYTES {
                return Err(RecordingError::TooLong { line });
            }
            if text.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(text) {
                Ok(exchange) => exchanges.push(exchange),
                Err(_) if !text.ends_with('\n') => break,
                Err(source) => return Err(RecordingError::Line { line, source }),
            }
        }
        Ok(Self { head, exchanges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let request = Request {
            header: crate::Header {
                resource_uri: uri::class_uri(uri::NS_VIRTUALIZATION, "Msvm_ConcreteJob"),
                ..Default::default()
            },
            operation: Operation::Invoke {
                method: "GetErrorEx".into(),
                parameters: crate::Properties::new(),
            },
        };
        let exchange = Exchange {
            status: Some(200),
            response: Some("<a>\n\"</a>".into()),
            ..Exchange::new(1, &request, "<b/>".into())
        };
        assert_eq!(
            (exchange.class.as_str(), exchange.method.as_deref()),
            ("Msvm_ConcreteJob", Some("GetErrorEx"))
        );
        let text = head_line("1.2.3") + &exchange_line(&exchange) + "{\"sequence\":2,\"oper";
        let read = Recording::parse(&text).unwrap();
        assert_eq!(read.head.product_version, "1.2.3");
        assert_eq!(read.exchanges, [exchange]);
        assert!(matches!(
            Recording::parse(&(text + "\n")),
            Err(RecordingError::Line { line: 3, .. })
        ));
    }

    #[test]
    fn other_files_and_versions_are_refused_by_name() {
        for wrong in [
            "",
            "{}",
            "hello",
            "{\"format\":\"x\",\"version\":1,\"product_version\":\"\"}",
        ] {
            assert!(
                matches!(Recording::parse(wrong), Err(RecordingError::Format)),
                "{wrong}"
            );
        }
        let later = head_line("9").replace("\"version\":1", "\"version\":2");
        let error = Recording::parse(&later).unwrap_err();
        assert!(
            matches!(error, RecordingError::Version { found: 2 }),
            "{error}"
        );
    }
}
