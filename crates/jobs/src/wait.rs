//! Why a queued job does not run yet, computed from facts.

use std::fmt;

use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kind::JobKind;
use crate::rules::Rules;

/// Why a queued job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum WaitCause {
    /// No poll of the agent lately, or no agent at all.
    AgentOffline,
    /// The agent polls and says it cannot work.
    AgentNotReady {
        /// Why, in the agent's words.
        reason: String,
    },
    /// The host runs as many jobs as it may.
    HostBusy,
    /// Another job works on the VM.
    VmBusy,
    /// It may not start before a time: a pause between attempts, a window.
    Window,
}

impl WaitCause {
    /// Returns the stable name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            WaitCause::AgentOffline => "agent-offline",
            WaitCause::AgentNotReady { .. } => "agent-not-ready",
            WaitCause::HostBusy => "host-busy",
            WaitCause::VmBusy => "vm-busy",
            WaitCause::Window => "window",
        }
    }

    /// Returns the agent's reason, where that is the cause.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            WaitCause::AgentNotReady { reason } => Some(reason),
            WaitCause::AgentOffline
            | WaitCause::HostBusy
            | WaitCause::VmBusy
            | WaitCause::Window => None,
        }
    }

    /// Reads back what [`Self::as_str`] and [`Self::reason`] gave.
    pub fn from_parts(name: &str, reason: Option<&str>) -> Result<Self, crate::UnknownName> {
        match name {
            "agent-offline" => Ok(WaitCause::AgentOffline),
            "agent-not-ready" => Ok(WaitCause::AgentNotReady {
                reason: reason.unwrap_or_default().to_owned(),
            }),
            "host-busy" => Ok(WaitCause::HostBusy),
            "vm-busy" => Ok(WaitCause::VmBusy),
            "window" => Ok(WaitCause::Window),
            _ => Err(crate::UnknownName {
                what: "cause of waiting",
                text: name.chars().take(80).collect(),
            }),
        }
    }
}

impl fmt::Display for WaitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.as_str()),
            None => f.write_str(self.as_str()),
        }
    }
}

/// What is known of the agent of a job's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFacts {
    /// Its last poll.
    pub last_poll: Option<Timestamp>,
    /// Why it cannot work; `None` where it can.
    pub not_ready: Option<String>,
}

impl AgentFacts {
    /// Tells whether the agent polled lately. A poll from the future (a clock set back) counts.
    #[must_use]
    pub fn is_online(&self, rules: &Rules, now: Timestamp) -> bool {
        self.last_poll.is_some_and(|poll| {
            now.millis_since(poll) < rules.agent_offline_secs.saturating_mul(1000)
        })
    }
}

/// Everything that can hold a queued job back.
#[derive(Clone, Debug)]
pub struct WaitFacts<'a> {
    /// What the job does.
    pub kind: JobKind,
    /// The agent of its host, `None` where no agent has enrolled for it. Not asked for jobs of the server.
    pub agent: Option<&'a AgentFacts>,
    /// Running jobs on the same VM on the same host that need it alone.
    pub running_on_vm: u32,
    /// Running jobs on the host.
    pub running_on_host: u32,
    /// The job may not start before.
    pub not_before: Timestamp,
}

/// Returns why the job cannot start now, or `None` where nothing holds it back.
///
/// The agent comes first: while it is away nobody can tell what else would be in the way.
#[must_use]
pub fn wait_cause(facts: &WaitFacts<'_>, rules: &Rules, now: Timestamp) -> Option<WaitCause> {
    match facts.kind.runs_on() {
        crate::RunsOn::Server => {}
        crate::RunsOn::Agent => {
            let Some(agent) = facts.agent else {
                return Some(WaitCause::AgentOffline);
            };
            if !agent.is_online(rules, now) {
                return Some(WaitCause::AgentOffline);
            }
            if let Some(reason) = &agent.not_ready {
                return Some(WaitCause::AgentNotReady {
                    reason: reason.clone(),
                });
            }
            if facts.kind.needs_vm_alone() && facts.running_on_vm > 0 {
                return Some(WaitCause::VmBusy);
            }
            if facts.running_on_host >= rules.jobs_per_host {
                return Some(WaitCause::HostBusy);
            }
        }
    }
    (now < facts.not_before).then_some(WaitCause::Window)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(NOW + secs * 1000)
    }

    #[track_caller]
    fn check(
        poll: Option<i64>,
        not_ready: Option<&str>,
        vm: u32,
        host: u32,
        not_before: i64,
        cause: Option<&str>,
    ) {
        let agent = AgentFacts {
            last_poll: poll.map(at),
            not_ready: not_ready.map(str::to_owned),
        };
        let facts = WaitFacts {
            kind: JobKind::Restore,
            agent: Some(&agent),
            running_on_vm: vm,
            running_on_host: host,
            not_before: at(not_before),
        };
        let found = wait_cause(&facts, &Rules::default(), at(0));
        assert_eq!(found.as_ref().map(WaitCause::as_str), cause);
    }

    #[test]
    fn says_the_first_thing_in_the_way() {
        check(None, None, 0, 0, 0, Some("agent-offline"));
        check(Some(-60), None, 1, 9, 5, Some("agent-offline"));
        check(Some(-59), None, 0, 0, 0, None);
        check(Some(500), None, 0, 0, 0, None);
        check(
            Some(-1),
            Some("host service down"),
            1,
            9,
            5,
            Some("agent-not-ready"),
        );
        check(Some(-1), None, 1, 9, 5, Some("vm-busy"));
        check(Some(-1), None, 0, 4, 5, Some("host-busy"));
        check(Some(-1), None, 0, 3, 5, Some("window"));
        check(Some(-1), None, 0, 3, 0, None);
    }

    #[test]
    fn a_host_without_an_agent_waits_for_one() {
        let mut facts = WaitFacts {
            kind: JobKind::Backup,
            agent: None,
            running_on_vm: 0,
            running_on_host: 0,
            not_before: at(0),
        };
        assert_eq!(
            wait_cause(&facts, &Rules::default(), at(0)),
            Some(WaitCause::AgentOffline)
        );
        facts.kind = JobKind::VerifyPoint;
        assert_eq!(wait_cause(&facts, &Rules::default(), at(0)), None);
    }

    #[test]
    fn causes_are_read_back() {
        for cause in [
            WaitCause::AgentOffline,
            WaitCause::AgentNotReady {
                reason: "credentials refused".into(),
            },
            WaitCause::HostBusy,
            WaitCause::VmBusy,
            WaitCause::Window,
        ] {
            assert_eq!(
                WaitCause::from_parts(cause.as_str(), cause.reason()).unwrap(),
                cause
            );
        }
        assert!(WaitCause::from_parts("tired", None).is_err());
    }
}
