//! The commit of a recovery point, in the order of `design`: closure; a row that pins; the object; the row of the point.
//!
//! Writing the object is the commit. What is cut after the row was left is settled later (`settle`).

use std::collections::HashSet;
use std::sync::Arc;

use api::agent_v1::{Publish, Published};
use api::codes;
use axum::extract::State;
use catalog::{Actor, Begin, PublishRequest, Session, SessionKind};
use model::{FileImage, Method, RecoveryPoint, SessionId};
use store::{ObjectErrorKind, ObjectName, PointObject, Salt, open_point, point_id, seal_point};

use crate::agents::Peer;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Json, PathId};
use crate::transfer::live_session;
use crate::vault::read_root;

/// How often what a condemned pack held is looked for elsewhere before the agent is asked again.
const TRIES: usize = 3;

/// `POST /agent/v1/sessions/{s}/publish`.
pub(crate) async fn publish(
    State(app): State<Shared>,
    peer: Peer,
    PathId(session): PathId<SessionId>,
    Json(request): Json<Publish>,
) -> ApiResult<Json<Published>> {
    let session = live_session(&app, &peer, session, Some(SessionKind::Backup)).await?;
    if session.fence != request.fence {
        return Err(ApiError::fenced(format!(
            "the session belongs to fence {}",
            session.fence
        )));
    }
    let mut point = request.point;
    check_point(&peer, &session, &point)?;
    point.stored_bytes = app.catalog.session_stored_bytes(session.id).await?;
    if let Ok(there) = app.catalog.point(point.id).await {
        return Ok(Json(Published {
            point: point.id,
            stored_bytes: there.point.stored_bytes,
        }));
    }
    let base = match point.parent {
        Some(parent) => Some(app.catalog.point(parent).await?.point),
        None => None,
    };
    let mut without = HashSet::new();
    for _ in 0..TRIES {
        let closure = app.vault.closure(&point, base.as_ref(), &without).await?;
        if !closure.missing.is_empty() {
            return Err(chunks_missing(&closure.missing));
        }
        let wish = PublishRequest {
            session: session.id,
            point: point.clone(),
            packs: closure.packs.into_iter().collect(),
        };
        let (work, actor) = (Arc::clone(&app), peer.actor());
        // On its own: once the row is there, a connection that breaks must not stop it half-way.
        let outcome = tokio::spawn(async move { commit(&work, wish, &actor).await });
        let outcome = outcome.await.map_err(ApiError::internal)?;
        match outcome.map_err(|err| app.note_full(err))? {
            Committed::Done(published) => return Ok(Json(published)),
            Committed::Resend(packs) => without.extend(packs),
        }
    }
    Err(ApiError::new(
        codes::UNAVAILABLE,
        "packs the point needs are being deleted",
    )
    .hint("try again in a moment")
    .retry_after(2))
}

enum Committed {
    Done(Published),
    Resend(Vec<u64>),
}

async fn commit(app: &App, wish: PublishRequest, actor: &Actor) -> ApiResult<Committed> {
    // Between the row and the point's row nobody else settles it.
    let _turn = app.publishing.lock().await;
    let point = &wish.point;
    match app.catalog.begin_publish(&wish, clock::now()).await? {
        Begin::Ready => {}
        Begin::Resend(packs) => return Ok(Committed::Resend(packs)),
        Begin::Done => {
            let there = app.catalog.point(point.id).await?.point;
            return Ok(Committed::Done(Published {
                point: there.id,
                stored_bytes: there.stored_bytes,
            }));
        }
    }
    put_object(app, point).await?;
    let committed = app
        .catalog
        .commit_publish(point.id, actor, clock::now())
        .await?;
    tracing::info!(
        point.id = %point.id, job.id = %point.job,
        "recovery point of {} is committed", committed.point.vm.name
    );
    Ok(Committed::Done(Published {
        point: committed.point.id,
        stored_bytes: committed.point.stored_bytes,
    }))
}

async fn put_object(app: &App, point: &RecoveryPoint) -> ApiResult<()> {
    let keys = app.vault.keys();
    let salt = Salt::random().map_err(ApiError::internal)?;
    let bytes = seal_point(point, keys, salt).map_err(ApiError::internal)?;
    let name = ObjectName::point(&point.id);
    match app.vault.objects().put_new(&name, bytes.into()).await {
        Ok(()) => Ok(()),
        Err(err) if err.kind == ObjectErrorKind::AlreadyExists => {
            let there = app.vault.objects().get(&name).await?;
            match open_point(point.id, &there, keys) {
                Ok(PointObject::Point(there)) if there == *point => Ok(()),
                Ok(PointObject::Point(_)) => Err(ApiError::conflict(format!(
                    "recovery point {} is in the store with other content",
                    point.id
                ))),
                Ok(PointObject::Void(void)) => Err(ApiError::conflict(format!(
                    "recovery point {} was given up: {}",
                    point.id, void.reason
                ))),
                Err(err) => Err(ApiError::new(
                    codes::DAMAGED,
                    format!("the object of recovery point {} is damaged", point.id),
                )
                .because(err)),
            }
        }
        Err(err) => Err(err.into()),
    }
}

fn chunks_missing(missing: &[store::EntryId]) -> ApiError {
    ApiError::new(
        codes::CHUNKS_MISSING,
        format!(
            "the store does not hold {} chunks or tree nodes of this point",
            missing.len()
        ),
    )
    .hint("send them in new packs, then publish again")
    .missing(
        missing
            .iter()
            .map(|id| hex::encode(id.as_bytes()))
            .collect(),
    )
}

/// Checks what a point says of itself against the session.
fn check_point(peer: &Peer, session: &Session, point: &RecoveryPoint) -> ApiResult<()> {
    let refused = |why: &str| Err(ApiError::bad_request(format!("the recovery point {why}")));
    if point.job != session.job || point.fence != session.fence {
        return refused("names another job or fence than its session");
    }
    if point.id != point_id(point.job, point.vm.id, point.fence) {
        return refused("does not have the id that follows from job, VM and fence");
    }
    if peer.0.host != Some(point.host.id) {
        return refused("names another host than this agent's");
    }
    if point.disks.is_empty() && point.files.is_empty() {
        return refused("holds neither a disk nor a file");
    }
    let mut disks = HashSet::new();
    for disk in &point.disks {
        if !disks.insert(disk.id) {
            return refused("holds a disk twice");
        }
        if disk.image.len != disk.size_bytes {
            return refused("holds an image of another length than its disk");
        }
        if disk.full_reason.is_none() && point.parent.is_none() {
            return refused("holds an increment and names no base");
        }
    }
    if point.method == Method::Rct && !point.chains.is_empty() {
        return refused("holds chains of files, which are not of its method");
    }
    for chain in &point.chains {
        let mut files = chain.files.iter();
        let whole = !chain.files.is_empty()
            && files.all(|path| point.file(path).is_some_and(FileImage::is_disk));
        if !whole {
            return refused("holds a disk without all files of its chain");
        }
    }
    for image in point.images() {
        read_root(image)?;
    }
    Ok(())
}
