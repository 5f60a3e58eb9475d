//! What this server remembers of agents' polls, in memory: work that was handed out and not seen to arrive, second
//! processes with the same identity, inventories that are due.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::agent_v1::Assignment;
use model::{AgentId, JobId, Timestamp};

/// How long a second process with the same identity is told of.
const DOUBLED_SECS: u64 = 60;
/// An agent is asked for its inventory this often.
const INVENTORY_SECS: u64 = 5 * 60;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    agents: Mutex<HashMap<AgentId, Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    handed_out: Vec<(String, Assignment)>,
    doubled: Option<(Timestamp, String)>,
    inventory: Option<Timestamp>,
}

impl Polls {
    /// Takes note of work whose reply may not arrive.
    pub(super) fn hand_out(&self, agent: AgentId, instance: &str, assignment: &Assignment) {
        let mut agents = self.lock();
        let memory = agents.entry(agent).or_default();
        memory
            .handed_out
            .push((instance.to_owned(), assignment.clone()));
    }

    /// The job is known to have arrived, or to be over.
    pub(crate) fn arrived(&self, agent: AgentId, job: JobId) {
        if let Some(memory) = self.lock().get_mut(&agent) {
            memory
                .handed_out
                .retain(|(_, assignment)| assignment.job != job);
        }
    }

    /// Returns work that was handed to this process and that it does not know of: its reply was lost.
    ///
    /// A process lists what it was given in its next poll, and says something about a job before it drops it; what it
    /// neither lists nor ever spoke of did not arrive.
    pub(super) fn lost_on_the_way(
        &self,
        agent: AgentId,
        instance: &str,
        running: &[JobId],
    ) -> Option<Assignment> {
        let mut agents = self.lock();
        let memory = agents.get_mut(&agent)?;
        memory
            .handed_out
            .retain(|(to, assignment)| to == instance && !running.contains(&assignment.job));
        memory
            .handed_out
            .first()
            .map(|(_, assignment)| assignment.clone())
    }

    /// A process was refused because another uses the same identity.
    pub(super) fn note_doubled(&self, agent: AgentId, reason: String, now: Timestamp) {
        self.lock().entry(agent).or_default().doubled = Some((now, reason));
    }

    /// Returns why a second process was refused lately.
    pub(crate) fn doubled(&self, agent: AgentId, now: Timestamp) -> Option<String> {
        let agents = self.lock();
        let (at, reason) = agents.get(&agent)?.doubled.as_ref()?;
        (now.millis_since(*at) < DOUBLED_SECS * 1000).then(|| reason.clone())
    }

    /// Says whether a fresh inventory is due.
    pub(super) fn wants_inventory(&self, agent: AgentId, now: Timestamp) -> bool {
        let agents = self.lock();
        let last = agents.get(&agent).and_then(|memory| memory.inventory);
        last.is_none_or(|last| now.millis_since(last) >= INVENTORY_SECS * 1000)
    }

    pub(super) fn note_inventory(&self, agent: AgentId, now: Timestamp) {
        self.lock().entry(agent).or_default().inventory = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Memory>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
