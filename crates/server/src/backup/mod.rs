//! Backup sessions: from where increments start, and the commit of a recovery point.

mod bases;
mod publish;
mod settle;

use api::agent_v1::{BackupSession, Bases, OpenBackup};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::SessionKind;
use jobs::JobKind;
use model::{JobId, PointId, SessionId};
use store::point_id;

pub(crate) use publish::publish;
pub(crate) use settle::{settle_all, settle_job};

use crate::agents::Peer;
use crate::app::Shared;
use crate::clock;
use crate::http::{ApiError, ApiResult, Json, PathId};
use crate::request::JobRequest;
use crate::transfer::live_session;

/// More disks than any VM has.
const MAX_DISKS: usize = 1000;

/// `POST /agent/v1/jobs/{job}/backup-session`.
pub(crate) async fn open(
    State(app): State<Shared>,
    peer: Peer,
    PathId(job): PathId<JobId>,
    Json(request): Json<OpenBackup>,
) -> ApiResult<Json<BackupSession>> {
    let found = app.check_owner(job, peer.0.id).await?;
    app.polls.arrived(peer.0.id, job);
    let work = match (found.kind, JobRequest::read(&found)?) {
        (JobKind::Backup, JobRequest::Backup(work)) => work,
        (
            JobKind::Backup
            | JobKind::Restore
            | JobKind::RestoreUndo
            | JobKind::RestoreFinish
            | JobKind::VerifyPoint,
            _,
        ) => {
            return Err(ApiError::conflict(format!("job {job} is no backup")));
        }
    };
    if found.vm.as_ref().is_none_or(|vm| vm.id != request.vm) {
        return Err(ApiError::bad_request(format!(
            "job {job} is not about VM {}",
            request.vm
        )));
    }
    if peer.0.host != Some(request.host) {
        return Err(ApiError::conflict(format!(
            "this agent does not serve host {}",
            request.host
        )));
    }
    if request.disks.len() > MAX_DISKS || request.reference_points.len() > 10 * MAX_DISKS {
        return Err(ApiError::bad_request(
            "more disks or reference points than can be",
        ));
    }
    app.vault.catch_up().await?;
    let bases = bases::decide(&app, &request, work.full).await?;
    let known_files = match request.files {
        true => bases::known_files(&app, &request, work.full).await?,
        false => None,
    };
    let mut points: Vec<PointId> = bases::points_of(&bases);
    points.extend(known_files.iter().map(|known| known.point));
    let session = app
        .catalog
        .open_session(
            job,
            request.fence,
            SessionKind::Backup,
            &points,
            clock::now(),
        )
        .await?;
    let keys = app.vault.keys().session();
    Ok(Json(BackupSession {
        session: session.id,
        point: point_id(job, request.vm, request.fence),
        id_key: hex::encode(keys.expose_id_key()),
        cut_key: hex::encode(keys.expose_cut_key()),
        bases,
        known_files,
    }))
}

/// `POST /agent/v1/sessions/{s}/bases`: base records after the host's conversion.
pub(crate) async fn bases(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Json(request): Json<Bases>,
) -> ApiResult<StatusCode> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Backup)).await?;
    if session.fence != request.fence {
        return Err(ApiError::fenced(format!(
            "the session belongs to fence {}",
            session.fence
        )));
    }
    let job = app.catalog.job(session.job).await?;
    let vm = job.vm.map(|vm| vm.id);
    let vm = vm.ok_or_else(|| ApiError::conflict("the job is about no VM"))?;
    let point = point_id(session.job, vm, session.fence);
    app.catalog
        .replace_bases(
            session.job,
            session.fence,
            point,
            &request.records,
            clock::now(),
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
