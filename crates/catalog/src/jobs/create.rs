//! New jobs.

use ::jobs::{JobKind, Life, StepName, StepState};
use model::{HostId, JobId, PointId, Timestamp, VmId};
use serde_json::{Value, json};

use super::sweep::World;
use super::{Job, LogLevel, Target, load, log, open_agent_step, put_step, subject};
use crate::audit::{self, Actor};
use crate::db::{Conn, db, is_duplicate};
use crate::idempotency::{self, IdempotencyKey};
use crate::row::{Columns, stored, to_json};
use crate::{Catalog, CatalogError};

/// A job to be queued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// What it does.
    pub kind: JobKind,
    /// The VM it is about.
    pub vm: Option<Target<VmId>>,
    /// The host it works on; needed where an agent carries it out.
    pub host: Option<Target<HostId>>,
    /// The point it restores or verifies.
    pub point: Option<PointId>,
    /// What was asked for; the server's format.
    pub request: Value,
    /// It may not start before; `None`: at once.
    pub not_before: Option<Timestamp>,
}

/// Jobs that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// The jobs, in the order of the request.
    pub jobs: Vec<Job>,
    /// Whether they were made by an earlier request with the same key.
    pub replayed: bool,
}

impl Catalog {
    /// Queues jobs, all or none. With a key, a repeated request gives back the jobs of the first.
    ///
    /// # Errors
    /// [`CatalogError::BackupUnderWay`] where a backup of the VM is queued or running already;
    /// [`CatalogError::KeyReused`] where the key came with another request.
    pub async fn create_jobs(
        &self,
        new: &[NewJob],
        key: Option<&IdempotencyKey>,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Created, CatalogError> {
        let mut tx = self.write("queue jobs").await?;
        if let Some(key) = key
            && let Some(response) = idempotency::look_up(&mut tx, key).await?
        {
            let ids: Vec<JobId> =
                serde_json::from_value(response).map_err(|_| CatalogError::KeyReused {
                    key: key.key.clone(),
                })?;
            let mut jobs = Vec::with_capacity(ids.len());
            for id in ids {
                jobs.push(load(&mut tx, id).await?);
            }
            return Ok(Created {
                jobs,
                replayed: true,
            });
        }
        let mut jobs = Vec::with_capacity(new.len());
        for job in new {
            jobs.push(self.insert_queued(&mut tx, job, actor, now).await?);
        }
        if let Some(key) = key {
            let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
            idempotency::remember(&mut tx, key, &json!(ids), now).await?;
        }
        tx.commit().await?;
        Ok(Created {
            jobs,
            replayed: false,
        })
    }

    /// Queues one job inside the caller's transaction.
    pub(crate) async fn insert_queued(
        &self,
        conn: &mut Conn,
        new: &NewJob,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Job, CatalogError> {
        if new.kind.runs_on() == ::jobs::RunsOn::Agent && new.host.is_none() {
            return Err(CatalogError::refused(format!(
                "a {} job needs a host",
                new.kind
            )));
        }
        let not_before = new.not_before.unwrap_or(now).max(now);
        let world = World::load(conn, new.host.as_ref().map(|host| host.id)).await?;
        let cause = world.cause(
            &self.rules,
            new.kind,
            new.host.as_ref().map(|host| host.id),
            new.vm.as_ref().map(|vm| vm.id),
            not_before,
            now,
        );
        let life = Life::queued(&self.rules, cause, not_before, now);
        let id = insert(conn, new, &life, actor, now).await?;
        open_agent_step(conn, id, new.kind, 1, now).await?;
        let text = match waits(&life) {
            Some(cause) => format!("queued by {actor}; waits: {cause}"),
            None => format!("queued by {actor}"),
        };
        log::append(conn, id, now, LogLevel::Info, &text).await?;
        let detail = json!({
            "kind": new.kind.as_str(), "vm": new.vm.as_ref().map(|vm| vm.id), "host": new.host.as_ref().map(|h| h.id),
            "point": new.point, "request": new.request,
        });
        audit::append(conn, now, actor, "job.create", &subject(id), &detail).await?;
        load(conn, id).await
    }

    /// Notes a scheduled run that is not made.
    pub(crate) async fn insert_skipped(
        &self,
        conn: &mut Conn,
        new: &NewJob,
        why: &str,
        now: Timestamp,
    ) -> Result<JobId, CatalogError> {
        let id = insert(conn, new, &Life::skipped(now), &Actor::Server, now).await?;
        log::append(conn, id, now, LogLevel::Warning, why).await?;
        audit::append(
            conn,
            now,
            &Actor::Server,
            "job.skip",
            &subject(id),
            &json!({ "why": why }),
        )
        .await?;
        Ok(id)
    }
}

fn waits(life: &Life) -> Option<String> {
    if let ::jobs::JobState::Queued {
        cause: Some(cause), ..
    } = &life.state
    {
        return Some(cause.to_string());
    }
    None
}

async fn insert(
    conn: &mut Conn,
    new: &NewJob,
    life: &Life,
    actor: &Actor,
    now: Timestamp,
) -> Result<JobId, CatalogError> {
    let id = JobId::random();
    let (cause, not_before) = match &life.state {
        ::jobs::JobState::Queued { cause, not_before } => {
            (cause.as_ref(), Some(not_before.as_millis()))
        }
        ::jobs::JobState::Running { .. }
        | ::jobs::JobState::Succeeded { .. }
        | ::jobs::JobState::Warnings { .. }
        | ::jobs::JobState::Failed { .. }
        | ::jobs::JobState::Cancelled { .. }
        | ::jobs::JobState::Expired { .. }
        | ::jobs::JobState::Skipped { .. } => (None, None),
    };
    let inserted = sqlx::query(
        "INSERT INTO jobs (id, kind, rank, vm_id, vm_name, host_id, host_name, point_id, request, requested_by,
            created, state, cause, cause_reason, not_before, expires, fence, attempt, failures, ended, warnings,
            bytes_done, bytes_total, bytes_read, bytes_sent, bytes_stored, bytes_reused, last_event, last_line, change)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, 0, $18, '[]',
            0, 0, 0, 0, 0, 0, 0, 0, 1)",
    )
    .bind(id.to_string())
    .bind(new.kind.as_str())
    .bind(i64::from(new.kind.rank()))
    .bind(new.vm.as_ref().map(|vm| vm.id.to_string()))
    .bind(new.vm.as_ref().map(|vm| vm.name.as_str()))
    .bind(new.host.as_ref().map(|host| host.id.to_string()))
    .bind(new.host.as_ref().map(|host| host.name.as_str()))
    .bind(new.point.map(|point| point.to_string()))
    .bind(to_json(&new.request)?)
    .bind(actor.to_string())
    .bind(now.as_millis())
    .bind(life.state.name().as_str())
    .bind(cause.map(::jobs::WaitCause::as_str))
    .bind(cause.and_then(::jobs::WaitCause::reason))
    .bind(not_before)
    .bind(life.expires.as_millis())
    .bind(stored(life.fence.0)?)
    .bind(life.state.ended().map(Timestamp::as_millis))
    .execute(&mut *conn)
    .await;
    match inserted {
        Ok(_) => {}
        Err(error) if is_duplicate(&error) => {
            if let Some(vm) = &new.vm
                && let Some(job) = backup_under_way(conn, vm.id).await?
            {
                return Err(CatalogError::BackupUnderWay { job });
            }
            return Err(db("queue a job")(error));
        }
        Err(error) => return Err(db("queue a job")(error)),
    }
    put_step(
        conn,
        id,
        new.kind,
        0,
        StepName::Request,
        StepState::Done,
        now,
        Some(&actor.to_string()),
    )
    .await?;
    Ok(id)
}

/// Returns the backup of a VM that is queued or running.
pub(crate) async fn backup_under_way(
    conn: &mut Conn,
    vm: VmId,
) -> Result<Option<JobId>, CatalogError> {
    let row = sqlx::query("SELECT id FROM jobs WHERE vm_id = $1 AND kind = 'backup' AND state IN ('queued', 'running')")
        .bind(vm.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look for a backup under way"))?;
    row.map(|row| row.parsed("id")).transpose()
}
