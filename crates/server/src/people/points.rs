//! Recovery points: looking at them, verifying, deleting.

use api::v1::{Job, NamedRef, Page, Point, PointDisk};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use catalog::{Cursor, NewJob, PointState, Target};
use jobs::JobKind;
use model::{FullReason, PointId, RecoveryPoint, VmId};
use serde::Deserialize;

use super::policies::name_of;
use super::{jobs as job_routes, vms};
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId, Query};
use crate::request::{JobRequest, VerifyRequest};
use crate::retention;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PointsQuery {
    /// VM by id or name.
    vm: Option<String>,
    /// Most entries, 100 by default.
    limit: Option<u32>,
    /// `next` of the part before.
    cursor: Option<String>,
}

/// Lists recovery points, newest first.
#[utoipa::path(get, path = "/api/v1/points", tag = "points", params(PointsQuery), responses((status = 200, body = Page<Point>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    Query(query): Query<PointsQuery>,
) -> ApiResult<Json<Page<Point>>> {
    let vm = match &query.vm {
        Some(vm) => Some(vms::resolve(&app, vm).await?.id),
        None => None,
    };
    let cursor = match &query.cursor {
        Some(text) => Some(
            text.parse::<Cursor>()
                .map_err(|_| ApiError::bad_request("this is no cursor"))?,
        ),
        None => None,
    };
    let page = app
        .catalog
        .points(vm, cursor.as_ref(), query.limit.unwrap_or(100))
        .await?;
    let items = page.items.iter().map(describe).collect();
    Ok(Json(Page {
        items,
        next: page.next.map(|next| next.to_string()),
    }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfVm {
    /// VM by id or name; needed for `latest`.
    vm: Option<String>,
}

/// Returns a recovery point.
#[utoipa::path(
    get, path = "/api/v1/points/{point}", tag = "points",
    params(("point" = String, Path, description = "Id, or `latest` with `vm`"), OfVm),
    responses((status = 200, body = Point), (status = 404, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(point): PathId<String>,
    Query(query): Query<OfVm>,
) -> ApiResult<Json<Point>> {
    Ok(Json(describe(
        &find(&app, &point, query.vm.as_deref()).await?,
    )))
}

/// Starts a verification: the server reads the point whole and compares.
#[utoipa::path(
    post, path = "/api/v1/points/{point}/verify", tag = "points",
    params(("point" = String, Path, description = "Id, or `latest` with `vm`"), OfVm),
    responses((status = 202, body = Job), (status = 404, body = api::Problem))
)]
pub(super) async fn verify(
    State(app): State<Shared>,
    PathId(point): PathId<String>,
    Query(query): Query<OfVm>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Json<Job>)> {
    let point = find(&app, &point, query.vm.as_deref()).await?.point;
    let key = job_routes::idempotency(&caller, &headers, "verify", &point.id)?;
    let new = NewJob {
        kind: JobKind::VerifyPoint,
        vm: Some(Target {
            id: point.vm.id,
            name: point.vm.name.clone(),
        }),
        host: None,
        point: Some(point.id),
        request: JobRequest::Verify(VerifyRequest { point: point.id }).to_value()?,
        not_before: None,
    };
    let created = app
        .catalog
        .create_jobs(&[new], key.as_ref(), &caller.actor, clock::now())
        .await?;
    let job = job_routes::made(&app, &created).jobs.into_iter().next();
    let job = job.ok_or_else(|| ApiError::internal(anyhow::anyhow!("no job was made")))?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// Deletes a recovery point that is not locked and not in use.
#[utoipa::path(
    delete, path = "/api/v1/points/{point}", tag = "points", params(("point" = String, Path, description = "Id")),
    responses((status = 204), (status = 409, description = "Locked or in use", body = api::Problem))
)]
pub(super) async fn delete(
    State(app): State<Shared>,
    PathId(point): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let id = find(&app, &point, None).await?.point.id;
    retention::delete_point(&app, id, &caller.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Finds a point by id, or the newest good one of a VM.
async fn find(app: &App, text: &str, vm: Option<&str>) -> ApiResult<catalog::Point> {
    let vm = match vm {
        Some(vm) => Some(vms::resolve(app, vm).await?),
        None => None,
    };
    if text == "latest" {
        let vm = vm.ok_or_else(|| ApiError::bad_request("`latest` needs the VM: `?vm=`"))?;
        return Ok(latest(app, vm.id, &vm.name).await?.0);
    }
    by_id(app, text, vm.map(|vm| vm.id)).await
}

/// Finds a point by its id; of a VM, where one is given.
pub(super) async fn by_id(app: &App, text: &str, vm: Option<VmId>) -> ApiResult<catalog::Point> {
    let none = || {
        ApiError::not_found(format!("there is no recovery point {text:?}"))
            .hint("`reprise point list` shows the recovery points")
    };
    let id: PointId = text.parse().map_err(|_| none())?;
    let point = match app.catalog.point(id).await {
        Ok(point) => point,
        Err(err) if err.kind() == catalog::ErrorKind::NotFound => return Err(none()),
        Err(err) => return Err(err.into()),
    };
    match vm {
        Some(vm) if point.point.vm.id != vm => Err(ApiError::bad_request(format!(
            "recovery point {id} is of {}",
            point.point.vm.name
        ))),
        Some(_) | None => Ok(point),
    }
}

/// Returns the newest good point of a VM, and what to say of newer ones that were passed over.
pub(super) async fn latest(
    app: &App,
    vm: VmId,
    name: &str,
) -> ApiResult<(catalog::Point, Vec<String>)> {
    let (mut notes, mut cursor) = (Vec::new(), None);
    loop {
        let page = app.catalog.points(Some(vm), cursor.as_ref(), 100).await?;
        for point in page.items {
            match point.state {
                PointState::Live => return Ok((point, notes)),
                PointState::Damaged => notes.push(format!(
                    "recovery point {} of {} is damaged and was passed over",
                    point.point.id, point.point.created
                )),
                PointState::Deleting => {}
            }
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let err = ApiError::not_found(format!("{name} has no good recovery point"));
    Err(match notes.is_empty() {
        true => err.hint("back it up first: `reprise backup start`"),
        false => err.hint(notes.join("; ")),
    })
}

fn describe(point: &catalog::Point) -> Point {
    let made = &point.point;
    let disks = disks(made);
    let reasons: Vec<String> = disks
        .iter()
        .filter_map(|disk| {
            let reason = disk.reason.as_ref()?;
            Some(format!("{}: {reason}", file_name(&disk.path)))
        })
        .collect();
    Point {
        id: made.id.to_string(),
        vm: NamedRef {
            id: made.vm.id.to_string(),
            name: made.vm.name.clone(),
        },
        host: NamedRef {
            id: made.host.id.to_string(),
            name: made.host.name.clone(),
        },
        created: made.created.to_string(),
        method: name_of(&made.method),
        kind: name_of(&made.kind),
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        consistency: name_of(&made.consistency),
        consistency_note: made.consistency_note.clone(),
        size_bytes: point.size_bytes,
        changed_bytes: point.changed_bytes,
        stored_bytes: made.stored_bytes,
        disks,
        excluded: made.excluded.iter().map(|disk| disk.path.clone()).collect(),
        unsupported: made
            .unsupported
            .iter()
            .map(|thing| thing.what.clone())
            .collect(),
        checkpoints: made
            .checkpoints
            .iter()
            .map(|checkpoint| NamedRef {
                id: checkpoint.id.clone(),
                name: checkpoint.name.clone(),
            })
            .collect(),
        locked_until: point.locked_until.map(|time| time.to_string()),
        verified: point.verified.map(|time| time.to_string()),
        state: point.state.to_string(),
        job: made.job.to_string(),
    }
}

/// Describes the disks of a point, flat ones and chains of files alike.
fn disks(point: &RecoveryPoint) -> Vec<PointDisk> {
    let flat = point.disks.iter().map(|disk| PointDisk {
        id: disk.id.to_string(),
        path: disk.base_path.clone(),
        size_bytes: disk.size_bytes,
        changed_bytes: disk.changed_bytes,
        reason: disk.full_reason.map(|reason| reason.to_string()),
        files: Vec::new(),
    });
    let chains = point.chains.iter().map(|chain| PointDisk {
        id: chain.id.to_string(),
        path: chain.base_path.clone(),
        size_bytes: chain.size_bytes,
        changed_bytes: chain.changed_bytes,
        reason: Some(FullReason::MethodWithoutTracker.to_string()),
        files: chain.files.clone(),
    });
    flat.chain(chains).collect()
}

/// Returns the last part of a path of a Windows host.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit(['\\', '/']).next().unwrap_or(path)
}
