//! Jobs as rows, read and written.

use ::jobs::{
    Attempt, JobKind, JobState, Lease, Life, Owner, StateName, StepName, StepState, WaitCause,
};
use model::{Fence, JobId, Timestamp};

use super::{Figures, Job, Progress, Step, Target};
use crate::CatalogError;
use crate::db::{Conn, Row, db};
use crate::row::{Columns, stored, to_json};

/// The attempt whose steps are shown: the one under way, or the one it waits for.
pub(super) fn shown_attempt(life: &Life) -> Attempt {
    match life.state.name() {
        StateName::Queued => life.attempt.saturating_add(1),
        StateName::Running
        | StateName::Succeeded
        | StateName::Warnings
        | StateName::Failed
        | StateName::Cancelled
        | StateName::Expired
        | StateName::Skipped => life.attempt.max(1),
    }
}

fn read_life(row: &Row) -> Result<Life, CatalogError> {
    let ended = || Ok::<_, CatalogError>(row.opt_time("ended")?.unwrap_or(row.time("created")?));
    let (fence, attempt) = (Fence(row.unsigned("fence")?), row.small("attempt")?);
    let state = match row.parsed::<StateName>("state")? {
        StateName::Queued => {
            let cause = match row.opt_text("cause")? {
                Some(name) => {
                    let reason = row.opt_text("cause_reason")?;
                    let cause = WaitCause::from_parts(&name, reason.as_deref());
                    Some(cause.map_err(|_| CatalogError::BadRow {
                        column: "cause".into(),
                        value: name,
                    })?)
                }
                None => None,
            };
            let not_before = row.opt_time("not_before")?.unwrap_or(row.time("created")?);
            JobState::Queued { cause, not_before }
        }
        StateName::Running => {
            let owner: Owner = row.parsed("lease_owner")?;
            let ends = row.opt_time("lease_ends")?.unwrap_or(row.time("created")?);
            JobState::Running {
                lease: Lease {
                    owner,
                    fence,
                    attempt,
                    ends,
                },
            }
        }
        StateName::Succeeded => JobState::Succeeded { ended: ended()? },
        StateName::Warnings => JobState::Warnings { ended: ended()? },
        StateName::Failed => JobState::Failed {
            ended: ended()?,
            error: row.json("error")?,
        },
        StateName::Cancelled => JobState::Cancelled { ended: ended()? },
        StateName::Expired => JobState::Expired { ended: ended()? },
        StateName::Skipped => JobState::Skipped { ended: ended()? },
    };
    Ok(Life {
        state,
        fence,
        attempt,
        failures: row.small("failures")?,
        expires: row.time("expires")?,
        cancel_requested: row.opt_time("cancel_requested")?,
    })
}

fn read_target<T: std::str::FromStr>(
    row: &Row,
    id: &str,
    name: &str,
) -> Result<Option<Target<T>>, CatalogError> {
    let Some(id) = row.opt_parsed(id)? else {
        return Ok(None);
    };
    Ok(Some(Target {
        id,
        name: row.opt_text(name)?.unwrap_or_default(),
    }))
}

/// Reads a job without its steps.
pub(super) fn read_job(row: &Row) -> Result<Job, CatalogError> {
    Ok(Job {
        id: row.parsed("id")?,
        kind: row.parsed("kind")?,
        vm: read_target(row, "vm_id", "vm_name")?,
        host: read_target(row, "host_id", "host_name")?,
        point: row.opt_parsed("point_id")?,
        request: row.json("request")?,
        requested_by: row.text("requested_by")?,
        created: row.time("created")?,
        started: row.opt_time("started")?,
        life: read_life(row)?,
        last_failure: None,
        steps: Vec::new(),
        progress: Progress {
            bytes_done: row.unsigned("bytes_done")?,
            bytes_total: row.unsigned("bytes_total")?,
        },
        figures: Figures {
            bytes_read: row.unsigned("bytes_read")?,
            bytes_sent: row.unsigned("bytes_sent")?,
            bytes_stored: row.unsigned("bytes_stored")?,
            bytes_reused: row.unsigned("bytes_reused")?,
        },
        warnings: row.json("warnings")?,
        parked: None,
        change: row.unsigned("change")?,
    })
}

pub(super) async fn read_steps(conn: &mut Conn, job: &mut Job) -> Result<(), CatalogError> {
    let rows = sqlx::query(
        "SELECT * FROM job_steps WHERE job_id = $1 AND (attempt = 0 OR attempt = $2) ORDER BY attempt, position",
    )
    .bind(job.id.to_string())
    .bind(i64::from(shown_attempt(&job.life)))
    .fetch_all(&mut *conn)
    .await
    .map_err(db("read the steps of a job"))?;
    job.steps = rows.iter().map(read_step).collect::<Result<_, _>>()?;
    match job.kind {
        JobKind::Restore | JobKind::RestoreUndo => {
            job.parked = crate::parked::of_job(conn, job.id).await?;
        }
        JobKind::Backup | JobKind::RestoreFinish | JobKind::VerifyPoint => {}
    }
    if job.life.state.name() == StateName::Queued && job.life.attempt > 0 {
        job.last_failure = read_last_failure(conn, job).await?;
    }
    Ok(())
}

/// Reads which step failed in the attempt that is over, and why.
async fn read_last_failure(conn: &mut Conn, job: &Job) -> Result<Option<String>, CatalogError> {
    let row = sqlx::query(
        "SELECT * FROM job_steps WHERE job_id = $1 AND attempt = $2 AND state = 'failed' ORDER BY position DESC LIMIT 1",
    )
    .bind(job.id.to_string())
    .bind(i64::from(job.life.attempt))
    .fetch_optional(conn)
    .await
    .map_err(db("read what failed before"))?;
    let Some(row) = row else { return Ok(None) };
    let step = read_step(&row)?;
    let detail = step.detail.unwrap_or_default();
    Ok(Some(format!(
        "attempt {} failed at step {}: {detail}",
        job.life.attempt, step.name
    )))
}

pub(super) fn read_step(row: &Row) -> Result<Step, CatalogError> {
    Ok(Step {
        name: row.parsed("name")?,
        state: row.parsed("state")?,
        started: row.time("started")?,
        ended: row.opt_time("ended")?,
        detail: row.opt_text("detail")?,
    })
}

/// Loads a job inside a transaction.
pub(crate) async fn load(conn: &mut Conn, id: JobId) -> Result<Job, CatalogError> {
    let row = sqlx::query("SELECT * FROM jobs WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *conn)
        .await
        .map_err(db("look up a job"))?
        .ok_or_else(|| CatalogError::not_found("job", id))?;
    let mut job = read_job(&row)?;
    read_steps(conn, &mut job).await?;
    Ok(job)
}

/// Loads a job and checks that `fence` may write for it now.
pub(crate) async fn load_fenced(
    conn: &mut Conn,
    id: JobId,
    fence: Fence,
    now: Timestamp,
) -> Result<Job, CatalogError> {
    let job = load(conn, id).await?;
    job.life
        .check_fence(fence, now)
        .map_err(|source| CatalogError::Fenced {
            job: id,
            given: fence,
            source,
        })?;
    Ok(job)
}

/// Stores a job's life. Leaving `running` closes its sessions and ends the steps that were under way; going back to
/// `queued` opens the next attempt.
pub(super) async fn save_life(
    conn: &mut Conn,
    job: &Job,
    life: &Life,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let action = "store a job's state";
    let (mut cause, mut reason, mut not_before) = (None, None, None);
    let (mut owner, mut ends, mut error) = (None, None, None);
    match &life.state {
        JobState::Queued {
            cause: why,
            not_before: at,
        } => {
            cause = why.as_ref().map(WaitCause::as_str);
            reason = why.as_ref().and_then(WaitCause::reason);
            not_before = Some(at.as_millis());
        }
        JobState::Running { lease } => {
            owner = Some(lease.owner.to_string());
            ends = Some(lease.ends.as_millis());
        }
        JobState::Failed { error: why, .. } => error = Some(to_json(why)?),
        JobState::Succeeded { .. }
        | JobState::Warnings { .. }
        | JobState::Cancelled { .. }
        | JobState::Expired { .. }
        | JobState::Skipped { .. } => {}
    }
    sqlx::query(
        "UPDATE jobs SET state = $2, cause = $3, cause_reason = $4, not_before = $5, expires = $6, fence = $7,
            attempt = $8, failures = $9, lease_owner = $10, lease_ends = $11, cancel_requested = $12, ended = $13,
            error = $14, change = change + 1
         WHERE id = $1",
    )
    .bind(job.id.to_string())
    .bind(life.state.name().as_str())
    .bind(cause)
    .bind(reason)
    .bind(not_before)
    .bind(life.expires.as_millis())
    .bind(stored(life.fence.0)?)
    .bind(i64::from(life.attempt))
    .bind(i64::from(life.failures))
    .bind(owner)
    .bind(ends)
    .bind(life.cancel_requested.map(Timestamp::as_millis))
    .bind(life.state.ended().map(Timestamp::as_millis))
    .bind(error)
    .execute(&mut *conn)
    .await
    .map_err(db(action))?;
    let (before, after) = (job.life.state.name(), life.state.name());
    if before == after {
        return Ok(());
    }
    if before == StateName::Running {
        crate::sessions::close_all_of(conn, job.id, now).await?;
    }
    if after.is_final() || before == StateName::Running {
        let well = matches!(after, StateName::Succeeded | StateName::Warnings);
        let ended_as = if well {
            StepState::Done
        } else {
            StepState::Failed
        };
        let why = if well { None } else { Some(after.as_str()) };
        sqlx::query(
            "UPDATE job_steps SET state = $2, ended = $3, detail = COALESCE(detail, $4)
             WHERE job_id = $1 AND state = $5",
        )
        .bind(job.id.to_string())
        .bind(ended_as.as_str())
        .bind(now.as_millis())
        .bind(why)
        .bind(StepState::Running.as_str())
        .execute(&mut *conn)
        .await
        .map_err(db(action))?;
    }
    if after == StateName::Queued {
        open_agent_step(conn, job.id, job.kind, shown_attempt(life), now).await?;
    }
    Ok(())
}

/// Begins the step in which a job waits for its agent.
pub(super) async fn open_agent_step(
    conn: &mut Conn,
    job: JobId,
    kind: JobKind,
    attempt: Attempt,
    now: Timestamp,
) -> Result<(), CatalogError> {
    if kind.steps().contains(&StepName::Agent) {
        put_step(
            conn,
            job,
            kind,
            attempt,
            StepName::Agent,
            StepState::Running,
            now,
            None,
        )
        .await?;
    }
    Ok(())
}

/// Begins a step, or ends the one that was begun.
#[expect(clippy::too_many_arguments, reason = "a row's columns")]
pub(super) async fn put_step(
    conn: &mut Conn,
    job: JobId,
    kind: JobKind,
    attempt: Attempt,
    name: StepName,
    state: StepState,
    at: Timestamp,
    detail: Option<&str>,
) -> Result<(), CatalogError> {
    let position = kind
        .steps()
        .iter()
        .position(|&step| step == name)
        .unwrap_or(0);
    let ended = (state != StepState::Running).then_some(at.as_millis());
    sqlx::query(
        "INSERT INTO job_steps (job_id, attempt, name, position, state, started, ended, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (job_id, attempt, name) DO UPDATE
         SET state = excluded.state, ended = excluded.ended, detail = COALESCE(excluded.detail, job_steps.detail)",
    )
    .bind(job.to_string())
    .bind(i64::from(attempt))
    .bind(name.as_str())
    .bind(i64::try_from(position).unwrap_or(0))
    .bind(state.as_str())
    .bind(at.as_millis())
    .bind(ended)
    .bind(detail)
    .execute(conn)
    .await
    .map_err(db("store a step of a job"))?;
    Ok(())
}
