//! Settles commits that were cut: the object is there, so the point comes in; it is not, so a void takes its name and a
//! late put fails.

use std::collections::HashSet;

use catalog::{Actor, Publishing};
use model::{JobId, Timestamp};
use store::{ObjectErrorKind, ObjectName, PointObject, Salt, VoidRecord, open_point, seal_void};

use crate::app::App;
use crate::clock;
use crate::http::{ApiError, ApiResult};

/// Settles every commit begun before `before`.
pub(crate) async fn settle_all(app: &App, before: Timestamp) -> ApiResult<()> {
    for open in app.catalog.unsettled(before).await? {
        // One that cannot be settled now does not keep the others, or a start, waiting.
        if let Err(err) = settle(app, &open).await {
            tracing::error!(point.id = %open.point.id, "a cut commit cannot be settled yet: {err}");
        }
    }
    Ok(())
}

/// Settles the commit of a job, where one was begun.
pub(crate) async fn settle_job(app: &App, job: JobId) -> ApiResult<()> {
    let later = clock::now().plus_secs(86_400);
    for open in app.catalog.unsettled(later).await? {
        if open.job == job {
            settle(app, &open).await?;
        }
    }
    Ok(())
}

async fn settle(app: &App, open: &Publishing) -> ApiResult<()> {
    let _turn = app.publishing.lock().await;
    let id = open.point.id;
    let name = ObjectName::point(&id);
    let there = match app.vault.objects().get(&name).await {
        Ok(bytes) => bytes,
        Err(err) if err.kind == ObjectErrorKind::NotFound => {
            let void = VoidRecord {
                id,
                reason: "its commit was cut before the object was written".to_owned(),
                voided: clock::now(),
            };
            let salt = Salt::random().map_err(ApiError::internal)?;
            let bytes = seal_void(&void, app.vault.keys(), salt).map_err(ApiError::internal)?;
            match app.vault.objects().put_new(&name, bytes.into()).await {
                Ok(()) => {
                    tracing::warn!(point.id = %id, job.id = %open.job, "a cut commit is given up");
                    return give_up(app, open).await;
                }
                // A put of before has arrived meanwhile.
                Err(err) if err.kind == ObjectErrorKind::AlreadyExists => {
                    app.vault.objects().get(&name).await?
                }
                Err(err) => return Err(err.into()),
            }
        }
        Err(err) => return Err(err.into()),
    };
    match open_point(id, &there, app.vault.keys()) {
        Ok(PointObject::Point(_)) => adopt(app, open).await,
        Ok(PointObject::Void(_)) => give_up(app, open).await,
        Err(err) if err.kind() == store::ErrorKind::Corrupt => {
            // Nobody was told that this commit succeeded, and it can never be read.
            tracing::error!(point.id = %id, "the object of a cut commit is damaged: {err}");
            give_up(app, open).await
        }
        Err(err) => Err(ApiError::internal(
            anyhow::Error::new(err).context("settle a cut commit"),
        )),
    }
}

async fn adopt(app: &App, open: &Publishing) -> ApiResult<()> {
    let id = open.point.id;
    let closure = app.vault.closure(&open.point, None, &HashSet::new()).await;
    app.catalog
        .commit_publish(id, &Actor::Server, clock::now())
        .await?;
    tracing::warn!(point.id = %id, job.id = %open.job, "a cut commit is finished");
    let whole = match closure {
        Ok(closure) => closure.missing.is_empty(),
        Err(err) => {
            tracing::error!(point.id = %id, "its closure cannot be checked: {err}");
            return Ok(());
        }
    };
    if !whole {
        app.catalog
            .set_point_verified(id, false, &Actor::Server, clock::now())
            .await?;
    }
    Ok(())
}

async fn give_up(app: &App, open: &Publishing) -> ApiResult<()> {
    app.catalog
        .abandon_publish(open.point.id, &Actor::Server, clock::now())
        .await?;
    Ok(())
}
