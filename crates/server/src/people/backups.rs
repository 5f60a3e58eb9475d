//! Starting backups.

use api::agent_v1::BackupWork;
use api::v1::{BackupRequest, Jobs};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use catalog::{NewJob, Target};
use jobs::JobKind;
use model::ConsistencyWish;

use super::{jobs as job_routes, policies, vms};
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json};
use crate::request::JobRequest;

const MAX_VMS: usize = 1000;

/// Starts backups of VMs: all of them or none.
#[utoipa::path(
    post, path = "/api/v1/backups", tag = "backups", request_body = BackupRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with it gets the same jobs")),
    responses((status = 202, body = Jobs), (status = 409, description = "One is under way", body = api::Problem))
)]
pub(super) async fn start(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<BackupRequest>,
) -> ApiResult<(StatusCode, Json<Jobs>)> {
    if request.vms.is_empty() || request.vms.len() > MAX_VMS {
        return Err(ApiError::bad_request(format!("name 1 to {MAX_VMS} VMs")));
    }
    let key = job_routes::idempotency(&caller, &headers, "backups", &request)?;
    let method = request
        .method
        .as_deref()
        .map(policies::parse_method)
        .transpose()?;
    let mut new: Vec<NewJob> = Vec::with_capacity(request.vms.len());
    for name in &request.vms {
        let vm = vms::listed(&app, name).await?;
        if new
            .iter()
            .any(|job| job.vm.as_ref().is_some_and(|other| other.id == vm.id))
        {
            continue;
        }
        new.push(backup_of(&app, &vm, request.full, method).await?);
    }
    let created = app
        .catalog
        .create_jobs(&new, key.as_ref(), &caller.actor, clock::now())
        .await?;
    Ok((StatusCode::ACCEPTED, Json(job_routes::made(&app, &created))))
}

async fn backup_of(
    app: &App,
    vm: &catalog::Vm,
    full: bool,
    method: Option<model::Method>,
) -> ApiResult<NewJob> {
    if vm.gone.is_some() {
        return Err(
            ApiError::conflict(format!("{} is no longer on its host", vm.name))
                .hint("`reprise vm list` shows the VMs that are there"),
        );
    }
    let protection = app.catalog.protection(vm.id).await?;
    let policy = match &protection {
        Some(protection) => Some(app.catalog.policy(protection.policy).await?.spec),
        None => None,
    };
    let host = app.catalog.agent_of_host(vm.host).await?;
    let host_name = host.and_then(|agent| agent.host_name);
    let request = JobRequest::Backup(BackupWork {
        vm: vm.id,
        vm_name: vm.name.clone(),
        full,
        method: method.or_else(|| policy.as_ref().and_then(|policy| policy.method)),
        consistency: policy.map_or_else(ConsistencyWish::default, |policy| policy.consistency),
        excluded: protection
            .map(|protection| protection.excluded)
            .unwrap_or_default(),
    });
    Ok(NewJob {
        kind: JobKind::Backup,
        vm: Some(Target {
            id: vm.id,
            name: vm.name.clone(),
        }),
        host: Some(Target {
            id: vm.host,
            name: host_name.unwrap_or_else(|| vm.host.to_string()),
        }),
        point: None,
        request: request.to_value()?,
        not_before: None,
    })
}
