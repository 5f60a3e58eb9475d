//! Starting restores: names become ids here, everything else is planned by the agent when it is ready.

use api::codes;
use api::v1::{Jobs, RestoreRequest};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use catalog::{NewJob, Target};
use jobs::JobKind;
use model::{
    DiskFolder, DiskId, DiskSource, DisksTo, HostId, KeepOrNew, NetworkMap, OverExisting,
    PowerAfter, RecoveryPoint, RestoreScope, RestoreTarget, RestoreWish, VmId,
};

use super::points::file_name;
use super::policies::parse_name;
use super::{hosts, jobs as job_routes, points, restore_plans, vms};
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json};
use crate::request::{JobRequest, RestoreRequest as Kept};

/// Longest folder, name or switch.
const MAX_TEXT: usize = 1024;
const MAX_DISKS: usize = 1000;

/// Starts a restore. Where the agent is away or not ready, the job waits for it.
#[utoipa::path(
    post, path = "/api/v1/restores", tag = "restores", request_body = RestoreRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with it gets the same job")),
    responses((status = 202, body = Jobs), (status = 400, body = api::Problem), (status = 404, body = api::Problem))
)]
pub(super) async fn start(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<RestoreRequest>,
) -> ApiResult<(StatusCode, Json<Jobs>)> {
    let key = job_routes::idempotency(&caller, &headers, "restores", &request)?;
    let Resolved {
        point,
        notes,
        host,
        wish,
    } = resolve(&app, &request).await?;
    let agreed = request.plan;
    if let Some(agreed) = &agreed {
        restore_plans::check_agreed(&app, &host, &wish, &point, agreed).await?;
    }
    let new = NewJob {
        kind: JobKind::Restore,
        vm: Some(Target {
            id: point.vm.id,
            name: point.vm.name.clone(),
        }),
        host: Some(host),
        point: Some(point.id),
        request: JobRequest::Restore(Box::new(Kept {
            wish,
            notes,
            agreed,
        }))
        .to_value()?,
        not_before: None,
    };
    let created = app
        .catalog
        .create_jobs(&[new], key.as_ref(), &caller.actor, clock::now())
        .await?;
    Ok((StatusCode::ACCEPTED, Json(job_routes::made(&app, &created))))
}

/// A request with its names resolved.
pub(super) struct Resolved {
    pub(super) point: RecoveryPoint,
    /// What is to be said of the choice of the point.
    pub(super) notes: Vec<String>,
    pub(super) host: Target<HostId>,
    pub(super) wish: RestoreWish,
}

/// Resolves the names of a request.
pub(super) async fn resolve(app: &App, request: &RestoreRequest) -> ApiResult<Resolved> {
    check_texts(request)?;
    let (point, notes) = find_point(app, request).await?;
    let to = disks_to(app, request).await?;
    let host = match (request.to.as_deref(), to) {
        (None, DisksTo::Attach { vm }) => host_of(app, vm, &point).await?,
        _ => find_host(app, request, &point).await?,
    };
    let wish = wish(request, &point, &host, to)?;
    not_built_yet(&wish)?;
    Ok(Resolved {
        point,
        notes,
        host,
        wish,
    })
}

fn check_texts(request: &RestoreRequest) -> ApiResult<()> {
    let pairs = request.networks.iter().chain(&request.disk_folders);
    let mut texts = pairs
        .flat_map(|(from, to)| [from, to])
        .chain(&request.disks)
        .chain(&request.seeds)
        .chain(
            [&request.folder, &request.name, &request.attach]
                .into_iter()
                .flatten(),
        );
    if texts
        .any(|text| text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control))
    {
        return Err(ApiError::bad_request(format!(
            "a folder, name, disk or switch is empty, longer than {MAX_TEXT} bytes or holds control characters"
        )));
    }
    if request.disks.len() > MAX_DISKS
        || request.networks.len() > MAX_DISKS
        || request.seeds.len() > MAX_DISKS
    {
        return Err(ApiError::bad_request(
            "more disks, networks or seeds than can be",
        ));
    }
    Ok(())
}

async fn find_point(
    app: &App,
    request: &RestoreRequest,
) -> ApiResult<(RecoveryPoint, Vec<String>)> {
    let vm = vms::resolve(app, &request.vm).await?;
    match request.point.as_deref() {
        None | Some("latest") => {
            let (point, notes) = points::latest(app, vm.id, &vm.name).await?;
            Ok((point.point, notes))
        }
        Some(id) => Ok((points::by_id(app, id, Some(vm.id)).await?.point, Vec::new())),
    }
}

async fn find_host(
    app: &App,
    request: &RestoreRequest,
    point: &RecoveryPoint,
) -> ApiResult<Target<HostId>> {
    match request.to.as_deref() {
        None | Some("original") => Ok(Target {
            id: point.host.id,
            name: point.host.name.clone(),
        }),
        Some(text) => {
            let agent = hosts::find(app, text).await?;
            if agent.revoked.is_some() {
                return Err(
                    ApiError::conflict(format!("the agent of {text} was shut out"))
                        .hint("enrol it anew: `reprise host token`, then `reprise agent enroll`"),
                );
            }
            let id = agent.host.ok_or_else(|| {
                ApiError::conflict(format!("the agent {text} has not reached its host yet"))
                    .hint("`reprise host show` says why")
            })?;
            Ok(Target {
                id,
                name: agent.host_name.unwrap_or(agent.machine),
            })
        }
    }
}

/// Returns the host of the VM that gets disks: the one the point was made on, where that has it.
async fn host_of(app: &App, vm: VmId, point: &RecoveryPoint) -> ApiResult<Target<HostId>> {
    let known = app.catalog.vm_by_id(vm).await?;
    let present: Vec<_> = known.iter().filter(|vm| vm.gone.is_none()).collect();
    let own = present.iter().find(|vm| vm.host == point.host.id);
    let Some(found) = own.or_else(|| present.first()) else {
        return Err(ApiError::not_found(format!("VM {vm} is on no host"))
            .hint("`reprise vm list` shows the VMs; restore the disk as a file with --folder"));
    };
    let agent = app.catalog.agent_of_host(found.host).await?;
    let name = agent.and_then(|agent| agent.host_name);
    Ok(Target {
        id: found.host,
        name: name.unwrap_or_else(|| found.host.to_string()),
    })
}

fn wish(
    request: &RestoreRequest,
    point: &RecoveryPoint,
    host: &Target<HostId>,
    to: DisksTo,
) -> ApiResult<RestoreWish> {
    let over = over_existing(request)?;
    let mut disks = Vec::new();
    for text in &request.disks {
        let disk = find_disk(point, text)?;
        if !disks.contains(&disk) {
            disks.push(disk);
        }
    }
    let scope = match disks.is_empty() {
        true => RestoreScope::Vm,
        false => RestoreScope::Disks { disks, to },
    };
    let target = match request.to.as_deref() {
        None | Some("original") if host.id == point.host.id => RestoreTarget::Original,
        None | Some("original") => RestoreTarget::Alternate { host: host.id },
        Some(_) => RestoreTarget::Alternate { host: host.id },
    };
    let mut disk_folders = Vec::new();
    for (text, folder) in &request.disk_folders {
        disk_folders.push(DiskFolder {
            disk: find_disk(point, text)?,
            folder: folder.clone(),
        });
    }
    let networks = request.networks.iter();
    let networks = networks.map(|(from, to)| NetworkMap {
        from: from.clone(),
        to: to.clone(),
    });
    let keep = |what: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| parse_name::<KeepOrNew>(what, text, "keep or new"))
            .transpose()
    };
    Ok(RestoreWish {
        point: point.id,
        vm: point.vm.id,
        scope,
        target,
        folder: request.folder.clone(),
        disk_folders,
        name: request.name.clone(),
        networks: networks.collect(),
        id: keep("id", &request.id)?,
        mac: keep("mac", &request.mac)?,
        power: match request.power.as_deref() {
            Some(text) => parse_name("power", text, "off, as-before or on")?,
            None => PowerAfter::default(),
        },
        over,
        seeds: request.seeds.clone(),
        skip_damaged: request.skip_damaged,
        named_at: request.plan.as_ref().map(|plan| plan.named_at),
    })
}

/// Returns what the chosen disks become.
async fn disks_to(app: &App, request: &RestoreRequest) -> ApiResult<DisksTo> {
    let to = match (&request.attach, request.replace_disk) {
        (None, false) => DisksTo::Files,
        (None, true) => DisksTo::Replace,
        (Some(vm), false) => DisksTo::Attach {
            vm: vms::resolve(app, vm).await?.id,
        },
        (Some(_), true) => {
            return Err(ApiError::bad_request(
                "a disk either is attached as a new one or takes the place of another",
            ));
        }
    };
    let elsewhere = request.to.as_deref().is_some_and(|to| to != "original");
    let placed = request.folder.is_some() || !request.disk_folders.is_empty();
    if to == DisksTo::Replace && (elsewhere || placed) {
        return Err(ApiError::bad_request(
            "a disk that takes the place of another is written where that one is",
        )
        .hint("leave --to and --folder out, or attach it as a new disk with --attach"));
    }
    if to != DisksTo::Files && request.disks.is_empty() {
        return Err(
            ApiError::bad_request("disks are attached or replaced, but none was chosen")
                .hint("name them with --disk"),
        );
    }
    Ok(to)
}

/// Returns what becomes of what is there.
fn over_existing(request: &RestoreRequest) -> ApiResult<OverExisting> {
    match request.in_place {
        None => Ok(OverExisting::Park),
        Some(in_place) if in_place.confirmed => Ok(OverExisting::InPlace {
            journal: in_place.journal,
        }),
        Some(_) => Err(ApiError::bad_request(
            "a restore in place writes over the disks that are there: while it runs neither the old nor the new VM is whole",
        )
        .hint("confirm it with --confirm-overwrite, or leave --in-place out: then the old one is kept beside")),
    }
}

/// Refuses what can be asked for and is not built yet.
fn not_built_yet(wish: &RestoreWish) -> ApiResult<()> {
    let asked = [
        (wish.over != OverExisting::Park, "a restore in place"),
        (wish.skip_damaged, "leaving out what is damaged"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(ApiError::bad_request(format!("{what} is not built yet"))),
        None => Ok(()),
    }
}

/// Finds a disk of a point by VirtualDiskId, path, or file name where that is unique.
fn find_disk(point: &RecoveryPoint, text: &str) -> ApiResult<DiskId> {
    let by = |matches: &dyn Fn(&DiskSource<'_>) -> bool| -> Vec<DiskSource<'_>> {
        point.disk_sources().filter(matches).collect()
    };
    let id = text.parse::<DiskId>().ok();
    let by_id = by(&|disk| Some(disk.id) == id);
    let same = |path: &str| path.eq_ignore_ascii_case(text);
    let by_path = by(&|disk| same(disk.base_path) || same(disk.path));
    let by_name = by(&|disk| same(file_name(disk.base_path)) || same(file_name(disk.path)));
    let found = [by_id, by_path, by_name]
        .into_iter()
        .find(|found| !found.is_empty());
    match found.as_deref() {
        Some([disk]) => Ok(disk.id),
        Some(several) => {
            let paths: Vec<&str> = several.iter().map(|disk| disk.base_path).collect();
            Err(
                ApiError::new(codes::AMBIGUOUS, format!("{text:?} fits several disks"))
                    .hint(format!("name one by its path: {}", paths.join(", "))),
            )
        }
        None => {
            let paths: Vec<&str> = point.disk_sources().map(|disk| disk.base_path).collect();
            Err(
                ApiError::not_found(format!("recovery point {} has no disk {text:?}", point.id))
                    .hint(format!("its disks are: {}", paths.join(", "))),
            )
        }
    }
}
