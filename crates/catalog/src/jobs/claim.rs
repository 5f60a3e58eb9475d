//! Handing jobs out.
//!
//! Picking a job and giving its lease is one writing transaction, so two callers never get the same job.

use ::jobs::{JobKind, Lease, Owner, RunsOn, StepName, StepState};
use model::{AgentId, HostId, Timestamp};
use serde_json::json;

use super::sweep::World;
use super::{Job, LogLevel, load, log, put_step, read_job, save_life, subject};
use crate::audit::{self, Actor};
use crate::db::{Tx, db};
use crate::{Catalog, CatalogError};

/// How many waiting jobs of a host are looked at for one that can start.
const LOOKED_AT: i64 = 500;

impl Catalog {
    /// Hands the most urgent job that can start to an agent; its host must be known and the agent ready.
    pub async fn claim_next(
        &self,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<Option<(Job, Lease)>, CatalogError> {
        // Most polls find nothing: ask without the writing connection first.
        let waiting = sqlx::query(
            "SELECT agents.host_id AS host_id FROM agents JOIN jobs ON jobs.host_id = agents.host_id
             WHERE agents.id = $1 AND agents.revoked IS NULL AND jobs.state = 'queued' LIMIT 1",
        )
        .bind(agent.to_string())
        .fetch_optional(self.readers())
        .await
        .map_err(db("look for a job"))?;
        let Some(waiting) = waiting else {
            return Ok(None);
        };
        let host: HostId = crate::row::Columns::parsed(&waiting, "host_id")?;
        let mut tx = self.write("hand out a job").await?;
        // The agent may have been shut out, or replaced on its host, meanwhile.
        let still = crate::agents::agent_of_host(&mut tx, host).await?;
        if still.is_none_or(|still| still.id != agent) {
            return Ok(None);
        }
        self.claim(tx, RunsOn::Agent, Some(host), &Owner::Agent(agent), now)
            .await
    }

    /// Hands the most urgent job that servers carry out to the server of that name.
    pub async fn claim_next_for_server(
        &self,
        instance: &str,
        now: Timestamp,
    ) -> Result<Option<(Job, Lease)>, CatalogError> {
        let tx = self.write("hand out a job").await?;
        self.claim(
            tx,
            RunsOn::Server,
            None,
            &Owner::Server(instance.to_owned()),
            now,
        )
        .await
    }

    async fn claim(
        &self,
        mut tx: Tx,
        runs_on: RunsOn,
        host: Option<HostId>,
        owner: &Owner,
        now: Timestamp,
    ) -> Result<Option<(Job, Lease)>, CatalogError> {
        let action = "hand out a job";
        let mut query =
            crate::db::Builder::new("SELECT * FROM jobs WHERE state = 'queued' AND kind IN (");
        let mut kinds = query.separated(", ");
        for kind in JobKind::ALL.iter().filter(|kind| kind.runs_on() == runs_on) {
            kinds.push_bind(kind.as_str());
        }
        query.push(")");
        if let Some(host) = host {
            query.push(" AND host_id = ").push_bind(host.to_string());
        }
        query
            .push(" ORDER BY rank, created, id LIMIT ")
            .push_bind(LOOKED_AT);
        let rows = query
            .build()
            .fetch_all(&mut *tx)
            .await
            .map_err(db(action))?;
        let world = World::load(&mut tx, host).await?;
        for row in rows {
            let job = read_job(&row)?;
            let Some(not_before) = super::sweep::not_before(&job.life) else {
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
            let Ok((life, lease)) = job.life.claim(&self.rules, owner.clone(), cause, now) else {
                continue;
            };
            save_life(&mut tx, &job, &life, now).await?;
            sqlx::query(
                "UPDATE jobs SET started = COALESCE(started, $2), last_event = 0, bytes_done = 0, bytes_total = 0,
                    bytes_read = 0, bytes_sent = 0, bytes_stored = 0, bytes_reused = 0, warnings = '[]'
                 WHERE id = $1",
            )
            .bind(job.id.to_string())
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
            if job.kind.steps().contains(&StepName::Agent) {
                let who = format!("{owner} runs and is ready");
                put_step(
                    &mut tx,
                    job.id,
                    job.kind,
                    life.attempt,
                    StepName::Agent,
                    StepState::Done,
                    now,
                    Some(&who),
                )
                .await?;
            }
            let text = format!(
                "attempt {} is handed to {owner} with fence {}",
                life.attempt, life.fence
            );
            log::append(&mut tx, job.id, now, LogLevel::Info, &text).await?;
            let detail = json!({ "owner": owner.to_string(), "attempt": life.attempt, "fence": life.fence.0 });
            audit::append(
                &mut tx,
                now,
                &Actor::Server,
                "job.claim",
                &subject(job.id),
                &detail,
            )
            .await?;
            let job = load(&mut tx, job.id).await?;
            tx.commit().await?;
            return Ok(Some((job, lease)));
        }
        Ok(None)
    }
}
