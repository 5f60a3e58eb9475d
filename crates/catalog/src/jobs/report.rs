//! What the holder of a lease reports while it works: progress, steps, warnings.

use ::jobs::{Lease, StepName, StepState, check_may_start};
use model::{Fence, JobId, Timestamp};

use super::{
    Figures, Job, LogLevel, Progress, load_fenced, log, put_step, read_step, save_life,
    shown_attempt,
};
use crate::db::{Conn, Tx, db};
use crate::row::{Columns, stored, to_json};
use crate::{Catalog, CatalogError};

/// Something that happened in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 1, 2, 3 ... within the attempt; what came before is passed over, so a repeated report adds nothing.
    pub number: u64,
    /// When, by the holder's clock; bounded to the life of the job so far.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A step began.
    StepStarted(StepName),
    /// A step ended well.
    StepDone(StepName, String),
    /// A step failed.
    StepFailed(StepName, String),
    /// A step is not needed in this job.
    StepSkipped(StepName, String),
    /// A line for the log.
    Note(String),
    /// Something was not honoured; the result will be usable.
    Warning(String),
}

/// Answer to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportOutcome {
    /// Whether the end of the job was asked for.
    pub cancel: bool,
    /// The lease as it is now.
    pub lease: Lease,
}

const MAX_WARNINGS: usize = 200;

impl Catalog {
    /// Takes a report under a fence and prolongs the lease. All of it or nothing.
    pub async fn report(
        &self,
        id: JobId,
        fence: Fence,
        events: &[Event],
        progress: Option<Progress>,
        figures: Option<Figures>,
        now: Timestamp,
    ) -> Result<ReportOutcome, CatalogError> {
        let action = "store a job's report";
        let mut tx = self.write(action).await?;
        let job = load_fenced(&mut tx, id, fence, now).await?;
        let life =
            job.life
                .renew(&self.rules, fence, now)
                .map_err(|source| CatalogError::Fenced {
                    job: id,
                    given: fence,
                    source,
                })?;
        save_life(&mut tx, &job, &life, now).await?;
        take_events(&mut tx, &job, events, now).await?;
        if let Some(progress) = progress {
            sqlx::query("UPDATE jobs SET bytes_done = $2, bytes_total = $3 WHERE id = $1")
                .bind(id.to_string())
                .bind(stored(progress.bytes_done)?)
                .bind(stored(progress.bytes_total)?)
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
        }
        if let Some(figures) = figures {
            put_figures(&mut tx, id, figures).await?;
        }
        let lease = life
            .check_fence(fence, now)
            .map_err(|source| CatalogError::Fenced {
                job: id,
                given: fence,
                source,
            })?
            .clone();
        tx.commit().await?;
        Ok(ReportOutcome {
            cancel: life.cancel_requested.is_some(),
            lease,
        })
    }
}

async fn take_events(
    tx: &mut Tx,
    job: &Job,
    events: &[Event],
    now: Timestamp,
) -> Result<(), CatalogError> {
    let action = "store a job's report";
    let row = sqlx::query("SELECT last_event FROM jobs WHERE id = $1")
        .bind(job.id.to_string())
        .fetch_one(&mut **tx)
        .await
        .map_err(db(action))?;
    let mut last = row.unsigned("last_event")?;
    let earliest = job.started.unwrap_or(job.created).min(now);
    for event in events {
        if event.number <= last {
            continue;
        }
        last = event.number;
        take_event(tx, job, &event.kind, event.at.clamp(earliest, now)).await?;
    }
    sqlx::query("UPDATE jobs SET last_event = $2 WHERE id = $1")
        .bind(job.id.to_string())
        .bind(stored(last)?)
        .execute(&mut **tx)
        .await
        .map_err(db(action))?;
    Ok(())
}

async fn take_event(
    conn: &mut Conn,
    job: &Job,
    event: &EventKind,
    at: Timestamp,
) -> Result<(), CatalogError> {
    let id = job.id;
    match event {
        EventKind::StepStarted(step) => {
            start_step(conn, job, *step, at).await?;
            log::append(conn, id, at, LogLevel::Info, &format!("step {step} begins")).await
        }
        EventKind::StepDone(step, detail) => {
            end_step(conn, job, *step, StepState::Done, at, detail).await?;
            log::append(
                conn,
                id,
                at,
                LogLevel::Info,
                &format!("step {step} done: {detail}"),
            )
            .await
        }
        EventKind::StepFailed(step, detail) => {
            end_step(conn, job, *step, StepState::Failed, at, detail).await?;
            log::append(
                conn,
                id,
                at,
                LogLevel::Error,
                &format!("step {step} failed: {detail}"),
            )
            .await
        }
        EventKind::StepSkipped(step, detail) => {
            start_step(conn, job, *step, at).await?;
            end_step(conn, job, *step, StepState::Skipped, at, detail).await?;
            log::append(
                conn,
                id,
                at,
                LogLevel::Info,
                &format!("step {step} is not needed: {detail}"),
            )
            .await
        }
        EventKind::Note(text) => log::append(conn, id, at, LogLevel::Info, text).await,
        EventKind::Warning(text) => add_warning(conn, job, at, text).await,
    }
}

async fn start_step(
    conn: &mut Conn,
    job: &Job,
    step: StepName,
    at: Timestamp,
) -> Result<(), CatalogError> {
    let steps = steps_now(conn, job).await?;
    let state_of = |name| {
        steps
            .iter()
            .find(|(step, _)| *step == name)
            .map(|(_, state)| *state)
    };
    match state_of(step) {
        None => {}
        Some(StepState::Running) => return Ok(()),
        Some(StepState::Done | StepState::Failed | StepState::Skipped) => {
            return Err(CatalogError::refused(format!(
                "step {step} of job {} has ended already",
                job.id
            )));
        }
    }
    check_may_start(job.kind, step, state_of).map_err(|source| CatalogError::StepOrder {
        job: job.id,
        source,
    })?;
    put_step(
        conn,
        job.id,
        job.kind,
        job.life.attempt,
        step,
        StepState::Running,
        at,
        None,
    )
    .await
}

async fn end_step(
    conn: &mut Conn,
    job: &Job,
    step: StepName,
    state: StepState,
    at: Timestamp,
    detail: &str,
) -> Result<(), CatalogError> {
    let steps = steps_now(conn, job).await?;
    if !steps.contains(&(step, StepState::Running)) {
        return Err(CatalogError::refused(format!(
            "step {step} of job {} is not under way",
            job.id
        )));
    }
    let detail: String = detail.chars().take(log::MAX_TEXT).collect();
    put_step(
        conn,
        job.id,
        job.kind,
        job.life.attempt,
        step,
        state,
        at,
        Some(&detail),
    )
    .await
}

async fn steps_now(conn: &mut Conn, job: &Job) -> Result<Vec<(StepName, StepState)>, CatalogError> {
    let rows =
        sqlx::query("SELECT * FROM job_steps WHERE job_id = $1 AND (attempt = 0 OR attempt = $2)")
            .bind(job.id.to_string())
            .bind(i64::from(shown_attempt(&job.life)))
            .fetch_all(conn)
            .await
            .map_err(db("read the steps of a job"))?;
    rows.iter()
        .map(|row| read_step(row).map(|step| (step.name, step.state)))
        .collect()
}

pub(super) async fn add_warning(
    conn: &mut Conn,
    job: &Job,
    at: Timestamp,
    text: &str,
) -> Result<(), CatalogError> {
    let action = "store a warning of a job";
    let text: String = text.chars().take(log::MAX_TEXT).collect();
    let row = sqlx::query("SELECT warnings FROM jobs WHERE id = $1")
        .bind(job.id.to_string())
        .fetch_one(&mut *conn)
        .await
        .map_err(db(action))?;
    let mut warnings: Vec<String> = row.json("warnings")?;
    if !warnings.contains(&text) && warnings.len() < MAX_WARNINGS {
        warnings.push(text.clone());
        sqlx::query("UPDATE jobs SET warnings = $2 WHERE id = $1")
            .bind(job.id.to_string())
            .bind(to_json(&warnings)?)
            .execute(&mut *conn)
            .await
            .map_err(db(action))?;
    }
    log::append(conn, job.id, at, LogLevel::Warning, &text).await
}

pub(super) async fn put_figures(
    conn: &mut Conn,
    id: JobId,
    figures: Figures,
) -> Result<(), CatalogError> {
    sqlx::query(
        "UPDATE jobs SET bytes_read = $2, bytes_sent = $3, bytes_stored = $4, bytes_reused = $5 WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(stored(figures.bytes_read)?)
    .bind(stored(figures.bytes_sent)?)
    .bind(stored(figures.bytes_stored)?)
    .bind(stored(figures.bytes_reused)?)
    .execute(conn)
    .await
    .map_err(db("store a job's figures"))?;
    Ok(())
}
