//! What restores keep beside on hosts: until when, whether what came back has run, and who undoes or finishes it.
//!
//! Invariant: at most one job that may still run works on what a restore keeps.

use ::jobs::{JobKind, StateName};
use model::{Fence, HostId, JobId, Timestamp, VmId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db};
use crate::idempotency::{self, IdempotencyKey};
use crate::jobs::{load, subject};
use crate::row::{Columns, stored};
use crate::text::stored_enum;
use crate::{Catalog, CatalogError, Created, Job, NewJob};

/// What has become of what a restore keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkedState {
    /// It is there.
    Parked,
    /// It was put back.
    Undone,
    /// It was deleted.
    Finished,
}

stored_enum!(ParkedState, "state of what a restore keeps", {
    Parked => "parked", Undone => "undone", Finished => "finished",
});

/// What a restore has just left beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewParked {
    /// The job that keeps it.
    pub job: JobId,
    /// The VM.
    pub vm: VmId,
    /// The host it is on.
    pub host: HostId,
    /// Whether it is a whole VM, or files of disks alone.
    pub whole_vm: bool,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when.
    pub since: Timestamp,
    /// When it is released by itself, if what came back has run by then.
    pub until: Timestamp,
}

/// What a restore keeps beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// What it is.
    pub kept: NewParked,
    /// What has become of it.
    pub state: ParkedState,
    /// When what came back was first seen running.
    pub ran: Option<Timestamp>,
    /// The job that undoes or finishes it, the last one asked for.
    pub by_job: Option<JobId>,
    /// When it was put back or deleted.
    pub ended: Option<Timestamp>,
}

impl Catalog {
    /// Notes what a restore keeps, before it is ended under this fence: whoever sees its end sees what it keeps. Noted
    /// again after the end, nothing changes.
    pub async fn note_parked(
        &self,
        new: &NewParked,
        fence: Fence,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "note what a restore keeps";
        let mut tx = self.write(action).await?;
        let job = load(&mut tx, new.job).await?;
        // One that was called off meanwhile keeps it all the same: the host had come further than the server knew.
        if job.life.fence != fence || !job.state().is_final() {
            job.life
                .check_fence(fence, now)
                .map_err(|source| CatalogError::Fenced {
                    job: new.job,
                    given: fence,
                    source,
                })?;
        } else if job.parked.is_some() {
            return Ok(());
        }
        let done = sqlx::query(
            "INSERT INTO parked (job_id, vm_id, host_id, whole_vm, files, bytes, since, until, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'parked')
             ON CONFLICT (job_id) DO UPDATE SET whole_vm = excluded.whole_vm, files = excluded.files,
             bytes = excluded.bytes, since = excluded.since, until = excluded.until",
        )
        .bind(new.job.to_string())
        .bind(new.vm.to_string())
        .bind(new.host.to_string())
        .bind(i64::from(new.whole_vm))
        .bind(stored(new.files)?)
        .bind(stored(new.bytes)?)
        .bind(new.since.as_millis())
        .bind(new.until.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        if done.rows_affected() > 0 {
            let detail =
                json!({ "vm": new.vm, "files": new.files, "bytes": new.bytes, "until": new.until });
            let (at, subject) = (new.since, subject(new.job));
            audit::append(
                &mut tx,
                at,
                &Actor::Server,
                "restore.park",
                &subject,
                &detail,
            )
            .await?;
        }
        tx.commit().await
    }

    /// Notes which VMs of a host are running: what they took the place of may be released in time.
    pub async fn note_running(
        &self,
        host: HostId,
        running: &[VmId],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "note that a restored VM runs";
        let rows = sqlx::query(
            "SELECT * FROM parked WHERE state = 'parked' AND host_id = $1 AND ran IS NULL",
        )
        .bind(host.to_string())
        .fetch_all(self.readers())
        .await
        .map_err(db(action))?;
        for row in rows {
            let parked = read(&row)?;
            if !running.contains(&parked.kept.vm) {
                continue;
            }
            let mut tx = self.write(action).await?;
            sqlx::query("UPDATE parked SET ran = $2 WHERE job_id = $1 AND ran IS NULL")
                .bind(parked.kept.job.to_string())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Returns what is to be released: its time is over, what came back has run, and nobody is at it.
    pub async fn parked_due(&self, now: Timestamp) -> Result<Vec<Parked>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM parked WHERE state = 'parked' AND until <= $1 AND ran IS NOT NULL
             AND EXISTS (SELECT 1 FROM jobs WHERE jobs.id = parked.job_id AND jobs.ended IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = parked.by_job AND jobs.state IN ('queued', 'running'))
             ORDER BY until, job_id",
        )
        .bind(now.as_millis())
        .fetch_all(self.readers())
        .await
        .map_err(db("look for what may be released"))?;
        rows.iter().map(read).collect()
    }

    /// Queues the job that undoes or finishes what a restore keeps; `again` is when the server may ask anew by itself
    /// where that fails.
    ///
    /// # Errors
    /// Conflict where nothing is kept any more, or another job is at it.
    pub async fn create_parked_job(
        &self,
        of: JobId,
        new: &NewJob,
        again: Option<Timestamp>,
        key: Option<&IdempotencyKey>,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Created, CatalogError> {
        let action = "queue the end of what a restore keeps";
        let mut tx = self.write(action).await?;
        if let Some(key) = key
            && let Some(response) = idempotency::look_up(&mut tx, key).await?
        {
            let reused = |_| CatalogError::KeyReused {
                key: key.key.clone(),
            };
            let id: JobId = serde_json::from_value(response).map_err(reused)?;
            let jobs = vec![load(&mut tx, id).await?];
            return Ok(Created {
                jobs,
                replayed: true,
            });
        }
        let job = load(&mut tx, of).await?;
        check_free(&mut tx, &job).await?;
        let made = self.insert_queued(&mut tx, new, actor, now).await?;
        sqlx::query("UPDATE parked SET by_job = $2, until = COALESCE($3, until) WHERE job_id = $1")
            .bind(of.to_string())
            .bind(made.id.to_string())
            .bind(again.map(Timestamp::as_millis))
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        if let Some(key) = key {
            idempotency::remember(&mut tx, key, &json!(made.id), now).await?;
        }
        tx.commit().await?;
        Ok(Created {
            jobs: vec![made],
            replayed: false,
        })
    }
}

/// Fails unless a job keeps something that nobody is at.
async fn check_free(conn: &mut Conn, job: &Job) -> Result<(), CatalogError> {
    let refused = |what: String| Err(CatalogError::conflict(format!("job {} {what}", job.id)));
    let ended = job.state().is_final();
    let Some(parked) = job.parked.as_ref().filter(|_| ended) else {
        return refused(match (job.kind, job.state().is_final()) {
            (JobKind::Backup | JobKind::VerifyPoint, _) => "is no restore".to_owned(),
            (JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish, false) => {
                format!("is {}: it keeps nothing yet", job.state())
            }
            (JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish, true) => {
                "keeps nothing on the host: it took nobody's place".to_owned()
            }
        });
    };
    let by = parked
        .by_job
        .map(|by| format!(" by job {by}"))
        .unwrap_or_default();
    match parked.state {
        ParkedState::Parked => {}
        ParkedState::Undone => return refused(format!("was undone already{by}")),
        ParkedState::Finished => {
            return refused(format!(
                "is finished{by}: what it kept was deleted, so it cannot be undone"
            ));
        }
    }
    let Some(by) = parked.by_job else {
        return Ok(());
    };
    let by = load(conn, by).await?;
    match by.state() {
        StateName::Queued | StateName::Running => refused(format!(
            "is being ended by job {}, which is {}",
            by.id,
            by.state()
        )),
        StateName::Succeeded
        | StateName::Warnings
        | StateName::Failed
        | StateName::Cancelled
        | StateName::Expired
        | StateName::Skipped => Ok(()),
    }
}

/// Notes that a job which was to undo or finish what a restore keeps has done so.
pub(crate) async fn ended_by(
    conn: &mut Conn,
    job: &Job,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let state = match job.kind {
        JobKind::RestoreUndo => ParkedState::Undone,
        JobKind::RestoreFinish => ParkedState::Finished,
        JobKind::Backup | JobKind::Restore | JobKind::VerifyPoint => return Ok(()),
    };
    sqlx::query("UPDATE parked SET state = $2, ended = $3 WHERE by_job = $1 AND state = 'parked'")
        .bind(job.id.to_string())
        .bind(state.as_str())
        .bind(now.as_millis())
        .execute(conn)
        .await
        .map_err(db("note the end of what a restore keeps"))?;
    Ok(())
}

/// Reads what a job keeps or kept.
pub(crate) async fn of_job(conn: &mut Conn, job: JobId) -> Result<Option<Parked>, CatalogError> {
    let row = sqlx::query("SELECT * FROM parked WHERE job_id = $1")
        .bind(job.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up what a restore keeps"))?;
    row.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<Parked, CatalogError> {
    Ok(Parked {
        kept: NewParked {
            job: row.parsed("job_id")?,
            vm: row.parsed("vm_id")?,
            host: row.parsed("host_id")?,
            whole_vm: row.truth("whole_vm")?,
            files: row.unsigned("files")?,
            bytes: row.unsigned("bytes")?,
            since: row.time("since")?,
            until: row.time("until")?,
        },
        state: row.parsed("state")?,
        ran: row.opt_time("ran")?,
        by_job: row.opt_parsed("by_job")?,
        ended: row.opt_time("ended")?,
    })
}
