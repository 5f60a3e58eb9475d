//! What the VSS method leaves on a host, and its removal: shadow copies, a VM that is held.
//!
//! Invariant: a shadow copy is deleted only if its id is in our journal, or if it must be the one whose answer was lost:
//! the only one new on its volume, made at that time, and of no other job of ours. What cannot be told apart stays, and
//! is named in the log.

use std::collections::HashSet;

use hyperv::{ErrorKind, Shadow, new_of_volume};
use model::{PowerState, Timestamp, VmId};
use tracing::{info, warn};

use crate::errors::host_error;
use crate::job::JobError;
use crate::journal::{Deed, Entries, Journal};
use crate::worker::Shared;

/// How far a shadow copy's time may be from when it was asked for: the host's clock is its own, and the host may take its
/// time.
const ABOUT_THEN_MILLIS: u64 = 20 * 60 * 1000;

/// Removes the shadow copies that a journal names and lets the VM run on; then nothing is left in the journal.
pub(crate) async fn release(shared: &Shared, journal: &Journal) -> Result<(), JobError> {
    let entries = journal.entries();
    if entries.deeds.is_empty() {
        return Ok(());
    }
    resume(shared, &entries).await?;
    for id in taken(&entries) {
        info!(job.id = %entries.job, "deleting shadow copy {id}");
        shared.host.delete_shadow(id).await.map_err(host_error)?;
    }
    for (volume, mount, before, at) in unanswered(&entries) {
        let all = shared.host.shadows().await.map_err(host_error)?;
        let named = named_elsewhere(shared)?;
        match lost(&all, volume, before, at, &named) {
            Lost::None => {}
            Lost::One(id) => {
                info!(job.id = %entries.job, "deleting shadow copy {id} of {mount}, whose making was not answered");
                shared.host.delete_shadow(&id).await.map_err(host_error)?;
            }
            Lost::Unclear(ids) => warn!(
                job.id = %entries.job,
                "a shadow copy of {mount} may be left on the host; which one cannot be told, so all of these stay: {}",
                ids.join(", ")
            ),
        }
    }
    journal.undone(0)
}

/// Lets a VM that we hold run on, unless somebody has done something else with it since.
async fn resume(shared: &Shared, entries: &Entries) -> Result<(), JobError> {
    let mut held = None;
    for deed in &entries.deeds {
        match deed {
            Deed::Held { saved } => held = Some(*saved),
            Deed::Resumed => held = None,
            Deed::Checkpoint { .. }
            | Deed::CheckpointTaken { .. }
            | Deed::Shadow { .. }
            | Deed::ShadowTaken { .. }
            | Deed::Publishing
            | Deed::Converting(_)
            | Deed::Folder { .. }
            | Deed::File { .. }
            | Deed::Data { .. }
            | Deed::Place { .. }
            | Deed::MoveAside { .. }
            | Deed::Register { .. }
            | Deed::StopVm { .. }
            | Deed::AttachDisk { .. }
            | Deed::ReplaceDisk(_)
            | Deed::Rehearse { .. }
            | Deed::Stop { .. }
            | Deed::OwnFolder { .. }
            | Deed::Swap(_)
            | Deed::Return { .. }
            | Deed::Power { .. }
            | Deed::Record { .. } => {}
        }
    }
    let Some(saved) = held else { return Ok(()) };
    let vm: VmId = entries.vm;
    let ours = if saved {
        PowerState::Saved
    } else {
        PowerState::Paused
    };
    match shared.host.power(vm).await {
        Ok((state, _)) if state == ours => {
            info!(job.id = %entries.job, "VM {vm} was held for its backup and runs on");
            shared.host.start(vm).await.map_err(host_error)
        }
        // On its way into the state we asked for: the next clean-up finds it there.
        Ok((PowerState::Changing, _)) => Err(JobError::transient(
            "vm-busy",
            format!("VM {vm} is still changing its state"),
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(host_error(error)),
    }
}

fn taken(entries: &Entries) -> impl Iterator<Item = &str> {
    entries.deeds.iter().filter_map(|deed| match deed {
        Deed::ShadowTaken { id } => Some(id.as_str()),
        Deed::Checkpoint { .. }
        | Deed::CheckpointTaken { .. }
        | Deed::Shadow { .. }
        | Deed::Held { .. }
        | Deed::Resumed
        | Deed::Publishing
        | Deed::Converting(_)
        | Deed::Folder { .. }
        | Deed::File { .. }
        | Deed::Data { .. }
        | Deed::Place { .. }
        | Deed::MoveAside { .. }
        | Deed::Register { .. }
        | Deed::StopVm { .. }
        | Deed::AttachDisk { .. }
        | Deed::ReplaceDisk(_)
        | Deed::Rehearse { .. }
        | Deed::Stop { .. }
        | Deed::OwnFolder { .. }
        | Deed::Swap(_)
        | Deed::Return { .. }
        | Deed::Power { .. }
        | Deed::Record { .. } => None,
    })
}

/// Shadow copies that were asked for and never named: each is followed by no `ShadowTaken`.
fn unanswered(entries: &Entries) -> Vec<(&str, &str, &[String], Timestamp)> {
    let mut open = None;
    let mut found = Vec::new();
    for deed in &entries.deeds {
        match deed {
            Deed::Shadow {
                volume,
                mount,
                before,
                at,
            } => found.extend(open.replace((
                volume.as_str(),
                mount.as_str(),
                before.as_slice(),
                *at,
            ))),
            Deed::ShadowTaken { .. } => open = None,
            Deed::Checkpoint { .. }
            | Deed::CheckpointTaken { .. }
            | Deed::Held { .. }
            | Deed::Resumed
            | Deed::Publishing
            | Deed::Converting(_)
            | Deed::Folder { .. }
            | Deed::File { .. }
            | Deed::Data { .. }
            | Deed::Place { .. }
            | Deed::MoveAside { .. }
            | Deed::Register { .. }
            | Deed::StopVm { .. }
            | Deed::AttachDisk { .. }
            | Deed::ReplaceDisk(_)
            | Deed::Rehearse { .. }
            | Deed::Stop { .. }
            | Deed::OwnFolder { .. }
            | Deed::Swap(_)
            | Deed::Return { .. }
            | Deed::Power { .. }
            | Deed::Record { .. } => {}
        }
    }
    found.extend(open);
    found
}

/// Ids that some journal of ours names: those shadow copies are another job's.
fn named_elsewhere(shared: &Shared) -> Result<HashSet<String>, JobError> {
    let unreadable =
        |error: anyhow::Error| JobError::failed("agent-data-folder", format!("{error:#}"));
    let mut named = HashSet::new();
    for name in shared.home.journals().map_err(unreadable)? {
        if let Some(entries) = shared.home.read::<Entries>(&name).map_err(unreadable)? {
            named.extend(taken(&entries).map(str::to_lowercase));
        }
    }
    Ok(named)
}

#[derive(Debug, PartialEq, Eq)]
enum Lost {
    None,
    One(String),
    Unclear(Vec<String>),
}

/// Which shadow copy came of a request whose answer was lost.
fn lost(
    all: &[Shadow],
    volume: &str,
    before: &[String],
    at: Timestamp,
    named: &HashSet<String>,
) -> Lost {
    let new = new_of_volume(all, volume, before);
    let new: Vec<&Shadow> = new
        .into_iter()
        .filter(|shadow| !named.contains(&shadow.id.to_lowercase()))
        .collect();
    let about_then = |shadow: &Shadow| {
        shadow.created.is_some_and(|created| {
            created.millis_since(at).max(at.millis_since(created)) <= ABOUT_THEN_MILLIS
        })
    };
    match new.as_slice() {
        [] => Lost::None,
        [only] if about_then(only) => Lost::One(only.id.clone()),
        several => Lost::Unclear(several.iter().map(|shadow| shadow.id.clone()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use model::{Fence, JobId};

    use super::*;

    fn entries(deeds: Vec<Deed>) -> Entries {
        Entries {
            job: JobId::random(),
            fence: Fence(1),
            vm: VmId::random(),
            deeds,
            succeeded: None,
            evidence: Default::default(),
            told: Vec::new(),
        }
    }

    fn asked(volume: &str) -> Deed {
        Deed::Shadow {
            volume: volume.into(),
            mount: "C:\\".into(),
            before: vec!["{OLD}".into()],
            at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn what_was_asked_for_and_not_answered_is_found_in_the_journal() {
        let named = Deed::ShadowTaken { id: "{A}".into() };
        let volumes = |deeds: Vec<Deed>| -> Vec<String> {
            let entries = entries(deeds);
            unanswered(&entries)
                .into_iter()
                .map(|(volume, ..)| volume.to_owned())
                .collect()
        };
        assert!(volumes(vec![asked("1"), named.clone()]).is_empty());
        assert_eq!(volumes(vec![asked("1"), named.clone(), asked("2")]), ["2"]);
        assert_eq!(volumes(vec![asked("1"), asked("2"), named]), ["1"]);
    }

    #[test]
    fn only_the_shadow_copy_that_must_be_ours_is_taken_for_it() {
        let shadow = |id: &str, minutes: i64| Shadow {
            id: id.into(),
            device: String::new(),
            volume: r"\\?\Volume{1}\".into(),
            created: Some(Timestamp::from_millis(minutes * 60_000)),
            state: Some(12),
        };
        let at = Timestamp::from_millis(100 * 60_000);
        let before = ["{OLD}".to_owned()];
        let named: HashSet<String> = ["{other}".to_owned()].into();
        let judge = |all: &[Shadow]| lost(all, r"\\?\Volume{1}\", &before, at, &named);
        let old = shadow("{OLD}", 90);
        assert_eq!(judge(std::slice::from_ref(&old)), Lost::None);
        assert_eq!(
            judge(&[old.clone(), shadow("{A}", 101)]),
            Lost::One("{A}".into())
        );
        // Another job's is not in question.
        assert_eq!(
            judge(&[shadow("{Other}", 100), shadow("{A}", 101)]),
            Lost::One("{A}".into())
        );
        // Made hours later: a schedule's.
        assert_eq!(
            judge(&[shadow("{A}", 300)]),
            Lost::Unclear(vec!["{A}".into()])
        );
        assert_eq!(
            judge(&[shadow("{A}", 100), shadow("{B}", 101)]),
            Lost::Unclear(vec!["{A}".into(), "{B}".into()])
        );
    }
}
