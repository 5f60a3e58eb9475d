//! How attempts and jobs end: by their holder's word, or called off.

use ::jobs::{CancelEffect, Ending, ErrorKind, JobError, JobKind, StateName};
use model::{Fence, JobId, PointId, Timestamp};
use serde_json::json;

use super::report::{add_warning, put_figures};
use super::{Figures, Job, LogLevel, load, log, save_life, subject};
use crate::audit::{self, Actor};
use crate::db::{Conn, db};
use crate::receipts::keep_evidence;
use crate::row::{Columns, stored};
use crate::{Catalog, CatalogError};

/// What the end of an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The job afterwards; `queued` where it is tried again.
    pub job: Job,
    /// Whether the same end had been reported before.
    pub repeated: bool,
}

impl Catalog {
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
        self.finish_restore(id, fence, ending, figures, None, now)
            .await
    }

    /// Ends an attempt as [`finish`](Self::finish) does. What it proved is kept with an end that is not a failure.
    pub async fn finish_restore(
        &self,
        id: JobId,
        fence: Fence,
        ending: Ending,
        figures: Option<Figures>,
        evidence: Option<&str>,
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
        let well = matches!(
            life.state.name(),
            StateName::Succeeded | StateName::Warnings
        );
        if let Some(evidence) = evidence.filter(|_| well) {
            keep_evidence(&mut tx, id, evidence).await?;
        }
        log_end(&mut tx, &job, &ending, life.state.name(), now).await?;
        if matches!(
            life.state.name(),
            StateName::Succeeded | StateName::Warnings
        ) {
            crate::parked::ended_by(&mut tx, &job, now).await?;
        }
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

/// A restore has succeeded only if every step was gone through, the comparison last (S17).
fn check_steps_passed(job: &Job) -> Result<(), CatalogError> {
    match job.kind {
        JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish => {}
        JobKind::Backup | JobKind::VerifyPoint => return Ok(()),
    }
    for &name in job.kind.steps() {
        let passed = job
            .steps
            .iter()
            .any(|step| step.name == name && step.state.is_passed());
        if !passed {
            return Err(CatalogError::refused(format!(
                "{} {} cannot have succeeded: step {name} has not ended well",
                job.kind, job.id
            )));
        }
    }
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
