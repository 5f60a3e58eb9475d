//! Jobs: looking at them, waiting for them, calling them off.

use std::time::Duration;

use api::v1::{Job, JobError, JobFigures, JobProgress, LogLine, NamedRef, Page, Role, Step};
use axum::extract::State;
use catalog::{Cursor, JobFilter};
use jobs::{JobKind, StateName};
use model::JobId;
use serde::Deserialize;
use tokio::time::Instant;

use super::vms;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId, Query};
use crate::request::JobRequest;

const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// States, separated by commas.
    state: Option<String>,
    /// VM by id or name.
    vm: Option<String>,
    /// `backup`, `restore`, `restore-undo`, `restore-finish`, `verify`.
    kind: Option<String>,
    /// Most entries, 100 by default.
    limit: Option<u32>,
    /// `next` of the part before.
    cursor: Option<String>,
}

/// Lists jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(JobsQuery), responses((status = 200, body = Page<Job>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    Query(query): Query<JobsQuery>,
) -> ApiResult<Json<Page<Job>>> {
    let mut filter = JobFilter::default();
    for name in query.state.iter().flat_map(|names| names.split(',')) {
        let state: StateName = name
            .parse()
            .map_err(|err: jobs::UnknownName| ApiError::bad_request(err.to_string()))?;
        filter.states.push(state);
    }
    for name in query.kind.iter().flat_map(|names| names.split(',')) {
        filter.kinds.push(parse_kind(name)?);
    }
    if let Some(vm) = &query.vm {
        filter.vm = Some(vms::resolve(&app, vm).await?.id);
    }
    let cursor = match &query.cursor {
        Some(text) => Some(
            text.parse::<Cursor>()
                .map_err(|_| ApiError::bad_request("this is no cursor"))?,
        ),
        None => None,
    };
    let page = app
        .catalog
        .jobs(&filter, cursor.as_ref(), query.limit.unwrap_or(100))
        .await?;
    let items = page.items.iter().map(describe).collect();
    Ok(Json(Page {
        items,
        next: page.next.map(|next| next.to_string()),
    }))
}

/// Returns a job.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path, description = "Id")),
    responses((status = 200, body = Job), (status = 404, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
) -> ApiResult<Json<Job>> {
    Ok(Json(describe(&app.catalog.job(parse_id(&job)?).await?)))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// The change number already seen.
    change: u64,
    /// How long to wait, 30 seconds at most.
    secs: Option<u64>,
}

/// Returns a job once it differs from a change number, or after a while.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job}/wait", tag = "jobs",
    params(("job" = String, Path, description = "Id"), WaitQuery),
    responses((status = 200, body = Job), (status = 404, body = api::Problem))
)]
pub(super) async fn wait(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
    Query(query): Query<WaitQuery>,
) -> ApiResult<Json<Job>> {
    let id = parse_id(&job)?;
    let end = Instant::now() + WAIT_MAX.min(Duration::from_secs(query.secs.unwrap_or(30)));
    let mut changes = app.catalog.changes();
    while app.catalog.job_change(id).await? == query.change {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            () = app.stop.cancelled() => break,
            () = tokio::time::sleep_until(end) => break,
        }
    }
    Ok(Json(describe(&app.catalog.job(id).await?)))
}

/// Returns a job's log.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job}/log", tag = "jobs", params(("job" = String, Path, description = "Id")),
    responses((status = 200, body = Page<LogLine>), (status = 404, body = api::Problem))
)]
pub(super) async fn log(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
) -> ApiResult<Json<Page<LogLine>>> {
    let job = app.catalog.job(parse_id(&job)?).await?;
    let mut items = Vec::new();
    if let Ok(JobRequest::Restore(request)) = JobRequest::read(&job) {
        items.extend(request.notes.into_iter().map(|text| LogLine {
            at: job.created.to_string(),
            level: "info".to_owned(),
            text,
        }));
    }
    let mut after = 0;
    loop {
        let lines = app.catalog.job_log(job.id, after, 500).await?;
        let Some(last) = lines.last() else { break };
        after = last.line;
        items.extend(lines.into_iter().map(|line| LogLine {
            at: line.at.to_string(),
            level: line.level.to_string(),
            text: line.text,
        }));
    }
    Ok(Json(Page { items, next: None }))
}

/// Calls a job off: at once while it waits, at its next safe place while it runs.
#[utoipa::path(
    post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = String, Path, description = "Id")),
    responses((status = 200, body = Job), (status = 409, description = "It has ended", body = api::Problem))
)]
pub(super) async fn cancel(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
    caller: Caller,
) -> ApiResult<Json<Job>> {
    let id = parse_id(&job)?;
    let needed = match app.catalog.job(id).await?.kind {
        JobKind::Backup | JobKind::VerifyPoint => Role::Operator,
        JobKind::Restore | JobKind::RestoreUndo | JobKind::RestoreFinish => Role::Administrator,
    };
    if caller.role < needed {
        return Err(ApiError::not_allowed(
            "only an administrator may cancel a restore",
        ));
    }
    let (job, _) = app
        .catalog
        .cancel_job(id, &caller.actor, clock::now())
        .await?;
    if let Some(host) = &job.host {
        app.wakes.wake(host.id);
    }
    Ok(Json(describe(&job)))
}

pub(super) fn parse_id(text: &str) -> ApiResult<JobId> {
    text.parse().map_err(|_| {
        ApiError::not_found(format!("there is no job {text:?}"))
            .hint("`reprise job list` shows the jobs")
    })
}

fn parse_kind(name: &str) -> ApiResult<JobKind> {
    match name {
        "backup" => Ok(JobKind::Backup),
        "restore" => Ok(JobKind::Restore),
        "restore-undo" => Ok(JobKind::RestoreUndo),
        "restore-finish" => Ok(JobKind::RestoreFinish),
        "verify" => Ok(JobKind::VerifyPoint),
        _ => Err(ApiError::bad_request(format!(
            "{name:?} is no kind of job: backup, restore, restore-undo, restore-finish, verify"
        ))),
    }
}

/// Reads the header that makes a repeated request harmless.
pub(super) fn idempotency(
    caller: &Caller,
    headers: &axum::http::HeaderMap,
    route: &str,
    request: &impl serde::Serialize,
) -> ApiResult<Option<catalog::IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=200).contains(&key.len()));
    let key = key.ok_or_else(|| {
        ApiError::bad_request("an Idempotency-Key is 1 to 200 visible characters")
    })?;
    let body = serde_json::to_vec(request).map_err(ApiError::internal)?;
    let mut body_hash = [0; 32];
    body_hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &body).as_ref());
    // Keys of different people and routes are different keys.
    Ok(Some(catalog::IdempotencyKey {
        key: format!("{}:{route}:{key}", caller.user_id),
        body_hash,
    }))
}

/// Returns the name of a kind of job in the API.
fn kind_name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Backup => "backup",
        JobKind::Restore => "restore",
        JobKind::RestoreUndo => "restore-undo",
        JobKind::RestoreFinish => "restore-finish",
        JobKind::VerifyPoint => "verify",
    }
}

/// Describes jobs that were made.
pub(super) fn made(app: &App, created: &catalog::Created) -> api::v1::Jobs {
    for host in created.jobs.iter().filter_map(|job| job.host.as_ref()) {
        app.wakes.wake(host.id);
    }
    app.server_work.notify_one();
    api::v1::Jobs {
        jobs: created.jobs.iter().map(describe).collect(),
    }
}

/// Describes a job.
pub(super) fn describe(job: &catalog::Job) -> Job {
    let cause = job.cause();
    Job {
        id: job.id.to_string(),
        kind: kind_name(job.kind).to_owned(),
        state: job.state().to_string(),
        cause: cause.map(|cause| cause.as_str().to_owned()),
        cause_detail: cause
            .and_then(|cause| cause.reason())
            .map(str::to_owned)
            .or_else(|| job.last_failure.clone()),
        vm: job.vm.as_ref().map(|vm| NamedRef {
            id: vm.id.to_string(),
            name: vm.name.clone(),
        }),
        host: job.host.as_ref().map(|host| NamedRef {
            id: host.id.to_string(),
            name: host.name.clone(),
        }),
        point: job.point.map(|point| point.to_string()),
        attempt: job.life.attempt,
        created: job.created.to_string(),
        started: job.started.map(|time| time.to_string()),
        ended: job.life.state.ended().map(|time| time.to_string()),
        expires: job.expires().map(|time| time.to_string()),
        requested_by: job.requested_by.clone(),
        steps: job
            .steps
            .iter()
            .map(|step| Step {
                name: step.name.to_string(),
                state: step.state.to_string(),
                started: step.started.to_string(),
                ended: step.ended.map(|time| time.to_string()),
                detail: step.detail.clone(),
            })
            .collect(),
        progress: JobProgress {
            bytes_done: job.progress.bytes_done,
            bytes_total: job.progress.bytes_total,
        },
        figures: JobFigures {
            bytes_read: job.figures.bytes_read,
            bytes_sent: job.figures.bytes_sent,
            bytes_stored: job.figures.bytes_stored,
            bytes_reused: job.figures.bytes_reused,
        },
        warnings: job.warnings.clone(),
        error: job.error().map(|error| JobError {
            code: error.code.clone(),
            message: error.message.clone(),
            hint: error.hint.clone(),
        }),
        parked: job
            .parked
            .as_ref()
            .filter(|_| job.state().is_final())
            .map(parked),
        change: job.change,
    }
}

fn parked(parked: &catalog::Parked) -> api::v1::Parked {
    let kept = &parked.kept;
    api::v1::Parked {
        state: parked.state.to_string(),
        whole_vm: kept.whole_vm,
        files: kept.files,
        bytes: kept.bytes,
        since: kept.since.to_string(),
        until: kept.until.to_string(),
        ran: parked.ran.map(|time| time.to_string()),
        by_job: parked.by_job.map(|job| job.to_string()),
        ended: parked.ended.map(|time| time.to_string()),
    }
}
