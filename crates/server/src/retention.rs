//! Retention: which recovery points go, and how one goes: tombstone, object, row. Packs are freed by collect.

use catalog::{Actor, ErrorKind, Point, PointState};
use model::{PointId, VmId};
use store::ObjectName;

use crate::app::App;
use crate::clock;
use crate::http::ApiResult;

/// Deletes what the policy of a VM no longer keeps. Called after a backup of it succeeded, and only then: a VM whose
/// backups fail loses no point.
pub(crate) async fn prune(app: &App, vm: VmId) -> ApiResult<()> {
    let Some(protection) = app.catalog.protection(vm).await? else {
        return Ok(());
    };
    let policy = app.catalog.policy(protection.policy).await?;
    let Some(keep) = policy.spec.retention.keep_last else {
        return Ok(());
    };
    let (mut points, mut cursor) = (Vec::new(), None);
    loop {
        let page = app.catalog.points(Some(vm), cursor.as_ref(), 500).await?;
        points.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    for id in surplus(&points, usize::try_from(keep).unwrap_or(usize::MAX)) {
        match delete_point(app, id, &Actor::Server).await {
            Ok(()) => tracing::info!(point.id = %id, "recovery point is past its policy: deleted"),
            // Locked, or in use: the next backup tries again.
            Err(err) if err.problem().code() == api::codes::CONFLICT => {
                tracing::info!(point.id = %id, "recovery point is past its policy and stays: {err}");
            }
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Returns the points behind the `keep` newest good ones; `points` are newest first. Damaged points do not count, so
/// that they push out no good one.
fn surplus(points: &[Point], keep: usize) -> Vec<PointId> {
    let mut good = 0;
    let mut surplus = Vec::new();
    for point in points {
        if good >= keep {
            surplus.push(point.point.id);
        } else if point.state == PointState::Live {
            good += 1;
        }
    }
    surplus
}

/// Deletes a point.
pub(crate) async fn delete_point(app: &App, id: PointId, actor: &Actor) -> ApiResult<()> {
    app.catalog.tombstone_point(id, actor, clock::now()).await?;
    finish_delete(app, id, actor).await
}

/// Goes on with deletions that were cut.
pub(crate) async fn finish_deletions(app: &App) -> ApiResult<()> {
    for id in app.catalog.points_being_deleted().await? {
        finish_delete(app, id, &Actor::Server).await?;
    }
    Ok(())
}

async fn finish_delete(app: &App, id: PointId, actor: &Actor) -> ApiResult<()> {
    app.vault.objects().delete(&ObjectName::point(&id)).await?;
    match app.catalog.forget_point(id, actor, clock::now()).await {
        Ok(()) => Ok(()),
        // Someone else got here first.
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err.into()),
    }
}
