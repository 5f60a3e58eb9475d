//! What agents say of their jobs: steps, progress, the end.

use api::agent_v1::{Event, EventKind, Finish, Outcome, Report, ReportReply};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::NewParked;
use jobs::{Ending, ErrorKind, JobError, JobKind, StateName, StepName};
use model::JobId;

use super::Peer;
use crate::app::Shared;
use crate::clock;
use crate::http::{ApiError, ApiResult, Json, PathId};
use crate::receipts;

const MAX_EVENTS: usize = 1000;

/// `POST /agent/v1/jobs/{job}/report`.
pub(super) async fn report(
    State(app): State<Shared>,
    peer: Peer,
    PathId(job): PathId<JobId>,
    Json(report): Json<Report>,
) -> ApiResult<Json<ReportReply>> {
    app.check_owner(job, peer.0.id).await?;
    app.polls.arrived(peer.0.id, job);
    if report.events.len() > MAX_EVENTS {
        return Err(ApiError::bad_request(format!(
            "more than {MAX_EVENTS} events in a report"
        )));
    }
    let events = report
        .events
        .into_iter()
        .map(event)
        .collect::<ApiResult<Vec<_>>>()?;
    let progress = report.progress.map(|progress| catalog::Progress {
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
    });
    let figures = report.figures.map(figures);
    let outcome = app
        .catalog
        .report(job, report.fence, &events, progress, figures, clock::now())
        .await?;
    Ok(Json(ReportReply {
        cancel: outcome.cancel,
        lease_secs: u32::try_from(app.catalog.rules().lease_secs).unwrap_or(u32::MAX),
    }))
}

/// `POST /agent/v1/jobs/{job}/finish`.
pub(super) async fn finish(
    State(app): State<Shared>,
    peer: Peer,
    PathId(job): PathId<JobId>,
    Json(finish): Json<Finish>,
) -> ApiResult<StatusCode> {
    let found = app.check_last_owner(job, peer.0.id).await?;
    app.polls.arrived(peer.0.id, job);
    let figures = Some(figures(finish.figures));
    let (ending, parked) = (ending(finish.outcome), finish.parked);
    let evidence = match (&ending, finish.evidence) {
        (Ending::Succeeded | Ending::Warnings, Some(evidence)) => {
            receipts::to_keep(&app, job, *evidence).await?
        }
        (_, _) => None,
    };
    if let (Some(parked), Some(host)) = (parked, found.host) {
        let now = clock::now();
        let kept = NewParked {
            job,
            vm: parked.vm,
            host: host.id,
            whole_vm: parked.whole_vm,
            files: parked.files,
            bytes: parked.bytes,
            since: parked.since,
            until: now.plus_secs(app.config.parked_secs),
        };
        app.catalog.note_parked(&kept, finish.fence, now).await?;
    }
    let finished = app
        .catalog
        .finish_restore(
            job,
            finish.fence,
            ending,
            figures,
            evidence.as_deref(),
            clock::now(),
        )
        .await?;
    app.polls.note_changed(peer.0.id);
    let ended = &finished.job;
    tracing::info!(job.id = %job, "{} job of {} is {}", ended.kind, name_of(ended), ended.state());
    if let Some(host) = &ended.host {
        app.wakes.wake(host.id);
    }
    let well = matches!(ended.state(), StateName::Succeeded | StateName::Warnings);
    if well && ended.kind == JobKind::Backup && !finished.repeated {
        app.prune_after(ended).await;
    }
    if well && evidence.is_some() {
        // Where this fails, the receipt is made when someone asks for it.
        if let Err(err) = receipts::of_job(&app, job).await {
            tracing::warn!(job.id = %job, "cannot write the receipt of the restore yet: {err:#}");
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

fn name_of(job: &catalog::Job) -> &str {
    job.vm.as_ref().map_or("no VM", |vm| vm.name.as_str())
}

fn event(event: Event) -> ApiResult<catalog::Event> {
    let kind = match event.what {
        EventKind::StepStarted { step } => catalog::EventKind::StepStarted(step_of(&step)?),
        EventKind::StepDone { step, detail } => {
            catalog::EventKind::StepDone(step_of(&step)?, detail)
        }
        EventKind::StepFailed { step, detail } => {
            catalog::EventKind::StepFailed(step_of(&step)?, detail)
        }
        EventKind::Note { text } => catalog::EventKind::Note(text),
        EventKind::Warning { text } => catalog::EventKind::Warning(text),
    };
    Ok(catalog::Event {
        number: event.number,
        at: event.at,
        kind,
    })
}

fn step_of(name: &str) -> ApiResult<StepName> {
    name.parse()
        .map_err(|err: jobs::UnknownName| ApiError::bad_request(err.to_string()))
}

fn figures(figures: api::agent_v1::Figures) -> catalog::Figures {
    catalog::Figures {
        bytes_read: figures.bytes_read,
        bytes_sent: figures.bytes_sent,
        bytes_stored: figures.bytes_stored,
        bytes_reused: figures.bytes_reused,
    }
}

fn ending(outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Succeeded => Ending::Succeeded,
        Outcome::Failed {
            code,
            message,
            hint,
            retry,
        } => {
            let kind = match code.as_str() {
                _ if retry => ErrorKind::Retry,
                "not-enough-space" | api::codes::STORE_FULL => ErrorKind::Full,
                api::codes::NOT_FOUND => ErrorKind::NotFound,
                api::codes::DAMAGED => ErrorKind::Corrupt,
                api::codes::INTERNAL => ErrorKind::Bug,
                _ => ErrorKind::Refused,
            };
            let bounded = |text: String| text.chars().take(4000).collect();
            Ending::Failed(JobError {
                kind,
                code: code.chars().take(60).collect(),
                message: bounded(message),
                hint: hint.map(bounded),
            })
        }
        Outcome::NotReady { reason } => Ending::NotReady {
            reason: reason.chars().take(1000).collect(),
        },
        Outcome::Cancelled => Ending::Cancelled,
    }
}
