//! A fresh host that answers what does not depend on the recorded host's objects.

use std::collections::HashSet;
use std::path::PathBuf;

use uuid::Uuid;
use wsman::{FaultClass, Operation, Reply, Request, Response};

use super::{DifferenceKind, Findings, signature};
use crate::engine::Engine;
use crate::server::operations::{Outgoing, Service};
use crate::{InitOptions, SimError};

/// Different requests that are answered; more of a recording are alike.
const MAX_REQUESTS: usize = 2000;

/// A host in a folder of its own, which goes with it.
pub(super) struct Fresh {
    service: Service,
    dir: PathBuf,
    asked: HashSet<String>,
}

impl Fresh {
    pub(super) fn start() -> Result<Self, SimError> {
        let dir = std::env::temp_dir().join(format!("reprise-replay-{}", Uuid::new_v4()));
        let made = crate::init(&InitOptions {
            dir: dir.clone(),
            name: "REPLAY".to_owned(),
            volumes: Vec::new(),
        });
        let opened = made.and_then(|_| Engine::open(&dir));
        match opened {
            Ok(engine) => Ok(Self {
                service: Service::new(engine),
                dir,
                asked: HashSet::new(),
            }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// Asks this host the same and compares whether it refuses, and how. Returns whether it was asked.
    pub(super) fn compare(
        &mut self,
        request: &Request,
        xml: &str,
        recorded: &Response,
        sequence: u64,
        findings: &mut Findings,
    ) -> bool {
        let (subject, by_object) = match &request.operation {
            Operation::Enumerate(enumerate) => {
                let query = enumerate
                    .filter
                    .as_ref()
                    .map_or("", |filter| filter.text.trim());
                let of_object = ["associators", "references"].iter().any(|word| {
                    query
                        .get(..word.len())
                        .is_some_and(|start| start.eq_ignore_ascii_case(word))
                });
                (query.to_owned(), of_object)
            }
            Operation::Get => (request.header.resource_uri.clone(), true),
            Operation::Identify
            | Operation::Pull(_)
            | Operation::Release { .. }
            | Operation::Put(_)
            | Operation::Delete
            | Operation::Invoke { .. } => return false,
        };
        if self.asked.len() >= MAX_REQUESTS
            || !self
                .asked
                .insert(format!("{} {subject}", request.header.resource_uri))
        {
            return false;
        }
        let Outgoing::Reply { xml, .. } = self.service.answer(xml.as_bytes()) else {
            return false;
        };
        let Ok(here) = Response::parse(xml.as_bytes()) else {
            return false;
        };
        match (&recorded.reply, &here.reply) {
            (Reply::Fault(there), Reply::Fault(here)) => {
                let (there, here) = (signature(there), signature(here));
                if there != here {
                    findings.add(
                        DifferenceKind::Fault,
                        sequence,
                        subject,
                        format!("there {there}; here {here}"),
                    );
                }
            }
            // Whether an object is there is no difference of form.
            (Reply::Fault(there), _) if by_object && there.class() == FaultClass::NotFound => {}
            (_, Reply::Fault(here)) if by_object && here.class() == FaultClass::NotFound => {}
            (Reply::Fault(there), _) => {
                let example = format!("refused there: {}", signature(there));
                findings.add(DifferenceKind::Refusal, sequence, subject, example);
            }
            (_, Reply::Fault(here)) => {
                let example = format!("refused here: {}", signature(here));
                findings.add(DifferenceKind::Refusal, sequence, subject, example);
            }
            _ => {}
        }
        true
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.service.engine.close();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
