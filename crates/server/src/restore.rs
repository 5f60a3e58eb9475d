//! Restore sessions: the write connection over which a recovery point goes to an agent.

use api::agent_v1::{OpenRestore, RestoreSession, SeedKeys};
use axum::extract::State;
use catalog::{Actor, SessionKind};
use model::{JobId, PointId, RecoveryPoint};
use store::{ObjectErrorKind, ObjectName, PointObject, open_point};

use crate::agents::Peer;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Json, PathId};
use crate::request::JobRequest;

/// `POST /agent/v1/jobs/{job}/restore-session`.
pub(crate) async fn open(
    State(app): State<Shared>,
    peer: Peer,
    PathId(job): PathId<JobId>,
    Json(request): Json<OpenRestore>,
) -> ApiResult<Json<RestoreSession>> {
    let found = app.check_owner(job, peer.0.id).await?;
    app.polls.arrived(peer.0.id, job);
    let JobRequest::Restore(wish) = JobRequest::read(&found)? else {
        return Err(ApiError::conflict(format!("job {job} is no restore")));
    };
    let id = wish.wish.point;
    app.vault.catch_up().await?;
    let session = app
        .catalog
        .open_session(
            job,
            request.fence,
            SessionKind::Restore,
            &[id],
            clock::now(),
        )
        .await?;
    let point = match read_point(&app, id).await {
        Ok(point) => point,
        Err(err) => {
            app.catalog.close_session(session.id, clock::now()).await?;
            return Err(err);
        }
    };
    let keys = app.vault.keys();
    let seeds = SeedKeys {
        cut_key: hex::encode(keys.session().expose_cut_key()),
        cell_key: hex::encode(keys.cell_key(*session.id.0.as_bytes()).expose()),
    };
    Ok(Json(RestoreSession {
        session: session.id,
        point,
        id_key: hex::encode(keys.session().expose_id_key()),
        seeds: Some(seeds),
    }))
}

/// Reads a recovery point from the store. One that is missing or does not open is noted as damaged.
pub(crate) async fn read_point(app: &App, id: PointId) -> ApiResult<RecoveryPoint> {
    let damaged = |why: String| {
        ApiError::new(api::codes::DAMAGED, format!("recovery point {id}: {why}"))
            .hint("restore an older or newer recovery point")
    };
    let err = match app.vault.objects().get(&ObjectName::point(&id)).await {
        Ok(bytes) => match open_point(id, &bytes, app.vault.keys()) {
            Ok(PointObject::Point(point)) => return Ok(point),
            Ok(PointObject::Void(void)) => damaged(format!("it was given up: {}", void.reason)),
            Err(err) => damaged("its object is damaged".to_owned()).because(err),
        },
        Err(err) if err.kind == ObjectErrorKind::NotFound => {
            damaged("its object is not in the store".to_owned())
        }
        Err(err) => return Err(err.into()),
    };
    app.catalog
        .set_point_verified(id, false, &Actor::Server, clock::now())
        .await?;
    Err(err)
}
