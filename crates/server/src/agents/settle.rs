//! The agent's janitor: what becomes of marks found on the host, and base records outside a session.

use api::agent_v1::{Mark, SettleBases, SettleReply, SettleRequest, Verdict, VoidBases};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::MarkVerdict;
use jobs::StateName;
use model::JobId;

use super::Peer;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Json, PathId};

const MAX_MARKS: usize = 10_000;

/// `POST /agent/v1/settle`.
pub(super) async fn settle(
    State(app): State<Shared>,
    peer: Peer,
    Json(request): Json<SettleRequest>,
) -> ApiResult<Json<SettleReply>> {
    if request.marks.len() > MAX_MARKS {
        return Err(ApiError::bad_request(format!(
            "more than {MAX_MARKS} marks"
        )));
    }
    let mut verdicts = Vec::with_capacity(request.marks.len());
    for mark in &request.marks {
        verdicts.push(judge(&app, &peer, mark).await?);
    }
    Ok(Json(SettleReply { verdicts }))
}

async fn judge(app: &App, peer: &Peer, mark: &Mark) -> ApiResult<Verdict> {
    if mark.restore {
        return judge_restore(app, peer, mark).await;
    }
    // A commit that was begun is finished or given up first, so that the answer holds.
    app.settle_job(mark.job).await?;
    if !app.is_of_host(mark.job, peer.0.host).await? {
        // Another host's job: this host cannot say what its mark means.
        return Ok(Verdict::Alive);
    }
    let verdict = app
        .catalog
        .judge_mark(mark.job, mark.fence, mark.vm, clock::now())
        .await?;
    Ok(match verdict {
        MarkVerdict::Alive => Verdict::Alive,
        MarkVerdict::Committed(point) => Verdict::Committed { point },
        MarkVerdict::Dead => Verdict::Dead,
    })
}

/// What was written of a restore is of use to its next attempt; once there will be none, it goes.
async fn judge_restore(app: &App, peer: &Peer, mark: &Mark) -> ApiResult<Verdict> {
    let job = match app.catalog.job(mark.job).await {
        Ok(job) => job,
        Err(err) if err.kind() == catalog::ErrorKind::NotFound => return Ok(Verdict::Dead),
        Err(err) => return Err(err.into()),
    };
    if job.host.as_ref().map(|host| host.id) != peer.0.host {
        return Ok(Verdict::Alive);
    }
    Ok(match job.state() {
        // The agent does not run it any more, so it will be cancelled as soon as its lease is taken back.
        StateName::Running if job.life.cancel_requested.is_some() => Verdict::Dead,
        StateName::Queued | StateName::Running => Verdict::Alive,
        StateName::Succeeded | StateName::Warnings => Verdict::Done,
        StateName::Failed | StateName::Cancelled | StateName::Expired | StateName::Skipped => {
            Verdict::Dead
        }
    })
}

/// `POST /agent/v1/settle-bases`: base records of a committed point whose job is over.
pub(super) async fn settle_bases(
    State(app): State<Shared>,
    peer: Peer,
    Json(request): Json<SettleBases>,
) -> ApiResult<StatusCode> {
    let mark = &request.mark;
    if !app.is_of_host(mark.job, peer.0.host).await? {
        return Err(ApiError::conflict(format!(
            "job {} is not of this agent's host",
            mark.job
        )));
    }
    let point = store::point_id(mark.job, mark.vm, mark.fence);
    let settled = app
        .catalog
        .settle_bases(mark.job, mark.fence, point, &request.records, clock::now())
        .await?;
    tracing::info!(point.id = %point, "late base records of VM {}: {settled:?}", mark.vm);
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /agent/v1/jobs/{job}/void-bases`: before a disk is rewritten.
pub(super) async fn void_bases(
    State(app): State<Shared>,
    peer: Peer,
    PathId(job): PathId<JobId>,
    Json(request): Json<VoidBases>,
) -> ApiResult<StatusCode> {
    let found = app.check_owner(job, peer.0.id).await?;
    let of_job = found.vm.as_ref().is_some_and(|vm| vm.id == request.vm);
    let listed = app.catalog.vm_by_id(request.vm).await?;
    if !of_job && !listed.iter().any(|vm| Some(vm.host) == peer.0.host) {
        return Err(ApiError::bad_request(format!(
            "VM {} is neither the job's nor on this agent's host",
            request.vm
        )));
    }
    let reason = format!("{} job {job}", found.kind);
    app.catalog
        .void_bases(
            job,
            request.fence,
            request.vm,
            &request.disks,
            &reason,
            clock::now(),
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
