//! Jobs as rows. What may follow what is decided by the crate `jobs`; here its values are kept.

mod claim;
mod create;
mod list;
mod log;
mod report;
mod settle;
mod sweep;

use ::jobs::{
    Attempt, JobError, JobKind, JobState, Lease, Life, Owner, StateName, StepName, StepState,
    WaitCause,
};
use model::{Fence, HostId, JobId, PointId, Timestamp, VmId};
use serde_json::Value;

use crate::CatalogError;
use crate::db::{Conn, Row, db};
use crate::row::{Columns, stored, to_json};

pub(crate) use create::backup_under_way;
pub use create::{Created, NewJob};
pub use list::JobFilter;
pub use log::{LogLevel, LogLine};
pub use report::{Event, EventKind, Finished, ReportOutcome};
pub use settle::MarkVerdict;
pub use sweep::Swept;
pub(crate) use sweep::take_back;

/// A thing with the name it had when the job was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<T> {
    /// Id.
    pub id: T,
    /// Name.
    pub name: String,
}

/// Bytes done of bytes to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub bytes_done: u64,
    /// To do in all.
    pub bytes_total: u64,
}

/// What a job moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Read from disks (backup) or from the store (restore).
    pub bytes_read: u64,
    /// Sent over the network.
    pub bytes_sent: u64,
    /// New in the store (backup) or written on the host (restore).
    pub bytes_stored: u64,
    /// Already there.
    pub bytes_reused: u64,
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// Where it is.
    pub state: StepState,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Its figures or why it failed, for people.
    pub detail: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The VM it is about.
    pub vm: Option<Target<VmId>>,
    /// The host it works on.
    pub host: Option<Target<HostId>>,
    /// The point it restores or verifies, or the one a backup made.
    pub point: Option<PointId>,
    /// What was asked for; the server's format.
    pub request: Value,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it was first handed out.
    pub started: Option<Timestamp>,
    /// Where it is.
    pub life: Life,
    /// The request, and the steps of the latest attempt, in order.
    pub steps: Vec<Step>,
    /// Progress of the latest attempt.
    pub progress: Progress,
    /// Figures of the latest attempt.
    pub figures: Figures,
    /// What was not honoured.
    pub warnings: Vec<String>,
    /// Grows with every change.
    pub change: u64,
}

impl Job {
    /// Returns the name of its state.
    #[must_use]
    pub fn state(&self) -> StateName {
        self.life.state.name()
    }

    /// Returns why it waits, where it does.
    #[must_use]
    pub fn cause(&self) -> Option<&WaitCause> {
        if let JobState::Queued { cause, .. } = &self.life.state {
            cause.as_ref()
        } else {
            None
        }
    }

    /// Returns why it failed, where it did.
    #[must_use]
    pub fn error(&self) -> Option<&JobError> {
        if let JobState::Failed { error, .. } = &self.life.state {
            Some(error)
        } else {
            None
        }
    }

    /// Returns the lease, while it runs.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        if let JobState::Running { lease } = &self.life.state {
            Some(lease)
        } else {
            None
        }
    }

    /// Returns when it ends by itself, while it waits.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        (self.state() == StateName::Queued).then_some(self.life.expires)
    }
}

pub(crate) fn subject(job: JobId) -> String {
    format!("job {job}")
}

/// The attempt whose steps are shown: the one under way, or the one it waits for.
fn shown_attempt(life: &Life) -> Attempt {
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

pub(crate) fn read_life(row: &Row) -> Result<Life, CatalogError> {
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
fn read_job(row: &Row) -> Result<Job, CatalogError> {
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
        change: row.unsigned("change")?,
    })
}

async fn read_steps(conn: &mut Conn, job: &mut Job) -> Result<(), CatalogError> {
    let rows = sqlx::query(
        "SELECT * FROM job_steps WHERE job_id = $1 AND (attempt = 0 OR attempt = $2) ORDER BY attempt, position",
    )
    .bind(job.id.to_string())
    .bind(i64::from(shown_attempt(&job.life)))
    .fetch_all(conn)
    .await
    .map_err(db("read the steps of a job"))?;
    job.steps = rows.iter().map(read_step).collect::<Result<_, _>>()?;
    Ok(())
}

fn read_step(row: &Row) -> Result<Step, CatalogError> {
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
pub(crate) async fn save_life(
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
async fn open_agent_step(
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
async fn put_step(
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

/// Appends a line to a job's log inside the caller's transaction, from another subject's module.
pub(crate) async fn log_info(
    conn: &mut Conn,
    job: JobId,
    now: Timestamp,
    text: &str,
) -> Result<(), CatalogError> {
    log::append(conn, job, now, LogLevel::Info, text).await
}
