//! What the holder of a lease says: progress, steps, warnings, the end.

use ::jobs::{
    CancelEffect, Ending, ErrorKind, JobError, JobKind, Lease, StateName, StepName, StepState,
    check_may_start,
};
use model::{Fence, JobId, PointId, Timestamp};
use serde_json::json;

use super::{
    Figures, Job, LogLevel, Progress, load, load_fenced, log, put_step, read_step, save_life,
    shown_attempt, subject,
};
use crate::audit::{self, Actor};
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

/// What the end of an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The job afterwards; `queued` where it is tried again.
    pub job: Job,
    /// Whether the same end had been reported before.
    pub repeated: bool,
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

    /// Ends an attempt under its fence. Warnings already reported turn `succeeded` into `warnings`. A backup succeeds
    /// only once its point is committed; once it is, nothing makes it fail.
    ///
    /// The same end reported again changes nothing and is no error.
    pub async fn finish(
        &self,
        id: JobId,
        fence: Fence,
        ending: Ending,
        figures: Option<Figures>,
        now: Timestamp,
    ) -> Result<Finished, CatalogError> {
        let mut tx = self.write("end a job").await?;
        let job = load(&mut tx, id).await?;
        if job.life.fence == fence && job.state().is_final() && job.life.attempt > 0 {
            return Ok(Finished {
                job,
                repeated: true,
            });
        }
        job.life
            .check_fence(fence, now)
            .map_err(|source| CatalogError::Fenced {
                job: id,
                given: fence,
                source,
            })?;
        if let Some(figures) = figures {
            put_figures(&mut tx, id, figures).await?;
        }
        let committed = committed_point(&mut tx, id, fence).await?;
        if committed.is_none()
            && let Some(point) = publishing_point(&mut tx, id).await?
        {
            return Err(CatalogError::conflict(format!(
                "recovery point {point} of this job is being committed; report the end once that is settled"
            )));
        }
        let life = match (&ending, committed) {
            (Ending::Succeeded | Ending::Warnings, None) if job.kind == JobKind::Backup => {
                return Err(CatalogError::refused(
                    "a backup without a committed recovery point has not succeeded",
                ));
            }
            (Ending::Succeeded | Ending::Warnings, _) => {
                check_steps_passed(&job)?;
                let ending = if job.warnings.is_empty() {
                    ending.clone()
                } else {
                    Ending::Warnings
                };
                job.life.finish(&self.rules, fence, ending, now)
            }
            (Ending::Failed(_) | Ending::NotReady { .. } | Ending::Cancelled, Some(_)) => {
                let what = match &ending {
                    Ending::Failed(error) => error.message.clone(),
                    Ending::NotReady { reason } => reason.clone(),
                    Ending::Succeeded | Ending::Warnings | Ending::Cancelled => {
                        "cancelled".to_owned()
                    }
                };
                let text =
                    format!("the recovery point is committed; what came after failed: {what}");
                add_warning(&mut tx, &job, now, &text).await?;
                job.life.end_after_commit(now)
            }
            (Ending::Failed(_) | Ending::NotReady { .. } | Ending::Cancelled, None) => {
                job.life.finish(&self.rules, fence, ending.clone(), now)
            }
        };
        let life = life.map_err(|source| CatalogError::Transition { job: id, source })?;
        save_life(&mut tx, &job, &life, now).await?;
        if let Some(point) = committed {
            sqlx::query("UPDATE jobs SET point_id = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(point.to_string())
                .execute(&mut *tx)
                .await
                .map_err(db("end a job"))?;
        }
        log_end(&mut tx, &job, &ending, life.state.name(), now).await?;
        let actor = actor_of(&job);
        let detail = json!({ "state": life.state.name().as_str(), "fence": fence.0, "error": error_of(&ending) });
        audit::append(&mut tx, now, &actor, "job.finish", &subject(id), &detail).await?;
        let job = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(Finished {
            job,
            repeated: false,
        })
    }

    /// Calls a job off: at once while it waits; while it runs its holder is told.
    ///
    /// # Errors
    /// [`CatalogError::TooLateToCancel`] once its point is being committed; conflict where it has ended.
    pub async fn cancel_job(
        &self,
        id: JobId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(Job, CancelEffect), CatalogError> {
        let mut tx = self.write("cancel a job").await?;
        let job = load(&mut tx, id).await?;
        let committing = match publishing_point(&mut tx, id).await? {
            Some(point) => Some(point),
            None => committed_point(&mut tx, id, job.life.fence).await?,
        };
        if let Some(point) = committing
            && !job.state().is_final()
        {
            return Err(CatalogError::TooLateToCancel { job: id, point });
        }
        let (life, effect) = job
            .life
            .cancel(now)
            .map_err(|source| CatalogError::Transition { job: id, source })?;
        save_life(&mut tx, &job, &life, now).await?;
        let text = match effect {
            CancelEffect::Cancelled => format!("cancelled by {actor}"),
            CancelEffect::Requested => format!("{actor} asks for the end of this job"),
        };
        log::append(&mut tx, id, now, LogLevel::Warning, &text).await?;
        audit::append(
            &mut tx,
            now,
            actor,
            "job.cancel",
            &subject(id),
            &json!({ "was": job.state().as_str() }),
        )
        .await?;
        let job = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok((job, effect))
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

/// A restore has succeeded only if every step was gone through, the comparison last (S17).
fn check_steps_passed(job: &Job) -> Result<(), CatalogError> {
    if job.kind != JobKind::Restore {
        return Ok(());
    }
    for &name in job.kind.steps() {
        let passed = job
            .steps
            .iter()
            .any(|step| step.name == name && step.state.is_passed());
        if !passed {
            return Err(CatalogError::refused(format!(
                "restore {} cannot have succeeded: step {name} has not ended well",
                job.id
            )));
        }
    }
    Ok(())
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

async fn put_figures(conn: &mut Conn, id: JobId, figures: Figures) -> Result<(), CatalogError> {
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

/// Returns the point an attempt has committed.
pub(crate) async fn committed_point(
    conn: &mut Conn,
    job: JobId,
    fence: Fence,
) -> Result<Option<PointId>, CatalogError> {
    let row = sqlx::query("SELECT id FROM points WHERE job_id = $1 AND fence = $2")
        .bind(job.to_string())
        .bind(stored(fence.0)?)
        .fetch_optional(conn)
        .await
        .map_err(db("look for a job's point"))?;
    row.map(|row| row.parsed("id")).transpose()
}

/// Returns the point of a job that is between "begun" and "settled".
pub(crate) async fn publishing_point(
    conn: &mut Conn,
    job: JobId,
) -> Result<Option<PointId>, CatalogError> {
    let row = sqlx::query("SELECT point_id FROM publishing WHERE job_id = $1 LIMIT 1")
        .bind(job.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look for a job's point"))?;
    row.map(|row| row.parsed("point_id")).transpose()
}

async fn log_end(
    conn: &mut Conn,
    job: &Job,
    ending: &Ending,
    after: StateName,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let (level, text) = match ending {
        Ending::Succeeded | Ending::Warnings => (LogLevel::Info, format!("ended: {after}")),
        Ending::Failed(JobError { message, .. }) => {
            (LogLevel::Error, format!("{message} (now {after})"))
        }
        Ending::NotReady { reason } => (
            LogLevel::Warning,
            format!("not ready: {reason} (now {after})"),
        ),
        Ending::Cancelled => (
            LogLevel::Warning,
            format!("stopped on request (now {after})"),
        ),
    };
    log::append(conn, job.id, now, level, &text).await
}

fn error_of(ending: &Ending) -> Option<(&'static str, &str)> {
    match ending {
        Ending::Failed(error) => Some((error.kind.as_str(), &error.code)),
        Ending::NotReady { .. } => Some((ErrorKind::Retry.as_str(), "not-ready")),
        Ending::Succeeded | Ending::Warnings | Ending::Cancelled => None,
    }
}

fn actor_of(job: &Job) -> Actor {
    match job.lease().map(|lease| &lease.owner) {
        Some(::jobs::Owner::Agent(agent)) => Actor::Agent(*agent),
        Some(::jobs::Owner::Server(_)) | None => Actor::Server,
    }
}
