//! `sim replay-check`: where this host would have answered a recorded request differently.
//!
//! Every answer of a recording is compared with what this host's schema gives for its class or method (`shape`): names,
//! types and NULL forms of properties, references, faults, batches, return codes. What can be answered without the
//! recorded host's objects, a fresh host answers (`live`): queries, and reads of objects that are not there.
//!
//! Not here: values. A recording has made-up names, and this host other objects; only forms are compared.

mod live;
mod shape;

use std::collections::BTreeMap;

use serde::Serialize;
use wsman::recording::{Recording, RecordingError};
use wsman::{Fault, MessageError, Request, Response};

use crate::SimError;

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// A class this host does not have.
    UnknownClass,
    /// A property this host does not have.
    UnknownProperty,
    /// A property this host always writes.
    MissingProperty,
    /// A value that is not of the property's type.
    Type,
    /// NULL written in the other way.
    NullForm,
    /// Several values where this host has one.
    ArrayForm,
    /// Keys or form of a reference.
    Reference,
    /// Subcode, detail or codes of a fault.
    Fault,
    /// Batches and contexts of an enumeration.
    Enumeration,
    /// Return code of a method.
    ReturnCode,
    /// An out-parameter this host does not give, or a job without a reference.
    Output,
    /// The header of an answer.
    Header,
    /// This host refuses what the other answers, or the other way round.
    Refusal,
    /// An answer that cannot be read.
    Unreadable,
}

/// Something that is different, as often as it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind.
    pub kind: DifferenceKind,
    /// What it is about, such as `Msvm_ComputerSystem.Caption`.
    pub what: String,
    /// How often.
    pub count: u64,
    /// Sequence number of the first exchange with it.
    pub first: u64,
    /// What was found there.
    pub example: String,
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Exchanges of the recording.
    pub exchanges: u64,
    /// Answers that were compared.
    pub compared: u64,
    /// Requests this host answered itself.
    pub live: u64,
    /// Differences, by kind and subject.
    pub differences: Vec<Difference>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file is no recording.
    #[error("the recording cannot be read")]
    Recording(#[source] RecordingError),
    /// No host could be made to answer.
    #[error("the host to compare with cannot be made")]
    Host(#[source] SimError),
}

/// Differences found so far.
#[derive(Debug, Default)]
struct Findings {
    found: BTreeMap<(DifferenceKind, String), Difference>,
}

impl Findings {
    fn add(
        &mut self,
        kind: DifferenceKind,
        sequence: u64,
        what: impl Into<String>,
        example: impl Into<String>,
    ) {
        let what = what.into();
        let difference = self.found.entry((kind, what.clone()));
        let difference = difference.or_insert_with(|| Difference {
            kind,
            what,
            count: 0,
            first: sequence,
            example: example.into().chars().take(300).collect(),
        });
        difference.count += 1;
    }
}

/// Compares a recording with what this host would have answered.
pub fn check(recording: &str) -> Result<Report, ReplayError> {
    let recording = Recording::parse(recording).map_err(ReplayError::Recording)?;
    let mut findings = Findings::default();
    let (mut compared, mut answered) = (0, 0);
    let mut host = live::Fresh::start().map_err(ReplayError::Host)?;
    for exchange in &recording.exchanges {
        let Some(response) = &exchange.response else {
            continue;
        };
        let read = parse(&exchange.request, response);
        let (request, response) = match read {
            Ok(pair) => pair,
            Err(error) => {
                let what = format!("{} {}", exchange.operation, exchange.class);
                findings.add(
                    DifferenceKind::Unreadable,
                    exchange.sequence,
                    what,
                    error.to_string(),
                );
                continue;
            }
        };
        compared += 1;
        shape::compare(&request, &response, exchange.sequence, &mut findings);
        if host.compare(
            &request,
            &exchange.request,
            &response,
            exchange.sequence,
            &mut findings,
        ) {
            answered += 1;
        }
    }
    Ok(Report {
        exchanges: recording.exchanges.len() as u64,
        compared,
        live: answered,
        differences: findings.found.into_values().collect(),
    })
}

fn parse(request: &str, response: &str) -> Result<(Request, Response), MessageError> {
    Ok((
        Request::parse(request.as_bytes())?,
        Response::parse(response.as_bytes())?,
    ))
}

/// What a fault is, apart from its words: subcode, last part of the detail, WSManFault code, WMI result.
fn signature(fault: &Fault) -> String {
    let (_, subcode) = fault.subcode.qualified();
    let mut out = subcode.to_owned();
    if let Some(detail) = fault
        .detail
        .as_deref()
        .and_then(|detail| detail.rsplit('/').next())
    {
        out.push_str(&format!(", detail {detail}"));
    }
    if let Some(code) = fault.code {
        out.push_str(&format!(", code {code}"));
    }
    if let Some(hresult) = fault
        .provider
        .as_ref()
        .and_then(|provider| provider.hresult)
    {
        out.push_str(&format!(", result 0x{hresult:08x}"));
    }
    out
}
