//! Agents: who they are, which host they serve, how they are.
//!
//! A host has one agent at a time. An agent enrolled anew for a host takes the place of one that is offline; while
//! both poll, the newcomer is refused. Two processes that use one identity in turn are noticed by their instance ids.

use ::jobs::{AgentFacts, LostLease, Owner, StateName};
use model::{AgentId, HostId, JobId, Timestamp};
use serde_json::{Value, json};

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db, is_duplicate};
use crate::row::{Columns, to_json};
use crate::{Catalog, CatalogError};

/// An enrolled agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Id.
    pub id: AgentId,
    /// Name of the machine it was enrolled on.
    pub machine: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits.
    pub fingerprint: String,
    /// When its certificate ends.
    pub certificate_expires: Timestamp,
    /// When it was let in.
    pub enrolled: Timestamp,
    /// When it was shut out.
    pub revoked: Option<Timestamp>,
    /// Its host, once it has reached it.
    pub host: Option<HostId>,
    /// The host's name.
    pub host_name: Option<String>,
    /// The host's operating system version.
    pub os_version: Option<String>,
    /// Version of the agent.
    pub version: String,
    /// Its last sign of life.
    pub last_poll: Option<Timestamp>,
    /// Why it cannot work, where it said so.
    pub not_ready: Option<String>,
    /// More about the host, as last reported.
    pub facts: Value,
}

impl Agent {
    /// Returns what waiting jobs are told of it.
    #[must_use]
    pub fn wait_facts(&self) -> AgentFacts {
        AgentFacts {
            last_poll: self.last_poll,
            not_ready: self.not_ready.clone(),
        }
    }
}

/// The host an agent has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSeen {
    /// Identity.
    pub id: HostId,
    /// Name.
    pub name: String,
    /// Operating system version.
    pub os_version: String,
}

/// What an agent says when it polls.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Id of the agent's process.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// Why it cannot work; `None` where it can.
    pub not_ready: Option<String>,
    /// The host, where it was reached.
    pub host: Option<HostSeen>,
    /// Jobs the process runs.
    pub running: Vec<JobId>,
}

/// What a poll changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Jobs the agent runs and must stop.
    pub stop: Vec<JobId>,
    /// Jobs of an earlier process of this agent, whose leases were taken back.
    pub taken_back: Vec<JobId>,
    /// Jobs of an earlier process that are about to commit: settle their points, then sweep.
    pub unsettled: Vec<JobId>,
}

const MAX_REASON: usize = 1000;

impl Catalog {
    /// Returns the agent with this certificate, `None` where it is unknown or shut out.
    pub async fn agent_by_fingerprint(
        &self,
        fingerprint: &str,
    ) -> Result<Option<Agent>, CatalogError> {
        let row = sqlx::query("SELECT * FROM agents WHERE fingerprint = $1 AND revoked IS NULL")
            .bind(fingerprint)
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up an agent"))?;
        row.as_ref().map(read).transpose()
    }

    /// Returns an agent, shut out or not.
    pub async fn agent(&self, id: AgentId) -> Result<Agent, CatalogError> {
        let row = sqlx::query("SELECT * FROM agents WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up an agent"))?;
        row.as_ref()
            .map(read)
            .transpose()?
            .ok_or_else(|| CatalogError::not_found("agent", id))
    }

    /// Returns the agent of a host, `None` where it has none.
    pub async fn agent_of_host(&self, host: HostId) -> Result<Option<Agent>, CatalogError> {
        let mut conn = self.snapshot("look up the agent of a host").await?;
        agent_of_host(&mut conn, host).await
    }

    /// Lists agents, those that are shut out last.
    pub async fn agents(&self) -> Result<Vec<Agent>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM agents ORDER BY revoked IS NOT NULL, host_name, enrolled, id",
        )
        .fetch_all(self.readers())
        .await
        .map_err(db("list agents"))?;
        rows.iter().map(read).collect()
    }

    /// Replaces an agent's certificate.
    pub async fn renew_certificate(
        &self,
        id: AgentId,
        fingerprint: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "store an agent's new certificate";
        let mut tx = self.write(action).await?;
        let done = sqlx::query(
            "UPDATE agents SET fingerprint = $2, certificate_expires = $3 WHERE id = $1 AND revoked IS NULL",
        )
        .bind(id.to_string())
        .bind(fingerprint)
        .bind(expires.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("agent", id));
        }
        let detail = json!({ "fingerprint": fingerprint, "expires": expires });
        audit::append(
            &mut tx,
            now,
            &Actor::Agent(id),
            "agent.certificate",
            &subject(id),
            &detail,
        )
        .await?;
        tx.commit().await
    }

    /// Shuts an agent out: its certificate is refused from then on and its leases are taken back.
    pub async fn revoke_agent(
        &self,
        id: AgentId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("shut out an agent").await?;
        revoke(&mut tx, id, now).await?;
        crate::jobs::take_back(
            &mut tx,
            &self.rules,
            &Owner::Agent(id),
            &[],
            LostLease::HolderRestarted,
            now,
        )
        .await?;
        audit::append(
            &mut tx,
            now,
            actor,
            "agent.revoke",
            &subject(id),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }

    /// Stores what an agent says of its host beside its identity.
    pub async fn set_agent_facts(&self, id: AgentId, facts: &Value) -> Result<(), CatalogError> {
        let mut tx = self.write("store facts of an agent").await?;
        sqlx::query("UPDATE agents SET facts = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(to_json(facts)?)
            .execute(&mut *tx)
            .await
            .map_err(db("store facts of an agent"))?;
        tx.commit().await
    }

    /// Notes a sign of life. A poll of a new process takes back the leases of the one before.
    ///
    /// # Errors
    /// Conflict where another process uses this identity, or another living agent serves this host.
    pub async fn agent_polled(
        &self,
        id: AgentId,
        poll: &Poll,
        now: Timestamp,
    ) -> Result<Polled, CatalogError> {
        let action = "note an agent's poll";
        let mut tx = self.write(action).await?;
        let row = sqlx::query("SELECT * FROM agents WHERE id = $1 AND revoked IS NULL")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?
            .ok_or_else(|| CatalogError::not_found("agent", id))?;
        let before = read(&row)?;
        let instance = row.opt_text("instance")?;
        let instance_before = row.opt_text("instance_before")?;
        let mut polled = Polled::default();
        if instance.as_deref() != Some(&poll.instance) {
            if instance_before.as_deref() == Some(&poll.instance) {
                return Err(CatalogError::conflict(
                    "two processes use this agent's identity; stop one, and enrol it anew if it is another machine",
                ));
            }
            let owner = Owner::Agent(id);
            let keep = &poll.running;
            let taken = crate::jobs::take_back(
                &mut tx,
                &self.rules,
                &owner,
                keep,
                LostLease::HolderRestarted,
                now,
            )
            .await?;
            (polled.taken_back, polled.unsettled) = (taken.ended, taken.unsettled);
            sqlx::query(
                "UPDATE agents SET instance = $2, instance_before = instance WHERE id = $1",
            )
            .bind(id.to_string())
            .bind(&poll.instance)
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        }
        if let Some(host) = &poll.host {
            self.settle_host(&mut tx, &before, host, now).await?;
        }
        let not_ready = poll
            .not_ready
            .as_ref()
            .map(|reason| reason.chars().take(MAX_REASON).collect::<String>());
        sqlx::query("UPDATE agents SET last_poll = $2, version = $3, not_ready = $4 WHERE id = $1")
            .bind(id.to_string())
            .bind(now.as_millis())
            .bind(&poll.version)
            .bind(&not_ready)
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        if not_ready != before.not_ready {
            let (name, detail) = match &not_ready {
                Some(reason) => ("agent.not-ready", json!({ "reason": reason })),
                None => ("agent.ready", json!({})),
            };
            audit::append(&mut tx, now, &Actor::Agent(id), name, &subject(id), &detail).await?;
        }
        for &job in &poll.running {
            if must_stop(&mut tx, job, id).await? {
                polled.stop.push(job);
            }
        }
        let new_host = poll
            .host
            .as_ref()
            .is_some_and(|host| before.host != Some(host.id));
        let news = instance.as_deref() != Some(&poll.instance)
            || new_host
            || not_ready != before.not_ready;
        if news || !before.wait_facts().is_online(&self.rules, now) {
            tx.commit().await?;
        } else {
            tx.commit_quietly().await?;
        }
        Ok(polled)
    }

    async fn settle_host(
        &self,
        tx: &mut Conn,
        before: &Agent,
        host: &HostSeen,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        if let Some(other) = agent_of_host(tx, host.id)
            .await?
            .filter(|other| other.id != before.id)
        {
            if other.wait_facts().is_online(&self.rules, now) {
                return Err(CatalogError::conflict(format!(
                    "host {} is served by agent {}, which is running; stop that one first",
                    host.name, other.id
                )));
            }
            revoke(tx, other.id, now).await?;
            crate::jobs::take_back(
                tx,
                &self.rules,
                &Owner::Agent(other.id),
                &[],
                LostLease::HolderRestarted,
                now,
            )
            .await?;
            let detail = json!({ "replaced_by": before.id, "host": host.id });
            audit::append(
                tx,
                now,
                &Actor::Agent(before.id),
                "agent.replace",
                &subject(other.id),
                &detail,
            )
            .await?;
        }
        sqlx::query(
            "UPDATE agents SET host_id = $2, host_name = $3, os_version = $4 WHERE id = $1",
        )
        .bind(before.id.to_string())
        .bind(host.id.to_string())
        .bind(&host.name)
        .bind(&host.os_version)
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => {
                CatalogError::conflict(format!("host {} is served by another agent", host.name))
            }
            false => db("store an agent's host")(error),
        })?;
        if before.host != Some(host.id) {
            let detail = json!({ "host": host.id, "name": host.name });
            audit::append(
                tx,
                now,
                &Actor::Agent(before.id),
                "agent.host",
                &subject(before.id),
                &detail,
            )
            .await?;
        }
        Ok(())
    }
}

async fn must_stop(conn: &mut Conn, job: JobId, agent: AgentId) -> Result<bool, CatalogError> {
    let row = sqlx::query("SELECT state, lease_owner, cancel_requested FROM jobs WHERE id = $1")
        .bind(job.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a job"))?;
    let Some(row) = row else { return Ok(true) };
    let running = row.parsed::<StateName>("state")? == StateName::Running;
    let its_own = row.opt_text("lease_owner")? == Some(Owner::Agent(agent).to_string());
    Ok(!running || !its_own || row.opt_time("cancel_requested")?.is_some())
}

async fn revoke(conn: &mut Conn, id: AgentId, now: Timestamp) -> Result<(), CatalogError> {
    let done = sqlx::query("UPDATE agents SET revoked = $2 WHERE id = $1 AND revoked IS NULL")
        .bind(id.to_string())
        .bind(now.as_millis())
        .execute(conn)
        .await
        .map_err(db("shut out an agent"))?;
    if done.rows_affected() == 0 {
        return Err(CatalogError::not_found("agent", id));
    }
    Ok(())
}

pub(crate) async fn agent_of_host(
    conn: &mut Conn,
    host: HostId,
) -> Result<Option<Agent>, CatalogError> {
    let row = sqlx::query("SELECT * FROM agents WHERE host_id = $1 AND revoked IS NULL")
        .bind(host.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up the agent of a host"))?;
    row.as_ref().map(read).transpose()
}

fn subject(id: AgentId) -> String {
    format!("agent {id}")
}

fn read(row: &Row) -> Result<Agent, CatalogError> {
    Ok(Agent {
        id: row.parsed("id")?,
        machine: row.text("machine")?,
        fingerprint: row.text("fingerprint")?,
        certificate_expires: row.time("certificate_expires")?,
        enrolled: row.time("enrolled")?,
        revoked: row.opt_time("revoked")?,
        host: row.opt_parsed("host_id")?,
        host_name: row.opt_text("host_name")?,
        os_version: row.opt_text("os_version")?,
        version: row.text("version")?,
        last_poll: row.opt_time("last_poll")?,
        not_ready: row.opt_text("not_ready")?,
        facts: row.json("facts")?,
    })
}
