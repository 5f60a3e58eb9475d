//! What restores keep beside: put back, or deleted. The agent of the host does it, as a job.

use api::agent_v1::ParkedWork;
use api::v1::Jobs;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use catalog::{Actor, Created, IdempotencyKey, Job, NewJob};
use jobs::JobKind;
use model::Timestamp;

use super::jobs as job_routes;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId};
use crate::request::JobRequest;

/// Puts back what a restore took the place of, and keeps what it made beside in turn.
#[utoipa::path(
    post, path = "/api/v1/restores/{job}/undo", tag = "restores",
    params(
        ("job" = String, Path, description = "Id of the restore, or of an undo"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with it gets the same job")
    ),
    responses(
        (status = 202, body = Jobs), (status = 404, body = api::Problem),
        (status = 409, description = "It keeps nothing, or no longer", body = api::Problem)
    )
)]
pub(super) async fn undo(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Json<Jobs>)> {
    asked(&app, &job, JobKind::RestoreUndo, &caller, &headers).await
}

/// Deletes what a restore took the place of: it can no longer be undone.
#[utoipa::path(
    post, path = "/api/v1/restores/{job}/finish", tag = "restores",
    params(
        ("job" = String, Path, description = "Id of the restore, or of an undo"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with it gets the same job")
    ),
    responses(
        (status = 202, body = Jobs), (status = 404, body = api::Problem),
        (status = 409, description = "It keeps nothing, or no longer", body = api::Problem)
    )
)]
pub(super) async fn finish(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Json<Jobs>)> {
    asked(&app, &job, JobKind::RestoreFinish, &caller, &headers).await
}

async fn asked(
    app: &App,
    job: &str,
    kind: JobKind,
    caller: &Caller,
    headers: &HeaderMap,
) -> ApiResult<(StatusCode, Json<Jobs>)> {
    let id = job_routes::parse_id(job)?;
    let key = job_routes::idempotency(caller, headers, kind.as_str(), &id)?;
    let of = app.catalog.job(id).await?;
    let created = end(app, &of, kind, None, key.as_ref(), &caller.actor).await?;
    Ok((StatusCode::ACCEPTED, Json(job_routes::made(app, &created))))
}

/// Queues the job that puts back or deletes what a restore keeps.
pub(crate) async fn end(
    app: &App,
    of: &Job,
    kind: JobKind,
    again: Option<Timestamp>,
    key: Option<&IdempotencyKey>,
    actor: &Actor,
) -> ApiResult<Created> {
    let vm = of.vm.clone().ok_or_else(|| {
        ApiError::conflict(format!("job {} is about no VM", of.id))
            .hint("`reprise job list --kind restore` shows the restores")
    })?;
    let work = ParkedWork {
        of: of.id,
        vm: of.parked.map_or(vm.id, |parked| parked.kept.vm),
        vm_name: vm.name.clone(),
    };
    let request = match kind {
        JobKind::RestoreUndo => JobRequest::Undo(work),
        JobKind::RestoreFinish | JobKind::Backup | JobKind::Restore | JobKind::VerifyPoint => {
            JobRequest::Release(work)
        }
    };
    let new = NewJob {
        kind,
        vm: Some(vm),
        host: of.host.clone(),
        point: None,
        request: request.to_value()?,
        not_before: None,
    };
    let now = clock::now();
    let created = app
        .catalog
        .create_parked_job(of.id, &new, again, key, actor, now)
        .await
        .map_err(|err| {
            ApiError::from(err).hint("`reprise job show` says what a restore keeps, and until when")
        })?;
    if let Some(host) = &of.host {
        app.wakes.wake(host.id);
    }
    Ok(created)
}
