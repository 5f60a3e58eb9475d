//! What held at a base, for the day its RCT ids are used: kept on the agent's machine, by reference point.
//!
//! Facts that were lost (another agent, an emptied folder) leave the decision to the host's tracker alone.

use std::collections::BTreeMap;

use hyperv::TrackerFacts;
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::job::JobError;

const FILE: &str = "tracker_facts.json";

/// [`TrackerFacts`] as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    last_applied: Option<String>,
    checkpoints: Vec<String>,
    leaves: Vec<(String, String)>,
}

impl From<TrackerFacts> for Kept {
    fn from(facts: TrackerFacts) -> Self {
        let TrackerFacts {
            last_applied,
            checkpoints,
            leaves,
        } = facts;
        Self {
            last_applied,
            checkpoints,
            leaves,
        }
    }
}

impl From<Kept> for TrackerFacts {
    fn from(kept: Kept) -> Self {
        let Kept {
            last_applied,
            checkpoints,
            leaves,
        } = kept;
        Self {
            last_applied,
            checkpoints,
            leaves,
        }
    }
}

/// Keeps the facts of a reference point.
pub(crate) fn keep(home: &Home, reference_point: &str, facts: Kept) -> Result<(), JobError> {
    change(home, |all| {
        all.insert(reference_point.to_owned(), facts);
    })
}

/// Forgets the facts of a reference point that is gone.
pub(crate) fn forget(home: &Home, reference_point: &str) -> Result<(), JobError> {
    change(home, |all| {
        all.remove(reference_point);
    })
}

/// Returns the facts of a reference point, where they are known.
pub(crate) fn of(home: &Home, reference_point: &str) -> Result<Option<TrackerFacts>, JobError> {
    let all: BTreeMap<String, Kept> = read(home)?;
    Ok(all.get(reference_point).cloned().map(TrackerFacts::from))
}

fn read(home: &Home) -> Result<BTreeMap<String, Kept>, JobError> {
    home.read(FILE)
        .map(Option::unwrap_or_default)
        .map_err(failed)
}

fn change(home: &Home, change: impl FnOnce(&mut BTreeMap<String, Kept>)) -> Result<(), JobError> {
    let _one_at_a_time = home.exclusive();
    let mut all = read(home)?;
    change(&mut all);
    home.write(FILE, &all).map_err(failed)
}

fn failed(error: anyhow::Error) -> JobError {
    JobError::failed("agent-data-folder", format!("{error:#}"))
}
