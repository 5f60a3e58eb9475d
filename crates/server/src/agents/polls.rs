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
/// An inventory younger than this is not asked for again because someone looks at it.
const FRESH_SECS: u64 = 3;
/// An agent that was asked is not asked again before.
const ASK_SECS: u64 = 10;

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
    stale: bool,
    asked: Option<Timestamp>,
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

    /// Says whether the agent is to be asked for its inventory.
    pub(super) fn wants_inventory(&self, agent: AgentId, now: Timestamp) -> bool {
        let agents = self.lock();
        let Some(memory) = agents.get(&agent) else {
            return true;
        };
        let older = |moment: Option<Timestamp>, secs: u64| {
            moment.is_none_or(|moment| now.millis_since(moment) >= secs * 1000)
        };
        (memory.stale || older(memory.inventory, INVENTORY_SECS)) && older(memory.asked, ASK_SECS)
    }

    /// The agent is being asked for its inventory.
    pub(super) fn note_asked(&self, agent: AgentId, now: Timestamp) {
        self.lock().entry(agent).or_default().asked = Some(now);
    }

    /// The inventory has come.
    pub(super) fn note_inventory(&self, agent: AgentId, now: Timestamp) {
        let mut agents = self.lock();
        let memory = agents.entry(agent).or_default();
        memory.inventory = Some(now);
        memory.stale = false;
        memory.asked = None;
    }

    /// Someone looks at what the hosts have: what is not fresh is to be asked for. Returns whether anything is.
    pub(crate) fn refresh_inventories(&self, now: Timestamp) -> bool {
        let mut any = false;
        for memory in self.lock().values_mut() {
            let fresh = |moment: Timestamp| now.millis_since(moment) < FRESH_SECS * 1000;
            if !memory.inventory.is_some_and(fresh) && !memory.asked.is_some_and(fresh) {
                memory.stale = true;
                any = true;
            }
        }
        any
    }

    /// A job has ended: what the host has may have changed.
    pub(super) fn note_changed(&self, agent: AgentId) {
        self.lock().entry(agent).or_default().stale = true;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Memory>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
