//! What time does to jobs: leases that run out, entries that expire, causes that change.

use std::collections::HashMap;

use ::jobs::{
    AgentFacts, JobKind, JobState, Life, LostLease, Owner, Rules, WaitCause, WaitFacts, wait_cause,
};
use model::{HostId, JobId, Timestamp, VmId};
use serde_json::json;

use super::finish::{committed_point, publishing_point};
use super::report::add_warning;
use super::{Job, LogLevel, load, log, read_job, save_life, subject};
use crate::audit::{self, Actor};
use crate::db::{Conn, db};
use crate::row::Columns;
use crate::{Catalog, CatalogError};

/// What a sweep changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs whose leases ran out; they are queued again or have ended.
    pub lost: Vec<JobId>,
    /// Jobs whose leases ran out while their point was being committed: settle the point, then sweep again.
    pub unsettled: Vec<JobId>,
    /// Jobs that waited too long.
    pub expired: Vec<JobId>,
    /// Waiting jobs with a new cause.
    pub recaused: Vec<JobId>,
}

/// Leases taken from a holder.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) ended: Vec<JobId>,
    pub(crate) unsettled: Vec<JobId>,
}

/// The facts that hold jobs back, of one moment.
pub(crate) struct World {
    agents: HashMap<HostId, AgentFacts>,
    on_host: HashMap<HostId, u32>,
    on_vm: HashMap<(HostId, VmId), u32>,
}

impl World {
    /// Reads the facts of one host or of all.
    pub(crate) async fn load(conn: &mut Conn, host: Option<HostId>) -> Result<Self, CatalogError> {
        let action = "read what holds jobs back";
        let host = host.map(|host| host.to_string());
        let rows = match &host {
            Some(host) => sqlx::query(
                "SELECT host_id, last_poll, not_ready FROM agents WHERE revoked IS NULL AND host_id = $1",
            )
            .bind(host.clone()),
            None => sqlx::query(
                "SELECT host_id, last_poll, not_ready FROM agents WHERE revoked IS NULL AND host_id IS NOT NULL",
            ),
        };
        let rows = rows.fetch_all(&mut *conn).await.map_err(db(action))?;
        let mut agents = HashMap::new();
        for row in rows {
            let facts = AgentFacts {
                last_poll: row.opt_time("last_poll")?,
                not_ready: row.opt_text("not_ready")?,
            };
            agents.insert(row.parsed("host_id")?, facts);
        }
        let rows = match &host {
            Some(host) => sqlx::query(
                "SELECT kind, host_id, vm_id FROM jobs WHERE state = 'running' AND host_id = $1",
            )
            .bind(host.clone()),
            None => sqlx::query(
                "SELECT kind, host_id, vm_id FROM jobs WHERE state = 'running' AND host_id IS NOT NULL",
            ),
        };
        let rows = rows.fetch_all(&mut *conn).await.map_err(db(action))?;
        let (mut on_host, mut on_vm) = (HashMap::new(), HashMap::new());
        for row in rows {
            let kind: JobKind = row.parsed("kind")?;
            if kind.runs_on() == ::jobs::RunsOn::Server {
                continue;
            }
            let host: HostId = row.parsed("host_id")?;
            *on_host.entry(host).or_insert(0) += 1;
            if let Some(vm) = row.opt_parsed::<VmId>("vm_id")?
                && kind.needs_vm_alone()
            {
                *on_vm.entry((host, vm)).or_insert(0) += 1;
            }
        }
        Ok(Self {
            agents,
            on_host,
            on_vm,
        })
    }

    /// Returns why a waiting job cannot start now.
    pub(crate) fn cause(
        &self,
        rules: &Rules,
        kind: JobKind,
        host: Option<HostId>,
        vm: Option<VmId>,
        not_before: Timestamp,
        now: Timestamp,
    ) -> Option<WaitCause> {
        let facts = WaitFacts {
            kind,
            agent: host.and_then(|host| self.agents.get(&host)),
            running_on_vm: host
                .zip(vm)
                .and_then(|key| self.on_vm.get(&key))
                .copied()
                .unwrap_or(0),
            running_on_host: host
                .and_then(|host| self.on_host.get(&host))
                .copied()
                .unwrap_or(0),
            not_before,
        };
        wait_cause(&facts, rules, now)
    }
}

/// Returns when a waiting job may start at the earliest.
pub(super) fn not_before(life: &Life) -> Option<Timestamp> {
    if let JobState::Queued { not_before, .. } = &life.state {
        Some(*not_before)
    } else {
        None
    }
}

impl Catalog {
    /// Does what time asks for: takes back leases that ran out, expires entries, brings causes up to date.
    /// To be called every few seconds and at start.
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, CatalogError> {
        let action = "sweep the job queue";
        let mut swept = Swept::default();
        let mut tx = self.write(action).await?;
        let rows = sqlx::query("SELECT id FROM jobs WHERE state = 'running' AND lease_ends <= $1")
            .bind(now.as_millis())
            .fetch_all(&mut *tx)
            .await
            .map_err(db(action))?;
        for row in rows {
            let id = row.parsed("id")?;
            match lose(&mut tx, &self.rules, id, LostLease::RanOut, now).await? {
                true => swept.lost.push(id),
                false => swept.unsettled.push(id),
            }
        }
        let rows = sqlx::query("SELECT * FROM jobs WHERE state = 'queued'")
            .fetch_all(&mut *tx)
            .await
            .map_err(db(action))?;
        let world = World::load(&mut tx, None).await?;
        for row in rows {
            let job = read_job(&row)?;
            if let Ok(life) = job.life.expire(now) {
                save_life(&mut tx, &job, &life, now).await?;
                let text = match job.cause() {
                    Some(cause) => format!("expired after waiting: {cause}"),
                    None => "expired after waiting".to_owned(),
                };
                log::append(&mut tx, job.id, now, LogLevel::Error, &text).await?;
                audit::append(
                    &mut tx,
                    now,
                    &Actor::Server,
                    "job.expire",
                    &subject(job.id),
                    &json!({}),
                )
                .await?;
                swept.expired.push(job.id);
                continue;
            }
            let Some(not_before) = not_before(&job.life) else {
                continue;
            };
            let cause = world.cause(
                &self.rules,
                job.kind,
                job.host.as_ref().map(|host| host.id),
                job.vm.as_ref().map(|vm| vm.id),
                not_before,
                now,
            );
            let life = job.life.wait_for(cause);
            let life = life.map_err(|source| CatalogError::Transition {
                job: job.id,
                source,
            })?;
            if life != job.life {
                save_life(&mut tx, &job, &life, now).await?;
                swept.recaused.push(job.id);
            }
        }
        if swept != Swept::default() {
            tx.commit().await?;
        }
        Ok(swept)
    }

    /// Takes back all leases of a server that has started anew under the same name.
    pub async fn server_started(
        &self,
        instance: &str,
        now: Timestamp,
    ) -> Result<Vec<JobId>, CatalogError> {
        let mut tx = self.write("take back leases").await?;
        let owner = Owner::Server(instance.to_owned());
        let taken = take_back(
            &mut tx,
            &self.rules,
            &owner,
            &[],
            LostLease::HolderRestarted,
            now,
        )
        .await?;
        tx.commit().await?;
        Ok(taken.ended)
    }
}

/// Takes all leases from a holder, but for the jobs in `keep`.
pub(crate) async fn take_back(
    conn: &mut Conn,
    rules: &Rules,
    owner: &Owner,
    keep: &[JobId],
    how: LostLease,
    now: Timestamp,
) -> Result<Taken, CatalogError> {
    let rows = sqlx::query("SELECT id FROM jobs WHERE state = 'running' AND lease_owner = $1")
        .bind(owner.to_string())
        .fetch_all(&mut *conn)
        .await
        .map_err(db("take back leases"))?;
    let mut taken = Taken::default();
    for row in rows {
        let id: JobId = row.parsed("id")?;
        if keep.contains(&id) {
            continue;
        }
        match lose(conn, rules, id, how, now).await? {
            true => taken.ended.push(id),
            false => taken.unsettled.push(id),
        }
    }
    Ok(taken)
}

/// Takes a lease back. `false` where the job's point is being committed: then nothing is changed yet.
async fn lose(
    conn: &mut Conn,
    rules: &Rules,
    id: JobId,
    how: LostLease,
    now: Timestamp,
) -> Result<bool, CatalogError> {
    let job: Job = load(conn, id).await?;
    if publishing_point(conn, id).await?.is_some() {
        return Ok(false);
    }
    let committed = committed_point(conn, id, job.life.fence).await?;
    let life = match committed {
        Some(point) => {
            let text = format!(
                "recovery point {point} is committed; its agent was lost before it had tidied up the host"
            );
            add_warning(conn, &job, now, &text).await?;
            job.life.end_after_commit(now)
        }
        None => job.life.lose_lease(rules, how, now),
    };
    let life = life.map_err(|source| CatalogError::Transition { job: id, source })?;
    save_life(conn, &job, &life, now).await?;
    if let Some(point) = committed {
        sqlx::query("UPDATE jobs SET point_id = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(point.to_string())
            .execute(&mut *conn)
            .await
            .map_err(db("end a job"))?;
    }
    let why = match how {
        LostLease::RanOut => "its lease ran out",
        LostLease::HolderRestarted => "its holder started anew",
    };
    let after = life.state.name();
    let text = format!("attempt {} was lost: {why} (now {after})", job.life.attempt);
    log::append(conn, id, now, LogLevel::Warning, &text).await?;
    let detail = json!({ "why": why, "fence": job.life.fence.0, "state": after.as_str() });
    audit::append(
        conn,
        now,
        &Actor::Server,
        "job.lease-lost",
        &subject(id),
        &detail,
    )
    .await?;
    Ok(true)
}
